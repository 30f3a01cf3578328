"""What layers below the memory cost a call that is answered, and what calls lose to a Redis that is gone.

Run: ``python tests/benchmarks/bench_cache_layers.py``: hits through the whole client; the disk layer's own
get beside diskcache's of the same bytes; then misses, which go through all that a call asks a shared layer
for, of a client with memory, Redis and disk beside one without Redis: the first after the server is
frozen or killed, or was never there, and those after it, by turns. ``retry_s`` is as it comes, and so
long that Redis is not tried again meanwhile. ``--only`` does some of it: hits, disk, gone. Ends with an
error where a bound is passed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diskcache
from bench_cache import ANSWER, KINDS, MESSAGES, client, hits_us, new
from cache_ground import server

from tierllm import TieredClient
from tierllm.caching import DiskLayer, MemoryLayer, RedisLayer

ROUNDS, HITS = 7, 500
USUAL, WARM, GONE_S, LONG_S = 300, 20, 3.0, 60.0
MOST_OF_DISKCACHE, MOST_FIRST_MS, MUCH_MS, MOST_LATER_MS = 2, 60, 20, 1
failures: list[str] = []


def check(holds: bool, what: str) -> None:
    if not holds:
        failures.append(what)


# -- hits ----------------------------------------------------------------------------------------


def hits(directory: Path, url: str) -> None:
    with client([MemoryLayer(), DiskLayer(directory / "below")]) as asked:
        rows = {"hit in memory, disk below": hits_us(asked, "memory")}
    with client([MemoryLayer(), RedisLayer(url)]) as asked:
        rows["hit in memory, Redis below"] = hits_us(asked, "memory")
    with client([MemoryLayer(), RedisLayer(url), DiskLayer(directory / "below")]) as asked:
        rows["hit in memory, both below"] = hits_us(asked, "memory")
    with client([RedisLayer(url, timeout_s=5)]) as asked:
        rows["hit in Redis"] = hits_us(asked, "redis", HITS)
    with client([DiskLayer(directory / "below")]) as asked:
        rows["hit on the disk"] = hits_us(asked, None, HITS)
    for name, took in rows.items():
        told = "   ".join(f"{kind} {us:6.1f}" for kind, us in zip(KINDS, took, strict=True))
        print(f"{name:27} {told} µs")


def disk(directory: Path) -> None:
    """The layer alone, entries as they lie there, beside diskcache's own get of the same bytes."""
    layer, plain = DiskLayer(directory / "layer"), diskcache.Cache(str(directory / "plain"))
    with client([layer]) as asked:
        asked.complete(MESSAGES, sla="gold")
        ((_, data),) = layer.scan()
        known = [number.to_bytes(32, "big") for number in range(3000)]
        for slot in known:
            layer.set(slot, data, ttl_s=3600)
            plain.set(slot, data, expire=3600)
        took: dict[str, list[float]] = {"disk layer": [], "diskcache": []}
        for turn in range(ROUNDS):
            slots = random.Random(turn).choices(known, k=3000)
            for name, get in (("disk layer", layer.get), ("diskcache", plain.get)):
                each = []
                for slot in slots:
                    began = time.perf_counter()
                    found = get(slot)
                    each.append(time.perf_counter() - began)
                    assert found == data
                took[name].append(statistics.median(each) * 1e6)
    plain.close()
    mine, own = min(took["disk layer"]), min(took["diskcache"])
    print(
        f"{len(data)} bytes from the disk layer {mine:.1f} µs, from diskcache {own:.1f}: "
        f"{mine / own:.2f} times"
    )
    check(
        mine <= MOST_OF_DISKCACHE * own, f"a disk hit takes more than {MOST_OF_DISKCACHE} times diskcache's"
    )


# -- Redis is gone ---------------------------------------------------------------------------------


class Asked:
    """One client asked for what nobody has asked before, sync or async."""

    def __init__(self, on: TieredClient, loop: asyncio.AbstractEventLoop | None) -> None:
        self.on = on
        self.loop = loop
        self.numbers = itertools.count()

    def ms(self) -> float:
        prompt = new(self.numbers)
        if self.loop is None:
            began = time.perf_counter()
            found = self.on.complete(prompt, sla="gold")
        else:
            began = time.perf_counter()
            found = self.loop.run_until_complete(self.on.acomplete(prompt, sla="gold"))
        took_ms = (time.perf_counter() - began) * 1e3
        assert found.text == ANSWER
        assert not found.cached
        return took_ms

    def close(self) -> None:
        if self.loop is None:
            self.on.close()
        else:
            self.loop.run_until_complete(self.on.aclose())


def gone(what: str, driven: str, retry_s: float) -> None:
    with tempfile.TemporaryDirectory() as made, server(Path(made)) as (url, process):
        lose = losing(what, process)
        loop = asyncio.new_event_loop() if driven == "async" else None
        usual = Asked(client([MemoryLayer(), DiskLayer(Path(made, "usual"))]), loop)
        warm = Asked(client([MemoryLayer(), RedisLayer(url), DiskLayer(Path(made, "asked"))]), loop)
        layers = [MemoryLayer(), RedisLayer(url, retry_s=retry_s), DiskLayer(Path(made, "asked"))]
        asked = Asked(client(layers), loop)
        for _ in range(WARM):  # what is imported and opened once, whatever Redis does
            warm.ms()
        warm.close()
        asked.numbers = itertools.count(WARM)
        if what != "never there":
            for _ in range(WARM):
                asked.ms()
        usually = statistics.median([usual.ms() for _ in range(USUAL)])
        lose()
        first = asked.ms() - usually
        later: list[float] = []
        beside: list[float] = []
        until = time.perf_counter() + GONE_S
        while time.perf_counter() < until:
            later.append(asked.ms())
            beside.append(usual.ms())
        for each in (usual, asked):
            each.close()
        if loop is not None:
            loop.close()
    more = statistics.median(later) - statistics.median(beside)
    paying, control = (sum(each > usually + MUCH_MS for each in some) for some in (later, beside))
    print(
        f"Redis {what:11} {driven:5} retry_s={retry_s:<4g} usually {usually:.2f} ms; "
        f"the first call {first:+7.2f}; the next {len(later)}: median {more:+.2f}, "
        f"{paying} above +{MUCH_MS} (without Redis {control})",
        flush=True,
    )
    check(first <= MOST_FIRST_MS, f"{what}, {driven}: the first call loses more than {MOST_FIRST_MS} ms")
    check(more <= MOST_LATER_MS, f"{what}, {driven}: later calls lose {more:.1f} ms")


def losing(what: str, process: subprocess.Popen[bytes]) -> Callable[[], None]:
    def kill() -> None:
        process.kill()
        process.wait()

    return (lambda: os.kill(process.pid, signal.SIGSTOP)) if what == "frozen" else kill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=("hits", "disk", "gone"), default=("hits", "disk", "gone")
    )
    chosen = parser.parse_args().only
    logging.getLogger("tierllm").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as made:
        if "hits" in chosen:
            with server(Path(made)) as (url, _):
                hits(Path(made), url)
        if "disk" in chosen:
            disk(Path(made))
    for what in ("never there", "frozen", "killed") if "gone" in chosen else ():
        for driven in ("sync", "async"):
            for retry_s in (1.0, LONG_S):
                gone(what, driven, retry_s)
    if failures:
        sys.exit("FAILED: " + "; ".join(failures))


if __name__ == "__main__":
    main()

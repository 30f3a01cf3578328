"""What the disk layer of the cache costs beside diskcache's own, what it keeps, and how soon it opens.

Run: ``python tests/benchmarks/bench_disk_layer.py``: microseconds for get and set of the same bytes as
diskcache with its defaults, and with the same settings of SQLite; median and 99th percentile; then the
bytes on the disk under more than fits, with and without quotas, and the seconds to open what is there;
and the microseconds that asking for notices, posting one, and a claim take.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import diskcache

from tierllm.caching.disk_layer import DiskLayer
from tierllm.caching.layer import Notice

ENTRIES, STEPS, ROUNDS = 5000, 5000, 7
MIB = 2**20
MOST_BYTES = 256 * MIB
DATA = random.Random(1).randbytes(1900)


def slot(number: int) -> bytes:
    return number.to_bytes(32, "big")


def timed(step: Callable[[bytes], object], slots: Sequence[bytes]) -> list[float]:
    took = []
    for each in slots:
        began = time.perf_counter()
        step(each)
        took.append((time.perf_counter() - began) * 1e6)
    return sorted(took)


def best(rounds: Sequence[list[float]]) -> str:
    median, last = (min(each[int(len(each) * share)] for each in rounds) for share in (0.5, 0.99))
    return f"{median:6.1f} µs (p99 {last:7.1f})"


def speed(directory: Path) -> None:
    layer = DiskLayer(directory / "layer")
    plain = diskcache.Cache(str(directory / "plain"))
    same = diskcache.Cache(str(directory / "same"), sqlite_mmap_size=0, sqlite_auto_vacuum=0)
    ways: dict[str, tuple[Callable[[bytes], object], Callable[[bytes], object]]] = {
        "disk layer": (layer.get, lambda each: layer.set(each, DATA, ttl_s=600)),
        "diskcache": (plain.get, lambda each: plain.set(each, DATA, expire=600)),
        "… same settings": (same.get, lambda each: same.set(each, DATA, expire=600)),
    }
    sets: dict[str, list[list[float]]] = {name: [] for name in ways}
    gets: dict[str, list[list[float]]] = {name: [] for name in ways}
    misses: dict[str, list[list[float]]] = {name: [] for name in ways}
    known = [slot(n) for n in range(ENTRIES)]
    for n in range(ROUNDS):  # by turns: what else the machine does is the same for all
        asked = random.Random(n).choices(known, k=STEPS)
        for name, (get, put) in ways.items():
            sets[name].append(timed(put, known))
            gets[name].append(timed(get, asked))
            misses[name].append(timed(get, [slot(10**6 + each) for each in range(STEPS)]))
    for name in ways:
        print(f"{name:<16} hit {best(gets[name])}   miss {best(misses[name])}   set {best(sets[name])}")
    hit, own = (min(each[STEPS // 2] for each in gets[name]) for name in ("disk layer", "diskcache"))
    print(f"a hit takes {hit / own:.2f} times as long as diskcache's own get of the same bytes (bound: 2)")
    for each in (layer, plain, same):
        each.close()
    if hit > 2 * own:
        raise SystemExit("FAILED")


def room(directory: Path, quotas: dict[str, float]) -> None:
    layer = DiskLayer(directory / f"room {len(quotas)}", max_bytes=MOST_BYTES, quotas=quotas)
    most = 0
    began = time.perf_counter()
    count = MOST_BYTES * 3 // 2 // len(DATA)
    for number in range(count):
        layer.set(slot(number * 7919), DATA, ttl_s=600, group=("gold", "bronze")[number % 3 > 0])
        if number % 1000 == 0:
            most = max(
                most, sum(each.stat().st_size for each in (directory / f"room {len(quotas)}").rglob("*"))
            )
    took_us = (time.perf_counter() - began) / count * 1e6
    held = layer.stats()
    print(
        f"{count} entries of {len(DATA)} bytes, {len(quotas)} quotas: {held.entries} held, "
        f"{held.evictions} evicted, {took_us:.0f} µs a set, "
        f"at most {most / MIB:.1f} MiB on the disk (bound {MOST_BYTES / MIB:.0f})"
    )
    layer.close()
    began = time.perf_counter()
    layer.get(slot(0))
    print(f"opened, and read from, in {(time.perf_counter() - began) * 1e3:.1f} ms")
    layer.close()
    if most > 1.01 * MOST_BYTES:
        raise SystemExit("FAILED")


def between(directory: Path) -> None:
    layer = DiskLayer(directory / "between")
    layer.set(slot(0), DATA, ttl_s=600)
    for n in range(1000):
        layer.post([Notice(f"doc:{n}", 0)])
    heard = timed(lambda _: layer.heard(), [b""] * 20_000)
    posted = timed(lambda each: layer.post([Notice(each.hex(), 0)]), [slot(n) for n in range(1000)])
    claimed = timed(lambda each: layer.claim(each, b"me", 10.0), [slot(n) for n in range(1000)])
    refused = timed(lambda each: layer.claim(each, b"other", 10.0), [slot(n) for n in range(1000)])
    released = timed(lambda each: layer.release(each, b"me"), [slot(n) for n in range(1000)])
    ways = {"heard": heard, "post": posted, "claim": claimed, "refused": refused, "release": released}
    print("   ".join(f"{name} {best([took])}" for name, took in ways.items()))
    layer.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        speed(Path(directory))
        between(Path(directory))
        for quotas in ({}, {"gold": 0.5}):
            room(Path(directory), quotas)


if __name__ == "__main__":
    main()

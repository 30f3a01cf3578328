"""What three layers answer of skewed traffic, what they take, and what scans and batches do to them.

    python tests/benchmarks/bench_cache_traffic.py             # all of it, some minutes
    python tests/benchmarks/bench_cache_traffic.py --quotas    # a batch in bronze beside gold's entries
    python tests/benchmarks/bench_cache_traffic.py --bound     # a million keys through a memory layer

Zipf traffic over 1,000,000 keys, answers of about 1 KB, each kept once nobody has it: memory of 2 MB
over Redis of 8 over a disk of 32 (``--times 4``: four times all of it, requests too), against one memory
of as much as all three, and against the first alone. Every setting runs in a process of its own,
through the cache's own stack. Bytes are measured from outside: growth of the process, ``used_memory`` of
Redis, blocks of the directory. Ends with an error where a bound is passed.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import redis
from cache_ground import MB, Cache, answer, grown, here_and_there, slot

from tierllm.caching import DiskLayer, Layer, MemoryLayer, RedisLayer

KEYS, WARM, MEASURED, SCANNED, AFTER = 1_000_000, 40_000, 50_000, 200_000, 20_000
SKEWS = (0.9, 1.0, 1.1)
MEMORY, REDIS, DISK = 2 * MB, 8 * MB, 32 * MB
HOT, BATCH, GOLD = 500, 100_000, 1000
failures: list[str] = []


def check(holds: bool, what: str) -> None:
    if not holds:
        failures.append(what)


# -- bytes, from outside ---------------------------------------------------------------------


def on_disk(directory: Path) -> int:
    total = 0
    for each in directory.rglob("*"):
        try:
            total += each.lstat().st_blocks * 512
        except FileNotFoundError:
            pass
    return total


class Peaks:
    """The most that was taken, looked at now and then."""

    def __init__(self, url: str | None, directory: Path) -> None:
        self.directory = directory
        self._redis = None if url is None else redis.Redis.from_url(url)
        self.own = self.server = self.disk = 0
        gc.collect()
        self._before, self._served = grown(), self._used()

    def _used(self) -> int:
        return 0 if self._redis is None else int(self._redis.info("memory")["used_memory"])

    def look(self) -> None:
        self.own = max(self.own, grown() - self._before)
        self.server = max(self.server, self._used() - self._served)
        self.disk = max(self.disk, on_disk(self.directory))


# -- traffic -------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """``rate`` of the requests measured was answered. ``before`` and ``after`` a scan: of all, of the hot."""

    rate: float
    seconds: float
    own: int
    server: int
    disk: int
    held: tuple[tuple[str, int, int], ...]
    before: tuple[float, float]
    after: tuple[float, float]


def zipf(skew: float, count: int, seed: int) -> list[int]:
    sums = list(itertools.accumulate((n + 1) ** -skew for n in range(KEYS)))
    return random.Random(seed).choices(range(KEYS), cum_weights=sums, k=count)


def run(kind: str, skew: float, times: int, url: str, place: str, scans: bool, sending) -> None:
    """In a process of its own."""
    warm, measured = WARM * times, MEASURED * times
    requests = zipf(skew, warm + measured + 2 * AFTER, seed=1)
    answer(0)
    made: list[Layer] = []
    peaks = Peaks(url if kind == "three layers" else None, Path(place))
    if kind == "three layers":
        made = [
            MemoryLayer(max_bytes=MEMORY * times, max_entries=KEYS),
            RedisLayer(url, max_bytes=REDIS * times, timeout_s=20),
            DiskLayer(place, max_bytes=DISK * times, timeout_s=20),
        ]
    else:
        size = MEMORY if kind == "memory alone" else MEMORY + REDIS + DISK
        made = [MemoryLayer(max_bytes=size * times, max_entries=KEYS)]
    cache = Cache(made)

    def share(some: Sequence[int]) -> tuple[float, float]:
        """The part of these requests that was answered; and of those for the hot keys."""
        found = hot = found_hot = 0
        for at, number in enumerate(some):
            there = cache.asked(number)
            found += there
            if number < HOT:
                hot += 1
                found_hot += there
            if at % 10_000 == 0:
                peaks.look()
        peaks.look()
        return found / len(some), found_hot / max(1, hot)

    share(requests[:warm])
    began = time.perf_counter()
    rate, _ = share(requests[warm : warm + measured])
    seconds = time.perf_counter() - began
    before = after = (0.0, 0.0)
    if scans:
        before = share(requests[warm + measured : -AFTER])
        share(range(KEYS, KEYS + SCANNED))
        after = share(requests[-AFTER:])
    held = tuple((each.name.split()[0], each.stats().entries, each.stats().bytes) for each in made)
    sending.send(Outcome(rate, seconds, peaks.own, peaks.server, peaks.disk, held, before, after))
    cache.close()


def outcome(kind: str, skew: float, times: int, scans: bool) -> Outcome:
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    with here_and_there() as (place, url):
        child = context.Process(target=run, args=(kind, skew, times, url, place, scans, sending))
        child.start()
        sending.close()
        found: Outcome = receiving.recv()
        child.join()
    return found


def traffic(skews: Sequence[float], times: int) -> None:
    for skew in skews:
        for kind in ("three layers", "one memory", "memory alone"):
            scans = skew == 1.0 and kind != "memory alone"
            found = outcome(kind, skew, times, scans)
            held = ", ".join(f"{name} {entries} in {size / MB:.1f} MB" for name, entries, size in found.held)
            print(
                f"zipf {skew} {kind:12}: {found.rate:6.1%} answered, "
                f"{MEASURED * times / found.seconds:8,.0f} a second; {held}; "
                f"the process grew by {found.own / MB:.1f} MB"
                + (f", Redis by {found.server / MB:.1f}, disk {found.disk / MB:.1f}" if found.disk else ""),
                flush=True,
            )
            for layer, took, most in (("Redis", found.server, REDIS), ("the disk", found.disk, DISK)):
                told = f"zipf {skew}: {layer} took {took / MB:.1f} MB of {most * times / MB:.0f}"
                check(took <= 1.01 * most * times, told)
            if scans:
                lost, hot_lost = (100 * (a - b) for a, b in zip(found.before, found.after, strict=True))
                print(
                    f"  {SCANNED:,} keys that come once: requests for the {HOT} most frequent keys lose "
                    f"{hot_lost:+.2f} points in the next {AFTER:,} ({found.before[1]:.2%} before), "
                    f"all of them {lost:+.2f} ({found.before[0]:.2%})",
                    flush=True,
                )
                check(hot_lost < 2, f"{kind}: a scan costs the hot set {hot_lost:.1f} points")


# -- the bound of memory ------------------------------------------------------------------------------


def bound() -> None:
    """1,000,000 keys, each once, all with entries as calls make them."""
    layer = MemoryLayer(max_entries=KEYS)
    answer(0)
    gc.collect()
    before, counted = grown(), 0
    real = 0
    for number in range(KEYS):
        entry = answer(number)
        layer.keep(slot(number), entry, size=entry.size, ttl_s=600, group="gold")
        if number % 5000 == 0:
            counted, real = max(counted, layer.stats().bytes), max(real, grown() - before)
    print(
        f"{KEYS:,} keys through a memory layer: {layer.stats().entries} entries held, "
        f"{counted / MB:.1f} MB by its own account, the process grew by {real / MB:.1f} MB "
        f"(bound {layer.max_bytes / MB:.1f})"
    )
    check(real <= layer.max_bytes, "the memory layer takes more than its bound")


# -- quotas -------------------------------------------------------------------------------------------


def quotas() -> None:
    """Each layer for itself: what is left of gold in one must not hide what another has lost."""
    shares = {"gold": 0.5}
    with here_and_there() as (place, url):
        layers: list[Layer] = [
            MemoryLayer(max_bytes=4 * MEMORY, max_entries=KEYS, quotas=shares),
            RedisLayer(url, max_bytes=REDIS, quotas=shares, timeout_s=20),
            DiskLayer(place, max_bytes=DISK, quotas=shares, timeout_s=20),
        ]
        cache = Cache(layers)
        for number in range(GOLD):
            cache.keep(number, "gold")
        for number in range(KEYS, KEYS + BATCH):
            cache.keep(number, "bronze")
        for layer in layers:
            name, stats = layer.name.split()[0], layer.stats()
            if isinstance(layer, MemoryLayer):
                left = sum(layer.find(slot(number)) is not None for number in range(GOLD))
            else:
                left = sum(layer.get(slot(number)) is not None for number in range(GOLD))
            print(
                f"{name:6}: {left} of gold's {GOLD:,} entries left after {BATCH:,} of bronze; "
                f"{stats.entries} held, {stats.evictions} evicted"
            )
            check(left == GOLD, f"{name}: bronze pushed out {GOLD - left} of gold's entries")
            check(stats.evictions > BATCH // 2, f"{name}: there was no need to push out anything")
        cache.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quotas", action="store_true", help="nothing but the quotas")
    parser.add_argument("--bound", action="store_true", help="nothing but the bound of memory")
    parser.add_argument("--skew", type=float, nargs="+", default=SKEWS)
    parser.add_argument("--times", type=int, default=1, help="so many times the sizes and the requests")
    chosen = parser.parse_args()
    if chosen.quotas or not chosen.bound:
        quotas()
    if chosen.bound or not chosen.quotas:
        bound()
    if not (chosen.quotas or chosen.bound):
        traffic(chosen.skew, chosen.times)
    if failures:
        sys.exit("FAILED: " + "; ".join(failures))


if __name__ == "__main__":
    main()

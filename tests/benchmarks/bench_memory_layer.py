"""What the memory layer of the cache costs, what it keeps, and what a scan does to it.

Run: ``python tests/benchmarks/bench_memory_layer.py``: microseconds for get and set beside cachetools'
LRU under a lock, best round of seven; hit rates of Zipf traffic over 1,000,000 keys beside the same LRU;
what 200,000 keys that come once cost the hot set, at once and in between; the peak of memory under
1,000,000 distinct keys.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence

from cachetools import LRUCache

from tierllm.caching.layer import Layer
from tierllm.caching.memory_layer import MemoryLayer

KEYS, ENTRIES, ROUNDS, STEPS = 1_000_000, 10_000, 7, 50_000
WARM, MEASURED, SCANNED, AFTER = 500_000, 1_000_000, 200_000, 20_000
DATA = b"x" * 1900


class PlainLru:
    """The least recently used goes: what everybody has at hand."""

    def __init__(self, max_entries: int) -> None:
        self.cache: LRUCache[bytes, bytes] = LRUCache(max_entries)
        self.lock = threading.Lock()

    def get(self, slot: bytes) -> bytes | None:
        with self.lock:
            return self.cache.get(slot)

    def set(self, slot: bytes, data: bytes, *, ttl_s: float, group: str = "") -> bool:
        with self.lock:
            self.cache[slot] = data
        return True


def slot(number: int) -> bytes:
    return number.to_bytes(32, "big")


def best(step: Callable[[bytes], object], slots: Sequence[bytes]) -> float:
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for each in slots:
            step(each)
        took.append((time.perf_counter() - began) / len(slots))
    return min(took) * 1e6


def speed(name: str, make: Callable[[], Layer | PlainLru]) -> None:
    layer = make()
    known = [slot(n) for n in range(ENTRIES // 2)]
    for each in known:
        layer.set(each, DATA, ttl_s=600)
    hits = random.Random(1).choices(known, k=STEPS)
    misses = [slot(KEYS + n) for n in range(STEPS)]
    hit_us, miss_us = best(layer.get, hits), best(layer.get, misses)
    numbers = itertools.count()
    new = [slot(next(numbers)) for _ in range(STEPS * (ROUNDS + 1))]
    rounds = iter([new[n : n + STEPS] for n in range(0, len(new), STEPS)])
    again_us = best(lambda each: layer.set(each, DATA, ttl_s=600), known)
    for each in next(rounds):
        layer.set(each, DATA, ttl_s=600)
    took = []
    for some in rounds:
        began = time.perf_counter()
        for each in some:
            layer.set(each, DATA, ttl_s=600)
        took.append((time.perf_counter() - began) / STEPS * 1e6)
    print(
        f"{name:<24} hit {hit_us:5.2f} µs   miss {miss_us:5.2f} µs   "
        f"set, known {again_us:5.2f} µs   set, new, full {min(took):5.2f} µs"
    )


def hits(layer: Layer | PlainLru, slots: Sequence[int]) -> int:
    found = 0
    for number in slots:
        each = slot(number)
        if layer.get(each) is None:
            layer.set(each, b"x", ttl_s=600)
        else:
            found += 1
    return found


def zipf(s: float, count: int, seed: int) -> tuple[list[int], float]:
    """Requests, and the hit rate of a cache that always holds the most frequent keys."""
    sums = list(itertools.accumulate((n + 1) ** -s for n in range(KEYS)))
    return random.Random(seed).choices(range(KEYS), cum_weights=sums, k=count), sums[ENTRIES - 1] / sums[-1]


def hit_rates() -> None:
    for s in (0.8, 0.9, 1.0):
        requests, ideal = zipf(s, WARM + MEASURED, seed=1)
        rates = []
        for layer in (MemoryLayer(max_entries=ENTRIES), PlainLru(ENTRIES)):
            hits(layer, requests[:WARM])
            rates.append(hits(layer, requests[WARM:]) / MEASURED)
        print(
            f"zipf {s}: {rates[0]:.1%} of requests hit; plain LRU {rates[1]:.1%}; never more than {ideal:.1%}"
        )


def scan() -> None:
    requests, _ = zipf(0.9, WARM + AFTER + SCANNED // 10, seed=2)
    warm, after, between = requests[:WARM], requests[WARM : WARM + AFTER], requests[WARM + AFTER :]
    once = list(range(KEYS, KEYS + SCANNED))
    for name, make in (
        ("memory layer", lambda: MemoryLayer(max_entries=ENTRIES)),
        ("plain LRU", lambda: PlainLru(ENTRIES)),
    ):
        undisturbed, scanned, mixed, alone = make(), make(), make(), make()
        for layer in (undisturbed, scanned, mixed, alone):
            hits(layer, warm)
        hits(scanned, once)
        lost = (hits(undisturbed, after) - hits(scanned, after)) / AFTER
        in_between = 0
        for n, request in enumerate(between):
            in_between += hits(mixed, [request])
            hits(mixed, once[10 * n : 10 * n + 10])
        lost_between = (hits(alone, between) - in_between) / len(between)
        print(
            f"{name:<14} {SCANNED} keys that come once: at once {100 * lost:+.1f} points lost in the next "
            f"{AFTER} requests; ten between any two requests {100 * lost_between:+.1f}"
        )


def peak() -> None:
    for max_bytes, max_entries, size in (
        (64 * 2**20, 10**6, 1900),
        (64 * 2**20, 10**6, 20),
        (2**30, 10_000, 20),
    ):
        tracemalloc.start()
        layer = MemoryLayer(max_bytes=max_bytes, max_entries=max_entries)
        most = 0
        for number in range(KEYS):
            layer.set(slot(number), bytes(size), ttl_s=600)
            if number % 1000 == 0:
                most = max(most, layer.stats().bytes)
        real = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(
            f"{KEYS} keys of {size} bytes: {layer.stats().entries} entries (bound {max_entries}), by its own "
            f"account {most / 2**20:.1f} MiB, really {real / 2**20:.1f} MiB (bound {max_bytes / 2**20:.0f})"
        )
        if real > max_bytes or most > max_bytes:
            raise SystemExit("FAILED")


def main() -> None:
    speed("memory layer", lambda: MemoryLayer(max_entries=ENTRIES))
    speed("… with three quotas", lambda: MemoryLayer(quotas={"gold": 0.5, "silver": 0.2, "bronze": 0.1}))
    speed("cachetools LRU, locked", lambda: PlainLru(ENTRIES))
    hit_rates()
    scan()
    peak()


if __name__ == "__main__":
    main()

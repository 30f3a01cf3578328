"""What it costs to wait: entering and leaving a fair queue of up to a million, and its memory.

Run: ``python tests/benchmarks/bench_queue.py``. At each size the queue is filled, then the next one goes
(and its tenant is charged and settled) and another comes, so that it stays that long. If a turn takes
O(log n), the last column stays about level; the rest of the growth is the processor's cache.
"""

from __future__ import annotations

import gc
import math
import random
import time
import tracemalloc

from tierllm.admission.place import Place
from tierllm.admission.queue import FairQueue
from tierllm.admission.shares import TenantShares

TURNS, ROUNDS = 5_000, 5


def place(number: int, tenants: int, rng: random.Random) -> Place:
    made = Place.__new__(Place)  # a place without a call
    made.tenant, made.priority, made.weight = f"tenant-{rng.randrange(tenants)}", rng.randrange(3), 1.0
    made.arrived_at, made.number, made.tokens = number / 100, number, rng.randrange(100, 2000)
    made.deadline_at = None if rng.random() < 0.5 else made.arrived_at + rng.random() * 120
    return made


def turns(queue: FairQueue, coming: list[Place]) -> tuple[float, float]:
    """Seconds for each to come, and for the next one to go, all told."""
    shares = queue.shares
    came = went = 0.0
    for newcomer in coming:
        began = time.perf_counter()
        queue.push(newcomer)
        between = time.perf_counter()
        following = queue.first(0.0)
        assert following is not None
        queue.remove(following)
        shares.charge(following.tenant, following.tokens)
        shares.settle(following.tenant, following.tokens, following.tokens // 2)
        went += time.perf_counter() - between
        came += between - began
    return came, went


def measure(size: int, tenants: int) -> tuple[float, float]:
    rng = random.Random(size)
    queue = FairQueue(TenantShares())
    for number in range(size):
        queue.push(place(number, tenants, rng))
    best = (math.inf, math.inf)
    for again in range(ROUNDS):
        coming = [place(size + again * TURNS + n, tenants, rng) for n in range(TURNS)]
        best = min(best, turns(queue, coming), key=sum)
    return best[0] / TURNS * 1e6, best[1] / TURNS * 1e6


def memory(size: int, tenants: int) -> tuple[float, float]:
    """Bytes for each that waits, without the place itself, and of all after 99 % have left."""
    rng = random.Random(size)
    places = [place(number, tenants, rng) for number in range(size)]
    gc.collect()
    tracemalloc.start()
    queue = FairQueue(TenantShares())
    for waiting in places:
        queue.push(waiting)
    full = tracemalloc.get_traced_memory()[0] / size
    rng.shuffle(places)
    for waiting in places[size // 100 :]:
        queue.remove(waiting)
    queue.first(0.0)
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return full, left / (full * size)


def main() -> None:
    for tenants in (1, 10_000):
        print(f"{tenants} tenant{'s' * (tenants > 1)}, three priorities")
        smallest = None
        for size in (1_000, 10_000, 100_000, 1_000_000):
            came, went = measure(size, tenants)
            smallest = smallest or came + went
            ratio = (came + went) / smallest
            print(
                f"  {size:>9,} waiting: enqueue {came:5.2f} µs, dequeue, charge and settle {went:5.2f} µs; "
                f"{ratio:4.2f} x the first, over log n {ratio / (math.log(size) / math.log(1000)):4.2f} x"
            )
    for tenants in (1, 10_000):
        each, left = memory(100_000, tenants)
        print(f"100,000 waiting, {tenants} tenants: {each:.0f} bytes each; 99 % gone: {left:.0%} left")


if __name__ == "__main__":
    main()

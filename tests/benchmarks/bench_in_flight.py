"""10,000 calls in flight at once on one event loop: none lost, and what each costs.

    python tests/benchmarks/bench_in_flight.py

Every call waits in its provider until all have arrived; the cost is the whole run's processor time
by the number of calls, for 10 and for 10,000 in flight, with the garbage collector off. The bare
loop (the same provider awaited without tierllm) is taken off both.
"""

from __future__ import annotations

import asyncio
import gc
import time

from tierllm import Deployment, Response, Tier, TieredClient, Usage
from tierllm.providers import BaseProvider

CALLS = 20_000


class Gate(BaseProvider):
    """Holds calls until ``width`` of them are there, then lets them all go."""

    name = "gate"

    def __init__(self, width: int) -> None:
        self.width = width
        self.there = 0
        self.peak = 0
        self.opened: asyncio.Event | None = None

    async def acomplete(self, call, scope):
        if self.opened is None:
            self.opened = asyncio.Event()
        opened = self.opened
        self.there += 1
        self.peak = max(self.peak, self.there)
        if self.there >= self.width:
            self.there, self.opened = 0, None
            opened.set()
        else:
            await opened.wait()
        return Response(text="fine", finish_reason="stop", usage=Usage(input_tokens=5, output_tokens=1))


async def through_tierllm(width: int) -> float:
    gate = Gate(width)
    client = TieredClient(
        [
            Tier("gold", [Deployment("g", gate)], max_concurrency=10_000),
            Tier("silver", [Deployment("s", gate)]),
        ],
        deadline_s=600,
    )
    answered = 0

    async def ask() -> None:
        nonlocal answered
        response = await client.acomplete("hello", sla="gold")
        answered += response.text == "fine"

    begun = time.process_time()
    for _ in range(CALLS // width):
        await asyncio.gather(*(ask() for _ in range(width)))
    spent = time.process_time() - begun
    assert answered == CALLS // width * width, "calls were lost"
    assert gate.peak == width, "they were not all in flight at once"
    return spent / answered * 1e6


async def bare(width: int) -> float:
    gate = Gate(width)

    async def ask() -> None:
        await gate.acomplete(None, None)

    begun = time.process_time()
    for _ in range(CALLS // width):
        await asyncio.gather(*(ask() for _ in range(width)))
    return (time.process_time() - begun) / CALLS * 1e6


def main() -> None:
    gc.collect()
    gc.disable()
    best: dict[int, float] = {}
    whole: dict[int, float] = {}
    for _ in range(5):
        for width in (10, 10_000):
            total = asyncio.run(through_tierllm(width))
            cost = total - asyncio.run(bare(width))
            best[width] = min(cost, best.get(width, cost))
            whole[width] = min(total, whole.get(width, total))
            gc.enable()
            gc.collect()
            gc.disable()
    for width, cost in best.items():
        told = f"{cost:6.1f} us a call over the bare loop ({whole[width]:.1f} with it)"
        print(f"{width:6} in flight: {told}, none lost")
    print(f"ratio {best[10_000] / best[10]:.2f}")


if __name__ == "__main__":
    main()

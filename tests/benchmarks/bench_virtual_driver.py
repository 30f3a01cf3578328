"""Flows a second in virtual time: bare, through three policies, and waiting in a queue.

python tests/benchmarks/bench_virtual_driver.py [FLOWS]
"""

from __future__ import annotations

import sys
import time
from typing import Any

from tierllm.admission.pool import Pool
from tierllm.pipeline.compose import compose, invoking
from tierllm.pipeline.effects import Handler, Wait
from tierllm.pipeline.host import Host
from tierllm.pipeline.scope import Scope
from tierllm.pipeline.virtual import VirtualTime
from tierllm.types import Call, Chunk, Request, Response, Timeouts

LAST = Chunk("hello", finish_reason="stop")
REQUEST = Request(messages=({"role": "user", "content": "hi"},))


class Plays:
    """An answer after a tenth of a second, and no more work than that."""

    name, waits = "plays", False

    def play(self, call: Any, scope: Any) -> Any:
        yield 0.1
        yield LAST


async def passing(call: Call, call_next: Handler) -> Response:
    return await call_next(call)


def rate(flows: int, policies: list[Any], timeouts: Timeouts | None = None) -> float:
    provider: Any = Plays()
    handler = compose(policies, invoking(provider))
    world = VirtualTime()
    host = Host(world.clock)
    left, ended = flows, 0

    def end(run: Any) -> None:
        nonlocal ended
        ended += run.error is None

    def arrive() -> None:
        nonlocal left
        call = Call(REQUEST, timeouts=timeouts)
        world.start(handler(call), host, scope=Scope(world.clock), on_end=end)
        left -= 1
        if left:
            world.after(0.001, arrive)

    world.after(0.0, arrive)
    began = time.perf_counter()
    world.run()
    took = time.perf_counter() - began
    assert ended == flows, "flows were lost"
    return flows / took


def main() -> None:
    flows = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    pool = Pool(100)

    async def seated(call: Call, call_next: Handler) -> Response:
        with await Wait(pool):
            return await call_next(call)

    for name, policies, timeouts in (
        ("bare (target ≥ 100,000)", [], None),
        ("3 policies", [passing] * 3, None),
        ("3 policies and timeouts", [passing] * 3, Timeouts()),
        ("3 policies, one a full pool", [passing, passing, seated], None),
    ):
        best = max(rate(flows, policies, timeouts) for _ in range(3))
        print(f"{name:<30} {best:>10,.0f} flows a second")


if __name__ == "__main__":
    main()

"""Calls a second through the full tier pipeline in virtual time, with an outage in the middle.

    python tests/benchmarks/bench_virtual.py [CALLS]
"""

from __future__ import annotations

import random
import sys
import time

from tierllm import Deployment, Tier, TieredClient
from tierllm.pipeline.virtual import VirtualTime
from tierllm.routing.ask import ask
from tierllm.testing import Fail, FakeProvider

RATE = 50.0  # calls a second of virtual time


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    world, rng = VirtualTime(), random.Random(7)
    gold, silver = FakeProvider(latency_s=0.4, seed=1), FakeProvider(latency_s=0.2, seed=2)
    client = TieredClient(
        [
            Tier("gold", [Deployment("g", gold)], max_concurrency=64),
            Tier("silver", [Deployment("s", silver)], max_concurrency=64),
            Tier("bronze", [Deployment("b", silver)], max_concurrency=64),
        ],
        deadline_s=30,
        clock=world.clock,
        rng=rng,
    )
    span = calls / RATE
    world.at(span * 0.4, lambda: gold.down("g", Fail.unavailable()))
    world.at(span * 0.6, lambda: gold.up("g"))
    served: dict[str, int] = {}
    started = 0

    def ended(run) -> None:
        outcome = run.result.tier if run.error is None else type(run.error).__name__
        served[outcome] = served.get(outcome, 0) + 1

    def arrive() -> None:
        nonlocal started
        ready = client.ready(ask("hello", {"sla": "gold"}))
        world.start(ready.flow(), ready.host, scope=ready.scope, on_end=ended)
        started += 1
        if started < calls:
            world.after(rng.expovariate(RATE), arrive)

    world.after(0.0, arrive)
    begun = time.perf_counter()
    world.run()
    took = time.perf_counter() - begun
    assert sum(served.values()) == calls, "calls were lost"
    print(f"{calls:,} calls in {took:.1f} s: {calls / took:,.0f} a second; virtual span {world.now:,.0f} s")
    print("served by", dict(sorted(served.items())))


if __name__ == "__main__":
    main()

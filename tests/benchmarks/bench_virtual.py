"""Calls a second through the full tier pipeline in virtual time.

    python tests/benchmarks/bench_virtual.py [CALLS]

Gold, silver and bronze with pool, deadline, retry, breaker, fallback and trace; 50 calls a second of
virtual time. ``bare`` is a provider that only takes its time, so that the pipeline is what is
measured; ``fake`` is the FakeProvider with its journal; ``outage`` is that with gold down for a fifth
of the time.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter

from tierllm import Chunk, Deployment, Tier, TieredClient
from tierllm.pipeline.virtual import VirtualRun, VirtualTime
from tierllm.providers import PlayedProvider
from tierllm.routing.ask import ask
from tierllm.testing import Fail, FakeProvider

RATE = 50.0


class Bare(PlayedProvider):
    """Answers after 0.4 s."""

    name = "bare"

    def play(self, call, scope):
        yield 0.4
        yield Chunk("fine", finish_reason="stop")


def traffic(provider: PlayedProvider, calls: int, outage: bool = False) -> tuple[float, Counter[str]]:
    world, rng = VirtualTime(), random.Random(7)
    client = TieredClient(
        [
            Tier(name, [Deployment(name, provider)], max_concurrency=64)
            for name in ("gold", "silver", "bronze")
        ],
        deadline_s=30,
        clock=world.clock,
        rng=rng,
    )
    if outage and isinstance(provider, FakeProvider):
        world.at(calls / RATE * 0.4, lambda: provider.down("gold", Fail.unavailable()))
        world.at(calls / RATE * 0.6, lambda: provider.up("gold"))
    served: Counter[str] = Counter()
    begun = 0

    def ended(run: VirtualRun) -> None:
        served[run.result.tier if run.error is None else type(run.error).__name__] += 1

    def arrive() -> None:
        nonlocal begun
        ready = client.ready(ask("hello", {"sla": "gold"}))
        world.start(ready.flow(), ready.host, scope=ready.scope, on_end=ended)
        begun += 1
        if begun < calls:
            world.after(rng.expovariate(RATE), arrive)

    world.after(0.0, arrive)
    clock = time.perf_counter()
    world.run()
    took = time.perf_counter() - clock
    assert sum(served.values()) == calls, "calls were lost"
    return calls / took, served


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    for name in ("bare", "fake", "outage"):
        best = 0.0
        for _ in range(3):
            provider = Bare() if name == "bare" else FakeProvider(latency_s=0.4)
            speed, served = traffic(provider, calls, outage=name == "outage")
            best = max(best, speed)
        print(f"{name:8}{best:10,.0f} calls a second   served by {dict(sorted(served.items()))}")


if __name__ == "__main__":
    main()

"""A deployment that stalls for ten seconds, with and without hedging, in virtual time; and what that costs.

    python tests/benchmarks/bench_hedge.py [SEEDS]

Streams, 20 calls a second, half of them to each of two deployments. For ten seconds the first of the
two sends no first token. Shown are first tokens of calls begun in the stall, and how many calls were
extra over the whole run. Then the same traffic without a stall, and with both stalled at once. Last, the
time that a call takes where nothing is late.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from tierllm import CircuitBreaker, Deployment, Tier, TieredClient
from tierllm.pipeline.virtual import VirtualRun, VirtualTime
from tierllm.resilience.hedge import Hedge
from tierllm.routing.ask import ask
from tierllm.testing import FakeProvider, Reply

RATE = 20.0
STALL_AT_S = 600.0
STALL_S = 10.0
END_S = 900.0


class Outcome(NamedTuple):
    stalled: list[float]
    others: list[float]
    calls: int
    sent: int
    won: int
    lost: int


def traffic(seed: int, hedge: Hedge | None, stalled: str, breaker: CircuitBreaker | None = None) -> Outcome:
    """Fifteen minutes of calls; ``stalled`` names the deployments that stall in the tenth."""
    world, rng, times = VirtualTime(), Random(seed), Random(seed + 1000)

    def answer(call: Any) -> Reply:
        first_s = times.lognormvariate(-1.2, 0.5)  # median 0.3 s, one in fifty over 0.84 s
        at = world.now + first_s
        if call.model in stalled and at >= STALL_AT_S and world.now < STALL_AT_S + STALL_S:
            first_s = max(first_s, STALL_AT_S + STALL_S - world.now + first_s)
        return Reply("one two three four five", first_token_s=first_s, between_s=0.05)

    fake = FakeProvider(answer=answer)
    tier = Tier(
        "gold",
        [Deployment("a", fake), Deployment("b", fake)],
        choose="weighted",
        hedge=hedge or False,
        max_concurrency=512,
    )
    client = TieredClient([tier], clock=world.clock, rng=Random(seed), breaker=breaker)
    in_stall: list[float] = []
    others: list[float] = []
    counts = {"calls": 0, "lost": 0}

    def arrive() -> None:
        counts["calls"] += 1
        begun, heard = world.now, []
        ready = client.ready(ask("hello", {}))

        def chunk(_: Any) -> None:
            if not heard:
                heard.append(world.now - begun)
                within = STALL_AT_S <= begun < STALL_AT_S + STALL_S
                (in_stall if within else others).append(heard[0])

        def ended(run: VirtualRun) -> None:
            counts["lost"] += run.error is not None or not heard

        world.start(ready.flow(), ready.host, scope=ready.scope, streaming=True, on_chunk=chunk, on_end=ended)
        if world.now < END_S:
            world.after(rng.expovariate(RATE), arrive)

    world.after(0.0, arrive)
    world.run()
    pool = client.status()["tiers"]["gold"]["pool"]
    assert pool["in_use"] == 0, "a permit was left behind"
    hedging = client.status()["tiers"]["gold"]["hedge"]
    won = 0 if hedging is None else hedging["won"]
    return Outcome(in_stall, others, counts["calls"], fake.calls, won, counts["lost"])


def p(values: list[float], quantile: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


def show(name: str, outcome: Outcome) -> float:
    extra = outcome.sent / outcome.calls - 1
    print(
        f"{name:22}{p(outcome.stalled, 0.5):8.2f}{p(outcome.stalled, 0.99):8.2f}"
        f"{p(outcome.others, 0.99):10.2f}"
        f"{100 * extra:8.2f} %{outcome.won:6}{outcome.lost:6}"
    )
    assert outcome.lost == 0, "a call was lost"
    return extra


def each(name: str, run: Callable[[], object], count: int = 2000) -> None:
    best = min(timed(run, count) for _ in range(5))
    print(f"{name:36}{best * 1e6:8.1f} µs a call")


def timed(run: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - began) / count


async def atimed(client: TieredClient, count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        await client.acomplete("hello")
    return (time.perf_counter() - began) / count


def cost() -> None:
    """Nothing is ever late here: what the watching costs."""
    rules: dict[str, Hedge | None] = {
        "no hedging": None,
        "hedging, nothing saved up": Hedge(share=0.000001),
        "hedging, ready to race": Hedge(share=1.0, min_samples=20),
    }
    for name, hedge in rules.items():
        fake = FakeProvider()
        tier = Tier("gold", [Deployment("a", fake), Deployment("b", fake)], hedge=hedge or False)
        client = TieredClient([tier])
        for _ in range(300):
            client.complete("hello")
        each(f"{name}, sync", lambda client=client: client.complete("hello"))  # type: ignore[misc]
        best = min(asyncio.run(atimed(client, 2000)) for _ in range(5))
        print(f"{name + ', async':36}{best * 1e6:8.1f} µs a call")


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(f"{'':22}{'in the stall':>16}{'otherwise':>10}{'extra':>10}{'won':>6}{'lost':>6}")
    print(f"{'first token, s':22}{'p50':>8}{'p99':>8}{'p99':>10}")
    worst, most = 0.0, 0.0
    for seed in range(1, seeds + 1):
        plain = traffic(seed, None, "a")
        show(f"seed {seed}, not hedged", plain)
        hedged = traffic(seed, Hedge(), "a")
        most = max(most, show(f"seed {seed}, hedged", hedged))
        worst = max(worst, p(hedged.stalled, 0.99) / p(plain.stalled, 0.99))
    print(f"p99 in the stall: {worst:.2f} of unhedged at most; extra calls: {100 * most:.2f} % at most")
    assert worst <= 1 / 3
    assert most <= 0.05
    show(
        "and slow calls counted",
        traffic(1, Hedge(), "a", CircuitBreaker(slow_call_s=1.0, slow_call_rate=0.5)),
    )
    show("without a stall", traffic(1, Hedge(), ""))
    show("both stalled", traffic(1, Hedge(), "ab"))
    cost()


if __name__ == "__main__":
    main()

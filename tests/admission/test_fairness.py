"""Tenants that share a tier: the quiet one hardly notices the noisy one, and tokens are shared by weight."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest

from benchmarks.traffic import Arrival, Replay, Speed, mean, steady
from tierllm import Admission, Deployment, Tier, TieredClient
from tierllm.testing import FakeProvider

SPEED = Speed(0.3, 100.0)
PLACES, OUT, NOISE = 4, 200, 20
CALL_S = SPEED.takes_s(OUT)


def replay(**admission: object) -> Replay:
    return Replay(
        lambda fake: [
            Tier(
                "gold",
                [Deployment("m", fake)],
                max_concurrency=PLACES,
                admission=Admission(**admission),  # type: ignore[arg-type]
            )
        ],
        {"m": SPEED},
    )


def poisson(rng: random.Random, load: float, seconds: float, out: int = OUT) -> list[Arrival]:
    per_s = load * PLACES / SPEED.takes_s(out)
    return steady(rng, seconds=seconds, per_s=lambda _: per_s, most_per_s=per_s, out=out)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8, 0.95, 1.5, 3.0])
def test_a_quiet_tenant_waits_hardly_longer_than_alone(load: float) -> None:
    rng, seconds = random.Random(11), 2500 * CALL_S / (load * PLACES)
    quiet = poisson(rng, load / (NOISE + 1), seconds)
    noisy = poisson(rng, load * NOISE / (NOISE + 1), seconds)
    waits: list[float] = []
    for beside in ([], noisy):
        played = replay()
        played.play("quiet", quiet, tenant="quiet")
        played.play("noisy", beside, tenant="noisy")
        played.run()
        waits.append(mean([each.waited_s for each in played.of("quiet")]))
    alone_s, beside_s = waits
    assert beside_s <= alone_s + CALL_S / 2


def test_without_tenants_it_would_wait_as_long_as_anybody() -> None:
    rng = random.Random(11)
    played = replay()
    played.play("quiet", poisson(rng, 1.5 / (NOISE + 1), 300), tenant="all")
    played.play("noisy", poisson(rng, 1.5 * NOISE / (NOISE + 1), 300), tenant="all")
    played.run()
    assert mean([each.waited_s for each in played.of("quiet")]) > 10 * CALL_S


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 3.0), (5.0, 1.0)], ids=["1:1", "1:3", "5:1"])
def test_tokens_are_shared_by_weight_within_the_proven_bound(weights: tuple[float, float]) -> None:
    """One tenant has short calls and one has long ones; both want twice what there is."""
    shares = dict(zip(("short", "long"), weights, strict=True))
    played = replay(weights=shares)
    errors = [0.0]
    of = played.client._setup.lines["gold"].pool.shares  # type: ignore[union-attr]
    settle = of.settle

    def listening(tenant: str, charged: float, used: float, weight: float = 1.0) -> None:
        errors.append(abs(used - charged) / shares[tenant])
        settle(tenant, charged, used, weight)

    of.settle = listening  # type: ignore[method-assign]
    rng = random.Random(12)
    for who, out in (("short", 50), ("long", 400)):
        played.play(who, poisson(rng, 2.0, 400.0, out), tenant=who)
    played.run(400.0)
    ended = sorted((e for e in played.ended if e.waited_s > 0), key=lambda e: e.ended_s - e.work_s)
    lead = lowest = highest = 0.0
    for each in ended:
        lead += each.used / shares[each.who] * (1 if each.who == "short" else -1)
        lowest, highest = min(lowest, lead), max(highest, lead)
    largest = max(each.used / shares[each.who] for each in ended)
    assert len(errors) > 100
    assert highest - lowest <= 2 * (largest + PLACES * max(errors))


# -- with threads and tasks: the order alone ----------------------------------------------------------


def turns(provider: FakeProvider) -> list[str]:
    return [entry.messages[-1]["content"] for entry in provider.journal]


def gold(provider: FakeProvider) -> TieredClient:
    return TieredClient([Tier("gold", [Deployment("m", provider)], max_concurrency=1)])


def check_turns(order: list[str]) -> None:
    """The first noisy call was under way; of the others the quiet tenant's come every other turn."""
    assert order[0] == "noisy"
    assert sorted(order) == ["noisy"] * 31 + ["quiet"] * 3
    assert order.index("quiet", order.index("quiet", order.index("quiet") + 1) + 1) <= 6


def test_the_quiet_one_is_next_among_threads() -> None:
    provider = FakeProvider(latency_s=0.003)
    with gold(provider) as client:
        blocked = threading.Event()
        provider.script("m", "one", when=lambda _: blocked.wait(5))
        handles = [client.submit(who, tenant=who) for who in ["noisy"] * 31 + ["quiet"] * 3]
        until = time.monotonic() + 5
        while len(client.queued()) < 33 and time.monotonic() < until:
            time.sleep(0.001)
        blocked.set()
        for handle in handles:
            handle.result(10)
    check_turns(turns(provider))


async def test_the_quiet_one_is_next_among_tasks() -> None:
    provider = FakeProvider(latency_s=0.001)
    async with gold(provider) as client:
        calls = [client.acomplete("noisy", tenant="noisy") for _ in range(31)]
        calls += [client.acomplete("quiet", tenant="quiet") for _ in range(3)]
        await asyncio.gather(*calls)
    check_turns(turns(provider))

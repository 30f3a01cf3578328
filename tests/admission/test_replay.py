"""Bursts of traffic in virtual time: who is served, gets a simpler answer, is put off or refused."""

from __future__ import annotations

from collections import Counter
from datetime import date

import pytest

from benchmarks.traffic import Arrival, Replay, Speed, bursty, faster, mean
from tierllm import Admission, Deployment, RateLimit, Tier
from tierllm.admission.consent import Consent
from tierllm.admission.sampling import AdaptiveSampling
from tierllm.admission.steps import Step
from tierllm.events import CallDeferred, CallThrottled, DegradationChanged, TierCrowded
from tierllm.testing import FakeProvider

SPEEDS = {"big": Speed(0.4, 50.0), "small": Speed(0.3, 100.0)}
SECONDS = 240.0
PER_S = 3.0
GOLD_SIZE, BRONZE_SIZE = 36, 8
OBJECTIVE_S = 12.0

gold_calls = bursty(1, seconds=SECONDS, per_s=PER_S)
bronze_calls = bursty(2, seconds=SECONDS, per_s=PER_S)


def sampling(mode: str = "enforce", plan: str = "free") -> AdaptiveSampling:
    steps = [
        Step("short", at=1.0, max_tokens=200),
        Step("brief", at=1.5, max_tokens=80),
        Step("people first", at=2.5, refuse_below=0),
    ]
    consent = [Consent("all", since=date(2023, 1, 1), plan=plan)]
    return AdaptiveSampling(steps, consent=consent, mode=mode)  # type: ignore[arg-type]


def two_tiers(fake: FakeProvider, account: RateLimit | None = None, **bronze: object) -> list[Tier]:
    gold = Tier(
        "gold",
        [Deployment("big", fake, account=account)],
        max_concurrency=GOLD_SIZE,
        max_waiting=100,
        max_wait_s=10,
    )
    small: dict[str, object] = {"max_concurrency": BRONZE_SIZE, "max_waiting": 64, "max_wait_s": 20, **bronze}
    deployments = [Deployment("small", fake, account=account)]
    return [gold, Tier("bronze", deployments, **small)]  # type: ignore[arg-type]


def flood(factor: int, sampled: AdaptiveSampling | None = None, account: RateLimit | None = None) -> Replay:
    """Gold at its own rate, bronze at so many times what its pool can do."""
    played = Replay(
        lambda fake: two_tiers(fake, account, sampling=sampled or sampling()),
        SPEEDS,
        keep=(DegradationChanged,),
        deadline_s=60,
    )
    played.play("gold", gold_calls, sla="gold", plan="paid")
    bronze = faster(bronze_calls, factor, SECONDS)
    played.play("bronze", bronze, sla="bronze", plan="free", priority=lambda n: -(n % 10 < 3))
    played.run()
    assert len(played.ended) == len(gold_calls) + len(bronze)
    return played


def kept(played: Replay) -> float:
    return mean([e.tier == "gold" and e.took_s <= OBJECTIVE_S for e in played.of("gold")])


def unloaded() -> float:
    return mean([SPEEDS["big"].takes_s(each.output_tokens) <= OBJECTIVE_S for each in gold_calls])


def quiet(played: Replay) -> bool:
    pools = [line.pool for line in played.client._setup.lines.values() if line.pool is not None]
    return all(pool.in_use == pool.waiting == pool.deferred == 0 for pool in pools)


@pytest.mark.parametrize("factor", [2, 5], ids=["2x", "5x"])
def test_gold_keeps_its_promise_while_bronze_is_flooded(factor: int) -> None:
    played = flood(factor)
    assert kept(played) >= 0.99 * unloaded()
    assert not [e for e in played.of("gold") if e.degraded]
    assert quiet(played)


def test_without_pools_of_their_own_gold_would_not_keep_it() -> None:
    """What the test above would not notice were it not true."""
    played = Replay(
        lambda fake: [Tier("gold", [Deployment("big", fake)], max_concurrency=GOLD_SIZE + BRONZE_SIZE)],
        SPEEDS,
    )
    played.play("gold", gold_calls, deadline_s=60)
    played.play("bronze", faster(bronze_calls, 5, SECONDS), deadline_s=60)
    played.run()
    assert kept(played) < 0.5


def test_gold_keeps_its_promise_on_an_account_that_bronze_empties() -> None:
    tokens_s = sum(a.input_tokens + a.output_tokens for a in gold_calls) / SECONDS
    account = RateLimit(tpm=int(60 * tokens_s * 4), reserve={"gold": 0.6}, name="account")
    played = flood(5, account=account)
    assert kept(played) >= 0.99 * unloaded()
    assert not played.lost
    assert quiet(played)


def test_whoever_is_not_served_hears_when_to_come_back() -> None:
    played = flood(5)
    refused = Counter(each.error for each in played.ended if each.error is not None)
    assert refused["ThrottledError"] > 100
    assert not played.lost
    hints = [each.come_back_s for each in played.ended if each.come_back_s is not None]
    assert all(0 < hint <= 3600 for hint in hints)


def test_bronze_goes_on_answering_as_fast_as_it_can() -> None:
    played = flood(5)
    work_s = sum(e.work_s for e in played.of("bronze") if e.error is None)
    assert work_s >= 0.95 * BRONZE_SIZE * SECONDS


def test_bronze_gets_simpler_step_by_step_and_says_so() -> None:
    played = flood(5)
    entered = [(at, e.step) for at, e in played.events if isinstance(e, DegradationChanged) and e.on]
    assert [step for _, step in entered][:3] == ["short", "brief", "people first"]
    assert [at for at, _ in entered] == sorted(at for at, _ in entered)
    answered = [e for e in played.of("bronze") if e.error is None]
    assert mean([bool(e.degraded) for e in answered]) > 0.5
    assert all(each.work_s <= SPEEDS["small"].takes_s(80) for each in answered if "brief" in each.degraded)
    changes = Counter(e.step for _, e in played.events if isinstance(e, DegradationChanged))
    assert max(changes.values()) <= 4


def test_steps_touch_nobody_who_has_not_agreed() -> None:
    played = flood(5, sampling(plan="another"))
    assert any(isinstance(e, DegradationChanged) for _, e in played.events)
    assert not any(each.degraded for each in played.ended)


def test_observed_steps_change_nothing() -> None:
    without = Replay(lambda fake: two_tiers(fake), SPEEDS)
    watched = Replay(lambda fake: two_tiers(fake, sampling=sampling("observe")), SPEEDS)
    for played in (without, watched):
        played.play("bronze", faster(bronze_calls, 3, SECONDS), sla="bronze", plan="free", deadline_s=60)
        played.run()
    assert [e._replace(degraded=()) for e in watched.ended] == without.ended
    assert not any(each.degraded for each in watched.ended)


def test_an_observed_pool_changes_nothing() -> None:
    def tiers(fake: FakeProvider, **more: object) -> list[Tier]:
        return [Tier("gold", [Deployment("small", fake)], **more)]  # type: ignore[arg-type]

    without = Replay(tiers, SPEEDS)
    watched = Replay(
        lambda fake: tiers(fake, max_concurrency=4, max_waiting=2, admission=Admission(mode="observe")),
        SPEEDS,
        keep=(CallThrottled,),
    )
    for played in (without, watched):
        played.play("calls", bronze_calls)
        played.run()
    assert watched.ended == without.ended
    assert watched.events
    assert all(isinstance(e, CallThrottled) and e.mode == "observe" for _, e in watched.events)


# -- load ------------------------------------------------------------------------------------------


def test_on_a_rising_load_shedding_comes_before_the_first_refusal() -> None:
    rate = BRONZE_SIZE / SPEEDS["small"].takes_s(200)
    arrivals: list[Arrival] = []
    at_s = 0.0
    while at_s < 300:
        at_s += 1 / (rate * (0.4 + 1.6 * at_s / 300))
        arrivals.append(Arrival(at_s, 100, 200))
    played = Replay(
        lambda fake: [
            Tier(
                "gold",
                [Deployment("small", fake)],
                max_concurrency=BRONZE_SIZE,
                max_waiting=16,
                admission=Admission(shed_at=1.0),
            ),
            Tier("bronze", [Deployment("small", fake)]),
        ],
        SPEEDS,
        keep=(TierCrowded, CallThrottled),
    )
    played.play("calls", arrivals, sla="gold", priority=lambda number: int(number % 4 > 0))
    played.run()
    crowded = [at for at, e in played.events if isinstance(e, TierCrowded) and e.on]
    refused = [at for at, e in played.events if isinstance(e, CallThrottled)]
    full_at = next(a.at_s for a in arrivals if 0.4 + 1.6 * a.at_s / 300 >= 1.0)
    assert crowded[0] < refused[0]
    assert crowded[0] < full_at + 15
    shed = [e for e in played.ended if e.tier == "bronze" and e.arrived_s < refused[0]]
    assert shed


# -- deferral ----------------------------------------------------------------------------------------


def deferring(kind: str) -> Replay:
    """A burst from 60 to 180 s; jobs come in its midst."""
    call_s = SPEEDS["small"].takes_s(200)
    people = [
        Arrival(number * call_s / (BRONZE_SIZE * share) + since, 100, 200)
        for since, until, share in ((0.0, 60.0, 0.3), (60.0, 180.0, 0.9), (180.0, 300.0, 0.3))
        for number in range(int((until - since) * BRONZE_SIZE * share / call_s))
    ]
    played = Replay(
        lambda fake: [Tier("gold", [Deployment("small", fake)], max_concurrency=BRONZE_SIZE)],
        SPEEDS,
        keep=(CallDeferred,),
    )
    played.play("people", people, deadline_s=60)
    if kind != "none":
        jobs = [Arrival(80 + number * 0.5, 100, 200) for number in range(80)]
        played.play("jobs", jobs, deadline_s=200, defer_ok=kind == "deferred")
    played.run()
    return played


def test_deferred_calls_run_in_the_calm_and_in_time() -> None:
    played, plain, crowding = (deferring(kind) for kind in ("deferred", "none", "not deferred"))
    jobs = played.of("jobs")
    assert [each.error for each in jobs] == [None] * 80
    assert max(each.took_s for each in jobs) <= 200
    begun = [each.ended_s - each.work_s for each in jobs]
    assert mean([at >= 180 for at in begun]) > 0.9
    alone_s, wait_s, pushed_s = (
        mean([e.waited_s for e in p.of("people")]) for p in (plain, played, crowding)
    )
    assert wait_s <= alone_s + 0.05
    assert pushed_s > alone_s + 0.5
    told = [e for _, e in played.events if isinstance(e, CallDeferred)]
    assert len(told) >= 70
    assert all(e.eta_s is not None and 0 <= e.eta_s <= 200 for e in told)

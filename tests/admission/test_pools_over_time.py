"""What pools do over hours: schedules, borrowed places, and the account they give of it."""

from __future__ import annotations

from typing import Any

import pytest

from client.forms import World
from tierllm import Admission, Deployment, Hours, RateLimit, Schedule, ServicePlan, Tier, Timeouts
from tierllm.events import TierCrowded
from tierllm.testing import FakeProvider

HOUR = 3600.0
FOR_EVER = Timeouts(connect_s=None, first_token_s=None, between_tokens_s=None, total_s=None)


def world_of(call_s: float, *tiers: dict[str, Any], **settings: Any) -> World:
    fake = FakeProvider(latency_s=call_s)
    made = []
    for tier in tiers:
        place = Deployment(tier["name"], fake, **tier.pop("place", {}))
        made.append(Tier(tier.pop("name"), [place], **tier))
    return World(made, fake=fake, timeouts=FOR_EVER, **settings)


def told(world: World, tier: str) -> Any:
    return world.client.status()["tiers"][tier]["pool"]["record"]


def test_a_schedule_that_lets_more_in_wakes_those_who_wait() -> None:
    schedule = Schedule([Hours("00:00-06:00", size=1)])
    world = world_of(2 * HOUR, {"name": "gold", "admission": Admission(max_concurrency=8, schedule=schedule)})
    world.pass_s(5 * HOUR)  # the world begins at midnight of 1970
    calls = [world.begin(f"{n}") for n in range(4)]
    world.pass_s(10 * HOUR)
    assert [call.ended_s for call in calls] == [7 * HOUR, 8 * HOUR, 8 * HOUR, 8 * HOUR]


def test_borrowed_places_are_on_the_account_of_who_lends_them() -> None:
    world = world_of(
        10.0,
        {"name": "gold", "admission": Admission(max_concurrency=1, borrow=1.0, hourly_usd=10)},
        {"name": "bronze", "admission": Admission(max_concurrency=4, hourly_usd=4)},
    )
    for _ in range(6):
        for n in range(5):
            world.begin(f"{world.time.now} {n}")
        world.pass_s(10.0)
    gold, bronze = told(world, "gold"), told(world, "bronze")
    assert gold["use"] == pytest.approx(1.0)
    assert bronze["use"] == pytest.approx(1.0)
    assert gold["idle_usd"] == bronze["idle_usd"] == 0
    assert max(bronze["peak_by_hour"]) == 4


def test_a_long_call_is_in_use_while_it_goes_on() -> None:
    world = world_of(20 * HOUR, {"name": "gold", "admission": Admission(max_concurrency=1, hourly_usd=10)})
    world.begin("long")
    world.pass_s(10 * HOUR)
    assert told(world, "gold")["use"] == pytest.approx(1.0)
    world.pass_s(30 * HOUR)
    assert told(world, "gold")["use"] == pytest.approx(0.5)
    assert float(told(world, "gold")["idle_usd"]) == pytest.approx(200)


def test_idle_time_is_of_the_size_that_the_schedule_gave() -> None:
    schedule = Schedule([Hours("12:00-24:00", size=1)])
    settings = Admission(max_concurrency=10, schedule=schedule)
    world = world_of(12 * HOUR, {"name": "gold", "admission": settings})
    for n in range(10):
        world.begin(f"{n}")
    world.pass_s(24 * HOUR)
    assert told(world, "gold")["use"] == pytest.approx(120 / (120 + 12))


def test_a_refusal_leaves_the_account_right() -> None:
    world = world_of(100.0, {"name": "gold", "admission": Admission(max_concurrency=10), "place": {"rpm": 5}})
    for n in range(5):
        world.begin(f"{n}")
    for _ in range(50):
        world.pass_s(1.0)
        assert world.begin("one more", deadline_s=2).error is not None
    world.pass_s(50.0)
    assert told(world, "gold")["use"] == pytest.approx(0.5)


def test_waiting_for_half_of_the_time_is_seen() -> None:
    world = world_of(0.5, {"name": "gold", "max_concurrency": 1})
    for _ in range(100):
        world.begin("a")
        world.begin("b")
        world.pass_s(1.0)
    assert told(world, "gold")["starved"] == pytest.approx(0.5, abs=0.02)


def test_those_who_wait_for_one_limit_are_counted_in_its_forecast() -> None:
    limits = [RateLimit(rpm=6, per="tenant", name="six")]
    world = world_of(1.0, {"name": "gold", "max_wait_s": 70}, limits=limits)
    calls = [world.begin(f"{n}", tenant="a") for n in range(20)]
    refused = [call for call in calls if call.ends]
    assert len(refused) == 8  # six now, six in a minute; the others would wait for two
    assert all(call.error.retry_after_s == 120 for call in refused)  # type: ignore[union-attr]
    assert world.call("other", tenant="b").took_s == 1.0
    world.pass_s(100)
    assert sum(call.error is None for call in calls) == 12


def test_shedding_that_only_observes_moves_nobody() -> None:
    admission = Admission(max_concurrency=2, shed_at=0.5, mode="observe")
    world = world_of(5.0, {"name": "gold", "admission": admission}, {"name": "bronze"})
    for _ in range(60):
        world.begin("x")
        world.pass_s(0.5)
    assert {entry.model for entry in world.fake.journal} == {"gold"}
    assert world.told(TierCrowded)


def test_an_estimate_claims_nothing() -> None:
    plans = [ServicePlan("pro", high_priority=5, high_priority_quota=1)]
    world = world_of(1.0, {"name": "gold", "max_concurrency": 1}, plans=plans)
    for _ in range(5):
        world.client.estimate("hi", plan="pro", priority=5)
    assert world.call("hi", plan="pro", priority=5).ok.warnings == ()
    assert "lowered" in world.call("hi", plan="pro", priority=5).ok.warnings[0]

"""What happens at one place and among the places of one tier, before a permit is taken and after."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from client.forms import Form, World, every_form, held
from tierllm import CircuitBreaker, Deployment, Retry, Tier, TieredClient
from tierllm.errors import (
    AllTiersFailedError,
    AuthenticationError,
    CircuitOpenError,
    ProviderUnavailableError,
    ThrottledError,
)
from tierllm.events import AttemptFailed, ProviderMisconfigured
from tierllm.pipeline.effects import Handler
from tierllm.resilience.deployment_line import RECENT
from tierllm.testing import Fail, FakeClock, FakeProvider, Reply
from tierllm.types import Call, Response


def gold(fake: FakeProvider, **settings: Any) -> list[Tier]:
    places = [Deployment("g1", fake), Deployment("g2", fake)]
    return [Tier("gold", places, **settings), Tier("silver", [Deployment("s", fake)])]


# -- before a permit is taken ----------------------------------------------------


@every_form
def test_where_no_place_is_open_nobody_waits_for_a_permit(form: Form) -> None:
    fake = FakeProvider()
    breaker = CircuitBreaker(consecutive_failures=1)
    world = World(gold(fake, max_concurrency=1), virtual=False, fake=fake, breaker=breaker, retry=False)
    fake.down("g1")
    fake.down("g2", Fail.rate_limited(retry_after_s=30))
    form(world.client)
    pool = world.client._setup.lines["gold"].pool
    assert pool is not None
    with pool.take([]) or pytest.fail("the pool is not free"):
        response = form(world.client)
    assert response.tier == "silver"
    trace = response.trace
    assert trace is not None
    assert [(c.deployment, c.reason) for c in trace.candidates] == [
        ("g1", "breaker"),
        ("g2", "ThrottledError"),
        ("s", None),
    ]
    assert [type(a.error) for a in trace.attempts] == [CircuitOpenError, ThrottledError, type(None)]
    assert [a.outcome for a in trace.attempts] == ["rejected", "rejected", "ok"]
    assert trace.waits == []


class Creeping(FakeClock):
    """Moves on a little each time it is looked at."""

    def __call__(self) -> float:
        self.advance(0.001)
        return super().__call__()


def test_a_place_that_opens_between_two_looks_is_not_called_without_a_permit() -> None:
    seated: list[int] = []

    def answer(call: Call) -> Reply:
        pool = client._setup.lines["gold"].pool
        assert pool is not None
        if call.tier == "gold":
            seated.append(pool.in_use)
        return Reply("hi")

    for hold_s in [0.05 + n * 0.0005 for n in range(40)]:
        fake = FakeProvider(answer=answer)
        client = TieredClient(gold(fake, max_concurrency=2), clock=Creeping(), retry=False)
        fake.script("*", Fail.rate_limited(retry_after_s=hold_s), repeat=2)
        for _ in range(12):
            client.complete("Hello")
    assert set(seated) == {1}


@every_form
def test_labels_choose_among_the_places_of_a_tier(form: Form) -> None:
    fake = FakeProvider()
    tiers = [Tier("gold", [Deployment("us", fake, labels={"us"}), Deployment("eu", fake, labels={"eu"})])]
    world = World(tiers, virtual=False, fake=fake)
    response = form(world.client, require={"eu"})
    assert response.deployment == "eu"
    assert response.trace is not None
    assert [(c.deployment, c.reason) for c in response.trace.candidates] == [("us", "labels"), ("eu", None)]
    fake.down("eu")
    with pytest.raises(AllTiersFailedError):
        form(world.client, require={"eu"})
    assert "us" not in world.models()


# -- at one place ------------------------------------------------------------------


def test_an_attempt_is_written_down_however_it_ends() -> None:
    world = World(retry=False)
    world.fake.script("g1", Fail.unavailable(latency_s=0.5), Reply("hi", first_token_s=0.2, between_s=0.1))
    world.fake.script("g2", Fail.rate_limited(latency_s=0.25))
    trace = world.call(streaming=True).ok.trace
    assert trace is not None
    told = [(a.deployment, a.started_s, a.latency_s, a.outcome) for a in trace.attempts]
    assert told == [("g1", 0, 0.5, "failed"), ("g2", 0.5, 0.25, "failed"), ("s", 0.75, 0, "ok")]
    again = world.call(streaming=True).ok.trace
    assert again is not None
    assert again.attempts[0].first_token_s == pytest.approx(0.2)
    assert again.first_token_s == pytest.approx(0.2)


def test_a_call_that_is_left_is_neither_a_success_nor_a_failure() -> None:
    world = World()
    world.fake.script("g1", Fail.hang())
    told = world.begin()
    world.pass_s(1)
    assert told.run is not None
    told.run.close()
    place = world.client.status()["tiers"]["gold"]["deployments"]["g1"]
    assert (place["served"], place["failed"], place["recent"]) == (0, 0, [])
    assert place["breaker"]["calls"] == 0


def test_a_place_remembers_its_latest_outcomes() -> None:
    world = World(virtual=False, retry=False, breaker=False)
    world.fake.script("g1", Fail.unavailable(), Fail.rate_limited(), Fail.unauthorized())
    for _ in range(5):
        world.client.complete("Hello")
    place = world.client.status()["tiers"]["gold"]["deployments"]["g1"]
    assert place["recent"] == [
        "ProviderUnavailableError",
        "RateLimitError",
        "AuthenticationError",
        "ok",
        "ok",
    ]
    assert (place["served"], place["failed"]) == (2, 3)
    for _ in range(RECENT + 10):
        world.client.complete("Hello")
    assert len(world.client.status()["tiers"]["gold"]["deployments"]["g1"]["recent"]) == RECENT


def test_a_misconfigured_place_is_told_of_each_time_and_logged_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(virtual=False)
    world.fake.down("g1", Fail.unauthorized())
    with caplog.at_level(logging.ERROR, "tierllm"):
        for _ in range(3):
            assert world.client.complete("Hello").deployment == "g2"
        assert len(world.told(ProviderMisconfigured)) == 3
        assert len(caplog.records) == 1
        world.clock.advance(60)
        world.client.complete("Hello")
        assert len(caplog.records) == 2
    assert world.client.status()["tiers"]["gold"]["deployments"]["g1"]["breaker"]["state"] == "closed"


def test_a_refused_key_everywhere_is_the_cause_of_the_error() -> None:
    world = World(virtual=False)
    world.fake.down(fail=Fail.unauthorized())
    with pytest.raises(AllTiersFailedError) as info:
        world.client.complete("Hello")
    assert isinstance(info.value.__cause__, AuthenticationError)
    assert "gold/g1: AuthenticationError 401" in str(info.value)
    assert info.value.retry_after_s is None


def test_failures_are_told_with_the_time_they_took() -> None:
    world = World(retry=False)
    world.fake.script("g1", Fail.unavailable(latency_s=0.5))
    told = world.call().ok.trace
    [event] = [e for e in world.events if isinstance(e, AttemptFailed)]
    assert told is not None
    assert (event.trace_id, event.tier, event.deployment, event.latency_s) == (told.id, "gold", "g1", 0.5)
    assert isinstance(event.error, ProviderUnavailableError)


# -- half-open -----------------------------------------------------------------------


def test_one_probe_at_a_time_and_the_others_go_elsewhere() -> None:
    fake = FakeProvider(latency_s=1)
    world = World(
        gold(fake), fake=fake, breaker=CircuitBreaker(consecutive_failures=1, open_s=10), retry=False
    )
    fake.script("g1", Fail.unavailable())
    world.call()
    world.pass_s(11)
    before = len(fake.journal)
    calls = [world.begin() for _ in range(4)]
    world.time.run()
    assert sorted(world.models(before)) == ["g1", "g2", "g2", "g2"]
    assert [told.ok.deployment for told in calls] == ["g1", "g2", "g2", "g2"]
    assert world.call().ok.deployment == "g1"


def test_a_probe_that_is_left_frees_its_slot() -> None:
    fake = FakeProvider(latency_s=1)
    world = World(
        gold(fake), fake=fake, breaker=CircuitBreaker(consecutive_failures=1, open_s=10), retry=False
    )
    fake.script("g1", Fail.unavailable())
    world.call()
    world.pass_s(11)
    probe = world.begin()
    world.pass_s(0.5)
    assert probe.run is not None
    probe.run.close()
    assert world.call().ok.deployment == "g1"


def test_a_slot_is_not_held_while_waiting_for_a_permit() -> None:
    fake = FakeProvider(latency_s=1)
    breaker = CircuitBreaker(consecutive_failures=1, open_s=10)
    tiers = [Tier("gold", [Deployment("g1", fake)], max_concurrency=1)]
    world = World(tiers, fake=fake, breaker=breaker, retry=Retry(2, base_s=0))
    fake.script("g1", Fail.unavailable())
    assert world.call().kind == "AllTiersFailedError"
    world.pass_s(11)
    pool = world.client._setup.lines["gold"].pool
    assert pool is not None
    permit = pool.take([])
    assert permit is not None
    calls = [world.begin() for _ in range(2)]
    world.pass_s(1)
    place = world.client.status()["tiers"]["gold"]["deployments"]["g1"]
    assert (pool.waiting, place["breaker"]["state"]) == (2, "open")
    permit.release()
    world.time.run()
    assert [told.kind for told in calls] == ["ok", "ok"]
    assert held(world.client) == {"gold": (0, 0)}


@every_form
@pytest.mark.parametrize("hedge", [False, True])
def test_a_tiers_prompt_stands_before_what_policies_made_of_the_messages(form: Form, hedge: bool) -> None:
    async def redacts(call: Call, call_next: Handler) -> Response:
        own = call.copy()
        own.messages = ({"role": "user", "content": "***"},)
        return await call_next(own)

    fake = FakeProvider()
    tiers = [
        Tier("gold", [Deployment("a", fake), Deployment("b", fake)], prompt="Be kind.", hedge=hedge),
        Tier("bronze", [Deployment("c", fake)], prompt="Be brief."),
    ]
    fake.script("a", Fail.unavailable(), forever=True)
    fake.script("b", Fail.unavailable(), forever=True)
    with TieredClient(tiers, policies=[redacts], retry=False) as client:
        form(client, "my secret")
    assert [entry.model for entry in fake.journal] == ["a", "b", "c"]
    for entry in fake.journal:
        prompt = "Be brief." if entry.model == "c" else "Be kind."
        assert [each["content"] for each in entry.messages] == [prompt, "***"]

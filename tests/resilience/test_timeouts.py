"""Timeouts, and one deadline through queue, retries and fallbacks; what cannot be in time is not begun."""

from __future__ import annotations

import threading
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.forms import Form, World, every_form
from tierllm import CircuitBreaker, Deployment, Retry, Tier, Timeouts
from tierllm.errors import (
    AllTiersFailedError,
    ConfigError,
    DeadlineExceededError,
    ProviderTimeoutError,
    StreamInterruptedError,
    ThrottledError,
)
from tierllm.resilience.timeouts import DurationHistory
from tierllm.testing import Fail, FakeProvider, Reply


def one(fake: FakeProvider, **settings: Any) -> list[Tier]:
    return [Tier("gold", [Deployment("g", fake)], **settings)]


def two(fake: FakeProvider, **gold: Any) -> list[Tier]:
    return [Tier("gold", [Deployment("g", fake)], **gold), Tier("silver", [Deployment("s", fake)])]


# -- timeouts --------------------------------------------------------------------


@every_form
def test_each_wait_for_a_provider_has_its_own_bound(form: Form) -> None:
    fake = FakeProvider()
    limits = Timeouts(first_token_s=3, between_tokens_s=2, total_s=10)
    world = World(one(fake), virtual=False, fake=fake, retry=False, timeouts=limits)
    fake.script("g", Fail.hang())
    with pytest.raises(AllTiersFailedError) as info:
        form(world.client)
    cause = info.value.__cause__
    assert isinstance(cause, ProviderTimeoutError)
    assert (cause.phase, world.clock()) == (("first_token", 3) if form.streaming else ("total", 10))
    assert info.value.attempts[0].latency_s == pytest.approx(world.clock())


def test_a_stream_that_stalls_is_told_from_one_that_never_began() -> None:
    fake = FakeProvider()
    limits = Timeouts(first_token_s=3, between_tokens_s=2, total_s=60)
    world = World(one(fake), fake=fake, timeouts=limits)
    fake.script("g", Fail.stall_after(3))
    told = world.call(streaming=True)
    assert isinstance(told.error, StreamInterruptedError)
    assert isinstance(told.error.__cause__, ProviderTimeoutError)
    assert told.error.__cause__.phase == "between_tokens"
    assert told.took_s == pytest.approx(2)


def test_the_nearest_setting_counts() -> None:
    fake = FakeProvider()
    quick = Timeouts(total_s=1)
    tiers = [
        Tier(
            "gold",
            [Deployment("a", fake, timeouts=quick), Deployment("b", fake)],
            timeouts=Timeouts(total_s=2),
        ),
        Tier("silver", [Deployment("c", fake)]),
    ]
    world = World(tiers, fake=fake, retry=False, timeouts=Timeouts(total_s=4))
    fake.down(fail=Fail.hang())
    told = world.call()
    assert isinstance(told.error, AllTiersFailedError)
    assert [a.latency_s for a in told.error.attempts] == [1, 2, 4]


@pytest.mark.parametrize("value", [0, -1, float("nan")])
@pytest.mark.parametrize("name", ["connect_s", "first_token_s", "between_tokens_s", "total_s"])
def test_timeouts_are_above_zero(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        Timeouts(**{name: value})


# -- one deadline ----------------------------------------------------------------


@every_form
def test_a_deadline_ends_the_wait_for_a_provider(form: Form) -> None:
    world = World(virtual=False)
    world.fake.script("g1", Fail.hang())
    with pytest.raises(DeadlineExceededError) as info:
        form(world.client, deadline_s=1)
    assert world.clock() == 1
    assert info.value.partial is None
    assert info.value.trace is not None
    assert info.value.trace.error == "DeadlineExceededError"
    assert isinstance(info.value, TimeoutError)


@every_form
def test_one_deadline_runs_through_retries_and_fallbacks(form: Form) -> None:
    world = World(virtual=False, retry=Retry(attempts=2, base_s=0))
    world.fake.down("g1", Fail.unavailable(latency_s=1.5))
    world.fake.down("g2", Fail.unavailable(latency_s=1.5))
    world.fake.script("s", Fail.hang())
    with pytest.raises(DeadlineExceededError):
        form(world.client, deadline_s=7)
    assert world.clock() == pytest.approx(7)
    assert world.models() == ["g1", "g1", "g2", "g2", "s"]


@every_form
def test_a_back_off_beyond_the_deadline_is_not_begun(form: Form) -> None:
    world = World(virtual=False)
    world.fake.script("g1", Fail.rate_limited(retry_after_s=6))
    assert form(world.client, deadline_s=5).deployment == "g2"
    assert world.clock() == 0
    world = World(virtual=False)
    world.fake.script("g1", Fail.rate_limited(retry_after_s=6))
    assert form(world.client, deadline_s=30).deployment == "g1"
    assert world.clock() >= 6


def test_the_deadline_runs_in_the_queue_too() -> None:
    fake = FakeProvider(latency_s=10)
    world = World(one(fake, max_concurrency=1), fake=fake, timeouts=Timeouts())
    first, second = world.begin(), world.begin(deadline_s=4)
    world.pass_s(4)
    assert isinstance(second.error, DeadlineExceededError)
    assert second.took_s == 4
    assert fake.calls == 1
    world.time.run()
    assert first.kind == "ok"


def test_the_queue_has_a_bound_of_its_own() -> None:
    fake = FakeProvider(latency_s=10)
    world = World(two(fake, max_concurrency=1, max_wait_s=3), fake=fake, timeouts=Timeouts())
    world.begin()
    told = world.begin(deadline_s=30)
    world.time.run()
    assert told.ok.tier == "silver"
    assert told.took_s == 13
    assert told.ok.trace is not None
    assert [type(a.error) for a in told.ok.trace.attempts] == [ThrottledError, type(None)]
    assert [(w.kind, w.where, w.seconds) for w in told.ok.trace.waits] == [("pool", "gold", 3)]


def test_the_client_has_a_default_deadline() -> None:
    world = World(deadline_s=2, timeouts=Timeouts())
    world.fake.script("g1", Fail.hang(), Fail.hang())
    assert world.call().took_s == 2
    assert world.call(deadline_s=1).took_s == 1


def test_a_slow_reader_does_not_use_up_the_deadline() -> None:
    world = World(virtual=False)
    world.fake.script("g1", Reply(chunks=["a ", "b ", "c"], first_token_s=0.5, between_s=0.5))
    with world.client.stream("Hello", deadline_s=2) as stream:
        for _ in stream:
            world.clock.advance(60)
        assert stream.response.text == "a b c"


def test_a_deadline_after_text_keeps_the_text() -> None:
    world = World()
    world.fake.script("g1", Reply(chunks=["a ", "b ", "c"], first_token_s=0.5, between_s=1))
    told = world.call(streaming=True, deadline_s=2)
    assert isinstance(told.error, DeadlineExceededError)
    assert told.error.partial is not None
    assert told.error.partial.text == "a b "
    assert world.models() == ["g1"]


# -- what hardly answers in time ---------------------------------------------------


@every_form
def test_a_place_too_slow_for_the_deadline_is_passed_over(form: Form) -> None:
    fake = FakeProvider(latency_s={"g": 2.0, "s": 0.1})
    world = World(two(fake), virtual=False, fake=fake)
    for _ in range(20):
        assert form(world.client).tier == "gold"
    before, at = fake.calls, world.clock()
    response = form(world.client, deadline_s=1)
    assert response.tier == "silver"
    assert fake.calls == before + 1
    assert world.clock() - at == pytest.approx(0.1)
    assert response.trace is not None
    assert [(c.deployment, c.reason) for c in response.trace.candidates] == [("g", "deadline"), ("s", None)]
    assert form(world.client, deadline_s=3).tier == "gold"


def test_nineteen_answers_say_nothing_yet() -> None:
    fake = FakeProvider(latency_s={"g": 2.0, "s": 0.1})
    world = World(two(fake), virtual=False, fake=fake)
    for _ in range(19):
        world.client.complete("Hello")
    with pytest.raises(DeadlineExceededError):
        world.client.complete("Hello", deadline_s=1)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_a_place_that_is_silent_is_passed_over_even_where_nothing_is_known_of_it(streaming: bool) -> None:
    """The deadline is shorter than all timeouts, so that no failure of the place is ever seen."""
    world = World(timeouts=Timeouts())
    world.fake.down("g1", Fail.hang())
    told = [world.call(deadline_s=5, streaming=streaming) for _ in range(8)]
    assert [t.kind for t in told] == ["DeadlineExceededError"] * 3 + ["ok"] * 5
    assert {t.ok.deployment for t in told[3:]} == {"g2"}
    world.fake.up("g1")
    world.pass_s(31)
    assert [world.call(deadline_s=5).ok.deployment for _ in range(3)] == ["g1"] * 3


def test_those_who_wait_longer_still_get_the_silent_place() -> None:
    world = World(timeouts=Timeouts())
    world.fake.down("g1", Fail.hang())
    for _ in range(3):
        world.call(deadline_s=1)
    world.fake.up("g1")
    assert world.call(deadline_s=1).ok.deployment == "g2"
    assert world.call(deadline_s=20).ok.deployment == "g1"
    assert world.call(deadline_s=1).ok.deployment == "g1"


def test_a_breaker_that_knows_what_is_slow_learns_from_deadlines() -> None:
    world = World(timeouts=Timeouts(), breaker=CircuitBreaker(slow_call_s=1, window=4, min_calls=2))
    world.fake.down("g1", Fail.hang())
    kinds = [world.call(deadline_s=2).kind for _ in range(8)]
    assert "ok" in kinds
    assert kinds[-1] == "ok"


# -- the history -----------------------------------------------------------------


@given(st.lists(st.floats(0, 1e4), min_size=20, max_size=400), st.floats(0, 1))
def test_quantiles_are_of_the_last_ones(durations: list[float], q: float) -> None:
    history = DurationHistory(size=64)
    for seconds in durations:
        history.add(seconds)
    last = sorted(durations[-64:])
    assert len(history) == len(last)
    assert history.quantile(q) == last[min(len(last) - 1, int(q * len(last)))]


def test_too_few_durations_have_no_quantile() -> None:
    history = DurationHistory(min_samples=5)
    for seconds in range(4):
        history.add(float(seconds))
    assert history.quantile(0.5) is None
    history.add(4.0)
    assert history.quantile(0.5) == 2.0
    assert history.p10_s == 0.0


def test_threads_may_add_at_once() -> None:
    history = DurationHistory(size=32)

    def work(seed: int) -> None:
        dice = Random(seed)
        for _ in range(3000):
            history.add(dice.random())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(40):
        history.add(0.5)
    assert history.quantile(0.0) == history.quantile(1.0) == 0.5

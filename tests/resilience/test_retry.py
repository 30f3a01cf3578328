"""Trying again: when, how long after, how often, and how much in all."""

from __future__ import annotations

import asyncio
import logging
import threading
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import tenacity
from hypothesis import given, settings
from hypothesis import strategies as st

from client.forms import QUICK, Form, World, every_form, held
from tierllm import Deployment, Retry, RetryBudget, Tier
from tierllm.errors import (
    AllTiersFailedError,
    AuthenticationError,
    ClientClosedError,
    ConfigError,
    ContentFilteredError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderError,
    ProviderUnavailableError,
    RateLimitError,
    StreamInterruptedError,
    ThrottledError,
)
from tierllm.events import RetryScheduled
from tierllm.testing import Fail, FakeClock, FakeProvider


def one(fake: FakeProvider, **settings: Any) -> list[Tier]:
    return [Tier("gold", [Deployment("g", fake)], **settings)]


def single(retry: Retry | None = None, *, virtual: bool = False, **more: Any) -> World:
    fake = FakeProvider()
    return World(one(fake), virtual=virtual, fake=fake, retry=retry, **more)


def waits(world: World) -> list[float]:
    entries = world.fake.journal[:]
    return [b.at_s - (a.ended_s or 0) for a, b in pairwise(entries)]


# -- how long --------------------------------------------------------------------


@given(st.integers(1, 12), st.floats(0, 5), st.floats(0, 20), st.none() | st.floats(0, 100), st.integers())
def test_full_jitter_on_top_of_what_the_provider_asks(
    attempt: int, base_s: float, max_s: float, asked: float | None, seed: int
) -> None:
    retry = Retry(base_s=base_s, max_s=max_s, rng=Random(seed))
    delay = retry.delay_s(RateLimitError(retry_after_s=asked), attempt)
    ceiling = min(max_s, base_s * 2 ** (attempt - 1))
    assert (asked or 0) <= delay <= (asked or 0) + ceiling + 1e-9


def test_the_jitter_is_full_and_repeatable() -> None:
    delays = [Retry(rng=Random(seed)).delay_s(ProviderUnavailableError(), 3) for seed in range(500)]
    assert min(delays) < 0.05
    assert max(delays) > 0.95
    assert 0.45 < sum(delays) / len(delays) < 0.55
    assert delays == [Retry(rng=Random(seed)).delay_s(ProviderUnavailableError(), 3) for seed in range(500)]


def test_the_thousandth_attempt_does_not_overflow() -> None:
    assert Retry(max_s=8).delay_s(ProviderUnavailableError(), 5000) <= 8


@every_form
def test_retry_after_is_waited_for_in_full(form: Form) -> None:
    world = single()
    world.fake.script("g", Fail.rate_limited(retry_after_s=7), Fail.rate_limited(retry_after_s=9.5))
    assert form(world.client).text
    world.fake.journal.assert_gaps("g", at_least_s=[7, 9.5])
    assert world.clock() <= 7 + 9.5 + 0.25 + 0.5
    world.fake.journal.assert_retry_after_honoured()


@every_form
def test_too_long_a_retry_after_gives_the_place_up(form: Form) -> None:
    world = single(Retry(max_retry_after_s=5))
    world.fake.script("g", Fail.rate_limited(retry_after_s=5.1))
    with pytest.raises(AllTiersFailedError) as info:
        form(world.client)
    assert (info.value.retry_after_s, world.clock(), world.fake.calls) == (5.1, 0, 1)
    with pytest.raises(ThrottledError) as refused:
        form(world.client)
    assert refused.value.retry_after_s == pytest.approx(5.1)
    assert world.client.status()["tiers"]["gold"]["deployments"]["g"]["breaker"]["failures"] == 0
    world.clock.advance(5.2)
    assert form(world.client).text


def test_events_and_the_trace_tell_of_back_offs() -> None:
    world = single()
    world.fake.script("g", Fail.unavailable(), Fail.rate_limited(retry_after_s=2))
    trace = world.client.complete("Hello").trace
    assert trace is not None
    events = [e for e in world.told(RetryScheduled) if isinstance(e, RetryScheduled)]
    assert [(e.tier, e.deployment, e.attempt, type(e.error)) for e in events] == [
        ("gold", "g", 1, ProviderUnavailableError),
        ("gold", "g", 2, RateLimitError),
    ]
    assert [e.delay_s for e in events] == [w.seconds for w in trace.waits] == pytest.approx(waits(world))
    assert {(w.kind, w.where) for w in trace.waits} == {("backoff", "gold/g")}


# -- how often -------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_attempts_count_the_first_one(form: Form, attempts: int) -> None:
    world = single(Retry(attempts, base_s=0), breaker=False)
    world.fake.down("g")
    with pytest.raises(AllTiersFailedError) as info:
        form(world.client)
    assert world.fake.calls == len(info.value.attempts) == attempts


@every_form
def test_no_retry_at_all(form: Form) -> None:
    fake = FakeProvider()
    world = World(one(fake), virtual=False, fake=fake, retry=False)
    fake.down("g")
    with pytest.raises(AllTiersFailedError):
        form(world.client)
    assert fake.calls == 1


NEVER = [InvalidRequestError, AuthenticationError]


@every_form
@pytest.mark.parametrize("kind", [*NEVER, ContentFilteredError], ids=lambda k: k.__name__)
def test_client_errors_are_not_retried(form: Form, kind: type[ProviderError]) -> None:
    world = single()
    world.fake.down("g", Fail.error(kind("no")))
    with pytest.raises(Exception, match=r"no|failed"):
        form(world.client)
    assert world.fake.calls == 1


def test_an_error_may_say_itself_whether_it_is_worth_it() -> None:
    world = single()
    world.fake.script("g", Fail.error(ProviderUnavailableError("never again", retryable=False)))
    with pytest.raises(AllTiersFailedError):
        world.client.complete("Hello")
    assert world.fake.calls == 1


def test_an_open_breaker_ends_the_retrying() -> None:
    world = single(Retry(10, base_s=0))
    world.fake.down("g")
    with pytest.raises(AllTiersFailedError) as info:
        world.client.complete("Hello")
    assert world.fake.calls == 3
    assert [a.outcome for a in info.value.attempts] == ["failed"] * 3 + ["rejected"]


# -- tenacity's objects ------------------------------------------------------------


@every_form
def test_tenacity_decides_when_to_stop(form: Form) -> None:
    stop = tenacity.stop_after_delay(10) | tenacity.stop_after_attempt(50)
    world = single(Retry(stop=stop, wait=tenacity.wait_fixed(3)), breaker=False)
    world.fake.down("g")
    with pytest.raises(AllTiersFailedError):
        form(world.client)
    assert waits(world) == [3, 3, 3, 3]
    assert world.clock() == 12


def test_tenacitys_clock_starts_at_the_place_and_not_with_the_call() -> None:
    fake = FakeProvider()
    tiers = [Tier("gold", [Deployment("g", fake)]), Tier("silver", [Deployment("s", fake)])]
    retry = Retry(stop=tenacity.stop_after_delay(5), wait=tenacity.wait_fixed(2))
    world = World(tiers, virtual=False, fake=fake, retry=retry, breaker=False)
    fake.down("g")
    fake.script("s", Fail.unavailable())
    assert world.client.complete("Hello").tier == "silver"
    assert world.models() == ["g"] * 4 + ["s"] * 2


def test_tenacity_looks_ahead() -> None:
    world = single(Retry(stop=tenacity.stop_before_delay(7), wait=tenacity.wait_fixed(3)), breaker=False)
    world.fake.down("g")
    with pytest.raises(AllTiersFailedError):
        world.client.complete("Hello")
    assert (world.fake.calls, world.clock()) == (3, 6)


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (tenacity.wait_fixed(1.5), [1.5, 1.5, 1.5]),
        (tenacity.wait_incrementing(1, 2), [1, 3, 5]),
        (tenacity.wait_exponential(min=1), [1, 2, 4]),
        (tenacity.wait_fixed(1) + tenacity.wait_fixed(2), [3, 3, 3]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(4)), [1, 4, 4]),
        (tenacity.wait_none(), [0, 0, 0]),
        (lambda state: state.attempt_number * 10.0, [10, 20, 30]),
    ],
)
def test_tenacity_decides_how_long_to_wait(wait: Any, expected: list[float]) -> None:
    world = single(Retry(4, wait=wait), breaker=False)
    world.fake.down("g")
    with pytest.raises(AllTiersFailedError):
        world.client.complete("Hello")
    assert waits(world) == pytest.approx(expected)


def test_retry_after_is_honoured_under_tenacitys_rules_too() -> None:
    world = single(Retry(wait=tenacity.wait_fixed(1)))
    world.fake.script("g", Fail.rate_limited(retry_after_s=4))
    world.client.complete("Hello")
    assert waits(world) == [4]


@pytest.mark.parametrize(
    ("retry", "calls"),
    [
        (tenacity.retry_if_exception_type(RateLimitError), 2),
        (
            tenacity.retry_if_exception_type(RateLimitError) | tenacity.retry_if_exception_type(TimeoutError),
            2,
        ),
        (
            tenacity.retry_if_exception_type(ProviderError)
            & tenacity.retry_if_exception(lambda e: getattr(e, "status", 0) == 429),
            2,
        ),
        (tenacity.retry_unless_exception_type(RateLimitError), 1),
        (tenacity.retry_if_exception_message(match="too many"), 2),
        (tenacity.retry_never, 1),
        (tenacity.retry_always, 3),
    ],
)
def test_tenacity_decides_what_to_retry(retry: Any, calls: int) -> None:
    world = single(Retry(retry=retry, base_s=0))
    world.fake.script("g", Fail.rate_limited(), Fail.unavailable())
    try:
        world.client.complete("Hello")
    except AllTiersFailedError:
        pass
    assert world.fake.calls == calls


def test_tenacity_may_retry_what_is_not_retried_otherwise() -> None:
    world = single(Retry(retry=tenacity.retry_if_exception_type(ContentFilteredError)))
    world.fake.script("g", Fail.filtered())
    assert world.client.complete("Hello").text


@every_form
@pytest.mark.parametrize("fail", [Fail.invalid(), Fail.unauthorized(), Fail.cut_after(1)], ids=str)
def test_no_rule_retries_a_client_error_or_a_broken_stream(form: Form, fail: Fail) -> None:
    world = single(Retry(retry=tenacity.retry_always))
    world.fake.script("g", fail)
    if "cut" in str(fail) and not form.streaming:
        return
    with pytest.raises((InvalidRequestError, AllTiersFailedError, StreamInterruptedError)):
        form(world.client)
    assert world.fake.calls == 1


def test_tenacitys_objects_see_the_whole_story() -> None:
    seen: list[tuple[int, float, float, str]] = []

    def stop(state: tenacity.RetryCallState) -> bool:
        assert state.outcome is not None
        error = state.outcome.exception()
        seen.append((state.attempt_number, state.idle_for, state.upcoming_sleep, type(error).__name__))
        return state.attempt_number >= 3

    world = single(Retry(stop=stop, wait=tenacity.wait_fixed(2)))
    world.fake.script("g", Fail.unavailable(), Fail.malformed(), Fail.rate_limited())
    with pytest.raises(AllTiersFailedError):
        world.client.complete("Hello")
    assert seen == [
        (1, 0, 2, "ProviderUnavailableError"),
        (2, 2, 2, "MalformedResponseError"),
        (3, 4, 2, "RateLimitError"),
    ]


# -- one Retry for many calls ------------------------------------------------------


def test_calls_share_no_state() -> None:
    """Each of many interleaved calls gets its own three attempts, from one object."""
    fake = FakeProvider(latency_s=0.3)
    retry = Retry(3, base_s=1, budget=RetryBudget(share=10, floor_per_s=100))
    world = World(one(fake), fake=fake, retry=retry, breaker=False)
    fake.down("g", Fail.unavailable(latency_s=0.2))
    calls = []
    for _ in range(50):
        calls.append(world.begin())
        world.pass_s(0.05)
    world.time.run()
    assert {told.kind for told in calls} == {"AllTiersFailedError"}
    assert {len(told.error.attempts) for told in calls if isinstance(told.error, AllTiersFailedError)} == {3}


def test_threads_share_it_too() -> None:
    world = single(Retry(3, base_s=0, budget=RetryBudget(share=10, floor_per_s=100)), breaker=False)
    world.fake.down("g")
    counts: list[int] = []

    def work() -> None:
        for _ in range(25):
            try:
                world.client.complete("Hello")
            except AllTiersFailedError as error:
                counts.append(len(error.attempts))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [3] * 100


# -- the budget ------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 4)), max_size=120),
    st.sampled_from([0.0, 0.1, 0.2, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_no_retry_is_granted_beyond_the_budget_of_the_window(
    steps: list[tuple[float, int]], share: float, floor_per_s: float
) -> None:
    clock = FakeClock()
    budget = RetryBudget(share, floor_per_s=floor_per_s, window_s=10, clock=clock)
    calls: list[float] = []
    retries: list[float] = []
    for pause, wanted in steps:
        clock.advance(pause)
        budget.called()
        calls.append(clock())
        granted = [clock() for _ in range(wanted) if budget.withdraw()]
        retries += granted
        # the window is the ten whole seconds up to now
        since = int(clock()) - 9
        recent = sum(at >= since for at in retries)
        assert not granted or recent <= share * sum(at >= since for at in calls) + floor_per_s * 10 + 1e-9
        assert budget.status() == {
            "calls": sum(at >= since for at in calls),
            "retries": recent,
            "window_s": 10,
        }


def test_a_budget_forgets_after_its_window() -> None:
    clock = FakeClock(1e6)
    budget = RetryBudget(0.2, floor_per_s=0, clock=clock)
    for _ in range(10):
        budget.called()
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]
    clock.advance(9.99)
    assert not budget.withdraw()
    clock.advance(10)
    assert not budget.withdraw()
    assert budget.status()["calls"] == 0


@pytest.mark.parametrize("rate", [2, 20, 100])
def test_an_outage_is_not_multiplied(rate: int) -> None:
    """A minute in which everything fails: at most a fifth more calls reach the provider, and the floor."""
    fake = FakeProvider()
    world = World(one(fake), fake=fake, breaker=False)
    fake.down("g", Fail.unavailable(latency_s=0.05))
    count = 60 * rate
    for number in range(count):
        world.time.at(number / rate, world.begin)
    world.time.run()
    assert count < fake.calls <= 1.2 * count + 60 + 10
    assert world.client.status()["retry_budget"]["window_s"] == 10


def test_single_failures_are_always_within_the_floor() -> None:
    world = single(virtual=True, breaker=False)
    for _ in range(30):
        world.fake.script("g", Fail.unavailable())
        assert world.call().kind == "ok"
        world.pass_s(2)


def test_a_spent_budget_steps_down_at_once() -> None:
    world = World(retry_budget=RetryBudget(share=0, floor_per_s=0), virtual=False)
    world.fake.down("g1")
    assert world.client.complete("Hello").deployment == "g2"
    assert world.models() == ["g1", "g2"]
    assert world.clock() == 0


# -- what others were told -------------------------------------------------------


def test_a_pause_that_another_call_was_told_of_is_kept_too() -> None:
    fake = FakeProvider()
    world = World(one(fake), fake=fake, retry=Retry(wait=tenacity.wait_fixed(2)), breaker=False)
    fake.script("g", Fail.unavailable(), Fail.rate_limited(retry_after_s=5, latency_s=1))
    first, second = world.begin(), world.begin()
    world.time.run()
    assert (first.kind, second.kind) == ("ok", "ok")
    assert first.took_s >= 6
    fake.journal.assert_retry_after_honoured()


def test_a_pause_too_long_to_wait_for_ends_the_retrying() -> None:
    fake = FakeProvider()
    tiers = [Tier("gold", [Deployment("g", fake)]), Tier("silver", [Deployment("s", fake)])]
    world = World(tiers, fake=fake, retry=Retry(wait=tenacity.wait_fixed(2)), breaker=False)
    fake.script("g", *[Fail.unavailable()] * 2, Fail.rate_limited(retry_after_s=60, latency_s=1))
    calls = [world.begin(), world.begin(deadline_s=5), world.begin()]
    world.time.run()
    assert [told.ok.tier for told in calls] == ["silver"] * 3
    assert [told.took_s for told in calls] == [2, 2, 1]
    fake.journal.assert_retry_after_honoured()


@pytest.mark.parametrize("seed", range(3))
def test_a_rate_limit_shared_by_many_calls_is_honoured_by_all(seed: int) -> None:
    fake = FakeProvider(rpm=60, latency_s=(0.1, 0.6), seed=seed)
    world = World(one(fake, max_concurrency=20), fake=fake, seed=seed)
    calls = []
    for _ in range(200):
        calls.append(world.begin())
        world.pass_s(0.4)
    world.time.run()
    fake.journal.assert_retry_after_honoured()
    assert {told.ends for told in calls} == {1}
    assert held(world.client) == {"gold": (0, 0)}


# -- the seat in the pool ----------------------------------------------------------


def test_a_long_back_off_lets_another_call_have_the_seat() -> None:
    fake = FakeProvider(latency_s=1.0)
    world = World(one(fake, max_concurrency=1), fake=fake)
    fake.script("g", Fail.rate_limited(retry_after_s=5))
    first = world.begin()
    second = world.begin()
    world.pass_s(0.5)
    assert held(world.client) == {"gold": (0, 0)}  # both are held off, neither holds the seat
    world.time.run()
    assert first.ok.text
    assert second.kind == "ThrottledError"
    assert held(world.client) == {"gold": (0, 0)}


def test_those_who_wait_go_first_while_one_backs_off() -> None:
    fake = FakeProvider(latency_s=1.0)
    wait = tenacity.wait_fixed(2.5)
    world = World(one(fake, max_concurrency=1), fake=fake, retry=Retry(wait=wait))
    fake.script("g", Fail.unavailable())
    first, second, third = (world.begin(str(n)) for n in "abc")
    world.time.run()
    assert [told.ended_s for told in (second, third, first)] == [1, 2, 3.5]
    fourth_to_sixth = [world.begin(str(n)) for n in "def"]
    world.time.run()
    assert [told.took_s for told in fourth_to_sixth] == [1, 2, 3]


def test_a_short_back_off_keeps_the_seat() -> None:
    fake = FakeProvider(latency_s=1.0)
    world = World(one(fake, max_concurrency=1), fake=fake, retry=Retry(wait=tenacity.wait_fixed(0.4)))
    fake.script("g", Fail.unavailable())
    first, second = world.begin(), world.begin()
    world.time.run()
    assert (first.ended_s, second.ended_s) == (1.4, 2.4)


def test_a_seat_that_cannot_be_had_back_ends_the_call_in_this_tier() -> None:
    """The tier's other deployment has no more room than the first: nobody goes there unseated."""
    fake = FakeProvider(latency_s=4.0)
    tiers = [
        Tier("gold", [Deployment("g1", fake), Deployment("g2", fake)], max_concurrency=1, max_waiting=0),
        Tier("silver", [Deployment("s", fake)]),
    ]
    world = World(tiers, fake=fake, retry=Retry(wait=tenacity.wait_fixed(2)))
    fake.script("g1", Fail.unavailable())
    first, second = world.begin(), None
    world.pass_s(1)
    second = world.begin()
    world.pass_s(1.5)
    in_gold = [e.model for e in fake.journal if e.outcome == "running" and e.model != "s"]
    assert in_gold == ["g1"]
    world.time.run()
    assert second.ok.tier == "gold"
    assert (first.ok.tier, world.models()) == ("silver", ["g1", "g1", "s"])
    assert first.ok.trace is not None
    assert [type(a.error).__name__ for a in first.ok.trace.attempts] == [
        "ProviderUnavailableError",
        "ThrottledError",
        "NoneType",
    ]
    assert held(world.client) == {"gold": (0, 0)}
    peak = world.client.status()["tiers"]["gold"]["pool"]["peak"]
    assert peak == 1


def test_a_seat_left_for_too_long_a_queue_ends_the_call_in_this_tier_too() -> None:
    fake = FakeProvider(latency_s=4.0)
    tiers = [
        Tier("gold", [Deployment("g1", fake), Deployment("g2", fake)], max_concurrency=1, max_wait_s=1),
        Tier("silver", [Deployment("s", fake)]),
    ]
    world = World(tiers, fake=fake, retry=Retry(wait=tenacity.wait_fixed(2)))
    fake.script("g1", Fail.unavailable())
    first = world.begin()
    world.pass_s(1.5)
    world.begin()
    world.time.run()
    assert first.ok.tier == "silver"
    assert "g2" not in world.models()
    assert held(world.client) == {"gold": (0, 0)}


@pytest.mark.parametrize("how", ["close", "consumer leaves"])
def test_a_call_that_ends_while_it_backs_off_leaves_nothing(how: str) -> None:
    fake = FakeProvider(latency_s=1.0)
    world = World(one(fake, max_concurrency=1), fake=fake, retry=Retry(wait=tenacity.wait_fixed(5)))
    fake.script("g", Fail.unavailable())
    told = world.begin()
    world.pass_s(2)
    assert told.run is not None
    if how == "close":
        world.client.close()
    else:
        told.run.close()
    world.time.run()
    assert told.ends == 1
    assert held(world.client) == {"gold": (0, 0)}
    assert fake.calls == 1


async def test_closing_ends_a_real_back_off_at_once() -> None:
    fake = FakeProvider()
    from tierllm import TieredClient

    client = TieredClient(one(fake, max_concurrency=1), retry=Retry(wait=tenacity.wait_fixed(60)))
    fake.down("g")
    task = asyncio.create_task(client.acomplete("Hello"))
    worker: list[BaseException] = []

    def work() -> None:
        try:
            client.complete("Hello")
        except BaseException as error:
            worker.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while fake.calls < 2:
        await asyncio.sleep(0.001)
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await task
    thread.join(5)
    assert [type(e) for e in worker] == [ClientClosedError]


# -- alone -----------------------------------------------------------------------


def test_a_function_alone() -> None:
    clock = FakeClock()
    calls: list[float] = []

    def flaky(x: int) -> int:
        calls.append(clock())
        if len(calls) < 3:
            raise ConnectionError("down")
        return x

    assert Retry(wait=tenacity.wait_fixed(2), clock=clock).wrap(flaky)(7) == 7
    assert calls == [0, 2, 4]


def test_a_function_alone_gives_up() -> None:
    def down() -> None:
        raise ConnectionResetError("down")

    with pytest.raises(ProviderUnavailableError) as info:
        Retry(2, base_s=0, clock=FakeClock()).wrap(down)()
    assert isinstance(info.value.__cause__, ConnectionResetError)


def test_a_function_alone_raises_what_is_its_own() -> None:
    calls = []

    def wrong() -> None:
        calls.append(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Retry(clock=FakeClock()).wrap(wrong)()
    assert len(calls) == 1
    with pytest.raises(ProviderError) as info:
        Retry(clock=FakeClock()).wrap(wrong, on=(KeyError,))()
    assert isinstance(info.value.__cause__, KeyError)
    assert len(calls) == 4


async def test_a_coroutine_function_alone() -> None:
    calls = []

    async def flaky() -> str:
        calls.append(1)
        if len(calls) < 2:
            raise TimeoutError
        return "hi"

    assert await Retry(base_s=0).wrap(flaky)() == "hi"


# -- settings --------------------------------------------------------------------


NAN = float("nan")


@pytest.mark.parametrize(
    "wrong",
    [
        *({"attempts": v} for v in (0, -1, 2.5, True, NAN, "3", None)),
        *({name: v} for name in ("base_s", "max_s", "max_retry_after_s") for v in (-1, NAN)),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Retry(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"share": v} for v in (-0.1, NAN, float("inf"))),
        *({"floor_per_s": v} for v in (-1, NAN, float("inf"))),
        *({"window_s": v} for v in (0, -5, 2.5, True, NAN)),
    ],
    ids=str,
)
def test_budgets_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RetryBudget(**wrong)


def test_malformed_answers_are_retried(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        world = single(timeouts=QUICK)
        world.fake.script("g", Fail.malformed())
        trace = world.client.complete("Hello").trace
    assert trace is not None
    assert isinstance(trace.attempts[0].error, MalformedResponseError)

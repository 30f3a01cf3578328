"""Stepping down, and coming back: every outage, every error, every form of call."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import pickle
from random import Random
from typing import Any

import pytest

from client.forms import QUICK, Form, World, every_form, three_tiers
from tierllm import CircuitBreaker, Deployment, FallbackChain, Retry, Route, Tier, TieredClient, tiered
from tierllm.errors import (
    AllTiersFailedError,
    AuthenticationError,
    BudgetExceededError,
    CircuitOpenError,
    ConfigError,
    ContentFilteredError,
    ContextWindowExceededError,
    DeadlineExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    RejectedError,
    RequestTooLargeError,
    StreamInterruptedError,
    ThrottledError,
    TierLLMError,
)
from tierllm.events import BreakerChanged, CallFinished, ProviderMisconfigured, SteppedDown, TierRestored
from tierllm.testing import Fail, FakeProvider, Reply

PLACES = ["g1", "g2", "s", "b"]
TIER_OF = {"g1": "gold", "g2": "gold", "s": "silver", "b": "bronze"}

OUTAGES: dict[str, tuple[Fail, type[ProviderError]]] = {
    "hang": (Fail.hang(), ProviderTimeoutError),
    "slow first token": (Fail.error(ProviderUnavailableError, latency_s=10), ProviderTimeoutError),
    "429": (Fail.rate_limited(), RateLimitError),
    "429 with Retry-After": (Fail.rate_limited(retry_after_s=1.5), RateLimitError),
    "429 with a long Retry-After": (Fail.rate_limited(retry_after_s=40), RateLimitError),
    "500": (Fail.unavailable(500), ProviderUnavailableError),
    "refused": (Fail.connection_refused(), ProviderUnavailableError),
    "cut before the first chunk": (Fail.cut_after(0), ProviderUnavailableError),
    "truncated before the first chunk": (Fail.truncated_after(0), ProviderUnavailableError),
    "malformed": (Fail.malformed(), MalformedResponseError),
}
SUBSETS = [down for count in range(len(PLACES) + 1) for down in itertools.combinations(PLACES, count)]


def tries(kind: str) -> int:
    return 1 if "long" in kind else 3


def honours_retry_after(fake: FakeProvider) -> None:
    """Nobody came back too soon, where anybody was asked to wait."""
    if any(entry.retry_after_s for entry in fake.journal):
        fake.journal.assert_retry_after_honoured()


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", OUTAGES)
def test_every_outage_is_stepped_over_and_recovered_from(kind: str, streaming: bool) -> None:
    fail, error_kind = OUTAGES[kind]
    for down in SUBSETS:
        world = World()
        for model in down:
            world.fake.down(model, fail)
        told = world.call(streaming=streaming)

        expected = []
        for model in PLACES:
            if model not in down:
                expected.append(model)
                break
            expected += [model] * tries(kind)
        world.fake.journal.assert_order(expected)
        honours_retry_after(world.fake)
        up = next((m for m in PLACES if m not in down), None)
        if up is None:
            error = told.error
            assert isinstance(error, AllTiersFailedError)
            assert [a.deployment for a in error.attempts] == expected
            assert {type(a.error) for a in error.attempts} == {error_kind}
            assert {(a.tier, a.deployment) for a in error.attempts} == {(TIER_OF[m], m) for m in PLACES}
            assert error.__cause__ is error.attempts[-1].error
            assert error.trace is not None
            assert error.trace.outcome == "failed"
            assert told.pieces == []
            starts = [a.started_s for a in error.attempts]
            assert starts == sorted(starts)
            assert error.retry_after_s == (fail.make and getattr(fail.make(), "retry_after_s", None))
        else:
            assert (told.ok.tier, told.ok.deployment) == (TIER_OF[up], up)
            trace = told.ok.trace
            assert trace is not None
            assert (trace.granted, trace.served, trace.deployment) == ("gold", TIER_OF[up], up)
            assert [a.outcome for a in trace.attempts] == ["failed"] * (len(expected) - 1) + ["ok"]
            assert [c.deployment for c in trace.candidates] == PLACES[: PLACES.index(up) + 1]
            assert trace.candidates[-1].reason is None
            if streaming:
                assert told.text == told.ok.text

        # nobody says that it is over: gold serves again by itself
        world.fake.up()
        world.pass_s(45)
        before = len(world.fake.journal)
        assert world.call(streaming=streaming).ok.deployment == "g1"
        assert world.models(before) == ["g1"]
        places = world.client.status()["tiers"]["gold"]["deployments"]
        assert places["g1"]["breaker"]["state"] == "closed"
        assert len(world.told(TierRestored)) == (1 if {"g1", "g2"} <= set(down) else 0)


@pytest.mark.parametrize("kind", [k for k, (_, e) in OUTAGES.items() if e is not RateLimitError])
def test_an_open_breaker_spares_the_next_calls(kind: str) -> None:
    world = World()
    world.fake.down("g1", OUTAGES[kind][0])
    world.call()
    before, told = len(world.fake.journal), world.call()
    assert world.models(before) == ["g2"]
    assert told.took_s == 0
    assert told.ok.trace is not None
    assert [(c.deployment, c.reason) for c in told.ok.trace.candidates] == [("g1", "breaker"), ("g2", None)]
    assert [e.new for e in world.told(BreakerChanged) if isinstance(e, BreakerChanged)] == ["open"]


def test_a_probe_that_fails_costs_one_attempt_and_the_next_pause_is_longer() -> None:
    world = World()
    world.fake.down("g1")
    world.call()
    seen = []
    for _ in range(4):
        world.pass_s(31)
        before = len(world.fake.journal)
        world.call()
        seen.append(world.models(before))
    assert seen == [["g1", "g2"], ["g2"], ["g1", "g2"], ["g2"]]


def test_a_429_holds_off_other_calls_and_is_no_fault_of_the_breaker() -> None:
    world = World()
    world.fake.script("g1", Fail.rate_limited(retry_after_s=25))
    first = world.call()
    assert first.ok.deployment == "g2"
    assert first.took_s == 0  # too long to wait for
    world.pass_s(24.9)
    told = world.call()
    assert told.ok.deployment == "g2"
    assert told.ok.trace is not None
    assert told.ok.trace.candidates[0].reason == "ThrottledError"
    place = world.client.status()["tiers"]["gold"]["deployments"]["g1"]
    assert place["held_for_s"] == pytest.approx(0.1)
    assert place["breaker"]["state"] == "closed"
    world.pass_s(0.2)
    assert world.call().ok.deployment == "g1"
    honours_retry_after(world.fake)


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    world = World()
    world.fake.script("g1", Fail.rate_limited(60, latency_s=0.5), Fail.rate_limited(40, latency_s=1))
    long, short = world.begin(), world.begin()
    world.pass_s(50)
    assert (long.ok.deployment, short.ok.deployment) == ("g2", "g2")
    assert world.call().ok.deployment == "g2"
    world.pass_s(11)
    assert world.call().ok.deployment == "g1"


def test_a_503_that_asks_for_a_pause_gets_it_too() -> None:
    world = World()
    world.fake.script("g1", Fail.error(ProviderUnavailableError("later", status=503, retry_after_s=20)))
    assert world.call().ok.deployment == "g2"
    world.pass_s(19)
    assert world.call().ok.deployment == "g2"
    world.pass_s(2)
    assert world.call().ok.deployment == "g1"


def test_a_pause_is_never_longer_than_five_minutes() -> None:
    world = World()
    world.fake.script("g1", Fail.rate_limited(retry_after_s=86_400))
    world.call()
    world.pass_s(299)
    assert world.call().ok.deployment == "g2"
    world.pass_s(2)
    assert world.call().ok.deployment == "g1"


# -- what leads where ------------------------------------------------------------


@pytest.fixture
def world() -> World:
    return World(virtual=False)


BROKEN = {
    "cut": Fail.cut_after(2),
    "truncated": Fail.truncated_after(2),
    "malformed": Fail.malformed(2),
    "error in the stream": Fail.error_in_stream_after(2, 529),
    "429 in the stream": Fail.error_in_stream_after(2, 429),
    "401 in the stream": Fail.error_in_stream_after(2, 401),
    "stall": Fail.stall_after(2),
}


@every_form
@pytest.mark.parametrize("kind", BROKEN)
def test_a_stream_broken_after_text_is_never_begun_again(kind: str, form: Form, world: World) -> None:
    world.fake.script("g1", BROKEN[kind])
    if not form.streaming:
        assert form(world.client).finish_reason == "stop"  # nobody has seen the half of it
        return
    with pytest.raises(StreamInterruptedError) as info:
        form(world.client)
    error = info.value
    assert error.partial is not None
    assert len(error.partial.text.split()) == 2
    assert isinstance(error.__cause__, ProviderError)
    assert error.trace is not None
    assert [a.deployment for a in error.trace.attempts] == ["g1"]
    world.fake.journal.assert_order(["g1"])


def test_a_rule_cannot_begin_a_broken_stream_again() -> None:
    world = World(virtual=False, fallback=FallbackChain(on=lambda error: True))
    world.fake.script("g1", Fail.cut_after(1))
    with pytest.raises(StreamInterruptedError), world.client.stream("Hello") as stream:
        list(stream)
    world.fake.journal.assert_order(["g1"])


NEXT_AT_ONCE = {
    "401": Fail.unauthorized(),
    "403": Fail.error(AuthenticationError("not allowed", status=403)),
    "404": Fail.not_found(),
    "quota": Fail.quota(),
}


@every_form
@pytest.mark.parametrize("kind", NEXT_AT_ONCE)
def test_a_misconfigured_place_is_left_at_once_and_loudly(
    kind: str, form: Form, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.fake.script("g1", NEXT_AT_ONCE[kind])
    with caplog.at_level(logging.ERROR, "tierllm"):
        assert form(world.client).deployment == "g2"
    assert world.models() == ["g1", "g2"]
    assert world.clock() == 0
    [event] = world.told(ProviderMisconfigured)
    assert isinstance(event, ProviderMisconfigured)
    assert (event.tier, event.deployment) == ("gold", "g1")
    assert isinstance(event.error, AuthenticationError)
    assert "gold/g1 is misconfigured" in caplog.text


@every_form
@pytest.mark.parametrize("kind", OUTAGES)
def test_what_may_pass_is_tried_again_first(kind: str, form: Form, world: World) -> None:
    if "long" in kind:
        return
    fail, _ = OUTAGES[kind]
    world.fake.script("g1", fail, fail)
    response = form(world.client)
    assert response.deployment == "g1"
    assert world.models() == ["g1"] * 3
    assert response.trace is not None
    assert [w.kind for w in response.trace.waits] == ["backoff", "backoff"]
    honours_retry_after(world.fake)


@every_form
def test_an_invalid_request_is_raised_by_the_first_place(form: Form, world: World) -> None:
    world.fake.script("g1", Fail.invalid())
    with pytest.raises(InvalidRequestError) as info:
        form(world.client)
    assert info.value.trace is not None
    assert world.models() == ["g1"]


@every_form
def test_an_invalid_request_is_raised_by_the_first_place_after_a_retry_too(form: Form, world: World) -> None:
    world.fake.script("g1", Fail.unavailable(), Fail.invalid())
    with pytest.raises(InvalidRequestError):
        form(world.client)
    assert world.models() == ["g1", "g1"]


@every_form
def test_a_fallback_that_cannot_take_the_request_is_passed_over(form: Form, world: World) -> None:
    world.fake.down("g1")
    world.fake.script("g2", Fail.invalid())
    response = form(world.client)
    assert response.tier == "silver"
    assert world.models() == ["g1", "g1", "g1", "g2", "s"]
    assert response.trace is not None
    assert response.trace.candidates[1].reason == "InvalidRequestError 400"


@every_form
def test_an_invalid_request_at_the_last_place_is_one_of_the_attempts(form: Form, world: World) -> None:
    world.fake.down("g1")
    world.fake.down("g2")
    world.fake.down("s")
    world.fake.down("b", Fail.invalid())
    with pytest.raises(AllTiersFailedError) as info:
        form(world.client)
    assert isinstance(info.value.__cause__, InvalidRequestError)
    assert "bronze/b: InvalidRequestError 400" in str(info.value)


def windows(fake: FakeProvider, *sizes: int | None) -> list[Tier]:
    return [
        Tier("gold", [Deployment("g1", fake, context_window=sizes[0])]),
        Tier("silver", [Deployment("s", fake, context_window=sizes[1])]),
        Tier("bronze", [Deployment("b", fake, context_window=sizes[2])]),
    ]


@every_form
def test_too_long_a_request_goes_to_larger_windows_only(form: Form) -> None:
    fake = FakeProvider()
    world = World(windows(fake, 8_000, 4_000, 128_000), virtual=False, fake=fake)
    fake.script("g1", Fail.too_long())
    response = form(world.client)
    assert response.deployment == "b"
    assert world.models() == ["g1", "b"]
    assert response.trace is not None
    assert [c.reason for c in response.trace.candidates] == ["window", "window", None]


@every_form
def test_too_long_for_every_window_is_told_as_such(form: Form) -> None:
    fake = FakeProvider()
    world = World(windows(fake, 8_000, 4_000, None), virtual=False, fake=fake)
    fake.script("*", Fail.too_long(), forever=True)
    with pytest.raises(ContextWindowExceededError) as info:
        form(world.client)
    assert info.value.trace is not None
    assert world.models() == ["g1", "b"]


def test_a_larger_window_that_is_down_is_no_verdict_on_the_length() -> None:
    fake = FakeProvider()
    world = World(windows(fake, 8_000, 128_000, 4_000), virtual=False, fake=fake)
    fake.script("g1", Fail.too_long())
    fake.down("s")
    with pytest.raises(AllTiersFailedError) as info:
        world.client.complete("Hello")
    assert isinstance(info.value.__cause__, ProviderUnavailableError)
    assert "b" not in world.models()


def test_a_window_found_too_small_is_remembered_past_an_outage_beside_it() -> None:
    fake = FakeProvider()
    world = World(
        [
            Tier("gold", [Deployment("g1", fake, context_window=32_000), Deployment("g2", fake)]),
            Tier("silver", [Deployment("s", fake, context_window=16_000)]),
            Tier("bronze", [Deployment("b", fake, context_window=64_000)]),
        ],
        virtual=False,
        fake=fake,
        retry=False,
    )
    fake.script("g1", Fail.too_long())
    fake.down("g2")
    assert world.client.complete("Hello").deployment == "b"
    assert world.models() == ["g1", "g2", "b"]


@every_form
def test_a_content_filter_ends_the_call_unless_told_otherwise(form: Form, world: World) -> None:
    world.fake.script("g1", Fail.filtered())
    with pytest.raises(ContentFilteredError):
        form(world.client)
    assert world.models() == ["g1"]


@every_form
def test_a_content_filter_may_lead_on(form: Form) -> None:
    world = World(virtual=False, fallback=FallbackChain(content_filter="next"))
    world.fake.script("g1", Fail.filtered())
    assert form(world.client).deployment == "g2"
    world.fake.down(fail=Fail.filtered())
    with pytest.raises(ContentFilteredError):
        form(world.client)


def test_a_tier_has_its_own_rule() -> None:
    fake = FakeProvider()
    world = World(three_tiers(fake, fallback=FallbackChain(content_filter="next")), virtual=False, fake=fake)
    fake.script("g1", Fail.filtered())
    fake.script("s", Fail.filtered())
    assert world.client.complete("Hello").deployment == "g2"
    with pytest.raises(ContentFilteredError):
        world.client.complete("Hello", sla="silver")


def test_a_rule_of_the_users_decides_first() -> None:
    asked: list[TierLLMError] = []

    def on(error: TierLLMError) -> bool | None:
        asked.append(error)
        if isinstance(error, InvalidRequestError):
            return True
        return False if isinstance(error, RateLimitError) else None

    world = World(virtual=False, fallback=FallbackChain(on=on), retry=False)
    world.fake.script("g1", Fail.invalid(), Fail.rate_limited(), Fail.unavailable())
    assert world.client.complete("Hello").deployment == "g2"
    with pytest.raises(RateLimitError):
        world.client.complete("Hello")
    assert world.client.complete("Hello").deployment == "g2"
    kinds = [type(e) for e in dict.fromkeys(asked)]
    assert kinds == [InvalidRequestError, RateLimitError, ProviderUnavailableError]


# -- floors ----------------------------------------------------------------------


@every_form
@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"min_tier": "gold"}, ["g1", "g2"]),
        ({"min_tier": "silver"}, ["g1", "g2", "s"]),
        ({"fallback": False}, ["g1", "g2"]),
        ({"sla": "silver", "fallback": False}, ["s"]),
        ({"sla": "bronze", "min_tier": "silver"}, ["s"]),
        ({"sla": "bronze", "min_tier": "gold"}, ["g1", "g2"]),
        ({"sla": "silver"}, ["s", "b"]),
        ({"sla": "bronze"}, ["b"]),
        ({"require": {"eu"}}, ["g2", "b"]),
        ({"require": {"eu"}, "min_tier": "silver"}, ["g2"]),
        ({"require": {"eu"}, "fallback": False}, ["g2"]),
        ({"require": ["eu", "zero-retention"]}, ["b"]),
    ],
    ids=str,
)
def test_nothing_crosses_the_floor(form: Form, options: dict[str, Any], allowed: list[str]) -> None:
    fake = FakeProvider()
    tiers = [
        Tier("gold", [Deployment("g1", fake), Deployment("g2", fake, labels={"eu"})]),
        Tier("silver", [Deployment("s", fake)]),
        Tier("bronze", [Deployment("b", fake, labels={"eu", "zero-retention"})]),
    ]
    world = World(tiers, virtual=False, fake=fake)
    fake.down()
    with pytest.raises(AllTiersFailedError):
        form(world.client, **options)
    assert list(dict.fromkeys(world.models())) == allowed


@every_form
def test_a_tier_that_never_falls_back_is_a_floor(form: Form) -> None:
    fake = FakeProvider()
    world = World(three_tiers(fake, fallback=False), virtual=False, fake=fake)
    fake.down("g1")
    fake.down("g2")
    with pytest.raises(AllTiersFailedError):
        form(world.client)
    assert {"s", "b"}.isdisjoint(world.models())
    assert form(world.client, sla="silver").tier == "silver"


def test_observe_reports_and_does_not_step_down() -> None:
    world = World(virtual=False, fallback=FallbackChain(mode="observe"), retry=False)
    world.fake.down("g1")
    world.fake.down("g2")
    with pytest.raises(AllTiersFailedError):
        world.client.complete("Hello")
    assert world.models() == ["g1", "g2"]
    [event] = world.told(SteppedDown)
    assert isinstance(event, SteppedDown)
    assert (event.from_tier, event.to_tier) == ("gold", "silver")


def test_one_tier_may_only_observe() -> None:
    fake = FakeProvider()
    tiers = three_tiers(fake, fallback=FallbackChain(mode="observe"))
    world = World(tiers, virtual=False, fake=fake, retry=False)
    for model in ("g1", "g2", "s"):
        fake.down(model)
    with pytest.raises(AllTiersFailedError):
        world.client.complete("Hello")
    assert world.client.complete("Hello", sla="silver").tier == "bronze"


# -- refusals of our own ---------------------------------------------------------


@every_form
def test_open_breakers_everywhere_are_told_with_the_time_to_wait(form: Form) -> None:
    world = World(virtual=False, breaker=CircuitBreaker(consecutive_failures=1, open_s=12), retry=False)
    world.fake.down()
    with pytest.raises(AllTiersFailedError):
        form(world.client)
    calls = world.fake.calls
    with pytest.raises(AllTiersFailedError) as info:
        form(world.client)
    assert world.fake.calls == calls
    assert {type(a.error) for a in info.value.attempts} == {CircuitOpenError}
    assert {a.outcome for a in info.value.attempts} == {"rejected"}
    assert isinstance(info.value.__cause__, CircuitOpenError)
    assert info.value.retry_after_s == pytest.approx(12)


@every_form
def test_a_throttle_that_is_all_there_is_is_raised_itself(form: Form) -> None:
    world = World(virtual=False)
    for model, seconds in zip(PLACES, (50, 20, 90, 70), strict=True):
        world.fake.script(model, Fail.rate_limited(retry_after_s=seconds))
    with pytest.raises(AllTiersFailedError) as first:
        form(world.client)
    assert isinstance(first.value.__cause__, RateLimitError)
    assert first.value.retry_after_s == 20
    with pytest.raises(ThrottledError) as info:
        form(world.client)
    assert info.value.retry_after_s == pytest.approx(20)  # the soonest of them
    assert info.value.trace is not None
    assert info.value.trace.outcome == "rejected"


def test_a_full_pool_steps_down_without_a_retry() -> None:
    fake = FakeProvider(latency_s=1.0)
    tiers = [
        Tier("gold", [Deployment("g1", fake)], max_concurrency=1, max_waiting=0),
        Tier("silver", [Deployment("s", fake)]),
    ]
    world = World(tiers, fake=fake)
    first, second = world.begin(), world.begin()
    world.time.run()
    assert (first.ok.tier, second.ok.tier) == ("gold", "silver")
    assert (first.took_s, second.took_s) == (1, 1)
    assert second.ok.trace is not None
    assert [type(a.error) for a in second.ok.trace.attempts] == [ThrottledError, type(None)]


def test_a_full_pool_is_one_of_the_attempts_that_are_told() -> None:
    fake = FakeProvider(latency_s=1.0)
    tiers = [
        Tier("gold", [Deployment("g1", fake)], max_concurrency=1, max_waiting=0),
        Tier("silver", [Deployment("s", fake)]),
    ]
    world = World(tiers, fake=fake, retry=False)
    fake.down("s")
    world.begin()
    told = world.begin()
    world.time.run()
    assert isinstance(told.error, AllTiersFailedError)
    assert [(a.tier, type(a.error).__name__) for a in told.error.attempts] == [
        ("gold", "ThrottledError"),
        ("silver", "ProviderUnavailableError"),
    ]
    assert "gold: ThrottledError" in str(told.error)
    assert isinstance(told.error.__cause__, ProviderUnavailableError)


def test_full_pools_everywhere_are_a_throttle() -> None:
    fake = FakeProvider(latency_s=1.0)
    full: dict[str, Any] = {"max_concurrency": 1, "max_waiting": 0}
    tiers = [Tier(n, [Deployment(n, fake, labels={"eu"})], **full) for n in ("gold", "silver")]
    world = World([*tiers, Tier("bronze", [Deployment("b", fake)])], fake=fake)
    calls = [world.begin(require={"eu"}) for _ in range(3)]
    world.time.run()
    assert [c.kind for c in calls] == ["ok", "ok", "ThrottledError"]


def test_no_place_can_make_the_deadline() -> None:
    fake = FakeProvider(latency_s=3.0)
    world = World([Tier("gold", [Deployment("g", fake)]), Tier("silver", [Deployment("s", fake)])], fake=fake)
    for _ in range(20):
        world.call(sla="gold")
        world.call(sla="silver")
    before = fake.calls
    told = world.call(deadline_s=1)
    assert fake.calls == before
    assert type(told.error) is DeadlineExceededError
    assert told.took_s == 0
    assert told.error.trace is not None
    assert [c.reason for c in told.error.trace.candidates] == ["deadline", "deadline"]


def test_a_place_that_was_too_slow_is_looked_at_again() -> None:
    fake = FakeProvider(answer=lambda call: Reply("hi", latency_s=latency_s))
    latency_s = 3.0
    world = World([Tier("gold", [Deployment("g", fake)])], fake=fake)
    for _ in range(256):
        world.call()
    latency_s = 0.1  # it is fast again, but nobody without a deadline comes to see
    kinds = []
    for _ in range(80):
        world.pass_s(1)
        kinds.append(world.call(deadline_s=1).kind)
    since = kinds.index("ok")
    assert 25 <= since <= 30
    assert kinds == ["DeadlineExceededError"] * since + ["ok"] * (80 - since)
    latency_s = 3.0
    for _ in range(256):
        world.call()
    calls = fake.calls  # one call in thirty seconds pays for finding out
    for _ in range(90):
        world.pass_s(1)
        assert world.call(deadline_s=1).kind == "DeadlineExceededError"
    assert fake.calls - calls <= 4


def test_a_rule_of_the_users_never_sees_what_is_only_told_as_a_deadline() -> None:
    fake = FakeProvider(latency_s=3.0)
    world = World(
        [Tier("gold", [Deployment("g", fake)])], fake=fake, fallback=FallbackChain(on=lambda e: False)
    )
    for _ in range(20):
        world.call()
    assert type(world.call(deadline_s=1).error) is DeadlineExceededError


# -- errors ----------------------------------------------------------------------


@every_form
def test_errors_survive_pickling_and_copying(form: Form, world: World) -> None:
    world.fake.down()
    with pytest.raises(AllTiersFailedError) as info:
        form(world.client)
    for twin in (pickle.loads(pickle.dumps(info.value)), copy.copy(info.value), copy.deepcopy(info.value)):
        assert str(twin) == str(info.value)
        assert [(a.tier, type(a.error)) for a in twin.attempts] == [
            (a.tier, type(a.error)) for a in info.value.attempts
        ]
        assert twin.trace.to_dict() == info.value.trace.to_dict()  # type: ignore[union-attr]
    json.dumps(info.value.trace.to_dict())  # type: ignore[union-attr]


def test_every_kind_of_ending_carries_the_trace() -> None:
    fails = [Fail.invalid(), Fail.filtered(), Fail.too_long(), Fail.unavailable(), Fail.unauthorized()]
    for fail in fails:
        world = World(virtual=False)
        world.fake.down(fail=fail)
        with pytest.raises(TierLLMError) as info:
            world.client.complete("Hello")
        assert info.value.trace is not None
        assert info.value.trace.error == type(info.value).__name__
        assert pickle.loads(pickle.dumps(info.value)).trace.to_dict() == info.value.trace.to_dict()


def test_a_failure_overcome_leaves_no_frames_behind(world: World) -> None:
    world.fake.script("g1", Fail.unavailable())
    trace = world.client.complete("Hello").trace
    assert trace is not None
    assert trace.attempts[0].error is not None
    assert trace.attempts[0].error.__traceback__ is None


def test_the_events_of_an_outage_in_order() -> None:
    world = World()
    world.fake.down("g1")
    world.fake.down("g2")
    world.call()
    names = [type(e).__name__ for e in world.events]
    place = ["AttemptFailed", "RetryScheduled"] * 2
    assert names == [*[*place, "BreakerChanged", "AttemptFailed"] * 2, "SteppedDown", "CallFinished"]
    world.events.clear()
    world.fake.up()
    world.pass_s(60)
    world.call()
    assert [type(e).__name__ for e in world.events] == [
        "BreakerChanged",
        "BreakerChanged",
        "TierRestored",
        "CallFinished",
    ]
    restored = world.events[2]
    assert isinstance(restored, TierRestored)
    assert restored.tier == "gold"
    assert restored.after_s == pytest.approx(60)


# -- without a client ------------------------------------------------------------


def test_one_function_of_several() -> None:
    def first(x: int) -> str:
        raise ConnectionError("down")

    def second(x: int) -> str:
        return f"two {x}"

    ask = FallbackChain().wrap(first, second)
    assert ask(5) == "two 5"
    with pytest.raises(AllTiersFailedError) as info:
        FallbackChain().wrap(first, first)(1)
    assert [a.tier for a in info.value.attempts] == ["first#1", "first#2"]
    assert isinstance(info.value.__cause__, ProviderUnavailableError)
    with pytest.raises(ZeroDivisionError):
        FallbackChain().wrap(lambda: 1 // 0, lambda: 1)()
    assert FallbackChain().wrap(lambda: 1 // 0, lambda: 1, on_errors=(ZeroDivisionError,))() == 1


async def test_one_coroutine_function_of_several() -> None:
    async def first() -> str:
        raise TimeoutError

    async def second() -> str:
        return "two"

    assert await FallbackChain().wrap(first, second)() == "two"


@pytest.mark.parametrize(
    "settings", [{"content_filter": "maybe"}, {"mode": "off"}, {"content_filter": None}], ids=str
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FallbackChain(**settings)


@pytest.mark.parametrize("fns", [(), (1,), (len, None)], ids=str)
def test_only_functions_can_be_wrapped(fns: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError):
        FallbackChain().wrap(*fns)


# -- a storm ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_in_a_random_outage_each_call_ends_once_and_nothing_is_left_behind(seed: int) -> None:
    dice = Random(seed)
    fake = FakeProvider(latency_s=(0.05, 1.5), seed=seed)
    tiers = [
        Tier("gold", [Deployment("g1", fake), Deployment("g2", fake)], max_concurrency=8, max_waiting=20),
        Tier("silver", [Deployment("s", fake)], max_concurrency=4, max_wait_s=2),
        Tier("bronze", [Deployment("b", fake)], max_concurrency=6),
    ]
    world = World(tiers, fake=fake, seed=seed)
    fails = (
        [fail for fail, _ in OUTAGES.values()]
        + list(BROKEN.values())
        + [Fail.unauthorized(), Fail.filtered()]
    )
    order = ["gold", "silver", "bronze"]
    calls: list[tuple[Any, str, str]] = []

    def begin() -> None:
        sla, floor = dice.choice(order), dice.choice(order)
        options: dict[str, Any] = {"deadline_s": dice.uniform(0.5, 20)} if dice.random() < 0.5 else {}
        told = world.begin(sla=sla, min_tier=floor, streaming=dice.random() < 0.5, **options)
        calls.append((told, sla, floor))
        if dice.random() < 0.05 and told.run is not None:  # the consumer leaves
            world.time.after(dice.uniform(0, 1), told.run.close)

    at = 0.0
    for _ in range(2000):
        at += dice.expovariate(12)
        world.time.at(at, begin)
        if dice.random() < 0.02:
            model = dice.choice(PLACES)
            fail = dice.choice(fails)
            world.time.at(at, lambda model=model, fail=fail: fake.down(model, fail))  # type: ignore[misc]
            world.time.at(at + dice.uniform(1, 15), lambda model=model: fake.up(model))  # type: ignore[misc]
    world.time.run()

    assert [told.ends for told, *_ in calls] == [1] * 2000
    for told, _sla, floor in calls:
        if told.response is not None:
            assert order.index(told.response.tier or "") <= order.index(floor)
            assert told.response.finish_reason == "stop"
            if told.pieces:
                assert told.text == told.response.text
    status = world.client.status()
    assert status["in_flight"] == 0
    for name, size in (("gold", 8), ("silver", 4), ("bronze", 6)):
        pool = status["tiers"][name]["pool"]
        assert (pool["in_use"], pool["waiting"]) == (0, 0)
        assert pool["peak"] <= size
    assert fake.in_flight == 0
    honours_retry_after(fake)
    finished = [e for e in world.told(CallFinished) if isinstance(e, CallFinished)]
    assert len({e.trace.id for e in finished}) == len(finished) == 2000
    assert {told.kind for told, *_ in calls} >= {"ok", "StreamInterruptedError"}


def test_one_client_rule_serves_two_clients() -> None:
    fake, rule = FakeProvider(), FallbackChain()
    clients = [TieredClient(three_tiers(fake), fallback=rule, timeouts=QUICK) for _ in range(2)]
    fake.script("g1", Reply("hi"), forever=True)
    assert [c.complete("Hello").text for c in clients] == ["hi", "hi"]
    assert Retry().attempts == 3


def refusing(error: TierLLMError) -> Any:
    async def refuse(call: Any, call_next: Any) -> Any:
        raise error

    return refuse


@pytest.mark.parametrize("kind", [BudgetExceededError, ThrottledError, RequestTooLargeError])
def test_one_kind_of_refusal_in_all_tiers_is_raised_itself(kind: type[RejectedError]) -> None:
    fake = FakeProvider()
    soonest = kind("no", retry_after_s=5)
    refusals = [kind("no", retry_after_s=20), soonest, kind("no")]
    tiers = [
        Tier(name, [Deployment(name, fake)], policies=[refusing(error)])
        for name, error in zip(("gold", "silver", "bronze"), refusals, strict=True)
    ]
    with pytest.raises(kind) as info:
        TieredClient(tiers).complete("Hello")
    assert info.value is soonest
    assert fake.calls == 0
    assert info.value.trace is not None
    assert [(a.tier, a.outcome) for a in info.value.trace.attempts] == [
        ("gold", "rejected"),
        ("silver", "rejected"),
        ("bronze", "rejected"),
    ]


def test_several_kinds_of_refusal_are_told_together() -> None:
    fake = FakeProvider()
    tiers = [
        Tier("gold", [Deployment("g", fake)], policies=[refusing(ThrottledError("full"))]),
        Tier("silver", [Deployment("s", fake)], policies=[refusing(BudgetExceededError("spent"))]),
    ]
    with pytest.raises(AllTiersFailedError) as info:
        TieredClient(tiers).complete("Hello")
    assert [type(a.error) for a in info.value.attempts] == [ThrottledError, BudgetExceededError]
    assert str(info.value).endswith("gold: ThrottledError; silver: BudgetExceededError")
    assert isinstance(info.value.__cause__, BudgetExceededError)


def test_a_call_that_must_not_be_repeated_reaches_one_place_once() -> None:
    world = World(virtual=False, breaker=CircuitBreaker(consecutive_failures=1))
    seen: list[str] = []

    @tiered.call(client=world.client, repeatable=False)
    def pay(amount: int, *, route: Route = Route.INJECTED) -> str:
        seen.append(route.model)
        if route.model == "g1":
            raise ConnectionError
        return "paid"

    with pytest.raises(ProviderUnavailableError) as info:
        pay(5)
    assert seen == ["g1"]
    assert info.value.trace is not None
    assert pay(5) == "paid"  # an open breaker has sent nothing: the next place may be asked
    assert seen == ["g1", "g2"]

"""Providers, policies and callers that do what nobody expects."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tierllm import (
    CircuitBreaker,
    Deployment,
    FallbackChain,
    MalformedResponseError,
    Objective,
    Price,
    Response,
    Retry,
    RetryBudget,
    StreamInterruptedError,
    Tier,
    TieredClient,
    Timeouts,
    UsageError,
    tiered,
)
from tierllm.errors import (
    AllTiersFailedError,
    CircuitOpenError,
    ClientClosedError,
    ConfigError,
    ProviderUnavailableError,
    RateLimitError,
    TierLLMError,
)
from tierllm.events import ProviderMisconfigured
from tierllm.pipeline.effects import Race
from tierllm.providers import BaseProvider
from tierllm.testing import Fail, FakeClock, FakeProvider
from tierllm.types import Chunk


class Instant(BaseProvider):
    """Answers with whatever ``say`` gives."""

    name = "instant"
    waits = False

    def __init__(self, say: Callable[[], Any]) -> None:
        self.say = say

    def complete(self, call: Any, scope: Any) -> Response:
        return self.say()

    async def acomplete(self, call: Any, scope: Any) -> Response:
        return self.say()

    def stream(self, call: Any, scope: Any) -> Iterator[Chunk]:
        yield from self.say()


def one(provider: Any, **more: Any) -> TieredClient:
    more.setdefault("retry", False)
    return TieredClient([Tier("gold", [Deployment("m", provider)])], **more)


def two(provider: Any, **more: Any) -> TieredClient:
    tiers = [Tier(name, [Deployment(name, provider)]) for name in ("gold", "silver")]
    return TieredClient(tiers, retry=False, **more)


def fine() -> Response:
    return Response(text="fine", finish_reason="stop")


# -- many callers ----------------------------------------------------------------


def test_ids_are_unique_and_no_call_is_lost_when_threads_change_at_every_step() -> None:
    client, ids, errors = one(Instant(fine)), [], []

    def work() -> None:
        for _ in range(300):
            try:
                ids.append(client.complete("x").trace.id)  # type: ignore[union-attr]
            except BaseException as error:
                errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert errors == []
    assert len(set(ids)) == 2400


def test_a_stream_closed_from_another_thread_ends_in_its_reader() -> None:
    reached, seen = threading.Event(), []

    class Slow(BaseProvider):
        name, waits = "slow", True

        def stream(self, call: Any, scope: Any) -> Iterator[Chunk]:
            yield Chunk("a")
            woken = threading.Event()
            scope.on_cancel(woken.set)
            reached.set()
            assert woken.wait(10)
            yield Chunk("b")

    tier = Tier("gold", [Deployment("m", Slow())], max_concurrency=1)
    client = TieredClient([tier])
    stream = client.stream("x")

    def read() -> None:
        try:
            with stream as chunks:
                seen.extend(chunk.text for chunk in chunks)
            seen.append("END")
        except ClientClosedError as error:
            seen.append(type(error).__name__)

    reader = threading.Thread(target=read)
    reader.start()
    assert reached.wait(10)
    stream.close()
    reader.join(10)
    assert seen[-1] == "ClientClosedError"
    assert client.status()["tiers"]["gold"]["pool"]["in_use"] == 0


async def test_a_stream_closed_from_another_task_ends_in_its_reader() -> None:
    fake = FakeProvider()
    fake.script("m", Fail.stall_after(1))
    client = TieredClient([Tier("gold", [Deployment("m", fake)], max_concurrency=1)])
    stream, seen = client.astream("x"), []

    async def read() -> None:
        async with stream as chunks:
            async for chunk in chunks:
                seen.append(chunk.text)  # noqa: PERF401 - each as it comes

    reader = asyncio.create_task(read())
    while not seen:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    await stream.aclose()
    with pytest.raises(ClientClosedError):
        await reader
    assert client.status()["tiers"]["gold"]["pool"]["in_use"] == 0


# -- providers -------------------------------------------------------------------


def test_a_refusal_raised_in_mid_stream_is_an_interruption() -> None:
    def say() -> Iterator[Chunk]:
        yield Chunk("half")
        raise CircuitOpenError("inner")

    for client in (one(Instant(say), simple_reply="sorry"), two(Instant(say), simple_reply="sorry")):
        texts = []
        with pytest.raises(StreamInterruptedError) as caught, client.stream("x") as stream:
            texts += [chunk.text for chunk in stream]
        assert caught.value.partial is not None
        assert caught.value.partial.text == "half"


@pytest.mark.parametrize("wrong", ["text", None, {"text": "x"}])
def test_what_is_no_chunk_is_malformed(wrong: Any) -> None:
    client = one(Instant(lambda: iter([wrong])))
    with pytest.raises(AllTiersFailedError) as caught, client.stream("x") as stream:
        list(stream)
    assert isinstance(caught.value.__cause__, MalformedResponseError)


def test_usage_that_is_none_is_malformed() -> None:
    def say() -> Response:
        return Response(text="x", finish_reason="stop", usage={"input_tokens": 1})  # type: ignore[arg-type]

    price = Price(input_usd_per_mtok=1, output_usd_per_mtok=1)
    client = TieredClient([Tier("gold", [Deployment("m", Instant(say), price=price)])], retry=False)
    with pytest.raises(AllTiersFailedError) as caught:
        client.complete("x")
    assert isinstance(caught.value.__cause__, MalformedResponseError)


def test_a_response_given_twice_is_two_responses() -> None:
    constant = fine()
    client = two(Instant(lambda: constant))
    first, second = client.complete("x", sla="gold"), client.complete("x", sla="silver")
    assert (first.tier, second.tier, constant.tier) == ("gold", "silver", None)
    assert first.trace is not second.trace


def test_an_error_that_is_its_own_cause_ends_the_call() -> None:
    def say() -> Response:
        error = ProviderUnavailableError("x")
        raise error from error

    with pytest.raises(AllTiersFailedError):
        two(Instant(say)).complete("x")


def test_an_async_provider_that_swallows_its_cancellation_is_cancelled_again() -> None:
    class Stubborn(BaseProvider):
        name = "stubborn"

        async def acomplete(self, call: Any, scope: Any) -> Response:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                await asyncio.sleep(30)
            return fine()

    async def go() -> None:
        with pytest.raises(TierLLMError):
            await one(Stubborn()).acomplete("x", deadline_s=0.05)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    begun = time.monotonic()
    asyncio.run(go())
    assert time.monotonic() - begun < 20  # a guard against a hang


async def test_streams_of_items_that_are_nothing() -> None:
    client = two(FakeProvider())

    @tiered.call(client=client)
    async def items() -> AsyncIterator[None]:
        yield None
        yield None

    assert [item async for item in items()] == [None, None]


# -- policies --------------------------------------------------------------------


def test_a_policy_that_gives_nothing_is_named_for_it() -> None:
    async def nothing(call: Any, call_next: Any) -> Any:
        await call_next(call)

    with pytest.raises(UsageError, match="NoneType"):
        one(FakeProvider(), policies=[nothing]).complete("x")


def test_a_policy_may_give_one_response_to_many_calls() -> None:
    kept: list[Response] = []

    async def remember(call: Any, call_next: Any) -> Response:
        if not kept:
            kept.append(await call_next(call))
        return kept[0]

    client = one(FakeProvider(), policies=[remember])
    first, second = client.complete("x"), client.complete("x")
    assert first is not second
    assert first.trace is not second.trace


def test_a_tier_policy_that_comes_again_meets_the_retry_after() -> None:
    fake = FakeProvider()
    fake.script("m", Fail.rate_limited(retry_after_s=60), Fail.rate_limited(retry_after_s=60))

    async def again(call: Any, call_next: Any) -> Response:
        try:
            return await call_next(call)
        except RateLimitError:
            return await call_next(call)

    tier = Tier("gold", [Deployment("m", fake)], policies=[again], max_concurrency=1)
    with pytest.raises(AllTiersFailedError):
        TieredClient([tier], retry=False, clock=FakeClock()).complete("x")
    assert fake.calls == 1


def test_policies_and_listeners_may_come_from_a_generator() -> None:
    heard: list[Any] = []
    client = one(
        FakeProvider(),
        policies=(policy for policy in [CircuitBreaker()]),
        listeners=(listener for listener in [heard.append]),
    )
    client.complete("x")
    assert heard


# -- wrapped calls ---------------------------------------------------------------


def test_what_cannot_be_repeated_is_not_repeated_for_a_refusal_inside() -> None:
    calls: list[int] = []

    @tiered.call(client=two(FakeProvider()), repeatable=False)
    def pay() -> None:
        calls.append(1)
        raise CircuitOpenError("inner")

    with pytest.raises(CircuitOpenError):
        pay()
    assert calls == [1]


def test_a_function_cannot_change_what_the_next_call_gets() -> None:
    seen = []
    client = TieredClient([Tier("gold", [Deployment("m", params={"seed": 1})])])

    @tiered.call(client=client)
    def call(*, route: Any = None) -> None:
        seen.append(dict(route.params))
        route.params.pop("seed")

    call()
    call()
    assert seen == [{"seed": 1}] * 2


# -- secrecy ---------------------------------------------------------------------


def test_a_broken_listener_does_not_bring_the_vendors_words_into_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def say() -> Response:
        raise ProviderUnavailableError("503") from ValueError("you said: CANARY")

    def broken(event: Any) -> None:
        raise RuntimeError("a bug of the listener's")

    seen: list[str] = []
    client = one(Instant(say), listeners=[broken, lambda event: seen.append(repr(event))])
    with caplog.at_level(logging.DEBUG), pytest.raises(AllTiersFailedError):
        client.complete("CANARY")
    assert "a bug of the listener's" in caplog.text
    assert "CANARY" not in caplog.text
    assert seen
    assert not any("CANARY" in told for told in seen)


def test_events_do_not_repeat_foreign_errors() -> None:
    def say() -> Response:
        raise ValueError("cannot encode CANARY")

    seen: list[str] = []
    client = one(Instant(say), listeners=[lambda event: seen.append(repr(event))])
    with pytest.raises(ValueError, match="CANARY"):
        client.complete("x")
    assert seen
    assert not any("CANARY" in told for told in seen)


# -- settings --------------------------------------------------------------------


def test_very_long_waits_are_waits() -> None:
    fake = FakeProvider()
    client = TieredClient(
        [Tier("gold", [Deployment("m", fake)], max_concurrency=1, max_wait_s=4e9)], deadline_s=1e10
    )
    held = client._setup.lines["gold"].pool
    assert held is not None
    permit = held.take([])
    assert permit is not None
    threading.Timer(0.02, permit.release).start()
    assert client.complete("x").tier == "gold"


def test_a_budget_of_a_retrys_own_keeps_the_clients_time() -> None:
    clock, fake = FakeClock(), FakeProvider()
    retry = Retry(2, base_s=0, budget=RetryBudget(0, floor_per_s=0.1))
    client = one(fake, retry=retry, clock=clock, breaker=False)
    attempts = []
    for _ in range(3):
        fake.script("m", Fail.unavailable())
        attempts.append(len(client.complete("x").trace.attempts))  # type: ignore[union-attr]
        clock.advance(100)
    assert attempts == [2, 2, 2]


def test_a_budget_survives_a_clock_that_is_set_back() -> None:
    now = [10_000.0]
    budget = RetryBudget(0.2, floor_per_s=1, window_s=10, clock=lambda: now[0])
    for _ in range(10):
        assert budget.withdraw()
    assert not budget.withdraw()
    now[0] -= 5_000
    assert budget.withdraw()


async def test_a_breaker_counts_around_async_objects() -> None:
    class Asks:
        async def __call__(self) -> None:
            raise ConnectionError

    breaker = CircuitBreaker(consecutive_failures=2)
    asks = breaker(Asks())
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await asks()
    assert breaker.state == "open"


@pytest.mark.parametrize(
    "setting", ["slow_call_rate", "probe_timeout_s", "half_open_probes", "open_s", "window", "min_calls"]
)
def test_a_breakers_settings_need_a_value(setting: str) -> None:
    with pytest.raises(ValueError, match=setting):
        CircuitBreaker(**{setting: None})  # type: ignore[arg-type]


# -- what an audit asked for -----------------------------------------------------


def test_a_retry_that_cannot_end_in_time_is_not_begun() -> None:
    clock = FakeClock()
    fake = FakeProvider(latency_s={"gold": 4.0, "silver": 0.5})
    client = two(fake, clock=clock)
    patient = TieredClient(client.tiers, retry=Retry(3, base_s=0), clock=clock)
    for _ in range(24):
        patient.complete("x")
    fake.script("gold", Fail.unavailable(latency_s=2.0))
    response = patient.complete("x", deadline_s=5)
    assert response.tier == "silver"
    assert response.trace is not None
    assert [a.tier for a in response.trace.attempts] == ["gold", "silver"]


def test_a_place_found_unusable_at_a_fallback_is_passed_over_loudly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def unusable() -> Response:
        raise ConfigError("there is no key")

    fake = FakeProvider()
    fake.down("g")
    tiers = [
        Tier("gold", [Deployment("g", fake)]),
        Tier("silver", [Deployment("s", Instant(unusable))]),
        Tier("bronze", [Deployment("b", fake)]),
    ]
    heard: list[Any] = []
    client = TieredClient(tiers, retry=False, listeners=[heard.append])
    assert client.complete("x").tier == "bronze"
    assert any(isinstance(event, ProviderMisconfigured) for event in heard)
    assert "there is no key" in caplog.text
    with pytest.raises(ConfigError, match="there is no key"):
        client.complete("x", sla="silver")


def test_extra_for_a_provider_that_is_not_there() -> None:
    client = one(FakeProvider(name="openai"))
    client.complete("x", extra={"openai": {"user": "u"}})
    with pytest.raises(ConfigError, match="did you mean 'openai'"):
        client.complete("x", extra={"openia": {"user": "u"}})


def test_the_trace_names_what_the_plan_left_out_and_what_the_deadline_cut() -> None:
    fake, clock = FakeProvider(), FakeClock()
    fake.script("gold", Fail.hang())
    client = two(fake, clock=clock)
    with pytest.raises(TierLLMError) as caught:
        client.complete("x", deadline_s=1, fallback=False)
    assert caught.value.trace is not None
    assert [(c.tier, c.reason) for c in caught.value.trace.candidates] == [
        ("silver", "no fallback"),
        ("gold", "deadline"),
    ]


def test_what_was_delivered_says_where_it_came_from() -> None:
    fake = FakeProvider()
    fake.script("gold", Fail.cut_after(2))
    with pytest.raises(StreamInterruptedError) as caught, two(fake).stream("x") as stream:
        list(stream)
    assert caught.value.partial is not None
    assert (caught.value.partial.tier, caught.value.partial.deployment) == ("gold", "gold")


class Closes(FakeProvider):
    def __init__(self) -> None:
        super().__init__()
        self.closed: list[str] = []

    def close(self) -> None:
        self.closed.append("close")

    async def aclose(self) -> None:
        self.closed.append("aclose")


def test_closing_closes_every_provider_even_where_one_fails() -> None:
    class Fails(FakeProvider):
        def close(self) -> None:
            raise OSError("no")

    good = Closes()
    tiers = [Tier("gold", [Deployment("a", good), Deployment("b", Fails()), Deployment("c", Closes())])]
    client = TieredClient(tiers)
    with pytest.raises(OSError, match="no"):
        client.close()
    assert good.closed == ["close"]
    assert tiers[0].deployments[2].provider.closed == ["close"]  # type: ignore[attr-defined]


async def test_aclose_closes_providers_and_waits_for_its_tasks() -> None:
    good = Closes()
    client = one(good)
    async with client:
        await client.acomplete("x")
    assert good.closed == ["aclose"]


def test_the_defaults_of_a_breaker() -> None:
    settings = CircuitBreaker().settings
    assert (settings.failure_rate, settings.consecutive_failures, settings.min_calls) == (0.5, 3, 10)
    assert (settings.half_open_probes, settings.max_open_s) == (1, 300.0)


def test_probes_may_be_wanted_more_than_allowed_at_once() -> None:
    now = [0.0]
    breaker = CircuitBreaker(
        consecutive_failures=1,
        open_s=1,
        half_open_probes=3,
        half_open_concurrency=1,
        clock=lambda: now[0],
    )
    with pytest.raises(ConnectionError), breaker:
        raise ConnectionError
    now[0] = 2.0
    for _ in range(3):
        assert breaker.state != "closed"
        probe = breaker.admit()
        assert breaker.peek() is not None
        with pytest.raises(CircuitOpenError):
            breaker.admit()
        breaker.ended(probe)
    assert breaker.state == "closed"


def test_status_knows_the_usual_latency() -> None:
    clock = FakeClock()
    client = one(FakeProvider(latency_s=0.5), clock=clock)
    for _ in range(25):
        client.complete("x")
    place = client.status()["tiers"]["gold"]["deployments"]["m"]
    assert place["latency_p50_s"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Retry(base_s="1"),  # type: ignore[arg-type]
        lambda: Retry(max_s=float("nan")),
        lambda: Retry(stop=3),  # type: ignore[arg-type]
        lambda: RetryBudget("a"),  # type: ignore[arg-type]
        lambda: RetryBudget(window_s=10**11),
        lambda: CircuitBreaker(open_s="1"),  # type: ignore[arg-type]
        lambda: CircuitBreaker(window=10**9),
        lambda: CircuitBreaker(half_open_concurrency=0),
        lambda: FallbackChain(on=3),  # type: ignore[arg-type]
        lambda: Timeouts(total_s="5"),  # type: ignore[arg-type]
        lambda: Objective(latency_p95_s="a"),  # type: ignore[arg-type]
        lambda: one(FakeProvider(), stale=_later),
        lambda: one(FakeProvider(), rng=3),
        lambda: one(FakeProvider(), retry_budget=3),
    ],
    ids=range(14),
)
def test_settings_of_the_wrong_kind_are_typed_errors(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()


async def _later(request: Any) -> None:
    return None


# -- what a second reader found --------------------------------------------------


def test_a_leg_that_lost_keeps_its_permit_until_it_returns() -> None:
    go_on, running = threading.Event(), []

    class Stubborn(BaseProvider):
        """Cannot be interrupted; the second of two answers at once."""

        name, waits = "stubborn", False

        def complete(self, call: Any, scope: Any) -> Response:
            running.append(1)
            if len(running) == 1:
                assert go_on.wait(20)
            return fine()

    async def raced(call: Any, call_next: Any) -> Response:
        legs = [(0.0, lambda: call_next(call.copy())), (0.02, lambda: call_next(call.copy()))]
        return await Race(legs, win="result")

    tier = Tier("gold", [Deployment("m", Stubborn())], max_concurrency=2)
    client = TieredClient([tier], policies=[raced])
    assert client.complete("x").text == "fine"
    pool = client._setup.lines["gold"].pool
    assert pool is not None
    assert pool.in_use == 1  # the loser is still in its provider
    go_on.set()
    end = time.monotonic() + 10
    while pool.in_use and time.monotonic() < end:
        time.sleep(0.001)
    assert pool.in_use == 0


def test_a_stream_closed_while_a_chunk_is_on_its_way_is_ended_by_its_reader() -> None:
    reached, go_on = threading.Event(), threading.Event()

    class Deaf(BaseProvider):
        """Hears of no cancellation."""

        name, waits = "deaf", True

        def stream(self, call: Any, scope: Any) -> Iterator[Chunk]:
            reached.set()
            assert go_on.wait(20)
            yield Chunk("late")
            yield Chunk(finish_reason="stop")

    finished: list[Any] = []
    tier = Tier("gold", [Deployment("m", Deaf())], max_concurrency=1)
    client = TieredClient([tier], listeners=[finished.append])
    stream, seen = client.stream("x"), []

    def read() -> None:
        stream.__enter__()
        try:
            seen.extend(chunk.text for chunk in stream)
        except ClientClosedError:
            seen.append("closed")

    reader = threading.Thread(target=read)
    reader.start()
    assert reached.wait(20)
    stream.close()
    go_on.set()
    reader.join(20)
    assert seen == ["closed"]
    assert client.status()["tiers"]["gold"]["pool"]["in_use"] == 0
    assert client.status()["in_flight"] == 0
    assert [type(event).__name__ for event in finished] == ["CallFinished"]


async def test_a_stream_closed_from_another_task_gives_everything_back() -> None:
    client = TieredClient([Tier("gold", [Deployment("m", FakeProvider())], max_concurrency=1)])
    stream = client.astream("x")
    await stream.__aenter__()

    async def one() -> str:
        return (await anext(aiter(stream))).text

    reader = asyncio.create_task(one())
    await asyncio.sleep(0)
    await stream.aclose()
    await asyncio.gather(reader, return_exceptions=True)
    await stream.aclose()
    assert client.status()["tiers"]["gold"]["pool"]["in_use"] == 0
    assert client.status()["in_flight"] == 0


def test_a_mistake_in_mid_stream_is_told_as_it_is() -> None:
    def say() -> Iterator[Chunk]:
        yield Chunk("half ")
        raise ConfigError("bad")

    fake = FakeProvider()
    fake.down("a")
    tiers = [
        Tier("gold", [Deployment("a", fake)]),
        Tier("silver", [Deployment("b", Instant(say))]),
        Tier("bronze", [Deployment("c", fake)]),
    ]
    with pytest.raises(ConfigError, match="bad"), TieredClient(tiers, retry=False).stream("x") as stream:
        list(stream)


def test_a_budget_keeps_its_window_when_threads_tell_the_time_a_little_apart() -> None:
    now = [100.5]
    budget = RetryBudget(0, floor_per_s=1, window_s=10, clock=lambda: now[0])
    for _ in range(10):
        assert budget.withdraw()
    for moment in (101.0, 100.999):
        now[0] = moment
        budget.called()
    assert not budget.withdraw()


def test_reading_on_after_it_was_closed_from_elsewhere_is_no_quiet_end() -> None:
    seen: list[str] = []
    with one(FakeProvider()).stream("x") as stream, pytest.raises(ClientClosedError):
        for chunk in stream:
            seen.append(chunk.text)
            closer = threading.Thread(target=stream.close)
            closer.start()
            closer.join()
    assert len(seen) == 1


async def test_reading_on_after_another_task_closed_it_is_no_quiet_end() -> None:
    seen: list[str] = []
    async with one(FakeProvider()).astream("x") as stream:
        with pytest.raises(ClientClosedError):
            async for chunk in stream:
                seen.append(chunk.text)
                await asyncio.create_task(stream.aclose())
    assert len(seen) == 1

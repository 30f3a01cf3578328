"""The circuit breaker's public forms: policy, decorator, ``with``, threads, store."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import json
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest

from tierllm import Deployment, Tier, TieredClient
from tierllm.errors import (
    AllTiersFailedError,
    CircuitOpenError,
    ConfigError,
    DeadlineExceededError,
    InvalidRequestError,
    ProviderUnavailableError,
    RateLimitError,
    ThrottledError,
    TierLLMError,
)
from tierllm.events import BreakerChanged, Event
from tierllm.pipeline.effects import Blocking
from tierllm.pipeline.scope import Cancelled, Invocation, Scope
from tierllm.resilience.breaker import CircuitBreaker
from tierllm.resilience.breaker_store import BreakerSnapshot, MemoryBreakerStore
from tierllm.testing import Fail, FakeClock, FakeProvider
from tierllm.types import Call, Chunk, Request, Response


class Manual:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def failing(breaker: CircuitBreaker, times: int = 1) -> None:
    @breaker
    def down() -> None:
        raise ConnectionError("down")

    for _ in range(times):
        with pytest.raises(ConnectionError):
            down()


@pytest.fixture
def clock() -> Manual:
    return Manual()


@pytest.fixture
def opened(clock: Manual) -> CircuitBreaker:
    breaker = CircuitBreaker("b", consecutive_failures=1, clock=clock)
    failing(breaker)
    assert breaker.state == "open"
    return breaker


# -- as a policy -----------------------------------------------------------------


class Line:
    """A call through the breaker, stepped by hand; the provider answers what it is told to."""

    def __init__(self, breaker: CircuitBreaker, clock: Manual, streaming: bool = False) -> None:
        self.breaker, self.clock, self.streaming = breaker, clock, streaming

    def begin(self) -> Any:
        async def provider(call: Call) -> Response:
            call.progress = self.progress = Invocation(call, Scope(self.clock), self.streaming)
            return await Blocking(lambda: Response(text="hi"))

        self.flow = self.breaker(Call(Request(messages=())), provider)
        return self.flow.send(None)

    def end(self, outcome: BaseException | None = None) -> None:
        try:
            if outcome is None:
                with pytest.raises(StopIteration):
                    self.flow.send(Response(text="hi"))
            elif isinstance(outcome, GeneratorExit):
                self.flow.close()
            else:
                with pytest.raises(type(outcome)):
                    self.flow.throw(outcome)
        finally:
            self.flow.close()


@pytest.fixture(params=[False, True], ids=["whole", "streaming"])
def line(request: pytest.FixtureRequest, clock: Manual) -> Line:
    return Line(CircuitBreaker("gpt-eu", clock=clock, half_open_probes=1), clock, request.param)


def run(line: Line, *outcomes: BaseException | None) -> None:
    for outcome in outcomes:
        line.begin()
        line.end(outcome)


def test_the_policy_opens_refuses_probes_and_closes(line: Line) -> None:
    run(line, *[ProviderUnavailableError("x") for _ in range(3)])
    assert line.breaker.peek() == pytest.approx(30.0)
    with pytest.raises(CircuitOpenError, match=r"'gpt-eu' is open \(3 consecutive failures\)") as refusal:
        line.begin()
    assert refusal.value.retry_after_s == pytest.approx(30.0)
    line.clock.now = 30.0
    assert line.breaker.peek() is None
    line.begin()
    with pytest.raises(CircuitOpenError):
        Line(line.breaker, line.clock).begin()
    line.end()
    assert line.breaker.state == "closed"


@pytest.mark.parametrize(
    "neutral",
    [
        RateLimitError("x"),
        InvalidRequestError("x"),
        ThrottledError("x"),
        DeadlineExceededError("x"),
        KeyError("foreign"),
        Cancelled(),
        asyncio.CancelledError(),
        GeneratorExit(),
        KeyboardInterrupt(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_neutral_outcomes_count_for_nothing_and_free_the_probe(line: Line, neutral: BaseException) -> None:
    run(line, ProviderUnavailableError("x"), neutral, ProviderUnavailableError("x"), neutral)
    assert line.breaker.status()["calls"] == 2
    run(line, ProviderUnavailableError("x"))  # neutral calls do not interrupt a row of failures
    assert line.breaker.state == "open"
    line.clock.now = 30.0
    run(line, neutral, neutral)
    assert line.breaker.state == "half_open"
    run(line, None)
    assert line.breaker.state == "closed"


def test_a_call_that_never_reached_the_provider_is_neutral(clock: Manual) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)

    async def refused(call: Call) -> Response:
        raise ProviderUnavailableError("x")

    call = Call(Request(messages=()))
    for progress in (None, Invocation(call, Scope(clock), False)):  # the latter of an earlier attempt
        call.progress = progress
        with pytest.raises(ProviderUnavailableError):
            breaker(call, refused).send(None)
    assert breaker.status()["calls"] == 0


@pytest.mark.parametrize("streaming", [False, True])
def test_slow_is_the_first_token_or_the_whole_answer(clock: Manual, streaming: bool) -> None:
    breaker = CircuitBreaker(slow_call_s=2.0, clock=clock)
    line = Line(breaker, clock, streaming)
    line.begin()
    clock.now += 1.0
    line.progress.feed(Chunk(text="h"))
    clock.now += 9.0
    line.end()
    assert breaker.status()["slow"] == (0 if streaming else 1)
    line.begin()
    clock.now += 3.0
    line.progress.feed(Chunk(text="h"))
    line.end()
    assert breaker.status()["slow"] == (1 if streaming else 2)
    line.begin()
    clock.now += 3.0
    line.end(DeadlineExceededError("x"))
    assert breaker.status()["slow"] == (2 if streaming else 3)


def test_the_policy_keeps_no_reference_to_the_error(clock: Manual) -> None:
    line = Line(CircuitBreaker(clock=clock), clock)

    def fail() -> weakref.ref[ProviderUnavailableError]:
        line.begin()
        try:
            line.flow.throw(ProviderUnavailableError("x"))
        except ProviderUnavailableError as error:
            return weakref.ref(error)
        raise AssertionError

    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


def complete(client: TieredClient) -> Response:
    return client.complete("hi")


def acomplete(client: TieredClient) -> Response:
    return asyncio.run(client.acomplete("hi"))


def stream(client: TieredClient) -> Response:
    with client.stream("hi") as chunks:
        list(chunks)
    return chunks.response


def astream(client: TieredClient) -> Response:
    async def drain() -> Response:
        async with client.astream("hi") as chunks:
            async for _ in chunks:
                pass
        return chunks.response

    return asyncio.run(drain())


@pytest.mark.parametrize("ask", [complete, acomplete, stream, astream])
def test_in_a_client_whichever_way_it_is_asked(ask: Callable[[TieredClient], Response]) -> None:
    clock, fake, events = FakeClock(), FakeProvider(), []
    client = TieredClient(
        [Tier("gold", [Deployment("m", fake)])],
        breaker=CircuitBreaker(consecutive_failures=2),
        retry=False,
        clock=clock,
        listeners=[events.append],
    )
    fake.script("m", Fail.unavailable(), Fail.cut_after(1), Fail.invalid())
    for _ in range(2):
        with pytest.raises(TierLLMError):
            ask(client)
    with pytest.raises(AllTiersFailedError) as refused:
        ask(client)
    assert isinstance(refused.value.attempts[0].error, CircuitOpenError)
    assert refused.value.retry_after_s == pytest.approx(30.0, abs=1.0)
    assert len(fake.journal) == 2
    clock.advance(30.0)
    with pytest.raises(TierLLMError):
        ask(client)  # a neutral probe: still half-open
    assert ask(client).text
    changes = [(e.name, e.new) for e in events if isinstance(e, BreakerChanged)]
    assert changes == [("gold/m", "open"), ("gold/m", "half_open"), ("gold/m", "closed")]
    client.close()


# -- alone -----------------------------------------------------------------------


def test_a_decorated_function(opened: CircuitBreaker, clock: Manual) -> None:
    @opened
    def double(x: int, *, by: int = 2) -> int:
        """Doubles."""
        return x * by

    assert (double.__name__, double.__doc__) == ("double", "Doubles.")
    with pytest.raises(CircuitOpenError):
        double(2)
    clock.now = 30.0
    assert double(2, by=3) == 6
    assert opened.state == "closed"


async def test_a_decorated_coroutine_function(opened: CircuitBreaker, clock: Manual) -> None:
    @opened
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return x * 2

    assert inspect.iscoroutinefunction(double)
    with pytest.raises(CircuitOpenError):
        await double(2)
    clock.now = 30.0
    task = asyncio.create_task(double(2))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert opened.state == "half_open"
    assert await double(2) == 4
    assert opened.state == "closed"


def test_a_decorated_generator_is_one_call(opened: CircuitBreaker, clock: Manual) -> None:
    closed: list[str] = []

    @opened
    def words(fail: bool = False) -> Iterator[str]:
        try:
            yield "a"
            yield "b"
            if fail:
                raise ConnectionError("cut")
            return
        finally:
            closed.append("closed")

    stream = words()
    with pytest.raises(CircuitOpenError):
        next(stream)
    clock.now = 30.0
    for take in (1, 2):  # closed early, at once and later
        stream = words()
        for _ in range(take):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert len(closed) == take
        assert opened.state == "half_open"
    assert list(words()) == ["a", "b"]
    assert opened.state == "closed"
    with pytest.raises(ConnectionError):
        list(words(fail=True))
    assert opened.state == "open"


def test_generators_delegate(clock: Manual) -> None:
    @CircuitBreaker(clock=clock)
    def talk() -> Any:
        yield "hello"
        got = yield "name?"
        return f"hi {got}"

    def outer() -> Any:
        return (yield from talk())

    stream = outer()
    assert [next(stream), next(stream)] == ["hello", "name?"]
    with pytest.raises(StopIteration, match="hi Ann"):
        stream.send("Ann")


async def test_a_decorated_async_generator_is_one_call(opened: CircuitBreaker, clock: Manual) -> None:
    @opened
    async def words(fail: bool = False) -> AsyncIterator[str]:
        yield "a"
        if fail:
            raise ConnectionError("cut")
        yield "b"

    with pytest.raises(CircuitOpenError):
        await anext(words())
    clock.now = 30.0
    stream = words()
    assert await anext(stream) == "a"
    await stream.aclose()  # type: ignore[attr-defined]
    assert opened.state == "half_open"
    assert [w async for w in words()] == ["a", "b"]
    assert opened.state == "closed"
    with pytest.raises(ConnectionError):
        assert [w async for w in words(fail=True)]
    assert opened.state == "open"


async def test_a_slow_call_counts_after_a_window_of_good_ones(clock: Manual) -> None:
    breaker = CircuitBreaker(slow_call_s=1.0, window=2, clock=clock)

    def work(seconds: float) -> None:
        clock.now += seconds

    async def awork(seconds: float) -> None:
        clock.now += seconds

    guarded, aguarded = breaker(work), breaker(awork)
    guarded(0.0)
    guarded(0.0)
    guarded(2.0)
    assert breaker.status()["slow"] == 1
    guarded(0.0)
    guarded(0.0)
    await aguarded(2.0)
    assert breaker.status()["slow"] == 1


def test_a_streams_slowness_is_that_of_its_first_item(clock: Manual) -> None:
    breaker = CircuitBreaker(slow_call_s=1.0, clock=clock)

    @breaker
    def words(first_s: float) -> Iterator[str]:
        clock.now += first_s
        yield "a"
        clock.now += 10.0
        yield "b"

    list(words(0.5))
    assert breaker.status()["slow"] == 0
    list(words(1.5))
    assert breaker.status()["slow"] == 1


async def test_with_blocks(clock: Manual) -> None:
    breaker = CircuitBreaker("b", consecutive_failures=2, clock=clock)
    with pytest.raises(ValueError, match="inner"), breaker, breaker:
        raise ValueError("inner")
    assert breaker.state == "open"
    with pytest.raises(CircuitOpenError), breaker:
        raise AssertionError
    clock.now = 30.0
    with pytest.raises(asyncio.CancelledError):
        async with breaker:
            raise asyncio.CancelledError
    assert breaker.state == "half_open"
    async with breaker:
        with CircuitBreaker(clock=clock), pytest.raises(CircuitOpenError), breaker:
            raise AssertionError
    assert breaker.state == "closed"


async def test_with_blocks_of_tasks_do_not_mix(opened: CircuitBreaker, clock: Manual) -> None:
    clock.now = 30.0
    go = asyncio.Event()

    async def probe() -> None:
        async with opened:
            await go.wait()

    async def late() -> None:
        await asyncio.sleep(0)
        with pytest.raises(CircuitOpenError):
            async with opened:
                raise AssertionError
        go.set()

    await asyncio.gather(probe(), late())
    assert opened.state == "closed"


def test_with_blocks_may_be_left_crosswise_and_elsewhere(clock: Manual) -> None:
    one, two = (CircuitBreaker(name, consecutive_failures=1, clock=clock) for name in ("one", "two"))
    one.__enter__()
    two.__enter__()
    one.__exit__(ValueError, ValueError(), None)
    two.__exit__(None, None, None)
    assert (one.state, two.state) == ("open", "closed")
    assert two.status()["calls"] == 1
    two.__enter__()
    contextvars.Context().run(two.__exit__, ValueError, ValueError(), None)  # unknown there: neutral
    assert two.state == "closed"
    two.__exit__(None, None, None)


async def test_call(opened: CircuitBreaker, clock: Manual) -> None:
    with pytest.raises(CircuitOpenError):
        opened.call(int, "7")
    clock.now = 30.0
    assert opened.call(int, "11", base=2) == 3

    async def answer() -> int:
        return 42

    assert await opened.call(answer) == 42


def test_methods_can_be_decorated() -> None:
    class Bot:
        guard = CircuitBreaker()

        @guard
        def ask(self, what: str) -> str:
            return f"{self.name} {what}"

        name = "bot"

    assert Bot().ask("hi") == "bot hi"
    assert Bot.guard.name.endswith("Bot.ask")


# -- the fallback ladder ---------------------------------------------------------


def ladder() -> list[Callable[[str], str | None]]:
    def broken(question: str) -> str | None:
        raise RuntimeError("no cache")

    def cached(question: str) -> str | None:
        return {"known": "cached"}.get(question)

    def simple(question: str) -> str | None:
        return None if question == "strange" else "simple"

    return [broken, cached, simple]


async def test_the_ladder(clock: Manual) -> None:
    breaker = CircuitBreaker(fallback=ladder(), consecutive_failures=2, clock=clock)

    @breaker
    def ask(question: str) -> str:
        raise ConnectionError(question)

    @breaker
    async def aask(question: str) -> str:
        raise ConnectionError(question)

    @breaker
    def refuse(question: str) -> str:
        raise InvalidRequestError("your fault")

    assert ask("known") == "cached"
    with pytest.raises(InvalidRequestError):
        refuse("known")
    assert ask("other") == "simple"
    assert breaker.state == "open"
    assert ask("known") == "cached"
    assert await aask("other") == "simple"
    with pytest.raises(CircuitOpenError):
        ask("strange")
    breaker.reset()
    with pytest.raises(ConnectionError):
        await aask("strange")


async def test_async_rungs(clock: Manual) -> None:
    async def cached(question: str) -> str | None:
        await asyncio.sleep(0)
        return "cached"

    breaker = CircuitBreaker(fallback=[cached], clock=clock)

    @breaker
    async def ask(question: str) -> str:
        raise ConnectionError

    assert await ask("?") == "cached"
    with pytest.raises(ConfigError, match="plain functions only"):

        @breaker
        def sync_ask(question: str) -> str:
            return question


async def test_streams_fall_back_only_before_their_first_item(clock: Manual) -> None:
    breaker = CircuitBreaker(fallback=[lambda good: ["simple"]], clock=clock)

    @breaker
    def words(good: int) -> Iterator[str]:
        for _ in range(good):
            yield "word"
        raise ConnectionError

    assert list(words(0)) == ["simple"]
    stream = words(1)
    assert next(stream) == "word"
    with pytest.raises(ConnectionError):
        next(stream)

    async def simple(good: int) -> AsyncIterator[str]:
        yield "simple"

    twin = CircuitBreaker(fallback=[simple], clock=clock)

    @twin
    async def awords(good: int) -> AsyncIterator[str]:
        for _ in range(good):
            yield "word"
        raise ConnectionError

    assert [w async for w in awords(0)] == ["simple"]
    astream = awords(1)
    assert await anext(astream) == "word"
    with pytest.raises(ConnectionError):
        await anext(astream)


# -- observing, listening, forcing -----------------------------------------------


def test_observing_never_refuses(clock: Manual) -> None:
    events: list[Event] = []
    breaker = CircuitBreaker(
        "b",
        mode="observe",
        consecutive_failures=1,
        fallback=[lambda: 1],
        clock=clock,
        listeners=[events.append],
    )
    failing(breaker, 3)
    assert breaker.state == "open"
    assert breaker.peek() is None
    assert breaker.status()["would_have_refused"] == 2
    clock.now = 30.0
    assert breaker.call(int) == 0
    assert breaker.state == "closed"
    assert [e.new for e in events if isinstance(e, BreakerChanged)] == ["open", "half_open", "closed"]


def test_events_are_told_outside_the_lock_and_cannot_fail_a_call(
    clock: Manual, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []

    def curious(event: Event) -> None:
        events.append(event)
        assert breaker.status()["state"] == event.new  # type: ignore[attr-defined]
        raise RuntimeError("listener down")

    breaker = CircuitBreaker("b", consecutive_failures=1, clock=clock, listeners=[curious])
    failing(breaker)
    assert events == [
        BreakerChanged(
            name="b", old="closed", new="open", reason="1 consecutive failure", at_s=0.0, open_for_s=30.0
        )
    ]
    assert "a listener failed" in caplog.text


def test_forcing(clock: Manual) -> None:
    breaker = CircuitBreaker("b", consecutive_failures=1, clock=clock)
    breaker.force_open()
    assert breaker.peek() == 30.0
    with pytest.raises(CircuitOpenError, match="forced open"):
        breaker.call(int)
    breaker.force_close()
    failing(breaker, 3)
    assert breaker.status()["calls"] == 0
    breaker.metrics_only()
    failing(breaker, 3)
    assert (breaker.state, breaker.status()["failures"]) == ("metrics_only", 3)
    breaker.reset()
    failing(breaker)
    assert breaker.state == "open"


def test_fresh_twins_share_settings_only(clock: Manual) -> None:
    told: list[Event] = []
    template = CircuitBreaker(
        consecutive_failures=1, open_s=7.0, listeners=[told.append], counts=ConnectionError
    )
    one, two = template.fresh("one", clock=clock), template.fresh("two", clock=clock)
    failing(one)
    assert (one.state, two.state, template.state) == ("open", "closed", "closed")
    assert one.settings == template.settings
    assert [e.name for e in told] == ["one"]  # type: ignore[attr-defined]


def test_bind_fills_in_only_what_was_left_unset(clock: Manual) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    breaker.bind(name="m-eu", clock=clock)
    breaker.bind(name="other", clock=Manual(99.0))
    failing(breaker)
    assert breaker.name == "m-eu"
    assert breaker.peek() == 30.0


def test_bind_adds_a_listener_once(clock: Manual) -> None:
    own: list[Event] = []
    clients: list[Event] = []
    tell = clients.append
    breaker = CircuitBreaker("mine", consecutive_failures=1, clock=clock, listeners=[own.append])
    breaker.bind(emit=tell)
    breaker.bind(emit=tell)
    failing(breaker)
    assert (breaker.name, len(clients), len(own)) == ("mine", 1, 1)


def test_status_is_plain_data(opened: CircuitBreaker) -> None:
    status = opened.status()
    assert json.loads(json.dumps(status)) == status == {
        "name": "b",
        "mode": "enforce",
        "state": "open",
        "reason": "1 consecutive failure",
        "calls": 1,
        "failures": 1,
        "slow": 0,
        "failure_rate": 1.0,
        "slow_call_rate": 0.0,
        "consecutive_failures": 1,
        "opens": 1,
        "open_for_s": 30.0,
        "retry_after_s": 30.0,
        "would_have_refused": 0,
    }  # fmt: skip


# -- threads and processes -------------------------------------------------------


def hammer(work: Callable[[int], None], threads: int = 8) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(threads)

    def run(seat: int) -> None:
        barrier.wait()
        try:
            work(seat)
        except BaseException as error:
            errors.append(error)

    crew = [threading.Thread(target=run, args=(seat,)) for seat in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("probes", [1, 3])
def test_threads_never_exceed_the_probes(probes: int) -> None:
    clock = Manual()
    breaker = CircuitBreaker(
        consecutive_failures=1, half_open_probes=probes, max_open_s=30.0, probe_timeout_s=1e12, clock=clock
    )
    inside, most, lock = 0, 0, threading.Lock()

    @breaker
    def call(seat: int) -> None:
        nonlocal inside, most
        if breaker.state != "half_open":
            return
        with lock:
            inside += 1
            most = max(most, inside)
        with lock:
            inside -= 1
        if seat % 3 == 0:
            raise KeyboardInterrupt
        if seat % 3 == 1:
            raise ConnectionError

    for _ in range(50):
        failing_once(breaker)
        clock.now += 30.0

        def work(seat: int) -> None:
            for _ in range(20):
                try:
                    call(seat)
                except (CircuitOpenError, ConnectionError, KeyboardInterrupt):
                    pass

        hammer(work, threads=6)
        assert inside == 0
        clock.now += 30.0
        breaker.call(int) if breaker.peek() is None else None
    assert 0 < most <= probes


def failing_once(breaker: CircuitBreaker) -> None:
    breaker.reset()
    failing(breaker)


def test_threads_lose_no_count() -> None:
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=10**9, window=100_000)

    @breaker
    def call(good: bool) -> None:
        if not good:
            raise ConnectionError

    def work(seat: int) -> None:
        for at in range(1000):
            try:
                call(at % 4 != 0)
            except ConnectionError:
                pass

    hammer(work)
    status = breaker.status()
    assert (status["calls"], status["failures"]) == (8000, 2000)


def test_an_abandoned_stream_collected_at_any_moment_cannot_deadlock(
    opened: CircuitBreaker, clock: Manual
) -> None:
    @opened
    def words() -> Iterator[str]:
        yield "a"
        yield "b"

    clock.now = 30.0
    stream = words()
    next(stream)
    with opened._lock:  # as if the collector ran inside
        del stream
        gc.collect()
    assert opened.peek() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_lock_of_its_own(opened: CircuitBreaker) -> None:
    with opened._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if opened.status()["state"] == "open" else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_after_a_fork_locks_are_new_and_probes_are_the_parents(opened: CircuitBreaker, clock: Manual) -> None:
    clock.now = 30.0
    opened.admit()
    opened._lock.acquire()
    opened.renew()
    assert opened.peek() is None
    opened.call(int)
    assert opened.state == "closed"


# -- a shared memory -------------------------------------------------------------


class Unreachable(MemoryBreakerStore):
    down = True
    asked = 0

    def load(self, name: str) -> BreakerSnapshot | None:
        self.asked += 1
        if self.down:
            raise OSError("no route")
        return super().load(name)

    def publish(self, name: str, snapshot: BreakerSnapshot, expected_generation: int) -> bool:
        self.asked += 1
        if self.down:
            raise OSError("no route")
        return super().publish(name, snapshot, expected_generation)


def sharing(
    store: MemoryBreakerStore, clock: Manual, wall: Manual, name: str = "m", **settings: Any
) -> CircuitBreaker:
    return CircuitBreaker(name, consecutive_failures=1, clock=clock, store=store, wall_clock=wall, **settings)


def test_a_restart_remembers_open() -> None:
    store, wall = MemoryBreakerStore(), Manual(1.7e9)
    failing(sharing(store, Manual(50_000.0), wall))
    snapshot = store.load("m")
    assert snapshot is not None
    assert BreakerSnapshot(**json.loads(json.dumps(asdict(snapshot)))) == snapshot
    wall.now += 10.0
    clock = Manual(3.0)
    reborn = sharing(store, clock, wall)
    with pytest.raises(CircuitOpenError, match="shared: 1 consecutive failure") as refusal:
        reborn.call(int)
    assert refusal.value.retry_after_s == pytest.approx(20.0)
    clock.now += 20.0
    failing(reborn)
    assert reborn.status()["open_for_s"] == 60.0  # the back-off goes on where it was


def test_two_breakers_share() -> None:
    store, clock, wall = MemoryBreakerStore(), Manual(), Manual(1.7e9)
    events: list[Event] = []
    one, two = (sharing(store, clock, wall) for _ in range(2))
    two.bind(emit=events.append)
    assert two.call(int) == 0
    failing(one)
    assert two.call(int) == 0  # not asked again within store_refresh_s
    clock.now += 1.0
    wall.now += 1.0
    with pytest.raises(CircuitOpenError):
        two.call(int)
    clock.now += 29.0
    wall.now += 29.0
    one.call(int)
    assert one.state == "closed"
    assert two.call(int) == 0
    assert two.state == "closed"
    assert [e.reason for e in events] == [  # type: ignore[attr-defined]
        "shared: 1 consecutive failure",
        "shared: probe succeeded",
    ]


def test_the_slower_of_two_takes_over_what_the_faster_found_out() -> None:
    store, clock, wall = MemoryBreakerStore(), Manual(), Manual(1.7e9)
    one, two = (sharing(store, clock, wall) for _ in range(2))
    one.call(int)
    two.call(int)
    one.force_open()
    failing(two)  # its publication loses
    assert (one.state, two.state) == ("forced_open", "forced_open")
    latest = store.load("m")
    assert latest is not None
    assert latest.generation == 1


def test_an_unreachable_store_fails_no_call(caplog: pytest.LogCaptureFixture) -> None:
    store, clock, wall = Unreachable(), Manual(), Manual(1.7e9)
    breaker = sharing(store, clock, wall)
    for _ in range(5):
        assert breaker.call(int) == 0
    assert store.asked == 1
    failing(breaker)
    clock.now += 2.0
    with pytest.raises(CircuitOpenError):
        breaker.call(int)
    assert caplog.text.count("without its store") == 1
    store.down = False
    clock.now += 2.0
    with pytest.raises(CircuitOpenError):
        breaker.call(int)
    assert store.load("m") is not None  # told as soon as it could be


def test_a_store_that_lost_everything_is_told_again() -> None:
    store, clock, wall = MemoryBreakerStore(), Manual(), Manual(1.7e9)
    breaker = sharing(store, clock, wall)
    failing(breaker)
    store._snapshots.clear()
    breaker.force_open()
    latest = store.load("m")
    assert latest is not None
    assert latest.state == "forced_open"


def test_nonsense_in_the_store_is_not_adopted() -> None:
    store, clock, wall = MemoryBreakerStore(), Manual(), Manual(1.7e9)
    store.publish("m", BreakerSnapshot(generation=1, state="ajar"), 0)
    breaker = sharing(store, clock, wall)
    assert breaker.call(int) == 0
    store.publish("m", BreakerSnapshot(generation=2, state="open", open_until_unix_s=9e9, open_for_s=9e9), 1)
    clock.now += 1.0
    with pytest.raises(CircuitOpenError) as refusal:
        breaker.call(int)
    assert refusal.value.retry_after_s == 300.0


def test_sharing_needs_a_name() -> None:
    breaker = CircuitBreaker(store=MemoryBreakerStore())
    with pytest.raises(ConfigError, match="needs a name"), breaker:
        raise AssertionError


def test_the_policy_asks_its_store_off_the_event_loop(clock: Manual) -> None:
    store = MemoryBreakerStore()
    breaker = sharing(store, clock, Manual(1.7e9))
    line = Line(breaker, clock)
    asking = line.begin()
    assert isinstance(asking, Blocking)
    asking.fn()
    line.flow.send(None)
    telling = line.flow.throw(ProviderUnavailableError("x"))
    assert isinstance(telling, Blocking)
    telling.fn()
    with pytest.raises(ProviderUnavailableError):
        line.flow.send(None)
    snapshot = store.load("m")
    assert snapshot is not None
    assert snapshot.state == "open"

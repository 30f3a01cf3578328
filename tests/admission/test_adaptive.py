"""Adaptive concurrency: the rule, the slots of the calls under way, and what it tells."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections import deque
from typing import Any, Literal

import pytest

from admission.interrupts import interrupted_at
from pipeline.drivers import Mode, call, says, stack
from tierllm.admission import adaptive as adaptive_module
from tierllm.admission.adaptive import AdaptiveConcurrency
from tierllm.admission.aimd import Aimd, overload
from tierllm.errors import (
    AuthenticationError,
    CircuitOpenError,
    ConfigError,
    DeadlineExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    StreamInterruptedError,
    ThrottledError,
)
from tierllm.events import CallThrottled, ConcurrencyChanged, Event
from tierllm.pipeline.effects import Invoke, Sleep
from tierllm.pipeline.scope import Invocation, Scope
from tierllm.testing import Fail, FakeClock, FakeProvider
from tierllm.types import Call, Response, Trace


@pytest.fixture(
    params=[(name, streaming) for name in ("sync", "async", "virtual") for streaming in (False, True)],
    ids=lambda p: p[0] + ("-stream" if p[1] else ""),
)
def mode(request: pytest.FixtureRequest) -> Mode:
    """Every driver, plain and streaming."""
    return Mode(*request.param)


# -- the rule --------------------------------------------------------------------


def sent(aimd: Aimd, calls: int = 1) -> list[int]:
    return [aimd.begin() for _ in range(calls)]


def test_it_grows_by_one_after_as_many_good_calls_as_it_is_high() -> None:
    aimd = Aimd(4, 1, 6, 0.9, 1)
    sizes = []
    for number in sent(aimd, 20):
        aimd.good(number, 4)
        sizes.append(aimd.size)
    assert sizes == [4] * 3 + [5] * 5 + [6] * 12  # and never above most


def test_good_calls_count_only_where_half_of_it_was_in_use() -> None:
    aimd = Aimd(9, 1, 20, 0.9, 1)
    for number in sent(aimd, 100):
        aimd.good(number, 4)
    assert aimd.size == 9
    for number in sent(aimd, 9):
        aimd.good(number, 5)
    assert aimd.size == 10


def test_it_is_cut_once_a_round() -> None:
    aimd = Aimd(20, 1, 30, 0.9, 1)
    first, later = sent(aimd, 20), []
    for number in first[:10]:
        aimd.overloaded(number)
    assert aimd.size == 18
    later = sent(aimd, 2)
    for number in first[10:]:
        aimd.overloaded(number)
    assert aimd.size == 18
    aimd.overloaded(later[0])
    aimd.overloaded(later[1])
    assert aimd.size == 16


def test_what_was_sent_before_a_cut_does_not_raise_it_again() -> None:
    aimd = Aimd(4, 1, 30, 0.5, 1)
    numbers = sent(aimd, 10)
    aimd.overloaded(numbers[0])
    for number in numbers:
        aimd.good(number, 4)
    assert aimd.size == 2
    for number in sent(aimd, 2):
        aimd.good(number, 2)
    assert aimd.size == 3


def test_a_cut_takes_one_at_least_and_stops_at_least() -> None:
    aimd = Aimd(5, 3, 30, 0.99, 1)
    sizes = []
    for _ in range(4):
        aimd.overloaded(*sent(aimd))
        sizes.append(aimd.size)
    assert sizes == [4, 3, 3, 3]


def test_the_level_that_was_refused_is_tried_again_with_caution() -> None:
    aimd = Aimd(10, 1, 30, 0.8, 5)
    aimd.overloaded(*sent(aimd))
    needed = []
    for size in (8, 9, 10, 11):
        assert aimd.size == size
        good = 0
        while aimd.size == size:
            aimd.good(*sent(aimd), size)
            good += 1
        needed.append(good)
    assert needed == [8, 45, 10, 11]


SAYS_SO: dict[str, Exception] = {
    "rate limited": RateLimitError("429", status=429),
    "timed out": ProviderTimeoutError("late"),
    "answered 503": ProviderUnavailableError("503", status=503),
    "answered 504": ProviderUnavailableError("504", status=504),
    "answered 529": ProviderUnavailableError("529", status=529),
    "overloaded": ProviderUnavailableError("anthropic reported an error (overloaded_error)"),
}
SAYS_NOTHING: dict[str, BaseException] = {
    "500": ProviderUnavailableError("500", status=500),
    "502": ProviderUnavailableError("502", status=502),
    "refused": ProviderUnavailableError("could not be reached, or broke off"),
    "400": InvalidRequestError("400", status=400),
    "401": AuthenticationError("401", status=401),
    "quota": AuthenticationError("spent", status=429),
    "malformed": MalformedResponseError("what?"),
    "deadline": DeadlineExceededError("the caller's"),
    "refused here": CircuitOpenError("open"),
    "a bug": ZeroDivisionError(),
    "cancelled": asyncio.CancelledError(),
    "Ctrl-C": KeyboardInterrupt(),
}


@pytest.mark.parametrize("why", SAYS_SO)
def test_overloads(why: str) -> None:
    error = SAYS_SO[why]
    assert overload(error, ()) == why
    broken = StreamInterruptedError("text was out")
    broken.__cause__ = error
    assert overload(broken, ()) == why


@pytest.mark.parametrize("kind", SAYS_NOTHING)
def test_no_overloads(kind: str) -> None:
    assert overload(SAYS_NOTHING[kind], ()) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"start": 0},
        {"least": 0},
        {"most": 4},
        {"start": 2.5},
        {"least": 9},
        {"backoff": 1},
        {"backoff": 0},
        {"backoff": "0.9"},
        {"caution": 0},
        {"caution": True},
        {"mode": "log"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="AdaptiveConcurrency"):
        AdaptiveConcurrency(**settings)


# -- around a call ---------------------------------------------------------------


def drive(policy: AdaptiveConcurrency, mode: Mode, fake: FakeProvider) -> str:
    return mode.drive(stack([policy], fake)(call())).text


def test_a_slot_is_held_while_the_call_goes_on(mode: Mode) -> None:
    policy, seen = AdaptiveConcurrency(clock=mode.clock), []

    async def look(call: Call, call_next: Any) -> Response:
        seen.append(policy.in_flight)
        return await call_next(call)

    assert mode.drive(stack([policy, look], says())(call())).text == "a b c "
    assert seen == [1]
    assert policy.in_flight == 0


ENDS = {
    "rate limited": (Fail.rate_limited(), 7),
    "overloaded": (Fail.unavailable(529), 7),
    "timed out": (Fail.timeout(), 7),
    "500": (Fail.unavailable(500), 8),
    "invalid": (Fail.invalid(), 8),
    "connection refused": (Fail.connection_refused(), 8),
    "a bug": (Fail.error(ZeroDivisionError), 8),
}


@pytest.mark.parametrize("end", ENDS)
def test_whatever_happens_the_slot_is_free_again(mode: Mode, end: str) -> None:
    fail, size = ENDS[end]
    policy, fake = AdaptiveConcurrency(clock=mode.clock), FakeProvider()
    fake.script("m", fail)
    with pytest.raises(Exception):  # noqa: B017 - which one is the provider's matter
        drive(policy, mode, fake)
    assert (policy.in_flight, policy.size) == (0, size)
    assert drive(policy, mode, fake)


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
def test_cancelled_and_interrupted_calls_give_it_back_and_tell_nothing(error: type[BaseException]) -> None:
    policy = AdaptiveConcurrency(start=1, clock=FakeClock())
    flow = policy(call(), napping)
    flow.send(None)
    assert policy.in_flight == 1
    with pytest.raises(error):
        flow.throw(error())
    assert (policy.in_flight, policy.size) == (0, 1)
    flow = policy(call(), napping)
    flow.send(None)
    flow.close()
    assert policy.in_flight == 0


async def napping(call: Call) -> Response:
    await Sleep(1)
    return Response(text="hi")


def test_a_call_that_never_reached_the_provider_tells_nothing() -> None:
    policy = AdaptiveConcurrency(start=1, clock=FakeClock())
    for _ in range(9):
        flow = policy(call(), napping)
        flow.send(None)
        with pytest.raises(StopIteration):
            flow.send(None)
    assert policy.size == 1


def test_when_it_is_full_the_call_is_refused_and_told_when_to_come_back() -> None:
    clock, events = FakeClock(), list[Event]()
    policy = AdaptiveConcurrency(start=2, most=2).bound(
        tier="gold", deployment="g", clock=clock, emit=events.append
    )
    assert drive(policy, Mode("sync", False, clock), says(latency_s=3.0)) == "a b c "
    flows = [policy(call(), napping) for _ in range(2)]
    assert policy.peek(clock(), copies=2) is None
    assert policy.peek(clock(), copies=3) is not None
    for flow in flows:
        assert policy.peek(clock()) is None
        flow.send(None)
    before = policy.status()
    waits = [policy.peek(clock(), copies=copies) for copies in (1, 2, 5)]
    assert policy.status() == before
    assert [w.retry_after_s for w in waits if w] == [1.5, 3.0, 7.5]  # one of two places each 3 s
    asked = call(trace=Trace("t1"))
    with pytest.raises(ThrottledError, match="gold/g: it bears no more than 2") as caught:
        policy(asked, napping).send(None)
    refusal = caught.value
    assert (refusal.retry_after_s, refusal.waitable, refusal.personal) == (1.5, True, False)
    (event,) = events
    assert isinstance(event, CallThrottled)
    assert (event.trace_id, event.tier, event.deployment) == ("t1", "gold", "g")
    assert (event.by, event.mode, event.error) == ("concurrency", "enforce", refusal)
    assert policy.in_flight == 2
    flows[0].close()
    assert policy.peek(clock()) is None
    flows[1].close()


def test_as_long_as_nothing_is_known_it_says_a_second() -> None:
    policy = AdaptiveConcurrency(start=4)
    refusal = policy.peek(0.0, copies=6)
    assert refusal is not None
    assert refusal.retry_after_s == 0.5


def test_listeners_are_poked_when_a_slot_is_free() -> None:
    policy, seen = AdaptiveConcurrency(start=1), list[tuple[int, bool]]()
    policy.listen(lambda: seen.append((policy.in_flight, policy._lock._is_owned())))  # type: ignore[attr-defined]
    flow = policy(call(), napping)
    flow.send(None)
    with pytest.raises(ThrottledError):
        policy(call(), napping).send(None)
    assert seen == []
    flow.close()
    assert seen == [(0, False)]


def test_room_that_a_grown_limit_makes_is_there_when_listeners_are_poked() -> None:
    clock = FakeClock()
    policy = AdaptiveConcurrency(start=1, clock=clock)
    seen = []
    policy.listen(lambda: seen.append(policy.size))
    drive(policy, Mode("sync", False, clock), says())
    assert seen == [2]


def test_observe_refuses_nothing_and_learns_only_from_what_it_would_have_let_through() -> None:
    clock, events = FakeClock(), list[Event]()
    policy = AdaptiveConcurrency(start=1, mode="observe", listeners=[events.append], clock=clock, name="x")
    flow = policy(call(), napping)
    flow.send(None)
    assert policy.peek(clock()) is None
    fake = FakeProvider()
    fake.script("m", Fail.rate_limited())
    with pytest.raises(RateLimitError):
        drive(policy, Mode("sync", False, clock), fake)  # a second one at once: it would not have been sent
    for _ in range(5):
        drive(policy, Mode("sync", False, clock), fake)
    assert policy.size == 1
    flow.close()
    drive(policy, Mode("sync", False, clock), fake)
    status = policy.status()
    assert (status["size"], status["in_flight"]) == (2, 0)
    assert (status["would_have_refused"], status["refused"]) == (6, 0)
    throttled = [e for e in events if isinstance(e, CallThrottled)]
    assert len(throttled) == 6
    assert {(e.mode, e.deployment) for e in throttled} == {("observe", "x")}


def test_observing_learns_what_enforcing_would_have_learnt() -> None:
    """A steady load, a little above the limit at first: each step is a call that ends and one that comes."""

    def size_after(mode: Literal["enforce", "observe"]) -> int:
        policy = AdaptiveConcurrency(start=8, mode=mode, clock=FakeClock())
        running: deque[tuple[Call, Any]] = deque()
        for _ in range(600):
            asked = call()
            flow = policy(asked, napping)
            try:
                flow.send(None)
            except ThrottledError:
                flow = None  # it takes its time elsewhere
            running.append((asked, flow))
            if len(running) == 12:
                ended, flow = running.popleft()
                if flow is not None:
                    ended.progress = Invocation(ended, Scope(FakeClock()), False)
                    with pytest.raises(StopIteration):
                        flow.send(None)
        for _, flow in running:
            if flow is not None:
                flow.close()
        return policy.size

    assert size_after("observe") == size_after("enforce") >= 12


@pytest.mark.parametrize("mode_of", ["enforce", "observe"])
def test_errors_leave_no_cycles_behind(mode_of: Any) -> None:
    policy, fake = AdaptiveConcurrency(start=1, clock=FakeClock(), mode=mode_of), FakeProvider()
    seen: list[weakref.ref[Exception]] = []
    mode, flow = Mode("sync", False, FakeClock()), policy(call(), napping)
    gc.disable()
    try:
        for _ in range(2):  # one that fails, and one that is refused or would be
            fake.script("m", Fail.rate_limited())
            try:
                drive(policy, mode, fake)
            except (RateLimitError, ThrottledError) as error:
                seen.append(weakref.ref(error))
            if policy.in_flight == 0:
                flow.send(None)
        assert [ref() for ref in seen] == [None, None]
    finally:
        gc.enable()
        flow.close()


# -- what it tells ----------------------------------------------------------------


def test_changes_are_told_in_whole_and_not_too_often() -> None:
    clock, events = FakeClock(), list[Any]()
    policy = AdaptiveConcurrency(start=10, listeners=[events.append], clock=clock, name="x")
    mode, fake = Mode("sync", False, clock), FakeProvider()
    fake.script("m", *[Fail.rate_limited()] * 3, Fail.timeout())
    for _ in range(3):
        with pytest.raises(RateLimitError):
            drive(policy, mode, fake)
    assert [(e.old, e.new, e.reason) for e in events] == [(10, 9, "rate limited")]
    with pytest.raises(ProviderTimeoutError):
        drive(policy, mode, fake)
    clock.advance(1.5)
    drive(policy, mode, fake)  # good, but what it tells of was a cut
    assert isinstance(events[-1], ConcurrencyChanged)
    assert [(e.old, e.new, e.reason) for e in events[1:]] == [(9, 6, "timed out")]


def test_growth_is_told() -> None:
    clock, events = FakeClock(), list[Any]()
    policy = AdaptiveConcurrency(start=1, clock=clock).bound(
        tier="gold", deployment="g", clock=clock, emit=events.append
    )
    drive(policy, Mode("sync", False, clock), says())
    (event,) = events
    assert (event.tier, event.deployment, event.old, event.new) == ("gold", "g", 1, 2)
    assert event.reason == "1 calls at once were answered"


def test_a_twin_has_the_rules_and_a_state_of_its_own() -> None:
    own, theirs = FakeClock(), FakeClock()
    policy = AdaptiveConcurrency(start=3, least=2, most=9, backoff=0.5, caution=4, mode="observe", clock=own)
    twin = policy.bound(tier="gold", deployment="g", clock=theirs)
    flow = twin(call(), napping)
    flow.send(None)
    assert (twin.in_flight, policy.in_flight) == (1, 0)
    flow.close()
    assert twin.clock is own
    assert (twin.size, twin.least, twin.most, twin.backoff, twin.caution) == (3, 2, 9, 0.5, 4)
    assert twin.mode == "observe"
    assert AdaptiveConcurrency().bound(tier="gold", deployment="g", clock=theirs).clock is theirs
    assert repr(twin) == "<AdaptiveConcurrency 'gold/g' 0 of 3>"


# -- alone ------------------------------------------------------------------------


def test_alone_around_a_function() -> None:
    inside, go = threading.Event(), threading.Event()

    def ask(question: str) -> str:
        if question == "slow":
            inside.set()
            assert go.wait(10)
        if question == "too much":
            raise TimeoutError
        return question.upper()

    policy = AdaptiveConcurrency(start=1, most=2, name="search")
    wrapped = policy.wrap(ask)
    thread = threading.Thread(target=wrapped, args=("slow",))
    thread.start()
    assert inside.wait(10)
    with pytest.raises(ThrottledError, match="search: "):
        wrapped("quick")
    go.set()
    thread.join(10)
    assert wrapped("quick") == "QUICK"
    assert policy.size == 2
    with pytest.raises(ProviderTimeoutError):
        wrapped("too much")
    assert (policy.size, policy.in_flight) == (1, 0)


async def test_alone_around_a_coroutine_function() -> None:
    class Busy(Exception):
        pass

    async def ask(question: str) -> str:
        await asyncio.sleep(0)
        if question == "too much":
            raise Busy
        return question.upper()

    policy = AdaptiveConcurrency(start=2, most=2)
    wrapped = policy.wrap(ask, on=(Busy,))
    told = await asyncio.gather(*(wrapped("hi") for _ in range(3)), return_exceptions=True)
    assert [type(t) for t in told] == [str, str, ThrottledError]
    with pytest.raises(ProviderUnavailableError):
        await wrapped("too much")
    assert (policy.size, policy.in_flight) == (1, 0)
    task = asyncio.create_task(wrapped("hi"))
    await asyncio.sleep(0)
    assert policy.in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (policy.size, policy.in_flight) == (1, 0)


# -- interrupts and forks -----------------------------------------------------------


FILES = {adaptive_module.__file__}


@pytest.mark.filterwarnings("ignore:coroutine 'invoked' was never awaited")
def test_an_interrupt_at_any_bytecode_leaves_no_slot_held() -> None:
    step, struck = 0, True
    while struck:
        policy = AdaptiveConcurrency(start=1, most=1, clock=FakeClock())

        def work(policy: AdaptiveConcurrency = policy) -> None:
            flow = policy(call(), invoked)
            try:
                flow.send(None)
                flow.send(Response(text="hi"))
            except StopIteration:
                pass

        struck = interrupted_at(step, work, FILES)
        gc.collect()
        assert policy.in_flight == 0, step
        step += 1
    assert step > 80


async def invoked(call: Call) -> Response:
    return await Invoke(says(), call)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_nothing_is_held_and_what_was_learnt_stays() -> None:
    policy = AdaptiveConcurrency(start=2, clock=FakeClock())
    policy.aimd.overloaded(policy.aimd.begin())
    flow = policy(call(), napping)
    flow.send(None)
    policy._lock.acquire()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            with_lock = threading.Thread(target=policy.status, daemon=True)
            with_lock.start()
            with_lock.join(10)
            told = f"{policy.in_flight} {policy.size} {with_lock.is_alive()}"
            flow.close()
            os.write(writing, f"{told} {policy.in_flight}".encode())
        finally:
            os._exit(0)
    policy._lock.release()
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"0 1 False 0"
    os.close(reading)
    os.close(writing)
    assert policy.in_flight == 1
    flow.close()
    assert policy.in_flight == 0

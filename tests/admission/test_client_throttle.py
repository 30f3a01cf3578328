"""The client throttle: the book's formula over a sliding window, and what counts for it."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import weakref
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.drivers import Mode, call, says, stack
from tierllm.admission.client_throttle import CELLS, ClientThrottle, Tally
from tierllm.errors import (
    ConfigError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    ThrottledError,
)
from tierllm.events import CallThrottled, Event
from tierllm.pipeline.effects import Sleep
from tierllm.testing import Fail, FakeClock, FakeProvider
from tierllm.types import Call, Response, Trace


class Dice(random.Random):
    """Dice that show what they are told to, and count how often they were cast."""

    def __init__(self, shows: float = 0.999999) -> None:
        super().__init__()
        self.shows = shows
        self.casts = 0

    def random(self) -> float:
        self.casts += 1
        return self.shows


def told(throttle: ClientThrottle, accepted: int, refused: int) -> ClientThrottle:
    for number in range(accepted + refused):
        throttle.tally.add(throttle.clock(), number < accepted)
    return throttle


@pytest.fixture(
    params=[(name, streaming) for name in ("sync", "async", "virtual") for streaming in (False, True)],
    ids=lambda p: p[0] + ("-stream" if p[1] else ""),
)
def mode(request: pytest.FixtureRequest) -> Mode:
    """Every driver, plain and streaming."""
    return Mode(*request.param)


# -- the formula -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "refused", "k", "probability"),
    [
        (10, 0, 2, 0),
        (10, 10, 2, 0),
        (10, 11, 2, 1 / 22),
        (10, 30, 2, 20 / 41),
        (0, 30, 2, 30 / 31),
        (10, 10, 1.5, 5 / 21),
        (10, 3, 1.1, 2 / 14),
        (1, 8, 2, 0),  # too few to judge by
        (1, 9, 2, 8 / 11),
        (0, 500, 2, 500 / 501),
    ],
)
def test_the_books_formula(accepted: int, refused: int, k: float, probability: float) -> None:
    throttle = told(ClientThrottle(k=k, most=1, clock=FakeClock()), accepted, refused)
    assert throttle.probability() == pytest.approx(probability)
    assert throttle.status()["probability"] == pytest.approx(probability)


@pytest.mark.parametrize("k", [1.1, 1.5, 2.0])
def test_an_outage_is_got_over(k: float) -> None:
    """Ten calls a second, all refused for a minute, all accepted after it."""
    clock, busy = FakeClock(), False
    throttle = ClientThrottle(k=k, clock=clock, rng=random.Random(7))

    @throttle.wrap
    def ask() -> None:
        if busy:
            raise RateLimitError("too many requests", status=429)

    for second in range(40 * 60):
        busy = 300 <= second < 360
        for _ in range(10):
            clock.advance(0.1)
            with suppress(RateLimitError, ThrottledError):
                ask()
    assert throttle.probability() == 0


def test_a_few_always_find_out() -> None:
    assert told(ClientThrottle(clock=FakeClock()), 0, 500).probability() == 0.95
    assert told(ClientThrottle(clock=FakeClock(), most=0.8), 0, 500).probability() == 0.8


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    window_s=st.sampled_from([1.0, 60.0, 120.0, 3600.0]),
    steps=st.lists(st.tuples(st.floats(0, 0.4), st.booleans()), max_size=60),
)
def test_the_window_holds_what_is_within_it(window_s: float, steps: list[tuple[float, bool]]) -> None:
    """Never anything older than the window, and all that is a cell younger than that."""
    now, tally, history = 1000.0, Tally(window_s, 1000.0), list[tuple[float, bool]]()
    for share, accepted in steps:
        now += share * window_s
        tally.add(now, accepted)
        history.append((now, accepted))
        cell = int(now // tally.cell_s)
        within = [ok for at, ok in history if int(at // tally.cell_s) > cell - CELLS]
        assert (tally.requests, tally.accepts) == (len(within), sum(within))
    for after_s, requests, accepts in tally.rest(now):
        later = Tally(window_s, 1000.0)
        for at, ok in history:
            later.add(at, ok)
        later.turn(now + after_s + tally.cell_s / 2)
        assert (later.requests, later.accepts) == (requests, accepts)


@pytest.mark.parametrize(
    "settings",
    [
        {"k": 1.0},
        {"k": "2"},
        {"k": float("nan")},
        {"window_s": 0},
        {"window_s": None},
        {"min_calls": 0},
        {"min_calls": True},
        {"most": 0},
        {"most": 1.1},
        {"mode": "log"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="ClientThrottle"):
        ClientThrottle(**settings)


# -- what counts -------------------------------------------------------------------

COUNTS: dict[str, tuple[Fail | None, int, int]] = {
    "an answer": (None, 1, 1),
    "429": (Fail.rate_limited(), 1, 0),
    "503": (Fail.unavailable(503), 1, 0),
    "529": (Fail.unavailable(529), 1, 0),
    "502": (Fail.unavailable(502), 1, 0),
    "a timeout": (Fail.timeout(), 1, 0),
    "connection refused": (Fail.connection_refused(), 1, 0),
    "500": (Fail.unavailable(500), 1, 1),
    "400": (Fail.invalid(), 1, 1),
    "401": (Fail.unauthorized(), 1, 1),
    "filtered": (Fail.filtered(), 1, 1),
    "a bug": (Fail.error(ZeroDivisionError), 0, 0),
}


@pytest.mark.parametrize("end", COUNTS)
def test_what_counts(mode: Mode, end: str) -> None:
    fail, requests, accepts = COUNTS[end]
    throttle, fake = ClientThrottle(clock=mode.clock), FakeProvider()
    if fail is not None:
        fake.script("m", fail)
    try:
        mode.drive(stack([throttle], fake)(call()))
    except Exception:
        assert fail is not None
    assert (throttle.tally.requests, throttle.tally.accepts) == (requests, accepts)


def test_a_stream_that_breaks_off_was_taken_on() -> None:
    throttle = ClientThrottle()
    fake = FakeProvider(answer=lambda _: Fail.cut_after(1))
    with pytest.raises(Exception, match="broke off"):
        Mode("sync", True).drive(stack([throttle], fake)(call()))
    assert (throttle.tally.requests, throttle.tally.accepts) == (1, 1)


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, GeneratorExit])
def test_cancelled_calls_count_for_nothing(error: type[BaseException]) -> None:
    throttle = ClientThrottle()
    flow = throttle(call(), napping)
    flow.send(None)
    with pytest.raises(error):
        flow.throw(error())
    assert throttle.tally.requests == 0


async def napping(call: Call) -> Response:
    await Sleep(1)
    return Response(text="hi")


def test_what_never_reached_the_backend_counts_for_nothing() -> None:
    throttle = ClientThrottle()
    for error in (None, ThrottledError("full"), ProviderUnavailableError("made up", status=503)):
        flow = throttle(call(), napping)
        flow.send(None)
        with pytest.raises(StopIteration if error is None else type(error)):
            if error is None:
                flow.send(None)
            else:
                flow.throw(error)
    assert throttle.tally.requests == 0


def test_calls_under_way_do_not_look_refused() -> None:
    throttle = ClientThrottle(min_calls=1)
    flows = [throttle(call(), napping) for _ in range(50)]
    for flow in flows:
        flow.send(None)
    assert throttle.probability() == 0
    for flow in flows:
        flow.close()


# -- rejecting ----------------------------------------------------------------------


def test_it_rejects_with_that_probability() -> None:
    throttle = told(ClientThrottle(rng=random.Random(7), clock=FakeClock(), mode="observe"), 25, 75)
    passed = 0
    for _ in range(4000):  # in observe mode, so that the counts stay
        flow = throttle(call(), napping)
        flow.send(None)
        flow.close()
        passed += 1
    assert passed == 4000
    assert throttle.status()["would_have_rejected"] / 4000 == pytest.approx(50 / 101, abs=0.02)


def test_a_rejected_call_counts_as_a_request_and_is_told_when_to_come_back() -> None:
    clock, events = FakeClock(), list[Event]()
    throttle = ClientThrottle().bound(
        tier="gold", deployment="g", clock=clock, rng=Dice(0.0), emit=events.append
    )
    told(throttle, 10, 89)
    with pytest.raises(ThrottledError, match="gold/g: the backend took on 10% of the last calls") as caught:
        throttle(call(trace=Trace("t1")), napping).send(None)
    error = caught.value
    assert not error.waitable
    assert error.retry_after_s == pytest.approx(2 / (1 - 79 / 100))  # so many tries, one each 2 s
    assert throttle.tally.requests == 100
    (event,) = events
    assert isinstance(event, CallThrottled)
    assert (event.trace_id, event.tier, event.deployment) == ("t1", "gold", "g")
    assert (event.by, event.mode, event.error) == ("throttle", "enforce", error)
    assert throttle.status()["rejected"] == 1


def test_who_comes_back_after_the_refusals_have_left_the_window_is_let_through() -> None:
    clock = FakeClock(1000.0)
    throttle = ClientThrottle(clock=clock, rng=Dice(0.0), most=1)
    told(throttle, 0, 200)
    clock.advance(115)
    told(throttle, 12, 0)
    with pytest.raises(ThrottledError) as caught:
        throttle(call(), napping).send(None)
    retry_after_s = caught.value.retry_after_s
    assert retry_after_s is not None
    assert retry_after_s <= 5
    clock.advance(retry_after_s - 2.0)
    assert throttle.probability() > 0
    clock.advance(2.0)
    assert throttle.probability() == 0


def test_nobody_is_sent_away_for_longer_than_the_window() -> None:
    throttle = told(ClientThrottle(clock=FakeClock(), rng=Dice(0.0), most=1), 0, 10_000)
    with pytest.raises(ThrottledError) as caught:
        throttle(call(), napping).send(None)
    assert caught.value.retry_after_s == 120


def test_looking_changes_nothing_and_casts_no_dice() -> None:
    dice = Dice(0.0)
    throttle = told(ClientThrottle(clock=FakeClock(), rng=dice), 0, 100)
    before = throttle.status()
    assert throttle.peek(0.0) is None
    assert throttle.peek(0.0, copies=5) is None
    throttle.listen(lambda: None)
    assert throttle.status() == before
    assert dice.casts == 0


def test_no_dice_are_cast_while_all_is_well(mode: Mode) -> None:
    dice = Dice(0.0)
    throttle = ClientThrottle(clock=mode.clock, rng=dice)
    for _ in range(20):
        assert mode.drive(stack([throttle], says())(call())).text == "a b c "
    assert dice.casts == 0


def test_a_refusal_leaves_no_cycle_behind() -> None:
    throttle = told(ClientThrottle(clock=FakeClock(), rng=Dice(0.0)), 0, 100)
    gc.disable()
    try:
        try:
            throttle(call(), napping).send(None)
        except ThrottledError as error:
            seen = weakref.ref(error)
        assert seen() is None
    finally:
        gc.enable()


def test_observe_rejects_nothing() -> None:
    events = list[Event]()
    throttle = told(
        ClientThrottle(mode="observe", clock=FakeClock(), rng=Dice(0.0), listeners=[events.append], name="x"),
        0,
        100,
    )
    assert Mode("sync", False).drive(stack([throttle], says())(call())).text == "a b c "
    assert (throttle.tally.requests, throttle.tally.accepts) == (101, 1)
    status = throttle.status()
    assert (status["would_have_rejected"], status["rejected"]) == (1, 0)
    (event,) = events
    assert isinstance(event, CallThrottled)
    assert (event.mode, event.deployment) == ("observe", "x")


def test_a_backend_that_recovers_is_found_out() -> None:
    """Ten calls a second: an outage of five minutes, and within five all of them pass again."""
    clock, rng = FakeClock(), random.Random(7)
    throttle, fake = ClientThrottle(clock=clock, rng=rng), FakeProvider()
    mode = Mode("sync", False, clock)

    def minute() -> tuple[int, int]:
        """Calls that reached the backend, and calls that were answered."""
        before, answered = len(fake.journal), 0
        for _ in range(600):
            clock.advance(0.1)
            try:
                mode.drive(stack([throttle], fake)(call()))
                answered += 1
            except (ProviderUnavailableError, ThrottledError):
                pass
        return len(fake.journal) - before, answered

    assert minute() == (600, 600)
    fake.down("m", Fail.unavailable(503))
    reached = [minute()[0] for _ in range(5)]
    assert reached[0] > 300  # until the good calls have left the window, or are half of it
    assert all(10 <= calls <= 50 for calls in reached[2:])  # a twentieth
    fake.up("m")
    recovery = [minute()[1] for _ in range(6)]
    assert recovery[5] == 600


def test_a_twin_has_the_rules_and_counts_of_its_own() -> None:
    own, theirs, dice = FakeClock(), FakeClock(), Dice()
    throttle = ClientThrottle(k=3, window_s=60, min_calls=5, most=0.9, mode="observe", clock=own, rng=dice)
    told(throttle, 0, 20)
    twin = throttle.bound(tier="gold", deployment="g", clock=theirs, rng=Dice())
    assert twin.clock is own
    assert twin.rng is dice
    assert (twin.k, twin.window_s, twin.min_calls, twin.most, twin.mode) == (3, 60, 5, 0.9, "observe")
    assert twin.tally.requests == 0
    assert twin.tally.cell_s == 1
    assert repr(told(twin, 1, 2)) == "<ClientThrottle 'gold/g' 1 of 3 accepted>"
    plain = ClientThrottle().bound(tier="gold", deployment="g", clock=theirs, rng=dice)
    assert plain.clock is theirs
    assert plain.rng is dice


# -- alone --------------------------------------------------------------------------


def test_alone_around_a_function() -> None:
    class Busy(Exception):
        pass

    down = True

    def ask(question: str) -> str:
        if down:
            raise TimeoutError if question == "slow" else Busy
        return question.upper()

    clock = FakeClock()
    throttle = ClientThrottle(clock=clock, rng=Dice(0.5), name="search")
    wrapped = throttle.wrap(ask, on=(Busy,))
    for number in range(10):
        with pytest.raises(ProviderTimeoutError if number % 2 else ProviderUnavailableError):
            wrapped("slow" if number % 2 else "quick")
    with pytest.raises(ThrottledError, match="search: "):
        wrapped("quick")
    down = False
    clock.advance(200)
    assert wrapped("quick") == "QUICK"


async def test_alone_around_a_coroutine_function() -> None:
    async def ask(question: str) -> str:
        await asyncio.sleep(0)
        raise ConnectionError

    throttle = ClientThrottle(rng=Dice(0.5), min_calls=3)
    wrapped = throttle.wrap(ask)
    told = await asyncio.gather(*(wrapped("hi") for _ in range(3)), return_exceptions=True)
    assert {type(t) for t in told} == {ProviderUnavailableError}
    with pytest.raises(ThrottledError):
        await wrapped("hi")


def test_threads_lose_no_count() -> None:
    throttle = ClientThrottle(mode="observe")
    wrapped = throttle.wrap(lambda: 1)
    threads = [threading.Thread(target=lambda: [wrapped() for _ in range(300)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (throttle.tally.requests, throttle.tally.accepts) == (2400, 2400)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_does_not_inherit_a_held_lock() -> None:
    throttle = ClientThrottle()
    throttle._lock.acquire()
    child = os.fork()
    if not child:
        asked = threading.Thread(target=throttle.status, daemon=True)
        asked.start()
        asked.join(10)
        os._exit(asked.is_alive())
    throttle._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

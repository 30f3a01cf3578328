"""What each effect does, in every kind of time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline.drivers import Mode, Tagged, call, eventually, limits, says, stack
from tierllm.admission.pool import Pool
from tierllm.errors import (
    DeadlineExceededError,
    MalformedResponseError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    StreamInterruptedError,
    UsageError,
)
from tierllm.pipeline.effects import Blocking, Follow, Gather, Invoke, Race, Sleep, Spawn, Wait
from tierllm.pipeline.scope import Cancelled
from tierllm.pipeline.tape import FlightLost, Tape
from tierllm.providers.base import PlayedProvider
from tierllm.testing import Fail, FakeClock, FakeProvider
from tierllm.types import Chunk, Response

# -- Invoke ------------------------------------------------------------------------


def test_a_live_invoke_delivers_and_gives_the_folded_response(mode: Mode) -> None:
    heard = mode.drive(stack([], says())(call()))
    assert heard.text == "a b c " == heard.response.text
    assert heard.response.finish_reason == "stop"
    assert len(heard.pieces) == (3 if mode.streaming else 1)


def test_a_held_invoke_delivers_nothing(mode: Mode) -> None:
    async def flow() -> Response:
        first = await Invoke(says("never heard"), call(), "hold")
        assert first.text == "never heard "
        return await Invoke(says(), call())

    assert mode.drive(flow()).text == "a b c "


def test_a_second_invoke_after_delivery_is_refused(streaming: Mode) -> None:
    async def flow() -> Response:
        await Invoke(says(), call())
        return await Invoke(says(), call())

    heard: list[str] = []
    with pytest.raises(UsageError, match='deliver="continue"'):
        streaming.drive(flow(), after=lambda c: heard.append(c.text))
    assert "".join(heard) == "a b c "


def test_a_second_invoke_is_allowed_where_nothing_was_delivered(mode: Mode) -> None:
    broken = FakeProvider()
    broken.script("m", Fail.unavailable())

    async def flow() -> Response:
        try:
            return await Invoke(broken, call())
        except ProviderUnavailableError:
            return await Invoke(says(), call())

    assert mode.drive(flow()).text == "a b c "


def test_continue_goes_on_after_an_interruption(streaming: Mode) -> None:
    broken = FakeProvider(answer=lambda _: Fail.cut_after(2))

    async def flow() -> Response:
        try:
            return await Invoke(broken, call())
        except StreamInterruptedError as error:
            rest = await Invoke(says("and on"), call(), "continue")
            begun = error.partial or Response()
            return Response(text=begun.text + rest.text, finish_reason="stop")

    heard = streaming.drive(flow())
    assert heard.text == heard.response.text
    assert heard.text.endswith("and on ")


def test_a_race_or_a_tape_after_delivery_is_refused_too(streaming: Mode) -> None:
    async def raced() -> Response:
        await Invoke(says(), call())
        return await Race([(0.0, lambda: stack([], says())(call()))])

    async def followed() -> Response:
        tape = Tape()
        tape.push(Chunk("x"))
        tape.end(Response(text="x"))
        await Invoke(says(), call())
        return await Follow(tape)

    for flow in (raced, followed):
        with pytest.raises(UsageError, match="after chunks had been delivered"):
            streaming.drive(flow())


def test_one_call_belongs_to_one_invoke_at_a_time(mode: Mode) -> None:
    shared = call()
    provider = says(latency_s=0.02)
    with pytest.raises(UsageError, match=r"call\.copy"):
        mode.drive(_gathered(*(stack([], provider)(shared) for _ in range(2))))


async def _gathered(*flows: Any) -> Any:
    return await Gather(*flows)


def test_what_a_provider_raises_while_it_is_called_ends_its_invocation(mode: Mode) -> None:
    """A stream that fails before it is one must not leave the call looking busy."""

    class Eager(FakeProvider):
        def _fail(self, *_: Any) -> Any:
            raise ProviderUnavailableError("not even begun")

        stream = astream = play = complete = acomplete = _fail

    asked = call()

    async def flow() -> Response:
        try:
            return await Invoke(Eager(), asked)
        except ProviderUnavailableError:
            return await Invoke(says(), asked)

    assert mode.drive(flow()).text == "a b c "


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_a_stream_without_a_finish_reason_is_never_a_success(streaming: Mode, pieces: int) -> None:
    cut = FakeProvider(answer=lambda _: Fail.truncated_after(pieces))
    expected = StreamInterruptedError if pieces else ProviderUnavailableError
    with pytest.raises(expected, match="before the answer did") as caught:
        streaming.drive(stack([], cut)(call()))
    if isinstance(caught.value, StreamInterruptedError):
        assert isinstance(caught.value.__cause__, ProviderUnavailableError)


def test_an_answer_without_a_finish_reason_is_malformed() -> None:
    class Vague(FakeProvider):
        def complete(self, *_: Any) -> Any:
            return Response(text="who knows")

        async def acomplete(self, *_: Any) -> Any:
            return "not even a response"

    for name in ("sync", "async"):
        with pytest.raises(MalformedResponseError):
            Mode(name, False).drive(stack([], Vague())(call()))


def test_an_interruption_carries_what_was_delivered(streaming: Mode) -> None:
    heard: list[str] = []
    broken = FakeProvider(answer=lambda _: Fail.error_in_stream_after(2, 429))
    with pytest.raises(StreamInterruptedError) as caught:
        streaming.drive(stack([], broken)(call()), after=lambda c: heard.append(c.text))
    error = caught.value
    assert error.partial is not None
    assert error.partial.text == "".join(heard) != ""
    assert (error.status, error.retryable) == (429, False)
    assert isinstance(error.__cause__, RateLimitError)


# -- Sleep, Wait, Blocking ------------------------------------------------------------


def test_sleep_waits(mode: Mode) -> None:
    async def flow() -> float:
        before = mode.clock()
        await Sleep(0.02)
        return mode.clock() - before

    assert mode.drive(flow()).response >= 0.0199  # type: ignore[operator]


@pytest.mark.parametrize("name", ["sync", "async"])
def test_a_stepped_clock_is_stepped_instead_of_waited_for(name: str) -> None:
    clock = FakeClock()
    mode = Mode(name, True, clock)
    pool = Pool(1)
    pool.take([])
    provider = says("a b", first_token_s=3600.0, between_s=60.0)

    async def flow() -> Response:
        await Sleep(7200)
        with pytest.raises(TimeoutError):
            await Wait(pool, 1000)
        return await stack([], provider)(call())

    assert mode.drive(flow()).text == "a b "
    assert clock() == 7200 + 1000 + 3600 + 60


@pytest.mark.parametrize("name", ["sync", "async"])
def test_a_race_moves_a_stepped_clock_on_when_no_leg_does(name: str) -> None:
    clock = FakeClock()
    mode = Mode(name, False, clock)
    closed = Pool(1)
    closed.take([])

    async def stuck() -> Response:
        await Wait(closed)
        raise AssertionError

    async def flow() -> Response:
        return await Race([(0.0, stuck), (3600.0, lambda: stack([], says())(call()))])

    assert mode.drive(flow()).text == "a b c "
    assert clock() >= 3600


def test_wait_gives_a_permit_and_takes_it_back(mode: Mode) -> None:
    pool = Pool(1)

    async def polite() -> int:
        with await Wait(pool):
            return pool.in_use

    async def careless() -> int:
        await Wait(pool)
        return pool.in_use

    for flow in (polite, careless):
        assert mode.drive(flow()).response == 1  # type: ignore[comparison-overlap]
        assert pool.in_use == 0


@pytest.mark.parametrize("timeout_s", [0.0, 0.01])
def test_wait_times_out_with_the_builtin_error(mode: Mode, timeout_s: float) -> None:
    pool = Pool(1)
    pool.take([])

    async def flow() -> None:
        await Wait(pool, timeout_s)

    with pytest.raises(TimeoutError) as caught:
        mode.drive(flow(), deadline_s=10)
    assert type(caught.value) is TimeoutError
    assert (pool.in_use, pool.waiting) == (1, 0)


def test_those_who_wait_are_served_in_order(mode: Mode) -> None:
    pool, served = Pool(1), []

    async def one(number: int) -> None:
        await Sleep(0.01 * number)
        with await Wait(pool):
            served.append(number)
            await Sleep(0.04)

    mode.drive(_gathered(*(one(number) for number in range(4))))
    assert served == [0, 1, 2, 3]
    assert (pool.in_use, pool.waiting, pool.peak) == (0, 0, 1)


def test_blocking_gives_the_result_or_the_error(mode: Mode) -> None:
    async def flow() -> int:
        with pytest.raises(ZeroDivisionError):
            await Blocking(lambda: 1 // 0)
        return await Blocking(lambda: 42, undo=lambda _: pytest.fail("nobody was cancelled"))

    assert mode.drive(flow()).response == 42  # type: ignore[comparison-overlap]


def test_blocking_uses_the_native_form_on_an_event_loop() -> None:
    async def afn() -> str:
        await asyncio.sleep(0)
        return "native"

    async def flow() -> str:
        return await Blocking(lambda: "thread", afn=afn)

    assert Mode("async", False).drive(flow()).response == "native"  # type: ignore[comparison-overlap]
    assert Mode("sync", False).drive(flow()).response == "thread"  # type: ignore[comparison-overlap]


def test_a_reserve_that_its_own_call_is_cancelled_in_is_undone_once(mode: Mode) -> None:
    scope = mode.scope()
    undone: list[int] = []

    async def flow() -> int:
        def reserve() -> int:
            scope.cancel()
            return 7

        return await Blocking(reserve, undone.append)

    with pytest.raises(Cancelled):
        mode.drive(flow(), scope=scope)
    eventually(lambda: undone == [7])


# -- Race, Gather ---------------------------------------------------------------------


def _race(*legs: tuple[float, Any], win: Any = "chunk", policies: Any = ()) -> Any:
    async def flow() -> Response:
        handlers = [(delay, stack(policies, provider)) for delay, provider in legs]
        return await Race([(delay, lambda h=h: h(call())) for delay, h in handlers], win=win)

    return flow()


def test_the_first_to_speak_wins_and_the_loser_is_cancelled(mode: Mode) -> None:
    slow, fast = says("slow", latency_s=30.0), says("fast leg", first_token_s=0.01, between_s=0.01)
    tagged = Tagged()
    assert mode.drive(_race((0.0, slow), (0.0, fast), policies=[tagged])).text == "fast leg "
    eventually(lambda: slow.in_flight == fast.in_flight == 0)
    assert slow.journal[0].outcome == "cancelled"
    eventually(lambda: len(tagged.ends) == 2)
    assert set(tagged.ends) <= {"ok", "Cancelled", "CancelledError"}


def test_the_first_to_end_well_wins_by_result(mode: Mode) -> None:
    early = says("early bird", first_token_s=0.0, between_s=30.0)
    quick = says("quick", latency_s=0.02)
    assert mode.drive(_race((0.0, early), (0.0, quick), win="result")).response.text == "quick "
    eventually(lambda: early.in_flight == 0)


def test_a_leg_that_is_not_needed_never_begins(mode: Mode) -> None:
    spare = says("spare")
    assert mode.drive(_race((0.0, says()), (5.0, spare))).text == "a b c "
    assert spare.calls == 0


def test_a_leg_begins_at_once_when_all_before_it_failed(mode: Mode) -> None:
    down = FakeProvider()
    down.down()
    assert mode.drive(_race((0.0, down), (60.0, says()), (90.0, down)), deadline_s=30).text == "a b c "
    assert down.calls == 1


def test_when_all_fail_the_first_legs_error_is_raised(mode: Mode) -> None:
    first = FakeProvider(answer=lambda _: Fail.rate_limited(latency_s=0.02))
    second = FakeProvider(answer=lambda _: Fail.unavailable())
    with pytest.raises(RateLimitError):
        mode.drive(_race((0.0, first), (0.0, second)))


def test_a_winner_that_breaks_off_later_is_an_interruption(streaming: Mode) -> None:
    broken = FakeProvider(answer=lambda _: Fail.cut_after(1))
    with pytest.raises(StreamInterruptedError):
        streaming.drive(_race((0.0, broken), (60.0, says())))


def test_races_nest_without_end(mode: Mode) -> None:
    """One thread a leg and no pool of them: with a bounded pool these would wait for each other."""

    async def nest(depth: int) -> Response:
        if depth == 0:
            return await stack([], says("deep", latency_s=0.001))(call())
        return await Race([(0.0, lambda: nest(depth - 1)), (0.0, lambda: nest(depth - 1))])

    assert mode.drive(nest(5)).text == "deep "


def test_a_race_without_legs_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="at least one leg"):
        Race([])


def test_gather_gives_results_in_order(mode: Mode) -> None:
    async def one(number: int) -> int:
        await Sleep(0.02 - 0.01 * number)
        return number

    assert mode.drive(_gathered(*(one(n) for n in range(3)))).response == [0, 1, 2]
    assert mode.drive(_gathered()).response == []


def test_one_failure_in_a_gathering_cancels_the_others(mode: Mode) -> None:
    tagged = Tagged()
    slow, down = says(latency_s=30.0), FakeProvider(answer=lambda _: Fail.unavailable(latency_s=0.01))
    with pytest.raises(ProviderUnavailableError):
        mode.drive(_gathered(*(stack([tagged], p)(call()) for p in (slow, down, slow))))
    eventually(lambda: slow.in_flight == 0 and len(tagged.ends) == 3)


# -- Spawn, Follow ---------------------------------------------------------------------


def test_a_spawned_flow_is_followed_from_its_beginning(mode: Mode) -> None:
    provider = says("a b c", first_token_s=0.01, between_s=0.01)

    async def flow() -> Response:
        tape = Tape()
        await Spawn(stack([], provider)(call()), tape)
        await Sleep(0.015)
        return await Follow(tape)

    heard = mode.drive(flow())
    assert heard.text == "a b c " == heard.response.text
    assert provider.calls == 1
    eventually(lambda: not mode.host.live)


def test_a_follower_gets_its_own_copy_of_the_error(mode: Mode) -> None:
    down = FakeProvider(answer=lambda _: Fail.unavailable(latency_s=0.01))
    tape = Tape()

    async def flow() -> Response:
        await Spawn(stack([], down)(call()), tape)
        return await Follow(tape)

    with pytest.raises(ProviderUnavailableError) as caught:
        mode.drive(flow())
    assert caught.value is not tape.error


def test_an_interrupted_flight_is_a_plain_failure_to_whoever_heard_nothing(mode: Mode) -> None:
    broken = FakeProvider(answer=lambda _: Fail.cut_after(2))

    async def flow() -> Response:
        tape = Tape()
        await Spawn(stack([], broken)(call()), tape)
        return await Follow(tape)

    with pytest.raises(StreamInterruptedError if mode.streaming else ProviderUnavailableError) as caught:
        mode.drive(flow())
    assert isinstance(caught.value, ProviderError)
    assert caught.value.retryable is not mode.streaming


def test_a_flow_that_was_cancelled_is_lost_to_its_followers(mode: Mode) -> None:
    provider = says(first_token_s=0.01, between_s=30.0)

    async def flow() -> Response:
        tape = Tape()
        spawned = await Spawn(stack([], provider)(call()), tape)
        await Sleep(0.03 if mode.real else 0.0)
        spawned.cancel()
        return await Follow(tape)

    with pytest.raises(StreamInterruptedError if mode.streaming and mode.real else FlightLost):
        mode.drive(flow())
    eventually(lambda: provider.in_flight == 0 and not mode.host.live)


# -- the deadline ------------------------------------------------------------------------


def _late_flows(mode: Mode) -> dict[str, Any]:
    full = Pool(1)
    full.take([])
    slow = says(first_token_s=30.0, latency_s=30.0)

    async def sleep() -> None:
        await Sleep(30)

    async def wait() -> None:
        await Wait(full, 60)

    async def tight() -> None:
        await Wait(full)

    async def race() -> Any:
        return await Race([(0.0, tight), (0.0, lambda: stack([], slow)(call()))])

    async def follow() -> Any:
        return await Follow(Tape())

    async def foreign() -> None:
        await asyncio.sleep(30)

    return {
        "sleep": sleep(),
        "wait": wait(),
        "wait without end": tight(),
        "invoke": stack([], slow)(call()),
        "hold": _held(slow),
        "race": race(),
        "gather": _gathered(tight(), stack([], slow)(call())),
        "follow": follow(),
    } | ({"foreign": foreign()} if mode.name == "async" else {})


async def _held(provider: Any) -> Response:
    return await Invoke(provider, call(), "hold")


@pytest.mark.parametrize("deadline_s", [0.0, 0.02])
def test_the_deadline_clamps_every_wait(mode: Mode, deadline_s: float) -> None:
    for where, flow in _late_flows(mode).items():
        before = mode.clock()
        with pytest.raises(DeadlineExceededError):
            mode.drive(flow, deadline_s=deadline_s)
        assert mode.clock() - before < 5, where


def test_nothing_is_sent_once_the_deadline_has_passed(mode: Mode) -> None:
    provider = says()
    with pytest.raises(DeadlineExceededError):
        mode.drive(stack([], provider)(call()), deadline_s=-1)
    assert provider.calls == 0


def test_a_deadline_that_is_moved_on_moves_the_waits(mode: Mode) -> None:
    """A flight gets the latest deadline of those who follow it."""
    pool = Pool(1)
    held: list[Any] = []
    pool.take(held)
    provider = says("a b", first_token_s=0.4, between_s=0.0)
    scope = mode.scope(0.2)

    async def later() -> None:
        scope.deadline_at = mode.clock() + 10
        await Sleep(0.3)
        held[0].release()

    async def work() -> Response:
        with await Wait(pool):
            scope.deadline_at = mode.clock() + 0.2
            return await Gather(stack([], provider)(call()), extend())  # type: ignore[return-value]

    async def extend() -> None:
        scope.deadline_at = mode.clock() + 10

    mode.drive(_gathered(work(), later()), scope=scope)
    assert pool.in_use == 0


# -- foreign awaitables ----------------------------------------------------------------------


class Awaits:
    """A user's policy that is at home on an event loop only."""

    def __init__(self, how: str) -> None:
        self.how = how

    async def __call__(self, call: Any, call_next: Any) -> Response:
        if self.how == "sleep":
            await asyncio.sleep(0.001)
        elif self.how == "bare":
            await asyncio.sleep(0)
        elif self.how == "future":
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, None)
            await future
        elif self.how == "timeout":
            async with asyncio.timeout(5):
                return await call_next(call)
        elif self.how == "task":
            await asyncio.create_task(asyncio.sleep(0))
        return await call_next(call)


KINDS = ["sleep", "bare", "future", "timeout", "task"]


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("deadline_s", [None, 5.0])
@pytest.mark.parametrize("streamed", [False, True])
def test_foreign_awaitables_pass_through_on_an_event_loop(
    how: str, deadline_s: float | None, streamed: bool
) -> None:
    heard = Mode("async", streamed).drive(stack([Awaits(how)], says())(call()), deadline_s)
    assert heard.text == "a b c "


def test_a_users_timeout_ends_the_call_as_a_timeout() -> None:
    class Hurried:
        async def __call__(self, call: Any, call_next: Any) -> Response:
            async with asyncio.timeout(0.01):
                return await call_next(call)

    slow = says(latency_s=30.0)
    with pytest.raises(TimeoutError) as caught:
        Mode("async", False).drive(stack([Hurried()], slow)(call()))
    assert type(caught.value) is TimeoutError
    assert slow.journal[0].outcome == "cancelled"


@pytest.mark.parametrize("name", ["sync", "virtual"])
@pytest.mark.parametrize("how", ["sleep", "bare", "future", "timeout"])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_elsewhere_the_error_names_the_policy_and_the_awaitable(name: str, how: str) -> None:
    named = {"sleep": r"asyncio\.sleep", "bare": r"asyncio\.", "timeout": r"asyncio\."}.get(how, "event loop")
    for streamed in (False, True):
        with pytest.raises(UsageError, match=rf"Awaits\.__call__ awaited .*{named}") as caught:
            Mode(name, streamed).drive(stack([Tagged(), Awaits(how)], says())(call()))
        assert "acomplete" in str(caught.value)


@pytest.mark.parametrize("name", ["sync", "virtual"])
def test_a_future_of_some_loop_is_named_too(name: str) -> None:
    loop = asyncio.new_event_loop()

    async def impatient() -> Any:
        return await loop.create_future()

    with pytest.raises(UsageError, match="impatient awaited Future"):
        Mode(name, False).drive(impatient())
    loop.close()


def test_a_runtime_error_of_the_policys_own_stays_what_it_is(mode: Mode) -> None:
    async def flow() -> None:
        raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match="my own") as caught:
        mode.drive(flow())
    assert type(caught.value) is RuntimeError


async def test_waiting_inside_a_running_loop_is_refused_and_names_the_way_out() -> None:
    pool = Pool(1)
    pool.take([])

    async def sleep() -> None:
        await Sleep(1)

    async def wait() -> None:
        await Wait(pool)

    async def race() -> Any:
        return await Race([(0.0, sleep)])

    async def follow() -> Any:
        return await Follow(Tape())

    slow = stack([], says(latency_s=1.0))
    for flow in (sleep(), wait(), race(), _gathered(sleep()), follow(), slow(call())):
        with pytest.raises(UsageError, match="acomplete"):
            Mode("sync", False).drive(flow)
    assert pool.waiting == 0
    assert Mode("sync", True).drive(stack([], says())(call())).text == "a b c "  # nothing to wait for


def test_a_provider_that_cannot_play_is_refused_in_virtual_time() -> None:
    class Real:
        name, waits = "real", True

    with pytest.raises(UsageError, match="virtual time"):
        Mode("virtual", False).drive(stack([], Real())(call()))


# -- timeouts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "times", "phase", "at_s"),
    [
        ({"first_token_s": 0.02, "total_s": 9.0}, {"first_token_s": 5.0}, "first_token", 0.02),
        (
            {"first_token_s": 5.0, "between_tokens_s": 0.02},
            {"first_token_s": 0.01, "between_s": 5.0},
            "between_tokens",
            0.03,
        ),
        (
            {"total_s": 0.05, "between_tokens_s": 0.04},
            {"first_token_s": 0.0, "between_s": 0.03},
            "total",
            0.05,
        ),
    ],
)
def test_each_timeout_fires_at_its_time_and_names_its_phase(
    streaming: Mode, bounds: Any, times: Any, phase: str, at_s: float
) -> None:
    before = streaming.clock()
    with pytest.raises(ProviderError) as caught:
        streaming.drive(stack([], says("a b c d", **times))(call(timeouts=limits(**bounds))))
    error = caught.value
    late = error.__cause__ if isinstance(error, StreamInterruptedError) else error
    assert isinstance(late, ProviderTimeoutError)
    assert late.phase == phase
    if streaming.real:
        assert streaming.clock() - before >= at_s - 0.001
    else:
        assert streaming.clock() == pytest.approx(at_s)


def test_a_whole_answer_knows_the_total_only(mode: Mode) -> None:
    slow = says(latency_s=0.06)
    bounds = limits(first_token_s=0.01, between_tokens_s=0.01, total_s=5.0)

    async def held() -> Response:
        return await Invoke(slow, call(timeouts=bounds), "hold")

    assert mode.drive(held()).response.text == "a b c "
    with pytest.raises(ProviderTimeoutError) as caught:
        mode.drive(stack([], says(latency_s=30.0))(call(timeouts=limits(total_s=0.02))))
    assert caught.value.phase == "total"


@pytest.mark.parametrize("start", [0.1, 0.7, 1e9 + 0.3])
def test_rounding_never_blames_another_bound(start: float) -> None:
    for total in (0.1, 0.2, 0.3, 0.7, 1.1):
        mode = Mode("virtual", True)
        mode.world.now = start
        provider = says("a b c d e f g h i", first_token_s=0.0, between_s=0.093)
        with pytest.raises(StreamInterruptedError) as caught:
            mode.drive(stack([], provider)(call(timeouts=limits(total_s=total / 2, between_tokens_s=9.0))))
        assert caught.value.__cause__.phase == "total"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["sync", "async"])
def test_a_slow_consumer_is_not_a_slow_provider(name: str) -> None:
    clock = FakeClock()
    mode = Mode(name, True, clock)
    provider = says("a b c d e", first_token_s=1.0, between_s=1.0)
    bounds = limits(first_token_s=2.0, between_tokens_s=2.0, total_s=7.0)
    asked = call(timeouts=bounds)
    heard = mode.drive(stack([], provider)(asked), deadline_s=8, after=lambda _: clock.advance(3600))
    assert heard.text == "a b c d e "
    assert asked.progress is not None
    assert asked.progress.elapsed_s == pytest.approx(5.0)
    assert asked.progress.first_token_s == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["sync", "async"])
def test_a_slow_consumer_of_a_tape_has_its_deadline_moved_along(name: str) -> None:
    clock = FakeClock()
    mode = Mode(name, True, clock)
    tape = Tape()
    for word in "abc":
        tape.push(Chunk(word))
    tape.end(Response(text="abc"))

    async def flow() -> Response:
        response = await Follow(tape)
        await Sleep(3)
        return response

    assert mode.drive(flow(), deadline_s=5, after=lambda _: clock.advance(100)).text == "abc"


@pytest.mark.parametrize("name", ["sync", "async"])
def test_the_deadline_still_counts_the_providers_time(name: str) -> None:
    clock = FakeClock()
    mode = Mode(name, True, clock)
    provider = says("a b c d e", first_token_s=1.0, between_s=1.0)
    with pytest.raises(DeadlineExceededError) as caught:
        mode.drive(stack([], provider)(call()), deadline_s=3.5, after=lambda _: clock.advance(3600))
    assert caught.value.partial is not None
    assert caught.value.partial.text == "a b c "


def test_the_watchdog_sleeps_while_the_consumer_has_the_time() -> None:
    provider = says("a b c", first_token_s=0.0, between_s=0.001)
    bounds = limits(first_token_s=0.03, between_tokens_s=0.03, total_s=0.04)

    async def main() -> list[str]:
        from tierllm.pipeline.aio import AsyncRun

        mode = Mode("async", True)
        driven = AsyncRun(stack([], provider)(call(timeouts=bounds)), mode.scope(0.04), mode.host, True)
        heard = []
        while (chunk := await driven.advance()) is not None:
            heard.append(chunk.text)
            await asyncio.sleep(0.05)
        await driven.aclose()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return heard

    assert "".join(asyncio.run(main())) == "a b c "


async def test_a_provider_that_swallows_its_timeout_leaves_no_cancellation_behind() -> None:
    class Stubborn(FakeProvider):
        async def acomplete(self, *_: Any) -> Response:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                pass
            return Response(text="so what", finish_reason="stop")

    from tierllm.pipeline.aio import arun

    mode = Mode("async", False)
    flow = stack([], Stubborn())(call(timeouts=limits(total_s=0.01)))
    assert (await arun(flow, mode.scope(), mode.host)).text == "so what"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_timeout_is_one_even_in_a_task_that_was_cancelled_before() -> None:
    """Cleanup code may still call a model: an old cancellation must not pass for a new one."""
    from tierllm.pipeline.aio import arun

    mode = Mode("async", False)

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            flow = stack([], says(latency_s=30.0))(call(timeouts=limits(total_s=0.01)))
            with pytest.raises(ProviderTimeoutError):
                await arun(flow, mode.scope(), mode.host)
            raise

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_bare_number_of_seconds_is_laid_out_by_play(mode: Mode) -> None:
    class Laid(PlayedProvider):
        name = "laid"

        def play(self, call: Any, scope: Any) -> Any:
            yield 0.01
            yield Chunk("x")
            yield Chunk(finish_reason="stop")

    assert mode.drive(stack([], Laid())(call())).text == "x"

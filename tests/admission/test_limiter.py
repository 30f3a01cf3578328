"""The state of a rate limit: settled from anywhere, never waited for, and whole after an interrupt."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import sys
import threading
import types
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierllm import Deployment, Tier, TieredClient
from tierllm.admission.limit_draw import LOOK_AGAIN_S
from tierllm.admission.limit_log import LimitLog
from tierllm.admission.limit_meter import Meter
from tierllm.admission.limiter import Limiter
from tierllm.admission.limits import Limits
from tierllm.admission.rate_limit import RateLimit
from tierllm.errors import ConfigError, RequestTooLargeError, ThrottledError, TierLLMError, UsageError
from tierllm.testing import FakeClock, FakeProvider
from tierllm.types import Call, Response

from .limiting import PLACE, Sent, Window, answer, asked, done, limits

STUCK_S = 60.0
"""Threads that take longer wait for each other."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


class Hung(Sent):
    """What was sent, and is never answered."""

    async def __call__(self, call: Call, /) -> Response:
        await super().__call__(call)

        @types.coroutine
        def waiting() -> Iterator[str]:
            yield "for ever"

        await waiting()
        raise AssertionError


class Told:
    def __init__(self) -> None:
        self.times = 0

    def poked(self) -> None:
        self.times += 1


def log_of(limit: RateLimit) -> LimitLog:
    return limit.limiter.meters["account"].logs[0]


def in_a_thread(do: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    return thread


# -- nobody who gives back waits -----------------------------------------------------------------------


def test_a_settlement_inside_of_a_take_is_done_after_it_and_told(clock: FakeClock) -> None:
    """A flow may be ended by garbage collection, in the middle of a change of the same limit, too."""
    limit = RateLimit(tpm=100, clock=clock)
    told = Told()
    limit.limiter.watch(told)
    taken = limit.take(input_tokens=100)
    taken.__enter__()
    with limit.limiter.lock:
        taken.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        assert log_of(limit).input_tokens == 100
        assert not told.times
    with limit.take():
        assert log_of(limit).input_tokens == 0
    assert told.times


def test_nobody_waits_to_settle_and_who_has_the_lock_does_it(clock: FakeClock) -> None:
    limit = RateLimit(tpm=100, max_concurrency=1, clock=clock)
    told = Told()
    limit.limiter.watch(told)
    policy = limits(limit, clock=clock)
    flow = policy(asked("x"), Hung(clock=clock))
    flow.send(None)
    inside, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with limit.limiter.lock:
            inside.set()
            assert ended.wait(STUCK_S)
            assert log_of(limit).requests == 1
        limit.limiter.catch_up()

    holder = in_a_thread(hold)
    assert inside.wait(STUCK_S)
    flow.close()
    ended.set()
    holder.join(STUCK_S)
    assert not holder.is_alive()
    assert not limit.limiter.meters["account"].held
    assert told.times == 1


def test_a_look_does_not_wait_for_long(clock: FakeClock) -> None:
    limit = RateLimit(rpm=5, clock=clock)
    policy = limits(limit, clock=clock)
    inside, looked = threading.Event(), threading.Event()

    def hold() -> None:
        with limit.limiter.lock:
            inside.set()
            looked.wait(STUCK_S)

    holder = in_a_thread(hold)
    assert inside.wait(STUCK_S)
    short = policy.peek(asked(), clock())
    looked.set()
    holder.join(STUCK_S)
    assert short is not None
    assert (short.wait_s, short.early, short.too_large) == (LOOK_AGAIN_S, True, False)
    error = short.error("gold/m-eu")
    assert isinstance(error, ThrottledError)
    assert error.waitable
    with limit.limiter.lock:  # nor is a change that this very thread is at looked into
        assert policy.peek(asked(), clock()) == short
    assert policy.peek(asked(), clock()) is None


def test_two_limits_and_a_finalizer_in_between(clock: FakeClock) -> None:
    """One thread has the second lock and settles on the first; another has the first and wants the second."""
    both = RateLimit(rpm=100, name="a", clock=clock), RateLimit(rpm=100, name="b", clock=clock)
    first, second = sorted(both, key=lambda limit: id(limit.limiter))
    flow = limits(first, clock=clock)(asked(), Hung(clock=clock))
    flow.send(None)
    inside, wanted = threading.Event(), threading.Event()

    def collected() -> float:
        if not inside.is_set():
            inside.set()
            assert wanted.wait(STUCK_S)
            flow.close()
        return clock()

    def on_second() -> None:
        policy = Limits([second], place=PLACE, clock=collected, wall=clock)
        done(policy(asked(), Sent(clock=clock)))

    def on_both() -> None:
        assert inside.wait(STUCK_S)
        with first.limiter.lock:
            wanted.set()
            done(limits(first, second, clock=clock)(asked(), Sent(clock=clock)))

    threads = [in_a_thread(on_second), in_a_thread(on_both)]
    for thread in threads:
        thread.join(STUCK_S)
    assert not any(thread.is_alive() for thread in threads)
    assert limits(first, clock=clock).status()[first.name]["used"] == {"rpm": 2}  # the vendor has counted it
    assert first.limiter.meters["account"].under_way == 0


@pytest.fixture
def often_collected() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(150, 3, 3)
    yield
    gc.set_threshold(*before)
    gc.collect()


@pytest.mark.usefixtures("often_collected")
def test_abandoned_calls_of_two_tiers_on_one_account() -> None:
    """Streams that nobody ends are collected in the middle of whatever runs; no thread may wait for good."""
    account = RateLimit(rpm=10**7, tpm=10**9, output_tpm=10**9, max_concurrency=10**6, name="acct")
    user = RateLimit(rpm=2, per="user")
    tiers = [
        Tier(name, [Deployment("m", FakeProvider(), name=name)], max_concurrency=6)
        for name in ("gold", "silver")
    ]
    client = TieredClient(tiers, limits=[account, user])
    failures: list[BaseException] = []

    class Cycle:
        pass

    def abandon(number: int) -> None:
        stream = client.stream("hi", sla="gold", user=f"{number}", deadline_s=0.05)
        stream.__enter__()
        chunks = iter(stream)
        next(chunks)
        cycle: Any = Cycle()
        cycle.parts = stream, chunks, cycle

    def work(index: int) -> None:
        for number in range(80):
            try:
                if index < 2:
                    abandon(index * 1000 + number)
                else:
                    sla = ("gold", "silver")[index % 2]
                    client.complete("hi", sla=sla, user=f"{index}.{number // 2}", deadline_s=0.05)
            except TierLLMError:
                pass
            except BaseException as error:
                failures.append(error)
                raise

    threads = [in_a_thread(lambda index=index: work(index)) for index in range(6)]  # type: ignore[misc]
    for thread in threads:
        thread.join(STUCK_S)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
    gc.collect()
    with account.take():
        pass
    meter = account.limiter.meters["account"]
    assert not meter.held
    assert meter.under_way == 0
    client.close()


# -- interrupts ----------------------------------------------------------------------------------------


class Interrupt(BaseException):
    pass


def interrupted(do: Callable[[], object], functions: tuple[Any, ...], at: int) -> bool:
    """Run ``do`` with an interrupt at the ``at``-th line of ``functions`` that it comes to."""
    codes = {function.__code__ for function in functions}
    left = [at]

    def line(frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            left[0] -= 1
            if left[0] < 0:
                sys.settrace(None)
                raise Interrupt
        return line

    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: line if frame.f_code in codes else None)
    try:
        do()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize(
    ("before", "idle_s"), [(30, 29.7), (70, 29.77), (10, 61.0)], ids=["some-over", "many-over", "all-over"]
)
def test_an_interrupt_anywhere_leaves_the_books_right(before: int, idle_s: float) -> None:
    functions = LimitLog.forget, LimitLog.add, LimitLog.fits, Meter.settle, Meter.charge
    at = 0
    while True:
        clock = FakeClock(1000.0)
        limit = RateLimit(rpm=before + 20, tpm=10**6, clock=clock)
        policy = limits(limit, clock=clock)
        window = Window(60.0)

        def one(
            policy: Limits = policy, window: Window = window, clock: FakeClock = clock, now: bool = True
        ) -> None:
            done(policy(asked(), Sent(clock=clock)))
            window.add(clock(), 1)

        for _ in range(before):
            clock.advance(0.01)
            one()
        clock.advance(30)
        for _ in range(20):
            clock.advance(0.01)
            one()
        clock.advance(idle_s)
        if not interrupted(one, functions, at):
            assert at > 30
            return
        log = log_of(limit)
        refused = 0
        for _ in range(before + 25):
            clock.advance(0.0001)
            try:
                one()
            except ThrottledError:
                refused += 1
        assert refused
        assert window.peak() <= before + 20
        log.forget(clock())
        assert log.requests == sum(cell.requests for cell in log.cells[log.head :]), at
        clock.advance(60)
        done(policy(asked(), Sent(clock=clock)))
        log.forget(clock())
        assert log.requests == 1
        assert log.output_tokens == sum(cell.output_tokens for cell in log.cells[log.head :])
        at += 1


# -- what is a guess -------------------------------------------------------------------------------------


def test_what_every_call_has_beside_is_not_counted_with_each_token(clock: FakeClock) -> None:
    policy = limits(RateLimit(tpm=60_000), clock=clock)
    for _ in range(60):
        done(policy(asked("hi", max_tokens=50), Sent(answer(60, 5), clock=clock)))
        clock.advance(2)
    clock.advance(100)
    long = asked("word " * 16_000, max_tokens=50)  # about 20,000 tokens, a third of the limit
    assert policy.peek(long, clock()) is None
    done(policy(long, Sent(answer(20_060, 5), clock=clock)))


def test_a_guess_alone_refuses_nothing_for_good(clock: FakeClock) -> None:
    """Where a wrong guess says that it never fits, it waits for all of the limit instead."""
    limit = RateLimit(tpm=1000)
    policy = limits(limit, clock=clock)
    fits = asked("x" * 6000, max_tokens=10)  # 1,500 by its length, and few enough in truth
    assert policy.peek(fits, clock()) is None
    done(policy(fits, Sent(answer(800, 5), clock=clock)))
    short = policy.peek(asked("x" * 6000, max_tokens=10), clock())
    assert short is not None
    assert not short.too_large
    with pytest.raises(ThrottledError):
        done(policy(asked("x" * 6000, max_tokens=10), Sent(clock=clock)))
    clock.advance(60)
    never = asked("word " * 2100, max_tokens=10)  # 2,100 words are more than 1,000 tokens, whoever counts
    short = policy.peek(never, clock())
    assert short is not None
    assert short.too_large
    with pytest.raises(RequestTooLargeError):
        done(policy(never, Sent(clock=clock)))


@settings(max_examples=30, deadline=None)
@given(each=st.floats(0.3, 3.5), beside=st.floats(0, 2000), seed=st.integers(0, 1000), alike=st.booleans())
def test_the_line_is_found(each: float, beside: float, seed: int, alike: bool) -> None:
    clock = FakeClock(0.0)
    policy = limits(RateLimit(tpm=10**9), clock=clock)
    rng = random.Random(seed)
    learns = policy._learns
    assert learns is not None

    def call() -> tuple[Call, int]:
        asking = asked("x" * (8000 if alike else rng.randrange(100, 40_000)), max_tokens=10)
        return asking, max(1, int(each * learns._size(asking) + beside))

    for _ in range(60):
        asking, told = call()
        done(policy(asking, Sent(answer(told, 5), clock=clock)))
    for _ in range(10):
        asking, told = call()
        assert policy._expected(asking, "p90").input_tokens == pytest.approx(told, rel=0.25, abs=600)


# -- room that comes back without a refund -----------------------------------------------------------------


def test_who_may_no_longer_owe_makes_room(clock: FakeClock) -> None:
    limit = RateLimit(tpm=1000, clock=clock)
    told = Told()
    limit.limiter.watch(told)
    for _ in range(20):
        with limit.take(output_tokens=200) as take:
            take.settle(output_tokens=300)
        clock.advance(61)
    blocks = [limit.take(output_tokens=200) for _ in range(2)]
    takes = [block.__enter__() for block in blocks]
    meter = limit.limiter.meters["account"]
    assert meter.lack(0, 0, 500, clock(), "") is not None
    told.times = 0
    for block, take in zip(blocks, takes, strict=True):
        take.settle(output_tokens=200)
        block.__exit__(None, None, None)
    assert meter.lack(0, 0, 500, clock(), "") is None
    assert told.times


# -- settings and misuse -----------------------------------------------------------------------------------


def test_very_many_tags(clock: FakeClock) -> None:
    limit = RateLimit(rpm=5, per="tag", clock=clock)
    tags = frozenset(f"t{number}" for number in range(3000))
    with limit.take(tags=tags):
        pass
    assert len(limit.limiter.meters) == 3000


def test_a_bucket_that_is_being_taken_is_not_swept(clock: FakeClock) -> None:
    limit = RateLimit(rpm=1, per="tag", clock=clock)
    for number in range(2000):
        with limit.take(tags=[f"old {number}"]):
            pass
    clock.advance(100)
    tags = [f"new {number}" for number in range(300)]
    with limit.take(tags=tags):
        pass
    for tag in tags:
        with pytest.raises(ThrottledError), limit.take(tags=[tag]):
            pass
    assert isinstance(limit.limiter, Limiter)


@pytest.mark.parametrize("name", ["rpm", "tpm", "rpd", "max_concurrency"])
def test_more_than_can_be_counted(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        RateLimit(**{name: 2**53 + 1})  # type: ignore[arg-type]
    RateLimit(**{name: 2**53})  # type: ignore[arg-type]


def test_nothing_left_over_for_a_tier(clock: FakeClock) -> None:
    limit = RateLimit(rpm=10, reserve={"gold": 0.5, "silver": 0.5}, clock=clock)
    with limit.take(tier="gold"):
        pass
    with pytest.raises(ThrottledError, match="reserve") as caught, limit.take(tier="bronze"):
        pass
    assert not caught.value.waitable


TIERS = {name: [Deployment("m", FakeProvider(), name=f"m-{name}")] for name in ("gold", "silver", "bronze")}


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"reserve": {"glod": 0.3}}, "no tier 'glod'"),
        ({"where": {"tier": "glod"}}, "no tier 'glod'"),
        ({"where": {"deployment": "m-glod"}}, "no deployment 'm-glod'"),
        ({"where": {"model": "n"}}, "no model 'n'"),
        ({"where": {"tier": "gold", "deployment": "m-silver"}}, "never holds"),
        ({"reserve": {"gold": 0.5, "silver": 0.5}}, "nothing is left for bronze"),
    ],
    ids=["reserve", "tier", "deployment", "model", "together", "nothing-left"],
)
def test_places_that_there_are_not(settings_: dict[str, Any], says: str) -> None:
    tiers = [Tier(name, deployments) for name, deployments in TIERS.items()]
    with pytest.raises(ConfigError, match=says):
        TieredClient(tiers, limits=[RateLimit(rpm=10, **settings_)])
    on_one = Deployment("m", FakeProvider(), name="m-gold", limits=[RateLimit(rpm=10, **settings_)])
    if "nothing" not in says:
        with pytest.raises(ConfigError, match=says):
            TieredClient([Tier("gold", [on_one]), *tiers[1:]])


def test_places_of_another_client_are_nobodys_mistake() -> None:
    limit = RateLimit(rpm=10, reserve={"gold": 0.3}, name="acct")
    first = TieredClient([Tier("gold", TIERS["gold"])], limits=[limit])
    TieredClient([Tier("silver", TIERS["silver"])], limits=[limit]).close()
    first.close()


def test_one_clock_the_first() -> None:
    first, second = FakeClock(1000.0), FakeClock(50.0)
    limit = RateLimit(rpm=1, name="acct")
    a, b = limits(limit, clock=first), limits(limit, clock=second)
    done(a(asked(), Sent(clock=first)))
    with pytest.raises(ThrottledError) as caught:
        done(b(asked(), Sent(clock=second)))
    assert caught.value.retry_after_s == pytest.approx(60)
    with pytest.raises(ThrottledError) as caught, limit.take():
        pass
    assert caught.value.retry_after_s == pytest.approx(60)
    short = b.peek(asked(), second())
    assert short is not None
    assert short.wait_s == pytest.approx(60)
    first.advance(60)
    assert b.peek(asked(), second()) is None
    with limit.take():
        pass


def test_a_take_that_is_over_is_not_settled(clock: FakeClock) -> None:
    limit = RateLimit(tpm=100, clock=clock)
    with limit.take(input_tokens=50) as take:
        pass
    with pytest.raises(UsageError, match="over"):
        take.settle(input_tokens=10)
    elsewhere = RateLimit(tpm=100, where={"plan": "free"}, clock=clock)
    with elsewhere.take(plan="paid") as take:
        pass
    with pytest.raises(UsageError, match="over"):
        take.settle(input_tokens=10)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deep"])
def test_it_is_not_copied(copied: Callable[[RateLimit], object]) -> None:
    with pytest.raises(UsageError, match="store="):
        copied(RateLimit(rpm=5))


def test_a_deployments_name_alone_is_no_place(clock: FakeClock) -> None:
    limit = RateLimit(rpm=1, per="deployment", clock=clock)
    with pytest.raises(ConfigError, match="tier="), limit.take(deployment="m-eu"):
        pass
    with limit.take(deployment="m-eu", tier="gold"):
        pass
    with pytest.raises(ThrottledError):
        done(limits(limit, clock=clock)(asked(), Sent(clock=clock)))

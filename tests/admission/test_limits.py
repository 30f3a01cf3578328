"""The policy that keeps the limits of one place: taking, every way out, what is told."""

from __future__ import annotations

import gc
import random
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission.limiting import PLACE, Sent, Window, answer, asked, done, limits
from pipeline.drivers import Mode, stack
from pipeline.drivers import call as plain_call
from tierllm.admission.limits import Limits
from tierllm.admission.rate_limit import RateLimit
from tierllm.cost.place import Place
from tierllm.errors import (
    ConfigError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    RequestTooLargeError,
    StreamInterruptedError,
    ThrottledError,
    TierLLMError,
)
from tierllm.events import CallThrottled, Event
from tierllm.pipeline.scope import Cancelled
from tierllm.testing import Fail, FakeClock, FakeProvider, Reply
from tierllm.types import Call, Response, Usage


@pytest.fixture(params=["sync", "sync-stream", "async", "async-stream", "virtual", "virtual-stream"])
def mode(request: pytest.FixtureRequest) -> Mode:
    name, _, streaming = request.param.partition("-")
    return Mode(name, bool(streaming))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


def used(limit: RateLimit, bucket: str = "account") -> tuple[int, int, int]:
    log = limit.limiter.meters[bucket].logs[0]
    return log.requests, log.input_tokens, log.output_tokens


# -- every way out ---------------------------------------------------------------------


WAYS: list[tuple[str, Any, tuple[int, int, int], tuple[int, int, int]]] = [
    # what comes after; what is left booked for the vendor's limit; for the caller's own
    ("answered", Sent(answer(10, 5)), (1, 10, 5), (1, 10, 5)),
    ("silent", Sent(Response(text="x", finish_reason="stop")), (1, 4, 100), (1, 4, 100)),
    ("nonsense", Sent(answer(-3, 10**12)), (1, 4, 100), (1, 4, 100)),
    ("429", Sent(RateLimitError("slow down", status=429)), (1, 0, 0), (0, 0, 0)),
    ("500", Sent(ProviderUnavailableError("no", status=500)), (1, 0, 0), (0, 0, 0)),
    ("timeout", Sent(ProviderTimeoutError("late")), (1, 4, 100), (0, 4, 100)),
    ("cancelled", Sent(Cancelled()), (1, 4, 100), (1, 4, 100)),
    (
        "cancelled-stream",
        Sent(Cancelled(), streaming=True, texts=("some words ", "of an answer")),
        (1, 4, 5),
        (1, 4, 5),
    ),
    (
        "broken-stream",
        Sent(StreamInterruptedError("broken"), streaming=True, usage=Usage(input_tokens=7, output_tokens=2)),
        (1, 7, 2),
        (1, 7, 2),
    ),
    ("refused-below", Sent(ThrottledError("busy"), reaches=False), (0, 0, 0), (0, 0, 0)),
    ("never-reached", Sent(KeyboardInterrupt(), reaches=False), (0, 0, 0), (0, 0, 0)),
    ("a-bug", Sent(ZeroDivisionError(), reaches=False), (0, 0, 0), (0, 0, 0)),
]


@pytest.mark.parametrize(("after", "vendors", "own"), [w[1:] for w in WAYS], ids=[w[0] for w in WAYS])
def test_it_is_settled_whichever_way_it_ends(
    after: Sent, vendors: tuple[int, int, int], own: tuple[int, int, int], clock: FakeClock
) -> None:
    account = RateLimit(tpm=1000, max_concurrency=1)
    user = RateLimit(tpm=1000, per="user")
    policy = limits(account, user, clock=clock)
    poked: list[int] = []
    policy.listen(lambda: poked.append(1))
    call = asked(max_tokens=100, user="u")
    flow = policy(call, after)
    if isinstance(after.end, BaseException):
        with pytest.raises(type(after.end)):
            done(flow)
    else:
        done(flow)
    assert used(account) == pytest.approx(vendors, abs=4)
    assert used(user, "user=u") == pytest.approx(own, abs=4)
    assert used(account)[0] == vendors[0]
    assert used(user, "user=u")[0] == own[0]
    assert not account.limiter.meters["account"].held
    assert poked


@pytest.mark.parametrize("failing", [False, True])
def test_in_every_kind_of_time(mode: Mode, failing: bool) -> None:
    limit = RateLimit(rpm=2, tpm=100_000)
    policy = Limits([limit], place=PLACE, clock=mode.clock, wall=mode.clock)
    provider = FakeProvider(answer=lambda _: Fail.unavailable() if failing else Reply("hi there"))
    for _ in range(2):
        try:
            mode.drive(stack([policy], provider)(plain_call()))
        except ProviderUnavailableError:
            assert failing
    with pytest.raises(ThrottledError):
        mode.drive(stack([policy], provider)(plain_call()))
    assert len(provider.journal) == 2
    requests, input_tokens, output_tokens = used(limit)
    assert requests == 2
    assert (input_tokens + output_tokens == 0) is failing


def test_a_flow_that_is_dropped_gives_back(clock: FakeClock) -> None:
    limit = RateLimit(tpm=1000, max_concurrency=1)
    policy = limits(limit, clock=clock)

    class Never:
        def __await__(self) -> Any:
            yield

    async def waits(call: Call, /) -> Response:
        await Never()
        raise AssertionError

    flow = policy(asked(), waits)
    flow.send(None)
    assert used(limit)[0] == 1
    del flow
    gc.collect()
    assert used(limit) == (0, 0, 0)
    assert not limit.limiter.meters["account"].held


# -- all or nothing -----------------------------------------------------------------------


def test_all_limits_or_none(clock: FakeClock) -> None:
    account = RateLimit(rpm=10, tpm=100_000)
    user = RateLimit(rpm=2, per="user")
    tag = RateLimit(rpm=3, per="tag")
    policy = limits(tag, user, account, clock=clock)
    sent = Sent()
    for _ in range(2):
        done(policy(asked(user="a", tags=("x", "y")), sent))
    with pytest.raises(ThrottledError) as caught:
        done(policy(asked(user="a", tags=("x", "z")), sent))
    assert caught.value.personal
    assert sent.calls == 2
    assert used(account)[0] == used(user, "user=a")[0] == used(tag, "tag=x")[0] == 2
    assert used(tag, "tag=z")[0] == 0
    done(policy(asked(user="b", tags=("x",)), sent))
    with pytest.raises(ThrottledError, match="tag=x"):
        done(policy(asked(user="c", tags=("x",)), sent))
    assert used(account)[0] == 3
    assert used(user, "user=c")[0] == 0


def test_the_longest_wait_is_told(clock: FakeClock) -> None:
    first, second = RateLimit(rpm=1, name="first"), RateLimit(rpd=1, name="second")
    policy = limits(first, second, clock=clock)
    done(policy(asked(), Sent()))
    clock.advance(10)
    shortfall = policy.peek(asked(), clock())
    assert shortfall is not None
    assert (shortfall.limit, shortfall.dimension, shortfall.wait_s) == ("second", "rpd", 86_390)
    with pytest.raises(ThrottledError) as caught:
        done(policy(asked(), Sent()))
    assert caught.value.retry_after_s == 86_390
    assert caught.value.waitable
    assert not caught.value.personal


def test_one_limit_in_two_places_is_one_account(clock: FakeClock) -> None:
    account = RateLimit(rpm=2, name="openai")
    here = limits(account, clock=clock)
    there = limits(account, clock=clock, place=Place("bronze", "n", "n"))
    heard: list[str] = []
    here.listen(lambda: heard.append("here"))
    done(here(asked(), Sent()))
    done(there(asked(), Sent()))
    for policy in (here, there):
        assert policy.peek(asked(), clock()) is not None
    assert heard  # what the other gave back is told here too
    del there
    gc.collect()
    account.limiter.tell()


def test_two_of_one_name_are_told_apart(clock: FakeClock) -> None:
    with pytest.raises(ConfigError, match="give one a name"):
        limits(RateLimit(rpm=2, per="user"), RateLimit(rpm=2, per="user"), clock=clock)
    twice = RateLimit(rpm=1)
    policy = limits(twice, twice, clock=clock)
    done(policy(asked(), Sent()))
    assert used(twice)[0] == 1


def test_where_and_places(clock: FakeClock) -> None:
    free = RateLimit(rpm=1, per="plan", where={"plan": "free"})
    elsewhere = RateLimit(rpm=1, where={"tier": "bronze"})
    policy = limits(free, elsewhere, clock=clock)
    assert [limit.name for limit in policy.limits] == [free.name]
    for _ in range(3):
        done(policy(asked(plan="paid"), Sent()))
    done(policy(asked(plan="free"), Sent()))
    with pytest.raises(ThrottledError):
        done(policy(asked(plan="free"), Sent()))


# -- before sending ----------------------------------------------------------------------


def test_the_seat_hears_of_a_call_that_is_sent(clock: FakeClock) -> None:
    class Seat:
        heard = 0

        def sent(self) -> None:
            self.heard += 1

    policy = limits(RateLimit(rpm=1), clock=clock)
    call = asked()
    call.permit = Seat()
    done(policy(call, Sent()))
    with pytest.raises(ThrottledError):
        done(policy(call, Sent()))
    assert call.permit.heard == 1


def test_peeking_changes_nothing_and_counts_copies(clock: FakeClock) -> None:
    limit = RateLimit(rpm=3, tpm=100_000, per="user")
    policy = limits(limit, clock=clock)
    call = asked(user="u")
    for _ in range(10):
        assert policy.peek(call, clock()) is None
    assert limit.limiter.meters == {}
    assert policy.peek(call, clock(), copies=3) is None
    assert policy.peek(call, clock(), copies=4) is not None
    done(policy(call, Sent()))
    assert policy.peek(call, clock(), copies=2) is None
    shortfall = policy.peek(call, clock(), copies=3)
    assert shortfall is not None
    assert shortfall.personal
    assert shortfall.wait_s == 60


def test_too_large_is_said_by_the_text_and_not_by_a_guess(clock: FakeClock) -> None:
    policy = limits(RateLimit(tpm=1000, name="acct"), clock=clock)
    done(policy(asked("short"), Sent()))  # 4,096 tokens of output are only a guess
    clock.advance(60)
    long = asked("word " * 2000)
    shortfall = policy.peek(long, clock())
    assert shortfall is not None
    assert shortfall.too_large
    with pytest.raises(RequestTooLargeError, match="acct"):
        done(policy(long, Sent()))
    strict = limits(RateLimit(tpm=1000, tokens="max"), clock=clock)
    with pytest.raises(RequestTooLargeError):
        done(strict(asked("short", max_tokens=2000), Sent()))
    done(strict(asked("short"), Sent()))


def test_a_tier_keeps_its_share(clock: FakeClock) -> None:
    account = RateLimit(rpm=10, reserve={"gold": 0.5})
    gold = limits(account, clock=clock)
    bronze = limits(account, clock=clock, place=Place("bronze", "n", "n"))
    for _ in range(5):
        done(bronze(asked(), Sent()))
    assert bronze.peek(asked(), clock()) is not None
    for _ in range(5):
        done(gold(asked(), Sent()))
    assert gold.peek(asked(), clock()) is not None


# -- what is told --------------------------------------------------------------------------


def test_a_refusal_is_told_and_a_look_is_not(clock: FakeClock) -> None:
    events: list[Event] = []
    policy = limits(RateLimit(rpm=1, name="acct"), clock=clock, emit=events.append)
    done(policy(asked(), Sent()))
    policy.peek(asked(), clock())
    assert events == []
    with pytest.raises(ThrottledError) as caught:
        done(policy(asked(), Sent()))
    (event,) = events
    assert isinstance(event, CallThrottled)
    assert (event.tier, event.deployment, event.by, event.mode) == ("gold", "m-eu", "acct", "enforce")
    assert event.error is caught.value
    assert "gold/m-eu: limit 'acct' is used up (rpm=1); there is room in 60 s" in str(event.error)
    assert policy.status()["acct"]["refused"] == 1


def test_observing_takes_tells_and_lets_go(clock: FakeClock) -> None:
    events: list[Event] = []
    limit = RateLimit(rpm=1, mode="observe")
    policy = limits(limit, clock=clock, emit=events.append)
    for _ in range(3):
        done(policy(asked(), Sent()))
    assert policy.peek(asked(), clock()) is None
    assert [event.mode for event in events if isinstance(event, CallThrottled)] == ["observe"] * 2
    assert used(limit)[0] == 3


def test_status_and_rate(clock: FakeClock) -> None:
    policy = limits(RateLimit(rpm=600, tpm=6000), RateLimit(rpm=1, per="user"), clock=clock)
    assert policy.rate_per_s() == 10.0
    for number in range(40):
        done(policy(asked(user=f"u{number}", max_tokens=90), Sent(answer(10, 90))))
    assert policy.rate_per_s() == pytest.approx(1.0)
    first, second = policy.status().values()
    assert first["used"] == {"rpm": 40, "tpm": 4000}
    assert (second["buckets"], "used" in second) == (40, False)
    assert limits(clock=clock).rate_per_s() is None


# -- the vendor's word -----------------------------------------------------------------------


def told(**given: str) -> dict[str, str]:
    return {f"x-ratelimit-{name.replace('_', '-')}": value for name, value in given.items()}


def test_the_vendor_is_believed_where_it_says_less_is_left(clock: FakeClock) -> None:
    policy = limits(RateLimit(rpm=100, tpm=100_000), clock=clock)
    headers = told(limit_requests="100", remaining_requests="2", reset_requests="17s")
    done(policy(asked(), Sent(headers=headers)))  # from the second on, it is known what was sent since
    done(policy(asked(), Sent(headers=headers)))
    for _ in range(2):
        done(policy(asked(), Sent()))
    shortfall = policy.peek(asked(), clock())
    assert shortfall is not None
    assert shortfall.wait_s == pytest.approx(17.0)
    with pytest.raises(ThrottledError, match="vendor's requests"):
        done(policy(asked(), Sent()))
    clock.advance(17)
    done(policy(asked(), Sent()))


def test_a_lower_limit_of_the_vendors_holds(clock: FakeClock) -> None:
    account = RateLimit(rpm=100, reserve={"gold": 0.5})
    policy = limits(account, clock=clock)
    bronze = limits(account, clock=clock, place=Place("bronze", "n", "m"))
    headers = told(limit_requests="10", remaining_requests="9", reset_requests="6s")
    done(bronze(asked(), Sent(headers=headers)))
    clock.advance(1)
    for _ in range(4):
        done(bronze(asked(), Sent()))
    assert bronze.peek(asked(), clock()) is not None
    for _ in range(5):
        done(policy(asked(), Sent()))
    assert policy.peek(asked(), clock()) is not None


def test_a_lower_limit_that_is_told_no_more_is_forgotten(clock: FakeClock) -> None:
    policy = limits(RateLimit(tpm=100_000, tokens="max"), clock=clock)
    headers = told(limit_tokens="150", remaining_tokens="75", reset_tokens="30s")
    done(policy(asked("x" * 400, max_tokens=100), Sent(headers=headers)))
    with pytest.raises(ThrottledError, match="vendor's tokens") as caught:  # larger than that: not for ever
        done(policy(asked("x" * 4000, max_tokens=100), Sent()))
    assert caught.value.waitable
    clock.advance(caught.value.retry_after_s or 0)
    done(policy(asked("x" * 4000, max_tokens=100), Sent()))
    assert policy.peek(asked("x" * 4000, max_tokens=100), clock()) is not None
    clock.advance(61)
    done(policy(asked("x" * 400, max_tokens=100), Sent(headers=told(limit_tokens="150"))))  # told again
    clock.advance(599)
    done(policy(asked(max_tokens=140), Sent()))
    assert policy.peek(asked(max_tokens=140), clock()) is not None
    clock.advance(2)
    assert policy.peek(asked(max_tokens=140), clock()) is None


def test_what_one_vendor_says_is_not_said_of_another(clock: FakeClock) -> None:
    account = RateLimit(rpm=6000, tpm=1_000_000)
    here = limits(account, clock=clock, place=Place("gold", "a", "gpt", vendor="openai"))
    others = [
        limits(account, clock=clock, place=Place("silver", "b", "claude", vendor="anthropic")),
        limits(account, clock=clock, place=Place("silver", "c", "gpt-mini", vendor="openai")),
        limits(account, clock=clock, place=Place("silver", "d", "gpt", vendor="azure")),
    ]
    twin = limits(account, clock=clock, place=Place("bronze", "e", "gpt", vendor="openai"))
    headers = told(
        limit_requests="60",
        remaining_requests="0",
        reset_requests="60s",
        limit_tokens="30000",
        remaining_tokens="0",
        reset_tokens="6m0s",
    )
    for _ in range(2):
        done(here(asked(), Sent(headers=headers)))
    for policy in (here, twin):
        assert policy.peek(asked(), clock()) is not None
    for policy in others:
        for _ in range(70):
            done(policy(asked("word " * 8000), Sent(answer(10, 5))))


@pytest.mark.parametrize(
    ("limit", "remaining", "reset"),
    [("5", "4", "1s"), ("4000", "3990", "60s"), ("4000", "4000", "0s"), ("100", "99", "864s")],
    ids=["a-second", "fixed", "untouched", "a-day"],
)
def test_a_limit_of_who_knows_what_window_is_left_alone(
    limit: str, remaining: str, reset: str, clock: FakeClock
) -> None:
    policy = limits(RateLimit(rpm=8000), clock=clock)
    headers = told(limit_requests=limit, remaining_requests=remaining, reset_requests=reset)
    done(policy(asked(), Sent(headers=headers)))
    for _ in range(6000):
        done(policy(asked(), Sent()))


def test_a_moment_counts_from_when_it_is_heard(clock: FakeClock) -> None:
    from datetime import UTC, datetime
    from email.utils import format_datetime

    def told_at(ahead_s: float, skew_s: float, dated: bool) -> dict[str, str]:
        at = datetime.fromtimestamp(clock() + skew_s, UTC)
        reset = datetime.fromtimestamp(clock() + skew_s + ahead_s, UTC)
        headers = {
            "anthropic-ratelimit-requests-limit": "100",
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": reset.isoformat().replace("+00:00", "Z"),
        }
        return {**headers, "Date": format_datetime(at, usegmt=True)} if dated else headers

    for skew_s, dated, expected_s in [(0.0, False, 30.0), (3600.0, True, 30.0), (3600.0, False, 60.0)]:
        policy = limits(RateLimit(rpm=100), clock=clock)

        class Slow(Sent):
            async def __call__(self, call: Call, /) -> Response:
                clock.advance(31)
                self.headers = told_at(30.0, skew_s, dated)  # noqa: B023
                return await super().__call__(call)

        for _ in range(2):
            done(policy(asked(), Slow()))
        shortfall = policy.peek(asked(), clock())
        assert shortfall is not None
        assert shortfall.wait_s == pytest.approx(expected_s, abs=1.0)
        clock.advance(100)


@pytest.mark.parametrize("limit", [RateLimit(rpm=100, headers=False), RateLimit(rpm=100, per="user")])
def test_who_does_not_listen_hears_nothing(limit: RateLimit, clock: FakeClock) -> None:
    policy = limits(limit, clock=clock)
    headers = told(limit_requests="2", remaining_requests="0", reset_requests="17s")
    for _ in range(3):
        done(policy(asked(user="u"), Sent(headers=headers)))
    assert policy.peek(asked(user="u"), clock()) is None


def test_an_errors_headers_count_too(clock: FakeClock) -> None:
    policy = limits(RateLimit(rpm=100), clock=clock)
    headers = told(limit_requests="100", remaining_requests="0", reset_requests="17s")
    for _ in range(2):
        with pytest.raises(RateLimitError):
            done(policy(asked(), Sent(RateLimitError("no", status=429), headers=headers)))
    assert policy.peek(asked(), clock()) is not None


# -- what a call is expected to need ------------------------------------------------------------


def test_output_is_reserved_by_what_answers_were(clock: FakeClock) -> None:
    limit = RateLimit(tpm=1_000_000)
    policy = limits(limit, clock=clock)
    rng = random.Random(5)

    class Counting(Sent):
        reserved = 0

        async def __call__(self, call: Call, /) -> Response:
            self.reserved = used(limit)[2] - before
            return await super().__call__(call)

    before = 0
    for _ in range(100):
        sent = Counting(answer(8, rng.randrange(50, 100)))
        done(policy(asked(max_tokens=1000), sent))
        before = used(limit)[2]
    assert 90 <= sent.reserved <= 100
    done(policy(asked(max_tokens=30), sent))
    assert sent.reserved == 30


def test_input_is_told_from_its_length_and_corrected(clock: FakeClock) -> None:
    limit = RateLimit(tpm=10_000_000)
    policy = limits(limit, clock=clock)
    text = "something long " * 200  # 3,000 characters
    need = policy._expected(asked(text), "p90")
    assert 600 < need.input_tokens < 900
    for _ in range(60):
        done(policy(asked(text), Sent(answer(1500, 10))))
    assert policy._expected(asked(text), "p90").input_tokens == pytest.approx(1500, rel=0.02)
    assert policy._expected(asked("日本語" * 1000), "p90").input_tokens > 1000
    tools = [{"type": "function", "function": {"name": "f", "description": "long " * 500}}]
    with_tools = asked("hi")
    with_tools.params = {"tools": tools}
    assert policy._expected(with_tools, "p90").input_tokens > 500
    with_tools.params = {"max_tokens": 10, "n": 4}
    assert policy._expected(with_tools, "max").output_tokens == 40


# -- threads, and the sum of it all ------------------------------------------------------------------


ENDS = st.sampled_from(["ok", "less", "more", "429", "lost", "dropped"])


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 400), ENDS, st.booleans()), max_size=50))
def test_after_settling_the_books_are_exact(steps: list[tuple[int, int, str, bool]]) -> None:
    clock = FakeClock()
    limit = RateLimit(rpm=8, tpm=1500)
    policy = limits(limit, clock=clock)
    requests, tokens = Window(60.0), Window(60.0)
    for wait_s, size, end, grows in steps:
        clock.advance(wait_s / 2)
        call = asked("x" * size, max_tokens=size)
        need = policy._expected(call, "p90")
        output = need.output_tokens
        ends = {
            "ok": (Sent(answer(need.input_tokens, output)), 1, need.input_tokens + output),
            "less": (Sent(answer(1, 1)), 1, 2),
            "more": (Sent(answer(900, 200 if grows else 1)), 1, 1100 if grows else 901),
            "429": (Sent(RateLimitError("no", status=429)), 1, 0),
            "lost": (Sent(ProviderTimeoutError("late")), 1, need.input_tokens + output),
            "dropped": (Sent(Cancelled(), reaches=False), 0, 0),
        }
        sent, counted, amount = ends[end]
        fits = requests.used(clock()) + 1 <= 8 and tokens.used(clock()) + need.input_tokens + output <= 1500
        try:
            done(policy(call, sent))
        except ThrottledError:
            assert not fits
            continue
        except (TierLLMError, Cancelled):
            pass
        assert fits
        requests.add(clock(), counted)
        tokens.add(clock(), amount)
    log = limit.limiter.meters["account"].logs[0] if steps else None
    if log is not None:
        log.forget(clock())
        assert log.requests == requests.used(clock())
        assert log.input_tokens + log.output_tokens == tokens.used(clock())


def test_threads_over_one_policy() -> None:
    account = RateLimit(rpm=2000, tpm=100_000, max_concurrency=5)
    user = RateLimit(rpm=500, per="user")
    policy = Limits([user, account], place=PLACE, clock=time.monotonic, wall=time.time)
    answered = [0] * 8
    at_once: list[int] = []

    def hammer(number: int) -> None:
        rng = random.Random(number)

        async def sent(call: Call, /) -> Response:
            at_once.append(len(account.limiter.meters["account"].held))
            return answer(rng.randrange(1, 20), rng.randrange(1, 40))

        for _ in range(300):
            try:
                done(policy(asked(max_tokens=60, user=f"u{rng.randrange(4)}"), sent))
                answered[number] += 1
            except ThrottledError:
                policy.peek(asked(), time.monotonic())

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(at_once) <= 5
    assert used(account)[0] == sum(answered) <= 2000
    assert sum(used(user, f"user=u{n}")[0] for n in range(4)) == sum(answered)
    assert used(account)[1] + used(account)[2] <= 100_000 + 8 * 100
    assert not account.limiter.meters["account"].held

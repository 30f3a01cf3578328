"""A rate limit by itself: its settings, its buckets, and taking by hand."""

from __future__ import annotations

import math
import os
import random
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission.limiting import Window
from tierllm.admission.rate_limit import RateLimit
from tierllm.errors import ConfigError, RequestTooLargeError, ThrottledError, UsageError
from tierllm.testing import FakeClock
from tierllm.types import Request


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


def take(limit: RateLimit, input_tokens: int = 0, output_tokens: int = 0, **who: Any) -> None:
    with limit.take(input_tokens=input_tokens, output_tokens=output_tokens, **who):
        pass


def refused(limit: RateLimit, **what: Any) -> float:
    with pytest.raises(ThrottledError) as caught:
        take(limit, **what)
    assert caught.value.waitable
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


# -- settings --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "something to limit"),
        ({"rpm": 0}, "whole number"),
        ({"rpm": True}, "whole number"),
        ({"tpm": 1.5}, "whole number"),
        ({"max_concurrency": -1}, "whole number"),
        ({"rpm": 5, "per": "nobody"}, "one or several of"),
        ({"rpm": 5, "per": ()}, "one or several of"),
        ({"rpm": 5, "per": ("user", "user")}, "one or several of"),
        ({"rpm": 5, "per": ("account", "user")}, "stands alone"),
        ({"rpm": 5, "where": {"colour": "red"}}, "none of"),
        ({"rpm": 5, "where": {"plan": ""}}, "give a name"),
        ({"rpm": 5, "where": "free"}, "mapping"),
        ({"rpm": 5, "reserve": {"gold": 1}}, "share"),
        ({"rpm": 5, "reserve": {"gold": 0.6, "silver": 0.6}}, "more than there is"),
        ({"rpm": 5, "reserve": {str(n): 0.1 for n in range(4)}}, "at most 3"),
        ({"rpm": 5, "reserve": 0.3}, "shares by tier"),
        ({"max_concurrency": 5, "reserve": {"gold": 0.3}}, "requests or tokens"),
        ({"rpm": 5, "tokens": "p50"}, "one of"),
        ({"rpm": 5, "pacing": 0}, "at once"),
        ({"max_concurrency": 5, "pacing": True}, "requests or tokens"),
        ({"rpm": 5, "fail": "maybe"}, "one of"),
        ({"rpm": 5, "mode": "off"}, "one of"),
        ({"rpm": 5, "store": object()}, "RedisStore"),
        ({"rpm": 5, "name": "a|b"}, "without"),
    ],
    ids=range(24),
)
def test_settings_that_make_no_sense(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RateLimit(**settings)


def test_an_accounts_limit_in_a_store_wants_a_name() -> None:
    from tierllm.stores import MemoryStore

    with pytest.raises(ConfigError, match="name="):
        RateLimit(rpm=5, store=MemoryStore())
    RateLimit(rpm=5, store=MemoryStore(), name="openai")


def test_it_is_named_by_what_it_is() -> None:
    assert RateLimit(rpm=5, tpm=100, per=("tenant", "user"), where={"plan": "free"}).name == (
        "tenant+user:rpm=5,tpm=100[plan=free]"
    )


# -- taking ------------------------------------------------------------------------


def test_no_more_than_the_limit_in_any_minute(clock: FakeClock) -> None:
    limit = RateLimit(rpm=3, clock=clock)
    for _ in range(3):
        take(limit)
        clock.advance(10)
    assert refused(limit) == pytest.approx(30)
    clock.advance(30)
    take(limit)
    assert refused(limit) == pytest.approx(10)


def test_every_dimension_or_none(clock: FakeClock) -> None:
    limit = RateLimit(rpm=10, tpm=100, output_tpm=50, rpd=4, clock=clock)
    take(limit, 10, 40)
    assert refused(limit, input_tokens=1, output_tokens=20) == pytest.approx(60)  # output
    take(limit, 40, 10)
    clock.advance(60)
    take(limit, 60, 0)
    assert refused(limit, input_tokens=60) == pytest.approx(60)  # tokens
    take(limit, 1)
    assert refused(limit) == pytest.approx(86_400 - 60)  # a day's requests
    clock.advance(86_400 - 60)
    take(limit)


def test_what_was_used_counts_once_it_is_known(clock: FakeClock) -> None:
    limit = RateLimit(tpm=100, clock=clock)
    with limit.take(input_tokens=50, output_tokens=50) as taken:
        refused(limit, input_tokens=1)
        taken.settle(input_tokens=20, output_tokens=20)
        assert taken.used == (20, 20)
        with pytest.raises(UsageError):
            taken.settle()
    take(limit, 60)
    refused(limit, input_tokens=1)
    clock.advance(60)
    with limit.take(input_tokens=50) as taken:
        taken.settle(output_tokens=150)
    assert refused(limit) == pytest.approx(60)  # a debt, for as long as it counts


@pytest.mark.parametrize("amounts", [{"input_tokens": -1}, {"output_tokens": 1.5}, {"input_tokens": True}])
def test_amounts_are_whole_numbers(amounts: dict[str, Any], clock: FakeClock) -> None:
    limit = RateLimit(tpm=100, clock=clock)
    with pytest.raises(ConfigError), limit.take(**amounts):
        pass
    with limit.take() as taken, pytest.raises(ConfigError):
        taken.settle(**amounts)


def test_an_error_gives_the_tokens_back_and_a_callers_own_request(clock: FakeClock) -> None:
    vendors = RateLimit(rpm=1, tpm=100, clock=clock)
    own = RateLimit(rpm=1, tpm=100, per="user", clock=clock)
    for limit in (vendors, own):
        with pytest.raises(ZeroDivisionError), limit.take(input_tokens=100, user="u"):
            raise ZeroDivisionError
        assert limit.limiter.meters.popitem()[1].logs[0].input_tokens == 0
    assert vendors.limiter.meters == {}
    with pytest.raises(ZeroDivisionError), vendors.take():
        raise ZeroDivisionError
    refused(vendors)
    take(own, user="u")


def test_too_large_for_ever_is_said_at_once(clock: FakeClock) -> None:
    limit = RateLimit(rpm=5, tpm=1000, name="acct", clock=clock)
    with pytest.raises(RequestTooLargeError) as caught, limit.take(input_tokens=900, output_tokens=200):
        pass
    error = caught.value
    assert "1100" in str(error)
    assert "1000 tokens a minute" in str(error)
    assert "'acct'" in str(error)
    assert (error.input_tokens, error.output_tokens, error.window) == (900, 200, 1000)
    assert error.retry_after_s is None


def test_calls_at_once(clock: FakeClock) -> None:
    limit = RateLimit(max_concurrency=2, clock=clock)
    with limit.take():
        with limit.take():
            with pytest.raises(ThrottledError) as caught:
                take(limit)
            assert caught.value.retry_after_s == 1.0  # nobody knows yet how long a call takes
            clock.advance(4)
        take(limit)
        with limit.take():
            assert 0 < refused(limit) <= 4
    take(limit)


# -- whose -----------------------------------------------------------------------------


def test_a_bucket_each(clock: FakeClock) -> None:
    limit = RateLimit(rpm=1, per="user", clock=clock)
    take(limit, user="a")
    take(limit, user="b")
    take(limit)  # all that name nobody share one
    with pytest.raises(ThrottledError, match="user=a") as caught:
        take(limit, user="a")
    assert caught.value.personal
    refused(limit)


def test_combinations_and_tags(clock: FakeClock) -> None:
    limit = RateLimit(rpm=1, per=("tenant", "tag"), clock=clock)
    request = Request(messages=(), tenant="a,b", tags=("x", "y", "x"))
    assert limit.buckets(request, "gold", "m") == ["tenant=a\\,b,tag=x", "tenant=a\\,b,tag=y"]
    take(limit, tenant="t", tags=["x", "y"])
    take(limit, tenant="t", tags=["z"])
    refused(limit, tenant="t", tags=["z", "y"])
    take(limit, tenant="t", tags=["w"])


def test_places(clock: FakeClock) -> None:
    limit = RateLimit(rpm=1, per="deployment", clock=clock)
    take(limit, tier="gold", deployment="m")
    take(limit, tier="silver", deployment="m")
    refused(limit, tier="gold", deployment="m")
    with pytest.raises(ConfigError, match="deployment="):
        take(limit)


def test_where_says_for_whom(clock: FakeClock) -> None:
    limit = RateLimit(rpm=1, where={"plan": "free", "tier": ["gold"]}, clock=clock)
    take(limit, plan="free", tier="gold")
    take(limit, plan="paid", tier="gold")
    take(limit, plan="free", tier="silver")
    refused(limit, plan="free", tier="gold")


def test_idle_buckets_are_dropped(clock: FakeClock) -> None:
    limit = RateLimit(rpm=5, per="user", clock=clock)
    for number in range(20_000):
        take(limit, user=f"u{number}")
        clock.advance(0.1)
    assert len(limit.limiter.meters) < 3000  # 600 of them are less than a minute old
    refused_by = RateLimit(rpm=1, per="user", clock=clock)
    for number in range(5000):
        take(refused_by, user=f"u{number}")
    refused(refused_by, user="u0")  # however many there are, none that counts is dropped
    daily = RateLimit(rpm=5, tpd=1000, per="user", clock=clock)
    for number in range(5000):
        take(daily, user=f"u{number}")
    clock.advance(86_400)
    for number in range(100):  # a few at a time, so that nobody waits for all
        before = len(daily.limiter.meters)
        take(daily, user=f"new {number}")
        assert before - len(daily.limiter.meters) < 100
    assert len(daily.limiter.meters) < 1100


def test_observing_tells_and_refuses_nothing(clock: FakeClock) -> None:
    limit = RateLimit(rpm=1, mode="observe", clock=clock)
    for _ in range(5):
        take(limit)
    assert limit.limiter.meters["account"].logs[0].requests == 5


# -- kept for a tier -----------------------------------------------------------------


def test_a_share_is_kept_for_a_tier(clock: FakeClock) -> None:
    limit = RateLimit(rpm=10, reserve={"gold": 0.3}, clock=clock)
    for _ in range(7):
        take(limit, tier="bronze")
    refused(limit, tier="bronze")
    for _ in range(3):
        take(limit, tier="gold")
    refused(limit, tier="gold")
    clock.advance(60)
    for _ in range(9):
        take(limit, tier="gold")  # and it competes for the rest
    take(limit, tier="bronze")
    refused(limit, tier="bronze")


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["gold", "silver", "x"]), st.integers(0, 20)), max_size=80),
    gold=st.sampled_from([0.1, 0.25, 0.5]),
    silver=st.sampled_from([0.1, 0.3, 0.4]),
)
def test_what_a_tier_has_not_used_of_its_share_is_free(
    steps: list[tuple[str, int]], gold: float, silver: float
) -> None:
    """Never is less left than what those with a share have not used of it, and no more is kept than that."""
    clock = FakeClock()
    limit = RateLimit(rpm=20, reserve={"gold": gold, "silver": silver}, clock=clock)
    kept = {"gold": math.floor(20 * gold + 1e-9), "silver": math.floor(20 * silver + 1e-9)}
    used = {tier: Window(60.0) for tier in ("gold", "silver", "x")}
    for tier, wait_s in steps:
        clock.advance(wait_s)
        now = clock()
        spoken_for = sum(max(0, kept[t] - used[t].used(now)) for t in kept if t != tier)
        fits = sum(each.used(now) for each in used.values()) + 1 + spoken_for <= 20
        try:
            take(limit, tier=tier)
        except ThrottledError:
            assert not fits
        else:
            assert fits
            used[tier].add(now, 1)


# -- pacing ------------------------------------------------------------------------------


def test_paced_calls_come_evenly(clock: FakeClock) -> None:
    limit = RateLimit(rpm=60, pacing=True, clock=clock)
    for _ in range(200):
        take(limit)
        assert refused(limit) == pytest.approx(1.0)
        clock.advance(refused(limit))
    used = RateLimit(rpm=60, pacing=5, clock=clock)
    for _ in range(5):
        take(used)
    assert refused(used) == pytest.approx(1.0)


def test_pacing_by_tokens(clock: FakeClock) -> None:
    limit = RateLimit(tpm=600, pacing=True, clock=clock)
    with limit.take(input_tokens=100) as taken:
        taken.settle(input_tokens=50)
    assert refused(limit, input_tokens=10) == pytest.approx(5.0)


def test_a_burst_is_within_the_limit_all_the_same(clock: FakeClock) -> None:
    limit = RateLimit(rpm=10, pacing=10, clock=clock)
    window = Window(60.0)
    for _ in range(2000):
        try:
            take(limit)
            window.add(clock(), 1)
        except ThrottledError as error:
            clock.advance(error.retry_after_s or 0)
    assert window.peak() == 10
    assert len(window.taken) >= 0.99 * (clock() - 1000) / 6


# -- threads, forks ------------------------------------------------------------------------


def test_threads_take_no_more_than_there_is() -> None:
    limit = RateLimit(rpm=1000, tpm=50_000, max_concurrency=6, per="user")
    taken: list[int] = []
    most: list[int] = []

    def hammer(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(400):
            amount = rng.randrange(1, 100)
            try:
                with limit.take(input_tokens=amount, output_tokens=amount, user="u") as held:
                    most.append(len(limit.limiter.meters["user=u"].held))
                    used = rng.randrange(0, amount + 1)
                    held.settle(input_tokens=used, output_tokens=amount)
                    taken.append(used + amount)
            except ThrottledError:
                pass

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    meter = limit.limiter.meters["user=u"]
    (log,) = meter.logs
    assert not meter.held
    assert max(most) <= 6
    assert log.requests == len(taken) <= 1000
    assert log.input_tokens + log.output_tokens == sum(taken) <= 50_000
    assert log.requests == sum(cell.requests for cell in log.cells[log.head :])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_goes_on_from_there(clock: FakeClock) -> None:
    limit = RateLimit(rpm=2, max_concurrency=1, clock=clock)
    with limit.take(), limit.limiter.lock:
        child = os.fork()
        if not child:
            try:
                take(limit)  # the parent's call is not the child's, but the vendor has counted it
                refused(limit)
                os._exit(0)
            finally:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

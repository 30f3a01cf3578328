"""Limits that processes share through a store: real disks, a real Redis, real processes."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from admission.limiting import PLACE, Sent, answer, asked, done, limits
from pipeline.drivers import Mode
from stores.ground import OPENED, SPAWN, Server, eventually, opened
from tierllm.admission.limits import Limits
from tierllm.admission.rate_limit import RateLimit
from tierllm.cost.place import Place
from tierllm.errors import ProviderUnavailableError, RateLimitError, StoreUnavailableError, ThrottledError
from tierllm.events import CallThrottled, Event
from tierllm.pipeline.scope import Cancelled
from tierllm.stores import Hold, Line, MemoryStore, Standing, Store, Verdict
from tierllm.testing import FakeClock


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        running = Server(Path(directory))
        yield running
        running.stop()


@pytest.fixture(params=["disk", "redis"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "store")
    running: Server = request.getfixturevalue("server")
    with running.client() as client:
        client.flushall()
    return running.url


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    yield
    for store in tuple(OPENED):
        store.close()
    OPENED.clear()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_800_000_000.0)


def two(clock: FakeClock, store: Store, **settings: Any) -> tuple[Limits, Limits]:
    """Two processes, as far as their limits can tell: they have nothing in common but the store."""
    return tuple(  # type: ignore[return-value]
        limits(RateLimit(name="acct", store=store, **settings), clock=clock) for _ in range(2)
    )


def standing(store: Store, account: str, oldest: int = 0) -> Standing:
    return store.standings([Line(account, 0, None, 4e9, 0, oldest)])[0]


# -- one process, two limits ------------------------------------------------------------


def test_what_one_took_the_other_has_not(clock: FakeClock) -> None:
    store = MemoryStore(clock=clock)
    here, there = two(clock, store, rpm=3)
    for policy in (here, there, here):
        done(policy(asked(), Sent()))
        clock.advance(1)
    with pytest.raises(ThrottledError) as caught:
        done(there(asked(), Sent()))
    assert caught.value.waitable
    assert 57 <= (caught.value.retry_after_s or 0) <= 57.2
    clock.advance(caught.value.retry_after_s or 0)
    done(there(asked(), Sent()))
    with pytest.raises(ThrottledError):
        done(here(asked(), Sent()))


def test_a_refusal_is_remembered_and_not_asked_for_again(clock: FakeClock) -> None:
    store = MemoryStore(clock=clock)
    here, there = two(clock, store, rpm=2)
    assert there.peek(asked(), clock()) is None
    for _ in range(2):
        done(here(asked(), Sent()))
    assert there.peek(asked(), clock()) is None  # nobody has told it yet
    asks: list[Hold] = []
    reserve = store.reserve

    def counting(hold: Hold) -> Verdict:
        asks.append(hold)
        return reserve(hold)

    store.reserve = counting  # type: ignore[method-assign]
    for _ in range(5):
        with pytest.raises(ThrottledError):
            done(there(asked(), Sent()))
        clock.advance(1)
    assert len(asks) == 1
    shortfall = there.peek(asked(), clock())
    assert shortfall is not None
    assert shortfall.wait_s == pytest.approx(55, abs=0.2)
    clock.advance(shortfall.wait_s)
    assert there.peek(asked(), clock()) is None
    done(there(asked(), Sent()))


def test_tokens_are_settled_into_the_slot_of_their_take(clock: FakeClock) -> None:
    store = MemoryStore(clock=clock)
    here, there = two(clock, store, tpm=1000, tokens="max")

    class Long(Sent):
        async def __call__(self, call: Any, /) -> Any:
            clock.advance(30)
            return await super().__call__(call)

    done(here(asked(max_tokens=900), Long(answer(10, 700))))
    with pytest.raises(ThrottledError) as caught:
        done(there(asked(max_tokens=500), Sent()))
    assert caught.value.retry_after_s == pytest.approx(30.1, abs=0.1)
    shortfall = there.peek(asked(max_tokens=500), clock())
    assert shortfall is not None
    assert shortfall.wait_s == 1.0  # somebody may give tokens back meanwhile: it looks again
    clock.advance(29.5)
    with pytest.raises(ThrottledError):
        done(there(asked(max_tokens=500), Sent()))
    clock.advance(0.7)  # 60 s after the take, not after its end
    done(there(asked(max_tokens=500), Sent()))


def test_a_refusal_takes_nothing_anywhere(clock: FakeClock) -> None:
    store = MemoryStore(clock=clock)
    here, there = two(clock, store, rpm=1, per="user")
    local = RateLimit(rpm=5, name="local")
    both = limits(local, *there.limits, clock=clock)
    done(here(asked(user="u"), Sent()))
    with pytest.raises(ThrottledError):
        done(both(asked(user="u"), Sent()))
    assert local.limiter.meters["account"].logs[0].requests == 0
    done(both(asked(user="v"), Sent()))
    assert local.limiter.meters["account"].logs[0].requests == 1


@pytest.mark.parametrize(
    ("sent", "requests", "tokens"),
    [
        (Sent(answer(10, 5)), 1, 15),
        (Sent(RateLimitError("no", status=429)), 1, 0),
        (Sent(ThrottledError("busy"), reaches=False), 0, 0),
        (Sent(Cancelled(), reaches=False), 0, 0),
        (Sent(Cancelled(), streaming=True, texts=("some words " * 10,)), 1, 32),
    ],
    ids=["answered", "429", "refused", "never-sent", "cancelled"],
)
def test_every_way_out_is_settled(sent: Sent, requests: int, tokens: int, clock: FakeClock) -> None:
    store = MemoryStore(clock=clock)
    policy, _ = two(clock, store, rpm=5, tpm=10_000, max_concurrency=1)
    if isinstance(sent.end, BaseException):
        with pytest.raises(type(sent.end)):
            done(policy(asked(max_tokens=100), sent))
    else:
        done(policy(asked(max_tokens=100), sent))
    slot = int(clock() / 0.1) - 600
    assert standing(store, "limit|acct|rpm||account", slot)[:2] == (requests, 0)
    settled, reserved, _ = standing(store, "limit|acct|tpm||account", slot)
    assert (settled, reserved) == (pytest.approx(tokens, abs=4), 0)
    assert standing(store, "limit|acct|max_concurrency||account")[:2] == (0, 0)


def test_calls_at_once_are_shared(clock: FakeClock) -> None:
    store = MemoryStore(clock=clock)
    here, there = two(clock, store, max_concurrency=1)

    class Meanwhile(Sent):
        async def __call__(self, call: Any, /) -> Any:
            with pytest.raises(ThrottledError):
                done(there(asked(), Sent()))
            return await super().__call__(call)

    done(here(asked(), Meanwhile()))
    clock.advance(2)
    done(there(asked(), Sent()))


def test_a_tiers_share_is_kept_in_the_store_too(clock: FakeClock) -> None:
    store = MemoryStore(clock=clock)
    settings: dict[str, Any] = {"rpm": 10, "reserve": {"gold": 0.3}, "name": "acct", "store": store}
    gold = limits(RateLimit(**settings), clock=clock)
    bronze = limits(RateLimit(**settings), clock=clock, place=Place("bronze", "n", "n"))
    for _ in range(7):
        done(bronze(asked(), Sent()))
    with pytest.raises(ThrottledError):
        done(bronze(asked(), Sent()))
    for _ in range(3):
        done(gold(asked(), Sent()))
    with pytest.raises(ThrottledError):
        done(gold(asked(), Sent()))


@pytest.mark.parametrize("dimension", ["rpm", "tpm"])
def test_a_refusal_is_remembered_for_those_alone_whom_it_is_about(dimension: str, clock: FakeClock) -> None:
    store = MemoryStore(clock=clock)
    most = {"rpm": {"rpm": 10}, "tpm": {"tpm": 10_000, "tokens": "max"}}[dimension]
    settings: dict[str, Any] = {"reserve": {"gold": 0.5}, "name": "acct", "store": store, **most}
    one, other = (RateLimit(**settings, clock=clock, wall_clock=clock) for _ in range(2))
    silver = Place("silver", "n", "n")
    gold_here = limits(one, clock=clock)
    silver_here, silver_there = (limits(each, clock=clock, place=silver) for each in (one, other))
    for _ in range(5):
        done(silver_there(asked(max_tokens=900), Sent(answer(0, 0))))
    with pytest.raises(ThrottledError):
        done(silver_here(asked(max_tokens=900), Sent(answer(0, 0))))
    assert silver_here.peek(asked(max_tokens=900), clock()) is not None
    assert gold_here.peek(asked(max_tokens=900), clock()) is None
    done(gold_here(asked(max_tokens=900), Sent()))
    if dimension == "tpm":  # and a smaller one is asked for anew
        assert silver_here.peek(asked(max_tokens=100), clock()) is None
        done(silver_here(asked(max_tokens=100), Sent()))


def test_a_smaller_take_is_not_refused_from_memory(clock: FakeClock) -> None:
    store = MemoryStore(clock=clock)
    settings: dict[str, Any] = {"rpm": 10, "name": "acct", "store": store}
    one, other = (RateLimit(**settings, clock=clock, wall_clock=clock) for _ in range(2))
    with one.take(requests=7):
        pass
    with pytest.raises(ThrottledError), other.take(requests=5):
        pass
    with pytest.raises(ThrottledError), other.take(requests=6):
        pass
    with other.take(requests=3):
        pass


def test_how_long_to_wait_is_told_from_above(clock: FakeClock) -> None:
    """Takes of 100 each second: for 1,000 as many of them have to leave the window, not the first alone."""
    store = MemoryStore(clock=clock)
    settings: dict[str, Any] = {"tpm": 3000, "name": "acct", "store": store}
    one, other = (RateLimit(**settings, clock=clock, wall_clock=clock) for _ in range(2))
    for _ in range(30):
        with one.take(input_tokens=100):
            pass
        clock.advance(1)
    for amount, exact_s in ((100, 30.0), (1000, 39.0), (2000, 49.0), (3000, 59.0)):
        with pytest.raises(ThrottledError) as caught, other.take(input_tokens=amount):
            pass
        assert exact_s <= (caught.value.retry_after_s or 0) <= exact_s + 3.0
        other.limiter.meters["account"].refused = None
    clock.advance(39.2)
    with other.take(input_tokens=1000):
        pass


def test_one_that_observes_tells_of_what_other_processes_took(clock: FakeClock) -> None:
    store = MemoryStore(clock=clock)
    seen: list[Event] = []
    here, there = (
        limits(
            RateLimit(rpm=2, max_concurrency=5, name="acct", store=store, mode="observe"),
            clock=clock,
            emit=seen.append,
        )
        for _ in range(2)
    )
    for policy in (here, there):
        done(policy(asked(), Sent()))
    assert not seen
    done(here(asked(), Sent()))
    (event,) = seen
    assert isinstance(event, CallThrottled)
    assert (event.by, event.mode) == ("acct", "observe")
    assert here.status()["acct"]["refused"] == 0
    done(here(asked(), Sent()))  # both know it now: told of once
    assert len(seen) == 2


def test_the_clients_store_shares_what_has_a_name_of_its_own(tmp_path: Path, clock: FakeClock) -> None:
    store = opened(str(tmp_path / "s"))
    given = (RateLimit(rpm=1), RateLimit(rpm=2, name="n"), RateLimit(rpm=3, per="user"))
    policy = limits(*given, clock=clock, store=store)
    assert [each["store"] is not None for each in policy.status().values()] == [False, True, True]
    assert policy.stores() == [store]
    assert limits(*given, clock=clock, store=MemoryStore()).stores() == []


# -- a store that is away ---------------------------------------------------------------------


class Away(MemoryStore):
    def reserve(self, hold: Hold) -> Verdict:
        raise StoreUnavailableError("gone")


def test_without_its_store_a_limit_is_kept_by_this_process_alone(clock: FakeClock) -> None:
    here, there = two(clock, Away(), rpm=2)
    for policy in (here, there):
        for _ in range(2):
            done(policy(asked(), Sent()))
        with pytest.raises(ThrottledError):
            done(policy(asked(), Sent()))


def test_one_that_fails_closed_refuses(clock: FakeClock) -> None:
    here, _ = two(clock, Away(), rpm=2, fail="closed")
    with pytest.raises(ThrottledError, match="fails closed") as caught:
        done(here(asked(), Sent()))
    assert caught.value.retry_after_s == 1.0
    limit = here.limits[0]
    assert limit.limiter.meters["account"].logs[0].requests == 0
    with pytest.raises(StoreUnavailableError), limit.take():
        pass


# -- real stores --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sync", "async", "virtual"])
def test_in_every_kind_of_time(name: str, where: str) -> None:
    mode = Mode(name, False)
    store = opened(where)
    limit = RateLimit(rpm=2, tpm=1000, max_concurrency=1, name="acct", store=store)
    policy = Limits([limit], place=PLACE, clock=mode.clock, wall=time.time)
    mode.drive(policy(asked(max_tokens=10), Sent()))
    with pytest.raises(ProviderUnavailableError):
        mode.drive(policy(asked(max_tokens=10), Sent(ProviderUnavailableError("no", status=500))))
    other = RateLimit(rpm=2, tpm=1000, max_concurrency=1, name="acct", store=opened(where))
    with pytest.raises(ThrottledError), other.take(input_tokens=1):
        pass
    slot = int(time.time() / 0.1) - 600
    assert standing(store, "limit|acct|rpm||account", slot)[:2] == (2, 0)
    assert standing(store, "limit|acct|tpm||account", slot)[:2] == (15, 0)
    assert standing(store, "limit|acct|max_concurrency||account")[:2] == (0, 0)


def take_and_hang(where: str, told: Connection) -> None:
    """A process that is killed in the midst of its calls."""
    limit = RateLimit(rpd=5, tpd=1000, max_concurrency=9, name="acct", store=opened(where, lease_s=0.5))
    with ExitStack() as calls:
        for _ in range(5):
            calls.enter_context(limit.take(input_tokens=10, output_tokens=90))
        told.send("sent")
        time.sleep(60)


def test_what_a_killed_process_sent_counts_until_its_window_is_over(where: str) -> None:
    here, there = SPAWN.Pipe(duplex=False)
    taker = SPAWN.Process(target=take_and_hang, args=(where, there))
    taker.start()
    assert here.poll(60)
    os.kill(taker.pid or 0, signal.SIGKILL)
    taker.join()
    store = opened(where, lease_s=0.5)
    limit = RateLimit(rpd=5, tpd=1000, max_concurrency=9, name="acct", store=store)

    def given_back() -> bool:
        """What it had at once is, when its lease is over."""
        if standing(store, "limit|acct|max_concurrency||account").reserved:
            with suppress(ThrottledError), limit.take(requests=0, input_tokens=1000):
                pass
            limit.limiter.meters["account"].refused = None
            return False
        return True

    eventually(given_back)
    with pytest.raises(ThrottledError) as caught, limit.take():
        pass
    assert (caught.value.retry_after_s or 0) > 86_000
    slot = int(time.time() / 144) - 600
    assert standing(store, "limit|acct|rpd||account", slot)[:2] == (5, 0)
    assert standing(store, "limit|acct|tpd||account", slot)[:2] == (500, 0)


def test_what_was_taken_leaves_the_window_though_the_call_goes_on(clock: FakeClock) -> None:
    store = MemoryStore(clock=clock)
    here, there = two(clock, store, rpm=1)

    class Long(Sent):
        async def __call__(self, call: Any, /) -> Any:
            clock.advance(60.2)
            done(there(asked(), Sent()))
            return await super().__call__(call)

    done(here(asked(), Long()))
    with pytest.raises(ThrottledError):
        done(here(asked(), Sent()))


def take_often(where: str, number: int, told: Connection) -> None:
    """One process that wants more than there is, in a time that passes 60 times as fast."""
    store = opened(where)
    began = time.time()

    def wall() -> float:
        return (time.time() - ZERO) * FASTER

    limit = RateLimit(rpm=30, tpm=4000, name="acct", store=store, clock=wall, wall_clock=wall)
    taken: list[tuple[float, float, int]] = []
    while time.time() < began + 2.0:
        before = wall()
        try:
            with limit.take(input_tokens=50 + 10 * number, output_tokens=100) as held:
                taken.append((before, wall(), 90 + 10 * number))
                held.settle(output_tokens=40)
        except ThrottledError:
            time.sleep(0.001)
    told.send(taken)
    store.close()


FASTER = 60.0
ZERO = 1_700_000_000.0


def test_processes_pass_no_limit_in_any_window(where: str) -> None:
    """Two seconds are two minutes here. What counts is a moment between those before and after a take: a
    window is passed for certain where takes lie in it with both."""
    pipes = []
    takers = []
    for number in range(3):
        here, there = SPAWN.Pipe(duplex=False)
        taker = SPAWN.Process(target=take_often, args=(where, number, there))
        taker.start()
        pipes.append(here)
        takers.append(taker)
    taken: list[tuple[float, float, int]] = []
    for pipe, taker in zip(pipes, takers, strict=True):
        assert pipe.poll(60)
        taken += pipe.recv()
        taker.join()
        assert taker.exitcode == 0
    for begins, _, _ in taken:
        inside = [tokens for before, after, tokens in taken if begins <= before and after < begins + 60.0]
        assert len(inside) <= 30
        assert sum(inside) <= 4000
    assert len(taken) > 30  # more than one window's worth was had

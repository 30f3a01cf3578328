"""Too many calls for a pool: who waits, who is told what, and that those who leave leave nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from client.forms import Told, World
from pipeline.drivers import eventually, soon
from tierllm import Admission, Deployment, RateLimit, Tier, TieredClient
from tierllm.client.handle import CallHandle
from tierllm.errors import (
    CallCancelledError,
    ClientClosedError,
    DeadlineExceededError,
    ThrottledError,
    TierLLMError,
)
from tierllm.events import CallThrottled
from tierllm.testing import FakeProvider


def tiers(fake: FakeProvider, *, below: bool = False, **gold: Any) -> list[Tier]:
    limits = {name: gold.pop(name) for name in ("rpm", "limits") if name in gold}
    made = [Tier("gold", [Deployment("big", fake, **limits)], **{"max_concurrency": 1, **gold})]
    return [*made, Tier("bronze", [Deployment("small", fake)], max_concurrency=2)] if below else made


def world(latency_s: float = 10.0, **gold: Any) -> World:
    fake = FakeProvider(latency_s=latency_s)
    return World(tiers(fake, **gold), fake=fake, timeouts=None)


def pool_of(client: TieredClient, tier: str = "gold") -> Any:
    return client._setup.lines[tier].pool


def at_rest(client: TieredClient) -> bool:
    pools = [line.pool for line in client._setup.lines.values() if line.pool is not None]
    return all(
        pool.in_use == pool.waiting == pool.deferred == 0
        and not pool.waiters()
        and not pool._unsent
        and pool._alarms.keeper is None
        for pool in pools
    )


# -- on_full ------------------------------------------------------------------------------------------


def test_on_full_wait_waits() -> None:
    there = world()
    first, second = there.begin(), there.begin()
    there.time.run()
    assert (first.ended_s, second.ended_s) == (10.0, 20.0)


def test_on_full_step_down_goes_to_the_next_tier_at_once() -> None:
    there = world(below=True, admission=Admission(on_full="step_down"))
    calls = [there.begin() for _ in range(3)]
    there.time.run()
    assert [call.ok.tier for call in calls] == ["gold", "bronze", "bronze"]
    assert {call.ended_s for call in calls} == {10.0}


def test_on_full_refuse_refuses_and_goes_nowhere_else() -> None:
    there = world(below=True, admission=Admission(on_full="refuse"))
    calls = [there.begin() for _ in range(2)]
    there.time.run()
    assert calls[0].ok.tier == "gold"
    assert isinstance(calls[1].error, ThrottledError)
    assert calls[1].error.retry_after_s is not None
    assert not calls[1].error.steps_down


def test_observe_lets_everybody_pass_and_tells_whom_it_would_have_kept_back() -> None:
    there = world(admission=Admission(mode="observe", on_full="refuse"))
    calls = [there.begin() for _ in range(5)]
    there.time.run()
    assert {call.ended_s for call in calls} == {10.0}
    told = [event for event in there.events if isinstance(event, CallThrottled)]
    assert [event.mode for event in told] == ["observe"] * 4
    assert at_rest(there.client)


def test_a_queue_takes_no_more_than_it_may() -> None:
    there = world(max_waiting=3)
    calls = [there.begin() for _ in range(6)]
    there.time.run()
    assert Counter(call.kind for call in calls) == {"ok": 4, "ThrottledError": 2}
    assert all(call.error.retry_after_s is not None for call in calls[4:])  # type: ignore[union-attr]


def test_what_it_is_told_to_wait_is_about_right() -> None:
    there = world(latency_s=1.0, max_waiting=5)
    for _ in range(10):
        there.call()  # it learns how long a call takes
    calls = [there.begin() for _ in range(7)]
    refused = calls[6].error
    assert isinstance(refused, ThrottledError)
    assert refused.retry_after_s == pytest.approx(6.0, rel=0.2)


# -- priority --------------------------------------------------------------------------------------------


def test_an_urgent_call_among_two_hundred_is_next() -> None:
    there = world(latency_s=1.0)
    calls = [there.begin("low") for _ in range(201)]
    there.pass_s(0.5)
    urgent = there.begin("urgent", priority=5)
    there.time.run()
    assert urgent.ended_s == 2.0
    assert max(call.ended_s or 0.0 for call in calls) == 202.0


def test_an_urgent_call_is_next_among_threads() -> None:
    fake = FakeProvider(latency_s=0.001)
    go = threading.Event()
    fake.script("big", "slow", when=lambda _: go.wait(5))
    with TieredClient(tiers(fake)) as client:
        handles = [client.submit("low") for _ in range(60)]
        eventually(lambda: len(client.queued()) == 59)
        handles.append(client.submit("urgent", priority=5))
        eventually(lambda: len(client.queued()) == 60)
        go.set()
        for handle in handles:
            handle.result(10)
        assert at_rest(client)
    assert [entry.messages[-1]["content"] for entry in fake.journal][:2] == ["low", "urgent"]


async def test_an_urgent_call_is_next_among_tasks() -> None:
    fake = FakeProvider(latency_s=0.001)
    async with TieredClient(tiers(fake)) as client:
        calls = [asyncio.create_task(client.acomplete("low")) for _ in range(200)]
        await soon(lambda: len(client.queued()) > 100)
        served = fake.calls
        calls.append(asyncio.create_task(client.acomplete("urgent", priority=5)))
        await asyncio.gather(*calls)
        assert at_rest(client)
    order = [entry.messages[-1]["content"] for entry in fake.journal]
    assert served < 100
    assert order.index("urgent") <= served + 2


# -- deadlines, closing ------------------------------------------------------------------------------------


def test_a_deadline_that_passes_in_the_queue_says_when_to_come_back() -> None:
    there = world()
    first, second, third = there.begin(), there.begin(deadline_s=4), there.begin()
    there.time.run()
    assert isinstance(second.error, DeadlineExceededError)
    assert second.ended_s == pytest.approx(4.0)
    assert second.error.retry_after_s is not None
    assert (first.ended_s, third.ended_s) == (10.0, 20.0)
    assert at_rest(there.client)


def test_who_cannot_be_served_before_his_deadline_does_not_queue() -> None:
    there = world()
    there.call()  # how long a call takes is known from now on
    began = there.time.now
    there.begin()
    late = there.begin(deadline_s=8)
    assert late.ended_s == began
    assert isinstance(late.error, TierLLMError)
    assert late.error.retry_after_s is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize("deferred", [False, True], ids=["in line", "deferred"])
def test_closing_ends_those_who_wait_in_threads(deferred: bool) -> None:
    fake = FakeProvider(latency_s=30.0)
    client = TieredClient(tiers(fake))
    handles = [client.submit("x"), *(client.submit("x", defer_ok=deferred, deadline_s=60) for _ in range(5))]
    eventually(lambda: len(client.queued()) == 5 and fake.in_flight == 1)
    client.close()
    for handle in handles:
        with pytest.raises(ClientClosedError):
            handle.result(5)
    assert at_rest(client)
    assert fake.in_flight == 0


async def test_closing_ends_those_who_wait_in_tasks() -> None:
    fake = FakeProvider(latency_s=30.0)
    client = TieredClient(tiers(fake))
    calls = [asyncio.create_task(client.acomplete("x")) for _ in range(6)]
    await soon(lambda: len(client.queued()) == 5 and fake.in_flight == 1)
    await client.aclose()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [ClientClosedError] * 6
    assert at_rest(client)


# -- borrowing ----------------------------------------------------------------------------------------------


def test_borrowed_slots_are_taken_back_as_soon_as_the_lender_needs_them() -> None:
    fake = FakeProvider(latency_s=10.0)
    there = World(
        [
            Tier("gold", [Deployment("big", fake)], max_concurrency=1, admission=Admission(borrow=0.5)),
            Tier("bronze", [Deployment("small", fake)], max_concurrency=4),
        ],
        fake=fake,
        timeouts=None,
    )
    gold = [there.begin(sla="gold") for _ in range(6)]
    gold_pool, bronze_pool = pool_of(there.client), pool_of(there.client, "bronze")
    assert (gold_pool.in_use, bronze_pool.in_use, gold_pool.waiting) == (1, 2, 3)
    there.pass_s(5)
    bronze = [there.begin(sla="bronze") for _ in range(4)]
    assert (bronze_pool.in_use, bronze_pool.waiting) == (4, 2)
    there.pass_s(5)  # two borrowed slots come free: their owner's calls go first
    assert bronze_pool.waiting == 0
    assert sum(1 for permit in bronze_pool._held if permit.of is gold_pool) == 0
    there.time.run()
    assert {call.kind for call in (*gold, *bronze)} == {"ok"}
    assert [call.ended_s for call in bronze] == [15.0, 15.0, 20.0, 20.0]
    assert at_rest(there.client)


# -- who leaves, wherever he waits ------------------------------------------------------------
#
# A scene is a client and two calls: one that waits at the place in question, and one that waits behind it
# or beside it and must be served all the same once the first has left.

SCENES = ["queue", "deferred", "limit, as keeper", "limit, not as keeper", "in flight"]
scenes = pytest.mark.parametrize("scene", SCENES)


def options(scene: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of gold, and the options of the calls."""
    if scene.startswith("limit"):
        return {"rpm": 1, "max_concurrency": 4}, {"deadline_s": 300.0}
    if scene == "deferred":
        return {}, {"defer_ok": True, "deadline_s": 300.0}
    return {}, {}


@scenes
def test_who_leaves_in_virtual_time_leaves_nothing_behind(scene: str) -> None:
    settings, said = options(scene)
    there = world(latency_s=10.0, **settings)
    first = there.begin()
    one, other = there.begin(**said), there.begin(**said)
    there.pass_s(2)
    leaver, stayer = {
        "in flight": (first, one),
        "limit, not as keeper": (other, one),
    }.get(scene, (one, other))
    assert leaver.run is not None
    leaver.run.scope.cancel()
    assert leaver.ended_s == 2.0
    there.time.run()
    assert leaver.ends == 1
    assert stayer.kind == "ok"
    expected = {
        "in flight": 12.0,
        "limit, as keeper": 70.0,
        "limit, not as keeper": 70.0,
    }.get(scene, 20.0)
    assert stayer.ended_s == pytest.approx(expected, abs=1.01)
    assert at_rest(there.client)


@contextmanager
def begun(scene: str) -> Iterator[tuple[TieredClient, FakeProvider, Callable[..., CallHandle]]]:
    settings, said = options(scene)
    fake = FakeProvider(latency_s=60.0)
    with TieredClient(tiers(fake, **settings)) as client:
        yield client, fake, lambda **more: client.submit("x", **{**said, **more})


@scenes
def test_who_leaves_among_threads_leaves_nothing_behind(scene: str) -> None:
    with begun(scene) as (client, fake, submit):
        pool = pool_of(client)
        first = client.submit("x")
        eventually(lambda: fake.in_flight == 1)
        one = submit()
        eventually(lambda: len(client.queued()) == 1)
        other = submit()
        eventually(lambda: len(client.queued()) == 2)
        leaver = {"in flight": first, "limit, not as keeper": other}.get(scene, one)
        if scene.startswith("limit"):
            eventually(lambda: pool._alarms.keeper is not None)
            assert (pool._alarms.keeper is leaver._place) == (scene == "limit, as keeper")
        leaver.cancel()
        with pytest.raises(CallCancelledError):
            leaver.result(5)
        if scene == "in flight":
            eventually(lambda: fake.calls == 2)  # the next one has its place
            assert pool.waiting == 1
        else:
            assert len(client.queued()) == 1
        if scene.startswith("limit"):  # somebody goes on looking after the queue
            stayer = one if leaver is other else other
            eventually(lambda: pool._alarms.keeper is stayer._place)
        for handle in (first, one, other):
            handle.cancel()
        eventually(lambda: first.done and one.done and other.done)
        assert at_rest(client)
        assert fake.in_flight == 0


@scenes
async def test_who_leaves_among_tasks_leaves_nothing_behind(scene: str) -> None:
    settings, said = options(scene)
    fake = FakeProvider(latency_s=60.0)
    async with TieredClient(tiers(fake, **settings)) as client:
        pool = pool_of(client)
        first = asyncio.create_task(client.acomplete("x"))
        await soon(lambda: fake.in_flight == 1)
        one = asyncio.create_task(client.acomplete("x", **said))
        await soon(lambda: len(client.queued()) == 1)
        other = asyncio.create_task(client.acomplete("x", **said))
        await soon(lambda: len(client.queued()) == 2)
        leaver = {"in flight": first, "limit, not as keeper": other}.get(scene, one)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        if scene == "in flight":
            await soon(lambda: fake.calls == 2)
        else:
            assert len(client.queued()) == 1
        if scene.startswith("limit"):
            await soon(lambda: pool._alarms.keeper is not None)
        for task in (first, one, other):
            task.cancel()
        await asyncio.gather(first, one, other, return_exceptions=True)
        assert at_rest(client)
        assert fake.in_flight == 0


def test_a_tenant_is_not_charged_for_calls_that_came_to_nothing() -> None:
    there = world(latency_s=1.0)
    shares = pool_of(there.client).shares
    there.begin(tenant="a")
    leavers: list[Told] = [there.begin(tenant="b") for _ in range(5)]
    there.pass_s(0.5)
    for each in leavers:
        assert each.run is not None
        each.run.scope.cancel()
    there.time.run()
    account = shares.account("b")
    assert (account.counter, account.pending, account.open) == (account.settled, 0.0, 0)


def test_a_call_that_fails_is_settled_in_its_tenants_account() -> None:
    there = world(latency_s=1.0, retry=False)
    there.fake.down()
    for _ in range(3):
        there.call(tenant="a")
    account = pool_of(there.client).shares.account("a")
    assert (account.pending, account.open) == (0.0, 0)


# -- many at once -----------------------------------------------------------------------------


def test_a_crowd_of_threads_is_served_refused_or_told_and_nothing_is_left() -> None:
    fake = FakeProvider(latency_s=(0.001, 0.004))
    limit = RateLimit(max_concurrency=3, name="three")
    with TieredClient(
        tiers(
            fake,
            below=True,
            max_concurrency=4,
            max_waiting=20,
            limits=[limit],
            admission=Admission(borrow=0.5),
        ),
        deadline_s=20,
    ) as client:
        ends: Counter[str] = Counter()
        lock = threading.Lock()

        def work(number: int) -> None:
            for turn in range(12):
                try:
                    end = client.complete("x", tenant=f"t{number % 5}", priority=turn % 3).tier
                except TierLLMError as error:
                    come_back_s = getattr(error, "retry_after_s", None)
                    end = type(error).__name__ if come_back_s is not None else "lost"
                with lock:
                    ends[str(end)] += 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sum(ends.values()) == 480
        assert set(ends) <= {"gold", "bronze", "ThrottledError", "AllTiersFailedError"}
        assert ends["gold"] > 50
        assert at_rest(client)
    assert fake.peak_in_flight <= 3 + 2


async def test_a_crowd_of_tasks_of_which_some_leave_is_served_and_nothing_is_left() -> None:
    fake = FakeProvider(latency_s=(0.0005, 0.002))
    async with TieredClient(tiers(fake, max_concurrency=4), deadline_s=30) as client:
        calls = [
            asyncio.create_task(client.acomplete("x", tenant=f"t{number % 5}", priority=number % 3))
            for number in range(300)
        ]
        await soon(lambda: fake.calls > 20)
        for number, call in enumerate(calls):
            if number % 7 == 0:
                call.cancel()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        failed = [end for end in ends if isinstance(end, Exception)]
        assert not failed
        assert at_rest(client)
    assert fake.peak_in_flight <= 4

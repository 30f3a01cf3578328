"""Somebody always looks after a queue in which something becomes due, and keeps its place meanwhile."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from client.forms import World
from tierllm import Admission, Deployment, RateLimit, Retry, Tier, TieredClient, Timeouts
from tierllm.admission.alarms import Nudge
from tierllm.admission.pool import Permit, Pool
from tierllm.errors import ThrottledError
from tierllm.events import CallThrottled
from tierllm.pipeline.effects import Ticket
from tierllm.testing import Fail, FakeClock, FakeProvider
from tierllm.types import Call, Response

FOR_EVER = Timeouts(connect_s=None, first_token_s=None, between_tokens_s=None, total_s=None)


class Shut:
    """A gate that opens at a moment."""

    def __init__(self, at_s: float, clock: FakeClock) -> None:
        self.at_s = at_s
        self.clock = clock

    def short(self, call: Call, now: float, copies: int) -> Any:
        from tierllm.admission.permit import Full

        return None if now >= self.at_s else Full(self.at_s - now, early=False)

    def rate_per_s(self) -> float | None:
        return None


def gated(at_s: float = 60.0) -> tuple[Pool, FakeClock]:
    clock = FakeClock()
    pool = Pool(1, clock=clock)
    pool.gate = Shut(at_s, clock)
    return pool, clock


def one(pool: Pool, priority: int = 0) -> Any:
    from tierllm.types import Request

    call = Call(Request(messages=(), priority=priority))
    place = pool.place(call)
    place.returns = True
    return place


def lined_up(pool: Pool, place: Any, alive: bool = True) -> Ticket:
    ticket = Ticket(lambda: alive)
    pool.line_up(place, ticket)
    return ticket


def test_the_first_is_asked_to_look_and_comes_back_to_its_place() -> None:
    pool, clock = gated()
    first = one(pool)
    ticket = lined_up(pool, first)
    assert isinstance(ticket.grant, Nudge)
    assert pool.waiting == 1
    assert pool.alarm_s(first) == 60
    again = lined_up(pool, first)
    assert again.grant is None
    clock.advance(60)
    pool.leave(again)  # its alarm
    pool.look()
    last = lined_up(pool, first)
    assert isinstance(last.grant, Permit)


def test_who_is_away_for_a_moment_is_not_overtaken() -> None:
    pool, clock = gated()
    urgent, later = one(pool, priority=5), one(pool)
    assert isinstance(lined_up(pool, urgent).grant, Nudge)
    low = lined_up(pool, later)
    clock.advance(60)
    pool.look()  # the urgent one is away: what comes is kept for it
    assert low.grant is None
    assert isinstance(lined_up(pool, urgent).grant, Permit)


def test_who_does_not_come_back_gives_up_what_was_kept_for_it() -> None:
    pool, clock = gated()
    urgent, later = one(pool, priority=5), one(pool)
    lined_up(pool, urgent)
    low = lined_up(pool, later)
    clock.advance(60)
    pool.look()
    pool.forget(urgent)
    assert isinstance(low.grant, Permit)
    assert (pool.in_use, pool.waiting) == (1, 0)


def test_a_keeper_who_never_comes_is_stood_in_for() -> None:
    pool, clock = gated()
    dead, living = one(pool), one(pool)
    lined_up(pool, dead)
    assert pool.alarm_s(dead) == 60
    lined_up(pool, dead)  # asleep until then, on an event loop that is closed meanwhile
    assert pool.alarm_s(living) == 61
    ticket = lined_up(pool, living)
    clock.advance(61)
    pool.leave(ticket)
    assert pool.alarm_s(living) == 0  # it is the keeper now


def test_a_nudge_that_nobody_hears_goes_to_another() -> None:
    pool, _ = gated()
    pool.gate = None
    held = pool.take([])
    assert held is not None
    living, dead = one(pool), one(pool)
    first = lined_up(pool, living)
    lined_up(pool, dead, alive=False)
    pool.gate = Shut(60, FakeClock())
    held.release()
    assert isinstance(first.grant, Nudge)
    assert pool.waiting == 1


# -- through a client ---------------------------------------------------------------


def world(*places: Deployment, fake: FakeProvider, **settings: Any) -> World:
    tier = {name: settings.pop(name) for name in ("prompt", "policies", "max_wait_s") if name in settings}
    admission = settings.pop("admission", None)
    settings.setdefault("timeouts", FOR_EVER)
    return World([Tier("gold", list(places), admission=admission, **tier)], fake=fake, **settings)


def test_a_prompt_of_the_tier_counts_before_a_call_is_let_in() -> None:
    fake = FakeProvider(latency_s=1.0)
    told = world(Deployment("m", fake, tpm=6000), fake=fake, prompt="word " * 1200)
    calls = [told.begin("hi", max_tokens=50) for _ in range(6)]
    told.pass_s(300)
    assert all(call.error is None for call in calls)
    assert len(told.told(CallThrottled)) <= 12


def test_what_a_provider_was_asked_for_is_not_asked_again() -> None:
    fake = FakeProvider()

    async def twice(call: Call, call_next: Any) -> Response:
        await call_next(call)
        response: Response = await call_next(call)
        return response

    told = world(Deployment("m", fake, rpm=1), fake=fake, policies=[twice])
    call = told.begin("hi")
    told.pass_s(1000)
    assert isinstance(call.error, ThrottledError)
    assert fake.calls == 1


def test_labels_do_not_make_an_urgent_call_wait_behind_others() -> None:
    fake = FakeProvider(latency_s=1.0)
    place = Deployment("m", fake, labels={"eu"}, max_concurrency=1)
    told = world(place, Deployment("u", fake, max_concurrency=1), fake=fake)
    low = [told.begin(f"{n}") for n in range(30)]
    urgent = told.begin("urgent", priority=10, require={"eu"})
    told.pass_s(60)
    assert all(call.error is None for call in low)
    assert urgent.took_s <= 2.0


def test_a_back_off_in_an_idle_pool_is_not_refused() -> None:
    fake = FakeProvider()
    fake.script("m", Fail.rate_limited(retry_after_s=2))
    admission = Admission(max_concurrency=1, on_full="refuse")
    told = world(Deployment("m", fake, retry=Retry(attempts=2)), fake=fake, admission=admission)
    assert told.call("hi").ok.text


def test_a_deferred_call_in_an_idle_pool_goes_at_once() -> None:
    fake = FakeProvider()
    admission = Admission(max_concurrency=1, on_full="refuse")
    told = world(Deployment("m", fake), fake=fake, admission=admission)
    assert told.call("hi", defer_ok=True).took_s == 0


def test_adaptive_places_are_used_in_full() -> None:
    fake = FakeProvider(latency_s=1.0)
    from tierllm import AdaptiveConcurrency

    place = Deployment("m", fake, adaptive=AdaptiveConcurrency(start=10, most=10))
    told = world(place, fake=fake)
    calls = [told.begin(f"{n}") for n in range(100)]
    told.pass_s(60)
    assert max(call.took_s for call in calls) <= 11


def test_waits_of_before_say_nothing_of_now() -> None:
    fake = FakeProvider(latency_s=10.0)
    told = world(Deployment("m", fake), fake=fake, admission=Admission(max_concurrency=1))
    told.begin("first")
    waiting = [told.begin(f"{n}", deadline_s=200) for n in range(12)]
    told.pass_s(95)
    for each in waiting:
        if not each.ends:
            assert each.run is not None
            each.run.close()
    told.pass_s(3600)
    told.begin("hold")
    told.pass_s(9)
    assert told.call("soon", deadline_s=60).error is None


def test_many_limits_threads_and_tasks_end_with_nothing_held() -> None:
    fake = FakeProvider(latency_s=(0.001, 0.003))
    account = RateLimit(max_concurrency=3, name="account")
    person = RateLimit(max_concurrency=1, per="user", name="person")
    tiers = [
        Tier(
            "gold",
            [Deployment("g", fake, account=account)],
            admission=Admission(max_concurrency=4, borrow=0.5),
        ),
        Tier(
            "silver",
            [Deployment("s", fake, account=account), Deployment("t", fake, adaptive=True)],
            max_concurrency=3,
        ),
    ]
    with TieredClient(tiers, limits=[person]) as client:
        ends: list[str] = []

        def options(n: int) -> dict[str, Any]:
            more: dict[str, Any] = {"deadline_s": 0.02 + n % 7 * 0.05} if n % 3 == 0 else {}
            return {"user": f"u{n % 5}", "priority": n % 4, "sla": ("gold", "silver")[n % 2], **more}

        def call(n: int) -> None:
            try:
                client.complete(f"{n}", defer_ok=n % 5 == 0, **options(n))
                ends.append("ok")
            except Exception as error:
                ends.append(type(error).__name__)

        async def tasks() -> None:
            made = [asyncio.ensure_future(client.acomplete(f"t{n}", **options(n))) for n in range(120)]
            await asyncio.sleep(0.01)
            for task in made[::6]:
                task.cancel()
            ended = await asyncio.wait_for(asyncio.gather(*made, return_exceptions=True), 30)
            ends.extend(type(each).__name__ for each in ended)

        threads = [threading.Thread(target=call, args=(n,)) for n in range(80)]
        for thread in threads:
            thread.start()
        asyncio.run(tasks())
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert len(ends) == 200
        gc.collect()
        for line in client._setup.lines.values():
            pool = line.pool
            assert pool is not None
            assert (pool.in_use, pool.waiting, pool.deferred) == (0, 0, 0)
            assert not pool._lined_up
            assert not pool._tickets
            assert not pool._unsent
            assert all(not each.open for each in pool.shares._accounts.values())


@pytest.mark.parametrize("form", ["sync", "async"])
def test_a_wrapped_function_is_called_by_so_many_at_once(form: str) -> None:
    most, now = 0, 0
    lock = threading.Lock()

    def work() -> int:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.005)
        with lock:
            now -= 1
        return 1

    async def awork() -> int:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.005)
        now -= 1
        return 1

    admission = Admission(max_concurrency=2)
    if form == "sync":
        wrapped = admission.wrap(work)
        threads = [threading.Thread(target=wrapped) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    else:
        awrapped = admission.wrap(awork)

        async def all_of_them() -> None:
            await asyncio.gather(*(awrapped() for _ in range(8)))

        asyncio.run(all_of_them())
    assert most == 2


# -- a full queue --------------------------------------------------------------------


def crammed(size: int = 1, **settings: Any) -> World:
    fake = FakeProvider(latency_s=1.0)
    return world(
        Deployment("m", fake), fake=fake, admission=Admission(max_concurrency=size, max_waiting=5, **settings)
    )


def test_an_urgent_call_has_a_place_in_a_full_queue() -> None:
    told = crammed()
    low = [told.begin(f"{n}", tenant="a") for n in range(6)]
    urgent = told.begin("urgent", priority=5, tenant="a")
    told.pass_s(0)
    assert [call.kind for call in low if call.ends] == ["ThrottledError"]
    assert low[-1].error.retry_after_s > 0  # type: ignore[union-attr]
    told.pass_s(20)
    assert urgent.took_s == 2.0
    assert told.begin("low", tenant="a").ends == 0


def test_a_quiet_tenant_has_a_place_in_a_queue_full_of_anothers() -> None:
    told = crammed()
    noisy = [told.begin(f"{n}", tenant="noisy") for n in range(6)]
    quiet = [told.begin(f"q{n}", tenant="quiet") for n in range(4)]
    told.pass_s(0)
    assert sum(call.ends for call in noisy) == 2  # 5 places: 3 and 2 of them
    assert sum(call.ends for call in quiet) == 2
    told.pass_s(20)
    assert quiet[0].took_s <= 2.0


def test_nobody_gives_way_to_who_stands_behind() -> None:
    told = crammed()
    high = [told.begin(f"{n}", priority=3) for n in range(6)]
    assert told.begin("low").kind == "ThrottledError"
    assert told.begin("same", priority=3).kind == "ThrottledError"
    told.pass_s(20)
    assert all(call.error is None for call in high)


def test_who_has_aged_past_a_newcomer_stays() -> None:
    told = crammed(age_s=1.0)
    low = [told.begin(f"{n}", tenant="a") for n in range(6)]
    told.pass_s(2.5)
    for n in range(2):
        told.begin(f"more {n}", tenant="a")
    assert told.begin("a bit", priority=1, tenant="a").kind == "ThrottledError"
    told.pass_s(20)
    assert all(call.error is None for call in low)


def test_a_bounded_queue_is_bounded_for_limits_too() -> None:
    fake = FakeProvider(latency_s=1.0)
    told = world(Deployment("m", fake, rpm=1), fake=fake, admission=Admission(max_waiting=3))
    calls = [told.begin(f"{n}", deadline_s=600) for n in range(20)]
    told.pass_s(1)
    assert sum(call.kind == "ThrottledError" for call in calls) == 16


def test_a_wait_leaves_time_for_the_answer() -> None:
    fake = FakeProvider(latency_s=10.0)
    told = world(Deployment("m", fake), fake=fake, admission=Admission(max_concurrency=1))
    for n in range(3):
        told.call(f"{n}")
    told.begin("hold")
    late = told.begin("late", deadline_s=12)
    assert late.kind == "ThrottledError"
    assert late.error.retry_after_s  # type: ignore[union-attr]

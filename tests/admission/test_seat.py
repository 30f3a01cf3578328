"""A place in a tier's pool: queued for, left for a while, given back however the call ends."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from client.forms import FORMS, Form, World, every_form, held
from tierllm import Deployment, Tier, TieredClient
from tierllm.admission.pool import Permit, Pool
from tierllm.admission.seat import Seat
from tierllm.admission.settings import Admission
from tierllm.errors import AllTiersFailedError, ClientClosedError, StreamInterruptedError, ThrottledError
from tierllm.pipeline.effects import Grant, Sleep, Ticket, Wait
from tierllm.testing import Fail, FakeClock, FakeProvider
from tierllm.types import Call, Request, Response, Trace


def pooled(fake: FakeProvider, size: int = 1, **more: Any) -> list[Tier]:
    return [Tier("gold", [Deployment("g", fake)], max_concurrency=size, **more)]


def a_call() -> Call:
    return Call(Request(messages=()), trace=Trace("t"))


# -- by hand -----------------------------------------------------------------------


class Served:
    """A pool's admission around a call, stepped by hand."""

    def __init__(self, mode: Any = "enforce", size: int = 1) -> None:
        clock = FakeClock()
        self.admission = Admission(mode=mode).bound(
            name="gold",
            max_concurrency=size,
            max_waiting=1,
            max_wait_s=3,
            clock=clock,
            wall=clock,
            emit=None,
        )
        self.pool = self.admission.pool
        self.owned: list[Grant] = []

    def enter(self, inside: Any) -> Any:
        return self.admission(a_call(), inside)


async def napping(call: Call) -> Response:
    await Sleep(1)
    return Response(text="hi")


def test_the_permit_is_held_while_the_call_goes_on_and_no_longer() -> None:
    served = Served()
    flow = served.enter(napping)
    assert isinstance(flow.send(None), Sleep)  # free, and so nothing to wait for
    assert served.pool.in_use == 1
    with pytest.raises(StopIteration):
        flow.send(None)
    assert served.pool.in_use == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_the_permit_is_given_back_whatever_happens(error: type[BaseException]) -> None:
    served = Served()
    flow = served.enter(napping)
    flow.send(None)
    with pytest.raises(error):
        flow.throw(error())
    assert served.pool.in_use == 0


def test_a_full_pool_is_queued_for_as_long_as_it_may() -> None:
    served = Served()
    assert served.pool.take([]) is not None
    flow = served.enter(napping)
    wait = flow.send(None)
    assert isinstance(wait, Wait)
    assert wait.timeout_s == 3
    with pytest.raises(ThrottledError, match="no place in the pool within 3 s"):
        flow.throw(TimeoutError())


def test_a_seat_left_is_free_and_lost_until_it_is_got_back() -> None:
    served = Served()
    seat, call = Seat(served.admission), a_call()
    assert seat.take()
    flow: Any = seat.leave_for(2, call)
    sleep = flow.send(None)
    assert isinstance(sleep, Sleep)
    assert sleep.seconds == 2
    assert (served.pool.in_use, seat.lost) == (0, True)
    other = served.pool.take(served.owned)
    assert other is not None
    wait = flow.send(None)
    assert isinstance(wait, Wait)
    ticket = Ticket(lambda: True)
    assert not wait.on.enter(ticket)
    other.release()
    with pytest.raises(StopIteration):
        flow.send(ticket.grant)
    assert (served.pool.in_use, seat.lost) == (1, False)
    seat.release()
    seat.release()
    assert served.pool.in_use == 0


def test_observe_never_waits() -> None:
    served = Served(mode="observe")
    first, second = served.enter(napping), served.enter(napping)
    assert isinstance(first.send(None), Sleep)
    assert isinstance(second.send(None), Sleep)
    assert served.pool.in_use == 1
    first.close()
    second.close()
    assert served.pool.in_use == 0


def test_a_permit_may_be_given_back_twice() -> None:
    pool = Pool(1)
    permit = pool.take([])
    assert isinstance(permit, Permit)
    permit.release()
    again = pool.take([])
    permit.release()
    assert pool.in_use == 1
    assert again is not None
    again.release()


# -- however a call ends -------------------------------------------------------------

ENDS = {
    "well": None,
    "failed": Fail.unavailable(),
    "interrupted stream": Fail.cut_after(1),
    "Ctrl-C": Fail.error(KeyboardInterrupt),
    "a bug in a provider": Fail.error(ZeroDivisionError),
    "sys.exit": Fail.error(SystemExit),
}


@every_form
@pytest.mark.parametrize("end", [e for e in ENDS if e not in ("Ctrl-C", "sys.exit")])
def test_nothing_is_held_afterwards(form: Form, end: str) -> None:
    fake = FakeProvider()
    world = World(pooled(fake), virtual=False, fake=fake, retry=False)
    fail = ENDS[end]
    if fail is not None:
        fake.script("g", fail)
    try:
        form(world.client)
    except (AllTiersFailedError, StreamInterruptedError, ZeroDivisionError):
        pass
    assert held(world.client) == {"gold": (0, 0)}
    assert fake.in_flight == 0
    assert form(world.client).text


@pytest.mark.parametrize("form", [f for f in FORMS if not f.asynchronous], ids=str)
@pytest.mark.parametrize("end", ["Ctrl-C", "sys.exit"])
def test_an_interrupt_leaves_nothing_held(form: Form, end: str) -> None:
    fake = FakeProvider()
    world = World(pooled(fake), virtual=False, fake=fake)
    fail = ENDS[end]
    assert fail is not None
    fake.script("g", fail)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        form(world.client)
    assert held(world.client) == {"gold": (0, 0)}
    assert world.client.status()["in_flight"] == 0
    assert world.client.status()["tiers"]["gold"]["deployments"]["g"]["breaker"]["failures"] == 0
    assert form(world.client).text


def test_leaving_a_stream_frees_its_place_at_once() -> None:
    fake = FakeProvider()
    world = World(pooled(fake), virtual=False, fake=fake)
    with world.client.stream("Hello") as stream:
        next(iter(stream))
        assert held(world.client) == {"gold": (1, 0)}
    assert held(world.client) == {"gold": (0, 0)}


async def test_a_cancelled_task_frees_its_place() -> None:
    fake = FakeProvider()
    client = TieredClient(pooled(fake))
    fake.script("g", Fail.hang())
    first = asyncio.create_task(client.acomplete("Hello"))
    while not fake.in_flight:
        await asyncio.sleep(0)
    second, third = (asyncio.create_task(client.acomplete("Hello")) for _ in range(2))
    await asyncio.sleep(0.01)
    assert held(client) == {"gold": (1, 2)}
    second.cancel()
    await asyncio.sleep(0.01)
    assert held(client) == {"gold": (1, 1)}
    first.cancel()
    assert (await third).text
    for task in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert held(client) == {"gold": (0, 0)}


# -- in order, and never too many ------------------------------------------------------


def test_served_in_the_order_of_arrival() -> None:
    fake = FakeProvider(latency_s=1)
    world = World(pooled(fake, 2), fake=fake)
    calls = [world.begin(str(number)) for number in range(7)]
    world.time.run()
    assert [told.ended_s for told in calls] == [1, 1, 2, 2, 3, 3, 4]
    assert fake.peak_in_flight == 2


def test_threads_and_tasks_share_one_pool() -> None:
    fake = FakeProvider(latency_s=0.002)
    client = TieredClient(pooled(fake, 3))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(8):
                client.complete("Hello")
        except BaseException as error:
            failures.append(error)

    async def tasks() -> None:
        await asyncio.gather(*(client.acomplete("Hello") for _ in range(20)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    threads += [threading.Thread(target=lambda: asyncio.run(tasks())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert fake.calls == 72
    assert fake.peak_in_flight <= 3
    assert held(client) == {"gold": (0, 0)}


def test_a_queue_that_loses_its_race_is_a_throttle_and_no_bare_timeout() -> None:
    """Many threads find the pool free at the same moment; those who lose wait, in vain."""
    fake = FakeProvider(latency_s=0.03)
    client = TieredClient(pooled(fake, 1, max_wait_s=0.005))
    ends: list[str] = []
    gate = threading.Barrier(8)

    def work() -> None:
        gate.wait()
        try:
            client.complete("Hello")
            ends.append("ok")
        except BaseException as error:
            ends.append(type(error).__name__)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends.count("ok") >= 1
    assert set(ends) == {"ok", "ThrottledError"}


async def test_losing_the_race_on_an_event_loop() -> None:
    fake = FakeProvider(latency_s=0.03)
    client = TieredClient(pooled(fake, 1, max_wait_s=0.005))
    ends = await asyncio.gather(*(client.acomplete("Hello") for _ in range(6)), return_exceptions=True)
    assert {type(e) for e in ends} == {Response, ThrottledError}


def test_closing_ends_the_queue() -> None:
    fake = FakeProvider(latency_s=30)
    client = TieredClient(pooled(fake, 1))
    ends: list[BaseException] = []

    def work() -> None:
        try:
            client.complete("Hello")
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while held(client) != {"gold": (1, 3)}:
        time.sleep(0.001)
    client.close()
    for thread in threads:
        thread.join(5)
    assert [type(e) for e in ends] == [ClientClosedError] * 4
    assert held(client) == {"gold": (0, 0)}


def test_where_nothing_is_open_nobody_queues() -> None:
    fake = FakeProvider(latency_s=3)
    world = World([*pooled(fake), Tier("silver", [Deployment("s", fake)])], fake=fake)
    world.begin()
    fake.script("g", Fail.rate_limited(retry_after_s=60))
    told = world.begin()
    world.pass_s(3)
    assert held(world.client) == {"gold": (0, 0)}  # the one that waited has met the 429
    late = world.begin()
    assert late.run is not None
    world.time.run()
    assert late.ok.tier == "silver"
    assert late.took_s <= 3
    assert told.ok.tier == "silver"


def test_a_place_that_closes_while_one_queues_is_not_called() -> None:
    fake = FakeProvider(latency_s=1)
    world = World(
        [*pooled(fake, 2), Tier("silver", [Deployment("s", fake)])],
        fake=fake,
    )
    fake.script("g", Fail.rate_limited(retry_after_s=60, latency_s=1))
    calls = [world.begin() for _ in range(5)]
    world.time.run()
    assert world.models().count("g") == 2
    assert [told.kind for told in calls] == ["ok"] * 5
    fake.journal.assert_retry_after_honoured()

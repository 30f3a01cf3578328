"""Identical calls at once make one: a flow of its own writes a tape which everybody follows."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from pipeline.drivers import Mode, call, eventually, says, soon, stack
from tierllm.admission.pool import Pool
from tierllm.errors import ProviderUnavailableError
from tierllm.pipeline.aio import AsyncRun, arun
from tierllm.pipeline.effects import Follow, Handler, Spawn, Spawned, Wait
from tierllm.pipeline.host import Host
from tierllm.pipeline.scope import Scope
from tierllm.pipeline.sync import SyncRun, run
from tierllm.pipeline.tape import FlightLost, Tape
from tierllm.testing import Fail, FakeProvider
from tierllm.types import Call, Response


class Flight:
    def __init__(self) -> None:
        self.tape = Tape()
        self.readers = 0
        self.spawned: Spawned | None = None


class OneFlight:
    """The sketch: no leader whose cancellation could hurt others; the last to leave cancels."""

    def __init__(self) -> None:
        self.flights: dict[str, Flight] = {}
        self.led = 0
        self._lock = threading.Lock()

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        key = call.request.text
        while True:
            flight = self._join(key)
            try:
                if flight.spawned is None:
                    flight.spawned = await Spawn(call_next(call.copy()), flight.tape)
                return await Follow(flight.tape)
            except FlightLost:
                continue
            finally:
                self._leave(key, flight)

    def _join(self, key: str) -> Flight:
        with self._lock:
            flight = self.flights.get(key)
            if flight is None or flight.tape.done:
                flight = self.flights[key] = Flight()
                flight.readers = 1
                self.led += 1
                return flight
            flight.readers += 1
        while flight.spawned is None:  # its founder is about to
            time.sleep(0)
        return flight

    def _leave(self, key: str, flight: Flight) -> None:
        with self._lock:
            flight.readers -= 1
            last = not flight.readers
            if last and self.flights.get(key) is flight:
                del self.flights[key]
        if last and not flight.tape.done and flight.spawned is not None:
            flight.spawned.cancel()


class Airport:
    def __init__(self, provider: FakeProvider) -> None:
        self.provider = provider
        self.pool = Pool(1)
        self.policy = OneFlight()
        self.host = Host()
        self.handler = stack([self.policy, self.seated], provider)

    async def seated(self, call: Call, call_next: Handler) -> Response:
        with await Wait(self.pool):
            return await call_next(call)

    def scope(self) -> Scope:
        return Scope(time.monotonic)

    def plain(self) -> str:
        return run(self.handler(call()), self.scope(), self.host).text

    async def aplain(self) -> str:
        return (await arun(self.handler(call()), self.scope(), self.host)).text

    def opened(self) -> SyncRun:
        return SyncRun(self.handler(call()), self.scope(), self.host, streaming=True)

    def streamed(self) -> str:
        driven, text = self.opened(), ""
        try:
            while (chunk := driven.advance()) is not None:
                text += chunk.text
            return text
        finally:
            driven.close()

    async def astreamed(self) -> str:
        driven, text = AsyncRun(self.handler(call()), self.scope(), self.host, streaming=True), ""
        try:
            while (chunk := await driven.advance()) is not None:
                text += chunk.text
            return text
        finally:
            await driven.aclose()

    @property
    def at_rest(self) -> bool:
        return (
            self.pool.in_use == self.pool.waiting == self.provider.in_flight == 0
            and not self.policy.flights
            and not self.host.live
        )


WORDS = "a b c d e f g h"
TEXT = WORDS + " "


def drip() -> FakeProvider:
    return says(WORDS, first_token_s=0.05, between_s=0.005)


def in_threads(works: list[Any]) -> list[Any]:
    results: list[Any] = []

    def go(work: Any) -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=go, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return results


def test_twenty_threads_make_one_call() -> None:
    airport = Airport(drip())
    assert in_threads([airport.plain, airport.streamed] * 10) == [TEXT] * 20
    assert airport.provider.calls == airport.policy.led == 1
    eventually(lambda: airport.at_rest)


async def test_twenty_tasks_make_one_call() -> None:
    airport = Airport(drip())
    works = [airport.aplain() if n % 2 else airport.astreamed() for n in range(20)]
    assert await asyncio.gather(*works) == [TEXT] * 20
    assert airport.provider.calls == 1
    await soon(lambda: airport.at_rest)


def test_threads_and_tasks_share_one_call() -> None:
    airport = Airport(drip())

    async def tasks() -> list[str]:
        return await asyncio.gather(*(airport.aplain() if n % 2 else airport.astreamed() for n in range(10)))

    results = in_threads([airport.plain, airport.streamed, lambda: asyncio.run(tasks())] * 3)
    flat = [text for result in results for text in (result if isinstance(result, list) else [result])]
    assert flat == [TEXT] * 36
    assert airport.provider.calls == 1
    eventually(lambda: airport.at_rest)


def test_virtual_callers_share_one_call_too() -> None:
    mode = Mode("virtual", True)
    airport = Airport(drip())
    airport.host = mode.host
    texts: dict[int, str] = {}

    def arrive(number: int) -> None:
        mode.world.start(
            airport.handler(call()),
            mode.host,
            streaming=True,
            on_chunk=lambda c: texts.update({number: texts.get(number, "") + c.text}),
        )

    for number in range(20):
        mode.world.after(0.004 * number, lambda n=number: arrive(n))  # type: ignore[misc]
    mode.world.run()
    assert list(texts.values()) == [TEXT] * 20
    assert airport.provider.calls == 1
    assert airport.at_rest


def test_the_one_who_came_first_may_leave() -> None:
    airport = Airport(drip())
    first = airport.opened()
    assert first.advance() is not None
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(airport.streamed()))
    thread.start()
    eventually(lambda: any(f.readers == 2 for f in airport.policy.flights.values()))
    first.close()
    thread.join(5)
    assert results == [TEXT]
    assert airport.provider.calls == 1
    eventually(lambda: airport.at_rest)


def test_one_who_stops_reading_starves_nobody() -> None:
    airport = Airport(drip())
    idle = airport.opened()
    assert idle.advance() is not None
    assert airport.streamed() == TEXT
    rest = ""
    while (chunk := idle.advance()) is not None:
        rest += chunk.text
    idle.close()
    assert rest == TEXT[2:]


def test_the_last_to_leave_cancels() -> None:
    airport = Airport(says("a b", first_token_s=0.0, between_s=30.0))
    one, two = airport.opened(), airport.opened()
    assert one.advance() is not None
    assert two.advance() is not None
    one.close()
    assert airport.provider.in_flight == 1
    two.close()
    eventually(lambda: airport.at_rest)
    assert airport.provider.journal[0].outcome == "cancelled"


async def test_tasks_that_are_cancelled_hurt_only_themselves() -> None:
    airport = Airport(drip())
    tasks = [asyncio.create_task(airport.aplain() if n % 2 else airport.astreamed()) for n in range(12)]
    await soon(lambda: airport.provider.in_flight == 1)
    for task in tasks[:11]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(r) for r in results[:11]] == [asyncio.CancelledError] * 11
    assert results[11] == TEXT
    assert airport.provider.calls == 1
    await soon(lambda: airport.at_rest)


def test_when_its_event_loop_ends_somebody_else_leads() -> None:
    airport = Airport(says(WORDS, first_token_s=0.08, between_s=0.0))
    flying, results = threading.Event(), []

    async def host_loop() -> None:
        task = asyncio.create_task(airport.aplain())
        await soon(lambda: airport.provider.in_flight == 1)
        flying.set()
        await soon(lambda: any(f.readers == 6 for f in airport.policy.flights.values()))
        assert not task.done()

    def follower(work: Any) -> Any:
        flying.wait(5)
        return work()

    hosting = threading.Thread(target=lambda: asyncio.run(host_loop()))
    hosting.start()
    works = [airport.plain, airport.streamed, lambda: asyncio.run(airport.aplain()), airport.streamed]
    works.append(lambda: asyncio.run(airport.astreamed()))
    results = in_threads([lambda w=work: follower(w) for work in works])  # type: ignore[misc]
    hosting.join(5)
    assert results == [TEXT] * 5
    assert airport.provider.calls == airport.policy.led == 2
    eventually(lambda: airport.at_rest)


def test_an_error_reaches_each_follower_as_its_own_copy() -> None:
    airport = Airport(FakeProvider(answer=lambda _: Fail.unavailable(latency_s=0.08)))

    async def tasks() -> Any:
        return await asyncio.gather(airport.aplain(), airport.astreamed(), return_exceptions=True)

    results = in_threads([airport.plain, airport.streamed] * 4 + [lambda: asyncio.run(tasks())])
    errors = [e for r in results for e in (r if isinstance(r, list) else [r])]
    assert [type(e) for e in errors] == [ProviderUnavailableError] * 10
    assert len({id(e) for e in errors}) == 10
    assert {e.status for e in errors} == {503}
    assert airport.provider.calls == 1
    eventually(lambda: airport.at_rest)


def test_a_tape_tells_its_end_once() -> None:
    tape = Tape()
    tape.end(Response(text="first"))
    tape.end(error=FlightLost())
    told = tape.told()
    assert told is not None
    assert told.text == "first"
    interrupted = Tape()
    interrupted.end(error=KeyboardInterrupt())
    with pytest.raises(FlightLost):
        interrupted.told()


def test_a_reader_whose_loop_is_closed_stops_nobody() -> None:
    tape, woken = Tape(), []

    def dead() -> None:
        raise RuntimeError("Event loop is closed")

    assert not tape.wake_later(0, dead)
    assert not tape.wake_later(0, lambda: woken.append(True))
    tape.end(Response())
    assert woken == [True]
    assert tape.wake_later(0, dead)
    tape.forget(dead)

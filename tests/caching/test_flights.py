"""Identical calls at once, in threads, tasks and streams: one call to the provider, whoever leaves."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from random import Random
from typing import Any

import pytest

from caching.flyers import (
    PIECES,
    TEXT,
    Crowd,
    Held,
    aplain,
    astreamed,
    at_rest,
    client_of,
    eventually,
    plain,
    readers,
    soon,
    streamed,
)
from tierllm import Response, TieredClient
from tierllm.caching.flights import Flights
from tierllm.errors import (
    AllTiersFailedError,
    ClientClosedError,
    DeadlineExceededError,
    ProviderUnavailableError,
    StreamInterruptedError,
    TierLLMError,
)
from tierllm.pipeline.scope import Scope
from tierllm.pipeline.tape import FlightLost
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.types import Call, Request

ALL = 200


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def client(held: Held) -> Iterator[TieredClient]:
    with client_of(held) as client:
        yield client


def threads_of(crowd: Crowd, works: list[Any]) -> None:
    crowd.threads(*works)


def tasks_of(crowd: Crowd, works: list[Any]) -> None:
    crowd.tasks(*works)


# -- all at once -----------------------------------------------------------------------


SYNC = {"plain": [plain], "streams": [streamed], "both": [plain, streamed], "stream first": [streamed, plain]}
ASYNC = {"plain": [aplain], "streams": [astreamed], "both": [aplain, astreamed]}


def check_crowd(client: TieredClient, held: Held, crowd: Crowd, count: int = ALL) -> None:
    eventually(lambda: readers(client) == count)
    held.let()
    told = crowd.join()
    assert [r.text for r in told if isinstance(r, Response)] == [TEXT] * count, told
    assert held.calls == ["g"]
    responses = [r for r in told if isinstance(r, Response)]
    assert sum(not r.cached for r in responses) == 1
    assert sum((r.cost_usd or Decimal(0)) for r in responses) == Decimal("0.00009")
    assert {r.cost_usd for r in responses if r.cached} == {Decimal(0)}
    eventually(lambda: at_rest(client, held))
    stats = client.cache.stats()
    assert (stats.misses, stats.joined, stats.kept, sum(stats.hits.values())) == (1, count - 1, 1, 0)
    assert stats.saved_usd == Decimal("0.00009") * (count - 1)


@pytest.mark.parametrize("deadline_s", [None, 60], ids=["boundless", "deadline"])
@pytest.mark.parametrize("how", list(SYNC))
def test_threads_make_one_call(client: TieredClient, held: Held, how: str, deadline_s: float | None) -> None:
    works = SYNC[how]
    with Crowd() as crowd:
        for number in range(ALL):
            crowd.threads(partial(works[number % len(works)], client, deadline_s=deadline_s))
            if not number:
                eventually(lambda: bool(held.calls))  # who comes first is known
        check_crowd(client, held, crowd)


@pytest.mark.parametrize("how", list(ASYNC))
def test_tasks_make_one_call(client: TieredClient, held: Held, how: str) -> None:
    works = ASYNC[how]
    with Crowd() as crowd:
        crowd.tasks(*(partial(works[number % len(works)], client) for number in range(ALL)))
        check_crowd(client, held, crowd)


def test_threads_and_tasks_of_many_loops_make_one_call(client: TieredClient, held: Held) -> None:
    with Crowd() as crowd:
        for _ in range(10):
            crowd.tasks(*(partial(work, client) for work in (aplain, astreamed) * 5))
            crowd.threads(*(partial(work, client) for work in (plain, streamed) * 5))
        check_crowd(client, held, crowd)


def test_a_tight_crowd_without_any_latency_makes_one_call() -> None:
    """Who comes just as the answer is there finds it in the cache, or with those who wait."""
    for _ in range(30):
        held = Held()
        held.let()
        with client_of(held) as client, Crowd() as crowd:
            barrier = threading.Barrier(16)

            def at_once(work: Any, client: TieredClient = client, barrier: Any = barrier) -> Response:
                barrier.wait()
                return work(client)  # type: ignore[no-any-return]

            crowd.threads(*(partial(at_once, work) for work in (plain, streamed) * 8))
            told = crowd.join()
            assert [r.text for r in told if isinstance(r, Response)] == [TEXT] * 16, told
            assert len(held.calls) == 1
            eventually(lambda: at_rest(client, held))  # noqa: B023
            stats = client.cache.stats()
            assert stats.misses == 1
            assert stats.joined + sum(stats.hits.values()) == 15


# -- leaving ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", list(ASYNC))
@pytest.mark.parametrize("leaver", ["founder", "follower", "all but one"])
async def test_tasks_that_leave_hurt_nobody(client: TieredClient, held: Held, how: str, leaver: str) -> None:
    works = ASYNC[how]
    tasks = [asyncio.create_task(works[n % len(works)](client)) for n in range(20)]
    await soon(lambda: readers(client) == 20 and len(held.calls) == 1)
    held.let(1)
    leavers = {"founder": tasks[:1], "follower": tasks[7:8], "all but one": tasks[:19]}[leaver]
    for task in leavers:
        task.cancel()
    await soon(lambda: readers(client) == 20 - len(leavers))
    held.let()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    for task, result in zip(tasks, told, strict=True):
        if task in leavers:
            assert isinstance(result, asyncio.CancelledError)
        else:
            assert isinstance(result, Response)
            assert result.text == TEXT
    assert held.calls == ["g"]
    await soon(lambda: at_rest(client, held))
    assert (await aplain(client)).cached, "what was made is kept, though its founder left"


@pytest.mark.parametrize("works", [[aplain], [astreamed], [aplain, astreamed], [astreamed, aplain]])
async def test_the_last_to_leave_cancels_the_call(client: TieredClient, held: Held, works: list[Any]) -> None:
    tasks = [asyncio.create_task(works[n % len(works)](client)) for n in range(6)]
    await soon(lambda: readers(client) == 6 and len(held.calls) == 1)
    for task in tasks[:5]:
        task.cancel()
    await soon(lambda: readers(client) == 1)
    assert held.in_flight == 1
    tasks[5].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await soon(lambda: at_rest(client, held))
    assert held.cancelled == 1
    held.let()
    again = await aplain(client)
    assert (again.text, again.cached) == (TEXT, False)
    assert held.calls == ["g", "g"]


@pytest.mark.parametrize("founder", [True, False], ids=["founder", "follower"])
def test_streams_closed_early_hurt_nobody(client: TieredClient, held: Held, founder: bool) -> None:
    with Crowd() as crowd, client.stream("Hello") as one:
        held.let(1)
        assert next(one).text == PIECES[0]
        with client.stream("Hello") as two:
            assert next(two).text == PIECES[0]
            crowd.threads(partial(plain, client), partial(streamed, client))
            eventually(lambda: readers(client) == 4)
            (one if founder else two).close()
            assert readers(client) == 3
            held.let()
            rest = "".join(chunk.text for chunk in (two if founder else one))
        assert PIECES[0] + rest == TEXT
        assert [getattr(r, "text", r) for r in crowd.join()] == [TEXT] * 2
    assert held.calls == ["g"]
    eventually(lambda: at_rest(client, held))


def test_the_last_stream_to_be_closed_cancels_the_call(client: TieredClient, held: Held) -> None:
    with client.stream("Hello") as one, client.stream("Hello") as two:
        held.let(1)
        assert next(one).text == next(two).text == PIECES[0]
        one.close()
        assert held.in_flight == 1
        two.close()
        eventually(lambda: at_rest(client, held))
    assert held.cancelled == 1
    held.let()
    assert not plain(client).cached


@pytest.mark.parametrize("founder", [plain, streamed])
@pytest.mark.parametrize("follower", [plain, streamed])
def test_deadlines_are_each_callers_own(
    client: TieredClient, held: Held, founder: Any, follower: Any
) -> None:
    with Crowd() as crowd, Crowd() as hasty:
        hasty.threads(partial(founder, client, deadline_s=0.3))
        eventually(lambda: len(held.calls) == 1)
        crowd.threads(partial(follower, client, deadline_s=60))
        hasty.threads(partial(follower, client, deadline_s=0.2))
        assert [type(r) for r in hasty.join()] == [DeadlineExceededError] * 2
        assert readers(client) == 1
        held.let()
        assert [getattr(r, "text", r) for r in crowd.join()] == [TEXT]
    assert held.calls == ["g"]
    eventually(lambda: at_rest(client, held))


def test_a_stream_that_runs_out_of_time_tells_what_it_has_delivered(client: TieredClient, held: Held) -> None:
    held.let(1)
    with client.stream("Hello", deadline_s=60) as patient:
        next(patient)
        with client.stream("Hello", deadline_s=0.2) as hasty, pytest.raises(DeadlineExceededError) as told:
            list(hasty)
        assert told.value.partial is not None
        assert told.value.partial.text == PIECES[0]
        with pytest.raises(DeadlineExceededError) as told:
            plain(client, deadline_s=0.1)
        assert told.value.partial is None, "it has delivered nothing"

        async def task() -> None:
            async with client.astream("Hello", deadline_s=0.2) as hasty:
                async for _ in hasty:
                    pass

        with pytest.raises(DeadlineExceededError) as told:
            asyncio.run(task())
        assert told.value.partial is not None
        assert told.value.partial.text == PIECES[0]
        held.let()
        assert "".join(c.text for c in patient) == "".join(PIECES[1:])
    assert held.calls == ["g"]


def test_nobody_is_left_when_all_deadlines_are_over(client: TieredClient, held: Held) -> None:
    with Crowd() as crowd:
        crowd.threads(*(partial(work, client, deadline_s=0.2) for work in (plain, streamed) * 3))
        crowd.tasks(*(partial(work, client, deadline_s=0.2) for work in (aplain, astreamed) * 3))
        assert {type(r) for r in crowd.join()} == {DeadlineExceededError}
    eventually(lambda: at_rest(client, held))


def test_a_client_that_closes_ends_all_of_them(client: TieredClient, held: Held) -> None:
    with Crowd() as crowd:
        crowd.threads(
            *(partial(work, client, deadline_s=s) for work in (plain, streamed) for s in (None, 60))
        )
        crowd.tasks(*(partial(work, client) for work in (aplain, astreamed)))
        eventually(lambda: readers(client) == 6)
        client.close()
        assert {type(r) for r in crowd.join()} == {ClientClosedError}
    eventually(lambda: at_rest(client, held))


# -- chunks ----------------------------------------------------------------------------


def test_followers_of_a_stream_get_its_chunks_as_they_come(client: TieredClient, held: Held) -> None:
    with client.stream("Hello") as one, client.stream("Hello") as two:
        for number, piece in enumerate(PIECES):
            held.let(1)
            assert [next(one).text, next(two).text] == [piece] * 2
            assert held.in_flight == (number < len(PIECES) - 1) or number == len(PIECES) - 1
        assert [list(one), list(two)] == [[], []]
        assert one.response.text == two.response.text == TEXT
    assert len(held.calls) == 1


async def test_so_do_tasks(client: TieredClient, held: Held) -> None:
    async with client.astream("Hello") as one, client.astream("Hello") as two:
        held.let(1)
        assert [(await anext(aiter(one))).text, (await anext(aiter(two))).text] == [PIECES[0]] * 2
        assert held.in_flight == 1
        held.let()
        assert "".join([c.text async for c in two]) == "".join(PIECES[1:])
        assert "".join([c.text async for c in one]) == "".join(PIECES[1:])
    assert len(held.calls) == 1


def test_who_comes_late_gets_all_chunks(client: TieredClient, held: Held) -> None:
    with client.stream("Hello") as one:
        held.let(3)
        assert [next(one).text for _ in range(3)] == list(PIECES[:3])
        with client.stream("Hello") as late:
            assert [next(late).text for _ in range(3)] == list(PIECES[:3])
            assert held.in_flight == 1
            held.let()
            assert [c.text for c in late] == [c.text for c in one] == [PIECES[3]]
    assert len(held.calls) == 1


def test_a_slow_reader_holds_nobody_up(client: TieredClient, held: Held) -> None:
    with client.stream("Hello") as slow:
        held.let(1)
        next(slow)
        with Crowd() as crowd:
            crowd.threads(partial(plain, client), partial(streamed, client))
            eventually(lambda: readers(client) == 3)
            held.let()
            assert [getattr(r, "text", r) for r in crowd.join()] == [TEXT] * 2
        assert not held.in_flight
        assert plain(client).cached, "it is kept, though its founder still reads"
        assert "".join(c.text for c in slow) == "".join(PIECES[1:])


# -- failure ---------------------------------------------------------------------------


def broken() -> ProviderUnavailableError:
    return ProviderUnavailableError("the service is unavailable", status=503)


@pytest.mark.parametrize("deadline_s", [None, 60], ids=["boundless", "deadline"])
def test_each_gets_a_failure_of_its_own_with_its_own_trace(deadline_s: float | None) -> None:
    held = Held(["never"], broken)
    with client_of(held) as client, Crowd() as crowd:
        options = {"deadline_s": deadline_s, "min_tier": "gold"}
        crowd.threads(*(partial(plain, client, **options) for _ in range(8)))
        eventually(lambda: len(held.calls) == 1)
        crowd.tasks(*(partial(aplain, client, **options) for _ in range(8)))
        eventually(lambda: readers(client) == 16)
        held.let()
        told = crowd.join()
        assert len(held.calls) == 1
        assert {type(r) for r in told} == {AllTiersFailedError}
        causes = set()
        for error in told:
            assert isinstance(error, AllTiersFailedError)
            assert error.trace is not None
            assert error.trace.error == "AllTiersFailedError"
            assert [(a.tier, a.deployment) for a in error.attempts] == [("gold", "g")]
            assert [(a.tier, a.deployment) for a in error.trace.attempts] == [("gold", "g")]
            cause = error.attempts[0].error
            assert isinstance(cause, ProviderUnavailableError)
            causes.add(id(cause))
        assert len(causes) == len({id(e) for e in told}) == 16, "each has its own"
        assert len({id(e.trace) for e in told if isinstance(e, AllTiersFailedError)}) == 16
        eventually(lambda: at_rest(client, held))


@pytest.mark.parametrize("deadline_s", [None, 60], ids=["boundless", "deadline"])
def test_each_steps_down_by_its_own_rule_and_tells_what_it_went_through(deadline_s: float | None) -> None:
    class Half(Held):
        def _steps(self) -> Iterator[Any]:
            self.failure = broken if self.calls[-1] == "g" else None
            return super()._steps()

    held = Half(["well "])
    with client_of(held) as client, Crowd() as proud, Crowd() as humble:
        humble.threads(partial(plain, client, deadline_s=deadline_s))
        eventually(lambda: len(held.calls) == 1)
        humble.threads(*(partial(plain, client, deadline_s=deadline_s) for _ in range(20)))
        proud.threads(*(partial(plain, client, deadline_s=deadline_s, min_tier="gold") for _ in range(10)))
        eventually(lambda: readers(client) == 31)
        held.let()
        assert [type(r) for r in proud.join()] == [AllTiersFailedError] * 10
        for error in proud.told:
            assert [a.tier for a in error.trace.attempts] == ["gold"]  # type: ignore[union-attr]
        for response in humble.join():
            assert isinstance(response, Response), response
            assert (response.text, response.tier) == ("well ", "silver")
            assert response.trace is not None
            tried = [(a.tier, a.error is None) for a in response.trace.attempts]
            if response.trace.cache == "hit":  # it came to silver when the answer was there
                tried.append(("silver", True))
            assert tried == [("gold", False), ("silver", True)]
        assert held.calls == ["g", "s"]
        eventually(lambda: at_rest(client, held))


def test_a_stream_that_breaks_off_breaks_off_for_all_who_read_it() -> None:
    held = Held(["some ", "never"], broken)
    with client_of(held) as client, Crowd() as crowd:
        with client.stream("Hello") as one, client.stream("Hello") as two:
            held.let(1)
            assert next(one).text == next(two).text == "some "
            crowd.threads(partial(plain, client, min_tier="gold"))
            eventually(lambda: readers(client) == 3)
            held.let()
            errors = []
            for stream in (one, two):
                with pytest.raises(StreamInterruptedError) as told:
                    list(stream)
                errors.append(told.value)
        assert errors[0] is not errors[1]
        assert [e.partial.text for e in errors if e.partial] == ["some "] * 2
        # who has passed nothing on is told of the failure itself
        assert [type(r) for r in crowd.join()] == [AllTiersFailedError]
        assert held.calls == ["g"]
        eventually(lambda: at_rest(client, held))


# -- one's own copy --------------------------------------------------------------------


def test_what_one_does_to_its_answer_no_other_sees() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
    held = Held(['{"n": ', "[1, 2]}"])
    with client_of(held) as client, Crowd() as crowd:
        crowd.threads(partial(plain, client, response_format=wanted))
        eventually(lambda: len(held.calls) == 1)
        crowd.threads(*(partial(work, client, response_format=wanted) for work in (plain, streamed) * 3))
        crowd.tasks(*(partial(work, client, response_format=wanted) for work in (aplain, astreamed) * 3))
        eventually(lambda: readers(client) == 13)
        held.let()
        told = [r for r in crowd.join() if isinstance(r, Response)]
        assert len(told) == 13
        for response in [*told, plain(client, response_format=wanted)]:
            assert response.parsed == {"n": [1, 2]}
            assert response.trace is not None
            assert len(response.trace.attempts) == (response.trace.cache != "hit")
            response.parsed["n"].append("spoilt")
            response.text = "spoilt"
            response.trace.attempts.clear()
        assert len({id(r.parsed) for r in told}) == len({id(r.trace) for r in told}) == 13
        assert held.calls == ["g"]


def test_nor_does_one_that_reads_on_when_others_have_done_as_they_like(
    client: TieredClient, held: Held
) -> None:
    held.let(1)
    with client.stream("Hello") as one, client.stream("Hello") as two, client.stream("Hello") as slow:
        assert {next(one).text, next(two).text, next(slow).text} == {PIECES[0]}
        held.let()
        for stream in (one, two):
            assert "".join(c.text for c in stream) == "".join(PIECES[1:])
            assert stream.response.text == TEXT
            stream.response.text = "spoilt"
            stream.response.usage = None
        assert "".join(c.text for c in slow) == "".join(PIECES[1:])
        assert slow.response.text == TEXT
        assert slow.response.usage is not None


# -- loops that end --------------------------------------------------------------------


def test_when_the_founders_event_loop_ends_another_one_goes_on(client: TieredClient, held: Held) -> None:
    async def short() -> None:
        task = asyncio.create_task(aplain(client))
        await soon(lambda: len(held.calls) == 1)
        await soon(lambda: readers(client) == 5)
        assert not task.done()

    with Crowd() as crowd:
        hosting = threading.Thread(target=lambda: asyncio.run(short()))
        hosting.start()
        eventually(lambda: len(held.calls) == 1)
        crowd.threads(*(partial(work, client) for work in (plain, streamed)))
        crowd.tasks(*(partial(work, client) for work in (aplain, astreamed)))
        hosting.join()
        held.let()
        assert [getattr(r, "text", r) for r in crowd.join()] == [TEXT] * 4
    assert len(held.calls) == 2
    eventually(lambda: at_rest(client, held))


@pytest.mark.parametrize("work", [aplain, astreamed])
def test_when_it_ends_before_the_flight_has_begun_too(client: TieredClient, held: Held, work: Any) -> None:
    """The loop is torn down in the very moment in which the founder has started the flight's task."""
    spawned, joined = threading.Event(), threading.Event()

    async def torn() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        founder = work(client)
        founder.send(None)  # it has started the task, and waits for it
        spawned.set()
        assert joined.wait(10)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # before their first step
        founder.close()

    with Crowd() as crowd:
        hosting = threading.Thread(target=lambda: asyncio.run(torn()))
        hosting.start()
        assert spawned.wait(10)
        held.let()
        crowd.threads(partial(plain, client))
        eventually(lambda: readers(client) == 2)
        joined.set()
        hosting.join()
        assert [getattr(r, "text", r) for r in crowd.join()] == [TEXT]
    eventually(lambda: at_rest(client, held))


# -- a storm ---------------------------------------------------------------------------


def storm_of(call: Call) -> Reply | Fail:
    dice = Random()
    prompt = call.messages[-1]["content"]
    if dice.random() < 0.2:
        return Fail.unavailable(latency_s=0.002)
    if dice.random() < 0.1:
        return Fail.cut_after(2, latency_s=0.002)
    reason = "length" if dice.random() < 0.98 else "stop"  # that is not kept
    chunks = [f"{prompt} ", "is ", "answered"]
    return Reply(chunks=chunks, first_token_s=0.002, between_s=0.001, finish_reason=reason)


def test_a_storm_of_callers_who_come_and_leave_as_they_like() -> None:
    fake = FakeProvider(answer=storm_of)
    ends: Counter[str] = Counter()

    def settled(prompt: str, text: str) -> str:
        assert text == f"{prompt} is answered"
        return "ok"

    def options(dice: Random) -> dict[str, Any]:
        deadline_s = dice.choice([None, None, 0.001, 0.004, 5.0])
        return {
            "sla": dice.choice(["gold", "silver"]),
            "deadline_s": deadline_s,
            "priority": dice.randint(0, 3),
        }

    def in_thread(client: TieredClient, seed: int) -> None:
        dice = Random(seed)
        for _ in range(60):
            prompt, end = f"question {dice.randint(0, 9)}", "left"
            try:
                if dice.random() < 0.5:
                    end = settled(prompt, client.complete(prompt, **options(dice)).text)
                else:
                    leaves = dice.choice([0, 1, 2, 9, 9])
                    with client.stream(prompt, **options(dice)) as stream:
                        text = ""
                        for number, chunk in enumerate(stream):
                            text += chunk.text
                            if number == leaves:
                                break
                        else:
                            end = settled(prompt, text)
            except TierLLMError as error:
                end = type(error).__name__
            ends[end] += 1

    async def in_task(client: TieredClient, dice: Random) -> None:
        prompt, end = f"question {dice.randint(0, 9)}", "left"
        try:
            async with asyncio.timeout(dice.choice([None, None, 0.0, 0.001, 0.003, 0.006])):
                if dice.random() < 0.5:
                    end = settled(prompt, (await client.acomplete(prompt, **options(dice))).text)
                else:
                    async with client.astream(prompt, **options(dice)) as stream:
                        end = settled(prompt, "".join([chunk.text async for chunk in stream]))
        except TierLLMError as error:
            end = type(error).__name__
        except TimeoutError:
            pass
        ends[end] += 1

    def in_loop(client: TieredClient, seed: int) -> None:
        async def main() -> None:
            dice = Random(seed)
            for _ in range(6):
                await asyncio.gather(*(in_task(client, dice) for _ in range(40)))

        asyncio.run(main())

    failures: list[BaseException] = []

    def guarded(work: Any, *args: Any) -> None:
        try:
            work(*args)
        except BaseException as error:
            failures.append(error)

    with client_of(fake) as client:
        threads = [
            threading.Thread(target=guarded, args=(in_thread, client, n), daemon=True) for n in range(6)
        ]
        threads += [threading.Thread(target=guarded, args=(in_loop, client, n), daemon=True) for n in (7, 8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "somebody hangs"
        assert not failures
        assert sum(ends.values()) == 6 * 60 + 2 * 240
        assert ends["ok"] > 200
        assert ends["left"] > 30
        eventually(lambda: at_rest(client, fake))
        assert client.cache.stats().joined > 50


# -- the state alone -------------------------------------------------------------------


def caller(deadline_at: float | None = None, priority: int = 0) -> Call:
    call = Call(Request(messages=()), scope=Scope(lambda: 0.0, deadline_at))
    call.priority = priority
    return call


def test_a_flight_takes_the_most_urgent_priority_and_the_latest_deadline() -> None:
    all_flights = Flights()
    flight, founder = all_flights.join(b"k", caller(5.0, 1))
    assert founder
    for deadline_at, priority, latest, highest in [(3.0, 0, 5.0, 1), (9.0, 4, 9.0, 4), (None, 2, None, 4)]:
        assert all_flights.join(b"k", caller(deadline_at, priority)) == (flight, False)
        assert flight.scope.deadline_at == latest
        assert flight.call.priority == highest
    all_flights.join(b"k", caller(1.0))
    assert flight.scope.deadline_at is None


def test_a_follower_that_leaves_at_once_does_not_end_what_is_about_to_begin() -> None:
    all_flights = Flights()
    flight, _ = all_flights.join(b"k", caller())
    follower, founder = all_flights.join(b"k", caller())
    assert follower is flight
    all_flights.leave(follower, founder=founder)
    assert not flight.tape.done, "its founder would have to begin a second one"
    flight.begun = True
    all_flights.leave(flight, founder=True)
    assert flight.scope.cancelled
    assert len(all_flights) == 0


def test_a_founder_that_leaves_before_it_began_lets_the_others_begin_anew() -> None:
    all_flights = Flights()
    flight, _ = all_flights.join(b"k", caller())
    all_flights.join(b"k", caller())
    all_flights.leave(flight, founder=True)
    with pytest.raises(FlightLost):
        flight.tape.told()
    another, founder = all_flights.join(b"k", caller())
    assert founder
    assert another is not flight
    all_flights.leave(flight, founder=False)
    assert len(all_flights) == 1, "who leaves the old one does not take the new one along"

"""Whoever leaves, wherever he stands: everything comes back, nothing is lost, nothing happens twice."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.drivers import Mode, Tagged, call, eventually, says, soon, stack
from tierllm.admission.pool import Pool
from tierllm.errors import ClientClosedError, ProviderUnavailableError
from tierllm.pipeline.aio import AsyncRun, arun
from tierllm.pipeline.effects import Blocking, Follow, Gather, Handler, Race, Sleep, Spawn, Wait
from tierllm.pipeline.host import Host
from tierllm.pipeline.ready import AsyncResponseStream, ReadyCall, ResponseStream
from tierllm.pipeline.scope import Cancelled, Scope
from tierllm.pipeline.sync import SyncRun, run
from tierllm.pipeline.tape import FlightLost, Tape
from tierllm.providers.base import BaseProvider
from tierllm.types import Call, Chunk, Response


class Scene:
    """A pool of three with one permit taken by each call under test, and a provider that is slow."""

    def __init__(self) -> None:
        self.pool = Pool(3)
        self.other = Pool(1)  # somebody has it and keeps it
        self.keeper: list[Any] = []
        self.other.take(self.keeper)
        self.slow = says("a b c", first_token_s=30.0)
        self.dripping = says("a b c", first_token_s=0.0, between_s=30.0)
        self.tagged = Tagged()

    async def seated(self, call: Call, call_next: Handler) -> Response:
        with await Wait(self.pool):
            return await call_next(call)

    def flow(self, where: str) -> Any:
        return getattr(self, where)()

    def invoke(self) -> Any:
        return stack([self.tagged, self.seated], self.slow)(call())

    def between_chunks(self) -> Any:
        return stack([self.tagged, self.seated], self.dripping)(call())

    async def sleep(self) -> None:
        with await Wait(self.pool):
            await Sleep(30)

    async def wait(self) -> None:
        with await Wait(self.pool):
            await Wait(self.other)

    async def race(self) -> Response:
        return await Race([(0.0, self.invoke), (0.0, self.invoke), (0.001, self.wait)])

    async def race_by_result(self) -> Response:
        return await Race([(0.0, self.between_chunks), (0.0, self.invoke)], win="result")

    async def gather(self) -> Any:
        return await Gather(self.invoke(), self.sleep(), self.wait())

    async def follow(self) -> Response:
        with await Wait(self.pool):
            return await Follow(Tape())

    async def foreign(self) -> None:
        with await Wait(self.pool):
            await asyncio.sleep(30)

    @property
    def begun(self) -> bool:
        return self.pool.in_use > 0

    @property
    def at_rest(self) -> bool:
        quiet = self.slow.in_flight == self.dripping.in_flight == 0
        return quiet and self.pool.in_use == self.pool.waiting == self.other.waiting == 0


PLACES = ["invoke", "between_chunks", "sleep", "wait", "race", "race_by_result", "gather", "follow"]
everywhere = pytest.mark.parametrize("where", PLACES)
streamed = pytest.mark.parametrize("streaming", [False, True], ids=["plain", "stream"])


def threaded(work: Callable[[], Any]) -> tuple[threading.Thread, list[BaseException]]:
    failures: list[BaseException] = []

    def go() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    return thread, failures


# -- a scope is cancelled, a host is closed, from another thread -----------------------


@everywhere
@streamed
@pytest.mark.parametrize("how", ["scope", "host"])
def test_a_sync_flow_is_cancelled_from_another_thread(where: str, streaming: bool, how: str) -> None:
    scene, mode = Scene(), Mode("sync", streaming)
    scope = mode.scope()
    mode.host.begin(scope)
    thread, failures = threaded(lambda: mode.drive(scene.flow(where), scope=scope))
    eventually(lambda: scene.begun)
    time.sleep(0.005)
    (scope.cancel if how == "scope" else mode.host.close)()
    thread.join(5)
    assert [type(f) for f in failures] == [Cancelled]
    eventually(lambda: scene.at_rest)


@pytest.mark.parametrize("where", [*PLACES, "foreign"])
@streamed
@pytest.mark.parametrize("how", ["scope", "host"])
def test_an_async_flow_is_cancelled_from_another_thread(where: str, streaming: bool, how: str) -> None:
    scene, mode = Scene(), Mode("async", streaming)
    scope = mode.scope()
    mode.host.begin(scope)
    thread, failures = threaded(lambda: mode.drive(scene.flow(where), scope=scope))
    eventually(lambda: scene.begun)
    time.sleep(0.005)
    (scope.cancel if how == "scope" else mode.host.close)()
    thread.join(5)
    assert [type(f) for f in failures] == [Cancelled]
    eventually(lambda: scene.at_rest)


@everywhere
@streamed
def test_a_virtual_flow_is_cancelled_at_any_moment(where: str, streaming: bool) -> None:
    for moment in (0.0, 0.0005, 1.0):
        scene, mode = Scene(), Mode("virtual", streaming)
        scope = mode.scope()
        mode.world.at(moment, scope.cancel)
        with pytest.raises(Cancelled):
            mode.drive(scene.flow(where), scope=scope)
        assert scene.at_rest


@everywhere
def test_a_cancelled_scope_begins_nothing(mode: Mode, where: str) -> None:
    scene, scope = Scene(), mode.scope()
    scope.cancel()
    with pytest.raises(Cancelled):
        mode.drive(scene.flow(where), scope=scope)
    assert scene.slow.calls == scene.dripping.calls == 0
    eventually(lambda: scene.at_rest)


@everywhere
def test_a_consumer_that_leaves_in_virtual_time_ends_the_flow(where: str) -> None:
    scene, mode = Scene(), Mode("virtual", True)
    driven = mode.world.start(scene.flow(where), mode.host, streaming=True)
    mode.world.run(until=1.0)
    driven.close()
    mode.world.run()
    assert scene.at_rest
    assert driven.ended


def test_a_consumer_that_leaves_at_a_chunk_in_virtual_time_ends_the_flow() -> None:
    for flow_of in ("between_chunks", "race_by_chunk"):
        scene, mode = Scene(), Mode("virtual", True)
        begun: list[Any] = []

        async def race(scene: Scene = scene) -> Response:
            return await Race([(0.0, scene.invoke), (0.0, scene.between_chunks)])

        flow = race() if flow_of == "race_by_chunk" else scene.between_chunks()
        mode.world.after(
            0.0,
            lambda f=flow, m=mode, b=begun: b.append(
                m.world.start(  # type: ignore[misc]
                    f, m.host, streaming=True, on_chunk=lambda _: m.world.soon(b[0].close)
                )
            ),
        )
        mode.world.run()
        assert scene.at_rest
        assert begun[0].delivered == 1


async def test_a_stream_that_its_consumer_holds_ends_at_his_next_step() -> None:
    for mode in (Mode("async", True),):
        provider = says("a b c")
        scope = mode.scope()
        driven = AsyncRun(stack([], provider)(call()), scope, mode.host, streaming=True)
        assert await driven.advance()
        scope.cancel()
        await asyncio.sleep(0)
        with pytest.raises(Cancelled):
            await driven.advance()
        await driven.aclose()
        assert provider.in_flight == 0


def test_closing_a_client_reaches_calls_and_streams_as_a_clear_error() -> None:
    scene = Scene()
    host = Host()

    def ready() -> ReadyCall:
        return ReadyCall(call(), stack([scene.seated], scene.dripping), Scope(time.monotonic), host)

    def stream() -> None:
        with ResponseStream(ready()) as s:
            list(s)

    async def astream() -> None:
        async with AsyncResponseStream(ready()) as s:
            async for _ in s:
                pass

    works = [lambda: ready().run(), stream, lambda: asyncio.run(astream())]
    threads = [threaded(work) for work in works]
    eventually(lambda: scene.pool.in_use == 3)
    host.close()
    for thread, failures in threads:
        thread.join(5)
        assert [type(f) for f in failures] == [ClientClosedError]
    eventually(lambda: scene.at_rest and not host.live)
    for work in works:
        with pytest.raises(ClientClosedError):
            work()


def test_a_failing_hook_does_not_save_the_others(caplog: pytest.LogCaptureFixture) -> None:
    scope, woken = Scope(time.monotonic), []
    scope.on_cancel(lambda: 1 // 0)
    scope.on_cancel(lambda: woken.append(True))
    scope.cancel()
    assert woken == [True]
    assert "a hook for cancelling a call failed" in caplog.text


def test_what_a_cancelled_provider_raises_is_no_failure() -> None:
    """A shut socket looks broken: breakers and retries must not hear of it."""

    class Shut(BaseProvider):
        name, waits = "shut", False

        def complete(self, call: Call, scope: Any) -> Response:
            hung_up = threading.Event()
            scope.on_cancel(hung_up.set)
            hung_up.wait(5)
            raise ProviderUnavailableError("the connection was reset")

        def stream(self, call: Call, scope: Any) -> Any:
            yield Chunk("a")
            self.complete(call, scope)

    for streaming in (False, True):
        tagged, mode = Tagged(), Mode("sync", streaming)
        scope = mode.scope()
        timer = threading.Timer(0.01, scope.cancel)
        timer.start()
        with pytest.raises(Cancelled):
            mode.drive(stack([tagged], Shut())(call()), scope=scope)
        assert tagged.ends == ["Cancelled"]


# -- a task is cancelled ------------------------------------------------------------------


@pytest.mark.parametrize("where", [*PLACES, "foreign"])
@streamed
@pytest.mark.parametrize("ticks", [0, 1, 2, 3, 5, 8, "later"])
async def test_a_task_is_cancelled_after_any_number_of_turns(where: str, streaming: bool, ticks: Any) -> None:
    scene, mode = Scene(), Mode("async", streaming)
    driven = AsyncRun(scene.flow(where), mode.scope(), mode.host, streaming)

    async def consume() -> None:
        try:
            while await driven.advance() is not None:
                pass
        finally:
            await driven.aclose()

    task = asyncio.create_task(consume())
    if ticks == "later":
        await asyncio.sleep(0.01)
    else:
        for _ in range(ticks):
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if not ticks:
        await driven.aclose()  # cancelled before its first step: nobody has begun the flow
    await soon(lambda: scene.at_rest)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not mode.host.tasks


async def test_a_cancellation_and_a_permit_in_the_same_tick_lose_neither() -> None:
    for order in ("permit first", "cancel first"):
        pool, mode = Pool(1), Mode("async", False)
        held: list[Any] = []
        pool.take(held)

        async def seated(pool: Pool = pool) -> Any:
            with await Wait(pool):
                return await stack([], says(latency_s=30.0))(call())

        first = asyncio.create_task(arun(seated(), mode.scope(), mode.host))
        second = asyncio.create_task(arun(seated(), mode.scope(), mode.host))
        await soon(lambda pool=pool: pool.waiting == 2)  # type: ignore[misc]
        if order == "permit first":
            held[0].release()
            first.cancel()
        else:
            first.cancel()
            held[0].release()
        with pytest.raises(asyncio.CancelledError):
            await first
        await soon(lambda pool=pool: pool.in_use == 1 and pool.waiting == 0)  # type: ignore[misc]
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert (pool.in_use, pool.peak) == (0, 1)


async def test_a_winner_is_not_lost_when_its_race_is_cancelled_at_the_finish() -> None:
    for ticks in range(12):
        pool, mode = Pool(2), Mode("async", True)
        fast, slow = says("a b"), says("slow", latency_s=30.0)

        async def seated(call: Call, call_next: Handler, pool: Pool = pool) -> Response:
            with await Wait(pool):
                return await call_next(call)

        async def race(fast: Any = fast, slow: Any = slow, seated: Any = seated) -> Response:
            return await Race([(0.0, lambda p=p: stack([seated], p)(call())) for p in (slow, fast)])

        driven = AsyncRun(race(), mode.scope(), mode.host, streaming=True)
        task = asyncio.create_task(driven.advance())
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await driven.aclose()
        await soon(lambda p=pool, a=fast, b=slow: p.in_use == a.in_flight == b.in_flight == 0)  # type: ignore[misc]


def test_a_waiter_whose_loop_was_closed_is_skipped() -> None:
    pool = Pool(1)
    held: list[Any] = []
    pool.take(held)
    mode = Mode("async", False)

    async def wait() -> None:
        with await Wait(pool):
            pass

    loop = asyncio.new_event_loop()
    task = loop.create_task(arun(wait(), mode.scope(), mode.host))
    loop.run_until_complete(asyncio.sleep(0.001))
    assert pool.waiting == 1
    loop.close()  # its task never hears of it
    thread, failures = threaded(lambda: Mode("sync", False).drive(wait()))
    eventually(lambda: pool.waiting == 2)
    held[0].release()
    thread.join(5)
    assert not failures
    assert (pool.in_use, pool.waiting) == (0, 0)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    with contextlib.suppress(RuntimeError):
        task.get_coro().close()  # type: ignore[union-attr]


def test_one_pool_serves_threads_and_one_event_loop_after_another() -> None:
    pool = Pool(2)

    async def seated(call: Call, call_next: Handler) -> Response:
        with await Wait(pool):
            return await call_next(call)

    handler = stack([seated], says("a", latency_s=0.0005))
    mode = Mode("async", False)

    async def main() -> int:
        runs = [arun(handler(call()), mode.scope(), mode.host) for _ in range(40)]
        return len(await asyncio.gather(*runs))

    threads = [
        threaded(lambda: [Mode("sync", False).drive(handler(call())) for _ in range(15)]) for _ in range(4)
    ]
    for _ in range(3):
        assert asyncio.run(main()) == 40
    for thread, failures in threads:
        thread.join(5)
        assert not failures
    assert (pool.in_use, pool.waiting) == (0, 0)
    assert pool.peak == 2


# -- a consumer leaves early -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["break", "close inside", "error"])
def test_an_early_end_of_a_stream_frees_everything_at_once(how: str) -> None:
    scene, host = Scene(), Host()
    ready = ReadyCall(call(), scene_handler(scene), Scope(time.monotonic), host)
    with contextlib.suppress(ZeroDivisionError), ResponseStream(ready) as stream:
        for chunk in stream:
            assert chunk.text == "a "
            assert scene.pool.in_use == 1
            if how == "break":
                break
            if how == "error":
                raise ZeroDivisionError
            stream.close()
            stream.close()
    assert scene.at_rest
    assert scene.tagged.ends == ["GeneratorExit"]
    assert list(stream) == []
    assert not host.live


@pytest.mark.parametrize("how", ["break", "close inside", "error"])
async def test_an_early_end_of_an_async_stream_frees_everything_at_once(how: str) -> None:
    scene, host = Scene(), Host()
    ready = ReadyCall(call(), scene_handler(scene), Scope(time.monotonic), host)
    with contextlib.suppress(ZeroDivisionError):
        async with AsyncResponseStream(ready) as stream:
            async for chunk in stream:
                assert chunk.text == "a "
                assert scene.pool.in_use == 1
                if how == "break":
                    break
                if how == "error":
                    raise ZeroDivisionError
                await stream.aclose()
                await stream.aclose()
    assert scene.at_rest
    assert scene.tagged.ends == ["GeneratorExit"]
    assert [c async for c in stream] == []
    assert not host.live


def scene_handler(scene: Scene) -> Handler:
    return stack([scene.tagged, scene.seated], scene.dripping)


def test_a_stream_that_failed_has_no_more_chunks() -> None:
    from tierllm.testing import Fail, FakeProvider

    host = Host()

    def ready() -> ReadyCall:
        down = FakeProvider(answer=lambda _: Fail.unavailable())
        return ReadyCall(call(), stack([], down), Scope(time.monotonic), host)

    with ResponseStream(ready()) as stream:
        with pytest.raises(ProviderUnavailableError):
            next(stream)
        assert list(stream) == []

    async def main() -> None:
        async with AsyncResponseStream(ready()) as astream:
            with pytest.raises(ProviderUnavailableError):
                await anext(astream)
            assert [c async for c in astream] == []

    asyncio.run(main())


# -- Ctrl-C ---------------------------------------------------------------------------------


def ctrl_c_soon() -> None:
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.02, lambda: signal.pthread_kill(main, signal.SIGINT)).start()


@pytest.mark.parametrize("where", PLACES)
@streamed
def test_ctrl_c_ends_a_sync_call_wherever_it_waits(where: str, streaming: bool) -> None:
    scene, mode = Scene(), Mode("sync", streaming)
    ctrl_c_soon()
    with pytest.raises(KeyboardInterrupt):
        mode.drive(scene.flow(where))
    eventually(lambda: scene.at_rest)


@pytest.mark.parametrize("where", ["invoke", "between_chunks", "wait", "race"])
def test_ctrl_c_ends_an_async_call_wherever_it_waits(where: str) -> None:
    scene, mode = Scene(), Mode("async", True)
    ctrl_c_soon()
    with pytest.raises(KeyboardInterrupt):
        mode.drive(scene.flow(where))
    eventually(lambda: scene.at_rest)


def test_an_interrupt_inside_a_provider_passes_through_and_frees_everything(mode: Mode) -> None:
    from tierllm.testing import Fail, FakeProvider

    pool, tagged = Pool(1), Tagged()

    async def seated(call: Call, call_next: Handler) -> Response:
        await Wait(pool)
        return await call_next(call)

    for fail in (Fail.error(KeyboardInterrupt), Fail.error(SystemExit, latency_s=0.001)):
        broken = FakeProvider(answer=lambda _, f=fail: f)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            mode.drive(stack([tagged, seated], broken)(call()))
        assert (pool.in_use, broken.in_flight) == (0, 0)
    assert tagged.ends == ["KeyboardInterrupt", "SystemExit"]


# -- Blocking ----------------------------------------------------------------------------------


class Reserve:
    """A reservation that takes its time."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.taken = self.undone = 0

    def __call__(self) -> int:
        self.begun.set()
        assert self.go_on.wait(5)
        self.taken += 1
        return self.taken

    def undo(self, taken: int) -> None:
        assert taken == self.taken
        self.undone += 1

    async def native(self) -> int:
        self.begun.set()
        while not self.go_on.is_set():
            await asyncio.sleep(0.001)
        self.taken += 1
        return self.taken

    async def flow(self, native: bool = False) -> None:
        await Blocking(self, self.undo, afn=self.native if native else None)
        await Sleep(30)


@pytest.mark.parametrize("native", [False, True], ids=["fn", "afn"])
@pytest.mark.parametrize("how", ["task", "scope", "host"])
async def test_a_reserve_cancelled_midway_is_undone_exactly_once(native: bool, how: str) -> None:
    reserve, mode = Reserve(), Mode("async", False)
    scope = mode.scope()
    mode.host.begin(scope)
    task = asyncio.create_task(arun(reserve.flow(native), scope, mode.host))
    await soon(reserve.begun.is_set)
    {"task": task.cancel, "scope": scope.cancel, "host": mode.host.close}[how]()
    with pytest.raises((asyncio.CancelledError, Cancelled)):
        await task
    assert reserve.undone == 0
    reserve.go_on.set()
    await soon(lambda: reserve.undone == 1)
    await asyncio.sleep(0.005)
    assert (reserve.taken, reserve.undone) == (1, 1)


def test_a_reserve_whose_event_loop_ends_first_is_undone_all_the_same() -> None:
    reserve, mode = Reserve(), Mode("async", False)

    async def main() -> None:
        task = asyncio.create_task(arun(reserve.flow(), mode.scope(), mode.host))
        await soon(reserve.begun.is_set)
        assert not task.done()  # and asyncio.run cancels it

    asyncio.run(main())
    reserve.go_on.set()
    eventually(lambda: reserve.undone == 1)


async def test_a_reserve_that_ended_before_the_cancellation_is_undone_too() -> None:
    """Done and cancelled in the same tick: the flow has not seen the result."""
    for ticks in range(8):
        reserve, mode = Reserve(), Mode("async", False)
        seen: list[int] = []

        async def flow(reserve: Reserve = reserve, seen: list[int] = seen) -> None:
            taken = await Blocking(reserve, reserve.undo)
            try:
                seen.append(taken)
                await Sleep(30)
            finally:
                reserve.undo(taken)

        task = asyncio.create_task(arun(flow(), mode.scope(), mode.host))
        await soon(reserve.begun.is_set)
        reserve.go_on.set()
        eventually(lambda r=reserve: r.taken == 1)  # type: ignore[misc]  # the loop stands still meanwhile
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await soon(lambda r=reserve: r.undone == 1)  # type: ignore[misc]
        assert reserve.undone == 1


def test_a_failing_reserve_leaves_nothing_to_undo() -> None:
    async def flow() -> None:
        await Blocking(lambda: 1 // 0, lambda _: pytest.fail("nothing was taken"))

    for name in ("sync", "async", "virtual"):
        with pytest.raises(ZeroDivisionError):
            Mode(name, False).drive(flow())


# -- flows of their own -----------------------------------------------------------------------------


def test_a_closed_host_refuses_to_spawn(mode: Mode) -> None:
    mode.host.close()
    tape = Tape()

    async def flow() -> Any:
        await Spawn(stack([], says())(call()), tape)

    with pytest.raises(ClientClosedError):
        mode.drive(flow())
    assert not mode.host.live


def test_closing_the_host_ends_what_was_spawned(mode: Mode) -> None:
    slow = says(latency_s=0.05 if mode.name == "virtual" else 30.0)
    tape = Tape()

    async def flow() -> None:
        await Spawn(stack([], slow)(call()), tape)
        await Sleep(0.01)
        mode.host.close()

    mode.drive(flow())
    eventually(lambda: tape.done and not mode.host.live and slow.in_flight == 0)
    with pytest.raises(FlightLost):
        tape.told()


def test_a_spawned_flow_whose_loop_ends_is_lost_even_before_its_first_step() -> None:
    for pause in (False, True):
        tape, mode = Tape(), Mode("async", False)

        async def flow(tape: Tape = tape, pause: bool = pause) -> None:
            await Spawn(stack([], says(latency_s=30.0))(call()), tape)
            if pause:
                await Sleep(0.005)

        async def main(flow: Any = flow, mode: Mode = mode) -> None:
            await arun(flow(), mode.scope(), mode.host)

        asyncio.run(main())
        with pytest.raises(FlightLost):
            tape.told()
        assert not mode.host.live


async def test_drained_waits_for_the_tasks_of_this_loop() -> None:
    mode, slow = Mode("async", False), says(latency_s=30.0)

    async def flow() -> None:
        await Spawn(stack([], slow)(call()), Tape())
        await Sleep(0.005)

    await arun(flow(), mode.scope(), mode.host)
    assert slow.in_flight == 1
    mode.host.close()
    await mode.host.drained()
    assert slow.in_flight == 0


# -- things left over ------------------------------------------------------------------------------


def test_run_closes_a_flow_that_somebody_interrupts_from_outside() -> None:
    """An interrupt between two steps never reaches the flow: closing it does the rest."""
    pool = Pool(1)

    async def flow() -> None:
        await Wait(pool)
        await Sleep(0)

    mode = Mode("sync", False)
    driven = SyncRun(flow(), mode.scope(), mode.host, streaming=False)
    assert isinstance(driven.flow.send(None), Wait)
    pool.take(driven.permits)
    driven.close()
    assert pool.in_use == 0
    assert run(_value(), mode.scope(), mode.host) == 7  # type: ignore[comparison-overlap]


async def _value() -> Any:
    return 7

"""The driver for asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .clock import SteppedClock
from .effects import (
    Blocking,
    Effect,
    Follow,
    Gather,
    Grant,
    Invoke,
    Race,
    Sleep,
    Spawn,
    Spawned,
    Ticket,
    Wait,
)
from .run import Run, past_deadline
from .scope import Cancelled, Invocation, Scope
from .tape import FlightLost, Tape

if TYPE_CHECKING:
    from ..types import Chunk, Response
    from .effects import Flow
    from .host import Host
    from .provider import Provider

__all__ = ["AsyncRun", "arun"]

G = TypeVar("G", bound=Grant)
T = TypeVar("T")


class AsyncSource(Protocol):
    """Where chunks come from while a flow waits: a provider, a race's winner, a tape."""

    @property
    def result(self) -> Any: ...

    async def advance(self) -> Chunk | None: ...

    async def aclose(self) -> None: ...


class AsyncRun(Run):
    """A flow driven by whichever task awaits ``advance``; different tasks may take turns.

    ``task`` is that task while it does: a cancelled scope and a provider that is too slow both end
    its wait by cancelling it, and own up to that with ``uncancel``.
    """

    __slots__ = ("_interrupted", "_loop", "_source", "task")

    def __init__(self, flow: Flow[Response], scope: Scope, host: Host, streaming: bool) -> None:
        super().__init__(flow, scope, host, streaming)
        self._source: AsyncSource | None = None
        self._loop = asyncio.get_running_loop()
        self._interrupted = False
        self.task: asyncio.Task[Any] | None = None
        scope.on_cancel(self._interrupt)

    async def advance(self) -> Chunk | None:
        """The next chunk, or ``None`` once the flow has ended well (see ``result``).

        Raises what the flow raises.
        """
        send, throw = self.flow.send, self.flow.throw
        step: Callable[[Any], Any] = send  # a policy of the user's may await anything
        value: Any = None
        source = self._source
        self.task = asyncio.current_task()
        try:
            while True:
                if source is not None:
                    try:
                        chunk = await source.advance()
                        if chunk is not None:
                            self.delivered += 1
                            return chunk
                        step, value = send, source.result
                    except BaseException as error:
                        step, value = throw, self._own(error)
                    source = self._source = None
                try:
                    effect = step(value)
                except StopIteration as stop:
                    self.result = stop.value
                    self.release()
                    return None
                except BaseException:
                    self.release()
                    raise
                try:
                    kind = type(effect)
                    if kind is Invoke:
                        value = await self._invoke(effect)
                    elif kind is Wait:
                        value = effect.on.take(self.permits)
                        if value is None:
                            value = await self._queue(effect)
                    elif isinstance(effect, Effect):
                        value = await self._perform(effect)
                    else:
                        value = await self._pass_through(effect)
                    source = self._source
                    step = send
                except BaseException as error:
                    step, value = throw, self._own(error)
        finally:
            self.task = None
            del step, value  # an exception must not keep this frame alive through its traceback

    async def aclose(self) -> None:
        """The consumer has left: end the flow where it stands."""
        self.scope.off_cancel(self._interrupt)
        source, self._source = self._source, None
        try:
            if source is not None:
                await source.aclose()
        finally:
            try:
                self.flow.close()
            finally:
                self.release()

    # -- cancellation ----------------------------------------------------------

    def _interrupt(self) -> None:
        """The scope was cancelled, in whatever thread."""
        try:
            self._loop.call_soon_threadsafe(self._cancel_task)
        except RuntimeError:
            pass  # the loop is closed, and the flow with it

    def _cancel_task(self) -> None:
        if self.task is not None and not self._interrupted:
            self._interrupted = True
            self.task.cancel()

    def _own(self, error: BaseException) -> BaseException:
        """The scope's cancellation came as the task's: say so, and leave the task alive."""
        if self._interrupted and isinstance(error, asyncio.CancelledError):
            self._interrupted = False
            if self.task is not None and self.task.uncancel() > 0:
                return error
            return Cancelled()
        return error

    # -- effects ---------------------------------------------------------------

    async def _invoke(self, effect: Invoke) -> Response | None:
        invocation = self.open(effect)
        provider = effect.provider
        if invocation.streaming:
            self._source = _ProviderStream(self, provider, invocation)
            return None
        watchdog = _Watchdog(self, invocation)
        try:
            watchdog.watch()
            return invocation.answered(await provider.acomplete(effect.call, invocation))
        except BaseException as error:
            raise invocation.failed(watchdog.judge(error))  # noqa: B904 - usually the same error
        finally:
            watchdog.stop()

    async def _queue(self, effect: Wait[G]) -> G:
        scope, on = self.scope, effect.on
        scope.check()
        timeout = effect.timeout_s
        left = scope.remaining_s()
        clamped = left is not None and (timeout is None or left < timeout)
        span = left if clamped else timeout
        loop, here = self._loop, threading.get_ident()
        woken: asyncio.Future[None] = loop.create_future()

        def rouse() -> None:
            if not woken.done():
                woken.set_result(None)

        def wake() -> bool:
            try:
                if threading.get_ident() == here:
                    loop.call_soon(rouse)
                else:
                    loop.call_soon_threadsafe(rouse)
            except RuntimeError:
                return False  # the loop is closed: nobody waits here any more
            return True

        ticket = Ticket(wake)
        timer = None
        try:
            if not on.enter(ticket, effect.call):
                if span is not None:
                    if isinstance(scope.clock, SteppedClock):
                        scope.clock.advance(max(0.0, span))  # nobody else moves a stepped clock
                        rouse()
                    timer = loop.call_later(max(0.0, span), rouse)
                await woken
            if ticket.grant is None:
                raise past_deadline("waiting in a queue") if clamped else TimeoutError
            granted: G = ticket.grant
            self.permits.append(granted)
            return granted
        except BaseException:
            on.leave(ticket)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    async def _perform(self, effect: Any) -> Any:
        match effect:
            case Sleep():
                return await self._sleep(effect.seconds)
            case Blocking():
                return await self._block(effect)
            case Race():
                from .aio_race import race

                self._source, result = await race(self, effect)
                return result
            case Gather():
                from .aio_race import gather

                return await gather(self, effect)
            case Spawn():
                return spawn(self.host, self.scope, effect)
            case Follow():
                reader = _TapeReader(effect.tape, self.scope)
                if self.streaming:
                    self._source = reader
                    return None
                while await reader.advance() is not None:
                    pass
                return reader.result
        raise TypeError(f"unknown effect {effect!r}")

    async def _sleep(self, seconds: float) -> None:
        scope = self.scope
        scope.check()
        left = scope.remaining_s()
        if left is not None and left < seconds:
            raise past_deadline("waiting to try again")
        if isinstance(scope.clock, SteppedClock):
            scope.clock.advance(seconds)
            seconds = 0
        await asyncio.sleep(seconds)

    async def _block(self, effect: Blocking[T]) -> T:
        """Never cut short: when the call is cancelled, ``fn`` ends, then ``undo`` runs."""
        work: asyncio.Future[T]
        if effect.afn is not None:
            work = task = asyncio.ensure_future(_awaited(effect.afn()))
            self.host.keep(task)
        else:
            fn = contextvars.copy_context().run
            work = self._loop.run_in_executor(self.host.executor, fn, effect.fn)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            undo = effect.undo
            if undo is not None:
                executor = self.host.executor

                def regret(done: asyncio.Future[T]) -> None:
                    if not done.cancelled() and done.exception() is None:
                        executor.submit(undo, done.result())

                work.add_done_callback(regret)
            raise

    async def _pass_through(self, awaited: Any) -> Any:
        """An awaitable of the event loop's, awaited in a user's own policy."""
        left = self.scope.remaining_s()
        if left is None:
            return await _Raw(awaited)
        try:
            async with asyncio.timeout(max(0.0, left)) as bound:
                return await _Raw(awaited)
        except TimeoutError:
            if bound.expired():
                raise past_deadline("awaiting in a policy") from None
            raise


class _Raw:
    """Hands an awaited object on to the event loop as it came out of the policy."""

    __slots__ = ("_awaited",)

    def __init__(self, awaited: Any) -> None:
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self._awaited)


async def _awaited(work: Any) -> Any:
    return await work


class _Watchdog:
    """One timer for one invocation; it looks at a timestamp instead of being set at each chunk.

    It bites by cancelling the task that waits for the provider, if one does.
    """

    __slots__ = ("_bitten", "_invocation", "_run", "_timer")

    def __init__(self, run: AsyncRun, invocation: Invocation) -> None:
        self._run = run
        self._invocation = invocation
        self._timer: asyncio.TimerHandle | None = None
        self._bitten = False

    def watch(self) -> None:
        """A wait begins: be there when it is due, which may be sooner than the present timer."""
        left = self._invocation.remaining_s()
        if left is None:
            return
        loop = self._run._loop
        at = loop.time() + left
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._look)

    @property
    def asleep(self) -> bool:
        return self._timer is None

    def _look(self) -> None:
        self._timer = None
        task, left = self._run.task, self._invocation.remaining_s()
        if task is None or left is None:
            return  # a consumer has the time; the next wait sets the timer again
        if left > 0:
            self._timer = self._run._loop.call_later(left, self._look)
            return
        self._bitten = True
        task.cancel()

    def judge(self, error: BaseException) -> BaseException:
        """A cancellation by this watchdog is a timeout; anything else stays what it is."""
        if self._bitten:
            self._bitten = False
            task = self._run.task
            if task is not None and task.uncancel() == 0 and isinstance(error, asyncio.CancelledError):
                return self._invocation.timed_out()
        return error

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._bitten and self._run.task is not None:  # the provider swallowed it and answered
            self._bitten = False
            self._run.task.uncancel()


class _ProviderStream:
    """An invocation that streams."""

    __slots__ = ("_chunks", "_invocation", "_watchdog", "result")

    def __init__(self, run: AsyncRun, provider: Provider, invocation: Invocation) -> None:
        self._invocation = invocation
        self._chunks: AsyncIterator[Chunk] = provider.astream(invocation.call, invocation)
        self._watchdog = _Watchdog(run, invocation)
        self.result: Response | None = None

    async def advance(self) -> Chunk | None:
        invocation, watchdog = self._invocation, self._watchdog
        first = invocation.first_at is None
        invocation.back()
        try:
            if watchdog.asleep:
                watchdog.watch()
            try:
                chunk = await anext(self._chunks)
            except StopAsyncIteration:
                self.result = invocation.finished()
                watchdog.stop()
                return None
            invocation.feed(chunk)
            if first:
                watchdog.watch()  # the bound between tokens may come sooner than the first token's
            return chunk
        except BaseException as error:
            failure = invocation.failed(watchdog.judge(error))
            await self.aclose()
            raise failure  # noqa: B904 - usually the same error

    async def aclose(self) -> None:
        self._watchdog.stop()
        invocation = self._invocation
        if invocation.ended_at is None:
            invocation.ended_at = invocation.clock()
        aclose = getattr(self._chunks, "aclose", None)
        if aclose is not None:
            await aclose()


class _TapeReader:
    """A reader of a tape, as a source of chunks."""

    __slots__ = ("_scope", "_seen", "_tape", "result")

    def __init__(self, tape: Tape, scope: Scope) -> None:
        self._tape = tape
        self._scope = scope
        self._seen = 0
        self.result: Response | None = None

    async def advance(self) -> Chunk | None:
        tape = self._tape
        while True:
            if self._seen < len(tape.chunks):
                chunk = tape.chunks[self._seen]
                self._seen += 1
                return chunk
            if tape.done and self._seen >= len(tape.chunks):
                self.result = tape.told()
                return None
            await self._wait_for_more()

    async def _wait_for_more(self) -> None:
        loop, here = asyncio.get_running_loop(), threading.get_ident()
        woken: asyncio.Future[None] = loop.create_future()

        def rouse() -> None:
            if not woken.done():
                woken.set_result(None)

        def wake() -> None:
            if threading.get_ident() == here:
                rouse()
            else:
                loop.call_soon_threadsafe(rouse)

        self._scope.check()
        if self._tape.wake_later(self._seen, wake):
            return
        left = self._scope.remaining_s()
        timer = None if left is None else loop.call_later(max(0.0, left), rouse)
        try:
            await woken
        finally:
            self._tape.forget(wake)
            if timer is not None:
                timer.cancel()
        if left is not None and self._seen >= len(self._tape.chunks) and not self._tape.done:
            raise past_deadline("following an identical call")

    async def aclose(self) -> None:
        """The tape belongs to others."""


class _SpawnedTask:
    __slots__ = ("scope",)

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def cancel(self) -> None:
        self.scope.cancel()


def spawn(host: Host, parent: Scope, effect: Spawn) -> Spawned:
    """Start ``effect.flow`` in a task of its own, with a deadline of its own."""
    scope = Scope(host.clock, parent.deadline_at)
    tape = effect.tape
    flow = AsyncRun(effect.flow, scope, host, streaming=tape is not None)
    host.begin(scope)

    async def pump() -> None:
        response: Response | None = None
        error: BaseException | None = None
        try:
            while (chunk := await flow.advance()) is not None:
                if tape is not None:
                    tape.push(chunk)
            response = flow.result
        except Cancelled:
            error = FlightLost()
        except asyncio.CancelledError:
            error = FlightLost()
            raise
        except BaseException as failure:
            error = failure
        finally:
            host.end(scope)
            if tape is not None:
                tape.end(response, error)
            await flow.aclose()

    host.keep(asyncio.ensure_future(pump()))
    return _SpawnedTask(scope)


async def arun(flow: Flow[Response], scope: Scope, host: Host) -> Response:
    """Drive ``flow`` to its end in this task and give its value."""
    driven = AsyncRun(flow, scope, host, streaming=False)
    try:
        await driven.advance()
        result: Response = driven.result
        return result
    finally:
        await driven.aclose()

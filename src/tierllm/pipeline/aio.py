"""The driver for asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .aio_sources import AsyncSource, ProviderStream, TapeReader, Watchdog
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
from .scope import Cancelled, Scope
from .tape import FlightLost
from .waiting import anap

if TYPE_CHECKING:
    import concurrent.futures

    from ..types import Chunk, Response
    from .effects import Flow
    from .host import Host

__all__ = ["AsyncRun", "arun"]

G = TypeVar("G", bound=Grant)
T = TypeVar("T")


class AsyncRun(Run):
    """A flow driven by whichever task awaits ``advance``; different tasks may take turns.

    ``task`` is that task while it does: a cancelled scope and a provider that is too slow both end
    its wait by cancelling it, and own up to that with ``uncancel``. ``before`` counts the
    cancellations that were requested of it before this wait, and are none of our business.
    """

    __slots__ = ("_interrupted", "_left", "_source", "before", "loop", "task")

    def __init__(self, flow: Flow[Response], scope: Scope, host: Host, streaming: bool) -> None:
        super().__init__(flow, scope, host, streaming)
        self._source: AsyncSource | None = None
        self.loop = asyncio.get_running_loop()
        self._interrupted = False
        self.task: asyncio.Task[Any] | None = None
        self.before = 0
        self._left = False
        scope.on_cancel(self._interrupt)

    async def advance(self) -> Chunk | None:
        """The next chunk, or ``None`` once the flow has ended well (see ``result``) or was closed.

        Raises what the flow raises.
        """
        send, throw = self.flow.send, self.flow.throw
        step: Callable[[Any], Any] = send  # a policy of the user's may await anything
        value: Any = None
        source = self._source
        self.task = task = asyncio.current_task()
        self.before = 0 if task is None else task.cancelling()
        try:
            while True:
                if source is not None:
                    try:
                        chunk = await source.advance()
                        if chunk is None:
                            step, value = send, source.result
                        elif not self._left:
                            self.delivered += 1
                            return chunk
                        else:  # closed from another task meanwhile: this one ends the flow
                            await source.aclose()
                            step, value = throw, Cancelled()
                    except BaseException as error:
                        step, value = throw, self._own(error)
                    source = self._source = None
                try:
                    effect = step(value)
                except StopIteration as stop:
                    self.result = stop.value
                    self.release()
                    return None
                except BaseException as error:
                    if self.closed and isinstance(error, RuntimeError):
                        return None
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
            if self._interrupted and task is not None:  # somebody swallowed it on its way
                self._interrupted = False
                task.uncancel()
            self.task = None
            del step, value, task  # an exception must not keep this frame alive through its traceback

    def detach(self) -> None:
        """The flow has ended: its scope need not know it any more."""
        self.scope.off_cancel(self._interrupt)

    async def aclose(self) -> None:
        """The consumer has left: end the flow where it stands.

        While another task waits for the next chunk, the flow is its to end: it is woken for that.
        """
        self._left = True
        if self.task is not None and self.task is not asyncio.current_task():
            self.scope.cancel()
            return
        self.closed = True
        self.detach()
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
            self.loop.call_soon_threadsafe(self._cancel_task)
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
            if self.task is not None and self.task.uncancel() > self.before:
                return error
            return Cancelled()
        return error

    # -- effects ---------------------------------------------------------------

    async def _invoke(self, effect: Invoke) -> Response | None:
        invocation = self.open(effect)
        provider = effect.provider
        watchdog = Watchdog(self, invocation)
        try:
            if invocation.streaming:
                self._source = ProviderStream(provider, invocation, watchdog)
                return None
            watchdog.watch()
            return invocation.answered(await provider.acomplete(effect.call, invocation))
        except BaseException as error:
            raise invocation.failed(watchdog.judge(error))  # noqa: B904 - usually the same error
        finally:
            watchdog.stop()

    async def _queue(self, effect: Wait[G]) -> G:
        scope, on, clock = self.scope, effect.on, self.scope.clock
        scope.check()
        loop, here = self.loop, threading.get_ident()
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
        try:
            until = None if effect.timeout_s is None else clock() + effect.timeout_s
            on.enter(ticket, effect.call)
            while ticket.grant is None:
                span = self.patience(until, "waiting in a queue")
                if span is not None and isinstance(clock, SteppedClock):
                    await anap(clock, span)  # nobody else moves a stepped clock
                elif span is None:
                    await woken
                else:
                    timer = loop.call_later(span, rouse)
                    try:
                        await woken
                    finally:
                        timer.cancel()
                    woken = loop.create_future()
            granted: G = ticket.grant
            self.permits.append(granted)
            return granted
        except BaseException:
            on.leave(ticket)
            raise

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
                reader = TapeReader(effect.tape, self.scope, self.follows())
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
        await anap(scope.clock, seconds)

    async def _block(self, effect: Blocking[T]) -> T:
        """Never cut short: when the call is cancelled, ``fn`` ends, then ``undo`` runs."""
        self.scope.check()
        host, undo = self.host, effect.undo
        job: concurrent.futures.Future[T] | asyncio.Task[T]
        if effect.afn is not None:
            job = asyncio.ensure_future(_awaited(effect.afn()))
            host.keep(job)
            work: asyncio.Future[T] = job
        else:
            job = host.submit(effect.fn)
            work = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if undo is not None:
                in_loop = effect.afn is not None

                def regret(done: Any) -> None:
                    if done.cancelled() or done.exception() is not None:
                        return
                    if in_loop:
                        host.submit(partial(undo, done.result()))
                    else:
                        undo(done.result())

                job.add_done_callback(regret)  # not ``work``'s: this event loop may end before ``fn`` does
            raise

    async def _pass_through(self, awaited: Any) -> Any:
        """An awaitable of the event loop's, awaited in a user's own policy."""
        self.scope.check()
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


class _SpawnedTask:
    __slots__ = ("scope",)

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def cancel(self) -> None:
        self.scope.cancel()


def spawn(host: Host, parent: Scope, effect: Spawn) -> Spawned:
    """Start ``effect.flow`` in a task of its own, with a deadline of its own."""
    scope = effect.scope or Scope(host.clock, parent.deadline_at)
    tape = effect.tape
    flow = AsyncRun(effect.flow, scope, host, streaming=tape is not None)

    async def pump() -> None:
        error: BaseException | None = None
        try:
            while (chunk := await flow.advance()) is not None:
                if tape is not None:
                    tape.push(chunk)
        except (Exception, Cancelled) as failure:
            error = failure
        except BaseException as failure:
            error = failure
            raise
        finally:
            host.end(scope)
            if tape is not None:
                tape.end(flow.result, error)
            del error  # its traceback holds this frame
            await flow.aclose()

    def over(task: asyncio.Task[None]) -> None:
        if task.cancelled():  # perhaps before its first step
            host.end(scope)
            flow.flow.close()
            if tape is not None:
                tape.end(error=FlightLost())

    try:
        host.begin(scope)
    except BaseException:
        flow.flow.close()
        raise
    task = asyncio.ensure_future(pump())
    task.add_done_callback(over)
    host.keep(task)
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

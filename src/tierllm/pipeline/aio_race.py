"""Races and gatherings in tasks."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Generator, Iterable
from typing import TYPE_CHECKING, Any

from .clock import SteppedClock
from .effects import Gather, Race
from .run import differs, past_deadline
from .scope import Scope

if TYPE_CHECKING:
    from ..types import Chunk
    from .aio import AsyncRun
    from .aio_sources import AsyncSource
    from .clock import Clock

__all__ = ["gather", "race"]

GRACE_S = 0.01
"""How long tasks get for real before a stepped clock is moved on."""


async def race(parent: AsyncRun, effect: Race) -> tuple[AsyncSource | None, Any]:
    """Run the legs. Gives the winner as a source when it has spoken, or its result when it has ended."""
    from .aio import AsyncRun

    scope, clock = parent.scope, parent.scope.clock
    by_chunk = effect.win == "chunk"
    running: dict[asyncio.Task[Chunk | None], tuple[int, AsyncRun]] = {}
    contexts: dict[AsyncRun, contextvars.Context] = {}
    errors: dict[int, BaseException] = {}
    waiting = sorted(enumerate(effect.legs), key=lambda leg: leg[1][0])
    winner: _Adopted | None = None
    task: asyncio.Task[Chunk | None] | None = None
    done: set[asyncio.Task[Chunk | None]] = set()
    begun = clock()

    async def go(leg: AsyncRun) -> Chunk | None:
        chunk = await leg.advance()
        while chunk is not None and not by_chunk:
            chunk = await leg.advance()
        return chunk

    def start(number: int) -> None:
        leg = AsyncRun(
            effect.legs[number][1](),
            Scope(clock, parent=scope),
            parent.host,
            streaming=parent.streaming and by_chunk,
        )
        leg.delivered = parent.delivered
        context = contexts[leg] = contextvars.copy_context()
        task = parent.loop.create_task(go(leg), context=context)
        parent.host.keep(task)
        running[task] = (number, leg)

    try:
        while True:
            left = scope.remaining_s()
            if left is not None and left <= 0:
                raise past_deadline("racing providers")
            while waiting and (not running or clock() - begun >= waiting[0][1][0]):
                start(waiting.pop(0)[0])
            until = waiting[0][1][0] - (clock() - begun) if waiting else None
            spans = [s for s in (left, until) if s is not None]
            done = await _first(running, max(0.0, min(spans)) if spans else None, clock)
            for task in sorted(done, key=lambda task: running[task][0]):
                number, leg = running.pop(task)
                if task.cancelled():
                    errors[number] = asyncio.CancelledError()
                elif (error := task.exception()) is not None:
                    errors[number] = error
                else:
                    chunk = task.result()
                    if chunk is not None:
                        winner = _Adopted(leg, chunk, scope, contexts[leg])
                        return winner, None
                leg.detach()
                scope.off_cancel(leg.scope.cancel)
                if number not in errors:
                    return None, leg.result
            if not running and not waiting:
                raise errors[min(errors)]
    finally:
        for loser, (_, leg) in running.items():
            loser.cancel()
            parent.host.keep(parent.loop.create_task(_dismissed(loser, leg), context=contexts[leg]))
            scope.off_cancel(leg.scope.cancel)
        errors.clear()
        done.clear()
        task = error = None  # a traceback must not hold what holds it
        if running:
            try:
                await asyncio.sleep(0)  # let the losers give back what they hold
            except BaseException:
                if winner is not None:
                    await winner.aclose()
                raise


async def _first(
    running: Iterable[asyncio.Task[Chunk | None]], timeout: float | None, clock: Clock
) -> set[asyncio.Task[Chunk | None]]:
    """Those that have ended, as soon as one has; none when there was none in time."""
    stepped = timeout is not None and isinstance(clock, SteppedClock)
    done, _ = await asyncio.wait(
        running, timeout=GRACE_S if stepped else timeout, return_when=asyncio.FIRST_COMPLETED
    )
    if not done and timeout is not None and isinstance(clock, SteppedClock):
        clock.advance(timeout)
    return done


async def _dismissed(task: asyncio.Task[Any], leg: AsyncRun) -> None:
    """End a leg that lost, whether it has spoken, is still at it or has not begun."""
    try:
        if not task.done():
            await asyncio.wait([task])
    finally:
        if task.done():
            await leg.aclose()


class _Within:
    """Awaits a coroutine in another context than the task's: what was set there is reset there."""

    __slots__ = ("_context", "_work")

    def __init__(self, context: contextvars.Context, work: Coroutine[Any, Any, Any]) -> None:
        self._context = context
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        run, work = self._context.run, self._work
        step: Any = work.send
        value: Any = None
        try:
            while True:
                try:
                    awaited = run(step, value)
                except StopIteration as stop:
                    return stop.value
                try:
                    step, value = work.send, (yield awaited)
                except BaseException as error:
                    step, value = work.throw, error
        finally:
            del step, value


class _Adopted:
    """The winner, as its parent's source: it was heard once already. It stays in its own context."""

    __slots__ = ("_context", "_first", "_leg", "_parent")

    def __init__(self, leg: AsyncRun, first: Chunk, parent: Scope, context: contextvars.Context) -> None:
        self._context = context if differs(context) else None
        self._leg = leg
        self._first: Chunk | None = first
        self._parent = parent

    @property
    def result(self) -> Any:
        return self._leg.result

    async def advance(self) -> Chunk | None:
        chunk, self._first = self._first, None
        if chunk is None:
            try:
                context, more = self._context, self._leg.advance()
                chunk = await (more if context is None else _Within(context, more))
            finally:
                if chunk is None:
                    self._leg.detach()
                    self._parent.off_cancel(self._leg.scope.cancel)
        return chunk

    async def aclose(self) -> None:
        self._parent.off_cancel(self._leg.scope.cancel)
        end = self._leg.aclose()
        await (end if self._context is None else _Within(self._context, end))


async def gather(parent: AsyncRun, effect: Gather[Any]) -> list[Any]:
    """Run all flows, each in its own task; results in order."""
    from .aio import AsyncRun

    if not effect.flows:
        return []
    scope = parent.scope
    members = [
        AsyncRun(flow, Scope(scope.clock, parent=scope), parent.host, streaming=False)
        for flow in effect.flows
    ]

    async def go(member: AsyncRun) -> None:
        try:
            await member.advance()
        finally:
            await member.aclose()

    tasks = [asyncio.ensure_future(go(member)) for member in members]
    for task in tasks:
        parent.host.keep(task)
    pending = set(tasks)
    try:
        while pending:
            left = scope.remaining_s()
            if left is not None and left <= 0:
                raise past_deadline("gathering several calls")
            done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        return [member.result for member in members]
    finally:
        for member, task in zip(members, tasks, strict=True):
            scope.off_cancel(member.scope.cancel)
            if not task.done():
                task.cancel()
                parent.host.keep(asyncio.ensure_future(_dismissed(task, member)))
        tasks.clear()
        done = task = None  # type: ignore[assignment]  # a traceback must not hold what holds it
        if pending:
            await asyncio.sleep(0)  # let the others give back what they hold

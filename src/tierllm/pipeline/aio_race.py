"""Races and gatherings in tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .effects import Gather, Race
from .run import past_deadline
from .scope import Scope

if TYPE_CHECKING:
    from ..types import Chunk
    from .aio import AsyncRun, AsyncSource

__all__ = ["gather", "race"]


async def race(parent: AsyncRun, effect: Race) -> tuple[AsyncSource | None, Any]:
    """Run the legs. Gives the winner as a source when it has spoken, or its result when it has ended."""
    from .aio import AsyncRun

    scope, clock = parent.scope, parent.scope.clock
    by_chunk = effect.win == "chunk"
    running: dict[asyncio.Task[Chunk | None], tuple[int, AsyncRun]] = {}
    errors: dict[int, BaseException] = {}
    waiting = sorted(enumerate(effect.legs), key=lambda leg: leg[1][0])
    winner: asyncio.Task[Chunk | None] | None = None
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
        task = asyncio.ensure_future(go(leg))
        parent.host.keep(task)
        running[task] = (number, leg)

    try:
        while True:
            while waiting and (not running or clock() - begun >= waiting[0][1][0]):
                start(waiting.pop(0)[0])
            left = scope.remaining_s()
            if left is not None and left <= 0:
                raise past_deadline("racing providers")
            until = waiting[0][1][0] - (clock() - begun) if waiting else None
            spans = [s for s in (left, until) if s is not None]
            done, _ = await asyncio.wait(
                running, timeout=max(0.0, min(spans)) if spans else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in sorted(done, key=lambda task: running[task][0]):
                if task.cancelled() or task.exception() is not None:
                    number, leg = running.pop(task)
                    await leg.aclose()
                    errors[number] = asyncio.CancelledError() if task.cancelled() else task.exception()  # type: ignore[assignment]
                elif winner is None:
                    winner = task
            if winner is not None:
                leg = running.pop(winner)[1]
                chunk = winner.result()
                if chunk is None:
                    return None, leg.result
                return _Adopted(leg, chunk), None
            if not running and not waiting:
                raise errors[min(errors)]
    finally:
        errors.clear()
        for task, (_, leg) in running.items():
            task.cancel()
            parent.host.keep(asyncio.ensure_future(_dismissed(task, leg)))
            scope.off_cancel(leg.scope.cancel)
        if running:
            await asyncio.sleep(0)  # let the losers give back what they hold


async def _dismissed(task: asyncio.Task[Chunk | None], leg: AsyncRun) -> None:
    """End a leg that lost, whether it has spoken or not."""
    await asyncio.wait([task])
    await leg.aclose()


class _Adopted:
    """The winner, as its parent's source: it was heard once already."""

    __slots__ = ("_first", "_leg")

    def __init__(self, leg: AsyncRun, first: Chunk) -> None:
        self._leg = leg
        self._first: Chunk | None = first

    @property
    def result(self) -> Any:
        return self._leg.result

    async def advance(self) -> Chunk | None:
        first = self._first
        if first is not None:
            self._first = None
            return first
        return await self._leg.advance()

    async def aclose(self) -> None:
        await self._leg.aclose()


async def gather(parent: AsyncRun, effect: Gather[Any]) -> list[Any]:
    """Run all flows, each in its own task; results in order."""
    from .aio import AsyncRun

    scope = parent.scope
    runs = [
        AsyncRun(flow, Scope(scope.clock, parent=scope), parent.host, streaming=False)
        for flow in effect.flows
    ]

    async def go(member: AsyncRun) -> None:
        try:
            await member.advance()
        finally:
            await member.aclose()

    tasks = [asyncio.ensure_future(go(member)) for member in runs]
    for task in tasks:
        parent.host.keep(task)
    try:
        left = scope.remaining_s()
        done, pending = await asyncio.wait(
            tasks, timeout=None if left is None else max(0.0, left), return_when=asyncio.FIRST_EXCEPTION
        )
        for task in tasks:
            if task in done:
                task.result()
        if pending:
            raise past_deadline("gathering several calls")
        return [member.result for member in runs]
    finally:
        for member, task in zip(runs, tasks, strict=True):
            task.cancel()
            scope.off_cancel(member.scope.cancel)
        await asyncio.sleep(0)  # let the others give back what they hold

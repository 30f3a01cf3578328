"""Races and gatherings in threads: one thread a leg, until one of them speaks."""

from __future__ import annotations

import contextvars
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from .clock import SteppedClock
from .effects import Gather, Race
from .run import differs, past_deadline
from .scope import Scope
from .waiting import forbid_in_event_loop

if TYPE_CHECKING:
    from ..types import Chunk
    from .clock import Clock
    from .sync import Source, SyncRun

__all__ = ["gather", "race"]

GRACE_S = 0.01
"""How long threads get for real before a stepped clock is moved on."""


class _Finish:
    """The line that legs cross: who has spoken, in order, until the race is decided.

    A leg that comes too late learns so at the line, and ends its own flow.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._crossed: list[tuple[SyncRun, Chunk | None, BaseException | None]] = []
        self._decided = False
        self.cancelled = False

    def cross(self, leg: SyncRun, chunk: Chunk | None, error: BaseException | None) -> bool:
        """False when the race has been decided before."""
        with self._changed:
            if self._decided:
                return False
            self._crossed.append((leg, chunk, error))
            self._changed.notify()
            return True

    def cancel(self) -> None:
        with self._changed:
            self.cancelled = True
            self._changed.notify()

    def next(
        self, timeout: float | None, clock: Clock
    ) -> tuple[SyncRun, Chunk | None, BaseException | None] | None:
        """The next leg at the line, or ``None`` when there was none in time or the race is cancelled."""
        with self._changed:
            if not self._crossed and not self.cancelled:
                if timeout is not None and isinstance(clock, SteppedClock):
                    if not self._changed.wait(GRACE_S):
                        clock.advance(timeout)
                else:
                    self._changed.wait(timeout)
            return self._crossed.pop(0) if self._crossed else None

    def decide(self) -> list[SyncRun]:
        """Close the line. Gives the legs that had crossed it and were not looked at."""
        with self._changed:
            self._decided = True
            late, self._crossed = self._crossed, []
        return [leg for leg, _, error in late if error is None]


def race(parent: SyncRun, effect: Race) -> tuple[Source | None, Any]:
    """Run the legs. Gives the winner as a source when it has spoken, or its result when it has ended."""
    from .sync import SyncRun

    forbid_in_event_loop("a race between providers")
    scope, clock = parent.scope, parent.scope.clock
    by_chunk = effect.win == "chunk"
    line = _Finish()
    legs: dict[SyncRun, int] = {}
    contexts: dict[SyncRun, contextvars.Context] = {}
    errors: dict[int, BaseException] = {}
    waiting = sorted(enumerate(effect.legs), key=lambda leg: leg[1][0])
    crossed: tuple[SyncRun, Chunk | None, BaseException | None] | None = None
    adopted: SyncRun | None = None
    begun = clock()

    def start(number: int) -> None:
        leg = SyncRun(
            effect.legs[number][1](),
            Scope(clock, parent=scope),
            parent.host,
            streaming=parent.streaming and by_chunk,
        )
        leg.delivered = parent.delivered
        legs[leg] = number
        contexts[leg] = contextvars.copy_context()
        within = contexts[leg].run

        def go() -> None:
            chunk, error = None, None
            try:
                chunk = within(leg.advance)
                while chunk is not None and not by_chunk:
                    chunk = within(leg.advance)
            except BaseException as failure:
                error = failure
            late = not line.cross(leg, chunk, error)
            del error  # its traceback holds this frame
            if late:
                within(leg.close)

        try:
            parent.host.thread(go, "leg")
        except Exception as failure:  # no thread to be had: those that run go on without it
            del legs[leg], contexts[leg]
            scope.off_cancel(leg.scope.cancel)
            leg.close()
            if not legs:
                raise
            errors[number] = failure
        except BaseException:
            leg.close()
            raise

    scope.on_cancel(line.cancel)
    try:
        while True:
            scope.check()
            left = scope.remaining_s()
            if left is not None and left <= 0:
                raise past_deadline("racing providers")
            while waiting and (not legs or clock() - begun >= waiting[0][1][0]):
                start(waiting.pop(0)[0])
            until = waiting[0][1][0] - (clock() - begun) if waiting else None
            spans = [s for s in (left, until) if s is not None]
            crossed = line.next(max(0.0, min(spans)) if spans else None, clock)
            if crossed is None:
                continue
            leg, chunk, error = crossed
            if error is None:
                if chunk is None:
                    return None, leg.result
                adopted = leg
                return _Adopted(leg, chunk, scope, contexts[leg]), None
            errors[legs.pop(leg)] = error
            scope.off_cancel(leg.scope.cancel)
            if not legs and not waiting:
                raise errors[min(errors)]
    finally:
        scope.off_cancel(line.cancel)
        for leg in line.decide():
            contexts[leg].run(leg.close)
        for leg in legs:
            if leg is not adopted:
                leg.scope.cancel()
                scope.off_cancel(leg.scope.cancel)
        errors.clear()
        error = crossed = None  # a traceback must not hold what holds it


class _Adopted:
    """The winner, as its parent's source: it was heard once already. It stays in its own context."""

    __slots__ = ("_context", "_first", "_leg", "_parent")

    def __init__(self, leg: SyncRun, first: Chunk, parent: Scope, context: contextvars.Context) -> None:
        self._context = context if differs(context) else None
        self._leg = leg
        self._first: Chunk | None = first
        self._parent = parent

    @property
    def result(self) -> Any:
        return self._leg.result

    def advance(self) -> Chunk | None:
        chunk, self._first = self._first, None
        if chunk is None:
            try:
                context, advance = self._context, self._leg.advance
                chunk = advance() if context is None else context.run(advance)
            finally:
                if chunk is None:
                    self._parent.off_cancel(self._leg.scope.cancel)
        return chunk

    def close(self) -> None:
        self._parent.off_cancel(self._leg.scope.cancel)
        close = self._leg.close
        close() if self._context is None else self._context.run(close)


def gather(parent: SyncRun, effect: Gather[Any]) -> list[Any]:
    """Run all flows, each in its own thread; results in order."""
    from .sync import SyncRun

    scope = parent.scope
    line = _Finish()
    members = [
        SyncRun(flow, Scope(scope.clock, parent=scope), parent.host, streaming=False) for flow in effect.flows
    ]
    unbegun = list(members)
    failure: BaseException | None = None

    def go(member: SyncRun) -> None:
        error = None
        try:
            member.advance()
        except BaseException as failed:
            error = failed
        try:
            member.close()
        finally:
            line.cross(member, None, error)
            del error  # its traceback holds this frame

    scope.on_cancel(line.cancel)
    try:
        forbid_in_event_loop("gathering several calls")
        pending = len(members)
        while pending:
            scope.check()
            left = scope.remaining_s()
            if left is not None and left <= 0:
                raise past_deadline("gathering several calls")
            while unbegun:
                parent.host.thread(partial(go, unbegun[0]), "gathered")
                del unbegun[0]
            crossed = line.next(left, scope.clock)
            if crossed is None:
                continue
            _, _, failure = crossed
            if failure is not None:
                raise failure
            pending -= 1
        return [member.result for member in members]
    finally:
        scope.off_cancel(line.cancel)
        line.decide()
        for member in members:
            member.scope.cancel()
            scope.off_cancel(member.scope.cancel)
        for member in unbegun:
            member.close()
        failure = crossed = None  # a traceback must not hold what holds it

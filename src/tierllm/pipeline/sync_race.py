"""Races and gatherings in threads: one thread a leg, until one of them speaks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from .effects import Gather, Race
from .run import past_deadline
from .scope import Scope
from .waiting import forbid_in_event_loop

if TYPE_CHECKING:
    from ..types import Chunk
    from .sync import Source, SyncRun

__all__ = ["gather", "race"]


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

    def next(self, timeout: float | None) -> tuple[SyncRun, Chunk | None, BaseException | None] | None:
        with self._changed:
            if not self._crossed and not self.cancelled:
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
    errors: dict[int, BaseException] = {}
    waiting = sorted(enumerate(effect.legs), key=lambda leg: leg[1][0])
    winner: SyncRun | None = None
    begun = clock()
    running = 0

    def start(number: int) -> None:
        leg = SyncRun(
            effect.legs[number][1](),
            Scope(clock, parent=scope),
            parent.host,
            streaming=parent.streaming and by_chunk,
        )
        legs[leg] = number

        def go() -> None:
            chunk, error = None, None
            try:
                chunk = leg.advance()
                while chunk is not None and not by_chunk:
                    chunk = leg.advance()
            except BaseException as failure:
                error = failure
            if not line.cross(leg, chunk, error):
                leg.close()

        parent.host.thread(go, "leg")

    scope.on_cancel(line.cancel)
    try:
        while True:
            while waiting and (not running or clock() - begun >= waiting[0][1][0]):
                start(waiting.pop(0)[0])
                running += 1
            scope.check()
            left = scope.remaining_s()
            if left is not None and left <= 0:
                raise past_deadline("racing providers")
            until = waiting[0][1][0] - (clock() - begun) if waiting else None
            spans = [s for s in (left, until) if s is not None]
            crossed = line.next(max(0.0, min(spans)) if spans else None)
            if crossed is None:
                continue
            leg, chunk, error = crossed
            if error is None:
                winner = leg
                if chunk is None:
                    return None, leg.result
                return _Adopted(leg, chunk), None
            running -= 1
            errors[legs.pop(leg)] = error
            if not running and not waiting:
                raise errors[min(errors)]
    finally:
        scope.off_cancel(line.cancel)
        for leg in line.decide():
            leg.close()
        for leg in legs:
            if leg is not winner:
                leg.scope.cancel()
                scope.off_cancel(leg.scope.cancel)
        errors.clear()


class _Adopted:
    """The winner, as its parent's source: it was heard once already."""

    __slots__ = ("_first", "_leg")

    def __init__(self, leg: SyncRun, first: Chunk) -> None:
        self._leg = leg
        self._first: Chunk | None = first

    @property
    def result(self) -> Any:
        return self._leg.result

    def advance(self) -> Chunk | None:
        first = self._first
        if first is not None:
            self._first = None
            return first
        return self._leg.advance()

    def close(self) -> None:
        self._leg.close()


def gather(parent: SyncRun, effect: Gather[Any]) -> list[Any]:
    """Run all flows, each in its own thread; results in order."""
    from .sync import SyncRun

    forbid_in_event_loop("gathering several calls")
    scope = parent.scope
    line = _Finish()
    runs = [
        SyncRun(flow, Scope(scope.clock, parent=scope), parent.host, streaming=False) for flow in effect.flows
    ]

    def go(member: SyncRun) -> None:
        error = None
        try:
            member.advance()
        except BaseException as failure:
            error = failure
        member.close()
        line.cross(member, None, error)

    scope.on_cancel(line.cancel)
    try:
        for member in runs:
            parent.host.thread(lambda member=member: go(member), "gathered")  # type: ignore[misc]
        pending = len(runs)
        while pending:
            scope.check()
            left = scope.remaining_s()
            if left is not None and left <= 0:
                raise past_deadline("gathering several calls")
            crossed = line.next(left)
            if crossed is None:
                continue
            if crossed[2] is not None:
                raise crossed[2]
            pending -= 1
        return [member.result for member in runs]
    finally:
        scope.off_cancel(line.cancel)
        line.decide()
        for member in runs:
            member.scope.cancel()
            scope.off_cancel(member.scope.cancel)

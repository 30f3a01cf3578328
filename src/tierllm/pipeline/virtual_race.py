"""Races, gatherings and spawned flows in virtual time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from .effects import Gather, Race, Spawn
from .run import past_deadline
from .scope import Scope

if TYPE_CHECKING:
    from ..types import Chunk
    from .virtual import VirtualRun

__all__ = ["gather", "race", "spawn"]


def race(parent: VirtualRun, effect: Race) -> tuple[bool, Any]:
    """Begin a race; the parent is parked until one leg has won or all have failed."""
    return _Race(parent, effect).begin()


class _Race:
    """One race. ``_ticket`` is what its parent is parked on while it goes on."""

    def __init__(self, parent: VirtualRun, effect: Race) -> None:
        self._parent = parent
        self._effect = effect
        self._world = parent.world
        self._legs: dict[int, VirtualRun] = {}
        self._errors: dict[int, BaseException] = {}
        self._winner: int | None = None
        self._ticket = 0

    def begin(self) -> tuple[bool, Any]:
        self._parent.scope.check()
        self._ticket = self._parent.park(self._cancel)
        for number, (delay, _) in enumerate(self._effect.legs):
            self._world.after(delay, partial(self._start, number))
        return False, None

    def _start(self, number: int) -> None:
        parent = self._parent
        if self._winner is not None or not parent.waits_for(self._ticket):
            return
        if number in self._legs or number in self._errors:
            return
        left = parent.scope.remaining_s()
        if left is not None and left <= 0:
            parent.throw(self._ticket, past_deadline("racing providers"))
            return
        by_chunk = self._effect.win == "chunk"
        leg = self._legs[number] = parent.child(
            self._effect.legs[number][1](),
            parent.streaming and by_chunk,
            partial(self._spoke, number),
            partial(self._ended, number),
        )
        leg.begin()

    def _spoke(self, number: int, chunk: Chunk) -> None:
        if self._winner is None:
            self._win(number)
        if self._winner == number:
            self._parent.deliver(chunk)

    def _win(self, number: int) -> None:
        self._winner = number
        for other, leg in tuple(self._legs.items()):
            if other != number:
                leg.scope.cancel()
                self._parent.scope.off_cancel(leg.scope.cancel)

    def _ended(self, number: int, run: VirtualRun) -> None:
        parent, world = self._parent, self._world
        parent.scope.off_cancel(run.scope.cancel)
        self._legs.pop(number, None)
        if self._winner not in (None, number) or not parent.waits_for(self._ticket):
            return
        error = run.error
        if error is None:
            if self._winner is None:
                self._win(number)
            world.soon(lambda: parent.send(self._ticket, run.result))
            return
        if self._winner == number:
            world.soon(lambda: parent.throw(self._ticket, error))
            return
        self._errors[number] = error
        if self._legs:
            return
        later = [n for n in range(len(self._effect.legs)) if n not in self._errors]
        if later:
            world.soon(partial(self._start, min(later, key=lambda n: self._effect.legs[n][0])))
        else:
            first = self._errors[min(self._errors)]
            world.soon(lambda: parent.throw(self._ticket, first))

    def _cancel(self) -> None:
        for leg in tuple(self._legs.values()):
            leg.scope.cancel()


def gather(parent: VirtualRun, effect: Gather[Any]) -> tuple[bool, Any]:
    """Begin all flows at once; the parent is parked until all have ended or one has failed."""
    members: list[VirtualRun] = []
    pending = len(effect.flows)
    if not pending:
        return True, []

    def leave() -> None:
        for member in members:
            member.scope.cancel()
            member.close()  # one that has not begun hears no cancellation

    def ended(member: VirtualRun) -> None:
        nonlocal pending
        parent.scope.off_cancel(member.scope.cancel)
        pending -= 1
        if not parent.waits_for(ticket):
            return
        if member.error is not None:
            parent.world.soon(partial(parent.throw, ticket, member.error))
        elif not pending:
            parent.world.soon(lambda: parent.send(ticket, [m.result for m in members]))

    ticket = parent.park(leave)
    members += [parent.child(flow, False, None, ended) for flow in effect.flows]
    for member in members:
        parent.world.soon(member.begin)
    left = parent.scope.remaining_s()
    if left is not None and left <= 0:
        late = past_deadline("gathering several calls")
        parent.world.soon(lambda: parent.throw(ticket, late))
    return False, None


class _SpawnedRun:
    __slots__ = ("_run", "scope")

    def __init__(self, run: VirtualRun) -> None:
        self._run = run
        self.scope = run.scope

    def cancel(self) -> None:
        self.scope.cancel()
        self._run.close()


def spawn(parent: VirtualRun, effect: Spawn) -> _SpawnedRun:
    """Start ``effect.flow`` as a run of its own, with a deadline of its own."""
    world, host, tape = parent.world, parent.host, effect.tape
    scope = effect.scope or Scope(world.clock, parent.scope.deadline_at)

    def ended(run: VirtualRun) -> None:
        host.end(scope)
        if tape is not None:
            tape.end(run.result, run.error)

    on_chunk = tape.push if tape is not None else None
    run = parent.beside(effect.flow, scope, tape is not None, on_chunk, ended)
    try:
        host.begin(scope)
    except BaseException:
        effect.flow.close()
        raise
    world.soon(run.begin)
    return _SpawnedRun(run)

"""When a queue has to be looked after, and by whom. Pure state."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .place import Place

__all__ = ["Alarms", "Nudge"]


class Nudge:
    """Granted to one who waits, in place of a permit: look after the queue, and wait on."""

    __slots__ = ()

    def release(self) -> None:
        """There is nothing to give back."""


class Alarms:
    """The moments at which something becomes due in a queue, and who wakes up for the next one.

    Nothing in a queue waits by itself: one of those who stand in it, the ``keeper``, waits no longer than
    to the next alarm. ``parked`` are those who stand aside, since what they lack is theirs alone.
    ``opens_at`` is when there will be room for the first in line, where that is known.
    Not thread-safe: the pool's lock is held.
    """

    __slots__ = ("_alike", "_heap", "_kept_at", "keeper", "opens_at", "parked")

    def __init__(self) -> None:
        self.parked: dict[Place, object] = {}
        self._alike: dict[object, int] = {}
        self.opens_at: float | None = None
        self.keeper: Place | None = None
        self._kept_at = 0.0
        self._heap: list[tuple[float, int, Place]] = []

    def park(self, place: Place, whose: object) -> None:
        """Let ``place`` stand aside, together with others that lack what is ``whose``."""
        self.parked[place] = whose
        self._alike[whose] = self._alike.get(whose, 0) + 1

    def unpark(self, place: Place) -> None:
        if place in self.parked:
            whose = self.parked.pop(place)
            left = self._alike[whose] = self._alike[whose] - 1
            if not left:
                del self._alike[whose]

    def number(self, whose: object) -> int:
        """How many stand aside for the same."""
        return self._alike.get(whose, 0)

    def at(self, moment: float, place: Place) -> None:
        """Something becomes due for ``place``."""
        heapq.heappush(self._heap, (moment, place.number, place))

    def ring(self, now: float) -> Iterator[Place]:
        """Those for whom something is due; perhaps no longer, or not any more."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            yield heapq.heappop(heap)[2]

    def next_at(self) -> float | None:
        """The next moment at which the queue has to be looked after."""
        heap = self._heap
        while heap and heap[0][2].due_at is None and heap[0][2] not in self.parked:
            heapq.heappop(heap)
        if not heap:
            return self.opens_at
        first = heap[0][0]
        return first if self.opens_at is None else min(first, self.opens_at)

    def keep(self, place: Place, now: float) -> float | None:
        """Let ``place`` be the keeper, if one is needed: in how many seconds it has to look."""
        due = self.next_at()
        if self.keeper is not None and self.keeper is not place:
            return None
        if self.keeper is place and self._kept_at > now and (due is None or self._kept_at < due):
            due = self._kept_at  # what it was asked to look at may have been its own
        if due is None:
            self.keeper = None
            return None
        self.keeper, self._kept_at = place, due
        return max(0.0, due - now)

    def appoint(self, somebody: Place) -> Place | None:
        """Who has to be told that there is something to look after, if anybody."""
        due = self.next_at()
        if due is None:
            return None
        if self.keeper is None:
            self.keeper, self._kept_at = somebody, due
            return somebody
        if due < self._kept_at:
            self._kept_at = due
            keeper = self.keeper
            return keeper if keeper.ticket is not None and keeper.ticket.grant is None else None
        return None

"""When a queue has to be looked after, and by whom. Pure state."""

from __future__ import annotations

import heapq
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .place import Place

__all__ = ["Alarms", "Displaced", "Nudge"]

LATE_S = 1.0
"""After so long somebody else looks: the keeper's event loop may have been closed under it."""

SWEEP_AT = 1024
"""With so many alarms, those are looked for that matter to nobody any more."""

HOPEFUL = 64
"""So many of those aside are looked at again where room may have come."""


class Nudge:
    """Granted to one who waits, in place of a permit: look after the queue, and wait on."""

    __slots__ = ()

    def release(self) -> None:
        """There is nothing to give back."""


class Displaced(Nudge):
    """Granted to one who waits, in place of a permit: somebody else has its place in the queue."""

    __slots__ = ()


class Alarms:
    """The moments at which something becomes due in a queue, and who wakes up for the next one.

    Nothing in a queue waits by itself: one of those who stand in it, the ``keeper``, waits no longer than
    to the next alarm, ``kept_at``; a deputy looks a little later, should the keeper not have come.
    ``parked`` are those who stand aside, since what they lack is theirs alone. ``opens_at`` is when there
    will be room for the first in line, where that is known. Not thread-safe: the pool's lock is held.
    """

    __slots__ = (
        "_alike",
        "_deputy",
        "_early",
        "_heap",
        "_sweep_at",
        "keeper",
        "kept_at",
        "opens_at",
        "parked",
        "put_off",
    )

    def __init__(self) -> None:
        self.parked: dict[Place, object] = {}
        self.put_off = 0
        """How many of those aside are deferred calls."""
        self._alike: dict[object, int] = {}
        self._early: dict[Place, None] = {}
        self.opens_at: float | None = None
        self.keeper: Place | None = None
        self.kept_at = 0.0
        self._deputy: Place | None = None
        self._heap: list[tuple[float, int, Place]] = []
        self._sweep_at = SWEEP_AT

    # -- those aside -------------------------------------------------------------

    def park(self, place: Place, whose: object, early: bool) -> None:
        """Let ``place`` stand aside, together with others that lack what is ``whose``.

        ``early``: what it lacks may come before the alarm that is set for it.
        """
        self.parked[place] = whose
        place.put_off = place.due_at is not None
        self.put_off += place.put_off
        self._alike[whose] = self._alike.get(whose, 0) + 1
        if early:
            self._early[place] = None

    def unpark(self, place: Place) -> None:
        if place in self.parked:
            whose = self.parked.pop(place)
            self._early.pop(place, None)
            self.put_off -= place.put_off
            left = self._alike[whose] = self._alike[whose] - 1
            if not left:
                del self._alike[whose]

    def hopeful(self) -> list[Place]:
        """Those for whom room may have come, the longest aside first."""
        return list(islice(self._early, HOPEFUL))

    def gives_way_to(self, place: Place) -> Place | None:
        """Who aside goes for ``place``, where the queue is full: somebody less urgent, or another tenant's
        of which there are several."""
        aside = [each for each in self.parked if each.due_at is None and each.priority <= place.priority]
        if not aside:
            return None
        last = max(aside, key=lambda each: (-each.priority, each.number))
        if last.priority < place.priority:
            return last
        alike = sum(each.tenant == last.tenant for each in aside)
        return last if last.tenant != place.tenant and alike > 1 else None

    def number(self, whose: object) -> int:
        """How many stand aside for the same."""
        return self._alike.get(whose, 0)

    # -- alarms ------------------------------------------------------------------

    def at(self, moment: float, place: Place) -> None:
        """Something becomes due for ``place``, if nothing does before."""
        if place.alarm_at is not None and place.alarm_at <= moment:
            return
        place.alarm_at = moment
        heapq.heappush(self._heap, (moment, place.number, place))
        if len(self._heap) > self._sweep_at:
            self._heap = [entry for entry in self._heap if self._matters(entry)]
            heapq.heapify(self._heap)
            self._sweep_at = max(SWEEP_AT, 2 * len(self._heap))

    def _matters(self, entry: tuple[float, int, Place]) -> bool:
        at, _, place = entry
        return place.alarm_at == at and (place.due_at is not None or place in self.parked)

    def ring(self, now: float) -> Iterator[Place]:
        """Those for whom something is due; perhaps no longer, or not any more."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, place = heapq.heappop(heap)
            if place.alarm_at == at:
                place.alarm_at = None
                yield place

    def next_at(self) -> float | None:
        """The next moment at which the queue has to be looked after."""
        heap = self._heap
        while heap and not self._matters(heap[0]):
            at, _, place = heapq.heappop(heap)
            if place.alarm_at == at:
                place.alarm_at = None
        if not heap:
            return self.opens_at
        first = heap[0][0]
        return first if self.opens_at is None else min(first, self.opens_at)

    # -- who looks -----------------------------------------------------------------

    def watches(self, place: Place) -> bool:
        return place is self.keeper or place is self._deputy

    def keep(self, place: Place, now: float) -> float | None:
        """In how many seconds ``place`` has to look, as keeper or deputy; ``None``: others do."""
        due = self.next_at()
        keeper = self.keeper
        if keeper is not None and keeper is not place:
            late_at = self.kept_at + LATE_S
            if due is None or (now < late_at and self._deputy not in (None, place)):
                return None
            if now < late_at:
                self._deputy = place
                return late_at - now
        if self._deputy is place:
            self._deputy = None
        if due is None:
            self.keeper = None
            return None
        self.keeper, self.kept_at = place, due
        return max(0.0, due - now)

    def dismiss(self, place: Place) -> None:
        """``place`` is no longer there to look."""
        if self.keeper is place:
            self.keeper = None
        if self._deputy is place:
            self._deputy = None

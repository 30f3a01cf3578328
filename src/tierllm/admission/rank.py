"""All that wait at one priority, a line for each tenant."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, TypeAlias

from .shares import Account, Rivals

if TYPE_CHECKING:
    from .place import Place

__all__ = ["Line", "LineEntry", "Rank", "RankEntry", "Waiter"]

Waiter: TypeAlias = "tuple[float, int, int, Place, Line]"
"""When it is due, its number, a tick (no two are equal), the place, and the line in which it waits."""

LineEntry: TypeAlias = "tuple[float, float, int, int, Line]"
"""The tenant's counter, when its next place is due, that one's number, a tick, and the line."""

RankEntry: TypeAlias = "tuple[int, float, int, int, Rank]"
"""The urgency as whole and rest (less is more urgent), the priority negated, a tick, and the rank."""

_SLACK = 64
"""So many entries that no longer hold a rank's heaps keep on top of as many as do."""

_LINE_SLACK = 4
"""The same for a line, of which there may be many."""


class Line:
    """The places of one tenant at one priority, by when they are due.

    ``entry`` is how it stands in the rank's heap: never later than its real key, which is looked up
    when it comes to the top.
    """

    __slots__ = ("account", "count", "entry", "heap", "newest", "rank", "weight")

    def __init__(self, account: Account, rank: Rank, weight: float) -> None:
        self.account = account
        self.rank = rank
        self.weight = weight
        self.heap: list[Waiter] = []
        self.count = 0
        self.newest = 0
        self.entry: LineEntry | None = None
        rank.lines[account.tenant] = self
        account.lines[self] = None
        rank.weight += weight

    def add(self, waiter: Waiter) -> None:
        heappush(self.heap, waiter)
        if not self.count or waiter[1] > self.newest:
            self.newest = waiter[1]
        self.count += 1
        self.rank.count += 1
        if self.heap[0] is waiter:
            self.rank.offer(self, waiter)

    def drop(self, waiter: Waiter) -> None:
        """``waiter`` is gone. Whoever is last to go takes the line along."""
        account, rank, heap = self.account, self.rank, self.heap
        self.count -= 1
        rank.count -= 1
        account.rivals = rank
        if not self.count:
            self.entry = None
            heap.clear()
            del account.lines[self], rank.lines[account.tenant]
            rank.weight -= self.weight
        elif heap[0] is waiter:
            heappop(heap)
        elif len(heap) > 2 * self.count + _LINE_SLACK:
            where = rank.where
            heap = [w for w in heap if where.get(w[3]) is w]
            heapify(heap)
            self.heap = heap

    def head(self) -> Waiter:
        """The place that is due first."""
        heap, where = self.heap, self.rank.where
        while where.get(heap[0][3]) is not heap[0]:
            heappop(heap)
        return heap[0]

    def sooner(self) -> None:
        """The tenant's counter went down: the line may stand further in front."""
        entry = self.entry
        if entry is not None and self.account.counter < entry[0]:
            self.rank.offer(self, (entry[1], entry[2]))


class Rank(Rivals):
    """All that wait at one priority: a heap of lines, and one of arrivals."""

    __slots__ = (
        "aged_from",
        "arrivals",
        "count",
        "entry",
        "heap",
        "latest_at",
        "lines",
        "priority",
        "ticks",
        "where",
    )

    def __init__(self, priority: int, where: dict[Place, Waiter], ticks: Iterator[int]) -> None:
        super().__init__()
        self.priority = priority
        self.where = where
        self.ticks = ticks
        self.count = 0
        self.lines: dict[str, Line] = {}
        self.heap: list[LineEntry] = []
        self.arrivals: list[tuple[float, int, Place]] = []
        self.latest_at = 0.0
        self.entry: RankEntry | None = None
        self.aged_from = 0.0

    def offer(self, line: Line, due: tuple[float, int] | Waiter) -> None:
        """``line`` stands with its counter, and with what is due next in it."""
        entry = (line.account.counter, due[0], due[1], next(self.ticks), line)
        heappush(self.heap, entry)
        line.entry = entry  # last: an interrupt before it leaves the line where it stood
        if len(self.heap) > 2 * len(self.lines) + _SLACK:
            heap = [other.entry for other in self.lines.values() if other.entry is not None]
            heapify(heap)
            self.heap = heap

    def front(self) -> Line:
        """The line whose turn it is, where any waits."""
        while True:
            entry = self.heap[0]
            line = entry[4]
            if line.entry is not entry:
                heappop(self.heap)
                continue
            head = line.head()
            if entry[0] == line.account.counter and entry[1] == head[0] and entry[2] == head[1]:
                return line
            self.offer(line, head)

    def lowest(self) -> Account | None:
        return self.front().account if self.lines else None

    def arrived(self, at: float, tick: int, place: Place) -> bool:
        """Take down an arrival; whether it is the earliest."""
        if not self.arrivals or at > self.latest_at:
            self.latest_at = at
        heappush(self.arrivals, (at, tick, place))
        return self.arrivals[0][1] == tick

    def eldest_at(self) -> float:
        """When the one that waits longest arrived."""
        arrivals, where = self.arrivals, self.where
        while True:
            at, tick, place = arrivals[0]
            waiter = where.get(place)
            if waiter is not None and waiter[2] == tick:
                return at
            heappop(arrivals)

    def thin(self) -> None:
        """One is gone: sweep out what no longer holds, where it is more than what does."""
        if not self.count:
            self.heap.clear()
            self.arrivals.clear()
            self.entry = None
            self.weight = 0.0
        elif len(self.arrivals) > 2 * self.count + _SLACK:
            where = self.where
            kept = [a for a in self.arrivals if (w := where.get(a[2])) is not None and w[2] == a[1]]
            heapify(kept)
            self.arrivals = kept

    def share_before(self, at: float) -> float:
        """Roughly which part of those that wait arrived before ``at``, had they come evenly."""
        if not self.arrivals:
            return 1.0
        eldest_at = self.eldest_at()
        if at <= eldest_at:
            return 0.0
        return 1.0 if at >= self.latest_at else (at - eldest_at) / (self.latest_at - eldest_at)

    def aged_past(self, at: float, by: int, age_s: float) -> float:
        """Roughly how many have waited longer than one that arrived ``at``, by so many ``age_s``."""
        if not (at - self.eldest_at()) / age_s > by:  # priorities may be too large for a float
            return 0.0
        return max(1.0, self.count * self.share_before(at - by * age_s))

    def before(self, place: Place, counter: float) -> float:
        """Roughly how many go before ``place`` of those at its priority; see ``FairQueue.ahead_of``.

        For each of its own that go first, and for each call's worth that its tenant has had more, every
        other tenant has one turn.
        """
        waiter, line = self.where.get(place), self.lines.get(place.tenant)
        mine, weight = 0.0, place.weight
        if line is not None:
            mine, weight = float(line.count), line.weight
            if waiter is not None:
                head = line.head()
                span = max(1, line.newest - head[1])
                mine = 0.0 if waiter is head else (line.count - 1) * max(0, place.number - head[1]) / span
        others = self.count - (line.count if line is not None else 0)
        front = self.front()
        lead = counter - front.account.counter
        if not others or (not mine and (front is line or lead < 0)):
            return mine
        turns = mine + max(0.0, lead) * weight / max(1, place.tokens) + self.share_before(place.arrived_at)
        return mine + min(float(others), turns * (len(self.lines) - (line is not None)))

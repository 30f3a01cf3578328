"""The queue of a pool: by priority, then by the tenants' shares, then by deadline, then by arrival."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from math import ceil
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .rank import Line, Rank

if TYPE_CHECKING:
    from .place import Place
    from .rank import RankEntry, Waiter
    from .shares import TenantShares

__all__ = ["FairQueue"]

_SLACK = 64
"""So many entries that no longer hold, and priorities at which nobody waits, are kept beside the others."""


class FairQueue:
    """The places that wait for one pool, in the order in which they are let through.

    The most urgent priority goes first: the priority itself, plus what its oldest place has waited, in
    units of ``age_s`` (``None``: it does not age). So a priority is passed over only by those whose
    oldest came earlier than its own oldest plus the difference in priority times ``age_s``. All ages
    grow alike, which is why the order does not depend on the moment, nor on a clock that goes back.

    At one priority the tenant with the smallest counter goes first (see ``TenantShares``), at equal
    counters the tenant whose next place is due first. Of a tenant the place that is due first: at its
    deadline, not before it arrived and not later than ``patience_s`` after that; then by number.

    All steps take O(log n), amortised: what was taken out is skipped when it comes up, and swept out
    once it is more than half. Not thread-safe: the pool holds its lock. A place's fields may change
    while it waits, save by ``move``, but count as they were when it came.

    Raises ``ConfigError`` where ``age_s`` or ``patience_s`` make no sense.
    """

    def __init__(self, shares: TenantShares, *, age_s: float | None = 30.0, patience_s: float = 60.0) -> None:
        if age_s is not None and not age_s >= 0.001:
            raise ConfigError(f"age_s has to be at least a millisecond, or None for no ageing; not {age_s}")
        if not patience_s >= 0:
            raise ConfigError(f"patience_s has to be 0 or more, not {patience_s}")
        self.shares = shares
        self._age_s = age_s
        self._patience_s = patience_s
        self._ticks = count()  # no two entries of a heap compare equal
        self._where: dict[Place, Waiter] = {}
        self._ranks: dict[int, Rank] = {}
        self._order: list[RankEntry] = []
        self._busy = 0  # priorities at which anyone waits

    def __len__(self) -> int:
        return len(self._where)

    def push(self, place: Place) -> None:
        """Let ``place`` wait. It keeps its order if it was here before; nothing happens if it still is."""
        if place in self._where:
            return
        rank = self._rank(place.priority)
        line = rank.lines.get(place.tenant)
        if line is None:
            account = self.shares.account(place.tenant)
            if not account.waiting:
                self.shares.returned(account, rank)
            line = Line(account, rank, self.shares.weight_of(place.tenant, place.weight))
        arrived_at, deadline_at = place.arrived_at, place.deadline_at
        due = arrived_at + self._patience_s
        if deadline_at is not None and deadline_at < due:
            due = deadline_at if deadline_at > arrived_at else arrived_at
        if not rank.count:
            self._busy += 1
        tick = next(self._ticks)
        waiter = self._where[place] = (due, place.number, tick, place, line)
        line.add(waiter)
        if self._age_s is not None:
            if rank.arrived(arrived_at, tick, place):
                self._offer(rank, arrived_at)
        elif rank.entry is None:
            self._offer(rank, 0.0)

    def remove(self, place: Place) -> bool:
        """Take ``place`` out; ``False`` where it is not here."""
        waiter = self._where.pop(place, None)
        if waiter is None:
            return False
        line = waiter[4]
        line.drop(waiter)
        rank, account = line.rank, line.account
        rank.dropped()
        if not account.waiting:
            self.shares.left(account, rank)
        if not rank.count:
            self._busy -= 1
            if len(self._ranks) > 2 * self._busy + _SLACK:
                self._sweep()
        return True

    def first(self, now: float) -> Place | None:
        """Whose turn it is. It stays in the queue."""
        order = self._order
        while order:
            top = order[0]
            rank = top[4]
            if rank.entry is not top:
                heappop(order)
                continue
            if self._age_s is not None:
                eldest_at = rank.eldest_at()
                if eldest_at != rank.aged_from:  # the eldest it stood for is gone
                    rank.entry, rank.aged_from = self._urgency(rank, eldest_at), eldest_at
                    heapreplace(order, rank.entry)
                    continue
            return rank.front().heap[0][3]
        return None

    def move(self, place: Place, priority: int) -> None:
        """Another priority for ``place``, with its arrival kept; for one that is not here, when it comes."""
        waiter = self._where.get(place)
        place.priority = priority
        if waiter is None or waiter[4].rank.priority == priority:
            return
        account = waiter[4].account
        account.waiting += 1  # it does not leave, nor come back
        self.remove(place)
        self.push(place)
        account.waiting -= 1

    def ahead_of(self, place: Place, now: float) -> int:
        """About how many would be let through before ``place``, were no more to come.

        Exact for who waits at a higher priority; at its own, an estimate from the number of tenants,
        their counters and its own line; of lower ones, about as many as have aged past it. A place that
        is not here is taken for one that comes now.
        """
        waiter = self._where.get(place)
        priority = place.priority if waiter is None else waiter[4].rank.priority
        ahead = 0.0
        for rank in self._ranks.values():
            if rank.count and rank.priority > priority:
                ahead += rank.count
            elif rank.count and rank.priority < priority and self._age_s is not None:
                ahead += rank.aged_past(place.arrived_at, priority - rank.priority, self._age_s)
        own = self._ranks.get(priority)
        if own is not None and own.count:
            ahead += own.before(place, self.shares.counter_of(place.tenant, own))
        return ceil(ahead)

    def places(self) -> Iterator[Place]:
        """All that wait, in no particular order."""
        return iter(list(self._where))

    def renew(self) -> None:
        """After a fork: nobody waits here, and nothing of this process is on its way."""
        self._where, self._ranks, self._order, self._busy = {}, {}, [], 0
        self.shares.renew()

    def _rank(self, priority: int) -> Rank:
        rank = self._ranks.get(priority)
        if rank is None:
            rank = self._ranks[priority] = Rank(priority, self._where, self._ticks)
        return rank

    def _urgency(self, rank: Rank, eldest_at: float) -> RankEntry:
        """``eldest_at / age_s - priority``: smaller is more urgent, at equal urgency the higher priority.

        Whole and rest are kept apart: priorities may be of any size, and nothing is rounded.
        """
        whole, rest = (0.0, 0.0) if self._age_s is None else divmod(eldest_at, self._age_s)
        return (int(whole) - rank.priority, rest, -rank.priority, next(self._ticks), rank)

    def _offer(self, rank: Rank, eldest_at: float) -> None:
        rank.entry, rank.aged_from = self._urgency(rank, eldest_at), eldest_at
        heappush(self._order, rank.entry)
        if len(self._order) > 2 * len(self._ranks) + _SLACK:
            self._sweep()

    def _sweep(self) -> None:
        """Let go of priorities at which nobody waits, and of entries that no longer hold."""
        self._ranks = {priority: rank for priority, rank in self._ranks.items() if rank.count}
        self._order = [rank.entry for rank in self._ranks.values() if rank.entry is not None]
        heapify(self._order)

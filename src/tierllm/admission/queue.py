"""The queue of a pool: by priority, then by the tenants' shares, then by deadline, then by arrival."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
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
    once it is more than half. Not thread-safe: the pool holds its lock. A place counts as it was when it
    came, whatever changes in it later; save by ``move``.

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
        self._tenants: dict[str, int] = {}  # in how many lines each waits
        self._torn = False  # an interrupt (Ctrl-C) struck amid a change

    def __len__(self) -> int:
        return len(self._where)

    def push(self, place: Place) -> None:
        """Let ``place`` wait. It keeps its order if it was here before; nothing happens if it still is."""
        if self._torn:
            self._mend()
        if place not in self._where:
            self._torn = True
            self._enter(place)
            self._torn = False

    def remove(self, place: Place) -> bool:
        """Take ``place`` out; ``False`` where it is not here."""
        if self._torn:
            self._mend()
        waiter = self._where.get(place)
        if waiter is None:
            return False
        self._torn = True
        del self._where[place]
        self._take_out(waiter)
        self._torn = False
        return True

    def first(self, now: float) -> Place | None:
        """Whose turn it is. It stays in the queue."""
        if self._torn:
            self._mend()
        while self._order:
            top = self._order[0]
            rank = top[4]
            if rank.entry is not top:
                heappop(self._order)
                continue
            if self._age_s is not None:
                eldest_at = rank.eldest_at()
                if eldest_at != rank.aged_from:  # the eldest it stood for is gone
                    self._offer(rank, eldest_at)
                    continue
            return rank.front().heap[0][3]
        return None

    def move(self, place: Place, priority: int) -> None:
        """Another priority for ``place``, with its arrival kept; for one that is not here, when it comes."""
        if self._torn:
            self._mend()
        waiter = self._where.get(place)
        if waiter is None or waiter[4].rank.priority == priority:
            place.priority = priority
            return
        self._torn = True
        place.priority = priority
        tenant = waiter[4].account.tenant
        self._tenants[tenant] += 1  # it does not leave, nor come back
        self._take_out(waiter)
        self._enter(place)
        self._tenants[tenant] -= 1
        self._torn = False

    def ahead_of(self, place: Place, now: float) -> int:
        """About how many would be let through before ``place``, were no more to come.

        Exact for who waits at a higher priority; at its own, an estimate from the number of tenants,
        their counters and its own line; of lower ones, about as many as have aged past it. A place that
        is not here is taken for one that comes now.
        """
        if self._torn:
            self._mend()
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

    def gives_way_to(self, place: Place) -> Place | None:
        """Who leaves a full queue for ``place``; ``None``: nobody stands behind it.

        At the lowest priority, the call due last of the tenant that has the most waiting for its share
        (longest queue drop: Suter, Lakshman, Stiliadis and Choudhury, 1998). Nobody who has aged past
        ``place`` does. Takes as many steps as tenants wait there, and calls of that one.
        """
        if self._torn:
            self._mend()
        lowest = min((r for r in self._ranks.values() if r.count), key=lambda r: r.priority, default=None)
        if lowest is None or lowest.priority > place.priority or self._goes_before(lowest, place):
            return None
        line = max(lowest.lines.values(), key=lambda line: line.count / line.weight)
        if lowest.priority == place.priority:
            own = lowest.lines.get(place.tenant)
            calls = 1 if own is None else own.count + 1
            if line.count / line.weight <= calls / self.shares.weight_of(place.tenant, place.weight):
                return None
        return max(w for w in line.heap if self._where.get(w[3]) is w)[3]

    def _goes_before(self, rank: Rank, place: Place) -> bool:
        """Whether a lower priority has aged past ``place``."""
        if self._age_s is None or rank.priority == place.priority:
            return False
        own = self._ranks.get(place.priority)
        eldest_at = place.arrived_at if own is None or not own.count else own.eldest_at()
        return (place.priority - rank.priority) * self._age_s < eldest_at - rank.eldest_at()

    def reorder(self, like: FairQueue, *, anew: bool) -> None:
        """Age as another queue does. ``anew``: tenants' weights are others now."""
        if anew or (self._age_s, self._patience_s) != (like._age_s, like._patience_s):
            self._age_s, self._patience_s = like._age_s, like._patience_s
            self._mend()

    def places(self) -> Iterator[Place]:
        """All that wait, in no particular order."""
        return iter(list(self._where))

    def renew(self) -> None:
        """After a fork: nobody waits here, and nothing of this process is on its way."""
        self._where = {}
        self._mend()
        self.shares.renew()

    def _enter(self, place: Place, *, comes: bool = True) -> None:
        rank = self._ranks.get(place.priority)
        if rank is None:
            rank = self._ranks[place.priority] = Rank(place.priority, self._where, self._ticks)
        line = rank.lines.get(place.tenant)
        if line is None:
            account = self.shares.account(place.tenant)
            lines = self._tenants.get(place.tenant, 0)
            if comes and not lines:
                self.shares.returned(account, rank)
            line = Line(account, rank, self.shares.weight_of(place.tenant, place.weight))
            self._tenants[place.tenant] = lines + 1
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

    def _take_out(self, waiter: Waiter) -> None:
        line = waiter[4]
        rank, account = line.rank, line.account
        line.drop(waiter)
        rank.thin()
        if not line.count:
            self._tenants[account.tenant] -= 1
            if not self._tenants[account.tenant]:
                del self._tenants[account.tenant]
                self.shares.left(account, rank)
        if not rank.count:
            self._busy -= 1
            if len(self._ranks) > 2 * self._busy + _SLACK:
                self._sweep()

    def _mend(self) -> None:
        """Build everything anew for those who are known to wait."""
        self._torn = True
        for rank in self._ranks.values():
            for line in rank.lines.values():
                line.account.lines.pop(line, None)
        self._ranks, self._order, self._busy, self._tenants = {}, [], 0, {}
        for place in list(self._where):
            self._enter(place, comes=False)
        self.shares.recount()
        self._torn = False

    def _urgency(self, rank: Rank, eldest_at: float) -> RankEntry:
        """``eldest_at / age_s - priority``: smaller is more urgent, at equal urgency the higher priority.

        Whole and rest are kept apart: priorities may be of any size, and nothing is rounded.
        """
        whole, rest = (0.0, 0.0) if self._age_s is None else divmod(eldest_at, self._age_s)
        return (int(whole) - rank.priority, rest, -rank.priority, next(self._ticks), rank)

    def _offer(self, rank: Rank, eldest_at: float) -> None:
        entry = self._urgency(rank, eldest_at)
        heappush(self._order, entry)
        rank.entry, rank.aged_from = entry, eldest_at  # last: an interrupt leaves it where it stood
        if len(self._order) > 2 * len(self._ranks) + _SLACK:
            self._sweep()

    def _sweep(self) -> None:
        """Let go of priorities at which nobody waits, and of entries that no longer hold."""
        self._ranks = {priority: rank for priority, rank in self._ranks.items() if rank.count}
        order = [rank.entry for rank in self._ranks.values() if rank.entry is not None]
        heapify(order)
        self._order = order

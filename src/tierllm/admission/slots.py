"""The places of a pool: how many there are, who has one, what for, and on whose account."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .permit import Permit
from .shares import TenantShares

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from .place import Place
    from .record import PoolRecord
    from .schedule import Schedule
    from .turnstile import Turnstile

__all__ = ["Slots"]

TENANTS_TOLD = 20


class Slots:
    """At most ``size`` permits at once (``None``: any number). ``schedule`` changes the size by the hour.

    The permits in use are a set: adding and discarding are single steps that an interrupt (Ctrl-C) cannot
    split, so the count cannot drift. What is idle may be lent to other pools, which share the lock then.
    """

    def __init__(
        self,
        size: int | None,
        *,
        name: str,
        clock: Clock,
        wall: Clock,
        schedule: Schedule | None,
        shares: TenantShares | None,
    ) -> None:
        if size is not None and size < 1:
            raise ConfigError(f"a pool needs room for at least one call, not {size}")
        self.name = name
        self.clock = clock
        self.wall = wall
        self.shares = shares or TenantShares()
        self.usual_size = size
        self.schedule = schedule
        self._fixed_size = size if schedule is None else None
        self.peak = self.peak_since = 0
        self.record: PoolRecord | None = None
        self.spent_s: deque[float] = deque()
        """For how long each permit was held that was given back since it was written down."""
        self.lenders: list[tuple[Slots, float]] = []
        self.borrowers: list[Slots] = []
        self._lock: Turnstile
        self._held: set[Permit] = set()
        self._short_since: float | None = None
        self._short_s = 0.0

    @property
    def in_line(self) -> int:
        """How many wait for a place here, and would take one that came free."""
        return 0

    def look(self) -> None:
        """Somewhere there may be room: see who waits for it."""

    def take_back(self, permit: Permit) -> None:
        """The permit's place is free again. Harmless where it was given back before."""
        self._held.discard(permit)

    @property
    def size(self) -> float:
        """How many may be in use now; infinite where nothing bounds them."""
        usual = self.usual_size
        if usual is None:
            return math.inf
        return usual if self.schedule is None else self.schedule.size_at(self.wall(), usual)

    @property
    def in_use(self) -> int:
        return len(self._held)

    @property
    def crowded(self) -> bool:
        """Whether there is no room left, so that shares matter."""
        return len(self._held) >= self.size

    def _grows_at(self, now: float) -> float | None:
        """When the schedule changes the size next."""
        if self.schedule is None:
            return None
        wall = self.wall()
        at = self.schedule.changes_at(wall)
        return None if at == math.inf else now + max(0.001, at - wall)

    def lend_to(self, borrower: Slots, share: float) -> None:
        """Let ``borrower`` have up to ``share`` of the slots as long as they are idle.

        To be called before either pool is used.
        """
        borrower._lock = self._lock
        borrower.lenders.append((self, share))
        self.borrowers.append(borrower)

    def join(self, other: Slots) -> None:
        """Have one lock with ``other``. To be called before this pool is used."""
        self._lock = other._lock

    def joined(self, other: Slots) -> bool:
        """Whether one lock guards both."""
        return self._lock is other._lock

    def unlink(self) -> None:
        """Nobody lends to it, nor borrows from it, any more. What is lent comes back as it is given back."""
        with self._lock.lock:
            self.lenders, self.borrowers = [], []
        self._lock.catch_up()

    def _has_slot(self) -> bool:
        return len(self._held) < self.size or self._lender() is not None

    def _lender(self) -> Slots | None:
        for lender, share in self.lenders:
            size = lender.size
            if len(lender._held) < size and not lender.in_line:
                lent = sum(1 for permit in tuple(lender._held) if permit.of is not lender)
                if lent < int(share * size):
                    return lender
        return None

    def _occupy(self, permit: Permit) -> bool:
        """Put ``permit`` into a slot, if there is one."""
        home: Slots = self
        if len(self._held) >= self.size:
            lender = self._lender()
            if lender is None:
                return False
            home = lender
        permit.pool = home
        home._held.add(permit)
        if len(home._held) > home.peak_since:
            home._higher(len(home._held))
        return True

    def _higher(self, in_use: int) -> None:
        self.peak_since = in_use
        self.peak = max(self.peak, in_use)

    def write_down(self, now: float) -> None:
        """Bring the record of what the pool does up to date, borrowed places of others too."""
        for lender, _ in self.lenders:
            lender.write_down(now)
        if self.record is not None:
            self._lock.later(lambda: self._write_down(now))

    def _write_down(self, now: float) -> None:
        record = self.record
        if record is not None:
            used_s = 0.0
            while self.spent_s:
                used_s += self.spent_s.popleft()
            for permit in tuple(self._held):
                since = permit.since
                if since is not None and now > since:
                    used_s += now - since
                    permit.since = now
            if self._short_since is not None:
                self._short_s += max(0.0, now - self._short_since)
                self._short_since = now
            short_s, self._short_s = self._short_s, 0.0
            peak, self.peak_since = self.peak_since, len(self._held)
            schedule = None if self.schedule is None else (self.schedule, self.wall(), self.usual_size or 0)
            record.up_to(now, used_s=used_s, peak=peak, short_s=short_s, size=self.size, schedule=schedule)

    # -- shares ----------------------------------------------------------------

    def charge(self, tenant: str, tokens: int, weight: float) -> None:
        """A call that did not have to wait counts against its tenant's share all the same."""
        with self._lock.lock:
            self.shares.charge(tenant, tokens, weight)
        self._lock.catch_up()

    def settle(self, tenant: str, charged: int, used: int, weight: float) -> None:
        """What a call has really used, in place of what its tenant was charged for it."""
        self._lock.later(lambda: self.shares.settle(tenant, charged, used, weight))

    def uncharge(self, place: Place) -> None:
        """The permit that came to ``place`` is not used."""
        if place.charged:
            self._lock.later(lambda: self._uncharged(place))

    def _uncharged(self, place: Place) -> None:
        if place.charged:
            place.charged = False
            self.shares.settle(place.tenant, place.tokens, 0, place.weight)

    def tenants(self) -> dict[str, float]:
        """The tenants with the largest shares used."""
        with self._lock.lock:
            counters = self.shares.status()
        self._lock.catch_up()
        return dict(sorted(counters.items(), key=lambda item: -item[1])[:TENANTS_TOLD])

"""A pool of permits, handed to the most urgent of those who wait."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .alarms import Alarms, Nudge
from .pace import Throughput
from .permit import Gate, Lock, Permit
from .place import Place
from .queue import FairQueue
from .shares import TenantShares

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Grant, Ticket
    from ..types import Call
    from .record import PoolRecord
    from .schedule import Schedule

__all__ = ["Permit", "Pool"]

LOOK_AGAIN_S = 1.0
"""Where nobody says when there will be room, somebody looks so often."""


class Pool:
    """At most ``size`` permits at once (``None``: any number), for threads and tasks alike.

    Those who wait go by priority, their tenant's share, deadline and arrival (``FairQueue``); who shows no
    call goes by arrival. ``max_waiting`` bounds the queue; ``None`` is no bound. ``schedule`` changes the
    size by the hour. ``defer_at`` is the share of the size up to which deferred calls are let in.

    The permits in use are a set: adding and discarding are single steps that an interrupt (Ctrl-C) cannot
    split, so the count cannot drift. Nothing here waits: where room will come at a known time, one of
    those who wait is asked to look then (``alarm_s``).
    """

    def __init__(
        self,
        size: int | None,
        *,
        name: str = "",
        max_waiting: int | None = None,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        schedule: Schedule | None = None,
        shares: TenantShares | None = None,
        age_s: float | None = 30.0,
        defer_at: float = 0.7,
    ) -> None:
        if size is not None and size < 1:
            raise ConfigError(f"a pool needs room for at least one call, not {size}")
        self.name = name
        self.usual_size = size
        self._fixed_size = size if schedule is None else None
        self.max_waiting = max_waiting
        self.clock = clock
        self.wall = wall
        self.schedule = schedule
        self.defer_at = defer_at
        self.gate: Gate | None = None
        self.is_calm: Callable[[], bool] | None = None
        """Asked before a deferred call is let in, besides ``defer_at``."""
        self.peak = self.peak_since = 0
        self.record: PoolRecord | None = None
        self.spent_s: deque[float] = deque()
        """For how long each permit was held that was given back since it was written down."""
        self.shares = shares or TenantShares()
        self.queue = FairQueue(self.shares, age_s=age_s)
        self.later = FairQueue(self.shares, age_s=age_s)
        self.pace = Throughput()
        self.eta_s: Callable[[Place], float | None] = self._eta_s
        self.lenders: list[tuple[Pool, float]] = []
        self._borrowers: list[Pool] = []
        self._begin(threading.RLock())  # reentrant: garbage collection may end a flow right here

    def _begin(self, lock: Lock) -> None:
        self._lock = lock
        self._held: set[Permit] = set()
        self._unsent: set[Permit] = set()
        self._places: dict[Ticket, Place] = {}
        self._alarms = Alarms()
        self._numbers = 0
        self._short_since: float | None = None
        self._short_s = 0.0

    # -- how it stands ---------------------------------------------------------

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
    def waiting(self) -> int:
        """How many wait in line, deferred calls not included."""
        return len(self.queue) + len(self._alarms.parked)

    @property
    def deferred(self) -> int:
        return len(self.later)

    @property
    def full(self) -> bool:
        """True when a newcomer would have to wait and the queue takes no more."""
        return self.max_waiting is not None and self.waiting >= self.max_waiting and not self._has_slot()

    @property
    def crowded(self) -> bool:
        """Whether there is no room left, so that shares matter."""
        return len(self._held) >= self.size

    @property
    def calm(self) -> bool:
        """Whether deferred calls may be let in."""
        size = self.size
        return (
            not self.queue
            and (size == math.inf or len(self._held) < max(1, int(self.defer_at * size)))
            and (self.is_calm is None or self.is_calm())
        )

    def waiters(self) -> Iterator[Place]:
        """All that wait, deferred ones too, in no order."""
        with self._lock:
            return iter([place for place in self._places.values() if place.call is not None])

    def ahead_of(self, place: Place) -> int:
        """How many would go before ``place``, as things stand."""
        with self._lock:
            return self.queue.ahead_of(place, self.clock())

    def expected_wait_s(self, ahead: int) -> float | None:
        """How long one with so many ahead will wait; ``None`` as long as nothing is known."""
        gate = self.gate
        rate = self.pace.rate_per_s(self.clock(), self.size, None if gate is None else gate.rate_per_s())
        return None if rate is None else (ahead + 1) / rate

    def _eta_s(self, place: Place) -> float | None:
        return self.expected_wait_s(self.ahead_of(place))

    # -- its record ------------------------------------------------------------

    def write_down(self, now: float) -> None:
        """Bring the record of what the pool does up to date, borrowed places of others too."""
        for lender, _ in self.lenders:
            lender.write_down(now)
        record = self.record
        if record is None:
            return
        with self._lock:
            used_s = 0.0
            while self.spent_s:
                used_s += self.spent_s.popleft()
            for permit in self._held:
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

    # -- slots -----------------------------------------------------------------

    def lend_to(self, borrower: Pool, share: float) -> None:
        """Let ``borrower`` have up to ``share`` of the slots as long as they are idle.

        To be called before either pool is used.
        """
        borrower._lock = self._lock
        borrower.lenders.append((self, share))
        self._borrowers.append(borrower)

    def _has_slot(self) -> bool:
        return len(self._held) < self.size or self._lender() is not None

    def _lender(self) -> Pool | None:
        for lender, share in self.lenders:
            size = lender.size
            if len(lender._held) < size and not lender.waiting:
                lent = sum(1 for permit in lender._held if permit.of is not lender)
                if lent < int(share * size):
                    return lender
        return None

    def _occupy(self, permit: Permit) -> bool:
        """Put ``permit`` into a slot, if there is one."""
        home: Pool | None = self
        if len(self._held) >= self.size:
            home = self._lender() if self.lenders else None
            if home is None:
                return False
        assert home is not None
        permit.pool = home
        home._held.add(permit)
        if len(home._held) > home.peak_since:
            home._higher(len(home._held))
        return True

    def _higher(self, in_use: int) -> None:
        self.peak_since = in_use
        self.peak = max(self.peak, in_use)

    def take(self, owner: list[Permit] | list[Grant]) -> Permit | None:
        """A permit, if one is free and nobody waits for it."""
        with self._lock:
            if self._places and self.waiting:
                return None
            held = self._held
            permit = Permit(self)
            owner.append(permit)  # first, so that an interrupt between the two cannot lose it
            if len(held) < (self._fixed_size or self.size):
                held.add(permit)
                if len(held) > self.peak_since:
                    self._higher(len(held))
                return permit
            if self.lenders and self._occupy(permit):
                return permit
            owner.pop()
            return None

    def take_back(self, permit: Permit) -> None:
        """The permit's place is free again. Harmless where it was given back before."""
        self._held.discard(permit)
        self._unsent.discard(permit)
        if permit.of is not self:
            permit.of._unsent.discard(permit)
        if self._places:
            self._hand_out()
        for borrower in self._borrowers:
            if borrower._places:
                borrower._hand_out()

    def sent(self, permit: Permit) -> None:
        """A permit from the queue is used: what its call needs besides is taken."""
        if permit in self._unsent:
            self._unsent.discard(permit)
            if self._places:
                self._hand_out()

    def poke(self) -> None:
        """There may be room where there was none."""
        if self._places:
            self._hand_out()

    def charge(self, tenant: str, tokens: int, weight: float) -> None:
        """A call that did not have to wait counts against its tenant's share all the same."""
        with self._lock:
            self.shares.charge(tenant, tokens, weight)

    def settle(self, tenant: str, charged: int, used: int, weight: float) -> None:
        """What a call has really used, in place of what its tenant was charged for it."""
        with self._lock:
            self.shares.settle(tenant, charged, used, weight)

    # -- the queue -------------------------------------------------------------

    def place(self, call: Call | None, tokens: int = 0) -> Place:
        """A place in the queue for ``call``, to be waited for."""
        with self._lock:
            self._numbers += 1
            return Place(self, call, Permit(self), self.clock(), self._numbers, tokens)

    def enter(self, ticket: Ticket, call: Call | None = None) -> bool:
        return self.line_up(self.place(call), ticket)

    def line_up(self, place: Place, ticket: Ticket) -> bool:
        """``ticket`` waits at ``place``. True when it was given its grant at once."""
        with self._lock:
            place.ticket = ticket
            self._places[ticket] = place
            if place.due_at is None:
                self.queue.push(place)
                if self._short_since is None and self.crowded:
                    self._short_since = self.clock()
            else:
                self.later.push(place)
                self._alarms.at(place.due_at, place)
        self._hand_out()
        return ticket.grant is not None

    def leave(self, ticket: Ticket) -> None:
        with self._lock:
            place = self._places.pop(ticket, None)
            if place is not None:
                self._take_out(place)
            permit = ticket.grant
            if permit is None and place is not None:
                permit = place.permit  # which may have been put into a slot without being told
        if permit is not None:
            permit.release()
        if place is not None and self._places and self._alarms.keeper is not place:
            self._hand_out()  # the keeper comes back at once, and is not to be overtaken meanwhile

    def forget(self, place: Place) -> None:
        """Who had ``place`` will not come back to it for now."""
        if self._alarms.keeper is place:
            self._alarms.keeper = None
            self.poke()

    def move(self, place: Place, priority: int) -> None:
        """Give one that waits another priority."""
        with self._lock:
            if place.due_at is not None:
                self.later.move(place, priority)
            elif place in self._alarms.parked:
                place.priority = priority
            else:
                self.queue.move(place, priority)
            place.priority = priority
        self.poke()

    def hasten(self, place: Place) -> None:
        """Let one that is deferred stand in line now."""
        with self._lock:
            if place.due_at is not None:
                self._stand_in_line(place, self.clock())
                place.due_at = None
        self.poke()

    def _stand_in_line(self, place: Place, now: float) -> None:
        if self.later.remove(place):
            place.due_at = None
            place.arrived_at = place.put_off_until = now  # being put off has not made it more urgent
            self.queue.push(place)

    def alarm_s(self, place: Place) -> float | None:
        """In how many seconds who waits at ``place`` is to look after the queue; ``None``: not at all."""
        with self._lock:
            return self._alarms.keep(place, self.clock())

    def _take_out(self, place: Place) -> None:
        if not self.queue.remove(place):
            self.later.remove(place)
        self._alarms.unpark(place)
        if self._short_since is not None and not self.queue:
            self._short_s += max(0.0, self.clock() - self._short_since)
            self._short_since = None

    def _hand_out(self) -> None:
        """Give free permits to those who wait. A waiter who cannot be woken any more is skipped.

        Each one stays in the queue, with the permit that is meant for it, until it has been told:
        wherever an interrupt strikes, the next release takes up the work from there.
        """
        while True:
            with self._lock:
                place = self._next() or self._keeper()
                if place is None:
                    return
                ticket, permit = place.ticket, place.permit
                assert ticket is not None
                held = permit.pool._held
                grant = ticket.grant
                if grant is None:
                    grant = permit if permit in held else Nudge()
                if not ticket.give(grant):  # again, perhaps, if an interrupt struck while it was told
                    held.discard(permit)
                    if self._alarms.keeper is place:
                        self._alarms.keeper = None
                elif grant is permit:
                    if self.gate is not None:
                        self._unsent.add(permit)
                    if self._alarms.keeper is place:
                        self._alarms.keeper = None
                self._take_out(place)
                self._places.pop(ticket, None)
                if grant is permit:
                    permit.since = self.clock()
                if grant is permit and place.call is not None:
                    # now, and not when it wakes: who is next may depend on it
                    self.shares.charge(place.tenant, place.tokens, place.weight)
                    place.charged = True
                if grant is permit:
                    self.pace.granted(self.clock(), len(self.queue))

    def _next(self) -> Place | None:
        """Whose turn it is, if there is room for it; its permit is then in its slot."""
        now, alarms = self.clock(), self._alarms
        for ripe in alarms.ring(now):
            if ripe.due_at is not None:
                self._stand_in_line(ripe, now)
            elif ripe in alarms.parked:
                alarms.unpark(ripe)
                self.queue.push(ripe)
        if self.queue or self.later:  # else the keeper is on its way back, and has to know
            alarms.opens_at = None
        while (place := self.queue.first(now)) is not None:
            if _meant_for(place):
                return place
            if not self._has_slot():
                if self.schedule is not None:
                    alarms.opens_at = self._grows_at(now)
                return None
            wait_s = self._gated(place, now)
            if wait_s is None:
                return place if self._occupy(place.permit) else None
            if wait_s >= 0:
                alarms.opens_at = now + wait_s
                return None
        late = self.later.first(now) if self.later else None
        if late is None or _meant_for(late):
            return late
        if self.calm and self._gated(late, now) is None:
            return late if self._occupy(late.permit) else None
        alarms.opens_at = now + LOOK_AGAIN_S
        return None

    def _grows_at(self, now: float) -> float | None:
        """When the schedule changes the size next."""
        assert self.schedule is not None
        wall = self.wall()
        at = self.schedule.changes_at(wall)
        return None if at == math.inf else now + max(0.001, at - wall)

    def parked(self, whose: object) -> int:
        """How many wait for the same limit, which is not everybody's."""
        return self._alarms.number(whose)

    def _gated(self, place: Place, now: float) -> float | None:
        """``None`` where ``place`` may pass the gate, else for how long it is shut; -1: for this one only."""
        gate, call = self.gate, place.call
        if gate is None or call is None:
            return None
        short = gate.short(call, now, len(self._unsent) + 1)
        if short is None or short.too_large:  # what never fits is told so by its limit
            return None
        wait_s = min(max(short.wait_s, 0.001), LOOK_AGAIN_S if short.wait_s == math.inf else short.wait_s)
        if (short.personal or call.request.require) and place.due_at is None:
            self.queue.remove(place)
            self._alarms.park(place, short.whose)
            self._alarms.at(now + max(wait_s, 0.001), place)
            return -1.0
        return max(wait_s, 0.001)

    def _keeper(self) -> Place | None:
        """Whom to ask to look after the queue, where something is due and nobody does."""
        if not self._places:
            return None
        return self._alarms.appoint(next(iter(self._places.values())))

    def renew(self) -> None:
        """After a fork: the parent's permits and waiters do not exist here."""
        self._begin(threading.RLock())
        for lender, _ in self.lenders:
            self._lock = lender._lock
        self.queue.renew()
        self.later.renew()


def _meant_for(place: Place) -> bool:
    """Whether a permit is meant for it already, and an interrupt kept that from being told."""
    ticket = place.ticket
    return place.permit in place.permit.pool._held or (ticket is not None and ticket.grant is not None)

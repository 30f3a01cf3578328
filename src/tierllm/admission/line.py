"""Those who wait for a pool's permits, in line or put off."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .alarms import Alarms, Displaced
from .pace import Throughput
from .permit import Gate, Permit
from .place import Place
from .queue import FairQueue
from .slots import Slots
from .turnstile import Turnstile

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Ticket
    from .schedule import Schedule
    from .shares import TenantShares

__all__ = ["Line"]


class Line(Slots):
    """The part of a pool that keeps those who wait: who comes, who goes, who may be late."""

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
        super().__init__(size, name=name, clock=clock, wall=wall, schedule=schedule, shares=shares)
        self.max_waiting = max_waiting
        self.defer_at = defer_at
        self.gate: Gate | None = None
        self.queue = FairQueue(self.shares, age_s=age_s)
        self.later = FairQueue(self.shares, age_s=age_s)
        self.pace = Throughput()
        self.is_quiet: Callable[[], bool] = lambda: True
        self.eta_s: Callable[[Place], float | None] = lambda place: None
        self._begin(Turnstile())

    def _begin(self, lock: Turnstile) -> None:
        self._lock = lock
        self._held = set()
        self._unsent: set[Permit] = set()
        self._tickets: dict[Ticket, Place] = {}
        self._lined_up: dict[Place, None] = {}
        self._alarms = Alarms()
        self._numbers = 0
        self._short_since, self._short_s, self.peak_since = None, 0.0, 0

    def look(self) -> None:
        raise NotImplementedError

    def _hand_out(self) -> None:
        raise NotImplementedError

    # -- how it stands ---------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many wait in line, deferred calls not included."""
        return len(self.queue) + len(self._alarms.parked) - self._alarms.put_off

    @property
    def in_line(self) -> int:
        return len(self.queue)

    @property
    def deferred(self) -> int:
        return len(self.later) + self._alarms.put_off

    @property
    def full(self) -> bool:
        """True when the queue takes no more."""
        return self.max_waiting is not None and self.waiting >= self.max_waiting

    @property
    def calm(self) -> bool:
        """Whether deferred calls may be let in."""
        size = self.size
        free = size == math.inf or len(self._held) < max(1, int(self.defer_at * size))
        return free and not self.queue and self.is_quiet()

    def waiters(self) -> list[Place]:
        """All that wait, deferred ones too, in no order."""
        with self._lock.lock:
            waiting = [place for place in self._lined_up if place.call is not None]
        self._lock.catch_up()
        return waiting

    def ahead_of(self, place: Place) -> int:
        """How many would go before ``place``, as things stand; of a deferred one: of those put off."""
        with self._lock.lock:
            queue = self.queue if place.due_at is None else self.later
            ahead = queue.ahead_of(place, self.clock())
        self._lock.catch_up()
        return ahead

    def alike(self, whose: object, place: Place | None) -> int:
        """How many wait for the same limit, which is not everybody's; ``place`` among them."""
        return self._alarms.number(whose) + (place not in self._alarms.parked)

    def expected_wait_s(self, ahead: int) -> float | None:
        """How long one with so many ahead will wait for a slot; ``None`` as long as nothing is known."""
        if not ahead and not self.waiting and self._has_slot():
            return 0.0
        rate = self.pace.rate_per_s(self.clock(), self.size)
        return None if rate is None else (ahead + 1) / rate

    # -- the queue -------------------------------------------------------------

    def line_up(self, place: Place, ticket: Ticket) -> bool:
        """``ticket`` waits at ``place``. True when it was given its grant at once."""
        with self._lock.lock:
            self._lock.work()
            if place.ticket is not None:
                self._tickets.pop(place.ticket, None)
            place.ticket = ticket
            if place.displaced:
                ticket.give(Displaced())
            elif place.reserved:
                place.reserved = False
                ticket.give(place.permit)
            else:
                self._tickets[ticket] = place
                if place not in self._lined_up:
                    self._lined_up[place] = None
                    if place.call is not None:
                        place.priority = place.call.turn.priority
                    self._push(place)
                self._hand_out()
        self._lock.catch_up()
        return ticket.grant is not None

    def _push(self, place: Place) -> None:
        if place.due_at is not None:
            self.later.push(place)
            self._alarms.at(place.due_at, place)
            return
        self.queue.push(place)
        if self._short_since is None and self.crowded:
            self._short_since = self.clock()

    def leave(self, ticket: Ticket) -> None:
        """Whoever looks after the queue stays in line, and is back at once, or says so (``forget``)."""
        self._lock.later(lambda: self._left(ticket))

    def _left(self, ticket: Ticket) -> None:
        place = self._tickets.pop(ticket, None)
        permit = ticket.grant
        if place is not None:
            place.ticket = None
            if place.returns and self._alarms.watches(place):
                return
            self._take_out(place)
            permit = permit or place.permit  # which may be in a slot without having been told
        if permit is not None:
            permit.release()
        self.look()  # somebody else may be the one to look after the queue now

    def forget(self, place: Place) -> None:
        """Who had ``place`` will not come back to it."""
        self._lock.later(lambda: self._forgotten(place))

    def _forgotten(self, place: Place) -> None:
        self._alarms.dismiss(place)
        if place in self._lined_up:
            self._take_out(place)
        if place.reserved:
            place.reserved = False
            self.uncharge(place)
            place.permit.release()
        self.look()

    def make_room(self, place: Place) -> bool:
        """In a full queue, let somebody who stands behind ``place`` go for it, if anybody does."""
        with self._lock.lock:
            last = self.queue.gives_way_to(place) or self._alarms.gives_way_to(place)
            gone = last is not None and last.returns
            if last is not None and gone:
                last.displaced = True
                self._alarms.dismiss(last)
                self._take_out(last)
                if last.ticket is not None:
                    self._tickets.pop(last.ticket, None)
                    last.ticket.give(Displaced())
        self._lock.catch_up()
        return gone

    def move(self, place: Place, priority: int) -> None:
        """Give one that waits another priority."""
        with self._lock.lock:
            if place in self._lined_up and place not in self._alarms.parked:
                (self.queue if place.due_at is None else self.later).move(place, priority)
            place.priority = priority
        self._lock.later(self._hand_out)

    def hasten(self, place: Place) -> None:
        """Let one that is deferred stand in line now."""
        with self._lock.lock:
            if place.due_at is not None:
                place.due_at = self.clock()
                self._back_in_line(place, place.due_at)
        self._lock.later(self._hand_out)

    def _back_in_line(self, place: Place, now: float) -> None:
        """For one that stood aside, or was put off, that is over."""
        if place not in self._lined_up:
            return
        if place in self._alarms.parked:
            self._alarms.unpark(place)
        elif place.due_at is None or not self.later.remove(place):
            return
        if place.due_at is not None and now >= place.due_at:
            place.due_at = None
            place.arrived_at = place.put_off_until = now  # being put off has not made it more urgent
        self._push(place)

    def alarm_s(self, place: Place) -> float | None:
        """In how many seconds who waits at ``place`` is to look after the queue; ``None``: not at all."""
        with self._lock.lock:
            self._lock.work()
            alarm_s = self._alarms.keep(place, self.clock())
        self._lock.catch_up()
        return alarm_s

    def _take_out(self, place: Place) -> None:
        if not self.queue.remove(place):
            self.later.remove(place)
        self._alarms.unpark(place)
        self._lined_up.pop(place, None)
        if not self.queue:
            self.pace.idle()
            if self._short_since is not None:
                self._short_s += max(0.0, self.clock() - self._short_since)
                self._short_since = None

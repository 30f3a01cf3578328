"""A pool of permits, handed to the most urgent of those who wait."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .alarms import Alarms, Displaced, Nudge
from .pace import Throughput
from .permit import LOOK_AGAIN_S, Gate, Permit, Short, until_a_look
from .place import Place
from .queue import FairQueue
from .slots import Slots
from .turnstile import Turnstile

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Grant, Ticket
    from ..types import Call
    from .schedule import Schedule
    from .shares import TenantShares

__all__ = ["Permit", "Pool"]


class Pool(Slots):
    """At most ``size`` permits at once (``None``: any number), for threads and tasks alike.

    Those who wait go by priority, their tenant's share, deadline and arrival (``FairQueue``); who shows no
    call goes by arrival. ``max_waiting`` bounds the queue; ``None`` is no bound. ``schedule`` changes the
    size by the hour. ``defer_at`` is the share of the size up to which deferred calls are let in.

    Nothing here waits: where room will come at a known time, one of those who wait is asked to look then
    (``alarm_s``). Who does that is ``away`` from its place for a moment, which stays where it is in the
    queue; a permit that comes meanwhile is reserved for it.
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

    # -- permits ---------------------------------------------------------------

    def take(self, owner: list[Permit] | list[Grant]) -> Permit | None:
        """A permit, if one is free and nobody waits for it."""
        turnstile = self._lock
        permit: Permit | None = None
        with turnstile.lock:
            if not self.queue:
                held = self._held
                permit = Permit(self)
                owner.append(permit)  # first, so that an interrupt between the two cannot lose it
                if len(held) < (self._fixed_size or self.size):
                    held.add(permit)
                    if len(held) > self.peak_since:
                        self._higher(len(held))
                elif not (self.lenders and self._occupy(permit)):
                    owner.pop()
                    permit = None
        if turnstile.todo:
            turnstile.catch_up()
        return permit

    def take_back(self, permit: Permit) -> None:
        """The permit's place is free again. Harmless where it was given back before."""
        self._held.discard(permit)
        self._unsent.discard(permit)
        if permit.of is not self:
            permit.of._unsent.discard(permit)
        if self._lined_up:
            self._lock.later(self._hand_out)
        for borrower in self.borrowers:
            borrower.look()

    def sent(self, permit: Permit) -> None:
        """A permit from the queue is used: what its call needs besides is taken."""
        if permit in self._unsent:
            self._unsent.discard(permit)
            self.look()

    def look(self) -> None:
        """Hand out what is free."""
        if self._lined_up:
            self._lock.later(self._hand_out)

    def poke(self) -> None:
        """There may be room where there was none, for those aside too."""
        if self._lined_up:
            self._lock.later(self._look_aside)

    def _look_aside(self) -> None:
        for place in self._alarms.hopeful():
            self._back_in_line(place, self.clock())
        self._hand_out()

    def become(self, other: Pool) -> None:
        """Be as large as ``other``, which is new, and queue as it would.

        Those who have a permit keep it, and whoever waits stays in line: of a smaller pool nobody gets one
        until enough have come back.
        """
        with self._lock.lock:
            self.usual_size, self.schedule = other.usual_size, other.schedule
            self._fixed_size = other._fixed_size
            self.max_waiting, self.defer_at = other.max_waiting, other.defer_at
            reweighed = not self.shares.weigh(other.shares)
            self.queue.reorder(other.queue, anew=reweighed)
            self.later.reorder(other.later, anew=reweighed)
            mine, its = self.record, other.record
            if mine is None or its is None or mine.hourly_usd != its.hourly_usd:
                self.record = its
        self._lock.catch_up()
        self.poke()

    # -- the queue -------------------------------------------------------------

    def place(self, call: Call | None, tokens: int = 0) -> Place:
        """A place in the queue for ``call``, to be waited for."""
        with self._lock.lock:
            self._numbers += 1
            number = self._numbers
        return Place(self, call, Permit(self), self.clock(), number, tokens)

    def enter(self, ticket: Ticket, call: Call | None = None) -> bool:
        return self.line_up(self.place(call), ticket)

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

    # -- handing out -------------------------------------------------------------

    def _hand_out(self) -> None:
        """Give free permits to those who wait. A waiter who cannot be woken any more is skipped.

        Each one stays in the queue, with the permit that is meant for it, until it has been told:
        wherever an interrupt strikes, the next release takes up the work from there.
        """
        while (place := self._next()) is not None:
            self._grant(place)
        self._nudge()

    def _grant(self, place: Place) -> None:
        """Book first, then tell: who is told may be served and gone before this goes on."""
        ticket, permit = place.ticket, place.permit
        if self.gate is not None:
            self._unsent.add(permit)
        permit.since = now = self.clock()
        if place.call is not None and not place.charged:
            place.charged = True  # now, and not when it wakes: who is next may depend on it
            self.shares.charge(place.tenant, place.tokens, place.weight)
        if ticket is None:
            place.reserved = True
        elif not ticket.give(permit):
            self._unsent.discard(permit)
            permit.pool._held.discard(permit)
            self.uncharge(place)
            self._drop(place, ticket)
            return
        self.pace.granted(now)
        self._alarms.dismiss(place)
        self._take_out(place)
        if ticket is not None:
            self._tickets.pop(ticket, None)

    def _drop(self, place: Place, ticket: Ticket) -> None:
        """Nobody is left to be told: its event loop is closed."""
        self._alarms.dismiss(place)
        self._take_out(place)
        self._tickets.pop(ticket, None)

    def _next(self) -> Place | None:
        """Whose turn it is, if there is room for it; its permit is then in its slot."""
        now, alarms = self.clock(), self._alarms
        for ripe in alarms.ring(now):
            self._back_in_line(ripe, now)
        alarms.opens_at = None
        while (place := self.queue.first(now)) is not None:
            if place.permit in place.permit.pool._held:
                return place  # an interrupt kept it from being told
            if not self._has_slot():
                alarms.opens_at = self._grows_at(now)
                return None
            shut_s = self._shut_s(place, now)
            if shut_s is None:
                return place if self._occupy(place.permit) else None
            if place not in alarms.parked:
                alarms.opens_at = now + shut_s
                return None
        while (late := self.later.first(now)) is not None:
            if late.permit in late.permit.pool._held:
                return late
            if not self.calm:
                alarms.opens_at = now + LOOK_AGAIN_S
                return None
            shut_s = self._shut_s(late, now)
            if shut_s is None:
                return late if self._occupy(late.permit) else None
            if late not in alarms.parked:
                alarms.opens_at = now + shut_s
                return None
        return None

    def _shut_s(self, place: Place, now: float) -> float | None:
        """``None`` where ``place`` may pass the gate, else for how long it is shut.

        Who lacks what others do not stands aside, until that comes.
        """
        if place.not_before > now:
            self._aside(place, place.not_before, None)
            return place.not_before - now
        gate, call = self.gate, place.call
        if gate is None or call is None:
            return None
        try:
            short = gate.short(call, now, len(self._unsent) + 1)
        except Exception:  # whatever is wrong with this call, it is to meet that itself
            return None
        if short is None or short.too_large:  # what never fits is told so by its limit
            return None
        shut_s = until_a_look(short)
        if short.personal:
            self._aside(place, now + shut_s, short)
        return shut_s

    def _aside(self, place: Place, until: float, short: Short | None) -> None:
        if not self.queue.remove(place):
            self.later.remove(place)
        self._alarms.park(place, None if short is None else short.whose, short is not None and short.early)
        self._alarms.at(until, place)

    def _nudge(self) -> None:
        """Ask somebody to look after the queue, where something is due and nobody will in time."""
        alarms = self._alarms
        due = alarms.next_at()
        while due is not None:
            place = alarms.keeper
            if place is not None:
                if due >= alarms.kept_at or place.ticket is None:
                    return  # it comes in time, or is on its way
            else:
                place = next((p for p in reversed(self._tickets.values()) if p.returns), None)
            if place is None or place.ticket is None:
                return
            ticket = place.ticket
            if ticket.give(Nudge()):
                alarms.keeper, alarms.kept_at = place, due
                self._tickets.pop(ticket, None)
                place.ticket = None
                return
            self._drop(place, ticket)

    def renew(self) -> None:
        """After a fork: the parent's permits and waiters do not exist here. Lenders come first."""
        self._begin(Turnstile())
        for lender, _ in self.lenders:
            self._lock = lender._lock
        self.spent_s.clear()
        self.queue.renew()
        self.later.renew()

"""A pool of permits, handed to the most urgent of those who wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .alarms import Nudge
from .line import Line
from .permit import LOOK_AGAIN_S, Permit, Short, until_a_look
from .place import Place
from .turnstile import Turnstile

if TYPE_CHECKING:
    from ..pipeline.effects import Grant, Ticket
    from ..types import Call

__all__ = ["Permit", "Pool"]


class Pool(Line):
    """At most ``size`` permits at once (``None``: any number), for threads and tasks alike.

    Those who wait go by priority, their tenant's share, deadline and arrival (``FairQueue``); who shows no
    call goes by arrival. ``max_waiting`` bounds the queue; ``None`` is no bound. ``schedule`` changes the
    size by the hour. ``defer_at`` is the share of the size up to which deferred calls are let in.

    Nothing here waits: where room will come at a known time, one of those who wait is asked to look then
    (``alarm_s``). Who does that is ``away`` from its place for a moment, which stays where it is in the
    queue; a permit that comes meanwhile is reserved for it.
    """

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

    def place(self, call: Call | None, tokens: int = 0) -> Place:
        """A place in the queue for ``call``, to be waited for."""
        with self._lock.lock:
            self._numbers += 1
            number = self._numbers
        return Place(self, call, Permit(self), self.clock(), number, tokens)

    def enter(self, ticket: Ticket, call: Call | None = None) -> bool:
        return self.line_up(self.place(call), ticket)

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

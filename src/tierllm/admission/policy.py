"""Waiting for a place in a tier's pool."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import DeadlineExceededError, RejectedError, ThrottledError
from ..events import CallDeferred, CallQueued
from ..pipeline.effects import Handler, Sleep, Wait
from ..types import Waited
from .alarms import Displaced, Nudge
from .books import TierBooks
from .permit import Permit
from .place import Place
from .seat import Seat

if TYPE_CHECKING:
    from ..types import Call, Response
    from .settings import Admission

__all__ = ["TierAdmission"]

LONGEST_S = 60.0
"""Without a deadline or ``max_wait_s``, a limit that opens later than this is not waited for."""

COME_BACK_S = 1.0
"""Told to who is refused before anything is known of how fast the queue moves."""

AGAIN_S = 0.05
"""Who was let in and refused twice in one moment waits so long at least."""


class TierAdmission(TierBooks):
    """The policy of one tier: who may go now, who waits, and who is turned away."""

    glance: Callable[[Call], None] | None = None
    """Raises where no place of the tier is open, so that nobody waits for one in vain."""

    def __init__(self, settings: Admission, **where: Any) -> None:
        super().__init__(settings, **where)
        self._sees_to_pool()

    def _sees_to_pool(self) -> None:
        self.pool.eta_s = self.eta_s
        self.pool.is_quiet = self._quiet

    def inherit(self, older: TierBooks) -> None:
        super().inherit(older)
        self._sees_to_pool()

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        seat = call.permit = Seat(self)
        now = self.clock()
        next(self._arrivals)
        if now >= self._tick_at:
            self.measure(now)
        try:  # from here on: what the seat has taken is given back, wherever an interrupt strikes
            if (call.turn.defer and self._puts_off()) or not seat.take():
                await self.admit(call, seat)
            else:
                self._seated(seat, call, now)
            while True:
                tried = 0 if call.trace is None else len(call.trace.attempts)
                try:
                    response = await call_next(call)
                    if seat.charged:
                        self.answered(seat, call, response)
                    return response
                except ThrottledError as error:
                    if not self._waits_out(error, call, seat, tried):
                        raise
                self.settle(seat, call, 0)
                self.left(seat)
                await self.admit(call, seat, limited=True)
        except BaseException as error:
            if seat.charged or seat.place is not None:
                self.ended(seat, call, error)
            if isinstance(error, RejectedError):
                self.turned_away()
            if (
                isinstance(error, RejectedError | DeadlineExceededError)
                and error.retry_after_s is None
                and seat.place is not None
            ):
                error.retry_after_s = self._come_back_s(seat.place)
            raise
        finally:
            if seat.charged:
                self.settle(seat, call, seat.charged)
            self.left(seat)
            if seat.place is not None:
                seat.place.call = call.fits = None  # an alarm may still know the place

    def _puts_off(self) -> bool:
        """Whether calls that may be late are to come later."""
        return self.mode == "enforce" and not self.pool.calm

    def _quiet(self) -> bool:
        """Whether limits leave enough for calls that may be late."""
        gate = self.pool.gate
        return gate is None or gate.rate_per_s() is None or self.reading()[0] <= self.defer_at

    async def step_out(self, seat: Seat, seconds: float, call: Call) -> None:
        """Let others have the seat for ``seconds``, then get it back, in line if need be."""
        self.settle(seat, call, 0)
        self.left(seat)
        seat.lost = True
        await Sleep(seconds)
        seat.place = None  # that was not spent in line
        if seat.take():
            self._seated(seat, call, self.clock())
        else:
            await self.admit(call, seat)
        seat.lost = False

    def _seated(self, seat: Seat, call: Call, now: float) -> None:
        """It did not have to wait."""
        seat.begin(now)
        if self.pool.crowded:
            self.charge(seat, call)

    async def admit(self, call: Call, seat: Seat, *, limited: bool = False) -> None:
        """Wait in line for a permit. Raises ``ThrottledError`` where that is of no use, or was not.

        ``limited``: it is a limit that has kept the call back, which this pool's ``mode`` is no matter for.
        """
        pool = self.pool
        place = seat.place
        if place is None:
            if self.glance is not None:
                self.glance(call)
            if self.mode == "observe" and not limited:
                if not seat.take():
                    self._observed(call)
                seat.begin(self.clock())
                return
            if pool.gate is not None:
                pool.gate.prepare(call)
            place = seat.place = pool.place(call, self.expected(call))
            place.returns = True
            self.caught_up(self.clock())
            self._check(call, place)
        asked = self.clock()
        call.ahead = None  # what was seen before the wait may no longer hold after it
        call.turn.place = place
        try:
            seat.sit(await self._granted(call, place))
        except DeadlineExceededError as error:
            error.retry_after_s = self._come_back_s(place)
            raise
        finally:
            call.turn.place = None
            pool.forget(place)
            self._waited(call, seat, place, asked)
        now = self.clock()
        seat.begin(now)
        if place.charged:
            seat.charged, place.charged = place.tokens, False
        self.caught_up(now)
        if pool.record is not None:
            pool.record.waited(now, seat.waited_s)

    async def _granted(self, call: Call, place: Place) -> Permit:
        """The permit. Whoever is asked to looks after the queue meanwhile."""
        while True:
            wait_s = self._patience_s(place)
            alarm_s = self.pool.alarm_s(place)
            looks = alarm_s is not None and (wait_s is None or alarm_s < wait_s)
            try:
                waiting: Wait[Permit | Nudge] = Wait(place, alarm_s if looks else wait_s, call)
                grant = await waiting
            except TimeoutError as error:
                if type(error) is not TimeoutError:
                    raise
                if looks:
                    self.pool.look()
                    continue
                why = f"no place in the pool within {self.max_wait_s:g} s"
                raise self._refusal(why, place, call) from None
            if isinstance(grant, Displaced):
                raise self._refusal("the queue is full, and others go before it", place, call)
            if not isinstance(grant, Nudge):
                return grant

    def _waited(self, call: Call, seat: Seat, place: Place, since: float) -> None:
        """Write down how long it has stood in line, and been put off before."""
        now = self.clock()
        seat.waited_s += now - since
        if place.due_at is not None:
            place.put_off_until, place.due_at = now, None
            place.arrived_at = now  # what comes after that is another wait
        if call.trace is None:
            return
        in_line = since if place.put_off_until is None else max(since, place.put_off_until)
        for kind, seconds in (("deferred", in_line - since), ("pool", now - in_line)):
            if seconds > 0.0005:
                call.trace.waits.append(Waited(kind, self.pool.name, seconds))

    def _check(self, call: Call, place: Place) -> None:
        """Whether waiting is of any use. Raises ``ThrottledError`` where it is not."""
        pool = self.pool
        deferred = call.turn.defer and not pool.calm
        if deferred and not call.request.defer_ok and self.on_full != "wait":
            deferred = not pool.crowded  # it did not ask to wait
        if deferred:
            if pool.max_waiting is not None and pool.deferred >= pool.max_waiting:
                raise self._refusal(f"{pool.deferred} calls wait for a calmer time", place, call)
            place.due_at = place.arrived_at + self._spare_s(call)
        elif self.on_full != "wait":
            raise self._refusal("the pool is full", place, call)
        ahead = pool.ahead_of(place)
        expected_s = pool.expected_wait_s(ahead)
        shut_s = self._shut_s(call, place, ahead)
        if shut_s and (expected_s is None or shut_s > expected_s):
            expected_s = shut_s
        if not deferred and expected_s is not None:
            most_s = math.inf if self.max_wait_s is None else self.max_wait_s
            left_s = None if call.scope is None else call.scope.remaining_s()
            if left_s is not None:  # and it has to be answered after that
                most_s = min(most_s, left_s - (pool.pace.held_s or 0.0))
            if expected_s > most_s:
                raise self._refusal(
                    f"the wait is about {expected_s:.3g} s, and the call has {max(0.0, most_s):.3g} s",
                    place,
                    call,
                )
        if not deferred and pool.full and not pool.make_room(place):
            raise self._refusal(f"the pool and its queue of {pool.max_waiting} are full", place, call)
        if self.emit is not None:
            trace_id = "" if call.trace is None else call.trace.id
            if deferred:
                self.emit(CallDeferred(trace_id=trace_id, tier=pool.name, eta_s=self.eta_s(place)))
            else:
                self.emit(
                    CallQueued(trace_id=trace_id, tier=pool.name, ahead=ahead, expected_wait_s=expected_s)
                )

    def _spare_s(self, call: Call) -> float:
        """For how long a call can be put off and still be answered before its deadline.

        One that did not ask for it is put off no longer than it would stand in line.
        """
        spare_s = self.max_defer_s
        if not call.request.defer_ok and self.max_wait_s is not None:
            spare_s = min(spare_s, self.max_wait_s)
        left_s = None if call.scope is None else call.scope.remaining_s()
        if left_s is None:
            return spare_s
        held_s = self.pool.pace.held_s
        if held_s is None:  # nobody knows how long a call takes
            return min(spare_s, left_s / 2)
        return max(0.0, min(spare_s, left_s - 2 * held_s - 0.05 * left_s))

    def eta_s(self, place: Place) -> float | None:
        """In how many seconds the call at ``place`` will probably begin; ``None``: nothing is known."""
        pool = self.pool
        if place.due_at is None:
            return self._come_back_s(place)
        latest_s = max(0.0, place.due_at - self.clock())
        held_s, (level, forecast) = pool.pace.held_s, self.reading()
        spare = pool.size * (self.defer_at - max(level, forecast))
        if spare <= 0:
            return latest_s  # no calm is in sight
        if held_s is None:
            return None
        return min(latest_s, (pool.waiting + pool.ahead_of(place) + 1) * held_s / spare)

    def _patience_s(self, place: Place) -> float | None:
        if self.max_wait_s is None:
            return None
        since = place.arrived_at if place.due_at is None else place.due_at
        return since + self.max_wait_s - self.clock()

    def _waits_out(self, error: ThrottledError, call: Call, seat: Seat, tried: int) -> bool:
        """Whether a limit that all places of the tier have met is waited for, in line.

        Not where a provider has been asked already since ``tried`` attempts: that would ask it again.
        """
        if not error.waitable or self.on_full != "wait":
            return False
        if call.trace is not None and any(a.outcome != "rejected" for a in call.trace.attempts[tried:]):
            return False
        now = self.clock()
        wait_s = max(error.retry_after_s or 0.0, self._shut_s(call))
        error.retry_after_s = wait_s
        left_s = None if call.scope is None else call.scope.remaining_s()
        most_s, place = self.max_wait_s, seat.place
        if place is not None:
            if place.refused_at == now:  # by something that the queue does not see
                place.not_before = now + max(wait_s, AGAIN_S)
            place.refused_at = now
            if most_s is not None:
                most_s -= now - place.arrived_at
        if left_s is None and most_s is None:
            return wait_s <= LONGEST_S
        return wait_s < min(math.inf if left_s is None else left_s, math.inf if most_s is None else most_s)

    def _shut_s(self, call: Call | None, place: Place | None = None, ahead: int = 0) -> float:
        """How long limits will keep the call, those counted that go before it or stand aside for the same."""
        gate, now = self.pool.gate, self.clock()
        if gate is None or call is None:
            return 0.0
        gate.prepare(call)
        short = gate.short(call, now, ahead + 1)
        if short is not None and short.personal:
            short = gate.short(call, now, self.pool.alike(short.whose, place))
        return 0.0 if short is None or short.wait_s == math.inf else short.wait_s

    # -- refusals --------------------------------------------------------------

    def _come_back_s(self, place: Place) -> float:
        """When a call like it may be served: not before those ahead of it, nor before its limits open."""
        pool = self.pool
        ahead = pool.ahead_of(place)
        expected_s = pool.expected_wait_s(ahead)
        return max(COME_BACK_S if expected_s is None else expected_s, self._shut_s(place.call, place, ahead))

    def _refusal(self, why: str, place: Place, call: Call) -> ThrottledError:
        error = ThrottledError(
            f"{self.pool.name}: {why}",
            retry_after_s=self._come_back_s(place),
            steps_down=self.on_full != "refuse",
        )
        self.tell(error, call)
        return error

    def _observed(self, call: Call) -> None:
        """It would have had to wait, or been refused."""
        back_s = self.pool.expected_wait_s(0) or COME_BACK_S
        error = ThrottledError(f"{self.pool.name}: the pool is full", retry_after_s=back_s)
        error.steps_down = self.on_full != "refuse"
        self.tell(error, call)

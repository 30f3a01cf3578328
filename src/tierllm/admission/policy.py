"""Waiting for a place in a tier's pool."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import DeadlineExceededError, RejectedError, ThrottledError
from ..events import CallDeferred, CallQueued, CallThrottled, Event
from ..pipeline.effects import Handler, Wait
from ..types import Waited, length_of
from .alarms import Nudge
from .crowding import Crowding
from .load import LoadMeter
from .permit import Permit
from .place import Place, tenant_of
from .pool import Pool
from .record import PoolRecord
from .seat import Seat
from .shares import TenantShares

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..types import Call, Response
    from .settings import Admission

__all__ = ["TierAdmission"]

LONGEST_S = 60.0
"""Without a deadline or ``max_wait_s``, a limit that opens later than this is not waited for."""

COME_BACK_S = 1.0
"""Told to who is refused before anything is known of how fast the queue moves."""

GUESSED_OUTPUT = 256
"""Tokens of an answer, before any was seen."""


class TierAdmission:
    """The policy of one tier: its pool and queue, its load, and who was kept back."""

    def __init__(
        self,
        settings: Admission,
        *,
        name: str,
        size: int | None,
        max_waiting: int | None,
        max_wait_s: float | None,
        clock: Clock,
        wall: Clock,
        emit: Callable[[Event], None] | None,
    ) -> None:
        self.max_wait_s = max_wait_s
        self.on_full = settings.on_full
        self.mode = settings.mode
        self.borrow = settings.borrow
        self.defer_at = settings.defer_at
        self.max_defer_s = settings.max_defer_s
        self.shed_at = settings.shed_at
        self.shed_below = settings.shed_below
        self.clock = clock
        self.emit = emit
        self.pool = Pool(
            size,
            name=name,
            max_waiting=max_waiting,
            clock=clock,
            wall=wall,
            schedule=settings.schedule,
            shares=TenantShares(settings.weights),
            age_s=settings.age_s,
            defer_at=settings.defer_at,
        )
        self.pool.eta_s = self.eta_s
        if size is not None:
            self.pool.record = PoolRecord(clock=clock, size=self.pool.size, hourly_usd=settings.hourly_usd)
        self.load = LoadMeter(clock=clock)
        self.crowding = None if self.shed_at is None else Crowding(self.shed_at, name=name, emit=emit)
        self.glance: Callable[[Call], None] | None = None
        """Raises where no place of the tier is open, so that nobody waits for one in vain."""
        self.refused = 0
        self._tick_at = 0.0
        # told to load and record once a second: what costs nothing here would there, on every call
        self._arrivals = itertools.count(1)
        self._arrived = 0
        self._held_s: deque[float] = deque()
        self._output = GUESSED_OUTPUT

    # -- a call ----------------------------------------------------------------

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        seat = call.permit = Seat(self)
        now = self.clock()
        next(self._arrivals)
        if now >= self._tick_at:
            self.measure(now)
        pool = self.pool
        try:  # from here on: what the seat has taken is given back, wherever an interrupt strikes
            if seat.take() and not (call.turn.defer and self._puts_off(seat)):
                seat.begin(now)
                if pool.crowded:
                    self._charge(seat, call)
            else:
                await self._queue(seat, call)
            while True:
                try:
                    response = await call_next(call)
                    if seat.charged:
                        self._answered(seat, call, response)
                    return response
                except ThrottledError as error:
                    if not self._waits_out(error, call, seat):
                        raise
                self._settle(seat, call, 0)
                self._left(seat)
                await self._queue(seat, call)
        except RejectedError:
            self._settle(seat, call, 0)
            self._turned_away()
            raise
        finally:
            if seat.charged or seat.place is not None:
                self._settle(seat, call, seat.charged)
            self._left(seat)

    async def _queue(self, seat: Seat, call: Call) -> None:
        await seat.wait(call)
        now = self.clock()
        seat.begin(now)
        place = seat.place
        if place is not None and place.charged:
            seat.charged, place.charged = place.tokens, False
        self._caught_up(now)
        if self.pool.record is not None:
            self.pool.record.waited(now, seat.waited_s)

    def _puts_off(self, seat: Seat) -> bool:
        """Whether a call that may be late is to come later; its permit is given back then."""
        if self.pool.calm:
            return False
        seat.release()
        return True

    async def admit(self, call: Call, seat: Seat) -> Permit | None:
        """Wait in line. Raises ``ThrottledError`` where that is of no use, or was not."""
        pool = self.pool
        place = seat.place
        if place is None:
            if self.glance is not None:
                self.glance(call)
            if self.mode == "observe":
                self._observed(call)
                return pool.take([])
            place = seat.place = pool.place(call, self._expected(call))
            self._caught_up(self.clock())
            self._check(call, place)
        asked = self.clock()
        call.ahead = None  # what was seen before the wait may no longer hold after it
        call.turn.place = place
        try:
            while True:
                wait_s = self._patience_s(place)
                alarm_s = pool.alarm_s(place)
                looks = alarm_s is not None and (wait_s is None or alarm_s < wait_s)
                try:
                    waiting: Wait[Permit | Nudge] = Wait(place, alarm_s if looks else wait_s, call)
                    grant = await waiting
                except TimeoutError as error:
                    if type(error) is not TimeoutError:
                        raise
                    if looks:
                        continue
                    why = f"no place in the pool within {self.max_wait_s:g} s"
                    raise self._refusal(why, place, call) from None
                if not isinstance(grant, Nudge):
                    return grant
        except DeadlineExceededError as error:
            error.retry_after_s = self._come_back_s(place)
            raise
        finally:
            call.turn.place = None
            pool.forget(place)
            self._waited(call, seat, place, asked)

    def _waited(self, call: Call, seat: Seat, place: Place, since: float) -> None:
        """Write down how long it has stood in line, and been put off before."""
        now = self.clock()
        seat.waited_s += now - since
        if call.trace is None:
            return
        if place.due_at is not None:
            place.put_off_until, place.due_at = now, None
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
        elif pool.full:
            raise self._refusal(f"the pool and its queue of {pool.max_waiting} are full", place, call)
        ahead = pool.ahead_of(place)
        expected_s = pool.expected_wait_s(ahead)
        shut_s = self._shut_s(call)
        if shut_s and (expected_s is None or shut_s > expected_s):
            expected_s = shut_s
        if not deferred and expected_s is not None:
            most_s = math.inf if self.max_wait_s is None else self.max_wait_s
            left_s = None if call.scope is None else call.scope.remaining_s()
            if left_s is not None and left_s < most_s:
                most_s = left_s
            if expected_s > most_s:
                raise self._refusal(
                    f"the wait is about {expected_s:.3g} s, and the call has {most_s:.3g} s", place, call
                )
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
            return pool.expected_wait_s(pool.ahead_of(place))
        latest_s = max(0.0, place.due_at - self.clock())
        held_s, (level, forecast) = pool.pace.held_s, self.reading()
        spare = pool.size * (self.defer_at - max(level, forecast))
        if spare <= 0:
            return latest_s  # no calm is in sight
        return min(latest_s, (pool.waiting + pool.deferred) * (held_s or 0.0) / spare)

    def _patience_s(self, place: Place) -> float | None:
        if self.max_wait_s is None or place.due_at is not None:
            return None
        return place.arrived_at + self.max_wait_s - self.clock()

    def _waits_out(self, error: ThrottledError, call: Call, seat: Seat) -> bool:
        """Whether a limit that all places of the tier have met is waited for, in line."""
        if not error.waitable or self.mode == "observe" or self.on_full != "wait":
            return False
        wait_s = max(error.retry_after_s or 0.0, self._shut_s(call))
        error.retry_after_s = wait_s
        left_s = None if call.scope is None else call.scope.remaining_s()
        most_s = self.max_wait_s
        if most_s is not None and seat.place is not None:
            most_s -= self.clock() - seat.place.arrived_at
        if left_s is None and most_s is None:
            return wait_s <= LONGEST_S
        return wait_s < min(math.inf if left_s is None else left_s, math.inf if most_s is None else most_s)

    def _shut_s(self, call: Call | None) -> float:
        """How long limits will keep the call, those counted who wait for the same ones aside."""
        gate, now = self.pool.gate, self.clock()
        if gate is None or call is None:
            return 0.0
        short = gate.short(call, now, 1)
        if short is not None and short.personal:
            short = gate.short(call, now, self.pool.parked(short.whose) + 1)
        return 0.0 if short is None or short.wait_s == math.inf else short.wait_s

    # -- refusals --------------------------------------------------------------

    def _come_back_s(self, place: Place) -> float:
        """When a call like it may be served: not before those ahead of it, nor before its limits open."""
        pool = self.pool
        expected_s = pool.expected_wait_s(pool.ahead_of(place))
        return max(COME_BACK_S if expected_s is None else expected_s, self._shut_s(place.call))

    def _refusal(self, why: str, place: Place, call: Call) -> ThrottledError:
        self.refused += 1
        error = ThrottledError(
            f"{self.pool.name}: {why}",
            retry_after_s=self._come_back_s(place),
            steps_down=self.on_full != "refuse",
        )
        self._tell(error, call)
        return error

    def _observed(self, call: Call) -> None:
        """It would have had to wait, or been refused."""
        pool = self.pool
        self.refused += 1
        error = ThrottledError(
            f"{pool.name}: the pool is full",
            retry_after_s=pool.expected_wait_s(0) or COME_BACK_S,
            steps_down=self.on_full != "refuse",
        )
        self._tell(error, call)

    def _tell(self, error: ThrottledError, call: Call) -> None:
        if self.emit is not None:
            trace_id = "" if call.trace is None else call.trace.id
            self.emit(
                CallThrottled(
                    trace_id=trace_id,
                    tier=self.pool.name,
                    deployment="",
                    by="pool",
                    mode=self.mode,
                    error=error,
                )
            )

    # -- accounts --------------------------------------------------------------

    def _expected(self, call: Call) -> int:
        """Tokens that the call will use, roughly: what its tenant is charged until it has ended."""
        request = call.request
        most = request.params.get("max_tokens") if request.params else None
        output = self._output if most is None or most > self._output else most
        return length_of(request.messages) // 4 + output

    def _charge(self, seat: Seat, call: Call) -> None:
        """Let its tenant pay for it in its share. Where nobody has to wait, no share is kept."""
        charged = seat.charged = self._expected(call)
        self.pool.charge(tenant_of(call), charged, call.turn.weight)

    def _answered(self, seat: Seat, call: Call, response: Response) -> None:
        usage = response.usage
        if usage is not None:
            self._output += (usage.output_tokens - self._output) // 16
            self._settle(seat, call, usage.input_tokens + usage.output_tokens)

    def _settle(self, seat: Seat, call: Call, used: int) -> None:
        """Once for each charge; a call that left as its permit came has one too."""
        charged, seat.charged = seat.charged, 0
        place = seat.place
        if place is not None and place.charged:
            place.charged = False
            self.pool.settle(place.tenant, place.tokens, 0, place.weight)
        if charged:
            self.pool.settle(tenant_of(call), charged, used, call.turn.weight)

    def _left(self, seat: Seat) -> None:
        """Give the seat back, whichever way the call has ended."""
        since = seat.since
        if since is None:
            seat.release()
            return
        now = self.clock()
        seat.end(now)
        self._held_s.append(now - since)
        if seat.waited_s:
            self.load.waited(seat.waited_s)
            self._caught_up(now)

    def _turned_away(self) -> None:
        now = self.clock()
        self.load.refused(now)
        if self.pool.record is not None:
            self.pool.write_down(now)
            self.pool.record.refused(now)

    def _caught_up(self, now: float) -> None:
        """Tell load, pace and record what has happened since they were told last."""
        held, pool = self._held_s, self.pool
        used_s, ended = 0.0, 0
        while held:
            try:
                held_s = held.popleft()
            except IndexError:  # another thread was quicker
                break
            used_s += held_s
            ended += 1
            pool.pace.ended(held_s)
        before, self._arrived = self._arrived, next(self._arrivals)
        self.load.told(max(0, self._arrived - before - 1), ended, used_s)
        pool.write_down(now)

    def measure(self, now: float) -> None:
        """Take the load's measure; once a second is enough."""
        self._tick_at = now + 1.0
        self._caught_up(now)
        pool = self.pool
        gate, size = pool.gate, pool.size
        self.load.measure(
            now,
            in_flight=pool.in_use,
            waiting=pool.waiting,
            size=None if size == math.inf else size,
            rate_per_s=None if gate is None else gate.rate_per_s(),
        )
        if self.crowding is not None:
            self.crowding.read(self.load.level, self.load.forecast)

    def reading(self) -> tuple[float, float]:
        """The load's level and its forecast, 1 being all that the pool can do."""
        now = self.clock()
        if now >= self._tick_at:
            self.measure(now)
        return self.load.level, self.load.forecast

    def sheds(self, priority: int) -> bool:
        """Whether a call of this priority is to start at the next tier, while there still is room here."""
        crowding = self.crowding
        if crowding is None or priority >= self.shed_below:
            return False
        self.reading()
        if self.mode == "observe":  # listeners hear when it would begin and end
            return False
        if crowding.on:  # it has come all the same: else shedding would look like calm
            now = self.clock()
            self.load.arrived(now)
            self.load.refused(now)
        return crowding.on

    def status(self) -> dict[str, Any]:
        """How the pool stands, and what it did, as plain data."""
        pool, now = self.pool, self.clock()
        self._caught_up(now)
        size = pool.size
        return {
            "size": None if size == math.inf else size,
            "in_use": pool.in_use,
            "waiting": pool.waiting,
            "deferred": pool.deferred,
            "peak": pool.peak,
            "refused": self.refused,
            "crowded": self.crowding is not None and self.crowding.on,
            "tenants": pool.shares.status(),
            "record": None if pool.record is None else pool.record.status(now),
            "remarks": [] if pool.record is None else pool.record.remarks(now),
        }

    def renew(self) -> None:
        """After a fork."""
        self.pool.renew()

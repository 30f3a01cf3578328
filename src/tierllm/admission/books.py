"""What is written down of a tier's calls: their load, their tenants' shares, who was turned away."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ThrottledError
from ..events import CallThrottled, Event
from ..types import length_of
from .crowding import Crowding
from .load import LoadMeter
from .place import tenant_of
from .pool import Pool
from .record import PoolRecord
from .shares import TenantShares

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..types import Call, Response
    from .seat import Seat
    from .settings import Admission

__all__ = ["TierBooks"]

GUESSED_OUTPUT = 256
"""Tokens of an answer, before any was seen."""


class TierBooks:
    """One tier's pool, and the accounts of its calls."""

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
        if size is not None:
            self.pool.record = PoolRecord(clock=clock, size=self.pool.size, hourly_usd=settings.hourly_usd)
        self.load = LoadMeter(clock=clock)
        self.crowding = None if self.shed_at is None else Crowding(self.shed_at, name=name, emit=emit)
        self.refused = 0
        self._tick_at = 0.0
        # told to load and record once a second: what costs nothing here would there, on every call
        self._arrivals = itertools.count(1)
        self._arrived = 0
        self._held_s: deque[float] = deque()
        self._output = GUESSED_OUTPUT

    def tell(self, error: ThrottledError, call: Call) -> None:
        """``error`` keeps the call back, or would."""
        self.refused += 1
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

    def expected(self, call: Call) -> int:
        """Tokens that the call will use, roughly: what its tenant is charged until it has ended."""
        request = call.request
        most = request.params.get("max_tokens") if request.params else None
        output = self._output if most is None or most > self._output else most
        return length_of(request.messages) // 4 + output

    def charge(self, seat: Seat, call: Call) -> None:
        """Let its tenant pay for it in its share. Where nobody has to wait, no share is kept."""
        charged = seat.charged = self.expected(call)
        self.pool.charge(tenant_of(call), charged, call.turn.weight)

    def answered(self, seat: Seat, call: Call, response: Response) -> None:
        usage = response.usage
        if usage is not None:
            self._output += (usage.output_tokens - self._output) // 16
            self.settle(seat, call, usage.input_tokens + usage.output_tokens)

    def settle(self, seat: Seat, call: Call, used: int) -> None:
        """Once for each charge; a call that left as its permit came has one too."""
        if seat.place is not None:
            self.pool.uncharge(seat.place)
        charged, seat.charged = seat.charged, 0
        if charged:
            self.pool.settle(tenant_of(call), charged, used, call.turn.weight)

    def ended(self, seat: Seat, call: Call, error: BaseException) -> None:
        """The call has failed: what its tenant pays for depends on how far it has come."""
        unused = isinstance(error, Exception) and getattr(error, "partial", None) is None
        self.settle(seat, call, 0 if unused else seat.charged)

    def left(self, seat: Seat) -> None:
        """Give the seat back, whichever way the call has ended, or for a while."""
        since = seat.since
        if since is None:
            seat.release()
            return
        now = self.clock()
        seat.end(now)
        self._held_s.append(now - since)
        if seat.waited_s:
            self.load.waited(seat.waited_s)
        if now >= self._tick_at:
            self.measure(now)

    def turned_away(self) -> None:
        now = self.clock()
        self.load.refused(now)
        if self.pool.record is not None:
            self.pool.write_down(now)
            self.pool.record.refused(now)

    def caught_up(self, now: float) -> None:
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
        self.caught_up(now)
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
            self.crowding.read(self.load.level, self.load.forecast, now)

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
        return crowding.on and self.mode == "enforce"  # listeners hear when it would begin and end

    def shed(self) -> None:
        """A call that came here goes elsewhere: else shedding would look like calm."""
        now = self.clock()
        self.load.arrived(now)
        self.load.refused(now)

    def status(self) -> dict[str, Any]:
        """How the pool stands, and what it did, as plain data."""
        pool, now = self.pool, self.clock()
        self.caught_up(now)
        size = pool.size
        return {
            "size": None if size == math.inf else size,
            "in_use": pool.in_use,
            "waiting": pool.waiting,
            "deferred": pool.deferred,
            "peak": pool.peak,
            "refused": self.refused,
            "crowded": self.crowding is not None and self.crowding.on,
            "tenants": pool.tenants(),
            "record": None if pool.record is None else pool.record.status(now),
            "remarks": [] if pool.record is None else pool.record.remarks(now),
        }

    def inherit(self, older: TierBooks) -> None:
        """Go on with the pool of ``older``, made as large as this one's, and with what it has measured."""
        older.pool.become(self.pool)
        self.pool, self.load = older.pool, older.load
        self.refused, self._output = older.refused, older._output

    def renew(self) -> None:
        """After a fork."""
        self.pool.renew()

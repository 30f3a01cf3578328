"""Waiting for a place in a tier's pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..errors import ThrottledError
from ..pipeline.effects import Handler, Sleep, Wait
from ..types import Waited
from .pool import Permit, Pool

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..types import Call, Response

__all__ = ["Admission", "Seat"]


class Seat:
    """A call's place in a pool, which it may leave for a while and come back to."""

    __slots__ = ("_admission", "_owned", "lost")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._owned: list[Permit] = []
        self.lost = False
        """Left, and not got back: the call is over in this tier."""

    def take(self) -> bool:
        """Sit down where there is a free place, and nothing to wait for."""
        return self._admission.pool.take(self._owned) is not None

    async def wait(self, call: Call) -> None:
        """Queue for a place."""
        permit = await self._admission.admit(call)
        if permit is not None:
            self._owned.append(permit)

    def release(self) -> None:
        owned, self._owned = self._owned, []
        for permit in owned:
            permit.pool.take_back(permit)

    async def leave_for(self, seconds: float, call: Call) -> None:
        """Let others have the place for ``seconds``, then queue for it again."""
        self.release()
        self.lost = True
        await Sleep(seconds)
        await self.wait(call)
        self.lost = False


class Admission:
    """At most so many calls of a tier at once; the others wait in order of arrival.

    A call that finds the queue full, or waits longer than ``max_wait_s``, is refused with
    ``ThrottledError``. ``mode="observe"`` lets every call pass and takes permits only where they
    are free.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        clock: Clock,
        max_wait_s: float | None = None,
        mode: Literal["enforce", "observe"] = "enforce",
    ) -> None:
        self.pool = pool
        self.clock = clock
        self.max_wait_s = max_wait_s
        self.mode = mode

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        seat = call.permit = Seat(self)
        try:  # from here on: what the seat has taken is given back, wherever an interrupt strikes
            if self.mode == "observe" or not seat.take():
                await seat.wait(call)
            return await call_next(call)
        finally:
            seat.release()

    async def admit(self, call: Call) -> Permit | None:
        pool = self.pool
        if self.mode == "observe":
            return pool.take([])
        if pool.full:
            raise ThrottledError(f"{pool.name}: the pool and its queue of {pool.max_waiting} are full")
        asked = self.clock()
        call.ahead = None  # what was seen before the wait may no longer hold after it
        try:
            return await Wait(pool, self.max_wait_s, call)
        except TimeoutError as error:
            if type(error) is not TimeoutError:
                raise
            raise ThrottledError(f"{pool.name}: no place in the pool within {self.max_wait_s:g} s") from None
        finally:
            waited = self.clock() - asked
            if waited > 0.0005 and call.trace is not None:
                call.trace.waits.append(Waited("pool", pool.name, waited))

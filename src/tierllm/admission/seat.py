"""A call's place in a pool, while it is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..types import Call
    from .permit import Permit
    from .place import Place
    from .policy import TierAdmission

__all__ = ["Seat"]


class Seat:
    """What a call has of a pool: its permit, which it may leave for a while and come back to.

    ``place`` is where it stood in line, if it had to; who queues again stands there again. ``charged`` is
    what its tenant was charged for it.
    """

    __slots__ = ("_admission", "_owned", "charged", "lost", "place", "since", "waited_s")

    def __init__(self, admission: TierAdmission) -> None:
        self._admission = admission
        self._owned: list[Permit] = []
        self.lost = False
        """Left, and not got back: the call is over in this tier."""
        self.place: Place | None = None
        self.charged = 0
        self.since: float | None = None
        self.waited_s = 0.0

    def take(self) -> bool:
        """Sit down where there is a free place, and nothing to wait for."""
        return self._admission.pool.take(self._owned) is not None

    def sit(self, permit: Permit) -> None:
        """Sit down with a permit that was waited for."""
        self._owned.append(permit)

    def begin(self, now: float) -> None:
        """The call is served from ``now`` on."""
        self.since = now
        for permit in self._owned:
            permit.since = now

    def end(self, now: float) -> None:
        """It is over, at ``now``."""
        self.since = None
        self.release(now)

    def sent(self) -> None:
        """The call has all it needs and goes out: the next in line may be let in."""
        for permit in self._owned:
            permit.of.sent(permit)

    def release(self, now: float | None = None) -> None:
        """Give back what it has. The time goes to the account of whoever has the slot."""
        owned = self._owned
        if owned:
            self._owned = []
            for permit in owned:
                if permit.since is not None and permit.pool.record is not None:
                    now = self._admission.clock() if now is None else now
                    permit.pool.spent_s.append(now - permit.since)
                permit.pool.take_back(permit)

    async def leave_for(self, seconds: float, call: Call) -> None:
        """Let others have the place for ``seconds``, then get it back, in line if need be."""
        await self._admission.step_out(self, seconds, call)

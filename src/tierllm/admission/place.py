"""A place in a queue: who waits, and by what the queue orders."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..pipeline.effects import Ticket

if TYPE_CHECKING:
    from ..pipeline.effects import Grant
    from ..types import Call
    from .alarms import Nudge
    from .permit import Permit
    from .pool import Pool

__all__ = ["Place", "tenant_of"]


class Place:
    """One call in the queue of one pool.

    It orders by ``priority``, its tenant's share, ``deadline_at`` and ``number`` (the order of arrival).
    Who leaves for a moment and comes back keeps ``arrived_at`` and ``number``, and so its place.
    ``tokens`` is what it is expected to use, ``weight`` its tenant's share; ``charged``: its tenant has
    been charged for it. ``due_at`` is the latest moment at which a deferred call has to stand in line,
    ``None`` for one that is not deferred; one that was has stood in line since ``put_off_until``.
    ``returns``: who waits here comes back after a nudge; ``reserved``: its permit came while it was away,
    ``displaced``: it lost its place to somebody else then.
    ``alarm_at`` is the next moment at which something is due for it, ``put_off``: it is one of the deferred
    that stand aside. ``not_before``: it is not let in until then, since it was refused at ``refused_at`` for
    something that the queue does not see.
    """

    __slots__ = (
        "alarm_at",
        "arrived_at",
        "call",
        "charged",
        "deadline_at",
        "displaced",
        "due_at",
        "not_before",
        "number",
        "permit",
        "pool",
        "priority",
        "put_off",
        "put_off_until",
        "refused_at",
        "reserved",
        "returns",
        "tenant",
        "ticket",
        "tokens",
        "weight",
    )

    def __init__(
        self, pool: Pool, call: Call | None, permit: Permit, now: float, number: int, tokens: int
    ) -> None:
        self.pool = pool
        self.call = call
        self.permit = permit
        self.ticket: Ticket | None = None
        self.tenant = ""
        self.weight = 1.0
        self.priority = 0
        self.deadline_at: float | None = None
        if call is not None:
            self.tenant = tenant_of(call)
            self.weight = call.turn.weight
            self.priority = call.turn.priority
            self.deadline_at = None if call.scope is None else call.scope.deadline_at
        self.arrived_at = now
        self.number = number
        self.tokens = tokens
        self.due_at: float | None = None
        self.charged = False
        self.put_off_until: float | None = None
        self.alarm_at: float | None = None
        self.put_off = False
        self.returns = False
        self.reserved = False
        self.displaced = False
        self.refused_at = self.not_before = -math.inf

    # -- what can be waited for --------------------------------------------------

    def take(self, owner: list[Grant]) -> Permit | Nudge | None:
        """Whoever has a place stands in line."""
        return None

    def enter(self, ticket: Ticket, call: Call | None = None) -> bool:
        return self.pool.line_up(self, ticket)

    def leave(self, ticket: Ticket) -> None:
        self.pool.leave(ticket)
        self.pool.uncharge(self)

    def move(self, priority: int) -> None:
        """Let it be this urgent from now on."""
        self.pool.move(self, priority)

    def come_at_once(self) -> None:
        """Let it stand in line, if it is deferred."""
        self.pool.hasten(self)


def tenant_of(call: Call) -> str:
    """Whose share a call draws on: its tenant's, or its user's where it names no tenant."""
    request = call.request
    return request.tenant or (f"user={request.user}" if request.user else "")

"""A place in a queue: who waits, and by what the queue orders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..pipeline.effects import Ticket

if TYPE_CHECKING:
    from ..types import Call
    from .pool import Permit, Pool

__all__ = ["Place", "tenant_of"]


class Place:
    """One call in the queue of one pool.

    It orders by ``priority``, its tenant's share, ``deadline_at`` and ``number`` (the order of arrival).
    Who leaves for a moment and comes back keeps ``arrived_at`` and ``number``, and so its place.
    ``tokens`` is what it is expected to use, ``weight`` its tenant's share. ``due_at`` is the latest moment
    at which a deferred call has to stand in line, ``None`` for one that is not deferred.
    """

    __slots__ = (
        "arrived_at",
        "call",
        "deadline_at",
        "due_at",
        "number",
        "permit",
        "pool",
        "priority",
        "tenant",
        "ticket",
        "tokens",
        "weight",
    )

    def __init__(self, pool: Pool, call: Call, permit: Permit, now: float, number: int, tokens: int) -> None:
        turn, scope = call.turn, call.scope
        self.pool = pool
        self.call = call
        self.permit = permit
        self.ticket: Ticket | None = None
        self.tenant = tenant_of(call)
        self.weight = turn.weight
        self.priority = turn.priority
        self.deadline_at = None if scope is None else scope.deadline_at
        self.arrived_at = now
        self.number = number
        self.tokens = tokens
        self.due_at: float | None = None


def tenant_of(call: Call) -> str:
    """Whose share a call draws on: its tenant's, or its user's where it names no tenant."""
    request = call.request
    return request.tenant or request.user or ""

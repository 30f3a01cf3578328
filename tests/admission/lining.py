"""Places for the tests of the queue, without calls, and the queue's order by definition."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from tierllm.admission.place import Place
from tierllm.admission.queue import FairQueue
from tierllm.admission.shares import TenantShares

AGE_S, PATIENCE_S = 30.0, 60.0


def place(
    number: int,
    tenant: str = "",
    *,
    priority: int = 0,
    arrived_at: float | None = None,
    deadline_at: float | None = None,
    tokens: int = 100,
    weight: float = 1.0,
) -> Place:
    made = Place.__new__(Place)
    made.tenant, made.priority, made.weight, made.tokens = tenant, priority, weight, tokens
    made.arrived_at = float(number) if arrived_at is None else arrived_at
    made.number, made.deadline_at = number, deadline_at
    return made


def first_by_definition(
    places: Iterable[Place], shares: TenantShares, age_s: float | None = AGE_S, patience_s: float = PATIENCE_S
) -> Place | None:
    """Whose turn it is, looked up the slow way."""
    oldest: dict[int, float] = {}
    for waiting in places:
        so_far = oldest.get(waiting.priority, waiting.arrived_at)
        oldest[waiting.priority] = min(so_far, waiting.arrived_at)
    if not oldest:
        return None

    def urgency(priority: int) -> tuple[Fraction, int]:
        aged = Fraction(0) if age_s is None else -Fraction(oldest[priority]) / Fraction(age_s)
        return priority + aged, priority

    def turn(waiting: Place) -> tuple[float, float, int]:
        due = waiting.arrived_at + patience_s
        if waiting.deadline_at is not None:
            due = min(due, max(waiting.deadline_at, waiting.arrived_at))
        return shares.account(waiting.tenant).counter, due, waiting.number

    most_urgent = max(oldest, key=urgency)
    return min((waiting for waiting in places if waiting.priority == most_urgent), key=turn)


def drained(queue: FairQueue) -> list[Place]:
    """All that wait, in their order, without any of them being charged."""
    order = []
    while (following := queue.first(0.0)) is not None:
        order.append(following)
        assert queue.remove(following)
    assert len(queue) == 0
    return order

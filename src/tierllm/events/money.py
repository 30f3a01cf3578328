"""Events of budgets and prices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Event

if TYPE_CHECKING:
    from decimal import Decimal

    from ..cost.ledger import Entry
    from ..errors import BudgetExceededError

__all__ = [
    "BudgetOverrun",
    "BudgetPace",
    "BudgetRefused",
    "BudgetWarning",
    "CallSettled",
    "PriceUnknown",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettled(Event):
    """What one call to a provider used is booked: comes exactly once for each, for billing.

    ``entry`` is its row in the ledger.
    """

    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetWarning(Event):
    """A soft limit is passed; once for each bucket and window. Amounts are in ``unit``."""

    budget: str
    bucket: str
    unit: str
    used: Decimal
    limit: Decimal
    resets_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRefused(Event):
    """A hard limit kept a call back, or would have (``mode`` is then ``"observe"``)."""

    trace_id: str
    tier: str
    deployment: str
    mode: str
    error: BudgetExceededError


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetOverrun(Event):
    """A provider reported more than the worst case that was reserved: booked all the same."""

    budget: str
    bucket: str
    unit: str
    reserved: Decimal
    used: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPace(Event):
    """At the present pace the limit will be reached before its window ends. Times: seconds since 1970."""

    budget: str
    bucket: str
    unit: str
    used: Decimal
    limit: Decimal
    falls_at: float
    resets_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceUnknown(Event):
    """No price is known for a model, so its calls count as free. Once for each deployment."""

    tier: str
    deployment: str
    model: str

"""What tierllm tells those who listen.

Events are frozen and hold no prompt text and no keys. A listener is any callable; it is called
outside all locks, in the thread or task of the call, and so should be quick. What it raises is
logged and otherwise ignored: an observer cannot fail a call.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from traceback import format_exception
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from decimal import Decimal

    from .cost.ledger import Entry
    from .errors import BudgetExceededError
    from .types import Trace

__all__ = [
    "AttemptFailed",
    "BreakerChanged",
    "BreakerWarning",
    "BudgetOverrun",
    "BudgetPace",
    "BudgetRefused",
    "BudgetWarning",
    "CacheDamaged",
    "CacheRefreshed",
    "CallFinished",
    "CallSettled",
    "Event",
    "Listener",
    "PriceUnknown",
    "ProviderMisconfigured",
    "RetryScheduled",
    "SteppedDown",
    "StoreTrouble",
    "TierRestored",
]

log = logging.getLogger("tierllm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished(Event):
    """A call ended, well or not; ``trace`` is its whole account."""

    trace: Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(Event):
    """One try at one place failed. ``latency_s``: seconds until it did."""

    trace_id: str
    tier: str
    deployment: str
    error: Exception
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderMisconfigured(Event):
    """A deployment was refused for its key, permission, model name or quota: somebody must act."""

    tier: str
    deployment: str
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """Attempt number ``attempt`` failed and is tried again at the same place in ``delay_s`` seconds."""

    tier: str
    deployment: str
    attempt: int
    delay_s: float
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class SteppedDown(Event):
    """A call goes on in ``to_tier`` since ``from_tier`` could not serve it."""

    trace_id: str
    from_tier: str
    to_tier: str
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class TierRestored(Event):
    """``tier`` answers again after calls had to step down from it. ``after_s``: for how long."""

    tier: str
    after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChanged(Event):
    """A circuit breaker changed state: ``"closed"``, ``"open"``, ``"half_open"``, ….

    ``reason`` says why in words, ``open_for_s`` for how long an open one stays so.
    """

    name: str
    old: str
    new: str
    reason: str
    at_s: float
    open_for_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerWarning(Event):
    """A breaker looks badly set: ``kind`` is ``"flapping"`` (too strict) or ``"never_opens"`` (too loose)."""

    name: str
    kind: str
    text: str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRefreshed(Event):
    """An old cached answer was made anew, behind the back of the call that it was served to.

    ``error`` is the kind of the error where that failed; the old answer then stays until its time is over.
    """

    trace_id: str
    tier: str
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDamaged(Event):
    """A layer of the cache held what is no entry: it was thrown out, and counts as missed."""

    layer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTrouble(Event):
    """A store is out of reach or was damaged (``ok`` false), or is well again; ``text`` says more."""

    store: str
    ok: bool
    text: str


class Listener(Protocol):
    """Anything that takes an event."""

    def __call__(self, event: Event, /) -> object: ...


def log_failure(what: str) -> None:
    """Log the exception being handled, of the application's own code, with its traceback.

    Without the exceptions before it: those may be a vendor's, whose words may quote the prompt.
    """
    kind, error, traceback = sys.exc_info()
    log.error("%s\n%s", what, "".join(format_exception(kind, error, traceback, chain=False)))


def emitter(listeners: Iterable[Listener]) -> Callable[[Event], None]:
    """One callable that tells all ``listeners``, whatever they raise."""
    audience = tuple(listeners)

    def emit(event: Event) -> None:
        for listener in audience:
            try:
                listener(event)
            except Exception:
                log_failure(f"a listener failed on {type(event).__name__}")

    return emit

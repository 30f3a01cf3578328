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
    from .errors import BudgetExceededError, RejectedError
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
    "CallDeferred",
    "CallFinished",
    "CallHedged",
    "CallQueued",
    "CallSettled",
    "CallThrottled",
    "ConcurrencyChanged",
    "DegradationChanged",
    "EmergencyChanged",
    "Event",
    "Listener",
    "PriceUnknown",
    "PriorityLowered",
    "ProviderMisconfigured",
    "RetryScheduled",
    "SteppedDown",
    "StoreTrouble",
    "TierCrowded",
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
class CallQueued(Event):
    """A call has to wait for a place in ``tier``. ``ahead``: calls before it, as things stand.

    ``expected_wait_s`` is ``None`` as long as nothing is known of how fast the queue moves.
    """

    trace_id: str
    tier: str
    ahead: int
    expected_wait_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDeferred(Event):
    """A call that may be late (``defer_ok``) waits for a calmer time, which comes in about ``eta_s``."""

    trace_id: str
    tier: str
    eta_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallThrottled(Event):
    """A pool or a limit kept a call back, or would have (``mode`` is then ``"observe"``).

    ``by`` names what it was: a pool, a limit, a step of degradation. ``deployment`` is empty where it was
    the tier as a whole.
    """

    trace_id: str
    tier: str
    deployment: str
    by: str
    mode: str
    error: RejectedError


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityLowered(Event):
    """A call claimed more than its plan allows: ``claimed`` became ``granted``."""

    trace_id: str
    plan: str
    claimed: int
    granted: int
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyChanged(Event):
    """How many calls at once a deployment is sent has changed (adaptive concurrency)."""

    tier: str
    deployment: str
    old: int
    new: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TierCrowded(Event):
    """A tier's load, or its forecast, has passed a threshold (``on``), or fallen below it again."""

    tier: str
    on: bool
    level: float
    forecast: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradationChanged(Event):
    """A step of degradation was entered (``on``) or left in ``tier``; ``reason`` says why in words."""

    tier: str
    step: str
    on: bool
    level: float
    reason: str
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmergencyChanged(Event):
    """An emergency was declared (``on``), or is over. ``until``: seconds since 1970."""

    name: str
    on: bool
    until: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallHedged(Event):
    """The first deployment was late, so that a second was asked too.

    ``won`` is ``first`` (or whatever that leg fell back to), ``second``, or ``None``: neither answered.
    ``after_s``: how long the first had been silent.
    """

    trace_id: str
    tier: str
    first: str
    second: str
    after_s: float
    won: str | None
    mode: str


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

"""Events of single calls, and of the places and stores that they meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Event

if TYPE_CHECKING:
    from ..types import Trace

__all__ = [
    "AttemptFailed",
    "BreakerChanged",
    "BreakerWarning",
    "CacheDamaged",
    "CacheRefreshed",
    "CallFinished",
    "CallHedged",
    "ProviderMisconfigured",
    "RetryScheduled",
    "SteppedDown",
    "StoreTrouble",
    "TierRestored",
]


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

"""Events of queues, limits and load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Event

if TYPE_CHECKING:
    from ..errors import RejectedError

__all__ = [
    "CallDeferred",
    "CallQueued",
    "CallThrottled",
    "ConcurrencyChanged",
    "DegradationChanged",
    "EmergencyChanged",
    "PriorityLowered",
    "TierCrowded",
]


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
    """A call claimed more than its plan, or its contract, allows: ``claimed`` became ``granted``."""

    trace_id: str
    plan: str
    claimed: int
    granted: int
    mode: str
    contract: str | None = None


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

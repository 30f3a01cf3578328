"""Events of service levels: objectives, shifts, sessions, routing, configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Event

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = [
    "CascadeEscalated",
    "ConfigRejected",
    "ConfigReloaded",
    "FeedbackReceived",
    "ObjectiveBurning",
    "ObjectiveRecovered",
    "SessionMoved",
    "ShadowCompared",
    "ShiftChanged",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftChanged(Event):
    """A tier sends another share of its calls past a place that does badly, or back to it.

    ``share`` is what the place keeps of those that are its own: 0.0 when calls leave it, then 0.01 and more
    as they come back, 1.0 when all are. ``deployment`` is ``None`` where the tier itself sheds calls to the
    next one. ``pinned``: by hand. With ``mode="observe"``, nothing was done.
    """

    tier: str
    deployment: str | None
    share: float
    before: float
    cause: str
    pinned: bool
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveBurning(Event):
    """A promise is broken too often: at this rate its error budget is gone before its time.

    ``subject`` is ``"tier:gold"``, ``"contract:acme"`` or ``"tenant:…"``, ``goal`` a field of the
    ``Objective``. ``burn_rate``: how many times more often than it may be, over ``window_s``.
    ``budget_left``: the share of the error budget that is left, below 0 where it is overdrawn.
    """

    subject: str
    goal: str
    burn_rate: float
    window_s: float
    budget_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveRecovered(Event):
    """A promise that was broken too often is kept again. ``after_s``: for how long it was not."""

    subject: str
    goal: str
    after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionMoved(Event):
    """A session leaves the place it was bound to, for ``cause``, or goes back there (``"home"``)."""

    trace_id: str
    from_tier: str
    from_deployment: str
    to_tier: str
    to_deployment: str
    cause: str
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeEscalated(Event):
    """The answer of a cheap tier was judged: ``score`` is not enough (``None``: it could not be judged)."""

    trace_id: str
    from_tier: str
    to_tier: str | None
    score: float | None
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowCompared(Event):
    """A sampled call was answered at a second place too, which no caller sees. Scores are the judge's."""

    trace_id: str
    tier: str
    deployment: str
    served_score: float | None
    shadow_score: float | None
    cost_usd: Decimal | None
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackReceived(Event):
    """The application said how good an answer was. ``learned``: the router has learned from it."""

    trace_id: str
    score: float
    source: str
    learned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReloaded(Event):
    """Calls that begin from now on go by another configuration. ``changed`` names its tables."""

    source: str
    config: str
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRejected(Event):
    """A changed configuration makes no sense: everything stays as it was."""

    source: str
    error: str

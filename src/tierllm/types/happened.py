"""What happened: the account of one call, in plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

__all__ = ["Attempt", "Candidate", "Outcome", "Trace", "Waited"]

Outcome = Literal["ok", "failed", "rejected", "cancelled", "running"]


@dataclass(slots=True)
class Candidate:
    """A place that was considered: passed over for ``reason``, or chosen (``reason`` is ``None``)."""

    tier: str
    deployment: str
    reason: str | None = None


@dataclass(slots=True)
class Attempt:
    """One try at one place. Times are seconds; ``started_s`` counts from the call's start.

    ``error`` is the error itself for an attempt that failed or was refused. ``first_token_s`` is
    known for streams only, ``cost_usd`` where there was an answer and there is a price.
    """

    tier: str
    deployment: str
    model: str = ""
    started_s: float = 0.0
    latency_s: float = 0.0
    first_token_s: float | None = None
    outcome: Outcome = "running"
    error: BaseException | None = field(default=None, repr=False)
    cost_usd: Decimal | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; of an error its kind, status and vendor's request id."""
        error = self.error
        return {
            "tier": self.tier,
            "deployment": self.deployment,
            "model": self.model,
            "started_s": round(self.started_s, 6),
            "latency_s": round(self.latency_s, 6),
            "first_token_s": None if self.first_token_s is None else round(self.first_token_s, 6),
            "outcome": self.outcome,
            "error": None if error is None else type(error).__name__,
            "status": getattr(error, "status", None),
            "request_id": getattr(error, "request_id", None),
            "cost_usd": _told(self.cost_usd),
        }


@dataclass(slots=True)
class Waited:
    """Time spent waiting inside tierllm: ``kind`` is ``"pool"``, ``"backoff"``, …; ``where`` a place."""

    kind: str
    where: str
    seconds: float


@dataclass(slots=True)
class Trace:
    """The account of one call: what was asked, considered, tried and served, and how long it took.

    ``asked`` is the tier the caller named, ``granted`` where the call was allowed to start,
    ``served`` where the answer came from. ``cache`` says what the cache did: ``"hit"`` (found in
    ``cache_layer``), ``"stale"`` (an old answer), ``"joined"`` (the attempts are those of the call whose
    trace is ``led_by``), ``"miss"``, ``"bypassed"`` (it does not apply to this call), ``"off"``, or
    ``None``: there is none. ``plan`` and ``contract`` are those it was made under, ``rule`` is the routing
    rule that matched, ``request_class`` and ``scores`` are what was thought of its difficulty and of its
    answer, ``explored`` is the chance that the choice between a weak and a strong model had, and
    ``config`` tells the configuration it began under. ``to_dict()`` is plain data for JSON, without prompt
    text.
    """

    id: str
    asked: str | None = None
    granted: str | None = None
    served: str | None = None
    deployment: str | None = None
    started_at: float = 0.0
    duration_s: float = 0.0
    first_token_s: float | None = None
    outcome: Outcome = "running"
    error: str | None = None
    candidates: list[Candidate] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    waits: list[Waited] = field(default_factory=list)
    degraded: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    cache: str | None = None
    cache_layer: str | None = None
    led_by: str | None = None
    plan: str | None = None
    contract: str | None = None
    rule: str | None = None
    request_class: str | None = None
    scores: dict[str, float] | None = None
    explored: float | None = None
    config: str | None = None

    @property
    def cost_usd(self) -> Decimal | None:
        """What all its attempts cost together, as far as known; ``None``: nothing is known of any."""
        known = [attempt.cost_usd for attempt in self.attempts if attempt.cost_usd is not None]
        return sum(known, Decimal(0)) if known else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without prompt text."""
        return {
            "id": self.id,
            "asked": self.asked,
            "granted": self.granted,
            "served": self.served,
            "deployment": self.deployment,
            "started_at": round(self.started_at, 6),
            "duration_s": round(self.duration_s, 6),
            "first_token_s": None if self.first_token_s is None else round(self.first_token_s, 6),
            "outcome": self.outcome,
            "error": self.error,
            "candidates": [
                {"tier": c.tier, "deployment": c.deployment, "reason": c.reason} for c in self.candidates
            ],
            "attempts": [a.to_dict() for a in self.attempts],
            "waits": [{"kind": w.kind, "where": w.where, "seconds": round(w.seconds, 6)} for w in self.waits],
            "degraded": list(self.degraded),
            "warnings": list(self.warnings),
            "cache": self.cache,
            "cache_layer": self.cache_layer,
            "led_by": self.led_by,
            "plan": self.plan,
            "contract": self.contract,
            "rule": self.rule,
            "request_class": self.request_class,
            "scores": dict(self.scores or {}),
            "explored": self.explored,
            "config": self.config,
            "cost_usd": _told(self.cost_usd),
        }


def _told(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)

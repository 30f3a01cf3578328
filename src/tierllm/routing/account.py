"""One shape for all that tells how a call went: its trace, that as plain data, or a line of the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from ..errors import BudgetExceededError
from ..types import Attempt, Trace
from . import lenient
from .words import error_words

if TYPE_CHECKING:
    from .decision_rows import DecisionRow

__all__ = ["Account", "Passed", "Tried", "account_of", "attempts_of"]


class Passed(NamedTuple):
    """A place that was considered; ``reason`` is empty for the one that was chosen."""

    tier: str
    deployment: str
    reason: str


class Tried(NamedTuple):
    """One attempt. ``error`` is the kind of its error."""

    tier: str
    deployment: str
    outcome: str
    error: str
    words: str
    retry_after_s: float | None
    cost_usd: Decimal | None
    budget: str = ""
    too_large: bool = False
    ended_s: float = 0.0

    @property
    def place(self) -> str:
        return f"{self.tier}/{self.deployment}"


class Account(NamedTuple):
    """What is known of a call. Texts that are not known are empty."""

    asked: str
    granted: str
    served: str
    deployment: str
    plan: str
    contract: str
    rule: str
    request_class: str
    scores: Mapping[str, float]
    arm: str
    propensity: float | None
    explored: bool
    candidates: list[Passed]
    attempts: list[Tried]
    waits: list[tuple[str, str, float]]
    degraded: list[str]
    warnings: list[str]
    cache: str
    cache_layer: str
    led_by: str
    outcome: str
    error: str
    cost_usd: Decimal | None
    duration_s: float | None

    @property
    def place(self) -> str:
        """Where the answer came from."""
        return "/".join(part for part in (self.served, self.deployment) if part)

    @property
    def place_answered(self) -> bool:
        """Whether it was asked by this very call."""
        return any(a.outcome == "ok" and a.place == self.place for a in self.attempts)


def account_of(what: Trace | DecisionRow | Mapping[str, object]) -> Account:
    """Whatever it is, told alike; what is of another kind than it should be is as good as not known."""
    given = what if isinstance(what, Trace | Mapping) else what.raw or what.to_dict()
    told = _plain(given) if isinstance(given, Trace) else given
    chance = told.get("propensity")
    explored = told.get("explored")
    if not isinstance(explored, bool) and explored is not None:
        chance = explored  # a trace tells the chance alone
    attempts = [_tried(each) for each in _mappings(told.get("attempts"))]
    paid = [a.cost_usd for a in attempts if a.cost_usd is not None]
    cost = lenient.dollars(told.get("cost_usd"))
    return Account(
        asked=_text(told.get("asked")),
        granted=_text(told.get("granted")),
        served=_text(told.get("served")),
        deployment=_text(told.get("deployment")),
        plan=_text(told.get("plan")),
        contract=_text(told.get("contract")),
        rule=_text(told.get("rule")),
        request_class=_text(told.get("request_class")),
        scores=lenient.numbers(told.get("scores")),
        arm=_text(told.get("arm")),
        propensity=lenient.number(chance),
        explored=explored is True,
        candidates=[
            Passed(_text(c.get("tier")), _text(c.get("deployment")), _text(c.get("reason")))
            for c in _mappings(told.get("candidates"))
        ],
        attempts=attempts,
        waits=[
            (_text(w.get("kind")), _text(w.get("where")), lenient.number(w.get("seconds")) or 0.0)
            for w in _mappings(told.get("waits"))
        ],
        degraded=lenient.texts(told.get("degraded")),
        warnings=lenient.texts(told.get("warnings")),
        cache=_text(told.get("cache")),
        cache_layer=_text(told.get("cache_layer")),
        led_by=_text(told.get("led_by")),
        outcome=_text(told.get("outcome")),
        error=_text(told.get("error")),
        cost_usd=sum(paid, Decimal(0)) if cost is None and paid else cost,
        duration_s=lenient.number(told.get("duration_s")),
    )


def _plain(trace: Trace) -> dict[str, object]:
    return {
        **{field.name: getattr(trace, field.name) for field in fields(trace)},
        "candidates": [
            {"tier": c.tier, "deployment": c.deployment, "reason": c.reason} for c in trace.candidates
        ],
        "attempts": attempts_of(trace.attempts),
        "waits": [{"kind": w.kind, "where": w.where, "seconds": w.seconds} for w in trace.waits],
    }


def attempts_of(attempts: Sequence[Attempt]) -> list[dict[str, object]]:
    """Each attempt; of its error the kind, and what tells how long it will last."""
    told: list[dict[str, object]] = []
    for attempt in attempts:
        one: dict[str, object] = {
            "tier": attempt.tier,
            "deployment": attempt.deployment,
            "model": attempt.model,
            "outcome": attempt.outcome,
            "started_s": round(attempt.started_s, 6),
            "latency_s": round(attempt.latency_s, 6),
        }
        if attempt.first_token_s is not None:
            one["first_token_s"] = round(attempt.first_token_s, 6)
        if attempt.cost_usd is not None:
            one["cost_usd"] = f"{attempt.cost_usd:f}"
        error = attempt.error
        if error is not None:
            one["error"] = type(error).__name__
            for name in ("status", "retry_after_s", "budget", "phase"):
                value = getattr(error, name, None)
                if value:
                    one[name] = round(value, 3) if isinstance(value, float) else value
            if isinstance(error, BudgetExceededError) and _too_large(error):
                one["too_large"] = True
        told.append(one)
    return told


def _too_large(error: BudgetExceededError) -> bool:
    """Whether the call alone is more than the whole limit."""
    return error.asked is not None and error.limit is not None and error.asked > error.limit


def _tried(told: Mapping[str, object]) -> Tried:
    error = _text(told.get("error"))
    status = told.get("status")
    words = error_words(
        error,
        status=str(status) if isinstance(status, int) else "",
        retry_after_s=lenient.number(told.get("retry_after_s")),
        budget=_text(told.get("budget")),
        phase=_text(told.get("phase")),
        too_large=told.get("too_large") is True,
    )
    spans = lenient.number(told.get("started_s")), lenient.number(told.get("latency_s"))
    return Tried(
        tier=_text(told.get("tier")),
        deployment=_text(told.get("deployment")),
        outcome=_text(told.get("outcome")),
        error=error,
        words=words or (f"failed: {error}" if error else "failed"),
        retry_after_s=lenient.number(told.get("retry_after_s")),
        cost_usd=lenient.dollars(told.get("cost_usd")),
        budget=_text(told.get("budget")),
        too_large=told.get("too_large") is True,
        ended_s=sum(span or 0.0 for span in spans),
    )


def _mappings(value: object) -> Iterator[Mapping[str, object]]:
    return (each for each in value if isinstance(each, Mapping)) if isinstance(value, list) else iter(())


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

"""What reasons, errors, waits and steps are called in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

__all__ = [
    "ERRORS",
    "NEXT",
    "OWN",
    "PLACE_WORDS",
    "STEPS",
    "OBSERVED",
    "TIER_WORDS",
    "WAITS",
    "dollars",
    "error_words",
    "seconds",
]

TIER_WORDS: Mapping[str, str] = {
    "plan": "not within its plan",
    "contract": "not within its contract",
    "rule": "not within its rule",
    "min_tier": "below its floor",
    "max_tier": "above its cap",
    "no fallback": "not asked, since it may not fall back",
    "labels": "without the labels it requires",
    "load": "about to be full",
    "budget": "left for last, since a soft limit of its budget is passed",
    "deadline": "left out, since its deadline leaves no time",
    "shift": "shedding calls, since its objective is not kept",
    "pinned": "left by hand",
    "session": "not where its session is at home",
    "sticky": "not where its session is at home",
    "score": "not needed for its difficulty",
    "difficulty": "not needed for its difficulty",
    "cascade": "kept for when the cheaper answer is not good enough",
    "judge": "answered, and that was not good enough",
    "breaker": "open at every place",
    "window": "with too small a context window",
}
"""Of a whole tier: ``"gold about to be full"``."""

OBSERVED: Mapping[str, str] = {
    "rule": "would have been granted by its rule",
    "plan": "would have been granted by its plan",
    "contract": "would have been granted by its contract",
    "score": "would have been chosen for its difficulty",
    "session": "is where its session is at home",
    "cascade would begin here": "would have answered first, to be judged",
    "shift": "would have been avoided, since it does not keep the objective",
    "load": "would have been left out for its load",
    "budget": "would have been left for last by a budget",
}
"""What those who only observe would have done."""

PLACE_WORDS: Mapping[str, str] = {
    "breaker": "open",
    "deadline": "could not have answered before its deadline",
    "window": "has too small a context window",
    "budget": "does not fit into the budget",
    "labels": "lacks the labels it requires",
    "hedge": "left to the other side of the race",
    "cancelled": "was left, since the call was cancelled or another was quicker",
    "load": "about to be full",
    "shift": "avoided, since its objective is not kept",
    "pinned": "avoided, as told by hand",
    "session": "not where its session is at home",
    "sticky": "not where its session is at home",
    "score": "answered, and that was not good enough",
    "judge": "answered, and that was not good enough",
    "judge failed": "answered, and that could not be judged",
    "quality": "not expected to be good enough",
    "slow": "not expected to be quick enough",
    "price": "not the cheapest of those that will do",
    "weight": "not drawn this time",
    "cost": "dearer than another",
    "rule": "not within its rule",
    "plan": "not within its plan",
    "contract": "not within its contract",
}
"""Of one deployment: ``"gold/gpt-5.2 open"``."""

ERRORS: Mapping[str, str] = {
    "RateLimitError": "was rate limited by its vendor",
    "ProviderTimeoutError": "did not answer in time",
    "ProviderUnavailableError": "was out of service",
    "AuthenticationError": "refused the key, the permission or the model's name",
    "InvalidRequestError": "refused the request as invalid",
    "ContextWindowExceededError": "has too small a context window",
    "ContentFilteredError": "filtered the content",
    "MalformedResponseError": "gave an answer that is none",
    "StreamInterruptedError": "broke off in the middle of its answer",
    "ProviderError": "failed",
    "PoorAnswer": "answered, and that was not good enough",
    "BudgetExceededError": "does not fit into the budget",
    "CacheMissError": "was not asked: only the cache might answer",
    "CircuitOpenError": "open",
    "NotConfirmedError": "was not asked: its cost was not agreed to",
    "RequestTooLargeError": "has too small a context window",
    "ThrottledError": "full",
    "NotInTime": "could not have answered before its deadline",
    "DeadlineExceededError": "had not answered when its deadline passed",
    "StoreUnavailableError": "not asked: a store that must be asked first is out of reach",
    "CallCancelledError": "was left, since the call was cancelled",
    "ClientClosedError": "was left, since the client was closed",
}

OWN = "max_cost_usd"
"""The budget that a call has of its own."""

PHASES: Mapping[str, str] = {
    "connect": "could not be connected to in time",
    "first_token": "gave no first token in time",
    "between_tokens": "fell silent in the middle of its answer",
    "total": "did not finish in time",
}

NEXT: Mapping[str, str] = {
    "AllTiersFailedError": "every place it may go to was tried or passed over: try again {soon}; "
    "a further tier, a stale answer or a simple reply would have answered",
    "AuthenticationError": "look at the key, the permission, the quota and the model's name",
    "BudgetExceededError": "its budget is spent: try again {soon}, once the window begins anew, or raise it",
    "too large": "it may need more than the whole limit of its budget: ask for fewer tokens, or "
    "raise the limit",
    "max_cost_usd": "it may cost more than its own max_cost_usd: allow it more, or ask for fewer tokens",
    "CacheMissError": "the cache had no answer: ask without cache='only'",
    "CallCancelledError": "it was cancelled by its handle",
    "CircuitOpenError": "its place has failed too often: try again {soon}, or let it fall back",
    "ClientClosedError": "its client was closed: ask another",
    "ConfigError": "the call makes no sense as it is: see the error's text",
    "ContentFilteredError": "the vendor's filter refused it: change the words",
    "ContextWindowExceededError": "shorten it, or add a deployment with a larger window",
    "DeadlineExceededError": "allow it more time, or let it start in a faster tier",
    "InvalidRequestError": "the vendor refused its parameters: see the error's .detail",
    "MalformedResponseError": "the vendor answered nonsense: try again {soon}",
    "NotConfirmedError": "its estimated cost was not agreed to",
    "ProviderTimeoutError": "the vendor was too slow: try again {soon}, or let it fall back",
    "ProviderUnavailableError": "the vendor is out of service: try again {soon}, or let it fall back",
    "RateLimitError": "the vendor wants fewer calls: try again {soon}",
    "RequestTooLargeError": "shorten it, ask for fewer tokens, or add a deployment with a larger window",
    "StoreUnavailableError": "a shared store is out of reach: see to it, or set fail='open'",
    "StreamInterruptedError": "it broke after text was delivered: ask again, or go on from .partial",
    "ThrottledError": "there is no room: try again {soon}, or raise the limit",
}
"""What to do after an error. ``{soon}``: when one of the places said that it may serve again."""

WAITS: Mapping[str, str] = {
    "pool": "in the queue",
    "deferred": "for a calmer time",
    "backoff": "between tries",
    "limit": "for room in a limit",
    "pacing": "to keep the pace of a limit",
}

STEPS: Mapping[str, str] = {
    "tier": "a lower tier",
    "max_tokens": "a shorter answer",
    "not_escalated": "no better model answered, so that this was served though it was judged too poor",
    "cheaper": "the cheapest place first",
    "reasoning": "less reasoning",
}


def error_words(
    name: str,
    *,
    status: str = "",
    retry_after_s: float | None = None,
    budget: str = "",
    phase: str = "",
    too_large: bool = False,
) -> str:
    """What an error of this kind says of the place where it was met; empty for one without words."""
    told = PHASES.get(phase) if name == "ProviderTimeoutError" else None
    told = told or ERRORS.get(name, "")
    if not told and name.endswith("Error"):
        told = f"failed: {name}"
    if not told:
        return ""
    if budget == OWN:
        told = "may cost more than the call's own max_cost_usd"
    elif budget:
        told = f"needs more than the whole budget {budget!r}" if too_large else f"{told} {budget!r}"
    if status:
        told += f" ({status})"
    if retry_after_s is None or retry_after_s <= 0:
        return told
    if name == "CircuitOpenError":
        return f"{told} for {seconds(retry_after_s)}"
    return (
        f"{told}, room in {seconds(retry_after_s)}"
        if name == "ThrottledError"
        else (f"{told}, for {seconds(retry_after_s)}")
    )


def seconds(span_s: float) -> str:
    """A span of time as people say it."""
    if span_s < 0.0995:
        return f"{span_s * 1000:.0f} ms"
    if span_s < 0.995:
        return f"{span_s:.2g} s"
    if span_s < 9.95:
        return f"{span_s:.1f} s".replace(".0 s", " s")
    return f"{span_s:,.0f} s" if span_s < 1e15 else f"{span_s:g} s"


def dollars(amount: Decimal) -> str:
    """An amount with two digits that say something, or its cents."""
    if amount and abs(amount) < 1:
        places = min(30, 1 - amount.adjusted())
        text = f"{amount:.{places}f}"
        if not text.strip("-0."):
            return f"${amount:.1E}"
        return f"${text}" if places <= 2 else f"${text.rstrip('0')}"
    return f"${amount:,.2f}" if amount else "$0"

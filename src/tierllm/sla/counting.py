"""Which calls say something about a tier's promises, and what. Pure functions of a call's account."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..errors import (
    AllTiersFailedError,
    CacheMissError,
    CallCancelledError,
    ClientClosedError,
    ConfigError,
    ContentFilteredError,
    DeadlineExceededError,
    InvalidRequestError,
    RejectedError,
    RequestTooLargeError,
    TierLLMError,
    UsageError,
)

if TYPE_CHECKING:
    from ..types import Request, Response, Trace

__all__ = ["Account", "Kind", "account_of", "kind_of"]

Kind = Literal["answered", "failed", "late", "cached", "personal", "cancelled"]

THE_CALLERS = (
    CacheMissError,
    ConfigError,
    ContentFilteredError,
    InvalidRequestError,
    RequestTooLargeError,
    UsageError,
)
"""Errors that the same request would meet at a tier in the best of health."""


def kind_of(trace: Trace, response: Response | None, error: BaseException | None) -> Kind:
    """What a call that has ended says about the tier it was granted.

    ``"answered"`` and ``"failed"`` count. ``"late"``: the caller's deadline passed, which counts where the
    objective's own time had passed as well. The others are counted apart: ``"cached"`` (no model was asked
    for this very call), ``"personal"`` (refused for reasons of the caller's own), ``"cancelled"``.
    """
    if error is None:
        if response is None:
            return "cancelled"
        if trace.cache == "hit" or trace.cache == "joined":
            return "cached"
        if response.degraded:
            if response.cached:
                return "failed"  # an old answer, when there was no new one to be had
            if response.tier is None and "simple_reply" in response.degraded:
                return "failed"
        elif response.cached:
            return "cached"  # old, and made anew behind the caller's back
        for attempt in trace.attempts:
            if attempt.outcome == "ok":
                return "answered"
        return "cached"  # by a policy of the application's own
    if not isinstance(error, Exception) or isinstance(error, CallCancelledError | ClientClosedError):
        return "cancelled"
    if trace.cache == "joined":
        return "cached"  # it counts once, with the call that led
    if isinstance(error, DeadlineExceededError):
        return "late"
    return "personal" if _excused(trace, error) else "failed"


def _excused(trace: Trace, error: Exception) -> bool:
    """Whether the call failed for reasons of the caller's own, and for no other on its way."""
    if not isinstance(error, TierLLMError) or isinstance(error, THE_CALLERS):
        return True  # an exception of the application's own passes through, and counts for nothing
    if isinstance(error, AllTiersFailedError):
        met = [attempt.error for attempt in error.attempts or trace.attempts]
    elif isinstance(error, RejectedError) and error.personal:
        met = [attempt.error for attempt in trace.attempts]
    else:
        return False
    return all(_personal(each) for each in met if each is not None)


def _personal(error: BaseException) -> bool:
    return getattr(error, "personal", False) or isinstance(error, THE_CALLERS)


class Account(NamedTuple):
    """What a call took: seconds until its answer was whole, and until its first chunk; dollars."""

    latency_s: float
    first_token_s: float | None
    cost_usd: float | None


def account_of(trace: Trace, request: Request, response: Response | None) -> Account:
    """What the call took, as far as it is the service's doing.

    Its latency is for how long the caller waited: queues, pauses, failed attempts, and the provider; not
    while its consumer held a stream, nor what it was put off by its own ``defer_ok``. The first chunk is
    known of streams only. The cost is that of all attempts together, where a price is known.
    """
    latency_s, first_s, cost_usd, streamed = trace.duration_s, trace.first_token_s, None, None
    for attempt in trace.attempts:
        cost = attempt.cost_usd
        if cost is not None:
            cost_usd = float(cost) if cost_usd is None else cost_usd + float(cost)
        if attempt.first_token_s is not None and (streamed is None or attempt.outcome == "ok"):
            streamed = attempt
    if streamed is not None:
        # nobody can hold a stream before its first chunk, and its latency is the time without that
        latency_s = min(latency_s, streamed.started_s + streamed.latency_s)
        if first_s is None and streamed.first_token_s is not None:  # broken off later
            first_s = streamed.started_s + streamed.first_token_s
    if cost_usd is None and response is not None and response.cost_usd is not None:
        cost_usd = float(response.cost_usd)
    if cost_usd is not None and not 0 <= cost_usd < math.inf:  # a price may be anybody's function
        cost_usd = None
    if request.defer_ok and trace.waits:
        put_off_s = sum(wait.seconds for wait in trace.waits if wait.kind == "deferred")
        latency_s = max(0.0, latency_s - put_off_s)
        first_s = None if first_s is None else max(0.0, first_s - put_off_s)
    return Account(latency_s, first_s, cost_usd)

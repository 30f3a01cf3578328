"""Which calls say something about a tier's promises, and what. Pure functions of a call's account."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..caching.sharing import Shared
from ..errors import (
    AllTiersFailedError,
    BudgetExceededError,
    CacheMissError,
    CallCancelledError,
    ClientClosedError,
    ConfigError,
    ContentFilteredError,
    DeadlineExceededError,
    InvalidRequestError,
    NotConfirmedError,
    RejectedError,
    RequestTooLargeError,
    ThrottledError,
    TierLLMError,
    UnknownOptionError,
    UsageError,
)

if TYPE_CHECKING:
    from ..types import Attempt, Request, Response, Trace

__all__ = ["Account", "Kind", "account_of", "kind_of", "served_elsewhere"]

Kind = Literal["answered", "failed", "late", "cached", "personal", "cancelled"]

THE_CALLERS = (
    CacheMissError,
    ContentFilteredError,
    InvalidRequestError,
    RequestTooLargeError,
    UnknownOptionError,
    UsageError,
)
"""Errors that the same request would meet at a tier in the best of health."""

NAMED = (BudgetExceededError, NotConfirmedError, ThrottledError)
"""The personal refusals that callers meet. Another one is of places that cannot answer in time."""


def kind_of(
    trace: Trace, response: Response | None, error: BaseException | None, *, read: bool = False
) -> Kind:
    """What a call that has ended says about the tier it was granted.

    ``"answered"`` and ``"failed"`` count. ``"late"``: the caller's deadline passed, which counts where the
    objective's own time had passed as well. The others are counted apart: ``"cached"`` (no model was asked
    for this very call), ``"personal"`` (refused for reasons of the caller's own), ``"cancelled"``.
    ``read``: the consumer of a stream had seen its end when it left.

    It goes by the attempts, not by what the cache did last: a call may have met an outage before an answer
    was found there, or have joined another one and then had to ask for itself.
    """
    if error is None:
        return "cancelled" if response is None else _of_answer(trace, response)
    if not isinstance(error, Exception) or isinstance(error, CallCancelledError | ClientClosedError):
        return "answered" if read and trace.cache != "joined" else "cancelled"
    if isinstance(error, DeadlineExceededError):
        return "late"
    return _of_error(trace, error)


def _of_answer(trace: Trace, response: Response) -> Kind:
    attempts = trace.attempts
    if attempts and not response.degraded:
        last = attempts[-1]
        if last.outcome == "ok" and type(last) is not Shared:
            return "answered"  # nearly every call
    own = failed = ok = shared = False
    for attempt in trace.attempts:
        if type(attempt) is Shared:
            shared = shared or attempt.outcome == "ok"
            continue
        own = True
        if attempt.outcome == "ok":
            ok = True
        else:
            failed = failed or attempt.error is None or not _personal(attempt.error)
    if response.degraded and _stands_in(trace, response):
        if failed or not trace.attempts:
            return "failed"
        return "personal" if own else "cached"
    if ok:
        return "answered"
    found = shared or response.cached
    if failed:
        return "answered" if found else "failed"  # or a policy of the application's own spared an error
    return "personal" if own and not found else "cached"


def _stands_in(trace: Trace, response: Response) -> bool:
    """Whether it is an old answer or a simple reply, when there was no new one to be had."""
    if "simple_reply" in response.degraded:
        return True
    return response.cached and (trace.cache == "stale" or "stale" in response.degraded)


def _of_error(trace: Trace, error: Exception) -> Kind:
    """A failure counts, unless it was for reasons of the caller's own, and for no other on its way."""
    if isinstance(error, THE_CALLERS):
        return "personal"
    tried: tuple[Attempt, ...] | list[Attempt] = trace.attempts
    if isinstance(error, AllTiersFailedError):
        tried = error.attempts or tried
    own = [attempt for attempt in tried if type(attempt) is not Shared]
    if tried and not own:
        return "cached"  # it counts once, with another call
    if isinstance(error, AllTiersFailedError):
        if not own:
            return "failed"
    elif isinstance(error, TierLLMError) and not isinstance(error, ConfigError):
        if not (isinstance(error, RejectedError) and error.personal):
            return "failed"
    elif any(attempt.outcome == "ok" for attempt in own):
        return "personal"  # an exception of the application's own, which had its answer
    met = [attempt.error for attempt in own if attempt.error is not None]
    if not all(_personal(each) for each in met):
        return "failed"
    return "late" if any(_too_late(each) for each in met) else "personal"


def _personal(error: BaseException) -> bool:
    """Whether it is the caller's own affair that a place did not answer. That it is not set up is not."""
    if not isinstance(error, TierLLMError):
        return True
    return getattr(error, "personal", False) or isinstance(error, THE_CALLERS)


def _too_late(error: BaseException) -> bool:
    return isinstance(error, RejectedError) and error.personal and not isinstance(error, NAMED)


def served_elsewhere(trace: Trace, response: Response) -> bool:
    """Whether another tier answered since the granted one did not: not where a cascade chose it."""
    granted = trace.granted
    if response.tier == granted:
        return False
    there = [attempt.outcome == "ok" for attempt in trace.attempts if attempt.tier == granted]
    if there:
        return not any(there)  # its answer was judged, and a better one asked for
    return not any(each.tier == granted and each.reason == "cascade" for each in trace.candidates)


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

    Who counts for a flight that it joined has waited for as long as that took.
    """
    latency_s, first_s, cost_usd, streamed = trace.duration_s, trace.first_token_s, None, None
    early_s = 0.0
    for attempt in trace.attempts:
        cost, own = attempt.cost_usd, type(attempt) is not Shared
        if own and attempt.started_s < early_s and trace.cache == "joined":
            early_s = attempt.started_s
        if cost is not None and own:
            cost_usd = float(cost) if cost_usd is None else cost_usd + float(cost)
        if attempt.first_token_s is not None and (streamed is None or attempt.outcome == "ok"):
            streamed = attempt
    if streamed is not None:
        # nobody can hold a stream before its first chunk, and its latency is the time without that
        latency_s = min(latency_s, streamed.started_s + streamed.latency_s)
        if first_s is None and streamed.first_token_s is not None:  # broken off later
            first_s = streamed.started_s + streamed.first_token_s
    if early_s:
        latency_s -= early_s
        first_s = None if first_s is None else first_s - early_s
    if cost_usd is None and response is not None and response.cost_usd is not None:
        cost_usd = float(response.cost_usd)
    if cost_usd is not None and not 0 <= cost_usd < math.inf:  # a price may be anybody's function
        cost_usd = None
    if request.defer_ok and trace.waits:
        put_off_s = sum(wait.seconds for wait in trace.waits if wait.kind == "deferred")
        latency_s = max(0.0, latency_s - put_off_s)
        first_s = None if first_s is None else max(0.0, first_s - put_off_s)
    return Account(latency_s, first_s, cost_usd)

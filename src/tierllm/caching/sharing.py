"""What a call is told of the attempts that another one made for both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..types.happened import Attempt

if TYPE_CHECKING:
    from ..errors import RejectedError
    from ..types import Call, Trace

__all__ = ["Shared", "own_of", "refused"]


class Shared(Attempt):
    """An attempt of a flight, in the trace of a reader that does not count for it: another one does."""

    __slots__ = ()


def own_of(
    kind: type[Attempt],
    attempt: Attempt,
    shift_s: float,
    told: BaseException | None,
    own: Exception | None,
) -> Attempt:
    """A reader's account of what the flight tried, with its own copy of what it was told."""
    error = own if own is not None and attempt.error is told else attempt.error
    outcome = (
        "cancelled" if attempt.outcome == "running" else attempt.outcome
    )  # who left will not see its end
    return kind(
        attempt.tier,
        attempt.deployment,
        attempt.model,
        attempt.started_s + shift_s,
        attempt.latency_s,
        attempt.first_token_s,
        outcome,
        error,
        attempt.cost_usd,
    )


def refused(call: Call, trace: Trace, error: RejectedError) -> None:
    """A refusal before any place was asked is told as an attempt, too."""
    if any(attempt.error is error for attempt in trace.attempts):
        return
    at = 0.0 if call.scope is None else call.scope.clock() - call.begun_at
    trace.attempts.append(Shared(call.tier, "", started_s=at, outcome="rejected", error=error))

"""One attempt at one deployment: written down, timed and told, however it ends."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from ..cost.billing import reported
from ..errors import (
    AuthenticationError,
    ConfigError,
    ContextWindowExceededError,
    DeadlineExceededError,
    ProviderError,
    RejectedError,
)
from ..events import AttemptFailed, Event, ProviderMisconfigured
from ..providers.parsing import parsed
from ..types import Attempt, Response
from .followed import Followed
from .timeouts import Pace

if TYPE_CHECKING:
    from ..cost.place import Place
    from ..cost.spending import Spending
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Handler
    from ..routing.tier import Deployment, Tier
    from ..sla.shifting import Shifting
    from ..types import Call
    from .deployment_line import DeploymentLine

__all__ = ["RECENT", "Recorded"]

log = logging.getLogger("tierllm")

MAX_HOLD_S = 300.0
"""However long a Retry-After is, a place is looked at again after this."""

COMPLAIN_AGAIN_S = 60.0
"""A misconfigured place is logged as an error once in so long; the event comes each time."""

RECENT = 100
"""How many outcomes a place remembers for ``status()``."""


class Recorded:
    """The part of a deployment's line that keeps the account of its attempts."""

    tier: Tier
    deployment: Deployment
    name: str
    clock: Clock
    emit: Callable[[Event], None] | None
    place: Place
    spending: Spending
    pace: Pace
    recent: deque[str]
    held_until: float
    complained_at: float
    served: int
    failed: int
    learns: bool
    heir: Recorded | None
    shifting: Shifting | None
    _guarded: Handler
    _metered: Handler
    _always_metered: bool

    async def _recorded(self, call: Call, /) -> Response:
        """One attempt, written down however it ends."""
        began = self.clock()
        self.pace.tried(began)
        call.again()
        attempt = Attempt(self.tier.name, self.name, call.model, began - call.begun_at)
        if call.trace is not None:
            call.trace.attempts.append(attempt)
        shifting, number, followed = self.shifting, 0, None
        if shifting is not None:
            if self.deployment.policies:
                followed = Followed(cast("DeploymentLine", self), call)
            number = shifting.begun(self.name, began, followed or call)
        try:
            guarded = self._metered if call.caps or self._always_metered else self._guarded
            response = await guarded(call)
        except BaseException as error:
            self._timed(attempt, call, began)
            silent = call.progress is None or call.progress.first_at is None
            if isinstance(error, ConfigError) and silent and not _first(attempt, call):
                unusable = AuthenticationError(f"{self.tier.name}/{self.name} cannot be used: {error}")
                self._ended_badly(attempt, call, unusable)
                raise unusable from error  # found out at a fallback: loud, and on to the next place
            self._ended_badly(attempt, call, error)
            raise
        else:
            self._timed(attempt, call, began)
            attempt.outcome = "ok"
            self._answered(response, call, attempt.latency_s)
            attempt.cost_usd = response.cost_usd
            return response
        finally:
            if shifting is not None:
                shifting.ended(
                    self.name,
                    number,
                    self.clock(),
                    attempt.outcome,
                    attempt.latency_s,
                    attempt.first_token_s,
                    attempt.error,
                )
            if followed is not None:
                followed.let_go()

    def _timed(self, attempt: Attempt, call: Call, began: float) -> None:
        progress = call.progress
        if progress is None and call.lane is not None and call.lane.trail is not None:
            progress = call.lane.trail.progress  # of a copy that was sent in its stead
        if progress is None:  # no provider was reached
            attempt.latency_s = self.clock() - began
        else:
            attempt.latency_s = progress.elapsed_s
            attempt.first_token_s = progress.first_token_s

    def _ended_badly(self, attempt: Attempt, call: Call, error: BaseException) -> None:
        attempt.error = error if isinstance(error, Exception) else None
        partial = getattr(error, "partial", None)
        if isinstance(partial, Response) and partial.tier is None:
            partial.tier, partial.deployment = self.tier.name, self.name
        if isinstance(error, ProviderError):
            attempt.outcome = "failed"
            self._failed(call, error, attempt.latency_s)
        elif isinstance(error, RejectedError) and call.progress is None:
            attempt.outcome = "rejected"
        elif isinstance(error, Exception) and not isinstance(error, DeadlineExceededError):
            attempt.outcome = "failed"  # passes untouched, and counts for nothing
        else:
            attempt.outcome = "cancelled"
            progress = call.progress
            if (
                isinstance(error, DeadlineExceededError)
                and progress is not None
                and progress.first_at is None
            ):
                self.pace.missed(attempt.latency_s)

    def _answered(self, response: Response, call: Call, latency_s: float) -> None:
        line: Recorded | None = self
        while line is not None:  # those that took this one's place carry its account on
            line.served += 1
            line = line.heir
        self.recent.append("ok")
        scope = call.scope
        self.pace.took(latency_s, None if scope is None else scope.deadline_at, self.clock)
        response.tier = self.tier.name
        response.deployment = self.name
        if response.model is None:
            response.model = call.model
        wanted = call.params.get("response_format")
        if wanted is not None and response.parsed is None:
            response.parsed = parsed(response.text, wanted)
        usage, price = response.usage, self.place.price
        if usage is None:
            return
        if price is not None and response.cost_usd is None and reported(usage) is usage:
            response.cost_usd = price.cost_usd(usage)
        if self.learns and not (call.caps or self._always_metered):
            self.spending.learn(call, response)

    def _failed(self, call: Call, error: ProviderError, latency_s: float) -> None:
        line: Recorded | None = self
        while line is not None:
            line.failed += 1
            line = line.heir
        self.pace.answered()
        self.recent.append(type(error).__name__)
        if error.retry_after_s:
            held_until = self.clock() + min(error.retry_after_s, MAX_HOLD_S)
            line = self
            while line is not None:
                line.held_until = max(line.held_until, held_until)
                line = line.heir
        if isinstance(error, ContextWindowExceededError) and error.window is None:
            error.window = self.deployment.context_window
        if isinstance(error, AuthenticationError):
            if self.clock() - self.complained_at >= COMPLAIN_AGAIN_S:
                self.complained_at = self.clock()
                log.error("%s/%s is misconfigured: %s", self.tier.name, self.name, error)
            if self.emit is not None:
                self.emit(ProviderMisconfigured(tier=self.tier.name, deployment=self.name, error=error))
        if self.emit is not None:
            self.emit(
                AttemptFailed(
                    trace_id=call.trace.id if call.trace is not None else "",
                    tier=self.tier.name,
                    deployment=self.name,
                    error=error,
                    latency_s=latency_s,
                )
            )


def _first(attempt: Attempt, call: Call) -> bool:
    """Whether no other place has been asked before."""
    return call.trace is None or all(
        (a.tier, a.deployment) == (attempt.tier, attempt.deployment) or a.outcome == "rejected"
        for a in call.trace.attempts
    )

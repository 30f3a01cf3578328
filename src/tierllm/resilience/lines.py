"""The two lines a call walks down: a tier's, and a deployment's within it.

    tier         Admission → policies → choice of deployment
    deployment   Retry → record → policies → CircuitBreaker → Invoke

A place that would refuse (open breaker, held off by a 429, too small, too slow for what is left of
the deadline) is passed over before a permit is taken.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..admission.pool import Pool
from ..admission.seat import Admission
from ..errors import (
    AuthenticationError,
    CircuitOpenError,
    ContextWindowExceededError,
    DeadlineExceededError,
    ProviderError,
    RejectedError,
    ThrottledError,
)
from ..events import AttemptFailed, Event, ProviderMisconfigured
from ..pipeline.compose import compose, invoking
from ..providers.parsing import parsed
from ..types import Attempt, Candidate
from .fallback import NotInTime
from .timeouts import DurationHistory

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Flow, Handler, Policy
    from ..routing.tier import Deployment, Tier
    from ..types import Call, Message, Response, Timeouts
    from .breaker import CircuitBreaker
    from .fallback import FallbackChain
    from .retry import Retry

__all__ = ["DeploymentLine", "TierLine"]

log = logging.getLogger("tierllm")

MAX_HOLD_S = 300.0
"""However long a Retry-After is, a place is looked at again after this."""

LOOK_AGAIN_S = 30.0
"""How long a place may go untried for being too slow: it may have become faster since."""

MISSES = 3
"""After so many deadlines in a row without a first token, calls as impatient as those go elsewhere."""

COMPLAIN_AGAIN_S = 60.0
"""A misconfigured place is logged as an error once in so long; the event comes each time."""

RECENT = 100
"""How many outcomes a place remembers for ``status()``."""


Obstacle = RejectedError | ContextWindowExceededError


class DeploymentLine:
    """One deployment of one tier at run time: its breaker, its history, its way to the provider."""

    def __init__(
        self,
        tier: Tier,
        deployment: Deployment,
        *,
        name: str,
        clock: Clock,
        emit: Callable[[Event], None] | None,
        breaker: CircuitBreaker | None,
        retry: Retry | None,
        timeouts: Timeouts | None,
    ) -> None:
        self.tier = tier
        self.deployment = deployment
        self.name = name
        self.clock = clock
        self.emit = emit
        self.breaker = breaker
        self.timeouts = timeouts
        self.history = DurationHistory()
        self.held_until = float("-inf")
        self.tried_at = float("-inf")
        self.misses = 0
        self.missed_s = 0.0
        self.complained_at = float("-inf")
        self.recent: deque[str] = deque(maxlen=RECENT)
        self.served = 0
        self.failed = 0
        guards: list[Policy] = [*deployment.policies]
        if breaker is not None:
            guards.append(breaker)
        self._guarded = compose(guards, invoking(deployment.provider))
        self.handler: Handler = self._recorded
        if retry is not None:
            retry.held_s = self.held_s
            self.handler = compose([retry], self._recorded)
        self._base = self._fitted({})

    # -- before ----------------------------------------------------------------

    def held_s(self) -> float:
        """For how long the provider asked to be left alone."""
        return max(0.0, self.held_until - self.clock())

    def obstacle(self, call: Call) -> Obstacle | None:
        """Why this place would not serve the call now; ``None`` where it would. Changes nothing."""
        now = self.clock()
        if now < self.held_until:
            left = self.held_until - now
            return ThrottledError(
                f"{self.tier.name}/{self.name}: the provider asked for a pause of another {left:.3g} s",
                retry_after_s=left,
            )
        if self.breaker is not None:
            left_open = self.breaker.peek()
            if left_open is not None:
                return CircuitOpenError(
                    f"{self.tier.name}/{self.name}: the circuit is open for another {left_open:.3g} s",
                    retry_after_s=left_open,
                )
        window = self.deployment.context_window
        if call.min_window and window is not None and window <= call.min_window:
            error = ContextWindowExceededError(
                f"{self.tier.name}/{self.name}: a window of {call.min_window} tokens was too small before"
            )
            error.window = window
            return error
        left_s = call.scope.remaining_s() if call.scope is not None else None
        if left_s is not None:
            fast = self.history.p10_s
            slow = fast is not None and fast > left_s
            silent = self.misses >= MISSES and left_s < 1.5 * self.missed_s
            if (slow or silent) and now - self.tried_at < LOOK_AGAIN_S:
                why = f"P10 {fast:.3g} s" if slow else f"silent in the last {self.misses} calls"
                return NotInTime(
                    f"{self.tier.name}/{self.name}: hardly answers within {left_s:.3g} s ({why})"
                )
        return None

    def fitted(self, call: Call) -> Call:
        """The call as this place is to receive it: prompt, parameters, ceilings, timeouts, model."""
        fit = call.copy()
        fit.deployment = self.name
        fit.model = self.deployment.model
        fit.timeouts = self.timeouts
        if call.scope is not None and call.scope.deadline_at is not None:
            usual = self.history.p95_s
            if usual is not None:
                fit.patience_s = usual
        request = call.request
        fit.messages = self._worded(request.messages)
        fit.params = self._fitted(request.params) if request.params else self._base
        return fit

    def _worded(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return messages if self.tier.prompt is None else self.tier.worded(messages)

    def _fitted(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        params = {**self.tier.defaults, **self.deployment.params, **asked}
        self.tier.ceilings.apply(params)
        for name in self.deployment.drop:
            params.pop(name, None)
        return params

    # -- the attempt -----------------------------------------------------------

    async def _recorded(self, call: Call, /) -> Response:
        """One attempt, written down however it ends."""
        clock, trace = self.clock, call.trace
        began = self.tried_at = clock()
        call.again()
        attempt = Attempt(self.tier.name, self.name, call.model, began - call.begun_at)
        if trace is not None:
            trace.attempts.append(attempt)
        try:
            response = await self._guarded(call)
        except ProviderError as error:
            attempt.outcome, attempt.error = "failed", error
            self._failed(call, error, clock() - began)
            raise
        except RejectedError as error:
            attempt.outcome, attempt.error = "rejected", error
            raise
        except BaseException as error:
            attempt.outcome, attempt.error = "cancelled", error if isinstance(error, Exception) else None
            if isinstance(error, DeadlineExceededError):
                self._missed(call)
            raise
        else:
            attempt.outcome = "ok"
            self._answered(response, call)
            return response
        finally:
            progress = call.progress
            attempt.latency_s = clock() - began if progress is None else progress.elapsed_s
            if progress is not None:
                attempt.first_token_s = progress.first_token_s
                if attempt.outcome == "ok":
                    self._took(attempt.latency_s, call)

    def _answered(self, response: Response, call: Call) -> None:
        self.served += 1
        self.misses = 0
        self.recent.append("ok")
        response.tier = self.tier.name
        response.deployment = self.name
        if response.model is None:
            response.model = call.model
        wanted = call.params.get("response_format")
        if wanted is not None and response.parsed is None:
            response.parsed = parsed(response.text, wanted)
        price = self.deployment.price
        if price is not None and response.usage is not None:
            response.cost_usd = price.cost_usd(response.usage)

    def _took(self, latency_s: float, call: Call) -> None:
        fast, left_s = self.history.p10_s, None if call.scope is None else call.scope.remaining_s()
        if fast is not None and left_s is not None and left_s + latency_s < fast:
            self.history = DurationHistory()  # a second look, and it has become faster
        self.history.add(latency_s)

    def _missed(self, call: Call) -> None:
        """A caller's deadline came before the first token."""
        progress = call.progress
        if progress is not None and progress.first_at is None:
            waited_s = progress.elapsed_s
            self.missed_s = min(self.missed_s, waited_s) if self.misses else waited_s
            self.misses += 1

    def _failed(self, call: Call, error: ProviderError, latency_s: float) -> None:
        self.failed += 1
        self.misses = 0
        self.recent.append(type(error).__name__)
        if error.retry_after_s:
            held_until = self.clock() + min(error.retry_after_s, MAX_HOLD_S)
            self.held_until = max(self.held_until, held_until)
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

    def status(self) -> dict[str, Any]:
        return {
            "model": self.deployment.model,
            "provider": self.deployment.provider.name,
            "labels": sorted(self.deployment.labels),
            "served": self.served,
            "failed": self.failed,
            "recent": list(self.recent),
            "latency_p50_s": self.history.quantile(0.5),
            "held_for_s": self.held_s(),
            "breaker": None if self.breaker is None else self.breaker.status(),
        }


class TierLine:
    """One tier at run time: its pool and the choice among its deployments."""

    def __init__(
        self,
        tier: Tier,
        lines: Sequence[DeploymentLine],
        *,
        rule: FallbackChain,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.tier = tier
        self.lines = tuple(lines)
        self.rule = rule
        self.rng = rng
        self.pool: Pool | None = None
        policies: list[Policy] = []
        if tier.max_concurrency is not None:
            self.pool = Pool(tier.max_concurrency, name=tier.name, max_waiting=tier.max_waiting)
            policies.append(Admission(self.pool, clock=clock, max_wait_s=tier.max_wait_s))
        policies += tier.policies
        self._inside = compose(policies, self._choose)
        self.handler: Handler = self._inside if not policies else self._glance

    def _glance(self, call: Call, /) -> Flow[Response]:
        """Where no place is open, say so before a permit is taken or waited for."""
        obstacles: list[tuple[DeploymentLine, Obstacle]] = []
        for line in self.lines:
            if call.request.require <= line.deployment.labels:
                obstacle = line.obstacle(call)
                if obstacle is None:
                    call.ahead = line
                    return self._inside(call)
                obstacles.append((line, obstacle))
        for line, obstacle in obstacles:
            self._barred(call, line, obstacle)
        raise obstacles[-1][1] if obstacles else self._nowhere()

    async def _choose(self, call: Call, /) -> Response:
        """The first deployment that answers; each one passed over leaves its reason in the trace."""
        failure: ProviderError | RejectedError | None = None
        refusal: RejectedError | None = None
        for line in self._ordered():
            if not call.request.require <= line.deployment.labels:
                self._passed_over(call, line, "labels")
                continue
            obstacle = None if line is call.ahead else line.obstacle(call)
            if obstacle is None:
                try:
                    response = await line.handler(line.fitted(call))
                except (ProviderError, RejectedError) as error:
                    self._passed_over(call, line, _reason(error))
                    if call.permit is not None and call.permit.lost:
                        raise
                    if not self.rule.goes_on(error, call, self.tier.name):
                        raise
                    if isinstance(error, RejectedError):
                        refusal = error
                    else:
                        failure = error
                    if isinstance(error, ContextWindowExceededError) and error.window:
                        call.min_window = max(call.min_window, error.window)
                    continue
                self._passed_over(call, line, None)
                return response
            self._barred(call, line, obstacle)
            if isinstance(obstacle, RejectedError):
                refusal = obstacle
            elif failure is None:
                failure = obstacle
        raise failure or refusal or self._nowhere()

    def _nowhere(self) -> RejectedError:
        return NotInTime(f"{self.tier.name}: no deployment has the labels asked for")

    def _ordered(self) -> Iterable[DeploymentLine]:
        if self.tier.choose == "ordered" or len(self.lines) == 1:
            return self.lines
        # a weighted draw without replacement: Efraimidis and Spirakis, 2006
        draw = self.rng.random
        return sorted(self.lines, key=lambda line: -(draw() ** (1.0 / line.deployment.weight)))

    def _passed_over(self, call: Call, line: DeploymentLine, reason: str | None) -> None:
        if call.trace is not None:
            call.trace.candidates.append(Candidate(self.tier.name, line.name, reason))

    def _barred(self, call: Call, line: DeploymentLine, obstacle: Obstacle) -> None:
        """Write down that ``line`` was not tried."""
        self._passed_over(call, line, _reason(obstacle))
        if call.trace is not None and isinstance(obstacle, RejectedError):
            at = line.clock() - call.begun_at
            model = line.deployment.model
            call.trace.attempts.append(
                Attempt(self.tier.name, line.name, model, at, outcome="rejected", error=obstacle)
            )

    def renew(self) -> None:
        """After a fork."""
        if self.pool is not None:
            self.pool.renew()
        for line in self.lines:
            if line.breaker is not None:
                line.breaker.renew()

    def status(self) -> dict[str, Any]:
        pool = self.pool
        return {
            "deployments": {line.name: line.status() for line in self.lines},
            "pool": None
            if pool is None
            else {"size": pool.size, "in_use": pool.in_use, "waiting": pool.waiting, "peak": pool.peak},
        }


def _reason(error: Exception) -> str:
    """Why a place was passed over, in one word where there is one."""
    if isinstance(error, CircuitOpenError):
        return "breaker"
    if isinstance(error, NotInTime):
        return "deadline"
    if isinstance(error, ContextWindowExceededError):
        return "window"
    status = getattr(error, "status", None)
    return type(error).__name__ + (f" {status}" if status else "")

"""The line a call walks down in one tier.

    Admission → policies → choice of deployment

A place that would refuse (open breaker, held off by a 429, too small, too slow for what is left of
the deadline) is passed over before a permit is taken.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..admission.pool import Pool
from ..admission.seat import Admission
from ..errors import (
    BudgetExceededError,
    CircuitOpenError,
    ContextWindowExceededError,
    DeadlineExceededError,
    ProviderError,
    RejectedError,
    RequestTooLargeError,
)
from ..pipeline.compose import compose
from ..types import Attempt, Candidate
from .fallback import NotInTime

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Flow, Handler, Policy
    from ..routing.tier import Tier
    from ..types import Call, Response
    from .deployment_line import DeploymentLine, Obstacle
    from .fallback import FallbackChain

__all__ = ["TierLine"]


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
        """Where no place is open, say so before a permit is taken or waited for.

        What a budget says is asked beforehand only of calls that would have to queue.
        """
        pool = self.pool
        queues = pool is not None and pool.in_use >= pool.size
        obstacles: list[tuple[DeploymentLine, Obstacle]] = []
        for line in self.lines:
            if call.request.require <= line.deployment.labels:
                obstacle = line.obstacle(call) or (line.too_dear(call) if queues else None)
                if obstacle is None:
                    call.ahead = line
                    return self._inside(call)
                obstacles.append((line, obstacle))
                if isinstance(obstacle, BudgetExceededError) and not obstacle.steps_down:
                    break
        for line, obstacle in obstacles:
            self._barred(call, line, obstacle)
        raise obstacles[-1][1] if obstacles else self._nowhere()

    async def _choose(self, call: Call, /) -> Response:
        """The first deployment that answers; each one passed over leaves its reason in the trace."""
        failure: ProviderError | RejectedError | None = None
        refusal: RejectedError | None = None
        for line in self._ordered():
            obstacle: Obstacle | None = None
            if line is call.ahead:
                call.ahead = None  # once: a policy may come here again
            else:
                if not call.request.require <= line.deployment.labels:
                    self._passed_over(call, line, "labels")
                    continue
                obstacle = line.obstacle(call)
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
                except BaseException as error:
                    self._passed_over(call, line, _reason(error))
                    raise
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


def _reason(error: BaseException) -> str:
    """Why a place was passed over, in one word where there is one."""
    if isinstance(error, CircuitOpenError):
        return "breaker"
    if isinstance(error, NotInTime | DeadlineExceededError):
        return "deadline"
    if not isinstance(error, Exception):
        return "cancelled"
    if isinstance(error, ContextWindowExceededError | RequestTooLargeError):
        return "window"
    if isinstance(error, BudgetExceededError):
        return "budget"
    status = getattr(error, "status", None)
    return type(error).__name__ + (f" {status}" if status else "")

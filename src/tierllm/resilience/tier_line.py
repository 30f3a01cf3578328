"""The line a call walks down in one tier.

    AdaptiveSampling → Admission → policies → Hedge → choice of deployment

A place that would refuse (open breaker, held off by a 429, too small, too slow for what is left of
the deadline) is passed over before a permit is taken.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..admission.permit import Full
from ..admission.seat import Seat
from ..admission.settings import Admission
from ..errors import (
    BudgetExceededError,
    CircuitOpenError,
    ContextWindowExceededError,
    DeadlineExceededError,
    ProviderError,
    RejectedError,
    RequestTooLargeError,
    ThrottledError,
)
from ..pipeline.compose import compose
from ..types import Attempt, Candidate
from .deployment_line import heeds
from .fallback import NotInTime

if TYPE_CHECKING:
    from ..admission.emergency import Emergencies
    from ..admission.permit import Short
    from ..admission.policy import TierAdmission
    from ..admission.pool import Pool
    from ..admission.sampler import Sampler
    from ..cost.estimator import CostEstimator
    from ..events import Event
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Flow, Handler, Policy
    from ..routing.tier import Tier
    from ..sla.shifting import Shifting
    from ..stores import Store
    from ..types import Call, Response
    from .choice import Cheapest
    from .deployment_line import DeploymentLine, Obstacle
    from .fallback import FallbackChain
    from .hedging import Hedging

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
        wall: Clock,
        rng: random.Random,
        emit: Callable[[Event], None] | None,
        estimator: CostEstimator,
    ) -> None:
        self.tier = tier
        self.lines = tuple(lines)
        self.rule = rule
        self.clock = clock
        self.wall = wall
        self.rng = rng
        self.emit = emit
        self.admission = self._admission()
        self.sampling: Sampler | None = None
        self.judging: Policy | None = None
        self.hedge = self._hedging()
        self.shifting = self._shifting()
        self.cheapest = self._cheapest(estimator)
        self._build()

    @property
    def pool(self) -> Pool | None:
        return None if self.admission is None else self.admission.pool

    def _admission(self) -> TierAdmission | None:
        """The tier's pool; one of any size where there is no bound but the deployments' own limits."""
        tier = self.tier
        bounded = [line for line in self.lines if line.bounded]
        given = (tier.max_concurrency, tier.admission, tier.sampling)
        if not bounded and all(each is None for each in given):
            return None
        admission = (tier.admission or Admission()).bound(
            name=tier.name,
            max_concurrency=tier.max_concurrency,
            max_waiting=tier.max_waiting,
            max_wait_s=tier.max_wait_s,
            clock=self.clock,
            wall=self.wall,
            emit=self.emit,
        )
        if bounded:
            admission.pool.gate = self
            for line in bounded:
                line.listen(admission.pool.poke)
        return admission

    def _hedging(self) -> Hedging | None:
        given = self.tier.hedge
        if not given or len(self.lines) < 2:
            return None
        from .hedge import Hedge

        return (Hedge() if given is True else given).bound(
            tier=self.tier.name,
            lines=self.lines,
            open_now=self._open_now,
            seat=self._spare_seat,
            clock=self.clock,
            emit=self.emit,
        )

    def _cheapest(self, estimator: CostEstimator) -> Cheapest | None:
        if self.tier.choose != "cheapest":
            return None
        from .choice import Cheapest

        return Cheapest(
            estimator=estimator,
            objective=self.tier.objective,
            clock=self.clock,
            rng=self.rng,
            min_quality=self.tier.min_quality,
        )

    def _shifting(self) -> Shifting | None:
        given = self.tier.shift
        if not given:
            return None
        from ..sla.shift import Shift

        shifting = (Shift() if given is True else given).bound(
            tier=self.tier.name,
            places=[line.name for line in self.lines],
            objective=self.tier.objective,
            load=None if self.admission is None else self.admission.reading,
            clock=self.clock,
            emit=self.emit,
        )
        for line in self.lines:
            line.shifting = shifting
        return shifting

    def samples(
        self, *, stale: Callable[[Call], Response | None] | None, emergencies: Emergencies | None
    ) -> None:
        """Take away from calls under load what the tier's sampling says."""
        if self.tier.sampling is not None and self.admission is not None:
            self.sampling = self.tier.sampling.bound(
                tier=self.tier.name,
                load=self.admission.reading,
                clock=self.clock,
                wall=self.wall,
                emit=self.emit,
                stale=stale,
                emergencies=emergencies,
                meter=self.admission.load,
            )
            self._build()

    def judges(self, judging: Policy) -> None:
        """Judge the tier's answers before anybody sees them."""
        self.judging = judging
        self._build()

    def _build(self) -> None:
        outermost = (self.judging, self.sampling, self.admission)
        policies: list[Policy] = [each for each in outermost if each is not None]
        policies += self.tier.policies
        if self.hedge is not None:
            policies.append(self.hedge)
        self._inside = compose(policies, self._choose)
        self.handler: Handler = self._inside
        if self.tier.policies:
            self.handler = self._glanced
        elif self.admission is not None:
            self.admission.glance = self._glance

    # -- what the pool asks ----------------------------------------------------

    def prepare(self, call: Call) -> None:
        """What the places would receive, worked out before the call stands in line: prompts are functions."""
        if call.fits is None:
            call.fits = {line: line.fitted(call) for line in self.lines}

    def short(self, call: Call, now: float, copies: int) -> Short | None:
        """Why no place of the tier has room for ``call``; ``None`` where one has, or where none is open."""
        soonest: Short | None = None
        others = False
        for line in self.lines:
            if not call.request.require <= line.deployment.labels:
                others = True
                continue
            if line.obstacle(call, count=False):
                continue
            fit = call.fits[line] if call.fits is not None else line.fitted(call)
            short = line.short(fit, now, copies)
            if short is None:
                return None
            if soonest is None or short.wait_s < soonest.wait_s:
                soonest = short
        if soonest is not None and others and not soonest.personal:  # who asks for less may pass
            whose = ("labels", call.request.require)
            return Full(soonest.wait_s, True, soonest.too_large, whose, soonest.early)
        return soonest

    def rate_per_s(self) -> float | None:
        """The most calls a second that the places let through; ``None`` where one has no limit."""
        total = 0.0
        for line in self.lines:
            rate = None if line.limits is None else line.limits.rate_per_s()
            if rate is None:
                return None
            total += rate
        return total

    def stores(self) -> list[Store]:
        """The stores of the places' limits."""
        return [store for line in self.lines if line.limits is not None for store in line.limits.stores()]

    # -- a call ----------------------------------------------------------------

    def _glanced(self, call: Call, /) -> Flow[Response]:
        self._glance(call)
        return self._inside(call)

    def _glance(self, call: Call) -> None:
        """Where no place is open, say so before a permit is taken or waited for.

        What a budget says is asked beforehand only of calls that would have to queue.
        """
        pool = self.pool
        queues = pool is not None and (pool.waiting > 0 or pool.crowded)
        obstacles: list[tuple[DeploymentLine, Obstacle]] = []
        for line in self.lines:
            if call.request.require <= line.deployment.labels:
                obstacle = line.obstacle(call) or (line.too_dear(call) if queues else None)
                if obstacle is None:
                    call.ahead = line
                    return
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
        degrade, drawn = call.degrade, self._drawn()
        if call.course is not None:
            self._moved(call, drawn)
        for line in self._ordered(call, drawn):
            obstacle: Obstacle | None = None
            if line is call.ahead:
                call.ahead = None  # once: a policy may come here again
            else:
                if not call.request.require <= line.deployment.labels:
                    self._passed_over(call, line, "labels")
                    continue
                obstacle = line.obstacle(call)
            if obstacle is None:
                if call.lane is not None and not call.lane.claim(line):
                    self._passed_over(call, line, "hedge")
                    continue
                fit = line.fitted(call)
                answered = False
                try:
                    response = await self._ask(line, fit)
                    answered = True
                except (ProviderError, RejectedError) as error:
                    self._passed_over(call, line, _reason(error))
                    if call.permit is not None and call.permit.lost:
                        raise
                    if not self.rule.goes_on(error, call, self.tier.name):
                        raise
                    if isinstance(error, RejectedError):
                        refusal = _sooner(refusal, error)
                    else:
                        failure = error
                    if isinstance(error, ContextWindowExceededError) and error.window:
                        call.min_window = max(call.min_window, error.window)
                    continue
                except BaseException as error:
                    self._passed_over(call, line, _reason(error))
                    raise
                finally:
                    if degrade is not None and fit.degrade is not None:
                        degrade.took(fit.degrade, answered=answered)
                if self.cheapest is not None:
                    self.cheapest.served(fit, response)
                if degrade is not None and degrade.cheaper and self._spares(call, line, drawn):
                    degrade.spared()
                self._passed_over(call, line, None)
                return response
            self._barred(call, line, obstacle)
            if isinstance(obstacle, RejectedError):
                refusal = _sooner(refusal, obstacle)
            elif failure is None:
                failure = obstacle
        raise failure or refusal or self._nowhere()

    def _ask(self, line: DeploymentLine, call: Call) -> Flow[Response]:
        hedge = self.hedge
        return line.handler(call) if hedge is None else hedge.ask(line, call, line.handler)

    def _open_now(self, call: Call) -> Iterator[DeploymentLine]:
        """The places that would serve ``call`` at once, in order."""
        now = self.clock()
        for line in self._ordered(call, self._drawn()):
            admissible = call.request.require <= line.deployment.labels
            if admissible and not line.obstacle(call) and not line.short(call, now):
                yield line

    def _spare_seat(self) -> Seat | None:
        admission = self.admission
        return None if admission is None or admission.mode == "observe" else Seat(admission)

    def _nowhere(self) -> RejectedError:
        return NotInTime(f"{self.tier.name}: no deployment has the labels asked for")

    def _ordered(self, call: Call, drawn: Sequence[DeploymentLine]) -> Sequence[DeploymentLine]:
        """``drawn``, the cheapest first where the call is to be served so; where its session is at home
        comes before all others, what is left alone now after them."""
        if call.degrade is not None and call.degrade.cheaper:
            return call.degrade.cheapest_first(drawn, _dearness)
        if self.cheapest is not None:
            drawn = self.cheapest.order(call, drawn)
        course = call.course
        if course is None or not (course.prefer or course.avoid):
            return drawn
        tier, prefer, avoid = self.tier.name, course.prefer, course.avoid
        return sorted(drawn, key=lambda line: ((tier, line.name) in avoid, (tier, line.name) != prefer))

    def _spares(self, call: Call, line: DeploymentLine, drawn: Sequence[DeploymentLine]) -> bool:
        """Whether a dearer place, which was not asked, would have come before the ``line`` that answered."""
        return heeds(call) and any(
            call.request.require <= other.deployment.labels and not other.obstacle(call, count=False)
            for other in drawn[: drawn.index(line)]
            if _dearness(other) > _dearness(line)
        )

    def _drawn(self) -> Sequence[DeploymentLine]:
        if self.tier.choose != "weighted" or len(self.lines) == 1:
            return self.lines
        # a weighted draw without replacement: Efraimidis and Spirakis, 2006
        draw = self.rng.random
        return sorted(self.lines, key=lambda line: -(draw() ** (1.0 / line.deployment.weight)))

    def _moved(self, call: Call, drawn: Sequence[DeploymentLine]) -> None:
        """Write down which places are not asked in their turn, since calls avoid them or its session is at
        home elsewhere."""
        course, tier = call.course, self.tier.name
        assert course is not None
        home = None if course.prefer is None or course.prefer[0] != tier else course.prefer[1]
        if home is None and not course.avoid:
            return
        for line in drawn:
            if (tier, line.name) in course.avoid:
                self._passed_over(call, line, "shift")
            elif line.name == home:
                home = None  # those after it are in their turn
            elif home is not None:
                self._passed_over(call, line, "session")

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
        for part in (self.admission, self.sampling, self.hedge, self.shifting, self.cheapest, *self.lines):
            if part is not None:
                part.renew()

    def status(self) -> dict[str, Any]:
        load = None
        if self.admission is not None:
            self.admission.reading()  # measured anew: nobody may have called for a while
            load = self.admission.load.reading()
        return {
            "deployments": {line.name: line.status() for line in self.lines},
            "pool": None if self.admission is None else self.admission.status(),
            "load": None if load is None else load._asdict(),
            "sampling": None if self.sampling is None else self.sampling.status(),
            "hedge": None if self.hedge is None else self.hedge.status(),
            "choice": None if self.cheapest is None else self.cheapest.status(),
            "shift": None if self.shifting is None else self.shifting.status(),
        }


def _sooner(refusal: RejectedError | None, other: RejectedError) -> RejectedError:
    """The one to be told: what can be waited for, the soonest first; else the last one met."""
    if isinstance(refusal, ThrottledError) and refusal.waitable:
        if not (isinstance(other, ThrottledError) and other.waitable):
            return refusal
        if (refusal.retry_after_s or 0.0) <= (other.retry_after_s or 0.0):
            return refusal
    return other


def _dearness(line: DeploymentLine) -> float:
    """Dollars for a million tokens in and a million out; a place without a price comes last."""
    price = line.place.price
    return math.inf if price is None else float(price.input_usd_per_mtok + price.output_usd_per_mtok)


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

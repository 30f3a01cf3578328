"""The line a call walks down in one tier.

    AdaptiveSampling → Admission → policies → Hedge → choice of deployment

A place that would refuse (open breaker, held off by a 429, too small, too slow for what is left of
the deadline) is passed over before a permit is taken.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..admission.permit import Full
from ..admission.seat import Seat
from ..admission.settings import Admission
from ..errors import BudgetExceededError
from ..pipeline.compose import compose
from .choosing import Choosing
from .room import Room

if TYPE_CHECKING:
    from ..admission.consent import Consent
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
    from .cheapest import Cheapest
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
        leads_down: bool,
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
        self.cheapest = self._cheapest(estimator)
        self.choosing = Choosing(tier, self.lines, rule=rule, clock=clock, rng=rng, cheapest=self.cheapest)
        self.hedge = self.choosing.hedge = self._hedging()
        if self.hedge is not None and self.cheapest is not None:
            self.hedge.served = self.cheapest.served
        self.room = Room(self)
        self.shifting = self.choosing.shifting = self._shifting(leads_down)
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
        self._guard(admission.pool)
        return admission

    def _guard(self, pool: Pool) -> None:
        """Let nobody out of the queue for whom no place has room."""
        bounded = [line for line in self.lines if line.bounded]
        pool.gate = self if bounded else None
        for line in bounded:
            line.listen(pool.poke)

    def _hedging(self) -> Hedging | None:
        given = self.tier.hedge
        if not given or len(self.lines) < 2:
            return None
        from .hedge import Hedge

        return (Hedge() if given is True else given).bound(
            tier=self.tier.name,
            lines=self.lines,
            open_now=self.choosing.open_now,
            seat=self.spare_seat,
            clock=self.clock,
            emit=self.emit,
        )

    def _cheapest(self, estimator: CostEstimator) -> Cheapest | None:
        if self.tier.choose != "cheapest":
            return None
        from .cheapest import Cheapest

        return Cheapest(
            estimator=estimator,
            objective=self.tier.objective,
            clock=self.clock,
            rng=self.rng,
            min_quality=self.tier.min_quality,
        )

    def _shifting(self, leads_down: bool) -> Shifting | None:
        given = self.tier.shift
        if not given:
            return None
        from ..sla.shift import Shift

        shifting = (Shift() if given is True else given).bound(
            tier=self.tier.name,
            places=[line.name for line in self.lines],
            objective=self.tier.objective,
            load=None if self.admission is None else self.admission.reading,
            closed=self.room.closed,
            clock=self.clock,
            emit=self.emit,
            rng=self.rng,
            leads_down=leads_down and self.tier.fallback is not False,
        )
        for line in self.lines:
            line.shifting = shifting
        return shifting

    def samples(
        self,
        *,
        stale: Callable[[Call], Response | None] | None,
        emergencies: Emergencies | None,
        consent: Sequence[Consent] = (),
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
                consent=consent,
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
        self._inside = compose(policies, self.choosing)
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
            fit = call.fits.get(line) if call.fits is not None else None
            if fit is None:  # or it stood in line before this tier's line took the place of another
                fit = line.fitted(call)
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
            self.choosing.barred(call, line, obstacle)
        raise obstacles[-1][1] if obstacles else self.choosing.nowhere()

    def spare_seat(self) -> Seat | None:
        """A seat in the tier's pool that may be taken if there is one free; ``None``: none is needed."""
        admission = self.admission
        return None if admission is None or admission.mode == "observe" else Seat(admission)

    def inherit(self, older: TierLine) -> None:
        """Take the place of ``older``, this tier's line under another configuration: go on with its pool,
        and with what is known of the places that are the same."""
        same = self._same(older)
        for line, was in same:
            line.inherit(was)
        if self.admission is not None and older.admission is not None:
            self.admission.inherit(older.admission)
            self._guard(self.admission.pool)
        if self.hedge is not None and older.hedge is not None:
            self.hedge.inherit(older.hedge, same)
        if self.sampling is not None and older.sampling is not None:
            self.sampling.inherit(older.sampling)
        if self.shifting is not None and older.shifting is not None:
            self.shifting.inherit(older.shifting, [line.name for line, was in same if line.name == was.name])

    def _same(self, older: TierLine) -> list[tuple[DeploymentLine, DeploymentLine]]:
        """The places that both have, by model and provider, one for each key: of several that lead to the
        same those of the same name go together. A name alone says little: where the first key of an account
        is gone, the second has its name."""
        left = list(older.lines)
        found: dict[DeploymentLine, DeploymentLine] = {}
        for by_name in (True, False):
            for line in self.lines:
                if line in found:
                    continue
                was = next(
                    (w for w in left if line.leads_as(w) and (line.name == w.name or not by_name)), None
                )
                if was is not None:
                    found[line] = was
                    left.remove(was)
        return [(line, found[line]) for line in self.lines if line in found]

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

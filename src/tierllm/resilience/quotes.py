"""What a call would use in each tier it may be served by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from ..errors import RequestTooLargeError
from .either import either_cost, either_latency

if TYPE_CHECKING:
    from ..cost.estimate import Estimate
    from ..cost.estimator import CostEstimator
    from ..routing.cascade import Way
    from ..types import Call
    from .cascading import Cascading
    from .deployment_line import DeploymentLine
    from .tier_line import TierLine

__all__ = ["Quotes"]


class Quotes:
    """Estimates for calls through a client's lines. Sends nothing and reserves nothing.

    From the first one on, every answer teaches the estimator. That of a call which ``cascading`` begins in
    a cheap tier is of both its steps.
    """

    def __init__(
        self,
        lines: Mapping[str, TierLine],
        estimator: CostEstimator,
        cascading: Cascading | None = None,
    ) -> None:
        self.lines = lines
        self.estimator = estimator
        self.cascading = cascading
        self._taught = False

    def of(self, call: Call, *, exact: bool | None = None) -> Estimate:
        """The estimate for the first admissible tier, with those of all admissible ones in ``tiers``.

        Each is made at the place that would be asked first now. A cascaded call's is that of its cheap tier,
        with the cost and the time of going up, as often as that happens.
        """
        assert call.plan is not None
        if not self._taught:
            self._taught = True
            for tier_line in self.lines.values():
                for line in tier_line.lines:
                    line.learns = True
        found: dict[str, Estimate] = {}
        for tier in call.plan.tiers:
            step = call.copy()
            step.tier = tier
            found[tier] = self._at(self.lines[tier], step, exact)
        way, cascading = self._way(call), self.cascading
        if way is None or cascading is None:
            return replace(found[call.plan.tiers[0]], tiers=found)
        cheap, strong = found[way.cheap], found[way.strong]
        rate = cascading.verdicts.rate()
        return replace(
            cheap,
            cost_usd=either_cost(cheap.cost_usd, strong.cost_usd, rate),
            latency_s=either_latency(cheap.latency_s, strong.latency_s, rate, cascading.ways.judge_s()),
            tiers=found,
        )

    def _way(self, call: Call) -> Way | None:
        """How the call is cascaded, if it is."""
        cascading = self.cascading
        if cascading is None or cascading.settings.mode == "observe":
            return None
        way = cascading.ways.of(call)
        return way if way is not None and cascading.ways.in_time(call, way) else None

    def dearest_usd(self, call: Call) -> Decimal | None:
        """The worst case of one attempt at any place that the call may come to; ``None``: not known.

        Of a cascaded call that is the dearest place's, and the cheap tier's before it.
        """
        assert call.plan is not None
        dearest = self._dearest(call, call.plan.tiers)
        way = self._way(call)
        if dearest is None or way is None:
            return dearest
        first = self._dearest(call, (way.cheap,))
        return None if first is None else dearest + first

    def _dearest(self, call: Call, tiers: Sequence[str]) -> Decimal | None:
        dearest = Decimal(0)
        for tier in tiers:
            step = call.copy()
            step.tier = tier
            for line in self.lines[tier].lines:
                if not call.request.require <= line.deployment.labels:
                    continue
                fit = line.fitted(step)
                cost = self.estimator.quote(line.place, fit.messages, fit.params).cost_usd
                if cost is None:
                    return None
                dearest = max(dearest, cost.max)
        return dearest

    def _at(self, tier_line: TierLine, call: Call, exact: bool | None) -> Estimate:
        able = [line for line in tier_line.lines if call.request.require <= line.deployment.labels]
        counts = exact is not False
        obstacles = {line: line.obstacle(call, count=counts) for line in able}
        line = next((line for line in able if obstacles[line] is None), able[0])
        fit = line.fitted(call)
        quote = self.estimator.quote(
            line.place,
            fit.messages,
            fit.params,
            route=call.request.route,
            queue_s=_queue_s(tier_line, line),
            exact=exact,
        )
        refusal = obstacles[line] or line.spending.outlook(fit)
        if refusal is None:
            return quote
        kind = "too large" if isinstance(refusal, RequestTooLargeError) else type(refusal).__name__
        return replace(quote, refused=f"{kind}: {refusal}")


def _queue_s(tier_line: TierLine, line: DeploymentLine) -> float:
    """How long a call that comes now waits for a seat: those ahead of it, at the usual pace."""
    pool, usual_s = tier_line.pool, line.pace.history.quantile(0.5)
    if pool is None or usual_s is None or pool.in_use < pool.size:
        return 0.0
    return usual_s * (pool.waiting + 1) / pool.size

"""What a call would use in each tier it may be served by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from ..errors import RequestTooLargeError
from .either import both_costs, both_latencies, either_cost, either_latency

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
    a cheap tier is of both its steps, and of the second opinion that it asks for.
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
        cost_usd, latency_s = cheap.cost_usd, cheap.latency_s
        other = self._second(call)
        if other is not None:
            step = call.copy()
            step.tier = other.tier.name
            second = self._at(self.lines[step.tier], step, exact, (other,))
            cost_usd = both_costs(cost_usd, second.cost_usd)
            latency_s = both_latencies(latency_s, second.latency_s)
        rate = cascading.verdicts.rate()
        return replace(
            cheap,
            cost_usd=either_cost(cost_usd, strong.cost_usd, rate),
            latency_s=either_latency(latency_s, strong.latency_s, rate, cascading.ways.judge_s()),
            tiers=found,
        )

    def _second(self, call: Call) -> DeploymentLine | None:
        """Where a cascaded call asks for a second opinion, if it does."""
        second = None if self.cascading is None else self.cascading.second
        return None if second is None else second.place(call)

    def _way(self, call: Call) -> Way | None:
        """How the call is cascaded, if it is."""
        cascading = self.cascading
        if cascading is None or cascading.settings.mode == "observe":
            return None
        way = cascading.ways.of(call)
        return way if way is not None and cascading.ways.in_time(call, way) else None

    def dearest_usd(self, call: Call) -> Decimal | None:
        """The worst case of one attempt at any place that the call may come to; ``None``: not known.

        Of a cascaded call that is the dearest place's, and the cheap tier's before it, with the second
        opinion.
        """
        assert call.plan is not None
        dearest = self._dearest(call, self._lines_of(call.plan.tiers))
        way = self._way(call)
        if dearest is None or way is None:
            return dearest
        other = self._second(call)
        first = self._dearest(call, self.lines[way.cheap].lines)
        second = self._dearest(call, () if other is None else (other,))
        return None if first is None or second is None else dearest + first + second

    def _lines_of(self, tiers: Sequence[str]) -> list[DeploymentLine]:
        return [line for tier in tiers for line in self.lines[tier].lines]

    def _dearest(self, call: Call, places: Sequence[DeploymentLine]) -> Decimal | None:
        dearest = Decimal(0)
        for line in places:
            if not call.request.require <= line.deployment.labels:
                continue
            step = call.copy()
            step.tier = line.tier.name
            fit = line.fitted(step)
            cost = self.estimator.quote(line.place, fit.messages, fit.params).cost_usd
            if cost is None:
                return None
            dearest = max(dearest, cost.max)
        return dearest

    def _at(
        self,
        tier_line: TierLine,
        call: Call,
        exact: bool | None,
        places: Sequence[DeploymentLine] | None = None,
    ) -> Estimate:
        """At the first place that would serve it, of these or of all in the tier."""
        places = tier_line.lines if places is None else places
        able = [line for line in places if call.request.require <= line.deployment.labels]
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

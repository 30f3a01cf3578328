"""What a call uses that takes one step for sure, and a second one perhaps; or two at the same time."""

from __future__ import annotations

from decimal import Context, Decimal
from statistics import NormalDist
from typing import Final

from ..cost.estimate import Cost, Latency

__all__ = ["both_costs", "both_latencies", "either_cost", "either_latency"]

_EXACT: Final = Context(prec=60)
_NORMAL: Final = NormalDist()
_AT_P90: Final = _NORMAL.inv_cdf(0.9)
_NEVER, _ALWAYS = 1e-6, 1 - 1e-6


def both_costs(one: Cost | None, other: Cost | None) -> Cost | None:
    """Two steps side by side, each with a price of its own; ``None`` where one is not known."""
    if one is None or other is None:
        return None
    most = _EXACT.add(one.max, other.max)
    p50 = _EXACT.add(one.p50, other.p50)
    p90 = p50 + ((one.p90 - one.p50) ** 2 + (other.p90 - other.p50) ** 2).sqrt()
    sd = (one.sd**2 + other.sd**2).sqrt()
    return Cost(min(p50, most), min(max(p50, p90), most), most, _EXACT.add(one.mean, other.mean), sd)


def both_latencies(one: Latency | None, other: Latency | None) -> Latency | None:
    """The slower of the two, at each quantile."""
    if one is None or other is None:
        return None
    return Latency(max(one.p50, other.p50), max(one.p90, other.p90), max(one.p95, other.p95))


def either_cost(first: Cost | None, second: Cost | None, rate: float) -> Cost | None:
    """The first step's, and with a chance of ``rate`` the second's too; ``None`` where one is not known.

    ``max`` is both. The quantiles are those of the mixture of the two cases, each spread like a normal
    distribution between its p50 and its p90: where fewer than a tenth go on, p90 is that of the first alone.
    """
    if first is None or second is None:
        return None
    chance = Decimal(str(round(rate, 6)))
    p50, p90 = (
        _EXACT.add(_between(first.p50, first.p90, one), _between(second.p50, second.p90, other))
        for one, other in (_steps(0.5, rate), _steps(0.9, rate))
    )
    most = _EXACT.add(first.max, second.max)
    variance = first.sd**2 + chance * second.sd**2 + chance * (1 - chance) * second.mean**2
    return Cost(
        min(p50, most),
        min(max(p50, p90), most),
        most,
        _EXACT.fma(chance, second.mean, first.mean),
        variance.sqrt(),
    )


def either_latency(
    first: Latency | None, second: Latency | None, rate: float, judge_s: float
) -> Latency | None:
    """The same of seconds, with those that the judge takes."""
    if first is None or second is None:
        return None
    p50, p90, p95 = (
        judge_s + _at(first.p50, first.p90, one) + _at(second.p50, second.p90, other)
        for one, other in (_steps(0.5, rate), _steps(0.9, rate), _steps(0.95, rate))
    )
    return Latency(p50, max(p50, p90), max(p50, p90, p95))


def _steps(quantile: float, rate: float) -> tuple[float, float | None]:
    """At which quantile each step is, where the sum of both is at ``quantile``; ``None``: not taken."""
    stays = 1 - rate
    if quantile <= stays:
        return quantile / stays, None
    return 0.5, (quantile - stays) / rate


def _deviations(quantile: float) -> float:
    """How far up a quantile is, where p50 is 0 and p90 is 1."""
    return _NORMAL.inv_cdf(min(max(quantile, _NEVER), _ALWAYS)) / _AT_P90


def _at(p50: float, p90: float, quantile: float | None) -> float:
    return 0.0 if quantile is None else max(0.0, p50 + (p90 - p50) * _deviations(quantile))


def _between(p50: Decimal, p90: Decimal, quantile: float | None) -> Decimal:
    if quantile is None:
        return Decimal(0)
    up = Decimal(str(round(_deviations(quantile), 6)))
    return max(Decimal(0), _EXACT.fma(up, _EXACT.subtract(p90, p50), p50))

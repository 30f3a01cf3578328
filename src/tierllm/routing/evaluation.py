"""How good a choice between a weak and a strong model is, and how sure that can be said.

Calls are ordered by a score; the share of them that has the highest scores goes to the strong model. The
share of the quality gap that is recovered so, against the share of strong calls, is a curve from (0, 0) to
(1, 1); the area under it is the APGR of Ong et al. (RouteLLM, arXiv 2406.18665). Chance gives .5.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

__all__ = ["Evaluation", "Interval", "Point", "Weighed", "evaluated", "worth"]

GRID = tuple(step / 20 for step in range(21))
FINE = tuple(step / 100 for step in range(101))

MOST_WIDER = 5.0

MOST_WORK = 10_000_000
"""Calls times resamples: of very many calls there are fewer resamples, which vary less."""


class Interval(NamedTuple):
    """An estimate with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}…{self.high:.3f})"


class Weighed(NamedTuple):
    """One call as it is judged: the score that it had, and what each model would have made of it.

    ``weak`` and ``strong`` may be estimates for this call, right only in the mean: below 0 and above 1, too.
    ``group`` names those that are drawn together.
    """

    score: float
    weak: float
    strong: float
    group: int
    weak_usd: float | None = None
    strong_usd: float | None = None


class Point(NamedTuple):
    """What comes of sending ``share`` of the calls to the strong model. Dollars are those of one call."""

    share: float
    quality: Interval
    recovered: float
    usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What is known of a choice between two models.

    ``weak``, ``strong`` and ``gap`` are the qualities of always-weak and always-strong, and their difference.
    ``lift`` is how much better the answers are than with as many strong calls drawn by chance, in the mean of
    all shares; ``apgr`` says the same in parts of the gap, and is steady only where the gap is. ``curve`` has
    a point for each twentieth, ``at_share`` is the one asked about, ``recovered`` the part of the gap there.
    ``saved`` is the part of always-strong's cost that is saved there; ``enough_share`` the smallest share
    that keeps 95 % of always-strong's quality, and ``enough_saved`` what that saves. ``important`` counts
    important calls, ``important_to_weak`` those whose score alone would have sent them to the weak model.
    ``doubts`` says why nothing can be claimed; empty: it is better than chance.
    """

    calls: int
    groups: int
    weak: Interval
    strong: Interval
    gap: Interval
    apgr: Interval
    lift: Interval
    curve: tuple[Point, ...]
    at_share: Point
    recovered: Interval
    saved: Interval | None
    enough_share: Interval | None
    enough_saved: Interval | None
    important: int
    important_to_weak: int
    doubts: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; an interval as value, low and high, what is no number as ``None``."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _plain(value) for name, value in told.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Interval | Point):
        return {name: _plain(each) for name, each in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluated(
    calls: Sequence[Weighed],
    *,
    share: float,
    important: Sequence[float] = (),
    doubts: Sequence[str] = (),
    resamples: int = 500,
    seed: int = 0,
) -> Evaluation:
    """Judge the order that the scores give to ``calls``. Intervals are of a bootstrap over groups.

    (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993: percentile intervals.) Calls with equal
    scores come in an order drawn by ``seed``, which the resamples depend on, too. ``important`` are the
    ranks of important calls' scores, from 0 (lowest) to 1. Raises ``ValueError`` for no calls at all.
    """
    if not calls:
        raise ValueError("there is nothing to judge")
    rng = random.Random(seed)
    order = list(calls)
    rng.shuffle(order)
    order.sort(key=lambda call: -call.score)
    priced = all(call.weak_usd is not None and call.strong_usd is not None for call in order)
    whole = _Round(order, None, priced)
    resamples = max(100, min(resamples, MOST_WORK // len(order)))
    rounds = [_Round(order, times, priced) for times in _resampled(order, rng, resamples)]

    wider = _wider(order)

    def interval(of: Callable[[_Round], float]) -> Interval:
        values = sorted(value for value in map(of, rounds) if math.isfinite(value))
        value = of(whole)
        low, high = _quantile(values, 0.025), _quantile(values, 0.975)
        return Interval(
            value, min(low, value + wider * (low - value)), max(high, value + wider * (high - value))
        )

    def point(at: float) -> Point:
        return Point(
            at,
            interval(lambda r: r.quality(at)),
            whole.recovered(at),
            whole.usd(at) if priced else None,
        )

    curve = tuple(point(at) for at in GRID)
    lift, gap = interval(_Round.lift), interval(_Round.gap)
    reasons = list(doubts)
    if not gap.low > 0:
        reasons.append(
            f"the strong model is not certainly better than the weak one: {gap.value:+.3f}, "
            f"between {gap.low:+.3f} and {gap.high:+.3f}"
        )
    if not lift.low > 0:
        reasons.append(
            f"the interval contains chance: {lift.value:+.3f} against it, between {lift.low:+.3f} "
            f"and {lift.high:+.3f}"
        )
    return Evaluation(
        calls=len(order),
        groups=len({call.group for call in order}),
        weak=interval(lambda r: r.quality(0.0)),
        strong=interval(lambda r: r.quality(1.0)),
        gap=gap,
        apgr=interval(_Round.apgr),
        lift=lift,
        curve=curve,
        at_share=point(share),
        recovered=interval(lambda r: r.recovered(share)),
        saved=interval(lambda r: r.saved(share)) if priced else None,
        enough_share=interval(_Round.enough) if gap.value > 0 else None,
        enough_saved=interval(lambda r: r.saved(r.enough())) if priced and gap.value > 0 else None,
        important=len(important),
        important_to_weak=sum(rank < 1.0 - share for rank in important),
        doubts=tuple(reasons),
    )


def worth(propensities: Sequence[float]) -> float:
    """As many outcomes drawn at random say as much as these, each weighed by its chance (Kish, 1965)."""
    rarest = min(propensities, default=1.0)
    weights = [rarest / propensity for propensity in propensities]  # as large as they are, no overflow
    squares = sum(weight * weight for weight in weights)
    return sum(weights) ** 2 / squares if squares else 0.0


class _Round:
    """One resample: sums over the calls in the order of their scores, best first.

    Sums are kept at the hundredths of the way; in between they are taken to grow evenly.
    """

    __slots__ = ("area", "cost", "cost_gain", "gain", "total", "weak_sum")

    def __init__(self, order: Sequence[Weighed], times: Sequence[int] | None, priced: bool) -> None:
        total = len(order) if times is None else sum(times)
        self.total = float(total)
        self.weak_sum = self.cost = self.area = 0.0
        gain = cost_gain = done = 0.0
        self.gain, self.cost_gain = [0.0], [0.0]
        step = total / 100
        due = step
        for at, call in enumerate(order):
            count = 1 if times is None else times[at]
            if not count:
                continue
            more = (call.strong - call.weak) * count
            dearer = (call.strong_usd - call.weak_usd) * count if priced else 0.0  # type: ignore[operator]
            end = done + count
            while due <= end and len(self.gain) < 100:
                part = (due - done) / count
                self.gain.append(gain + part * more)
                self.cost_gain.append(cost_gain + part * dearer)
                due += step
            self.area += (total - done - count / 2) * more
            self.weak_sum += call.weak * count
            if priced:
                self.cost += call.weak_usd * count  # type: ignore[operator]
            gain += more
            cost_gain += dearer
            done = end
        while len(self.gain) < 101:
            self.gain.append(gain)
            self.cost_gain.append(cost_gain)

    def gap(self) -> float:
        return self.gain[100] / self.total

    def apgr(self) -> float:
        return self.area / self.total / self.gain[100] if self.gain[100] else math.nan

    def lift(self) -> float:
        return (self.area / self.total - self.gain[100] / 2) / self.total

    def quality(self, share: float) -> float:
        return (self.weak_sum + _between(self.gain, share)) / self.total

    def recovered(self, share: float) -> float:
        return _between(self.gain, share) / self.gain[100] if self.gain[100] else math.nan

    def usd(self, share: float) -> float:
        return (self.cost + _between(self.cost_gain, share)) / self.total

    def saved(self, share: float) -> float:
        dearest = self.usd(1.0)
        return 1.0 - self.usd(share) / dearest if dearest > 0 else math.nan

    def enough(self) -> float:
        """The smallest share that keeps 95 % of the quality of always-strong."""
        least = 0.95 * self.quality(1.0)
        return next((share for share in FINE if self.quality(share) >= least), 1.0)


def _between(sums: Sequence[float], share: float) -> float:
    at = min(max(share, 0.0), 1.0) * 100
    below = min(int(at), 99)
    return sums[below] + (at - below) * (sums[below + 1] - sums[below])


def _resampled(order: Sequence[Weighed], rng: random.Random, resamples: int) -> Iterator[list[int]]:
    """How often each call is drawn in each resample; those of one group are drawn together."""
    groups = list(dict.fromkeys(call.group for call in order))
    for _ in range(resamples):
        drawn = Counter(rng.choices(groups, k=len(groups)))
        yield [drawn[call.group] for call in order]


def _wider(order: Sequence[Weighed]) -> float:
    """How much wider an interval has to be where few groups are drawn from: a bootstrap does not know.

    By the quantile of Student's distribution (Cornish and Fisher's expansion), for as many groups of like
    size as these are worth, and by the degree of freedom that the mean has taken.
    """
    sizes = Counter(call.group for call in order).values()
    groups = sum(sizes) ** 2 / sum(size * size for size in sizes)
    if groups < 2:
        return MOST_WIDER
    free = groups - 1
    return min(MOST_WIDER, (1 + 1.21 / free + 1.44 / free**2) * math.sqrt(groups / free))


def _quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values, between neighbours; NaN for none."""
    if not values:
        return math.nan
    at = share * (len(values) - 1)
    below = math.floor(at)
    above = min(below + 1, len(values) - 1)
    return values[below] + (at - below) * (values[above] - values[below])

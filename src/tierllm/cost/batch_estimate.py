"""What many calls will use together, before they are sent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Final

from .estimate import Cost, Estimate, Tokens

__all__ = ["BatchEstimate", "Total", "total"]

_EXACT: Final = Context(prec=60)  # the caller's own context must not round what a batch costs

P90 = 1.2816
"""Standard deviations from the mean to the 90th percentile of a normal distribution."""

ALIKE = 4
"""So many answers that came one after the other tell as much as a single independent one.

Measured: with 4, 84 to 96 % of batches of 500 calls of three traces stay within their P90; with 1,
75 to 91 %.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEstimate:
    """What ``count`` calls will use together; ``unpriced`` of them are not in ``cost_usd``.

    A sum is not as uncertain as its parts: the sum of the P90s would be passed almost never. So:

    - ``mean`` is the sum of the means and ``max`` the sum of the worst cases; both hold always.
    - ``p50`` is the mean, as for a normal distribution, which sums tend to.
    - ``p90`` is the mean plus 1.28 standard deviations. These have two parts. How long each answer
      turns out is its own matter, and evens out (variances add up). How far off the learnt mean is
      concerns all the calls of a place alike, and does not: sd/√(samples/4) of each, added up as they
      are, since answers close in time resemble each other; places are independent.
    - Where nothing was learnt yet, and where input was guessed, errors may all go the same way: there
      the distances from mean to P90 are added in full.

    One call has the P50 and P90 of its own estimate. ``cost_usd`` is ``None`` where no call has a price.
    """

    count: int
    input_tokens: Tokens
    output_tokens: Tokens
    cost_usd: Cost | None
    unpriced: int


Where = tuple[str, str, str]


class Sum:
    """The sum of one quantity over many calls, as ``BatchEstimate`` describes it."""

    __slots__ = ("_aligned", "_shared", "_variance", "max", "mean")

    def __init__(self) -> None:
        self.mean = self.max = Decimal(0)
        self._aligned = 0.0
        self._variance = 0.0
        self._shared: dict[Where, float] = {}

    def add(self, mean: Decimal, max: Decimal, *, aligned: float) -> None:
        """``aligned``: how far P90 may be above the mean for reasons that all calls have in common."""
        self.mean = _EXACT.add(self.mean, mean)
        self.max = _EXACT.add(self.max, max)
        self._aligned += aligned

    def add_learnt(self, where: Where, sd: float, samples: int) -> None:
        """The spread of an answer that ``samples`` others of that place told."""
        self._variance += sd * sd
        self._shared[where] = self._shared.get(where, 0.0) + sd * math.sqrt(ALIKE / samples)

    @property
    def sd(self) -> float:
        return math.sqrt(self._variance + sum(error * error for error in self._shared.values()))

    @property
    def p90(self) -> Decimal:
        above = _EXACT.create_decimal_from_float(self._aligned + P90 * self.sd)
        return max(self.mean, min(self.max, _EXACT.add(self.mean, above)))


class Total:
    """Adds up estimates one by one. Not thread-safe."""

    def __init__(self) -> None:
        self._count = self._unpriced = 0
        self._only: Estimate | None = None
        self._input, self._output, self._cost = Sum(), Sum(), Sum()

    def add(self, estimate: Estimate) -> None:
        """One more call."""
        self._count += 1
        self._only = estimate if self._count == 1 else None
        where = (estimate.tier, estimate.deployment, estimate.model)
        asked, answer, cost = estimate.input_tokens, estimate.output_tokens, estimate.cost_usd
        learnt = answer.samples > 0
        self._input.add(_exactly(asked.mean), Decimal(asked.max), aligned=max(0.0, asked.p90 - asked.mean))
        own = 0.0 if learnt else max(0.0, answer.p90 - answer.mean)
        self._output.add(_exactly(answer.mean), Decimal(answer.max), aligned=own)
        if learnt:
            self._output.add_learnt(where, answer.sd, answer.samples)
        if cost is None:
            self._unpriced += 1
            return
        above = float(_EXACT.subtract(cost.p90, cost.mean))
        if learnt:
            # the answer's share of the distance is in its sd; what is left is the input's
            usd_per_token = float(cost.sd) / answer.sd if answer.sd else 0.0
            above = float(_EXACT.subtract(cost.p90, cost.p50)) - usd_per_token * (answer.p90 - answer.p50)
            self._cost.add_learnt(where, float(cost.sd), answer.samples)
        self._cost.add(cost.mean, cost.max, aligned=above if above > 1e-15 else 0.0)

    def result(self) -> BatchEstimate:
        """All of them together."""
        only = self._only
        if only is not None:
            cost, asked, answer = only.cost_usd, only.input_tokens, only.output_tokens
        else:
            asked, answer = summed(self._input), summed(self._output)
            money = self._cost
            cost = (
                Cost(
                    p50=money.mean,
                    p90=money.p90,
                    max=money.max,
                    mean=money.mean,
                    sd=_EXACT.create_decimal_from_float(money.sd),
                )
                if self._count > self._unpriced
                else None
            )
        return BatchEstimate(
            count=self._count,
            input_tokens=asked,
            output_tokens=answer,
            cost_usd=cost,
            unpriced=self._unpriced,
        )


def total(estimates: Iterable[Estimate]) -> BatchEstimate:
    """``estimates`` as one. They may come from a generator: nothing is kept of them but sums."""
    adding = Total()
    for estimate in estimates:
        adding.add(estimate)
    return adding.result()


def _exactly(number: float) -> Decimal:
    return Decimal.from_float(number)  # also where the caller's context traps floats


def summed(tokens: Sum) -> Tokens:
    p50 = round(tokens.mean)
    if tokens.max == tokens.mean == p50:
        return Tokens(p50)
    p90 = max(p50, math.ceil(tokens.p90))
    return Tokens(p50, p90, max(p90, int(tokens.max)), mean=float(tokens.mean), sd=tokens.sd)

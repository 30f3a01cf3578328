"""What a model would have made of calls that it was not asked about.

The doubly robust estimator of Dudík, Langford and Li, *Doubly Robust Policy Evaluation and Learning* (2011).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .samples import Sample

__all__ = ["Expected"]

BINS = 10

PRIOR = 5.0
"""How many outcomes the mean of all counts for, beside those of a bin."""


class Expected:
    """What one model makes of calls, whether it was asked or not: right in the mean of many calls.

    An outcome is expected to be the mean of those with a like score, without the call's own fold; where the
    model was called, it is put right by how much that was wrong, divided by the chance of the call.
    """

    def __init__(
        self,
        judging: Sequence[tuple[Sample, float, int]],
        known: Callable[[Sample], float | None],
        *,
        folds: int,
        of: Callable[[Sample], float | None] | None = None,
    ) -> None:
        """``of`` tells the outcome that ``known`` goes with: ``share`` says of how many it does."""
        self._known = known
        of = of or known
        self._sums = [[[0.0, 0.0] for _ in range(BINS)] for _ in range(folds)]
        whole = [0.0, 0.0]
        called = told = 0
        for sample, rank, fold in judging:
            value = known(sample)
            called += of(sample) is not None
            if value is None:
                continue
            told += 1
            weight = 1.0 / (sample.propensity or 1.0)
            cell = self._sums[fold][_bin(rank)]
            for sums in (cell, whole):
                sums[0] += weight * value
                sums[1] += weight
        self._mean = whole[0] / whole[1] if whole[1] else 0.0
        self.share = told / called if called else 0.0
        self._cells = [[self._expected(fold, at) for at in range(BINS)] for fold in range(folds)]

    def _expected(self, fold: int, at: int) -> float:
        others = [sums[at] for other, sums in enumerate(self._sums) if other != fold]
        total, weight = sum(each[0] for each in others), sum(each[1] for each in others)
        return (total + PRIOR * self._mean) / (weight + PRIOR)

    def of(self, sample: Sample, rank: float, fold: int) -> float:
        value = self._known(sample)
        if value is not None and sample.is_whole:
            return value
        expected = self._cells[fold][_bin(rank)]
        if value is None:
            return expected
        return expected + (value - expected) / (sample.propensity or 1.0)


def _bin(rank: float) -> int:
    return min(BINS - 1, int(rank * BINS))

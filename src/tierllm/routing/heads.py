"""Two predictions from the same features: the weak model does well, the strong model does well."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import exp, sqrt

__all__ = ["Heads"]

STEP = 0.2
"""The first step of a weight; each of the following is smaller, by AdaGrad (Duchi et al., JMLR 2011)."""

FIRST = 0.01
"""What each sum of squares starts with: a word that was seen once has not the last word."""

MOST_SQUARES = 25.0
"""Where a sum of squares stops growing, so that it never stops learning: models and work change."""

MOST = 4.0
"""No weight gets larger, on either side."""

WEAK, STRONG = 0, 1


class Heads:
    """Two logistic regressions over hashed features, each learning from outcomes of its own model.

    One head for "the weak model fails" would be simpler and does much worse: what nobody can answer is no
    reason for the stronger model. A text's features have equal values, and a length of 1 together, so that a
    long text moves as much as a short one. Not thread-safe.
    """

    __slots__ = ("bias", "bias_squares", "squares", "weights")

    def __init__(self, buckets: int) -> None:
        self.weights = [array("f", bytes(4 * buckets)) for _ in range(2)]
        self.squares = [array("f", [FIRST]) * buckets for _ in range(2)]
        self.bias = [0.0, 0.0]
        self.bias_squares = [FIRST, FIRST]

    def predict(self, buckets: Sequence[int]) -> tuple[float, float]:
        """How well the weak and the strong model will do, each 0…1."""
        weak, strong = self.weights
        scale = 1.0 / sqrt(len(buckets) or 1)
        return (
            logistic(self.bias[WEAK] + scale * sum([weak[at] for at in buckets])),
            logistic(self.bias[STRONG] + scale * sum([strong[at] for at in buckets])),
        )

    def learn(self, head: int, buckets: Sequence[int], outcome: float, weight: float) -> None:
        """One step of one head towards an outcome. ``weight`` (0…1) is how much of a step."""
        weights, squares = self.weights[head], self.squares[head]
        scale = 1.0 / sqrt(len(buckets) or 1)
        error = logistic(self.bias[head] + scale * sum([weights[at] for at in buckets])) - outcome
        slope = error * scale
        square = slope * slope
        # the weight scales the step as well as what is remembered of it: AdaGrad would even out a gradient
        # that is small from the start, and a doubted outcome would move a new word as far as any other
        kept, step = square * weight, STEP * slope * weight
        for at in buckets:
            old = squares[at]
            moved = weights[at] - step / sqrt(old + square)
            weights[at] = -MOST if moved < -MOST else MOST if moved > MOST else moved
            if old < MOST_SQUARES:
                squares[at] = old + kept
        old = self.bias_squares[head]
        moved = self.bias[head] - STEP * error * weight / sqrt(old + error * error)
        self.bias[head] = max(-MOST, min(MOST, moved))
        if old < MOST_SQUARES:
            self.bias_squares[head] = old + error * error * weight

    def copy(self) -> Heads:
        twin = Heads(0)
        twin.weights, twin.squares = [t[:] for t in self.weights], [t[:] for t in self.squares]
        twin.bias, twin.bias_squares = self.bias[:], self.bias_squares[:]
        return twin

    def pull(self, bucket: int) -> tuple[float, float]:
        """What one bucket adds for the weak and for the strong model, before the scale of a text's length."""
        return self.weights[WEAK][bucket], self.weights[STRONG][bucket]


def logistic(x: float) -> float:
    return 1.0 / (1.0 + exp(-x)) if x > -700.0 else 0.0

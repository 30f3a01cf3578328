"""What a vendor reports against what was estimated, learnt call by call."""

from __future__ import annotations

import math

from ...errors import ConfigError

__all__ = ["Correction"]


class Correction:
    """The factor between estimated and reported input tokens at one deployment.

    An exponentially weighted mean of their ratio: the plain mean of the first calls, then each
    new one with ``weight`` (0…1). What cannot be (zero, negative, not a number) is ignored, and a
    single ratio counts for no more than ``most`` and no less than its inverse, as does ``factor``.
    Before anything was learnt, ``factor`` is 1. Of calls that end at the same moment in several
    threads one may be lost; the factor is always sound.
    """

    __slots__ = ("_least", "_most", "_state", "_weight")

    def __init__(self, *, weight: float = 0.1, most: float = 4.0) -> None:
        if not 0 < weight <= 1 or not 1 <= most < math.inf:
            raise ConfigError(
                f"Correction(weight={weight!r}, most={most!r}): give a weight in 0…1 and most ≥ 1"
            )
        self._weight, self._most, self._least = weight, most, 1 / most
        self._state = (0, 1.0)  # replaced as one, so that no reader sees half of it

    def __repr__(self) -> str:
        return f"Correction(factor={self.factor:.3f}, calls={self.calls})"

    @property
    def factor(self) -> float:
        """Multiply an estimate by this."""
        return self._state[1]

    @property
    def calls(self) -> int:
        """How many reports were learnt from."""
        return self._state[0]

    def learn(self, estimated: float, reported: float | None) -> None:
        """Take in a call's estimate and the vendor's report, both in tokens. Never raises."""
        try:
            if not (0 < estimated < math.inf and 0 < reported < math.inf):  # type: ignore[operator]
                return
            ratio = reported / estimated  # type: ignore[operator]
        except (TypeError, ValueError, ArithmeticError):
            return  # a report is not ours, and may be anything
        ratio = min(max(float(ratio), self._least), self._most)
        calls, factor = self._state
        calls += 1
        self._state = (calls, factor + max(self._weight, 1 / calls) * (ratio - factor))

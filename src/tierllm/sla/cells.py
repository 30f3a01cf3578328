"""Counts over the last 20 seconds, minute and five minutes. Pure state, without a lock."""

from __future__ import annotations

import math
from collections import deque

from .goals import SPANS_S

__all__ = ["CELL_S", "Cells"]

CELL_S = 5.0
"""What happened is counted by cells of so many seconds: a window is shorter than it says by less than one."""

CELLS = tuple(round(span / CELL_S) for span in SPANS_S)


class Cells:
    """So many counts as ``width`` says, side by side, in cells of five seconds."""

    __slots__ = ("_cells", "_ends_at", "_number", "_width")

    def __init__(self, width: int) -> None:
        self._width = width
        self.forget(0.0)

    def forget(self, now: float) -> None:
        self._cells = deque([[0] * self._width], maxlen=CELLS[-1])
        self.set_back(now)

    def set_back(self, now: float) -> None:
        """The clock says ``now``: what was so long ago before still is."""
        self._number = math.floor(now / CELL_S)
        self._ends_at = (self._number + 1) * CELL_S

    def at(self, now: float) -> list[int]:
        """The present cell."""
        if now >= self._ends_at:
            passed = math.floor(now / CELL_S) - self._number
            for _ in range(min(passed, CELLS[-1])):
                self._cells.append([0] * self._width)
            self.set_back(now)
        return self._cells[-1]

    def sums(self, now: float) -> list[list[int]]:
        """What there is in each window, the shortest first."""
        self.at(now)
        sums = [0] * self._width
        found: list[list[int]] = []
        for age, cell in enumerate(reversed(self._cells), start=1):
            sums = [total + more for total, more in zip(sums, cell, strict=True)]
            if age in CELLS:
                found.append(sums)
        return found + [sums] * (len(CELLS) - len(found))

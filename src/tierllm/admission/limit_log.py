"""What was taken in the last minute, or day: exact over every sliding window."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

__all__ = ["DAY_S", "MINUTE_S", "Cell", "Lack", "LimitLog", "Shape"]

MINUTE_S: Final = 60.0
DAY_S: Final = 86_400.0

CELLS = 10_000
"""A window is kept in so many cells at most; all takes of one cell count as made with its last."""


class Shape(NamedTuple):
    """What a log bounds: requests, tokens, input tokens, output tokens in ``window_s`` (``inf``: not).

    ``names`` are the settings' names of the four. ``spares`` are tiers whose takes it leaves out: it then
    bounds what is left over for the others.
    """

    window_s: float
    most: tuple[float, float, float, float]
    names: tuple[str, str, str, str]
    spares: frozenset[str] = frozenset()


class Lack(NamedTuple):
    """Why something does not fit: which limit, and when it will (on the log's clock; ``inf``: unknown)."""

    dimension: str
    frees_at: float
    asked: int
    most: int
    never: bool = False


class Cell:
    """Takes made at about the same time, ``at`` the latest of them. ``log``: ``None`` once they are over."""

    __slots__ = ("at", "begun_at", "input_tokens", "log", "output_tokens", "requests")

    def __init__(
        self, log: LimitLog, at: float, requests: int, input_tokens: int, output_tokens: int
    ) -> None:
        self.log: LimitLog | None = log
        self.begun_at = self.at = at
        self.requests = requests
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens


class LimitLog:
    """The takes of the last ``window_s`` seconds and their sums. Pure state; its owner locks.

    A take made at ``t`` counts before ``t + window_s``, so that no half-open window of that length holds
    more than the limit. Corrections go into the cell of their take, and matter for as long as that does:
    one that was larger than its reservation is a debt, for which later takes wait.

    An interrupt (Ctrl-C, a time limit by signal) may end any of this half-way: the log is ``torn`` then, and
    its sums are made anew from its cells.
    """

    __slots__ = (
        "cells",
        "head",
        "input_tokens",
        "most_input",
        "most_output",
        "most_requests",
        "most_tokens",
        "output_tokens",
        "requests",
        "shape",
        "torn",
        "width_s",
        "window_s",
    )

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.window_s = shape.window_s
        self.width_s = shape.window_s / CELLS
        self.most_requests, self.most_tokens, self.most_input, self.most_output = shape.most
        self.cells: list[Cell] = []
        self.head = 0
        self.requests = self.input_tokens = self.output_tokens = 0
        self.torn = False

    def fits(self, requests: int, input_tokens: int, output_tokens: int, now: float) -> bool:
        """Whether so much more stays within every limit at ``now``."""
        if not self.cells:
            if self.torn:
                self.forget(now)
        elif self.cells[self.head].at + self.window_s <= now:
            self.forget(now)
        input_tokens += self.input_tokens
        output_tokens += self.output_tokens
        return (
            self.requests + requests <= self.most_requests
            and input_tokens + output_tokens <= self.most_tokens
            and input_tokens <= self.most_input
            and output_tokens <= self.most_output
        )

    def add(self, requests: int, input_tokens: int, output_tokens: int, now: float) -> Cell:
        """Book a take, fitting or not."""
        try:
            self.requests += requests
            self.input_tokens += input_tokens
            self.output_tokens += output_tokens
            cells = self.cells
            if cells:
                last = cells[-1]
                if now - last.begun_at < self.width_s:  # or a clock that was read before another's turn
                    if now > last.at:
                        last.at = now
                    last.requests += requests
                    last.input_tokens += input_tokens
                    last.output_tokens += output_tokens
                    return last
            cell = Cell(self, now, requests, input_tokens, output_tokens)
            cells.append(cell)
            return cell
        except BaseException:
            self.torn = True
            raise

    def forget(self, now: float) -> None:
        """Let go of what is over."""
        cells, window_s = self.cells, self.window_s
        end = len(cells)
        if self.torn:
            self._mend()
        try:
            while self.head < end:
                cell = cells[self.head]
                if cell.at + window_s > now:
                    break
                self.head += 1  # first: nothing may be subtracted twice
                cell.log = None
                self.requests -= cell.requests
                self.input_tokens -= cell.input_tokens
                self.output_tokens -= cell.output_tokens
            if self.head == end:
                self.head = self.requests = self.input_tokens = self.output_tokens = 0
                cells.clear()
            elif self.head > 64 and self.head * 2 > end:
                over, self.head = self.head, 0
                del cells[:over]
        except BaseException:  # all cells there are count again, and go next
            self.head = 0
            self.torn = True
            raise

    def _mend(self) -> None:
        """The sums by the cells."""
        self.requests = sum(cell.requests for cell in self.cells[self.head :])
        self.input_tokens = sum(cell.input_tokens for cell in self.cells[self.head :])
        self.output_tokens = sum(cell.output_tokens for cell in self.cells[self.head :])
        self.torn = False

    def lack(
        self,
        requests: int,
        input_tokens: int,
        output_tokens: int,
        now: float,
        copies: int = 1,
        owed: int = 0,
    ) -> Lack | None:
        """What is in the way of so much more, ``copies`` times, and until when; ``None``: nothing.

        ``owed`` is output that is used beside what is booked. What is in the way of one of them alone is
        there for ever.
        """
        one = (requests, input_tokens + output_tokens, input_tokens, output_tokens)
        outputs = self.output_tokens + owed
        used = (self.requests, self.input_tokens + outputs, self.input_tokens, outputs)
        most = (self.most_requests, self.most_tokens, self.most_input, self.most_output)
        names = self.shape.names
        for at in range(4):
            if one[at] > most[at]:
                return Lack(names[at], math.inf, one[at], int(most[at]), never=True)
        over = [used[at] + copies * one[at] - most[at] for at in range(4)]
        worst: Lack | None = None
        for at in range(4):
            if over[at] > 0:
                frees_at = self._frees_at(at, over[at], now)
                if worst is None or frees_at > worst.frees_at:
                    worst = Lack(names[at], frees_at, one[at], int(most[at]))
        return worst

    def _frees_at(self, dimension: int, over: float, now: float) -> float:
        """When ``over`` of one dimension has left the window.

        More than all there is: copies that do not fit into one window together. The rest of them takes as
        many windows more.
        """
        cells = self.cells
        last = now
        for index in range(self.head, len(cells)):
            cell = cells[index]
            if dimension == 0:
                over -= cell.requests
            elif dimension == 1:
                over -= cell.input_tokens + cell.output_tokens
            elif dimension == 2:
                over -= cell.input_tokens
            else:
                over -= cell.output_tokens
            last = cell.at + self.window_s
            if over <= 0:
                return last
        most = (self.most_requests, self.most_tokens, self.most_input, self.most_output)[dimension]
        return last + self.window_s * math.ceil(over / max(1.0, most))

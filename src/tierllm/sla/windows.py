"""Counts over sliding windows of several lengths, in constant memory. Pure state, without a lock.

Cells of 15 s, 150 s, 15 min and 3 h, of each as many as its windows need:

    window   5 min   30 min   1 h     2 h      6 h      1 d   3 d
    cell     15 s    150 s    150 s   15 min   15 min   3 h   3 h

A window is the cell under way and as many whole ones before it as the window is long. So it is never
shorter than said, and longer by less than one cell.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

__all__ = ["CELL_S", "WINDOWS_S", "Windows", "quantile", "spaced", "with_own"]

CELL_S = 15.0

MOST = 2**32 - 1
"""What a count can hold."""

_CELLS: tuple[tuple[int, int], ...] = ((1, 20), (10, 24), (60, 24), (720, 24))
"""Of each ring, how many of the smallest cells one of its own spans, and how many whole ones it keeps."""

_WINDOWS: dict[float, tuple[int, int]] = {
    300.0: (0, 20),
    1_800.0: (1, 12),
    3_600.0: (1, 24),
    7_200.0: (2, 8),
    21_600.0: (2, 24),
    86_400.0: (3, 8),
    259_200.0: (3, 24),
}
"""Of each window, its ring and how many whole cells of it."""

WINDOWS_S: tuple[float, ...] = tuple(_WINDOWS)


class Ring:
    """The last whole cells of one width, and the one under way.

    ``firsts`` are the numbers of the first smallest cells in them in which anything was counted; a cell's own
    number follows from that.
    """

    __slots__ = ("cells", "costs", "dearest", "firsts", "per")

    def __init__(self, per: int, whole: int) -> None:
        size = whole + 1
        self.per = per
        self.firsts = array("q", [-1]) * size
        self.cells: list[bytes | None] = [None] * size  # half the overhead of an array
        self.costs = array("d", [0.0]) * size
        self.dearest = array("d", [0.0]) * size

    def take(
        self, first: int, cell: bytes, some: Sequence[tuple[int, int]], cost: float, dearest: float
    ) -> None:
        """Add a smallest cell, number ``first``; ``some`` are those of its counts that are not 0."""
        number = first // self.per
        at = number % len(self.cells)
        before = self.cells[at]
        if before is not None and self.firsts[at] // self.per == number:
            self.cells[at] = _with_some(before, some)
            self.costs[at] += cost
            self.dearest[at] = max(self.dearest[at], dearest)
        else:
            self.firsts[at] = first
            self.cells[at] = cell
            self.costs[at], self.dearest[at] = cost, dearest

    def before(self, number: int, whole: int) -> Iterator[int]:
        """Where the whole cells of a window are, of which cell ``number`` is under way."""
        begin, end = max(0, number - whole) * self.per, number * self.per
        for at, first in enumerate(self.firsts):
            if begin <= first < end:
                yield at

    def under_way(self, number: int) -> int | None:
        """Where the part of cell ``number`` is that has been put away."""
        at = number % len(self.cells)
        return at if self.firsts[at] // self.per == number else None


class Kept(NamedTuple):
    """The sum of a window's whole cells, which changes only as a new one begins."""

    number: int
    counts: bytes
    cost: float
    dearest: float
    first: int | None


NOTHING = Kept(-1, b"", 0.0, 0.0, None)


class Windows:
    """So many counts, over each of the windows; and a sum of costs with the dearest among them.

    The first ``head`` of the counts can be asked for often.

    Whoever counts looks first whether ``open_at <= now < ends_at``, and calls ``turn(now)`` where not;
    then adds to ``cell``, and to ``cost`` and ``dearest``. Threads come to count in another order than they
    asked for the time: the cell under way is open for those that are late by less than one. A clock that is
    set back counts into it, too, and time goes on from there.
    """

    __slots__ = (
        "_head",
        "_kept",
        "_number",
        "_rings",
        "_turning",
        "_width",
        "_zero_at",
        "begun_at",
        "cell",
        "cost",
        "dearest",
        "ends_at",
        "open_at",
    )

    def __init__(self, width: int, head: int) -> None:
        self._width = width
        self._head = head
        self._kept: dict[float, Kept] = {}
        self._turning = False
        self._rings: tuple[Ring, ...] = ()  # made with the first cell that is full
        self._zero_at: float | None = None
        self._number = 0
        self.open_at = self.begun_at = math.inf
        self.ends_at = -math.inf
        self.cell = [0] * width
        self.cost = self.dearest = 0.0

    @property
    def begun(self) -> bool:
        """Whether anything has been counted at all."""
        return self._zero_at is not None

    def turn(self, now: float) -> bool:
        """``now`` is not within the cell under way: begin the one it is in. Whether that is a new one."""
        zero_at = self._zero_at
        if zero_at is None:
            zero_at = self._zero_at = now
        number = int((now - zero_at) // CELL_S)
        if number < self._number:
            if now >= self.open_at:
                return False
            zero_at = self._zero_at = now - self._number * CELL_S
            number = self._number
        old, cost, dearest, was = self.cell, self.cost, self.dearest, self._number
        fresh, begun_at = [0] * self._width, zero_at + number * CELL_S
        if number > was:  # first of all: garbage collection may end a call, which counts, right here
            self.cell, self.cost, self.dearest, self._number = fresh, 0.0, 0.0, number
        self.begun_at, self.open_at, self.ends_at = begun_at, begun_at - CELL_S, begun_at + CELL_S
        if number > was and any(old):
            self._turning = True
            cell = _packed(old)
            some = [(at, count) for at, count in enumerate(old) if count]
            if not self._rings:
                rings = tuple(Ring(per, whole) for per, whole in _CELLS)
                self._rings = self._rings or rings  # which may have been made meanwhile, right here
            for ring in self._rings:
                ring.take(was, cell, some, cost, dearest)
            self._turning = False
        return number > was

    @property
    def elapsed_s(self) -> float:
        """Seconds from the first call to the beginning of the cell under way; they never go back."""
        return self._number * CELL_S

    def totals(self, window_s: float) -> list[int]:
        """The counts over a window that ends with the cell under way."""
        if not self._rings:
            return self.cell[:]
        place, whole = _WINDOWS[window_s]
        ring = self._rings[place]
        number = self._number // ring.per
        return self._with_present(
            ring, number, self._width, [ring.cells[at] for at in ring.before(number, whole)]
        )

    def head(self, window_s: float) -> tuple[list[int], float, float, float]:
        """The first counts over a window, the sum of costs and the largest cost; and for how many of its
        seconds there have been calls: since the first one in it, up to the cell under way."""
        if not self._rings:
            return self.cell[: self._head], self.cost, self.dearest, 0.0
        place, whole = _WINDOWS[window_s]
        ring = self._rings[place]
        number = self._number // ring.per
        kept = self._kept.get(window_s, NOTHING)
        if kept.number != number:
            kept = self._sum(ring, number, whole)
            if not self._turning:
                self._kept[window_s] = kept
        cost, dearest, first = kept.cost + self.cost, max(kept.dearest, self.dearest), kept.first
        at = ring.under_way(number)
        if at is not None:
            cost, dearest = cost + ring.costs[at], max(dearest, ring.dearest[at])
            first = ring.firsts[at] if first is None else first
        seconds = 0.0 if first is None else (self._number - first) * CELL_S
        return self._with_present(ring, number, self._head, [kept.counts]), cost, dearest, seconds

    def _sum(self, ring: Ring, number: int, whole: int) -> Kept:
        """The whole cells of a window."""
        found = [*ring.before(number, whole)]
        if not found:
            return Kept(number, b"", 0.0, 0.0, None)
        cells = [_unpacked(cell)[: self._head] for at in found if (cell := ring.cells[at]) is not None]
        return Kept(
            number,
            _packed(map(sum, zip(*cells, strict=True))),
            math.fsum(ring.costs[at] for at in found),
            max(ring.dearest[at] for at in found),
            min(ring.firsts[at] for at in found),
        )

    def _with_present(self, ring: Ring, number: int, stop: int, past: Iterable[bytes | None]) -> list[int]:
        """The sum of past cells and of what has been counted since, up to count ``stop``."""
        at = ring.under_way(number)
        present = None if at is None else ring.cells[at]
        cells = [_unpacked(cell)[:stop] for cell in (*past, present) if cell]
        return list(map(sum, zip(self.cell[:stop], *cells, strict=True)))


def _packed(values: Iterable[int]) -> bytes:
    listed = list(values)
    try:
        return array("I", listed).tobytes()
    except OverflowError:
        return array("I", [min(value, MOST) for value in listed]).tobytes()


def _with_some(cell: bytes, some: Sequence[tuple[int, int]]) -> bytes:
    """The sum of both. In most cells only a few counts are not 0."""
    room = bytearray(cell)
    counts = memoryview(room).cast("I")
    for at, count in some:
        counts[at] = min(MOST, counts[at] + count)
    return bytes(room)


def _unpacked(cell: bytes) -> memoryview[int]:
    return memoryview(cell).cast("I")


# -- histograms --------------------------------------------------------------------


def spaced(least: float, octaves: int) -> tuple[float, ...]:
    """Upper edges of a histogram's buckets, four to a doubling, from ``least`` up."""
    return tuple(least * 2 ** (step / 4) for step in range(octaves * 4 + 1))


def with_own(edges: Sequence[float], own: Iterable[float]) -> tuple[float, ...]:
    """``edges``, and one more at each of ``own``. A value equal to an edge is within its bucket.

    What lies beyond the last edge has a bucket of its own.
    """
    return tuple(sorted({*edges, *own}))


def quantile(counts: Sequence[int], edges: Sequence[float], share: float) -> float | None:
    """An estimate of the value that ``share`` of all are at or below; ``None`` where there are none.

    It lies in the same bucket as the true one, so it is off by a factor of 2 ** (1/4) (19 %) at most, save
    below the first edge. Beyond the last edge it is that edge: "at least so much".
    """
    total = sum(counts)
    if not total:
        return None
    rank, below = share * total, 0
    for at, count in enumerate(counts):
        if count and below + count >= rank:
            if at == len(edges):
                return edges[-1]
            part = min(1.0, max(0.0, (rank - below) / count))
            high = edges[at]
            if not at:
                return high * part
            low = edges[at - 1]
            return float(low * (high / low) ** part)
        below += count
    return edges[-1]

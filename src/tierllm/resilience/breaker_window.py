"""How many of the latest calls failed or were slow: by count or by time, in constant memory."""

from __future__ import annotations

from typing import Protocol

from ..pipeline.clock import Clock

__all__ = ["CountWindow", "TimeWindow", "Window"]

BUCKETS = 20


class Window(Protocol):
    """Totals over the latest calls. ``failures`` and ``slow`` overlap: a call can be both."""

    calls: int
    failures: int
    slow: int

    def add(self, failed: bool, slow: bool) -> bool:
        """Count a call. True when one more good and quick call would change nothing at all."""

    def roll(self) -> None:
        """Drop what is too old by now."""


class CountWindow:
    """The last ``size`` calls, as a ring of flags."""

    __slots__ = ("_at", "_ring", "calls", "failures", "size", "slow")

    def __init__(self, size: int) -> None:
        self.size = size
        self.calls = self.failures = self.slow = 0
        self._ring = bytearray(size)
        self._at = 0

    def add(self, failed: bool, slow: bool) -> bool:
        ring, at = self._ring, self._at
        old, new = ring[at], failed + 2 * slow
        if new != old:
            ring[at] = new
            self.failures += (new & 1) - (old & 1)
            self.slow += (new >> 1) - (old >> 1)
        at += 1
        self._at = at if at < self.size else 0
        if self.calls < self.size:
            self.calls += 1
        return not self.failures and not self.slow and self.calls == self.size

    def roll(self) -> None:
        """Only calls move this window."""


class TimeWindow:
    """The last ``span_s`` seconds, in buckets of a twentieth; the oldest is dropped whole.

    A clock that runs backwards counts into the newest bucket.
    """

    __slots__ = ("_buckets", "_clock", "_ends_at", "_newest", "_width_s", "calls", "failures", "slow")

    def __init__(self, span_s: float, clock: Clock) -> None:
        self.calls = self.failures = self.slow = 0
        self._clock = clock
        self._width_s = span_s / BUCKETS
        self._newest = int(clock() / self._width_s)
        self._ends_at = (self._newest + 1) * self._width_s
        self._buckets = [[0, 0, 0] for _ in range(BUCKETS)]

    def add(self, failed: bool, slow: bool) -> bool:
        if self._clock() >= self._ends_at:
            self.roll()
        bucket = self._buckets[self._newest % BUCKETS]
        bucket[0] += 1
        bucket[1] += failed
        bucket[2] += slow
        self.calls += 1
        self.failures += failed
        self.slow += slow
        return False

    def roll(self) -> None:
        newest = int(self._clock() / self._width_s)
        passed = newest - self._newest
        if passed <= 0:
            return
        for at in range(newest - min(passed, BUCKETS) + 1, newest + 1):
            bucket = self._buckets[at % BUCKETS]
            self.calls -= bucket[0]
            self.failures -= bucket[1]
            self.slow -= bucket[2]
            bucket[:] = 0, 0, 0
        self._newest = newest
        self._ends_at = (newest + 1) * self._width_s

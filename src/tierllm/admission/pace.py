"""How fast a queue moves. Pure state."""

from __future__ import annotations

import math
from collections import deque

__all__ = ["Throughput"]

SEEN = 33
"""Grants that are looked back on."""

ENOUGH = 9
"""With fewer, the time a call holds its place says more."""


class Throughput:
    """What a pool gets through, from its latest grants to calls that waited, and how long calls hold a place.

    The grants' rate counts only while somebody waits: an idle pool would seem slow. Until there are
    enough of them it is size / mean holding time (Little's law).
    """

    __slots__ = ("_granted", "held_s")

    def __init__(self) -> None:
        self.held_s: float | None = None
        """Seconds that a call holds its place: a moving mean of about the last 30."""
        self._granted: deque[float] = deque(maxlen=SEEN)

    def granted(self, now: float) -> None:
        """One that waited was given a place."""
        self._granted.append(now)

    def idle(self) -> None:
        """Nobody waits any more."""
        if self._granted:
            self._granted.clear()

    def ended(self, held_s: float) -> None:
        """A call gave its place back."""
        mean = self.held_s
        self.held_s = held_s if mean is None else mean + (held_s - mean) / 30

    def rate_per_s(self, now: float, size: float) -> float | None:
        """Calls a second."""
        granted = tuple(self._granted)
        if len(granted) >= ENOUGH and now > granted[0]:
            return len(granted) / (now - granted[0])
        if not self.held_s or size == math.inf:
            return None
        return size / self.held_s

"""Of which calls feedback is believed: an application may hand on ids that anybody has made up."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["KnownCalls"]

LONGEST_ID = 200

CALLS = 10_000
"""So many of the last calls are known at least, and twice as many at most."""

TIMES = 5
"""So often may something be said of one call, before it is as good as unknown."""

A_MINUTE = 60.0


class KnownCalls:
    """Ids of the calls that were noted lately.

    What is said of them is written down. Of other ids, which another process may have noted, or this one
    long ago, as many lines are written as calls were noted, and sixty a minute: so that calls are never
    outnumbered by what nobody has asked for. Safe for threads, as far as it matters: a race costs a line, or
    grants one.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._recent: dict[str, int] = {}
        self._older: dict[str, int] = {}
        self._credit = A_MINUTE
        self._at = clock()
        self.refused = 0

    def note(self, name: str) -> None:
        if len(self._recent) >= CALLS:
            self._older, self._recent = self._recent, {}
        self._recent[name] = 0
        self._credit = min(self._credit + 1.0, CALLS)

    def admits(self, name: str) -> bool:
        """Whether to write down what is said of that call."""
        if len(name) > LONGEST_ID:
            self.refused += 1
            return False
        of = self._recent if name in self._recent else self._older
        times = of.get(name, TIMES)
        if times < TIMES:
            of[name] = times + 1
            return True
        now = self._clock()
        since_s, self._at = max(0.0, now - self._at), now
        if self._credit < A_MINUTE:
            self._credit = min(A_MINUTE, self._credit + since_s * A_MINUTE / 60.0)
        if self._credit < 1.0:
            self.refused += 1
            return False
        self._credit -= 1.0
        return True

"""A clock for tests: it stands still until something moves it."""

from __future__ import annotations

import math
import threading

from ..errors import ConfigError

__all__ = ["FakeClock"]


class FakeClock:
    """Seconds that pass only when told to. Thread-safe.

    Hand it to whatever takes a ``clock``. tierllm's sync and async drivers then step it instead of
    waiting, so that a back-off of an hour takes no time at all.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = float(start)
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """The present time in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass. Raises ``ConfigError`` for a step back or one without end."""
        if not 0 <= seconds < math.inf:
            raise ConfigError(f"FakeClock.advance({seconds!r}): give a finite number of seconds, 0 or more")
        with self._lock:
            self._now += seconds

    def __repr__(self) -> str:
        return f"FakeClock({self._now:g})"

"""Notices a circuit breaker that is badly set: one that flaps, or one that never opens."""

from __future__ import annotations

from ..events import BreakerWarning

__all__ = ["Tuning"]

LOOSE_CALLS = 100
FLAPPING_RELAPSES = 3
WARN_EVERY_S = 3600.0


class Tuning:
    """Keeps count of what looks wrong; each kind of warning is given at most once an hour.

    ``calls`` and ``failures`` are those since the window was last free of failures (or since the
    last verdict); ``relapses`` the openings in a row that came shortly after closing.
    """

    __slots__ = ("_warned", "calls", "failures", "relapses")

    def __init__(self) -> None:
        self.calls = self.failures = self.relapses = 0
        self._warned: dict[str, float] = {}

    def start_over(self) -> None:
        self.calls = self.failures = 0

    def never_opens(self, failure_rate: float | None, name: str, now: float) -> list[BreakerWarning]:
        """After ``LOOSE_CALLS`` calls without opening: were more than half of what it takes failures?"""
        if self.calls < LOOSE_CALLS:
            return []
        calls, share = self.calls, self.failures / self.calls
        self.start_over()
        if share <= (failure_rate or 0.5) / 2:
            return []
        return self._warning(
            name,
            "never_opens",
            f"{share * 100:.0f} % of the last {calls} calls failed and it did not open, so it may be too "
            "loose: lower failure_rate, min_calls or the window",
            now,
        )

    def flapping(self, name: str, now: float) -> list[BreakerWarning]:
        if self.relapses < FLAPPING_RELAPSES:
            return []
        return self._warning(
            name,
            "flapping",
            f"opened {self.relapses} times in a row shortly after closing, so it may be too strict, or "
            "probes pass where real calls fail: raise half_open_probes, min_calls or the thresholds",
            now,
        )

    def _warning(self, name: str, kind: str, text: str, now: float) -> list[BreakerWarning]:
        if kind in self._warned and now - self._warned[kind] < WARN_EVERY_S:
            return []
        self._warned[kind] = now
        return [BreakerWarning(name=name, kind=kind, text=text)]

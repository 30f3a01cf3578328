"""Whether the whole process stood still for a while. Pure state."""

from __future__ import annotations

import math

__all__ = ["Stillness"]

LEAST_S, MOST_S = 3.0, 60.0
"""Shorter pauses matter little; longer ones are more probably everybody waiting for a place that hangs."""

MISSED = 20.0
"""So many calls were to be expected and none came: by chance that happens once in e^20 times (Poisson)."""

MEMORY_S = 15.0
"""How often calls come is a mean over about so long: where all wait for one slow place, it soon knows."""


class Stillness:
    """Tells a process that was stopped, or an event loop that was blocked, from places that are slow.

    Somebody looks whenever a call begins or ends, but not within ``often_s`` of the last look. Where many
    calls a second come and then for seconds nobody looks, nothing ran here, and calls under way took that
    much longer without any place's doing.
    """

    __slots__ = ("_begun", "_often_s", "_per_s")

    def __init__(self, often_s: float) -> None:
        self._often_s = often_s
        self._per_s = 0.0
        self._begun = 0

    def look(self, before: float, now: float, begun: int) -> tuple[float, float] | None:
        """Since when and until when it stood still, if it did. ``begun`` calls began so far."""
        came, self._begun = begun - self._begun, begun
        gap_s = now - before
        if not 0.0 < gap_s < math.inf:
            return None
        stood = LEAST_S <= gap_s <= MOST_S and self._per_s * (gap_s - self._often_s) >= MISSED
        self._per_s += (1 - math.exp(-gap_s / MEMORY_S)) * (came / gap_s - self._per_s)
        return (before, now) if stood else None

"""Whether a tier is so loaded that calls had better start at the next one. Pure state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..events import TierCrowded

if TYPE_CHECKING:
    from ..events import Event

__all__ = ["Crowding"]

LEAVE_AT = 0.8
"""Left at so much of the threshold: a load that hovers there does not switch it to and fro."""


class Crowding:
    """On from where the load or its forecast reaches ``at``, off once both have fallen below 0.8 of it."""

    def __init__(self, at: float, *, name: str, emit: Callable[[Event], None] | None) -> None:
        self.at = at
        self.on = False
        self._name = name
        self._emit = emit

    def read(self, level: float, forecast: float) -> None:
        highest = max(level, forecast)
        on = highest > LEAVE_AT * self.at if self.on else highest >= self.at
        if on != self.on:
            self.on = on
            if self._emit is not None:
                self._emit(TierCrowded(tier=self._name, on=on, level=level, forecast=forecast))

"""Whether a tier is so loaded that calls had better start at the next one. Pure state."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..events import TierCrowded
from .hysteresis import Switch

if TYPE_CHECKING:
    from ..events import Event

__all__ = ["Crowding"]

LEAVE_AT = 0.8
DWELL_S = 60.0
MOST_CHANGES = 4
"""Left at so much of the threshold and after so long below it, and changed no more often in an hour."""


class Crowding:
    """On from where the load or its forecast reaches ``at``; off once both have stayed below 0.8 of it.

    Like a step of degradation it changes four times an hour at most.
    """

    def __init__(self, at: float, *, name: str, emit: Callable[[Event], None] | None) -> None:
        self._switch = Switch(at=at, leave=LEAVE_AT * at, dwell_s=DWELL_S, most=MOST_CHANGES)
        self._name = name
        self._emit = emit
        self._lock = threading.RLock()

    @property
    def on(self) -> bool:
        return self._switch.on

    def read(self, level: float, forecast: float, now: float) -> None:
        with self._lock:
            changed = self._switch.look(max(level, forecast), now)
            on = self._switch.on
        if changed and self._emit is not None:
            self._emit(TierCrowded(tier=self._name, on=on, level=level, forecast=forecast))

"""Whether a tier would take more calls now, whatever they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .deployment_line import DeploymentLine
    from .tier_line import TierLine

__all__ = ["Room"]

NEARLY = 0.9
"""At this share of the load at which it is full, or sheds, a tier has no room for another tier's calls."""


class Room:
    """Says whether calls that another tier sends on are welcome: there is room, a place is open, and none of
    them is known to break the tier's promise. Changes nothing."""

    __slots__ = ("_line",)

    def __init__(self, line: TierLine) -> None:
        self._line = line

    def __call__(self) -> bool:
        line = self._line
        if line.shifting is not None and not line.shifting.well(line.clock()):
            return False
        admission = line.admission
        if admission is not None:
            most = NEARLY * min(1.0, admission.shed_at or 1.0)
            if admission.reading()[0] >= most or (admission.crowding is not None and admission.crowding.on):
                return False
        return any(_takes_calls(place) for place in line.lines)

    def closed(self) -> Sequence[str]:
        """The places that would not serve a call now."""
        return [place.name for place in self._line.lines if not _takes_calls(place)]


def _takes_calls(place: DeploymentLine) -> bool:
    if place.held_s() or (place.breaker is not None and place.breaker.peek() is not None):
        return False
    return place.adaptive is None or place.adaptive.peek(place.clock()) is None

"""Which tiers a call may be served by, in which order. Pure: no waiting, no state."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..types import Request
    from .tier import Tier

__all__ = ["Plan", "plan", "unknown_tier"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The admissible tiers, best first, and where the call starts.

    So many of the last ones as ``raised`` says are higher than the others: a soft limit sent the call
    down, and it goes there only if all else fails. ``excluded`` names those beneath it that it may not
    go to, each with why: ``"min_tier"``, ``"no fallback"`` or ``"labels"``.
    """

    granted: str
    tiers: tuple[str, ...]
    excluded: tuple[tuple[str, str], ...] = ()
    raised: int = 0

    def leads_down(self, number: int) -> bool:
        """Whether the next tier after that ``number`` is a lower one."""
        return number + 1 < len(self.tiers) and self._rank(number + 1) > self._rank(number)

    def is_lowest(self, tier: str) -> bool:
        """Whether nothing lower comes after ``tier``."""
        return not self.leads_down(self.tiers.index(tier))

    def starting_at(self, tier: str) -> Plan:
        """The same tiers, beginning with ``tier``; what is higher comes after all that is lower."""
        best_first = (
            *self.tiers[len(self.tiers) - self.raised :],
            *self.tiers[: len(self.tiers) - self.raised],
        )
        at = best_first.index(tier)
        return Plan(tier, (*best_first[at:], *best_first[:at]), self.excluded, at)

    @property
    def highest(self) -> str:
        """The tier that the call would have started in, had no soft limit been passed."""
        return self.tiers[-self.raised] if self.raised else self.tiers[0]

    def _rank(self, number: int) -> int:
        return (number + self.raised) % len(self.tiers)


def unknown_tier(option: str, name: object, known: Sequence[str]) -> ConfigError:
    close = difflib.get_close_matches(str(name), known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"the tiers are {', '.join(known)}"
    return ConfigError(f"{option}={name!r}: there is no such tier; {hint}")


def plan(request: Request, tiers: Sequence[Tier]) -> Plan:
    """From the tier asked for (the first, where none is) down to the floor.

    A tier that is asked for below ``min_tier`` is lifted to it. Nothing leads below the floor, nor
    past a tier that never falls back. Raises ``ConfigError`` for a tier that does not exist, and
    where no tier has a deployment with the labels in ``require``.
    """
    names = [tier.name for tier in tiers]
    start, floor = 0, len(names) - 1
    if request.sla is not None:
        if request.sla not in names:
            raise unknown_tier("sla", request.sla, names)
        start = names.index(request.sla)
    if request.min_tier is not None:
        if request.min_tier not in names:
            raise unknown_tier("min_tier", request.min_tier, names)
        floor = names.index(request.min_tier)
        start = min(start, floor)
    reason = "min_tier"
    if not request.fallback:
        floor, reason = start, "no fallback"
    admissible: list[str] = []
    without: list[str] = []
    for tier in tiers[start : floor + 1]:
        able = any(request.require <= deployment.labels for deployment in tier.deployments)
        (admissible if able else without).append(tier.name)
        if tier.fallback is False:
            floor, reason = names.index(tier.name), "no fallback"
            break
    excluded = [(name, "labels") for name in without]
    excluded += [(name, reason) for name in names[floor + 1 :]]
    if not admissible:
        labels = ", ".join(sorted(request.require))
        raise ConfigError(f"require={{{labels}}}: no deployment of {', '.join(without)} has these labels")
    return Plan(admissible[0], tuple(admissible), tuple(excluded))

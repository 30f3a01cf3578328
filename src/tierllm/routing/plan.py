"""Which tiers a call may be served by, in which order. Pure: no waiting, no state."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..types import Request
    from .tier import Tier

__all__ = ["UNBOUND", "Bounds", "Plan", "plan", "unknown_tier"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The admissible tiers, best first, and where the call starts.

    So many of the last ones as ``raised`` says are higher than the others: a soft limit sent the call
    down, and it goes there only if all else fails. ``excluded`` names those that it may not go to, each with
    why: ``"min_tier"``, ``"no fallback"``, ``"labels"``, or whose bounds it is out of.
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
    def bounded(self) -> bool:
        """Whether the application's own words keep it out of some tier: a plan, a contract or a rule."""
        return any(reason in ("plan", "contract", "rule") for _, reason in self.excluded)

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


class Bounds(NamedTuple):
    """What plan, contract and rules allow a call: where it starts, its floor and its cap, each with whose
    word that is (``"plan"``, ``"contract"``, ``"rule"``)."""

    tier: str | None = None
    floor: str | None = None
    floor_by: str = "min_tier"
    cap: str | None = None
    cap_by: str = "max_tier"


UNBOUND = Bounds()


def plan(request: Request, tiers: Sequence[Tier], bounds: Bounds = UNBOUND) -> Plan:
    """From the tier asked for down to the floor. Where none is asked for, from the one in ``bounds``, or the
    first.

    What is asked for above the cap is lowered to it, and what is below the floor is lifted to that; a floor
    above the cap holds. Nothing leads below the floor, nor past a tier that never falls back. Raises
    ``ConfigError`` for a tier that does not exist, and where no tier has a deployment with the labels in
    ``require``.
    """
    names = [tier.name for tier in tiers]
    wanted, floor, below = 0, len(names) - 1, "min_tier"
    if request.sla is not None:
        wanted = _rank("sla", request.sla, names)
    elif bounds.tier is not None:
        wanted = names.index(bounds.tier)
    if bounds.floor is not None:
        floor, below = names.index(bounds.floor), bounds.floor_by
    if request.min_tier is not None:
        own = _rank("min_tier", request.min_tier, names)
        if own <= floor:
            floor, below = own, "min_tier"
    cap = 0 if bounds.cap is None else min(names.index(bounds.cap), floor)
    start = min(max(wanted, cap), floor)
    if not request.fallback:
        floor, below = start, "no fallback"
    admissible: list[str] = []
    without: list[str] = []
    for tier in tiers[start : floor + 1]:
        able = any(request.require <= deployment.labels for deployment in tier.deployments)
        (admissible if able else without).append(tier.name)
        if tier.fallback is False:
            floor, below = names.index(tier.name), "no fallback"
            break
    excluded = [(name, bounds.cap_by) for name in names[wanted:start]]
    excluded += [(name, "labels") for name in without]
    excluded += [(name, below) for name in names[floor + 1 :]]
    if not admissible:
        labels = ", ".join(sorted(request.require))
        raise ConfigError(f"require={{{labels}}}: no deployment of {', '.join(without)} has these labels")
    return Plan(admissible[0], tuple(admissible), tuple(excluded))


def _rank(option: str, name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise unknown_tier(option, name, names)
    return names.index(name)

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
    why: ``"min_tier"``, ``"no fallback"``, ``"labels"``, or whose bounds it is out of. ``ranked`` are the
    tiers by their level, where turning ``tiers`` round until the best is first does not tell it. ``floored``:
    somebody has named a floor. ``cap`` is the best tier that plan, contract and rule grant, ``None`` where
    that is the first of all; what the caller asks for is no cap.
    """

    granted: str
    tiers: tuple[str, ...]
    excluded: tuple[tuple[str, str], ...] = ()
    raised: int = 0
    ranked: tuple[str, ...] = ()
    floored: bool = False
    cap: str | None = None

    def leads_down(self, number: int) -> bool:
        """Whether the next tier after that ``number`` is a lower one."""
        return number + 1 < len(self.tiers) and self._rank(number + 1) > self._rank(number)

    def is_lowest(self, tier: str) -> bool:
        """Whether nothing lower comes after ``tier``."""
        return not self.leads_down(self.tiers.index(tier))

    @property
    def best_first(self) -> tuple[str, ...]:
        """The tiers by their level, wherever the call begins."""
        if self.ranked or not self.raised:
            return self.ranked or self.tiers
        return (*self.tiers[len(self.tiers) - self.raised :], *self.tiers[: len(self.tiers) - self.raised])

    @property
    def open(self) -> tuple[str, ...]:
        """The tiers that were not put last."""
        return self.tiers[: len(self.tiers) - self.raised] if self.raised else self.tiers

    def starting_at(self, tier: str) -> Plan:
        """The same tiers, beginning with ``tier``; what is higher comes after all that is lower.

        What had been put last before stays behind what is put there now.
        """
        best_first = self.best_first
        at = best_first.index(tier)
        higher = best_first[:at]
        before = [each for each in self.tiers[len(self.tiers) - self.raised :] if each in higher]
        return self._ordered(best_first, at, before)

    def putting_last(self, tiers: Sequence[str]) -> Plan:
        """The same beginning; of those that come last already, ``tiers`` come after the others."""
        behind = self.tiers[len(self.tiers) - self.raised :]
        last = [each for each in behind if each in tiers]
        if not last or behind[len(behind) - len(last) :] == tuple(last):
            return self
        best_first = self.best_first
        return self._ordered(best_first, best_first.index(self.tiers[0]), last, behind)

    def _ordered(
        self, best_first: tuple[str, ...], at: int, last: Sequence[str], higher: Sequence[str] | None = None
    ) -> Plan:
        higher = best_first[:at] if higher is None else higher
        behind = (*(each for each in higher if each not in last), *last)
        ranked = () if behind == best_first[:at] else best_first
        tiers = (*best_first[at:], *behind)
        return Plan(tiers[0], tiers, self.excluded, at, ranked, self.floored, self.cap)

    @property
    def highest(self) -> str:
        """The tier that the call would have started in, had no soft limit been passed."""
        return self.best_first[0]

    def _rank(self, number: int) -> int:
        if self.ranked:
            return self.ranked.index(self.tiers[number])
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
    floored = bounds.floor is not None or request.min_tier is not None
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
        whose = {by: [name for name, why in excluded if why == by] for by in ("plan", "contract", "rule")}
        kept = "".join(f"; its {by} keeps it out of {', '.join(out)}" for by, out in whose.items() if out)
        raise ConfigError(
            f"require={{{labels}}}: no deployment of {', '.join(without)} has these labels{kept}"
        )
    best = names[cap] if cap else None
    return Plan(admissible[0], tuple(admissible), tuple(excluded), floored=floored, cap=best)


def _rank(option: str, name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise unknown_tier(option, name, names)
    return names.index(name)

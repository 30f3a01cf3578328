"""The rule of sticky sessions: where a bound session's call begins. Pure: no waiting, no state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from .bindings import Binding, Returns
    from .course import Course
    from .plan import Plan

__all__ = ["GOES_HOME", "IS_LIFTED", "IS_SENT", "LEAVES", "STAYS", "Way", "way_of"]

Place = tuple[str, str]

STAYS: Final = "stays"
"""It goes where it is."""
GOES_HOME: Final = "home"
"""It tries to go back."""
LEAVES: Final = "leaves"
"""Its place cannot serve it: it is wherever it will be answered."""
IS_LIFTED: Final = "floor"
"""Its tier is beneath a floor: where it will be answered is its home."""
IS_SENT: Final = "fixed"
"""The caller, or a rule, has named another tier for this call, or it is too important for its session's."""


class Way(NamedTuple):
    """Where a call begins: a tier (``""``: where its plan says), a deployment there (``""``: any)."""

    does: str
    tier: str
    deployment: str


def way_of(
    binding: Binding,
    plan: Plan,
    course: Course,
    *,
    usable: Callable[[str, str], bool],
    returns: Returns,
    level: Mapping[str, int],
    now: float,
) -> Way:
    """Where a call of the session goes. ``level`` numbers the tiers, the best first.

    Tiers that the plan has put last, since a budget, the load or a shift sent the call down, are not begun
    in. ``usable`` is asked only about places of the plan. A home without a name is any place of its tier.
    """
    home, place = binding.home, binding.place
    start = plan.tiers[0]
    allowed = plan.open

    def well(each: Place) -> bool:
        return each not in course.avoid and usable(*each)

    if course.fixed or course.important:
        allowed = tuple(
            tier
            for tier in allowed
            if tier == start or (not course.fixed and _of(level, tier) < _of(level, start))
        )
        if place[0] not in allowed:
            if home[0] in allowed and well(home):
                return Way(GOES_HOME, *home)
            return Way(IS_SENT, "", "")
    if place != home and home[0] in allowed and returns.due(binding, now):
        if well(home):
            return Way(GOES_HOME, *home)
        if home[0] != place[0] and usable(home[0], ""):
            return Way(GOES_HOME, home[0], "")
    if place[0] in allowed:
        if well(place):
            return Way(STAYS, *place)
        if home[0] == place[0]:
            return Way(LEAVES, home[0], home[1] if home != place and well(home) else "")
        if home[0] not in allowed or usable(place[0], ""):
            return Way(LEAVES, place[0], "")
    if home[0] in allowed:
        return Way(LEAVES, home[0], home[1] if well(home) else "")
    return Way(_excluded(binding, plan, level), "", "")


def _excluded(binding: Binding, plan: Plan, level: Mapping[str, int]) -> str:
    """What it is where the call may begin neither where the session is nor at its home."""
    why = dict(plan.excluded).get(binding.place[0])
    if why == "no fallback":  # of this one call, which starts higher
        return IS_SENT
    best = min(_of(level, binding.home[0]), _of(level, binding.place[0]))
    return IS_LIFTED if best > _of(level, plan.tiers[0]) and why != "labels" else LEAVES


def _of(level: Mapping[str, int], tier: str) -> int:
    """The level of ``tier``; of one that is no more, beneath all."""
    return level.get(tier, len(level))

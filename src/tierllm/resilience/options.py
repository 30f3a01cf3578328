"""The places of a tier as one call may choose among them, and the order of those that are alike."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from .deployment_line import DeploymentLine

__all__ = ["ALIKE", "Option", "by_distance", "cheapest_first"]

ALIKE: Final = 1.01
"""Costs that differ by no more than this factor are alike: weights decide."""


class Option(NamedTuple):
    """One place for one call. ``off``: by what part it misses what is asked of it (0: by nothing).

    ``known``: whether that rests on what was seen. ``slow``: only that it was too slow is in its way.
    """

    line: DeploymentLine
    cost_usd: float
    off: float
    known: bool
    slow: bool


def cheapest_first(options: list[Option], rng: random.Random) -> list[Option]:
    """In place: the cheapest in front; of those alike in cost, weights decide by a draw."""
    options.sort(key=by_cost)
    at = 0
    while at < len(options) - 1:
        bound = options[at].cost_usd * ALIKE
        after = at + 1
        while after < len(options) and options[after].cost_usd <= bound:
            after += 1
        if after - at > 1:
            # a weighted draw without replacement: Efraimidis and Spirakis, 2006
            draw = rng.random
            weighed = [
                (draw() ** (1.0 / option.line.deployment.weight), option) for option in options[at:after]
            ]
            weighed.sort(key=_by_draw)
            options[at:after] = [option for _, option in weighed]
        at = after
    return options


def by_cost(option: Option) -> float:
    return option.cost_usd


def by_distance(option: Option) -> tuple[float, float]:
    return (option.off, option.cost_usd)


def _by_draw(weighed: tuple[float, Option]) -> float:
    return -weighed[0]

"""How long a fake model takes: settings, and what one call draws from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, TypeGuard

from ..errors import ConfigError

__all__ = ["AT_ONCE", "Latency", "LatencySetting", "Pace", "check_seconds", "is_number", "pace_from"]


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_seconds(where: str, value: object) -> None:
    """Raise ``ConfigError`` for what is neither ``None`` nor seconds; ``where`` begins its text."""
    if value is not None and not (is_number(value) and 0 <= value < math.inf):
        raise ConfigError(f"{where}={value!r}): give seconds, 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Time to the first token and speed of writing, as a model has them.

    ``first_token_s`` and ``tokens_per_s`` are medians. Both vary from call to call by a log-normal
    factor: its logarithm has mean 0 and standard deviation ``sigma`` (0.5: one call in twenty
    takes more than 2.3 times the median).
    """

    first_token_s: float = 0.3
    tokens_per_s: float = 60.0
    sigma: float = 0.0

    def __post_init__(self) -> None:
        check_seconds("Latency(first_token_s", self.first_token_s)
        if not (is_number(self.tokens_per_s) and self.tokens_per_s > 0):
            raise ConfigError(f"Latency(tokens_per_s={self.tokens_per_s!r}): give a speed above 0")
        if not (is_number(self.sigma) and 0 <= self.sigma < math.inf):
            raise ConfigError(f"Latency(sigma={self.sigma!r}): give a spread of 0 or more")

    def draw(self, rng: Random) -> Pace:
        first = self.first_token_s * rng.lognormvariate(0.0, self.sigma)
        speed = self.tokens_per_s * rng.lognormvariate(0.0, self.sigma)
        return Pace(first, 0.0, 1.0 / speed)


LatencySetting = float | tuple[float, float] | Latency
"""Seconds to the answer, the bounds of an even spread of them, or a ``Latency``."""


class Pace(NamedTuple):
    """The times of one answer: to its first piece, then for each piece and for each token in it."""

    first_s: float
    between_s: float = 0.0
    token_s: float = 0.0


AT_ONCE = Pace(0.0)

Draw = Callable[[Random], Pace]


def pace_from(setting: LatencySetting | Mapping[str, LatencySetting]) -> Callable[[str, Random], Pace] | None:
    """What draws the pace of a call to a model; ``None`` where every answer comes at once."""
    if isinstance(setting, Mapping):
        draws = {model: _draw(each) for model, each in setting.items()}
        others = draws.get("*", _at_once)
        return lambda model, rng: draws.get(model, others)(rng)
    draw = _draw(setting)
    if setting == 0:
        return None
    return lambda _, rng: draw(rng)


def _draw(setting: LatencySetting) -> Draw:
    if isinstance(setting, Latency):
        return setting.draw
    bounds = setting if isinstance(setting, tuple) else (setting, setting)
    if len(bounds) != 2 or not all(map(is_number, bounds)) or not 0 <= bounds[0] <= bounds[1] < math.inf:
        raise ConfigError(f"latency_s={setting!r}: give seconds of 0 or more, or (low, high), or a Latency")
    low, high = bounds
    if low == high:
        fixed = Pace(float(low))
        return lambda _: fixed
    return lambda rng: Pace(rng.uniform(low, high))


def _at_once(_: Random) -> Pace:
    return AT_ONCE

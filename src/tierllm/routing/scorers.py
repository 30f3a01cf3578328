"""What estimates how much a stronger model would gain on a prompt: the interface, and its simplest forms."""

from __future__ import annotations

import inspect
import math
from array import array
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from ..errors import ConfigError

__all__ = ["DifficultyScorer", "FunctionScorer", "Teachable", "check_outcome", "scorer_of"]


@runtime_checkable
class DifficultyScorer(Protocol):
    """Anything with ``score(text)``: the higher, the more a stronger model gains.

    Only the order of scores counts where a share of strong calls is kept; their size counts for request
    classes. A scorer may have ``classes``, the two scores at which its texts get "medium" and "high".
    """

    def score(self, text: str, /) -> float: ...


@runtime_checkable
class Teachable(Protocol):
    """A scorer that learns from outcomes, of which no text has to be kept in the meantime.

    It may have ``evidence``, the weight of what it was told of the weak and of the strong model, and
    ``note_words(text)``, which is called once for every call that is chosen for.
    """

    @property
    def samples(self) -> int:
        """How many prompts it has learned from."""
        ...

    def score(self, text: str, /) -> float: ...

    def buckets_of(self, text: str, /) -> array[int]:
        """What it reads from a text: numbers from which no text can be made again."""
        ...

    def score_of(self, buckets: Sequence[int], /) -> float: ...

    def learn_from(
        self,
        buckets: Sequence[int],
        /,
        *,
        weak: float | None = None,
        strong: float | None = None,
        weight: float = 1.0,
    ) -> None: ...


class FunctionScorer:
    """A function of the text as a scorer."""

    def __init__(self, function: Callable[[str], float]) -> None:
        self.function = function

    def score(self, text: str) -> float:
        return self.function(text)

    def __repr__(self) -> str:
        return f"FunctionScorer({getattr(self.function, '__qualname__', type(self.function).__name__)})"


def scorer_of(given: DifficultyScorer | Callable[[str], float]) -> DifficultyScorer:
    """``given`` as a scorer. Raises ``ConfigError`` for what is neither a scorer nor a function."""
    if isinstance(given, type):
        raise ConfigError(f"scorer={given.__name__}: give a scorer, not its class: {given.__name__}()")
    how = given.score if isinstance(given, DifficultyScorer) else given
    if inspect.iscoroutinefunction(how):
        raise ConfigError(f"scorer={given!r}: nobody waits for a score: give a function that is not async")
    if isinstance(given, DifficultyScorer):
        return given
    if callable(given):
        return FunctionScorer(given)
    raise ConfigError(
        f"scorer={given!r}: give LearnedScorer(), RuleScorer(), or a function of the text that gives a number"
    )


def check_outcome(name: str, value: object) -> float:
    """``value`` as an outcome. Raises ``ConfigError`` for what is no number from 0 (bad) to 1 (good)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        shown = repr(value) if isinstance(value, int | float) else type(value).__name__
        raise ConfigError(f"{name}={shown}: give a number from 0 (useless) to 1 (as good as can be)")
    return float(value)


def finite(score: object) -> float:
    """A score as a number; what is none becomes NaN."""
    try:
        number = float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number

"""Steps of degradation: what each takes from a call, and what was really taken from one."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeVar

from ..cost.place import CAPS, COPIES
from ..errors import ConfigError

__all__ = ["EFFORTS", "LEAVE_AT", "Degraded", "Step"]

T = TypeVar("T")

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
"""Reasoning efforts, least first."""

LEAVE_AT = 0.8
"""A step is left at so much of the load at which it is entered, unless it says otherwise."""


@dataclass(frozen=True, slots=True)
class Step:
    """One way in which a tier gets simpler: entered where the load reaches ``at``, left at ``leave``.

    Loads are shares of what the tier can do: 1.0 is all of it. ``leave`` is 0.8 of ``at`` unless given.

    - ``max_tokens``, ``temperature``, ``reasoning_effort``: ceilings; what a call leaves open is set to them.
    - ``single``: one answer, where several were asked for (``n``, ``best_of``).
    - ``cheaper``: the tier's deployments are tried in the order of their prices.
    - ``cached``: an old answer that the cache still has is served rather than a new one made.
    - ``defer_below``: calls of a lower priority wait for a calmer time, as if they said ``defer_ok``.
    - ``refuse_below``: calls of a lower priority are refused with ``ThrottledError``, which leads on to the
      next tier where there is one.

    Raises ``ConfigError`` for one that makes no sense, or does nothing.
    """

    name: str
    _: KW_ONLY
    at: float
    leave: float | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    single: bool = False
    reasoning_effort: str | None = None
    cheaper: bool = False
    cached: bool = False
    defer_below: int | None = None
    refuse_below: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"Step({self.name!r}): give a name, such as 'short'")
        if not (_number(self.at) and self.at > 0):
            raise self._wrong("at", "give the load at which it begins, such as 1.2 (1.0 is all it can do)")
        if self.leave is not None and not (_number(self.leave) and 0 <= self.leave < self.at):
            raise self._wrong("leave", f"give a load below {self.at:g}, or leave it out")
        if self.max_tokens is not None and (not _whole(self.max_tokens) or self.max_tokens < 1):
            raise self._wrong("max_tokens", "give a whole number of at least 1")
        if self.temperature is not None and not (_number(self.temperature) and 0 <= self.temperature <= 2):
            raise self._wrong("temperature", "give a number from 0 to 2")
        if self.reasoning_effort is not None and self.reasoning_effort not in EFFORTS:
            raise self._wrong("reasoning_effort", f"one of {', '.join(EFFORTS)}")
        for option in ("single", "cheaper", "cached"):
            if not isinstance(getattr(self, option), bool):
                raise self._wrong(option, "give True or False")
        for option in ("defer_below", "refuse_below"):
            if getattr(self, option) is not None and not _whole(getattr(self, option)):
                raise self._wrong(option, "give a priority")
        does = (self.max_tokens, self.temperature, self.reasoning_effort, self.defer_below, self.refuse_below)
        if not (self.single or self.cheaper or self.cached or any(each is not None for each in does)):
            raise ConfigError(f"Step({self.name!r}): it does nothing; say what it takes: max_tokens=…, …")

    def _wrong(self, option: str, remedy: str) -> ConfigError:
        return ConfigError(f"Step({self.name!r}, {option}={getattr(self, option)!r}): {remedy}")

    @property
    def leave_at(self) -> float:
        """The load at which it is left."""
        return LEAVE_AT * self.at if self.leave is None else self.leave

    def apply(self, params: dict[str, Any], drop: Container[str] = ()) -> bool:
        """Put its ceilings on what is to be sent; whether that changed anything.

        What is in ``drop`` the model cannot take, and it does not get it here either.
        """
        before = len(params), *(params.get(name) for name in (*CAPS, *COPIES, "temperature"))
        effort = params.get("reasoning_effort")
        if self.max_tokens is not None:
            names = [name for name in CAPS if params.get(name) is not None]
            for name in names or [name for name in ("max_tokens",) if name not in drop]:
                params[name] = _least(params.get(name), self.max_tokens)
        if self.temperature is not None and "temperature" not in drop:
            params["temperature"] = _least(params.get("temperature"), self.temperature)
        if self.reasoning_effort is not None and "reasoning_effort" not in drop:
            ceiling = EFFORTS.index(self.reasoning_effort)
            if effort not in EFFORTS or EFFORTS.index(effort) > ceiling:  # an unknown word is no way past it
                params["reasoning_effort"] = self.reasoning_effort
        if self.single:
            for name in COPIES:
                if params.get(name) not in (None, 1):
                    del params[name]
        after = len(params), *(params.get(name) for name in (*CAPS, *COPIES, "temperature"))
        return before != after or effort != params.get("reasoning_effort")


class Degraded:
    """What is taken from one call, and which steps (``names``) have really changed something in it so far.

    ``cheaper``: its deployments are to be tried in the order of their prices. One object for all of a
    call's places.
    """

    __slots__ = ("cheaper", "names", "steps")

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        self.cheaper = any(step.cheaper for step in self.steps)
        self.names: tuple[str, ...] = ()

    def note(self, *names: str) -> None:
        """Steps that have changed something which is not done here."""
        if names:
            changed = {*self.names, *names}
            self.names = tuple(step.name for step in self.steps if step.name in changed)

    def apply(self, params: dict[str, Any], drop: Container[str] = ()) -> None:
        """Put the ceilings of all steps on the parameters that are to be sent."""
        self.note(*[step.name for step in self.steps if step.apply(params, drop)])

    def options(self, extra: Mapping[str, Any]) -> Mapping[str, Any]:
        """A caller's own options for a vendor under the same ceilings; none is added."""
        left = dict(extra)
        self.apply(left, drop=_Absent(extra))
        return left

    def cheapest_first(self, places: Sequence[T], price: Callable[[T], float | None]) -> list[T]:
        """``places`` by price, those of which none is known last; of equal ones the order is kept."""

        def dear(place: T) -> float:
            known = price(place)
            return math.inf if known is None else float(known)

        ordered = sorted(places, key=dear)
        if any(one is not other for one, other in zip(ordered, places, strict=True)):
            self.note(*[step.name for step in self.steps if step.cheaper])
        return ordered


class _Absent(Container[str]):
    """All names but those that are there."""

    def __init__(self, there: Container[str]) -> None:
        self._there = there

    def __contains__(self, name: object) -> bool:
        return name not in self._there


def _least(asked: Any, ceiling: float) -> Any:
    return min(asked, ceiling) if _number(asked) else ceiling


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

"""Steps of degradation: what each takes from a call, and what was really taken from one."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..cost.place import CAPS, COPIES
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..types.asked import Degrading

__all__ = ["EFFORTS", "LEAVE_AT", "Degraded", "Step"]

T = TypeVar("T")

HIGHEST_LOAD = 10.0
"""A threshold above this was meant as a percentage."""

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
"""Reasoning efforts, least first."""

LEAVE_AT = 0.8
"""A step is left at so much of the load at which it is entered, unless it says otherwise."""


@dataclass(frozen=True, slots=True)
class Step:
    """One way in which a tier gets simpler: entered where the load reaches ``at``, left at ``leave``.

    Loads are shares of what the tier can do: 1.0 is all of it. ``leave`` is 0.8 of ``at`` unless given.

    - ``max_tokens``, ``temperature``, ``reasoning_effort``: ceilings on what is asked for. Only
      ``max_tokens`` is set where a call leaves it open.
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
        if self.at > HIGHEST_LOAD:
            raise self._wrong("at", "1 is all the tier can do; give 0.9 for 90 %")
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

        ``max_tokens`` is set where it is open, unless it is in ``drop``, which is what the model cannot take.
        """
        changed = self._lowers(params)
        body = params.get("extra_body")
        if isinstance(body, Mapping) and self._lowers(lower := dict(body)):
            params["extra_body"] = lower
            changed = True
        if self.max_tokens is not None and "max_tokens" not in drop and not _capped(params):
            params["max_tokens"] = self.max_tokens
            changed = True
        return changed

    def _lowers(self, params: dict[str, Any]) -> bool:
        """Take from ``params`` what is above the ceilings; nothing is added. Whether there was any."""
        lower: dict[str, Any] = {}
        if self.max_tokens is not None:
            for name in CAPS:
                asked = params.get(name)
                if asked is not None and not (_number(asked) and 0 < asked <= self.max_tokens):
                    lower[name] = self.max_tokens  # none at all may mean as many as there are
        if self.temperature is not None:
            asked = params.get("temperature")
            if asked is not None and not (_number(asked) and asked <= self.temperature):
                lower["temperature"] = self.temperature
        if self.reasoning_effort is not None:
            if self._is_above(params.get("reasoning_effort")):
                lower["reasoning_effort"] = self.reasoning_effort
            reasoning = params.get("reasoning")
            if isinstance(reasoning, Mapping) and self._is_above(reasoning.get("effort")):
                lower["reasoning"] = {**reasoning, "effort": self.reasoning_effort}
        params.update(lower)
        copies = [name for name in COPIES if self.single and params.get(name) not in (None, 1)]
        for name in copies:
            del params[name]
        return bool(lower or copies)

    def _is_above(self, effort: object) -> bool:
        """Whether so much reasoning is above the ceiling; a word that is not known is no way past it."""
        assert self.reasoning_effort is not None
        if effort is None or effort not in EFFORTS:
            return effort is not None
        return EFFORTS.index(str(effort)) > EFFORTS.index(self.reasoning_effort)


class Degraded:
    """What is taken from one call, and which steps (``names``) have really changed something in it so far.

    ``cheaper``: its deployments are to be tried in the order of their prices. Each place it is sent to
    has its own, by ``here``, and tells by ``took`` how that ended: an answer is degraded by what was taken
    at the place that gave it. ``lost`` are the steps that took something where there was no answer.
    """

    __slots__ = ("cheaper", "lost", "names", "steps")

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        self.cheaper = any(step.cheaper for step in self.steps)
        self.names: tuple[str, ...] = ()
        self.lost: tuple[str, ...] = ()

    def here(self) -> Degraded:
        """The same steps, for one place that may answer."""
        return Degraded(self.steps)

    def took(self, place: Degrading, *, answered: bool) -> None:
        """What ``place`` has taken is taken from the answer; or, where it gave none, from the call."""
        if answered:
            self.note(*place.names)
        else:
            self.lost = tuple(dict.fromkeys((*self.lost, *place.names)))

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
        self.apply(left, drop=CAPS)
        return left

    def cheapest_first(self, places: Sequence[T], price: Callable[[T], float | None]) -> list[T]:
        """``places`` by price, those of which none is known last; of equal ones the order is kept."""

        def dear(place: T) -> float:
            known = price(place)
            return math.inf if known is None else float(known)

        return sorted(places, key=dear)

    def spared(self) -> None:
        """A dearer place would have been asked before the one that answered."""
        self.note(*[step.name for step in self.steps if step.cheaper])


def _capped(params: Mapping[str, Any]) -> bool:
    return any(params.get(name) is not None for name in CAPS)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

"""Rules: which calls go where."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from ..admission.schedule import Hours, Schedule
from ..errors import ConfigError
from .conditions import CLASSES, LEVELS, unreachable

__all__ = ["Rule", "unreachable"]

Names = str | Iterable[str]
Level = Literal["low", "medium", "high"]
Bounds = tuple[int | None, int | None]

NAMES = ("plan", "contract", "tenant", "user", "tag", "route", "language", "importance", "request_class")
LOADS = ("load", "forecast", "below_load", "below_forecast")
OUTCOMES = ("tier", "min_tier", "max_tier", "balance", "set_class")


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Rule:
    """Calls that meet all the conditions given go where it says. A rule without any is for all calls.

    **Conditions.** ``plan``, ``contract``, ``tenant``, ``user``, ``tag``, ``route``, ``language``: a name,
    or several of which any will do. ``importance``: ``"low"``, ``"normal"`` (as where a call says nothing),
    ``"high"``. ``request_class``, how difficult a call is: ``"low"``, ``"medium"``, ``"high"``. ``priority``:
    at least so much, or ``(lowest, highest)``, of what plan and contract allow. ``tokens``: ``(fewest,
    most)`` of input, as estimated. In both pairs one may be ``None``. ``tools``: whether it brings any.
    ``hours``: as ``"mon-fri 08:00-18:00"`` by the clocks in ``tz``. ``load`` and ``forecast``: the load of
    the tier ``of`` (left out: the one that a call starts in by what its caller, plan and contract say) is, or
    is going to be, at least so much, with 1.0 for full; ``below_load`` and ``below_forecast``: less than
    that. ``budget_left``: of the tightest budget, at most this share is left.

    **Where they go.** ``tier`` is where they start, and their difficulty has no say. ``min_tier`` is the
    floor; where no tier is named, ``max_tier`` is the best that they get, and ``balance`` the share of them
    that goes to a stronger model: 0 is cost, 1 is quality. A rule that says nothing of this leaves its calls
    as they are: it is an exception to those after it. One with ``set_class`` says how difficult its calls
    are, and the search goes on.

    Frozen. Raises ``ConfigError`` for what makes no sense.
    """

    name: str | None
    plan: frozenset[str] | None
    contract: frozenset[str] | None
    tenant: frozenset[str] | None
    user: frozenset[str] | None
    tag: frozenset[str] | None
    route: frozenset[str] | None
    language: frozenset[str] | None
    importance: frozenset[str] | None
    request_class: frozenset[str] | None
    priority: Bounds | None
    tokens: Bounds | None
    tools: bool | None
    hours: str | None
    tz: str
    load: float | None
    forecast: float | None
    below_load: float | None
    below_forecast: float | None
    of: str | None
    budget_left: float | None
    tier: str | None
    min_tier: str | None
    max_tier: str | None
    balance: float | None
    set_class: Level | None

    def __init__(
        self,
        name: str | None = None,
        *,
        plan: Names | None = None,
        contract: Names | None = None,
        tenant: Names | None = None,
        user: Names | None = None,
        tag: Names | None = None,
        route: Names | None = None,
        language: Names | None = None,
        importance: Names | None = None,
        request_class: Names | None = None,
        priority: int | Bounds | None = None,
        tokens: Bounds | None = None,
        tools: bool | None = None,
        hours: str | None = None,
        tz: str = "UTC",
        load: float | None = None,
        forecast: float | None = None,
        below_load: float | None = None,
        below_forecast: float | None = None,
        of: str | None = None,
        budget_left: float | None = None,
        tier: str | None = None,
        min_tier: str | None = None,
        max_tier: str | None = None,
        balance: float | None = None,
        set_class: Level | None = None,
    ) -> None:
        given: dict[str, Any] = dict(locals())
        del given["self"]
        where = "Rule(" if name is None else f"Rule({name!r}, "
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigError(f"Rule(name={name!r}): give a text, or leave it out")
        for option in NAMES:
            given[option] = _names(where, option, given[option])
        for option in ("priority", "tokens"):
            given[option] = _bounds(where, option, given[option])
        _check_conditions(where, given)
        _check_outcome(where, given)
        for option, value in given.items():
            object.__setattr__(self, option, value)

    @property
    def spoken(self) -> str:
        """What it says, as it would be written; the name first."""
        said = [] if self.name is None else [repr(self.name)]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "name" or value is None or (field.name == "tz" and self.hours is None):
                continue
            if isinstance(value, frozenset):
                value = sorted(value) if len(value) > 1 else next(iter(value))
            said.append(f"{field.name}={value!r}")
        return ", ".join(said)

    def __repr__(self) -> str:
        return f"Rule({self.spoken})"


def _names(where: str, option: str, given: Any) -> frozenset[str] | None:
    if given is None:
        return None
    many = isinstance(given, Iterable) and not isinstance(given, Mapping)
    several = (given,) if isinstance(given, str) else tuple(given) if many else ()
    if not several or not all(isinstance(name, str) and name for name in several):
        raise ConfigError(f"{where}{option}={given!r}): give a name or several, or leave it out")
    known = LEVELS.get(option)
    for name in several:
        if known is not None and name not in known:
            raise ConfigError(f"{where}{option}={given!r}): {name!r} is none of {', '.join(known)}")
    return frozenset(several)


def _bounds(where: str, option: str, given: Any) -> Bounds | None:
    if given is None:
        return None
    such_as = "5, (2, 5) or (None, 5)" if option == "priority" else "(1000, None) or (None, 500)"
    pair = (given, None) if option == "priority" and _whole(given) else given
    if (
        not isinstance(pair, tuple | list)
        or len(pair) != 2
        or not all(each is None or _whole(each) for each in pair)
        or pair[0] is pair[1] is None
    ):
        raise ConfigError(f"{where}{option}={given!r}): give {such_as}, or leave it out")
    low, high = pair
    if low is not None and high is not None and low > high:
        raise ConfigError(f"{where}{option}={given!r}): nothing is between these; the lower one goes first")
    if option == "tokens" and min(each for each in pair if each is not None) < 0:
        raise ConfigError(f"{where}{option}={given!r}): there are no fewer than 0 tokens")
    return low, high


def _check_conditions(where: str, given: dict[str, Any]) -> None:
    if given["tools"] is not None and not isinstance(given["tools"], bool):
        raise ConfigError(f"{where}tools={given['tools']!r}): give True or False, or leave it out")
    if given["hours"] is not None:
        try:
            Schedule([Hours(given["hours"], size=1)], tz=given["tz"])
        except ConfigError as error:
            raise ConfigError(f"{where}hours={given['hours']!r}): {error}") from None
    elif given["tz"] != "UTC":
        raise ConfigError(f"{where}tz={given['tz']!r}): there are no hours that it could be for; give hours")
    for option in LOADS:
        if given[option] is not None and not _number(given[option]):
            raise ConfigError(f"{where}{option}={given[option]!r}): give 0 or more, with 1.0 for a full tier")
    for at_least, below in (("load", "below_load"), ("forecast", "below_forecast")):
        if given[at_least] is not None and given[below] is not None and given[at_least] >= given[below]:
            raise ConfigError(f"{where}{at_least}={given[at_least]}, {below}={given[below]}): it never holds")
    if given["of"] is not None and all(given[option] is None for option in LOADS):
        raise ConfigError(f"{where}of={given['of']!r}): whose load it is; give {', '.join(LOADS)} with it")
    _check_share(where, "budget_left", given["budget_left"])


def _check_outcome(where: str, given: dict[str, Any]) -> None:
    for option in ("of", "tier", "min_tier", "max_tier"):
        if given[option] is not None and (not isinstance(given[option], str) or not given[option]):
            raise ConfigError(f"{where}{option}={given[option]!r}): give the name of a tier, or leave it out")
    _check_share(where, "balance", given["balance"])
    said = [option for option in OUTCOMES if given[option] is not None]
    if given["set_class"] is not None and given["set_class"] not in CLASSES:
        raise ConfigError(f"{where}set_class={given['set_class']!r}): one of {', '.join(CLASSES)}")
    if given["set_class"] is not None and len(said) > 1:
        raise ConfigError(
            f"{where}set_class=..., {said[0]}=...): a rule that sets the class sends no call anywhere, the "
            "search goes on after it; make two rules"
        )
    if given["tier"] is not None and {"max_tier", "balance"} & set(said):
        other = "balance" if "balance" in said else "max_tier"
        raise ConfigError(
            f"{where}tier=..., {other}=...): the tier is named: there is nothing left to cap or to balance; "
            "take one of them out"
        )
    if not said and all(value is None for option, value in given.items() if option not in ("name", "tz")):
        raise ConfigError(f"{where.rstrip(', ')}): it says nothing; give it a tier, bounds or a condition")


def _check_share(where: str, option: str, value: Any) -> None:
    if value is not None and not (_number(value) and value <= 1):
        raise ConfigError(f"{where}{option}={value!r}): give a share from 0 to 1, or leave it out")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf

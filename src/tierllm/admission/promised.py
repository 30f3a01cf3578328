"""What plans and contracts may promise alike, and its checks."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError
from ..types import Objective
from .consent import Consent
from .rate_limit import RateLimit

if TYPE_CHECKING:
    from typing import Protocol

    Mode = Literal["enforce", "observe"]

    class Limited(Protocol):
        """A plan or a contract, as far as it bounds how much is asked."""

        @property
        def name(self) -> str: ...
        @property
        def rpm(self) -> int | None: ...
        @property
        def tpm(self) -> int | None: ...
        @property
        def rpd(self) -> int | None: ...
        @property
        def tpd(self) -> int | None: ...
        @property
        def max_concurrency(self) -> int | None: ...
        @property
        def limit_per(self) -> tuple[str, ...]: ...
        @property
        def mode(self) -> Mode: ...


__all__ = [
    "LIMITS",
    "check_above_0",
    "check_limits",
    "check_mode",
    "check_objective",
    "check_tier_names",
    "check_tiers",
    "check_whole",
    "checked_consent",
    "checked_limit_per",
    "did_you_mean",
    "limit_of",
    "same_limit",
]

LIMITS = ("rpm", "tpm", "rpd", "tpd", "max_concurrency")


def limit_of(kind: Literal["plan", "contract"], promise: Limited) -> RateLimit | None:
    """The rate limit of all calls on a plan or under a contract. Its name is the same wherever it is made,
    so that processes with one store share it."""
    bounds = {option: getattr(promise, option) for option in LIMITS}
    if all(bound is None for bound in bounds.values()):
        return None
    name = f"{kind} {promise.name}".replace("%", "%25").replace("|", "%7C")
    return RateLimit(
        **bounds, per=promise.limit_per, where={kind: promise.name}, name=name, mode=promise.mode
    )


def same_limit(one: RateLimit, other: RateLimit) -> bool:
    """Whether both say the same, so that one may go on for the other."""
    said = [(each.name, each.limits, each.per, each.where, each.mode) for each in (one, other)]
    return said[0] == said[1]


def checked_limit_per(where: str, given: dict[str, Any], usual: tuple[str, ...]) -> tuple[str, ...]:
    """Whose limit it is; ``usual`` where nothing is said of it."""
    keys = _checked_keys(where, given["limit_per"])
    if keys != usual and all(given[option] is None for option in LIMITS):
        raise ConfigError(
            f"{where}, limit_per={given['limit_per']!r}): there is no limit that it could be for; "
            f"give {', '.join(LIMITS[:-1])} or {LIMITS[-1]}, or leave it out"
        )
    return keys


def _checked_keys(where: str, given: Any) -> tuple[str, ...]:
    """It is somebody's: a place has its own limits."""
    known = ("user", "tenant", "plan", "contract", "session", "tag", "route")
    keys = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else ()
    if not keys or any(key not in known for key in keys) or len(set(keys)) < len(keys):
        raise ConfigError(f"{where}, limit_per={given!r}): one or several of {', '.join(known)}")
    return keys


def check_limits(where: str, given: dict[str, Any]) -> None:
    for option in LIMITS:
        check_whole(where, option, given[option], least=1)


def check_tier_names(where: str, min_tier: object, max_tier: object) -> None:
    for option, tier in (("min_tier", min_tier), ("max_tier", max_tier)):
        if tier is not None and (not isinstance(tier, str) or not tier):
            raise ConfigError(f"{where}, {option}={tier!r}): give the name of a tier, or leave it out")


def check_tiers(where: str, min_tier: str | None, max_tier: str | None, tiers: Sequence[str]) -> None:
    """Raises ``ConfigError`` for tiers that there are not, or that are in the wrong order: best first."""
    for option, tier in (("min_tier", min_tier), ("max_tier", max_tier)):
        if tier is not None and tier not in tiers:
            hint = did_you_mean(tier, tiers) or f"the tiers are {', '.join(tiers)}"
            raise ConfigError(f"{where}, {option}={tier!r}): there is no such tier; {hint}")
    if min_tier is not None and max_tier is not None and tiers.index(min_tier) < tiers.index(max_tier):
        raise ConfigError(
            f"{where}, min_tier={min_tier!r}, max_tier={max_tier!r}): min_tier is the floor, max_tier the "
            "best that a call gets; exchange them"
        )


def checked_consent(where: str, given: Any) -> tuple[Consent, ...]:
    listed = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (None,)
    for each in listed:
        if not isinstance(each, Consent):
            raise ConfigError(
                f"{where}, consent={given!r}): give a list, such as [Consent('all', since=date(2026, 11, 1))]"
            )
        if each.plan is not None or each.tenant is not None or each.contract is not None:
            raise ConfigError(f"{where}, consent=...): leave plan, tenant and contract out, it is this one's")
    return listed


def check_objective(where: str, objective: object) -> None:
    if objective is not None and not isinstance(objective, Objective):
        raise ConfigError(f"{where}, objective={objective!r}): give Objective(...)")


def check_mode(where: str, mode: object) -> None:
    if mode not in ("enforce", "observe"):
        raise ConfigError(f"{where}, mode={mode!r}): 'enforce' or 'observe'")


def check_whole(where: str, option: str, value: object, least: int | None = None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        what = "a whole number" if least is None else f"a whole number of at least {least}"
        raise ConfigError(f"{where}, {option}={value!r}): give {what}, or leave it out")


def check_above_0(where: str, option: str, value: object, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{where}, {option}={value!r}): give {what} above 0")


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]!r}?" if close else None

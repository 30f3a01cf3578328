"""What a rate limit may be made with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from ..errors import ConfigError
from .limit_log import DAY_S, MINUTE_S, Shape

__all__ = [
    "PLACES",
    "checked_limits",
    "checked_pacing",
    "checked_per",
    "checked_reserve",
    "checked_where",
    "one_of",
    "shapes_of",
]

PER = ("account", "user", "tenant", "plan", "contract", "session", "tag", "route", "deployment", "tier")
WHERE = ("user", "tenant", "plan", "contract", "session", "tag", "route", "deployment", "tier", "model")
PLACES = frozenset({"tier", "deployment", "model"})

MOST_RESERVES = 3
"""Tiers with a share of their own: each set of them needs a log."""

MOST = 2**53
"""More would not be counted exactly, here or in a store."""

MINUTE = ("rpm", "tpm", "input_tpm", "output_tpm")
DAY = ("rpd", "tpd", "", "")


def checked_limits(limits: Mapping[str, int | None]) -> dict[str, int]:
    given = {name: limit for name, limit in limits.items() if limit is not None}
    for name, limit in given.items():
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ConfigError(f"RateLimit({name}={limit!r}): give a whole number from 1 up, or leave it out")
        if limit > MOST:
            raise ConfigError(f"RateLimit({name}={limit}): at most {MOST}; leave it out for no limit")
    return given


def checked_per(per: str | Sequence[str]) -> tuple[str, ...]:
    keys = (per,) if isinstance(per, str) else tuple(per) if isinstance(per, Sequence) else ()
    if not keys or any(key not in PER for key in keys) or len(set(keys)) < len(keys):
        raise ConfigError(f"RateLimit(per={per!r}): one or several of {', '.join(PER)}")
    if len(keys) > 1 and "account" in keys:
        raise ConfigError(f"RateLimit(per={per!r}): 'account' stands alone, it is one for all calls")
    return keys


def checked_where(where: Mapping[str, str | Iterable[str]] | None) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    if where is not None and not isinstance(where, Mapping):
        raise ConfigError(f"RateLimit(where={where!r}): give a mapping, such as {{'plan': 'free'}}")
    for key, names in (where or {}).items():
        if key not in WHERE:
            raise ConfigError(f"RateLimit(where=...): {key!r} is none of {', '.join(WHERE)}")
        several = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, Iterable) else ()
        if not several or not all(isinstance(name, str) and name for name in several):
            raise ConfigError(f"RateLimit(where={{{key!r}: {names!r}}}): give a name or several")
        found[key] = frozenset(several)
    return found


def checked_reserve(reserve: Mapping[str, float] | None) -> dict[str, float]:
    if reserve is not None and not isinstance(reserve, Mapping):
        raise ConfigError(f"RateLimit(reserve={reserve!r}): give shares by tier, such as {{'gold': 0.3}}")
    shares = dict(reserve or {})
    for tier, share in shares.items():
        sound = isinstance(share, int | float) and not isinstance(share, bool) and 0 < share < 1
        if not isinstance(tier, str) or not tier or not sound:
            raise ConfigError(
                f"RateLimit(reserve={{{tier!r}: {share!r}}}): give a tier's share, above 0 and below 1"
            )
    if sum(shares.values()) > 1 + 1e-9:
        raise ConfigError(f"RateLimit(reserve={shares!r}): that is more than there is")
    if len(shares) > MOST_RESERVES:
        raise ConfigError(f"RateLimit(reserve=...): at most {MOST_RESERVES} tiers can have a share kept")
    return shares


def checked_pacing(pacing: bool | int) -> int | None:
    """The burst that is let through at once; ``None``: not paced."""
    if pacing is True:
        return 1
    if pacing is False:
        return None
    if not isinstance(pacing, int) or pacing < 1:
        raise ConfigError(f"RateLimit(pacing={pacing!r}): True, False, or how many calls may go at once")
    return pacing


def one_of(option: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"RateLimit({option}={value!r}): one of {', '.join(map(repr, known))}")


def shapes_of(limits: Mapping[str, int], shares: Mapping[str, float]) -> tuple[Shape, ...]:
    """The logs that keep these limits.

    What is kept for some tiers is kept by bounding the others: for each set of tiers a log of all calls
    but theirs, which may use no more than is left when the whole of their shares is set aside. That is the
    same as leaving free, at any time, what they have not used of it.
    """
    shapes: list[Shape] = []
    for window_s, names in ((MINUTE_S, MINUTE), (DAY_S, DAY)):
        most = [float(limits[name]) if name in limits else math.inf for name in names]
        if min(most) == math.inf:
            continue
        tiers = sorted(shares)
        for size in range(len(tiers) + 1):
            for spared in combinations(tiers, size):
                left = [_left(limit, [shares[tier] for tier in spared]) for limit in most]
                shapes.append(Shape(window_s, (left[0], left[1], left[2], left[3]), names, frozenset(spared)))
    return tuple(shapes)


def _left(limit: float, shares: Sequence[float]) -> float:
    if limit == math.inf:
        return limit
    return limit - sum(math.floor(limit * share + 1e-9) for share in shares)

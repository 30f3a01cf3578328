"""The options of a call that a cache goes by, checked: as a caller writes them, as a request has them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError
from .contents import LONGEST_TTL_S, hash_of

__all__ = ["NAMES", "NOT_LISTS", "checked", "names_of"]

CACHE_MODES = ("auto", "always", "refresh", "only", "off")
NAMES = frozenset({"sla", "user", "tenant", "plan", "contract", "session", "min_tier", "route", "language"})
NOT_LISTS = (str, bytes, bytearray, memoryview, Mapping)


def checked(name: str, value: Any) -> Any:
    """Raises ``ConfigError`` for what makes no sense."""
    if name in NAMES:
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{name}={value!r}: give a name (a non-empty str), or leave it out")
        return value
    match name:
        case "cache":
            if value not in CACHE_MODES:
                raise ConfigError(f"cache={value!r}: one of {', '.join(CACHE_MODES)}")
            return value
        case "cache_ttl_s":
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not 0 <= value <= LONGEST_TTL_S:
                raise ConfigError(f"cache_ttl_s={value!r}: give seconds, from 0 to a year")
            return float(value)
        case "depends_on":
            if not isinstance(value, Mapping):
                raise ConfigError('depends_on: give contents by document, such as {"doc:42": text}')
            return tuple(sorted((name, hash_of(name, content)) for name, content in value.items()))
        case "tags":
            return tuple(names_of(name, value))
    raise AssertionError(name)


def names_of(option: str, value: Any) -> list[str]:
    """Raises ``ConfigError`` for anything but several names."""
    if isinstance(value, NOT_LISTS) or not isinstance(value, Sequence | set | frozenset):
        raise ConfigError(f"{option}={value!r}: give several names, such as [{value!r}]")
    names = list(value)
    if not all(isinstance(n, str) and n for n in names):
        raise ConfigError(f"{option}={value!r}: each must be a non-empty str")
    return names

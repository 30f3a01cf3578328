"""What a budget may be made with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from ..errors import ConfigError

__all__ = ["PLACES", "OnExceed", "checked_on_exceed", "checked_per", "checked_where", "one_of"]

PER = (
    *("user", "tenant", "plan", "contract", "tag", "session", "route", "tier", "deployment"),
    *("client", "call", "run"),
)
WHERE = ("user", "tenant", "plan", "contract", "tag", "session", "route", "tier", "deployment", "model")
PLACES = frozenset({"tier", "deployment", "model"})
ON_EXCEED = ("reject", "downgrade", "clamp")

OnExceed = Literal["reject", "downgrade", "clamp"]


def checked_per(per: str | Sequence[str]) -> tuple[str, ...]:
    keys = (per,) if isinstance(per, str) else tuple(per) if isinstance(per, Sequence) else ()
    if not keys or any(key not in PER for key in keys) or len(set(keys)) < len(keys):
        raise ConfigError(f"Budget(per={per!r}): one or several of {', '.join(PER)}")
    if len(keys) > 1 and {"call", "run", "client"} & set(keys):
        raise ConfigError(f"Budget(per={per!r}): 'client', 'call' and 'run' stand alone")
    return keys


def checked_where(where: Mapping[str, str | Iterable[str]] | None) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    if where is not None and not isinstance(where, Mapping):
        raise ConfigError(f"Budget(where={where!r}): give a mapping, such as {{'plan': 'free'}}")
    for key, names in (where or {}).items():
        if key not in WHERE:
            raise ConfigError(f"Budget(where=...): {key!r} is none of {', '.join(WHERE)}")
        several = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, Iterable) else ()
        if not several or not all(isinstance(name, str) and name for name in several):
            raise ConfigError(f"Budget(where={{{key!r}: {names!r}}}): give a name or several")
        found[key] = frozenset(several)
    return found


def checked_on_exceed(given: OnExceed | Sequence[OnExceed] | None, per: tuple[str, ...]) -> tuple[str, ...]:
    if given is None:
        return ("downgrade",) if {"tier", "deployment"} & set(per) else ("reject",)
    steps = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else ()
    if not steps or any(step not in ON_EXCEED for step in steps):
        raise ConfigError(f"Budget(on_exceed={given!r}): one or several of {', '.join(ON_EXCEED)}")
    return steps


def one_of(option: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"Budget({option}={value!r}): one of {', '.join(map(repr, known))}")

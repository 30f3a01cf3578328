"""What a configuration says, in one number, and in which tables it differs from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .table import Table, based, same, written

if TYPE_CHECKING:
    from pathlib import Path

    from .file import Config
    from .tiers import TierTable

__all__ = ["FOR_LIFE", "changed", "digest_of"]

DIGITS = 12

FOR_LIFE = ("store", "ledger", "cache")
"""What a client has from its beginning to its end: money, rows and answers are in there."""

PLACED = (*FOR_LIFE, "prices", "router", "decisions")
"""Tables whose paths may be relative to the file."""


def digest_of(config: Config) -> str:
    """See ``Config.digest``."""
    canonical = json.dumps(written(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:DIGITS]


def changed(old: Config, new: Config) -> tuple[str, ...]:
    """The tables that are not the same: ``"budgets"``, ``"plans.free"``, ``"tiers.gold"``, …

    ``"tiers"`` by itself: they stand in another order.
    """
    found: list[str] = []
    for name in type(new).model_fields:
        before: Any = getattr(old, name)
        after: Any = getattr(new, name)
        if name == "tiers":
            found += _tiers(old.tiers, new.tiers)
        elif _is_named(after) or _is_named(before):
            found += _apart(name, before, after)
        elif not same(_plain(before), _plain(after)) or (
            name in PLACED and _elsewhere(before, old.base, after, new.base)
        ):
            found.append(name)
    return tuple(found)


def _elsewhere(before: object, old: Path, after: object, new: Path) -> bool:
    """Whether paths that are written alike lead to other places."""
    if not isinstance(before, Table) or not isinstance(after, Table):
        return False
    return based(before, old) != based(after, new)


def _tiers(before: Sequence[TierTable], after: Sequence[TierTable]) -> list[str]:
    told = list(_apart("tiers", {tier.name: tier for tier in before}, {tier.name: tier for tier in after}))
    in_order = [tier.name for tier in before] == [tier.name for tier in after]
    return told or ([] if in_order else ["tiers"])


def _apart(name: str, before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    for each in dict.fromkeys([*before, *after]):
        if not same(_plain(before.get(each)), _plain(after.get(each))):
            yield f"{name}.{each}"


def _is_named(value: object) -> bool:
    """Whether it holds tables by their names."""
    return isinstance(value, dict) and any(isinstance(inner, Table) for inner in value.values())


def _plain(value: object) -> object:
    return [_plain(inner) for inner in value] if isinstance(value, list) else written(value)

"""Sums over ledger rows, by group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import NamedTuple, Protocol

from ..errors import ConfigError
from .ledger_row import kept_text, strings, usd

__all__ = ["BUCKETS_S", "FIELDS", "SUMS", "Columns", "UsageLine", "Wanted", "grouped", "wanted"]

FIELDS = {
    "user": "user",
    "tenant": "tenant",
    "plan": "plan",
    "contract": "contract",
    "tag": "tags",
    "tier": "tier",
    "deployment": "deployment",
    "model": "model",
    "route": "route",
    "run": "run",
    "trace_id": "trace_id",
    "request_id": "request_id",
    "outcome": "outcome",
    "budget": "budget",
}
"""What rows can be chosen and grouped by, and the column that holds it."""

TIMES = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "month": "%Y-%m"}

BUCKETS_S = {"hour": 3_600, "day": 86_400, "month": 86_400}
QUARTER_S = 900
"""Outside UTC, rows are summed by quarters of an hour first: every zone's hours and days are made of
whole ones."""


class Wanted(NamedTuple):
    """Which rows: ``since`` ≤ time < ``until``, and fields that equal what is given."""

    since: float | None
    until: float | None
    where: tuple[tuple[str, str | None], ...]


class Sums(NamedTuple):
    """What is added up, as whole numbers; money in attos."""

    calls: int
    refused: int
    failed: int
    cancelled: int
    cached: int
    degraded: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost: int
    listed: int
    estimate: int
    saved: int
    compared: int
    compared_cost: int
    error: int
    abs_error: int


SUMS = Sums._fields


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLine:
    """The sums of one group. ``group`` maps the names it was grouped by to its values.

    ``calls`` are those to providers and those that a cache answered, of any outcome; ``refused`` ones
    are not among them, and a call that steps down may be refused several times. ``unpriced`` calls used
    tokens and count as free in ``cost_usd``. ``saved_usd`` is list price less cost, where both are known.
    ``compared`` calls succeeded, had an estimate and a reported cost: ``error_usd`` is the sum of
    estimate less cost over them, ``abs_error_usd`` that of its size.
    """

    group: Mapping[str, str | None]
    calls: int = 0
    refused: int = 0
    failed: int = 0
    cancelled: int = 0
    cached: int = 0
    degraded: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    list_usd: Decimal = Decimal(0)
    estimate_usd: Decimal = Decimal(0)
    saved_usd: Decimal = Decimal(0)
    compared: int = 0
    compared_usd: Decimal = Decimal(0)
    error_usd: Decimal = Decimal(0)
    abs_error_usd: Decimal = Decimal(0)

    @property
    def mean_error_usd(self) -> Decimal | None:
        """Estimate less cost, in the mean: above 0 where estimates are too high."""
        return self.error_usd / self.compared if self.compared else None

    @property
    def mean_abs_error_usd(self) -> Decimal | None:
        """How far an estimate is from its cost, in the mean."""
        return self.abs_error_usd / self.compared if self.compared else None

    @property
    def error_share(self) -> float | None:
        """``error_usd`` as a share of what the same calls cost: 0.1 is 10 % too high."""
        return float(self.error_usd / self.compared_usd) if self.compared_usd else None

    def to_dict(self) -> dict[str, object]:
        """For JSON: amounts as text, so that they stay exact."""
        made: dict[str, object] = dict(self.group)
        for f in fields(self)[1:]:
            value = getattr(self, f.name)
            made[f.name] = f"{value:f}" if isinstance(value, Decimal) else value
        made["error_share"] = None if self.error_share is None else round(self.error_share, 6)
        return made


Key = tuple[str | int | tuple[str, ...] | None, ...]
Columns = Sequence[tuple[str, int | None]]
"""What to group by; ``at`` comes with seconds a bucket."""


class Rows(Protocol):
    """Where rows are kept."""

    def sums(self, bys: Sequence[Columns], wanted: Wanted) -> list[Iterable[tuple[Key, Sequence[int]]]]:
        """For each of ``bys``, all of one moment, and each group its raw key and ``SUMS``."""


def wanted(
    since: float | datetime | None, until: float | datetime | None, where: Mapping[str, str | None]
) -> Wanted:
    """What callers gave, checked. Raises ``ConfigError``."""
    for name in where:
        if name not in FIELDS:
            raise ConfigError(f"a ledger's rows have no {name!r} to look for; there is {', '.join(FIELDS)}")
    kept = tuple((name, kept_text(value)) for name, value in where.items())
    return Wanted(_seconds("since", since), _seconds("until", until), kept)


def _seconds(name: str, value: float | datetime | None) -> float | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ConfigError(f"{name}={value!r}: give a datetime with a time zone, or seconds since 1970")
        return value.timestamp()
    if not math.isfinite(value):
        raise ConfigError(f"{name}={value!r}: give a datetime with a time zone, or seconds since 1970")
    return float(value)


def grouped(
    rows: Rows, bys: Sequence[Sequence[str]], wanted: Wanted, tz: tzinfo | None = None
) -> list[list[UsageLine]]:
    """For each of ``bys`` one line for each group, all of one moment. See ``UsageLedger.usage``."""
    zone = UTC if tz is None else tz
    groupings = [_Grouping(by, zone, wanted) for by in bys]
    found = rows.sums([grouping.columns for grouping in groupings], wanted)
    return [grouping.lines(sums) for grouping, sums in zip(groupings, found, strict=True)]


class _Grouping:
    """Lines by some names; without any, one for all. Raises ``ConfigError`` for names there are none of."""

    def __init__(self, by: Sequence[str], zone: tzinfo, wanted: Wanted) -> None:
        self.by = (by,) if isinstance(by, str) else tuple(by)
        for name in self.by:
            if name not in FIELDS and name not in TIMES:
                known = ", ".join((*FIELDS, *TIMES))
                raise ConfigError(f"a ledger's rows cannot be grouped by {name!r}, only by {known}")
        if len(set(self.by)) < len(self.by):
            raise ConfigError(f"by={self.by!r} says the same twice: name each once")
        self.zone = zone
        self.tag = dict(wanted.where).get("tag")
        self.columns: Columns = [
            (FIELDS[name], None) if name in FIELDS else ("at", BUCKETS_S[name] if zone is UTC else QUARTER_S)
            for name in self.by
        ]
        self.times = [name for name in self.by if name in TIMES]
        self._began: dict[str | None, int] = {}
        """When each hour, day and month began: an hour that comes twice has labels in no order."""

    def lines(self, found: Iterable[tuple[Key, Sequence[int]]]) -> list[UsageLine]:
        merged: dict[tuple[str | None, ...], list[int]] = {}
        if not self.by:
            merged[()] = [0] * len(SUMS)
        for raw, sums in found:
            for key in self._keys(raw):
                mine = merged.get(key)
                if mine is None:
                    merged[key] = list(sums)
                else:
                    merged[key] = [a + b for a, b in zip(mine, sums, strict=True)]
        lines = [_line(dict(zip(self.by, key, strict=True)), Sums(*sums)) for key, sums in merged.items()]
        return sorted(lines, key=self._order)

    def _order(self, line: UsageLine) -> tuple[object, ...]:
        when = tuple(self._began[line.group[name]] for name in self.times)
        names = tuple((value is not None, value or "") for value in line.group.values())
        return (when, -line.cost_usd, -line.calls, -line.refused, names)

    def _keys(self, raw: Key) -> list[tuple[str | None, ...]]:
        """The groups that the rows under one raw key belong to: several where they have several tags.

        Of tags, where one is asked for, that one: or a call would be among the lines twice.
        """
        keys: list[tuple[str | None, ...]] = [()]
        for name, (_, bucket_s), value in zip(self.by, self.columns, raw, strict=True):
            if bucket_s is not None:
                assert isinstance(value, int)
                choices: Sequence[str | None] = (self._time(name, value * bucket_s),)
            elif name == "tag" and self.tag is not None:
                choices = (self.tag,)
            elif name == "tag":
                tags = value if isinstance(value, tuple) else strings(str(value))
                choices = sorted(set(tags)) or (None,)
            else:
                choices = (None if value is None else str(value),)
            keys = [(*key, choice) for key in keys for choice in choices]
        return keys

    def _time(self, name: str, at: int) -> str:
        moment = datetime.fromtimestamp(at, self.zone)
        label = moment.strftime(TIMES[name])
        if name == "hour" and self.zone is not UTC:
            label += moment.strftime("%z")
        self._began[label] = min(at, self._began.get(label, at))
        return label


def _line(group: dict[str, str | None], sums: Sums) -> UsageLine:
    plain = {name: getattr(sums, name) for name in SUMS[: SUMS.index("cost")]}
    return UsageLine(
        group=group,
        **plain,
        cost_usd=usd(sums.cost),
        list_usd=usd(sums.listed),
        estimate_usd=usd(sums.estimate),
        saved_usd=usd(sums.saved),
        compared=sums.compared,
        compared_usd=usd(sums.compared_cost),
        error_usd=usd(sums.error),
        abs_error_usd=usd(sums.abs_error),
    )

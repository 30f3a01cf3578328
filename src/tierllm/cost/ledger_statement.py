"""A statement of usage, for one tenant or tag, to be handed on."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .ledger_summary import UsageLine

if TYPE_CHECKING:
    from .ledger_questions import Questions

__all__ = ["Statement", "as_csv", "as_table", "csv_cell", "escaped", "stated"]

CENT = Decimal("0.01")

EXACT = Context(prec=100)
"""Money is never rounded by the precision that an application has set for its own sums."""

LEAST_RATE, MOST_RATE = Decimal("1E-12"), Decimal("1E12")
CURRENCY = re.compile(r"[A-Za-z][A-Za-z0-9]{0,9}")

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What begins a formula in spreadsheets; the last are those signs in East Asian width."""

WIDEST = 60
"""Longer names are cut in tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What ``tenant`` or ``tag`` used between two moments, by line and in total.

    ``rate`` is ``currency`` for a dollar. Each line is exact; ``amount`` rounds to hundredths (halves
    to even), for the total once and not line by line.
    """

    tenant: str | None
    tag: str | None
    since: datetime | None
    until: datetime | None
    currency: str
    rate: Decimal
    lines: tuple[UsageLine, ...]
    total: UsageLine

    def amount(self, usd: Decimal) -> Decimal:
        """``usd`` in the statement's currency."""
        return EXACT.multiply(usd, self.rate).quantize(CENT, rounding=ROUND_HALF_EVEN, context=EXACT)

    @property
    def _numbers(self) -> int:
        return 4 if self.currency == "USD" else 5

    def _table(self) -> list[list[str]]:
        names = list(self.lines[0].group) if self.lines else []
        head = [*names, "calls", "input_tokens", "output_tokens", "cost_usd"]
        converted = self.currency != "USD"
        if converted:
            head.append(f"cost_{self.currency.lower()}")
        table = [head]
        for line, labels in [
            *((line, [line.group[name] or "" for name in names]) for line in self.lines),
            (self.total, ["total", *[""] * (len(names) - 1)] if names else []),
        ]:
            row = [*labels, str(line.calls), str(line.input_tokens), str(line.output_tokens)]
            row.append(f"{line.cost_usd:f}")
            if converted:
                row.append(f"{self.amount(line.cost_usd):f}")
            table.append(row)
        return table

    def as_text(self) -> str:
        """For people: a heading, a table, and what is not in the sum."""
        whose = escaped(f"tenant {self.tenant}" if self.tenant is not None else f"tag {self.tag}")
        bounds = [_day(moment) for moment in (self.since, self.until)]
        period = " ".join(
            f"{word} {day}" for word, day in zip(("from", "until"), bounds, strict=True) if day is not None
        )
        told = [f"Usage of {whose}" + (f", {period}" if period else "")]
        told.append("")
        told.append(as_table(self._table(), numbers=self._numbers))
        told.append("")
        if self.currency != "USD":
            told.append(f"1 USD = {self.rate:f} {self.currency}")
        if self.total.unpriced:
            told.append(f"calls without a known price, and so not in the sum: {self.total.unpriced}")
        return "\n".join(told).rstrip() + "\n"

    def to_csv(self) -> str:
        """The same lines, and the total last; safe to open in a spreadsheet."""
        return as_csv(self._table(), numbers=self._numbers)

    def to_dict(self) -> dict[str, object]:
        """For JSON: amounts as text, times as ISO 8601."""
        return {
            "tenant": self.tenant,
            "tag": self.tag,
            "since": None if self.since is None else self.since.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
            "currency": self.currency,
            "rate": f"{self.rate:f}",
            "lines": [self._told(line) for line in self.lines],
            "total": self._told(self.total),
        }

    def _told(self, line: UsageLine) -> dict[str, object]:
        return line.to_dict() | {"amount": f"{self.amount(line.cost_usd):f}"}


def stated(
    ledger: Questions,
    *,
    tenant: str | None,
    tag: str | None,
    since: float | datetime | None,
    until: float | datetime | None,
    by: Sequence[str],
    currency: str,
    rate: Decimal | int | str,
    tz: tzinfo | None,
) -> Statement:
    """See ``UsageLedger.statement``. Raises ``ConfigError``."""
    if (tenant is None) == (tag is None):
        raise ConfigError("a statement is for a tenant= or for a tag=: give one of them")
    if not isinstance(currency, str) or not CURRENCY.fullmatch(currency):
        raise ConfigError(f'currency={currency!r}: give its code, such as "EUR"')
    currency = "USD" if currency.upper() == "USD" else currency
    try:
        exact = Decimal(rate)
    except (ArithmeticError, TypeError, ValueError):
        exact = Decimal("NaN")
    if isinstance(rate, float) or not exact.is_finite() or not LEAST_RATE <= exact <= MOST_RATE:
        raise ConfigError(f'rate={rate!r}: give {currency} for a dollar, exactly, such as "0.92"')
    if currency == "USD" and exact != 1:
        raise ConfigError(f"rate={rate}: a dollar is a dollar; say which currency this is the rate of")
    where = {"tenant": tenant} if tag is None else {"tag": tag}
    lines, total = ledger.report(by, since, until, tz=tz, **where)
    zone = UTC if tz is None else tz
    return Statement(
        tenant=tenant,
        tag=tag,
        since=_moment(since, zone),
        until=_moment(until, zone),
        currency=currency,
        rate=exact,
        lines=tuple(line for line in lines if line.calls),
        total=total,
    )


def _moment(value: float | datetime | None, zone: tzinfo) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    return datetime.fromtimestamp(value, zone)


def _day(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    whole = (moment.hour, moment.minute, moment.second, moment.microsecond) == (0, 0, 0, 0)
    return f"{moment:%Y-%m-%d}" if whole else f"{moment:%Y-%m-%d %H:%M:%S}"


def as_table(rows: Sequence[Sequence[str]], *, numbers: int) -> str:
    """Columns under their heads, the last ``numbers`` of them to the right."""
    names = len(rows[0]) - numbers
    shown = [[_shown(cell) if place < names else cell for place, cell in enumerate(row)] for row in rows]
    widths = [max(len(row[place]) for row in shown) for place in range(len(shown[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < names else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    )


def _shown(name: str) -> str:
    told = escaped(name[: WIDEST + 1])
    return told if len(told) <= WIDEST else f"{told[: WIDEST - 1]}…"


def escaped(text: str) -> str:
    """Names come from users: no line feeds, and nothing that a terminal or a reader's eye would obey.

    What cannot be printed is told as Python writes it, such as ``\\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_csv(rows: Iterable[Sequence[str]], *, numbers: int) -> str:
    """Lines of CSV, whose last ``numbers`` columns are numbers and whose others are names."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in rows:
        names = len(row) - numbers
        writer.writerow([csv_cell(cell) if place < names else cell for place, cell in enumerate(row)])
    return out.getvalue()


def csv_cell(name: str) -> str:
    """A name that a spreadsheet would take for a formula gets a quote before it."""
    told = escaped(name)
    return f"'{told}" if name.lstrip().startswith(FORMULAS) or name.startswith(FORMULAS) else told

"""A ledger entry as a row of plain values, and money as whole numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from decimal import Decimal
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ledger_entry import Entry

__all__ = [
    "COLUMNS",
    "LeftOut",
    "Row",
    "atto",
    "checked",
    "entry_of",
    "error_of",
    "kept_text",
    "left_out_of",
    "needle",
    "plain",
    "row_of",
    "strings",
    "usd",
]

Value = str | int | float | None
Row = tuple[Value, ...]

LeftOut = tuple[str, str]
"""The id of a row that cannot be kept, and why."""

ATTOS = 10**18
"""Money is counted in 10⁻¹⁸ dollars: a token of the cheapest model, at a tenth for the cache, and a
million times finer than that."""

NANO = 10**9
"""Two integers of 64 bits hold an amount: whole nano-dollars, and the attos beyond (0 ≤ attos < 10⁹),
so that a sum over nine thousand million rows cannot overflow in the second, nor below nine thousand
million dollars in the first."""

MOST_USD = 10**6
MOST_TOKENS = 10**9
"""No call comes near either; a thousand such rows can be added up."""

LAST_AT = 253_370_764_800
"""The year 9999: what is later has no date, and is most likely in milliseconds."""

TEXTS = ("id", "trace_id", "outcome", "user", "tenant", "plan", "contract", "route", "run")
MORE_TEXTS = ("tier", "deployment", "model", "service_tier", "price_as_of", "request_id", "budget")
NAMES = (*TEXTS, *MORE_TEXTS)
_names_of = attrgetter(*NAMES)
TOKENS = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
MONEY = ("cost", "estimate", "reserved", "list")

COLUMNS = (
    *TEXTS,
    *MORE_TEXTS,
    "tags",
    "degraded",
    "at",
    "latency_s",
    "estimated",
    "cached",
    *TOKENS,
    *(f"{name}_{part}" for name in MONEY for part in ("nano", "atto")),
    "error_nano",
    "error_atto",
)
"""The last two are reckoned from the others, once, so that sums need not look at each row's outcome."""


def atto(amount: Decimal) -> int:
    """``amount`` dollars in 10⁻¹⁸ dollars, the nearest (halves to even)."""
    top, bottom = amount.as_integer_ratio()
    whole, rest = divmod(top * ATTOS, bottom)
    if rest * 2 > bottom or (rest * 2 == bottom and whole & 1):
        whole += 1
    return whole


def usd(attos: int) -> Decimal:
    """Dollars, exactly, whatever the precision of the decimal context."""
    whole, rest = divmod(abs(attos), ATTOS)
    fraction = f"{rest:018d}".rstrip("0")
    return Decimal(f"{'-' * (attos < 0)}{whole}{'.' * bool(fraction)}{fraction}")


def strings(joined: str) -> list[str]:
    """The strings that ``_joined`` put together."""
    return [json.loads(line) for line in joined.split("\n") if line]


def needle(text: str) -> str:
    """What to look for in joined strings to find ``text`` among them, and nothing else."""
    return f"\n{json.dumps(text)}\n"


def _joined(texts: tuple[str, ...]) -> str:
    """One line for each, as JSON, which holds no line feed: so that none can be taken for another."""
    return "".join(("\n", *(json.dumps(kept_text(text)) + "\n" for text in texts))) if texts else ""


def kept_text(value: str | None) -> str | None:
    """``value`` as it is kept, and so to be looked for."""
    if value is None:
        return None
    text = value if type(value) is str else str(value)
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair cannot be stored


def checked(entry: Entry) -> None:
    """Raises ``ValueError`` (or an arithmetic error, for NaN) for a row that cannot be kept."""
    if not entry.id:
        raise ValueError("it has no id")
    if not 0 <= entry.at < LAST_AT:
        raise ValueError(f"a time of {entry.at}; give seconds since 1970")
    for amount in (entry.cost_usd, entry.estimate_usd, entry.reserved_usd, entry.list_usd):
        if amount is not None and not -MOST_USD <= amount <= MOST_USD:
            raise ValueError(f"an amount of {amount} dollars")
    tokens = entry.input_tokens, entry.output_tokens, entry.cached_input_tokens
    for count in (*tokens, entry.cache_write_tokens, entry.reasoning_tokens):
        if not -MOST_TOKENS <= count <= MOST_TOKENS:
            raise ValueError(f"{count} tokens")


def left_out_of(entry: Entry, error: Exception) -> LeftOut:
    """What can be said without asking the row for anything more."""
    name = entry.id if type(entry.id) is str else type(entry.id).__name__
    known = isinstance(error, ValueError | ArithmeticError)
    return name, str(error) if known else type(error).__name__


def plain(entry: Entry) -> Entry:
    """``entry`` with texts for names, as it would come back from a file."""
    try:  # nearly always they are texts, in ASCII
        texts = [text for text in _names_of(entry) if text is not None]
        ascii_only = "".join((*texts, *entry.tags, *entry.degraded)).isascii()
        if ascii_only and type(entry.tags) is tuple and type(entry.degraded) is tuple:
            return entry
    except TypeError:
        pass
    changed: dict[str, Any] = {name: kept_text(getattr(entry, name)) for name in NAMES}
    for name in ("tags", "degraded"):
        changed[name] = tuple(kept_text(text) for text in getattr(entry, name) or ())
    return replace(entry, **changed)


def error_of(entry: Entry) -> int | None:
    """Estimate less cost, in attos, of a call that succeeded and whose tokens were reported."""
    cost, estimate = entry.cost_usd, entry.estimate_usd
    if cost is None or estimate is None or entry.outcome != "ok" or entry.cached or entry.estimated:
        return None
    return atto(estimate) - atto(cost)


def row_of(entry: Entry) -> Row:
    """The values for ``COLUMNS``. Raises as ``checked`` does."""
    checked(entry)
    latency_s = entry.latency_s
    row: list[Value] = [
        kept_text(entry.id) or "",
        kept_text(entry.trace_id) or "",
        kept_text(entry.outcome) or "",
        kept_text(entry.user),
        kept_text(entry.tenant),
        kept_text(entry.plan),
        kept_text(entry.contract),
        kept_text(entry.route),
        kept_text(entry.run),
        kept_text(entry.tier) or "",
        kept_text(entry.deployment) or "",
        kept_text(entry.model) or "",
        kept_text(entry.service_tier),
        kept_text(entry.price_as_of),
        kept_text(entry.request_id),
        kept_text(entry.budget),
        _joined(entry.tags),
        _joined(entry.degraded),
        float(entry.at),
        None if latency_s is None or not math.isfinite(latency_s) else float(latency_s),
        int(entry.estimated),
        int(entry.cached),
        int(entry.input_tokens),
        int(entry.output_tokens),
        int(entry.cached_input_tokens),
        int(entry.cache_write_tokens),
        int(entry.reasoning_tokens),
    ]
    for amount in (entry.cost_usd, entry.estimate_usd, entry.reserved_usd, entry.list_usd):
        if amount is None:
            row += (None, None)
        else:
            row += divmod(atto(amount), NANO)
    error = error_of(entry)
    row += (None, None) if error is None else divmod(error, NANO)
    return tuple(row)


def entry_of(row: tuple[Any, ...]) -> Entry:  # Any: what SQLite hands back
    """The entry that ``row`` was made of."""
    from .ledger_entry import Entry

    named = dict(zip(COLUMNS, row, strict=True))
    for name in MONEY:
        nano, rest = named.pop(f"{name}_nano"), named.pop(f"{name}_atto")
        named[f"{name}_usd"] = None if nano is None else usd(nano * NANO + rest)
    del named["error_nano"], named["error_atto"]
    for name in ("tags", "degraded"):
        named[name] = tuple(strings(named[name]))
    for name in ("estimated", "cached"):
        named[name] = bool(named[name])
    return Entry(**named)

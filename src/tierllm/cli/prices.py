"""``tierllm prices``: what a model costs, and a newer price list."""

from __future__ import annotations

import argparse
import datetime
import difflib
import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..cost.price import Price
    from ..cost.prices import ModelInfo, PriceBook
    from .arguments import Commands

__all__ = ["add"]

KINDS = ("input", "cached input", "cache write", "output")
CLOSE_AT_MOST = 5


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "prices",
        help="show what a model costs, or fetch a newer price list",
        description="Prices come with the package; nothing is fetched unless you refresh them.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    show = actions.add_parser(
        "show",
        help="what a model costs",
        description="Dollars per million tokens. Exit code 1 if no price is known.",
    )
    show.add_argument("model", metavar="MODEL", help="as in gpt-5-mini, or azure/gpt-5")
    show.add_argument("--vendor", metavar="V", help="who sells it (default: its own maker)")
    show.add_argument("--file", metavar="F", help="a list written by refresh (default: the bundled one)")
    show.add_argument("--json", action="store_true", help="as JSON, with the rates as texts")
    show.set_defaults(run=run_show)

    refresh = actions.add_parser(
        "refresh",
        help="write the newest price list into a file",
        description='Needs genai-prices: pip install "tierllm[prices]". Written whole or not at all.',
    )
    refresh.add_argument("--out", metavar="FILE", default="prices.json", help="default: prices.json")
    refresh.add_argument("--offline", action="store_true", help="what the installed genai-prices carries")
    refresh.set_defaults(run=run_refresh)


def run_show(arguments: argparse.Namespace) -> int:
    from ..cost.prices import PriceBook

    book = PriceBook.load(arguments.file) if arguments.file else PriceBook.bundled()
    info = book.find(arguments.model, arguments.vendor)
    if info is None:
        print(f"tierllm prices: {_unknown(book, arguments.model, arguments.vendor)}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(_as_json(info), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_told(info)))
    return 0


def run_refresh(arguments: argparse.Namespace) -> int:
    from ..cost.prices import making

    today = datetime.datetime.now(datetime.UTC).date()
    text = making.installed(today) if arguments.offline else making.fetched(today)
    book = making.write(text, arguments.out)
    print(f"{arguments.out}: {len(book):,} prices; {book.source}, of {book.as_of}")
    return 0


def _unknown(book: PriceBook, model: str, vendor: str | None) -> str:
    told = f"no price is known for {model!r}" + (f" at {vendor!r}" if vendor else "")
    if why := book.left_out(model, vendor):
        return f"{told}: {why}"
    close = _close(book.names(), model, vendor)
    return told + (f"; close to it: {', '.join(close)}" if close else "")


def _close(names: list[str], model: str, vendor: str | None) -> list[str]:
    """Models with a name like it, each with its vendor."""
    wanted = model.strip().lower()
    sellers: dict[str, list[str]] = {}
    for name in names:
        seller, _, sold = name.partition("/")
        if vendor is None or vendor.strip().lower() in seller:
            sellers.setdefault(sold.lower(), []).append(name)
    alike = difflib.get_close_matches(wanted, sellers, n=CLOSE_AT_MOST, cutoff=0.75)
    return [sorted(sellers[sold], key=len)[0] for sold in alike]


def _rows(price: Price) -> Iterator[tuple[str, Price]]:
    for label, rates in (("standard", price), *price.service):
        yield label, rates
        for start, step in rates.above:
            yield f"{label}, input above {start:,}", step


def _told(info: ModelInfo) -> Iterator[str]:
    price = info.price
    yield f"{info.model} · {info.vendor}" if info.vendor else info.model
    rows = [(label, _figures(rates)) for label, rates in _rows(price)]
    head = "$ a million tokens"
    wide = max(len(head), *(len(label) for label, _ in rows))
    yield f"  {head:<{wide}}" + "".join(f"{kind:>14}" for kind in KINDS)
    for label, figures in rows:
        yield f"  {label:<{wide}}" + "".join(f"{figure:>14}" for figure in figures)
    if info.context_window:
        yield f"  context window {info.context_window:,} tokens"
    if info.changes_at is not None:
        when = datetime.datetime.fromtimestamp(info.changes_at, datetime.UTC)
        yield f"  may change at {when:%Y-%m-%d %H:%M} UTC"
    yield f"  source: {price.source or 'not said'}, of {price.as_of or 'an unknown day'}"


def _figures(price: Price) -> list[str]:
    rates = (
        price.input_usd_per_mtok,
        price.cached_input_usd_per_mtok,
        price.cache_write_usd_per_mtok,
        price.output_usd_per_mtok,
    )
    return ["as input" if rate is None else f"{rate:f}" for rate in rates]


def _as_json(info: ModelInfo) -> dict[str, object]:
    return {
        "model": info.model,
        "vendor": info.vendor,
        "price": _rates(info.price),
        "context_window": info.context_window,
        "changes_at": info.changes_at,
        "source": info.price.source,
        "as_of": info.price.as_of,
    }


def _rates(price: Price) -> dict[str, object]:
    def text(rate: Decimal | None) -> str | None:
        return None if rate is None else f"{rate:f}"

    told: dict[str, object] = {
        "input_usd_per_mtok": text(price.input_usd_per_mtok),
        "output_usd_per_mtok": text(price.output_usd_per_mtok),
        "cached_input_usd_per_mtok": text(price.cached_input_usd_per_mtok),
        "cache_write_usd_per_mtok": text(price.cache_write_usd_per_mtok),
    }
    if price.above:
        told["above"] = {str(start): _rates(step) for start, step in price.above}
    if price.service:
        told["service"] = {tier: _rates(rates) for tier, rates in price.service}
    return told

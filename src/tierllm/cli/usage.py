"""``tierllm usage``: who used what, from a ledger file."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .usage_arguments import amount, condition, moment, names, resolved, zone

if TYPE_CHECKING:
    from ..cost.forecast import Forecast
    from ..cost.ledger import UsageLedger
    from ..cost.ledger_summary import UsageLine
    from .arguments import Commands

__all__ = ["add"]

NUMBERS = ("calls", "refused", "failed", "cached", "input_tokens", "output_tokens", "cost_usd", "saved_usd")

HISTORY = timedelta(days=57)
"""A forecast looks at eight whole weeks, and one day more for where the first of them begins."""


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "usage",
        help="who used what: tables, statements, forecasts and advice from a ledger file",
        description="Reads a usage ledger, and changes no row of it. Amounts are in dollars; a call with "
        "several tags counts for each, and once in the total.",
    )
    parser.add_argument("ledger", help="the ledger's SQLite file")
    parser.add_argument(
        "--by",
        type=names,
        default=None,
        help="comma-separated: user, tenant, plan, contract, tag, tier, deployment, model, route, run, "
        "outcome, budget, hour, day, month (default: user)",
    )
    parser.add_argument("--since", type=moment, help="7d, 12h, 2w, 2026-11-01 or 2026-11-01T12:00")
    parser.add_argument("--until", type=moment, help="likewise; not included")
    parser.add_argument("--tz", type=zone, default=UTC, help="time zone of dates and days (default: UTC)")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        type=condition,
        metavar="NAME=VALUE",
        help="only such rows; may be repeated; without a value: where it is not set",
    )
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--statement", type=condition, metavar="tenant=NAME", help="or tag=NAME: a statement")
    what.add_argument("--forecast", action="store_true", help="what this month will have cost at its end")
    what.add_argument("--advice", action="store_true", help="limits, tiers and estimates to look at")
    parser.add_argument("--currency", default="USD", help="of a statement")
    parser.add_argument("--rate", type=amount, default=Decimal(1), help="that currency for a dollar")
    parser.add_argument("--limit-usd", type=amount, help="with --forecast: the day this month's limit falls")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..cost.ledger import UsageLedger

    now = datetime.now(arguments.tz)
    since, until = (resolved(bound, now) for bound in (arguments.since, arguments.until))
    where = dict(arguments.where)
    if len(where) < len(arguments.where):
        raise ConfigError("--where names the same thing twice: a row has one value of each")
    _check(arguments)
    ledger = UsageLedger(arguments.ledger, read_only=True)
    try:
        if arguments.statement is not None:
            print(_statement(ledger, arguments, since, until), end="")
        elif arguments.forecast or arguments.limit_usd is not None:
            print(_forecast(ledger, arguments, now, where), end="")
        elif arguments.advice:
            print(_advice(ledger, arguments, since, until), end="")
        else:
            print(_table(ledger, arguments, since, until, where), end="")
    finally:
        ledger.close()
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Options that would change nothing are mistakes."""
    forecast = arguments.forecast or arguments.limit_usd is not None
    for given, option, name in (
        (arguments.statement is not None, "--where", arguments.where),
        (arguments.advice, "--where", arguments.where),
        (arguments.advice or forecast, "--by", arguments.by),
        (forecast, "--since", arguments.since),
        (forecast, "--until", arguments.until),
        (arguments.statement is None, "--currency", arguments.currency != "USD"),
        (arguments.statement is None, "--rate", arguments.rate != 1),
        (arguments.statement is not None or arguments.advice, "--limit-usd", arguments.limit_usd),
        (arguments.advice or forecast, "--format csv", arguments.format == "csv"),
    ):
        if given and name:
            raise ConfigError(f"{option} does not go with the rest: leave it out")


def _table(
    ledger: UsageLedger,
    arguments: argparse.Namespace,
    since: datetime | None,
    until: datetime | None,
    where: dict[str, str | None],
) -> str:
    from ..cost.ledger_statement import as_csv, as_table

    by = arguments.by or ("user",)
    lines, total = ledger.report(by, since, until, tz=arguments.tz, **where)
    if arguments.format == "json":
        return _json({"by": by, "lines": [line.to_dict() for line in lines], "total": total.to_dict()})
    if arguments.format == "csv":
        numbers = [name for name in total.to_dict() if name not in by]
        told = [[*(_shown(line, name, "") for name in by), *_cells(line, numbers)] for line in lines]
        return as_csv([[*by, *numbers], *told], numbers=len(numbers))
    told = [[*(_shown(line, name, "-") for name in by), *_cells(line, NUMBERS, places=6)] for line in lines]
    told.append(["total", *[""] * (len(by) - 1), *_cells(total, NUMBERS, places=6)])
    text = as_table([[*by, *NUMBERS], *told], numbers=len(NUMBERS)) + "\n"
    if total.unpriced:
        text += f"\ncalls without a known price, and so not in the sum: {total.unpriced}\n"
    return text


def _statement(
    ledger: UsageLedger, arguments: argparse.Namespace, since: datetime | None, until: datetime | None
) -> str:
    kind, name = arguments.statement
    if kind not in ("tenant", "tag") or name is None:
        raise ConfigError("--statement: give tenant=NAME or tag=NAME")
    statement = ledger.statement(
        tenant=name if kind == "tenant" else None,
        tag=name if kind == "tag" else None,
        since=since,
        until=until,
        by=arguments.by or ("tier", "model", "user"),
        currency=arguments.currency,
        rate=arguments.rate,
        tz=arguments.tz,
    )
    if arguments.format == "json":
        return _json(statement.to_dict())
    return statement.to_csv() if arguments.format == "csv" else statement.as_text()


def _forecast(
    ledger: UsageLedger, arguments: argparse.Namespace, now: datetime, where: dict[str, str | None]
) -> str:
    from ..cost.forecast import forecast

    lines = ledger.usage(("day",), now - HISTORY, now, tz=arguments.tz, **where)
    spent = {date.fromisoformat(line.group["day"] or ""): line.cost_usd for line in lines}
    made = forecast(spent, now=now)
    limit = arguments.limit_usd
    falls_on = None if limit is None else made.falls_on(limit)
    if arguments.format == "json":
        return _json(
            {
                "since": made.since.isoformat(),
                "until": made.until.isoformat(),
                "spent_usd": f"{made.spent:f}",
                "expected_usd": _plain(made.expected),
                "low_usd": _plain(made.low),
                "high_usd": _plain(made.high),
                "method": made.method,
                "whole_days": made.whole_days,
                "confident": made.confident,
                "limit_usd": _plain(limit),
                "falls_on": None if falls_on is None else falls_on.isoformat(),
            }
        )
    return _told(made, limit, falls_on)


def _told(made: Forecast, limit: Decimal | None, falls_on: date | None) -> str:
    told = [f"spent since {made.since}: ${made.spent:,.2f}"]
    if made.expected is None:
        told.append(f"expected until {made.until}: unknown, there is no whole day to judge by")
    else:
        told.append(
            f"expected until {made.until}: ${made.expected:,.2f} "
            f"(four times out of five between ${made.low:,.2f} and ${made.high:,.2f})"
        )
        like = "like weekdays" if made.method == "weekday" else "the last of them"
        doubt = "" if made.confident else ": too few to rely on"
        told.append(f"judged by {made.whole_days} whole days, {like}{doubt}")
    if limit is not None:
        if falls_on is None:
            told.append(f"${limit:,.2f} is not expected to be reached" if made.expected is not None else "")
        elif made.spent >= limit:
            told.append(f"${limit:,.2f} has been reached")
        else:
            told.append(f"${limit:,.2f} is expected to be reached on {falls_on}")
    return "\n".join(line for line in told if line) + "\n"


def _advice(
    ledger: UsageLedger, arguments: argparse.Namespace, since: datetime | None, until: datetime | None
) -> str:
    from ..cost.advice import advice_on
    from ..cost.ledger_statement import escaped

    found = advice_on(ledger, since, until)
    if arguments.format == "json":
        told = [
            {"kind": one.kind, "subject": one.subject, "text": one.text, "saves_usd": _plain(one.saves_usd)}
            for one in found
        ]
        return _json({"suggestions": told})
    return "".join(f"{escaped(f'{one.subject}: {one.text}')}\n" for one in found) or "nothing to suggest\n"


def _shown(line: UsageLine, name: str, absent: str) -> str:
    return line.group[name] or absent


def _cells(line: UsageLine, wanted: list[str] | tuple[str, ...], *, places: int | None = None) -> list[str]:
    told = line.to_dict()
    if places is None:
        return ["" if told[name] is None else str(told[name]) for name in wanted]
    return [
        f"{getattr(line, name):.{places}f}" if name.endswith("_usd") else str(told[name]) for name in wanted
    ]


def _plain(usd: Decimal | None) -> str | None:
    return None if usd is None else f"{usd:f}"


def _json(told: object) -> str:
    """Names come from users: what a terminal would obey is escaped, all else can be read as it is."""
    text = json.dumps(told, indent=2, ensure_ascii=False)
    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text) + "\n"

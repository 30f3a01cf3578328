"""What ``tierllm usage`` understands of times, names and amounts."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import NamedTuple

from ..errors import ConfigError

__all__ = ["Ago", "amount", "condition", "moment", "names", "resolved", "zone"]


class Ago(NamedTuple):
    """So much before now. ``calendar``: at the same time of day, however long the days in between were."""

    time: timedelta
    calendar: bool


Moment = Ago | date | datetime

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def names(text: str) -> tuple[str, ...]:
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r}: give names with commas between them")
    return found


def condition(text: str) -> tuple[str, str | None]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=VALUE")
    return name, value or None


def amount(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except ArithmeticError:
        number = Decimal(0)
    if not number.is_finite() or number <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return number


def zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise argparse.ArgumentTypeError(f"{name!r}: there is no such time zone") from error


def moment(text: str) -> Moment:
    ago = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    if ago is not None:
        return Ago(timedelta(**{UNITS[ago[2]]: int(ago[1])}), calendar=ago[2] in "dw")
    try:
        return date.fromisoformat(text) if len(text) <= 10 else datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give 7d, 12h, 2w, a date such as 2026-11-01, or a time such as 2026-11-01T12:00"
        ) from error


def resolved(bound: Moment | None, now: datetime) -> datetime | None:
    if bound is None:
        return None
    if isinstance(bound, Ago):
        try:
            if bound.calendar:
                return now - bound.time
            return (now.astimezone(UTC) - bound.time).astimezone(now.tzinfo)
        except OverflowError as error:
            raise ConfigError("--since and --until: that is too long ago") from error
    if isinstance(bound, datetime):
        return bound if bound.tzinfo is not None else bound.replace(tzinfo=now.tzinfo)
    return datetime(bound.year, bound.month, bound.day, tzinfo=now.tzinfo)

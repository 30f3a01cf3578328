"""Plain data of unknown origin, read as far as it is what it should be: never raises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

__all__ = ["count", "dollars", "finite", "number", "numbers", "share", "text", "texts", "usd"]

MOST_USD = Decimal(10) ** 15
"""Nobody pays more; and what is written with an exponent of millions cannot be worked with."""

DEEPEST = 50


def text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def texts(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list | tuple) else []


def number(value: object) -> float | None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def numbers(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {}
    found = ((str(name), number(each)) for name, each in value.items())
    return {name: each for name, each in found if each is not None}


def share(value: object) -> float | None:
    found = number(value)
    return found if found is not None and 0 <= found <= 1 else None


def count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def dollars(value: object) -> Decimal | None:
    """An amount that somebody may have paid, as a text or a number."""
    if isinstance(value, bool) or not isinstance(value, Decimal | str | int | float):
        return None
    try:
        amount = value if isinstance(value, Decimal) else Decimal(str(value)[:100])
    except (InvalidOperation, ValueError):
        return None
    return amount if amount.is_finite() and 0 <= amount < MOST_USD else None


def usd(value: object) -> float | None:
    """The same as a number."""
    amount = dollars(value)
    return None if amount is None else float(amount)


def finite(value: object, deep: int = DEEPEST) -> object:
    """Plain data as JSON has it: ``None`` for what is no number, or lies too deep."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(inner, deep - 1) for name, inner in value.items()} if deep else None
    if isinstance(value, list | tuple):
        return [finite(inner, deep - 1) for inner in value] if deep else None
    return value

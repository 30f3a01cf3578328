"""Amounts as people write them, and as the whole numbers that stores count in."""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal
from typing import NamedTuple

from ..errors import ConfigError

__all__ = ["EXACT", "NANO", "Limit", "Money", "limits_of", "nano", "spent", "told"]

Money = Decimal | float | int | str

NANO = Decimal(1_000_000_000)
EXACT = Context(prec=60)
"""Money is never rounded by the precision that an application has set for its own sums."""

MOST = 2**53 - 1
"""Stores count exactly up to here: nine million dollars, in nano-dollars."""


def nano(usd: Money) -> int:
    """Dollars as whole nano-dollars, rounded up."""
    return int(EXACT.multiply(Decimal(str(usd)), NANO).to_integral_value(ROUND_CEILING))


class Limit(NamedTuple):
    """The limits of a budget in one unit, in the whole numbers that stores count in."""

    unit: str
    hard: int | None
    soft: int | None

    def told(self, amount: int) -> Decimal:
        """``amount`` as people know it: dollars, tokens or calls."""
        return EXACT.divide(Decimal(amount), NANO) if self.unit == "usd" else Decimal(amount)


def told(limit: Limit, amount: int) -> str:
    if limit.unit == "usd":
        return f"${limit.told(amount).normalize(EXACT):f}"
    return f"{amount} {limit.unit[:-1] if amount == 1 else limit.unit}"


def limits_of(**given: tuple[Money | int | None, Money | int | None]) -> tuple[Limit, ...]:
    """Hard and soft limits by unit. Raises ``ConfigError`` where they make no sense."""
    limits = []
    for unit, (hard, soft) in given.items():
        if hard is None and soft is None:
            continue
        most, warn = _amount(f"hard_{unit}", hard, unit), _amount(f"soft_{unit}", soft, unit)
        if most is not None and warn is not None and warn > most:
            raise ConfigError(f"Budget(soft_{unit}={soft!r}): give less than hard_{unit}={hard!r}")
        limits.append(Limit(unit, most, warn))
    if not limits:
        raise ConfigError("Budget(): give it a limit, such as hard_usd=10")
    return tuple(limits)


def _amount(option: str, value: Money | int | None, unit: str) -> int | None:
    if value is None:
        return None
    exact = _exact(f"Budget({option}", value, unit)
    # rounded down: a limit is never raised
    return int(EXACT.multiply(exact, NANO)) if unit == "usd" else int(exact)


def spent(what: str, **given: Money | None) -> dict[str, int]:
    """Amounts by unit, as stores count them; those that are ``None`` left out. Raises ``ConfigError``."""
    amounts = {}
    for unit, value in given.items():
        if value is not None:
            exact = _exact(f"{what}({unit}", value, unit)
            amounts[unit] = nano(exact) if unit == "usd" else int(exact)
    return amounts


def _exact(option: str, value: Money, unit: str) -> Decimal:
    exact = Decimal("NaN")
    if isinstance(value, int) and not isinstance(value, bool):
        exact = Decimal(value)
    elif unit == "usd" and isinstance(value, Decimal | float | str):
        try:
            exact = Decimal(str(value))
        except ArithmeticError:
            pass  # told below
    if not exact.is_finite() or exact < 0:
        what = "dollars" if unit == "usd" else f"a whole number of {unit}"
        raise ConfigError(f"{option}={value!r}): give {what}, 0 or more")
    if exact > (EXACT.divide(MOST, NANO) if unit == "usd" else MOST):
        raise ConfigError(f"{option}=…): that is more than can be counted; leave it out")
    return exact

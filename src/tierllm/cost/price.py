"""What a deployment's tokens cost."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..types import Usage

__all__ = ["Price"]

_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens. Cached input costs ``cached_input_usd_per_mtok`` where given.

    Numbers of any kind are taken; they are kept as ``Decimal``.
    """

    input_usd_per_mtok: Decimal | float | int | str
    output_usd_per_mtok: Decimal | float | int | str
    cached_input_usd_per_mtok: Decimal | float | int | str | None = None
    cache_write_usd_per_mtok: Decimal | float | int | str | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None and f.default is None:
                continue
            try:
                exact = Decimal(str(value))
            except ArithmeticError:
                exact = Decimal("NaN")
            if not exact.is_finite() or exact < 0:
                raise ConfigError(f"Price({f.name}={value!r}): give dollars per million tokens, 0 or more")
            object.__setattr__(self, f.name, exact)

    def cost_usd(self, usage: Usage) -> Decimal:
        """The price of ``usage``: each kind of token at its own rate."""
        plain = self.input_usd_per_mtok
        cached = plain if self.cached_input_usd_per_mtok is None else self.cached_input_usd_per_mtok
        written = plain if self.cache_write_usd_per_mtok is None else self.cache_write_usd_per_mtok
        fresh_tokens = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
        total = (
            Decimal(max(0, fresh_tokens)) * _exact(plain)
            + usage.cached_input_tokens * _exact(cached)
            + usage.cache_write_tokens * _exact(written)
            + usage.output_tokens * _exact(self.output_usd_per_mtok)
        )
        return total / _MILLION


def _exact(rate: Decimal | float | int | str) -> Decimal:
    assert isinstance(rate, Decimal)
    return rate

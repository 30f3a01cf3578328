"""What a deployment's tokens cost."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from operator import index
from typing import TYPE_CHECKING, Final

from ..errors import ConfigError, UsageError

if TYPE_CHECKING:
    from ..types import Usage

__all__ = ["Price", "Rate"]

Rate = Decimal | float | int | str
"""Dollars per million tokens as they may be given: floats as they are written, 0.1 is a tenth."""

_EXACT: Final = Context(prec=96)  # the caller's own context must not round what a call costs
_TEN: Final = Decimal(10)
_STANDARD: Final = ("default", "standard", "standard_only")
_BATCH: Final = "batch"
_PLACES_AT_MOST, _USD_BELOW = 40, 10**9  # what that precision holds for any number of tokens


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Price:
    """Dollars per million tokens, exact. Numbers of any kind are taken and kept as ``Decimal``.

    Cached input and cache writes cost what other input costs where they have no rate of their own.
    ``above``: the rates of the *whole* request once its input is more than so many tokens.
    ``service``: the prices by the service tier that the vendor says it served (``Usage.service_tier``);
    a tier that is not listed costs what the standard one does. ``as_of`` (``"2026-11-01"``) and
    ``source`` say where the price comes from. Immutable, hashable, and safe to share.
    """

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None
    cache_write_usd_per_mtok: Decimal | None
    above: tuple[tuple[int, Price], ...]
    service: tuple[tuple[str, Price], ...]
    as_of: str | None
    source: str | None

    # The same as integers, in units of 10⁻ⁿ dollars a token.
    _input: int = field(repr=False, compare=False, init=False)
    _output: int = field(repr=False, compare=False, init=False)
    _cached: int = field(repr=False, compare=False, init=False)
    _written: int = field(repr=False, compare=False, init=False)
    _dearest_input: int = field(repr=False, compare=False, init=False)
    _units_per_usd: Decimal = field(repr=False, compare=False, init=False)
    _units_per_nano: int = field(repr=False, compare=False, init=False)
    _plain: bool = field(repr=False, compare=False, init=False)

    def __init__(
        self,
        *,
        input_usd_per_mtok: Rate,
        output_usd_per_mtok: Rate,
        cached_input_usd_per_mtok: Rate | None = None,
        cache_write_usd_per_mtok: Rate | None = None,
        above: Mapping[int, Price] | Iterable[tuple[int, Price]] = (),
        service: Mapping[str, Price] | Iterable[tuple[str, Price]] = (),
        as_of: str | None = None,
        source: str | None = None,
    ) -> None:
        put = object.__setattr__
        plain = _rate("input_usd_per_mtok", input_usd_per_mtok)
        output = _rate("output_usd_per_mtok", output_usd_per_mtok)
        cached = _rate_or_none("cached_input_usd_per_mtok", cached_input_usd_per_mtok)
        written = _rate_or_none("cache_write_usd_per_mtok", cache_write_usd_per_mtok)
        put(self, "input_usd_per_mtok", plain)
        put(self, "output_usd_per_mtok", output)
        put(self, "cached_input_usd_per_mtok", cached)
        put(self, "cache_write_usd_per_mtok", written)
        put(self, "above", _steps(above))
        put(self, "service", _tiers(service))
        put(self, "as_of", _day(as_of))
        if source is not None and not isinstance(source, str):
            raise ConfigError(f"Price(source={source!r}): give a text, such as the page it was read from")
        put(self, "source", source)

        rates = (plain, output, plain if cached is None else cached, plain if written is None else written)
        places = max(3, *map(_places, rates))  # so that a nano-dollar is a whole number of units
        per_mtok = [int(_EXACT.multiply(rate, _TEN**places)) for rate in rates]
        for name, units in zip(("_input", "_output", "_cached", "_written"), per_mtok, strict=True):
            put(self, name, units)
        put(self, "_dearest_input", max(self._input, self._cached, self._written))
        put(self, "_units_per_usd", Decimal(10 ** (6 + places)))
        put(self, "_units_per_nano", 10 ** (places - 3))
        put(self, "_plain", not (self.above or self.service))

    @classmethod
    def free(cls) -> Price:
        """Nothing, whatever is used: a model of one's own."""
        return cls(input_usd_per_mtok=0, output_usd_per_mtok=0)

    def cost_usd(self, usage: Usage) -> Decimal:
        """The price of ``usage``: each kind of token at its own rate, exactly.

        Raises ``UsageError`` for what is no whole number. Less than none counts as none, and no more is
        taken for cached than there is input.
        """
        price, units = self._billed(usage)
        return _EXACT.divide(Decimal(units), price._units_per_usd)

    def cost_nano(self, usage: Usage) -> int:
        """The price of ``usage`` in nano-dollars, rounded up. As ``cost_usd`` for what makes no sense."""
        price, units = self._billed(usage)
        return -(-units // price._units_per_nano)

    def worst_nano(self, input_tokens: int, output_tokens: int, service_tier: str | None = None) -> int:
        """The most that a request of at most these sizes can cost, in nano-dollars, rounded up.

        All input at the dearest of its rates, and the dearest ``above`` within reach. ``service_tier`` is
        the one asked for: a dearer one may still be served, and billed, as the standard one. ``None`` and
        ``"default"`` mean the standard one. ``"auto"``, and any name that is not known, may turn out to be
        any but ``"batch"``.
        """
        most = self._most(input_tokens, output_tokens)
        if self._plain or service_tier is None or service_tier in _STANDARD:
            return most
        named = [price for name, price in self.service if name == service_tier]
        for price in named or (price for name, price in self.service if name != _BATCH):
            most = max(most, price._most(input_tokens, output_tokens))
        return most

    def _most(self, input_tokens: int, output_tokens: int) -> int:
        units = input_tokens * self._dearest_input + output_tokens * self._output
        most = -(-units // self._units_per_nano)
        for start, step in self.above:
            if input_tokens > start:
                most = max(most, step._most(input_tokens, output_tokens))
        return most

    def list_usd(self, usage: Usage) -> Decimal:
        """The price of ``usage`` as if nothing had been cached: all of its input at the plain rate."""
        asked, answered, _, _ = _sizes(usage)
        price = self if self._plain else self.rates(asked, usage.service_tier)
        return _EXACT.divide(Decimal(asked * price._input + answered * price._output), price._units_per_usd)

    def rates(self, input_tokens: int = 0, service_tier: str | None = None) -> Price:
        """The price whose rates hold for a request with so much input, served by that tier."""
        price = self._served(service_tier)
        for start, step in reversed(price.above):
            if input_tokens > start:
                return step
        return price

    def _served(self, service_tier: str | None) -> Price:
        if service_tier is not None:
            for name, price in self.service:
                if name == service_tier:
                    return price
        return self

    def _billed(self, usage: Usage) -> tuple[Price, int]:
        """The price that holds, and what ``usage`` comes to in its units."""
        asked, answered, cached, written = _sizes(usage)
        price = self if self._plain else self.rates(asked, usage.service_tier)
        units = asked * price._input + answered * price._output
        if cached or written:
            units += cached * (price._cached - price._input) + written * (price._written - price._input)
        return price, units


def _sizes(usage: Usage) -> tuple[int, int, int, int]:
    """Input, output, and what of the input was cached and written: a report may be anything."""
    try:
        asked, answered = index(usage.input_tokens), index(usage.output_tokens)
        cached, written = index(usage.cached_input_tokens), index(usage.cache_write_tokens)
    except TypeError:
        raise UsageError("what it costs is told by whole numbers of tokens: ask with those") from None
    if asked < 0:
        asked = 0
    if answered < 0:
        answered = 0
    if cached or written:
        cached = min(max(cached, 0), asked)
        written = min(max(written, 0), asked - cached)
    return asked, answered, cached, written


def _rate(name: str, value: object) -> Decimal:
    exact = Decimal("NaN")
    if isinstance(value, Decimal | float | int | str):
        try:
            # an int as it is: one of thousands of digits has no text
            exact = Decimal(value if type(value) is int else str(value))
        except ArithmeticError:
            pass  # told below
    if not exact.is_finite() or exact < 0:
        raise ConfigError(f"Price({name}={value!r}): give dollars per million tokens, 0 or more")
    if exact >= _USD_BELOW or _places(exact) > _PLACES_AT_MOST:
        raise ConfigError(
            f"Price({name}=…): give dollars per million tokens, less than a billion and with no more "
            f"than {_PLACES_AT_MOST} decimals"
        )
    return exact.copy_abs()


def _rate_or_none(name: str, value: object) -> Decimal | None:
    return None if value is None else _rate(name, value)


def _places(rate: Decimal) -> int:
    exponent = rate.as_tuple().exponent
    assert isinstance(exponent, int)
    return -exponent if rate else 0


def _pairs(name: str, given: object) -> list[tuple[object, object]]:
    try:
        return [(key, value) for key, value in (given.items() if isinstance(given, Mapping) else given)]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ConfigError(f"Price({name}={given!r}): give a dictionary of prices") from None


def _steps(given: object) -> tuple[tuple[int, Price], ...]:
    steps: dict[int, Price] = {}
    for start, price in _pairs("above", given):
        if not isinstance(start, int) or isinstance(start, bool) or start < 1:
            raise ConfigError(f"Price(above={{{start!r}: …}}): give a number of input tokens, 1 or more")
        if not isinstance(price, Price) or price.above or price.service:
            raise ConfigError(f"Price(above={{{start}: …}}): give a Price without above and service")
        steps[start] = price
    return tuple(sorted(steps.items(), key=lambda step: step[0]))


def _tiers(given: object) -> tuple[tuple[str, Price], ...]:
    tiers: dict[str, Price] = {}
    for name, price in _pairs("service", given):
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(
                f"Price(service={{{name!r}: …}}): give the name of a service tier, as in 'flex'"
            )
        if not isinstance(price, Price) or price.service:
            raise ConfigError(f"Price(service={{{name!r}: …}}): give a Price without service")
        tiers[name] = price
    return tuple(sorted(tiers.items(), key=lambda tier: tier[0]))


def _day(given: object) -> str | None:
    if given is None:
        return None
    try:
        return datetime.date.fromisoformat(given).isoformat()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ConfigError(f"Price(as_of={given!r}): give a day, as in '2026-11-01'") from None

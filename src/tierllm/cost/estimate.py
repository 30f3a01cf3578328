"""What a call will use, before it is sent."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .price import Price

__all__ = ["Cost", "Estimate", "Latency", "Tokens", "priced"]

_EXACT: Final = Context(prec=60)  # the caller's own context must not round what a call costs
_ZERO: Final = Decimal(0)


class Tokens(int):
    """A number of tokens that is not certain: an ``int``, the median, with its spread.

    ``exact``: it was counted with the model's own tokenizer, so that all of them are one; ``counted``:
    with some tokenizer, else it was guessed from the bytes. ``raw`` is the number before the
    correction learnt from what the deployment reported. ``samples`` is how many answers the spread
    was learnt from (0: from none, so that ``p90`` is a bound), ``sd`` their standard deviation.
    """

    p50: int
    p90: int
    max: int
    mean: float
    sd: float
    samples: int
    raw: int
    exact: bool
    counted: bool

    def __new__(
        cls,
        p50: int,
        p90: int | None = None,
        max: int | None = None,
        *,
        mean: float | None = None,
        sd: float = 0.0,
        samples: int = 0,
        raw: int | None = None,
        counted: bool = True,
    ) -> Tokens:
        made = super().__new__(cls, p50)
        made.p50 = p50
        made.p90 = p50 if p90 is None else p90
        made.max = made.p90 if max is None else max
        made.mean = float(p50) if mean is None else mean
        made.sd = sd
        made.samples = samples
        made.raw = p50 if raw is None else raw
        made.exact = p90 is None
        made.counted = counted
        return made

    def __repr__(self) -> str:
        return str(self.p50) if self.exact else f"Tokens(p50={self.p50}, p90={self.p90}, max={self.max})"


@dataclass(frozen=True, slots=True)
class Cost:
    """Dollars: median, 90th percentile, worst case, and the mean, which totals are made of.

    ``sd`` is the standard deviation that comes of the answer's length, as far as that was learnt.
    """

    p50: Decimal
    p90: Decimal
    max: Decimal
    mean: Decimal
    sd: Decimal = _ZERO


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds to the end of the answer."""

    p50: float
    p90: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a call would use at one place.

    ``cost_usd`` is ``None`` where no price is known, ``latency_s`` before anything was measured.
    ``tiers`` has the estimates for the tier asked and for each one beneath it, best first, under
    their names; ``refused`` says why the call would not be let through now, if so.
    """

    tier: str = ""
    deployment: str = ""
    model: str = ""
    input_tokens: Tokens
    output_tokens: Tokens
    cost_usd: Cost | None = None
    latency_s: Latency | None = None
    tiers: dict[str, Estimate]
    refused: str | None = None


def priced(price: Price, asked: Tokens, answer: Tokens, service_tier: object) -> Cost:
    """What a request costs at ``price``: ``max`` is the most that its bounds allow, at the dearest rates."""
    tier = service_tier if isinstance(service_tier, str) else None
    rates = price.rates(asked.p50, tier)
    high = rates if asked.exact else price.rates(asked.p90, tier)
    p50 = _usd(rates, asked.p50, answer.p50)
    worst = _EXACT.scaleb(Decimal(price.worst_nano(asked.max, answer.max, tier)), -9)
    # thousandths of a token: the mean of short answers must not be rounded to whole ones
    mean = _usd(rates, round(asked.mean * 1000), round(answer.mean * 1000), -9)
    sd = _ZERO
    if answer.sd:
        sd = _EXACT.scaleb(_EXACT.multiply(rates.output_usd_per_mtok, round(answer.sd * 1000)), -9)
    p90 = max(p50, _usd(high, asked.p90, answer.p90))
    return Cost(p50, p90, max(p90, worst), mean, sd)


def _usd(rates: Price, input_tokens: int, output_tokens: int, places: int = -6) -> Decimal:
    asked = _EXACT.multiply(rates.input_usd_per_mtok, input_tokens)
    return _EXACT.scaleb(_EXACT.fma(rates.output_usd_per_mtok, output_tokens, asked), places)

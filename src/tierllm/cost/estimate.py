"""What a call will use, before it is sent."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

__all__ = ["Cost", "Estimate", "Latency", "Tokens"]


class Tokens(int):
    """A number of tokens that is not certain: an ``int``, the median, with its spread.

    ``exact``: it was counted with the model's own tokenizer, so that all of them are one.
    """

    p50: int
    p90: int
    max: int
    mean: float
    exact: bool

    def __new__(
        cls, p50: int, p90: int | None = None, max: int | None = None, *, mean: float | None = None
    ) -> Tokens:
        made = super().__new__(cls, p50)
        made.p50 = p50
        made.p90 = p50 if p90 is None else p90
        made.max = made.p90 if max is None else max
        made.mean = float(p50) if mean is None else mean
        made.exact = p90 is None
        return made

    def __repr__(self) -> str:
        return str(self.p50) if self.exact else f"Tokens(p50={self.p50}, p90={self.p90}, max={self.max})"


@dataclass(frozen=True, slots=True)
class Cost:
    """Dollars: median, 90th percentile, worst case, and the mean, which totals are made of."""

    p50: Decimal
    p90: Decimal
    max: Decimal
    mean: Decimal


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

"""The tables of ``tierllm.toml``: their keys and types.

Whether numbers make sense is judged by what they are for: a table builds its ``Retry``,
``CircuitBreaker``, … as soon as it is read, and what that refuses is the table's error.
TOML knows no null; ``false`` switches off what has a default.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..cost.price import Price
from ..errors import ConfigError
from ..resilience.breaker import CircuitBreaker
from ..resilience.fallback import FallbackChain
from ..resilience.retry import Retry, RetryBudget
from ..routing.ask import check_dollars
from ..types import Objective, Timeouts
from .table import Money, Name, OffOrFloat, OffOrInt, Rule, Table

if TYPE_CHECKING:
    from ..stores import Store

__all__ = [
    "BreakerTable",
    "ClientTable",
    "FallbackTable",
    "ObjectiveTable",
    "PriceTable",
    "RetryBudgetTable",
    "RetryTable",
    "TimeoutsTable",
]


class TimeoutsTable(Rule):
    connect_s: OffOrFloat = None
    first_token_s: OffOrFloat = None
    between_tokens_s: OffOrFloat = None
    total_s: OffOrFloat = None

    def build(self) -> Timeouts:
        return Timeouts(**self.given())


class RetryTable(Rule):
    attempts: int = 3
    base_s: float = 0.25
    max_s: float = 8.0
    max_retry_after_s: float = 10.0

    def build(self) -> Retry:
        return Retry(**self.given())


class RetryBudgetTable(Rule):
    share: float = 0.2
    floor_per_s: float = 1.0
    window_s: Annotated[int, Field(le=86_400)] = 10

    def build(self) -> RetryBudget:
        return RetryBudget(**self.given())


class BreakerTable(Rule):
    failure_rate: OffOrFloat = None
    window: int = 20
    window_s: float | None = None
    min_calls: int = 10
    consecutive_failures: OffOrInt = None
    slow_call_s: float | None = None
    slow_call_rate: float = 0.8
    open_s: float = 30.0
    open_backoff: float = 2.0
    max_open_s: float = 300.0
    half_open_probes: int = 1
    half_open_concurrency: int | None = None
    probe_timeout_s: float = 60.0
    mode: Literal["enforce", "observe"] = "enforce"
    shared: bool = False

    def build(self, store: Store | None = None) -> CircuitBreaker:
        """``store`` is where it meets others if it is shared."""
        return CircuitBreaker(**self.built(leaving=("shared",)), store=store if self.shared else None)


class FallbackTable(Rule):
    content_filter: Literal["raise", "next"] = "raise"
    mode: Literal["enforce", "observe"] = "enforce"

    def build(self) -> FallbackChain:
        return FallbackChain(**self.given())


class ObjectiveTable(Rule):
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    latency_p99_s: float | None = None
    first_token_p50_s: float | None = None
    first_token_p95_s: float | None = None
    first_token_p99_s: float | None = None
    availability: float | None = None
    cost_usd: float | None = None

    def build(self) -> Objective:
        return Objective(**self.given())


def _threshold(key: object) -> object:
    """Keys of a TOML table are texts."""
    try:
        return int(key) if isinstance(key, str) else key
    except ValueError:
        raise ValueError("should be a number of input tokens") from None


class RatesTable(Rule):
    input_usd_per_mtok: Money
    output_usd_per_mtok: Money
    cached_input_usd_per_mtok: Money | None = None
    cache_write_usd_per_mtok: Money | None = None

    def build(self) -> Price:
        return Price(**self.given())


def _told_apart(above: object) -> object:
    """``200_000`` and ``200000`` are two keys of a TOML table, and one number."""
    if isinstance(above, dict):
        try:
            numbers = [_threshold(key) for key in above]
        except ValueError:  # told for that key by itself
            return above
        if len(set(numbers)) < len(numbers):
            raise ValueError("should have each number of input tokens once")
    return above


class StepsTable(RatesTable):
    above: Annotated[
        dict[Annotated[int, BeforeValidator(_threshold)], RatesTable], BeforeValidator(_told_apart)
    ] = Field(default_factory=dict)

    def build(self) -> Price:
        steps = {start: rates.build() for start, rates in self.above.items()}
        return Price(**{**self.given(), "above": steps})


class PriceTable(StepsTable):
    service: dict[Name, StepsTable] = Field(default_factory=dict)
    as_of: date | str | None = None
    source: str | None = None

    def build(self) -> Price:
        told = {
            **self.given(),
            "above": {start: rates.build() for start, rates in self.above.items()},
            "service": {name: rates.build() for name, rates in self.service.items()},
            "as_of": self.as_of.isoformat() if isinstance(self.as_of, date) else self.as_of,
        }
        return Price(**told)


def _dollars(amount: Money) -> Money:
    try:
        check_dollars("amount", amount)
    except ConfigError:
        raise ValueError("should be dollars, 0 or more") from None
    return amount


class ClientTable(Table):
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    simple_reply: str | dict[str, str | dict[str, str]] | None = None
    confirm_over_usd: Annotated[Money, AfterValidator(_dollars)] | None = None
    tenant_attainment: bool = False

"""The tables of ``tierllm.toml``: their keys and types.

Whether numbers make sense is judged by what they are for: a table builds its ``Retry``,
``CircuitBreaker``, … as soon as it is read, and what that refuses is the table's error.
TOML knows no null; ``false`` switches off what has a default.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from ..cost.price import Price
from ..errors import ConfigError
from ..resilience.breaker import CircuitBreaker
from ..resilience.fallback import FallbackChain
from ..resilience.retry import Retry, RetryBudget
from ..routing.ask import check_dollars
from ..routing.tier import Deployment, Tier
from ..types import Objective, Timeouts
from .admission import (
    AdaptiveTable,
    AdmissionTable,
    HedgeTable,
    SamplingTable,
    ThrottleTable,
)
from .limits import OwnLimitTable
from .table import (
    BEARS_ONE,
    KEYS_GO,
    SECRETS,
    Count,
    Money,
    Name,
    OffOrFloat,
    OffOrInt,
    OrOff,
    OrSwitch,
    Rule,
    Table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..pipeline.provider import Provider
    from ..stores import Store

__all__ = [
    "LAYERED",
    "BreakerTable",
    "ClientTable",
    "DeploymentTable",
    "FallbackTable",
    "ObjectiveTable",
    "PriceTable",
    "RetryBudgetTable",
    "RetryTable",
    "TierTable",
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
    first_token_p95_s: float | None = None
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


def _no_secrets(params: dict[str, Any]) -> dict[str, Any]:
    for name, value in params.items():
        if SECRETS.fullmatch(name) or _holds_one(value):
            told = {"name": name, "remedy": KEYS_GO}
            raise PydanticCustomError("named", "{name}: a key has no place in this file", told)
    return params


def _holds_one(value: object) -> bool:
    """Whether a text in there is a key: by its name, such as a header's, or by its looks."""
    if isinstance(value, dict):
        named = any(SECRETS.fullmatch(name) and isinstance(inner, str) for name, inner in value.items())
        return named or any(map(_holds_one, value.values()))
    if isinstance(value, list):
        return any(map(_holds_one, value))
    return isinstance(value, str) and BEARS_ONE.fullmatch(value) is not None


LAYERED = ("timeouts", "retry", "breaker")
"""Rules that a tier and the whole file may have, too: who sees all levels settles them."""

Params = Annotated[dict[str, Any], AfterValidator(_no_secrets)]


class DeploymentTable(Rule):
    model: Name
    provider: str | None = None
    name: Name | None = None
    price: PriceTable | None = None
    context_window: Count | None = None
    max_output_tokens: Count | None = None
    params: Params = Field(default_factory=dict)
    drop: list[str] = Field(default_factory=list)
    labels: list[str] = Field(default_factory=list)
    weight: Annotated[float, Field(gt=0)] | None = None
    rpm: Count | None = None
    tpm: Count | None = None
    input_tpm: Count | None = None
    output_tpm: Count | None = None
    rpd: Count | None = None
    max_concurrency: Count | None = None
    account: Name | None = None
    limits: list[OwnLimitTable] = Field(default_factory=list)
    adaptive: OrSwitch[AdaptiveTable] | None = None
    throttle: OrSwitch[ThrottleTable] | None = None
    timeouts: TimeoutsTable | None = None
    breaker: OrOff[BreakerTable] | None = None
    retry: OrOff[RetryTable] | None = None

    @property
    def has_own(self) -> bool:
        """Whether it has limits of its own beside those of ``limits``."""
        rates = (self.rpm, self.tpm, self.input_tpm, self.output_tpm, self.rpd, self.max_concurrency)
        return any(rate is not None for rate in rates)

    def build(self, provider: Provider | None = None, **rules: Any) -> Deployment:
        """Without ``provider`` it shows only whether it can be built. ``rules`` has its account, if any."""
        settings = self.built(leaving=("model", "provider", "account", "limits", *LAYERED))
        settings["limits"] = [table.build() for table in self.limits]
        return Deployment(self.model, provider, **settings, **rules)


class TierTable(Rule):
    name: Name
    deployments: Annotated[list[DeploymentTable], Field(min_length=1)]
    objective: ObjectiveTable | None = None
    prompt: str | None = None
    defaults: Params = Field(default_factory=dict)
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    choose: Literal["ordered", "weighted"] = "ordered"
    max_concurrency: Count | None = None
    max_waiting: Annotated[int, Field(ge=0)] | None = None
    max_wait_s: Annotated[float, Field(ge=0)] | None = None
    admission: AdmissionTable | None = None
    sampling: SamplingTable | None = None
    hedge: OrSwitch[HedgeTable] | None = None
    timeouts: TimeoutsTable | None = None
    breaker: OrOff[BreakerTable] | None = None
    retry: OrOff[RetryTable] | None = None
    fallback: OrSwitch[FallbackTable] | None = None

    def build(self, deployments: Sequence[Deployment] = ()) -> Tier:
        """Without ``deployments`` it shows only whether it can be built."""
        settings = self.built(leaving=("name", "deployments", *LAYERED))
        return Tier(self.name, deployments or [table.build() for table in self.deployments], **settings)

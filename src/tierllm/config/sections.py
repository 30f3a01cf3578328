"""The tables of ``tierllm.toml``: their keys and types.

Whether numbers make sense is judged by what they are for: a table builds its ``Retry``,
``CircuitBreaker``, … as soon as it is read, and what that refuses is the table's error.
TOML knows no null; ``false`` switches off what has a default.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ..cost.price import Price
from ..resilience.breaker import CircuitBreaker
from ..resilience.fallback import FallbackChain
from ..resilience.retry import Retry, RetryBudget
from ..routing.tier import Deployment, Tier
from ..types import Objective, Timeouts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..pipeline.provider import Provider

__all__ = [
    "KEYS_GO",
    "LAYERED",
    "SECRETS",
    "BreakerTable",
    "ClientTable",
    "DeploymentTable",
    "FallbackTable",
    "ObjectiveTable",
    "PriceTable",
    "RetryBudgetTable",
    "RetryTable",
    "Rule",
    "Table",
    "TierTable",
    "TimeoutsTable",
    "layered",
]


class Table(BaseModel):
    """Keys that are not known are refused; errors never repeat what was written."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    def given(self) -> dict[str, Any]:
        """What the file says; what it leaves out keeps the default of what is built from this."""
        fields = type(self).model_fields
        return {name: getattr(self, name) for name in fields if name in self.model_fields_set}


class Rule(Table):
    """A table that one object is built from, with the same keywords."""

    def built(self, leaving: Sequence[str] = ()) -> dict[str, Any]:
        """What the file says but ``leaving``, with what its own tables stand for."""
        given = {name: value for name, value in self.given().items() if name not in leaving}
        return {name: value.build() if isinstance(value, Rule) else value for name, value in given.items()}

    @abstractmethod
    def build(self) -> object:
        """Raises ``ConfigError`` for settings that make no sense."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        self.build()
        return self


def _off(value: object) -> object:
    return None if value is False else value


def _switch(value: object) -> str:
    return "switch" if isinstance(value, bool) else "table"


R = TypeVar("R", bound=Rule)
OffOrFloat = Annotated[float | None, BeforeValidator(_off)]
OffOrInt = Annotated[int | None, BeforeValidator(_off)]
OrOff = Annotated[
    Annotated[R, Tag("table")] | Annotated[Literal[False], Tag("switch")], Discriminator(_switch)
]
Money = float | str
Count = Annotated[int, Field(gt=0)]

SECRETS = re.compile(r"(api)?[_-]?(key|token|secret|password)|authorization", re.IGNORECASE)
KEYS_GO = "keys come from the environment only: take it out and name its variable in api_key_env"


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

    def build(self) -> CircuitBreaker:
        return CircuitBreaker(**self.given())


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


class PriceTable(Rule):
    input_usd_per_mtok: Money
    output_usd_per_mtok: Money
    cached_input_usd_per_mtok: Money | None = None
    cache_write_usd_per_mtok: Money | None = None

    def build(self) -> Price:
        return Price(**self.given())


class ClientTable(Table):
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    simple_reply: str | dict[str, str | dict[str, str]] | None = None


def _no_secrets(params: dict[str, Any]) -> dict[str, Any]:
    for name in params:
        if SECRETS.fullmatch(name):
            told = {"name": name, "remedy": KEYS_GO}
            raise PydanticCustomError("named", "{name}: a key has no place in this file", told)
    return params


LAYERED = ("timeouts", "retry", "breaker")
"""Rules that a tier and the whole file may have, too: who sees all levels settles them."""

Params = Annotated[dict[str, Any], AfterValidator(_no_secrets)]


class DeploymentTable(Rule):
    model: Annotated[str, Field(min_length=1)]
    provider: str | None = None
    name: Annotated[str, Field(min_length=1)] | None = None
    price: PriceTable | None = None
    context_window: Count | None = None
    params: Params = {}
    drop: list[str] = []
    labels: list[str] = []
    weight: Annotated[float, Field(gt=0)] | None = None
    timeouts: TimeoutsTable | None = None
    breaker: OrOff[BreakerTable] | None = None
    retry: OrOff[RetryTable] | None = None

    def build(self, provider: Provider | None = None, **rules: Any) -> Deployment:
        """Without ``provider`` it shows only whether it can be built."""
        settings = self.built(leaving=("model", "provider", *LAYERED))
        return Deployment(self.model, provider, **settings, **rules)


class TierTable(Rule):
    name: Annotated[str, Field(min_length=1)]
    deployments: Annotated[list[DeploymentTable], Field(min_length=1)]
    objective: ObjectiveTable | None = None
    prompt: str | None = None
    defaults: Params = {}
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    choose: Literal["ordered", "weighted"] = "ordered"
    max_concurrency: Count | None = None
    max_waiting: Annotated[int, Field(ge=0)] | None = None
    max_wait_s: Annotated[float, Field(ge=0)] | None = None
    timeouts: TimeoutsTable | None = None
    breaker: OrOff[BreakerTable] | None = None
    retry: OrOff[RetryTable] | None = None
    fallback: (
        Annotated[
            Annotated[FallbackTable, Tag("table")] | Annotated[bool, Tag("switch")], Discriminator(_switch)
        ]
        | None
    ) = None

    def build(self, deployments: Sequence[Deployment] = ()) -> Tier:
        """Without ``deployments`` it shows only whether it can be built."""
        settings = self.built(leaving=("name", "deployments", *LAYERED))
        return Tier(self.name, deployments or [table.build() for table in self.deployments], **settings)


def layered(levels: Sequence[R | Literal[False] | None]) -> R | Literal[False] | None:
    """One setting from several levels, the outermost first: a nearer table changes the keys it names."""
    found: R | Literal[False] | None = None
    for level in levels:
        if level is None:
            continue
        found = level.model_copy(update={**found.given(), **level.given()}) if level and found else level
    return found

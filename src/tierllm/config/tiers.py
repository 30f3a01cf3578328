"""The tables of tiers and their deployments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from ..routing.tier import Deployment, Tier
from ..sla.shift import Shift
from .admission import (
    AdaptiveTable,
    AdmissionTable,
    HedgeTable,
    Mode,
    SamplingTable,
    ThrottleTable,
)
from .limits import OwnLimitTable
from .sections import BreakerTable, FallbackTable, ObjectiveTable, PriceTable, RetryTable, TimeoutsTable
from .table import BEARS_ONE, KEYS_GO, SECRETS, Count, Name, OffOrFloat, OrOff, OrSwitch, Rule, Share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..pipeline.provider import Provider

__all__ = ["LAYERED", "DeploymentTable", "ShiftTable", "TierTable"]


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
    purpose: Name | None = None
    price: PriceTable | None = None
    quality: Share | None = None
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


class ShiftTable(Rule):
    latency_s: float | None = None
    error_rate: float | None = None
    burn: float = 6.0
    calm: float = 2.0
    min_calls: Count = 10
    dwell_s: float = 60.0
    max_dwell_s: float = 900.0
    stages: list[float] = [0.01, 0.1, 0.5]  # noqa: RUF012 - pydantic copies it
    stage_s: float = 15.0
    stage_calls: Count = 10
    probe_s: float = 120.0
    load: OffOrFloat = 1.2
    shed: bool = True
    shed_steps: list[float] = [0.1, 0.25, 0.5, 0.75, 0.9]  # noqa: RUF012 - pydantic copies it
    shed_every_s: float = 20.0
    max_shifts_per_hour: int = 6
    mode: Mode = "enforce"

    def build(self) -> Shift:
        return Shift(**self.given())


class TierTable(Rule):
    name: Name
    deployments: Annotated[list[DeploymentTable], Field(min_length=1)]
    purpose: Name | None = None
    objective: ObjectiveTable | None = None
    prompt: str | None = None
    defaults: Params = Field(default_factory=dict)
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    choose: Literal["ordered", "weighted", "cheapest"] = "ordered"
    min_quality: Share | None = None
    max_concurrency: Count | None = None
    max_waiting: Annotated[int, Field(ge=0)] | None = None
    max_wait_s: Annotated[float, Field(ge=0)] | None = None
    admission: AdmissionTable | None = None
    sampling: SamplingTable | None = None
    hedge: OrSwitch[HedgeTable] | None = None
    shift: OrSwitch[ShiftTable] | None = None
    timeouts: TimeoutsTable | None = None
    breaker: OrOff[BreakerTable] | None = None
    retry: OrOff[RetryTable] | None = None
    fallback: OrSwitch[FallbackTable] | None = None

    def build(self, deployments: Sequence[Deployment] = ()) -> Tier:
        """Without ``deployments`` it shows only whether it can be built."""
        settings = self.built(leaving=("name", "deployments", *LAYERED))
        return Tier(self.name, deployments or [table.build() for table in self.deployments], **settings)

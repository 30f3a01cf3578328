"""The tables of who gets what: ``[plans.…]`` and ``[contracts.…]``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field
from pydantic_core import InitErrorDetails

from ..admission.plans import ServicePlan
from ..sla.contract import Contract
from .admission import Mode, OwnConsentTable
from .finding import Loc, did_you_mean
from .sections import ObjectiveTable
from .table import Count, Name, Rule, named

if TYPE_CHECKING:
    from .file import Config

__all__ = ["ContractTable", "PlanTable", "PromiseTable", "unkept"]


class PromiseTable(Rule):
    """What plans and contracts may say alike."""

    max_priority: int | None = None
    min_tier: Name | None = None
    max_tier: Name | None = None
    rpm: Count | None = None
    tpm: Count | None = None
    rpd: Count | None = None
    tpd: Count | None = None
    max_concurrency: Count | None = None
    objective: ObjectiveTable | None = None
    consent: list[OwnConsentTable] = Field(default_factory=list)
    mode: Mode = "enforce"

    def said(self) -> dict[str, Any]:
        """Its keywords."""
        given = self.built(leaving=("consent",))
        if self.consent:
            given["consent"] = [table.build() for table in self.consent]
        return given


class PlanTable(PromiseTable):
    high_priority: int | None = None
    high_priority_quota: int | None = None
    quota_window_s: float = 3600.0
    weight: float = 1.0
    limit_per: str | list[str] = Field(default_factory=lambda: ["tenant", "user"])
    shifts: bool = True

    def build(self, name: str = "…") -> ServicePlan:
        return ServicePlan(name, **self.said())


class ContractTable(PromiseTable):
    tenants: list[Name] = Field(default_factory=list)
    plan: Name | None = None
    limit_per: str | list[str] = "contract"
    shifts: bool | None = None

    def build(self, name: str = "…") -> Contract:
        return Contract(name, **self.said())


def unkept(config: Config) -> Iterator[InitErrorDetails]:
    """Plans and contracts that name what there is not, or contradict each other."""
    tiers = [tier.name for tier in config.tiers]
    promises: list[tuple[Loc, PromiseTable]] = [(("plans", n), table) for n, table in config.plans.items()]
    promises += [(("contracts", n), table) for n, table in config.contracts.items()]
    for loc, table in promises:
        yield from misbound(loc, table.min_tier, table.max_tier, tiers)
    steps = {step.name for tier in config.tiers if tier.sampling for step in tier.sampling.steps}
    for loc, table in promises:
        for at, consent in enumerate(table.consent):
            for name in [] if consent.steps == "all" else consent.steps:
                if name not in steps:
                    remedy = did_you_mean(name, sorted(steps)) or "no tier has sampling with steps"
                    yield named((*loc, "consent", at, "steps"), "there is no such step", remedy)
    taken: dict[str, str] = {}
    for name, contract in config.contracts.items():
        if contract.plan is not None and contract.plan not in config.plans:
            remedy = did_you_mean(contract.plan, list(config.plans)) or "add [plans.…] of this name"
            yield named(("contracts", name, "plan"), "there is no such plan", remedy)
        for at, tenant in enumerate(contract.tenants):
            other = taken.setdefault(tenant, name)
            if other != name:
                yield named(
                    ("contracts", name, "tenants", at),
                    f"this tenant has the contract {other} already",
                    "leave it out of one, whose calls then name it",
                )


def misbound(
    loc: Loc, min_tier: str | None, max_tier: str | None, tiers: list[str]
) -> Iterator[InitErrorDetails]:
    """Bounds that are no tiers, or stand in the wrong order."""
    sound = True
    for option, tier in (("min_tier", min_tier), ("max_tier", max_tier)):
        if tier is not None and tier not in tiers:
            sound = False
            yield named((*loc, option), "there is no such tier", did_you_mean(tier, tiers))
    if (
        sound
        and min_tier is not None
        and max_tier is not None
        and tiers.index(min_tier) < tiers.index(max_tier)
    ):
        yield named(
            (*loc, "min_tier"),
            f"the floor is above {max_tier}, the best that a call gets: no tier is left",
            "exchange the two: min_tier is the floor",
        )

"""Rules about settings that nothing comes of, since something else is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..cost.budget_checks import PLACES
from .finding import Finding, warning
from .rules_of_load import limited, pool_size

if TYPE_CHECKING:
    from .file import Config
    from .tiers import TierTable

__all__ = ["RULES"]

LOADS = ("load", "forecast", "below_load", "below_forecast")


def _measured(config: Config, tier: TierTable) -> bool:
    """Whether the load of a tier is known: it has a pool, or limits to measure it by."""
    rates = ("rpm", "tpm", "rpd", "tpd", "max_concurrency")
    served = [*config.plans.values(), *config.contracts.values()]
    return (
        pool_size(tier) is not None
        or limited(config, tier)
        or tier.admission is not None
        or tier.sampling is not None
        or any(getattr(promise, rate) is not None for promise in served for rate in rates)
    )


# -- conditions ----------------------------------------------------------------------------


def _budgets(config: Config) -> Iterator[Finding]:
    """Of budgets that hold wherever a call goes it is known how much is left, before it goes anywhere."""
    nowhere = {*PLACES, "call", "run"}
    built = [table.build() for table in config.budgets]
    if any(each.mode == "enforce" and not nowhere & {*each.where, *each.per} for each in built):
        return
    for number, rule in enumerate(config.rules):
        if rule.budget_left is not None:
            yield warning(
                f"rules[{number}].budget_left",
                "there is no budget that it could be the rest of: those of tiers, deployments, runs and "
                "calls do not count, nor those that only observe",
                "add [[budgets]], or take it out",
            )


def _loads(config: Config) -> Iterator[Finding]:
    measured = {tier.name for tier in config.tiers if _measured(config, tier)}
    for number, rule in enumerate(config.rules):
        if rule.of in measured or (rule.of is None and measured):
            continue
        whose = "any tier" if rule.of is None else rule.of
        for option in LOADS:
            if getattr(rule, option) is not None:
                yield warning(
                    f"rules[{number}].{option}",
                    f"the load of {whose} is never measured, and counts as 0",
                    "set max_concurrency in the tier, or take it out",
                )


def _classes(config: Config) -> Iterator[Finding]:
    if config.router is not None and config.router.scorer is not None:
        return
    said = False
    for number, rule in enumerate(config.rules):
        said = said or rule.set_class is not None
        if rule.request_class is not None and not said:
            yield warning(
                f"rules[{number}].request_class",
                "nothing here finds out how difficult a call is: it holds for calls that say so themselves",
                'set scorer = "rules" in [router], or set_class in a rule before it',
            )


def _router(config: Config) -> Iterator[Finding]:
    if config.router is not None and config.router.scorer is None and not config.rules:
        yield warning(
            "router",
            "it decides nothing: there is neither a scorer nor a rule",
            'set scorer = "rules", add [[rules]], or take it out',
        )


# -- plans and contracts -------------------------------------------------------------------


def _shifts(config: Config) -> Iterator[Finding]:
    """Whether calls may be sent down where a tier sheds, and no tier does."""
    if any(tier.shift for tier in config.tiers):
        return
    for kind, tables in (("plans", config.plans), ("contracts", config.contracts)):
        for name, table in tables.items():
            if "shifts" in table.model_fields_set:
                yield warning(
                    f"{kind}.{name}.shifts",
                    "no tier sends calls to the next one when it does badly",
                    "set shift = true in a tier, or take it out",
                )


def _weights(config: Config) -> Iterator[Finding]:
    if any(_measured(config, tier) for tier in config.tiers):
        return
    for name, plan in config.plans.items():
        if "weight" in plan.model_fields_set:
            yield warning(
                f"plans.{name}.weight",
                "no call ever waits: no tier has a pool that it could be the share of",
                "set max_concurrency in a tier, or take it out",
            )


def _tenants(config: Config) -> Iterator[Finding]:
    if config.client.tenant_attainment and all(tier.objective is None for tier in config.tiers):
        yield warning(
            "client.tenant_attainment",
            "no tier has an objective whose keeping could be told by tenant",
            "set objective in a tier, or take it out",
        )


def _empty_contracts(config: Config) -> Iterator[Finding]:
    """A contract that promises nothing is still a name to count by."""
    spoken: set[str] = set()
    for rule in config.rules:
        spoken |= {rule.contract} if isinstance(rule.contract, str) else set(rule.contract or ())
    kept = [(each.per, each.where) for each in (table.build() for table in config.budgets)]
    kept += [(each.per, each.where) for each in (table.build() for table in config.limits)]
    if any("contract" in (*per, *where) for per, where in kept):
        return
    for name, contract in config.contracts.items():
        if not contract.model_fields_set and name not in spoken:
            yield warning(
                f"contracts.{name}",
                "it promises nothing, and nothing is counted by it",
                "set what it promises, such as min_tier or objective, or take it out",
            )


RULES = (
    *(_budgets, _loads, _classes, _router),
    *(_shifts, _weights, _tenants, _empty_contracts),
)

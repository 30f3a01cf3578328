"""Rules about promises: that somebody can keep them, and that something acts on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .finding import Finding, warning
from .rules_of_time import PATIENCE, longest, within

if TYPE_CHECKING:
    from .file import Config
    from .service import PromiseTable
    from .tiers import ShiftTable, TierTable

__all__ = ["RULES"]

LATENCIES = (
    "latency_p50_s",
    "latency_p95_s",
    "latency_p99_s",
    "first_token_p50_s",
    "first_token_p95_s",
    "first_token_p99_s",
)


def _floor_above_cap(config: Config) -> Iterator[Finding]:
    """A contract and its plan that leave no tier between them."""
    ranks = {tier.name: rank for rank, tier in enumerate(config.tiers)}
    for name, contract in config.contracts.items():
        plan = None if contract.plan is None else config.plans[contract.plan]
        if plan is None or "observe" in (plan.mode, contract.mode):
            continue
        floor = _higher(contract.min_tier, plan.min_tier, ranks)
        cap = _lower(contract.max_tier, plan.max_tier, ranks)
        if floor is not None and cap is not None and ranks[floor] < ranks[cap]:
            yield warning(
                f"contracts.{name}",
                f"with its plan {contract.plan} it leaves no tier: the floor is {floor}, the best one {cap}. "
                "The floor wins",
                "lower the one or raise the other",
            )


def _higher(one: str | None, other: str | None, ranks: dict[str, int]) -> str | None:
    return min((tier for tier in (one, other) if tier is not None), key=ranks.__getitem__, default=None)


def _lower(one: str | None, other: str | None, ranks: dict[str, int]) -> str | None:
    return max((tier for tier in (one, other) if tier is not None), key=ranks.__getitem__, default=None)


def _nobody_keeps_it(config: Config) -> Iterator[Finding]:
    """A plan or contract promises what none of the tiers that it may use promises."""
    ranks = {tier.name: rank for rank, tier in enumerate(config.tiers)}
    tables: list[tuple[str, PromiseTable]] = [(f"plans.{n}", table) for n, table in config.plans.items()]
    tables += [(f"contracts.{n}", table) for n, table in config.contracts.items()]
    for key, table in tables:
        if table.objective is None:
            continue
        bounds = table.mode == "enforce"
        first = 0 if table.max_tier is None or not bounds else ranks[table.max_tier]
        last = len(ranks) - 1 if table.min_tier is None or not bounds else ranks[table.min_tier]
        tiers = config.tiers[first : max(first, last) + 1]
        for goal in (*LATENCIES, "availability"):
            promised = getattr(table.objective, goal)
            kept = [getattr(tier.objective, goal) for tier in tiers if tier.objective is not None]
            known = [value for value in kept if value is not None]
            if promised is None or not known or len(known) < len(tiers):
                continue
            best = max(known) if goal == "availability" else min(known)
            if promised > best if goal == "availability" else promised < best:
                yield warning(
                    f"{key}.objective.{goal}",
                    f"{promised:g} is more than any tier promises that its calls may come to ({best:g})",
                    "promise less, or set the tier's objective to what it is to keep",
                )


def _nothing_acts(config: Config) -> Iterator[Finding]:
    """A promise about time that is measured, and nothing more. Those of p95 are judged by the timeouts."""
    for t, tier in enumerate(config.tiers):
        if tier.objective is None or tier.shift or tier.hedge or tier.choose == "cheapest":
            continue
        timeouts = [config.timeouts_of(tier, deployment) for deployment in tier.deployments]
        elsewhere = _places(config, tier) > 1 or (t + 1 < len(config.tiers) and tier.fallback is not False)
        for goal in LATENCIES:
            promised_s = getattr(tier.objective, goal)
            if promised_s is None or "p95" in goal or not elsewhere:
                continue
            bound = "first_token_s" if goal.startswith("first") else "total_s"
            most_s = PATIENCE * promised_s
            if not within(config.client.deadline_s, most_s) and not within(longest(timeouts, bound), most_s):
                yield warning(
                    f"tiers[{t}].objective.{goal}",
                    f"it is measured, but where {tier.name} is slower than that, calls go there all the same",
                    "set shift = true" + (", or hedge = true" if _places(config, tier) > 1 else ""),
                )


def _places(config: Config, tier: TierTable) -> int:
    return sum(max(1, len(config.provider_of(d)[1].variables)) for d in tier.deployments)


# -- shifts --------------------------------------------------------------------------------


def _shifts(config: Config) -> Iterator[Finding]:
    for t, tier in enumerate(config.tiers):
        if not tier.shift:
            continue
        table = None if tier.shift is True else tier.shift
        leads_down = t + 1 < len(config.tiers) and tier.fallback is not False
        sheds = table is None or table.shed
        if _places(config, tier) == 1 and not (leads_down and sheds):
            yield warning(
                f"tiers[{t}].shift",
                f"there is nowhere to go from the one deployment of {tier.name}",
                "add a deployment, or a tier below",
            )
        if table is not None:
            yield from _looser(f"tiers[{t}]", tier, table)


def _looser(key: str, tier: TierTable, table: ShiftTable) -> Iterator[Finding]:
    """Thresholds at which the objective is long broken."""
    if tier.objective is None:
        return
    promised_s = {
        goal: seconds
        for goal in LATENCIES
        if not goal.startswith("first") and (seconds := getattr(tier.objective, goal)) is not None
    }  # it stands in for all of these; goals for first tokens are judged beside it
    tightest = min(promised_s, key=lambda goal: promised_s[goal], default="")
    if table.latency_s is not None and tightest and table.latency_s > promised_s[tightest]:
        yield warning(
            f"{key}.shift.latency_s",
            f"calls stay until a deployment is slower than {table.latency_s:g} s, and "
            f"{promised_s[tightest]:g} s are promised ({tightest})",
            f"set it to {promised_s[tightest]:g} or less, or take it out: the objective decides then",
        )
    availability = tier.objective.availability
    if table.error_rate is not None and availability is not None:
        most = table.burn * (1 - availability)
        if table.error_rate > most:
            yield warning(
                f"{key}.shift.error_rate",
                f"calls stay until {table.error_rate:.3g} of them fail; by the objective alone they would "
                f"leave at {most:.3g}",
                "lower it, or take it out: the objective decides then",
            )


RULES = (_floor_above_cap, _nobody_keeps_it, _nothing_acts, _shifts)

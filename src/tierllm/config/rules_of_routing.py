"""Rules about rules that never come into play, scorers nobody teaches, and choices between equals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..routing.rules import unreachable
from .finding import Finding, did_you_mean, warning
from .routing import LearnedScorerTable

if TYPE_CHECKING:
    from .file import Config
    from .routing import RuleTable
    from .service import PromiseTable

__all__ = ["RULES"]


# -- rules ---------------------------------------------------------------------------------


def _unreachable(config: Config) -> Iterator[Finding]:
    for number, why in unreachable([table.build() for table in config.rules]):
        yield warning(
            f"rules[{number}]", f"no call comes to it: {why}", "let it stand before that one, or take it out"
        )


def _unknown_contracts(config: Config) -> Iterator[Finding]:
    """Contracts that rules speak of. Calls that name an unknown one are refused: it never matches."""
    known = list(config.contracts)
    for number, rule in enumerate(config.rules):
        said = rule.contract
        for name in [said] if isinstance(said, str) else said or []:
            if name not in known:
                remedy = did_you_mean(name, known) or "add [contracts.…] of this name"
                yield warning(f"rules[{number}].contract", f"there is no contract {name!r}", remedy)


def _against_bounds(config: Config) -> Iterator[Finding]:
    """Rules that give a plan or a contract more, or less, than it may have."""
    ranks = {tier.name: rank for rank, tier in enumerate(config.tiers)}
    for number, rule in enumerate(config.rules):
        for kind, tables in (("plan", config.plans), ("contract", config.contracts)):
            said = getattr(rule, kind)
            for name in [said] if isinstance(said, str) else said or []:
                table = tables.get(name)
                if table is not None:
                    yield from _outside(number, rule, f"{kind} {name}", table, ranks)
                below = config.plans.get(getattr(table, "plan", None) or "")
                if below is not None:
                    yield from _outside(number, rule, f"contract {name}'s plan", below, ranks)


def _outside(
    number: int,
    rule: RuleTable,
    whose: str,
    table: PromiseTable,
    ranks: dict[str, int],
) -> Iterator[Finding]:
    if table.mode == "observe":  # it bounds nothing
        return
    min_tier, max_tier = table.min_tier, table.max_tier
    if max_tier is not None and rule.tier is not None and ranks[rule.tier] < ranks[max_tier]:
        yield warning(
            f"rules[{number}].tier",
            f"calls on {whose} do not get {rule.tier}: {max_tier} is the best that they may have",
            f"raise max_tier of {whose}, or lower this to {max_tier}",
        )
    if max_tier is not None and rule.min_tier is not None and ranks[rule.min_tier] < ranks[max_tier]:
        yield warning(
            f"rules[{number}].min_tier",
            f"calls on {whose} get {rule.min_tier} all the same, though {max_tier} is the best that they may "
            "have: a floor wins",
            f"raise max_tier of {whose}, or lower this to {max_tier}",
        )
    for option in ("tier", "max_tier"):
        tier = getattr(rule, option)
        if tier is not None and min_tier is not None and ranks[tier] > ranks[min_tier]:
            yield warning(
                f"rules[{number}].{option}",
                f"calls on {whose} do not get {tier}: {min_tier} is their floor",
                f"lower min_tier of {whose}, or raise this to {min_tier}",
            )


# -- difficulty ----------------------------------------------------------------------------


def _scorer(config: Config) -> Iterator[Finding]:
    router = config.router
    if router is None or router.scorer is None:
        return
    if len(config.tiers) == 1:
        yield warning(
            "router.scorer",
            "with one tier there is nothing to choose by difficulty",
            "add a tier, or take it out",
        )
    if not isinstance(router.scorer, LearnedScorerTable):
        return
    taught = config.shadow is not None and config.shadow.learn
    if config.decisions is None and router.file is None:
        yield warning(
            "router.scorer",
            "it begins untrained, and what it learns from feedback is lost with the process",
            "add [decisions], train it with tierllm train-router, and name the file here",
        )
    if config.decisions is not None and config.decisions.prompts == "none":
        yield warning(
            "decisions.prompts",
            "nothing of the prompts is kept, so that tierllm train-router has nothing to learn from",
            'set it to "hashed"',
        )
    if router.explore == 0 and not taught:
        yield warning(
            "router.explore",
            "without exploring, the weak model is never tried where it is thought to be bad, and the scorer "
            "cannot find out that it is wrong",
            "leave it at 0.05, or let a shadow with learn = true teach it",
        )


def _no_share(config: Config) -> Iterator[Finding]:
    """Without a share the scorer's own classes decide, whatever that costs."""
    router = config.router
    if router is None or router.scorer is None or router.balance is not None:
        return
    if not any(rule.balance is not None for rule in config.rules):
        yield warning(
            "router.balance",
            "no share of strong calls is set: all but those that seem easy go to the strong tier",
            "set it to the share that the budget bears, such as 0.3",
        )


# -- cascade -------------------------------------------------------------------------------


def _cascade(config: Config) -> Iterator[Finding]:
    cascade = config.cascade
    if cascade is not None and cascade.judge is None:
        yield warning(
            "cascade.judge",
            "there is no judge: only answers that are empty or cut off count as poor",
            'set judge = {kind = "agreement", other = "…"}, or build the client with cascade=Cascade(judge)',
        )


# -- the choice among deployments ----------------------------------------------------------


def _choice(config: Config) -> Iterator[Finding]:
    for t, tier in enumerate(config.tiers):
        several = sum(max(1, len(config.provider_of(d)[1].variables)) for d in tier.deployments) > 1
        if tier.choose == "cheapest":
            if not several:
                yield warning(
                    f"tiers[{t}].choose",
                    f"{tier.name} has one deployment, and none to choose from",
                    "add a deployment, or take it out",
                )
            if tier.min_quality is not None and all(d.quality is None for d in tier.deployments):
                yield warning(
                    f"tiers[{t}].min_quality",
                    "no deployment says how good it is: all count as good enough until that was measured",
                    "set quality in the deployments",
                )
            continue
        if tier.min_quality is not None:
            yield warning(
                f"tiers[{t}].min_quality",
                f"it counts for nothing while the tier's choice is {tier.choose}",
                'set choose = "cheapest", or take it out',
            )


RULES = (_unreachable, _unknown_contracts, _against_bounds, _scorer, _no_share, _cascade, _choice)

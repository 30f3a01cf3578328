"""Rules, scorers, cascades and shadows that name what there is not, or do not fit together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic_core import InitErrorDetails

from ..errors import ConfigError
from ..sla.shift import Shift
from .finding import Loc, did_you_mean
from .judging import AgreementTable
from .routing import LearnedScorerTable
from .service import misbound
from .table import named

if TYPE_CHECKING:
    from .file import Config
    from .tiers import TierTable

__all__ = ["misrouted"]


def misrouted(config: Config) -> Iterator[InitErrorDetails]:
    """Tiers that there are not, tiers in the wrong order, and rules that need what is not there."""
    tiers = [tier.name for tier in config.tiers]
    scored = config.router is not None and config.router.scorer is not None
    names: list[str] = []
    for number, rule in enumerate(config.rules):
        loc: Loc = ("rules", number)
        if rule.name is not None and rule.name in names:
            yield named((*loc, "name"), "another rule has this name", "give it one of its own")
        names.append(rule.name or "")
        for option in ("tier", "of"):
            tier = getattr(rule, option)
            if tier is not None and tier not in tiers:
                yield named((*loc, option), "there is no such tier", did_you_mean(tier, tiers))
        yield from misbound(loc, rule.min_tier, rule.max_tier, tiers)
        if rule.balance is not None and not scored:
            problem = "without a scorer nobody knows which calls are difficult"
            yield named((*loc, "balance"), problem, 'set scorer = "rules" in [router], or take it out')
    if config.router is not None:
        yield from _arms(("router",), "weak", config.router.weak, "strong", config.router.strong, tiers)
    if config.cascade is not None:
        yield from _cascade(config, tiers)
    if config.shadow is not None:
        yield from _shadow(config, tiers)
    for t in range(len(config.tiers)):
        yield from _shift(("tiers", t, "shift"), config.tiers[t])


def _arms(
    loc: Loc, low: str, lower: str | None, high: str, higher: str | None, tiers: list[str]
) -> Iterator[InitErrorDetails]:
    sound = True
    for option, tier in ((low, lower), (high, higher)):
        if tier is not None and tier not in tiers:
            sound = False
            yield named((*loc, option), "there is no such tier", did_you_mean(tier, tiers))
    if sound and len(tiers) > 1:
        below, above = lower or tiers[-1], higher or tiers[0]
        if tiers.index(below) <= tiers.index(above):
            problem = f"{below} is not below {above}: tiers are listed best first"
            yield named((*loc, low if lower is not None else high), problem, "exchange the two")


def _cascade(config: Config, tiers: list[str]) -> Iterator[InitErrorDetails]:
    table = config.cascade
    assert table is not None
    if len(tiers) < 2:
        yield named(("cascade",), "with one tier there is nothing to go up to", "add a tier, or take it out")
        return
    yield from _arms(("cascade",), "cheap", table.cheap, "strong", table.strong, tiers)
    if isinstance(table.judge, AgreementTable):
        yield from _no_place(("cascade", "judge", "other"), table.judge.other, config)
        if table.judge.other == (table.cheap or tiers[-1]):
            problem = "that is the tier that answers first"
            yield named(
                ("cascade", "judge", "other"), problem, "name another deployment of it, or another tier"
            )


def _shadow(config: Config, tiers: list[str]) -> Iterator[InitErrorDetails]:
    table = config.shadow
    assert table is not None
    yield from _no_place(("shadow", "to"), table.to, config)
    learned = config.router is not None and isinstance(config.router.scorer, LearnedScorerTable)
    if table.learn and not learned:
        problem = "there is no scorer that learns"
        yield named(("shadow", "learn"), problem, 'set scorer = "learned" in [router], or take it out')
    if table.learn and table.judge is None:
        problem = "without a judge there is nothing to learn"
        yield named(("shadow", "learn"), problem, 'set judge = "format", or take it out')


def _no_place(loc: Loc, place: str, config: Config) -> Iterator[InitErrorDetails]:
    name, _, deployment = place.partition("/")
    tier = next((tier for tier in config.tiers if tier.name == name), None)
    if tier is None:
        yield named(loc, "there is no such tier", did_you_mean(name, [t.name for t in config.tiers]))
    elif deployment:
        known = [each.name or each.model for each in tier.deployments]
        if deployment.partition("#")[0] not in known:
            yield named(loc, f"{name} has no such deployment", did_you_mean(deployment, known))


def _shift(loc: Loc, tier: TierTable) -> Iterator[InitErrorDetails]:
    if not tier.shift:
        return
    shift = Shift() if tier.shift is True else tier.shift.build()
    objective = None if tier.objective is None else tier.objective.build()
    try:
        shift.bound(tier=tier.name, places=[d.name or d.model for d in tier.deployments], objective=objective)
    except ConfigError:
        remedy = (
            "give the tier an objective with a latency or an availability, or shift latency_s or error_rate"
        )
        yield named(loc, "nothing says when a deployment does badly", remedy)

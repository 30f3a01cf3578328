"""Rules about queues that nobody waits in, hours and days that never come, and plans that there are not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import TYPE_CHECKING

from ..admission.schedule import DAY, Hours
from .finding import Finding, did_you_mean, warning

if TYPE_CHECKING:
    from .admission import OwnConsentTable
    from .file import Config

__all__ = ["RULES", "consents_over"]


def _nobody_waits(config: Config) -> Iterator[Finding]:
    """Bounds and orders of a queue where a full pool sends calls away."""
    for t, tier in enumerate(config.tiers):
        admission = tier.admission
        if admission is None or admission.on_full == "wait":
            continue
        key = f"tiers[{t}]"
        said = [
            f"{key}.{option}" for option in ("max_waiting", "max_wait_s") if getattr(tier, option) is not None
        ]
        said += [
            f"{key}.admission.{option}"
            for option in ("max_waiting", "max_wait_s", "age_s", "weights")
            if option in admission.model_fields_set and getattr(admission, option) not in (None, {})
        ]
        for each in said:
            yield warning(
                each,
                f'with on_full = "{admission.on_full}" nobody waits in line for {tier.name}, '
                "but for calls that may be late",
                'set on_full = "wait", or take it out',
            )


def _hours(config: Config) -> Iterator[Finding]:
    """Hours that others before them take up wholly."""
    for t, tier in enumerate(config.tiers):
        schedule = None if tier.admission is None else tier.admission.schedule
        taken: set[tuple[int, int]] = set()
        for h, table in enumerate([] if schedule is None else schedule.hours):
            hours = Hours(table.when, size=table.size)
            held = {(day, at) for day in range(7) for at in range(DAY) if hours.hold_at(day, at)}
            if held <= taken:
                yield warning(
                    f"tiers[{t}].admission.schedule.hours[{h}]",
                    "these hours never count: those before them hold at all of their times",
                    "let it stand before them, or take it out",
                )
            taken |= held


def _plans(config: Config) -> Iterator[Finding]:
    for name, plan in config.plans.items():
        if "quota_window_s" in plan.model_fields_set and plan.high_priority_quota is None:
            yield warning(
                f"plans.{name}.quota_window_s",
                "there is no quota that it could be the window of",
                "set high_priority and high_priority_quota, or take it out",
            )
    if not config.plans:
        return
    known = list(config.plans)
    for key, name in _plans_named(config):
        if name not in known:
            yield warning(
                key, f"there is no [plans] table for {name!r}", did_you_mean(name, known) or "add one"
            )


def _plans_named(config: Config) -> Iterator[tuple[str, str]]:
    """Every plan that something is said about, and where."""
    wheres: list[tuple[str, Mapping[str, object]]]
    wheres = [(f"limits[{at}]", limit.where) for at, limit in enumerate(config.limits)]
    wheres += [(f"budgets[{at}]", budget.where) for at, budget in enumerate(config.budgets)]
    for key, _, deployment in config.places():
        wheres += [(f"{key}.limits[{at}]", limit.where) for at, limit in enumerate(deployment.limits)]
    for key, where in wheres:
        said = where.get("plan", ())
        for name in [said] if isinstance(said, str) else said if isinstance(said, list) else ():
            yield f"{key}.where.plan", name
    for number, rule in enumerate(config.rules):
        for name in [rule.plan] if isinstance(rule.plan, str) else rule.plan or []:
            yield f"rules[{number}].plan", name
    for t, tier in enumerate(config.tiers):
        for c, consent in enumerate([] if tier.sampling is None else tier.sampling.consent):
            if consent.plan is not None:
                yield f"tiers[{t}].sampling.consent[{c}].plan", consent.plan


def _no_ceiling(config: Config) -> Iterator[Finding]:
    """Steps that take what no call of the tier has."""
    for t, tier in enumerate(config.tiers):
        for s, step in enumerate([] if tier.sampling is None else tier.sampling.steps):
            for option in ("max_tokens", "temperature"):
                ceiling, own = getattr(step, option), getattr(tier, option)
                if ceiling is not None and own is not None and ceiling >= own:
                    yield warning(
                        f"tiers[{t}].sampling.steps[{s}].{option}",
                        f"{ceiling:g} takes nothing: no call of {tier.name} has more than {own:g}",
                        "lower it, or take it out",
                    )


def _fails_closed(config: Config) -> Iterator[Finding]:
    if config.store is not None and config.store.shared:
        return
    closed = [f"accounts.{name}" for name, table in config.accounts.items() if table.fail == "closed"]
    closed += [f"limits[{at}]" for at, table in enumerate(config.limits) if table.fail == "closed"]
    for key, _, deployment in config.places():
        closed += [f"{key}.limits[{at}]" for at, own in enumerate(deployment.limits) if own.fail == "closed"]
    for key in closed:
        yield warning(
            f"{key}.fail",
            "there is no shared store that could be out of reach: the limit is this process's alone",
            'add [store] with kind = "disk" or "redis", or take it out',
        )


def consents_over(config: Config, today: date) -> Iterator[Finding]:
    """Consents that have ended."""
    tables: list[tuple[str, OwnConsentTable]] = []
    for t, tier in enumerate(config.tiers):
        given = [] if tier.sampling is None else tier.sampling.consent
        tables += [(f"tiers[{t}].sampling.consent[{c}]", each) for c, each in enumerate(given)]
    for kind, promises in (("plans", config.plans), ("contracts", config.contracts)):
        for name, promise in promises.items():
            tables += [(f"{kind}.{name}.consent[{c}]", each) for c, each in enumerate(promise.consent)]
    for key, consent in tables:
        if consent.until is not None and consent.until < today:
            yield warning(
                f"{key}.until",
                f"this consent is over since {consent.until}: it allows nothing any more",
                "ask for a new one, or take it out",
            )


def _without_a_tier(config: Config) -> Iterator[Finding]:
    """A plan of which nothing says what its calls get, where others are told apart by their tiers."""
    if len(config.tiers) < 2 or not config.rules:
        return
    routed = {name for rule in config.rules for name in _names(rule.plan)}
    every = any(rule.plan is None and (rule.tier or rule.max_tier or rule.balance) for rule in config.rules)
    for name, plan in config.plans.items():
        if plan.min_tier is None and plan.max_tier is None and name not in routed and not every:
            yield warning(
                f"plans.{name}",
                f"nothing says which tier calls on it get: all of them begin in {config.tiers[0].name}",
                "give it min_tier or max_tier, or a rule",
            )


def _names(said: str | list[str] | None) -> list[str]:
    return [said] if isinstance(said, str) else list(said or ())


RULES = (_without_a_tier, _nobody_waits, _hours, _plans, _no_ceiling, _fails_closed)

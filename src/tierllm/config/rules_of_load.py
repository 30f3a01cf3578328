"""Rules about limits, pools and what tiers do under load."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .finding import Finding, warning
from .places import places

if TYPE_CHECKING:
    from ..admission.rate_limit import RateLimit
    from .file import Config
    from .limits import LimitTable, OwnLimitTable, RatesTable
    from .places import Place
    from .tiers import DeploymentTable, TierTable

__all__ = ["RULES", "bounded", "limited", "pool_size"]

MINUTES = 24 * 60
RATES = ("rpm", "tpm", "input_tpm", "output_tpm", "rpd")
"""What a deployment may limit for itself, beside calls at once."""


def pool_size(tier: TierTable) -> int | None:
    """How many calls at once the tier lets in; ``None`` is no bound."""
    own = None if tier.admission is None else tier.admission.max_concurrency
    return tier.max_concurrency if own is None else own


def limited(config: Config, tier: TierTable) -> bool:
    """Whether calls wait in the tier's queue for room under limits."""
    if any(
        d.account is not None or bool(d.adaptive) or bool(d.limits) or d.has_own for d in tier.deployments
    ):
        return True
    here = [place for place in places(config) if place.tier is tier]
    return any(_held_at(limit.build(), here) for limit in config.limits)


def _held_at(limit: RateLimit, held: Sequence[Place]) -> bool:
    return any(limit.holds_at(place.tier.name, place.name, place.table.model) for place in held)


def bounded(config: Config, deployment: DeploymentTable) -> bool:
    """Whether something bounds how many calls at once this deployment is sent."""
    account = None if deployment.account is None else config.accounts[deployment.account]
    return (
        bool(deployment.adaptive)
        or deployment.max_concurrency is not None
        or (account is not None and account.max_concurrency is not None)
        or any(_bounds_all(limit) for limit in deployment.limits)
        or any(
            _bounds_all(limit)
            and _held_at(limit.build(), [p for p in places(config) if p.table is deployment])
            for limit in config.limits
        )
    )


def _bounds_all(table: LimitTable | OwnLimitTable) -> bool:
    """Whether it says how many calls there are at once, of whomever they are."""
    limit = table.build()
    return limit.max_concurrency is not None and not limit.personal and not limit.about_caller


def _at_once(config: Config, tier: TierTable) -> int | None:
    """How many calls at once the tier's deployments take together; ``None`` is any number."""
    taken: dict[str, float] = {}
    most = 0.0
    for deployment in tier.deployments:
        keys = max(1, len(config.provider_of(deployment)[1].variables))
        own = [deployment.max_concurrency] + [
            limit.max_concurrency for limit in deployment.limits if _bounds_all(limit)
        ]
        bound = keys * min((each for each in own if each is not None), default=math.inf)
        if deployment.account is None:
            most += bound
        else:
            taken[deployment.account] = taken.get(deployment.account, 0.0) + bound
    for account, calls in taken.items():
        allowed = config.accounts[account].max_concurrency
        most += calls if allowed is None else min(calls, allowed)
    return None if most == math.inf else int(most)


# -- limits ------------------------------------------------------------------------------


def _accounts(config: Config) -> Iterator[Finding]:
    users: dict[str, list[str]] = {name: [] for name in config.accounts}
    for _, tier, deployment in config.places():
        if deployment.account is not None:
            users[deployment.account].append(tier.name)
    for name, tiers in users.items():
        if not tiers:
            yield warning(
                f"accounts.{name}",
                "no deployment uses this account, so that its limits never hold",
                f'write account = "{name}" in those that are on it, or take it out',
            )
            continue
        for kept_for in config.accounts[name].reserve:
            if kept_for not in tiers:
                yield warning(
                    f"accounts.{name}.reserve.{kept_for}",
                    f"{kept_for} has no deployment on this account: what is kept for it is lost",
                    "take it out",
                )


def _never_reached(config: Config) -> Iterator[Finding]:
    tables: list[tuple[str, RatesTable | DeploymentTable]]
    tables = [(f"accounts.{name}", account) for name, account in config.accounts.items()]
    tables += [(f"limits[{at}]", limit) for at, limit in enumerate(config.limits)]
    tables += [(key, deployment) for key, _, deployment in config.places()]
    for key, _, deployment in config.places():
        tables += [(f"{key}.limits[{at}]", limit) for at, limit in enumerate(deployment.limits)]
    for key, table in tables:
        rpm, tpm, rpd = table.rpm, table.tpm, table.rpd
        tpd: int | None = getattr(table, "tpd", None)
        for option, limit, minute, most in (("rpd", rpd, "rpm", rpm), ("tpd", tpd, "tpm", tpm)):
            if limit is not None and most is not None and limit >= most * MINUTES:
                let = f"{minute} = {most} lets {most * MINUTES} a day through"
                yield _idle(f"{key}.{option}", limit, let)
        parts = table.input_tpm, table.output_tpm
        for option, limit in (("input_tpm", parts[0]), ("output_tpm", parts[1])):
            if limit is not None and tpm is not None and limit >= tpm:
                yield _idle(f"{key}.{option}", limit, f"tpm = {tpm} lets no more tokens of any kind through")
        if (
            tpm is not None
            and parts[0] is not None
            and parts[1] is not None
            and tpm >= sum(filter(None, parts))
        ):
            let = f"input_tpm and output_tpm let {parts[0] + parts[1]} through together"
            yield _idle(f"{key}.tpm", tpm, let)
    for key, _, deployment in config.places():
        name = deployment.account
        if name is None:
            continue
        for option in (*RATES, "max_concurrency"):
            own, shared = getattr(deployment, option), getattr(config.accounts[name], option)
            if own is not None and shared is not None and own > shared:
                yield _idle(f"{key}.{option}", own, f"its account {name} has {option} = {shared}")


def _idle(key: str, limit: int, let: str) -> Finding:
    return warning(key, f"{limit} is never reached: {let}", "lower it, or take it out")


# -- pools -------------------------------------------------------------------------------


def _places(config: Config) -> Iterator[Finding]:
    """Pools that are larger than what is behind them."""
    for t, tier in enumerate(config.tiers):
        size, most = pool_size(tier), _at_once(config, tier)
        if size is not None and most is not None and size > most:
            yield warning(
                f"tiers[{t}].max_concurrency",
                f"{size} is never reached: the deployments of {tier.name} take {most} calls at once",
                f"set it to {most}, or raise theirs",
            )
        if tier.admission is not None:
            for option in ("max_concurrency", "max_waiting", "max_wait_s"):
                if getattr(tier, option) is not None and getattr(tier.admission, option) is not None:
                    yield warning(
                        f"tiers[{t}].{option}",
                        "it stands in the tier's admission, too, and that one counts",
                        "take one of them out",
                    )


def _lower_tier(config: Config) -> Iterator[Finding]:
    """What takes a tier below, where there is none."""
    for t, tier in enumerate(config.tiers):
        admission, key = tier.admission, f"tiers[{t}].admission"
        if admission is None:
            continue
        lower = config.tiers[t + 1] if t + 1 < len(config.tiers) else None
        if admission.borrow and (lower is None or pool_size(lower) is None):
            problem = (
                "there is no tier below to borrow from"
                if lower is None
                else f"{lower.name} has no max_concurrency, and so no places to borrow"
            )
            yield warning(f"{key}.borrow", problem, "take it out")
        leads_on = lower is not None and tier.fallback is not False
        if admission.on_full == "step_down" and not leads_on:
            yield warning(
                f"{key}.on_full",
                f"no call steps down from {tier.name}: when it is full they are refused",
                'set on_full = "wait" or "refuse", or add a tier below',
            )
        if admission.shed_at is not None and not leads_on:
            yield warning(f"{key}.shed_at", "there is no tier below to start at", "take it out")
        if admission.shed_at is not None and pool_size(tier) is None and not limited(config, tier):
            yield warning(
                f"{key}.shed_at",
                f"the load of {tier.name} is not known: without max_concurrency or limits no call is shed",
                "set max_concurrency",
            )


# -- under load ---------------------------------------------------------------------------


def _sampling(config: Config) -> Iterator[Finding]:
    for t, tier in enumerate(config.tiers):
        sampling, key = tier.sampling, f"tiers[{t}].sampling"
        if sampling is None:
            continue
        agreed = {name for consent in sampling.consent for name in consent.steps if consent.steps != "all"}
        if not any(consent.steps == "all" for consent in sampling.consent):
            for s, step in enumerate(sampling.steps):
                if step.name not in agreed:
                    yield warning(
                        f"{key}.steps[{s}]",
                        f"nobody has agreed to {step.name}, so that it never touches a call",
                        "add [[tiers.sampling.consent]] with steps and since, or take it out",
                    )
        for s, step in enumerate(sampling.steps):
            if step.cached and config.cache is None:
                yield warning(f"{key}.steps[{s}].cached", "there is no cache", "add [cache], or take it out")
            if step.cheaper and len(tier.deployments) == 1:
                yield warning(
                    f"{key}.steps[{s}].cheaper",
                    f"{tier.name} has one deployment, and no cheaper one",
                    "add a deployment, or take it out",
                )
        if pool_size(tier) is None and not limited(config, tier):
            yield warning(
                key,
                f"the load of {tier.name} is not known: without max_concurrency or limits no step begins "
                "by itself",
                "set max_concurrency",
            )
        if sampling.emergencies and (config.store is None or not config.store.shared):
            yield warning(
                f"{key}.emergencies",
                "an emergency reaches the process it is declared in, and no other",
                'add [store] with kind = "disk" or "redis"',
            )


def _hedges(config: Config) -> Iterator[Finding]:
    for t, tier in enumerate(config.tiers):
        several = sum(max(1, len(config.provider_of(d)[1].variables)) for d in tier.deployments) > 1
        if tier.hedge and not several:
            yield warning(
                f"tiers[{t}].hedge",
                f"{tier.name} has one deployment, and no other to ask",
                "add a deployment, or take it out",
            )


RULES = (_accounts, _never_reached, _places, _lower_tier, _sampling, _hedges)

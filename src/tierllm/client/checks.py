"""What a client is made of, checked before anything runs."""

from __future__ import annotations

import inspect
import math
import os
import random
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..admission.shared_limit import store_of
from ..cost.budget_checks import PLACES
from ..errors import ConfigError
from ..resilience.retry import RetryBudget
from ..routing.tier import Tier

if TYPE_CHECKING:
    from ..admission.plans import ServicePlan
    from ..admission.rate_limit import RateLimit
    from ..cost.budget import Budget
    from ..cost.ledger import UsageLedger
    from ..cost.treasury import Treasury
    from ..events import Event
    from ..sla.contract import Contract
    from ..sla.terms import ServiceTerms

__all__ = [
    "check_ground",
    "check_money",
    "check_options",
    "check_treasury",
    "checked_budgets",
    "checked_limits",
    "checked_tiers",
    "close_made",
    "ledger_of",
    "listed",
    "service_of",
]

T = TypeVar("T")


def checked_tiers(tiers: Sequence[Tier]) -> tuple[Tier, ...]:
    if isinstance(tiers, Tier) or not isinstance(tiers, Sequence):
        raise ConfigError("TieredClient(tiers): give a list of Tier, best first")
    if not tiers:
        raise ConfigError("TieredClient(tiers): give at least one Tier")
    seen: set[str] = set()
    for tier in tiers:
        if not isinstance(tier, Tier):
            raise ConfigError(f"TieredClient(tiers): {type(tier).__name__} is not a Tier")
        if tier.name in seen:
            raise ConfigError(f"TieredClient(tiers): there are two tiers named {tier.name!r}")
        seen.add(tier.name)
    return tuple(tiers)


def checked_budgets(budgets: tuple[Budget, ...]) -> tuple[Budget, ...]:
    for budget in budgets:
        if not hasattr(budget, "draws"):
            raise ConfigError(f"TieredClient(budgets): {type(budget).__name__} is not a Budget")
    return budgets


def checked_limits(limits: tuple[RateLimit, ...], tiers: Sequence[Tier], store: Any) -> tuple[RateLimit, ...]:
    """Those of the client. Raises ``ConfigError`` where one of these, or of the deployments', names a place
    that there is not, or leaves a tier nothing."""
    for limit in limits:
        if isinstance(limit, type) or not hasattr(limit, "holds_at"):
            raise ConfigError(f"TieredClient(limits): {type(limit).__name__} is not a RateLimit")
    everywhere = [(tier.name, each.name, each.model) for tier in tiers for each in tier.deployments]
    for limit in limits:
        _check_limit(limit, everywhere, everywhere, store)
    of_deployments: dict[int, tuple[RateLimit, list[tuple[str, str, str]]]] = {}
    for tier in tiers:
        for each in tier.deployments:
            for limit in each.limits:
                at = of_deployments.setdefault(id(limit), (limit, []))[1]
                at.append((tier.name, each.name, each.model))
    for limit, at in of_deployments.values():
        _check_limit(limit, at, everywhere, store)
    return limits


def _check_limit(
    limit: RateLimit,
    at: Sequence[tuple[str, str, str]],
    everywhere: Sequence[tuple[str, str, str]],
    store: Any,
) -> None:
    tiers = sorted({tier for tier, _, _ in at if limit.leaves_nothing(tier)})
    bare = [tier for tier in tiers if any(p[0] == tier and limit.holds_at(*p) for p in at)]
    if bare:
        raise ConfigError(
            f"limit {limit.name!r} keeps so much for other tiers (reserve={limit.reserve!r}) that nothing is "
            f"left for {bare[0]}: keep less, or give {bare[0]} a share"
        )
    if limit.shared or store_of(limit, store) is not None:
        return  # others that share it may have further places
    for number, option in enumerate(("tier", "deployment", "model")):
        known = {place[number] for place in everywhere}
        said = limit.where.get(option, frozenset())
        for setting, names in (("where", said), ("reserve", limit.reserve if option == "tier" else ())):
            missing = sorted(set(names) - known)
            if missing:
                raise ConfigError(
                    f"limit {limit.name!r}, {setting}=...: there is no {option} {missing[0]!r}; known are "
                    f"{', '.join(sorted(known))}"
                )
    if not any(limit.holds_at(*place) for place in at):
        raise ConfigError(
            f"limit {limit.name!r}: no deployment that it is attached to is all that its where says, so that "
            "it never holds: take out what does not go together"
        )


def service_of(
    plans: tuple[ServicePlan, ...],
    contracts: tuple[Contract, ...],
    tiers: Sequence[str],
    *,
    emit: Callable[[Event], None] | None,
) -> ServiceTerms | None:
    """The service plans and contracts, looked up by name; ``None`` where there are none."""
    if not plans and not contracts:
        return None
    from ..sla.terms import ServiceTerms

    for plan in plans:
        if not hasattr(plan, "max_priority"):
            raise ConfigError(f"TieredClient(plans): {type(plan).__name__} is not a ServicePlan")
    return ServiceTerms(plans, contracts, tiers=tiers, emit=emit)


def check_money(store: object, prices: object, estimator: object, confirm: object) -> None:
    if store is not None and (isinstance(store, type) or not hasattr(store, "reserve")):
        raise ConfigError(f"TieredClient(store={store!r}): give a MemoryStore, DiskStore or RedisStore")
    if prices is not None and not hasattr(prices, "find"):
        raise ConfigError(f"TieredClient(prices={prices!r}): give a PriceBook, such as PriceBook.load(path)")
    if estimator is not None and (isinstance(estimator, type) or not hasattr(estimator, "quote")):
        raise ConfigError(f"TieredClient(estimator={estimator!r}): give a CostEstimator")
    if confirm is not None and not callable(confirm):
        raise ConfigError(f"TieredClient(confirm={confirm!r}): give a function of the estimate")


def ledger_of(ledger: Any, budgets: object, wall: Callable[[], float]) -> UsageLedger | None:
    """The ledger given, or one at that path; with budgets and nothing said, one in memory.

    One that is made here goes by the time that its rows have.
    """
    if ledger is False or (ledger is None and not budgets):
        return None
    from ..cost.ledger import UsageLedger

    if ledger is None or isinstance(ledger, str | os.PathLike):
        return UsageLedger(ledger, clock=wall)
    if not hasattr(ledger, "post"):
        raise ConfigError(f"TieredClient(ledger={ledger!r}): give a UsageLedger, a path, or False")
    if getattr(ledger, "read_only", False):
        raise ConfigError("TieredClient(ledger=...): this one was opened to be read only")
    given: UsageLedger = ledger
    return given


def check_treasury(treasury: Treasury, given: object) -> None:
    """Raises ``ConfigError`` where a budget would never hold, or could not be kept. A ledger that was made,
    and not ``given``, is closed then."""
    try:
        _check_places(treasury)
        treasury.check_prices()
    except ConfigError:
        if treasury.ledger is not None and treasury.ledger is not given:
            treasury.ledger.close()
        raise


def close_made(arguments: Mapping[str, Any], overrides: Container[str]) -> None:
    """Close what was opened for a client that was refused, and is not the caller's."""
    for name in ("store", "cache", "ledger"):
        made = None if name in overrides else arguments.get(name)
        if made:
            made.close()


def _check_places(treasury: Treasury) -> None:
    places = treasury.places
    for budget in (*treasury.budgets, *treasury.caps, *treasury.run_budgets):
        for option in sorted(PLACES & budget.where.keys()):
            known = {getattr(place, option) for place in places}
            missing = sorted(budget.where[option] - known)
            if missing:
                raise ConfigError(
                    f"budget {budget.name!r}: there is no {option} {missing[0]!r}, and the budget would "
                    f"never hold there; known are {', '.join(sorted(known))}"
                )
        if not any(budget.holds_at(place.tier, place.deployment, place.model) for place in places):
            raise ConfigError(
                f"budget {budget.name!r}: no deployment is all that its where says, so that it never "
                "holds: take out what does not go together"
            )


def listed(option: str, given: Iterable[T]) -> tuple[T, ...]:
    if not isinstance(given, Iterable):
        raise ConfigError(f"TieredClient({option}={given!r}): give a list")
    return tuple(given)


def check_ground(listeners: Sequence[object], clock: object, rng: object, retry_budget: object) -> None:
    """What a client has for life."""
    if not all(callable(each) for each in listeners):
        raise ConfigError(f"TieredClient(listeners={listeners!r}): give a list of functions of an event")
    if not callable(clock):
        raise ConfigError(f"TieredClient(clock={clock!r}): give a function that tells the seconds")
    if rng is not None and not isinstance(rng, random.Random):
        raise ConfigError(f"TieredClient(rng={rng!r}): give a random.Random")
    if retry_budget is not None and not isinstance(retry_budget, RetryBudget):
        raise ConfigError(f"TieredClient(retry_budget={retry_budget!r}): give a RetryBudget")


def check_options(fallback: object, deadline_s: object, stale: object) -> None:
    if fallback is not None and not hasattr(fallback, "bound"):
        raise ConfigError(
            f"TieredClient(fallback={fallback!r}): give a FallbackChain; "
            "Tier(fallback=False) keeps calls from stepping down"
        )
    number = isinstance(deadline_s, int | float) and not isinstance(deadline_s, bool)
    if deadline_s is not None and not (number and 0 < deadline_s < math.inf):  # type: ignore[operator]
        raise ConfigError(f"TieredClient(deadline_s={deadline_s!r}): give seconds above 0, or leave it out")
    if stale is not None and (not callable(stale) or inspect.iscoroutinefunction(stale)):
        raise ConfigError(f"TieredClient(stale={stale!r}): give a plain function of the request")

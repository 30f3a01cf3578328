"""Rules about budgets, stores, ledgers and prices."""

from __future__ import annotations

from collections.abc import Container, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from ..cost.place import DEFAULT_MAX_TOKENS
from ..cost.price import Price
from ..errors import ConfigError
from .finding import Finding, error, warning
from .places import places
from .rules_of_load import limited

if TYPE_CHECKING:
    from ..cost.budget import Budget
    from ..cost.prices import ModelInfo
    from .file import Config
    from .tiers import DeploymentTable, TierTable

__all__ = ["RULES", "unpriced"]

OWN = ("call", "run")
"""Budgets per call and run end with it: where their accounts are kept makes no difference."""


class Spot(NamedTuple):
    """A deployment as budgets see it, and where the file has it."""

    key: str
    tier: str
    deployment: str
    model: str
    max_tokens: int
    price: Price | None
    source: str
    kind: str

    def under(self, budget: Budget) -> bool:
        return budget.holds_at(self.tier, self.deployment, self.model)


def _money(config: Config) -> Iterator[Finding]:
    """All that depends on where budgets hold, and on what models cost."""
    try:
        spots = list(_spots(config))
    except ConfigError as trouble:
        yield error("prices.file", str(trouble))
        return
    budgets = [(f"budgets[{b}]", table.build()) for b, table in enumerate(config.budgets)]
    yield from _prices(spots, [budget for _, budget in budgets])
    yield from _shadowed(config, spots)
    for key, budget in budgets:
        held = [spot for spot in spots if spot.under(budget)]
        yield from _too_small(key, budget, held)
        yield from _nothing_lower(config, key, budget, held)


def unpriced(config: Config, given: Container[str]) -> list[Finding]:
    """What a client would be refused for. Providers that others stand in for (``given``) are left out."""
    budgets = [table.build() for table in config.budgets]
    looked_up = (place.table.price is None and place.provider not in given for place in places(config))
    in_dollars = config.shadow is not None or any(_most(budget, "usd") is not None for budget in budgets)
    if not in_dollars or not any(looked_up):
        return []  # and a price list need not be read
    spots = [spot for spot in _spots(config) if spot.source not in given]
    found = [*_prices(spots, budgets), *_shadowed(config, spots)]
    return [finding for finding in found if finding.severity == "error"]


def _shadowed(config: Config, spots: list[Spot]) -> Iterator[Finding]:
    """Where calls are sent too, within dollars of their own."""
    if config.shadow is None:
        return
    tier, _, deployment = config.shadow.to.partition("/")
    for spot in spots:
        if spot.price is None and spot.tier == tier and deployment in ("", spot.deployment):
            yield error(
                "shadow.to",
                f"no price is known for {spot.model}, and its budget is in dollars",
                f"set {spot.key}.price = {{input_usd_per_mtok = …, output_usd_per_mtok = …}}",
            )
            return


def _prices(spots: list[Spot], budgets: list[Budget]) -> Iterator[Finding]:
    told: set[str] = set()
    for spot in spots:
        if spot.price is not None or spot.key in told:
            continue
        told.add(spot.key)  # once for all keys of an account
        problem = f"no price is known for {spot.model}"
        remedy = "set price = {input_usd_per_mtok = …, output_usd_per_mtok = …}"
        if spot.kind == "openai" and spot.source != "openai":
            remedy += ", or name the provider after who sells it: it is looked up under that name"
        strict = next((b.name for b in budgets if _most(b, "usd") is not None and spot.under(b)), None)
        if strict is not None:
            problem += f", and budget {strict!r} has a hard limit in dollars"
            yield error(f"{spot.key}.price", problem, remedy)
        elif spot.kind == "openai":
            yield warning(f"{spot.key}.price", f"{problem}: its calls have no cost_usd", remedy)


def _too_small(key: str, budget: Budget, held: list[Spot]) -> Iterator[Finding]:
    """A limit that one long answer is above."""
    if "clamp" in budget.on_exceed:
        return
    for unit in ("usd", "tokens"):
        limit = _most(budget, unit)
        if not limit:  # there is none, or nothing at all is to be spent
            continue
        needs = [(_worst(spot, unit), spot) for spot in held]
        most, spot = max(needs, key=lambda each: each[0], default=(0, None))
        if spot is not None and most > limit:
            yield warning(
                f"{key}.hard_{unit}",
                f"one answer of {spot.max_tokens} tokens from {spot.tier}/{spot.deployment} may take "
                f"{_told(unit, most)} of {_told(unit, limit)}: calls that name no smaller max_tokens "
                "never get through there",
                f'raise it, set a max_tokens in {spot.tier}, or on_exceed = "clamp"',
            )


def _nothing_lower(config: Config, key: str, budget: Budget, held: list[Spot]) -> Iterator[Finding]:
    if "downgrade" in budget.on_exceed and not set(budget.per) & {"tier", "deployment"}:
        names = [tier.name for tier in config.tiers]
        leading_on = set(names[:-1]) - {tier.name for tier in config.tiers if tier.fallback is False}
        several = {tier.name for tier in config.tiers if len(tier.deployments) > 1}
        if not any(spot.tier in leading_on | several for spot in held):
            yield warning(
                f"{key}.on_exceed",
                "there is nowhere to downgrade to from where this budget holds",
                'add a tier below, or set on_exceed to "reject" or "clamp"',
            )
    if budget.on_soft != "downgrade":
        return
    if budget.per[0] == "call":
        yield warning(f"{key}.on_soft", "a budget of one call moves no calls down", 'set on_soft = "warn"')
    elif len(config.tiers) == 1:
        yield warning(f"{key}.on_soft", "there is no tier to downgrade to", "add one below")


def _in_memory(config: Config) -> Iterator[Finding]:
    if config.store is not None and config.store.shared:
        return
    for b, table in enumerate(config.budgets):
        budget = table.build()
        if not budget.hard or budget.per[0] in OWN:
            continue
        if budget.window.spec == "total":
            problem = "it is kept in memory: its window is all time, but every restart begins at 0"
        elif budget.scope == "shared":
            problem = "it is kept in memory: each process has a limit of its own, and a restart begins at 0"
        else:
            continue
        yield warning(f"budgets[{b}]", problem, 'add [store] with kind = "disk" or "redis"')


def _idle_store(config: Config) -> Iterator[Finding]:
    if config.store is None or config.budgets or any(True for _ in config.shared_breakers()):
        return
    limits = any(limited(config, tier) for tier in config.tiers)
    if not limits and not any(tier.sampling and tier.sampling.emergencies for tier in config.tiers):
        yield warning(
            "store", "nothing is kept in it", "add [[budgets]] or breaker.shared = true, or take it out"
        )


def _short_memory(config: Config) -> Iterator[Finding]:
    ledger = config.ledger
    if ledger and ledger.path is None and ledger.retention_days is not None:
        yield warning(
            "ledger.retention_days",
            "without a path the ledger is in memory, and gone with the process",
            "set ledger.path, such as usage.db",
        )
    if ledger and ledger.path is not None and "max_rows" in ledger.model_fields_set:
        yield warning(
            "ledger.max_rows",
            "it is for a ledger in memory, and a file keeps all rows",
            "set retention_days, or take it out",
        )


def _spots(config: Config) -> Iterator[Spot]:
    """Every place. Raises ``ConfigError`` for a broken price list."""
    book = config.price_book()
    for key, name, tier, table, provider, source in places(config):
        info = book.find(table.model, source.vendor(provider))
        price = info.price if info is not None else None
        if table.price is not None:
            price = table.price.build()
        elif source.free:
            price = Price.free()
        max_tokens = _max_tokens(tier, table, info)
        yield Spot(key, tier.name, name, table.model, max_tokens, price, provider, source.kind)


def _max_tokens(tier: TierTable, table: DeploymentTable, info: ModelInfo | None) -> int:
    """What a call that names none is sent with under a hard limit."""
    params = {**tier.defaults, **table.params}
    usual = (info and info.max_output_tokens) or DEFAULT_MAX_TOKENS
    named = [n for n in (params.get("max_tokens"), tier.max_tokens) if isinstance(n, int)]
    if "max_tokens" in table.drop or not named:
        return min(usual, DEFAULT_MAX_TOKENS)
    return min(named)


def _most(budget: Budget, unit: str) -> int | None:
    """The hard limit in this unit, if it is enforced."""
    return next((limit.hard for limit in budget.limits if limit.unit == unit and budget.hard), None)


def _worst(spot: Spot, unit: str) -> int:
    """What the shortest prompt and the longest answer take, as limits are counted."""
    if unit == "tokens":
        return 1 + spot.max_tokens
    return 0 if spot.price is None else spot.price.worst_nano(1, spot.max_tokens)


def _told(unit: str, amount: int) -> str:
    return f"${Decimal(amount).scaleb(-9).normalize():f}" if unit == "usd" else f"{amount} {unit}"


RULES = (_money, _in_memory, _idle_store, _short_memory)

"""The whole of ``tierllm.toml``, and the client built from it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from ..errors import ConfigError
from ..types import Timeouts
from .addresses import without_address
from .admission import PlanTable
from .cache import CacheTable
from .contradictions import contradictions
from .finding import Finding, Loc, did_you_mean, dotted, told
from .finding import error as wrong
from .limits import AccountTable, LimitTable
from .money import BudgetTable, LedgerTable, PricesTable, StoreTable
from .places import misplaced
from .problems import problems
from .providers import KINDS, ProviderTable, Source, spoken_of
from .reading import read
from .rules_of_money import unpriced
from .sections import (
    LAYERED,
    BreakerTable,
    ClientTable,
    DeploymentTable,
    FallbackTable,
    RetryBudgetTable,
    RetryTable,
    TierTable,
    TimeoutsTable,
)
from .table import Name, OrOff, Table, layered

if TYPE_CHECKING:
    from ..admission.rate_limit import RateLimit
    from ..cost.prices import PriceBook
    from ..pipeline.provider import Provider
    from ..resilience.breaker import CircuitBreaker
    from ..resilience.retry import Retry
    from ..routing.tier import Deployment, Tier
    from ..stores import Store

__all__ = ["Config"]


class Config(Table):
    """A configuration: ``Config.load(path)`` reads a file, ``build()`` makes the client.

    Settings for all tiers stand in ``retry``, ``breaker`` and ``timeouts``; a tier's table, and a
    deployment's within it, change the keys they name. A deployment without ``provider`` uses the
    only one there is.
    """

    client: ClientTable = ClientTable()
    retry: OrOff[RetryTable] | None = None
    retry_budget: RetryBudgetTable | None = None
    breaker: OrOff[BreakerTable] | None = None
    timeouts: TimeoutsTable | None = None
    fallback: FallbackTable | None = None
    accounts: dict[Name, AccountTable] = Field(default_factory=dict)
    limits: list[LimitTable] = Field(default_factory=list)
    plans: dict[Name, PlanTable] = Field(default_factory=dict)
    budgets: list[BudgetTable] = Field(default_factory=list)
    store: StoreTable | None = None
    ledger: OrOff[LedgerTable] | None = None
    cache: CacheTable | None = None
    prices: PricesTable | None = None
    providers: dict[str, ProviderTable] = Field(default_factory=dict)
    tiers: list[TierTable]

    _source: str = PrivateAttr("the configuration")
    _base: Path = PrivateAttr(Path())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The configuration in a TOML file.

        Raises ``ConfigError`` that names the file and lists all that is wrong in it: each key, the
        problem and the remedy.
        """
        config, findings = cls.examine(path)
        if config is None:
            raise ConfigError(told(str(path), findings))
        return config

    @classmethod
    def examine(cls, path: str | os.PathLike[str]) -> tuple[Self | None, list[Finding]]:
        """The configuration in a TOML file, or ``None`` and what is wrong with it."""
        try:
            data = read(Path(path))
        except ConfigError as error:
            return None, [wrong("", str(error))]
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            return None, problems(error, data, cls)
        config._source, config._base = str(path), Path(path).absolute().parent
        return config, []

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """The configuration in plain data of the same shape. Raises ``ConfigError`` like ``load``."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(told("the configuration", problems(error, data, cls))) from None

    @property
    def base(self) -> Path:
        """What relative paths in it are relative to."""
        return self._base

    # -- what holds for a deployment -------------------------------------------

    def places(self) -> Iterator[tuple[str, TierTable, DeploymentTable]]:
        """Every deployment in its tier, and where the file has it."""
        for t, tier in enumerate(self.tiers):
            for d, deployment in enumerate(tier.deployments):
                yield dotted(("tiers", t, "deployments", d)), tier, deployment

    def used(self) -> dict[str, Source]:
        """The providers that deployments name."""
        return dict(self.provider_of(deployment) for _, _, deployment in self.places())

    def provider_of(self, deployment: DeploymentTable) -> tuple[str, Source]:
        """Its provider's name and table."""
        name = deployment.provider or next(iter(self.providers))
        return name, self.providers.get(name) or KINDS[name]

    def timeouts_of(self, tier: TierTable, deployment: DeploymentTable) -> Timeouts:
        table = layered([self.timeouts, tier.timeouts, deployment.timeouts])
        return table.build() if table else Timeouts()

    def retry_of(self, tier: TierTable, deployment: DeploymentTable) -> Retry | Literal[False] | None:
        table = layered([self.retry, tier.retry, deployment.retry])
        return table.build() if isinstance(table, RetryTable) else table

    def breaker_of(
        self, tier: TierTable, deployment: DeploymentTable, store: Store | None = None
    ) -> CircuitBreaker | Literal[False] | None:
        table = layered([self.breaker, tier.breaker, deployment.breaker])
        return table.build(store) if isinstance(table, BreakerTable) else table

    def shared_breakers(self) -> Iterator[Loc]:
        """The levels whose breakers are to be shared."""
        levels: list[tuple[Loc, Config | TierTable | DeploymentTable]] = [((), self)]
        for t, tier in enumerate(self.tiers):
            levels.append((("tiers", t), tier))
            for d, deployment in enumerate(tier.deployments):
                levels.append((("tiers", t, "deployments", d), deployment))
        for loc, level in levels:
            if isinstance(level.breaker, BreakerTable) and level.breaker.shared:
                yield loc

    def price_book(self) -> PriceBook:
        """The price list with the file's own prices. Raises ``ConfigError`` for a list it cannot read."""
        return (self.prices or PricesTable()).build(self._base)

    # -- building --------------------------------------------------------------

    def arguments(
        self, *, providers: Mapping[str, Provider] | None = None, **overrides: Any
    ) -> dict[str, Any]:
        """What ``TieredClient`` is to be made with. ``providers`` stand in for those of these names.

        ``overrides`` are keywords of the client that replace what the file says; what they replace is
        not built. Makes the directories of store and cache and the ledger's file, where there are to be some.

        Raises ``ConfigError`` for a name that the file does not have, and for every environment
        variable that is not set.
        """
        given = dict(providers or {})
        wrong = [*self._not_here(given), *self._missing(given), *without_address(self, overrides)]
        if not wrong and not {"tiers", "budgets", "prices"} & overrides.keys():
            wrong += unpriced(self, given)
        if wrong:
            raise ConfigError(told(self._source, wrong))
        made: dict[tuple[str, str | None], Provider] = {}

        def provider(name: str, source: Source, variable: str | None) -> Provider:
            if name in given:
                return given[name]
            if (name, variable) not in made:
                made[name, variable] = source.build(name, os.environ[variable] if variable else None)
            return made[name, variable]

        settings: dict[str, Any] = {**self.client.given(), **overrides}
        self._put(settings, "prices", lambda table: table.build(self._base))
        self._put(settings, "store", lambda table: table.build(self._base, os.environ))
        store: Store | None = settings.get("store")
        if "tiers" not in settings:
            accounts = {name: table.build(name) for name, table in self.accounts.items()}
            settings["tiers"] = [self._tier(tier, provider, store, accounts) for tier in self.tiers]
        self._put(settings, "breaker", lambda table: table.build(store))
        for name in ("retry", "retry_budget", "timeouts", "fallback"):
            self._put(settings, name, lambda table: table.build())
        if self.budgets:
            settings.setdefault("budgets", [table.build() for table in self.budgets])
        if self.limits:
            settings.setdefault("limits", [table.build() for table in self.limits])
        if self.plans:
            settings.setdefault("plans", [table.build(name) for name, table in self.plans.items()])
        clock = settings.get("clock", time.monotonic)
        wall = time.time if clock is time.monotonic else clock  # as the client has it
        opened: dict[str, Callable[[Any], object]] = {
            "cache": lambda table: table.opened(self._base, os.environ, clock=clock, wall=wall),
            "ledger": lambda table: table.build(self._base, wall),  # last: it opens a file
        }
        try:
            for name, build in opened.items():
                self._put(settings, name, build)
        except BaseException:
            for name in {"store", "cache"} & settings.keys() - overrides.keys():
                if settings[name] is not None:
                    settings[name].close()
            raise
        return settings

    def _put(self, settings: dict[str, Any], name: str, build: Callable[[Any], object]) -> None:
        """What the table of this name stands for, unless something else is given in its place."""
        table = getattr(self, name)
        if table is None or name in settings:
            return
        try:
            settings[name] = build(table) if isinstance(table, Table) else table
        except ConfigError as error:
            raise ConfigError(told(self._source, [wrong(name, str(error))])) from error

    def _tier(
        self, tier: TierTable, provider: Any, store: Store | None, accounts: Mapping[str, RateLimit]
    ) -> Tier:
        made = (self._deployments(tier, table, provider, store, accounts) for table in tier.deployments)
        return tier.build([deployment for several in made for deployment in several])

    def _deployments(
        self,
        tier: TierTable,
        table: DeploymentTable,
        provider: Any,
        store: Store | None,
        accounts: Mapping[str, RateLimit],
    ) -> Iterator[Deployment]:
        """One for each key of the account, with rules of its own."""
        name, source = self.provider_of(table)
        for variable in source.variables or (None,):
            rules: dict[str, Any] = {"account": accounts[table.account]} if table.account else {}
            for rule in LAYERED:
                if getattr(tier, rule) is not None or getattr(table, rule) is not None:
                    where = (store,) if rule == "breaker" else ()
                    rules[rule] = getattr(self, f"{rule}_of")(tier, table, *where)
            yield table.build(provider(name, source, variable), **rules)

    def _not_here(self, given: Mapping[str, Provider]) -> Iterator[Finding]:
        known = sorted({*self.providers, *self.used()})
        for name in given.keys() - known:
            problem = "the file has no provider of this name"
            yield wrong(f"providers={{{name!r}: …}}", problem, did_you_mean(name, known))

    def _missing(self, given: Mapping[str, Provider]) -> Iterator[Finding]:
        for name, source in self.used().items():
            for variable in source.variables:
                if name not in given and not os.environ.get(variable):
                    problem = f"{spoken_of(variable)} is not set"
                    yield wrong(f"providers.{name}.api_key_env", problem, "put the key in there")

    # -- what the tables cannot see by themselves ------------------------------

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        wrong = list(contradictions(self)) or list(misplaced(self))
        if wrong:
            raise ValidationError.from_exception_data("Config", wrong)
        return self

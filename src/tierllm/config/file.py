"""The whole of ``tierllm.toml``, and the client built from it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from ..errors import ConfigError
from ..types import Timeouts
from .building import built
from .cache import CacheTable
from .changes import digest_of
from .contradictions import contradictions
from .finding import Finding, Loc, dotted, told
from .finding import error as wrong
from .judging import CascadeTable, ShadowTable
from .limits import AccountTable, LimitTable
from .money import BudgetTable, LedgerTable, PricesTable, StoreTable
from .places import misplaced
from .problems import problems
from .providers import KINDS, ProviderTable, Source
from .reading import content_of, fingerprint, read
from .routing import (
    DecisionsTable,
    RouterTable,
    RuleTable,
    SessionsTable,
)
from .sections import (
    BreakerTable,
    ClientTable,
    FallbackTable,
    RetryBudgetTable,
    RetryTable,
    TimeoutsTable,
)
from .service import ContractTable, PlanTable
from .table import Name, OrOff, Table, layered
from .tiers import DeploymentTable, TierTable

if TYPE_CHECKING:
    from ..cost.prices import PriceBook
    from ..pipeline.provider import Provider
    from ..resilience.breaker import CircuitBreaker
    from ..resilience.retry import Retry
    from ..stores import Store
    from .kept import Kept

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
    contracts: dict[Name, ContractTable] = Field(default_factory=dict)
    rules: list[RuleTable] = Field(default_factory=list)
    router: RouterTable | None = None
    sessions: SessionsTable | None = None
    cascade: CascadeTable | None = None
    shadow: ShadowTable | None = None
    decisions: DecisionsTable | None = None
    budgets: list[BudgetTable] = Field(default_factory=list)
    store: StoreTable | None = None
    ledger: OrOff[LedgerTable] | None = None
    cache: CacheTable | None = None
    prices: PricesTable | None = None
    providers: dict[str, ProviderTable] = Field(default_factory=dict)
    tiers: list[TierTable]

    _source: str = PrivateAttr("the configuration")
    _base: Path = PrivateAttr(Path())
    _path: Path | None = PrivateAttr(None)
    _content: bytes | None = PrivateAttr(None)

    @classmethod
    def load(cls, path: str | os.PathLike[str], content: bytes | None = None) -> Self:
        """The configuration in a TOML file.

        ``content``: what was in the file, read already. Raises ``ConfigError`` that names the file and lists
        all that is wrong in it: each key, the problem and the remedy.
        """
        config, findings = cls.examine(path, content)
        if config is None:
            raise ConfigError(told(str(path), findings))
        return config

    @classmethod
    def examine(
        cls, path: str | os.PathLike[str], content: bytes | None = None
    ) -> tuple[Self | None, list[Finding]]:
        """The configuration in a TOML file, or ``None`` and what is wrong with it.

        ``content``: what was in the file, read already.
        """
        try:
            if content is None:
                content = content_of(Path(path))
            data = read(content)
        except ConfigError as error:
            return None, [wrong("", str(error))]
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            return None, problems(error, data, cls)
        config._source, config._path = str(path), Path(path).absolute()
        config._base, config._content = config._path.parent, fingerprint(content)
        return config, []

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """The configuration in plain data of the same shape. Raises ``ConfigError`` like ``load``."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(told("the configuration", problems(error, data, cls))) from None

    @property
    def source(self) -> str:
        """What it is called in messages: the path it was loaded from."""
        return self._source

    @property
    def path(self) -> Path | None:
        """The file it was loaded from."""
        return self._path

    @property
    def content(self) -> bytes | None:
        """The fingerprint of the very bytes that were in the file."""
        return self._content

    @property
    def digest(self) -> str:
        """12 hex digits that are the same for files that say the same, whatever their layout.

        The beginning of the SHA-256 of what stands in it, as JSON with its keys in order.
        """
        return digest_of(self)

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
        self,
        *,
        providers: Mapping[str, Provider] | None = None,
        kept: Kept | None = None,
        **overrides: Any,
    ) -> dict[str, Any]:
        """What ``TieredClient`` is to be made with. ``providers`` stand in for those of these names.

        ``overrides`` are keywords of the client that replace what the file says; what they replace is
        not built. ``kept`` has what was made of another configuration, and is used where tables are the
        same. Makes the directories of store and cache and the ledger's file, where there are to be some.

        Raises ``ConfigError`` for a name that the file does not have, and for every environment
        variable that is not set.
        """
        return built(self, providers=providers, kept=kept, **overrides)

    # -- what the tables cannot see by themselves ------------------------------

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        wrong = list(contradictions(self)) or list(misplaced(self))
        if wrong:
            raise ValidationError.from_exception_data("Config", wrong)
        return self

"""From the tables of a configuration to what a client is made of."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .addresses import without_address
from .finding import Finding, did_you_mean, told
from .finding import error as wrong
from .kept import Kept
from .providers import spoken_of
from .routing import RouterTable
from .rules_of_money import unpriced
from .table import Table, based, written
from .tiers import LAYERED

if TYPE_CHECKING:
    from ..admission.rate_limit import RateLimit
    from ..pipeline.provider import Provider
    from ..routing.cascade import Cascade
    from ..routing.tier import Deployment, Tier
    from ..stores import Store
    from .file import Config
    from .judging import CascadeTable
    from .providers import Source
    from .tiers import DeploymentTable, TierTable

__all__ = ["built"]

SAYS = ("limits", "per", "where", "reserve", "burst", "tokens", "fail", "mode", "headers", "store")
"""What a ``RateLimit`` is made of, beside its name."""


def built(
    config: Config,
    *,
    providers: Mapping[str, Provider] | None = None,
    kept: Kept | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """What ``TieredClient`` is to be made with; see ``Config.arguments``."""
    given = dict(providers or {})
    found = [*_not_here(config, given), *_missing(config, given), *without_address(config, overrides)]
    if not found and not {"tiers", "budgets", "prices"} & overrides.keys():
        found += unpriced(config, given)
    if found:
        raise ConfigError(told(config.source, found))
    kept = kept or Kept()
    try:
        return _Build(config, given, kept, {**config.client.given(), **overrides}).settings(overrides)
    except BaseException:
        kept.undone()
        raise


class _Build:
    """One configuration on its way to be a client's."""

    def __init__(
        self, config: Config, given: Mapping[str, Provider], kept: Kept, settings: dict[str, Any]
    ) -> None:
        self.config = config
        self.given = given
        self.kept = kept
        self.made = settings
        self.store: Store | None = None
        self._numbers: dict[object, int] = {}

    def settings(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        config, settings, base = self.config, self.made, self.config.base
        self._put("prices", lambda table: table.build(base))
        self._put("store", lambda table: table.build(base, os.environ))
        self.store = settings.get("store")
        if "tiers" not in settings:
            settings["tiers"] = list(self._tiers())
        self._put("breaker", lambda table: table.build(self.store))
        for name in ("retry", "retry_budget", "timeouts", "fallback"):
            self._put(name, lambda table: table.build())
        for name in ("budgets", "limits"):
            if getattr(config, name):
                settings.setdefault(name, self._listed(name))
        for name in ("plans", "contracts"):
            if getattr(config, name):
                settings.setdefault(name, self._named(name))
        self._route()
        clock = settings.get("clock", time.monotonic)
        wall = time.time if clock is time.monotonic else clock  # as the client has it
        opened: dict[str, Callable[[Any], object]] = {
            "cache": lambda table: table.opened(base, os.environ, clock=clock, wall=wall),
            "decisions": lambda table: table.build(base, wall),
            "ledger": lambda table: table.build(base, wall),  # last: it opens a file
        }
        try:
            for name, build in opened.items():
                self._put(name, build)
        except BaseException:
            for name in {"store", "cache", "decisions"} & settings.keys() - overrides.keys():
                if settings[name] is not None and self.kept.was((name,)) is not settings[name]:
                    settings[name].close()
            raise
        return settings

    def _put(self, name: str, build: Callable[[Any], object]) -> None:
        """What the table of this name stands for, unless something else is given in its place."""
        table = getattr(self.config, name)
        if table is None or name in self.made:
            return
        if not isinstance(table, Table):
            self.made[name] = table
            return
        try:
            self.made[name] = self.kept.once((name,), self._written(name, table), lambda: build(table))
        except ConfigError as error:
            raise ConfigError(told(self.config.source, [wrong(name, str(error))])) from error

    def _written(self, name: str, table: Table) -> object:
        """What it is made of: the table, and the store where others may be met."""
        return (written(table), self.store if name == "breaker" else based(table, self.config.base))

    def _named(self, name: str) -> list[Any]:
        tables = getattr(self.config, name)
        return [
            self.kept.once((name, each), written(table), partial(table.build, each))
            for each, table in tables.items()
        ]

    def _route(self) -> None:
        """Rules and difficulty, sessions, cascade, shadow."""
        config, kept, settings = self.config, self.kept, self.made
        table = config.router
        scorer = None
        if table is not None and "router" not in settings:
            what = (written(table.scorer), table.file, based(table, config.base))
            scorer = self._told(
                "router", partial(kept.once, ("scorer",), what, partial(table.scored, config.base))
            )
        given = settings.get("router")
        if config.rules and getattr(given, "rules", None):
            raise ConfigError(
                f"{config.source}: rules: the file has some, and so has the Router that was given beside it; "
                "leave the rules of one of them out"
            )
        if config.rules and given is not None and hasattr(given, "with_rules"):
            rules = [rule.build() for rule in config.rules]
            settings["router"] = kept.once(
                ("router",), [given, config.rules], partial(given.with_rules, rules)
            )
        elif (table is not None or config.rules) and "router" not in settings:
            rules = [each.build() for each in config.rules]
            said = ([written(each) for each in config.rules], written(table), scorer)
            router = partial((table or RouterTable()).build, rules, scorer)
            settings["router"] = self._told("router", partial(kept.once, ("router",), said, router))
        self._put("sessions", lambda table: table.build())
        self._put("cascade", self._cascade)
        if config.shadow is not None and "shadow" not in settings:
            learn = getattr(scorer, "learn", None)
            shadow = partial(config.shadow.build, learn)
            settings["shadow"] = kept.once(("shadow",), (written(config.shadow), scorer), shadow)

    def _cascade(self, table: CascadeTable) -> Cascade:
        """With the judge that was there before, and all that it knows, whatever else is written."""
        given = table.judge
        return table.build(
            None if given is None else self.kept.once(("cascade", "judge"), written(given), given.build)
        )

    def _told(self, name: str, build: Callable[[], Any]) -> Any:
        """What ``build`` makes, or its error in terms of the file."""
        try:
            return build()
        except ConfigError as error:
            raise ConfigError(told(self.config.source, [wrong(name, str(error))])) from error

    def _listed(self, name: str) -> list[Any]:
        tables = getattr(self.config, name)
        return [self.kept.once((name, table.build().name), written(table), table.build) for table in tables]

    # -- tiers -----------------------------------------------------------------

    def _tiers(self) -> Iterator[Tier]:
        kept = self.kept
        accounts = {
            name: kept.once(("accounts", name), written(table), partial(table.build, name))
            for name, table in self.config.accounts.items()
        }
        for tier in self.config.tiers:
            made = [
                deployment
                for table in tier.deployments
                for deployment in self._deployments(tier, table, accounts)
            ]
            yield kept.once(("tiers", tier.name), (written(tier), made), partial(tier.build, made))

    def _deployments(
        self, tier: TierTable, table: DeploymentTable, accounts: Mapping[str, RateLimit]
    ) -> Iterator[Deployment]:
        """One for each key of the account, with rules of its own."""
        config = self.config
        name, source = config.provider_of(table)
        layers = [
            [written(level) for level in (getattr(config, rule), getattr(tier, rule), getattr(table, rule))]
            for rule in LAYERED
            if getattr(tier, rule) is not None or getattr(table, rule) is not None
        ]
        for variable in source.variables or (None,):
            provider = self._provider(name, source, variable)
            account = accounts[table.account] if table.account else None
            where = self._told_apart("deployments", tier.name, table.name or table.model, variable, name)
            deployment = self.kept.once(
                where,
                (written(table), layers, provider, account, self.store),
                partial(self._deployment, tier, table, provider, account),
            )
            _with_limits_of(deployment, self.kept.was(where))
            yield deployment

    def _told_apart(self, *where: object) -> tuple[object, ...]:
        """Where it stands; a second of the same name is another."""
        number = self._numbers[where] = self._numbers.get(where, 0) + 1
        return (*where, number)

    def _deployment(
        self, tier: TierTable, table: DeploymentTable, provider: Provider, account: RateLimit | None
    ) -> Deployment:
        rules: dict[str, Any] = {} if account is None else {"account": account}
        for rule in LAYERED:
            if getattr(tier, rule) is not None or getattr(table, rule) is not None:
                where = (self.store,) if rule == "breaker" else ()
                rules[rule] = getattr(self.config, f"{rule}_of")(tier, table, *where)
        return table.build(provider, **rules)

    def _provider(self, name: str, source: Source, variable: str | None) -> Provider:
        if name in self.given:
            return self.given[name]
        key = os.environ[variable] if variable else None
        secret = None if key is None else hashlib.sha256(key.encode()).digest()
        said = source.model_dump(
            mode="json", exclude_unset=True, exclude={"api_key_env"}
        )  # other keys' names
        return self.kept.once(("providers", name, variable), (said, secret), lambda: source.build(name, key))


def _with_limits_of(deployment: Deployment, before: Deployment | None) -> None:
    """What was taken of limits that are still the same stays taken."""
    if before is None or before is deployment:
        return
    known = {limit.name: limit for limit in before.limits}
    deployment.limits = tuple(
        known[limit.name] if _same(limit, known.get(limit.name)) else limit for limit in deployment.limits
    )


def _same(limit: RateLimit, other: RateLimit | None) -> bool:
    """Whether two limits of one name say the same."""
    return other is not None and all(getattr(limit, said) == getattr(other, said) for said in SAYS)


# -- what is to be there --------------------------------------------------------


def _not_here(config: Config, given: Mapping[str, Provider]) -> Iterator[Finding]:
    known = sorted({*config.providers, *config.used()})
    for name in given.keys() - known:
        problem = "the file has no provider of this name"
        yield wrong(f"providers={{{name!r}: …}}", problem, did_you_mean(name, known))


def _missing(config: Config, given: Mapping[str, Provider]) -> Iterator[Finding]:
    for name, source in config.used().items():
        for variable in source.variables:
            if name not in given and not os.environ.get(variable):
                problem = f"{spoken_of(variable)} is not set"
                yield wrong(f"providers.{name}.api_key_env", problem, "put the key in there")

"""The whole of ``tierllm.toml``, and the client built from it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from ..errors import ConfigError
from ..types import Timeouts
from .finding import Finding, Loc, did_you_mean, dotted
from .finding import error as wrong
from .problems import problems
from .providers import KINDS, ProviderTable, Source, spoken_of
from .sections import (
    LAYERED,
    BreakerTable,
    ClientTable,
    DeploymentTable,
    FallbackTable,
    OrOff,
    RetryBudgetTable,
    RetryTable,
    Rule,
    Table,
    TierTable,
    TimeoutsTable,
    layered,
)

if TYPE_CHECKING:
    from ..pipeline.provider import Provider
    from ..resilience.breaker import CircuitBreaker
    from ..resilience.retry import Retry
    from ..routing.tier import Deployment, Tier

__all__ = ["Config", "told"]


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
    providers: dict[str, ProviderTable] = Field(default_factory=dict)
    tiers: list[TierTable]

    _source: str = PrivateAttr("the configuration")

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
            data = tomllib.loads(_text(Path(path)))
        except ConfigError as error:
            return None, [wrong("", str(error))]
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            return None, [wrong("", f"this is not valid TOML: {error}")]
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            return None, problems(error, data, cls)
        config._source = str(path)
        return config, []

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """The configuration in plain data of the same shape. Raises ``ConfigError`` like ``load``."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(told("the configuration", problems(error, data, cls))) from None

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
        self, tier: TierTable, deployment: DeploymentTable
    ) -> CircuitBreaker | Literal[False] | None:
        table = layered([self.breaker, tier.breaker, deployment.breaker])
        return table.build() if isinstance(table, BreakerTable) else table

    # -- building --------------------------------------------------------------

    def arguments(self, *, providers: Mapping[str, Provider] | None = None) -> dict[str, Any]:
        """What ``TieredClient`` is to be made with. ``providers`` stand in for those of these names.

        Raises ``ConfigError`` for a name that the file does not have, and for every environment
        variable that is not set.
        """
        given = dict(providers or {})
        wrong = [*self._not_here(given), *self._missing(given)]
        if wrong:
            raise ConfigError(told(self._source, wrong))
        made: dict[tuple[str, str | None], Provider] = {}

        def provider(name: str, source: Source, variable: str | None) -> Provider:
            if name in given:
                return given[name]
            if (name, variable) not in made:
                made[name, variable] = source.build(name, os.environ[variable] if variable else None)
            return made[name, variable]

        settings: dict[str, Any] = {
            **self.client.given(),
            "tiers": [self._tier(tier, provider) for tier in self.tiers],
        }
        for name in ("retry", "breaker", "timeouts", "fallback"):
            table = getattr(self, name)
            if table is not None:
                settings[name] = table.build() if isinstance(table, Rule) else table
        if self.retry_budget is not None:
            settings["retry_budget"] = self.retry_budget.build()
        return settings

    def _tier(self, tier: TierTable, provider: Any) -> Tier:
        return tier.build([d for table in tier.deployments for d in self._deployments(tier, table, provider)])

    def _deployments(self, tier: TierTable, table: DeploymentTable, provider: Any) -> Iterator[Deployment]:
        """One for each key of the account, with rules of its own."""
        name, source = self.provider_of(table)
        for variable in source.variables or (None,):
            rules = {
                rule: getattr(self, f"{rule}_of")(tier, table)
                for rule in LAYERED
                if getattr(tier, rule) is not None or getattr(table, rule) is not None
            }
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
        wrong = list(self._contradictions())
        if wrong:
            raise ValidationError.from_exception_data("Config", wrong)
        return self

    def _contradictions(self) -> Iterator[InitErrorDetails]:
        if not self.tiers:
            yield _named(("tiers",), "there is no tier", "give at least one [[tiers]]")
        names: list[str] = []
        for t, tier in enumerate(self.tiers):
            if tier.name in names:
                yield _named(("tiers", t, "name"), "another tier has this name", "give it one of its own")
            names.append(tier.name)
            for d, deployment in enumerate(tier.deployments):
                loc = ("tiers", t, "deployments", d)
                yield from self._unknown_provider(deployment, loc)
                try:
                    self.timeouts_of(tier, deployment)
                    self.retry_of(tier, deployment)
                    self.breaker_of(tier, deployment)
                except ConfigError as error:
                    yield _named(loc, "settings of several levels do not fit together", str(error))

    def _unknown_provider(self, deployment: DeploymentTable, loc: Loc) -> Iterator[InitErrorDetails]:
        known = [*self.providers, *(kind for kind in KINDS if kind not in self.providers)]
        if deployment.provider is None:
            if len(self.providers) != 1:
                yield _named((*loc, "provider"), "is missing", f'such as provider = "{known[0]}"')
        elif deployment.provider not in known:
            yield _named(
                (*loc, "provider"),
                "there is no such provider",
                f"{did_you_mean(deployment.provider, known)} (or add a [providers.…] table of this name)",
            )


def told(source: str, findings: list[Finding]) -> str:
    """``findings`` about one file, in one line where there is one, else a line each."""
    if len(findings) == 1:
        return f"{source}: {findings[0]}"
    return f"{source}: {len(findings)} problems" + "".join(f"\n  {finding}" for finding in findings)


def _named(loc: Loc, problem: str, remedy: str) -> InitErrorDetails:
    return InitErrorDetails(
        type=PydanticCustomError("named", "{problem}", {"problem": problem, "remedy": remedy}),
        loc=loc,
        input=None,
    )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("there is no such file; give the path of a tierllm.toml") from None
    except IsADirectoryError:
        raise ConfigError(f"this is a directory; give the file in it: {path / 'tierllm.toml'}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"this is not UTF-8 (line {line}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or type(error).__name__}") from None

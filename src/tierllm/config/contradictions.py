"""What is wrong with a file that every one of its tables is content with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .cache import misnamed
from .finding import Loc, did_you_mean
from .limits import unmatched
from .misrouted import misrouted
from .money import twins
from .providers import KINDS
from .service import unkept
from .table import named

if TYPE_CHECKING:
    from pydantic_core import InitErrorDetails

    from .file import Config
    from .tiers import DeploymentTable

__all__ = ["contradictions"]


def contradictions(config: Config) -> Iterator[InitErrorDetails]:
    """What no table could see by itself: names that lead nowhere, settings that do not go together."""
    if not config.tiers:
        yield named(("tiers",), "there is no tier", "give at least one [[tiers]]")
    names: list[str] = []
    for t, tier in enumerate(config.tiers):
        if tier.name in names:
            yield named(("tiers", t, "name"), "another tier has this name", "give it one of its own")
        names.append(tier.name)
        for d, deployment in enumerate(tier.deployments):
            loc: Loc = ("tiers", t, "deployments", d)
            yield from _unknown_provider(config, deployment, loc)
            try:
                config.timeouts_of(tier, deployment)
                config.retry_of(tier, deployment)
                config.breaker_of(tier, deployment)
            except ConfigError as error:
                yield named(loc, "settings of several levels do not fit together", str(error))
    if config.store is None or not config.store.shared:
        for loc in config.shared_breakers():
            remedy = 'add a [store] of kind "disk" or "redis"'
            yield named((*loc, "breaker", "shared"), "there is no store to share them in", remedy)
    yield from twins(config.budgets)
    yield from misnamed(config)
    yield from unmatched(config)
    yield from unkept(config)
    yield from misrouted(config)


def _unknown_provider(config: Config, deployment: DeploymentTable, loc: Loc) -> Iterator[InitErrorDetails]:
    known = [*config.providers, *(kind for kind in KINDS if kind not in config.providers)]
    if deployment.provider is None:
        if len(config.providers) != 1:
            yield named((*loc, "provider"), "is missing", f'such as provider = "{known[0]}"')
    elif deployment.provider not in known:
        yield named(
            (*loc, "provider"),
            "there is no such provider",
            f"{did_you_mean(deployment.provider, known)} (or add a [providers.…] table of this name)",
        )

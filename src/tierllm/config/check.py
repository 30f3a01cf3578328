"""What is doubtful about a configuration that can be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from . import (
    rules_of_cache,
    rules_of_effect,
    rules_of_fallback,
    rules_of_load,
    rules_of_money,
    rules_of_plans,
    rules_of_routing,
    rules_of_service,
    rules_of_time,
    rules_of_use,
)
from .addresses import addresses, no_address
from .finding import Finding, warning
from .providers import spoken_of

if TYPE_CHECKING:
    from .file import Config

__all__ = ["check"]

RULES = (
    *rules_of_fallback.RULES,
    *rules_of_time.RULES,
    *rules_of_use.RULES,
    *rules_of_load.RULES,
    *rules_of_plans.RULES,
    *rules_of_service.RULES,
    *rules_of_routing.RULES,
    *rules_of_effect.RULES,
    *rules_of_money.RULES,
    *rules_of_cache.RULES,
)


def check(
    config: Config, environ: Mapping[str, str] = os.environ, *, today: date | None = None
) -> list[Finding]:
    """What may go wrong with ``config`` when it is used, each with what to do about it.

    ``environ`` is looked at for the keys that the file names; ``today`` (UTC's, unless given) decides which
    consents are over. Nothing is called, made or written; a price list is read.
    """
    found = [finding for rule in RULES for finding in rule(config)]
    found += rules_of_plans.consents_over(config, today or datetime.now(UTC).date())
    return found + list(_keys_not_set(config, environ))


def _keys_not_set(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    for name, source in config.used().items():
        for variable in source.variables:
            if not environ.get(variable):
                yield warning(
                    f"providers.{name}.api_key_env",
                    f"{spoken_of(variable)} is not set here",
                    "set it where the client is built",
                )
    for key, variable in addresses(config):
        url = environ.get(variable)
        if url:
            yield from no_address(key, variable, url)
        else:
            yield warning(key, f"{spoken_of(variable)} is not set here", "set it where the client is built")

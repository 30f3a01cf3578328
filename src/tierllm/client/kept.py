"""The cache at work in a setup, and what an answer in it depends on."""

from __future__ import annotations

import logging
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..providers.identity import identity

if TYPE_CHECKING:
    from ..caching.origins import Origin
    from ..caching.policy import Caching
    from ..pipeline.effects import Policy
    from ..resilience.deployment_line import DeploymentLine
    from ..types import Call
    from .setup import Setup

__all__ = ["kept_by"]

log = logging.getLogger("tierllm")


def kept_by(cache: object, setup: Setup) -> Caching | None:
    """The cache at work in ``setup``; ``None`` where it has none."""
    if cache is None:
        return None
    from ..caching.origins import Origins
    from ..caching.policy import Caching
    from ..caching.result_cache import ResultCache

    if not isinstance(cache, ResultCache):
        raise ConfigError(f"TieredClient(cache={type(cache).__name__}): give a ResultCache, or None")
    cache.check_tiers(list(setup.lines))
    origins = [_origin(line) for tier in setup.lines.values() for line in tier.lines]
    own = [f"{origin.tier}/{origin.name}" for origin in origins if origin.own]
    if own and (len(cache.layers) > 1 or cache.layers[0].shared):
        log.warning(
            "answers of %s are kept for this client alone, since their settings cannot be told from "
            "others: let a provider of your own say its origin, a Function or policy its version",
            ", ".join(own),
        )

    def renewed(call: Call) -> Call:
        """A call that renews the answer of ``call``, as urgent as that was."""
        fresh = setup.ready(call.request, call.target).call
        fresh.turn.priority, fresh.turn.weight = call.turn.priority, call.turn.weight
        return fresh

    return Caching(
        cache,
        Origins(origins),
        host=setup.host,
        wall=setup.wall,
        rng=setup.ground.rng,
        emit=setup.emit,
        lines=lambda tier: setup.lines[tier].handler,
        renewed=renewed,
        paid=setup.treasury.books.cached,
    )


def _origin(line: DeploymentLine) -> Origin:
    """All that an answer from ``line`` depends on beside the request."""
    from ..caching.origins import Origin

    tier, deployment = line.tier, line.deployment
    provider, ceilings = deployment.provider, tier.ceilings
    kind, origin = type(provider), getattr(provider, "origin", None)
    settings: dict[str, Any] = {
        "tier": tier.name,
        "deployment": line.name,
        "model": deployment.model,
        "provider": [kind.__module__, kind.__qualname__, provider.name, getattr(provider, "vendor", None)],
        "origin": provider if origin is None else origin,  # which cannot be written down, then
        "prompt": tier.prompt if isinstance(tier.prompt, str) else None,
        "defaults": tier.defaults,
        "ceilings": [ceilings.max_tokens, ceilings.temperature, ceilings.reasoning_effort],
        "params": deployment.params,
        "drop": sorted(deployment.drop),
        "policies": [_identity(policy) for policy in (*tier.policies, *deployment.policies)],
    }
    return Origin.of(
        settings,
        tier=tier.name,
        name=line.name,
        labels=deployment.labels,
        wording=tier.worded if callable(tier.prompt) else None,
        params=line.params_for,
    )


def _identity(policy: Policy) -> list[object]:
    """A policy of the application's own, which may change what is sent; ``version`` tells when it did.

    Without one a function counts by its code and the plain data that it sees; an object, which may hold
    anything, is its own.
    """
    version = getattr(policy, "version", None)
    if version is not None:
        kind = policy if hasattr(policy, "__qualname__") else type(policy)
        return [kind.__module__, kind.__qualname__, str(version)]
    return identity(policy) if isinstance(policy, FunctionType | MethodType | partial) else [policy, object()]

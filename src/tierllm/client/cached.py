"""What a client does with a cache of answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..caching.origins import Origin
    from ..caching.policy import Caching
    from ..caching.result_cache import ResultCache
    from ..cost.treasury import Treasury
    from ..events import Event
    from ..pipeline.effects import Policy
    from ..pipeline.host import Host
    from ..pipeline.provider import Provider
    from ..pipeline.ready import ReadyCall
    from ..resilience.deployment_line import DeploymentLine
    from ..resilience.tier_line import TierLine
    from ..types import Request

__all__ = ["Cached"]


class Cached:
    """The part of a client that has a cache."""

    rng: random.Random
    _caching: Caching | None
    _emit: Callable[[Event], None] | None
    _host: Host
    _lines: Mapping[str, TierLine]
    _treasury: Treasury
    _wall: Callable[[], float]

    def ready(self, request: Request, target: Provider | None = None) -> ReadyCall:
        raise NotImplementedError

    @property
    def cache(self) -> ResultCache:
        """The client's cache. Raises ``ConfigError`` where it has none."""
        if self._caching is None:
            raise ConfigError("this client has no cache: give it cache=ResultCache(...)")
        return self._caching.cache

    def _with_cache(self, cache: object) -> Caching | None:
        if cache is None:
            return None
        from ..caching.origins import Origins
        from ..caching.policy import Caching
        from ..caching.result_cache import ResultCache

        if not isinstance(cache, ResultCache):
            raise ConfigError(f"TieredClient(cache={type(cache).__name__}): give a ResultCache, or None")
        cache.check_tiers(list(self._lines))
        return Caching(
            cache,
            Origins([_origin(line) for tier in self._lines.values() for line in tier.lines]),
            host=self._host,
            wall=self._wall,
            rng=self.rng,
            emit=self._emit,
            lines=lambda tier: self._lines[tier].handler,
            renewed=lambda call: self.ready(call.request, call.target).call,
            paid=self._treasury.books.cached,
        )


def _origin(line: DeploymentLine) -> Origin:
    """All that an answer from ``line`` depends on beside the request."""
    from ..caching.origins import Origin

    tier, deployment = line.tier, line.deployment
    provider, ceilings = deployment.provider, tier.ceilings
    settings: dict[str, Any] = {
        "tier": tier.name,
        "deployment": line.name,
        "model": deployment.model,
        "provider": [provider.name, getattr(provider, "vendor", None), getattr(provider, "origin", "")],
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


def _identity(policy: Policy) -> list[str]:
    """A policy of the application's own, which may change what is sent; ``version`` tells when it did."""
    kind = policy if hasattr(policy, "__qualname__") else type(policy)
    return [kind.__module__, kind.__qualname__, str(getattr(policy, "version", ""))]

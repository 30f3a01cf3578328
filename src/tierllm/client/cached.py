"""What a client does with a cache of answers."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..providers.identity import identity

if TYPE_CHECKING:
    from ..caching.entry import Entry
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
    from ..types import Call, Request

__all__ = ["Cached"]

log = logging.getLogger("tierllm")


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

    def _renewed(self, call: Call) -> Call:
        """A call that renews the answer of ``call``, as urgent as that was."""
        fresh = self.ready(call.request, call.target).call
        fresh.turn.priority, fresh.turn.weight = call.turn.priority, call.turn.weight
        return fresh

    def still_made(self, entry: Entry) -> bool:
        """Whether the very deployment that made ``entry`` is here, as far as its settings tell."""
        origins = None if self._caching is None else self._caching.origins
        origin = None if origins is None else origins.place(entry.tier, entry.deployment)
        if origin is None or origin.wording is not None:  # which is another one for each request
            return origin is not None
        return origin.digest == entry.fingerprint

    def _with_cache(self, cache: object) -> Caching | None:
        if cache is None:
            return None
        from ..caching.origins import Origins
        from ..caching.policy import Caching
        from ..caching.result_cache import ResultCache

        if not isinstance(cache, ResultCache):
            raise ConfigError(f"TieredClient(cache={type(cache).__name__}): give a ResultCache, or None")
        cache.check_tiers(list(self._lines))
        origins = [_origin(line) for tier in self._lines.values() for line in tier.lines]
        own = [f"{origin.tier}/{origin.name}" for origin in origins if origin.own]
        if own and (len(cache.layers) > 1 or cache.layers[0].shared):
            log.warning(
                "answers of %s are kept for this client alone, since their settings cannot be told from "
                "others: let a provider of your own say its origin, a Function or policy its version",
                ", ".join(own),
            )
        return Caching(
            cache,
            Origins(origins),
            host=self._host,
            wall=self._wall,
            rng=self.rng,
            emit=self._emit,
            lines=lambda tier: self._lines[tier].handler,
            renewed=self._renewed,
            paid=self._treasury.books.cached,
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

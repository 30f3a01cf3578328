"""Rules about the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .cache import EVERY
from .finding import Finding, warning

if TYPE_CHECKING:
    from .cache import CacheTable
    from .file import Config
    from .tiers import DeploymentTable, TierTable

__all__ = ["RULES"]


def _cache(config: Config) -> Iterator[Finding]:
    if config.cache is not None:
        yield from _too_warm(config, config.cache)
        yield from _never_kept(config, config.cache)
        yield from _layers(config.cache)
        yield from _single(config.cache)


def _too_warm(config: Config, cache: CacheTable) -> Iterator[Finding]:
    if cache.default == "auto" and all(
        any(_temperature(tier, deployment) > 0 for deployment in tier.deployments) for tier in config.tiers
    ):
        yield warning(
            "cache",
            "every tier asks with a temperature above 0: answers are kept for no call but those that "
            'give temperature=0 or cache="always"',
            'take the temperatures out, or set cache.default = "always"',
        )


def _temperature(tier: TierTable, deployment: DeploymentTable) -> float:
    """Of a call that names none."""
    if "temperature" in deployment.drop:
        return 0.0
    set_to = {**tier.defaults, **deployment.params}.get("temperature")
    usual = float(set_to) if isinstance(set_to, int | float) else None
    if tier.temperature is None:
        return usual or 0.0
    return tier.temperature if usual is None else min(usual, tier.temperature)


def _never_kept(config: Config, cache: CacheTable) -> Iterator[Finding]:
    ttl_s = cache.ttl_s
    if isinstance(ttl_s, dict):
        left_out = [tier.name for tier in config.tiers if tier.name not in ttl_s]
        if left_out and EVERY not in ttl_s:
            yield warning(
                "cache.ttl_s",
                f"nothing is said for {', '.join(left_out)}: answers from there are not kept",
                f'add "{EVERY}" for all others, or 0 for each where that is meant',
            )
        lives = list(ttl_s.values())
    else:
        lives = [ttl_s]
    if not any(lives):
        yield warning("cache.ttl_s", "nothing is kept", "set it above 0, or take [cache] out")


def _layers(cache: CacheTable) -> Iterator[Finding]:
    kinds = [layer.kind for layer in cache.layers]
    if "memory" in kinds[1:]:
        at = kinds.index("memory")
        yield warning(
            f"cache.layers[{at}]",
            f"memory is asked after {kinds[at - 1]}, which takes longer",
            "put it first",
        )
    if cache.write == "behind" and not any(layer.shared for layer in cache.layers):
        yield warning(
            "cache.write",
            "there is no layer to be waited for, so that nothing is written behind a call's back",
            "take it out, or add a layer of Redis or disk",
        )


def _single(cache: CacheTable) -> Iterator[Finding]:
    if len(cache.layers) > 1 or "layers" not in cache.model_fields_set:
        return
    layer = cache.layers[0]
    if layer.kind == "memory":
        yield warning(
            "cache.layers",
            "there is one layer, of memory: what is in it is gone with the process, and no other sees it",
            'add one of kind "disk" or "redis"',
        )
    else:
        yield warning(
            "cache.layers",
            f"there is one layer, of {layer.kind}: what is asked for often is fetched from there each time",
            'add one of kind "memory" before it',
        )


RULES = (_cache,)

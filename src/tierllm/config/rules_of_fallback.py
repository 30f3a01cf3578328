"""Rules about where a call can still go when a place fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .finding import Finding, warning
from .providers import OpenAITable

if TYPE_CHECKING:
    from .file import Config
    from .tiers import TierTable

__all__ = ["RULES"]


def _no_way_out(config: Config) -> Iterator[Finding]:
    """A tier with one place to go, from which nothing leads on."""
    tiers = config.tiers
    for t, tier in enumerate(tiers):
        if t == len(tiers) - 1 > 0 and any(earlier.fallback is not False for earlier in tiers[:-1]):
            continue  # the end of a chain
        accounts = sum(max(1, len(config.provider_of(d)[1].variables)) for d in tier.deployments)
        if accounts == 1 and (tier.fallback is False or t == len(tiers) - 1):
            key = f"tiers[{t}]" + (".fallback" if tier.fallback is False else "")
            yield warning(
                key,
                f"there is no fallback: {tier.name} has one deployment and no tier to step down to",
                "add a second deployment, or a tier below",
            )


def _cut_off(config: Config) -> Iterator[Finding]:
    for t, (upper, lower) in enumerate(zip(config.tiers, config.tiers[1:], strict=False)):
        if upper.fallback is False:
            yield warning(
                f"tiers[{t + 1}]",
                f"no call steps down to {lower.name}: {upper.name} above it has fallback = false",
                f"take fallback = false out of tiers[{t}], unless calls ask for {lower.name} by name",
            )


def _one_place(config: Config) -> Iterator[Finding]:
    sources = config.used()
    places = {source.place for source in sources.values()}
    several = len(config.tiers) > 1 or len(config.tiers[0].deployments) > 1
    if several and len(places) == 1 and isinstance(next(iter(sources.values())), OpenAITable):
        yield warning(
            "tiers",
            f"every deployment is at {places.pop()}: its outage takes all tiers down at once",
            "give a lower tier a deployment at another provider",
        )


def _twins(config: Config) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for t, tier in enumerate(config.tiers):
        same = _answers(config, tier)
        if same in seen:
            yield warning(
                f"tiers[{t}]",
                f"{tier.name} is the same as {seen[same]}: stepping down changes nothing",
                "give it other deployments, a shorter prompt or a smaller max_tokens",
            )
        seen.setdefault(same, tier.name)


def _answers(config: Config, tier: TierTable) -> str:
    """All that its answers depend on: models with their parameters, prompt and ceilings.

    In whatever order they are asked: a call comes further down when all of them have failed.
    """
    places = [
        {**d.model_dump(include={"model", "params", "drop"}), "provider": config.provider_of(d)[0]}
        for d in tier.deployments
    ]
    told = sorted(json.dumps(place, sort_keys=True, default=str) for place in places)
    settings = {"prompt", "defaults", "max_tokens", "temperature", "reasoning_effort"}
    return json.dumps([told, tier.model_dump(include=settings)], sort_keys=True, default=str)


def _same_deployment(config: Config) -> Iterator[Finding]:
    for t, tier in enumerate(config.tiers):
        seen: dict[str, int] = {}
        for d, deployment in enumerate(tier.deployments):
            said = deployment.model_dump(
                mode="json", exclude={"name", "weight", "labels"}, exclude_unset=True
            )
            said["provider"] = config.provider_of(deployment)[0]
            same = json.dumps(said, sort_keys=True)
            if same in seen:
                yield warning(
                    f"tiers[{t}].deployments[{d}]",
                    f"this is deployments[{seen[same]}] again: it fails when that one fails",
                    "give it another provider or model, or take it out",
                )
            seen.setdefault(same, d)


RULES = (_no_way_out, _cut_off, _one_place, _twins, _same_deployment)

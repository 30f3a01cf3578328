"""What tells one configuration from another, where it was made in code."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..routing.router import Router
    from ..routing.tier import Tier

__all__ = ["digest_of"]


def digest_of(tiers: Sequence[Tier], router: Router | None, *said: Sequence[object]) -> str:
    """Twelve hexadecimal digits of what is plain data in these settings: the same for the same ones.

    Functions and other objects count by their kind alone; a file's digest (``Config.digest``) knows more.
    """
    described: list[Any] = [[_tier(tier) for tier in tiers]]
    described.append([[repr(each) for each in every] for every in said])
    if router is not None:
        described.append([[repr(rule) for rule in router.rules], router.mode, router.weak, router.strong])
        described.append([router.balance, router.explore, type(router.scorer).__name__])
    text = json.dumps(described, sort_keys=True, default=lambda each: type(each).__name__)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _tier(tier: Tier) -> list[Any]:
    ceilings = tier.ceilings
    return [
        tier.name,
        tier.prompt if isinstance(tier.prompt, str) else None,
        tier.defaults,
        [ceilings.max_tokens, ceilings.temperature, ceilings.reasoning_effort],
        [tier.choose, tier.min_quality, tier.max_concurrency, repr(tier.objective)],
        [
            [each.name, each.model, each.provider.name, each.params, sorted(each.drop), sorted(each.labels)]
            for each in tier.deployments
        ],
    ]

"""Every deployment by the name that budgets know it by; budgets and limits for places that there are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .finding import Loc, did_you_mean, dotted
from .table import named

if TYPE_CHECKING:
    from pydantic_core import InitErrorDetails

    from ..admission.rate_limit import RateLimit
    from ..cost.budget import Budget
    from .file import Config
    from .providers import Source
    from .tiers import DeploymentTable, TierTable

__all__ = ["Place", "misplaced", "places"]


class Place(NamedTuple):
    """A deployment with one key of its account, and where the file has it."""

    key: str
    name: str
    tier: TierTable
    table: DeploymentTable
    provider: str
    source: Source


def places(config: Config) -> Iterator[Place]:
    """Every deployment, once for each key of its account."""
    names: dict[str, list[str]] = {}
    for key, tier, table in config.places():
        provider, source = config.provider_of(table)
        taken = names.setdefault(tier.name, [])
        for _ in source.variables or (None,):
            name, number = table.name or table.model, 1
            while name in taken:  # as the client tells them apart
                number += 1
                name = f"{table.name or table.model}#{number}"
            taken.append(name)
            yield Place(key, name, tier, table, provider, source)


def misplaced(config: Config) -> Iterator[InitErrorDetails]:
    """Budgets and limits that would never hold, since no deployment is what they say."""
    found = [(place.key, (place.tier.name, place.name, place.table.model)) for place in places(config)]
    everywhere = [held for _, held in found]
    written: list[tuple[Loc, Budget | RateLimit, list[tuple[str, str, str]]]]
    written = [(("budgets", b), table.build(), everywhere) for b, table in enumerate(config.budgets)]
    written += [(("limits", at), table.build(), everywhere) for at, table in enumerate(config.limits)]
    for t, tier in enumerate(config.tiers):
        for d, deployment in enumerate(tier.deployments):
            loc: Loc = ("tiers", t, "deployments", d)
            here = [held for key, held in found if key == dotted(loc)]
            written += [((*loc, "limits", at), own.build(), here) for at, own in enumerate(deployment.limits)]
    for loc, limit, held in written:
        missing = False
        for at, option in enumerate(("tier", "deployment", "model")):
            if held is not everywhere:
                break
            known = list(dict.fromkeys(place[at] for place in held))
            for name in sorted(limit.where.get(option, frozenset()) - set(known)):
                missing = True
                yield named((*loc, "where", option), f"there is no such {option}", did_you_mean(name, known))
        if not missing and not any(limit.holds_at(*place) for place in held):
            what = "budget" if loc[0] == "budgets" else "limit"
            which = "no" if held is everywhere else "this"
            which_not = "is" if held is everywhere else "is not"
            problem = f"{which} deployment {which_not} all that is said here, so that the {what} never holds"
            yield named((*loc, "where"), problem, "take out what does not go together")

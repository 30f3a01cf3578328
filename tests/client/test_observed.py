"""What only observes changes nothing: calls are served as by a client that has none of it configured."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings

from client.forms import QUICK, Told, World
from client.test_floor import (
    CALLS,
    CHEAP,
    PRICE,
    RANK,
    WORLDS,
    Broken,
    contracts_of,
    plans_of,
    rules_of,
    scorer_of,
    script,
)
from tierllm import (
    Cascade,
    Contract,
    Deployment,
    Objective,
    ResultCache,
    Router,
    ServicePlan,
    Shadow,
    Shift,
    StickySessions,
    Tier,
)
from tierllm.errors import ConfigError
from tierllm.testing import FakeProvider

SHIFT = {"min_calls": 2, "stage_calls": 1, "dwell_s": 1, "stage_s": 1, "probe_s": 2}


def tiers_of(world: dict[str, Any], fake: FakeProvider, shift: Shift | None) -> list[Tier]:
    places = {
        "gold": {"a": "", "b": "eu"},
        "silver": {"c": "eu private", "d": ""},
        "bronze": {"e": "", "f": "eu"},
    }
    options: dict[str, Any] = {} if shift is None else {"shift": shift}
    return [
        Tier(
            name,
            [
                Deployment(model, fake, labels=labels.split(), price=PRICE if name == "gold" else CHEAP)
                for model, labels in places[name].items()
            ],
            objective=Objective(latency_p95_s=1, availability=0.9),
            max_concurrency=2,
            fallback=name != world["no_fallback"],
            **options,
        )
        for name in RANK
    ]


def watchers_of(world: dict[str, Any]) -> dict[str, Any]:
    """All that can look on, and nothing that acts."""
    only: dict[str, Any] = {"mode": "observe"}
    judge = world["cascade"] if isinstance(world["cascade"], float) else 0.0
    broken = isinstance(world["cascade"], str)
    return {
        "plans": [ServicePlan(name, **{**said, **only}) for name, said in plans_of(world).items()],
        "contracts": [
            Contract(name, tenants=[name], **{**said, **only}) for name, said in contracts_of(world).items()
        ],
        "router": Router(rules_of(world), scorer=scorer_of(world["scorer"]), explore=0, **only),
        "sessions": StickySessions(return_after_s=1, return_up_after_s=1, cache_ttl_s=1, **only),
        "cascade": Cascade(Broken() if broken else lambda request, response: judge, **only),
        "shadow": Shadow("silver", share=1.0, judge=lambda request, response: 0.5, **only),
    }


def served(world: dict[str, Any], calls: list[dict[str, Any]], *, watched: bool) -> list[object]:
    """How each call went, and who was asked when."""
    fake = FakeProvider(latency_s=0.2, seed=world["seed"])
    given: dict[str, Any] = watchers_of(world) if watched else {}
    if world["cache"]:
        given["cache"] = ResultCache(ttl_s=5, default="always", stale_while_revalidate_s=60)
    shift = Shift(**SHIFT, mode="observe") if watched else None
    tiers = tiers_of(world, fake, shift)
    here = World(tiers, fake=fake, seed=world["seed"], timeouts=QUICK, retry=False, **given)
    script(fake, world["trouble"])
    begun: list[Told] = []
    refused: list[str] = []
    for call in calls:
        options = dict(call)
        prompt, streaming = options.pop("prompt"), options.pop("streaming", False)
        here.pass_s(options.pop("wait_s"))
        try:
            begun.append(here.begin(prompt, streaming=streaming, **options))
        except ConfigError as error:
            refused.append(str(error))
    here.pass_s(400)
    told: list[object] = [refused]
    for one in begun:
        event(one.kind)
        answer = one.response
        where = answer and (answer.tier, answer.deployment, answer.cached, answer.degraded, answer.text)
        told.append((one.kind, one.ended_s, one.text, where))
    told += [(entry.model, round(entry.at_s, 6)) for entry in fake.journal]
    here.client.close()
    return told


@pytest.mark.timeout(300)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(world=WORLDS, calls=CALLS)
def test_who_only_looks_changes_nothing(world: dict[str, Any], calls: list[dict[str, Any]]) -> None:
    assert served(world, calls, watched=True) == served(world, calls, watched=False)

"""A hedged call under load: its answer is degraded by the place that gave it."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from client.forms import World
from tierllm import AdaptiveSampling, Consent, Deployment, Step, Tier
from tierllm.resilience.hedge import Hedge
from tierllm.testing import Fail, FakeProvider

SINCE = date(1970, 1, 1)


def world_of(step: Step, **second: Any) -> World:
    """Two places that have answered within 0.4 s so far; the first hangs from now on."""
    fake = FakeProvider(latency_s=0.4)
    tier = Tier(
        "gold",
        [Deployment("a", fake), Deployment("b", fake, **second)],
        max_concurrency=8,
        hedge=Hedge(share=1.0, min_samples=10),
        sampling=AdaptiveSampling(
            [step], consent=[Consent("all", since=SINCE)], emergencies={"d": [step.name]}
        ),
    )
    world = World([tier], fake=fake, retry=False)
    for _ in range(12):
        for label in "ab":
            world.call(streaming=label == "a")
    hedging = world.client._setup.lines["gold"].hedge
    assert hedging is not None
    for lateness in hedging._lateness.values():
        for _ in range(50):
            lateness.streamed.add(0.4)
            lateness.whole.add(0.4)
    for _ in range(5):
        hedging.bank.pay_in()
    world.client.emergency("d")
    fake.script("a", Fail.hang())
    return world


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("drop", "named"), [(set(), ("cool",)), ({"temperature"}, ())], ids=["takes", "drops"]
)
def test_a_hedge_that_wins_says_what_was_taken_there(drop: set[str], named: Any, streaming: bool) -> None:
    world = world_of(Step("cool", at=1.2, temperature=0.1), drop=drop)
    answer = world.call(streaming=streaming, temperature=1.0).ok
    assert (answer.deployment, answer.degraded) == ("b", named)

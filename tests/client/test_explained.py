"""What a client tells of its calls, and what its log tells those who train a router."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tierllm import (
    Cascade,
    ConfigError,
    Deployment,
    Objective,
    Router,
    Shift,
    Tier,
    TieredClient,
)
from tierllm.routing.decision_log import DecisionLog
from tierllm.routing.decision_rows import read_decisions
from tierllm.routing.learned_scorer import LearnedScorer
from tierllm.routing.samples import samples_of
from tierllm.testing import FakeProvider


def deployment(name: str) -> Deployment:
    return Deployment(name, FakeProvider())


@pytest.mark.parametrize("what", [object(), None, 3, b"id"], ids=["object", "None", "int", "bytes"])
def test_only_a_response_a_trace_or_an_id_can_be_explained(what: Any) -> None:
    with TieredClient([Tier("gold", [deployment("m")])]) as client, pytest.raises(ConfigError, match="give"):
        client.explain(what)


def test_what_was_sent_elsewhere_by_hand_is_told_so() -> None:
    gold = Tier(
        "gold", [deployment("a"), deployment("b")], objective=Objective(latency_p95_s=1), shift=Shift()
    )
    with TieredClient([gold, Tier("silver", [deployment("c")])]) as client:
        client.shift("gold", "a", away=True)
        told = client.explain(client.complete("hello", sla="gold"))
        assert "gold/a avoided, as told by hand; served by gold/b" in told
        client.shift("gold", away=True)
        told = client.explain(client.complete("hello", sla="gold"))
        assert "gold left by hand" in told
        assert "served by silver/c" in told
        assert "objective" not in told


def test_of_a_cascade_the_log_has_what_became_of_the_weak_models_answers(tmp_path: Path) -> None:
    """Those that were not served are outcomes all the same: what is left of them is not like all."""
    judged = iter([0.1, 0.9] * 100)
    tiers = [Tier("gold", [deployment("big")]), Tier("bronze", [deployment("small")])]
    router = Router(scorer=LearnedScorer(), balance=0.3, explore=0.5)
    log = DecisionLog(tmp_path / "log", prompts="hashed")
    cascade = Cascade(lambda request, response: next(judged))
    with TieredClient(tiers, router=router, cascade=cascade, decisions=log, rng=random.Random(1)) as client:
        for number in range(40):
            response = client.complete(f"question {number}")
            client.feedback(response.trace.id, 0.8)  # type: ignore[union-attr]
    rows = list(read_decisions(tmp_path / "log"))
    up = [row for row in rows if row.arm == "weak" and row.served == "gold"]
    assert len(up) > 5
    samples = samples_of(rows, buckets_of=LearnedScorer().buckets_of)
    assert (samples.weak, samples.strong, samples.doubts) == ("bronze", "gold", [])
    weak = [sample.weak for sample in samples.found if sample.weak is not None]
    assert weak.count(0.1) == len(up)
    assert len(weak) == sum(row.arm == "weak" for row in rows)

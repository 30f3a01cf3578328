"""A client made in code says which configuration a call went by, too."""

from __future__ import annotations

from typing import Any

from tierllm import Contract, Deployment, Router, Rule, ServicePlan, Tier, TieredClient
from tierllm.testing import FakeProvider


def told(**settings: Any) -> str:
    model = settings.pop("model", "m")
    labels = settings.pop("labels", ())
    tiers = [Tier("gold", [Deployment(model, FakeProvider(), labels=labels)])]
    with TieredClient(tiers, **settings) as client:
        trace = client.complete("Hello").trace
        assert trace is not None
        assert trace.config is not None
        return trace.config


def test_the_same_settings_have_the_same_digest() -> None:
    assert told() == told()
    assert len(told()) == 12
    assert told(labels={"a", "b", "c"}) == told(labels={"c", "b", "a"})


def test_other_settings_have_another() -> None:
    every = [
        told(),
        told(model="n"),
        told(labels={"eu"}),
        told(plans=[ServicePlan("free")]),
        told(plans=[ServicePlan("free", max_priority=1)]),
        told(contracts=[Contract("acme")]),
        told(router=Router([Rule("all", tier="gold")])),
        told(router=Router([Rule("all", min_tier="gold")])),
        told(router=Router([Rule("all", min_tier="gold")], mode="observe")),
    ]
    assert len(set(every)) == len(every)

"""Adaptive sampling in a client: what reaches the places of a tier."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from client.forms import Form, every_form
from tierllm import AdaptiveSampling, Consent, Deployment, Price, Step, Tier, TieredClient
from tierllm.errors import ThrottledError
from tierllm.events import DegradationChanged, EmergencyChanged, Event
from tierllm.testing import FakeClock, FakeProvider

ALL = Consent("all", since=date(1970, 1, 1))
DEAR, DEAL = (Price(input_usd_per_mtok=n, output_usd_per_mtok=n) for n in (5, 1))


def ground(*steps: Step, **places: Any) -> tuple[TieredClient, FakeProvider, list[Event]]:
    """A client with an emergency that forces all ``steps`` on."""
    fake, events = FakeProvider(), []
    tier = Tier(
        "gold",
        [Deployment("dear", fake, price=DEAR, **places), Deployment("deal", fake, price=DEAL, **places)],
        max_concurrency=4,
        sampling=AdaptiveSampling(
            steps, consent=[ALL], emergencies={"disaster": [step.name for step in steps]}
        ),
    )
    client = TieredClient([tier], clock=FakeClock(), listeners=[events.append])
    client.emergency("disaster", for_s=600)
    return client, fake, events


@every_form
def test_the_cheaper_place_is_asked_and_named(form: Form) -> None:
    client, fake, _ = ground(Step("cheap", at=1.2, cheaper=True))
    with client:
        answer = form(client)
        assert (answer.model, answer.degraded) == ("deal", ("cheap",))
        assert [entry.model for entry in fake.journal] == ["deal"]


def test_what_a_place_cannot_take_it_is_not_sent() -> None:
    client, fake, _ = ground(Step("cool", at=1.2, temperature=0.0), drop={"temperature"})
    with client:
        assert client.complete("x", temperature=1.0).degraded == ()
        assert "temperature" not in fake.journal[-1].params


def test_a_callers_own_options_are_no_way_past_a_step() -> None:
    seen: list[dict[str, Any]] = []

    class Vendor(FakeProvider):
        def complete(self, call: Any, scope: Any) -> Any:
            seen.append({**call.params, **call.options(self.name)})
            return super().complete(call, scope)

    fake = Vendor()
    sampling = AdaptiveSampling(
        [Step("short", at=1.2, max_tokens=300, single=True)], consent=[ALL], emergencies={"d": ["short"]}
    )
    with TieredClient([Tier("gold", [Deployment("m", fake)], max_concurrency=1, sampling=sampling)]) as client:
        client.emergency("d")
        answer = client.complete("x", extra={fake.name: {"max_completion_tokens": 5000, "n": 4}})
    assert answer.degraded == ("short",)
    assert seen[0]["max_completion_tokens"] == 300
    assert "n" not in seen[0]


def test_refusals_count_as_load() -> None:
    client, _, _ = ground(Step("not now", at=1.2, refuse_below=5))
    with client:
        for _ in range(20):
            with pytest.raises(ThrottledError):
                client.complete("x")
        client.clock.advance(1.5)  # type: ignore[attr-defined]
        assert client.load("gold").arrivals_per_s > 0.5
        assert client.load("gold").refused_per_s > 0.5


def test_the_emergency_is_told_and_over_by_itself() -> None:
    client, _, events = ground(Step("short", at=1.2, max_tokens=300))
    with client:
        assert client.complete("x").degraded == ("short",)
        assert client.emergencies() == {"disaster"}
        client.clock.advance(600)  # type: ignore[attr-defined]
        assert client.complete("x").degraded == ()
        assert client.emergencies() == frozenset()
    assert [e.on for e in events if isinstance(e, EmergencyChanged)] == [True, False]
    assert [e.on for e in events if isinstance(e, DegradationChanged)] == [True, False]

"""Adaptive sampling in a client: what reaches the places of a tier."""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import pytest

from client.forms import Form, every_form
from tierllm import (
    AdaptiveSampling,
    CircuitBreaker,
    Consent,
    Deployment,
    Price,
    ResultCache,
    Route,
    Step,
    Tier,
    TieredClient,
    tiered,
)
from tierllm.admission.steps import Degraded
from tierllm.errors import AllTiersFailedError, ClientClosedError, ThrottledError
from tierllm.events import DegradationChanged, EmergencyChanged, Event
from tierllm.routing.ask import ask
from tierllm.stores import DiskStore
from tierllm.testing import Fail, FakeClock, FakeProvider

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


def client_of(places: list[Deployment], *steps: Step, **options: Any) -> TieredClient:
    """A client of these places, with an emergency that forces all ``steps`` on."""
    choose = options.pop("choose", "ordered")
    sampling = AdaptiveSampling(steps, consent=[ALL], emergencies={"d": [step.name for step in steps]})
    tier = Tier("gold", places, max_concurrency=4, sampling=sampling, choose=choose)
    client = TieredClient([tier], clock=FakeClock(), **options)
    client.emergency("d")
    return client


@every_form
def test_the_cheaper_place_is_asked_and_named(form: Form) -> None:
    client, fake, _ = ground(Step("cheap", at=1.2, cheaper=True))
    with client:
        answer = form(client)
        assert (answer.model, answer.degraded) == ("deal", ("cheap",))
        assert [entry.model for entry in fake.journal] == ["deal"]


@every_form
def test_a_weighted_tier_asks_the_cheaper_place_and_says_so_where_it_drew_the_dear_one(form: Form) -> None:
    fake = FakeProvider()
    places = [Deployment("deal", fake, price=DEAL, weight=1), Deployment("dear", fake, price=DEAR, weight=99)]
    cheap = Step("cheap", at=1.2, cheaper=True)
    cache = ResultCache(ttl_s=60)
    with client_of(places, cheap, choose="weighted", cache=cache, rng=Random(1)) as client:
        told = [form(client, str(number), temperature=0).degraded for number in range(50)]
        assert {entry.model for entry in fake.journal} == {"deal"}
        assert told.count(("cheap",)) >= 45
        assert client.cache.status()["kept"] == told.count(())  # those that would have come from it anyway


def test_places_of_one_price_are_drawn_as_ever() -> None:
    fake = FakeProvider()
    places = [Deployment(name, fake, price=DEAL) for name in "ab"]
    cheap = Step("cheap", at=1.2, cheaper=True)
    with client_of(places, cheap, choose="weighted", rng=Random(1)) as client:
        assert {client.complete("x").degraded for _ in range(50)} == {()}
    asked = [entry.model for entry in fake.journal]
    assert 15 <= asked.count("a") <= 35


def test_a_cheaper_place_that_the_call_may_not_use_saves_nothing() -> None:
    fake = FakeProvider()
    places = [Deployment("dear", fake, price=DEAR, labels={"eu"}), Deployment("deal", fake, price=DEAL)]
    with client_of(places, Step("cheap", at=1.2, cheaper=True)) as client:
        answer = client.complete("x", require={"eu"})
        assert (answer.model, answer.degraded) == ("dear", ())


@pytest.mark.parametrize("barred", ["labels", "breaker"])
def test_a_dear_place_that_would_not_have_answered_is_no_loss(barred: str) -> None:
    fake = FakeProvider()
    breaker = CircuitBreaker(consecutive_failures=1, open_s=60)
    dear = Deployment("dear", fake, price=DEAR, breaker=breaker)
    deal = Deployment("deal", fake, price=DEAL, labels={"eu"})
    with client_of([dear, deal], Step("cheap", at=1.2, cheaper=True), retry=False) as client:
        if barred == "breaker":
            client.emergency("d", on=False)
            fake.script("dear", Fail.unavailable())
            client.complete("x")
            client.emergency("d")
        answer = client.complete("x", **({"require": {"eu"}} if barred == "labels" else {}))
        assert (answer.model, answer.degraded) == ("deal", ())


def test_where_the_cheaper_place_fails_the_dear_one_is_what_it_would_have_been() -> None:
    client, fake, _ = ground(Step("cheap", at=1.2, cheaper=True))
    fake.script("deal", Fail.unavailable(), forever=True)
    with client:
        answer = client.complete("x")
        assert (answer.model, answer.degraded) == ("dear", ())


@every_form
def test_an_answer_is_degraded_by_the_place_that_gave_it(form: Form) -> None:
    fake = FakeProvider()
    fake.script("a", Fail.unavailable(), forever=True)
    places = [Deployment("a", fake), Deployment("b", fake, drop={"temperature"})]
    with client_of(places, Step("cool", at=1.2, temperature=0.1), retry=False) as client:
        answer = form(client, temperature=1.0)
        assert (answer.model, answer.degraded) == ("b", ())
        fake.script("b", Fail.unavailable(), forever=True)
        with pytest.raises(AllTiersFailedError) as caught:
            form(client, temperature=1.0)
        assert caught.value.trace is not None
        assert caught.value.trace.degraded == ("cool",)  # it was asked for less all the same


def test_looking_at_what_a_place_would_be_sent_takes_nothing() -> None:
    short = Step("short", at=1.2, max_tokens=3)
    with client_of([Deployment("m", FakeProvider())], short) as client:
        call = client.ready(ask("x", {"max_tokens": 500})).call
        call.degrade = degraded = Degraded([short])
        (line,) = client._setup.lines["gold"].lines
        assert line.fitted(call).params["max_tokens"] == 3
        assert (degraded.names, degraded.lost) == ((), ())


def test_from_a_function_that_takes_no_route_nothing_is_taken() -> None:
    ran: list[str] = []

    def answer(question: str) -> dict[str, str]:
        ran.append(question)
        return {"text": question}

    def routed(question: str, route: Route = Route.INJECTED) -> dict[str, object]:
        return {"most": route.max_tokens}

    steps = Step("short", at=1.2, max_tokens=300), Step("cheap", at=1.3, cheaper=True)
    fake = FakeProvider()
    places = [Deployment("dear", fake, price=DEAR), Deployment("deal", fake, price=DEAL)]
    with client_of(places, *steps, cache=ResultCache(ttl_s=60)) as client:
        wrapped = tiered.call(client=client, prompt=lambda question: question)(answer)
        assert [wrapped("hi") for _ in range(3)] == [{"text": "hi"}] * 3
        assert ran == ["hi"]  # undegraded, so the answer was kept
        told = client.status()["tiers"]["gold"]["sampling"]["steps"]
        assert [told[name]["calls"] for name in ("short", "cheap")] == [0, 0]
        by_route = tiered.call(client=client, prompt=lambda question: question)(routed)
        assert by_route("hi") == {"most": 300}
        assert client.status()["tiers"]["gold"]["sampling"]["steps"]["short"]["calls"] == 1


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
    with TieredClient(
        [Tier("gold", [Deployment("m", fake)], max_concurrency=1, sampling=sampling)]
    ) as client:
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


@every_form
def test_a_new_process_acts_on_what_was_declared_before_it_began(form: Form, tmp_path: Path) -> None:
    def process() -> TieredClient:
        sampling = AdaptiveSampling(
            [Step("short", at=1.2, max_tokens=3)], consent=[ALL], emergencies={"d": ["short"]}
        )
        tier = Tier("gold", [Deployment("m", FakeProvider())], max_concurrency=4, sampling=sampling)
        return TieredClient([tier], store=DiskStore(tmp_path / "store"), clock=FakeClock())

    with process() as ours, process() as theirs:
        ours.emergency("d")
        assert form(theirs, max_tokens=50).degraded == ("short",)
        ours.emergency("d", on=False)
        theirs.clock.advance(60)  # type: ignore[attr-defined]
        assert form(theirs, max_tokens=50).degraded == ()
        assert theirs.emergencies() == frozenset()
        ours.emergency("d")
        theirs.clock.advance(60)  # type: ignore[attr-defined]
        assert theirs.status()["emergencies"] == ["d"]


def test_declared_and_ended_from_an_event_loop(tmp_path: Path) -> None:
    async def both(client: TieredClient) -> None:
        await client.aemergency("disaster", for_s=60)
        assert client.emergencies() == {"disaster"}
        await client.aemergency("disaster", on=False)
        assert client.emergencies() == frozenset()

    client, _, _ = ground(Step("short", at=1.2, max_tokens=3))
    with client:
        asyncio.run(both(client))
    with pytest.raises(ClientClosedError):
        client.emergency("disaster")
    with pytest.raises(ClientClosedError):
        asyncio.run(client.aemergency("disaster"))


def test_status_measures_before_it_tells() -> None:
    client, _, _ = ground(Step("short", at=1.2, max_tokens=3))
    with client:
        client.emergency("disaster", on=False)
        for _ in range(300):
            client.complete("x")
            client.clock.advance(0.01)  # type: ignore[attr-defined]
        assert client.status()["tiers"]["gold"]["load"]["arrivals_per_s"] > 1
        client.clock.advance(3600)  # type: ignore[attr-defined]
        assert client.status()["tiers"]["gold"]["load"]["arrivals_per_s"] < 1

"""Adaptive sampling and the cache: old answers, and who may share a flight with whom."""

from __future__ import annotations

import threading
from datetime import date
from typing import Any

import pytest

from caching.flyers import Held
from client.forms import FORMS, Form, every_form
from stores.ground import eventually
from tierllm import AdaptiveSampling, Consent, Deployment, ResultCache, Step, Tier, TieredClient
from tierllm.errors import AllTiersFailedError
from tierllm.testing import Fail, FakeClock, FakeProvider
from tierllm.types import Call, Response

SINCE = date(1970, 1, 1)
ALL = Consent("all", since=SINCE)
OLD = Step("old", at=1.2, cached=True)
SHORT = Step("short", at=1.2, max_tokens=3)


def client_of(
    provider: Any, *steps: Step, consent: Consent = ALL, scope: Any = "tenant", **options: Any
) -> TieredClient:
    sampling = AdaptiveSampling(steps, consent=[consent], emergencies={"d": [step.name for step in steps]})
    tiers = [
        Tier("gold", [Deployment("m", provider)], max_concurrency=4, sampling=sampling),
        Tier("silver", [Deployment("n", provider)]),
    ]
    cache = ResultCache(ttl_s=60, stale_if_error_s=3600, scope=scope)
    return TieredClient(tiers, cache=cache, **options)


# -- old answers -------------------------------------------------------------------------


@every_form
def test_an_old_answer_is_served_where_the_step_is_on(form: Form) -> None:
    fake, clock = FakeProvider(), FakeClock()
    with client_of(fake, OLD, clock=clock) as client:
        text = form(client, temperature=0).text
        clock.advance(100)
        client.emergency("d", for_s=600)
        answer = form(client, temperature=0)
        assert (answer.text, answer.cached, answer.degraded) == (text, True, ("old",))
        assert answer.age_s == pytest.approx(100)
        assert answer.trace is not None
        assert answer.trace.cache == "stale"
        assert len(fake.journal) == 1
        assert client.status()["tiers"]["gold"]["sampling"]["steps"]["old"]["calls"] == 1


@pytest.mark.parametrize(
    "asked",
    [{"cache": "refresh"}, {"cache": "off"}, {"tenant": "b"}, {"temperature": 1.0}, {"max_tokens": 9}],
    ids=str,
)
def test_who_asks_for_something_else_gets_a_new_one(asked: dict[str, Any]) -> None:
    fake, clock = FakeProvider(), FakeClock()
    with client_of(fake, OLD, clock=clock) as client:
        client.complete("x", temperature=0, tenant="a")
        clock.advance(100)
        client.emergency("d", for_s=600)
        answer = client.complete("x", **{"temperature": 0, "tenant": "a", **asked})
        assert (answer.cached, answer.degraded) == (False, ())


def test_what_was_invalidated_or_is_older_than_the_cache_keeps_is_not_served() -> None:
    fake, clock = FakeProvider(), FakeClock()
    with client_of(fake, OLD, clock=clock) as client:
        client.complete("x", temperature=0, tags=["faq"])
        client.complete("y", temperature=0)
        client.emergency("d", for_s=7200)
        clock.advance(100)
        client.cache.invalidate(tag="faq")
        assert not client.complete("x", temperature=0, tags=["faq"]).cached
        clock.advance(3600)
        assert not client.complete("y", temperature=0).cached


def test_a_call_stays_in_its_tier() -> None:
    fake, clock = FakeProvider(), FakeClock()
    with client_of(fake, OLD, clock=clock) as client:
        client.complete("x", temperature=0, sla="silver")
        clock.advance(100)
        client.emergency("d", for_s=600)
        answer = client.complete("x", temperature=0, sla="gold")
        assert (answer.tier, answer.cached) == ("gold", False)


# -- flights -----------------------------------------------------------------------------


def together(client: TieredClient, form: Form, ours: Any, theirs: Any, both: Any) -> dict[str, Response]:
    """Two calls for the same at once: the second begins when the first is under way."""
    answers: dict[str, Response] = {}

    def call(name: str, who: dict[str, Any]) -> None:
        answers[name] = form(client, "why?", temperature=0, max_tokens=500, **who)

    first = threading.Thread(target=call, args=("ours", ours))
    second = threading.Thread(target=call, args=("theirs", theirs))
    first.start()
    both.begun()
    second.start()
    both.ready()
    first.join(20)
    second.join(20)
    return answers


class Apart:
    """Waits until the provider has been asked by both, then lets it answer."""

    def __init__(self, held: Held, calls: int) -> None:
        self.held, self.calls = held, calls

    def begun(self) -> None:
        eventually(lambda: len(self.held.calls) == 1)

    def ready(self) -> None:
        eventually(lambda: len(self.held.calls) == self.calls)
        self.held.let()


WHO = [
    pytest.param("plan", "tenant", id="plan"),
    pytest.param("tenant", "shared", id="tenant, one cache"),
    pytest.param("tenant", lambda request: "all", id="tenant, a function"),
]


@pytest.mark.parametrize("form", FORMS[:3:2], ids=str)
@pytest.mark.parametrize(("by", "scope"), WHO)
@pytest.mark.parametrize("first", ["agreed", "not"])
def test_who_has_not_agreed_does_not_share_a_flight_with_who_has(
    by: str, scope: Any, first: str, form: Form
) -> None:
    held = Held()
    consent = Consent("all", since=SINCE, **{by: "agreed"})
    with client_of(held, SHORT, consent=consent, scope=scope) as client:
        client.emergency("d")
        other = "not" if first == "agreed" else "agreed"
        answers = together(client, form, {by: first}, {by: other}, Apart(held, 2))
    told = {"agreed": ("short",), "not": ()}
    assert answers["ours"].degraded == told[first]
    assert answers["theirs"].degraded == told[other]


@pytest.mark.parametrize("form", FORMS[:3:2], ids=str)
def test_those_who_have_agreed_to_the_same_share_one(form: Form) -> None:
    held = Held()
    with client_of(held, SHORT, consent=Consent("all", since=SINCE), scope="shared") as client:
        client.emergency("d")

        class Joined(Apart):
            def ready(self) -> None:
                eventually(lambda: client.status()["in_flight"] >= 2)
                flights = client._setup.caching._flown.flights._flights  # type: ignore[union-attr]
                eventually(lambda: [flight.readers for flight in flights.values()] == [2])
                held.let()

        answers = together(client, form, {"tenant": "a"}, {"tenant": "b"}, Joined(held, 1))
    assert len(held.calls) == 1
    assert {answer.degraded for answer in answers.values()} == {("short",)}
    assert [answers[name].cached for name in ("ours", "theirs")] == [False, True]


@pytest.mark.parametrize("form", FORMS[:3:2], ids=str)
def test_an_old_answer_that_is_still_looked_for_is_no_flight_for_who_has_not_agreed(form: Form) -> None:
    """The step has not been applied yet when the second call comes."""
    looking, go_on = threading.Event(), threading.Event()
    consent = Consent("all", since=SINCE, plan="agreed")
    fake = FakeProvider()
    with client_of(fake, OLD, consent=consent) as client:
        client.emergency("d")
        sampling = client._setup.lines["gold"].sampling
        assert sampling is not None

        def old(call: Call) -> Response:
            looking.set()
            assert go_on.wait(20)
            return Response(text="old", finish_reason="stop", cached=True)

        sampling._stale = old

        class Looking:
            def begun(self) -> None:
                assert looking.wait(20)

            def ready(self) -> None:
                eventually(lambda: len(fake.journal) == 1)
                go_on.set()

        answers = together(client, form, {"plan": "agreed"}, {"plan": "not"}, Looking())
    assert (answers["ours"].text, answers["ours"].degraded) == ("old", ("old",))
    assert answers["theirs"].text != "old"
    assert answers["theirs"].degraded == ()


@every_form
def test_the_trace_of_a_call_that_fails_says_what_was_taken(form: Form) -> None:
    fake = FakeProvider()
    for model in "mn":
        fake.script(model, Fail.unavailable(), forever=True)
    with client_of(fake, SHORT, retry=False) as client:
        client.emergency("d")
        with pytest.raises(AllTiersFailedError) as caught:
            form(client, temperature=0)
    assert caught.value.trace is not None
    assert caught.value.trace.degraded == ("short",)

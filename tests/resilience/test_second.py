"""The second opinion of an ``Agreement``: whom it may ask, when it is too late, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest

from client.forms import World
from resilience.judged import COST, PRICES, Cascaded, reasons, reply, tiers
from tierllm import Deployment, Price, ResultCache, Tier, TieredClient, tiered
from tierllm.errors import ConfigError
from tierllm.pipeline.ready import ReadyCall
from tierllm.resilience.cascading import NOT_ESCALATED
from tierllm.routing.ask import ask
from tierllm.routing.cascade import Cascade
from tierllm.routing.judges import Agreement
from tierllm.testing import FakeProvider, Reply
from tierllm.types import Request, text_of

both_ways = pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])


# -- in time ----------------------------------------------------------------------------


@both_ways
def test_a_slow_second_does_not_cost_the_call_its_answer(streaming: bool) -> None:
    world = Cascaded(
        Agreement("bronze/b2"), fake=FakeProvider(latency_s={"b2": 50.0, "*": 1.0}), timeouts=None
    )
    world.script(b="cheap", g="strong")
    told = world.call(streaming=streaming, deadline_s=4.0)
    assert told.ok.text == "strong", "it was waited for no longer than leaves room for as long an answer"
    assert world.fake.in_flight == 0
    assert ("b2", "cancelled") in [(a.deployment, a.outcome) for a in told.ok.trace.attempts]  # type: ignore[union-attr]


@both_ways
def test_nor_does_one_that_takes_all_the_time_there_is(streaming: bool) -> None:
    world = Cascaded(
        Agreement("bronze/b2"), fake=FakeProvider(latency_s={"b2": 50.0, "*": 1.5}), timeouts=None
    )
    world.script(b="cheap", g=Reply("strong", latency_s=50.0))
    told = world.call(streaming=streaming, deadline_s=4.0)
    assert (told.ok.text, told.ok.degraded) == ("cheap", (NOT_ESCALATED,))
    assert world.fake.in_flight == 0


def test_a_second_without_a_bound_is_waited_for() -> None:
    world = Cascaded(
        Agreement("bronze/b2"), fake=FakeProvider(latency_s={"b2": 50.0, "*": 1.0}), timeouts=None
    )
    world.script(b="same", b2="same")
    told = world.call()
    assert told.ok.tier == "bronze"
    assert told.took_s == pytest.approx(50.0)


def test_each_of_the_two_stands_in_line_by_itself_and_is_hurried_along() -> None:
    world = Cascaded(Agreement("bronze/b2"), max_concurrency=1, fake=FakeProvider(latency_s=1.0))
    for model in ("b", "b2"):
        world.fake.script(model, reply("same"), forever=True)
    begun: list[ReadyCall] = []
    ready = world.client.ready

    def noted(request: Request) -> ReadyCall:
        begun.append(ready(request))
        return begun[-1]

    world.client.ready = noted  # type: ignore[method-assign]
    world.begin("before", sla="bronze")
    told = world.begin("asked twice")
    for number in range(3):
        world.begin(f"other {number}", sla="bronze", priority=5)
    world.pass_s(0.1)
    begun[1].call.priority = 9
    world.pass_s(20)
    assert told.ok.tier == "bronze"
    assert [text_of(entry.messages[-1]) for entry in world.fake.journal][1:3] == ["asked twice"] * 2


# -- who may be asked ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "options", "models"),
    [
        ("bronze/b2", {"min_tier": "silver"}, ["g"]),
        ("silver", {"min_tier": "silver"}, ["g"]),
        ("silver", {"require": {"eu"}}, ["g"]),
        ("silver", {}, ["b", "s"]),
        ("gold", {}, ["b", "g"]),
    ],
    ids=["floor", "itself", "labels", "another", "the-strong-one"],
)
def test_bounds_hold_for_the_second_too(other: str, options: dict[str, Any], models: list[str]) -> None:
    world = Cascaded(Agreement(other))
    for model in ("b", "b2", "s", "g"):
        world.fake.script(model, reply("same"), forever=True)
    assert world.call(**options).kind == "ok"
    assert sorted(world.models()) == models


def test_where_that_place_has_no_room_no_other_is_asked() -> None:
    price = Price(input_usd_per_mtok=1, output_usd_per_mtok=1)
    fake = FakeProvider(latency_s=1.0)
    places = [Deployment("b", fake, price=price), Deployment("b2", fake, price=price, rpm=1)]
    world = World(
        [Tier("gold", [Deployment("g", fake, price=price)]), Tier("bronze", places)],
        fake=fake,
        cascade=Cascade(Agreement("bronze/b2")),
    )
    for model in ("b", "b2", "g"):
        fake.script(model, reply("same"), forever=True)
    assert world.call("one").ok.tier == "bronze"
    assert world.call("two").ok.tier == "gold"
    assert sorted(world.models()) == ["b", "b", "b2", "g"]


def test_wrapped_functions_are_not_asked_twice_at_once() -> None:
    client = TieredClient(tiers(FakeProvider()), cascade=Cascade(Agreement("bronze/b2")))
    called: list[str] = []

    @tiered.call(client=client)
    def answer(question: str, *, route: Any = tiered.__class__) -> str:
        called.append(question)
        return "same"

    assert answer("Hello") == "same"
    assert called == ["Hello"]


# -- a model agrees with itself --------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "told"),
    [("bronze/eu", "agrees with itself"), ("bronze/ue", "it has us, eu")],
    ids=["itself", "typo"],
)
def test_a_second_deployment_of_the_same_model_is_no_opinion(other: str, told: str) -> None:
    fake = FakeProvider()
    places = [Deployment("nano", fake, name="us"), Deployment("nano", fake, name="eu")]
    with pytest.raises(ConfigError, match=told):
        TieredClient(
            [Tier("gold", [Deployment("g", fake)]), Tier("bronze", places)], cascade=Cascade(Agreement(other))
        )


def test_nor_where_one_of_several_models_answers_at_another_deployment() -> None:
    fake = FakeProvider()
    places = [Deployment("nano", fake, name=name) for name in ("us", "eu")]
    world = World(
        [Tier("gold", [Deployment("g", fake)]), Tier("bronze", [*places, Deployment("mini", fake)])],
        fake=fake,
        cascade=Cascade(Agreement("bronze/eu")),
    )
    fake.script("nano", reply("same"), forever=True)
    fake.script("g", reply("strong"))
    assert world.call().ok.text == "strong"


def test_two_that_say_nothing_do_not_agree() -> None:
    world = Cascaded(Agreement("bronze/b2", compare="words"))
    world.script(b="", b2="", g="strong")
    assert world.call().ok.text == "strong"


# -- money -----------------------------------------------------------------------------------


def test_estimates_have_the_second_in_them() -> None:
    plain, agreed = Cascaded(), Cascaded(Agreement("silver"))
    question = {"prompt": "Hello", "max_tokens": 1000}
    one, two = plain.client.estimate(**question), agreed.client.estimate(**question)
    silver = plain.client.estimate(**question, sla="silver").cost_usd
    assert one.cost_usd is not None
    assert two.cost_usd is not None
    assert silver is not None
    assert two.cost_usd.max == one.cost_usd.max + silver.max
    assert two.cost_usd.mean == one.cost_usd.mean + silver.mean


def test_a_question_before_sending_counts_it() -> None:
    request = ask("Hello", {"max_tokens": 1000})
    worlds = (Cascaded(), Cascaded(Agreement("bronze/b2")))
    found = [each.client._setup.quotes.dearest_usd(each.client.ready(request).call) for each in worlds]
    assert found[0] is not None
    assert found[1] is not None
    share = found[0] * PRICES["bronze"] / (PRICES["gold"] + PRICES["bronze"])
    assert found[1] - found[0] == share


@pytest.mark.parametrize(("second", "tier"), [("same", "bronze"), ("other", "gold")])
def test_what_was_saved_is_less_the_second(second: str, tier: str) -> None:
    world = Cascaded(Agreement("bronze/b2"))
    world.script(b="same", b2=second, g="strong")
    assert world.call().ok.tier == tier
    kept = COST["gold"] if tier == "bronze" else 0
    assert world.counts["saved_usd"] == kept - 2 * COST["bronze"]


def test_an_old_answer_has_its_second_asked_alone() -> None:
    world = Cascaded(Agreement("bronze/b2"), cache=ResultCache(ttl_s=600))
    world.script(b="same", b2="same")
    assert world.call("one", sla="bronze").ok.tier == "bronze"
    again = world.call("one").ok
    assert (again.text, again.cached) == ("same", True)
    assert world.models() == ["b", "b2"]
    assert ("bronze", "b2", None) in reasons(again)

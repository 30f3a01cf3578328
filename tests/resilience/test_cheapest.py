"""The cheapest place of a tier that is good enough and quick enough: in which order places are asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.forms import Form, every_form
from tierllm import Deployment, Hedge, Price, Tier, TieredClient
from tierllm.resilience.cheapest import MOST_TRIALS, Cheapest
from tierllm.resilience.deployment_line import DeploymentLine
from tierllm.resilience.expected import AGAIN_SHARE, UNKNOWN_SHARE
from tierllm.routing.course import Course
from tierllm.testing import FakeClock, FakeProvider, Reply
from tierllm.types import Call, Objective, Request, Response, Usage

LONG = "word " * 4000
"""About 4,400 tokens."""


def price(
    asked: float, answered: float = 8, cached: float | None = None, written: float | None = None
) -> Price:
    return Price(
        input_usd_per_mtok=asked,
        output_usd_per_mtok=answered,
        cached_input_usd_per_mtok=cached,
        cache_write_usd_per_mtok=written,
    )


class World:
    """A tier of deployments by name, and its choice."""

    def __init__(
        self,
        *places: Deployment,
        objective: Objective | None = None,
        min_quality: float | None = None,
        quality: Callable[[str, str], float | None] | None = None,
        **tier: Any,
    ) -> None:
        self.clock = FakeClock()
        self.client = TieredClient([Tier("gold", places, **tier)], clock=self.clock, rng=random.Random(1))
        setup = self.client._setup
        self.histories = setup.estimator.histories
        self.lines: Sequence[DeploymentLine] = setup.lines["gold"].lines
        self.line = {line.name: line for line in self.lines}
        self.cheapest = Cheapest(
            estimator=setup.estimator,
            objective=objective,
            clock=self.clock,
            rng=random.Random(2),
            min_quality=min_quality,
            quality=quality,
        )

    def takes(self, name: str, seconds: float, times: int = 40) -> None:
        """That place has answered so often, after so many seconds."""
        for _ in range(times):
            self.line[name].pace.history.add(seconds)

    def answers(self, name: str, tokens: int) -> None:
        self.histories.add(f"gold/{name}", None, tokens)
        self.cheapest.served(self.call(), Response(tier="gold", deployment=name))

    def answered(self, name: str, seconds: float) -> None:
        """It has been asked, and has answered after so many seconds."""
        self.takes(name, seconds, 1)
        self.cheapest.served(self.call(LONG), Response(tier="gold", deployment=name))

    def call(self, text: str = "Hello", *, deadline_s: float | None = None, **given: Any) -> Call:
        important = given.pop("important", False)
        ready = self.client.ready(
            Request(messages=({"role": "user", "content": text},), deadline_s=deadline_s, **given)
        )
        if ready.call.course is None:
            ready.call.course = Course()
        ready.call.course.key = given.get("session") or ""
        ready.call.course.important = important
        return ready.call

    def order(self, text: str = "Hello", **given: Any) -> str:
        asks = given.pop("asks", True)
        ordered = self.cheapest.order(self.call(text, **given), self.lines, asks=asks)
        return "".join(line.name for line in ordered)

    def served(self, name: str, asked: int, cached: int = 0, written: int = 0, **given: Any) -> None:
        usage = Usage(
            input_tokens=asked, output_tokens=10, cached_input_tokens=cached, cache_write_tokens=written
        )
        call = self.call(given.pop("text", LONG), **given)
        self.cheapest.order(call, self.lines)
        self.cheapest.served(call, Response(tier="gold", deployment=name, usage=usage))


FAKE = FakeProvider()


def place(name: str, asked: float = 2, answered: float = 8, **given: Any) -> Deployment:
    given.setdefault("price", price(asked, answered))
    return Deployment(name, FAKE, **given)


# -- cost -----------------------------------------------------------------------------------


def test_the_cheapest_comes_first() -> None:
    assert World(place("a", 3), place("b", 1), place("c", 2)).order(LONG) == "bca"


def test_a_place_without_a_price_comes_last() -> None:
    world = World(place("a", price=None), place("b", 30), place("c", 1))
    assert world.order(LONG) == "cba"


def test_where_no_price_is_known_weights_decide() -> None:
    world = World(place("a", price=None), place("b", price=None))
    assert {world.order() for _ in range(50)} == {"ab", "ba"}


def test_long_input_and_long_answers_cost_differently() -> None:
    world = World(place("a", 1, 20), place("b", 4, 5))
    assert world.order(LONG) == "ab"
    assert world.order("Hello") == "ba"
    assert world.order("Hello", params={"max_tokens": 1}) == "ab"


def test_how_long_a_places_answers_are_counts() -> None:
    world = World(place("a", 1, 8), place("b", 1, 5))
    assert world.order() == "ba"
    for _ in range(30):
        world.answers("a", 100)
        world.answers("b", 1000)
    assert world.order() == "ab"


def test_where_one_place_has_not_answered_yet_its_answers_are_as_the_others() -> None:
    world = World(place("a", 1, 8), place("b", 1, 5))
    for _ in range(30):
        world.answers("a", 100)
    assert world.order() == "ba"


def test_a_tokenizer_that_makes_more_of_the_same_text_costs_more() -> None:
    world = World(place("a", 2.0, 8), place("b", 2.4, 8))
    assert world.order(LONG) == "ab"
    for _ in range(20):
        world.served("a", 8000)
        world.served("b", 4400)
    assert world.order(LONG) == "ba"


def test_longer_input_may_have_another_price() -> None:
    steep = Price(input_usd_per_mtok=1, output_usd_per_mtok=8, above={2000: price(5)})
    world = World(place("a", price=steep), place("b", 2))
    assert world.order("word " * 1000) == "ab"
    assert world.order(LONG) == "ba"


def test_the_price_of_the_service_tier_that_is_asked_for_counts() -> None:
    flexible = Price(input_usd_per_mtok=4, output_usd_per_mtok=8, service={"flex": price(1)})
    world = World(place("a", 2), place("b", price=flexible, params={"service_tier": "flex"}))
    assert world.order(LONG) == "ba"


def test_a_price_that_has_changed_counts_from_then_on() -> None:
    world = World(place("a", 1), place("b", 2))
    assert world.order(LONG) == "ab"
    world.line["a"].place._price = price(3)
    assert world.order(LONG) == "ba"


# -- ties -------------------------------------------------------------------------------------


def test_of_costs_within_one_percent_weights_decide() -> None:
    world = World(place("a", 2, weight=3), place("b", 2.01, weight=1), place("c", 2.1))
    orders = [world.order(LONG) for _ in range(2000)]
    assert set(orders) == {"abc", "bac"}
    assert orders.count("abc") / 2000 == pytest.approx(0.75, abs=0.04)


def test_the_draw_is_the_same_for_the_same_seed() -> None:
    places = [place("a"), place("b"), place("c")]
    one, two = World(*places), World(*places)
    assert [one.order() for _ in range(50)] == [two.order() for _ in range(50)]


# -- the vendor's cache -------------------------------------------------------------------------


def test_where_a_session_was_just_served_its_input_is_cached() -> None:
    cached = [place(name, price=price(asked, 8, asked / 10)) for name, asked in (("a", 2), ("b", 4))]
    world = World(*cached)
    world.served("b", 4400, session="s1")
    assert world.order(LONG, session="s1") == "ba"
    assert world.order(LONG, session="s2") == "ab"
    assert world.order(LONG) == "ab"
    world.clock.advance(299)
    assert world.order(LONG, session="s1") == "ba"
    world.clock.advance(1)
    assert world.order(LONG, session="s1") == "ab"  # it is cold


def test_a_vendor_that_is_seen_not_to_cache_is_not_believed() -> None:
    cached = [place(name, price=price(asked, 8, asked / 10)) for name, asked in (("a", 2), ("b", 4))]
    world = World(*cached)
    for _ in range(30):
        world.served("b", 4400, session="s1")
    assert world.order(LONG, session="s1") == "ab"


def test_a_long_new_message_is_not_cached() -> None:
    cached = [place(name, price=price(asked, 8, asked / 10)) for name, asked in (("a", 2), ("b", 4))]
    world = World(*cached)
    world.served("b", 1100, session="s1", text="word " * 1000)
    assert world.order("word " * 1100, session="s1") == "ba"
    assert world.order(LONG, session="s1") == "ab"


def test_what_is_always_cached_counts_for_all() -> None:
    world = World(place("a", price=price(2)), place("b", price=price(3, 8, 0.3)))
    assert world.order(LONG) == "ab"
    for number in range(40):
        world.served("b", 4400, cached=4000, session=f"s{number}")  # a system prompt
    assert world.order(LONG) == "ba"


def test_what_is_written_to_a_cache_may_cost_more() -> None:
    world = World(place("a", price=price(2.2)), place("b", price=price(2, 8, 0.2, 2.5)))
    assert world.order(LONG) == "ba"
    for _ in range(30):
        world.served("b", 4400, written=4400)
    assert world.order(LONG) == "ab"


@pytest.mark.parametrize(
    "usage",
    [
        None,
        Usage(),
        Usage(input_tokens=-5),
        Usage(input_tokens=5000, estimated=True),
        Usage(input_tokens=100, cached_input_tokens=10**9, cache_write_tokens=-3),
    ],
    ids=["none", "empty", "negative", "estimated", "more cached than there was"],
)
def test_reports_that_make_no_sense_teach_nothing_absurd(usage: Usage | None) -> None:
    world = World(place("a", price=price(2, 8, 0.2)), place("b", price=price(3, 8, 0.3)))
    call = world.call(LONG, session="s1")
    world.cheapest.order(call, world.lines)
    for _ in range(30):
        world.cheapest.served(call, Response(tier="gold", deployment="a", usage=usage))
        world.cheapest.served(call, Response(tier="gold", deployment="nobody", usage=usage))
    expected = world.cheapest._expected["a"]
    assert expected.per_character > 0
    assert 0 <= expected.hit <= 1
    assert 0 <= expected.cold <= 1
    assert 0 <= expected.written <= 1
    assert world.order(LONG) == "ab"


# -- quality ------------------------------------------------------------------------------------


def test_those_that_are_not_good_enough_come_last_the_best_of_them_first() -> None:
    world = World(
        place("a", 1, quality=0.5), place("b", 2, quality=0.7), place("c", 9, quality=0.9), min_quality=0.8
    )
    assert world.order(LONG) == "cba"
    assert {world.order(LONG) for _ in range(300)} == {"cba"}  # and are not tried


def test_measured_quality_goes_before_what_was_said() -> None:
    measured = {"a": 0.9, "b": None, "c": float("nan")}
    world = World(
        place("a", 1, quality=0.1),
        place("b", 2, quality=0.9),
        place("c", 3, quality=0.9),
        min_quality=0.8,
        quality=lambda tier, name: measured[name],
    )
    assert world.order(LONG) == "abc"
    measured["b"] = 0.3
    assert world.order(LONG) == "acb"


def test_without_a_least_quality_none_is_asked_for() -> None:
    assert World(place("a", 1, quality=0.0), place("b", 2, quality=1.0)).order(LONG) == "ab"


# -- latency ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [Objective(latency_p50_s=4), Objective(latency_p95_s=4), Objective(latency_p99_s=4)],
    ids=["p50", "p95", "p99"],
)
def test_those_that_are_too_slow_come_last_the_quickest_of_them_first(objective: Objective) -> None:
    world = World(place("a", 1), place("b", 2), place("c", 9), objective=objective)
    world.takes("a", 9)
    world.takes("b", 5)
    world.takes("c", 3)
    assert world.order(LONG) == "cba"


def test_each_percentile_is_told_from_the_others() -> None:
    world = World(place("a", 1), place("b", 2), objective=Objective(latency_p50_s=2, latency_p95_s=20))
    world.takes("a", 1, 90)
    world.takes("a", 10, 10)
    world.takes("b", 1)
    assert world.order(LONG) == "ab"
    slow = World(place("a", 1), place("b", 2), objective=Objective(latency_p95_s=5))
    slow.takes("a", 1, 90)
    slow.takes("a", 10, 10)
    slow.takes("b", 1)
    assert slow.order(LONG) == "ba"


def test_what_is_left_of_a_deadline_counts() -> None:
    world = World(place("a", 1), place("b", 2))
    world.takes("a", 9)
    world.takes("b", 3)
    assert world.order(LONG) == "ab"
    assert world.order(LONG, deadline_s=5) == "ba"
    assert world.order(LONG, deadline_s=10) == "ab"
    assert world.order(LONG, deadline_s=1) == "ba"  # neither will do: the one nearer to it


def test_a_place_that_has_become_quick_is_seen_to_be() -> None:
    world = World(place("a", 1), place("b", 2), objective=Objective(latency_p95_s=4))
    world.takes("a", 9)
    world.takes("b", 3)
    assert world.order(LONG) == "ba"
    world.takes("a", 1, 256)
    world.clock.advance(5)
    assert world.order(LONG) == "ab"


# -- trying ---------------------------------------------------------------------------------------


def firsts(world: World, times: int, **given: Any) -> dict[str, int]:
    found = {line.name: 0 for line in world.lines}
    for _ in range(times):
        found[world.order(LONG, **given)[0]] += 1
    return found


def test_where_nothing_is_known_of_any_the_cheapest_comes_first() -> None:
    world = World(place("a", 2), place("b", 1), objective=Objective(latency_p95_s=4))
    assert firsts(world, 100) == {"a": 0, "b": 100}


def test_a_cheaper_place_of_which_too_little_is_known_is_tried_by_some() -> None:
    world = World(place("a", 1), place("b", 2), objective=Objective(latency_p95_s=4))
    world.takes("b", 3)
    found = firsts(world, 1000)
    assert found["a"] == pytest.approx(1000 * UNKNOWN_SHARE, abs=1)
    assert world.cheapest.tried == found["a"]
    world.takes("a", 1)
    assert firsts(world, 100)["a"] == 100


def test_a_dearer_place_of_which_too_little_is_known_is_not_tried() -> None:
    world = World(place("a", 3), place("b", 2), objective=Objective(latency_p95_s=4))
    world.takes("b", 3)
    assert firsts(world, 1000)["a"] == 0
    assert world.order(LONG) == "ba"


def test_a_place_that_was_too_slow_is_tried_now_and_then() -> None:
    world = World(place("a", 1), place("b", 2), objective=Objective(latency_p95_s=4))
    world.takes("a", 9)
    world.takes("b", 3)
    assert firsts(world, 1000)["a"] == pytest.approx(1000 * AGAIN_SHARE, abs=1)


def test_what_nobody_has_called_good_is_tried_by_some(caplog: pytest.LogCaptureFixture) -> None:
    measured: dict[str, float] = {}
    world = World(
        place("a", 1),
        place("b", 2, quality=0.9),
        min_quality=0.8,
        quality=lambda tier, name: measured.get(name),
    )
    assert firsts(world, 200)["a"] == pytest.approx(200 * UNKNOWN_SHARE, abs=1)
    assert firsts(world, 2000)["a"] == pytest.approx(MOST_TRIALS - 200 * UNKNOWN_SHARE, abs=1)
    assert firsts(world, 1000)["a"] == 0  # nobody ever will
    assert "nobody has said how good" in caplog.text
    assert len(caplog.records) == 1
    measured["a"] = 0.85
    assert world.order(LONG) == "ab"


def test_of_two_alike_the_one_that_was_known_first_does_not_take_all() -> None:
    world = World(place("a"), place("b"), objective=Objective(latency_p95_s=4))
    world.takes("a", 1)
    assert firsts(world, 1000)["b"] == pytest.approx(1000 * UNKNOWN_SHARE, abs=1)
    world.takes("b", 1)
    assert firsts(world, 1000)["b"] == pytest.approx(500, abs=60)


def test_of_two_alike_the_one_that_was_slow_is_tried_again() -> None:
    world = World(place("a"), place("b"), objective=Objective(latency_p95_s=4))
    world.takes("a", 1)
    world.takes("b", 9)
    assert firsts(world, 1000)["b"] == pytest.approx(1000 * AGAIN_SHARE, abs=1)


def test_a_place_that_was_too_slow_for_the_deadline_is_tried_again() -> None:
    world = World(place("a", 1), place("b", 2))
    for _ in range(20):
        world.takes("a", 1, 1)
        world.takes("a", 9, 1)
    world.takes("b", 3)
    found = firsts(world, 1000, deadline_s=5)
    assert found["a"] == pytest.approx(1000 * AGAIN_SHARE, abs=1)


def test_a_place_that_has_become_quick_is_taken_back_after_some_hundred_calls() -> None:
    world = World(place("a", 1), place("b", 2), objective=Objective(latency_p95_s=4))
    world.takes("a", 9, 256)
    world.takes("b", 3)
    for _ in range(400):
        world.clock.advance(1)
        if world.order(LONG)[0] == "a":
            world.answered("a", 1)
    assert firsts(world, 50)["a"] == 50


def test_a_trial_that_was_slow_again_does_not_lead_to_more() -> None:
    world = World(place("a", 1), place("b", 2), objective=Objective(latency_p95_s=4))
    world.takes("a", 9, 256)
    world.takes("b", 3)
    tried = 0
    for _ in range(2000):
        world.clock.advance(1)
        if world.order(LONG)[0] == "a":
            tried += 1
            world.answered("a", 9)
    assert tried == pytest.approx(2000 * AGAIN_SHARE, abs=1)


def test_only_places_that_would_serve_the_call_are_in_question() -> None:
    world = World(
        place("a", 1),
        place("b", 9, labels={"eu"}),
        place("c", 2, labels={"eu"}),
        objective=Objective(latency_p95_s=4),
    )
    world.takes("a", 1)
    world.takes("b", 1)
    found = firsts(world, 1000, require=frozenset({"eu"}))
    assert found == {"a": 0, "b": pytest.approx(900, abs=1), "c": pytest.approx(100, abs=1)}
    assert world.order(LONG, require=frozenset({"eu"}))[-1] == "a"
    world.line["b"].held_until = world.clock() + 10
    assert world.order(LONG) == "acb"


def test_a_call_whose_session_has_a_place_here_is_no_trial() -> None:
    world = World(place("a", 1), place("b", 2), objective=Objective(latency_p95_s=4))
    world.takes("b", 3)
    for prefer, avoid, tried in (
        (("gold", "b"), (), 0),
        (("silver", "s"), (), 10),
        (None, [("gold", "a")], 10),
        (None, (), 20),
    ):
        for _ in range(100):
            call = world.call(LONG)
            assert call.course is not None
            call.course.prefer, call.course.avoid = prefer, avoid
            world.cheapest.order(call, world.lines, asks=True)
        assert world.cheapest.tried == pytest.approx(tried, abs=1)


def test_who_only_looks_tries_nobody() -> None:
    world = World(place("a", 1), place("b", 2), objective=Objective(latency_p95_s=4))
    world.takes("b", 3)
    assert {world.order(LONG, asks=False) for _ in range(100)} == {"ba"}
    assert world.cheapest.tried == 0


def test_important_calls_are_not_used_for_trying() -> None:
    world = World(place("a", 1), place("b", 2), objective=Objective(latency_p95_s=4))
    world.takes("b", 3)
    assert firsts(world, 100, important=True)["a"] == 0


# -- all of it ---------------------------------------------------------------------------------------

shares = st.one_of(st.none(), st.floats(0, 1))
rates = st.one_of(st.none(), st.integers(0, 1000))
seconds = st.one_of(st.none(), st.floats(0.001, 1000))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(rates, shares, seconds), min_size=1, max_size=5),
    shares,
    seconds,
    seconds,
    st.integers(0, 2000),
)
def test_every_place_is_there_once_and_those_that_will_do_come_first(
    told: list[tuple[int | None, float | None, float | None]],
    least: float | None,
    latency_s: float | None,
    deadline_s: float | None,
    words: int,
) -> None:
    world = World(
        *[
            place(chr(97 + n), price=None if rate is None else price(rate), quality=quality)
            for n, (rate, quality, _) in enumerate(told)
        ],
        objective=None if latency_s is None else Objective(latency_p95_s=latency_s),
        min_quality=least,
    )
    for n, (_, _, taken_s) in enumerate(told):
        if taken_s is not None:
            world.takes(chr(97 + n), taken_s)
    order = world.order("word " * words + "?", deadline_s=deadline_s, important=True)
    assert sorted(order) == [line.name for line in world.lines]

    def misses(name: str) -> bool:
        _, quality, taken_s = told[ord(name) - 97]
        if least is not None and quality is not None and quality < least:
            return True
        limits = [limit for limit in (latency_s, deadline_s) if limit is not None]
        return taken_s is not None and any(taken_s > limit for limit in limits)

    if len(order) > 1:
        assert [misses(name) for name in order] == sorted(misses(name) for name in order)


@every_form
def test_through_a_client(form: Form) -> None:
    fake = FakeProvider()
    places = [
        Deployment("a", fake, price=price(3)),
        Deployment("b", fake, price=price(1)),
        Deployment("c", fake, price=price(2)),
    ]
    client = TieredClient([Tier("gold", places, choose="cheapest")], retry=False)
    assert [form(client, LONG).deployment for _ in range(3)] == ["b"] * 3
    fake.down("b")
    assert form(client, LONG).deployment == "c"
    told = client.status()["tiers"]["gold"]["choice"]["places"]
    assert told["b"]["samples"] == 3
    client.close()


@every_form
def test_why_those_listed_before_were_not_asked(form: Form) -> None:
    fake = FakeProvider()
    places = [
        Deployment("dear", fake, quality=0.9, price=price(3), labels={"eu"}),
        Deployment("poor", fake, quality=0.2, price=price(0.5), labels={"eu"}),
        Deployment("open", fake, quality=0.9, price=price(0.1), labels={"eu"}),
        Deployment("far", fake, quality=0.9, price=price(0.1)),
        Deployment("slow", fake, quality=0.9, price=price(0.1), labels={"eu"}),
        Deployment("good", fake, quality=0.9, price=price(1), labels={"eu"}),
        Deployment("best", fake, quality=0.9, price=price(2), labels={"eu"}),
    ]
    client = TieredClient(
        [Tier("gold", places, choose="cheapest", min_quality=0.5, objective=Objective(latency_p95_s=2))],
        retry=False,
    )
    lines = {line.name: line for line in client._setup.lines["gold"].lines}
    for name, line in lines.items():
        for _ in range(40):
            line.pace.history.add(9.0 if name == "slow" else 0.1)
    lines["open"].held_until = lines["open"].clock() + 60

    def told() -> dict[str, str | None]:
        response = form(client, LONG, require={"eu"}, importance="high")
        assert response.trace is not None
        return {each.deployment: each.reason for each in response.trace.candidates}

    passed = {"poor": "quality", "open": "ThrottledError", "far": "labels", "slow": "slow"}
    assert told() == {"dear": "price", **passed, "good": None}
    fake.down("good")
    failed = {"good": "ProviderUnavailableError 503", "best": None}
    assert told() == {"dear": "price", **passed, **failed}
    client.close()


@pytest.mark.parametrize("kind", ["text", "function"])
def test_the_tiers_prompt_is_sent_and_counts(kind: str) -> None:
    text = "You are a helper. " * 3000
    prompt: Any = text if kind == "text" else lambda messages: text
    world = World(place("a", 5, 1), place("b", 1, 20), prompt=prompt)
    assert world.order("Hello") == "ba"
    assert World(place("a", 5, 1), place("b", 1, 20)).order("Hello") == "ab"


@every_form
def test_the_answer_that_won_a_race_teaches_too(form: Form) -> None:
    fake = FakeProvider()
    places = [Deployment("a", fake, price=price(1)), Deployment("b", fake, price=price(3))]
    tier = Tier("gold", places, choose="cheapest", hedge=Hedge(share=0.9, min_samples=5))
    client = TieredClient([tier], retry=False)
    for _ in range(20):
        form(client, LONG)
    fake.script("a", Reply("late", latency_s=5.0))
    assert form(client, LONG, session="s1").deployment == "b"
    cheapest = client._setup.lines["gold"].cheapest
    assert cheapest is not None
    assert [name for name, _, _ in cheapest._sessions.values()] == ["b"]
    client.close()


def test_in_a_fork_it_has_a_lock_of_its_own() -> None:
    world = World(place("a"), place("b"))
    world.order()
    world.cheapest._lock.acquire()
    world.cheapest.renew()
    world.served("a", 4400)

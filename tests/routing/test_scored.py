"""Difficulty in a client: where calls begin, what is written down, and what is learned."""

from __future__ import annotations

from typing import Any

import pytest

from client.forms import World, every_form
from tierllm import Budget, Deployment, LearnedScorer, Price, ResultCache, Router, Rule, Tier, TieredClient
from tierllm.errors import ConfigError
from tierllm.events import FeedbackReceived
from tierllm.testing import Fail, FakeProvider

EASY, HARD = "What time is it?", "Prove it."


def hard(text: str) -> float:
    return 1.0 if text == HARD else -1.0


def world(router: Router, **settings: Any) -> World:
    return World(router=router, **settings)


def test_easy_calls_begin_in_the_weak_tier_and_hard_ones_in_the_strong() -> None:
    here = world(Router(scorer=hard, classes=(0.0, 0.5), explore=0.0))
    easy, difficult = here.call(EASY), here.call(HARD)
    assert (easy.ok.tier, difficult.ok.tier) == ("bronze", "gold")
    trace = easy.ok.trace
    assert trace is not None
    assert [(c.tier, c.reason) for c in trace.candidates if c.deployment == "*"] == [
        ("gold", "score"),
        ("silver", "score"),
    ]
    assert trace.scores == {"difficulty": -1.0}
    assert trace.request_class == "low"


@every_form
def test_in_every_form(form: Any) -> None:
    fake = FakeProvider()
    tiers = [Tier("gold", [Deployment("g", fake)]), Tier("bronze", [Deployment("b", fake)])]
    with TieredClient(tiers, router=Router(scorer=hard, classes=(0.0, 0.5), explore=0.0)) as client:
        assert form(client, EASY).tier == "bronze"
        assert form(client, HARD).tier == "gold"


def test_who_names_the_tier_is_not_scored() -> None:
    asked: list[str] = []

    def scorer(text: str) -> float:
        asked.append(text)
        return -1.0

    rules = [Rule(tag="fixed", tier="silver"), Rule(tag="bounded", min_tier="silver")]
    here = world(Router(rules, scorer=scorer, classes=(0.0, 0.5), explore=0.0))
    assert here.call(EASY, sla="gold").ok.tier == "gold"
    assert here.call(EASY, tags=["fixed"]).ok.tier == "silver"
    assert asked == []
    assert here.call(EASY, tags=["bounded"]).ok.tier == "silver"  # the weakest that it may come to
    assert here.call(EASY, importance="high").ok.tier == "gold"
    assert len(asked) == 2


def test_a_hit_of_the_tier_it_begins_in_is_not_scored() -> None:
    asked: list[str] = []

    def scorer(text: str) -> float:
        asked.append(text)
        return 1.0

    here = world(Router(scorer=scorer, classes=(0.0, 0.5), explore=0.0), cache=ResultCache(default="always"))
    assert not here.call(EASY).ok.cached
    assert here.call(EASY).ok.cached
    assert len(asked) == 1


def test_a_hit_of_the_weak_tier_is_scored_and_then_served_without_a_provider() -> None:
    asked: list[str] = []

    def scorer(text: str) -> float:
        asked.append(text)
        return -1.0

    here = world(Router(scorer=scorer, classes=(0.0, 0.5), explore=0.0), cache=ResultCache(default="always"))
    assert not here.call(EASY).ok.cached
    again = here.call(EASY).ok
    assert (again.cached, again.tier) == (True, "bronze")
    assert len(asked) == 2
    assert here.models() == ["b"]


def test_what_fails_in_the_weak_tier_goes_up() -> None:
    here = world(Router(scorer=hard, classes=(0.0, 0.5), explore=0.0))
    here.fake.script("b", Fail.unavailable(), forever=True)
    assert here.call(EASY).ok.tier == "gold"


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_it_learns_from_the_model_that_answered(mode: Any) -> None:
    scorer = LearnedScorer()
    here = world(Router(scorer=scorer, explore=0.0, balance=0.5, mode=mode))
    told = here.call(EASY)
    trace = told.ok.trace
    assert trace is not None
    assert here.client.feedback(trace.id, 0.0)
    assert scorer.samples == 1
    assert not here.client.feedback(trace.id, 1.0)  # once
    assert not here.client.feedback("nobody", 1.0)
    assert scorer.samples == 1
    (event, *_) = here.told(FeedbackReceived)
    assert isinstance(event, FeedbackReceived)
    assert (event.trace_id, event.score, event.source, event.learned) == (trace.id, 0.0, "explicit", True)


def test_observing_changes_nothing() -> None:
    here = world(Router(scorer=hard, classes=(0.0, 0.5), explore=0.0, mode="observe"))
    told = here.call(EASY)
    trace = told.ok.trace
    assert trace is not None
    assert told.ok.tier == "gold"
    assert ("bronze", "observed: score") in [(c.tier, c.reason) for c in trace.candidates]
    assert trace.explored is None


def test_signals_are_scores() -> None:
    scorer = LearnedScorer()
    here = world(Router(scorer=scorer, explore=0.0))
    trace = here.call(EASY).ok.trace
    assert trace is not None
    assert here.client.feedback(trace.id, signal="retried")
    (event,) = here.told(FeedbackReceived)
    assert isinstance(event, FeedbackReceived)
    assert (event.score, event.source) == (0.0, "retried")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"score": 1.0, "signal": "edited"},
        {"signal": "liked"},
        {"score": float("nan")},
        {"score": 1.01},
        {"score": -1},
        {"score": True},
        {"score": "1"},
        {"score": float("inf")},
    ],
    ids=str,
)
def test_what_is_no_score_teaches_nothing(given: dict[str, Any]) -> None:
    scorer = LearnedScorer()
    here = world(Router(scorer=scorer, explore=0.0))
    trace = here.call(EASY).ok.trace
    assert trace is not None
    with pytest.raises(ConfigError):
        here.client.feedback(trace.id, **given)
    assert scorer.samples == 0
    assert here.client.feedback(trace.id, 1)


def test_a_judge_teaches_behind_the_callers_back() -> None:
    scorer = LearnedScorer()
    here = world(Router(scorer=scorer, explore=0.0, judge=lambda request, response: 0.25))
    here.call(EASY)
    here.pass_s(1)
    assert scorer.samples == 1
    (event,) = here.told(FeedbackReceived)
    assert isinstance(event, FeedbackReceived)
    assert (event.score, event.source) == (0.25, "judge")


def test_the_share_follows_the_budgets_pace() -> None:
    price = Price(input_usd_per_mtok=1000, output_usd_per_mtok=1000)
    fake = FakeProvider()
    tiers = [
        Tier("gold", [Deployment("g", fake, price=price)]),
        Tier("bronze", [Deployment("b", fake, price=Price.free())]),
    ]
    here = World(
        tiers,
        fake=fake,
        budgets=[Budget(hard_usd=1, window="day")],
        router=Router(scorer=lambda text: 0.5, balance=0.5, explore=0.0, follow_budget=True),
    )

    def strong_of(calls: int) -> int:
        return sum(here.call(EASY, max_tokens=10).ok.tier == "gold" for _ in range(calls))

    # in the first minutes of the day more is spent than lasts
    assert strong_of(40) <= 15
    assert strong_of(40) <= 10
    here.pass_s(23 * 3600)
    assert strong_of(20) >= 8  # by now that is no more than was to be expected

"""Whom difficulty may not send to the weak tier, what it is told, and what it tells."""

from __future__ import annotations

from typing import Any

import pytest

from client.forms import World
from tierllm import Deployment, LearnedScorer, ResultCache, Route, Router, Rule, Tier, TieredClient, tiered
from tierllm.testing import FakeProvider

EASY, HARD = "What time is it?", "Prove it."


def hard(text: str) -> float:
    return 1.0 if text == HARD else -1.0


def world(router: Router, **settings: Any) -> World:
    return World(router=router, **settings)


@pytest.mark.parametrize(
    ("scorer", "balance", "options"),
    [
        (hard, None, {"prompt": HARD}),
        (hard, 1.0, {}),
        (lambda text: -1.0, None, {"importance": "high"}),
        (lambda text: -1.0, None, {"request_class": "high"}),
        (lambda text: float("nan"), None, {}),
    ],
    ids=["difficult", "all strong", "important", "said to be difficult", "uncertain"],
)
def test_what_belongs_to_the_strong_tier_gets_no_kept_answer_of_the_weak_one(
    scorer: Any, balance: float | None, options: dict[str, Any]
) -> None:
    here = world(
        Router(scorer=scorer, classes=(0.0, 0.5), explore=0.0, balance=balance),
        cache=ResultCache(default="always"),
    )
    prompt = options.pop("prompt", EASY)
    assert here.call(prompt, sla="bronze").ok.tier == "bronze"
    assert here.call(prompt, **options).ok.tier == "gold"


@pytest.mark.parametrize("balance", [None, 0.3], ids=["by class", "by share"])
def test_a_scorer_that_fails_sends_nothing_to_the_weak_tier(balance: float | None) -> None:
    def fails(text: str) -> float:
        raise ValueError(text)

    here = world(Router(scorer=fails, explore=0.5, balance=balance))
    told = [here.call(EASY) for _ in range(40)]
    assert {each.ok.tier for each in told} == {"gold"}
    assert {trace.explored for trace in here.traces} == {1.0}


@pytest.mark.parametrize(
    "rules", [[], [Rule(tokens=(None, 500), tier="bronze")]], ids=["no rules", "short ones"]
)
def test_what_shows_no_prompt_is_not_easy(rules: list[Rule]) -> None:
    fake = FakeProvider()
    tiers = [Tier("gold", [Deployment("g", fake)]), Tier("bronze", [Deployment("b", fake)])]
    router = Router(rules, scorer=lambda text: -1.0, classes=(0.0, 0.5), explore=0.5)
    with TieredClient(tiers, router=router) as client:

        @tiered.call(client=client)
        def asked(question: str, *, route: Route = Route.INJECTED) -> str:
            return route.model

        assert [asked("x" * 500) for _ in range(20)] == ["g"] * 20


def test_what_the_caller_calls_difficult_is_so_without_rules() -> None:
    here = world(Router(scorer=lambda text: -1.0, classes=(0.0, 0.5), explore=0.0))
    assert here.call(EASY, request_class="high").ok.tier == "gold"
    assert here.call(EASY, request_class="low").ok.tier == "bronze"


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize("learns", [False, True], ids=["function", "learns"])
def test_rules_and_difficulty_ask_the_scorer_once_together(mode: Any, learns: bool) -> None:
    asked: list[str] = []

    class Learned(LearnedScorer):
        def buckets_of(self, text: str) -> Any:
            asked.append(text)
            return super().buckets_of(text)

    def scorer(text: str) -> float:
        asked.append(text)
        return 0.2

    rules = [Rule(request_class="high", min_tier="gold"), Rule(balance=0.7)]
    given: Any = Learned() if learns else scorer
    here = world(Router(rules, scorer=given, balance=0.5, mode=mode))
    trace = here.call(EASY).ok.trace
    assert trace is not None
    assert asked == [EASY]
    assert here.client.feedback(trace.id, 0.0) is learns


def test_what_observes_heeds_the_balance_of_its_rules() -> None:
    rules = [Rule(tag="cheap", balance=0.0), Rule(tag="fixed", tier="silver"), Rule(balance=1.0)]
    here = world(Router(rules, scorer=hard, balance=0.5, explore=0.0, mode="observe"))

    def reasons(**options: Any) -> list[tuple[str, str]]:
        trace = here.call(EASY, **options).ok.trace
        assert trace is not None
        return [(c.tier, c.reason) for c in trace.candidates if c.reason]

    assert reasons(tags=["cheap"]) == [("bronze", "observed: score")]
    assert reasons(tags=["cheap"], importance="high") == []
    assert reasons(tags=["fixed"]) == [("silver", "observed: rule")]
    assert reasons() == []


@pytest.mark.parametrize("settings", [{"classes": (0.0, 0.5)}, {"balance": 0.0}, {"balance": 1.0}], ids=str)
def test_an_estimate_is_of_where_the_call_would_begin(settings: dict[str, Any]) -> None:
    here = world(Router(scorer=hard, explore=0.5, **settings))
    estimated = here.client.estimate(EASY, exact=False).tier
    assert here.client._setup.difficulty is not None
    assert here.client._setup.difficulty.status()["rules"] == {}  # it counts towards no share
    assert estimated == ("gold" if settings == {"balance": 1.0} else "bronze")
    assert here.client.estimate(EASY, exact=False, sla="silver").tier == "silver"
    assert here.client.estimate(EASY, exact=False, importance="high").tier == "gold"

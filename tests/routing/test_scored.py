"""Difficulty in a client: where calls begin, what is written down, and what is learned."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from client.forms import World, every_form
from tierllm import Budget, Deployment, LearnedScorer, Price, ResultCache, Router, Rule, Tier, TieredClient
from tierllm.errors import ConfigError
from tierllm.events import FeedbackReceived
from tierllm.routing.ask import ask
from tierllm.routing.scored import prompt_of
from tierllm.testing import Fail, FakeProvider
from tierllm.types import Call, Request, Response

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


def test_a_floor_is_foreseen_for_what_shows_no_prompt() -> None:
    here = world(Router(scorer=lambda text: -1.0, classes=(0.0, 0.5), explore=0.0))
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]
    assert next(iter(here.client.estimate(EASY).tiers)) == "bronze"
    for prompt in (image, [{"role": "user", "content": " \n"}]):
        assert next(iter(here.client.estimate(prompt).tiers)) == "gold"
        assert here.call(prompt).ok.tier == "gold"
    assert next(iter(here.client.estimate(EASY, importance="high").tiers)) == "gold"


TOOL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "scored"),
    [
        ([{"role": "user", "content": "Prove it."}], "Prove it."),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "b"),
        (
            [
                {"role": "user", "content": "Prove it."},
                {"role": "assistant", "content": None, "tool_calls": [TOOL]},
                {"role": "tool", "tool_call_id": "1", "content": "42"},
            ],
            "Prove it.",
        ),
        (
            [
                {"role": "user", "content": "Prove it."},
                {"role": "user", "content": " "},
                {"role": "assistant", "content": None, "tool_calls": [TOOL]},
                {"role": "tool", "tool_call_id": "1", "content": "42"},
            ],
            "Prove it.",
        ),
        ([{"role": "tool", "tool_call_id": "1", "content": "42"}], "42"),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is"},
                        {"type": "image_url", "image_url": {"url": "data:,x"}},
                        {"type": "text", "text": "this?"},
                    ],
                }
            ],
            "What is\nthis?",
        ),
        ([{"role": "user", "content": " \t\n"}], ""),
    ],
    ids=["text", "assistant", "tool", "tool after space", "tool alone", "parts", "space"],
)
def test_what_is_scored(messages: Any, scored: str) -> None:
    assert prompt_of(Request(messages=messages)) == scored


def test_an_agents_next_turn_goes_where_its_task_does() -> None:
    here = world(Router(scorer=hard, classes=(0.0, 0.5), explore=0.0))
    asked = [
        {"role": "user", "content": HARD},
        {"role": "assistant", "content": None, "tool_calls": [TOOL]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]
    assert here.call(asked).ok.tier == "gold"


def test_rules_without_a_balance_share_the_routers() -> None:
    rules = [Rule(name=f"r{n}", tag=f"t{n}", balance=0.9 if n == 3 else None) for n in range(4)]
    here = world(Router(rules, scorer=lambda text: 0.5, balance=0.5, explore=0.0))
    for n in (0, 1, 2, 3, 0):
        here.call(EASY, tags=[f"t{n}"])
    status: Any = here.client.status()["router"]
    assert {rule: told["calls"] for rule, told in status["rules"].items()} == {"": 4, "r3": 1}


@pytest.mark.parametrize("how", [{"degraded": ("smaller",)}, {"cached": True}, {}], ids=str)
def test_what_is_not_the_models_best_teaches_nothing(how: dict[str, Any]) -> None:
    here = world(Router(scorer=LearnedScorer(), explore=0.0))
    scored = here.client._setup.scored
    call = here.client.ready(ask(EASY, {})).call
    assert scored is not None

    async def answer(call: Call) -> Response:
        response = Response("yes", tier="bronze")
        for name, value in how.items():
            setattr(response, name, value)
        return response

    asyncio.run(scored(call, answer))
    assert scored.difficulty.status()["pending"] == int(not how)


def test_the_tier_that_answered_learns_where_it_was_another() -> None:
    scorer = LearnedScorer()
    here = world(Router(scorer=scorer, explore=0.0, balance=0.0))
    here.fake.script("b", Fail.unavailable(), forever=True)
    response = here.call(EASY).ok
    assert (response.tier, response.trace is not None) == ("gold", True)
    here.client.feedback(response.trace.id, 1.0)  # type: ignore[union-attr]
    assert scorer.outcomes == (0, 1)


def test_a_voice_is_a_tenants_user() -> None:
    scorer = LearnedScorer()
    here = world(Router(scorer=scorer, explore=0.0))
    for tenant in ("acme", "other"):
        for user in ("ann", "bob", None):
            for session in ("1", "2"):
                trace = here.call(EASY, tenant=tenant, user=user, session=session).ok.trace
                assert trace is not None
                here.client.feedback(trace.id, 1.0)
    trace = here.call(EASY).ok.trace
    assert trace is not None
    here.client.feedback(trace.id, 1.0)
    status: Any = here.client.status()["router"]
    assert status["voices"] == 4 + 2, "users, and tenants"


def test_what_strangers_say_is_not_heard() -> None:
    scorer = LearnedScorer()
    here = world(Router(scorer=scorer, explore=0.0))
    trace = here.call(EASY, user="ann", tenant="acme").ok.trace
    assert trace is not None
    for stranger in ({"user": "mallory"}, {"user": "ann", "tenant": "other"}, {"tenant": "other"}):
        assert not here.client.feedback(trace.id, 0.0, **stranger)  # type: ignore[arg-type]
    assert here.told(FeedbackReceived) == []
    assert scorer.samples == 0
    assert here.client.feedback(trace.id, 1.0, user="ann", tenant="acme")
    assert not here.client.feedback("nobody", 1.0, user="ann")
    with pytest.raises(ConfigError, match="user"):
        here.client.feedback(trace.id, 1.0, user=5)  # type: ignore[arg-type]


def test_a_user_may_say_otherwise_than_the_judge() -> None:
    scorer = LearnedScorer()
    here = world(Router(scorer=scorer, explore=0.0, judge=lambda request, response: 1.0))
    trace = here.call(EASY, user="ann").ok.trace
    assert trace is not None
    here.pass_s(1)
    assert scorer.samples == 1
    assert here.client.feedback(trace.id, 0.0)
    assert scorer.samples == 2
    status: Any = here.client.status()["router"]
    assert (status["sources"], status["voices"]) == ({"judge": 1, "explicit": 1}, 1)


def test_what_is_only_estimated_is_not_counted() -> None:
    scorer = LearnedScorer(keep_words=True)
    here = world(Router(scorer=scorer, explore=0.0))
    here.client.estimate("wilhelmina")
    here.call("wilhelmina")
    assert scorer.words() == []
    here.call("wilhelmina")
    assert b"wilhelmina" in scorer.to_bytes()


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


@pytest.mark.parametrize(
    ("signal", "score"), [("accepted", 1.0), ("edited", 0.5), ("retried", 0.0), ("abandoned", 0.0)]
)
def test_signals_are_scores(signal: Any, score: float) -> None:
    scorer = LearnedScorer()
    here = world(Router(scorer=scorer, explore=0.0))
    trace = here.call(EASY).ok.trace
    assert trace is not None
    assert here.client.feedback(trace.id, signal=signal)
    (event,) = here.told(FeedbackReceived)
    assert isinstance(event, FeedbackReceived)
    assert (event.score, event.source) == (score, signal)


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

"""A judge that learns: from what the strong tier says instead, and from what it is told."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import Any

import pytest

from client.forms import World
from resilience.judged import reply, tiers
from tierllm import ResultCache
from tierllm.errors import ConfigError
from tierllm.routing.cascade import Cascade
from tierllm.routing.learned_judge import LearnedJudge
from tierllm.testing import FakeProvider, Reply
from tierllm.types import Call, Request, Response, text_of

TOPICS = ["tides", "tariffs", "tendons", "tenses", "tensors", "tenants", "tempests", "temples"]


def sample(rng: Random) -> tuple[Request, Response, float]:
    """Short, hedged answers are wrong nine times of ten; long sure ones are right as often."""
    topic, sure = rng.choice(TOPICS), rng.random() < 0.5
    words = [rng.choice(TOPICS) for _ in range(40 if sure else 6)]
    text = " ".join(("Certainly:" if sure else "Perhaps", *words))
    good = (rng.random() < 0.9) == sure
    return asked(topic), Response(text=text, finish_reason="stop"), float(good)


def asked(topic: str, user: str | None = None) -> Request:
    return Request(messages=({"role": "user", "content": f"Explain {topic}."},), user=user)


def test_it_says_nothing_until_it_has_learned_enough() -> None:
    judge, rng = LearnedJudge(min_samples=20), Random(3)
    for _ in range(19):
        judge.learn(*sample(rng))
    request, response, _ = sample(rng)
    assert math.isnan(judge(request, response))
    judge.learn(*sample(rng))
    assert 0 <= judge(request, response) <= 1


def test_it_learns_which_answers_do() -> None:
    judge, rng = LearnedJudge(min_samples=50), Random(5)
    for _ in range(300):
        judge.learn(*sample(rng))
    right = 0
    for _ in range(200):
        request, response, _ = sample(rng)
        right += (judge(request, response) >= 0.5) == response.text.startswith("Certainly")
    assert right >= 190


def test_what_was_cut_or_is_empty_is_poor_whatever_it_learned() -> None:
    judge = LearnedJudge(min_samples=1)
    judge.learn(asked("tides"), Response(text="fine", finish_reason="stop"), 1.0)
    assert judge(asked("tides"), Response(text="fine", finish_reason="length")) == 0.0
    assert judge(asked("tides"), Response(text=" ", finish_reason="stop")) == 0.0


@pytest.mark.parametrize("score", [float("nan"), 2.0, -1.0, True, "good", None], ids=str)
def test_poisoned_outcomes_change_nothing(score: Any) -> None:
    judge = LearnedJudge(min_samples=1)
    request, response = asked("tides"), Response(text="fine", finish_reason="stop")
    judge.remember("t1", request, response)
    if score is None:
        assert not judge.feedback("unknown", 1.0)
    else:
        with pytest.raises(ConfigError):
            judge.learn(request, response, score)
        with pytest.raises(ConfigError):
            judge.feedback("t1", score)
    assert judge.samples == 0


def test_each_call_is_told_once() -> None:
    judge = LearnedJudge(min_samples=1)
    judge.remember("t1", asked("tides"), Response(text="fine", finish_reason="stop"))
    assert judge.feedback("t1", 1.0)
    assert not judge.feedback("t1", 0.0)
    assert judge.samples == 1


def test_one_voice_does_not_outweigh_the_others() -> None:
    judge, rng = LearnedJudge(min_samples=1), Random(11)
    for number in range(200):
        _request, response, good = sample(rng)
        judge.remember(f"h{number}", asked("tides", f"user{number % 40}"), response)
        judge.feedback(f"h{number}", good)
    sure = Response(text="Certainly: " + "tides " * 40, finish_reason="stop")
    before = judge(asked("tides"), sure)
    for number in range(5000):
        judge.remember(f"p{number}", asked("tides", "mallory"), sure)
        judge.feedback(f"p{number}", 0.0)
    assert before - judge(asked("tides"), sure) < 0.5


def test_it_goes_on_with_what_it_saved(tmp_path: Path) -> None:
    judge, rng = LearnedJudge(min_samples=50), Random(5)
    for _ in range(100):
        judge.learn(*sample(rng))
    judge.save(tmp_path / "judge.json")
    twin = LearnedJudge(min_samples=50)
    twin.restore(tmp_path / "judge.json")
    request, response, _ = sample(rng)
    assert twin(request, response) == pytest.approx(judge(request, response), abs=1e-6)
    (tmp_path / "judge.json").write_text("{}")
    with pytest.raises(ConfigError):
        twin.restore(tmp_path / "judge.json")


def test_what_waits_for_a_word_is_forgotten_where_answers_are_read_otherwise(tmp_path: Path) -> None:
    small, judge = LearnedJudge(buckets=256), LearnedJudge(buckets=65_536)
    request, response, score = sample(Random(5))
    for each in (small, judge):
        each.learn(request, response, score)
    small.save(tmp_path / "small.json")
    judge.save(tmp_path / "same.json")
    judge.remember("t1", request, response)
    judge.restore(tmp_path / "same.json")
    assert judge.feedback("t1", 1.0)
    judge.remember("t2", request, response)
    judge.restore(tmp_path / "small.json")
    assert not judge.feedback("t2", 1.0)


def says(call: Call) -> Reply:
    kind, _, number = text_of(call.messages[-1]).partition(" ")
    right = call.model == "g" or kind == "Add"
    return reply(f"Sum {number}" if right else f"Perhaps {number}")


class Learning(World):
    """Gold is right; bronze is, too, where it has to add."""

    def __init__(self, judge: LearnedJudge, **more: Any) -> None:
        fake = more.pop("fake", None) or FakeProvider(answer=says)
        super().__init__(
            tiers(fake, ("gold", "bronze")), fake=fake, cascade=Cascade(judge), retry=False, **more
        )


def test_calls_that_go_up_teach_it_until_cheap_answers_do() -> None:
    judge = LearnedJudge(min_samples=30, compare="text")
    world = Learning(judge)
    for number in range(60):
        world.call(f"Add {number}")
        world.call(f"Prove {number}")
    served = {
        kind: [world.call(f"{kind} {number}").ok for number in range(100, 130)] for kind in ("Add", "Prove")
    }
    assert [answer.tier for answer in served["Add"]].count("bronze") >= 27
    assert [answer.tier for answer in served["Prove"]].count("gold") >= 27
    assert all(answer.text.startswith("Sum") for answer in served["Add"])


def test_calls_alike_teach_it_once() -> None:
    judge = LearnedJudge(min_samples=30)
    world = Learning(judge, cache=ResultCache(ttl_s=60))
    for _ in range(4):
        world.begin("same")
    world.pass_s(10)
    assert judge.samples == 1


def test_feedback_on_what_was_served() -> None:
    judge = LearnedJudge(min_samples=1)
    judge.learn(asked("tides"), Response(text="words that are known", finish_reason="stop"), 1.0)
    world = Learning(judge)
    world.fake.script("b", reply("words that are known"))
    told = world.call("Explain tides.")
    assert told.ok.tier == "bronze"
    assert told.ok.trace is not None
    cascading = world.client._setup.cascading
    assert cascading is not None
    assert cascading.feedback(told.ok.trace.id, 0.0)
    assert judge.samples == 2


def test_it_does_not_learn_from_its_own_verdict_nor_from_another_judges() -> None:
    judge = LearnedJudge(min_samples=1, compare=None)
    judge.learn(asked("tides"), Response(text="words that are known", finish_reason="stop"), 1.0)
    world = Learning(judge)
    world.fake.script("b", reply("words that are known"))
    trace = world.call("Explain tides.").ok.trace
    assert trace is not None
    world.client._setup.heard(trace.id, 1.0, "judge")
    assert judge.samples == 1
    assert world.client.feedback(trace.id, 0.0)
    assert judge.samples == 2


def test_what_was_served_to_learn_from_is_not_kept() -> None:
    judge = LearnedJudge(min_samples=1000, compare=None, explore=0.5, rng=Random(1))
    judge.explores = lambda: True  # type: ignore[method-assign]
    world = Learning(judge, cache=ResultCache(ttl_s=60))
    world.fake.script("b", reply("poor"), reply("anew"))
    assert world.call("same").ok.text == "poor"
    told = world.call("same", sla="bronze")
    assert (told.ok.text, told.ok.cached) == ("anew", False)


def test_exploring_serves_some_of_what_it_thinks_poor() -> None:
    judge = LearnedJudge(min_samples=1000, compare=None, explore=0.2, rng=Random(1))
    world = Learning(judge)
    served = [world.call(f"question {number}").ok.tier for number in range(200)]
    assert 20 <= served.count("bronze") <= 60
    assert world.client.status()["cascade"]["explored"] == served.count("bronze")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"min_samples": 0}, "min_samples=0"),
        ({"min_samples": True}, "min_samples=True"),
        ({"compare": "vibes"}, "compare='vibes'"),
        ({"explore": 0.6}, "explore=0.6"),
        ({"explore": float("nan")}, "explore=nan"),
        ({"buckets": 3}, "buckets=3"),
    ],
    ids=["samples", "bool", "compare", "explore", "nan", "buckets"],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        LearnedJudge(**settings)

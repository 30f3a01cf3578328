"""Strong or weak: the share, exploration, what is learned from outcomes, and what poison does."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
from array import array
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.questions import Question, apgr, questions
from tierllm.errors import ConfigError
from tierllm.routing.difficulty import MOST_RULES, Choice, Difficulty
from tierllm.routing.hearing import MOST_SOURCES
from tierllm.routing.learned_scorer import LearnedScorer
from tierllm.routing.rule_scorer import RuleScorer
from tierllm.routing.weighing import ENOUGH, ENOUGH_OF_EACH
from tierllm.testing import FakeClock


def by_length(text: str) -> float:
    return float(len(text))


def made(scorer: Any = by_length, **options: Any) -> Difficulty:
    return Difficulty(scorer, **{"rng": random.Random(7), **options})


def texts(count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return ["x" * rng.randint(1, 10_000) for _ in range(count)]


class TestShare:
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.75, 1.0])
    @pytest.mark.parametrize("explore", [0.0, 0.05, 1.0])
    def test_kept_with_exploration_in_it(self, share: float, explore: float) -> None:
        difficulty = made(share=share, explore=explore)

        strong = 0
        for count, text in enumerate(texts(3000), 1):
            strong += difficulty.choose(text).arm == "strong"
            assert count < 2000 or abs(strong / count - share) <= 0.01

    def test_kept_while_the_scorer_learns(self) -> None:
        difficulty = made(LearnedScorer(), share=0.3)

        strong = 0
        for count, question in enumerate(questions(3000, 1), 1):
            strong += told(difficulty, question, str(count)) == "strong"
            assert count < 2000 or abs(strong / count - 0.3) <= 0.01

    def test_each_rule_has_its_own(self) -> None:
        difficulty = made(share=0.3, explore=0.0)
        for at, text in enumerate(texts(4000)):
            difficulty.choose(text, share=0.8, rule="vip") if at % 2 else difficulty.choose(text)

        rules: Any = difficulty.status()["rules"]
        assert rules["vip"]["realised"] == pytest.approx(0.8, abs=0.01)
        assert rules[""]["realised"] == pytest.approx(0.3, abs=0.01)

    def test_rules_are_bounded(self) -> None:
        difficulty = made(share=0.3)
        for number in range(MOST_RULES + 100):
            difficulty.choose("x", rule=str(number))
            difficulty.choose("x", rule="usual")

        rules: Any = difficulty.status()["rules"]
        assert len(rules) == MOST_RULES
        assert rules["usual"]["calls"] == MOST_RULES + 100

    def test_hundreds_of_rules_tell_hard_from_easy(self) -> None:
        difficulty, rng = made(share=0.3, explore=0.0), random.Random(2)

        hard = []
        for number in range(30_000):
            text = "x" * rng.randint(1, 100)
            strong = difficulty.choose(text, rule=str(number % 100)).arm == "strong"
            if len(text) > 80:
                hard.append(strong)
        assert sum(hard) / len(hard) > 0.8

    def test_a_pace_that_fails_moves_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        def broken() -> float:
            raise RuntimeError("secret")

        difficulty = made(share=0.4, explore=0.0, pace=broken)
        strong = sum(difficulty.choose(text).arm == "strong" for text in texts(1000))
        assert strong == pytest.approx(400, abs=20)
        assert [record.getMessage() for record in caplog.records] == [
            "the pace of budgets failed with RuntimeError; the share stays as it is"
        ]

    def test_a_floor_is_foreseen(self) -> None:
        difficulty = made(share=0.0)

        assert difficulty.foreseen("x") == "weak"
        assert difficulty.foreseen("x", floor=True) == "strong"

    def test_the_pace_moves_it(self) -> None:
        paces = {"now": 1.0}
        difficulty = made(share=0.4, explore=0.0, pace=lambda: paces["now"])

        def strong_at(pace: float) -> int:
            paces["now"] = pace
            return sum(difficulty.choose(text).arm == "strong" for text in texts(1000))

        counts = [strong_at(pace) for pace in (1.0, 2.0, 0.5, math.nan, math.inf)]
        assert counts == pytest.approx([400, 200, 400, 400, 400], abs=35)

    def test_a_floor_is_strong_and_does_not_count(self) -> None:
        difficulty = made(share=0.2, explore=1.0)

        choices = [difficulty.choose("x", floor=True) for _ in range(500)]
        assert {(c.arm, c.propensity, c.explored, c.floor) for c in choices} == {("strong", 1.0, False, True)}
        assert difficulty.status()["rules"] == {}
        assert difficulty.status()["floors"] == 500
        rest = [difficulty.choose(text).arm for text in texts(2000)]
        assert rest.count("strong") / 2000 == pytest.approx(0.2, abs=0.01)

    def test_a_floor_is_strong_even_where_the_share_is_nothing(self) -> None:
        assert made(share=0.0).choose("x", floor=True).arm == "strong"

    def test_observing_decides_alike(self) -> None:
        enforced, observed = made(share=0.3), made(share=0.3, mode="observe")

        assert [enforced.choose(t).arm for t in texts(300)] == [observed.choose(t).arm for t in texts(300)]

    def test_in_threads(self) -> None:
        difficulty = made(LearnedScorer(), share=0.3)

        def work(seed: int) -> None:
            for number, question in enumerate(questions(500, seed)):
                told(difficulty, question, f"{seed}/{number}")

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        status: Any = difficulty.status()
        assert status["rules"][""]["calls"] == 3000
        assert status["rules"][""]["realised"] == pytest.approx(0.3, abs=0.01)
        assert status["feedback"]["learned"] == status["samples"] == 3000
        assert status["pending"] == 0


class TestExploring:
    def test_propensities_are_the_chances(self) -> None:
        """Each call's own chance of what became of it, summed, is what did become of them."""
        difficulty = made(share=0.3, explore=0.2)

        choices = [difficulty.choose(text) for text in texts(20_000)]
        chance_of_strong = [c.propensity if c.arm == "strong" else 1 - c.propensity for c in choices]
        strong = sum(c.arm == "strong" for c in choices)
        assert sum(chance_of_strong) == pytest.approx(strong, abs=200)
        rare = [c for c, chance in zip(choices, chance_of_strong, strict=True) if chance < 0.1]
        assert sum(c.arm == "strong" for c in rare) / len(rare) == pytest.approx(
            sum(chance for chance in chance_of_strong if chance < 0.1) / len(rare), abs=0.01
        )
        assert sum(c.explored for c in choices) / 20_000 == pytest.approx(0.2, abs=0.015)
        assert all(0.0 < c.propensity <= 1.0 for c in choices)

    def test_it_can_be_turned_off(self) -> None:
        difficulty = made(share=0.3, explore=0.0)

        assert not any(difficulty.choose(text).explored for text in texts(500))

    def test_both_models_are_tried_everywhere(self) -> None:
        difficulty = made(share=0.3, explore=0.1)
        for text in texts(1000):
            difficulty.choose(text)

        long = [difficulty.choose("x" * 9900).arm for _ in range(300)]
        assert "weak" in long


class TestWithoutAShare:
    def test_what_is_easy_is_weak(self) -> None:
        difficulty = made(by_length, classes=(10, 100), explore=0.0)

        assert [difficulty.choose("x" * n).arm for n in (9, 10, 99, 100)] == ["weak"] + ["strong"] * 3
        assert difficulty.choose("x").share is None

    def test_exploring_tries_the_other_one(self) -> None:
        difficulty = made(by_length, classes=(10, 100), explore=0.2)

        choices = [difficulty.choose("x") for _ in range(3000)]
        strong = [c for c in choices if c.arm == "strong"]
        assert len(strong) / 3000 == pytest.approx(0.1, abs=0.02)
        assert all(c.explored and c.propensity == pytest.approx(0.1) for c in strong)
        assert all(c.propensity == pytest.approx(0.9) for c in choices if c.arm == "weak")


class TestClasses:
    def test_thresholds(self) -> None:
        difficulty = made(by_length, classes=(3, 6))

        assert [difficulty.classify("x" * n) for n in (2, 3, 5, 6)] == [
            ("low", 2.0),
            ("medium", 3.0),
            ("medium", 5.0),
            ("high", 6.0),
        ]

    def test_a_scorer_may_have_its_own(self) -> None:
        assert made(RuleScorer()).classes == RuleScorer.classes
        assert made(RuleScorer(), classes=(0.1, 0.2)).classes == (0.1, 0.2)

    def test_who_knows_too_little_says_medium(self) -> None:
        scorer = LearnedScorer()
        difficulty = made(scorer)
        for _ in range(ENOUGH - 1):
            scorer.learn("solve it", weak=0.0, strong=1.0)

        assert difficulty.classify("solve it")[0] == "medium"
        scorer.learn("solve it", weak=0.0, strong=1.0)
        assert difficulty.classify("solve it")[0] == "high"

    @pytest.mark.parametrize("arm", ["weak", "strong"])
    def test_who_has_heard_of_one_model_only_says_medium(self, arm: str) -> None:
        scorer = LearnedScorer()
        difficulty = made(scorer)
        other = "strong" if arm == "weak" else "weak"
        for _ in range(5 * ENOUGH):
            scorer.learn("solve it", **{arm: float(arm == "strong")})
        for _ in range(2 * int(ENOUGH_OF_EACH) - 1):
            scorer.learn("solve it", **{other: float(arm == "weak")}, weight=0.5)

        assert difficulty.classify("solve it")[0] == "medium"
        scorer.learn("solve it", **{other: float(arm == "weak")}, weight=0.5)
        assert difficulty.classify("solve it")[0] == "high"


class Broken:
    def __init__(self, what: Any) -> None:
        self.what = what

    def score(self, text: str) -> float:
        if isinstance(self.what, BaseException):
            raise self.what
        return self.what


class TestBrokenScorers:
    @pytest.mark.parametrize(
        "what",
        [ValueError("secret prompt"), None, "high", [], math.nan],
        ids=["raises", "none", "text", "list", "nan"],
    )
    def test_uncertain_goes_up(self, what: Any, caplog: pytest.LogCaptureFixture) -> None:
        difficulty = made(Broken(what), share=0.1)

        choices = [difficulty.choose("hello") for _ in range(200)]
        assert all(c.arm == "strong" and math.isnan(c.score) for c in choices)
        assert not any(c.explored for c in choices), "nothing is left to chance"
        assert difficulty.classify("hello")[0] == "high"
        assert "secret" not in caplog.text
        assert difficulty.status()["scorer_failures"] == 201
        assert len(caplog.records) == 1

    def test_an_async_scorer_is_refused_and_a_hidden_one_fails(self) -> None:
        async def score(text: str) -> float:
            return 0.5

        class Scorer:
            async def score(self, text: str) -> float:
                return 0.5

        for wrong in (score, Scorer()):
            with pytest.raises(ConfigError, match="async"):
                made(wrong)
        difficulty = made(lambda text: score(text), share=0.1)
        assert difficulty.choose("hello").arm == "strong"
        assert difficulty.status()["scorer_failures"] == 1

    def test_a_scorer_of_ones_own_that_learns(self, caplog: pytest.LogCaptureFixture) -> None:
        own = Own()
        difficulty = made(own, share=0.5)
        difficulty.remember("a", difficulty.choose("solve it"))
        assert isinstance(difficulty.choose("solve it").buckets, array)
        assert difficulty.feedback("a", 1.0)
        assert own.samples == 1

        own.broken = RuntimeError("secret prompt")
        difficulty.remember("b", difficulty.choose("solve it"))
        assert not difficulty.feedback("b", 1.0)
        counts = feedback_of(difficulty)
        assert (counts["learned"], counts["failed"]) == (1, 1)
        assert difficulty.classify("solve it")[0] == "medium"
        assert difficulty.status()["samples"] is None
        assert "secret" not in caplog.text

    def test_it_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        difficulty = made(Broken(ValueError("secret prompt")), share=0.1)
        with caplog.at_level(logging.ERROR, "tierllm"):
            for _ in range(5):
                difficulty.choose("hello")

        assert [r.getMessage() for r in caplog.records] == [
            "the difficulty scorer failed with ValueError; such calls go to the strong model"
        ]
        assert difficulty.status()["scorer_failures"] == 5

    def test_infinite_scores_are_scores(self) -> None:
        difficulty = made(lambda text: math.inf if "hard" in text else -math.inf, share=0.5, explore=0.0)

        arms = [difficulty.choose(text).arm for text in ["hard", "easy"] * 300]
        right = sum(a == b for a, b in zip(arms[200:], ["strong", "weak"] * 200, strict=True))
        assert right > 380, "but for calls that make up for the share's beginning"


class Own:
    """Learns, reads lists, and breaks."""

    def __init__(self) -> None:
        self.broken: Exception | None = None
        self.learned = 0

    @property
    def samples(self) -> int:
        if self.broken is not None:
            raise self.broken
        return self.learned

    def score(self, text: str) -> float:
        return 0.0

    def buckets_of(self, text: str) -> Any:
        return [1, 2]

    def score_of(self, buckets: Sequence[int]) -> float:
        return 0.0

    def learn_from(self, buckets: Sequence[int], **outcomes: Any) -> None:
        if self.broken is not None:
            raise self.broken
        self.learned += 1


def told(difficulty: Difficulty, question: Question, trace_id: str, who: str = "") -> str:
    """Ask, and tell the outcome of the model that was chosen."""
    choice = difficulty.choose(question.text)
    difficulty.remember(trace_id, choice, who)
    assert difficulty.feedback(trace_id, question.strong if choice.arm == "strong" else question.weak)
    return choice.arm


class TestFeedback:
    def test_the_loop_learns(self) -> None:
        scorer = LearnedScorer()
        difficulty = made(scorer, share=0.3)
        asked = questions(4000, 1)
        arms = [told(difficulty, question, str(number)) for number, question in enumerate(asked)]

        assert apgr(scorer.score, questions(2000, 2)) > 0.7
        late = list(zip(asked, arms, strict=True))[2000:]
        always_weak, always_strong = sum(q.weak for q, _ in late), sum(q.strong for q, _ in late)
        got = sum(q.strong if arm == "strong" else q.weak for q, arm in late)
        assert (got - always_weak) / (always_strong - always_weak) > 0.55

    def test_the_chosen_arm_learns(self) -> None:
        scorer = LearnedScorer()
        difficulty = made(scorer, share=1.0)
        difficulty.remember("a", difficulty.choose("solve it"))
        difficulty.feedback("a", 1.0)

        assert scorer.outcomes == (0, 1)

    def test_the_arm_that_answered_learns_where_it_was_another(self) -> None:
        scorer = LearnedScorer()
        difficulty = made(scorer, share=1.0)
        difficulty.remember("a", difficulty.choose("solve it"), answered="weak")
        difficulty.feedback("a", 1.0)

        assert scorer.outcomes == (1, 0)

    def test_a_judge_counts_in_full_and_takes_nobodys_word(self) -> None:
        scorer = LearnedScorer()
        difficulty = made(scorer, share=0.5)
        for number in range(300):
            difficulty.remember(f"crowd {number}", difficulty.choose("hello"), f"\0u{number % 5}")
            difficulty.feedback(f"crowd {number}", 1.0)
        for number in range(1000):
            difficulty.remember(str(number), difficulty.choose("hello"), "\0nightly")
            assert difficulty.feedback(str(number), 1.0, source="judge")
        assert sum(scorer.evidence) > 1290

        assert not difficulty.feedback("5", 0.0, source="judge"), "once"
        assert difficulty.feedback("5", 0.0), "and its user may still say otherwise"
        assert not difficulty.feedback("5", 0.0)
        assert not difficulty.feedback("5", 0.0, source="judge")
        assert feedback_of(difficulty)["learned"] >= 1001

    def test_who_says_too_much_teaches_nothing(self) -> None:
        scorer = LearnedScorer()
        difficulty = made(scorer, share=0.5)
        heard = []
        for number in range(1000):
            who = f"\0u{number % 5}" if number < 5 else "\0mallory"
            difficulty.remember(str(number), difficulty.choose("hello"), who)
            heard.append(difficulty.feedback(str(number), 1.0))

        assert not heard[-1]
        assert sum(scorer.evidence) <= 25
        assert scorer.samples == sum(heard) < 100

    def test_an_unknown_call(self) -> None:
        scorer = LearnedScorer()
        difficulty = made(scorer, share=0.5)
        before = scorer.to_bytes()

        assert difficulty.feedback("nobody", 1.0) is False
        assert scorer.to_bytes() == before
        assert feedback_of(difficulty)["unknown"] == 1

    def test_each_call_once(self) -> None:
        scorer = LearnedScorer()
        difficulty = made(scorer, share=0.5)
        difficulty.remember("a", difficulty.choose("solve it"))

        assert [difficulty.feedback("a", 1.0) for _ in range(100)] == [True] + [False] * 99
        assert scorer.samples == 1

    @pytest.mark.parametrize(
        "wrong", [math.nan, math.inf, -math.inf, -0.001, 1.001, 1e300, True, False, "1", None], ids=repr
    )
    def test_what_is_no_outcome(self, wrong: Any) -> None:
        scorer = LearnedScorer()
        difficulty = made(scorer, share=0.5)
        difficulty.remember("a", difficulty.choose("solve it"))
        before = scorer.to_bytes()

        with pytest.raises(ConfigError):
            difficulty.feedback("a", wrong)
        assert scorer.to_bytes() == before
        assert difficulty.status()["pending"] == 1, "the right outcome may still come"
        assert difficulty.feedback("a", 0.5) is True

    def test_only_for_a_day(self) -> None:
        clock = FakeClock()
        difficulty = made(LearnedScorer(), share=0.5, clock=clock)
        for name in "ab":
            difficulty.remember(name, difficulty.choose("solve it"))
        clock.advance(86_399)
        assert difficulty.feedback("a", 1.0) is True
        clock.advance(1)
        assert difficulty.feedback("b", 1.0) is False

    def test_what_waits_is_bounded_and_holds_no_text(self) -> None:
        difficulty = made(LearnedScorer(), share=0.5, max_pending=100)
        for number in range(500):
            difficulty.remember(str(number), difficulty.choose("my secret prompt"))

        assert difficulty.status()["pending"] == 100
        assert "secret" not in repr(list(difficulty._hearing._pending._waiting.values()))
        assert "secret" not in repr(difficulty.choose("my secret prompt"))

    @pytest.mark.parametrize("scorer", [by_length, RuleScorer()], ids=["function", "rules"])
    def test_a_scorer_that_does_not_learn(self, scorer: Any) -> None:
        difficulty = made(scorer, share=0.5)
        choice = difficulty.choose("solve it")
        assert choice.buckets is None
        difficulty.remember("a", choice)

        assert difficulty.feedback("a", 1.0) is False
        assert feedback_of(difficulty)["nothing to teach"] == 1

    def test_sources_are_counted_within_bounds(self) -> None:
        difficulty = made(LearnedScorer(), share=0.5)
        for number in range(100):
            difficulty.remember(str(number), difficulty.choose("solve it"))
            difficulty.feedback(str(number), 1.0, source="explicit" if number % 2 else f"odd {number}")

        sources: Any = difficulty.status()["sources"]
        assert sources["explicit"] == 50
        assert len(sources) <= MOST_SOURCES + 1
        assert sum(sources.values()) == 100

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 1.0, 0.5, math.nan, 7]), st.booleans())
        )
    )
    def test_no_history_teaches_twice_or_nonsense(self, steps: list[tuple[str, float, bool]]) -> None:
        scorer = LearnedScorer(buckets=256)
        difficulty = made(scorer, share=0.5)
        open_calls: set[str] = set()
        learned = 0
        for name, outcome, new in steps:
            if new:
                difficulty.remember(name, difficulty.choose(name))
                open_calls.add(name)
            elif 0 <= outcome <= 1:
                assert difficulty.feedback(name, outcome) is (name in open_calls)
                learned += name in open_calls
                open_calls.discard(name)
            else:
                with pytest.raises(ConfigError):
                    difficulty.feedback(name, outcome)
            assert scorer.samples == learned


def feedback_of(difficulty: Difficulty) -> dict[str, int]:
    counts: Any = difficulty.status()["feedback"]
    return counts


class TestPoison:
    def after(self, outcomes: int, who: str) -> LearnedScorer:
        """1,000 users tell the truth of 5,000 calls; one tells the opposite of ``outcomes`` more between."""
        clock, rng = FakeClock(), random.Random(3)
        scorer = LearnedScorer()
        difficulty = made(scorer, share=0.5, explore=1.0, clock=clock)
        honest: Sequence[Question] = questions(5000, 1)
        poisoned = questions(outcomes, 1)
        turns = [True] * len(honest) + [False] * outcomes
        rng.shuffle(turns)
        order = {True: iter(honest), False: iter(poisoned)}
        draw = random.Random(4)
        for number, is_honest in enumerate(turns):
            clock.advance(86_400 / len(turns))
            question = next(order[is_honest])
            arm = "strong" if draw.random() < 0.5 and is_honest else "weak"
            voice = f"user {draw.randrange(1000)}" if is_honest else who
            difficulty.remember(str(number), difficulty.choose(question.text), voice, answered=arm)
            truth = question.strong if arm == "strong" else question.weak
            difficulty.feedback(str(number), truth if is_honest else 1.0 - truth)
        return scorer

    def test_a_flood_of_one_user_changes_little(self) -> None:
        asked = questions(3000, 2)
        clean = apgr(self.after(0, "").score, asked)
        flooded = apgr(self.after(10_000, "mallory").score, asked)
        unguarded = apgr(self.after(10_000, "").score, asked)

        assert clean > 0.74
        assert abs(flooded - clean) < 0.02
        assert unguarded < clean - 0.1, "the flood is one that would hurt"


def test_a_forked_child_does_not_wait_for_its_parents_locks() -> None:
    scorer = LearnedScorer()
    difficulty = made(scorer, share=0.5)
    for thing in (scorer, difficulty, difficulty._hearing):
        thing._lock.acquire()  # as a thread of the parent may have at the fork
        thing.renew()

    difficulty.remember("a", difficulty.choose("solve it"))
    assert difficulty.feedback("a", 1.0) is True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_forked_children_do_not_draw_alike() -> None:
    difficulty = made(share=0.5, explore=1.0)
    drawn = []
    for _ in range(2):
        reads, writes = os.pipe()
        child = os.fork()
        if not child:
            os.write(writes, "".join(difficulty.choose("x").arm[0] for _ in range(40)).encode())
            os._exit(0)
        os.waitpid(child, 0)
        drawn.append(os.read(reads, 100))
        os.close(reads)
        os.close(writes)

    assert len(drawn[0]) == len(drawn[1]) == 40
    assert drawn[0] != drawn[1]


class TestInheriting:
    def test_of_the_same_scorer(self) -> None:
        scorer = LearnedScorer()
        older, newer = made(scorer, share=0.5), made(scorer, share=0.5)
        newer.inherit(older)
        older.remember("a", older.choose("solve it"))

        assert newer.feedback("a", 1.0)
        assert newer.status()["rules"] == older.status()["rules"] != {}

    def test_a_function_is_the_same_scorer(self) -> None:
        older, newer = made(share=0.5), made(share=0.5)
        older.choose("x")
        newer.inherit(older)

        assert newer.status()["rules"] == older.status()["rules"] != {}

    def test_what_another_scorer_read_teaches_this_one_nothing(self) -> None:
        older, scorer = made(LearnedScorer(), share=0.5), LearnedScorer(buckets=256)
        older.remember("a", older.choose("solve it"))
        newer = made(scorer, share=0.5)
        newer.inherit(older)

        assert not newer.feedback("a", 1.0)
        assert scorer.samples == 0


class TestSettings:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"share": 1.1},
            {"share": -0.1},
            {"share": math.nan},
            {"share": True},
            {"share": "30 %"},
            {"explore": 2},
            {"explore": None},
            {"classes": (0.5,)},
            {"classes": (0.5, 0.1)},
            {"classes": (math.nan, 0.1)},
            {"classes": ("a", "b")},
            {"classes": 3},
            {"mode": "watch"},
            {"max_pending": -1},
            {"max_pending": 1.5},
            {"pending_s": 0},
            {"pending_s": math.nan},
        ],
        ids=str,
    )
    def test_that_make_no_sense(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            made(**wrong)

    def test_a_rules_share_is_checked(self) -> None:
        with pytest.raises(ConfigError, match="share"):
            made().choose("x", share=2.0)

    def test_a_choice_shows_no_text(self) -> None:
        assert repr(Choice("weak", 0.25, 0.985)) == "<Choice weak score=0.250 propensity=0.985>"
        assert repr(made(share=0.3)) == "<Difficulty FunctionScorer(by_length) share=0.3>"

"""A scorer from the decision log: it learns, it is judged fairly, and it knows what it cannot say."""

from __future__ import annotations

import random
import statistics
from array import array
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from routing.logged import questions, rows, write
from tierllm import ConfigError
from tierllm.routing import training
from tierllm.routing.decision_rows import DecisionRow, read_decisions
from tierllm.routing.learned_scorer import LearnedScorer
from tierllm.routing.samples import Sample, Samples, samples_of
from tierllm.routing.training import _judged, train, train_samples

SMALL = LearnedScorer(buckets=4096)


def row(number: int, **more: Any) -> DecisionRow:
    given: dict[str, Any] = {
        "id": f"r{number}",
        "at": float(number),
        "outcome": "ok",
        "served": "gold" if number % 2 else "bronze",
        "text": f"question {number}",
        "quality": 1.0,
        "cost_usd": None,
    }
    return DecisionRow(**{**given, **more})


def taken(found: list[DecisionRow], **options: Any) -> Samples:
    return samples_of(found, buckets_of=SMALL.buckets_of, **{"weak": "bronze", "strong": "gold", **options})


# -- it learns -----------------------------------------------------------------------------


def test_it_learns_what_is_difficult_and_can_say_so(tmp_path: Path) -> None:
    made = train(rows(tmp_path / "log", list(questions(1_500))), scorer=SMALL, resamples=150)
    assert made.doubts == ()
    assert (made.weak, made.strong, made.method, made.grouped_by) == (
        "bronze",
        "gold",
        "doubly robust",
        "prompt",
    )
    assert made.evaluation is not None
    assert made.evaluation.apgr.low > 0.5
    assert made.in_use is not None
    assert made.scorer.score("prove the theorem by induction") > made.scorer.score("hello thanks weather")
    assert made.scorer.samples == made.samples == 1_500


def test_both_outcomes_are_as_good_as_chance(tmp_path: Path) -> None:
    found = rows(tmp_path / "log", list(questions(500)), explore=0.0, compared=1.0, feedback=0.0)
    made = train(found, scorer=SMALL, resamples=150)
    assert (made.doubts, made.method, made.whole) == ((), "both outcomes known", 500)
    assert made.evaluation is not None
    judged = list(questions(500))[150:]  # the first three tenths are only learned from
    assert (made.judged, made.evaluation.calls) == (350, 350)
    assert made.evaluation.gap.value == pytest.approx(statistics.fmean(q.strong - q.weak for q in judged))


def test_hashed_prompts_train_the_same_scorer_as_text(tmp_path: Path) -> None:
    asked = list(questions(200))
    made = [
        train(rows(tmp_path / kind, asked, prompts=kind), scorer=SMALL, resamples=100)
        for kind in ("text", "hashed")
    ]
    prompts = ("prove the theorem", "hello")
    text, hashed = ([one.scorer.score(prompt) for prompt in prompts] for one in made)
    assert hashed == pytest.approx(text, abs=1e-6)
    assert made[0].evaluation is not None


def test_a_log_without_prompts_teaches_nothing(tmp_path: Path) -> None:
    made = train(rows(tmp_path / "log", list(questions(20)), prompts="none"), scorer=SMALL)
    assert made.samples == 0
    assert made.left_out == {"nothing of the prompt was kept": 20}
    assert made.evaluation is None
    assert made.doubts


# -- it is judged fairly --------------------------------------------------------------------


def bandit(seed: int, count: int = 300) -> tuple[list[Sample], list[float], list[int]]:
    """Chance prefers strong where it is difficult: the strong model looks worse than it is."""
    rng = random.Random(seed)
    samples, ranks, folds = [], [], []
    for number, question in enumerate(questions(count, seed)):
        chance = 0.9 if question.hard else 0.15
        strong = rng.random() < chance
        sample = Sample(buckets=array("I", [1]), prompt=b"", group=str(number))
        sample.propensity = chance if strong else 1 - chance
        if strong:
            sample.strong = question.strong - 0.3 * question.hard
        else:
            sample.weak = question.weak
        samples.append(sample)
        ranks.append(rng.random() * 0.5 + 0.5 * question.hard)
        folds.append(number % 5)
    return samples, ranks, folds


def test_the_estimate_is_right_in_the_mean_where_the_plain_one_is_not() -> None:
    doubly, plain, truth = [], [], []
    for seed in range(60):
        samples, ranks, folds = bandit(seed)
        found = _judged(samples, ranks, folds, 0.3, (), 100, seed)
        doubly.append(found.gap.value)
        weak = statistics.fmean(s.weak for s in samples if s.weak is not None)
        plain.append(statistics.fmean(s.strong for s in samples if s.strong is not None) - weak)
        truth.append(statistics.fmean(q.strong - 0.3 * q.hard - q.weak for q in questions(300, seed)))
    right = statistics.fmean(truth)
    assert statistics.fmean(doubly) == pytest.approx(right, abs=0.025)
    assert abs(statistics.fmean(plain) - right) > 0.1


def test_a_prompt_is_never_on_both_sides() -> None:
    """Each prompt has an outcome by lot, and comes five times, from different people: whoever has seen it
    elsewhere knows all; whoever has not knows nothing."""
    rng = random.Random(3)
    found = []
    for prompt in range(120):
        weak, strong = rng.random() < 0.5, rng.random() < 0.8
        for time in range(5):
            asked = f"unlike{prompt} other{prompt} words{prompt}"
            found.append(
                row(
                    len(found),
                    text=asked,
                    user=f"u{(prompt * 5 + time * 37) % 200}",
                    weak_quality=float(weak),
                    strong_quality=float(strong),
                )
            )
    rng.shuffle(found)
    made = train([replace(each, at=float(at)) for at, each in enumerate(found)], scorer=SMALL, resamples=100)
    assert made.grouped_by == "user"
    assert made.evaluation is not None
    assert made.evaluation.apgr.value < 0.6
    assert made.doubts


@pytest.mark.parametrize(
    ("named", "by"),
    [
        ({}, "prompt"),
        ({"session": 60}, "session"),
        ({"user": 30, "session": 60}, "user"),
        ({"user": 3, "session": 60}, "session"),
        ({"user": 3}, "prompt"),
    ],
    ids=str,
)
def test_calls_of_the_same_people_stay_together(named: dict[str, int], by: str) -> None:
    found = [row(n, **{kind: f"{kind}{n % many}" for kind, many in named.items()}) for n in range(300)]
    samples = taken(found)
    assert samples.grouped_by == by
    groups = {sample.group for sample in samples.found}
    assert len(groups) == {"prompt": 300, "session": 60, "user": 30}[by]


def test_two_tenants_users_of_one_name_are_two() -> None:
    found = [row(n, user=f"u{n % 30}", tenant=f"t{n % 2}") for n in range(300)]
    found += [row(300 + n, user=f"u{n % 30}", tenant=f"t{1 - n % 2}") for n in range(300)]
    assert len({sample.group for sample in taken(found).found}) == 60


# -- it knows what it cannot say ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "options", "doubt"),
    [
        (60, {}, "too few outcomes"),
        (600, {"share": 0.0, "explore": 1.0}, "too few outcomes of the strong model: 0"),
        (600, {"explore": 0.0}, "nothing was left to chance"),
        (900, {"explore": 0.02}, "drawn at random"),
        (600, {"users": 4, "prompts": "same"}, "too few different people or prompts"),
    ],
    ids=["few", "one model", "no chance", "little chance", "few people"],
)
def test_too_little_to_claim_anything(
    tmp_path: Path, count: int, options: dict[str, Any], doubt: str
) -> None:
    asked = list(questions(count))
    if options.pop("prompts", "") == "same":
        asked = [question._replace(text=f"only {at % 5}") for at, question in enumerate(asked)]
    made = train(rows(tmp_path / "log", asked, **options), scorer=SMALL, resamples=100)
    assert any(doubt in each for each in made.doubts), made.doubts


def test_nothing_to_be_learned_is_seen(tmp_path: Path) -> None:
    asked = list(questions(800, seed=1, learnable=False))
    made = train(rows(tmp_path / "log", asked), scorer=SMALL, resamples=150)
    assert any("contains chance" in doubt for doubt in made.doubts)


def test_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    made = train(read_decisions(tmp_path / "log"))
    assert (made.samples, made.evaluation) == (0, None)
    assert len(made.doubts) == 3


def test_important_calls_that_would_have_been_weak_are_counted(tmp_path: Path) -> None:
    asked = list(questions(600))
    made = train(rows(tmp_path / "log", asked), scorer=SMALL, resamples=100, share=0.4)
    assert made.evaluation is not None
    assert made.evaluation.important == 42
    easy = sum(not question.hard for question in asked[180::10])
    assert made.evaluation.important_to_weak == pytest.approx(easy, abs=10)


# -- rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"quality": None}, "nothing is known of how good the answer was"),
        ({"text": None}, "nothing of the prompt was kept"),
        ({"outcome": "failed"}, "there was no answer"),
        ({"cache": "hit"}, "the answer was made for another call"),
        ({"cache": "joined"}, "the answer was made for another call"),
        ({"degraded": ("short",)}, "the answer was degraded"),
        ({"served": "silver"}, "a third tier answered"),
        ({"buckets": (2**40,)}, "its buckets are none"),
        ({"degraded": ("not_escalated", "max_tokens")}, "the answer was degraded"),
    ],
    ids=str,
)
def test_what_is_of_no_use_is_left_out_and_counted(more: dict[str, Any], why: str) -> None:
    samples = taken([row(1, **more), row(2), row(3, cache="miss")])
    assert len(samples.found) == 2
    assert samples.left_out == {why: 1}


def test_a_row_that_was_written_twice_counts_once() -> None:
    assert len(taken([row(1), row(1), row(2)]).found) == 2


def test_samples_come_in_the_order_of_time() -> None:
    found = taken([row(3), row(1), row(2)])
    assert [sample.strong is None for sample in found.found] == [False, True, False]


@pytest.mark.parametrize(
    ("more", "propensity"),
    [
        ({"arm": "strong", "propensity": 0.3}, 0.3),
        ({"arm": "weak", "propensity": 0.3}, None),  # it was answered elsewhere than chance said
        ({"arm": "strong", "propensity": 1.0}, None),  # a floor, or no exploration
        ({"propensity": 0.3}, None),
        ({"arm": "strong", "propensity": 1e-200}, None),  # it would stand for more calls than there are
        ({"arm": "strong", "propensity": 0.3, "weak_quality": 0.1, "strong_quality": 0.2}, None),
    ],
    ids=str,
)
def test_only_what_chance_had_a_part_in_judges_anything(
    more: dict[str, Any], propensity: float | None
) -> None:
    (sample,) = taken([row(1, **more)]).found
    assert sample.propensity == propensity
    assert sample.is_whole == ("weak_quality" in more)
    assert sample.can_judge == (propensity is not None or sample.is_whole)


def test_tiers_are_told_from_what_was_chosen() -> None:
    found = [row(n, arm="strong" if n % 2 else "weak") for n in range(10)]
    found.append(row(11, served="silver"))
    samples = taken(found, weak=None, strong=None)
    assert (samples.weak, samples.strong) == ("bronze", "gold")


def test_or_by_their_cost_or_by_the_other() -> None:
    priced = [row(n, cost_usd=Decimal(1 + n % 2)) for n in range(10)]
    samples = taken(priced, weak=None, strong=None)
    assert (samples.weak, samples.strong) == ("bronze", "gold")
    samples = taken([row(n) for n in range(10)], weak="gold", strong=None)
    assert (samples.weak, samples.strong) == ("gold", "bronze")


@pytest.mark.parametrize(
    "options",
    [{}, {"weak": "gold", "strong": "gold"}, {"weak": "gold"}],
    ids=["none", "same", "one of three"],
)
def test_tiers_that_cannot_be_told_are_asked_for(options: dict[str, str]) -> None:
    found = [row(1), row(2), row(3, served="silver")]
    with pytest.raises(ConfigError, match="weak"):
        taken(found, **{"weak": None, "strong": None, **options})


def test_bucket_numbers_of_another_scorer_are_refused() -> None:
    with pytest.raises(ConfigError, match="buckets"):
        train([row(n, buckets=(60_000,)) for n in range(4)], scorer=SMALL, weak="bronze", strong="gold")


@pytest.mark.parametrize("share", [-0.1, 1.5, True])
def test_a_share_is_from_0_to_1(share: float) -> None:
    with pytest.raises(ConfigError, match="share"):
        train_samples(Samples(), share=share)


def test_what_the_given_scorer_has_learned_is_not_taken_over(tmp_path: Path) -> None:
    taught = LearnedScorer(buckets=4096, salt=b"mine")
    for _ in range(50):
        taught.learn("hello", weak=0.0, strong=1.0)
    path = write(tmp_path / "log", list(questions(50)))
    made = train(read_decisions(path), scorer=taught, resamples=100)
    assert made.scorer.salt == b"mine"
    assert made.scorer.samples == 50
    assert abs(made.scorer.score("hello")) < 0.4 < taught.score("hello")


# -- a choice that was not what became of it -----------------------------------------------------


def attempt(tier: str, outcome: str = "ok", usd: str = "0.01") -> dict[str, Any]:
    return {"tier": tier, "deployment": "m", "outcome": outcome, "cost_usd": usd}


def cascaded(seed: int, *, scored: bool, count: int = 1_500) -> tuple[list[DecisionRow], float]:
    """A log of a cascade: a judge finds most poor answers of the weak model, and those are not served."""
    rng = random.Random(seed)
    found, weak = [], 0.0
    for number in range(count):
        hard, strong = rng.random() < 0.4, rng.random() < 0.3
        good = float(rng.random() < (0.4 if hard else 0.9))
        weak += good / count
        told: dict[str, Any] = {"served": "gold" if strong else "bronze", "quality": 0.92 if strong else good}
        tried = [attempt(told["served"])]
        if not strong and not good and rng.random() < 0.7:
            told |= {"served": "gold", "quality": 0.92}
            tried.append(attempt("gold"))
            if scored:
                told["scores"] = {"judge": 0.0}
        told |= {"arm": "strong" if strong else "weak", "propensity": 0.3 if strong else 0.7}
        told |= {"granted": "gold" if strong else "bronze", "raw": {"attempts": tried}}
        found.append(row(number, text=f"{'prove' if hard else 'hello'} {number}", **told))
    return found, weak


def test_answers_that_a_cascade_did_not_serve_count_by_what_its_judge_said() -> None:
    found, weak = cascaded(1, scored=True)
    made = train(found, scorer=SMALL, resamples=100)
    assert (made.weak, made.strong) == ("bronze", "gold")
    assert made.evaluation is not None
    assert made.evaluation.weak.low < weak < made.evaluation.weak.high
    assert made.evaluation.weak.value == pytest.approx(weak, abs=0.05)


def test_without_its_judges_scores_chance_judges_nothing() -> None:
    found, _ = cascaded(1, scored=False)
    made = train(found, scorer=SMALL, resamples=100)
    assert made.evaluation is None
    assert any("chance sent to the weak model, another model answered" in doubt for doubt in made.doubts)


def test_the_weak_models_share_of_the_bill_is_its_own() -> None:
    both = {"attempts": [attempt("bronze", usd="0.001"), attempt("gold", usd="0.02")]}
    more = {"arm": "weak", "propensity": 0.5, "granted": "bronze", "scores": {"judge": 0.1}, "raw": both}
    (sample,) = taken([row(1, served="gold", quality=0.9, **more)]).found
    assert (sample.weak, sample.strong, sample.weak_usd, sample.propensity) == (0.1, None, 0.001, 0.5)


@pytest.mark.parametrize(
    ("attempts", "granted", "doubted"),
    [
        ([attempt("bronze", "failed"), attempt("gold")], "bronze", True),
        ([attempt("bronze", "rejected"), attempt("gold")], "bronze", False),  # it was never asked
        ([attempt("gold")], "gold", False),  # sent elsewhere for the load
    ],
    ids=["failed", "full", "shed"],
)
def test_falling_back_counts_as_lost_where_the_model_was_asked(
    attempts: list[dict[str, Any]], granted: str, doubted: bool
) -> None:
    more = {"arm": "weak", "propensity": 0.5, "granted": granted, "raw": {"attempts": attempts}}
    samples = taken([row(1, served="gold", **more)])
    assert bool(samples.doubts) is doubted
    assert (samples.found[0].strong, samples.found[0].propensity) == (1.0, None)


def test_it_is_lost_as_well_where_a_third_tier_answered() -> None:
    tried = [attempt("bronze", "failed"), attempt("silver")]
    more = {"arm": "weak", "propensity": 0.5, "granted": "bronze", "raw": {"attempts": tried}}
    samples = taken([row(1, served="silver", **more)])
    assert samples.doubts
    assert samples.left_out == {"a third tier answered": 1}
    more |= {"scores": {"judge": 0.2}, "raw": {"attempts": [attempt("bronze"), attempt("silver")]}}
    (sample,) = taken([row(1, served="silver", **more)]).found
    assert (sample.weak, sample.strong, sample.propensity) == (0.2, None, 0.5)


def test_one_fallback_in_many_calls_does_no_harm() -> None:
    found = [row(n, arm="strong" if n % 2 else "weak", propensity=0.5) for n in range(300)]
    found[1] = row(1, arm="weak", propensity=0.5)
    samples = taken(found)
    assert not samples.doubts
    assert sum(sample.propensity is not None for sample in samples.found) == 299


def test_a_poor_answer_that_was_served_after_all_is_the_weak_models_own() -> None:
    (sample,) = taken([row(2, degraded=("not_escalated",), arm="weak", propensity=0.5)]).found
    assert (sample.weak, sample.propensity) == (1.0, 0.5)


def test_the_tier_that_a_model_was_sent_to_is_its_tier_wherever_it_was_answered() -> None:
    found = [row(n, arm="weak", granted="bronze", served="gold") for n in range(20)]
    found += [row(20 + n, arm="weak", granted="bronze", served="bronze") for n in range(5)]
    found += [row(30 + n, arm="strong", granted="gold", served="gold") for n in range(5)]
    samples = taken(found, weak=None, strong=None)
    assert (samples.weak, samples.strong) == ("bronze", "gold")


def test_a_weak_model_that_is_the_dearer_one_is_not_believed() -> None:
    found = [
        row(n, arm="weak" if n % 2 else "strong", cost_usd=Decimal("0.02" if n % 2 else "0.001"))
        for n in range(20)
    ]
    with pytest.raises(ConfigError, match="cost more"):
        taken(found, weak=None, strong=None)
    assert taken(found, weak="gold", strong="bronze").weak == "gold"


# -- claims -------------------------------------------------------------------------------------


def noise(seed: int, count: int) -> Samples:
    rng = random.Random(seed)
    words = [f"w{number}" for number in range(200)]
    found = []
    for number in range(count):
        sample = Sample(
            buckets=array("I", SMALL.buckets_of(" ".join(rng.choices(words, k=6)))),
            prompt=str(number).encode(),
            group=f"u{rng.randrange(80)}",
            weak=float(rng.random() < 0.5),
            strong=float(rng.random() < 0.8),
        )
        found.append(sample)
    return Samples(found=found, weak="bronze", strong="gold", rows=count, grouped_by="user")


def test_pure_noise_is_claimed_to_be_skill_no_more_often_than_the_interval_says() -> None:
    claims = sum(
        not train_samples(noise(seed, 300), scorer=SMALL, resamples=100, seed=seed).doubts
        for seed in range(80)
    )
    assert claims <= 4  # 2.5 % of 80 is 2


def test_no_scorer_has_seen_what_it_judges_nor_what_came_later(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = noise(1, 200).found
    folds = training._folds(samples)
    place = {id(sample): fold for sample, fold in zip(samples, folds, strict=True)}
    seen: list[int] = []

    def taught(like: LearnedScorer, others: Any) -> LearnedScorer:
        seen.append(max(place[id(sample)] for sample in others))
        return like

    monkeypatch.setattr(training, "_taught", taught)
    training._held_out(samples, folds, SMALL)
    assert seen == [2, 3, 4, 5, 6, 7, 8]
    fold_of: dict[str, int] = {}
    for sample, fold in zip(samples, folds, strict=True):
        assert fold_of.setdefault(sample.group, fold) == fold


def test_prices_of_a_few_are_not_the_prices_of_all(tmp_path: Path) -> None:
    found = rows(tmp_path / "log", list(questions(300)))
    few = [each if at < 8 else replace(each, cost_usd=None) for at, each in enumerate(found)]
    made, all_priced = (train(each, scorer=SMALL, resamples=100) for each in (few, found))
    assert made.evaluation is not None
    assert made.evaluation.saved is None
    assert all_priced.evaluation is not None
    assert all_priced.evaluation.saved is not None


def test_a_prompt_is_the_same_however_it_is_written_and_kept() -> None:
    asked = ("Which colour", "which  colour", "which colour")
    kept = [row(n, text=text) for n, text in enumerate(asked)]
    kept.append(row(9, text=None, buckets=tuple(reversed(SMALL.buckets_of(asked[0])))))
    assert len({sample.prompt for sample in taken(kept).found}) == 1


def test_a_bucket_number_that_is_none_costs_its_row_alone() -> None:
    found = [row(n, weak_quality=0.0, strong_quality=1.0) for n in range(60)]
    found.append(row(60, buckets=(4_000_000_000,), text=None))
    made = train(found, scorer=SMALL, weak="bronze", strong="gold", resamples=100)
    assert made.samples == 60
    assert made.left_out == {"its buckets are none": 1}

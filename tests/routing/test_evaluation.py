"""Curves, areas and intervals, against their definitions."""

from __future__ import annotations

import math
import random
import statistics
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.routing import evaluation
from tierllm.routing.curve_svg import curve_svg
from tierllm.routing.evaluation import Weighed, evaluated, worth

SCORES = st.floats(-1, 1, allow_nan=False)
OUTCOMES = st.floats(-2, 3, allow_nan=False)


def calls(count: int, seed: int = 0, *, skill: float = 0.5, groups: int | None = None) -> list[Weighed]:
    """Of half of the calls the strong model makes something; the score knows which, ``skill`` of the time."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        hard = rng.random() < 0.5
        score = float(hard) if rng.random() < skill else rng.random()
        group = number if groups is None else number % groups
        made.append(Weighed(score, 0.0 if hard else 1.0, 1.0, group, 1.0, 10.0))
    return made


@given(st.lists(st.tuples(SCORES, OUTCOMES, OUTCOMES), min_size=1, max_size=30, unique_by=lambda t: t[0]))
def test_the_curve_is_what_its_definition_says(given_calls: list[tuple[float, float, float]]) -> None:
    made = [Weighed(score, weak, strong, at) for at, (score, weak, strong) in enumerate(given_calls)]
    found = evaluated(made, share=0.3, resamples=1)
    order = sorted(made, key=lambda call: -call.score)
    count = len(order)
    gap = sum(call.strong - call.weak for call in order)

    def quality(share: float) -> float:
        total = 0.0
        for at, call in enumerate(order):
            part = min(1.0, max(0.0, share * count - at))  # of this call that is strong
            total += call.weak + part * (call.strong - call.weak)
        return total / count

    for point in found.curve:
        assert point.quality.value == pytest.approx(quality(point.share), abs=1e-9)
    assert found.gap.value == pytest.approx(gap / count, abs=1e-9)
    steps = 2_000
    area = sum(quality((at + 0.5) / steps) for at in range(steps)) / steps
    assert found.lift.value == pytest.approx(area - (quality(0) + quality(1)) / 2, abs=0.01 * count**0.5)
    if abs(gap) > 0.1 * count:
        recovered = (area - quality(0)) / (quality(1) - quality(0))
        assert found.apgr.value == pytest.approx(recovered, abs=0.1)


def test_a_score_that_knows_all_and_one_that_knows_nothing() -> None:
    best = evaluated(calls(4_000, skill=1.0), share=0.5, resamples=100)
    assert best.apgr.value == pytest.approx(0.75, abs=0.01)  # half of the calls bring the whole gap
    assert best.recovered.value == pytest.approx(1.0, abs=0.03)
    assert best.doubts == ()
    none = evaluated(calls(4_000, skill=0.0), share=0.5, resamples=100)
    assert none.apgr.value == pytest.approx(0.5, abs=0.02)
    assert none.apgr.low < 0.5 < none.apgr.high
    assert "contains chance" in none.doubts[0]


def test_equal_scores_are_as_good_as_chance() -> None:
    made = [call._replace(score=0.0) for call in calls(2_000, skill=1.0)]
    found = evaluated(sorted(made, key=lambda call: call.weak), share=0.3, resamples=100)
    assert found.lift.low < 0 < found.lift.high


def test_a_strong_model_that_is_no_better_is_said_to_be_so() -> None:
    made = [call._replace(strong=call.weak) for call in calls(500)]
    found = evaluated(made, share=0.3, resamples=100)
    assert "not certainly better" in found.doubts[0]
    assert math.isnan(found.apgr.value)
    assert found.enough_share is None
    assert found.to_dict()["apgr"]["value"] is None


def test_dollars_saved() -> None:
    found = evaluated(calls(4_000, skill=1.0), share=0.5, resamples=100)
    assert found.saved is not None
    assert found.saved.value == pytest.approx(1 - 5.5 / 10)
    assert found.enough_share is not None
    assert found.enough_share.value == pytest.approx(0.45, abs=0.03)  # 95 % of the quality of all strong
    assert found.enough_saved is not None
    assert found.enough_saved.low <= found.enough_saved.value <= found.enough_saved.high
    assert [point.usd for point in found.curve][::20] == pytest.approx([1.0, 10.0])


def test_without_prices_there_are_no_dollars() -> None:
    made = [call._replace(weak_usd=None) if at == 7 else call for at, call in enumerate(calls(100))]
    found = evaluated(made, share=0.3, resamples=100)
    assert (found.saved, found.enough_saved, found.at_share.usd) == (None, None, None)


def test_the_same_seed_gives_the_same_numbers() -> None:
    made = calls(300)
    assert evaluated(made, share=0.3, seed=4) == evaluated(made, share=0.3, seed=4)
    assert evaluated(made, share=0.3, seed=4).apgr != evaluated(made, share=0.3, seed=5).apgr


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    """The gap is .5 in truth; of 60 intervals of 95 %, 3 miss it in the mean, and hardly ever 9."""
    missed = 0
    for seed in range(60):
        gap = evaluated(calls(80, seed), share=0.3, resamples=100, seed=seed).gap
        missed += not gap.low <= 0.5 <= gap.high
    assert missed <= 8


def test_calls_of_one_group_are_not_as_many_as_they_seem() -> None:
    def width(groups: int | None) -> float:
        one = [call._replace(group=at % 300) for at, call in enumerate(calls(300))]
        made = one * 4 if groups else [call._replace(group=at) for at, call in enumerate(one * 4)]
        gap = evaluated(made, share=0.3, resamples=300).gap
        return gap.high - gap.low

    assert width(300) > 1.6 * width(None)


def test_important_calls_are_counted_by_their_rank() -> None:
    found = evaluated(calls(100), share=0.3, important=[0.1, 0.69, 0.71, 0.99], resamples=100)
    assert (found.important, found.important_to_weak) == (4, 2)


def test_nothing_to_judge() -> None:
    with pytest.raises(ValueError, match="nothing"):
        evaluated([], share=0.3)


def test_worth() -> None:
    assert worth([0.5] * 10) == pytest.approx(10)
    assert worth([]) == 0
    assert worth([0.99] * 1_000 + [0.01]) == pytest.approx(112, abs=1)
    assert worth([0.2, 0.8]) == pytest.approx(statistics.fmean([5, 1.25]) ** 2 * 4 / (25 + 1.5625))


@pytest.mark.parametrize("kind", ["priced", "unpriced", "no gap", "one call"])
def test_the_picture_is_sound_svg(kind: str) -> None:
    made = calls(200)
    if kind == "unpriced":
        made = [call._replace(weak_usd=None) for call in made]
    elif kind == "no gap":
        made = [call._replace(weak=0.5, strong=0.5) for call in made]
    elif kind == "one call":
        made = made[:1]
    text = curve_svg(evaluated(made, share=0.3, resamples=100), weak="<bronze>", strong='"gold"')
    picture = ElementTree.fromstring(text)
    said = "".join(picture.itertext())
    assert "always <bronze>" in said
    assert 'always "gold"' in said
    assert ("dollars for 1,000 calls" in said) == (kind != "unpriced")
    assert "nan" not in text
    assert "inf" not in text
    assert "prefers-color-scheme: dark" in said
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert len(text) < 8_000


def test_the_worth_of_chances_is_told_however_small_they_are() -> None:
    assert worth([1e-200, 0.5]) == pytest.approx(1.0)
    assert worth([]) == 0.0


def test_few_people_make_a_wider_interval() -> None:
    """A bootstrap of twenty groups holds the truth too seldom."""
    of = calls(400, seed=3, groups=20)
    found = evaluated(of, share=0.3, resamples=200, seed=1)
    assert evaluation._wider(of) > 1.05
    many = [call._replace(group=at) for at, call in enumerate(of)]
    assert evaluation._wider(many) < 1.01
    assert found.gap.low < found.gap.value < found.gap.high
    assert evaluation._wider([call._replace(group=0) for call in of]) == evaluation.MOST_WIDER


@pytest.mark.parametrize("name", ["go\ud800ld", "go\x00ld", "<gold>&"], ids=["surrogate", "null", "markup"])
def test_a_picture_is_sound_whatever_a_tier_is_called(name: str) -> None:
    picture = curve_svg(evaluated(calls(40), share=0.3, resamples=100), weak="bronze", strong=name)
    ElementTree.fromstring(picture.encode("utf-8"))

"""A share of strong calls, kept whatever the scores do."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierllm.routing.share import BOUND, FIRST, RECENT, Share

Scores = Callable[[int, random.Random], float]

SCORES: dict[str, Scores] = {
    "even": lambda at, rng: rng.random(),
    "always the same": lambda at, rng: 0.0,
    "two values": lambda at, rng: float(rng.random() < 0.7),
    "rising for ever": lambda at, rng: at + rng.random(),
    "falling for ever": lambda at, rng: -at + rng.random(),
    "a jump": lambda at, rng: rng.random() + 100 * (at > 1500),
    "shrinking": lambda at, rng: rng.gauss(0, 1) / (1 + at),
    "in turns": lambda at, rng: math.sin(at / 40) + 0.1 * rng.random(),
    "infinite": lambda at, rng: rng.choice((math.inf, -math.inf, 0.0)),
}


def run(share: float, scores: Scores, calls: int, seed: int = 1) -> tuple[Share, list[tuple[float, bool]]]:
    kept, rng, made = Share(), random.Random(seed), []
    for at in range(calls):
        score = scores(at, rng)
        strong = rng.random() < kept.chance(score, kept.wanted(share))
        kept.took(score, share, strong)
        made.append((score, strong))
    return kept, made


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("name", SCORES)
def test_within_a_point_from_2000_calls_on(name: str, share: float) -> None:
    _, made = run(share, SCORES[name], 4000)

    strong = 0
    for count, (_, is_strong) in enumerate(made, 1):
        strong += is_strong
        assert count < 2000 or abs(strong / count - share) <= 0.01


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1.0, 0.5, -3.0, 7.0]), min_size=1, max_size=50),
    st.floats(0, 1),
    st.integers(0, 999),
)
def test_never_further_off_than_the_bound(pattern: list[float], share: float, seed: int) -> None:
    kept, made = run(share, lambda at, rng: pattern[at % len(pattern)] + at // 600, 1500, seed)

    owed = 0.0
    for _, strong in made:
        owed += share - strong
        assert abs(owed) <= BOUND + 1
    assert kept.owed == pytest.approx(owed, abs=1e-6)


def test_the_highest_scores_are_strong() -> None:
    _, made = run(0.3, SCORES["even"], 4000)

    late = made[1000:]
    high = [strong for score, strong in late if score > 0.8]
    low = [strong for score, strong in late if score < 0.6]
    assert sum(high) / len(high) > 0.95
    assert sum(low) / len(low) < 0.05


def test_of_equal_scores_chance_takes_as_many_as_belong_to_it() -> None:
    """60 % have 1.0: with a share of 30 %, half of those, and none of the others."""
    _, made = run(0.3, lambda at, rng: float(rng.random() < 0.6), 4000)

    late = made[1000:]
    assert not any(strong for score, strong in late if score == 0.0)
    ones = [strong for score, strong in late if score == 1.0]
    assert 0.45 < sum(ones) / len(ones) < 0.55


def test_the_chance_of_one_of_many_that_are_equal() -> None:
    kept = Share()
    for score in [1.0] * 300 + [0.0] * 200:
        kept.took(score, 0.3, False)

    assert kept.chance(1.0, 0.3) == pytest.approx(0.5, abs=0.01)
    assert kept.chance(0.0, 0.3) == 0.0
    assert kept.chance(0.0, 0.8) == pytest.approx(0.5, abs=0.01)
    assert kept.chance(1.0, 0.8) == kept.chance(2.0, 0.3) == 1.0


def test_a_share_that_moves_is_followed() -> None:
    kept, rng = Share(), random.Random(3)
    strong = 0
    for at in range(4000):
        share = 0.5 if at < 2000 else 0.1
        score = rng.random()
        is_strong = rng.random() < kept.chance(score, kept.wanted(share))
        kept.took(score, share, is_strong)
        strong += is_strong
    assert abs(strong - 1200) <= BOUND + 1


def test_near_the_share_hardly_anything_is_made_up_for() -> None:
    kept = Share()
    kept.owed = BOUND / 4
    assert kept.wanted(0.3) == pytest.approx(0.3, abs=0.015)
    kept.owed = -BOUND / 4
    assert kept.wanted(0.3) == pytest.approx(0.3, abs=0.015)
    kept.owed = BOUND
    assert kept.wanted(0.3) == 1.0
    kept.owed = -BOUND
    assert kept.wanted(0.3) == 0.0


def test_chance_decides_at_first() -> None:
    kept = Share()

    assert kept.chance(5.0, 0.3) == 0.3
    assert kept.threshold(0.3) is None
    for _ in range(FIRST):
        kept.took(0.0, 0.3, False)
    assert kept.chance(5.0, 0.3) == 1.0
    assert kept.threshold(0.3) == 0.0


def test_what_had_no_score_counts_and_is_not_compared_with() -> None:
    kept = Share()
    for _ in range(100):
        kept.took(None, 0.3, True)

    assert (kept.calls, kept.strong, kept.realised) == (100, 100, 1.0)
    assert kept.threshold(0.3) is None
    assert kept.owed == -2 * BOUND, "what could not be helped is not made up for without end"
    assert Share().realised is None


def test_its_memory_is_bounded() -> None:
    kept, _ = run(0.3, SCORES["rising for ever"], 3000)

    assert len(kept._sorted) == len(kept._recent) == RECENT
    assert kept._sorted == sorted(kept._recent)

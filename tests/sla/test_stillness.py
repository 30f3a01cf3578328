"""A process that stands still, told from places that are slow."""

from __future__ import annotations

import pytest

from tierllm.sla.stillness import Stillness


def watched(per_s: float, seconds: int = 120) -> tuple[Stillness, float, int]:
    still, begun = Stillness(1.0), 0
    for second in range(1, seconds):
        begun = round(second * per_s)
        assert still.look(float(second - 1), float(second), begun) is None
    return still, float(seconds - 1), begun


@pytest.mark.parametrize(
    ("per_s", "gap_s", "stood"),
    [(12, 6, True), (12, 2.5, False), (2, 6, False), (2, 20, True), (0.1, 50, False), (12, 70, False)],
)
def test_a_gap_that_chance_does_not_explain(per_s: float, gap_s: float, stood: bool) -> None:
    still, now, begun = watched(per_s)
    assert still.look(now, now + gap_s, begun) == ((now, now + gap_s) if stood else None)


def test_where_all_wait_for_one_slow_place_it_soon_knows() -> None:
    still, now, begun = watched(12)
    stood = 0
    for _ in range(12):  # all twelve callers wait for nine seconds, and again
        begun += 12
        stood += still.look(now, now + 9, begun) is not None
        now += 9
    assert 1 <= stood <= 5
    assert still.look(now, now + 9, begun + 12) is None


def test_the_first_look_and_a_clock_set_back() -> None:
    still = Stillness(1.0)
    assert still.look(float("-inf"), 5.0, 3) is None
    assert still.look(5.0, 5.0, 3) is None

"""Steps do not flap: whatever the load does, each changes at most so often in any hour."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierllm.admission.hysteresis import HOUR_S, Switch

Wave = Callable[[float], float]


def switch(dwell_s: float = 60.0, most: int = 4) -> Switch:
    return Switch(at=1.2, leave=0.96, dwell_s=dwell_s, most=most)


def most_in_an_hour(changes: Sequence[float]) -> int:
    return max((sum(first <= at <= first + HOUR_S for at in changes) for first in changes), default=0)


def played(wave: Wave, seconds: float, step_s: float = 1.0, **settings: float) -> tuple[list[float], float]:
    """When it changed, and for how many seconds it was off though the load called for it."""
    thrown, changes, missed_s, now = switch(**settings), [], 0.0, 0.0  # type: ignore[arg-type]
    while now < seconds:
        signal = wave(now)
        if thrown.look(signal, now):
            changes.append(now)
        if signal >= thrown.at and not thrown.on:
            missed_s += step_s
        now += step_s
    return changes, missed_s


WAVES: dict[str, Callable[[float], Wave]] = {
    "square": lambda period: lambda now: 1.4 if now % period < period / 2 else 0.5,
    "sine": lambda period: lambda now: 1.0 + 0.5 * math.sin(2 * math.pi * now / period),
    "saw": lambda period: lambda now: 0.5 + 1.0 * (now % period) / period,
    "spikes": lambda period: lambda now: 1.4 if now % period < 1 else 0.5,
}


@pytest.mark.parametrize("shape", WAVES)
@pytest.mark.parametrize("period_s", [2, 10, 61, 122, 600, 1200, 1800, 2400, 3600, 7200])
def test_waves_of_any_period(shape: str, period_s: float) -> None:
    changes, missed_s = played(WAVES[shape](period_s), 6 * HOUR_S, step_s=2.0 if period_s > 4 else 0.5)
    assert most_in_an_hour(changes) <= 4
    assert missed_s == 0  # entering never had to wait
    assert changes  # it did come on


Signals = st.lists(
    st.tuples(st.floats(0, 2), st.one_of(st.floats(0, 5), st.floats(0, 200), st.floats(0, 8000))),
    max_size=200,
)


@given(signals=Signals, dwell_s=st.sampled_from([0.0, 1.0, 60.0, 600.0]), most=st.integers(2, 7))
@settings(max_examples=300, deadline=None)
def test_any_load_changes_it_so_often_at_most_and_never_keeps_it_from_coming_on(
    signals: list[tuple[float, float]], dwell_s: float, most: int
) -> None:
    thrown, now, changes = switch(dwell_s, most), 0.0, []
    for signal, passed_s in signals:
        now += passed_s
        if thrown.look(signal, now):
            changes.append(now)
        if signal >= thrown.at:
            assert thrown.on
    assert most_in_an_hour(changes) <= most


@pytest.mark.parametrize("seed", range(5))
def test_noise_around_the_threshold(seed: int) -> None:
    rng = random.Random(seed)
    changes, missed_s = played(lambda now: rng.gauss(1.1, 0.15), 12 * HOUR_S)
    assert most_in_an_hour(changes) <= 4
    assert missed_s == 0


# -- entering and leaving ----------------------------------------------------------------


def test_it_comes_on_at_once_and_goes_off_after_the_dwell() -> None:
    thrown = switch()
    assert not thrown.look(1.19, 0)
    assert thrown.look(1.2, 1)
    for second in range(2, 62):
        assert not thrown.look(0.96, second)
    assert thrown.look(0.96, 62)
    assert not thrown.on


def test_between_the_two_it_stays_as_it_is() -> None:
    thrown = switch()
    thrown.look(1.3, 0)
    for second in range(1, 5000):
        assert not thrown.look(1.0, second)
    assert thrown.on


def test_a_moment_above_begins_the_dwell_anew() -> None:
    thrown = switch()
    thrown.look(1.3, 0)
    for second in range(1, 60):
        thrown.look(0.5, second)
    thrown.look(1.0, 60)
    for second in range(61, 121):
        assert not thrown.look(0.5, second)
    assert thrown.look(0.5, 121)


def test_where_nobody_came_for_so_long_it_was_calm() -> None:
    thrown = switch()
    thrown.look(1.3, 0)
    assert thrown.look(0.1, 60)


def test_where_the_load_is_still_high_after_a_gap_it_stays() -> None:
    thrown = switch()
    thrown.look(1.3, 0)
    assert not thrown.look(1.0, 10_000)
    assert not thrown.look(0.5, 10_001)


def test_a_clock_that_stands_still_or_goes_back_breaks_nothing() -> None:
    thrown = switch()
    thrown.look(1.3, 100)
    for _ in range(1000):
        assert not thrown.look(0.1, 50)
    assert thrown.on
    assert thrown.off_in_s(50) == 60
    assert not thrown.look(0.1, 109)
    assert thrown.look(0.1, 110)


def test_a_load_that_is_no_number_changes_nothing() -> None:
    thrown = switch()
    assert not thrown.look(math.nan, 0)
    thrown.look(1.3, 1)
    assert not thrown.look(math.nan, 1000)
    assert thrown.on


def test_it_says_when_it_may_go_off() -> None:
    thrown = switch()
    thrown.look(1.3, 0)
    assert thrown.off_in_s(0) == 60
    thrown.look(0.5, 10)
    assert thrown.off_in_s(40) == 30
    thrown.look(0.5, 70)
    thrown.look(1.3, 80)  # the third change of the hour: there is no room for two more
    assert thrown.off_in_s(80) == pytest.approx(3600 - 80)
    for second in range(81, 3601):
        assert not thrown.look(0.5, second)
    assert thrown.look(0.5, 3601)

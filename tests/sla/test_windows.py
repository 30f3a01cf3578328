"""Sliding windows against a list of everything that was ever counted; quantiles against the true ones."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierllm.sla.windows import CELL_S, WINDOWS_S, Windows, quantile, spaced, with_own

CELLS_S = dict(zip(WINDOWS_S, (15, 150, 150, 900, 900, 10_800, 10_800), strict=True))

steps_s = st.one_of(
    st.just(0.0),
    st.floats(0, 20),
    st.floats(0, 2_000),
    st.sampled_from([15.0, 150.0, 900.0, 3_600.0, 10_800.0, 86_400.0]),
    st.floats(0, 400_000),
)


def counted(windows: Windows, now: float, at: int = 0, cost: float = 0.0) -> None:
    look(windows, now)
    windows.cell[at] += 1
    windows.cost += cost
    windows.dearest = max(windows.dearest, cost)


def look(windows: Windows, now: float) -> None:
    if not windows.open_at <= now < windows.ends_at:
        windows.turn(now)


@settings(deadline=None, max_examples=300)
@given(st.floats(-1e6, 1e9), st.lists(st.tuples(steps_s, st.integers(0, 2)), min_size=1, max_size=80))
def test_a_window_is_never_shorter_than_said_and_longer_by_less_than_a_cell(
    start: float, calls: list[tuple[float, int]]
) -> None:
    windows = Windows(3, 2)
    moments = [start + after for after in accumulate(step for step, _ in calls)]
    slack_s = 1e-6 * max(1.0, abs(moments[-1]) * 1e-6)
    costs = [float(number * 37 % 101) for number in range(len(calls))]
    for number, (now, (_, at)) in enumerate(zip(moments, calls, strict=True)):
        counted(windows, now, at, cost=costs[number])
        for window_s in WINDOWS_S:
            totals = windows.totals(window_s)
            ages = [now - moment for moment in moments[: number + 1]]
            surely = [each for each, age in enumerate(ages) if age <= window_s - slack_s]
            perhaps = [each for each, age in enumerate(ages) if age < window_s + CELLS_S[window_s] + slack_s]
            for kind in range(3):
                least, most = (sum(calls[each][1] == kind for each in some) for some in (surely, perhaps))
                assert least <= totals[kind] <= most
            head, total, dearest, seconds = windows.head(window_s)
            assert head == totals[:2]
            assert sum(costs[each] for each in surely) <= total <= sum(costs[each] for each in perhaps)
            assert max(costs[each] for each in surely) <= dearest <= max(costs[each] for each in perhaps)
            # since the first call in the window, up to the cell under way, in whole cells
            oldest = [max(ages[each] for each in some) for some in (surely, perhaps)]
            assert oldest[0] - CELL_S - slack_s <= seconds <= oldest[1] + CELL_S + slack_s


def test_each_window_has_cells_as_said() -> None:
    windows = Windows(1, 1)
    for second in range(0, 300_000, 5):
        counted(windows, float(second))
    for window_s in WINDOWS_S:
        assert window_s <= windows.totals(window_s)[0] * 5 <= window_s + CELLS_S[window_s]


def test_what_is_old_is_gone_after_silence_too() -> None:
    windows = Windows(1, 1)
    counted(windows, 0.0, cost=3.0)
    look(windows, 4 * 86_400.0)
    assert [windows.totals(each) for each in WINDOWS_S] == [[0]] * 7
    assert [windows.head(each) for each in WINDOWS_S] == [([0], 0.0, 0.0, 0.0)] * 7


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(steps_s, st.floats(0, 10), st.sets(st.sampled_from(WINDOWS_S))), max_size=60))
def test_sums_that_are_kept_are_those_that_would_be_made_anew(
    calls: list[tuple[float, float, set[float]]],
) -> None:
    """Whenever they are asked for, or not."""
    asked, never_asked, now = Windows(3, 3), Windows(3, 3), 0.0
    for number, (step_s, cost, some) in enumerate(calls):
        now += step_s
        for windows in (asked, never_asked):
            counted(windows, now, number % 3, cost)
        for window_s in some:
            asked.head(window_s)
    for window_s in WINDOWS_S:
        counts, cost, *others = asked.head(window_s)
        assert counts == never_asked.totals(window_s)
        assert [cost, *others] == [
            pytest.approx(never_asked.head(window_s)[1]),
            *never_asked.head(window_s)[2:],
        ]


# -- clocks ------------------------------------------------------------------------


def test_threads_that_come_out_of_order_count_into_the_newest_cell() -> None:
    windows = Windows(1, 1)
    counted(windows, 15.1)
    counted(windows, 30.2)
    counted(windows, 30.1)
    counted(windows, 29.9)
    assert windows.totals(300.0) == [4]
    assert windows.ends_at == pytest.approx(45.1)


def test_a_clock_set_back_by_less_than_a_cell_begins_none() -> None:
    windows = Windows(1, 1)
    assert not windows.turn(1_000.0)  # the first: none is over
    assert windows.turn(1_015.0)
    assert not windows.turn(1_000.5)
    assert windows.open_at <= 1_000.5 < windows.ends_at  # so nobody has to ask
    assert windows.ends_at == 1_030.0
    assert not windows.turn(999.0)  # by more: time goes on from there, and no cell is over
    assert windows.ends_at == 1_014.0


def test_time_since_the_first_call_is_known_after_a_gap() -> None:
    windows = Windows(1, 1)
    counted(windows, 0.0)
    for second in range(200_000, 200_900, 5):
        counted(windows, float(second))
    assert windows.head(300.0)[3] == 300.0
    assert windows.head(3_600.0)[3] == windows.head(86_400.0)[3] == 900.0
    assert windows.head(259_200.0)[3] == windows.elapsed_s


def test_after_a_clock_was_set_back_time_goes_on_from_there() -> None:
    windows = Windows(1, 1)
    for second in range(1_000):
        counted(windows, 1e6 + second)
    before = windows.totals(300.0)[0]
    counted(windows, 5.0)
    assert windows.totals(300.0)[0] == before + 1
    for second in range(1_000):
        counted(windows, 6.0 + second)
    assert 300 <= windows.totals(300.0)[0] <= 315
    assert windows.totals(3_600.0)[0] == 2_001


@settings(deadline=None)
@given(st.lists(st.one_of(st.floats(-1e9, 1e9), st.floats(0, 100)), min_size=1, max_size=60))
def test_whatever_the_clock_does_counts_are_neither_negative_nor_made_up(moments: list[float]) -> None:
    windows, elapsed = Windows(1, 1), 0.0
    for number, now in enumerate(moments, 1):
        counted(windows, now)
        for window_s in WINDOWS_S:
            assert 1 <= windows.totals(window_s)[0] <= number
        since, elapsed = elapsed, windows.elapsed_s
        assert elapsed >= since


# -- bounds ------------------------------------------------------------------------


def test_a_count_stops_where_it_does_not_fit() -> None:
    windows = Windows(1, 1)
    for now in (0.0, CELL_S):
        look(windows, now)
        windows.cell[0] = 2**33
    look(windows, 2 * CELL_S)
    assert windows.totals(300.0) == [2 * (2**32 - 1)]
    assert windows.totals(3_600.0) == [2**32 - 1]


def test_one_who_counts_while_a_cell_is_put_away_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage collection may end a call anywhere, also within this very thing."""
    from tierllm.sla import windows as module

    windows, packed, depth = Windows(1, 1), module._packed, []

    def interrupted(values: list[int]) -> bytes:
        if len(depth) < 3:
            depth.append(1)
            counted(windows, 16.0)
        return packed(values)

    monkeypatch.setattr(module, "_packed", interrupted)
    counted(windows, 0.0)
    counted(windows, 16.0)
    counted(windows, 32.0)
    assert windows.totals(300.0) == [3 + len(depth)]


# -- quantiles ---------------------------------------------------------------------

EDGES = spaced(0.1, 10)


def test_four_edges_to_a_doubling_and_one_at_each_objective() -> None:
    assert len(EDGES) == 41
    assert EDGES[0] == 0.1
    assert EDGES[4] == pytest.approx(0.2)
    assert EDGES[-1] == pytest.approx(102.4)
    own = with_own(EDGES, [4.0, 0.01, 600.0, 4.0])
    assert len(own) == 44
    assert own[0] == 0.01
    assert own[-1] == 600.0
    assert list(own) == sorted(own)


def histogram(values: list[float], edges: tuple[float, ...]) -> list[int]:
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[sum(edge < value for edge in edges)] += 1
    return counts


@given(
    st.lists(st.floats(0.1, 102.0, exclude_min=True), min_size=1, max_size=200),
    st.sampled_from([0.5, 0.95, 0.99]),
    st.lists(st.floats(0.11, 100.0), max_size=3),
)
def test_a_quantile_is_at_most_19_percent_off(values: list[float], share: float, own: list[float]) -> None:
    edges = with_own(EDGES, own)
    estimate = quantile(histogram(values, edges), edges, share)
    true = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    assert estimate is not None
    assert 2**-0.2501 <= estimate / true <= 2**0.2501


@pytest.mark.parametrize(
    ("values", "told"),
    [([], None), ([500.0], EDGES[-1]), ([0.01], 0.05)],
    ids=["none", "beyond the last edge", "below the first"],
)
def test_quantiles_at_the_ends(values: list[float], told: float | None) -> None:
    assert quantile(histogram(values, EDGES), EDGES, 0.5) == told

"""The log of recent takes, against the definition of a sliding window."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission.limiting import Window
from tierllm.admission.limit_draw import until
from tierllm.admission.limit_log import CELLS, MINUTE_S, LimitLog, Shape

NAMES = ("rpm", "tpm", "input_tpm", "output_tpm")
INF = math.inf


def log(rpm: float = INF, tpm: float = INF, input_tpm: float = INF, output_tpm: float = INF) -> LimitLog:
    return LimitLog(Shape(MINUTE_S, (rpm, tpm, input_tpm, output_tpm), NAMES))


STEPS = st.lists(
    st.tuples(
        st.integers(0, 40),  # half seconds until it comes
        st.integers(0, 30),  # input
        st.integers(0, 30),  # output
        st.integers(-1, 60),  # what it used of output in the end; -1: not told
        st.integers(0, 20),  # half seconds until that is known
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, rpm=st.integers(1, 12), tpm=st.integers(60, 200), output_tpm=st.integers(30, 90))
def test_it_decides_as_the_definition_does(
    steps: list[tuple[int, int, int, int, int]], rpm: int, tpm: int, output_tpm: int
) -> None:
    """At moments further apart than a cell is wide there is no difference at all."""
    kept = log(rpm, tpm, output_tpm=output_tpm)
    requests, tokens, outputs = (Window(MINUTE_S) for _ in range(3))
    charged = Window(MINUTE_S)
    owed: list[tuple[float, int, object, int]] = []
    now = 0.0
    for wait, inputs, output, used, takes_s in steps:
        now += wait / 2
        for item in [each for each in owed if each[0] <= now]:
            owed.remove(item)
            _, number, cell, change = item
            tokens.taken[number][1] += change
            outputs.taken[number][1] += change
            if cell.log is not None:  # type: ignore[attr-defined]
                cell.output_tokens += change  # type: ignore[attr-defined]
                kept.output_tokens += change
        fits = (
            requests.used(now) + 1 <= rpm
            and tokens.used(now) + inputs + output <= tpm
            and outputs.used(now) + output <= output_tpm
        )
        assert kept.fits(1, inputs, output, now) == fits
        lack = kept.lack(1, inputs, output, now)
        assert (lack is None) == fits
        if lack is not None:
            assert not lack.never
            at = now + until(lack.frees_at, now)
            assert requests.used(at) + 1 <= rpm
            assert tokens.used(at) + inputs + output <= tpm
            assert outputs.used(at) + output <= output_tpm
            before = math.nextafter(lack.frees_at, -INF)
            assert (
                requests.used(before) + 1 > rpm
                or tokens.used(before) + inputs + output > tpm
                or outputs.used(before) + output > output_tpm
            )
            continue
        cell = kept.add(1, inputs, output, now)
        requests.add(now, 1)
        charged.add(now, 1)
        outputs.add(now, output)
        number = tokens.add(now, inputs + output)
        if used >= 0:
            owed.append((now + takes_s / 2, number, cell, used - output))
    assert charged.peak() <= rpm
    kept.forget(now)
    assert kept.requests == requests.used(now)
    assert kept.input_tokens + kept.output_tokens == tokens.used(now)
    kept.forget(now + MINUTE_S)
    assert (kept.requests, kept.input_tokens, kept.output_tokens, kept.cells) == (0, 0, 0, [])


@settings(max_examples=100, deadline=None)
@given(
    gaps=st.lists(st.floats(0, 0.02) | st.floats(0, 30), max_size=200),
    rpm=st.integers(1, 20),
    tpm=st.integers(50, 400),
)
def test_no_window_anywhere_holds_more(gaps: list[float], rpm: int, tpm: int) -> None:
    kept = log(rpm, tpm)
    requests, tokens = Window(MINUTE_S), Window(MINUTE_S)
    now = 0.0
    for number, gap in enumerate(gaps):
        now += gap
        amount = 7 * number % 40 + 1
        if kept.fits(1, amount, 0, now):
            kept.add(1, amount, 0, now)
            requests.add(now, 1)
            tokens.add(now, amount)
    assert requests.peak() <= rpm
    assert tokens.peak() <= tpm


def test_waiting_for_as_long_as_it_says_is_enough() -> None:
    kept = log(rpm=3)
    now, taken = 0.1, 0
    for _ in range(500):
        if kept.fits(1, 0, 0, now):
            kept.add(1, 0, 0, now)
            taken += 1
            now += 0.7
        else:
            lack = kept.lack(1, 0, 0, now)
            assert lack is not None
            now += until(lack.frees_at, now)
            assert kept.fits(1, 0, 0, now)
    assert taken > 250


def test_what_is_larger_than_the_limit_never_fits() -> None:
    kept = log(tpm=100, input_tpm=50)
    lack = kept.lack(1, 60, 10, 0.0)
    assert lack is not None
    assert lack.never
    assert (lack.dimension, lack.asked, lack.most) == ("input_tpm", 60, 50)
    assert kept.lack(1, 50, 50, 0.0) is None


def test_several_that_fit_into_no_single_window_have_their_time_all_the_same() -> None:
    kept = log(rpm=10)
    assert kept.lack(1, 0, 0, 5.0, copies=10) is None
    lack = kept.lack(1, 0, 0, 5.0, copies=21)
    assert lack is not None
    assert not lack.never
    assert 5.0 + MINUTE_S < lack.frees_at < 5.0 + 3 * MINUTE_S


def test_a_debt_makes_later_takes_wait() -> None:
    kept = log(tpm=100)
    cell = kept.add(1, 10, 10, 0.0)
    cell.output_tokens += 200
    kept.output_tokens += 200
    assert not kept.fits(1, 0, 0, 30.0)
    assert kept.fits(1, 0, 0, 60.0)


def test_memory_is_bounded_by_the_cells() -> None:
    kept = log(rpm=1_000_000)
    for number in range(100_000):
        kept.add(1, 0, 0, number * MINUTE_S / 40_000)
        kept.fits(1, 0, 0, number * MINUTE_S / 40_000)
    assert len(kept.cells) - kept.head <= CELLS + 1
    assert len(kept.cells) <= 2 * CELLS + 2
    assert kept.requests == pytest.approx(40_000, rel=0.001)


def test_a_clock_read_before_anothers_turn_does_no_harm() -> None:
    kept = log(rpm=2)
    kept.add(1, 0, 0, 10.0)
    kept.add(1, 0, 0, 9.9)
    assert not kept.fits(1, 0, 0, 69.95)
    assert kept.fits(2, 0, 0, 70.0)

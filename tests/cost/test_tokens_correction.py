"""What is learnt from reported usage."""

from __future__ import annotations

import threading
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.cost.tokens import Correction
from tierllm.errors import ConfigError


def test_it_starts_neutral_and_takes_the_mean_of_the_first_calls():
    c = Correction()
    assert (c.factor, c.calls) == (1.0, 0)
    c.learn(100, 120)
    assert c.factor == pytest.approx(1.2)
    c.learn(100, 140)
    assert c.factor == pytest.approx(1.3)
    assert repr(c) == "Correction(factor=1.300, calls=2)"


def test_it_follows_a_change():
    c = Correction(weight=0.1)
    for _ in range(100):
        c.learn(1_000, 1_000)
    for _ in range(30):
        c.learn(1_000, 1_500)
    assert 1.45 < c.factor < 1.5


def test_one_wild_report_moves_it_little():
    c = Correction()
    for _ in range(50):
        c.learn(100, 100)
    c.learn(1, 1_000_000_000)
    assert c.factor == pytest.approx(1.3)  # counted as 4, with a weight of a tenth


@pytest.mark.parametrize(
    "pair",
    [
        (0, 10),
        (10, 0),
        (-1, 10),
        (10, -1),
        (float("nan"), 1),
        (1, float("nan")),
        (1, float("inf")),
        (float("inf"), 1),
        (10, None),
        ("10", 10),
        (10, "10"),
        (None, None),
        (10, [1]),
        (10, 1j),
        (Decimal("sNaN"), 1),
        (1, Decimal("sNaN")),
    ],
    ids=str,
)
def test_garbage_is_ignored(pair: tuple[object, object]):
    c = Correction()
    c.learn(*pair)  # type: ignore[arg-type]
    assert (c.factor, c.calls) == (1.0, 0)


@given(
    pairs=st.lists(
        st.tuples(
            st.integers(-5, 10**30) | st.floats() | st.decimals(),
            st.none() | st.integers(-5, 10**400) | st.floats() | st.decimals() | st.text(max_size=2),
        )
    )
)
def test_the_factor_is_always_sound(pairs: list[tuple[float, float | None]]):
    c = Correction(most=3)
    for estimated, reported in pairs:
        c.learn(estimated, reported)
        assert c.factor * (1 + 1e-12) >= 1 / 3
        assert c.factor <= 3 * (1 + 1e-12)


def test_threads_do_no_harm():
    c = Correction()

    def learn() -> None:
        for _ in range(2_000):
            c.learn(100, 130)

    threads = [threading.Thread(target=learn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert c.factor == pytest.approx(1.3)
    assert 2_000 <= c.calls <= 8_000


@pytest.mark.parametrize(
    "options", [{"weight": 0}, {"weight": 1.1}, {"most": 0.5}, {"most": float("inf")}], ids=str
)
def test_settings_that_make_no_sense(options: dict[str, float]):
    with pytest.raises(ConfigError, match="give a weight"):
        Correction(**options)

"""Output lengths and speeds, learnt from those before."""

from __future__ import annotations

import math
import random
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.cost.history import Histories, OutputHistory
from tierllm.cost.speed import Speed
from tierllm.errors import ConfigError

lengths = st.lists(st.integers(0, 5000), max_size=120)


def filled(*tokens: int, size: int = 256, min_samples: int = 22) -> OutputHistory:
    history = OutputHistory(size, min_samples)
    for length in tokens:
        history.add(length)
    return history


def rank(q: float, count: int) -> int:
    """The smallest rank that the next value stays within with probability ``q``."""
    found = next((r for r in range(1, count + 1) if r / (count + 1) >= q - 1e-12), count)
    return found - 1


# -- one history -----------------------------------------------------------------


@given(lengths, st.integers(1, 40), st.floats(0, 1))
def test_quantiles_are_those_of_the_last_ones_in_order(tokens: list[int], size: int, q: float) -> None:
    history = filled(*tokens, size=size, min_samples=1)
    last = sorted(tokens[-size:])
    assert len(history) == len(last)
    if not last:
        assert history.quantile(q) is history.mean is None
        return
    assert history.quantile(q) == last[rank(q, len(last))]
    assert history.p50 == last[rank(0.5, len(last))]
    assert history.p90 == last[rank(0.9, len(last))]
    assert history.mean == sum(last) / len(last)


@given(lengths, st.integers(0, 6000), st.integers(1, 40), st.integers(0, 6000))
def test_a_prediction_is_that_of_answers_cut_off_at_the_ceiling(
    tokens: list[int], ceiling: int, min_samples: int, unready: int
) -> None:
    history = filled(*tokens, size=40, min_samples=min_samples)
    told = history.predict(ceiling, unready)
    last = [min(t, ceiling) for t in tokens[-40:]]
    if not last:
        assert told is None
        return
    assert told is not None
    assert told.p50 <= told.p90 <= told.p95 <= ceiling
    assert 0 <= told.mean <= ceiling
    assert told.mean == pytest.approx(sum(last) / len(last))
    spread = math.sqrt(sum((t - told.mean) ** 2 for t in last) / len(last))
    assert told.sd >= spread * (1 - 1e-9) - 1e-6
    assert told.samples == len(last)
    if len(last) < min_samples:
        assert told.p90 == min(ceiling, max(unready, *tokens[-40:]))


def test_nothing_is_told_before_there_are_enough() -> None:
    history = filled(*range(21))
    assert not history.ready
    assert history.p50 is history.p90 is history.mean is history.quantile(0.3) is None
    history.add(21)
    assert history.ready
    assert (history.p50, history.p90, history.mean) == (11, 20, 10.5)


def test_nine_in_ten_of_the_next_answers_stay_within_p90() -> None:
    rng = random.Random(5)
    history, within, asked = OutputHistory(), 0, 20_000
    for _ in range(asked + 256):
        length = int(rng.lognormvariate(5, 1))
        if len(history) == 256 and history.p90 is not None:
            within += length <= history.p90
        history.add(length)
    assert 0.89 <= within / asked <= 0.915


@pytest.mark.parametrize("wrong", [-1, True, 1.5, math.nan, math.inf, "5", None, 10**10], ids=repr)
def test_what_is_no_number_of_tokens_is_refused(wrong: Any) -> None:
    history = filled(*range(30))
    with pytest.raises(ConfigError, match="whole number of tokens"):
        history.add(wrong)
    assert len(history) == 30
    assert history.mean == 14.5


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan, True, "0.9", None], ids=repr)
def test_what_is_no_share_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="share from 0 to 1"):
        filled(*range(30)).quantile(wrong)


@pytest.mark.parametrize(
    "sizes", [{"size": 0}, {"size": True}, {"min_samples": 0}, {"size": 10, "min_samples": 11}], ids=str
)
def test_sizes_that_make_no_sense(sizes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        OutputHistory(**sizes)
    with pytest.raises(ConfigError):
        Histories(**sizes)


def test_threads_lose_nothing() -> None:
    history = OutputHistory(size=64, min_samples=1)
    failures: list[BaseException] = []

    def adding(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(3000):
                history.add(rng.randrange(1000), truncated=rng.random() < 0.1)
                told = history.predict(900, 900)
                assert told is not None
                assert told.p50 <= told.p90 <= told.p95 <= 900
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=adding, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    # what is kept in order is what is in the ring, and the sums are theirs
    kept = sorted(history._ring)
    assert list(history._ordered) == kept
    assert (history._total, history._squares) == (sum(kept), sum(k * k for k in kept))


# -- answers cut off -------------------------------------------------------------


def test_an_answer_cut_off_counts_as_one_of_the_longer_ones() -> None:
    history = filled(*range(1, 101))
    for _ in range(60):
        history.add(50, truncated=True)
    longer = sorted(history._ring)[-110:]
    assert min(longer) > 50
    added = sorted(list(history._ring)[100:])
    assert added[0] > 50
    assert 70 <= added[30] <= 81  # spread over all of 51…100, not heaped at one end
    assert added[-1] >= 95


def test_where_nothing_longer_is_known_it_counts_twice() -> None:
    history = OutputHistory(min_samples=1)
    history.add(100, truncated=True)
    assert history.p50 == 200
    for _ in range(50):
        history.add(100, truncated=True)
    assert history.p90 == 200  # and does not grow on its own


def test_answers_cut_off_do_not_make_calls_with_more_room_look_short() -> None:
    rng = random.Random(11)
    true = [int(rng.expovariate(1 / 300)) for _ in range(4000)]
    free, mixed = OutputHistory(4000), OutputHistory(4000)
    naive = OutputHistory(4000)
    for at, length in enumerate(true):
        cap = 200 if at % 2 else 10**6
        free.add(length)
        mixed.add(min(length, cap), truncated=length > cap)
        naive.add(min(length, cap))
    assert free.p90 is not None
    assert mixed.p90 is not None
    assert naive.p90 is not None
    assert mixed.p90 == pytest.approx(free.p90, rel=0.1)
    assert mixed.mean == pytest.approx(free.mean, rel=0.1)
    assert naive.p90 < 0.8 * free.p90


# -- many ------------------------------------------------------------------------


def test_a_route_with_few_answers_is_told_from_its_place() -> None:
    histories = Histories()
    for _ in range(30):
        histories.add("gold/a", "chat", 100)
    for _ in range(21):
        histories.add("gold/a", "classify", 3)
    assert histories.predict("gold/a", "unheard", 4096, 4096).p50 == 100  # type: ignore[union-attr]
    assert histories.predict("gold/a", "classify", 4096, 4096).p50 == 100  # type: ignore[union-attr]
    histories.add("gold/a", "classify", 3)
    assert histories.predict("gold/a", "classify", 4096, 4096).p90 == 3  # type: ignore[union-attr]
    assert histories.predict("gold/a", "chat", 4096, 4096).p90 == 100  # type: ignore[union-attr]
    assert histories.predict("gold/b", "chat", 4096, 4096) is None


def test_routes_used_last_are_remembered() -> None:
    histories = Histories(max_routes=3, min_samples=1)
    for route in ("a", "b", "c"):
        histories.add("p", route, 7)
    histories.predict("p", "a", 99, 99)
    histories.add("p", "d", 9)
    assert len(histories) == 3
    assert histories.of("p", "a").p50 == 7  # type: ignore[union-attr]
    assert len(histories.of("p", "b") or ()) == 4  # the place's own


# -- speed -----------------------------------------------------------------------


def test_streams_show_first_token_and_rate() -> None:
    speed = Speed()
    for n in range(64):
        tokens = 50 + n
        speed.add(tokens, 0.4 + 0.02 * (tokens - 1), 0.4)
    assert speed.first_token_s == pytest.approx(0.4)
    assert speed.token_s == pytest.approx(0.02)
    told = speed.latency(101, 201, 251, queue_s=3)
    assert told is not None
    assert (told.p50, told.p90, told.p95) == pytest.approx((5.4, 7.4, 8.4))


def test_whole_answers_are_fitted_by_a_line_that_outliers_do_not_bend() -> None:
    rng = random.Random(3)
    speed = Speed()
    for at in range(128):
        tokens = rng.randrange(20, 800)
        noise = 30.0 if at % 16 == 0 else rng.uniform(-0.1, 0.1)
        speed.add(tokens, 0.5 + 0.01 * (tokens - 1) + noise)
    assert speed.token_s == pytest.approx(0.01, rel=0.1)
    assert speed.first_token_s == pytest.approx(0.5, abs=0.25)
    told = speed.latency(401, 401)
    assert told is not None
    assert told.p50 == pytest.approx(4.5, rel=0.1)
    assert told.p95 - told.p50 > 5  # the outliers are in its spread


def test_answers_of_one_length() -> None:
    speed = Speed()
    for _ in range(20):
        speed.add(11, 2.0)
    assert speed.latency(11, 11).p50 == pytest.approx(2.0)  # type: ignore[union-attr]


def test_nothing_is_told_of_a_place_that_answered_seldom() -> None:
    speed = Speed(min_samples=8)
    for _ in range(7):
        speed.add(10, 1.0)
    assert speed.latency(10, 10) is speed.token_s is speed.first_token_s is None
    speed.add(10, 1.0)
    assert speed.latency(10, 10) is not None


times = st.floats(0, 1000)


@given(
    st.lists(st.tuples(st.integers(0, 3000), times, st.none() | st.floats(0, 1)), min_size=8, max_size=100),
    st.lists(st.integers(0, 4000), min_size=3, max_size=3).map(sorted),
    times,
)
def test_latencies_are_in_order(
    answers: list[tuple[int, float, float | None]], tokens: list[int], queue_s: float
) -> None:
    speed = Speed()
    for output_tokens, latency_s, first in answers:
        speed.add(output_tokens, latency_s, None if first is None else first * latency_s)
    told = speed.latency(*tokens, queue_s=queue_s)
    assert told is not None
    assert queue_s <= told.p50 <= told.p90 <= told.p95 < math.inf


@pytest.mark.parametrize(
    "wrong",
    [
        (-1, 1.0),
        (True, 1.0),
        (1, math.nan),
        (1, -1.0),
        (1, math.inf),
        (1, True),
        (1, 1.0, 2.0),
        (1, 1.0, math.nan),
    ],
    ids=repr,
)
def test_what_is_no_time_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        Speed().add(*wrong)

"""What an estimate promises whatever was learnt: its order, its worst case, and that it never raises."""

from __future__ import annotations

import decimal
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm import Price, Usage
from tierllm.cost.estimator import CostEstimator
from tierllm.cost.place import Place
from tierllm.cost.prices import PriceBook
from tierllm.errors import ConfigError

PRICE = Price(input_usd_per_mtok=2, output_usd_per_mtok=8)
ASK = ({"role": "user", "content": "Summarise the minutes in three sentences."},)


def place(model: str = "gpt-5-mini", *, window: int | None = None) -> Place:
    return Place(
        "gold", model, model, vendor="openai", price=PRICE, context_window=window, book=PriceBook({})
    )


def learnt(estimator: CostEstimator, where: Place, *lengths: int) -> None:
    for length in lengths:
        usage = Usage(input_tokens=10, output_tokens=length)
        estimator.observe(where, usage=usage, finish_reason="stop")


def test_the_worst_is_no_less_than_the_longest_answer_seen() -> None:
    estimator, where = CostEstimator(), place()
    learnt(estimator, where, *[100_000 if at % 20 == 0 else 100 for at in range(100)])
    e = estimator.quote(where, ASK)
    assert (e.output_tokens.p50, e.output_tokens.p90, e.output_tokens.max) == (100, 100, 100_000)
    assert e.output_tokens.mean == 5_095
    assert e.cost_usd is not None
    assert e.cost_usd.mean <= e.cost_usd.max
    assert estimator.quote(where, ASK, {"max_tokens": 400}).output_tokens.max == 400


def test_no_answer_is_longer_than_the_window() -> None:
    estimator, where = CostEstimator(), place(window=128_000)
    learnt(estimator, where, *[900_000_000] * 30)
    assert estimator.quote(where, ASK).output_tokens.max == 128_000
    assert estimator.quote(where, ASK, {"max_tokens": 400_000}).output_tokens.max == 128_000


def test_no_request_is_longer_than_the_window() -> None:
    shown = ({"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]},)
    for exact in (True, False):
        inside = CostEstimator().quote(place(window=128_000), shown, exact=exact).input_tokens
        assert inside.max == 128_000
        assert CostEstimator().quote(place(), shown, exact=exact).input_tokens.max > 2_000_000


@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=60),
    st.none() | st.integers(1, 10**6),
    st.none() | st.integers(1, 10**6),
    st.integers(1, 4),
    st.sampled_from(["max_tokens", "max_completion_tokens", "max_output_tokens"]),
)
def test_the_order_holds_always(
    lengths: list[int], cap: int | None, window: int | None, n: int, name: str
) -> None:
    estimator, where = CostEstimator(), place(window=window)
    learnt(estimator, where, *lengths)
    params: dict[str, Any] = {"n": n} if cap is None else {"n": n, name: cap}
    answer = estimator.quote(where, ASK, params).output_tokens
    assert answer.p50 <= answer.p90 <= answer.max
    assert answer.mean <= answer.max
    if cap is not None:
        assert answer.max <= cap * n


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
@pytest.mark.parametrize("copies", ["n", "best_of"])
def test_every_name_of_a_bound_is_read(name: str, copies: str) -> None:
    answer = CostEstimator().quote(place(), ASK, {name: 9_000, copies: 3}).output_tokens
    assert (answer.p50, answer.max) == (27_000, 27_000)


def test_the_same_words_may_be_another_place() -> None:
    estimator = CostEstimator(min_samples=1)
    for _ in range(30):
        estimator.learn(Usage(output_tokens=7), model="gpt-5", vendor="openai", finish_reason="stop")
    assert estimator.estimate("hi", model="gpt-5", vendor="openai").output_tokens.p50 == 7
    for other in ("openai/gpt-5", "gpt-5@openai", "gpt-5"):
        assert estimator.estimate("hi", model=other, max_tokens=400).output_tokens.p50 == 400


def test_no_usage_teaches_nothing() -> None:
    estimator = CostEstimator()
    estimator.observe(place(), usage=None)
    estimator.learn(None, model="gpt-5")
    estimator.learn(Usage(output_tokens=9), model="gpt-5", route=["x"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="route"):
        estimator.estimate("hi", model="gpt-5", route=["x"])  # type: ignore[arg-type]


def test_a_caller_may_trap_floats() -> None:
    with decimal.localcontext() as context:
        context.traps[decimal.FloatOperation] = True
        estimator = CostEstimator()
        for at in range(40):
            estimator.learn(Usage(output_tokens=at + 1), model="gpt-5", finish_reason="stop")
        both = estimator.estimate_many(["a", "b"], model="gpt-5", max_tokens=100)
    assert both.cost_usd is not None
    assert both.count == 2
    assert both.cost_usd.max > Decimal(0)

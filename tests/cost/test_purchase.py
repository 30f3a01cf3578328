"""One call at one place: how large it may get, and what is done where too little is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm import Budget, Price, Request, Usage
from tierllm.cost.billing import NOTHING, UNKNOWN
from tierllm.cost.budget import Draw
from tierllm.cost.place import DEFAULT_MAX_TOKENS, Place
from tierllm.cost.purchase import LEAST_OUTPUT, Purchase, Shortage, Taken
from tierllm.errors import ConfigError
from tierllm.stores import MemoryStore, Standing
from tierllm.types import Call

PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=2, cache_write_usd_per_mtok="1.25")
HELLO = ({"role": "user", "content": "Hello"},)


def place(price: Price | None = PRICE, model: str = "m", **known: Any) -> Place:
    return Place("gold", "g", model, provider="acme", vendor="acme", price=price, **known)


def purchase(
    *budgets: Budget,
    params: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    at: Place | None = None,
    messages: Any = HELLO,
) -> Purchase:
    request = Request(messages=messages, params=dict(params or {}), extra={"acme": extra} if extra else {})
    store = MemoryStore()
    draws: list[Draw] = []
    for budget in budgets:
        draws += budget.draws(request, "gold", "g", 0.0, store)
    return Purchase(at or place(), Call(request), draws)


def shortage(made: Purchase, *standings: Standing) -> Shortage:
    return Shortage(made.hold(made.draws[0].store, made.draws), made.draws, standings)


# -- sizes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "extra", "wanted", "copies"),
    [
        ({}, None, 0, 1),
        ({"max_tokens": 50}, None, 50, 1),
        ({"max_tokens": 50}, {"max_completion_tokens": 70}, 70, 1),
        ({"max_tokens": 50}, {"extra_body": {"max_output_tokens": 90}}, 90, 1),
        ({"max_tokens": 50, "n": 2}, {"n": 3}, 50, 3),
        ({}, {"extra_body": {"best_of": 4}}, 0, 4),
    ],
    ids=str,
)
def test_the_answers_bound_is_the_largest_that_anyone_names(
    params: dict[str, Any], extra: dict[str, Any] | None, wanted: int, copies: int
) -> None:
    made = purchase(params=params, extra=extra)
    assert (made.wanted, made.copies) == (wanted, copies)
    assert made.max_tokens == (wanted or DEFAULT_MAX_TOKENS)
    amounts = made.amounts(10, made.max_tokens)
    assert amounts["tokens"] == 10 + made.max_tokens * copies
    assert amounts["usd"] == 10 * 1250 + made.max_tokens * copies * 2000
    assert amounts["calls"] == 1


def test_a_model_that_cannot_say_much_bounds_the_answer_itself() -> None:
    assert purchase(at=Place("gold", "g", "gpt-3.5-turbo", vendor="openai")).max_tokens == 4096
    small = place()
    small.price  # noqa: B018 - looked up
    small.max_output_tokens = 100
    assert purchase(at=small).max_tokens == 100


def test_the_service_tier_that_is_asked_for_sets_the_price() -> None:
    flex = Price(input_usd_per_mtok=1, output_usd_per_mtok=1, service={"priority": PRICE})
    dear = purchase(extra={"service_tier": "priority"}, at=place(flex))
    assert dear.service_tier == "priority"
    assert dear.amounts(10, 10)["usd"] == 10 * 1250 + 10 * 2000


def test_only_limits_on_tokens_and_dollars_need_a_bounded_answer() -> None:
    assert purchase(Budget(hard_usd=1)).bounded
    assert purchase(Budget(hard_tokens=1)).bounded
    assert not purchase(Budget(hard_calls=1)).bounded
    assert not purchase(Budget(soft_usd=1)).bounded


# -- what makes no sense ------------------------------------------------------------------


def test_a_price_that_is_not_known_is_told() -> None:
    with pytest.raises(ConfigError, match=r"gold/g: no price is known for 'm'.*give the deployment price="):
        purchase(Budget(hard_usd=1), at=place(None)).check()
    purchase(Budget(hard_tokens=1), at=place(None)).check()
    purchase(Budget(soft_usd=1), at=place(None)).check()


def test_a_prompt_that_is_not_known_is_told() -> None:
    with pytest.raises(ConfigError, match="has to know the prompt"):
        purchase(Budget(hard_usd=1), messages=()).check()
    purchase(Budget(hard_calls=1), messages=()).check()


@pytest.mark.parametrize(
    "extra",
    [
        {"max_completion_tokens": None},
        {"max_completion_tokens": 5000.0},
        {"max_tokens": "many"},
        {"n": 2.0},
        {"extra_body": {"max_output_tokens": -1}},
    ],
    ids=str,
)
def test_a_bound_in_extra_that_bounds_nothing_is_told(extra: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="let max_tokens, n and the like in extra be whole numbers"):
        purchase(Budget(hard_usd=1), extra=extra).check()
    purchase(Budget(hard_calls=1), extra=extra).check()
    purchase(Budget(hard_usd=1), extra={"max_completion_tokens": 9, "n": 2, "temperature": 0.5}).check()


# -- where too little is left ------------------------------------------------------------------


@given(
    st.integers(0, 5_000_000),
    st.integers(0, 3000),
    st.integers(1, 3000),
    st.integers(1, 5),
)
def test_clamping_leaves_the_longest_answer_that_fits(
    usd: int, tokens: int, wanted: int, copies: int
) -> None:
    budget = Budget(hard_usd="0.005", hard_tokens=3000, on_exceed="clamp")
    made = purchase(budget, params={"max_tokens": wanted, "n": copies})
    short = shortage(made, Standing(usd, 0), Standing(0, tokens))
    room = {"usd": 5_000_000 - usd, "tokens": 3000 - tokens}
    lacking = {draw.limit.unit for draw, _, _ in short.short()}

    def fits(most: int) -> bool:
        amounts = made.amounts(made.input_tokens, most)
        return all(amounts[unit] <= room[unit] for unit in lacking)

    if not lacking:
        return
    if made.clamp(short, lowest=True):
        assert min(LEAST_OUTPUT, wanted) <= made.max_tokens < wanted
        assert fits(made.max_tokens)
        assert not fits(made.max_tokens + 1)
        assert f"max_tokens was lowered from {wanted} to {made.max_tokens}" in made.warnings[0]
    else:
        assert made.max_tokens == wanted
        assert not fits(min(LEAST_OUTPUT, wanted))


@pytest.mark.parametrize(
    ("steps", "lowest", "clamps"),
    [
        ("clamp", False, True),
        ("reject", True, False),
        ("downgrade", True, False),
        (("downgrade", "clamp"), False, False),
        (("downgrade", "clamp"), True, True),
        (("clamp", "downgrade"), False, True),
        (("reject", "clamp"), True, True),
    ],
    ids=str,
)
def test_who_would_rather_step_down_clamps_at_the_bottom(steps: Any, lowest: bool, clamps: bool) -> None:
    made = purchase(Budget(hard_tokens=1000, on_exceed=steps))
    assert made.clamp(shortage(made, Standing(0, 0)), lowest=lowest) is clamps


def test_all_that_are_short_must_agree() -> None:
    willing = Budget(hard_tokens=1000, on_exceed="clamp", name="a")
    strict = Budget(hard_tokens=1000, name="b")
    made = purchase(willing, strict)
    assert not made.clamp(shortage(made, Standing(0, 0), Standing(0, 0)), lowest=True)
    roomy = Budget(hard_tokens=100_000, name="c")
    made = purchase(willing, roomy)
    assert made.clamp(shortage(made, Standing(0, 0), Standing(0, 0)), lowest=True)


def test_calls_cannot_be_clamped() -> None:
    made = purchase(Budget(hard_calls=1, on_exceed="clamp"))
    assert not made.clamp(shortage(made, Standing(1, 0)), lowest=True)


def test_what_the_caller_tells_the_vendor_cannot_be_lowered() -> None:
    """It is sent last, over ``max_tokens``."""
    budget = Budget(hard_tokens=1000, on_exceed="clamp")
    made = purchase(budget, extra={"max_completion_tokens": 2000})
    assert not made.clamp(shortage(made, Standing(0, 0)), lowest=True)
    made = purchase(budget, extra={"temperature": 1})
    assert made.clamp(shortage(made, Standing(0, 0)), lowest=True)


def test_counting_is_worth_it_where_the_real_number_may_fit() -> None:
    long = ({"role": "user", "content": "a" * 4000},)
    made = purchase(Budget(hard_tokens=1000), params={"max_tokens": 100}, messages=long)
    assert made.input_tokens > 4000 > 900 > made.least_input
    assert made.may_fit(shortage(made, Standing(0, 0)))
    assert not made.may_fit(shortage(made, Standing(950, 0)))
    # one that can be clamped may fit with a shorter answer
    made = purchase(Budget(hard_tokens=1000, on_exceed="clamp"), params={"max_tokens": 5000}, messages=long)
    assert made.may_fit(shortage(made, Standing(0, 0)))


# -- afterwards ------------------------------------------------------------------------------


def test_what_was_used() -> None:
    budget = Budget(hard_usd=1, hard_tokens=10_000, hard_calls=5)
    made = purchase(budget, params={"max_tokens": 50})
    hold = made.hold(made.draws[0].store, made.draws)
    taken = Taken(made.draws[0].store, hold, made.draws, ())
    reserved = tuple(line.amount for line in hold.lines)
    assert made.used(taken, UNKNOWN) == reserved
    assert made.used(taken, NOTHING) == (0, 0, 0)
    assert made.used(taken, Usage(input_tokens=10, output_tokens=20)) == (50_000, 30, 1)
    assert made.used(taken, Usage()) == (0, 0, 1)  # reported as nothing: answered all the same


def test_draws_are_grouped_by_their_store() -> None:
    one, two = MemoryStore(), MemoryStore()
    request = Request(messages=HELLO)
    draws = []
    for number, store in enumerate((one, two, one)):
        draws += Budget(hard_calls=1, name=f"b{number}").draws(request, "gold", "g", 0.0, store)
    made = Purchase(place(), Call(request), draws)
    groups = [(store, [draw.budget.name for draw in group]) for store, group in made.groups()]
    assert groups == [(one, ["b0", "b2"]), (two, ["b1"])]
    assert list(Purchase(place(), Call(request), ()).groups()) == []

"""Prices that depend: on how long the input is, and on the service tier that was served."""

from __future__ import annotations

import copy
import dataclasses
import decimal
import pickle
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm import Price, Usage
from tierllm.errors import ConfigError


def price(plain: Any, output: Any, **more: Any) -> Price:
    return Price(input_usd_per_mtok=plain, output_usd_per_mtok=output, **more)


LONG = price(4, 12)
PRICE = price(2, 8, cached_input_usd_per_mtok="0.5", above={200_000: LONG}, service={"flex": price(1, 4)})


@pytest.mark.parametrize(
    ("usage", "cost_usd"),
    [
        (Usage(input_tokens=200_000), "0.4"),
        (Usage(input_tokens=200_001), "0.800004"),
        (Usage(input_tokens=200_001, cached_input_tokens=200_000), "0.800004"),
        (Usage(input_tokens=300_000, output_tokens=1000), "1.212"),
        (Usage(input_tokens=1000, service_tier="flex"), "0.001"),
        (Usage(input_tokens=300_000, service_tier="flex"), "0.3"),
        (Usage(input_tokens=1000, service_tier="default"), "0.002"),
        (Usage(input_tokens=300_000, service_tier="default"), "1.2"),
    ],
    ids=str,
)
def test_the_whole_request_at_the_rates_of_its_length_and_tier(usage: Usage, cost_usd: str) -> None:
    assert PRICE.cost_usd(usage) == Decimal(cost_usd)


def test_the_highest_step_that_was_passed_counts() -> None:
    stepped = price(1, 1, above={256_000: price(3, 3), 32_000: price(2, 2)})
    costs = [stepped.cost_usd(Usage(input_tokens=n)) for n in (32_000, 32_001, 256_000, 256_001)]
    assert costs == [Decimal(c) for c in ("0.032", "0.064002", "0.512", "0.768003")]


def test_a_tier_may_have_steps_of_its_own() -> None:
    stepped = price(2, 8, service={"batch": price(1, 4, above={100: price(3, 3)})})
    assert stepped.cost_usd(Usage(input_tokens=100, service_tier="batch")) == Decimal("0.0001")
    assert stepped.cost_usd(Usage(input_tokens=101, service_tier="batch")) == Decimal("0.000303")


def test_the_list_price_knows_of_no_cache() -> None:
    usage = Usage(input_tokens=1000, cached_input_tokens=600, cache_write_tokens=100, output_tokens=10)
    assert PRICE.list_usd(usage) == Decimal("0.00208")
    assert PRICE.list_usd(dataclasses.replace(usage, service_tier="flex")) == Decimal("0.00104")
    assert PRICE.list_usd(Usage(input_tokens=300_000, cached_input_tokens=300_000)) == Decimal("1.2")


def test_costs_do_not_depend_on_the_callers_decimal_context() -> None:
    usage = Usage(input_tokens=1_234_567, output_tokens=7_654_321)
    with decimal.localcontext(decimal.Context(prec=3)):
        made = price("1.23456789", "9.87654321")
        cost = made.cost_usd(usage)
    assert cost == Decimal(1_234_567 * 123_456_789 + 7_654_321 * 987_654_321).scaleb(-14)


def test_costs_are_told_without_idle_digits() -> None:
    assert str(PRICE.cost_usd(Usage(input_tokens=1000, output_tokens=500))) == "0.006"
    assert str(PRICE.cost_usd(Usage())) == "0"


def test_free_is_free() -> None:
    assert Price.free().cost_usd(Usage(input_tokens=10**9, output_tokens=10**9)) == 0
    assert Price.free().worst_nano(10**9, 10**9) == 0


def test_a_price_is_a_value_with_all_its_parts() -> None:
    full = price(2, 8, above={5: LONG}, service={"flex": LONG})
    same = price("2.0", 8.0, above=[(5, LONG)], service=(("flex", LONG),))
    assert (
        full == same == pickle.loads(pickle.dumps(full)) == copy.deepcopy(full) == dataclasses.replace(full)
    )
    assert hash(full) == hash(same)
    assert eval(repr(full)) == full
    assert full != price(2, 8, above={5: LONG})
    with pytest.raises(dataclasses.FrozenInstanceError):
        full.input_usd_per_mtok = Decimal(1)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("above", 5),
        ("above", [1]),
        ("above", {0: LONG}),
        ("above", {-1: LONG}),
        ("above", {True: LONG}),
        ("above", {"200000": LONG}),
        ("above", {200_000: 4}),
        ("above", {200_000: PRICE}),
        ("service", ["flex"]),
        ("service", {"": LONG}),
        ("service", {" ": LONG}),
        ("service", {1: LONG}),
        ("service", {"flex": {"input_usd_per_mtok": 1}}),
        ("service", {"flex": PRICE}),
        ("as_of", "yesterday"),
        ("as_of", "2026-13-01"),
        ("as_of", 20261101),
        ("source", 7),
        ("cached_input_usd_per_mtok", "NaN"),
        ("cached_input_usd_per_mtok", True),
        ("cache_write_usd_per_mtok", -1),
        ("cache_write_usd_per_mtok", [1]),
        ("input_usd_per_mtok", "1e9"),
        ("input_usd_per_mtok", "1e999999"),
        ("output_usd_per_mtok", "1e-41"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value)[:40],
)
def test_what_makes_no_sense_is_named(name: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        Price(**{"input_usd_per_mtok": 1, "output_usd_per_mtok": 1, name: wrong})


rates = (
    st.decimals(0, 200, places=6)
    | st.integers(0, 200)
    | st.fractions(0, 9, max_denominator=9).map(lambda f: Decimal(f.numerator) / f.denominator)
)
plain_prices = st.builds(
    Price,
    input_usd_per_mtok=rates,
    output_usd_per_mtok=rates,
    cached_input_usd_per_mtok=st.none() | rates,
    cache_write_usd_per_mtok=st.none() | rates,
)
lengths = st.integers(0, 1_500_000)
stepped_prices = st.builds(
    lambda base, above: dataclasses.replace(base, above=above),
    plain_prices,
    st.dictionaries(st.integers(1, 1_000_000), plain_prices, max_size=3),
)
prices = st.builds(
    lambda base, service: dataclasses.replace(base, service=service),
    stepped_prices,
    st.dictionaries(st.sampled_from(["batch", "flex", "priority"]), stepped_prices, max_size=3),
)
tiers = st.sampled_from([None, "batch", "flex", "priority", "default"])


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    plain, cached, written = draw(lengths), draw(lengths), draw(lengths)
    return Usage(
        input_tokens=plain + cached + written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=draw(lengths),
        service_tier=draw(tiers),
    )


def by_hand(asked: Price, usage: Usage) -> Fraction:
    """The same sum in fractions, without any of the shortcuts."""
    asked = dict(asked.service).get(usage.service_tier or "", asked)
    steps = [step for start, step in asked.above if usage.input_tokens > start]
    asked = steps[-1] if steps else asked
    plain = Fraction(asked.input_usd_per_mtok)
    cached, written = asked.cached_input_usd_per_mtok, asked.cache_write_usd_per_mtok
    fresh = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    return (
        fresh * plain
        + usage.cached_input_tokens * (plain if cached is None else Fraction(cached))
        + usage.cache_write_tokens * (plain if written is None else Fraction(written))
        + usage.output_tokens * Fraction(asked.output_usd_per_mtok)
    ) / 10**6


@given(prices, usages())
def test_costs_are_exact_and_nano_dollars_are_rounded_up(asked: Price, usage: Usage) -> None:
    exact = by_hand(asked, usage)
    assert Fraction(asked.cost_usd(usage)) == exact
    assert 0 <= asked.cost_nano(usage) - exact * 10**9 < 1


@given(prices, usages(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_worst_is_never_less_than_what_it_comes_to(
    asked: Price, usage: Usage, less_in: int, less_out: int
) -> None:
    worst = asked.worst_nano(usage.input_tokens + less_in, usage.output_tokens + less_out, usage.service_tier)
    assert worst >= asked.cost_nano(usage)


@given(prices, usages())
def test_a_dearer_tier_that_is_served_as_the_standard_one_was_allowed_for(asked: Price, usage: Usage) -> None:
    dearer = {
        name: dataclasses.replace(
            asked, service=(), above=(), input_usd_per_mtok=300, output_usd_per_mtok=300
        )
        for name in ("priority",)
    }
    asked = dataclasses.replace(asked, service=dearer)
    standard = dataclasses.replace(usage, service_tier="default")
    worst = asked.worst_nano(usage.input_tokens, usage.output_tokens, "priority")
    assert worst >= asked.cost_nano(standard)


TIERED = price(
    2, 8, service={"batch": price(9, 90), "flex": price(1, 4), "priority": price(4, 16), "odd": price(12, 1)}
)


@pytest.mark.parametrize(
    ("asked", "nano"),
    [
        (None, 10_000_000),
        ("default", 10_000_000),
        ("standard", 10_000_000),
        ("standard_only", 10_000_000),
        ("flex", 10_000_000),  # it may be served as the standard one
        ("priority", 20_000_000),
        ("auto", 20_000_000),
        ("of-tomorrow", 20_000_000),
        ("batch", 99_000_000),
    ],
    ids=str,
)
def test_the_worst_of_the_tier_that_was_asked_for(asked: str | None, nano: int) -> None:
    assert TIERED.worst_nano(1000, 1000, asked) == nano


def test_which_tier_is_dearest_depends_on_the_sizes() -> None:
    assert TIERED.worst_nano(1000, 10, "auto") == TIERED.worst_nano(1000, 10, "odd") == 12_010_000
    mixed = price(1, 20, service={"p": price(12, 1)})
    for served in ("p", "default"):
        used = Usage(input_tokens=10, output_tokens=1000, service_tier=served)
        assert mixed.worst_nano(10, 1000, "p") >= mixed.cost_nano(used)
    assert mixed.worst_nano(10, 1000, "p") == 20_010_000


@given(prices, usages(), st.sampled_from(["auto", "of-tomorrow"]), tiers)
def test_auto_may_be_any_tier_but_the_batch(
    asked: Price, usage: Usage, named: str, served: str | None
) -> None:
    used = dataclasses.replace(usage, service_tier=None if served == "batch" else served)
    assert asked.worst_nano(usage.input_tokens, usage.output_tokens, named) >= asked.cost_nano(used)


@given(
    prices,
    st.builds(
        Usage,
        input_tokens=st.integers(-(10**9), 10**9),
        output_tokens=st.integers(-(10**9), 10**9),
        cached_input_tokens=st.integers(-(10**12), 10**12),
        cache_write_tokens=st.integers(-(10**12), 10**12),
        service_tier=tiers,
    ),
)
def test_no_report_costs_less_than_nothing_or_more_than_its_sizes(asked: Price, usage: Usage) -> None:
    tokens = max(usage.input_tokens, 0), max(usage.output_tokens, 0)
    assert 0 <= asked.cost_nano(usage) <= asked.worst_nano(*tokens, usage.service_tier)
    assert asked.list_usd(usage) >= 0


@given(prices, lengths, lengths, lengths, lengths, tiers)
def test_the_worst_grows_with_the_sizes(
    asked: Price, tokens_in: int, tokens_out: int, more_in: int, more_out: int, tier: str | None
) -> None:
    less = asked.worst_nano(tokens_in, tokens_out, tier)
    assert asked.worst_nano(tokens_in + more_in, tokens_out + more_out, tier) >= less


@given(prices, usages())
def test_without_a_cache_the_list_price_is_the_price(asked: Price, usage: Usage) -> None:
    uncached = dataclasses.replace(usage, cached_input_tokens=0, cache_write_tokens=0)
    assert asked.list_usd(usage) == asked.cost_usd(uncached) == asked.list_usd(uncached)

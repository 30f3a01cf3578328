"""What tokens cost: exact, each kind at its own rate."""

from __future__ import annotations

import copy
import math
import pickle
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.forms import Form, World, every_form
from tierllm import Deployment, Price, Tier, Usage
from tierllm.errors import ConfigError, UsageError
from tierllm.testing import Fail, FakeProvider, Reply

PRICE = Price(input_usd_per_mtok=2, output_usd_per_mtok=8, cached_input_usd_per_mtok="0.5")


@pytest.mark.parametrize(
    ("usage", "cost_usd"),
    [
        (Usage(), "0"),
        (Usage(input_tokens=1_000_000), "2"),
        (Usage(output_tokens=1_000_000), "8"),
        (Usage(input_tokens=1000, output_tokens=500), "0.006"),
        (Usage(input_tokens=1000, cached_input_tokens=600), "0.0011"),
        (Usage(input_tokens=1000, cache_write_tokens=400), "0.002"),
        (Usage(input_tokens=100, cached_input_tokens=600), "0.00005"),
        (Usage(input_tokens=100, cached_input_tokens=60, cache_write_tokens=600), "0.00011"),
        (Usage(input_tokens=100, cached_input_tokens=-600, cache_write_tokens=-600), "0.0002"),
        (Usage(input_tokens=-100, output_tokens=-5), "0"),
        (Usage(output_tokens=10, reasoning_tokens=8), "0.00008"),
    ],
    ids=str,
)
def test_each_kind_of_token_at_its_own_rate(usage: Usage, cost_usd: str) -> None:
    assert PRICE.cost_usd(usage) == Decimal(cost_usd)


@pytest.mark.parametrize(
    "field", ["input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens"]
)
@pytest.mark.parametrize("wrong", [None, 1.5, math.nan, "9"], ids=repr)
def test_what_is_no_number_of_tokens_has_no_price(field: str, wrong: Any) -> None:
    usage = Usage(**{"input_tokens": 10, field: wrong})
    for ask in (PRICE.cost_usd, PRICE.cost_nano, PRICE.list_usd):
        with pytest.raises(UsageError, match="whole numbers"):
            ask(usage)


def test_cents_add_up() -> None:
    price = Price(input_usd_per_mtok=0.1, output_usd_per_mtok=0.2)
    assert price.input_usd_per_mtok == Decimal("0.1")
    assert sum(price.cost_usd(Usage(input_tokens=1)) for _ in range(10**4)) == Decimal("0.001")


def test_writing_to_the_cache_may_cost_more() -> None:
    price = Price(input_usd_per_mtok=3, output_usd_per_mtok=15, cache_write_usd_per_mtok=3.75)
    assert price.cost_usd(Usage(input_tokens=1000, cache_write_tokens=1000)) == Decimal("0.00375")
    assert price.cost_usd(Usage(input_tokens=1000, cached_input_tokens=1000)) == Decimal("0.003")


tokens = st.integers(0, 10**7)
rates = st.decimals(0, 1000, places=4)


@given(rates, rates, tokens, tokens, tokens)
def test_never_negative_and_never_more_than_all_at_the_full_rate(
    rate_in: Decimal, rate_out: Decimal, total: int, cached: int, out: int
) -> None:
    price = Price(
        input_usd_per_mtok=rate_in, output_usd_per_mtok=rate_out, cached_input_usd_per_mtok=rate_in / 2
    )
    cached = min(cached, total)
    cost = price.cost_usd(Usage(input_tokens=total, cached_input_tokens=cached, output_tokens=out))
    full = (total * rate_in + out * rate_out) / Decimal(10**6)
    assert 0 <= cost <= full * (1 + Decimal("1e-20"))


@pytest.mark.parametrize(
    "wrong",
    [-1, float("nan"), float("inf"), "free", None, True, [1], b"1", -0.01, 10**5000],
    ids=lambda value: "huge" if value == 10**5000 else repr(value),
)
@pytest.mark.parametrize("name", ["input_usd_per_mtok", "output_usd_per_mtok"])
def test_prices_that_make_no_sense(name: str, wrong: Any) -> None:
    settings = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1, name: wrong}
    with pytest.raises(ConfigError, match=name):
        Price(**settings)


def test_a_price_is_a_value() -> None:
    assert PRICE == copy.copy(PRICE) == pickle.loads(pickle.dumps(PRICE))
    assert Price(input_usd_per_mtok="2.0", output_usd_per_mtok=8.0) == Price(
        input_usd_per_mtok=Decimal(2), output_usd_per_mtok=8
    )


@every_form
def test_a_response_knows_its_cost(form: Form) -> None:
    fake = FakeProvider()
    tiers = [
        Tier("gold", [Deployment("g", fake, price=PRICE)]),
        Tier("silver", [Deployment("s", fake)]),
    ]
    world = World(tiers, virtual=False, fake=fake)
    fake.script("g", Fail.unavailable(), Reply("hi", usage=Usage(input_tokens=1000, output_tokens=500)))
    assert form(world.client).cost_usd == Decimal("0.006")
    assert form(world.client, sla="silver").cost_usd is None

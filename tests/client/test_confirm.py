"""Asking before money is spent."""

from __future__ import annotations

import asyncio
import pickle
from decimal import Decimal
from typing import Any

import pytest

from client.forms import FORMS, Form, every_form
from tierllm import Deployment, Estimate, Price, Tier, TieredClient
from tierllm.errors import ConfigError, NotConfirmedError
from tierllm.testing import FakeProvider

PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=2)


class Asked:
    """Notes what it was shown, and answers."""

    def __init__(self, answer: object = True) -> None:
        self.answer = answer
        self.shown: list[Estimate] = []

    def __call__(self, estimate: Estimate) -> object:
        self.shown.append(estimate)
        return self.answer


def client(fake: FakeProvider, price: Price | None = PRICE, **settings: Any) -> TieredClient:
    tiers = [
        Tier("gold", [Deployment("g", fake, price=price)]),
        Tier("silver", [Deployment("s", fake, price=price)]),
    ]
    return TieredClient(tiers, **settings)


@every_form
def test_only_calls_above_the_sum_are_asked_about(form: Form) -> None:
    fake, asked = FakeProvider(), Asked()
    made = client(fake, confirm=asked, confirm_over_usd="0.01")
    form(made, max_tokens=100)
    assert asked.shown == []
    form(made, max_tokens=10_000)
    [shown] = asked.shown
    assert shown.cost_usd is not None
    assert shown.cost_usd.max > Decimal("0.02")
    assert list(shown.tiers) == ["gold", "silver"]
    assert fake.calls == 2


@every_form
@pytest.mark.parametrize("answer", [False, None, 0, ""], ids=repr)
def test_no_answer_but_a_true_one_lets_it_go(form: Form, answer: object) -> None:
    fake, asked = FakeProvider(), Asked(answer)
    made = client(fake, confirm=asked)
    with pytest.raises(NotConfirmedError, match=r"the call was not confirmed: it may cost \$0\.02") as caught:
        form(made, max_tokens=10_000)
    assert fake.calls == 0
    assert caught.value.estimate is asked.shown[0]
    assert caught.value.trace is not None
    assert caught.value.trace.outcome == "rejected"
    assert "Hello" not in str(caught.value)
    twin = pickle.loads(pickle.dumps(caught.value))
    assert twin.estimate.cost_usd == asked.shown[0].cost_usd


@every_form
def test_a_calls_own_come_first(form: Form) -> None:
    fake, clients, own = FakeProvider(), Asked(False), Asked()
    made = client(fake, confirm=clients, confirm_over_usd=1)
    form(made, max_tokens=10_000, confirm=own)
    assert (len(own.shown), len(clients.shown)) == (0, 0)
    form(made, max_tokens=10_000, confirm=own, confirm_over_usd="0.001")
    assert (len(own.shown), len(clients.shown)) == (1, 0)
    with pytest.raises(NotConfirmedError):
        form(made, max_tokens=10_000, confirm_over_usd=0)
    assert len(clients.shown) == 1


@every_form
def test_without_a_sum_everything_that_costs_is_asked_about(form: Form) -> None:
    asked = Asked()
    form(client(FakeProvider(), confirm=asked), max_tokens=1)
    assert len(asked.shown) == 1
    free = Asked(False)
    form(client(FakeProvider(), Price.free(), confirm=free))
    assert free.shown == []


@every_form
def test_a_price_that_is_not_known_is_always_asked_about(form: Form) -> None:
    asked = Asked(False)
    with pytest.raises(NotConfirmedError, match="its price is not known"):
        form(client(FakeProvider(), None, confirm=asked, confirm_over_usd=1000), max_tokens=1)


@every_form
def test_a_sum_without_anybody_to_ask_is_told(form: Form) -> None:
    with pytest.raises(ConfigError, match="give confirm= too, a function of the estimate"):
        form(client(FakeProvider()), confirm_over_usd=1)


@every_form
def test_what_asking_raises_is_the_callers(form: Form) -> None:
    fake = FakeProvider()

    def broken(estimate: Estimate) -> bool:
        raise LookupError("nobody home")

    with pytest.raises(LookupError, match="nobody home"):
        form(client(fake, confirm=broken))
    assert fake.calls == 0


@pytest.mark.parametrize("form", [f for f in FORMS if f.asynchronous], ids=str)
def test_asking_may_be_a_coroutine_function_where_calls_are_async(form: Form) -> None:
    seen: list[Estimate] = []

    async def ask(estimate: Estimate) -> bool:
        await asyncio.sleep(0)
        seen.append(estimate)
        return len(seen) == 1

    made = client(FakeProvider(), confirm=ask)
    form(made)
    with pytest.raises(NotConfirmedError):
        form(made)

    class Asking:
        async def __call__(self, estimate: Estimate) -> bool:
            return await ask(estimate)

    with pytest.raises(NotConfirmedError):
        form(client(FakeProvider(), confirm=Asking()))
    assert len(seen) == 3


@pytest.mark.parametrize("confirm", [5, "yes"], ids=repr)
def test_what_cannot_be_asked_is_told(confirm: Any) -> None:
    with pytest.raises(ConfigError, match="give a function of the estimate"):
        client(FakeProvider(), confirm=confirm)


@pytest.mark.parametrize("usd", [-1, "x", True, float("nan")], ids=repr)
def test_sums_that_make_no_sense(usd: Any) -> None:
    with pytest.raises(ConfigError, match="confirm_over_usd"):
        client(FakeProvider(), confirm=Asked(), confirm_over_usd=usd)

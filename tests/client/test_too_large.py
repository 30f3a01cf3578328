"""The context window is minded before anything is sent, in every form of a call."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from client.forms import Form, World, every_form
from tierllm import Budget, Deployment, Price, Tier
from tierllm.errors import RequestTooLargeError
from tierllm.events import CallSettled
from tierllm.testing import FakeProvider

PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=2)
LONG = "hello " * 2000


def world(*windows: int, model: str = "gpt-5-mini", **settings: Any) -> World:
    fake = FakeProvider(name="openai")
    places = [
        Deployment(model, fake, name=f"d{window}", context_window=window, price=PRICE) for window in windows
    ]
    return World([Tier("gold", places)], fake=fake, virtual=False, **settings)


@every_form
def test_what_does_not_fit_is_refused_with_the_numbers(form: Form) -> None:
    w = world(1500)
    with pytest.raises(RequestTooLargeError) as caught:
        form(w.client, LONG, max_tokens=100)
    error = caught.value
    assert error.input_tokens is not None
    assert 2000 <= error.input_tokens <= 2010
    assert (error.output_tokens, error.window, error.counted) == (100, 1500, True)
    assert "shorten the request, or give a tier a larger model" in str(error)
    assert "hello" not in str(error)
    assert w.fake.calls == 0
    assert vars(pickle.loads(pickle.dumps(error)))["window"] == 1500


@every_form
def test_the_answer_needs_room_too(form: Form) -> None:
    w = world(2500)
    assert form(w.client, LONG, max_tokens=400).deployment == "d2500"
    with pytest.raises(RequestTooLargeError) as caught:
        form(w.client, LONG, max_tokens=600)
    assert caught.value.output_tokens == 600


@every_form
def test_the_next_deployment_with_a_larger_window_serves_it(form: Form) -> None:
    w = world(1000, 1500, 4000)
    response = form(w.client, LONG, max_tokens=100)
    assert response.deployment == "d4000"
    assert w.fake.calls == 1
    assert response.trace is not None
    assert [(c.deployment, c.reason) for c in response.trace.candidates] == [
        ("d1000", "window"),
        ("d1500", "window"),
        ("d4000", None),
    ]
    assert form(w.client, "short").deployment == "d1000"


@every_form
def test_or_the_next_tier(form: Form) -> None:
    fake = FakeProvider(name="openai")
    small = Deployment("gpt-5-mini", fake, name="small", context_window=1000)
    large = Deployment("gpt-5-mini", fake, name="large", context_window=100_000)
    w = World([Tier("gold", [small]), Tier("silver", [large])], fake=fake, virtual=False)
    assert form(w.client, LONG).tier == "silver"
    with pytest.raises(RequestTooLargeError):
        form(w.client, LONG, fallback=False)


@every_form
def test_a_model_of_unknown_tokenizer_is_refused_only_where_it_is_certain(form: Form) -> None:
    w = world(1500, model="nobody-knows")
    with pytest.raises(RequestTooLargeError, match="at least"):
        form(w.client, LONG, max_tokens=100)
    roomy = world(2100, model="nobody-knows")
    assert form(roomy.client, LONG, max_tokens=100).text


@every_form
def test_nothing_is_reserved_for_what_is_too_large(form: Form) -> None:
    w = world(1500, budgets=[Budget(hard_usd=1, hard_calls=5)])
    with pytest.raises(RequestTooLargeError):
        form(w.client, LONG, max_tokens=100)
    assert {(left.used, left.reserved) for left in w.client.remaining()} == {(0, 0)}
    assert w.told(CallSettled) == []


@every_form
def test_a_bound_of_our_own_fits_the_window(form: Form) -> None:
    """A hard limit sends a bound nobody asked for: it must not push the request out of the window."""
    w = world(4000, budgets=[Budget(hard_usd=1)])
    assert form(w.client, LONG).text
    [entry] = w.fake.journal
    assert 0 < entry.params["max_tokens"] <= 4000 - 2000


def test_an_estimate_says_that_it_is_too_large() -> None:
    w = world(1500)
    estimate = w.client.estimate(LONG, max_tokens=100)
    assert estimate.refused is not None
    assert estimate.refused.startswith("too large: gold/d1500")

"""Estimates through a client: for the tier asked and those beneath it, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from client.forms import Form, World, every_form
from tierllm import Budget, Deployment, Price, Tier, TieredClient, UsageLedger
from tierllm.errors import BudgetExceededError, ConfigError
from tierllm.events import BudgetRefused
from tierllm.testing import Fail, FakeProvider, Reply

GOLD = Price(input_usd_per_mtok=10, output_usd_per_mtok=20)
SILVER = Price(input_usd_per_mtok=1, output_usd_per_mtok=2)


def tiers(fake: FakeProvider, **gold: Any) -> list[Tier]:
    return [
        Tier("gold", [Deployment("g", fake, price=GOLD), Deployment("g2", fake, price=GOLD)], **gold),
        Tier("silver", [Deployment("s", fake, price=SILVER)], max_tokens=100),
    ]


def test_every_tier_is_told_and_nothing_is_sent() -> None:
    w = World(tiers(FakeProvider()), virtual=False)
    estimate = w.client.estimate("Hello there", max_tokens=1000)
    assert (estimate.tier, estimate.deployment, estimate.model) == ("gold", "g", "g")
    assert list(estimate.tiers) == ["gold", "silver"]
    silver = estimate.tiers["silver"]
    assert (estimate.output_tokens.max, silver.output_tokens.max) == (1000, 100)  # each tier's own ceiling
    assert estimate.cost_usd is not None
    assert silver.cost_usd is not None
    assert estimate.cost_usd.max > 40 * silver.cost_usd.max > 0
    assert estimate.cost_usd.p50 <= estimate.cost_usd.p90 <= estimate.cost_usd.max
    assert estimate.latency_s is None
    assert estimate.refused is None
    assert w.fake.calls == 0
    assert w.client.status()["in_flight"] == 0


@every_form
def test_a_call_never_costs_more_than_the_estimate_said_at_most(form: Form) -> None:
    client = TieredClient(tiers(FakeProvider()))
    for prompt in ("Hi", "What is it? " * 50, "é" * 30):
        estimate = client.estimate(prompt, max_tokens=50)
        cost = form(client, prompt, max_tokens=50).cost_usd
        assert cost is not None
        assert estimate.cost_usd is not None
        assert 0 < cost <= estimate.cost_usd.max


@every_form
def test_answers_teach_it(form: Form) -> None:
    fake = FakeProvider()
    w = World(tiers(fake), virtual=False, fake=fake, ledger=UsageLedger())
    fake.script("g", Reply("four " * 10, latency_s=0.5), forever=True)
    before = w.client.estimate("Hello", max_tokens=1000, route="r")
    for _ in range(30):
        form(w.client, "Hello", max_tokens=1000, route="r")
    after = w.client.estimate("Hello", max_tokens=1000, route="r")
    assert before.output_tokens.p90 == 1000
    assert after.output_tokens.p50 == after.output_tokens.p90 == 13
    assert after.output_tokens.max == 1000
    assert after.output_tokens.samples == 30
    assert after.cost_usd is not None
    assert before.cost_usd is not None
    assert after.cost_usd.p90 < before.cost_usd.p90
    assert after.latency_s is not None
    assert after.latency_s.p50 == pytest.approx(0.5, rel=0.3)


def test_it_says_why_a_call_would_not_be_let_through() -> None:
    w = World(tiers(FakeProvider()), budgets=[Budget(hard_usd="0.001", per="user", on_exceed="downgrade")])
    estimate = w.client.estimate("Hello", max_tokens=1000, user="u")
    assert estimate.refused is not None
    assert estimate.refused.startswith("BudgetExceededError: budget 'user-total' (user=u)")
    assert estimate.tiers["silver"].refused is None
    assert w.told(BudgetRefused) == []  # asking is no refusal
    assert w.client.status()["budgets"]["user-total"]["refused"] == 0
    with pytest.raises(BudgetExceededError):
        w.client.complete("Hello", max_tokens=1000, user="u", min_tier="gold")


def test_it_is_made_at_the_place_that_would_be_asked() -> None:
    fake = FakeProvider()
    w = World(tiers(fake), fake=fake)
    fake.down("g", Fail.rate_limited(retry_after_s=60))
    w.call()
    assert w.client.estimate("Hello").deployment == "g2"


def test_the_queue_is_in_it() -> None:
    fake = FakeProvider(latency_s=1.0)
    w = World(tiers(fake, max_concurrency=1, max_waiting=9), fake=fake, ledger=UsageLedger())
    for _ in range(30):
        w.call()
    free = w.client.estimate("Hello").latency_s
    for _ in range(3):
        w.begin()
    queued = w.client.estimate("Hello").latency_s
    assert free is not None
    assert queued is not None
    assert queued.p50 == pytest.approx(free.p50 + 3, rel=0.2)


def test_many_are_totalled_from_a_generator() -> None:
    client = TieredClient(tiers(FakeProvider()))

    def prompts() -> Iterator[str]:
        for n in range(20):
            yield "Hello " * (n + 1)

    total = client.estimate_many(prompts(), max_tokens=100)
    each = [client.estimate(prompt, max_tokens=100) for prompt in prompts()]
    assert total.count == 20
    assert total.cost_usd is not None
    assert total.cost_usd.max == sum((e.cost_usd.max for e in each if e.cost_usd), Decimal(0))
    assert client._setup.lines["gold"].lines[0].served == 0


def test_guessing_does_not_count() -> None:
    client = TieredClient(tiers(FakeProvider()))
    guessed, counted = (client.estimate("Hello there, you", exact=exact) for exact in (False, True))
    assert (guessed.input_tokens.counted, counted.input_tokens.counted) == (False, True)
    assert guessed.input_tokens.max >= counted.input_tokens.p50


def test_estimates_of_what_makes_no_sense() -> None:
    client = TieredClient(tiers(FakeProvider()))
    for prompt, options in ((5, {}), ("Hi", {"sla": "platinum"}), ("Hi", {"max_tokens": 0})):
        with pytest.raises(ConfigError):
            client.estimate(prompt, **options)  # type: ignore[arg-type]


def test_without_a_price_there_is_no_cost() -> None:
    client = TieredClient([Tier("gold", [Deployment("g", FakeProvider())])])
    assert client.estimate("Hello").cost_usd is None

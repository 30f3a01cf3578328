"""Shifts in a client: whose time it is, and whose fault."""

from __future__ import annotations

from typing import Any

import pytest

from tierllm import Deployment, Objective, RateLimitError, Tier, TieredClient
from tierllm.sla.shift import Shift
from tierllm.testing import Fail, FakeClock, FakeProvider, Reply


def made(fake: FakeProvider, clock: FakeClock) -> TieredClient:
    places = [Deployment(name, fake, name=name, retry=False, breaker=False) for name in ("a", "b")]
    objective = Objective(latency_p95_s=4.0, availability=0.99)
    return TieredClient([Tier("gold", places, objective=objective, shift=Shift())], clock=clock)


def minute(client: TieredClient) -> dict[str, dict[str, int]]:
    windows: dict[str, dict[str, Any]] = client.status()["tiers"]["gold"]["shift"]["places"]["a"]["windows"]
    return {goal: found["60s"] for goal, found in windows.items()}


def test_a_slow_consumer_is_no_slow_place() -> None:
    clock = FakeClock()
    client = made(FakeProvider(answer=lambda call: Reply("one two three")), clock)
    with client.stream("hello", sla="gold") as stream:
        next(iter(stream))
        clock.advance(30.0)
        assert minute(client)["latency_p95_s"] == {"calls": 0, "bad": 0}
        for _ in stream:
            pass
    assert minute(client) == {"latency_p95_s": {"calls": 1, "bad": 0}, "availability": {"calls": 1, "bad": 0}}


@pytest.mark.parametrize(
    ("fail", "counted"),
    [
        (Fail.unavailable(), {"calls": 1, "bad": 1}),
        (Fail.rate_limited(), {"calls": 0, "bad": 0}),
        (Fail.invalid(), {"calls": 0, "bad": 0}),
    ],
    ids=["unavailable", "429", "400"],
)
def test_whose_fault_it_is(fail: Fail, counted: dict[str, int]) -> None:
    fake = FakeProvider()
    client = made(fake, FakeClock())
    fake.script("a", fail)
    try:
        client.complete("hello", sla="gold")
    except Exception as error:
        assert not isinstance(error, RateLimitError)
    assert minute(client)["availability"] == counted

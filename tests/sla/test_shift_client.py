"""Shifts in a client: whose time it is, and whose fault."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from typing import Any

import pytest

from client.forms import World, three_tiers
from tierllm import (
    AdaptiveSampling,
    Admission,
    CircuitBreaker,
    Consent,
    Contract,
    Deployment,
    Hedge,
    InvalidRequestError,
    Objective,
    Price,
    ServicePlan,
    Step,
    Tier,
    TieredClient,
)
from tierllm.errors import DeadlineExceededError
from tierllm.events import ShiftChanged
from tierllm.pipeline.effects import Handler
from tierllm.pipeline.virtual import VirtualTime
from tierllm.routing.ask import ask
from tierllm.sla.shift import Shift
from tierllm.testing import Fail, FakeClock, FakeProvider, Reply
from tierllm.types import Call, Response

SLOW_S = 9.0
P95 = Objective(latency_p95_s=4.0)


class Played:
    """Calls to a client in virtual time, four a second."""

    def __init__(
        self,
        tiers: Callable[[FakeProvider], Sequence[Tier]],
        answer: Callable[[Call, float], Reply | Fail],
        *,
        asked: Callable[[int], dict[str, Any]] = lambda number: {"session": f"session {number % 40}"},
        seconds: int = 300,
        per_s: int = 4,
    ) -> None:
        world = VirtualTime()
        began = world.now
        self.shifts: list[tuple[float, ShiftChanged]] = []
        self.calls: list[tuple[float, Call]] = []

        def heard(event: object) -> None:
            if isinstance(event, ShiftChanged):
                self.shifts.append((world.now - began, event))

        fake = FakeProvider(answer=lambda call: answer(call, world.now - began))
        self.client = TieredClient(tiers(fake), clock=world.clock, listeners=[heard])

        def come(number: int) -> None:
            ready = self.client.ready(ask("hello", {"sla": "gold", **asked(number)}))
            ready.host.begin(ready.scope)
            self.calls.append((world.now - began, ready.call))
            world.start(
                ready.flow(), ready.host, scope=ready.scope, on_end=lambda run: ready.host.end(ready.scope)
            )
            if number < seconds * per_s:
                world.after(1 / per_s, lambda: come(number + 1))

        world.after(0.0, lambda: come(0))
        world.run()

    def shares(self, deployment: str | None) -> list[float]:
        return [each.share for _, each in self.shifts if each.deployment == deployment]

    def attempts(self, since_s: float = 0.0) -> Counter[str]:
        traces = [call.trace for at, call in self.calls if at >= since_s]
        return Counter(each.deployment for trace in traces if trace is not None for each in trace.attempts)

    def served(self, since_s: float) -> Counter[str | None]:
        traces = [call.trace for at, call in self.calls if at >= since_s]
        return Counter(trace.served for trace in traces if trace is not None)


def two(fake: FakeProvider, shift: Shift | bool = True, **tier: Any) -> list[Tier]:
    places = [Deployment("a", fake, name="a"), Deployment("b", fake, name="b")]
    return [Tier("gold", places, **{"objective": P95, "shift": shift, **tier})]


def slow(call: Call, now_s: float) -> Reply:
    return Reply("fine", latency_s=SLOW_S if call.model == "a" and now_s > 60 else 1.0)


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
    with suppress(InvalidRequestError):  # all others are answered by the other place
        client.complete("hello", sla="gold")
    assert minute(client)["availability"] == counted


# -- what it looks at before it moves anybody ------------------------------------------------


def test_failures_that_retries_make_good_shed_nobody() -> None:
    rng = random.Random(4)
    played = Played(
        lambda fake: [
            *two(fake, objective=Objective(latency_p95_s=4.0, availability=0.999)),
            Tier("silver", [Deployment("c", fake)]),
        ],
        lambda call, _: Fail.unavailable() if rng.random() < 0.01 else Reply("fine", latency_s=1.0),
        seconds=1800,
    )
    assert played.shares(None) == []
    assert set(played.served(0)) == {"gold"}


@pytest.mark.parametrize("down", ["silver is slow too", "silver is down"])
def test_nobody_is_sent_on_to_a_tier_that_does_no_better(down: str) -> None:
    def answer(call: Call, now_s: float) -> Reply | Fail:
        if call.model == "c" and down == "silver is down":
            return Fail.unavailable()
        return Reply("fine", latency_s=SLOW_S if now_s > 60 else 1.0)

    played = Played(
        lambda fake: [
            Tier("gold", [Deployment("a", fake, name="a")], objective=P95, shift=True),
            Tier("silver", [Deployment("c", fake, name="c")], objective=P95, shift=True),
        ],
        answer,
        seconds=900,
    )
    assert played.shares(None)[0] == pytest.approx(0.9)
    assert min(played.shares(None)) >= 0.75
    asked_first = Counter(
        call.trace.attempts[0].tier for at, call in played.calls if at > 300 and call.trace is not None
    )
    assert asked_first["silver"] <= 0.05 * asked_first["gold"]


def test_a_tier_that_is_full_sheds_those_too_whom_another_has_sent() -> None:
    played = Played(
        lambda fake: [
            Tier("gold", [Deployment("a", fake, name="a")], objective=P95, shift=Shift(load=None)),
            Tier(
                "silver",
                [Deployment("c", fake, name="c")],
                max_concurrency=4,
                max_waiting=200,
                max_wait_s=60,
                admission=Admission(shed_at=0.8),
            ),
            Tier("bronze", [Deployment("d", fake, name="d")]),
        ],
        lambda call, now_s: Reply("fine", latency_s=SLOW_S if call.model == "a" and now_s > 60 else 1.5),
        asked=lambda number: {"sla": "gold" if number % 4 else "silver", "session": f"s{number % 40}"},
        seconds=600,
        per_s=6,
    )
    for _, call in played.calls:
        assert call.trace is not None
        if call.trace.served == "silver":
            assert call.trace.duration_s < 5.0
    assert played.served(100)["bronze"] > 0


def test_an_open_breaker_does_no_better() -> None:
    def tiers(fake: FakeProvider) -> list[Tier]:
        places = [Deployment("a", fake, name="a"), Deployment("b", fake, name="b")]
        breaker = CircuitBreaker(open_s=300)
        return [
            Tier("gold", places, objective=P95, shift=True, breaker=breaker, retry=False),
            Tier("silver", [Deployment("c", fake)]),
        ]

    def answer(call: Call, now_s: float) -> Reply | Fail:
        return Fail.unavailable() if call.model == "b" else slow(call, now_s)

    played = Played(tiers, answer, seconds=300)
    assert min(played.shares(None)) <= 0.5  # a is left, and serves all the same
    assert played.served(200)["silver"] >= 0.4 * sum(played.served(200).values())


# -- who goes past it ------------------------------------------------------------------------


def test_calls_that_stood_in_line_when_it_was_left_go_past_it() -> None:
    played = Played(
        lambda fake: two(
            fake,
            Shift(shed=False, load=None, dwell_s=600),
            max_concurrency=12,
            max_waiting=500,
            max_wait_s=300,
        ),
        lambda call, now_s: Reply("fine", latency_s=30.0 if call.model == "a" and now_s > 60 else 1.0),
        per_s=8,
        seconds=120,
    )
    left_s = next(at for at, event in played.shifts if event.share == 0.0)
    late = [
        at + each.started_s
        for at, call in played.calls
        if call.trace is not None
        for each in call.trace.attempts
        if each.deployment == "a"
    ]
    assert max(late) <= left_s + 1


class Copying:
    """A policy that sends a copy of the call in its stead."""

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        return await call_next(call.copy())


@pytest.mark.parametrize("hedge", [False, Hedge(share=0.01)], ids=["plain", "hedged"])
def test_policies_that_send_a_copy_hide_nothing(hedge: Hedge | bool) -> None:
    def tiers(fake: FakeProvider) -> list[Tier]:
        places = [Deployment(name, fake, name=name, policies=[Copying()]) for name in "ab"]
        return [Tier("gold", places, objective=P95, shift=Shift(dwell_s=600), hedge=hedge)]

    played = Played(tiers, slow, seconds=120)
    assert played.shares("a") == [0.0]
    left_s = played.shifts[0][0]
    assert left_s < 80
    assert all(call.lane is None for _, call in played.calls)


def test_hedges_leave_out_what_is_left_alone() -> None:
    rng = random.Random(1)

    def tiers(fake: FakeProvider) -> list[Tier]:
        return two(fake, hedge=Hedge(share=0.2))

    def answer(call: Call, now_s: float) -> Reply:
        return Reply("fine", latency_s=8.0 if rng.random() < 0.02 else 1.0)

    class Pinned(Played):
        def __init__(self) -> None:
            super().__init__(tiers, answer, asked=self.asks, seconds=200)

        def asks(self, number: int) -> dict[str, Any]:
            if not number:
                self.client.shift("gold", "b", away=True)
            return {}

    assert set(Pinned().attempts()) == {"a"}


def test_a_call_that_is_served_cheaper_goes_past_it_too() -> None:
    fake = FakeProvider()
    dear, cheap = (Price(input_usd_per_mtok=each, output_usd_per_mtok=each) for each in (9, 1))
    client = TieredClient(
        [
            Tier(
                "gold",
                [
                    Deployment("dear", fake, name="dear", price=dear),
                    Deployment("cheap", fake, name="cheap", price=cheap),
                ],
                objective=P95,
                shift=True,
                max_concurrency=8,
                sampling=AdaptiveSampling(
                    [Step("cheap", at=1.5, cheaper=True)],
                    consent=[Consent("all", since=date(2026, 3, 1), plan="free")],
                    emergencies={"drill": ["cheap"]},
                ),
            )
        ]
    )
    client.emergency("drill", for_s=600)
    assert client.complete("hello", plan="free").deployment == "cheap"
    client.shift("gold", "cheap", away=True)
    assert client.complete("hello", plan="free").deployment == "dear"


# -- streams and deadlines -------------------------------------------------------------------


def test_a_stream_that_speaks_and_then_crawls_until_the_deadline_is_late() -> None:
    fake = FakeProvider(answer=lambda call: Reply("one two three four", first_token_s=0.1, between_s=3.0))
    clock = FakeClock()
    client = made(fake, clock)
    with (
        pytest.raises(DeadlineExceededError),
        client.stream("hello", sla="gold", deadline_s=5.0) as stream,
    ):
        for _ in stream:
            pass
    assert minute(client)["latency_p95_s"] == {"calls": 1, "bad": 1}
    assert minute(client)["availability"] == {"calls": 0, "bad": 0}  # it did speak


def test_a_place_that_hangs_until_the_deadline_has_failed() -> None:
    played = Played(
        lambda fake: two(fake, objective=Objective(availability=0.99)),
        lambda call, _: Reply("fine", latency_s=1e5 if call.model == "a" else 1.0),
        asked=lambda number: {"deadline_s": 10.0},
        seconds=100,
    )
    assert played.shares("a")[0] == 0.0


def test_deadlines_that_are_short_for_anybody_say_nothing_of_the_place() -> None:
    played = Played(
        lambda fake: two(fake, objective=Objective(availability=0.99)),
        lambda call, _: Reply("fine", latency_s=2.0),
        asked=lambda number: {"deadline_s": 1.9 if number > 100 and number % 2 else 30.0},
        seconds=100,
    )
    assert played.shifts == []


def test_a_plan_that_is_not_to_be_shifted_stays() -> None:
    fake = FakeProvider()
    world = World(
        three_tiers(fake, objective=Objective(latency_p95_s=1), shift=True),
        fake=fake,
        plans=[ServicePlan("stays", shifts=False), ServicePlan("goes")],
        contracts=[Contract("kept", plan="goes", shifts=False)],
    )
    shifting = world.client._setup.lines["gold"].shifting
    assert shifting is not None
    shifting.leaves_tier = lambda key, now, room: True  # type: ignore[method-assign]
    assert world.call(plan="goes").ok.tier == "silver"
    assert world.call(plan="stays").ok.tier == "gold"
    assert world.call(contract="kept").ok.tier == "gold"

"""Calls that wait: seen, hurried along, cancelled, from any thread."""

from __future__ import annotations

import threading

import pytest

from tierllm import (
    CallCancelledError,
    CallHandle,
    ConfigError,
    Deployment,
    RateLimit,
    ServicePlan,
    Tier,
    TieredClient,
)
from tierllm.testing import FakeProvider
from tierllm.types import Call


class Gate:
    """Lets the provider answer one call at a time, when told to."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._go = threading.Semaphore(0)
        self._came = threading.Semaphore(0)

    def __call__(self, call: Call) -> str:
        self.seen.append(call.request.text)
        self._came.release()
        assert self._go.acquire(timeout=10)
        return "done"

    def wait_for_one(self) -> None:
        assert self._came.acquire(timeout=10)

    def open(self, times: int = 1) -> None:
        for _ in range(times):
            self._go.release()


def served_one_at_a_time(gate: Gate, **more: object) -> TieredClient:
    fake = FakeProvider(answer=gate)
    return TieredClient([Tier("gold", [Deployment("m", fake)], max_concurrency=1)], **more)  # type: ignore[arg-type]


def until_waiting(client: TieredClient, number: int) -> None:
    for _ in range(2000):
        if len(client.queued("gold")) == number:
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"{len(client.queued('gold'))} wait, not {number}")


def test_a_call_that_waits_is_hurried_along_and_another_cancelled() -> None:
    gate = Gate()
    with served_one_at_a_time(gate) as client:
        first = client.submit("first")
        gate.wait_for_one()
        waiting: dict[str, CallHandle] = {}
        for number, name in enumerate(("a", "b", "c"), 1):
            waiting[name] = client.submit(name, user=name)
            until_waiting(client, number)
        assert [each.user for each in client.queued()] == ["a", "b", "c"]
        assert all(handle.waiting and handle.tier == "gold" for handle in waiting.values())
        waiting["c"].reprioritise(5)
        assert waiting["c"].priority == 5
        waiting["a"].cancel()
        with pytest.raises(CallCancelledError):
            waiting["a"].result(10)
        gate.open(3)
        assert waiting["c"].result(10).text == waiting["b"].result(10).text == "done"
        assert first.done
        assert gate.seen == ["first", "c", "b"]
        assert client.queued() == []
        assert waiting["b"].eta_s == 0.0
        assert client.status()["tiers"]["gold"]["pool"]["in_use"] == 0


def test_a_listed_call_is_as_good_as_its_handle() -> None:
    gate = Gate()
    with served_one_at_a_time(gate) as client:
        client.submit("first")
        gate.wait_for_one()
        slow = client.submit("slow")
        until_waiting(client, 1)
        [listed] = client.queued("gold")
        assert listed.trace_id == slow.trace_id
        listed.cancel()
        with pytest.raises(CallCancelledError):
            slow.result(10)
        gate.open()


def test_a_call_under_way_is_cancelled_too() -> None:
    fake = FakeProvider(latency_s=60.0)
    with TieredClient([Tier("gold", [Deployment("m", fake)])]) as client:
        handle = client.submit("long")
        while not fake.in_flight:
            threading.Event().wait(0.001)
        handle.cancel()
        with pytest.raises(CallCancelledError):
            handle.result(10)
        assert fake.in_flight == 0


def test_a_result_that_is_not_there_in_time() -> None:
    gate = Gate()
    with served_one_at_a_time(gate) as client:
        handle = client.submit("x")
        with pytest.raises(TimeoutError, match="the call goes on"):
            handle.result(0.01)
        gate.open()
        assert handle.result(10).text == "done"


def test_closing_the_client_ends_what_was_submitted() -> None:
    gate = Gate()
    client = served_one_at_a_time(gate)
    client.submit("first")
    gate.wait_for_one()
    handle = client.submit("second")
    until_waiting(client, 1)
    client.close()
    with pytest.raises(Exception, match="closed"):
        handle.result(10)
    gate.open()


def test_what_a_plan_does_not_allow_is_lowered_with_a_warning() -> None:
    fake = FakeProvider()
    plans = [ServicePlan("free", max_priority=0), ServicePlan("pro", max_priority=5, weight=2)]
    with TieredClient([Tier("gold", [Deployment("m", fake)], max_concurrency=1)], plans=plans) as client:
        response = client.complete("hi", plan="free", priority=9)
        assert "priority 9 was lowered to 0" in response.warnings[0]
        assert response.trace is not None
        assert response.trace.warnings == response.warnings
        assert client.complete("hi", plan="pro", priority=5).warnings == ()
        status = client.status()["plans"]
        assert status["free"]["claimed"] == {9: 1}
        assert status["free"]["granted"] == {0: 1}


def test_there_is_no_load_of_a_tier_without_a_measure() -> None:
    with TieredClient([Tier("gold", [Deployment("m", FakeProvider())])]) as client:
        with pytest.raises(ConfigError, match="no load of 'gold'"):
            client.load("gold")
        with pytest.raises(ConfigError, match="no tier 'lead'"):
            client.queued("lead")


def test_a_limit_that_opens_soon_is_waited_for_in_line() -> None:
    from tierllm.testing import FakeClock

    clock = FakeClock()
    fake = FakeProvider()
    tiers = [Tier("gold", [Deployment("m", fake, rpm=2)])]
    with TieredClient(tiers, clock=clock) as client:
        for _ in range(5):
            client.complete("hi")
    at = [entry.at_s for entry in fake.journal]
    assert at[1] - at[0] < 1
    assert at[2] - at[0] >= 60
    assert at[4] - at[2] >= 60


def test_a_limit_of_the_user_keeps_back_nobody_else() -> None:
    from tierllm.testing import FakeClock

    fake = FakeProvider()
    tiers = [Tier("gold", [Deployment("m", fake)])]
    limits = [RateLimit(rpm=1, per="user")]
    with TieredClient(tiers, clock=FakeClock(), limits=limits) as client:
        for user in ("a", "b", "c"):
            client.complete("hi", user=user)
        assert fake.journal[-1].at_s - fake.journal[0].at_s < 1


def test_a_limit_of_the_users_own_is_waited_for_aside() -> None:
    from tierllm.testing import FakeClock

    fake = FakeProvider()
    tiers = [Tier("gold", [Deployment("m", fake)])]
    with TieredClient(tiers, clock=FakeClock(), limits=[RateLimit(rpm=1, per="user")]) as client:
        for _ in range(3):
            client.complete("hi", user="a")
    assert [entry.at_s for entry in fake.journal] == [0, 60, 120]


def test_a_handle_hurries_along_the_call_that_it_follows() -> None:
    from tierllm import ResultCache

    gate = Gate()
    with served_one_at_a_time(gate, cache=ResultCache(ttl_s=60)) as client:
        client.submit("first", cache="off")
        gate.wait_for_one()
        same = client.submit("same")
        until_waiting(client, 1)
        client.submit("other", cache="off")
        until_waiting(client, 2)
        client.submit("another", cache="off", priority=5)
        until_waiting(client, 3)
        follower = client.submit("same")
        while not follower.waiting:
            threading.Event().wait(0.001)
        follower.reprioritise(50)
        gate.open(4)
        assert same.result(10).text == follower.result(10).text == "done"
        assert gate.seen[:2] == ["first", "same"]

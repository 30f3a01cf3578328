"""Hedging through a client: when a second place is asked, who answers, and that nothing is left behind."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.forms import Form, Told, World, every_form, held
from pipeline.drivers import eventually
from tierllm import Budget, CircuitBreaker, Deployment, Price, Retry, Tier, TieredClient, tiered
from tierllm.errors import AllTiersFailedError, ConfigError, ProviderError, ThrottledError
from tierllm.events import BudgetRefused, CallHedged, CallSettled
from tierllm.pipeline.effects import Handler, Wait
from tierllm.pipeline.host import Host
from tierllm.resilience.hedge import Hedge
from tierllm.resilience.hedging import Hedging
from tierllm.resilience.lane import Lane
from tierllm.stores import Hold, MemoryStore, Settlement, Verdict
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.types import Call, Response, Timeouts

EACH = Budget(hard_usd=100, per="user", name="each")

LATE_S = 0.404
"""After so long a call is late where all took 0.4 s before."""

TOOLS = [{"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}]
PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=4)
EAGER = Hedge(share=1.0, min_samples=10)


def gold(fake: FakeProvider, hedge: Hedge | bool = EAGER, **more: Any) -> Tier:
    names = more.pop("names", ("a", "b"))
    places = [Deployment(name, fake, labels={name}, price=PRICE) for name in names]
    return Tier("gold", places, hedge=hedge, **{"max_concurrency": 8, **more})


def warm(client: TieredClient, seconds: float = 0.4, *, bank: int = 5) -> Hedging:
    """As if every place had answered in so many seconds so far, and hedges had been saved up."""
    hedging = client._setup.lines["gold"].hedge
    assert hedging is not None
    for lateness in hedging._lateness.values():
        for _ in range(50):
            lateness.streamed.add(seconds)
            lateness.whole.add(seconds)
            lateness._recent.append((hedging.clock(), False))
    for _ in range(bank):
        hedging.bank.pay_in()
    return hedging


CLIENT = ("breaker", "retry", "budgets", "store", "timeouts")


class Warm(World):
    """Gold (two places) and silver, in virtual time, with a history of 0.4 s."""

    def __init__(self, hedge: Hedge | bool = EAGER, *, bank: int = 5, **more: Any) -> None:
        fake = more.pop("fake", None) or FakeProvider(latency_s=0.4)
        client = {name: more.pop(name) for name in CLIENT if name in more}
        tiers = [gold(fake, hedge, **more), Tier("silver", [Deployment("s", fake, price=PRICE)])]
        super().__init__(tiers, fake=fake, **{"retry": False, **client})
        self.hedging = warm(self.client, bank=bank)

    @property
    def hedges(self) -> list[CallHedged]:
        return [event for event in self.events if isinstance(event, CallHedged)]

    def at_rest(self) -> bool:
        return self.fake.in_flight == 0 and held(self.client)["gold"] == (0, 0)


class Watched(MemoryStore):
    """Notes what is taken and settled on accounts that last."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[str] = []
        self.settled: list[str] = []

    def reserve(self, hold: Hold) -> Verdict:
        verdict = super().reserve(hold)
        if verdict.ok:
            self.taken.append(hold.id)
        return verdict

    def post(self, settlement: Settlement) -> None:
        self.settled.append(settlement.hold.id)
        super().post(settlement)

    def at_rest(self) -> None:
        assert sorted(self.settled) == sorted(set(self.taken))
        assert all(account.reserved == 0 for account in self._accounts.values())


both_ways = pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])


# -- who is asked, and when --------------------------------------------------------


@both_ways
def test_the_second_place_is_asked_once_the_first_is_late(streaming: bool) -> None:
    world = Warm()
    world.fake.script("a", Fail.hang())
    told = world.call(streaming=streaming)
    assert told.ok.deployment == "b"
    assert told.took_s == pytest.approx(LATE_S + 0.4)
    a, b = world.fake.journal
    assert (a.model, a.outcome, a.ended_s) == ("a", "cancelled", pytest.approx(LATE_S + 0.4))
    assert (b.model, b.outcome, b.at_s) == ("b", "ok", pytest.approx(LATE_S))
    (event,) = world.hedges
    assert (event.tier, event.first, event.second, event.won) == ("gold", "a", "b", "b")
    assert (event.mode, event.after_s) == ("enforce", pytest.approx(LATE_S))
    assert world.at_rest()
    trace = told.ok.trace
    assert trace is not None
    assert event.trace_id == trace.id
    assert [(x.deployment, x.outcome) for x in trace.attempts] == [("a", "cancelled"), ("b", "ok")]
    assert sorted((c.deployment, c.reason) for c in trace.candidates) == [("a", "cancelled"), ("b", None)]
    if streaming:
        assert told.text == told.ok.text
        assert trace.first_token_s == pytest.approx(LATE_S + 0.4)


@both_ways
def test_a_first_place_that_answers_after_all_wins(streaming: bool) -> None:
    world = Warm()
    world.fake.script("a", Reply("late", latency_s=0.5))
    told = world.call(streaming=streaming)
    assert (told.ok.deployment, told.took_s) == ("a", pytest.approx(0.5))
    assert [e.outcome for e in world.fake.journal] == ["ok", "cancelled"]
    assert world.hedges[0].won == "a"
    trace = told.ok.trace
    assert trace is not None
    assert [(x.deployment, x.outcome) for x in trace.attempts] == [("a", "ok"), ("b", "cancelled")]
    if streaming:
        assert trace.first_token_s == pytest.approx(0.5)
    assert world.at_rest()


@both_ways
def test_a_call_that_is_not_late_is_not_hedged(streaming: bool) -> None:
    world = Warm()
    for _ in range(30):
        world.call(streaming=streaming)
    assert world.fake.calls == 30
    assert world.hedging.status()["hedged"] == 0
    assert world.hedges == []


@every_form
def test_in_every_form_the_second_answers_and_the_first_is_cancelled(form: Form) -> None:
    fake = FakeProvider()
    world = World([gold(fake)], virtual=False, fake=fake)
    client = TieredClient([gold(fake)], listeners=[world.events.append])
    warm(client, 0.002)
    for _ in range(10):
        fake.script("a", Fail.hang())
        assert form(client).deployment == "b"
        eventually(lambda: fake.in_flight == 0 and held(client)["gold"] == (0, 0))
        fake.script("b", Fail.hang(), when=lambda call: True)
        assert form(client, require={"a"}).deployment == "a"
        fake._scripts.clear()
    outcomes = {(e.model, e.outcome) for e in fake.journal}
    assert outcomes == {("a", "cancelled"), ("b", "ok"), ("a", "ok")}
    assert [e.won for e in world.events if isinstance(e, CallHedged)] == ["b"] * 10


def test_the_wait_begins_when_the_place_is_really_asked() -> None:
    world = Warm(retry=Retry(attempts=3, base_s=0.0))
    world.fake.script("a", Fail.rate_limited(retry_after_s=0.45), Reply("hi", latency_s=0.3))
    told = world.call()
    assert (told.ok.deployment, told.took_s) == ("a", pytest.approx(0.75))
    assert world.models() == ["a", "a"]
    world.fake.script("a", Fail.rate_limited(retry_after_s=0.45), Fail.hang())
    told = world.call()
    assert (told.ok.deployment, told.took_s) == ("b", pytest.approx(0.45 + LATE_S + 0.4))


def test_the_bound_is_that_of_the_place_that_was_asked() -> None:
    world = Warm(names=("a", "b", "c"))
    (slow, *_) = world.hedging._lateness.values()
    for _ in range(300):
        slow.whole.add(2.0)
    world.fake.script("a", Reply("slow as ever", latency_s=2.0), Fail.hang())
    assert world.call().took_s == pytest.approx(2.0)
    assert world.hedges == []
    assert world.call().took_s == pytest.approx(2.02 + 0.4)


def test_only_a_place_that_is_open_is_asked() -> None:
    world = Warm(names=("a", "b", "c"))
    world.fake.script("a", Fail.hang(), forever=True)
    line = world.client._setup.lines["gold"].lines[1]
    assert line.breaker is not None
    line.breaker.force_open()
    assert world.call().ok.deployment == "c"
    line.breaker.reset()
    assert world.call().ok.deployment == "b"
    assert world.call(require={"a"}, deadline_s=1).kind == "DeadlineExceededError"
    assert world.models()[-1] == "a"


def test_the_second_leg_is_not_retried() -> None:
    world = Warm(retry=Retry(attempts=3, base_s=0.0))
    world.fake.script("a", Reply("after all", latency_s=2.0))
    world.fake.script("b", Fail.unavailable())
    told = world.call()
    assert (told.ok.text, told.took_s) == ("after all", pytest.approx(2.0))
    assert world.models() == ["a", "b"]
    assert world.hedges[0].won == "a"


def test_a_second_leg_that_reached_nobody_is_not_paid_for() -> None:
    world = Warm(bank=3)
    world.fake.script("a", Reply("after all", latency_s=2.0))

    class Refusing:
        async def __call__(self, call: Any, call_next: Any) -> Any:
            raise ThrottledError("not today", retry_after_s=1)

    line = world.client._setup.lines["gold"].lines[1]
    line.once = lambda call: Refusing()(call, None)
    before = world.hedging.bank.balance
    assert world.call().ok.text == "after all"
    assert world.hedging.bank.balance == min(100, before + 1)
    assert world.hedging.status()["hedged"] == 0
    assert world.hedges == []
    assert world.at_rest()


# -- who is not hedged -------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "hedged"),
    [
        ({"tools": TOOLS}, False),
        ({"tools": TOOLS, "tool_choice": "auto"}, False),
        ({"tools": TOOLS, "tool_choice": "none"}, True),
        ({"tools": []}, True),
        ({"extra": {"fake": {"tools": TOOLS}}}, False),
        ({"tools": TOOLS, "tool_choice": "none", "extra": {"fake": {"tool_choice": "auto"}}}, False),
        ({"tools": TOOLS, "tool_choice": "none", "extra": {"fake": {"tool_choice": None}}}, False),
        ({"extra": {"fake": {"extra_body": {"tools": TOOLS}}}}, False),
        ({"extra": {"fake": {"extra_body": {"n": 1, "options": {"mcp_servers": [{"url": "x"}]}}}}}, False),
        ({"extra": {"fake": {"mcp_servers": [{"url": "x"}]}}}, False),
        ({"extra": {"fake": {"nobody_knows": 1}}}, False),
        ({"extra": {"fake": {"top_k": 5, "extra_body": {"seed": 1}}}}, True),
        ({"require": {"a"}}, False),
        ({"deadline_s": 0.4}, False),
        ({}, True),
    ],
    ids=[
        *("tools", "auto", "none", "no-tools", "extra", "choice-in-extra", "no-choice-in-extra", "in-body"),
        *("nested", "servers", "unknown", "harmless", "labels", "deadline", "plain"),
    ],
)
@both_ways
def test_who_is_not_hedged(options: dict[str, Any], hedged: bool, streaming: bool) -> None:
    world = Warm()
    world.fake.script("a", Reply("after all", latency_s=0.9))
    world.call(streaming=streaming, **options)
    assert ("b" in world.models()) is hedged


@pytest.mark.parametrize("where", ["tier", "first", "second"])
def test_tools_that_the_settings_add_count_too(where: str) -> None:
    fake = FakeProvider(latency_s=0.4)
    own = {"tools": TOOLS}
    places = [
        Deployment("a", fake, params=own if where == "first" else None),
        Deployment("b", fake, params=own if where == "second" else None),
    ]
    tier = Tier("gold", places, hedge=EAGER, defaults=own if where == "tier" else None)
    world = World([tier], fake=fake, retry=False)
    warm(world.client)
    fake.script("a", Reply("after all", latency_s=0.9))
    assert world.call().ok.text == "after all"
    assert fake.calls == 1


def test_wrapped_calls_are_not_hedged() -> None:
    fake, asked = FakeProvider(), []
    client = TieredClient([gold(fake)])
    warm(client, 0.0001)

    @tiered.call(client=client)
    def answer(question: str) -> str:
        asked.append(question)
        import time

        time.sleep(0.02)
        return "done"

    for _ in range(5):
        assert answer("hello") == "done"
    assert len(asked) == 5


def test_nothing_is_hedged_before_enough_is_known_or_saved() -> None:
    fake = FakeProvider(latency_s=0.4)
    world = World([gold(fake, Hedge())], fake=fake, retry=False)
    for number in range(250):
        if number % 10 == 9:
            fake.script("a", Reply("slow", latency_s=1.0))
        world.call()
    status = world.client.status()["tiers"]["gold"]["hedge"]
    assert (status["calls"], status["hedged"]) == (250, 0)  # one in ten is slow: that is usual here
    assert status["bank"] == pytest.approx(12.5)
    other = World([gold(FakeProvider(latency_s=0.4), Hedge())], retry=False)
    for _ in range(99):
        other.call()
    assert other.client.status()["tiers"]["gold"]["hedge"]["deployments"]["a"]["answer_late_after_s"] is None


def test_a_full_pool_has_no_place_for_a_second_leg() -> None:
    world = Warm(max_concurrency=2)
    world.fake.script("a", Reply("one", latency_s=2.0), Reply("two", latency_s=2.0))
    calls = [world.begin(), world.begin()]
    world.pass_s(3)
    assert [told.ok.text for told in calls] == ["one", "two"]
    assert world.models() == ["a", "a"]
    pool = world.client._setup.lines["gold"].pool
    assert pool is not None
    assert pool.peak == 2
    world.fake.script("a", Fail.hang())
    assert world.call().ok.deployment == "b"
    assert pool.peak == 2


def test_nothing_is_hedged_while_the_backend_as_a_whole_is_slow() -> None:
    world = Warm(bank=100, max_concurrency=512, choose="weighted", timeouts=Timeouts())
    slow = Reply("slow", latency_s=5.0)
    world.fake.script("*", slow, forever=True)
    told = []
    for _ in range(300):
        told.append(world.begin())
        world.pass_s(0.05)
    world.pass_s(10)
    assert {t.kind for t in told} == {"ok"}
    assert len(world.hedges) < 40
    assert max(e.after_s for e in world.hedges) < 1.5
    assert world.at_rest()


def test_a_place_that_was_slow_for_a_while_is_asked_again() -> None:
    """The second of two in order gets no calls but hedges: nobody else shows that it is well again."""
    world = Warm(Hedge(share=0.2, min_samples=10), bank=100, max_concurrency=512, timeouts=Timeouts())
    world.fake.script("*", Reply("slow", latency_s=8.0), forever=True)
    for _ in range(200):
        world.begin()
        world.pass_s(0.05)
    world.pass_s(30)
    world.fake._scripts.clear()
    asked = world.models().count("b")
    assert asked < 30
    world.fake.script("a", Reply("stalled", latency_s=9.0), Reply("stalled", latency_s=9.0))
    assert world.call().ok.deployment == "a"
    assert world.models().count("b") == asked
    world.pass_s(60)
    assert world.call().ok.deployment == "b"


class Copying:
    """A policy that sends a copy of what it is given."""

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        return await call_next(call.copy())


@both_ways
def test_a_policy_that_copies_the_call_hides_nothing(streaming: bool) -> None:
    fake = FakeProvider(latency_s=0.4)
    places = [Deployment(name, fake, policies=[Copying()]) for name in "ab"]
    world = World([Tier("gold", places, hedge=Hedge(share=0.05, min_samples=10))], fake=fake, retry=False)
    hedging = world.client._setup.lines["gold"].hedge
    assert hedging is not None
    for _ in range(100):
        world.call(streaming=streaming)
    lateness = hedging._lateness[world.client._setup.lines["gold"].lines[0]]
    assert len(lateness.streamed if streaming else lateness.whole) == 100
    warm(world.client, bank=0)
    fake.script("a", Fail.hang())
    before = hedging.bank.balance
    told = world.call(streaming=streaming)
    assert told.ok.deployment == "b"
    assert told.took_s == pytest.approx(LATE_S + 0.4)
    assert hedging.bank.balance == pytest.approx(before + 0.05 - 1)
    assert hedging.bank.hedges == 1
    (event,) = [event for event in world.events if isinstance(event, CallHedged)]
    assert (event.first, event.second, event.won) == ("a", "b", "b")


def test_a_call_that_comes_back_pays_once() -> None:
    class Stubborn:
        async def __call__(self, call: Call, call_next: Handler) -> Response:
            try:
                return await call_next(call.copy())
            except ProviderError:
                return await call_next(call.copy())

    world = Warm(policies=[Stubborn()], breaker=False, bank=0)
    for _ in range(10):
        world.fake.script("a", Fail.unavailable())
        world.fake.script("b", Fail.unavailable())
        assert world.call().ok.tier == "gold"
    assert world.hedging.bank.calls == 10
    fake = FakeProvider(latency_s=0.1)
    places = [Deployment(name, fake, rpm=10) for name in "ab"]
    world = World([Tier("gold", places, hedge=True, max_concurrency=64)], fake=fake, retry=False)
    told = [world.begin() for _ in range(60)]
    world.pass_s(600)
    assert {t.kind for t in told} == {"ok"}
    assert world.client.status()["tiers"]["gold"]["hedge"]["calls"] == 60


def test_a_sync_call_on_an_event_loop_goes_on_without_a_race() -> None:
    async def main() -> None:
        fake = FakeProvider()
        client = TieredClient([gold(fake)])
        hedging = warm(client)
        assert client.complete("hello").deployment == "a"
        with client.stream("hello") as stream:
            assert "".join(chunk.text for chunk in stream)
        assert hedging.bank.hedges == 0
        assert held(client)["gold"] == (0, 0)

    asyncio.run(main())


def no_threads(monkeypatch: pytest.MonkeyPatch, *missing: int) -> None:
    """No thread is to be had, the so many-th time."""
    begin, times = Host.thread, count(1)

    def thread(self: Host, work: Any, name: str) -> None:
        if next(times) in missing:
            raise RuntimeError("can't start new thread")
        begin(self, work, name)

    monkeypatch.setattr(Host, "thread", thread)


@pytest.mark.parametrize("missing", [1, 2], ids=["first", "second"])
def test_where_a_leg_gets_no_thread_the_call_is_answered_all_the_same(
    monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    fake = FakeProvider(latency_s=0.05)
    client = TieredClient([gold(fake)])
    warm(client, 0.005)
    no_threads(monkeypatch, missing)
    assert client.complete("hello").deployment == "a"
    assert fake.calls == 1
    eventually(lambda: fake.in_flight == 0 and held(client)["gold"] == (0, 0))


# -- failures ----------------------------------------------------------------------


def test_a_first_leg_that_fails_early_falls_back_by_itself() -> None:
    world = Warm()
    world.fake.script("a", Fail.unavailable(latency_s=0.1))
    world.fake.script("b", Fail.unavailable(latency_s=0.1))
    told = world.call()
    assert told.ok.tier == "silver"
    assert world.models() == ["a", "b", "s"]
    assert world.hedges == []
    assert world.hedging.bank.hedges == 0


def test_a_first_leg_that_fails_late_does_not_ask_the_second_place_again() -> None:
    world = Warm()
    world.fake.script("a", Fail.unavailable(latency_s=0.6))
    world.fake.script("b", Reply("in time", latency_s=1.0))
    told = world.call()
    assert (told.ok.text, told.took_s) == ("in time", pytest.approx(LATE_S + 1.0))
    assert world.models() == ["a", "b"]
    trace = told.ok.trace
    assert trace is not None
    assert ("b", "hedge") in [(c.deployment, c.reason) for c in trace.candidates]


def test_a_first_leg_that_fails_late_may_try_the_second_place_once_that_has_failed() -> None:
    world = Warm()
    world.fake.script("a", Fail.unavailable(latency_s=1.0))
    world.fake.script("b", Fail.unavailable(latency_s=0.1), Reply("at last"))
    assert world.call().ok.text == "at last"
    assert world.models() == ["a", "b", "b"]


def test_where_both_legs_fail_the_call_steps_down() -> None:
    world = Warm()
    world.fake.script("a", Fail.unavailable(latency_s=0.6))
    world.fake.script("b", Fail.unavailable(latency_s=1.0))
    told = world.call()
    assert told.ok.tier == "silver"
    assert world.models() == ["a", "b", "s"]
    assert world.hedges[0].won is None
    assert world.at_rest()
    world.fake.down()
    assert isinstance(world.call().error, AllTiersFailedError)


def test_a_deadline_ends_both_legs() -> None:
    world = Warm()
    world.fake.script("*", Fail.hang(), forever=True)
    told = world.call(deadline_s=1.0)
    assert told.kind == "DeadlineExceededError"
    assert told.took_s == pytest.approx(1.0)
    assert sorted(world.models()) == ["a", "b"]
    assert world.at_rest()


def test_a_stream_that_breaks_after_it_has_won_is_not_answered_twice() -> None:
    world = Warm()
    world.fake.script("a", Fail.hang())
    world.fake.script("b", Fail.cut_after(2, latency_s=0.1))
    told = world.call(streaming=True)
    assert told.kind == "StreamInterruptedError"
    assert world.hedges[0].won == "b"
    assert world.at_rest()


def test_what_is_told_is_how_it_stood_when_the_hedge_began() -> None:
    world = Warm(names=("a", "b", "c"))
    world.fake.script("a", Fail.unavailable(latency_s=0.6))
    world.fake.script("b", Reply("b", latency_s=1.0))
    world.fake.script("c", Reply("c", latency_s=3.0))
    assert world.call().ok.deployment == "b"
    assert world.models() == ["a", "b", "c"]
    (event,) = world.hedges
    assert (event.first, event.second, event.won) == ("a", "b", "b")
    assert event.after_s == pytest.approx(LATE_S)
    again = Warm(retry=Retry(attempts=3, base_s=0.0))
    again.fake.script("a", Fail.unavailable(latency_s=0.6), Fail.hang())
    again.fake.script("b", Reply("b", latency_s=1.0))
    assert again.call().ok.deployment == "b"
    assert again.hedges[0].after_s == pytest.approx(LATE_S)


def test_a_first_leg_that_asks_the_second_place_itself_has_won() -> None:
    world = Warm()
    world.fake.script("a", Fail.unavailable(latency_s=1.0))
    world.fake.script("b", Fail.unavailable(latency_s=0.1), Reply("at last"))
    assert world.call().ok.text == "at last"
    assert world.hedges[0].won == "a"
    assert world.hedging.status()["won"] == 0


def test_a_wait_to_try_again_is_slept_through() -> None:
    world = Warm(retry=Retry(attempts=3, base_s=0.0, max_retry_after_s=100))
    for lateness in world.hedging._lateness.values():
        for _ in range(300):
            lateness.whole.add(0.001)
    world.fake.script("a", Fail.rate_limited(retry_after_s=60), Fail.hang())
    waits, wait = [], Wait.__init__

    def counted(self: Any, on: Any, *more: Any) -> None:
        waits.append(on)
        wait(self, on, *more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Wait, "__init__", counted)
        told = world.call()
    assert told.ok.deployment == "b"
    assert told.took_s == pytest.approx(60.4, abs=0.01)
    assert sum(isinstance(on, Lane) for on in waits) < 300


# -- ties, and leaving -------------------------------------------------------------


@pytest.mark.parametrize("second_s", [0.0, 0.1, 0.4])
def test_a_photo_finish_has_one_winner(second_s: float) -> None:
    world = Warm()
    world.fake.script("a", Reply("a a a a", first_token_s=LATE_S + second_s, between_s=0.1))
    world.fake.script("b", Reply("b b b b", first_token_s=second_s, between_s=0.1))
    told = world.call(streaming=True)
    assert told.text in ("a a a a", "b b b b")
    assert told.text == told.ok.text
    assert world.at_rest()


@every_form
def test_photo_finishes_in_earnest(form: Form) -> None:
    fake = FakeProvider()
    client = TieredClient([gold(fake)])
    for number in range(40):
        warm(client, 0.001, bank=1)
        fake.script("a", Reply("a a a a", first_token_s=0.003 + 0.0005 * (number % 3)))
        fake.script("b", Reply("b b b b", first_token_s=0.001))
        response = form(client)
        assert response.text == f"{response.deployment} " * 3 + f"{response.deployment}"
        fake._scripts.clear()
        eventually(lambda: fake.in_flight == 0 and held(client)["gold"] == (0, 0))
    pool = client._setup.lines["gold"].pool
    assert pool is not None
    assert pool.peak <= 2


@both_ways
def test_a_call_that_is_left_anywhere_leaves_nothing_behind(streaming: bool) -> None:
    for step in range(60):
        world = Warm(budgets=[EACH], store=(store := Watched()))
        world.fake.script("a", Reply("a a a a", first_token_s=0.7, between_s=0.05))
        world.fake.script("b", Reply("b b b b", first_token_s=0.31, between_s=0.05))
        told = world.begin(streaming=streaming, user="u1")
        world.pass_s(step * 0.02)
        assert told.run is not None
        told.run.close()
        assert world.at_rest(), step
        store.at_rest()
        world.pass_s(5)
        assert world.at_rest(), step
        assert len(store.settled) == world.fake.calls


async def test_a_task_that_is_cancelled_in_a_race_leaves_nothing_behind() -> None:
    fake = FakeProvider()
    client = TieredClient([gold(fake)])
    warm(client, 0.001, bank=100)
    fake.script("*", Fail.hang(), forever=True)
    for number in range(20):
        task = asyncio.ensure_future(client.acomplete("hello"))
        await asyncio.sleep(0.0005 * number)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.001)
        assert fake.in_flight == 0
        assert held(client)["gold"] == (0, 0)


def test_closing_the_client_ends_both_legs() -> None:
    fake = FakeProvider()
    client = TieredClient([gold(fake)])
    warm(client, 0.001)
    fake.script("*", Fail.hang(), forever=True)
    from threading import Thread

    ended: list[BaseException] = []

    def run() -> None:
        try:
            client.complete("hello")
        except BaseException as error:
            ended.append(error)

    thread = Thread(target=run)
    thread.start()
    eventually(lambda: fake.in_flight == 2)
    client.close()
    thread.join(5)
    assert [type(e).__name__ for e in ended] == ["ClientClosedError"]
    eventually(lambda: fake.in_flight == 0)


@pytest.mark.parametrize("virtual", [True, False], ids=["virtual", "threads"])
def test_a_place_in_the_pool_is_free_as_soon_as_the_second_has_won(virtual: bool) -> None:
    if virtual:
        world = Warm(max_concurrency=8, bank=20, timeouts=Timeouts())
        world.fake.script("a", Fail.hang(), forever=True)
        world.fake.script("b", Reply("w " * 50, first_token_s=0.1, between_s=0.5), forever=True)
        told = [world.begin(streaming=True) for _ in range(4)]
        world.pass_s(2)
        assert held(world.client)["gold"] == (4, 0)
        later = [world.begin(streaming=True) for _ in range(2)]
        world.pass_s(2)
        assert held(world.client)["gold"] == (6, 0)
        world.pass_s(60)
        assert {t.kind for t in told + later} == {"ok"}
        assert world.at_rest()
        return
    fake = FakeProvider()
    client = TieredClient([gold(fake)])
    warm(client, 0.002)
    fake.script("a", Fail.hang())
    fake.script("b", Reply("w " * 20, first_token_s=0.001, between_s=0.02))
    with client.stream("hello") as stream:
        next(stream)
        eventually(lambda: held(client)["gold"] == (1, 0))
        for _ in stream:
            pass
    assert held(client)["gold"] == (0, 0)


# -- what the loser costs ----------------------------------------------------------


@both_ways
def test_each_leg_is_reserved_and_settled_once(streaming: bool) -> None:
    world = Warm(budgets=[EACH], store=(store := Watched()))
    world.fake.script("a", Reply("after all", latency_s=1.0), Fail.hang())
    world.fake.script("b", Fail.hang(), Reply("hi", latency_s=1.0))
    for place in ("a", "b"):
        assert world.call(streaming=streaming, user="u1", max_cost_usd=0.1).ok.deployment == place
    rows = [event.entry for event in world.events if isinstance(event, CallSettled)]
    assert sorted(row.deployment for row in rows) == ["a", "a", "b", "b"]
    assert len(store.settled) == 4
    store.at_rest()
    spent = sum((row.cost_usd or Decimal(0) for row in rows), Decimal(0))
    (left,) = world.client.remaining(user="u1")
    assert left.used == spent > 0
    assert world.at_rest()


def test_a_budget_without_room_for_two_refuses_nothing() -> None:
    world = Warm()
    world.fake.script("a", Reply("x " * 50, latency_s=1.0))
    told = world.call(max_cost_usd=0.0009, max_tokens=100)
    assert told.ok.deployment == "a"
    assert world.models() == ["a"]
    trace = told.ok.trace
    assert trace is not None
    assert [(x.deployment, x.outcome) for x in trace.attempts] == [("a", "ok")]
    assert world.told(BudgetRefused) == []
    assert world.hedging.bank.hedges == 0


@every_form
def test_money_is_at_rest_in_every_form(form: Form) -> None:
    fake = FakeProvider()
    client = TieredClient([gold(fake)], budgets=[EACH], store=(store := Watched()))
    warm(client, 0.002, bank=20)
    for number in range(20):
        fake.script("a", Fail.hang() if number % 2 else Reply("a", first_token_s=0.005))
        fake.script("b", Reply("b", first_token_s=0.001 * (number % 4)))
        form(client, user="u1", max_cost_usd=0.1)
        fake._scripts.clear()
    eventually(lambda: fake.in_flight == 0 and len(store.settled) == len(store.taken))
    store.at_rest()
    assert held(client)["gold"] == (0, 0)


def test_a_place_that_was_outrun_is_slow_where_it_was_past_the_threshold() -> None:
    slow = CircuitBreaker(slow_call_s=0.5, slow_call_rate=0.5, window=10, min_calls=4, failure_rate=None)
    world = Warm(breaker=slow, bank=50)
    a, b = world.client._setup.lines["gold"].lines
    assert a.breaker is not None
    assert b.breaker is not None
    world.fake.script("a", Fail.hang(), forever=True)
    for _ in range(3):
        assert world.call().ok.deployment == "b"  # after 0.8 s
    assert a.breaker.status()["slow"] == 3
    told = world.begin()
    world.pass_s(0.7)  # past the threshold, but nobody has spoken yet
    assert told.run is not None
    told.run.close()
    assert a.breaker.status()["slow"] == 3
    world.call()
    assert a.breaker.state == "open"
    assert b.breaker.status()["slow"] == 0
    assert world.call().took_s == pytest.approx(0.4)
    world.pass_s(31)
    world.call()  # the probe is outrun
    assert (a.breaker.state, a.breaker.status()["reason"]) == ("open", "probe was slow")


def test_a_place_that_was_outrun_soon_is_not_slow() -> None:
    slow = CircuitBreaker(slow_call_s=5.0, slow_call_rate=0.5, window=10, min_calls=4)
    world = Warm(breaker=slow, bank=50)
    world.fake.script("a", Fail.hang(), forever=True)
    for _ in range(10):
        world.call()
    assert world.client._setup.lines["gold"].lines[0].breaker.status()["slow"] == 0  # type: ignore[union-attr]


# -- observing, and settings -------------------------------------------------------


@both_ways
def test_observing_asks_nobody_and_tells(streaming: bool) -> None:
    world = Warm(Hedge(share=1.0, min_samples=10, mode="observe"))
    world.fake.script("a", Reply("late", latency_s=2.0))
    assert world.call(streaming=streaming).ok.text == "late"
    assert world.models() == ["a"]
    (event,) = world.hedges
    assert (event.first, event.second, event.won, event.mode) == ("a", "b", None, "observe")
    assert event.after_s == pytest.approx(LATE_S)
    world.call(streaming=streaming)
    assert len(world.hedges) == 1
    assert world.hedging.status()["hedged"] == 1
    world.fake.script("a", Reply("late", latency_s=2.0))
    world.call(streaming=streaming, tools=TOOLS)
    assert len(world.hedges) == 1


def test_observing_tells_what_enforcing_would_have_done() -> None:
    observing = Hedge(share=1.0, min_samples=10, mode="observe")
    for hedge in (EAGER, observing):
        world = Warm(hedge, max_concurrency=1)  # no place for two
        world.fake.script("a", Reply("late", latency_s=1.0))
        world.call()
        assert world.hedges == []
        assert world.hedging.bank.hedges == 0
        world = Warm(hedge)
        world.fake.script("a", Fail.unavailable(latency_s=1.0))  # late, and failing then
        assert world.call().ok.deployment == "b"
        (event,) = world.hedges
        assert (event.first, event.second) == ("a", "b")
        assert event.after_s == pytest.approx(LATE_S)
        world = Warm(hedge, retry=Retry(attempts=2, base_s=0.0))
        world.fake.script("a", Fail.unavailable(latency_s=1.0), Reply("in time", latency_s=0.1))
        world.call()
        assert [e.mode for e in world.hedges] == [hedge.mode]
        world = Warm(hedge, names=("a", "b", "c"))
        world.fake.script("a", Fail.unavailable(latency_s=1.0))
        world.fake.script("b", Reply("late too", latency_s=1.0))
        world.fake.script("c", Reply("late as well", latency_s=1.0))
        world.call()
        assert len(world.hedges) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("share", 0),
        ("share", 1.5),
        ("share", True),
        ("bank", 0.5),
        ("bank", float("inf")),
        ("quantile", 1),
        ("quantile", 0.2),
        ("min_samples", 0),
        ("min_samples", 257),
        ("min_samples", 1.5),
        ("slow_share", 0),
        ("mode", "off"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=option):
        Hedge(**{option: value})


def test_a_tier_of_one_deployment_has_nobody_to_hedge_with() -> None:
    client = TieredClient([Tier("gold", [Deployment("a", FakeProvider())], hedge=True)])
    assert client.status()["tiers"]["gold"]["hedge"] is None
    assert client.complete("hello").deployment == "a"


# -- over any run ------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.02, 0.05, 0.3]),
    stalls=st.lists(st.tuples(st.floats(5, 60), st.sampled_from("ab"), st.floats(0.5, 10)), max_size=3),
    failing=st.floats(0, 0.2),
)
def test_over_any_run_extra_calls_stay_within_their_share(
    seed: int, share: float, stalls: list[tuple[float, str, float]], failing: float
) -> None:
    rng, times = Random(seed), Random(seed + 1)

    def answer(call: Any) -> Reply | Fail:
        first_s, now = times.lognormvariate(-1.2, 0.5), world.time.now
        if times.random() < failing:
            return Fail.unavailable(latency_s=first_s)
        for at, model, length_s in stalls:
            if call.model == model and at <= now + first_s and now < at + length_s:
                first_s += max(0.0, at + length_s - now)
        return Reply("one two three", first_token_s=first_s, between_s=0.02)

    fake = FakeProvider(answer=answer)
    tier = gold(fake, Hedge(share=share, min_samples=20), choose="weighted", max_concurrency=64)
    world = World([tier], fake=fake, retry=False, breaker=False, timeouts=Timeouts())
    told: list[Told] = []
    for _ in range(600):
        told.append(world.begin(streaming=True))
        world.pass_s(rng.expovariate(10))
        hedging = world.client._setup.lines["gold"].hedge
        assert hedging is not None
        assert hedging.bank.hedges <= share * len(told)
    world.pass_s(120)
    assert all(t.ends == 1 for t in told)
    assert all(t.error is not None or t.text == "one two three" for t in told)
    failed = sum(entry.outcome == "failed" for entry in fake.journal)
    assert fake.calls <= len(told) * (1 + share) + failed
    assert fake.in_flight == 0
    assert held(world.client)["gold"] == (0, 0)
    hedges = [event for event in world.events if isinstance(event, CallHedged)]
    assert len(hedges) == world.client.status()["tiers"]["gold"]["hedge"]["hedged"]


@both_ways
@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_call_keeps_no_cycle_alive(mode: Any, streaming: bool) -> None:
    world = Warm(Hedge(share=1.0, min_samples=10, mode=mode))
    lanes: list[Lane | None] = []

    def note(call: Call) -> bool:
        lanes.append(call.lane)
        return True

    for hedged in (True, False):
        options: dict[str, Any] = {} if hedged else {"tools": TOOLS}
        world.fake.script("a", Reply("hi"), when=note)
        assert world.call(streaming=streaming, **options).ok.text == "hi"
    assert len(set(lanes)) == 2
    for lane in lanes:
        assert lane is not None
        assert lane.call is lane.rival is lane.answer is None


@both_ways
def test_a_race_keeps_no_call_alive(streaming: bool) -> None:
    world = Warm()
    lanes: list[Lane | None] = []

    def note(call: Call) -> bool:
        lanes.append(call.lane)
        return True

    world.fake.script("a", Fail.hang(), when=note)
    world.fake.script("b", Reply("hi"), when=note)
    assert world.call(streaming=streaming).ok.text == "hi"
    assert len(lanes) == 2
    for lane in lanes:
        assert lane is not None
        assert lane.call is lane.rival is None

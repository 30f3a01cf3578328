"""What one flight means for those who share it, in virtual time: whose time, whose money, whose failure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caching.flyers import PRICE, flights
from client.forms import Told, World, held
from tierllm import Budget, Deployment, DiskLayer, ResultCache, Tier, Timeouts, UsageLedger
from tierllm.errors import BudgetExceededError, DeadlineExceededError, TierLLMError
from tierllm.events import CacheRefreshed
from tierllm.pipeline.effects import Handler
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.types import Call, Response, ToolCall

LONG = Timeouts(connect_s=60, first_token_s=60, between_tokens_s=60, total_s=120)


def world(fake: FakeProvider | None = None, **more: Any) -> World:
    """Gold, silver and bronze, one place each; an answer takes two seconds."""
    fake = fake or FakeProvider(latency_s=2.0)
    pool = more.pop("pool", 8)
    tiers = [
        Tier(name, [Deployment(name[0], fake, price=PRICE)], max_concurrency=pool)
        for name in ("gold", "silver", "bronze")
    ]
    given: dict[str, Any] = {"cache": ResultCache(), "retry": False, "breaker": False, "timeouts": LONG}
    return World(tiers, fake=fake, **{**given, **more})


def check_rest(world: World) -> None:
    """Nothing is held: no flights, runs, permits, and no money."""
    client = world.client
    assert not flights(client)
    assert not client._ground.host.live
    assert not world.fake.in_flight
    assert set(held(client).values()) <= {(0, 0)}
    assert not client._setup.treasury._call_store._accounts


def failing(*models: str, latency_s: float = 1.0) -> FakeProvider:
    """These models are down; it takes them a second to say so."""

    def answer(call: Call) -> Reply | Fail:
        if call.model in models:
            return Fail.unavailable(latency_s=latency_s)
        return Reply("well", latency_s=latency_s)

    return FakeProvider(answer=answer)


def leave(told: Told, how: str = "cancel") -> None:
    assert told.run is not None
    if how == "cancel":
        told.run.scope.cancel()
    else:
        told.run.close()


# -- whose time ------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "stream"])
def test_a_hasty_founder_is_late_and_its_patient_follower_is_answered(streaming: bool) -> None:
    w = world(FakeProvider(latency_s=3.0))
    founder = w.begin(deadline_s=1, streaming=streaming)
    w.pass_s(0.2)
    follower = w.begin(deadline_s=10)
    w.time.run()
    assert isinstance(founder.error, DeadlineExceededError)
    assert founder.took_s == pytest.approx(1.0)
    assert follower.ok.text
    assert follower.ended_s == pytest.approx(3.0)
    assert w.models() == ["g"]
    check_rest(w)


def test_a_follower_without_deadline_frees_the_flight_of_its_own() -> None:
    w = world(FakeProvider(latency_s=30.0))
    founder, follower = w.begin(deadline_s=1), w.begin()
    w.time.run()
    assert (founder.kind, follower.kind) == ("DeadlineExceededError", "ok")
    assert w.models() == ["g"]


def test_when_the_latest_deadline_is_over_nothing_goes_on() -> None:
    w = world(FakeProvider(latency_s=30.0))
    hasty = [w.begin(deadline_s=s, streaming=s > 1) for s in (1.0, 2.0, 1.5)]
    w.pass_s(1.9)
    assert w.fake.in_flight == 1
    w.time.run()
    assert [told.kind for told in hasty] == ["DeadlineExceededError"] * 3
    assert [told.took_s for told in hasty] == pytest.approx([1.0, 2.0, 1.5])
    assert w.models() == ["g"]
    assert w.fake.journal[0].ended_s == pytest.approx(2.0)
    check_rest(w)


def test_the_most_urgent_priority_is_taken() -> None:
    w = world()
    founder, follower = w.begin(priority=1), w.begin(priority=7)
    [flight] = flights(w.client)
    w.pass_s(1.0)
    assert flight.call.priority == 7
    last = w.begin(priority=3)
    assert flight.call.priority == 7
    w.time.run()
    assert [told.kind for told in (founder, follower, last)] == ["ok"] * 3


def test_another_process_is_waited_for_up_to_the_deadline(tmp_path: Path) -> None:
    layer, other = (DiskLayer(tmp_path, timeout_s=20) for _ in range(2))
    claim = layer.claim
    layer.claim = lambda slot, owner, lease_s: (  # type: ignore[method-assign]
        other.claim(slot, b"another", 600.0) and claim(slot, owner, lease_s)
    )
    w = world(cache=ResultCache([layer]))
    for deadline_s in (0.005, 0.3, 3.0):
        told = w.call(deadline_s=deadline_s)
        assert isinstance(told.error, DeadlineExceededError)
        assert deadline_s - 0.011 < told.took_s <= deadline_s
    assert not w.fake.calls
    w.client.close()
    other.close()


@pytest.mark.parametrize("leads", [True, False], ids=["founder", "follower"])
def test_a_stream_that_runs_out_of_time_gets_no_old_answer_on_top(leads: bool) -> None:
    fake = FakeProvider()
    cache = ResultCache(ttl_s=1, jitter=0, stale_if_error_s=1000)
    w = world(fake, cache=cache)
    fake.script("g", Reply("an old answer"), Reply(chunks=["new ", "words ", "come "], between_s=1.0))
    w.call()
    w.pass_s(10)
    if not leads:
        w.begin()
    hasty, plain = w.begin(deadline_s=1.5, streaming=True), w.begin(deadline_s=1.5)
    w.time.run()
    assert hasty.text == "new words "
    assert isinstance(hasty.error, DeadlineExceededError)
    assert hasty.error.partial is not None
    assert hasty.error.partial.text == "new words "
    assert (plain.ok.text, plain.ok.degraded) == ("an old answer", ("stale",))
    assert fake.calls == 2
    check_rest(w)


# -- whose failure ---------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "stream"])
def test_each_steps_down_by_its_own_rule(streaming: bool) -> None:
    w = world(failing("g"))
    proud = [w.begin(min_tier="gold", streaming=streaming) for _ in range(3)]
    humble = [w.begin(streaming=streaming), w.begin(min_tier="silver"), w.begin(fallback=True)]
    modest = w.begin(sla="silver")
    w.time.run()
    assert [told.kind for told in proud] == ["AllTiersFailedError"] * 3
    assert [told.ok.tier for told in [*humble, modest]] == ["silver"] * 4
    assert sorted(w.models()) == ["g", "s"]
    for told in proud:
        assert isinstance(told.error, TierLLMError)
        assert told.error.trace is not None
        assert [(a.tier, a.error is None) for a in told.error.trace.attempts] == [("gold", False)]
    errors = [told.error.attempts[0].error for told in proud]  # type: ignore[union-attr]
    assert len({id(error) for error in errors}) == 3, "one failure, in copies"
    assert [error.status for error in errors] == [503] * 3
    for told in humble:
        trace = told.ok.trace
        assert trace is not None
        tried = [a.tier for a in trace.attempts]
        assert tried[0] == "gold"
        assert tried.count("silver") == (trace.cache != "hit"), trace
    check_rest(w)


def test_the_founder_that_refuses_to_step_down_leaves_it_to_others() -> None:
    w = world(failing("g", "s"))
    told = [w.begin(min_tier=tier) for tier in ("gold", "silver", "bronze", None)]
    w.time.run()
    assert [t.kind for t in told] == ["AllTiersFailedError"] * 2 + ["ok"] * 2
    assert w.models() == ["g", "s", "b"]
    assert len(told[1].error.attempts) == 2  # type: ignore[union-attr]
    check_rest(w)


def test_a_founder_whose_budget_is_spent_hurts_nobody_else() -> None:
    w = world(budgets=[Budget(hard_calls=1, per="user", name="user")])
    w.call("another question", user="ann")
    founder = w.begin(user="ann")
    followers = [w.begin(user=user) for user in ("bob", "cid", "ann")]
    w.time.run()
    assert isinstance(founder.error, BudgetExceededError)
    # the second of ann's may follow: it costs her nothing
    assert [told.ok.text for told in followers] == [followers[0].ok.text] * 3
    assert [told.ok.cached for told in followers] == [False, True, True]
    assert w.models() == ["g", "g"]
    check_rest(w)


def test_a_founder_with_a_limit_of_its_own_may_leave() -> None:
    w = world()
    founder = w.begin(max_cost_usd="0.05")
    follower = w.begin()
    w.pass_s(1.0)
    assert w.client._setup.treasury._call_store._accounts
    leave(founder)
    assert w.fake.in_flight == 1
    w.time.run()
    assert (founder.response, follower.ok.cached) == (None, True)
    assert w.models() == ["g"]
    check_rest(w)


def test_its_limit_is_the_flights() -> None:
    w = world(failing("g"))
    founder = w.begin(max_cost_usd="0.0000001", min_tier="gold")
    follower = w.begin()
    free = w.begin(max_cost_usd="0.0000001")
    w.time.run()
    assert isinstance(founder.error, BudgetExceededError)
    assert [told.ok.tier for told in (follower, free)] == ["silver"] * 2
    assert free.ok.cached, "who cannot pay may still follow"
    assert w.models() == ["g", "s"]
    check_rest(w)


def test_a_lower_tiers_answer_does_not_take_the_place_of_a_higher_ones() -> None:
    w = world(FakeProvider(latency_s={"g": 1.0, "s": 3.0}))
    w.begin(sla="silver")
    w.begin(sla="gold")
    w.time.run()
    assert [w.call(sla=sla).ok.tier for sla in ("gold", "silver")] == ["gold", "gold"]
    assert sorted(w.models()) == ["g", "s"]
    assert w.call(sla="silver", cache="refresh").ok.tier == "silver"
    assert w.call(sla="silver").ok.tier == "silver", "but who wants a new one has it from then on"


@pytest.mark.parametrize("how", ["cancel", "close"])
@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "stream"])
def test_whoever_leaves_the_last_one_takes_it_along(how: str, streaming: bool) -> None:
    w = world()
    told = [w.begin(streaming=streaming) for _ in range(4)]
    w.pass_s(0.5)
    for each in (told[0], told[2], told[3]):
        leave(each, how)
        assert w.fake.in_flight == 1
    leave(told[1], how)
    w.time.run()
    assert [each.ends for each in told] == [1] * 4
    assert w.fake.journal[0].outcome == "cancelled"
    check_rest(w)
    assert not w.call().ok.cached


# -- who shares ------------------------------------------------------------------------


APART: dict[str, dict[str, Any]] = {
    "sla": {"sla": "silver"},
    "tenant": {"tenant": "acme"},
    "no tenant": {"tenant": "nobody"},
    "max_tokens": {"max_tokens": 50},
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "extra": {"extra": {"fake": {"n": 2}}},
    "require": {"require": {"eu"}},
    "depends_on": {"depends_on": {"doc": "new"}},
    "temperature": {"temperature": 0},
    "off": {"cache": "off"},
    "warm": {"temperature": 0.7},
    "refresh": {"cache": "refresh"},
}
TOGETHER: dict[str, dict[str, Any]] = {
    "user": {"user": "bob"},
    "priority": {"priority": 9},
    "session": {"session": "s"},
    "deadline": {"deadline_s": 50},
    "plan": {"plan": "free"},
    "tags": {"tags": ["billing"]},
    "min_tier": {"min_tier": "gold"},
    "max_cost_usd": {"max_cost_usd": "0.00000001"},
    "always": {"cache": "always"},
    "ttl": {"cache_ttl_s": 5},
}


def with_labels(**more: Any) -> World:
    fake = FakeProvider(latency_s=2.0)
    tiers = [Tier(n, [Deployment(n[0], fake, price=PRICE, labels={"eu"})]) for n in ("gold", "silver")]
    return World(tiers, fake=fake, cache=ResultCache(), retry=False, timeouts=LONG, **more)


@pytest.mark.parametrize("other", list(APART))
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_calls_that_differ_in_this_do_not_share(other: str, first: bool) -> None:
    w = with_labels()
    calls: list[dict[str, Any]] = [{}, APART[other]]
    told = [w.begin(**options) for options in (calls if first else calls[::-1])]
    w.time.run()
    assert [each.ok.cached for each in told] == [False, False]
    assert w.fake.calls == 2
    assert not flights(w.client)


BOTH_WAYS = [(other, first) for other in TOGETHER for first in (True, False)]
BOTH_WAYS.remove(("max_cost_usd", False))  # who cannot pay does not found


@pytest.mark.parametrize(("other", "first"), BOTH_WAYS)
def test_calls_that_differ_in_this_share(other: str, first: bool) -> None:
    w = with_labels()
    calls: list[dict[str, Any]] = [{}, TOGETHER[other]]
    told = [w.begin(**options) for options in (calls if first else calls[::-1])]
    w.time.run()
    assert [each.ok.cached for each in told] == [False, True]
    assert told[1].ok.trace is not None
    assert told[0].ok.trace is not None
    assert (told[1].ok.trace.cache, told[1].ok.trace.led_by) == ("joined", told[0].ok.trace.id)
    assert w.models() == ["g"]


def test_warm_calls_share_where_they_ask_for_it() -> None:
    w = world()
    told = [w.begin(temperature=0.7, cache="always") for _ in range(3)]
    alone = w.begin(temperature=0.7)
    w.time.run()
    assert [each.ok.cached for each in [*told, alone]] == [False, True, True, False]
    assert w.fake.calls == 2


def test_one_who_wants_a_new_answer_does_not_get_one_that_was_asked_for_before() -> None:
    answers = iter(["old", "new", "newer"])
    w = world(FakeProvider(answer=lambda _: Reply(next(answers), latency_s=2.0)))
    old = w.begin()
    w.pass_s(1.0)
    new = w.begin(cache="refresh")
    w.time.run()
    assert (old.ok.text, new.ok.text, w.call().ok.text) == ("old", "new", "new")
    assert w.fake.calls == 2


def test_one_who_comes_after_an_invalidation_does_not_get_what_was_begun_before() -> None:
    answers = iter(["old", "new"])
    w = world(FakeProvider(answer=lambda _: Reply(next(answers), latency_s=2.0)))
    old = w.begin(tags=["news"])
    w.pass_s(1.0)
    w.client.cache.invalidate(tag="other")
    same = w.begin(tags=["news"])
    w.pass_s(0.1)
    w.client.cache.invalidate(tag="news")
    new = w.begin(tags=["news"])
    w.time.run()
    assert [told.ok.text for told in (old, same, new)] == ["old", "old", "new"]
    assert w.call(tags=["news"]).ok.text == "new"
    assert w.fake.calls == 2
    check_rest(w)


# -- whose money -----------------------------------------------------------------------


def test_who_joins_pays_nothing_and_everything_adds_up() -> None:
    ledger = UsageLedger()
    w = world(ledger=ledger)
    for number, prompt in enumerate(["a", "b", "a", "a", "b", "c"] * 2):
        w.begin(prompt, user=f"u{number}", streaming=bool(number % 3))
        w.pass_s(0.1)
    told = [w.begin("a", user="late") for _ in range(2)]
    w.time.run()
    hit = w.call("a", user="later")
    rows = list(ledger.entries())
    paid = [row for row in rows if row.outcome != "cached"]
    free = [row for row in rows if row.outcome == "cached"]
    assert len(paid) == w.fake.calls == 3
    assert len(free) == 12 + 2 + 1 - 3
    assert {row.cost_usd for row in free} == {Decimal(0)}
    assert {row.cached for row in free} == {True}
    by_model = sum((row.cost_usd or 0) for row in paid)
    assert by_model > 0
    cost_of = {row.trace_id: row.cost_usd for row in paid}
    assert {row.list_usd for row in free} == set(cost_of.values())
    for each in [*told, hit]:
        assert (each.ok.cached, each.ok.cost_usd) == (True, Decimal(0))
    stats = w.client.cache.stats()
    assert (stats.misses, stats.joined, sum(stats.hits.values())) == (3, 11, 1)
    assert stats.saved_usd == sum((row.list_usd or Decimal(0)) for row in free)
    assert stats.kept == 3


def test_counts_add_up_where_all_ask_for_a_new_answer() -> None:
    w = world()
    told = [w.begin(cache="refresh") for _ in range(4)]
    w.time.run()
    assert [each.kind for each in told] == ["ok"] * 4
    stats = w.client.cache.stats()
    assert (stats.misses, stats.joined) == (1, 3)


# -- one's own copy --------------------------------------------------------------------


SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "s", "schema": {"type": "object", "properties": {"n": {"type": "array"}}}},
}


def spoil(response: Response) -> None:
    """What an application may do with what is its own."""
    if isinstance(response.parsed, dict):
        response.parsed["n"].append("spoilt")
        response.parsed["more"] = True
    response.text += " spoilt"
    response.tool_calls = (*response.tool_calls, ToolCall(9, "x", "spoilt", "{}"))
    response.warnings = (*response.warnings, "spoilt")
    response.tier = "spoilt"
    response.usage = None
    assert response.trace is not None
    response.trace.attempts.clear()
    response.trace.candidates.append("spoilt")  # type: ignore[arg-type]
    response.trace.waits.append("spoilt")  # type: ignore[arg-type]


def seen(response: Response) -> Any:
    trace = response.trace
    assert trace is not None
    attempts = [(a.tier, a.deployment) for a in trace.attempts]
    return (
        response.text,
        str(response.parsed),
        response.tool_calls,
        response.warnings,
        response.tier,
        response.usage,
        attempts,
        list(trace.candidates),
        list(trace.waits),
    )


def test_what_one_does_to_its_answer_no_other_sees() -> None:
    calls = [ToolCall(0, "c0", "f", '{"a": 1}')]
    fake = FakeProvider(answer=lambda _: Reply('{"n": [1, 2]}', tool_calls=calls, latency_s=1.0))
    w = world(fake)
    told = [w.begin(response_format=SCHEMA, streaming=n % 2 == 1) for n in range(4)]
    w.time.run()
    shown = [seen(each.ok) for each in told]
    assert len({repr(each) for each in shown}) == 1
    assert told[0].ok.parsed is not None
    for number, each in enumerate(told):
        assert seen(each.ok) == shown[0]
        spoil(each.ok)
        hit = w.call(response_format=SCHEMA).ok
        assert (hit.text, hit.parsed, hit.tool_calls) == ('{"n": [1, 2]}', {"n": [1, 2]}, tuple(calls))
        assert hit.usage is not None
        assert [seen(other.ok) for other in told[number + 1 :]] == shown[number + 1 :]
        spoil(hit)
    assert w.fake.calls == 1


# -- renewal ---------------------------------------------------------------------------


def stale_world(**more: Any) -> World:
    numbers = iter(range(100))
    fake = FakeProvider(answer=lambda _: Reply(f"answer {next(numbers)}", latency_s=2.0))
    cache = ResultCache(ttl_s=10, jitter=0, stale_while_revalidate_s=1000)
    return world(fake, cache=cache, **more)


def test_an_old_answer_is_made_anew_once_for_all_who_get_it() -> None:
    w = stale_world()
    w.call()
    w.pass_s(20)
    told = [w.begin(streaming=n % 2 == 1) for n in range(20)]
    assert {each.ok.text for each in told} == {"answer 0"}
    w.time.run()
    assert w.fake.calls == 2
    assert w.call().ok.text == "answer 1"
    assert len(w.told(CacheRefreshed)) == 1
    stats = w.client.cache.stats()
    assert (stats.stale, stats.refreshed, stats.refresh_failures) == (20, 1, 0)
    check_rest(w)


def test_a_renewal_that_is_called_off_is_neither_success_nor_failure() -> None:
    w = stale_world()
    w.call()
    w.pass_s(20)
    w.call()
    w.pass_s(1)
    assert w.fake.in_flight == 1
    w.client.close()
    w.time.run()
    stats = w.client.cache.stats()
    assert (stats.refreshed, stats.refresh_failures) == (0, 0)
    assert not w.told(CacheRefreshed)
    check_rest(w)


# -- anything goes ---------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A caller: what it asks, when it comes, what it puts up with, and when it leaves."""

    prompt: str
    arrives_s: float
    sla: str
    streaming: bool
    deadline_s: float | None
    leaves_s: float | None
    closes: bool
    proud: bool
    capped: bool
    user: str


@dataclass(frozen=True)
class Fate:
    """What a call to the provider meets."""

    kind: str
    after_s: float


SECONDS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.5, 2.5, 4.0])
PLANS = st.builds(
    Plan,
    prompt=st.sampled_from(["one", "two"]),
    arrives_s=SECONDS,
    sla=st.sampled_from(["gold", "gold", "silver"]),
    streaming=st.booleans(),
    deadline_s=st.none() | st.sampled_from([0.3, 1.0, 3.0]),
    leaves_s=st.none() | SECONDS,
    closes=st.booleans(),
    proud=st.booleans(),
    capped=st.booleans(),
    user=st.sampled_from(["ann", "bob", "cid"]),
)
FATES = st.builds(
    Fate,
    kind=st.sampled_from(["ok", "ok", "ok", "down", "cut", "length", "refused"]),
    after_s=st.sampled_from([0.0, 0.1, 0.7, 1.0, 2.0]),
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(PLANS, min_size=1, max_size=12),
    st.lists(FATES, max_size=8),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([None, 1, 2]),
)
def test_whatever_callers_do(plans: list[Plan], fates: list[Fate], pool: int, calls: int | None) -> None:
    left = list(fates)
    given: list[tuple[str, str, str, str]] = []

    def answer(call: Call) -> Reply | Fail:
        fate = left.pop(0) if left else Fate("ok", 1.0)
        prompt = call.messages[-1]["content"]
        text = f"{prompt} {call.model} {len(given)} is the answer."
        given.append((prompt, call.model, fate.kind, text))
        if fate.kind == "down":
            return Fail.unavailable(latency_s=fate.after_s)
        if fate.kind == "refused":
            return Fail.unauthorized(latency_s=fate.after_s)
        if fate.kind == "cut":
            return Fail.cut_after(1, latency_s=fate.after_s)
        words = [word + " " for word in text.split()]
        words[-1] = words[-1].strip()
        reason = "length" if fate.kind == "length" else "stop"
        return Reply(chunks=words, first_token_s=fate.after_s, between_s=0.1, finish_reason=reason)

    budgets = [] if calls is None else [Budget(hard_calls=calls, per="user", name="user")]
    ledger = UsageLedger()
    w = world(FakeProvider(answer=answer, journal_size=1000), pool=pool, budgets=budgets, ledger=ledger)
    told: dict[int, Told] = {}

    def begin(number: int, plan: Plan) -> None:
        options: dict[str, Any] = {"sla": plan.sla, "user": plan.user}
        if plan.deadline_s is not None:
            options["deadline_s"] = plan.deadline_s
        if plan.proud:
            options["min_tier"] = plan.sla
        if plan.capped:
            options["max_cost_usd"] = "0.02"
        told[number] = each = w.begin(plan.prompt, streaming=plan.streaming, **options)
        if plan.leaves_s is not None:
            how = "close" if plan.closes else "cancel"
            w.time.after(plan.leaves_s, lambda: None if each.ends else leave(each, how))

    for number, plan in enumerate(plans):
        w.time.at(plan.arrives_s, lambda number=number, plan=plan: begin(number, plan))  # type: ignore[misc]
    w.time.run()

    journal = list(w.fake.journal)
    whole = {text for _, _, kind, text in given if kind in ("ok", "length")}
    # never two calls at once for one question to one tier
    for at, one in enumerate(journal):
        assert one.ended_s is not None
        for two, (prompt, model, _, _) in zip(journal[at + 1 :], given[at + 1 :], strict=True):
            if (prompt, model) == given[at][:2]:
                assert two.at_s >= one.ended_s, "two at once"
                # what is kept is not asked for again
                assert not (one.outcome == "ok" and given[at][2] == "ok"), "asked for again"
    for number, plan in enumerate(plans):
        each = told[number]
        assert each.ends == 1
        if plan.deadline_s is not None:
            assert each.took_s <= plan.deadline_s + 1e-6
        response = each.response
        if response is not None:
            assert each.error is None
            assert response.text in whole
            assert response.text.startswith(plan.prompt + " ")
            assert each.text in ("", response.text)
            assert response.tier in (("gold", plan.sla) if plan.proud else ("gold", "silver", "bronze"))
            assert (response.cost_usd == 0) == response.cached
        elif each.error is None or not isinstance(each.error, Exception):
            assert plan.leaves_s is not None
        else:
            assert isinstance(each.error, TierLLMError)
    rows = list(ledger.entries())
    cached = [each for each in told.values() if each.response is not None and each.response.cached]
    assert sum(row.outcome == "cached" for row in rows) >= len(cached)
    stats = w.client.cache.stats()
    assert min(stats[:9][1:]) >= 0
    check_rest(w)
    for account in w.client._setup.treasury.store._accounts.values():
        assert account.reserved == 0


class Sluggish:
    """A policy of the application's own, beneath the cache."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        self.asked.append(call.request.user)
        return await call_next(call)


def test_policies_of_a_tier_see_the_flight_once_as_its_founder() -> None:
    fake, policy = FakeProvider(latency_s=1.0), Sluggish()
    tiers = [Tier("gold", [Deployment("g", fake, price=PRICE)], policies=[policy])]
    w = World(tiers, fake=fake, cache=ResultCache(), timeouts=LONG)
    told = [w.begin(user=f"u{n}") for n in range(5)]
    w.time.run()
    assert [each.kind for each in told] == ["ok"] * 5
    assert policy.asked == ["u0"]

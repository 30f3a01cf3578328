"""What counts, for whom, and what is told of it: through a client, as calls really end."""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from tierllm import (
    AdaptiveSampling,
    Admission,
    Budget,
    CircuitBreaker,
    Consent,
    Deployment,
    Objective,
    Price,
    RateLimit,
    ResultCache,
    Retry,
    Route,
    Step,
    Tier,
    TieredClient,
    Timeouts,
    tiered,
)
from tierllm.errors import (
    AllTiersFailedError,
    BudgetExceededError,
    CallCancelledError,
    ConfigError,
    ProviderUnavailableError,
    RequestTooLargeError,
    ThrottledError,
    TierLLMError,
)
from tierllm.events import Event, ObjectiveBurning, ObjectiveRecovered
from tierllm.pipeline.virtual import VirtualTime
from tierllm.routing.ask import ask
from tierllm.sla.contract import Contract
from tierllm.sla.counting import account_of, kind_of
from tierllm.sla.report import Report
from tierllm.sla.service_levels import ServiceLevels
from tierllm.testing import Fail, FakeClock, FakeProvider, Reply
from tierllm.types import Attempt, Candidate, Request, Response, Trace, Waited

PROMISED = Objective(latency_p95_s=4.0, first_token_p95_s=1.0, availability=0.9, cost_usd=Decimal("0.01"))
PRICE = Price(input_usd_per_mtok=0, output_usd_per_mtok=1000)


class Service:
    """Gold and silver on one fake provider, by a clock that stands still."""

    def __init__(
        self,
        *,
        gold: dict[str, Any] | None = None,
        big: dict[str, Any] | None = None,
        silver: bool = False,
        objective: Objective = PROMISED,
        **client: Any,
    ) -> None:
        self.clock = FakeClock()
        self.fake = FakeProvider()
        tiers = [
            Tier("gold", [Deployment("big", self.fake, **(big or {}))], objective=objective, **(gold or {}))
        ]
        if silver:
            tiers.append(Tier("silver", [Deployment("small", self.fake)], objective=objective))
        client = {"retry": False, "breaker": False, **client}
        self.client = TieredClient(tiers, clock=self.clock, **client)

    def ask(self, prompt: Any = "hi", **options: Any) -> Response | BaseException:
        try:
            return self.client.complete(prompt, **options)
        except Exception as error:
            return error

    def read(
        self, prompt: str = "hi", hold_s: float = 0.0, chunks: int | None = None, **options: Any
    ) -> None:
        """Stream it; the consumer holds each chunk for so long, and leaves after so many."""
        with self.client.stream(prompt, **options) as stream:
            for number, _ in enumerate(stream, 1):
                if number == chunks:
                    return
                self.clock.advance(hold_s)

    def told(self, tier: str = "gold", **whose: Any) -> Report:
        return self.client.attainment(tier, window_s=3600, **whose)


def counted(report: Report) -> tuple[int, int, dict[str, int]]:
    """Answered, failed, and what was counted apart."""
    return report.answered, report.failed, {kind: n for kind, n in report.apart.items() if n}


# -- answered -------------------------------------------------------------------------


def test_an_answer_counts_with_all_that_is_known_of_it() -> None:
    service = Service(big={"price": PRICE})
    service.fake.script("big", Reply("x" * 40, latency_s=2.0), Reply("x" * 40, latency_s=5.0))
    service.ask()
    service.ask()
    report = service.told()
    assert counted(report) == (2, 0, {})
    assert (report.goals["latency_p95_s"].calls, report.goals["latency_p95_s"].bad) == (2, 1)
    assert report.goals["first_token_p95_s"].calls == 0
    assert report.cost_usd == pytest.approx(0.01)


def test_a_call_counts_to_the_tier_it_was_granted_and_not_where_it_ended() -> None:
    service = Service(silver=True)
    service.fake.script("big", Fail.unavailable(latency_s=3.0))
    service.fake.script("small", Reply("hi", latency_s=2.0))
    answer = service.ask()
    assert isinstance(answer, Response)
    assert answer.tier == "silver"
    report = service.told()
    assert counted(report) == (1, 0, {})
    assert report.elsewhere == 1
    assert report.goals["latency_p95_s"].bad == 1  # the caller has waited for both
    assert service.told("silver").calls == 0


def test_a_tier_without_an_objective_is_not_watched() -> None:
    service = Service(objective=Objective(availability=0.9))
    service.ask()
    assert service.told().calls == 1
    with pytest.raises(ConfigError, match=r"bronze.*gold"):
        service.told("bronze")


def test_a_degraded_answer_is_answered_and_its_share_is_told() -> None:
    sampling = AdaptiveSampling(
        [Step("short", at=9.0, max_tokens=3)],
        consent=[Consent("all", since=date(1960, 1, 1))],
        emergencies={"now": ["short"]},
    )
    service = Service(gold={"sampling": sampling, "max_concurrency": 4})
    service.ask()
    service.client.emergency("now", for_s=600)
    service.ask()
    report = service.told()
    assert counted(report) == (2, 0, {})
    assert report.degraded == 1


@pytest.mark.parametrize("form", ["sync", "async", "stream", "astream"])
def test_all_forms_of_a_call_count_once(form: str) -> None:
    service = Service()
    service.fake.script("big", Reply(chunks=["a", "b"], first_token_s=0.5, between_s=1.0), forever=True)

    async def astream() -> None:
        async with service.client.astream("hi") as stream:
            async for _ in stream:
                service.clock.advance(100.0)

    if form == "sync":
        service.ask()
    elif form == "async":
        asyncio.run(service.client.acomplete("hi"))
    elif form == "stream":
        service.read(hold_s=100.0)
    else:
        asyncio.run(astream())
    report = service.told()
    assert counted(report) == (1, 0, {})
    assert report.goals["latency_p95_s"].bad == 0
    assert report.first_tokens == (form in ("stream", "astream"))


# -- latency --------------------------------------------------------------------------


def test_a_slow_consumer_is_not_a_slow_provider() -> None:
    service = Service()
    service.fake.script("big", Reply(chunks=["a", "b", "c"], first_token_s=0.5, between_s=1.0))
    service.read(hold_s=1000.0)
    report = service.told()
    assert service.clock() > 2000
    assert report.goals["latency_p95_s"].bad == 0
    assert report.latency_p50_s == pytest.approx(2.5, rel=0.19)
    assert report.first_token_p50_s == pytest.approx(0.5, rel=0.19)


def test_queues_pauses_and_failed_attempts_count_as_waiting() -> None:
    service = Service(retry=Retry(attempts=3))
    service.fake.script("big", Fail.unavailable(latency_s=2.5), Reply("hi", latency_s=2.0))
    answer = service.ask()
    assert isinstance(answer, Response)
    assert answer.trace is not None
    assert answer.trace.attempts[-1].latency_s == pytest.approx(2.0)
    assert service.told().goals["latency_p95_s"].bad == 1


def attempt(started_s: float, latency_s: float, outcome: Any = "ok", first: float | None = None) -> Attempt:
    return Attempt("gold", "big", "m", started_s, latency_s, first, outcome)


@pytest.mark.parametrize(
    ("trace", "latency_s"),
    [
        (Trace("t", duration_s=7.0, attempts=[attempt(2.0, 5.0)]), 7.0),
        (Trace("t", duration_s=7.5, attempts=[attempt(2.0, 5.0)]), 7.5),
        (Trace("t", duration_s=99.0, attempts=[attempt(2.0, 5.0, first=1.0)]), 7.0),
        (
            Trace("t", duration_s=99.0, attempts=[attempt(0.0, 3.0, "failed"), attempt(4.0, 5.0, first=1.0)]),
            9.0,
        ),
        (
            Trace(
                "t",
                duration_s=99.0,
                attempts=[attempt(0.0, 3.0, first=1.0), attempt(1.0, 50.0, "cancelled", 2.0)],
            ),
            3.0,
        ),
        (
            Trace(
                "t",
                duration_s=99.0,
                attempts=[attempt(0.0, 8.0, "cancelled", 2.0), attempt(1.0, 3.0, first=1.0)],
            ),
            4.0,
        ),
        (Trace("t", duration_s=99.0, attempts=[attempt(1.0, 8.0, "failed", 2.0)]), 9.0),
        (Trace("t", duration_s=3.0), 3.0),
        (
            Trace(
                "t", duration_s=50.0, waits=[Waited("deferred", "gold", 45.0), Waited("pool", "gold", 2.0)]
            ),
            50.0,
        ),
    ],
    ids=[
        "whole",
        "with a judge",
        "stream",
        "after a retry",
        "lost a race",
        "won a race",
        "cut",
        "refused",
        "put off",
    ],
)
def test_latency_is_what_the_caller_waited(trace: Trace, latency_s: float) -> None:
    assert account_of(trace, ask("hi", {}), None).latency_s == pytest.approx(latency_s)


def test_what_a_call_was_put_off_at_its_own_wish_is_no_latency() -> None:
    waits = [Waited("deferred", "gold", 45.0), Waited("pool", "gold", 2.0)]
    trace = Trace("t", duration_s=50.0, first_token_s=48.0, waits=waits)
    request = ask("hi", {"defer_ok": True})
    account = account_of(trace, request, None)
    assert account.latency_s == pytest.approx(5.0)
    assert account.first_token_s == pytest.approx(3.0)


def cost_of(trace: Trace, response: Response | None) -> float | None:
    return account_of(trace, ask("hi", {}), response).cost_usd


def test_costs_of_all_attempts_are_the_call_s() -> None:
    trace = Trace("t", attempts=[attempt(0, 1, "failed"), attempt(1, 1), attempt(2, 1)])
    assert cost_of(trace, None) is None
    assert cost_of(trace, Response(cost_usd=Decimal("0.5"))) == 0.5
    for each in trace.attempts[1:]:
        each.cost_usd = Decimal("0.25")
    assert cost_of(trace, Response(cost_usd=Decimal("0.25"))) == 0.5


@pytest.mark.parametrize("cost", ["NaN", "Infinity", "-1"])
def test_a_cost_that_is_none_is_not_counted(cost: str) -> None:
    assert cost_of(Trace("t"), Response(cost_usd=Decimal(cost))) is None


# -- apart: the cache -----------------------------------------------------------------


def test_answers_from_the_cache_do_not_hide_a_slow_model() -> None:
    service = Service(cache=ResultCache(ttl_s=600))
    service.fake.script("big", Reply("hi", latency_s=9.0), forever=True)
    for _ in range(50):
        service.ask("the same")
    report = service.told()
    assert counted(report) == (1, 0, {"cached": 49})
    assert report.goals["latency_p95_s"].within == 0.0


@pytest.mark.parametrize("fails", [False, True], ids=["answered", "failed"])
def test_a_flight_counts_once_with_the_call_that_leads_it(fails: bool) -> None:
    world = VirtualTime()
    fake = FakeProvider(latency_s=2.0)
    if fails:
        fake.down(fail=Fail.unavailable(latency_s=2.0))
    tier = Tier("gold", [Deployment("big", fake)], objective=PROMISED)
    client = TieredClient([tier], cache=ResultCache(ttl_s=600), clock=world.clock, retry=False, breaker=False)
    for number in range(5):
        ready = client.ready(ask("the same", {}))
        world.at(number * 0.1, lambda ready=ready: _begin(world, ready))
    world.run()
    report = client.attainment("gold")
    assert counted(report) == ((0, 1, {"cached": 4}) if fails else (1, 0, {"cached": 4}))


def _begin(world: VirtualTime, ready: Any) -> None:
    ready.begin_now()
    world.start(ready.flow(), ready.host, scope=ready.scope)


def test_an_old_answer_while_it_is_made_anew_is_cached_and_one_for_want_of_a_new_one_is_a_failure() -> None:
    trace = Trace("t", cache="stale")
    assert kind_of(trace, Response(cached=True, tier="gold"), None) == "cached"
    assert kind_of(trace, Response(cached=True, tier="gold", degraded=("stale",)), None) == "failed"


def test_who_shares_a_degraded_answer_got_it_from_a_flight_all_the_same() -> None:
    answer = Response(cached=True, tier="gold", degraded=("short",))
    assert kind_of(Trace("t", cache="joined"), answer, None) == "cached"


def test_an_answer_by_a_policy_of_the_application_s_own_says_nothing_of_the_tier() -> None:
    class Greeting:
        async def __call__(self, call: Any, call_next: Any) -> Response:
            return Response("hello", finish_reason="stop")

    service = Service(policies=[Greeting()])
    service.ask()
    assert counted(service.told()) == (0, 0, {"cached": 1})


# -- against availability ---------------------------------------------------------------


def test_when_all_is_out_a_simple_reply_is_not_available() -> None:
    service = Service(simple_reply="Sorry.")
    service.fake.down()
    answer = service.ask()
    assert isinstance(answer, Response)
    assert answer.text == "Sorry."
    assert counted(service.told()) == (0, 1, {})


def test_when_all_is_out_an_old_answer_is_not_available() -> None:
    service = Service(stale=lambda request: "yesterday's")
    service.fake.down()
    answer = service.ask()
    assert isinstance(answer, Response)
    assert answer.degraded == ("stale",)
    assert counted(service.told()) == (0, 1, {})


@pytest.mark.parametrize(
    "fail",
    [Fail.unavailable(), Fail.rate_limited(), Fail.timeout(), Fail.unauthorized(), Fail.cut_after(0)],
    ids=lambda fail: fail.kind,
)
def test_what_providers_fail_at_counts_against_it(fail: Fail) -> None:
    service = Service()
    service.fake.script("big", fail)
    service.ask()
    assert counted(service.told()) == (0, 1, {})


def test_a_stream_that_broke_off_is_a_failure_whose_first_token_is_known() -> None:
    service = Service()
    service.fake.script("big", Fail.cut_after(2, latency_s=0.5))
    with pytest.raises(TierLLMError):
        service.read(hold_s=100.0)
    report = service.told()
    assert counted(report) == (0, 1, {})
    assert (report.first_tokens, report.goals["first_token_p95_s"].bad) == (1, 0)
    assert report.goals["latency_p95_s"].bad == 0  # the consumer held it, not the provider


def test_our_own_breaker_counts_against_it() -> None:
    service = Service(breaker=CircuitBreaker(consecutive_failures=1, window=1, open_s=60))
    service.fake.down()
    for _ in range(3):
        service.ask()
    assert service.fake.calls == 1
    assert counted(service.told()) == (0, 3, {})


def test_an_account_s_rate_limit_counts_against_it() -> None:
    service = Service(big={"rpm": 1}, gold={"admission": Admission(on_full="refuse")})
    service.ask()
    assert isinstance(service.ask(), ThrottledError)
    assert counted(service.told()) == (1, 1, {})


def test_a_full_pool_counts_against_it() -> None:
    service = Service(gold={"max_concurrency": 1, "admission": Admission(on_full="refuse")})
    with service.client.stream("hi") as stream:
        next(iter(stream))
        assert isinstance(service.ask(), ThrottledError)
        for _ in stream:
            pass
    assert counted(service.told()) == (1, 1, {})


# -- not against it: the caller's own affairs ---------------------------------------------


def test_a_user_s_own_rate_limit_does_not() -> None:
    service = Service(limits=[RateLimit(rpm=1, per="user")], gold={"admission": Admission(on_full="refuse")})
    service.ask(user="u1")
    assert isinstance(service.ask(user="u1"), ThrottledError)
    assert counted(service.told()) == (1, 0, {"personal": 1})


def test_a_spent_budget_does_not() -> None:
    service = Service(big={"price": PRICE}, budgets=[Budget(hard_usd="0.000001", per="user")])
    assert isinstance(service.ask(user="u1", max_tokens=100), BudgetExceededError)
    assert counted(service.told()) == (0, 0, {"personal": 1})


def test_what_the_caller_did_not_confirm_does_not() -> None:
    service = Service(big={"price": PRICE}, confirm=lambda estimate: False, confirm_over_usd="0.000001")
    service.ask(max_tokens=100)
    assert counted(service.told()) == (0, 0, {"personal": 1})


def test_what_is_too_large_does_not() -> None:
    service = Service(big={"context_window": 100})
    assert isinstance(service.ask("word " * 5000), RequestTooLargeError)
    assert counted(service.told()) == (0, 0, {"personal": 1})


@pytest.mark.parametrize(
    "fail", [Fail.invalid(), Fail.too_long(), Fail.filtered()], ids=lambda fail: fail.kind
)
def test_what_is_wrong_with_the_request_itself_does_not(fail: Fail) -> None:
    service = Service(silver=True)
    service.fake.script("*", fail, forever=True)
    service.ask()
    assert counted(service.told()) == (0, 0, {"personal": 1})


def test_to_ask_the_cache_only_does_not() -> None:
    service = Service(cache=ResultCache(ttl_s=60))
    service.ask(cache="only")
    assert counted(service.told()) == (0, 0, {"personal": 1})


def test_an_exception_of_the_application_s_own_does_not() -> None:
    service = Service()

    @tiered.call(sla="gold", client=service.client)
    def answer(question: str, *, route: Route = Route.INJECTED) -> str:
        raise KeyError(question)

    with pytest.raises(KeyError):
        answer("hi")
    assert counted(service.told()) == (0, 0, {"personal": 1})


def test_a_refusal_of_the_caller_s_own_after_a_failure_on_our_side_does() -> None:
    failed = Attempt("gold", "big", outcome="failed", error=ProviderUnavailableError("down"))
    spent = Attempt("silver", "small", outcome="rejected", error=BudgetExceededError("spent"))
    for error in (AllTiersFailedError(attempts=[failed, spent]), BudgetExceededError("spent")):
        assert kind_of(Trace("t", attempts=[failed, spent]), None, error) == "failed"
    assert kind_of(Trace("t", attempts=[spent]), None, AllTiersFailedError(attempts=[spent])) == "personal"
    assert kind_of(Trace("t", attempts=[spent]), None, BudgetExceededError("spent")) == "personal"
    assert kind_of(Trace("t"), None, ThrottledError("full")) == "failed"
    assert kind_of(Trace("t"), None, ThrottledError("full", personal=True)) == "personal"


# -- cancelled, late --------------------------------------------------------------------


def test_a_stream_that_its_consumer_leaves_counts_for_nothing() -> None:
    service = Service()
    service.fake.script("big", Reply(chunks=["a", "b", "c"], first_token_s=9.0))
    service.read(chunks=1)
    assert counted(service.told()) == (0, 0, {"cancelled": 1})


def test_a_cancelled_task_counts_for_nothing() -> None:
    fake = FakeProvider()
    fake.script("big", Fail.hang())
    client = TieredClient([Tier("gold", [Deployment("big", fake)], objective=PROMISED)])

    async def leave() -> None:
        task = asyncio.ensure_future(client.acomplete("hi"))
        while not fake.in_flight:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert counted(client.attainment("gold")) == (0, 0, {"cancelled": 1})


def test_a_call_cancelled_by_its_handle_counts_for_nothing() -> None:
    assert kind_of(Trace("t"), None, CallCancelledError("off")) == "cancelled"


@pytest.mark.parametrize(
    ("deadline_s", "default_s", "told"),
    [
        (3.0, None, (0, 0, {"impatient": 1})),
        (4.0, None, (0, 1, {})),
        (None, 60.0, (0, 1, {})),
        (1.0, 60.0, (0, 0, {"impatient": 1})),
    ],
)
def test_a_missed_deadline_is_a_failure_where_it_left_the_objective_s_time(
    deadline_s: float | None, default_s: float | None, told: Any
) -> None:
    service = Service(deadline_s=default_s)
    service.fake.script("big", Fail.hang())
    service.ask(deadline_s=deadline_s)
    report = service.told()
    assert counted(report) == told
    # it is not known how long it would have taken; but that it took longer than the goal
    assert report.goals["latency_p95_s"].bad == (report.failed and (deadline_s or default_s or 0) > 4.0)


def test_without_a_time_in_the_objective_a_missed_deadline_is_a_failure() -> None:
    service = Service(objective=Objective(availability=0.9))
    service.fake.script("big", Fail.hang())
    service.ask(deadline_s=0.5)
    assert counted(service.told()) == (0, 1, {})


def test_a_timeout_of_the_tier_s_own_is_a_failure_however_long() -> None:
    service = Service(timeouts=Timeouts(total_s=1.0))
    service.fake.script("big", Fail.hang())
    service.ask()
    assert counted(service.told()) == (0, 1, {})


# -- observe, moved ---------------------------------------------------------------------


def test_what_is_only_observed_changes_nothing() -> None:
    service = Service(limits=[RateLimit(rpm=1, per="tenant", mode="observe")])
    for _ in range(3):
        service.ask(tenant="acme")
    assert counted(service.told()) == (3, 0, {})


def test_what_a_tier_sends_away_is_counted_there_apart_and_elsewhere_in_full() -> None:
    levels = ServiceLevels({"gold": PROMISED, "silver": PROMISED}, clock=FakeClock())
    trace = Trace("t", "gold", "silver", "silver", attempts=[attempt(0, 1)], duration_s=1.0)
    trace.candidates = [Candidate("gold", "*", "shift"), Candidate("gold", "*", "observed: shift")]
    levels.count(trace, ask("hi", {}), Response(tier="silver"), None)
    assert counted(levels.report("gold")) == (0, 0, {"moved": 1})
    assert counted(levels.report("silver")) == (1, 0, {})


# -- contracts and tenants ----------------------------------------------------------------


def test_contracts_and_tenants_have_their_own_accounts() -> None:
    strict = Objective(latency_p95_s=1.0)
    service = Service(
        contracts=[Contract("acme", tenants=["acme"], objective=strict)], tenant_attainment=True
    )
    service.fake.script("big", Reply("hi", latency_s=2.0), forever=True)
    for tenant in ("acme", "acme", "other", None):
        service.ask(tenant=tenant)
    assert service.told().calls == 4
    contract = service.client.attainment(contract="acme")
    assert (contract.calls, contract.goals["latency_p95_s"].bad) == (2, 2)
    tenant = service.told(tenant="acme")
    assert (tenant.calls, tenant.goals["latency_p95_s"].bad) == (2, 0)
    assert (tenant.tier, tenant.tenant) == ("gold", "acme")
    assert service.told(tenant="nobody").calls == 0
    status = service.client.status()["objectives"]
    assert status["tenants"]["gold"]["other"]["calls"] == 1
    assert status["contracts"]["acme"]["windows"]["300"]["calls"] == 2
    json.dumps(status)


def test_what_a_deadline_means_depends_on_the_objective() -> None:
    """A contract may give less time than the tier."""
    service = Service(contracts=[Contract("acme", objective=Objective(latency_p95_s=1.0, availability=0.9))])
    service.fake.script("big", Fail.hang())
    service.ask(contract="acme", deadline_s=2.0)
    assert counted(service.told()) == (0, 0, {"impatient": 1})
    assert counted(service.client.attainment(contract="acme")) == (0, 1, {})


def levels_with_calls(tenants: int, **options: Any) -> ServiceLevels:
    levels = ServiceLevels({"gold": PROMISED}, tenants=True, clock=FakeClock(), **options)
    for number in range(tenants):
        ended(levels, tenant=f"t{number}")
    return levels


def ended(levels: ServiceLevels, *, error: Exception | None = None, **options: Any) -> None:
    trace = Trace("t", "gold", "gold", "gold", duration_s=1.0, attempts=[attempt(0, 1)])
    trace.contract = options.get("contract")
    response = Response(tier="gold") if error is None else None
    levels.count(trace, ask("hi", options), response, error)


def test_the_number_of_tenants_is_bounded_and_those_last_seen_are_kept() -> None:
    levels = levels_with_calls(5, max_tenants=5)
    ended(levels, tenant="t0")
    ended(levels, tenant="new")
    assert list(levels.status()["tenants"]["gold"]) == ["t2", "t3", "t4", "t0", "new"]
    assert levels.report("gold", tenant="t0").calls == 2
    assert levels.report("gold", tenant="t1").calls == 0
    assert levels.report("gold").calls == 7


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "name one tier or contract"),
        ({"tier": "gol"}, "gol"),
        ({"contract": "nobody"}, "acme"),
        ({"tier": "gold", "contract": "acme"}, "not both"),
        ({"tier": "gold", "tenant": "acme"}, "not kept by tenant"),
        ({"tier": "gold", "window_s": 77}, "77"),
    ],
)
def test_questions_that_make_no_sense(asked: dict[str, Any], words: str) -> None:
    levels = ServiceLevels({"gold": PROMISED}, contracts={"acme": PROMISED})
    with pytest.raises(ConfigError, match=words):
        levels.report(**asked)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ServiceLevels({"gold": 0.99}),  # type: ignore[dict-item]
        lambda: ServiceLevels({}, contracts={"acme": None}),  # type: ignore[dict-item]
        lambda: ServiceLevels({}, max_tenants=0),
        lambda: ServiceLevels({"gold": PROMISED}, min_samples=0),
    ],
    ids=["tier", "contract", "max_tenants", "min_samples"],
)
def test_settings_that_make_no_sense(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()


def test_where_one_thing_is_promised_it_needs_no_name() -> None:
    assert ServiceLevels({"gold": PROMISED}).report().tier == "gold"
    assert ServiceLevels({}, contracts={"acme": PROMISED}).report().contract == "acme"


# -- events -----------------------------------------------------------------------------


def test_listeners_hear_once_that_a_promise_burns_and_that_it_no_longer_does() -> None:
    clock, heard = FakeClock(), list[Event]()
    levels = ServiceLevels({"gold": Objective(availability=0.99)}, clock=clock, emit=heard.append)
    for second in range(3600 * 12):
        failing = 4000 <= second < 5500
        if failing or second % 4 == 0:
            ended(levels, error=ProviderUnavailableError("down") if failing else None)
        clock.advance(1.0)
    burning = [event for event in heard if isinstance(event, ObjectiveBurning)]
    recovered = [event for event in heard if isinstance(event, ObjectiveRecovered)]
    assert {(event.subject, event.goal) for event in burning} == {("tier:gold", "availability")}
    assert 1 <= len(burning) <= 3  # once for each pair of windows that came to hold
    assert len(recovered) == 1
    assert heard[-1] is recovered[0]
    assert burning[0].burn_rate > 1
    assert burning[0].budget_left < 0


def test_a_listener_may_look_at_what_it_is_told_of() -> None:
    clock, seen = FakeClock(), []

    def look(event: Event) -> None:
        seen.append(levels.status()["tiers"]["gold"]["burning"])

    levels = ServiceLevels({"gold": Objective(availability=0.99)}, clock=clock, emit=look)
    for _ in range(3000):
        ended(levels, error=ProviderUnavailableError("down"))
        clock.advance(1.0)
    assert seen[0] == ["availability"]


def test_silence_ends_it_too_for_whoever_looks() -> None:
    clock, heard = FakeClock(), list[Event]()
    levels = ServiceLevels({"gold": Objective(availability=0.9)}, clock=clock, emit=heard.append)
    for _ in range(4000):
        ended(levels, error=ProviderUnavailableError("down"))
        clock.advance(1.0)
    clock.advance(7200.0)
    for _ in range(30):
        levels.status()
        clock.advance(60.0)
    assert isinstance(heard[0], ObjectiveBurning)
    assert isinstance(heard[-1], ObjectiveRecovered)
    assert not levels.status()["tiers"]["gold"]["burning"]


# -- threads, forks, reloads ---------------------------------------------------------------


def test_the_counts_of_eight_threads_add_up() -> None:
    levels = ServiceLevels({"gold": PROMISED}, contracts={"acme": PROMISED}, tenants=True, max_tenants=8)

    def work(number: int) -> None:
        for each in range(1500):
            ended(levels, tenant=f"t{number}", contract="acme" if each % 2 else None)
            if each % 500 == 0:
                levels.status()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert levels.report("gold").calls == 12_000
    assert levels.report(contract="acme").calls == 6_000
    assert [levels.report("gold", tenant=f"t{number}").calls for number in range(8)] == [1500] * 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_locks_are_one_s_own() -> None:
    levels = levels_with_calls(2)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with levels._lock, levels._tiers["gold"].attainment._lock:
            held.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(30)
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            levels.renew()
            ended(levels, tenant="t1")
            os._exit(0 if levels.report("gold").calls == 3 else 1)
        finally:
            os._exit(2)
    done.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_after_a_reload_counts_go_on_where_subject_and_objective_are_the_same() -> None:
    other = Objective(availability=0.5)
    clock = FakeClock()
    older = ServiceLevels(
        {"gold": PROMISED, "silver": PROMISED}, contracts={"acme": PROMISED}, tenants=True, clock=clock
    )
    newer = ServiceLevels(
        {"gold": PROMISED, "silver": other, "bronze": PROMISED},
        contracts={"acme": PROMISED},
        tenants=True,
        max_tenants=3,
        clock=clock,
    )
    for number in range(4):
        ended(older, tenant=f"t{number}", contract="acme")
    newer.inherit(older)
    ended(older, tenant="t3", contract="acme")  # still under way as the file changed
    ended(newer, tenant="t3", contract="acme")
    assert newer.report("gold").calls == 6
    assert newer.report(contract="acme").calls == 6
    assert newer.report("gold", tenant="t3").calls == 3
    assert newer.report("gold", tenant="t0").calls == 0  # only three are kept now
    assert newer.report("silver").calls == newer.report("bronze").calls == 0


def test_an_objective_that_was_changed_begins_anew() -> None:
    older, newer = ServiceLevels({"gold": PROMISED}), ServiceLevels({"gold": Objective(availability=0.5)})
    ended(older)
    newer.inherit(older)
    assert newer.report("gold").calls == 0
    newest = ServiceLevels({"gold": PROMISED}, min_samples=7)
    newest.inherit(older)
    assert newest.report("gold").calls == 0


# -- never in the way ------------------------------------------------------------------------


def test_a_call_without_any_promise_is_nobody_s() -> None:
    levels = ServiceLevels({"gold": PROMISED})
    levels.count(Trace("t"), Request(messages=()), None, None)
    assert counted(levels.report("gold")) == (0, 0, {})


@pytest.mark.parametrize("duration_s", [-5.0, math.inf, 1e12])
def test_times_that_cannot_be_do_no_harm(duration_s: float) -> None:
    levels = ServiceLevels({"gold": PROMISED})
    trace = Trace("t", "gold", "gold", duration_s=duration_s, attempts=[attempt(0, 1)])
    levels.count(trace, ask("hi", {}), Response(tier="gold"), None)
    assert levels.report("gold").calls == 1

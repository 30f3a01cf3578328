"""Outages that a cache, a shared flight, a policy or an impatient caller must not hide."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tierllm import (
    Cascade,
    Deployment,
    Objective,
    ResultCache,
    Shift,
    Tier,
    TieredClient,
    Timeouts,
    tiered,
)
from tierllm.caching.sharing import Shared
from tierllm.errors import (
    AllTiersFailedError,
    BudgetExceededError,
    ConfigError,
    ContentFilteredError,
    ProviderUnavailableError,
    TierLLMError,
    UnknownOptionError,
)
from tierllm.pipeline.virtual import VirtualTime
from tierllm.resilience.fallback import NotInTime
from tierllm.routing.ask import ask
from tierllm.sla.counting import Kind, account_of, kind_of, served_elsewhere
from tierllm.sla.report import Report
from tierllm.sla.service_levels import ServiceLevels
from tierllm.testing import Fail, FakeClock, FakeProvider, Reply
from tierllm.types import Attempt, Candidate, Response, Trace

PROMISED = Objective(latency_p95_s=4.0, first_token_p95_s=1.0, availability=0.9)


class Service:
    """Gold and silver on one fake provider."""

    def __init__(
        self,
        *,
        clock: Any = None,
        fake: FakeProvider | None = None,
        gold: dict[str, Any] | None = None,
        objective: Objective = PROMISED,
        **client: Any,
    ) -> None:
        self.clock = clock or FakeClock()
        self.fake = fake or FakeProvider()
        self.client = TieredClient(
            [
                Tier("gold", [Deployment("big", self.fake)], objective=objective, **(gold or {})),
                Tier("silver", [Deployment("small", self.fake)], objective=objective),
            ],
            clock=self.clock,
            **{"retry": False, "breaker": False, **client},
        )

    def told(self, tier: str = "gold", **whose: Any) -> Report:
        return self.client.attainment(tier, window_s=3600, **whose)


def counted(report: Report) -> tuple[int, int, dict[str, int]]:
    return report.answered, report.failed, {kind: n for kind, n in report.apart.items() if n}


def at(tier: str, outcome: Any = "ok", error: BaseException | None = None, **more: Any) -> Attempt:
    if outcome != "ok" and error is None:
        error = ProviderUnavailableError("down")
    return Attempt(tier, "place", outcome=outcome, error=error, **more)


def shared(tier: str, outcome: Any = "ok") -> Attempt:
    return Shared(tier, "place", outcome=outcome, error=None if outcome == "ok" else RuntimeError())


DOWN, SPENT = ProviderUnavailableError("down"), BudgetExceededError("spent")
FRESH, KEPT = Response(tier="silver"), Response(tier="silver", cached=True)
REPLY = Response(degraded=("simple_reply",))


@pytest.mark.parametrize(
    ("attempts", "response", "error", "kind"),
    [
        ([at("gold", "failed")], KEPT, None, "answered"),
        ([at("gold", "rejected", SPENT)], KEPT, None, "cached"),
        ([shared("gold", "failed"), at("silver")], FRESH, None, "answered"),
        ([shared("gold", "failed"), shared("silver")], KEPT, None, "cached"),
        ([at("gold", "failed"), shared("silver")], KEPT, None, "answered"),
        ([at("gold", "failed"), shared("silver")], FRESH, None, "answered"),
        ([shared("gold", "failed")], None, AllTiersFailedError(), "cached"),
        ([shared("gold", "failed"), at("silver", "failed")], None, AllTiersFailedError(), "failed"),
        ([at("gold", "failed")], FRESH, None, "failed"),
        ([at("gold", "cancelled", None)], FRESH, None, "failed"),
        ([at("gold", "rejected", SPENT)], FRESH, None, "personal"),
        ([at("gold", "failed")], REPLY, None, "failed"),
        ([at("gold", "failed")], Response(tier="gold", degraded=("simple_reply",)), None, "failed"),
        ([at("gold", "rejected", SPENT)], REPLY, None, "personal"),
        ([shared("gold", "failed")], REPLY, None, "cached"),
        ([], REPLY, None, "failed"),
        ([], None, AllTiersFailedError(), "failed"),
        ([at("gold", "rejected", NotInTime("no"))], None, AllTiersFailedError(), "late"),
        (
            [at("gold", "rejected", NotInTime("no")), at("silver", "rejected", SPENT)],
            None,
            AllTiersFailedError(),
            "late",
        ),
        ([at("gold", "failed", ConfigError("no key"))], None, ConfigError("no key"), "failed"),
        ([], None, ConfigError("extra"), "personal"),
        ([at("gold", "failed", UnknownOptionError("no"))], None, UnknownOptionError("no"), "personal"),
        ([at("gold", "failed"), at("silver", "failed")], None, ContentFilteredError("no"), "personal"),
        ([at("gold", "failed")], None, KeyError("of a policy"), "failed"),
        ([at("gold", "failed"), at("gold")], None, KeyError("of a policy"), "personal"),
        ([at("gold", "failed", KeyError("of a function"))], None, KeyError("of a function"), "personal"),
    ],
)
def test_a_call_is_judged_by_its_own_attempts(
    attempts: list[Attempt], response: Response | None, error: Exception | None, kind: Kind
) -> None:
    for cache in ("miss", "hit", "joined", None):
        assert kind_of(Trace("t", None, "gold", attempts=attempts, cache=cache), response, error) == kind


# -- the cache --------------------------------------------------------------------------------


def test_who_comes_down_to_a_cached_answer_has_met_the_outage() -> None:
    service = Service(cache=ResultCache(ttl_s=1e6))
    for number in range(20):
        service.client.complete(f"q{number}", sla="silver")
    service.fake.down("big", fail=Fail.unavailable(latency_s=9.0))
    for number in range(20):
        assert service.client.complete(f"q{number}").cached
    report = service.told()
    assert counted(report) == (20, 0, {})
    assert (report.elsewhere, report.goals["latency_p95_s"].bad) == (20, 20)


def test_a_cached_answer_that_was_not_good_enough_is_followed_by_a_call_of_its_own() -> None:
    score = [0.0]
    cascade = Cascade(lambda request, response: score[0], cheap="silver", strong="gold")
    service = Service(cache=ResultCache(ttl_s=1e6), cascade=cascade)
    service.client.complete("hi", sla="silver")
    service.fake.script("big", Reply("better", latency_s=20.0))
    assert service.client.complete("hi").tier == "gold"
    report = service.told()
    assert counted(report) == (1, 0, {})
    assert (report.goals["latency_p95_s"].bad, report.elsewhere) == (1, 0)
    score[0] = 1.0
    assert service.client.complete("new").tier == "silver"
    assert service.told().elsewhere == 0  # it was chosen, and nothing had failed


def flown(service: Service, world: VirtualTime, *calls: tuple[float, dict[str, Any]]) -> list[Any]:
    """The same question at these moments, with these options."""
    all_of_them = []
    for moment, options in calls:
        ready = service.client.ready(ask("the same", options))
        all_of_them.append(ready)

        def go(ready: Any = ready) -> None:
            ready.begin_now()
            world.start(ready.flow(), ready.host, scope=ready.scope)

        world.at(moment, go)
    world.run()
    return all_of_them


def test_a_flight_whose_founder_left_is_counted_by_who_stayed_from_where_it_began() -> None:
    world = VirtualTime()
    service = Service(clock=world.clock, fake=FakeProvider(latency_s=5.0), cache=ResultCache(ttl_s=600))
    founder, *_ = flown(service, world, (0.0, {"deadline_s": 2.0}), (1.5, {}), (1.6, {}))
    assert founder.call.trace.outcome == "failed"
    report = service.told()
    assert counted(report) == (1, 0, {"cached": 1, "impatient": 1})
    assert report.goals["latency_p95_s"].bad == 1  # 3.5 s for the one who stayed, and 5 for the model


def test_who_joined_a_flight_that_failed_and_leads_another_has_had_an_answer() -> None:
    world = VirtualTime()
    service = Service(clock=world.clock, fake=FakeProvider(latency_s=2.0), cache=ResultCache(ttl_s=600))
    service.fake.down("big", fail=Fail.unavailable(latency_s=2.0))
    flown(service, world, (0.0, {"fallback": False}), (0.1, {}))
    report = service.told()
    assert counted(report) == (1, 1, {})
    assert report.elsewhere == 1


def test_a_refusal_that_several_share_counts_once() -> None:
    world = VirtualTime()
    service = Service(
        clock=world.clock,
        fake=FakeProvider(latency_s=3.0),
        gold={"max_concurrency": 1},
        cache=ResultCache(ttl_s=600),
        timeouts=Timeouts(),
    )
    service.fake.down("small")
    other = service.client.ready(ask("another", {}))
    world.at(0.0, lambda: world.start(other.flow(), other.host, scope=other.scope))
    flown(service, world, *[(0.1 * number, {"deadline_s": 60.0}) for number in range(1, 4)])
    answered, failed, apart = counted(service.told())
    assert answered + failed + sum(apart.values()) == 4
    assert apart == {"cached": 2}


def test_what_a_shared_attempt_cost_is_counted_once() -> None:
    own = [at("gold", cost_usd=2.0), Shared("silver", "small", outcome="ok", cost_usd=5.0)]  # type: ignore[arg-type,list-item]
    assert account_of(Trace("t", attempts=own), ask("hi", {}), None).cost_usd == 2.0


# -- those who do not wait ----------------------------------------------------------------------


def test_a_hang_counts_against_latency_however_impatient_the_callers() -> None:
    service = Service(objective=Objective(latency_p95_s=4.0, latency_p99_s=30.0), timeouts=Timeouts())
    service.fake.script("*", Fail.hang(), forever=True)
    for _ in range(300):
        with pytest.raises(TierLLMError):
            service.client.complete("hi", deadline_s=10.0)
    report = service.told()
    assert counted(report) == (0, 0, {"impatient": 300})
    goals = report.goals
    # also those that were turned away at once: no place could have done it in 10 s
    assert (goals["latency_p95_s"].calls, goals["latency_p95_s"].bad) == (300, 300)
    assert goals["latency_p99_s"].calls == 0
    assert report.goals["latency_p95_s"].verdict == "missed"


def test_a_hang_counts_against_latency_where_tasks_are_cancelled() -> None:
    fake = FakeProvider()
    fake.script("big", Fail.hang(), forever=True)
    clock = FakeClock()
    client = TieredClient([Tier("gold", [Deployment("big", fake)], objective=PROMISED)], clock=clock)

    async def leave() -> None:
        task = asyncio.ensure_future(client.acomplete("hi"))
        while not fake.in_flight:
            await asyncio.sleep(0)
        clock.advance(5.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    report = client.attainment("gold")
    assert counted(report) == (0, 0, {"cancelled": 1})
    assert (report.goals["latency_p95_s"].calls, report.goals["latency_p95_s"].bad) == (1, 1)
    assert report.goals["availability"].calls == 0


@pytest.mark.parametrize("form", ["stream", "astream"])
def test_a_stream_that_hangs_before_its_first_token_counts_against_that(form: str) -> None:
    service = Service(objective=Objective(first_token_p95_s=1.0), timeouts=Timeouts(first_token_s=60))
    service.fake.script("*", Fail.hang(), forever=True)
    with pytest.raises(TierLLMError):
        _read(service.client, form)
    with pytest.raises(TierLLMError):
        service.client.complete("hi", deadline_s=30.0)  # not a stream
    goal = service.told().goals["first_token_p95_s"]
    assert (goal.calls, goal.bad) == (1, 1)


def _read(
    client: TieredClient,
    form: str,
    *,
    first: Callable[[], object] = lambda: None,
    until: Callable[[Any], bool] = lambda chunk: False,
) -> None:
    async def areads() -> None:
        async with client.astream("hi") as stream:
            first()
            async for chunk in stream:
                if until(chunk):
                    break

    if form == "astream":
        asyncio.run(areads())
        return
    with client.stream("hi") as stream:
        first()
        for chunk in stream:
            if until(chunk):
                break


@pytest.mark.parametrize("form", ["stream", "astream"])
def test_a_stream_begins_as_its_first_chunk_is_asked_for(form: str) -> None:
    service = Service(deadline_s=50.0)
    service.fake.script("big", Reply(chunks=["a", "b"], first_token_s=0.5))
    _read(service.client, form, first=lambda: service.clock.advance(100.0))
    report = service.told()
    assert counted(report) == (1, 0, {})
    assert report.goals["latency_p95_s"].bad == report.goals["first_token_p95_s"].bad == 0


@pytest.mark.parametrize("form", ["stream", "astream"])
def test_who_leaves_a_stream_at_its_end_has_had_the_answer(form: str) -> None:
    service = Service()
    service.fake.script("big", Reply(chunks=["a", "b"], first_token_s=9.0))
    _read(service.client, form, until=lambda chunk: chunk.finish_reason is not None)
    report = service.told()
    assert counted(report) == (1, 0, {})
    assert report.goals["first_token_p95_s"].bad == report.goals["latency_p95_s"].bad == 1


# -- the application's own parts ------------------------------------------------------------------


def test_an_outage_that_a_policy_makes_up_for_is_one_all_the_same() -> None:
    class Soft:
        async def __call__(self, call: Any, call_next: Any) -> Response:
            try:
                response: Response = await call_next(call)
                return response
            except TierLLMError:
                return Response("Sorry.", finish_reason="stop")

    service = Service(policies=[Soft()])
    service.client.complete("hi")
    service.fake.down()
    service.client.complete("hi")
    assert counted(service.told()) == (1, 1, {})


def test_a_place_without_a_key_is_out_of_order() -> None:
    class NoKey(FakeProvider):
        def complete(self, call: Any, invocation: Any) -> Response:
            raise ConfigError("OPENAI_API_KEY is not set")

    service = Service(fake=NoKey())
    with pytest.raises(ConfigError):
        service.client.complete("hi")
    assert counted(service.told()) == (0, 1, {})


def test_a_function_of_the_application_s_own_may_raise_what_it_likes() -> None:
    service = Service()

    @tiered.call(sla="gold", client=service.client)
    def answer(question: str) -> str:
        raise KeyError(question)

    with pytest.raises(KeyError):
        answer("hi")
    assert counted(service.told()) == (0, 0, {"personal": 1})


# -- elsewhere, moved -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempts", "chosen", "elsewhere"),
    [
        ([at("gold", "failed"), at("silver")], None, True),
        ([at("silver")], None, True),
        ([at("silver")], "cascade", False),
        ([at("silver")], "observed: cascade would begin here", True),
        ([at("gold"), at("silver")], None, False),
        ([at("silver"), at("gold", "failed")], "cascade", True),
    ],
)
def test_elsewhere_is_where_the_granted_tier_did_not_answer(
    attempts: list[Attempt], chosen: str | None, elsewhere: bool
) -> None:
    trace = Trace("t", "gold", "gold", "silver", attempts=attempts)
    if chosen is not None:
        trace.candidates = [Candidate("gold", "*", chosen)]
    assert served_elsewhere(trace, FRESH) is elsewhere


def moved(levels: ServiceLevels, candidate: Candidate, response: Response, attempts: list[Attempt]) -> int:
    trace = Trace("t", "gold", "silver", "silver", attempts=attempts, candidates=[candidate])
    levels.count(trace, ask("hi", {}), response, None)
    return levels.report("gold").apart["moved"]


@pytest.mark.parametrize(
    ("candidate", "told"),
    [
        (Candidate("gold", "*", "load"), 1),
        (Candidate("gold", "*", "shift"), 1),
        (Candidate("gold", "*", "pinned"), 1),
        (Candidate("gold", "big", "shift"), 0),  # a place of it, and not the tier
        (Candidate("gold", "*", "plan"), 0),
        (Candidate("bronze", "*", "load"), 0),
    ],
)
def test_calls_that_a_tier_sent_away_are_moved(candidate: Candidate, told: int) -> None:
    assert moved(ServiceLevels({"gold": PROMISED}), candidate, FRESH, [at("silver")]) == told


def test_what_a_cache_answered_has_moved_nowhere() -> None:
    service = Service(cache=ResultCache(ttl_s=1e6), gold={"shift": Shift()})
    service.client.shift("gold", away=True)
    for _ in range(10):
        service.client.complete("the same")
    assert service.told().apart["moved"] == 1
    assert counted(service.told("silver")) == (1, 0, {"cached": 9})


# -- tenants ----------------------------------------------------------------------------------------


def test_a_tenant_first_seen_by_a_call_of_before_a_reload_is_not_lost() -> None:
    older, newer = (ServiceLevels({"gold": PROMISED}, tenants=True) for _ in range(2))
    newest = ServiceLevels({"gold": Objective(availability=0.5)}, tenants=True)
    newer.inherit(older)
    trace = Trace("t", None, "gold", duration_s=1.0, attempts=[at("gold")])
    older.count(trace, ask("hi", {"tenant": "new"}), Response(tier="gold"), None)
    assert newer.report("gold", tenant="new").calls == 1
    newest.inherit(newer)
    older.count(trace, ask("hi", {"tenant": "new"}), Response(tier="gold"), None)
    assert newest.report("gold", tenant="new").calls == 0  # another promise
    newest.renew()
    older.renew()
    assert newer.report("gold", tenant="new").calls == 2


def test_tenants_and_contracts_take_turns_to_be_looked_at() -> None:
    clock, heard = FakeClock(), []
    promised = Objective(availability=0.99)
    levels = ServiceLevels(
        {"gold": promised},
        contracts={"acme": promised},
        tenants=True,
        clock=clock,
        emit=lambda event: heard.append((clock(), event.subject)),  # type: ignore[attr-defined]
    )
    looks, look = [], levels._look
    levels._look = lambda subject, now: (looks.append(subject.whose), look(subject, now))[1]  # type: ignore[method-assign,func-returns-value]
    calls = 8_000
    for number in range(calls):
        trace = Trace("t", None, "gold", duration_s=1.0, attempts=[at("gold", "failed")])
        trace.contract = "acme"
        levels.count(trace, ask("hi", {"tenant": f"t{number % 20}"}), None, AllTiersFailedError())
        clock.advance(0.25)
    assert {subject for _, subject in heard} == {
        "tier:gold",
        "contract:acme",
        *(f"tenant:gold/t{each}" for each in range(20)),
    }
    assert sum(whose.tier is None or whose.tenant is not None for whose in looks) <= calls / 60 + 2

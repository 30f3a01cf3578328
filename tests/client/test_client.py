"""One client: its calls, its watchers, its policies, its life."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import logging
import math
import os
import pickle
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from client.forms import FORMS, QUICK, Form, World, every_form, held, three_tiers
from tierllm import (
    Call,
    CircuitBreaker,
    Deployment,
    FallbackChain,
    Price,
    Request,
    Response,
    Retry,
    Tier,
    TieredClient,
    Timeouts,
)
from tierllm.errors import (
    AllTiersFailedError,
    ClientClosedError,
    ConfigError,
    ProviderUnavailableError,
    UsageError,
)
from tierllm.events import AttemptFailed, BreakerChanged, CallFinished, Event, SteppedDown
from tierllm.pipeline.effects import Handler
from tierllm.testing import Fail, FakeClock, FakeProvider, Reply


def plain(fake: FakeProvider, **gold: Any) -> list[Tier]:
    return [Tier("gold", [Deployment("g", fake)], **gold), Tier("silver", [Deployment("s", fake)])]


# -- an answer and its account -----------------------------------------------------


@every_form
def test_an_answer_knows_where_it_is_from(form: Form) -> None:
    fake = FakeProvider()
    price = Price(input_usd_per_mtok=1, output_usd_per_mtok=1)
    world = World([Tier("gold", [Deployment("g", fake, name="g-eu", price=price)])], virtual=False, fake=fake)
    fake.script("g", Reply("hi", latency_s=0.5))
    response = form(world.client)
    assert (response.text, response.tier, response.deployment, response.model) == ("hi", "gold", "g-eu", "g")
    assert (response.finish_reason, response.cached, response.degraded) == ("stop", False, ())
    assert response.request_id == "fake-000001"
    assert response.cost_usd
    trace = response.trace
    assert trace is not None
    assert (trace.asked, trace.granted, trace.served, trace.outcome) == (None, "gold", "gold", "ok")
    assert trace.duration_s == trace.attempts[0].latency_s == 0.5
    assert trace.first_token_s == (0.5 if form.streaming else None)
    assert pickle.loads(pickle.dumps(response)).trace.to_dict() == trace.to_dict()
    assert copy.copy(response).text == "hi"


@every_form
def test_the_account_is_plain_data(form: Form) -> None:
    world = World(virtual=False)
    world.fake.down("g1")
    world.fake.down("g2", Fail.rate_limited(retry_after_s=99))
    trace = form(world.client, sla="gold", user="u1").trace
    assert trace is not None
    told = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert told["attempts"][0]["error"] == "ProviderUnavailableError"
    assert told["attempts"][3]["status"] == 429
    assert [c["reason"] for c in told["candidates"]] == [
        "ProviderUnavailableError 503",
        "RateLimitError 429",
        None,
    ]
    assert set(told) >= {"id", "asked", "granted", "served", "duration_s", "outcome", "waits", "degraded"}


def test_every_call_has_an_id_of_its_own() -> None:
    world = World(virtual=False)
    ids = {world.client.complete("Hello").trace.id for _ in range(50)}  # type: ignore[union-attr]
    assert len(ids) == 50
    assert len({i.split("-")[0] for i in ids}) == 1


def test_a_third_tier_is_one_line() -> None:
    fake = FakeProvider()
    fake.down()
    two = [Tier("gold", [Deployment("g", fake)]), Tier("silver", [Deployment("s", fake)])]
    with pytest.raises(AllTiersFailedError):
        TieredClient(two, retry=False).complete("Hello", sla="gold")
    fake.up("*")
    fake.down("g")
    fake.down("s")
    three = TieredClient([*two, Tier("bronze", [Deployment("b", fake)])], retry=False)
    assert three.complete("Hello", sla="gold").tier == "bronze"


# -- status ------------------------------------------------------------------------


def test_status_is_plain_data_at_any_time() -> None:
    fake = FakeProvider(latency_s=0.5)
    tiers = [
        Tier("gold", [Deployment("g", fake, labels={"eu", "a"})], max_concurrency=1, max_waiting=9),
        Tier("silver", [Deployment("s", fake, breaker=False)]),
    ]
    world = World(tiers, fake=fake)
    json.dumps(world.client.status(), allow_nan=False)
    fake.script("g", Fail.unavailable(), Fail.rate_limited(retry_after_s=30))
    for _ in range(5):
        world.begin()
    for _ in range(8):
        world.pass_s(0.3)
        status = json.loads(json.dumps(world.client.status(), allow_nan=False))
        assert status["tiers"]["gold"]["pool"]["in_use"] <= 1
    world.time.run()
    status = world.client.status()
    assert (status["closed"], status["in_flight"]) == (False, 0)
    gold, silver = status["tiers"]["gold"], status["tiers"]["silver"]
    assert gold["deployments"]["g"]["labels"] == ["a", "eu"]
    assert gold["deployments"]["g"]["failed"] == 2
    assert silver["deployments"]["s"]["breaker"] is None
    assert silver["deployments"]["s"]["served"] + gold["deployments"]["g"]["served"] == 5
    assert silver["pool"] is None


# -- listeners ----------------------------------------------------------------------


@every_form
def test_a_listener_that_raises_fails_nothing(form: Form, caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("observer down")

    seen: list[Event] = []
    fake = FakeProvider()
    client = TieredClient(three_tiers(fake), listeners=[broken, seen.append], retry=Retry(base_s=0))
    fake.down("g1")
    with caplog.at_level(logging.ERROR, "tierllm"):
        assert form(client).deployment == "g2"
    assert [type(e) for e in seen if not isinstance(e, AttemptFailed)][-1] is CallFinished
    assert caplog.text.count("a listener failed on CallFinished") == 1


def test_a_call_that_fails_is_finished_too() -> None:
    world = World(virtual=False, retry=False)
    world.fake.down()
    with pytest.raises(AllTiersFailedError):
        world.client.complete("Hello")
    [end] = [e for e in world.events if isinstance(e, CallFinished)]
    assert (end.trace.outcome, end.trace.error) == ("failed", "AllTiersFailedError")
    assert len([e for e in world.events if isinstance(e, AttemptFailed)]) == 4


def test_a_breaker_of_the_deployments_own_tells_the_clients_listeners() -> None:
    seen: list[Event] = []
    fake = FakeProvider()
    breaker = CircuitBreaker(consecutive_failures=1)
    client = TieredClient(
        [Tier("gold", [Deployment("g", fake, breaker=breaker)])], listeners=[seen.append], retry=False
    )
    fake.down()
    with pytest.raises(AllTiersFailedError):
        client.complete("Hello")
    assert breaker.state == "open"
    assert [e.name for e in seen if isinstance(e, BreakerChanged)] == ["gold/g"]


# -- policies of the user's -----------------------------------------------------------


class Noted:
    """Writes down when it is entered and left."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        self.notes.append(f"{self.name} {call.tier or '-'}/{call.deployment or '-'}")
        try:
            return await call_next(call)
        finally:
            self.notes.append(f"/{self.name}")


@every_form
def test_policies_of_the_client_the_tier_and_the_deployment(form: Form) -> None:
    notes: list[str] = []
    fake = FakeProvider()
    tiers = [
        Tier(
            "gold",
            [Deployment("g", fake, policies=[Noted("deployment", notes)])],
            policies=[Noted("tier", notes)],
        ),
        Tier("silver", [Deployment("s", fake)]),
    ]
    client = TieredClient(
        tiers, policies=[Noted("outer", notes), Noted("inner", notes)], retry=Retry(2, base_s=0)
    )
    fake.script("g", Fail.unavailable())
    form(client)
    assert notes == [
        "outer -/-",
        "inner -/-",
        "tier gold/-",
        "deployment gold/g",
        "/deployment",
        "deployment gold/g",
        "/deployment",
        "/tier",
        "/inner",
        "/outer",
    ]


@every_form
def test_a_policy_may_answer_itself(form: Form) -> None:
    async def canned(call: Call, call_next: Handler) -> Response:
        if call.request.text == "ping":
            return Response(text="pong", finish_reason="stop")
        return await call_next(call)

    world = World(virtual=False, policies=[canned])
    response = form(world.client, "ping")
    assert (response.text, world.fake.calls) == ("pong", 0)
    assert response.trace is not None
    assert response.trace.outcome == "ok"
    assert form(world.client, "other").tier == "gold"


@every_form
def test_a_policy_may_ask_twice(form: Form) -> None:
    async def twice(call: Call, call_next: Handler) -> Response:
        try:
            return await call_next(call.copy())
        except AllTiersFailedError:
            return await call_next(call.copy())

    world = World(virtual=False, policies=[twice], retry=False, breaker=False)
    for model in ("g1", "g2", "s", "b"):
        world.fake.script(model, Fail.unavailable())
    response = form(world.client)
    assert response.deployment == "g1"
    assert world.models() == ["g1", "g2", "s", "b", "g1"]
    assert response.trace is not None
    assert len(response.trace.attempts) == 5


@pytest.mark.parametrize("form", [f for f in FORMS if not f.streaming], ids=str)
def test_a_policy_may_compare_two_answers(form: Form) -> None:
    async def longer(call: Call, call_next: Handler) -> Response:
        first = await call_next(call.copy())
        second = await call_next(call.copy())
        return max(first, second, key=lambda r: len(r.text))

    world = World(virtual=False, policies=[longer])
    world.fake.script("g1", Reply("short"), Reply("rather longer"))
    assert form(world.client).text == "rather longer"


@every_form
def test_a_policy_may_change_the_answer(form: Form) -> None:
    async def shout(call: Call, call_next: Handler) -> Response:
        response = await call_next(call)
        response.warnings = (*response.warnings, "shouted")
        return response

    response = form(World(virtual=False, policies=[shout]).client)
    assert response.warnings == ("shouted",)
    assert response.trace is not None
    assert response.trace.warnings == ("shouted",)


def test_an_async_only_policy_works_on_an_event_loop_and_says_so_elsewhere() -> None:
    async def asking(call: Call, call_next: Handler) -> Response:
        await asyncio.sleep(0)
        return await call_next(call)

    world = World(virtual=False, policies=[asking])
    assert asyncio.run(world.client.acomplete("Hello")).tier == "gold"
    with pytest.raises(UsageError, match="acomplete"):
        world.client.complete("Hello")


# -- threads, tasks, loops, forks -----------------------------------------------------


def test_threads_and_tasks_on_one_client_at_once() -> None:
    fake = FakeProvider(latency_s=0.001)
    client = TieredClient(plain(fake, max_concurrency=4), retry=False)
    fake.script("g", Fail.unavailable(), repeat=2)
    texts: list[str] = []
    failures: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        return run

    def sync() -> None:
        for number in range(15):
            if number % 2:
                texts.append(client.complete("Hello").text)
            else:
                with client.stream("Hello") as stream:
                    texts.append("".join(c.text for c in stream))

    async def tasks() -> None:
        async def one(number: int) -> None:
            if number % 2:
                texts.append((await client.acomplete("Hello")).text)
            else:
                async with client.astream("Hello") as stream:
                    texts.append("".join([c.text async for c in stream]))

        await asyncio.gather(*map(one, range(15)))

    threads = [threading.Thread(target=guarded(sync)) for _ in range(3)]
    threads += [threading.Thread(target=guarded(lambda: asyncio.run(tasks()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(texts) == 90
    assert len(set(texts)) <= 2
    assert held(client) == {"gold": (0, 0)}
    assert client.status()["in_flight"] == 0


def test_one_event_loop_after_the_other() -> None:
    client = TieredClient(plain(FakeProvider(), max_concurrency=1))
    for _ in range(3):
        assert asyncio.run(client.acomplete("Hello")).tier == "gold"
    assert client.complete("Hello").tier == "gold"


async def test_an_event_loop_is_never_blocked() -> None:
    client = TieredClient(plain(FakeProvider(latency_s=0.01)))
    with pytest.raises(UsageError, match="acomplete"):
        client.complete("Hello")
    assert TieredClient(plain(FakeProvider())).complete("Hello").text  # nothing to wait for


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_begins_anew() -> None:
    fake = FakeProvider(latency_s=0.002)
    client = TieredClient(plain(fake, max_concurrency=2, max_waiting=50))
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            client.complete("Hello")

    threads = [threading.Thread(target=busy, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    children = []
    try:
        for _ in range(4):
            time.sleep(0.005)
            child = os.fork()
            if child == 0:  # pragma: no cover - another process
                code = 1
                try:
                    pool = client.status()["tiers"]["gold"]["pool"]
                    ids = {client.complete("Hello").trace.id for _ in range(3)}  # type: ignore[union-attr]
                    ids.add(asyncio.run(client.acomplete("Hello")).trace.id)  # type: ignore[union-attr]
                    clean = (pool["in_use"], pool["waiting"], client.status()["in_flight"]) == (0, 0, 0)
                    code = 0 if clean and len(ids) == 4 and held(client) == {"gold": (0, 0)} else 2
                finally:
                    os._exit(code)
            children.append(child)
    finally:
        stop.set()
    ends = []
    for child in children:
        until = time.monotonic() + 20
        pid = 0
        while not pid and time.monotonic() < until:
            pid, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.002)
        if not pid:
            os.kill(child, 9)
            os.waitpid(child, 0)
            status = -1
        ends.append(os.waitstatus_to_exitcode(status) if status >= 0 else -1)
    for thread in threads:
        thread.join(5)
    assert ends == [0] * 4
    assert held(client) == {"gold": (0, 0)}


def test_trace_ids_differ_between_parent_and_child() -> None:
    client = TieredClient(plain(FakeProvider()))
    before = client.complete("Hello").trace
    client.renew()
    after = client.complete("Hello").trace
    assert before is not None
    assert after is not None
    assert before.id.split("-")[0] != after.id.split("-")[0]


# -- its end ---------------------------------------------------------------------------


def ended(work: Callable[[], object], ends: list[BaseException | None]) -> threading.Thread:
    def run() -> None:
        try:
            work()
            ends.append(None)
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_closing_ends_what_is_in_flight_queued_and_streaming() -> None:
    fake = FakeProvider()
    client = TieredClient(plain(fake, max_concurrency=2))
    fake.script("g", Fail.hang(), Reply("a b c", first_token_s=0.0, between_s=60))
    ends: list[BaseException | None] = []

    def streamed() -> None:
        with client.stream("Hello") as stream:
            for _ in stream:
                pass

    threads = [ended(lambda: client.complete("Hello"), ends)]
    while fake.in_flight < 1:
        time.sleep(0.001)
    threads.append(ended(streamed, ends))
    while fake.in_flight < 2:
        time.sleep(0.001)
    threads.append(ended(lambda: client.complete("Hello"), ends))
    threads.append(ended(streamed, ends))
    while held(client) != {"gold": (2, 2)}:
        time.sleep(0.001)
    began = time.monotonic()
    client.close()
    for thread in threads:
        thread.join(5)
    assert time.monotonic() - began < 2
    assert [type(e) for e in ends] == [ClientClosedError] * 4
    for error in ends:
        assert isinstance(error, ClientClosedError)
        assert error.trace is not None
        assert error.trace.outcome == "cancelled"
    assert held(client) == {"gold": (0, 0)}
    assert fake.in_flight == 0
    assert client.status()["closed"]


async def test_aclosing_ends_what_is_in_flight_queued_and_streaming() -> None:
    fake = FakeProvider()
    client = TieredClient(plain(fake, max_concurrency=2))
    fake.script("g", Fail.hang(), Reply("a b c", first_token_s=0.0, between_s=60))

    async def streamed() -> None:
        async with client.astream("Hello") as stream:
            async for _ in stream:
                pass

    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(client.acomplete("Hello"))]
    tasks += [asyncio.create_task(streamed())]
    while fake.in_flight < 2:
        await asyncio.sleep(0)
    tasks += [asyncio.create_task(client.acomplete("Hello")), asyncio.create_task(streamed())]
    while held(client) != {"gold": (2, 2)}:
        await asyncio.sleep(0)
    async with asyncio.timeout(2):
        await client.aclose()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(e) for e in ends] == [ClientClosedError] * 4
    assert held(client) == {"gold": (0, 0)}
    assert fake.in_flight == 0


@every_form
def test_a_closed_client_refuses(form: Form) -> None:
    world = World(virtual=False)
    with world.client as client:
        assert form(client).text
    with pytest.raises(ClientClosedError):
        form(world.client)
    world.client.close()
    asyncio.run(world.client.aclose())
    assert world.fake.calls == 1


def test_a_stream_of_a_client_closed_meanwhile() -> None:
    fake = FakeProvider()
    client = TieredClient(plain(fake, max_concurrency=1))
    with client.stream("Hello") as stream:
        pieces = iter(stream)
        assert next(pieces).text
        client.close()
        with pytest.raises(ClientClosedError):
            next(pieces)
    assert held(client) == {"gold": (0, 0)}


async def test_async_with_closes_too() -> None:
    async with TieredClient(plain(FakeProvider())) as client:
        assert (await client.acomplete("Hello")).text
    with pytest.raises(ClientClosedError):
        await client.acomplete("Hello")


def test_a_client_is_not_pickled() -> None:
    client = TieredClient(plain(FakeProvider()))
    for attempt in (lambda: pickle.dumps(client), lambda: copy.copy(client), lambda: copy.deepcopy(client)):
        with pytest.raises(UsageError, match="do not pickle"):
            attempt()


def test_its_repr_is_its_ladder() -> None:
    assert repr(TieredClient(three_tiers(FakeProvider()))) == "<TieredClient gold > silver > bronze>"


# -- what is wrong with it ----------------------------------------------------------------


@pytest.mark.parametrize(
    "tiers",
    [
        [],
        None,
        5,
        "gold",
        Tier("gold", [Deployment("g", FakeProvider())]),
        ["gold"],
        [Tier("gold", [Deployment("g", FakeProvider())])] * 2,
    ],
    ids=repr,
)
def test_tiers_that_make_no_client(tiers: Any) -> None:
    with pytest.raises(ConfigError):
        TieredClient(tiers)


def test_the_nearest_setting_counts() -> None:
    fake = FakeProvider()
    fake.down()
    tiers = [
        Tier(
            "gold",
            [
                Deployment("a", fake, retry=Retry(4, base_s=0)),
                Deployment("b", fake),
                Deployment("c", fake, retry=False),
            ],
            retry=Retry(2, base_s=0),
        ),
        Tier("silver", [Deployment("d", fake)]),
    ]
    client = TieredClient(tiers, retry=Retry(3, base_s=0), breaker=False, timeouts=QUICK)
    with pytest.raises(AllTiersFailedError):
        client.complete("Hello")
    assert [e.model for e in fake.journal] == ["a"] * 4 + ["b"] * 2 + ["c"] + ["d"] * 3


def test_breakers_are_one_for_each_place() -> None:
    fake = FakeProvider()
    shared = CircuitBreaker(consecutive_failures=1)
    client = TieredClient(three_tiers(fake), breaker=shared, retry=False)
    fake.down("g1")
    client.complete("Hello")
    places = client.status()["tiers"]["gold"]["deployments"]
    assert {n: p["breaker"]["state"] for n, p in places.items()} == {"g1": "open", "g2": "closed"}
    assert shared.state == "closed"


def test_a_response_of_a_provider_keeps_its_raw_object_only_where_it_can() -> None:
    response = Response(text="hi", raw=threading.Lock())
    assert pickle.loads(pickle.dumps(response)).raw is None
    assert pickle.loads(pickle.dumps(Response(text="hi", raw={"a": 1}))).raw == {"a": 1}
    assert Request(messages=()).text == ""
    assert Timeouts().total_s == 300
    assert ProviderUnavailableError().retryable


class Document(dict[str, Any]):
    """A message that can be watched as it is let go of."""


@every_form
def test_what_was_overcome_does_not_keep_the_prompt_alive(form: Form) -> None:
    world = World(virtual=False, fake=FakeProvider(journal_size=1))
    document = Document(role="user", content="Hello")
    gone = weakref.ref(document)
    world.fake.script("g1", Fail.unavailable(), Fail.rate_limited(retry_after_s=1))
    gc.collect()
    gc.disable()
    try:
        response = form(world.client, [document])
        del document
        world.fake.reset()
        world.events.clear()
        assert response.text
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "wrong",
    [
        {"deadline_s": -1},
        {"deadline_s": math.nan},
        {"deadline_s": True},
        {"timeouts": 5},
        {"retry": 3},
        {"breaker": True},
        {"fallback": True},
        {"policies": [5]},
        {"policies": 5},
        {"policies": [FallbackChain]},
        {"stale": 5},
        {"simple_reply": 5},
        {"listeners": 5},
        {"listeners": [5]},
        {"clock": 5},
    ],
    ids=lambda wrong: f"{next(iter(wrong))}-{type(next(iter(wrong.values()))).__name__}",
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    tiers = [Tier("gold", [Deployment("m", FakeProvider())])]
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TieredClient(tiers, **wrong)


def test_a_fallback_rule_shared_by_two_clients_tells_each_its_own() -> None:
    fake, rule = FakeProvider(), FallbackChain()
    tiers = [Tier("gold", [Deployment("g", fake)]), Tier("silver", [Deployment("s", fake)])]
    heard: dict[str, list[Event]] = {"a": [], "b": []}
    a, _ = (TieredClient(tiers, fallback=rule, retry=False, listeners=[heard[name].append]) for name in "ab")
    fake.down("g")
    a.complete("x")
    assert any(isinstance(event, SteppedDown) for event in heard["a"])
    assert heard["b"] == []


def test_a_streams_time_begins_with_its_block() -> None:
    clock = FakeClock()
    client = TieredClient([Tier("gold", [Deployment("m", FakeProvider(latency_s=1.0))])], clock=clock)
    stream = client.stream("x", deadline_s=2)
    clock.advance(100)
    with stream as s:
        for _ in s:
            pass
    assert s.response.trace is not None
    assert s.response.trace.duration_s == pytest.approx(1.0)

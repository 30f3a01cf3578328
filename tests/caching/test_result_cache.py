"""The cache of a client: its options, whose answers are whose, what is kept, and what it counts."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from caching.kept import CachedWorld, FarLayer, client_on, one_tier
from client.forms import Form, every_form
from stores.ground import Server, eventually
from tierllm import Budget, Deployment, Price, Retry, Tier, TieredClient
from tierllm.caching import DiskLayer, MemoryLayer, RedisLayer, ResultCache
from tierllm.caching.layer import Layer
from tierllm.errors import CacheMissError, ConfigError, UnknownOptionError
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.types import Call, Request, Response, ToolCall

PRICE = Price(input_usd_per_mtok=3, output_usd_per_mtok=7)


def how(client: TieredClient, prompt: Any = "Hello", **options: Any) -> str | None:
    trace = client.complete(prompt, **options).trace
    assert trace is not None
    return trace.cache


# -- options ---------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "layer-alone": ({"layers": MemoryLayer()}, r"give a list of layers, such as \[MemoryLayer\(\)\]"),
    "no-layer": ({"layers": ["memory"]}, "give a list of layers"),
    "none-at-all": ({"layers": []}, "at least one layer; the client's cache=None is none"),
    "alike": ({"layers": [MemoryLayer(), MemoryLayer()]}, r"two are called alike \(memory, memory\)"),
    "ttl-negative": ({"ttl_s": -1}, "give seconds, from 0 to a year, or some by tier"),
    "ttl-true": ({"ttl_s": True}, "give seconds"),
    "ttl-text": ({"ttl_s": "60"}, "give seconds"),
    "ttl-inf": ({"ttl_s": float("inf")}, "give seconds"),
    "ttl-nan": ({"ttl_s": float("nan")}, "give seconds"),
    "ttl-long": ({"ttl_s": 400 * 86400}, "a year"),
    "ttl-by-tier": ({"ttl_s": {"gold": "x"}}, "give seconds"),
    "ttl-by-number": ({"ttl_s": {1: 60}}, "give seconds"),
    "jitter-1": ({"jitter": 1}, "a part from 0 to below 1"),
    "jitter-negative": ({"jitter": -0.1}, "a part from 0"),
    "swr": ({"stale_while_revalidate_s": -1}, r"stale_while_revalidate_s=-1\): give seconds, from 0"),
    "sie": ({"stale_if_error_s": None}, r"stale_if_error_s=None\): give seconds, from 0"),
    "scope": ({"scope": "team"}, "one of tenant, user, session, shared, or a function of the request"),
    "default": ({"default": "on"}, "one of auto, always, off"),
    "default-only": ({"default": "only"}, "one of auto, always, off"),
    "write": ({"write": "around"}, "one of through, behind"),
    "mode": ({"mode": "off"}, "one of enforce, observe"),
    "serve-higher": ({"serve_higher": "no"}, r"serve_higher='no'\): give True or False"),
    "one-flight": ({"one_flight": None}, r"one_flight=None\): give True or False"),
    "hasher": ({"hasher": "md5"}, r"hasher='md5'\): give a function"),
    "hasher-text": ({"hasher": lambda data: "x"}, "a function from bytes to bytes"),
    "hasher-nothing": ({"hasher": lambda data: b""}, "a function from bytes to bytes"),
    "wall-clock": ({"wall_clock": 5}, r"wall_clock=5\): give a function"),
}


@pytest.mark.parametrize("what", BAD)
def test_options_that_make_no_sense(what: str) -> None:
    options, told = BAD[what]
    with pytest.raises(ConfigError, match=told):
        ResultCache(**options)


BAD_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "cache": ({"cache": "on"}, "cache"),
    "cache-true": ({"cache": True}, "cache"),
    "ttl": ({"cache_ttl_s": -1}, "cache_ttl_s"),
    "ttl-true": ({"cache_ttl_s": True}, "cache_ttl_s"),
    "ttl-nan": ({"cache_ttl_s": float("nan")}, "cache_ttl_s"),
    "depends-list": ({"depends_on": ["doc"]}, "depends_on"),
    "depends-none": ({"depends_on": {"doc": None}}, "doc.*give its text, bytes, version number, or SHA-256"),
    "depends-float": ({"depends_on": {"doc": 1.5}}, "a float is no content"),
    "depends-true": ({"depends_on": {"doc": True}}, "a bool is no content"),
    "depends-no-name": ({"depends_on": {"": "x"}}, "give the document a name"),
}


@pytest.mark.parametrize("what", BAD_CALLS)
def test_call_options_that_make_no_sense(what: str) -> None:
    options, told = BAD_CALLS[what]
    fake = FakeProvider()
    with client_on([MemoryLayer()], fake) as client, pytest.raises(ConfigError, match=told):
        client.complete("Hello", **options)
    assert fake.calls == 0


BAD_INVALIDATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "name a document, a tag, a prefix, a tenant, or everything=True"),
    "two": ({"document": "d", "tag": "t"}, "one of document, tag, prefix and everything at a time"),
    "all-and": ({"everything": True, "tag": "t"}, "at a time"),
    "all-and-tenant": ({"everything": True, "tenant": "t"}, "at a time"),
    "empty": ({"document": ""}, r"document=''\): give a name"),
    "number": ({"tag": 5}, r"tag=5\): give a name"),
    "tenant-empty": ({"tenant": ""}, r"tenant=''\): give a name"),
}


@pytest.mark.parametrize("what", BAD_INVALIDATIONS)
def test_invalidations_that_make_no_sense(what: str) -> None:
    options, told = BAD_INVALIDATIONS[what]
    cache = ResultCache()
    with pytest.raises(ConfigError, match=told):
        cache.invalidate(**options)
    assert cache.boards.notices.number == 0


@pytest.mark.parametrize(
    ("documents", "tenant", "told"),
    [
        ({}, None, "give contents by document"),
        ("doc", None, "give contents by document"),
        ({"d": None}, None, "no content"),
        ({"": "x"}, None, "give the document a name"),
        ({5: "x"}, None, "give the document a name"),
        ({"d": "x"}, "", "give a name, or leave it out"),
        ({"d": "x"}, 5, "give a name, or leave it out"),
    ],
)
def test_changes_that_make_no_sense(documents: Any, tenant: Any, told: str) -> None:
    cache = ResultCache()
    with pytest.raises(ConfigError, match=told):
        cache.changed(documents, tenant=tenant)
    assert cache.boards.notices.number == 0


def test_what_is_no_cache_is_none() -> None:
    with pytest.raises(ConfigError, match=r"cache=MemoryLayer\): give a ResultCache, or None"):
        TieredClient(one_tier(FakeProvider()), cache=MemoryLayer())  # type: ignore[arg-type]
    with TieredClient(one_tier(FakeProvider())) as client, pytest.raises(ConfigError, match="has no cache"):
        _ = client.cache


def test_a_mistyped_option_is_told() -> None:
    with client_on([MemoryLayer()]) as client, pytest.raises(UnknownOptionError, match="cache_ttl_s"):
        client.complete("Hello", cache_ttl=5)  # type: ignore[call-arg]


# -- whose answers are whose -----------------------------------------------------------

CALLERS: list[dict[str, str]] = [
    {},
    {"tenant": "a"},
    {"tenant": "b"},
    {"tenant": "nobody"},
    {"user": "u"},
    {"user": "v"},
    {"tenant": "a", "user": "u"},
    {"tenant": "b", "user": "u"},
    {"tenant": "a", "user": "v"},
    {"session": "u"},
    {"tenant": "a", "session": "u"},
    {"tenant": "b", "session": "u"},
    {"tenant": "a:u"},
    {"tenant": "a", "user": ":u"},
    {"tenant": "a:", "user": "u"},
    {"tenant": "user:u"},
    {"tenant": "tenant:a"},
    {"user": "tenant:a"},
]
SHARING: dict[str, Callable[[dict[str, str]], Any]] = {
    "tenant": lambda who: who.get("tenant"),
    "user": lambda who: (who.get("tenant"), who.get("user")),
    "session": lambda who: (who.get("tenant"), who.get("session")),
    "shared": lambda who: None,
}


@pytest.mark.parametrize("scope", SHARING)
def test_answers_are_shared_by_those_of_one_scope_and_nobody_else(scope: str) -> None:
    with client_on([MemoryLayer()], scope=scope) as client:
        seen = set()
        for who in CALLERS:
            whose = SHARING[scope](who)
            assert how(client, **who) == ("hit" if whose in seen else "miss"), who
            seen.add(whose)


def test_a_scope_of_ones_own() -> None:
    def team(request: Request) -> str:
        return (request.user or "").partition("@")[2]

    with client_on([MemoryLayer()], scope=team) as client:
        assert how(client, user="ann@red") == "miss"
        assert how(client, user="bob@red", tenant="x") == "hit"
        assert how(client, user="bob@blue") == "miss"
        assert how(client) == "miss"


@pytest.mark.parametrize("given", [None, 5, b"red", ["red"]], ids=str)
def test_a_scope_function_has_to_give_a_name(given: Any) -> None:
    fake = FakeProvider()
    with (
        client_on([MemoryLayer()], fake, scope=lambda request: given) as client,
        pytest.raises(ConfigError, match=f"the function gave {type(given).__name__}, not a str"),
    ):
        client.complete("Hello")
    assert fake.calls == 0


def test_a_scope_function_that_raises_is_heard_and_nothing_is_served() -> None:
    def scope(request: Request) -> str:
        raise LookupError("no such team")

    fake = FakeProvider()
    with client_on([MemoryLayer()], fake, scope=scope) as client:
        with pytest.raises(LookupError, match="no such team"):
            client.complete("Hello")
        assert how(client, cache="off") == "off"
        assert client.status()["in_flight"] == 0
    assert fake.calls == 1


# -- what is kept ----------------------------------------------------------------------

KEPT: dict[str, tuple[Any, bool]] = {
    "stop": (Reply("yes"), True),
    "text": ("in the model's own words", True),
    "length": (Reply("cut of", finish_reason="length"), False),
    "filter": (Reply("I had", finish_reason="content_filter"), False),
    "other": (Reply("well", finish_reason="recitation"), False),
    "empty": (Reply(""), False),
    "tools": (Reply(tool_calls=[ToolCall(name="look", arguments='{"at": 1}')]), True),
    "tools-and-text": (Reply("I look.", tool_calls=[ToolCall(name="look", arguments="{}")]), True),
    "tools-none": (Reply("I look.", finish_reason="tool_calls"), False),
    "reasoning": (Reply("yes", reasoning="because"), True),
}


@pytest.mark.parametrize("what", KEPT)
@every_form
def test_only_whole_answers_are_kept(form: Form, what: str) -> None:
    item, kept = KEPT[what]
    fake = FakeProvider()
    fake.script("g", item, forever=True)
    with client_on([MemoryLayer()], fake) as client:
        first, second = form(client), form(client)
        assert second.cached is kept
        for field in (
            "text",
            "reasoning",
            "tool_calls",
            "finish_reason",
            "usage",
            "tier",
            "deployment",
            "model",
        ):
            assert getattr(second, field) == getattr(first, field), field
        assert fake.calls == (1 if kept else 2)
        stats = client.cache.stats()
        assert (stats.kept, stats.not_kept) == ((1, 0) if kept else (0, 2))


def test_an_answer_without_a_reason_to_end_is_not_kept() -> None:
    async def silent(call: Call, call_next: Any) -> Response:
        response: Response = await call_next(call)
        response.finish_reason = None
        return response

    fake = FakeProvider()
    with TieredClient(one_tier(fake, policies=[silent]), cache=ResultCache()) as client:
        assert [how(client) for _ in range(2)] == ["miss", "miss"]


@pytest.mark.parametrize(
    ("change", "second"),
    [({"degraded": ("simple",)}, "miss"), ({"warnings": ("the budget is nearly spent",)}, "hit")],
    ids=["degraded", "warned"],
)
def test_what_was_made_less_of_is_not_kept(change: dict[str, Any], second: str) -> None:
    async def lessened(call: Call, call_next: Any) -> Response:
        response: Response = await call_next(call)
        for name, value in change.items():
            setattr(response, name, value)
        return response

    with TieredClient(one_tier(FakeProvider(), policies=[lessened]), cache=ResultCache()) as client:
        assert [how(client) for _ in range(2)] == ["miss", second]


def test_an_answer_whose_max_tokens_a_budget_has_lowered_is_not_kept() -> None:
    tiers = [Tier("gold", [Deployment("g", FakeProvider(), price=PRICE)])]
    tight = Budget(hard_usd="0.005", name="tight", on_exceed="clamp")
    with TieredClient(tiers, cache=ResultCache(), budgets=[tight]) as client:
        lowered = client.complete("Hello", max_tokens=1000)
        assert "max_tokens was lowered" in lowered.warnings[0]
        assert how(client, max_tokens=1000) == "miss"
        assert [how(client, max_tokens=100) for _ in range(2)] == ["miss", "hit"]


def test_failures_are_not_kept() -> None:
    fake = FakeProvider()
    fake.script("g", Fail.unavailable(), Fail.filtered(), Fail.cut_after(2), "at last", repeat=1)
    tiers = one_tier(fake)
    with TieredClient(tiers, cache=ResultCache(), retry=False, breaker=False) as client:
        for _ in range(3):
            with pytest.raises(Exception, match=r"."):
                client.complete("Hello")
        assert [how(client) for _ in range(2)] == ["miss", "hit"]


def test_what_a_simple_reply_says_is_not_kept() -> None:
    fake = FakeProvider()
    fake.down()
    with TieredClient(
        one_tier(fake), cache=ResultCache(), retry=False, breaker=False, simple_reply="Later."
    ) as client:
        assert client.complete("Hello").degraded == ("simple_reply",)
        fake.up()
        assert how(client) == "miss"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_kept_answer_is_streamed_as_chunks(asynchronous: bool) -> None:
    fake = FakeProvider()
    tool = ToolCall(id="c1", name="look", arguments='{"at": [1, 2]}')
    fake.script("g", Reply("I will look there.", tool_calls=[tool], reasoning="hm"))
    with client_on([MemoryLayer()], fake) as client:
        made = client.complete("Hello")

        async def awaited() -> tuple[list[Any], Response]:
            async with client.astream("Hello") as stream:
                return [chunk async for chunk in stream], stream.response

        if asynchronous:
            chunks, response = asyncio.run(awaited())
        else:
            with client.stream("Hello") as stream:
                chunks, response = list(stream), stream.response
    assert "".join(chunk.text for chunk in chunks) == "I will look there."
    assert "".join(chunk.reasoning for chunk in chunks) == "hm"
    assert [chunk.tool_call.arguments for chunk in chunks if chunk.tool_call] == ['{"at": [1, 2]}']
    assert chunks[-1].finish_reason == "tool_calls"
    assert response.cached
    assert response.tool_calls == made.tool_calls
    assert fake.calls == 1


def test_what_was_asked_for_in_a_form_is_read_anew_for_everybody() -> None:
    fake = FakeProvider(answer=lambda call: Reply('{"list": [1, 2]}'))
    wanted = {"type": "json_schema", "json_schema": {"name": "l", "schema": {"type": "object"}}}
    with client_on([MemoryLayer()], fake) as client:
        answers = [client.complete("Hello", response_format=wanted) for _ in range(3)]
        assert [answer.cached for answer in answers] == [False, True, True]
        assert all(answer.parsed == {"list": [1, 2]} for answer in answers)
        answers[1].parsed["list"].append(3)
        assert answers[2].parsed == {"list": [1, 2]}
        assert client.complete("Hello", response_format=wanted).parsed == {"list": [1, 2]}


def test_nobody_can_change_what_is_kept() -> None:
    with client_on([MemoryLayer()]) as client:
        first = client.complete("Hello")
        text = first.text
        first.text = "changed"
        second = client.complete("Hello")
        assert second.text == text
        second.text, second.tier = "changed", "bronze"
        assert client.complete("Hello").text == text
        assert client.complete("Hello").trace is not second.trace


# -- modes -----------------------------------------------------------------------------


@every_form
def test_only_gets_what_is_there_and_calls_nobody(form: Form) -> None:
    fake = FakeProvider()
    with client_on([MemoryLayer()], fake) as client:
        with pytest.raises(CacheMissError, match="has no answer") as told:
            form(client, cache="only")
        assert told.value.trace is not None
        assert told.value.trace.cache != "hit"
        assert fake.calls == 0
        with pytest.raises(CacheMissError, match="does not apply"):
            form(client, cache="only", temperature=0.7)
        assert fake.calls == 0
        made = form(client)
        assert form(client, cache="only").text == made.text
        assert fake.calls == 1


@every_form
def test_refresh_makes_a_new_one_and_keeps_that(form: Form) -> None:
    number = iter(range(10))
    fake = FakeProvider(answer=lambda call: Reply(f"number {next(number)}"))
    with client_on([MemoryLayer()], fake) as client:
        texts = [
            form(client, **options).text
            for options in ({}, {}, {"cache": "refresh"}, {}, {"cache": "off"}, {})
        ]
    assert texts == [f"number {n}" for n in (0, 0, 1, 1, 2, 1)]


def test_default_off_is_for_those_who_ask() -> None:
    with client_on([MemoryLayer()], default="off") as client:
        assert [how(client) for _ in range(2)] == ["off", "off"]
        assert [how(client, cache="auto") for _ in range(2)] == ["miss", "hit"]
        assert how(client) == "off"


def test_default_always_keeps_warm_answers_too() -> None:
    with client_on([MemoryLayer()], default="always") as client:
        assert [how(client, temperature=1.0) for _ in range(2)] == ["miss", "hit"]
        assert how(client, temperature=1.0, cache="auto") == "bypassed"


@every_form
def test_observing_serves_nothing_and_counts(form: Form) -> None:
    fake = FakeProvider()
    with client_on([MemoryLayer()], fake, mode="observe") as client:
        answers = [form(client) for _ in range(3)]
        assert not any(answer.cached for answer in answers)
        stats = client.cache.stats()
        assert (stats.misses, stats.would_hit, stats.kept) == (1, 2, 3)
        assert sum(stats.hits.values()) == stats.joined == 0
        assert stats.saved_usd == 0
    assert fake.calls == 3


def test_observing_lends_no_old_answer_when_all_is_out() -> None:
    world = CachedWorld(cache={"mode": "observe", "ttl_s": 10})
    world.call()
    world.pass_s(20)
    world.fake.down()
    assert world.call().error is not None


# -- layers below, writing behind ------------------------------------------------------


def test_writing_behind_keeps_nobody_waiting_and_loses_nothing() -> None:
    class Slow(FarLayer):
        go = threading.Event()

        def set(self, slot: bytes, data: bytes, *, ttl_s: float, group: str = "") -> bool:
            assert self.go.wait(20)
            return super().set(slot, data, ttl_s=ttl_s, group=group)

    far = Slow()
    with client_on([MemoryLayer(), far], write="behind") as client:
        assert how(client) == "miss"
        assert how(client) == "hit"
        assert not far.entries
        far.go.set()
        client.complete("other")
        for _ in range(1000):
            if len(far.entries) == 2:
                break
            threading.Event().wait(0.01)
        assert len(far.entries) == 2


def test_a_layer_out_of_reach_costs_a_miss() -> None:
    far = FarLayer()
    fake = FakeProvider()
    with client_on([far], fake) as client:
        assert [how(client) for _ in range(2)] == ["miss", "hit"]
        far.away = True
        assert [how(client) for _ in range(2)] == ["miss", "miss"]
        far.away = False
        assert how(client) == "hit"
        far.away = True
        assert client.cache.stats().layers == {"far": None}


# -- sharing, closing, forking ---------------------------------------------------------


def test_two_clients_share_a_cache_and_the_last_one_closes_it(tmp_path: Path) -> None:
    cache = ResultCache([MemoryLayer(), DiskLayer(tmp_path / "cache", timeout_s=20)])
    one, two = (TieredClient(one_tier(FakeProvider()), cache=cache) for _ in range(2))
    assert how(one) == "miss"
    assert how(two) == "hit"
    one.close()
    one.close()
    assert how(two) == "hit"
    assert how(two, "other") == "miss"
    assert how(two, "other") == "hit"
    cache.close()
    assert how(two) == "hit", "it is still in use"
    asyncio.run(two.aclose())
    with TieredClient(one_tier(FakeProvider()), cache=ResultCache([DiskLayer(tmp_path / "cache")])) as three:
        assert how(three) == "hit"


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_after_its_end_a_cache_is_a_miss(kind: str, tmp_path: Path) -> None:
    layer: Layer = MemoryLayer() if kind == "memory" else DiskLayer(tmp_path / "cache")
    cache = ResultCache([layer])
    with TieredClient(one_tier(FakeProvider()), cache=cache) as client:
        how(client)
    cache.close()
    assert cache.stats() is not None
    with TieredClient(one_tier(FakeProvider()), cache=cache) as client:
        assert how(client) in ("miss", "hit")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_parent_and_child_go_on(tmp_path: Path) -> None:
    fake = FakeProvider()
    layers = [MemoryLayer(), DiskLayer(tmp_path / "cache", timeout_s=20)]
    with client_on(layers, fake) as client:
        assert how(client, "before") == "miss"
        with client.cache.stack._done:  # as if another thread were writing behind just then
            child = os.fork()
            if not child:
                ok = False
                try:
                    ok = (
                        how(client, "before") == "hit"
                        and how(client, "in the child") == "miss"
                        and client.cache.stats().misses == 1
                    )
                    client.cache.invalidate(tag="t")
                finally:
                    os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert how(client, "before") == "hit"
        assert how(client, "in the child") == "hit"
        assert how(client, "after", tags=["t"]) == "miss"
        assert how(client, "after") == "hit"


# -- colliding hashes ------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        running = Server(Path(directory))
        yield running
        running.stop()


@pytest.mark.parametrize("kind", ["memory", "disk", "redis", "all"])
def test_one_hash_for_all_gives_no_wrong_answer(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    layers: list[Layer] = []
    if kind in ("memory", "all"):
        layers.append(MemoryLayer())
    if kind in ("redis", "all"):
        layers.append(RedisLayer(request.getfixturevalue("server").url, timeout_s=20, namespace=kind))
    if kind in ("disk", "all"):
        layers.append(DiskLayer(tmp_path / "cache", timeout_s=20))
    fake = FakeProvider(
        answer=lambda call: Reply(f"{call.request.tenant} {call.request.text} {call.params!r}")
    )
    with client_on(layers, fake, hasher=lambda data: b"x" * 32) as client:
        for n in range(200):
            options: dict[str, Any] = {"tenant": f"t{n % 3}", "seed": n % 5}
            prompt = f"question {n % 20}"
            for _ in range(1 + n % 2):
                said = client.complete(prompt, **options)
                assert said.text.startswith(f"{options['tenant']} {prompt} ")
                assert f"'seed': {options['seed']}" in said.text
        assert sum(client.cache.stats().hits.values()) > 50


def test_one_hash_for_all_joins_no_strangers() -> None:
    begun, go = threading.Semaphore(0), threading.Event()

    def answer(call: Call) -> Reply:
        begun.release()
        assert go.wait(20)
        return Reply(f"to {call.request.text}")

    fake = FakeProvider(answer=answer)
    with client_on([MemoryLayer()], fake, hasher=lambda data: b"x" * 32) as client:
        said: dict[str, str] = {}
        threads = [
            threading.Thread(target=lambda p=prompt: said.update({p: client.complete(p).text}))
            for prompt in ("one", "two", "three")
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert begun.acquire(timeout=20), "somebody waits for the answer to another question"
        go.set()
        for thread in threads:
            thread.join()
    assert said == {p: f"to {p}" for p in ("one", "two", "three")}


# -- counting --------------------------------------------------------------------------


def test_the_counts_add_up_and_the_dollars_are_exact() -> None:
    lock, asked, saved = threading.Lock(), Counter[str](), [Decimal(0)]
    fake = FakeProvider()
    fake.script("g", Fail.unavailable(), when=lambda call: call.request.text == "q3", repeat=3)
    tiers = [
        Tier("gold", [Deployment("g", fake, price=PRICE)]),
        Tier("silver", [Deployment("s", fake, price=PRICE)]),
    ]
    with TieredClient(
        tiers, cache=ResultCache(), ledger=None, retry=Retry(1), breaker=False, budgets=[Budget(hard_usd=100)]
    ) as client:

        def work(at: int) -> None:
            for n in range(60):
                options: dict[str, Any] = [
                    {},
                    {"cache": "refresh"},
                    {"cache": "off"},
                    {"temperature": 0.7},
                    {},
                    {},
                ][n % 6]
                prompt = f"q{(n * 7 + at) % 11}"
                response = client.complete(prompt, **options)
                with lock:
                    asked["off" if n % 6 in (2, 3) else "on"] += 1
                    assert response.cost_usd is not None
                    if response.cached:
                        assert response.cost_usd == 0
                        assert response.usage is not None
                        saved[0] += PRICE.cost_usd(response.usage)

        threads = [threading.Thread(target=work, args=(at,)) for at in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = client.cache.stats()
        assert sum(stats.hits.values()) + stats.joined + stats.misses == asked["on"]
        assert stats.bypassed == asked["off"] // 2, (
            "those that a warm temperature kept out; off is no question"
        )
        assert stats.saved_usd == saved[0]
        assert stats.saved_usd > 0
        assert stats.misses >= 0
        assert client.status()["cache"]["saved_usd"] == str(stats.saved_usd)


def test_an_answer_found_on_the_way_down_is_a_hit_and_no_miss() -> None:
    world = CachedWorld()
    world.call(sla="silver")
    world.fake.down("g1")
    world.fake.down("g2")
    world.call(sla="gold")
    stats = world.cache.stats()
    assert (stats.hits, stats.misses) == ({"memory": 1}, 1)


def test_who_waited_for_another_process_together_saved_what_it_had_paid() -> None:
    begun, go = threading.Event(), threading.Event()

    def answer(call: Call) -> Reply:
        begun.set()
        assert go.wait(30)
        return Reply("made elsewhere")

    far = FarLayer()
    tiers = [Tier("gold", [Deployment("g", FakeProvider(answer=answer), price=PRICE)])]
    with (
        TieredClient(tiers, cache=ResultCache([far])) as elsewhere,
        TieredClient(tiers, cache=ResultCache([far])) as here,
    ):
        made: list[Response] = []
        got: list[Response] = []
        threads = [threading.Thread(target=lambda: made.append(elsewhere.complete("Hello")))]
        threads[0].start()
        assert begun.wait(20)
        for _ in range(3):
            threads.append(threading.Thread(target=lambda: got.append(here.complete("Hello"))))
            threads[-1].start()
        flights = here._setup.caching._flown.flights._flights  # type: ignore[union-attr]
        eventually(lambda: any(flight.readers == 3 for flight in flights.values()))
        go.set()
        for thread in threads:
            thread.join()
        (first,) = made
        assert first.cost_usd
        assert [each.text for each in got] == ["made elsewhere"] * 3
        stats = here.cache.stats()
        assert (stats.hits, stats.joined, stats.misses) == ({"far": 1}, 2, 0)
        assert stats.saved_usd == 3 * first.cost_usd


def test_the_hit_rate() -> None:
    with client_on([MemoryLayer()]) as client:
        assert client.cache.stats().hit_rate == 0.0
        for _ in range(4):
            how(client)
        stats = client.cache.stats()
        assert stats.hit_rate == 0.75
        told = stats.to_dict()
        assert told["hits"] == {"memory": 3}
        assert told["saved_usd"] == "0"
        assert told["layers"]["memory"]["entries"] == 1


def test_a_repr_tells_the_layers_and_no_words() -> None:
    cache = ResultCache([MemoryLayer(), FarLayer()])
    assert repr(cache) == "<ResultCache memory > far>"

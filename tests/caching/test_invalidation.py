"""When something is not valid any more: gone at once, everywhere, and nothing else with it."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from caching.dependents import client_at, in_one_process, in_processes, layers_at
from caching.kept import FarLayer, client_on, one_tier
from stores.ground import SPAWN, Server, eventually
from tierllm import Deployment, Tier, TieredClient
from tierllm.caching import DiskLayer, MemoryLayer, RedisLayer, ResultCache
from tierllm.caching.layer import MOST_NOTICES, Notice
from tierllm.errors import AllTiersFailedError, StoreUnavailableError
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.types import Call

QUESTIONS, DOCUMENTS = 250, 50
STACKS = {
    "memory": ["memory"],
    "disk": ["disk"],
    "redis": ["redis"],
    "memory-disk": ["memory", "disk"],
    "memory-redis": ["memory", "redis"],
    "memory-redis-disk": ["memory", "redis", "disk"],
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        running = Server(Path(directory))
        yield running
        running.stop()


@pytest.fixture
def at(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """From kinds of layers to their places."""

    def places(kinds: list[str]) -> list[str]:
        found = {"memory": "memory", "disk": str(tmp_path / "cache")}
        if "redis" in kinds:
            server: Server = request.getfixturevalue("server")
            with server.client() as client:
                client.flushall()
            found["redis"] = server.url
        return [found[kind] for kind in kinds]

    return places


def cached(client: TieredClient, prompt: str = "Hello", **options: Any) -> bool:
    return client.complete(prompt, **options).cached


@pytest.mark.parametrize("stack", STACKS)
def test_exactly_the_dependents_miss(stack: str, at: Any) -> None:
    told = in_one_process(at(STACKS[stack]), QUESTIONS, DOCUMENTS)
    assert all(0 < each < QUESTIONS / 2 for each in told.values())


@pytest.mark.parametrize("stack", ["memory-disk", "memory-redis", "memory-redis-disk"])
def test_exactly_the_dependents_miss_in_four_processes(stack: str, at: Any) -> None:
    told = in_processes(at(STACKS[stack]), QUESTIONS // 2, DOCUMENTS // 2)
    assert told["changed"] > 0


# -- tags, prefixes, tenants, everything -----------------------------------------------

ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "tagged": {"tags": ["faq"]},
    "tagged-a": {"tags": ["faq", "x"], "tenant": "a"},
    "tagged-b": {"tags": ["faq"], "tenant": "b"},
    "other-tag": {"tags": ["faqs"]},
    "on-faq": {"depends_on": {"faq": 1}},
    "on-faq-a": {"depends_on": {"faq": 1}, "tenant": "a"},
    "on-folder": {"depends_on": {"docs/a/1": 1}},
    "on-folder-a": {"depends_on": {"docs/a/1": 1, "docs/b/1": 1}, "tenant": "a"},
    "on-other-folder": {"depends_on": {"docs/b/1": 1}},
    "only-a": {"tenant": "a"},
    "only-b": {"tenant": "b"},
}
DONE: dict[str, tuple[dict[str, Any], set[str]]] = {
    "tag": ({"tag": "faq"}, {"tagged", "tagged-a", "tagged-b"}),
    "tag-of-a": ({"tag": "faq", "tenant": "a"}, {"tagged-a"}),
    "tag-of-nobody": ({"tag": "fa"}, set()),
    "document": ({"document": "faq"}, {"on-faq", "on-faq-a"}),
    "document-of-a": ({"document": "faq", "tenant": "a"}, {"on-faq-a"}),
    "prefix": ({"prefix": "docs/a/"}, {"on-folder", "on-folder-a"}),
    "prefix-of-both": ({"prefix": "docs/"}, {"on-folder", "on-folder-a", "on-other-folder"}),
    "prefix-of-a": ({"prefix": "docs/", "tenant": "a"}, {"on-folder-a"}),
    "prefix-of-tags": (
        {"prefix": "faq"},
        {"tagged", "tagged-a", "tagged-b", "other-tag", "on-faq", "on-faq-a"},
    ),
    "tenant": ({"tenant": "a"}, {"tagged-a", "on-faq-a", "on-folder-a", "only-a"}),
    "tenant-of-nobody": ({"tenant": "c"}, set()),
    "everything": ({"everything": True}, set(ASKED)),
}


@pytest.mark.parametrize("kind", ["memory", "far"])
@pytest.mark.parametrize("what", DONE)
def test_what_is_named_is_gone_and_nothing_else(what: str, kind: str) -> None:
    named, gone = DONE[what]
    with client_on([MemoryLayer() if kind == "memory" else FarLayer()]) as client:
        for prompt, options in ASKED.items():
            assert not cached(client, prompt, **options)
        client.cache.invalidate(**named)
        missed = {prompt for prompt, options in ASKED.items() if not cached(client, prompt, **options)}
        assert missed == gone
        assert all(cached(client, prompt, **options) for prompt, options in ASKED.items())


STRANGE = {
    "quotes": 'it\'s "so"',
    "newline": "a\nb\r\nc",
    "nul": "a\x00b",
    "braces": '{"a": [1]}',
    "surrogate": "a\ud800b",
    "emoji": "📄 ü",
    "long": "x" * 20_000,
    "spaces": "  ",
    "null": "null",
}


@pytest.mark.parametrize("kind", ["memory", "disk", "redis"])
def test_names_of_all_kinds(kind: str, at: Any) -> None:
    places = at([kind])
    with client_at(places) as client, client_at(places) as far:
        other = client if kind == "memory" else far
        client.complete("untouched")
        for known_as, name in STRANGE.items():
            for named, options in (
                ({"tag": name}, {"tags": [name]}),
                ({"document": name}, {"depends_on": {name: "content"}}),
                ({"prefix": name}, {"tags": [name + "and more"]}),
                ({"tenant": name}, {"tenant": name}),
            ):
                prompt = f"{known_as} {list(named)}"
                assert [cached(client, prompt, **options) for _ in range(2)] == [False, True], prompt
                other.cache.invalidate(**named)
                number = other.cache.boards.notices.number
                if kind == "redis":
                    eventually(lambda: client.cache.layers[0].heard() >= number)  # noqa: B023
                assert not cached(client, prompt, **options), prompt
                assert cached(client, "untouched"), prompt


@pytest.mark.parametrize("kind", ["memory", "disk", "redis"])
def test_more_names_than_a_board_holds(kind: str, at: Any) -> None:
    with client_at(at([kind])) as client:
        assert not cached(client, depends_on={"d0": 1})
        assert not cached(client, "last", depends_on={f"d{MOST_NOTICES}": 1})
        client.cache.changed({f"d{n}": 2 for n in range(MOST_NOTICES + 1)})
        assert not cached(client, depends_on={"d0": 1})
        assert not cached(client, "last", depends_on={f"d{MOST_NOTICES}": 1})
        assert [cached(client, depends_on={"d0": 2}) for _ in range(2)] == [False, True]


def test_words_of_a_later_version_make_everything_anew() -> None:
    far = FarLayer()
    with client_on([MemoryLayer(), far]) as client:
        assert [cached(client) for _ in range(2)] == [False, True]
        far.number += 1
        far.notices["x"] = Notice('["model", "gpt", null, {"unheard": "of"}]', far.number)
        assert [cached(client) for _ in range(2)] == [False, True]


# -- contents --------------------------------------------------------------------------


def test_a_content_or_its_hash_or_a_version() -> None:
    text = "Opening hours: 9 to 5."
    with client_on([MemoryLayer()]) as client:
        assert not cached(client, depends_on={"d": text})
        assert cached(client, depends_on={"d": text.encode()})
        assert cached(client, depends_on={"d": hashlib.sha256(text.encode()).hexdigest()})
        assert not cached(client, depends_on={"d": text + " "})
        assert not cached(client, depends_on={"d": 1})
        assert not cached(client, depends_on={"d": "1"}), "a text is no version"
        assert not cached(client, depends_on={"e": text})
        assert not cached(client)
        client.cache.changed({"d": text.encode()})
        assert cached(client, depends_on={"d": text})
        assert not cached(client, depends_on={"d": 1})


def test_nothing_is_kept_that_rests_on_what_is_past() -> None:
    with client_on([MemoryLayer()]) as client:
        client.cache.changed({"d": "new"})
        for _ in range(2):
            response = client.complete("Hello", depends_on={"d": "old"})
            assert response.trace is not None
            assert (response.cached, response.trace.cache) == (False, "bypassed")
        assert [cached(client, depends_on={"d": "new"}) for _ in range(2)] == [False, True]


def test_telling_the_content_does_not_bring_back_what_was_invalidated() -> None:
    with client_on([MemoryLayer()]) as client:
        assert not cached(client, depends_on={"d": "same"})
        client.cache.invalidate(document="d")
        client.cache.changed({"d": "same"})
        assert not cached(client, depends_on={"d": "same"})


def test_one_tenants_document_is_not_anothers() -> None:
    with client_on([MemoryLayer()]) as client:
        for tenant in ("a", "b"):
            client.complete("Hello", depends_on={"d": 1}, tenant=tenant)
        client.cache.changed({"d": 2}, tenant="a")
        assert not cached(client, depends_on={"d": 1}, tenant="a")
        assert cached(client, depends_on={"d": 1}, tenant="b")


# -- answers on their way --------------------------------------------------------------


class Held:
    """A provider that waits for leave with its first answer."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.fake = FakeProvider(answer=self.answer)
        self.calls = 0

    def answer(self, call: Call) -> Reply:
        self.calls += 1
        number = self.calls
        if number == 1:
            self.begun.set()
            assert self.go.wait(30)
        return Reply(f"number {number}")


INVALIDATED: dict[str, Any] = {
    "tag": lambda cache: cache.invalidate(tag="t"),
    "document": lambda cache: cache.invalidate(document="d"),
    "changed": lambda cache: cache.changed({"d": "new"}),
    "everything": lambda cache: cache.invalidate(everything=True),
    "tenant": lambda cache: cache.invalidate(tenant="a"),
    "prefix": lambda cache: cache.invalidate(prefix="t"),
}
OPTIONS: dict[str, Any] = {"tags": ["t"], "depends_on": {"d": "old"}, "tenant": "a"}


@pytest.mark.parametrize("how", INVALIDATED)
@pytest.mark.parametrize("one_flight", [True, False])
def test_an_answer_begun_before_it_and_finished_after_it_is_not_served(how: str, one_flight: bool) -> None:
    held = Held()
    with client_on([MemoryLayer()], held.fake, one_flight=one_flight) as client:
        said: list[str] = []
        first = threading.Thread(target=lambda: said.append(client.complete("Hello", **OPTIONS).text))
        first.start()
        assert held.begun.wait(20)
        INVALIDATED[how](client.cache)
        joins = client.complete("Hello", **OPTIONS)
        assert joins.text == "number 2", "it must not join what was begun before"
        held.go.set()
        first.join()
        assert said == ["number 1"]
        after = client.complete("Hello", **OPTIONS)
        assert after.text != "number 1"
        assert after.cached is (how != "changed")


def test_what_does_not_concern_it_lets_calls_join() -> None:
    held = Held()
    with client_on([MemoryLayer()], held.fake) as client:
        said: list[str] = []
        threads = [
            threading.Thread(target=lambda: said.append(client.complete("Hello", **OPTIONS).text))
            for _ in range(2)
        ]
        threads[0].start()
        assert held.begun.wait(20)
        client.cache.invalidate(tag="another")
        client.cache.changed({"d": "old"})
        threads[1].start()
        flights = client._setup.caching._flown.flights._flights  # type: ignore[union-attr]
        eventually(lambda: any(flight.readers == 2 for flight in flights.values()))
        held.go.set()
        for thread in threads:
            thread.join()
    assert said == ["number 1"] * 2


def make_one(places: list[str], pipe: Connection) -> None:
    """In another process: begin an answer, tell of it, and finish it when told to."""

    def answer(call: Call) -> Reply:
        pipe.send("begun")
        pipe.recv()
        return Reply("from before")

    with TieredClient(one_tier(FakeProvider(answer=answer)), cache=ResultCache(layers_at(places))) as client:
        pipe.send(client.complete("Hello", tags=["t"]).text)


@pytest.mark.parametrize("kind", ["disk", "redis"])
def test_an_answer_begun_in_another_process_is_not_served_either(kind: str, at: Any) -> None:
    places = at(["memory", kind])
    pipe, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=make_one, args=(places, theirs))
    process.start()
    try:
        with client_at(places) as client:
            assert pipe.poll(60)
            assert pipe.recv() == "begun"
            client.cache.invalidate(tag="t")
            pipe.send("go")
            assert pipe.poll(60)
            assert pipe.recv() == "from before"
            process.join(30)
            response = client.complete("Hello", tags=["t"])
            assert not response.cached
            assert response.text != "from before"
            assert cached(client)
    finally:
        process.kill()


# -- boards out of reach ---------------------------------------------------------------


def test_out_of_reach_it_holds_here_and_is_told_when_it_is_back() -> None:
    far = FarLayer()
    with client_on([MemoryLayer(), far]) as here, client_on([MemoryLayer(), far]) as there:
        for client in (here, there):
            client.complete("Hello", tags=["t"])
            client.complete("other")
        far.away = True
        with pytest.raises(StoreUnavailableError, match="holds here"):
            here.cache.invalidate(tag="t")
        assert cached(here, "other")
        assert not cached(here, tags=["t"])
        assert cached(there, tags=["t"]), "nobody could tell it"
        far.away = False
        assert not cached(here, "something new")  # comes to the layer, and tells what it owes
        assert not cached(there, tags=["t"])
        assert cached(there, "other")


def test_a_board_that_cannot_be_read_is_no_reason_to_serve_what_may_be_invalid() -> None:
    far = FarLayer()
    with client_on([MemoryLayer(), far]) as here, client_on([MemoryLayer(), far]) as there:
        for client in (here, there):
            client.complete("Hello", tags=["t"])
        here.cache.invalidate(tag="t")
        far.away = True
        assert not cached(there, tags=["t"]), "it has heard that there is something"
        assert not cached(there, "other"), "and cannot tell what"
        far.away = False
        assert not cached(there, "Hello", tags=["t"])


def test_redis_that_is_frozen_and_comes_back(server: Server) -> None:
    with server.client() as plain:
        plain.flushall()

    def layer() -> RedisLayer:
        return RedisLayer(server.url, timeout_s=0.5, retry_s=0.05)

    with client_on([MemoryLayer(), layer()]) as here, client_on([MemoryLayer(), layer()]) as there:
        for client in (here, there):
            client.complete("Hello", tags=["t"])
        server.freeze()
        try:
            with pytest.raises(StoreUnavailableError):
                here.cache.invalidate(tag="t")
            assert not cached(here, tags=["t"])
        finally:
            server.thaw()
        eventually(lambda: not here.complete("new", cache="refresh").cached and not here.cache.boards.owes)
        eventually(lambda: there.cache.layers[1].heard() > 0)
        assert not cached(there, tags=["t"])


@pytest.mark.parametrize("invalidated", [True, False])
@pytest.mark.parametrize("rung", ["old", "lower"])
def test_what_another_process_invalidates_while_the_tiers_are_tried(rung: str, invalidated: bool) -> None:
    far, now = FarLayer(), [1000.0]
    other = ResultCache([far])

    def answer(call: Call) -> Reply | Fail:
        if now[0] == 1000.0 or call.model == "s":
            return Reply("made")
        if invalidated:
            other.invalidate(tag="t")
        return Fail.unavailable()

    def clock() -> float:
        return now[0]

    fake = FakeProvider(answer=answer)
    tiers = [Tier("gold", [Deployment("g", fake)])]
    if rung == "lower":
        tiers.append(Tier("silver", [Deployment("s", fake)]))
    cache = ResultCache([MemoryLayer(clock=clock), far], ttl_s=10 if rung == "old" else 100, wall_clock=clock)
    with TieredClient(tiers, cache=cache, retry=False, clock=clock) as client:
        client.complete("Hello", tags=["t"], sla=tiers[-1].name)
        now[0] += 20
        if rung == "lower":
            assert client.complete("Hello", sla="gold").cached is not invalidated
        elif invalidated:
            with pytest.raises(AllTiersFailedError):
                client.complete("Hello")
        else:
            assert client.complete("Hello").degraded == ("stale",)


def test_a_disk_that_says_no_holds_here(tmp_path: Path) -> None:
    layer = DiskLayer(tmp_path / "cache", timeout_s=5)
    with client_on([MemoryLayer(), layer]) as client:
        client.complete("Hello", tags=["t"])
        layer.close()
        try:
            client.cache.invalidate(tag="t")
        except StoreUnavailableError:
            pass
        assert not cached(client, tags=["t"])

"""What is Redis's own: round trips, servers that freeze or restart, event loops, passwords."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio

from stores.ground import Server, eventually, line, standing, used
from tierllm.errors import ConfigError, StoreUnavailableError
from tierllm.events import Event, StoreTrouble
from tierllm.stores import RedisStore, Settlement


class Manual:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Manual:
    return Manual()


@pytest.fixture
def told() -> list[StoreTrouble]:
    return []


def listening(store: RedisStore, told: list[StoreTrouble]) -> RedisStore:
    def note(event: Event) -> None:
        assert isinstance(event, StoreTrouble)
        told.append(event)

    store.emit = note
    return store


@pytest.fixture
def store(server: Server, clock: Manual, told: list[StoreTrouble]) -> Iterator[RedisStore]:
    store = listening(RedisStore(server.url, timeout_s=0.2, clock=clock), told)
    yield store
    store.close()


@pytest.fixture
def own_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        running = Server(Path(directory))
        yield running
        running.stop()


# -- round trips -----------------------------------------------------------------


def scripts_run(server: Server) -> dict[str, int]:
    with server.client() as client:
        stats = client.info("commandstats")
    return {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval")}


def test_each_step_is_one_round_trip(server: Server, store: RedisStore) -> None:
    lines = [line("u", 5, 10**9), line("all", 5, 10**9)]
    used(store, lines, [1, 1])
    store.standings(lines)
    before = scripts_run(server)
    with watched(server) as seen:
        holds = [store.hold(lines) for _ in range(10)]
        for hold in holds:
            assert store.reserve(hold).ok
        assert seen.count() == 10
        for hold in holds:
            store.post(Settlement(hold, (1, 1), (0, 0)))
        assert store.flush()
        assert seen.count() == 11
        store.standings(lines)
        store.swap("d", b"x", None)
        store.load("d")
        assert seen.count() == 14
    after = scripts_run(server)
    assert after["eval"] - before["eval"] == 1  # the script of swap, sent whole the first time
    assert after["evalsha"] - before["evalsha"] == 13


class watched:
    """The commands that clients send, as MONITOR shows them; those within scripts are marked "lua"."""

    def __init__(self, server: Server) -> None:
        self.client = server.client()

    def __enter__(self) -> watched:
        self.monitor = self.client.monitor()
        self.monitor.__enter__()
        self.total = 0
        return self

    def count(self) -> int:
        with redis.Redis(unix_socket_path=self.client.connection_pool.connection_kwargs["path"]) as marking:
            marking.echo("mark")
        for each in self.monitor.listen():
            if each["command"] == "ECHO mark":
                return self.total
            name = each["command"].split()[0]
            # a script that is not known is no step: it is sent again, whole, once per server
            self.total += each["client_type"] != "lua" and name not in ("CLIENT", "HELLO", "SELECT", "EVAL")
        raise AssertionError

    def __exit__(self, *_: object) -> None:
        self.monitor.__exit__(None, None, None)
        self.client.close()


def test_scripts_are_sent_again_when_the_server_forgot_them(server: Server, store: RedisStore) -> None:
    used(store, [line("u", 5)], [5])
    with server.client() as client:
        client.script_flush()
    used(store, [line("u", 5)], [5])
    assert standing(store, "u").settled == 10


# -- out of reach ----------------------------------------------------------------


def test_a_server_that_is_gone_and_comes_back(
    own_server: Server, clock: Manual, told: list[StoreTrouble], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tierllm")
    store = listening(RedisStore(own_server.url, clock=clock, timeout_s=0.5), told)
    used(store, [line("u", 5)], [5])
    hold = store.hold([line("u", 5)])
    store.reserve(hold)
    own_server.stop()
    for _ in range(3):
        with pytest.raises(StoreUnavailableError, match="cannot be used"):
            store.reserve(store.hold([line("u", 5)]))
    store.post(Settlement(hold, (5,), (0,)))
    assert not store.flush()
    assert len(store.outbox) == 1
    clock.now += 2
    with pytest.raises(StoreUnavailableError):
        store.load("d")
    with pytest.raises(StoreUnavailableError):
        store.swap("d", b"", None)
    own_server.start()
    with pytest.raises(StoreUnavailableError, match="not tried again for 1 s"):
        store.standings([line("u")])
    clock.now += 1
    assert store.flush()
    used(store, [line("u", 5)], [4])
    assert standing(store, "u") == (4, 0, 0)  # that server keeps nothing
    assert [event.ok for event in told] == [False, True, False]
    assert "forgotten" in told[2].text
    assert told[0].store == f"redis {own_server.socket}/0"
    assert caplog.text.count("cannot be used") == 1
    assert caplog.text.count("well again") == 1
    store.close()


def test_a_frozen_server_costs_one_timeout(
    own_server: Server, clock: Manual, told: list[StoreTrouble]
) -> None:
    store = listening(RedisStore(own_server.url, clock=clock, timeout_s=0.05), told)
    used(store, [line("u", 5)], [5])
    lost = store.hold([line("u", 50)])
    own_server.freeze()
    began = time.perf_counter()
    with pytest.raises(StoreUnavailableError):
        store.reserve(lost)
    for _ in range(100):
        with pytest.raises(StoreUnavailableError):
            store.reserve(store.hold([line("u", 5)]))
    assert time.perf_counter() - began < 2.0  # not a hundred of them
    store.give_back(lost)
    assert not store.flush()
    own_server.thaw()
    clock.now += 2
    assert store.flush()
    assert standing(store, "u") == (5, 0, 0)  # in whichever order the two came
    assert [event.ok for event in told] == [False, True]
    store.close()


def test_only_one_caller_tries_whether_it_is_back(
    own_server: Server, clock: Manual, told: list[StoreTrouble]
) -> None:
    store = RedisStore(own_server.url, clock=clock, timeout_s=0.2)
    own_server.stop()
    with pytest.raises(StoreUnavailableError):
        store.load("d")
    clock.now += 1
    store.health.expect()
    with pytest.raises(StoreUnavailableError, match="not tried again"):
        store.health.expect()
    store.close()


def test_a_settlement_whose_answer_was_lost_counts_once(store: RedisStore, clock: Manual) -> None:
    hold = store.hold([line("u", 5)])
    store.reserve(hold)
    run = store._run

    def lost(ask: object) -> object:
        run(ask)  # type: ignore[arg-type]
        raise store.health.failed("the answer was lost")

    store._run = lost  # type: ignore[assignment,method-assign]
    store.post(Settlement(hold, (3,), (0,)))
    assert not store.flush()
    store._run = run  # type: ignore[method-assign]
    clock.now += 2
    assert store.flush()
    assert standing(store, "u") == (3, 0, 0)


def test_nothing_is_posted_for_what_was_never_sent(store: RedisStore) -> None:
    for _ in range(100):
        store.give_back(store.hold([line("u", 5)]))
    assert not store.outbox


def test_foreign_values_under_our_keys(
    server: Server, store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    hold = store.hold([line("u", 5), line("v", 5)])
    store.reserve(hold)
    with server.client() as client:
        client.set("{tierllm}:account:u", "x")
        client.hset("{tierllm}:account:w", "r", "x")
        client.hset("{tierllm}:account:x", "s", "1")
        client.hset("{tierllm}:account:y", "1", "1.5")
        client.rpush("{tierllm}:document:d", "x")
    for account in "uwxy":
        with pytest.raises(StoreUnavailableError, match="no account of ours"):
            store.reserve(store.hold([line("v", 1), line(account, 5)]))
        with pytest.raises(StoreUnavailableError, match=f"account:{account}'"):
            standing(store, account)
    store.post(Settlement(hold, (5, 4), (0, 0)))
    assert store.flush()
    assert standing(store, "v") == (4, 0, 0)
    assert "could not be booked" in caplog.text
    with pytest.raises(StoreUnavailableError):
        store.load("d")


def test_a_server_that_refuses_to_write(server: Server, store: RedisStore, clock: Manual) -> None:
    with server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreUnavailableError):
                store.reserve(store.hold([line("u", 5)]))
        finally:
            client.config_set("maxmemory", 0)
    clock.now += 2
    used(store, [line("u", 5)], [5])


# -- event loops -----------------------------------------------------------------


async def test_a_frozen_server_does_not_hold_the_event_loop(own_server: Server, clock: Manual) -> None:
    store = RedisStore(own_server.url, clock=clock, timeout_s=0.1)
    assert store.areserve is not None
    assert store.aflush is not None
    assert store.astandings is not None
    hold = store.hold([line("u", 5)])
    assert (await store.areserve(hold)).ok
    lost = store.hold([line("u", 50)])
    own_server.freeze()
    with pytest.raises(StoreUnavailableError):
        await store.areserve(lost)
    store.give_back(lost)
    store.post(Settlement(hold, (3,), (0,)))
    assert not await store.aflush()
    own_server.thaw()
    clock.now += 2
    assert await store.aflush()
    assert await store.astandings([line("u")]) == ((3, 0, 0),)
    await store.aclose()


async def test_a_cancelled_reservation_is_given_back(server: Server, store: RedisStore) -> None:
    assert store.areserve is not None
    for steps in range(12):
        hold = store.hold([line("u", 5)])
        task = asyncio.ensure_future(store.areserve(hold))  # type: ignore[arg-type]
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        store.give_back(hold)
        assert store.aflush is not None
        assert await store.aflush()
    assert standing(store, "u") == (0, 0, None)
    assert not store._lease.open
    await store.aclose()


def test_every_event_loop_has_its_own_connections(server: Server) -> None:
    store = RedisStore(server.url, timeout_s=5)

    async def use() -> None:
        assert store.areserve is not None
        holds = [store.hold([line("u", 1)]) for _ in range(5)]
        await asyncio.gather(*(store.areserve(hold) for hold in holds))
        for hold in holds:
            store.give_back(hold)

    for _ in range(3):
        asyncio.run(use())
        assert store._clients._looped == {}  # closed with the loop
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    loop.run_until_complete(store.aclose())
    loop.close()
    store.close()
    gc.collect()  # warnings of anything left open are errors here
    with server.client() as client:
        assert len(client.client_list()) <= 2


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_was_closed_without_a_word_is_forgotten(server: Server) -> None:
    store = RedisStore(server.url, timeout_s=5)
    assert store.astandings is not None
    for _ in range(3):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(_standings(store)) == ((0, 0, None),)
        loop.close()
        assert list(store._clients._looped) == [loop]
    store.close()
    assert store._clients._looped == {}
    gc.collect()


async def _standings(store: RedisStore) -> object:
    assert store.astandings is not None
    return await store.astandings([line("u")])


@pytest.fixture
def cluster_port() -> Iterator[int]:
    """A cluster of one node."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if port > 55_535:
        pytest.skip("the cluster's own port, 10,000 higher, would be none")
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        node = Server(Path(directory), "--port", f"{port}", "--bind", "127.0.0.1", "--cluster-enabled", "yes")
        try:
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
                eventually(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
            yield port
        finally:
            node.stop()


def test_all_keys_share_a_slot_of_a_cluster(cluster_port: int) -> None:
    with redis.RedisCluster(host="127.0.0.1", port=cluster_port) as cluster:
        store = RedisStore(client=cluster, lease_s=0.1)  # type: ignore[arg-type]
        assert store.areserve is None
        used(store, [line("u", 5, 10), line("all", 5, 10)], [5, 5])
        asleep = store.hold([line("u", 5, 10), line("all", 5, 10)])
        assert store.reserve(asleep).ok
        store._lease.stop()
        other = RedisStore(f"redis://127.0.0.1:{cluster_port}", timeout_s=5)
        eventually(lambda: other.reserve(other.hold([line("u", 5, 10)])).ok)
        store.apply([Settlement(asleep, (1, 1), (0, 0))])
        assert store.standings([line("u"), line("all")]) == ((6, 5, 0), (6, 0, 0))
        assert store.swap("d", b"x", None)
        assert store.load("d") == b"x"
        other.close()
        store.close()


# -- settings --------------------------------------------------------------------


def test_a_client_of_ones_own(server: Server) -> None:
    with redis.Redis(unix_socket_path=server.socket, decode_responses=True, protocol=3) as client:
        store = RedisStore(client=client, namespace="mine")
        used(store, [line("u", 5, 10)], [5])
        assert standing(store, "u") == (5, 0, 0)
        assert store.swap("d", b"\xff", None)
        assert store.load("d") == b"\xff"

        async def use() -> bool:
            assert store.areserve is not None
            hold = store.hold([line("u", 5, 10)])
            ok = (await store.areserve(hold)).ok
            store.give_back(hold)
            await store.aclose()
            return ok

        assert asyncio.run(use())
        assert not store.outbox
        store.close()
        assert client.ping()
        assert all(key.startswith("{mine}:") for key in client.keys("*"))


def test_namespaces_do_not_meet(server: Server) -> None:
    one, two = (RedisStore(server.url, namespace=name, timeout_s=5) for name in ("one", "two"))
    used(one, [line("u", 5)], [5])
    assert standing(two, "u") == (0, 0, None)
    one.close()
    two.close()


def test_a_password_is_never_shown(caplog: pytest.LogCaptureFixture, told: list[StoreTrouble]) -> None:
    store = listening(RedisStore("redis://user:hunter2@127.0.0.1:1/3", timeout_s=0.2), told)
    with pytest.raises(StoreUnavailableError) as caught:
        store.load("d")
    shown = [repr(store), str(caught.value), repr(caught.value.__cause__), caplog.text, repr(told)]
    assert "127.0.0.1:1/3" in shown[0]
    assert not any("hunter2" in each for each in shown)
    for url in ("http://user:hunter2@127.0.0.1", "redis://:hunter2/x@localhost:6379/0"):
        with pytest.raises(ConfigError) as wrong:
            RedisStore(url)
        assert "hunter2" not in "".join(traceback.format_exception(wrong.value))
    store.close()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"url": "redis://localhost", "client": redis.Redis()},
        {"url": "redis://localhost", "namespace": "{x}"},
        {"url": "redis://localhost", "namespace": ""},
        {"url": "redis://localhost", "timeout_s": 0},
        {"url": "redis://localhost", "lease_s": 0},
        {"url": "redis://localhost", "lease_s": math.inf},
        {"url": "redis://localhost", "timeout_s": math.inf},
        {"client": redis.asyncio.Redis()},
        {"url": "redis://localhost", "retry_s": -1},
        {"url": "localhost:6379"},
    ],
    ids=[
        "nothing",
        "both",
        "braces",
        "no namespace",
        "no timeout",
        "no lease",
        "endless lease",
        "endless timeout",
        "async client",
        "no retry",
        "no url",
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        RedisStore(**settings)  # type: ignore[arg-type]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r'pip install "tierllm\[redis\]"'):
        RedisStore("redis://localhost")

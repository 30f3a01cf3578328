"""The Redis layer: round trips, its bound, what it does when the server is gone, and foreign values."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue as MpQueue
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.ground import SPAWN, Server, eventually
from tierllm.caching.entry import Entry
from tierllm.caching.layer import Notice
from tierllm.caching.redis_layer import ENTRY_BYTES, MOST_DATA_BYTES, ROUNDING, SLOT_COPIES, RedisLayer
from tierllm.caching.redis_scripts import (
    CLEARED_AT_ONCE,
    DROPPED,
    MOST_EVICTED,
    MOST_SPARED,
    SWEPT_AT_ONCE,
)
from tierllm.errors import ConfigError, StoreUnavailableError
from tierllm.events import Event, StoreTrouble
from tierllm.stores import Line, RedisStore
from tierllm.stores.trouble import NotDone

BASE = b"{tierllm}:cache"
A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))
DATA = b"x" * 1000
ONE = ENTRY_BYTES + SLOT_COPIES * 32 + len(DATA) + len(DATA) // ROUNDING


def cost(group: str = "") -> int:
    return ONE + 2 * len(group)


def slot(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Manual:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Manual:
    return Manual()


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def running_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        running = Server(Path(directory))
        yield running
        running.stop()


@pytest.fixture
def server(running_server: Server) -> Server:
    with running_server.client() as client:
        client.flushall()
    return running_server


@pytest.fixture
def own_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        running = Server(Path(directory))
        yield running
        running.thaw()
        running.stop()


@pytest.fixture
def raw(server: Server) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


@pytest.fixture
def layer(server: Server) -> Iterator[RedisLayer]:
    layer = RedisLayer(server.url, timeout_s=5)
    yield layer
    layer.close()


def held(raw: redis.Redis) -> dict[bytes, bytes]:
    """All entries that are really there, whatever the index says."""
    names = [key for key in raw.keys(BASE + b":entry:*") if raw.type(key) == b"string"]
    return {key.removeprefix(BASE + b":entry:"): raw.get(key) for key in names}


def check_index(raw: redis.Redis) -> None:
    """The parts of the index agree with each other and with what is there."""
    about = raw.hgetall(BASE + b":about")
    sizes: dict[bytes, tuple[int, bytes]] = {}
    for name, value in about.items():
        if name[:1] == b"s":
            size, group = value.split(b" ", 1)
            sizes[name[1:]] = int(size), group
    assert int(about.get(b"t", 0)) == sum(size for size, _ in sizes.values())
    assert set(raw.zrange(BASE + b":expiry", 0, -1)) == set(sizes)
    least = {name[1:]: int(value) for name, value in about.items() if name[:1] == b"l"}
    groups = dict(raw.zrange(BASE + b":groups", 0, -1, withscores=True))
    assert set(groups) == {group for _, group in sizes.values()}
    for group, score in groups.items():
        mine = {each: size for each, (size, its) in sizes.items() if its == group}
        assert score == sum(mine.values()) - least.get(group, 0)
        assert set(raw.zrange(BASE + b":group:" + group, 0, -1)) == set(mine)
    assert set(held(raw)) <= set(sizes)


# -- round trips -----------------------------------------------------------------


def commands(raw: redis.Redis) -> tuple[int, int]:
    stats = raw.info("commandstats")
    return tuple(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("mget", "evalsha"))


async def test_each_step_is_one_command(layer: RedisLayer, raw: redis.Redis) -> None:
    assert layer.aget is not None
    assert layer.aset is not None

    def all_else() -> None:
        layer.delete(A)
        layer.clear("gold")
        layer.stats()
        layer.post([Notice("doc", 0), Notice("other", 0, "hash")])
        layer.board()
        layer.claim(A, b"me", 10)
        layer.release(A, b"me")

    layer.set(A, b"a", ttl_s=60, group="gold")
    all_else()  # the server knows all scripts now
    gets, scripts = commands(raw)
    layer.get(A)
    await layer.aget(A)
    assert commands(raw) == (gets + 2, scripts)
    layer.set(A, b"a", ttl_s=60, group="gold")
    await layer.aset(A, b"b", 60, "gold")
    all_else()
    assert commands(raw) == (gets + 2, scripts + 9)


def test_scripts_are_sent_again_when_the_server_forgot_them(layer: RedisLayer, raw: redis.Redis) -> None:
    layer.set(A, b"a", ttl_s=60)
    raw.script_flush()
    assert layer.set(B, b"b", ttl_s=60)
    raw.script_flush()
    layer.clear()
    assert layer.get(B) is None


async def test_layers_on_one_server_share_and_namespaces_do_not(server: Server, layer: RedisLayer) -> None:
    other, stranger = RedisLayer(server.url, timeout_s=5), RedisLayer(server.url, timeout_s=5, namespace="b")
    layer.set(A, b"a", ttl_s=60, group="gold")
    assert other.aget is not None
    assert other.get(A) == await other.aget(A) == b"a"
    assert stranger.get(A) is None
    stranger.clear()
    assert layer.get(A) == b"a"
    other.clear("gold")
    assert layer.get(A) is None
    await other.aclose()
    stranger.close()


def test_a_store_of_the_same_namespace_is_left_alone(server: Server, layer: RedisLayer) -> None:
    store = RedisStore(server.url, timeout_s=5)
    lines = [Line("u", 5, None, 4e9)]
    store.reserve(store.hold(lines))
    store.swap("document", b"words", None)
    layer.set(A, b"a", ttl_s=60)
    layer.clear()
    assert store.standings(lines)[0].reserved == 5
    assert store.load("document") == b"words"
    store.close()


# -- time to live ----------------------------------------------------------------


def test_everything_has_its_time_to_live(layer: RedisLayer, raw: redis.Redis) -> None:
    for n, ttl_s in enumerate((0.5, 3600, 60)):
        layer.set(slot(n), DATA, ttl_s=ttl_s, group="gold")
    lives = {key: raw.pttl(key) for key in raw.keys("*")}
    assert len(lives) == 3 + 4
    assert all(0 < life <= 3_660_000 for life in lives.values())
    index = [life for key, life in lives.items() if b":entry:" not in key]
    assert min(index) > lives[BASE + b":entry:" + slot(1)]


def test_what_is_over_leaves_the_index_with_the_next_sets(layer: RedisLayer, raw: redis.Redis) -> None:
    for n in range(20):
        layer.set(slot(n), DATA, ttl_s=0.001 * (1 + n), group="gold")
    time.sleep(0.05)  # the server's clock is its own
    layer.set(A, b"a", ttl_s=60)
    stats = layer.stats()
    assert stats.entries == 1
    assert (stats.expired, stats.evictions) == (20, 0)
    check_index(raw)


@pytest.mark.parametrize("ttl_s", [0.0009, 1e-300], ids=str)
def test_less_than_a_millisecond_is_nothing(layer: RedisLayer, raw: redis.Redis, ttl_s: float) -> None:
    layer.set(A, b"old", ttl_s=60)
    assert not layer.set(A, b"new", ttl_s=ttl_s)
    assert held(raw) == {}


# -- the bound -------------------------------------------------------------------


def test_the_bound_holds_and_the_oldest_go(server: Server, raw: redis.Redis) -> None:
    layer = RedisLayer(server.url, timeout_s=5, max_bytes=10 * ONE)
    for n in range(25):
        assert layer.set(slot(n), DATA, ttl_s=60)
        assert layer.stats().bytes <= layer.max_bytes
    assert set(held(raw)) == {slot(n) for n in range(15, 25)}
    assert layer.stats()[2:] == (25, 0, 15, 0, 10, 10 * ONE)
    layer.close()


@pytest.mark.parametrize("largest", [20, 1500])
def test_what_the_server_spends_is_within_the_bound(server: Server, raw: redis.Redis, largest: int) -> None:
    layer = RedisLayer(server.url, timeout_s=5, max_bytes=2**20)
    layer.set(A, b"a", ttl_s=60)
    layer.clear()  # connections and scripts are there now
    before = raw.info("memory")["used_memory"]
    for n in range(3000):
        layer.set(slot(n), bytes(n % largest), ttl_s=60, group=f"g{n % 7}")
        if n % 500 == 499:
            assert raw.info("memory")["used_memory"] - before < 2**20 + 2**14  # of noise
    layer.close()


def test_what_is_too_large_is_not_kept_and_costs_nobody(server: Server, raw: redis.Redis) -> None:
    layer = RedisLayer(server.url, timeout_s=5, max_bytes=4 * ONE)
    for n in range(3):
        layer.set(slot(n), DATA, ttl_s=60)
    assert not layer.set(slot(0), bytes(4 * ONE), ttl_s=60)
    assert set(held(raw)) == {slot(1), slot(2)}
    assert layer.stats().rejected == 1
    layer.close()


async def test_what_would_take_longer_than_the_time_out_is_not_kept(server: Server) -> None:
    layer = RedisLayer(server.url)
    assert layer.aset is not None
    assert layer.set(A, DATA, ttl_s=60)
    assert layer.set(B, DATA, ttl_s=60)
    assert not layer.set(A, bytes(MOST_DATA_BYTES + 1), ttl_s=60)
    assert not await layer.aset(B, bytes(MOST_DATA_BYTES + 1), 60, "")
    assert layer.get(A) is layer.get(B) is None
    await layer.aclose()


def test_what_needs_the_room_of_too_many_is_not_kept(server: Server, raw: redis.Redis) -> None:
    layer = RedisLayer(server.url, timeout_s=5, max_bytes=2**20)
    count = 0
    while layer.stats().evictions == 0:
        layer.set(slot(count), b"", ttl_s=60)
        count += 1
    assert count > MOST_EVICTED
    assert not layer.set(A, bytes(2**20 * 4 // 5 - 1000), ttl_s=60)
    assert layer.get(A) is None
    assert layer.stats().bytes <= 2**20
    check_index(raw)
    assert layer.set(A, bytes(2**20 * 4 // 5 - 1000), ttl_s=60)  # the room was made
    assert layer.stats().bytes <= 2**20
    layer.close()


def test_a_batch_pushes_out_its_own(server: Server, raw: redis.Redis) -> None:
    layer = RedisLayer(server.url, timeout_s=5, max_bytes=12 * cost("bronze"))
    for n in range(4):
        layer.set(slot(n), DATA, ttl_s=60, group="gold")
    for n in range(100, 200):
        assert layer.set(slot(n), DATA, ttl_s=60, group="bronze")
    assert {slot(n) for n in range(4)} < set(held(raw))
    check_index(raw)
    layer.close()


def test_what_is_guaranteed_is_not_taken(server: Server, raw: redis.Redis) -> None:
    layer = RedisLayer(server.url, timeout_s=5, max_bytes=20 * cost("bronze"), quotas={"gold": 0.8})
    for n in range(15):
        layer.set(slot(n), DATA, ttl_s=60, group="gold")
    for n in range(100, 200):
        layer.set(slot(n), DATA, ttl_s=60, group=f"b{n % 3}")
    kept = set(held(raw))
    assert {slot(n) for n in range(15)} < kept
    check_index(raw)
    for n in range(15, 40):  # more than its share: now it gives
        layer.set(slot(n), DATA, ttl_s=60, group="gold")
    for n in range(300, 310):
        assert layer.set(slot(n), DATA, ttl_s=60, group="b0")
    gold = [each for each in held(raw) if int.from_bytes(each, "big") < 100]
    assert 15 <= len(gold) <= 18
    layer.close()


@pytest.mark.parametrize(("share", "entries"), [(0.0, 16), (0.8, 6)])
def test_who_would_have_the_most_takes_from_nobody(
    server: Server, raw: redis.Redis, share: float, entries: int
) -> None:
    layer = RedisLayer(server.url, timeout_s=5, max_bytes=20 * cost("gold"), quotas={"gold": share})
    gold = [slot(n) for n in range(15)]
    for each in gold:
        layer.set(each, DATA, ttl_s=60, group="gold")
    assert not layer.set(A, bytes(entries * ONE * ROUNDING // (ROUNDING + 1)), ttl_s=60, group="bronze")
    assert set(held(raw)) == set(gold)
    assert layer.stats().evictions == 0
    check_index(raw)
    layer.close()


def test_other_guarantees_count_from_the_next_set(server: Server, raw: redis.Redis) -> None:
    for share in (0.5, 0.9, 0.0):
        layer = RedisLayer(server.url, timeout_s=5, max_bytes=20 * ONE, quotas={"gold": share})
        layer.set(A, DATA, ttl_s=60, group="gold")
        layer.set(B, DATA, ttl_s=60, group="gold")
        check_index(raw)
        assert raw.zscore(BASE + b":groups", b"gold") == 2 * cost("gold") - int(share * 20 * ONE)
        layer.close()


def test_whoever_was_asked_for_gets_another_round(server: Server, raw: redis.Redis) -> None:
    layer = RedisLayer(server.url, timeout_s=5, max_bytes=10 * ONE)
    for n in range(10):
        layer.set(slot(n), DATA, ttl_s=60)
    time.sleep(3.1)  # the server remembers in whole seconds when an entry was last asked for
    layer.get(slot(0))
    layer.get(slot(3))
    for n in range(100, 104):
        layer.set(slot(n), DATA, ttl_s=60)
    assert set(held(raw)) == {slot(n) for n in (0, 3, 6, 7, 8, 9, 100, 101, 102, 103)}
    check_index(raw)
    layer.close()


@pytest.mark.parametrize(("count", "oldest"), [(10, 0), (2 * MOST_SPARED, MOST_SPARED)])
def test_where_all_were_asked_for_the_oldest_go_all_the_same(
    server: Server, raw: redis.Redis, count: int, oldest: int
) -> None:
    layer = RedisLayer(server.url, timeout_s=5, max_bytes=count * ONE)
    for n in range(count):
        layer.set(slot(n), DATA, ttl_s=60)
    queue = BASE + b":group:"
    for each, turn in raw.zrange(queue, 0, -1, withscores=True):
        raw.zadd(queue, {each: turn - 10_000_000})  # set 10 s ago, by the index; asked for just now
    assert layer.set(A, DATA, ttl_s=60)
    assert {slot(n) for n in range(count)} - set(held(raw)) == {slot(oldest)}
    check_index(raw)
    layer.close()


POLICIES = ["noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_server_that_is_full(own_server: Server, told: list[Event], policy: str) -> None:
    layer = RedisLayer(own_server.url, timeout_s=5)
    layer.emit = told.append
    with own_server.client() as raw:
        full = raw.info("memory")["used_memory"] + 2**20
        raw.config_set("maxmemory-policy", policy)
        raw.config_set("maxmemory", full)
        for n in range(1200):
            layer.set(slot(n), DATA * 2, ttl_s=60, group=f"g{n % 3}")
            if n % 100 == 99:
                assert raw.info("memory")["used_memory"] < full + 2**19  # of buffers and noise
        found = {n: layer.get(slot(n)) for n in range(1200)}
        assert set(found.values()) == {None, DATA * 2}
        assert told == []
        if policy == "noeviction":
            assert layer.stats().rejected > 500
            assert found[0] == DATA * 2
            raw.config_set("maxmemory", full // 2)
            assert not layer.set(slot(0), DATA, ttl_s=60)
            assert layer.get(slot(0)) is None
            raw.config_set("maxmemory", 0)
        assert layer.set(A, DATA, ttl_s=60)
        assert layer.get(A) == DATA
    layer.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 9), st.integers(0, 3000), st.sampled_from(["", "g", "b c"])),
        st.tuples(st.just("delete"), st.integers(0, 9)),
        st.tuples(st.just("clear"), st.sampled_from(["", "g", "b c", None])),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_the_index_is_right_whatever_comes(running_server: Server, steps: list[tuple[Any, ...]]) -> None:
    layer = RedisLayer(running_server.url, timeout_s=5, max_bytes=8000, quotas={"g": 0.3})
    model: dict[bytes, tuple[bytes, str]] = {}
    with running_server.client() as raw:
        raw.flushall()
        for kind, *rest in steps:
            if kind == "set":
                number, size, group = rest
                data = bytes([number]) * size
                if layer.set(slot(number), data, ttl_s=60, group=group):
                    model[slot(number)] = data, group
                else:
                    model.pop(slot(number), None)
            elif kind == "delete":
                layer.delete(slot(rest[0]))
                model.pop(slot(rest[0]), None)
            else:
                layer.clear(rest[0])
                model = {k: v for k, v in model.items() if rest[0] is not None and v[1] != rest[0]}
            now = held(raw)
            assert all(model[each][0] == data for each, data in now.items())
            model = {each: model[each] for each in now}  # the others were pushed out
            assert layer.stats().bytes <= 8000
            assert layer.stats().entries == len(now)
            check_index(raw)
    layer.close()


def test_many_are_cleared_some_at_a_time(layer: RedisLayer, raw: redis.Redis) -> None:
    for n in range(2 * CLEARED_AT_ONCE):
        layer.set(slot(n), b"", ttl_s=60, group="gold")
    layer.set(A, b"a", ttl_s=60)
    layer.clear("gold")
    assert held(raw) == {A: b"a"}
    check_index(raw)
    layer.clear()
    assert raw.keys("*") == []


# -- out of reach ----------------------------------------------------------------


def listening(server: Server, clock: Manual, told: list[Event], timeout_s: float = 0.2) -> RedisLayer:
    layer = RedisLayer(server.url, timeout_s=timeout_s, clock=clock)
    layer.emit = told.append
    return layer


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_gone_and_back(own_server: Server, clock: Manual, told: list[Event], how: str) -> None:
    layer = listening(own_server, clock, told)
    assert layer.aget is not None
    assert layer.aset is not None
    layer.set(A, b"a", ttl_s=60)
    assert await layer.aget(A) == b"a"
    (own_server.stop if how == "stopped" else own_server.freeze)()
    with pytest.raises(StoreUnavailableError) as first:
        layer.get(A)
    assert not isinstance(first.value, NotDone)
    for _ in range(3):  # left alone: nothing is sent
        with pytest.raises(NotDone, match="not tried again for 1 s"):
            layer.get(A)
        with pytest.raises(NotDone):
            layer.set(A, b"b", ttl_s=60)
        with pytest.raises(NotDone):
            await layer.aget(A)
        with pytest.raises(NotDone):
            await layer.aset(A, b"b", 60, "")
        for step in (layer.clear, layer.stats, lambda: layer.delete(A)):
            with pytest.raises(NotDone):
                step()
    clock.now = 1.5
    with pytest.raises(StoreUnavailableError) as again:
        await layer.aget(A)
    assert not isinstance(again.value, NotDone)
    (own_server.start if how == "stopped" else own_server.thaw)()
    with pytest.raises(NotDone):
        layer.get(A)
    clock.now = 3.0
    assert layer.get(A) == (None if how == "stopped" else b"a")
    assert layer.set(A, b"c", ttl_s=60)
    assert await layer.aget(A) == b"c"
    assert [(each.store, each.ok) for each in told if isinstance(each, StoreTrouble)] == [
        ("redis", False),
        ("redis", True),
    ]
    await layer.aclose()


async def test_a_crowd_before_a_frozen_server(own_server: Server, clock: Manual, told: list[Event]) -> None:
    layer = listening(own_server, clock, told)
    assert layer.aget is not None
    assert layer.aset is not None
    await layer.aset(A, b"a", 60, "")
    own_server.freeze()
    found = await asyncio.gather(*(layer.aget(A) for _ in range(200)), return_exceptions=True)
    assert {isinstance(each, StoreUnavailableError) for each in found} == {True}
    assert sum(not isinstance(each, NotDone) for each in found) <= layer._clients.most
    assert len(told) == 1
    own_server.thaw()
    clock.now = 2.0
    assert await layer.aget(A) == b"a"
    assert set(await asyncio.gather(*(layer.aget(A) for _ in range(200)))) == {b"a"}
    await layer.aclose()


async def test_closing_closes_all_connections(server: Server, raw: redis.Redis) -> None:
    layer = RedisLayer(server.url, timeout_s=5)
    assert layer.aget is not None
    before = len(raw.client_list())
    await layer.aget(A)
    layer.get(A)
    assert len(raw.client_list()) == before + 2
    await layer.aclose()
    eventually(lambda: len(raw.client_list()) == before)


async def test_two_hundred_tasks_at_once(layer: RedisLayer, raw: redis.Redis) -> None:
    aget, aset = layer.aget, layer.aset
    assert aget is not None
    assert aset is not None

    async def run(n: int) -> bytes | None:
        assert await aset(slot(n), b"%d" % n, 60, f"g{n % 5}")
        return await aget(slot(n))

    assert await asyncio.gather(*(run(n) for n in range(200))) == [b"%d" % n for n in range(200)]
    stats = layer.stats()
    assert (stats.hits, stats.sets, stats.entries) == (200, 200, 200)
    check_index(raw)
    await layer.aclose()


async def test_tasks_that_are_cancelled_leave_it_usable(layer: RedisLayer, raw: redis.Redis) -> None:
    aget, aset = layer.aget, layer.aset
    assert aget is not None
    assert aset is not None
    for n in range(60):
        tasks = [asyncio.ensure_future(aset(slot(i), b"%d" % i, 60, "")) for i in range(10)]
        tasks += [asyncio.ensure_future(aget(slot(i))) for i in range(10)]
        for _ in range(n % 6):
            await asyncio.sleep(0)
        for task in tasks[n % 3 :: 3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for i in range(10):
        assert await aset(slot(i), b"%d" % i, 60, "")
    assert await asyncio.gather(*(aget(slot(i)) for i in range(10))) == [b"%d" % i for i in range(10)]
    check_index(raw)
    await layer.aclose()


async def test_restarts_under_load(own_server: Server) -> None:
    layer = RedisLayer(own_server.url, timeout_s=1, retry_s=0.01, max_bytes=30 * ONE)
    wrong: list[object] = []
    refused = [0]
    ends = threading.Event()

    def check(n: int, found: bytes | None) -> None:
        if found is not None and found != slot(n) * 20:
            wrong.append(found)

    def in_a_thread() -> None:
        n = 0
        while not ends.is_set():
            n += 1
            try:
                layer.set(slot(n % 50), slot(n % 50) * 20, ttl_s=60, group=f"g{n % 3}")
                check(n % 40, layer.get(slot(n % 40)))
            except StoreUnavailableError:
                refused[0] += 1
                time.sleep(0.001)
            except BaseException as error:
                wrong.append(error)
                return

    async def in_a_task() -> None:
        assert layer.aget is not None
        assert layer.aset is not None
        n = 0
        while not ends.is_set():
            n += 1
            try:
                await layer.aset(slot(n % 50), slot(n % 50) * 20, 60, f"g{n % 3}")
                check(n % 40, await layer.aget(slot(n % 40)))
            except StoreUnavailableError:
                refused[0] += 1
                await asyncio.sleep(0.001)

    threads = [threading.Thread(target=in_a_thread) for _ in range(3)]
    tasks = [asyncio.ensure_future(in_a_task()) for _ in range(10)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            await asyncio.sleep(0.1)
            own_server.stop()
            await asyncio.sleep(0.1)
            await asyncio.to_thread(own_server.start)
    finally:
        await asyncio.sleep(0.1)
        ends.set()
        await asyncio.gather(*tasks)
        for thread in threads:
            await asyncio.to_thread(thread.join)
    assert wrong == []
    assert refused[0] > 0
    await asyncio.sleep(0.05)
    assert layer.set(A, DATA, ttl_s=60)
    assert layer.get(A) == DATA
    with own_server.client() as raw:
        check_index(raw)
    await layer.aclose()


def test_a_listener_that_fails_hurts_nobody(clock: Manual, caplog: pytest.LogCaptureFixture) -> None:
    layer = RedisLayer("unix:///nowhere/at/all", clock=clock)

    def fail(event: Event) -> None:
        raise ValueError("mine")

    layer.emit = fail
    with pytest.raises(StoreUnavailableError):
        layer.get(A)
    assert "a listener failed on StoreTrouble" in caplog.text


# -- foreign values --------------------------------------------------------------


def put_list(raw: redis.Redis, key: bytes) -> None:
    raw.delete(key)
    raw.rpush(key, b"not", b"yours")


async def test_a_foreign_kind_of_value_is_a_miss_and_is_replaced(layer: RedisLayer, raw: redis.Redis) -> None:
    assert layer.aget is not None
    layer.set(A, b"a", ttl_s=60)
    put_list(raw, BASE + b":entry:" + A)
    assert layer.get(A) is None
    assert await layer.aget(A) is None
    assert layer.stats().misses == 2
    assert layer.set(A, b"b", ttl_s=60)
    assert layer.get(A) == b"b"
    put_list(raw, BASE + b":entry:" + A)
    layer.delete(A)
    assert raw.exists(BASE + b":entry:" + A) == 0
    assert list(layer.scan()) == []
    await layer.aclose()


@pytest.mark.parametrize("garbage", [b"", b"\x80\x04\x95", b"{}", bytes(range(256))], ids=repr)
def test_garbage_comes_out_as_it_is_and_is_no_entry(
    layer: RedisLayer, raw: redis.Redis, garbage: bytes
) -> None:
    raw.set(BASE + b":entry:" + A, garbage)
    found = layer.get(A)
    assert found == garbage
    assert Entry.decode(found) is None
    assert layer.set(A, b"new", ttl_s=60)
    assert layer.get(A) == b"new"
    assert raw.pttl(BASE + b":entry:" + A) > 0


@pytest.mark.parametrize("step", ["set", "delete", "clear"])
@pytest.mark.parametrize("part", ["about", "expiry", "groups", "group:gold", "gone"])
def test_a_foreign_value_in_the_index_is_replaced(
    layer: RedisLayer, raw: redis.Redis, told: list[Event], part: str, step: str
) -> None:
    layer.emit = told.append
    layer.set(A, b"a", ttl_s=60, group="gold")
    layer.set(B, b"b", ttl_s=60, group="gold")
    put_list(raw, BASE + b":" + part.encode())
    if step == "set":
        assert layer.set(A, b"new", ttl_s=60, group="gold")
        assert layer.get(A) == b"new"
    elif step == "delete":
        layer.delete(A)
        assert layer.get(A) is None
    else:
        layer.clear()
        assert held(raw) == {}
    for n in range(10):
        assert layer.set(slot(n), b"c", ttl_s=60, group="gold")
    assert set(held(raw)) >= {slot(n) for n in range(10)}
    assert told == []


def test_a_foreign_value_that_stays_is_named(layer: RedisLayer, raw: redis.Redis) -> None:
    put_list(raw, BASE + b":about")
    with pytest.raises(
        StoreUnavailableError, match=r"\{tierllm\}:cache:\* in Redis is not of ours: delete it"
    ):
        layer.stats()


@pytest.mark.parametrize("part", ["about", "expiry", "groups", "group:gold", "entry:" + "1" * 32])
def test_parts_that_were_lost_are_made_up_for(server: Server, raw: redis.Redis, part: str) -> None:
    layer = RedisLayer(server.url, timeout_s=5, max_bytes=20 * cost("gold"))
    slots = [b"%d" % n * 32 for n in range(10)]
    for each in slots:
        layer.set(each, DATA, ttl_s=60, group="gold")
    assert raw.delete(BASE + b":" + part.encode()) == 1
    for n in range(60):
        layer.set(slot(n), DATA, ttl_s=60, group=("gold", "silver")[n % 2])
        assert layer.stats().bytes <= layer.max_bytes
    assert layer.get(slot(58)) == layer.get(slot(59)) == DATA
    assert len(held(raw)) <= 30
    layer.clear("gold")
    layer.clear()
    layer.set(A, DATA, ttl_s=60, group="gold")
    check_index(raw)
    layer.close()


MANY = 2 * MOST_EVICTED + 500


@pytest.mark.parametrize("parts", ["about", "expiry", "groups", "about groups", "expiry groups"])
def test_the_bound_holds_whatever_part_was_lost(server: Server, raw: redis.Redis, parts: str) -> None:
    layer = RedisLayer(server.url, timeout_s=5, max_bytes=MANY * (ENTRY_BYTES + SLOT_COPIES * 32 + 2))
    for n in range(MANY):
        layer.set(slot(n), b"", ttl_s=60, group="b")
    raw.delete(*(BASE + b":" + part.encode() for part in parts.split()))
    kept = [layer.set(slot(MANY + n), b"", ttl_s=60, group="a") for n in range(MANY)]
    assert sum(not each for each in kept) <= MANY // MOST_EVICTED
    assert len(held(raw)) <= MANY
    assert layer.stats().entries == len(held(raw))
    check_index(raw)
    layer.close()


def test_what_the_server_dropped_leaves_the_index(layer: RedisLayer, raw: redis.Redis) -> None:
    for n in range(60):
        layer.set(slot(n), DATA, ttl_s=60)
    raw.delete(*(BASE + b":entry:" + slot(n) for n in range(50)))
    for n in range(100, 100 + 50 // DROPPED + 1):
        layer.set(slot(n), DATA, ttl_s=60)
    assert layer.stats().entries == len(held(raw))
    check_index(raw)


def test_a_queue_that_ended_with_its_entries_is_no_loss(server: Server, raw: redis.Redis) -> None:
    """After a while in which nobody set anything: more are over than one set sweeps."""
    filling = RedisLayer(server.url, timeout_s=5)
    data = bytes(40_000)
    for n in range(SWEPT_AT_ONCE + 5):
        filling.set(slot(n), b"", ttl_s=60, group="old")
    for n in range(100, 110):
        filling.set(slot(n), data, ttl_s=60, group="gold")
    for n in range(200, 205):
        filling.set(slot(n), data, ttl_s=60, group="good")
    raw.zadd(BASE + b":expiry", {slot(n): 1 if n < 100 else 2 for n in (*range(55), *range(100, 110))})
    raw.delete(BASE + b":group:old", BASE + b":group:gold")
    layer = RedisLayer(server.url, timeout_s=5, max_bytes=filling.stats().bytes)
    assert layer.set(slot(205), data, ttl_s=60, group="good")
    assert set(held(raw)) == {slot(n) for n in range(200, 206)}
    check_index(raw)
    filling.close()
    layer.close()


def test_a_group_is_cleared_though_the_rest_of_the_index_is_lost(layer: RedisLayer, raw: redis.Redis) -> None:
    for n in range(CLEARED_AT_ONCE + 1):
        layer.set(slot(n), b"", ttl_s=60, group="gold")
    raw.delete(*(BASE + part for part in (b":about", b":expiry", b":groups")))
    layer.clear("gold")
    assert held(raw) == {}


LOST = {
    "order": (b":group:", b":expiry", b":groups"),
    "groups": (b":group:", b":groups"),
    "queue": (b":group:",),
    "sums": (b":about", b":groups"),
}


@pytest.mark.parametrize("parts", LOST.values(), ids=LOST)
def test_a_damaged_index_is_made_anew(server: Server, raw: redis.Redis, parts: tuple[bytes, ...]) -> None:
    layer = RedisLayer(server.url, timeout_s=5, max_bytes=11 * ONE)
    layer.set(A, b"", ttl_s=60, group="silver")
    for n in range(10):
        layer.set(slot(n), DATA, ttl_s=60)
    raw.delete(*(BASE + part for part in parts))
    kept = [layer.set(slot(n), DATA, ttl_s=60) for n in range(100, 110)]
    assert sum(kept) >= 8
    assert layer.get(slot(109)) == DATA
    assert layer.stats().bytes <= layer.max_bytes
    layer.close()


def keep_busy(url: str, number: int, wrong: MpQueue[str]) -> None:
    layer = RedisLayer(url, timeout_s=10, max_bytes=30 * ONE, quotas={"g0": 0.4})
    for n in range(400):
        each = slot((n * 7 + number) % 50)
        if n % 29 == number:
            layer.clear(f"g{n % 3}")
        elif n % 31 == number:
            layer.delete(each)
        else:
            layer.set(each, each * 20, ttl_s=60, group=f"g{n % 3}")
        found = layer.get(slot(n % 50))
        if found not in (None, slot(n % 50) * 20):
            wrong.put("another's data")
        if layer.stats().bytes > layer.max_bytes:
            wrong.put("above the bound")
    layer.close()
    wrong.put("done")


def test_four_processes_keep_one_index(server: Server, raw: redis.Redis) -> None:
    wrong: MpQueue[str] = SPAWN.Queue()
    processes = [SPAWN.Process(target=keep_busy, args=(server.url, n, wrong)) for n in range(4)]
    for process in processes:
        process.start()
    said = [wrong.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert said == ["done"] * 4
    check_index(raw)


# -- settings --------------------------------------------------------------------


@pytest.mark.parametrize("decoded", [False, True], ids=["bytes", "text"])
async def test_a_client_of_your_own_is_used_and_never_closed(server: Server, decoded: bool) -> None:
    mine = redis.Redis(unix_socket_path=server.socket, decode_responses=decoded, socket_timeout=5)
    layer = RedisLayer(client=mine)
    assert layer.aget is not None
    assert layer.aset is not None
    value = bytes(range(256))
    assert layer.set(A, value, ttl_s=60, group="gold")
    assert layer.get(A) == await layer.aget(A) == value
    assert await layer.aset(B, value, 60, "ä\udc80")
    layer.clear("gold")
    layer.clear("ä\udc80")
    assert layer.get(A) is layer.get(B) is None
    await layer.aclose()
    assert mine.ping()
    mine.close()


BAD: dict[str, dict[str, Any]] = {
    "nothing": {},
    "both": {"url": "redis://h", "client": object()},
    "no-url": {"url": "h:6379 secret"},
    "braces": {"url": "redis://h", "namespace": "{a}"},
    "no-namespace": {"url": "redis://h", "namespace": ""},
    "small": {"url": "redis://h", "max_bytes": 4095},
    "no-bound": {"url": "redis://h", "max_bytes": None},
    "half-bytes": {"url": "redis://h", "max_bytes": 1e9},
    "true": {"url": "redis://h", "max_bytes": True},
    "timeout": {"url": "redis://h", "timeout_s": 0},
    "timeout-nan": {"url": "redis://h", "timeout_s": float("nan")},
    "retry": {"url": "redis://h", "retry_s": -1},
    "retry-inf": {"url": "redis://h", "retry_s": float("inf")},
    "quota": {"url": "redis://h", "quotas": {"gold": 1.5}},
    "quotas": {"url": "redis://h", "quotas": {"gold": 0.6, "silver": 0.6}},
    "asyncio": {"client": redis.asyncio.Redis()},
}


@pytest.mark.parametrize("wrong", BAD.values(), ids=BAD)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisLayer(**wrong)
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith("RedisLayer")


def test_no_password_is_shown(caplog: pytest.LogCaptureFixture, clock: Manual, told: list[Event]) -> None:
    layer = RedisLayer("redis://me:hidden@127.0.0.1:1/0", clock=clock)
    layer.emit = told.append
    with pytest.raises(StoreUnavailableError) as caught:
        layer.set(A, b"words", ttl_s=60)
    shown = f"{layer!r} {caught.value} {told} {caplog.text}"
    assert "127.0.0.1:1/0" in shown
    assert "hidden" not in shown
    assert "words" not in shown


def test_a_child_process_starts_anew(layer: RedisLayer) -> None:
    layer.set(A, b"a", ttl_s=60)
    assert layer.get(A) == b"a"
    before = layer._clients.for_threads()
    layer.renew()
    assert layer._clients.for_threads() is not before
    assert layer.get(A) == b"a"
    assert layer.stats()[:3] == (1, 0, 0)

"""Many at once, long silences, lost data and foreign values: what Redis bears."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from stores.ground import Server, eventually, line, standing, used
from tierllm import Budget, Deployment, Price, Tier, TieredClient
from tierllm.errors import StoreUnavailableError
from tierllm.events import Event, StoreTrouble
from tierllm.stores import RedisStore, Settlement
from tierllm.stores.redis_clients import MOST_CONNECTIONS
from tierllm.stores.redis_lua import CAP_MS, SWEPT_AT_ONCE
from tierllm.stores.trouble import NotDone
from tierllm.testing import FakeProvider


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def store(server: Server, told: list[Event]) -> Iterator[RedisStore]:
    store = RedisStore(server.url, timeout_s=5)
    store.listen(told.append)
    yield store
    store.close()


@pytest.fixture
def own_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        running = Server(Path(directory), "--port", "0", "--appendonly", "yes", "--appendfsync", "always")
        yield running
        running.stop()


# -- many at once ----------------------------------------------------------------


async def test_a_crowd_of_calls_is_served(server: Server, told: list[Event]) -> None:
    price = Price(input_usd_per_mtok=1, output_usd_per_mtok=1)
    store = RedisStore(server.url, timeout_s=5)
    client = TieredClient(
        tiers=[Tier("gold", [Deployment("m", FakeProvider(), price=price)], max_concurrency=1000)],
        budgets=[Budget(hard_calls=300, window="day", store=store)],
        listeners=[told.append],
    )
    await asyncio.gather(*(client.acomplete("hi", sla="gold", max_tokens=5) for _ in range(300)))
    await client.aclose()
    assert not [event for event in told if isinstance(event, StoreTrouble)]
    with server.client() as looking:
        assert len(looking.client_list()) <= 2 * MOST_CONNECTIONS


def test_a_crowd_of_threads_is_served(own_server: Server, told: list[Event]) -> None:
    store = RedisStore(own_server.url, timeout_s=10)
    store.listen(told.append)
    served: list[bool] = []
    threads = [
        threading.Thread(target=lambda: served.append(store.reserve(store.hold([line("u", 1)])).ok))
        for _ in range(300)
    ]
    own_server.freeze()
    for thread in threads:
        thread.start()
    own_server.thaw()
    for thread in threads:
        thread.join()
    assert served == [True] * 300
    assert not told
    with own_server.client() as looking:
        assert len(looking.client_list()) <= MOST_CONNECTIONS + 1
    store._lease.stop()
    store.close()


def test_a_pool_that_is_empty_is_no_trouble_of_the_server(server: Server, told: list[Event]) -> None:
    pool = redis.ConnectionPool(
        connection_class=redis.UnixDomainSocketConnection, path=server.socket, max_connections=1
    )
    store = RedisStore(client=redis.Redis(connection_pool=pool))
    store.listen(told.append)
    assert store._clients.most == 1
    taken = pool.get_connection()
    hold = store.hold([line("u", 1)])
    with pytest.raises(NotDone, match="busy"):
        store.reserve(hold)
    store.give_back(hold)
    assert not store.outbox
    pool.release(taken)
    used(store, [line("u", 1)], [1])  # at once
    assert not told
    store.close()
    pool.disconnect()


async def test_an_answer_that_the_loop_was_late_for_is_no_trouble(server: Server, told: list[Event]) -> None:
    store = RedisStore(server.url, timeout_s=0.05)
    store.listen(told.append)
    assert store.areserve is not None
    assert (await store.areserve(store.hold([line("u", 1)]))).ok
    for steps in range(8):
        task = asyncio.ensure_future(store.areserve(store.hold([line("u", 1)])))  # type: ignore[arg-type]
        for _ in range(steps):
            await asyncio.sleep(0)
        time.sleep(0.12)  # somebody keeps the loop busy
        assert (await task).ok
    assert not told
    store._lease.stop()
    await store.aclose()


# -- leases ----------------------------------------------------------------------


@pytest.mark.parametrize("silence", ["frozen", "restarted"])
def test_a_silence_longer_than_a_lease_ends_no_living_lease(own_server: Server, silence: str) -> None:
    store = RedisStore(own_server.url, timeout_s=0.2, retry_s=0.05, lease_s=1)
    other = RedisStore(own_server.url, timeout_s=5, retry_s=0, lease_s=1)
    hold = store.hold([line("u", 10, 10)])
    assert store.reserve(hold).ok
    if silence == "frozen":
        own_server.freeze()
        time.sleep(1.3)
        own_server.thaw()
    else:
        own_server.stop()
        time.sleep(1.3)
        own_server.start()
    ends = time.monotonic() + 1.5
    while time.monotonic() < ends:
        assert not other.reserve(other.hold([line("u", 10, 10)])).ok
        time.sleep(0.05)
    store._lease.stop()  # as if it died
    eventually(lambda: other.reserve(other.hold([line("u", 10, 10)])).ok)
    other._lease.stop()
    store.close()
    other.close()


def dead(server: Server, store: RedisStore, holds: int, account: str = "u") -> RedisStore:
    """A store whose process died with so many holds open, long ago."""
    gone = RedisStore(server.url, timeout_s=5)
    for _ in range(holds):
        assert gone.reserve(gone.hold([line(account, 1)])).ok
    gone._lease.stop()
    with server.client() as client:
        client.zadd("{tierllm}:owners", {gone.owner: 1})
    return gone


def test_many_holds_of_the_dead_are_given_back_in_turns(server: Server, store: RedisStore) -> None:
    dead(server, store, SWEPT_AT_ONCE + 100)
    dead(server, store, 1, "v")
    store.renew_lease()
    assert 0 < standing(store, "u").reserved <= 101
    store.end_lease()  # sweeps too
    store.end_lease()
    assert (standing(store, "u").reserved, standing(store, "v").reserved) == (0, 0)
    with server.client() as client:
        assert client.zcard("{tierllm}:owners") == 0


def test_what_is_held_is_known_for_longer_than_any_account(server: Server, store: RedisStore) -> None:
    store.reserve(store.hold([line("u", 1)]))
    year_ms = 366 * 86_400_000
    with server.client() as client:
        for key in ("{tierllm}:owners", f"{{tierllm}}:holds:{store.owner}"):
            assert CAP_MS - year_ms < client.pttl(key) <= CAP_MS
        client.delete("{tierllm}:owners")
        store.renew_lease()
        assert client.zcard("{tierllm}:owners") == 1
        assert client.pttl("{tierllm}:owners") > 0
    store._lease.stop()


def test_a_settlement_takes_no_more_than_is_reserved(server: Server, store: RedisStore) -> None:
    hold = store.hold([line("u", 10)])
    store.reserve(hold)
    with server.client() as client:
        client.hset("{tierllm}:account:u", "r", 4)
    store.post(Settlement(hold, (3,), (0,)))
    assert store.flush()
    assert standing(store, "u") == (3, 0, 0)


def test_slots_that_are_over_go_oldest_first(store: RedisStore) -> None:
    holds = [store.hold([line("u", 1, None, slot, 520)]) for slot in range(520)]
    for hold in holds:
        store.reserve(hold)
    store.apply([Settlement(hold, (1,), (hold.lines[0].slot,)) for hold in holds])
    assert standing(store, "u").first_slot in (8, 9)  # a floor of 512 is kept, whatever is over
    assert standing(store, "u").settled in (511, 512)


# -- lost data, foreign values ---------------------------------------------------


def test_lost_data_are_told_once(server: Server, store: RedisStore, told: list[Event]) -> None:
    hold = store.hold([line("u", 50, 100)])
    assert store.reserve(hold).ok
    with server.client() as client:
        client.flushall()
    store.post(Settlement(hold, (50,), (0,)))
    assert store.flush()
    used(store, [line("u", 1)], [1])
    (event,) = told
    assert isinstance(event, StoreTrouble)
    assert not event.ok
    assert "forgotten" in event.text


FOREIGN = [b"garbage", b"\x93\xa1u\xa15", b"\xff" * 9, b"", b"\x92\xa1u\xa3abc", b"\xa3abc", b"\x92\x01\x02"]


@pytest.mark.parametrize("record", FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_record_of_a_hold_costs_itself_alone(
    server: Server, store: RedisStore, record: bytes
) -> None:
    used(store, [line("u", 10)], [10])
    gone = dead(server, store, 1)
    with server.client() as client:
        client.hset(f"{{tierllm}}:holds:{gone.owner}", "99", record)
        client.zadd("{tierllm}:owners", {"nobody": 1})
        client.set("{tierllm}:holds:nobody", "x")
        assert not store.reserve(store.hold([line("u", 1, 10)])).ok
        assert client.zrange("{tierllm}:owners", 0, -1) == [store.owner.encode()]
    assert standing(store, "u") == (10, 0, 0)


def test_a_foreign_document_leaves_the_rest_alone(
    server: Server, store: RedisStore, told: list[Event]
) -> None:
    with server.client() as client:
        client.rpush("{tierllm}:document:d", "x")
    with pytest.raises(StoreUnavailableError, match="document:d"):
        store.load("d")
    with pytest.raises(StoreUnavailableError, match="not of ours"):
        store.swap("d", b"x", None)
    used(store, [line("u", 1)], [1])
    assert not told


@pytest.mark.parametrize("value", ["5.0", "1e3", "99999999999999999999", "nan", "0x10"])
def test_numbers_that_are_not_of_ours(server: Server, store: RedisStore, value: str) -> None:
    hold = store.hold([line("v", 5), line("u", 5)])
    assert store.reserve(hold).ok
    with server.client() as client:
        client.hset("{tierllm}:account:u", "r", value)
        with pytest.raises(StoreUnavailableError, match="account:u"):
            store.reserve(store.hold([line("v", 5), line("u", 5)]))
        store.post(Settlement(hold, (1, 1), (0, 0)))
        assert store.flush()
    assert standing(store, "v") == (1, 0, 0)  # nothing stopped half-way


def test_a_name_that_cannot_be_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    store = RedisStore(f"redis://{'a' * 70}.example:6379")
    with pytest.raises(StoreUnavailableError):
        store.load("d")
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_leaves_the_parents_sockets_alone(server: Server) -> None:
    """Not even closed by a finalizer: it would take them out of the event loop that both share."""
    store = RedisStore(server.url, timeout_s=5)

    async def use() -> None:
        assert store.astandings is not None
        await store.astandings([line("u")])
        child = os.fork()
        if not child:
            signal.alarm(60)
            asyncio.events._set_running_loop(None)
            import gc

            gc.collect()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        async with asyncio.timeout(20):
            await store.astandings([line("u")])
        await store.aclose()

    asyncio.run(use())
    store.close()

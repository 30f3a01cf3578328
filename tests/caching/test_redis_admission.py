"""Which entries of the Redis layer go: keys that come once push out each other, not what is asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.ground import Server
from tierllm.caching.redis_layer import ENTRY_BYTES, ROUNDING, SLOT_COPIES, RedisLayer
from tierllm.caching.redis_scripts import LEAST_MARKS, MOST_SPARED, PROBATION

BASE = b"{tierllm}:cache"
QUEUE, GONE, ENTRY = BASE + b":group:", BASE + b":gone", BASE + b":entry:"
DATA = b"x" * 1000
ONE = ENTRY_BYTES + SLOT_COPIES * 32 + len(DATA) + len(DATA) // ROUNDING
MAIN = 2**52
LONG_AGO_US = 10_000_000


def slot(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.fixture(scope="module")
def running_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        running = Server(Path(directory))
        yield running
        running.stop()


@pytest.fixture
def raw(running_server: Server) -> Iterator[redis.Redis]:
    with running_server.client() as client:
        client.flushall()
        yield client


Making = Callable[[int], RedisLayer]


@pytest.fixture
def make(running_server: Server, raw: redis.Redis) -> Iterator[Making]:
    made: list[RedisLayer] = []

    def make(entries: int) -> RedisLayer:
        """A layer with room for so many."""
        made.append(RedisLayer(running_server.url, timeout_s=5, max_bytes=entries * ONE))
        return made[-1]

    yield make
    for each in made:
        each.close()


def put(layer: RedisLayer, *numbers: int) -> None:
    for each in numbers:
        assert layer.set(slot(each), DATA, ttl_s=60)


def ask_for(raw: redis.Redis, *numbers: int) -> None:
    """As if each had waited for long before it was asked for, just now: the server's clock is its own."""
    for each in numbers:
        assert raw.get(ENTRY + slot(each)) is not None
        raw.zadd(QUEUE, {slot(each): raw.zscore(QUEUE, slot(each)) - LONG_AGO_US})


def held(raw: redis.Redis) -> set[int]:
    return {int.from_bytes(key.removeprefix(ENTRY), "big") for key in raw.keys(ENTRY + b"*")}


def main_part(raw: redis.Redis) -> set[int]:
    return {int.from_bytes(each, "big") for each in raw.zrangebyscore(QUEUE, MAIN, "+inf")}


def test_a_scan_leaves_what_was_asked_for(raw: redis.Redis, make: Making) -> None:
    layer = make(40)
    put(layer, *range(40))
    asked = set(range(0, 36, 2))
    assert len(asked) <= MOST_SPARED
    ask_for(raw, *asked)
    put(layer, *range(1000, 1400))
    assert main_part(raw) == asked
    assert held(raw) == asked | set(range(1400 - 40 + len(asked), 1400))
    assert layer.stats().entries == 40


def test_the_main_part_gives_once_few_are_on_probation(raw: redis.Redis, make: Making) -> None:
    layer = make(20)
    for _ in range(2):
        put(layer, *range(20))
    assert main_part(raw) == set(range(20))
    put(layer, *range(100, 100 + 10 * PROBATION))
    most = 20 // PROBATION + 1
    assert len(main_part(raw)) == 20 - most
    assert main_part(raw) == set(range(most, 20))


@pytest.mark.parametrize("count", [3, 5, 9])
def test_few_have_room_for_a_new_one(raw: redis.Redis, make: Making, count: int) -> None:
    layer = make(count)
    for _ in range(2):
        put(layer, *range(count))
    assert main_part(raw) == set(range(count))
    put(layer, 100)
    assert held(raw) == {*range(1, count), 100}


def test_in_the_main_part_asking_buys_a_round(raw: redis.Redis, make: Making) -> None:
    layer = make(5)
    for _ in range(2):
        put(layer, *range(5))
    ask_for(raw, 0)
    for again in range(100, 103):  # they are set again, so each pushes the next out of the main part
        put(layer, again, again)
    assert held(raw) == {0, 4, 100, 101, 102}
    assert raw.exists(GONE) == 0  # nobody went from probation
    put(layer, 103, 103, 104, 104)  # not asked for since: now its turn is over
    assert held(raw) == {100, 101, 102, 103, 104}


def test_whoever_comes_back_soon_is_in_the_main_part_at_once(raw: redis.Redis, make: Making) -> None:
    layer = make(20)
    put(layer, *range(21))
    assert held(raw) == set(range(1, 21))
    put(layer, 0)
    assert main_part(raw) == {0}
    put(layer, *range(100, 100 + 20 * LEAST_MARKS), 2)
    assert main_part(raw) == {0}  # and who comes back late is not


def test_what_was_deleted_did_not_go_from_probation(raw: redis.Redis, make: Making) -> None:
    layer = make(20)
    put(layer, 0)
    layer.delete(slot(0))
    put(layer, 0)
    assert main_part(raw) == set()


def test_marks_are_few_and_live_no_longer_than_the_index(raw: redis.Redis, make: Making) -> None:
    layer = make(LEAST_MARKS + 1)
    put(layer, *range(500))
    assert 0 < raw.strlen(GONE) <= 4 * LEAST_MARKS
    assert 60_000 < raw.pttl(GONE) <= 120_000
    layer.clear()
    assert raw.keys("*") == []


def test_marks_of_others_are_no_marks(raw: redis.Redis, make: Making) -> None:
    raw.rpush(GONE, b"not yours")
    layer = make(10)
    put(layer, *range(30))
    assert held(raw) == set(range(20, 30))
    assert main_part(raw) == set()


def test_an_index_of_times_alone_is_on_probation(raw: redis.Redis, make: Making) -> None:
    layer = make(20)
    put(layer, *range(20))
    ask_for(raw, 3, 7)
    assert all(score < MAIN for _, score in raw.zrange(QUEUE, 0, -1, withscores=True))
    put(layer, *range(100, 118))
    assert held(raw) == {3, 7, *range(100, 118)}
    assert main_part(raw) == {3, 7}


def test_whoever_does_not_know_of_parts_takes_from_probation(raw: redis.Redis, make: Making) -> None:
    """The order of the queue alone says so: the least first."""
    layer = make(20)
    put(layer, 0, 0, *range(1, 20))
    assert raw.zrange(QUEUE, 0, -1) == [slot(each) for each in (*range(1, 20), 0)]


steps = st.lists(
    st.tuples(st.sampled_from(["set", "ask", "delete"]), st.integers(0, 30), st.sampled_from(["", "gold"])),
    min_size=30,
    max_size=120,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_the_bound_holds_and_the_index_is_whole(
    raw: redis.Redis, make: Making, taken: list[tuple[str, int, str]]
) -> None:
    raw.flushall()
    layer = make(12)
    for what, number, group in taken:
        if what == "set":
            assert layer.set(slot(number), DATA, ttl_s=60, group=group)
            assert layer.get(slot(number)) == DATA
        elif what == "delete":
            layer.delete(slot(number))
        else:
            score = raw.zscore(QUEUE, slot(number))
            if score is not None:
                ask_for(raw, number)
        assert layer.stats().bytes <= layer.max_bytes
    queued = [each for group in (b"", b"gold") for each in raw.zrange(QUEUE + group, 0, -1)]
    assert len(queued) == len(set(queued)) == layer.stats().entries
    assert {int.from_bytes(each, "big") for each in queued} == held(raw)

"""The Redis layer between processes: notices that survive the loss of what Redis keeps, news, claims."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from multiprocessing.queues import Queue as MpQueue
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.ground import SPAWN, Server, eventually
from tierllm.caching import redis_board, redis_known, redis_news
from tierllm.caching.layer import Notice
from tierllm.caching.redis_board import RedisBoard
from tierllm.caching.redis_known import Known, Saying
from tierllm.caching.redis_layer import RedisLayer
from tierllm.errors import ConfigError, StoreUnavailableError
from tierllm.events import Event, StoreTrouble

BASE = b"{tierllm}:cache"
A, B = (bytes([n]) * 32 for n in (1, 2))


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
        if running.process.poll() is None:
            running.thaw()
        running.stop()


@pytest.fixture
def raw(server: Server) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


Making = Callable[..., RedisLayer]


@pytest.fixture
def make() -> Iterator[Making]:
    made: list[RedisLayer] = []

    def make(server: Server, **settings: Any) -> RedisLayer:
        made.append(RedisLayer(server.url, **{"timeout_s": 5.0, "retry_s": 0.05, **settings}))
        return made[-1]

    yield make
    for layer in made:
        layer.close()
    eventually(lambda: not listeners())


def listeners() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tierllm-news"]


def posted(layer: RedisLayer, *names: str) -> int:
    return layer.post([Notice(name, 0) for name in names])


def names(layer: RedisLayer, since: int = 0) -> dict[str, int]:
    return {each.name: each.number for each in layer.board(since).notices}


def number_of(layer: RedisLayer) -> int:
    """``heard`` without listening."""
    return layer._board.known.number


# -- the board ---------------------------------------------------------------------


def test_numbers_grow_across_layers_and_are_above_the_time(server: Server, make: Making) -> None:
    one, other = make(server), make(server)
    began_ms = int(time.time() * 1000)
    numbers = [posted((one, other)[n % 2], f"doc:{n}") for n in range(20)]
    assert numbers == sorted(set(numbers))
    assert numbers[0] >= began_ms - 1
    far = numbers[-1] + 10**6
    assert one.post([Notice("a", 5), Notice("b", far), Notice("c", 0)]) == far
    assert posted(other, "d") == far + 1
    assert number_of(one) >= far
    assert names(other, far - 1) == {"a": far, "b": far, "c": far, "d": far + 1}


def test_a_name_has_its_last_notice_and_its_content(server: Server, make: Making) -> None:
    one, other = make(server), make(server)
    contents = {"ä\udc80": "hash", "": "", "none": None, "=": "=", "x" * 1000: "\x00 1 2\n"}
    one.post([Notice(name, 0, "old") for name in contents])
    number = other.post([Notice(name, 0, content) for name, content in contents.items()])
    board = one.board()
    assert (board.number, board.floor) == (number, 0)
    assert {each.name: each.content for each in board.notices} == contents
    assert one.board(number).notices == ()
    assert one.board(10**15).number == number
    assert other.post([]) > number


def test_the_older_half_is_summed_up(server: Server, make: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_board, "MOST_NOTICES", 10)
    layer = make(server)
    numbers = {f"doc:{n}": posted(layer, f"doc:{n}") for n in range(11)}
    board = layer.board()
    assert {each.name: each.number for each in board.notices} == dict(list(numbers.items())[6:])
    assert board.floor == numbers["doc:5"]
    posted(layer, *(f"more:{n}" for n in range(2000)))
    assert len(layer.board().notices) == 5
    assert layer.board().floor == layer.board().number
    with server.client() as raw:
        raw.flushall()
    layer.get(A)
    assert layer.board().floor == layer.board().number == number_of(layer)


@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-random"])
def test_a_server_that_makes_room_leaves_the_board_alone(
    own_server: Server, make: Making, policy: str
) -> None:
    layer = make(own_server)
    number = posted(layer, "a", "b")
    with own_server.client() as raw:
        raw.config_set("maxmemory-policy", policy)
        raw.config_set("maxmemory", raw.info("memory")["used_memory"] + 2**18)
        for n in range(1000):
            layer.set(n.to_bytes(32, "big"), bytes(2000), ttl_s=60)
        assert raw.info("stats")["evicted_keys"] > 50
    assert make(own_server).board() == (number, 0, (Notice("a", number), Notice("b", number)))


@pytest.mark.parametrize("number", [-1, 2**52 + 1, 10**30], ids=str)
def test_numbers_that_cannot_be_counted_on(server: Server, make: Making, number: int) -> None:
    layer = make(server)
    with pytest.raises(ConfigError, match="whole number"):
        layer.post([Notice("a", number)])
    assert layer.board() == (0, 0, ())


def test_a_board_that_counts_no_further_says_so(server: Server, raw: redis.Redis, make: Making) -> None:
    layer = make(server)
    assert layer.post([Notice("a", 2**52)]) == 2**52
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="cache:number in Redis counts no further: delete it"):
            posted(layer, "b")


def test_a_server_without_room_takes_notices_and_claims(own_server: Server, make: Making) -> None:
    layer = make(own_server)
    with own_server.client() as raw:
        raw.config_set("maxmemory-policy", "noeviction")
        raw.config_set("maxmemory", 1)
        assert not layer.set(A, b"a", ttl_s=60)
        number = posted(layer, "doc")
        assert posted(layer, "other") > number
        assert layer.claim(A, b"me", 60)
        assert not layer.claim(A, b"you", 60)
        assert set(names(layer)) == {"doc", "other"}


# -- loss --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["get", "aget", "look", "board", "post"])
async def test_a_flush_is_noticed_and_notices_are_put_back(
    server: Server, raw: redis.Redis, make: Making, how: str
) -> None:
    one, other, new = make(server), make(server), make(server)
    assert one.aget is not None
    one.post([Notice("mine", 0, "hash")])
    posted(other, "theirs")
    before = one.board()
    raw.flushall()
    if how == "aget":
        await one.aget(A)
    elif how == "post":
        posted(one, "next")
    else:
        {"get": lambda: one.get(A), "look": one._board.look, "board": one.board}[how]()
    found = {each.name: each for each in new.board().notices}
    assert {"mine", "theirs"} <= set(found)
    assert found["mine"].content == "hash"
    if how == "post":
        assert min(each.number for each in found.values()) > before.number
    else:
        assert new.board() == before
    assert new.board().floor == 0
    assert number_of(one) == number_of(new) == new.board().number
    await one.aclose()


def test_others_that_posted_meanwhile_hide_nothing(server: Server, raw: redis.Redis, make: Making) -> None:
    old, fresh, reader = make(server), make(server), make(server)
    posted(old, "old")
    raw.flushall()
    number = posted(fresh, "fresh")
    since = reader.board().number
    assert since == number >= number_of(old)
    old.get(A)
    reader.get(A)
    assert number_of(reader) > since
    assert set(names(reader, since)) == {"old"}
    assert set(names(fresh)) == {"old", "fresh"}
    assert fresh.board().floor == 0


def test_what_was_posted_below_a_number_known_gets_one_above(
    server: Server, raw: redis.Redis, make: Making
) -> None:
    ahead, fresh = make(server), make(server)
    number = ahead.post([Notice("old", int(time.time() * 1000) + 10**6)])  # by a clock that is ahead
    raw.flushall()
    assert posted(fresh, "fresh") < number
    ahead.get(A)
    assert min(names(fresh).values()) > number
    assert set(names(fresh)) == {"old", "fresh"}


@pytest.mark.parametrize("first", ["knows", "stranger"])
def test_an_old_snapshot_is_noticed(own_server: Server, make: Making, first: str) -> None:
    knows, stranger = make(own_server), make(own_server)
    posted(knows, "a")
    knows.set(A, b"a", ttl_s=60)
    with own_server.client() as raw:
        raw.save()
    posted(knows, "b")
    knows.delete(A)
    own_server.stop()
    own_server.start()
    if first == "stranger":
        assert posted(stranger, "c") > number_of(knows)
    assert knows.get(A) == b"a"  # it is back; what is not valid any more is known all the same
    assert {"a", "b"} <= set(names(stranger))
    assert stranger.board().floor == 0
    assert number_of(stranger) == number_of(knows)


def test_a_restart_that_loses_nothing_changes_nothing(own_server: Server, make: Making) -> None:
    one, other = make(own_server), make(own_server)
    posted(one, "a")
    other.get(A)  # heard of, not read
    with own_server.client() as raw:
        raw.save()
    own_server.stop()
    own_server.start()
    number = posted(one, "b")
    other.get(A)
    assert number_of(other) == number
    assert one.board().floor == 0


def test_who_has_not_read_all_that_he_heard_of_sums_it_up(
    server: Server, raw: redis.Redis, make: Making
) -> None:
    one, other = make(server), make(server)
    posted(one, "read")
    other.board()
    number = posted(one, "unread")
    other.get(A)
    assert number_of(other) == number
    raw.flushall()
    other.get(A)
    assert make(server).board() == (number, number, ())
    posted(other, "next")
    assert one.board().floor == number


def test_who_has_not_read_all_leaves_it_to_who_has(server: Server, raw: redis.Redis, make: Making) -> None:
    one, other = make(server), make(server)
    posted(one, "read")
    posted(one, "unread")
    other.get(A)
    raw.flushall()
    one.get(A)
    other.get(A)
    assert one.board() == other.board()
    assert (set(names(other)), one.board().floor) == ({"read", "unread"}, 0)


def test_many_are_put_back_in_steps(
    server: Server, raw: redis.Redis, make: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_known, "AT_ONCE", 7)
    layer = make(server)
    for n in range(10):
        posted(layer, *(f"{n}:{each}" for each in range(1 + n * n % 17)))
    before = layer.board()
    raw.flushall()
    layer.get(A)
    assert make(server).board() == before
    steps = list(layer._board.known.to_put_back())
    numbers = [set(step[7::3]) for step in steps]
    assert len(steps) > 5
    assert all(not one & other for one, other in pairwise(numbers))


@pytest.mark.parametrize("part", ["board", "contents", "number"])
def test_a_board_that_lost_a_part_is_safe(server: Server, raw: redis.Redis, make: Making, part: str) -> None:
    one = make(server)
    posted(one, "a")
    number = posted(one, "b")
    assert raw.delete(BASE + b":" + part.encode()) == 1
    board = make(server).board()  # whoever knows nothing
    assert board.number == board.floor == number
    one.get(A)
    after = make(server).board()
    assert after.floor >= number or {each.name for each in after.notices} == {"a", "b"}
    assert posted(one, "c") > number
    assert make(server).board() == one.board()


@pytest.mark.parametrize("garbage", [b"", b"x", b"1 2 3", b"-1 0 0 a", b"1e9 0 0 a", b"\xff" * 50], ids=repr)
def test_a_board_that_says_nonsense_is_put_right(
    server: Server, raw: redis.Redis, make: Making, garbage: bytes
) -> None:
    one = make(server)
    number = posted(one, "a")
    raw.set(BASE + b":number", garbage)
    assert one.get(A) is None
    assert number_of(one) >= number
    raw.set(BASE + b":number", garbage)
    stranger = make(server)
    stranger.get(A)
    assert number_of(stranger) >= number
    assert stranger.board().floor >= number
    assert posted(stranger, "b") > number


@pytest.mark.parametrize("part", ["board", "contents"])
def test_a_foreign_value_on_the_board_is_told(
    server: Server, raw: redis.Redis, make: Making, part: str
) -> None:
    layer = make(server)
    layer.set(A, b"a", ttl_s=60)
    posted(layer, "a")
    raw.delete(BASE + b":" + part.encode())
    raw.set(BASE + b":" + part.encode(), b"not yours")
    with pytest.raises(StoreUnavailableError, match="delete it"):
        posted(layer, "b")
    with pytest.raises(StoreUnavailableError, match="delete it"):
        layer.board()
    assert layer.get(A) == b"a"
    raw.delete(BASE + b":" + part.encode())
    assert posted(layer, "b") > 0


def test_what_cannot_be_put_back_is_trouble(server: Server, raw: redis.Redis, make: Making) -> None:
    layer = make(server)
    layer.set(A, b"a", ttl_s=60)
    posted(layer, "a")
    entry = raw.dump(BASE + b":entry:" + A)
    raw.flushall()
    raw.restore(BASE + b":entry:" + A, 60_000, entry)
    raw.set(BASE + b":board", b"not yours")
    with pytest.raises(StoreUnavailableError):
        layer.get(A)
    raw.delete(BASE + b":board")
    assert layer.get(A) == b"a"
    assert set(names(layer)) == {"a"}


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("post"), st.integers(0, 2), st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3)
        ),
        st.tuples(st.just("read"), st.integers(0, 2)),
        st.tuples(st.just("get"), st.integers(0, 2)),
        st.tuples(st.just("flush")),
        st.tuples(st.just("lose"), st.sampled_from(["board", "contents", "number"])),
        st.tuples(st.just("save")),
        st.tuples(st.just("restart")),
    ),
    max_size=20,
)


def tried(step: Callable[[], Any]) -> Any:
    """After a restart every connection fails once."""
    for _ in range(3):
        try:
            return step()
        except StoreUnavailableError:
            pass
    return step()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.integers(4, 8))
def test_no_notice_is_ever_lost(own_server: Server, steps: list[tuple[Any, ...]], most: int) -> None:
    """Whatever Redis loses: once all have asked for something, every reader knows every notice."""
    with pytest.MonkeyPatch.context() as patch, own_server.client() as raw:
        patch.setattr(redis_board, "MOST_NOTICES", most)
        raw.flushall()
        raw.save()
        layers = [RedisLayer(own_server.url, timeout_s=5, retry_s=0) for _ in range(3)]
        read, floors = [0, 0, 0], [0, 0, 0]
        views: list[dict[str, int]] = [{}, {}, {}]
        told: dict[str, int] = {}
        lost = False

        def follow(who: int) -> None:
            before = number_of(layers[who])
            board = tried(lambda: layers[who].board(read[who]))
            assert board.number == number_of(layers[who]) >= before
            read[who], floors[who] = board.number, max(floors[who], board.floor)
            views[who].update({each.name: each.number for each in board.notices})

        for kind, *rest in steps:
            lost |= kind in ("flush", "lose", "restart")
            if kind == "post":
                who, numbers = rest
                heard = number_of(layers[who])
                highest = max(number_of(layer) for layer in layers)  # entries may have been made with it
                number = tried(lambda who=who, numbers=numbers: posted(layers[who], *numbers))
                assert number > heard
                assert number > highest or lost
                told.update(dict.fromkeys(numbers, number))
            elif kind == "read":
                follow(rest[0])
            elif kind == "get":
                heard = number_of(layers[rest[0]])
                tried(lambda who=rest[0]: layers[who].get(A))
                assert number_of(layers[rest[0]]) >= heard
            elif kind == "flush":
                raw.flushall()
            elif kind == "lose":
                raw.delete(BASE + b":" + rest[0].encode())
            elif kind == "save":
                raw.save()
            else:  # what was there when it was saved is there again
                own_server.stop()
                own_server.start()
                raw.connection_pool.disconnect()
        for _ in range(3):
            for layer in layers:
                tried(lambda layer=layer: layer.get(A))
        for who in range(3):
            follow(who)
            for name, number in told.items():
                assert max(views[who].get(name, 0), floors[who]) >= number
        assert len({number_of(layer) for layer in layers}) == 1
        for layer in layers:
            layer.close()


def test_what_a_process_remembers_is_bounded() -> None:
    known = Known(10)
    for number in range(1, 1000):
        known.posted([Notice(f"doc:{number}", 0)], before=number - 1, number=number)
    assert len(known._notices) <= 10
    assert known._floor >= 990
    known.adopt(b"999 0 5 run.1")
    (step,) = known.to_put_back()
    assert step[:6] == [999, b"run.1", known._floor, 999, 1, 1]


def test_an_older_word_heard_later_takes_nothing_back() -> None:
    known = Known(10)
    assert known.takes(None, known.said)
    assert known.takes(b"7 0 1 run.1", known.said)
    assert not known.takes(b"6 0 1 run.1", known.said)
    assert not known.takes(None, known.said)
    assert not known.takes(b"8 0 1 run.2", known.said)
    assert known.takes(b"7 0 1 run.1", known.said)
    assert known.number == 7
    known.adopt(b"3 0 1 run.2")
    assert known.number == 7
    assert not known.takes(b"3 0 1 run.2", known.said)
    assert Saying.read(b"3 0 1 run.2") == (3, 0, b"run.2")


def test_what_was_heard_since_it_was_asked_is_no_loss() -> None:
    known = Known(10)
    knew_nothing = known.said
    assert known.takes(b"5 0 1 run.1", known.said)
    assert known.takes(None, knew_nothing)
    knew = known.said
    assert known.takes(b"7 0 1 run.1", known.said)
    assert known.takes(b"6 0 1 run.1", knew)
    assert known.number == 7
    assert not known.takes(b"4 0 1 run.1", knew)
    known.adopt(b"8 0 1 run.2")
    assert known.takes(b"6 0 1 run.1", knew)
    assert known.takes(b"8 0 1 run.2", knew)
    assert known.takes(b"9 0 1 run.2", knew)
    assert not known.takes(b"9 0 1 run.3", knew)
    assert known.said == (9, 0, b"run.2")


TOO_MUCH = [b"9" * 5000 + b" 0 0 a.b", b"%d 0 0 a.b" % 10**30, b"1 %d 0 a.b" % 2**53, b"1 0 0 " + b"a" * 200]


WHAT = ["digits", "number", "floor", "origin"]


@pytest.mark.parametrize("said", TOO_MUCH, ids=WHAT)
def test_what_no_board_says_is_not_believed(
    server: Server, raw: redis.Redis, make: Making, said: bytes
) -> None:
    layer, stranger = make(server), make(server)
    number = posted(layer, "a")
    for one in (layer, stranger):
        for step in (partial(one.get, A), one.board, partial(posted, one, "b")):
            raw.set(BASE + b":number", said)
            step()
            assert number <= number_of(one) < 2**45
    assert set(names(layer)) | set(names(stranger)) == {"a", "b"}


@pytest.mark.parametrize("score", ["inf", "-inf", "1e300"])
def test_a_score_that_no_board_gave(server: Server, raw: redis.Redis, make: Making, score: str) -> None:
    layer = make(server)
    posted(layer, "a")
    raw.zadd(BASE + b":board", {"a": score}, xx=True)
    assert all(0 <= each.number <= 2**52 for each in layer.board().notices)
    raw.delete(BASE + b":number")
    assert posted(layer, "b") < 2**45
    assert make(server).board().number == number_of(layer)


def test_readers_do_not_put_back_what_is_there(
    server: Server, make: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_back: list[object] = []
    layer, posting = make(server), make(server)
    layer.heard()
    monkeypatch.setattr(RedisBoard, "put_back", put_back.append)
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            layer.get(A)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(200):
        number = posted(posting, f"doc:{n}")
    over.set()
    for thread in threads:
        thread.join()
    eventually(lambda: layer.heard() == number)
    assert put_back == []


# -- news --------------------------------------------------------------------------


def test_news_come_without_asking(server: Server, raw: redis.Redis, make: Making) -> None:
    listening, posting = make(server), make(server)
    posted(posting, "before")
    listening.heard()
    eventually(lambda: listening.heard() == number_of(posting), within_s=redis_news.CHECK_S - 1)
    gets = raw.info("commandstats")["cmdstat_mget"]["calls"]
    for n in range(20):
        number = posted(posting, f"doc:{n}")
        eventually(lambda number=number: listening.heard() == number)
    assert raw.info("commandstats")["cmdstat_mget"]["calls"] == gets
    assert len(listeners()) == 1


def test_the_listener_survives_the_server(own_server: Server, make: Making) -> None:
    told: list[Event] = []
    listening, posting = make(own_server), make(own_server)
    listening.emit = told.append
    posted(posting, "a")
    listening.heard()
    eventually(lambda: listening.heard() == number_of(posting))
    assert set(names(listening)) == {"a"}
    own_server.stop()
    eventually(lambda: bool(told))
    time.sleep(0.3)  # several tries
    own_server.start()
    eventually(lambda: len(told) == 2)
    assert [each.ok for each in told if isinstance(each, StoreTrouble)] == [False, True]
    number = posted(make(own_server), "b")  # who knows nothing of "a"
    eventually(lambda: listening.heard() >= number)
    assert set(names(posting)) == {"a", "b"}
    assert posting.board().floor == 0
    number = posted(posting, "c")
    eventually(lambda: listening.heard() == number)
    assert len(told) == 2


def test_a_frozen_server_is_noticed(
    own_server: Server, make: Making, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_news, "CHECK_S", 0.05)
    told: list[Event] = []
    listening = make(own_server, timeout_s=0.2)
    listening.emit = told.append
    number = posted(listening, "a")
    assert listening.heard() == number
    own_server.freeze()
    eventually(lambda: bool(told))
    assert listening.heard() == number
    time.sleep(0.5)
    assert len(told) == 1
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 1
    own_server.thaw()
    eventually(lambda: len(told) == 2)
    number = posted(make(own_server), "b")
    eventually(lambda: listening.heard() == number)


def test_a_flush_is_noticed_though_nobody_asks(
    server: Server, raw: redis.Redis, make: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_news, "CHECK_S", 0.05)
    listening = make(server)
    posted(listening, "a")
    listening.heard()
    raw.flushall()
    eventually(lambda: raw.zcard(BASE + b":board") == 1)


@pytest.mark.parametrize("said", [*TOO_MUCH, b"", b"\xff"], ids=[*WHAT, "nothing", "no-text"])
def test_the_thread_survives_what_is_no_news(
    server: Server, raw: redis.Redis, make: Making, caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    layer, posting = make(server), make(server)
    layer.heard()
    eventually(lambda: bool(raw.pubsub_channels()))
    number = posted(posting, "a")
    assert raw.publish(BASE + b":news", said) == 1
    eventually(lambda: layer.heard() == number)
    number = posted(posting, "b")
    eventually(lambda: layer.heard() == number, within_s=redis_news.CHECK_S - 1)
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


def test_the_thread_goes_on_after_what_nobody_has_thought_of(
    server: Server,
    raw: redis.Redis,
    make: Making,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: object, value: bytes) -> None:
        raise RuntimeError("nobody has thought of it")

    layer, posting = make(server), make(server)
    layer.heard()
    eventually(lambda: bool(raw.pubsub_channels()))
    with monkeypatch.context() as patch:
        patch.setattr(RedisBoard, "told", fail)
        posted(posting, "a")
        eventually(lambda: "cannot be heard just now" in caplog.text)
    eventually(lambda: layer._board.watches)
    number = posted(posting, "b")
    eventually(lambda: layer.heard() == number)


def test_the_thread_ends_with_close(server: Server, raw: redis.Redis, make: Making) -> None:
    before = len(raw.client_list())
    layer = make(server)
    layer.heard()
    eventually(lambda: len(raw.pubsub_channels()) == 1)
    layer.close()
    eventually(lambda: not listeners(), within_s=redis_news.CHECK_S - 1)
    eventually(lambda: len(raw.client_list()) == before)
    layer.close()
    layer.get(A)
    assert not listeners()


def test_who_goes_on_after_close_hears_again(server: Server, raw: redis.Redis, make: Making) -> None:
    layer, posting = make(server), make(server)
    layer.heard()
    layer.close()
    eventually(lambda: not listeners())
    layer.heard()
    eventually(lambda: bool(raw.pubsub_channels()))
    number = posted(posting, "a")
    eventually(lambda: layer.heard() == number)


def test_the_thread_ends_with_the_layer(server: Server, raw: redis.Redis) -> None:
    layer = RedisLayer(server.url, timeout_s=5)
    layer.heard()
    eventually(lambda: len(raw.pubsub_channels()) == 1)
    layer._clients.close()
    del layer
    eventually(lambda: gc.collect() >= 0 and not listeners(), within_s=redis_news.CHECK_S - 1)


def test_closing_a_layer_whose_server_is_gone_is_quick_and_quiet(own_server: Server, make: Making) -> None:
    layer = make(own_server)
    layer.heard()
    own_server.stop()
    layer.close()
    eventually(lambda: not listeners())


REFUSES = ["-@pubsub", "resetchannels"]


@pytest.mark.parametrize("rule", REFUSES)
def test_who_may_not_subscribe_asks_now_and_then(
    server: Server, raw: redis.Redis, make: Making, caplog: pytest.LogCaptureFixture, rule: str
) -> None:
    raw.execute_command("ACL", "SETUSER", "poor", "on", ">pw", "~*", "&*", "+@all", rule)
    posting = make(server)
    layer = RedisLayer(f"unix://poor:pw@{server.socket}", timeout_s=5, retry_s=0.05)
    layer.heard()
    for n in range(3):
        number = posted(posting, f"doc:{n}")
        eventually(lambda number=number: layer.heard() == number)
    assert len([each for each in caplog.records if "refuses SUBSCRIBE" in each.message]) == 1
    assert posted(layer, "mine") > number
    layer.close()
    raw.execute_command("ACL", "DELUSER", "poor")


@pytest.mark.parametrize("decoded", [False, True], ids=["bytes", "text"])
def test_a_client_of_your_own_hears_too(
    server: Server, make: Making, decoded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_news, "CHECK_S", 0.02)
    mine = redis.Redis(
        unix_socket_path=server.socket, decode_responses=decoded, max_connections=1, health_check_interval=1
    )
    layer = RedisLayer(client=mine, retry_s=0.05)
    layer.heard()
    with server.client() as raw:
        eventually(
            lambda: "cmd=ping" in str(raw.execute_command("CLIENT LIST TYPE pubsub", NEVER_DECODE=True))
        )
    number = posted(make(server), "ä\udc80")
    eventually(lambda: layer.heard() == number)
    layer.set(A, bytes(range(256)), ttl_s=60)
    assert names(layer) == {"ä\udc80": number}
    assert list(layer.scan()) == [(A, bytes(range(256)))]
    assert layer.claim(B, b"\xff", 60)
    layer.close()
    eventually(lambda: not listeners())
    assert mine.ping()
    mine.close()


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


def test_a_cluster_is_asked_now_and_then(cluster_port: int) -> None:
    with redis.RedisCluster(host="127.0.0.1", port=cluster_port) as cluster:
        layer = RedisLayer(client=cluster, retry_s=0.05)  # type: ignore[arg-type]
        other = RedisLayer(f"redis://127.0.0.1:{cluster_port}", timeout_s=5)
        assert layer.set(A, b"a", ttl_s=60)
        assert layer.get(A) == b"a"
        layer.heard()
        number = posted(other, "doc")
        eventually(lambda: layer.heard() == number)
        assert names(layer) == {"doc": number}
        assert layer.claim(A, b"me", 60)
        assert list(layer.scan()) == [(A, b"a")]
        other.heard()
        number = posted(layer, "other")
        eventually(lambda: other.heard() == number)
        layer.close()
        other.close()
        eventually(lambda: not listeners())


def hear_in_a_child(layer: RedisLayer, write: int) -> None:
    os.write(write, b"r")
    began = layer.heard()
    ends = time.monotonic() + 10
    while layer.heard() == began and time.monotonic() < ends:
        time.sleep(0.005)
    os.write(write, b"%d" % layer.heard())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_hears_and_the_parent_goes_on(server: Server, raw: redis.Redis, make: Making) -> None:
    layer, posting = make(server), make(server)
    number = posted(posting, "a")
    layer.heard()
    eventually(lambda: layer.heard() == number)
    eventually(lambda: raw.pubsub_numsub(BASE + b":news")[0][1] == 1)
    subscribed = {each["id"] for each in raw.client_list(_type="pubsub")}
    from_child, to_parent = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            layer._board._abandoned[0].stop(0.1)  # the parent's goes on
            hear_in_a_child(layer, to_parent)
            layer.close()
        finally:
            os._exit(0)
    assert os.read(from_child, 1) == b"r"
    eventually(lambda: raw.pubsub_numsub(BASE + b":news")[0][1] == 2)
    number = posted(posting, "b")
    assert int(os.read(from_child, 100)) == number
    os.waitpid(child, 0)
    eventually(lambda: layer.heard() == number)
    number = posted(posting, "c")
    eventually(lambda: layer.heard() == number)
    assert subscribed & {each["id"] for each in raw.client_list(_type="pubsub")}  # it is still the same one
    assert len(listeners()) == 1
    os.close(from_child)
    os.close(to_parent)


@pytest.mark.parametrize("closes", [False, True], ids=["left-open", "closed"])
def test_the_interpreter_ends_in_silence(server: Server, closes: bool) -> None:
    code = (
        "import sys, time; from tierllm.caching.redis_layer import RedisLayer\n"
        "layer = RedisLayer(sys.argv[1], timeout_s=5); layer.heard(); layer.get(b'a'); time.sleep(0.2)\n"
        f"if {closes}: layer.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, server.url],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_two_event_loops_get_and_hear(server: Server, make: Making) -> None:
    layer, posting = make(server), make(server)
    layer.set(A, b"a", ttl_s=60)
    numbers = []

    async def run() -> None:
        assert layer.aget is not None
        number = posted(posting, "doc")
        assert await layer.aget(A) == b"a"
        numbers.append(number_of(layer) == number)

    for _ in range(2):
        asyncio.run(run())
    assert numbers == [True, True]


# -- claims ------------------------------------------------------------------------


def test_one_claims_and_no_other(server: Server, make: Making) -> None:
    one, other = make(server), make(server)
    assert one.claim(A, b"one", 60)
    assert not other.claim(A, b"other", 60)
    assert other.claim(B, b"other", 60)
    other.release(A, b"other")  # it is not his
    assert not other.claim(A, b"other", 60)
    one.release(A, b"one")
    one.release(A, b"one")
    assert other.claim(A, b"other", 60)
    one.clear()
    assert not one.claim(A, b"one", 60)
    assert one.stats().entries == 0
    assert list(one.scan()) == []


def test_a_claim_is_lengthened_by_its_owner_and_runs_out(
    server: Server, raw: redis.Redis, make: Making
) -> None:
    layer = make(server)
    assert layer.claim(A, b"one", 0.05)
    assert layer.claim(A, b"one", 60)
    assert 50_000 < raw.pttl(BASE + b":claim:" + A) <= 60_000
    assert layer.claim(A, b"one", 0.02)
    eventually(lambda: layer.claim(A, b"other", 60))
    raw.delete(BASE + b":claim:" + A)
    raw.rpush(BASE + b":claim:" + A, b"not yours")
    layer.release(A, b"one")
    assert layer.claim(A, b"one", 60)
    assert raw.get(BASE + b":claim:" + A) == b"one"
    assert layer.claim(B, b"one", 1e-9)  # a millisecond at least


@pytest.mark.parametrize("lease_s", [float("nan"), float("inf"), 0, -1, 4e9, True, "1"], ids=repr)
def test_a_lease_that_makes_no_sense(server: Server, make: Making, lease_s: Any) -> None:
    with pytest.raises(ConfigError, match="give seconds"):
        make(server).claim(A, b"me", lease_s)


def claim_in_turns(url: str, number: int, said: MpQueue[str]) -> None:
    layer = RedisLayer(url, timeout_s=10)
    with redis.Redis.from_url(url) as raw:
        for _ in range(50):
            while not layer.claim(A, b"%d" % number, 30):
                time.sleep(0.001)
            if raw.incr("inside") != 1:
                said.put("two at once")
            raw.decr("inside")
            layer.release(A, b"%d" % number)
    layer.close()
    said.put("done")


def test_four_processes_have_it_in_turns(server: Server) -> None:
    said: MpQueue[str] = SPAWN.Queue()
    processes = [SPAWN.Process(target=claim_in_turns, args=(server.url, n, said)) for n in range(4)]
    for process in processes:
        process.start()
    heard = [said.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert heard == ["done"] * 4


# -- looking at it -----------------------------------------------------------------


def test_scan_shows_every_entry_once(server: Server, make: Making) -> None:
    layer, stranger = make(server), make(server, namespace="other")
    entries = {n.to_bytes(32, "big"): b"%d" % n for n in range(700)}
    for slot, data in entries.items():
        layer.set(slot, data, ttl_s=60, group=f"g{int.from_bytes(slot, 'big') % 3}")
    stranger.set(A, b"theirs", ttl_s=60)
    found = list(layer.scan())
    assert len(found) == 700
    assert dict(found) == entries
    going = layer.scan()
    next(going)
    layer.clear()
    assert list(going) == []
    assert layer.stats()[:2] == (0, 0)

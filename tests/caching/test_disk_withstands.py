"""The disk layer keeps its bounds and its word: whoever reads, whatever is found there, whatever fails."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from stores.ground import SPAWN
from tierllm.caching import disk_board, disk_room
from tierllm.caching.disk_layer import DiskLayer
from tierllm.caching.layer import Notice
from tierllm.errors import StoreUnavailableError
from tierllm.events import Event, StoreTrouble

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))
MIB = 2**20
NESTED = b"[" * 100_000


class Now:
    """Seconds since 1970, as the test says."""

    def __init__(self) -> None:
        self.s = 1.7e9

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def told() -> list[StoreTrouble]:
    return []


Open = Callable[..., DiskLayer]


@pytest.fixture
def open_one(place: Path, told: list[StoreTrouble], now: Now) -> Iterator[Open]:
    layers: list[DiskLayer] = []

    def note(event: Event) -> None:
        assert isinstance(event, StoreTrouble)
        told.append(event)

    def open_one(**options: Any) -> DiskLayer:
        layers.append(DiskLayer(place, **{"retry_s": 0.0, "timeout_s": 5.0, "wall_clock": now} | options))
        layers[-1].emit = note
        return layers[-1]

    yield open_one
    for each in layers:
        each.close()


def file(place: Path) -> Path:
    return place / "answers" / "notices"


def database(place: Path) -> Path:
    return place / "answers" / "cache.db"


def on_disk(place: Path) -> int:
    return sum(path.stat().st_size for path in (place / "answers").iterdir())


def sql(place: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(database(place), isolation_level=None)
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def slot(number: int) -> bytes:
    return number.to_bytes(32, "big")


def checked(text: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text), text)


# -- bounds ------------------------------------------------------------------------


def read_for_ever(where: str, told: Connection) -> None:
    layer = DiskLayer(where, max_bytes=4 * MIB, timeout_s=30)
    told.send("ready")
    for n in range(10**9):
        layer.get(slot(n % 50))


def set_many(where: str, told: Connection) -> None:
    layer = DiskLayer(where, max_bytes=4 * MIB, timeout_s=30)
    most, rng = 0, random.Random(os.getpid())
    for _ in range(100):
        layer.set(slot(rng.randrange(50)), bytes(rng.choice((200, 2000, 200_000))), ttl_s=600)
        most = max(most, os.stat(f"{database(Path(where))}-wal").st_size)
    told.send(most)


def test_the_journal_is_bounded_whoever_reads(place: Path) -> None:
    DiskLayer(place, max_bytes=4 * MIB).set(A, b"a", ttl_s=600)
    workers, pipes = [], []
    for work in (read_for_ever, read_for_ever, set_many, set_many):
        here, there = SPAWN.Pipe(duplex=False)
        workers.append(SPAWN.Process(target=work, args=(str(place), there)))
        workers[-1].start()
        pipes.append(here)
    try:
        for here in pipes:
            assert here.poll(60)
            if here in pipes[2:]:
                assert here.recv() <= 1.5 * MIB  # what is allowed is a half, and some are at it at once
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def test_a_reader_who_does_not_end_ends_the_writing(
    place: Path, open_one: Open, told: list[StoreTrouble]
) -> None:
    layer = open_one(max_bytes=MIB, timeout_s=0.05)
    layer.set(A, b"a", ttl_s=60)
    reader = sqlite3.connect(database(place), isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM Cache").fetchall()
    refused = 0
    for n in range(40):
        try:
            layer.set(slot(n), bytes(10_000), ttl_s=60)
        except StoreUnavailableError:
            refused += 1
        assert os.stat(f"{database(place)}-wal").st_size < MIB / 3  # twice an eighth, and the last one
    assert 0 < refused < 40
    assert layer.get(A) == b"a"
    assert [event.ok for event in told] == [False]
    reader.close()
    assert layer.set(B, b"b", ttl_s=60)
    assert [event.ok for event in told] == [False, True]


def test_a_smaller_bound_is_come_to_in_steps(
    place: Path, open_one: Open, told: list[StoreTrouble], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = open_one(max_bytes=16 * MIB)
    large.set(A, bytes(MIB), ttl_s=60)
    for n in range(2500):
        large.set(slot(n), bytes(4000), ttl_s=60)
    large.close()
    assert on_disk(place) > 10 * MIB
    monkeypatch.setattr(disk_room, "MOST_GONE", 100)
    layer = open_one(max_bytes=MIB)
    assert layer.get(A) is None  # it is sound, and too large here
    assert told == []
    before = layer.stats()
    refused = 0
    for n in range(400):
        refused += not layer.set(slot(10**6 + n), bytes(1000), ttl_s=60)
        after = layer.stats()
        assert after.evictions - before.evictions <= 100
        before = after
    assert 0 < refused < 50
    assert on_disk(place) <= 1.05 * MIB
    assert layer.get(slot(10**6 + 399)) == bytes(1000)


def test_a_groups_name_counts(place: Path, open_one: Open) -> None:
    layer = open_one(max_bytes=MIB)
    layer.set(A, b"old", ttl_s=60)
    assert not layer.set(A, b"a", ttl_s=60, group="g" * (MIB // 16))
    assert layer.get(A) is None
    assert on_disk(place) < MIB // 4
    for n in range(100):
        layer.set(slot(n), b"a", ttl_s=60, group=f"{n}" * (MIB // 64))
    assert on_disk(place) <= 1.2 * MIB


# -- what is found there -----------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [NESTED, json.dumps([["a", 2**60, None]]).encode(), b'[["a",' + b"9" * 5000 + b",null]]"],
    ids=["nested", "a number far out", "a number of many digits"],
)
def test_a_notice_that_is_written_right_and_wrong(
    place: Path, open_one: Open, told: list[StoreTrouble], words: bytes
) -> None:
    layer = open_one()
    last = layer.post([Notice("n", 0)])
    with open(file(place), "ab") as notices:
        notices.write(checked(words))
    layer.heard()
    assert last < layer.board().number < 2**53
    assert layer.post([Notice("m", 0)]) == layer.heard()
    assert [event.ok for event in told] == [False]


def test_a_first_line_with_a_number_far_out(place: Path, open_one: Open) -> None:
    open_one().post([Notice("n", 0)])
    file(place).write_bytes(checked(b'{"notices":1,"id":"0","number":%d,"floor":0}' % 2**60))
    assert open_one().board().number < 2**53


def test_numbers_that_are_posted_leave_room_above(open_one: Open) -> None:
    layer = open_one()
    assert layer.post([Notice("n", 2**52)]) == 2**52
    assert layer.post([Notice("m", 0)]) == open_one().board().number == 2**52 + 1


@pytest.mark.parametrize(
    "claim", ["printf('%.*c', 100000, '[')", "zeroblob(20000000)"], ids=["nested", "huge"]
)
def test_a_claim_that_nobody_made(place: Path, open_one: Open, claim: str) -> None:
    layer = open_one()
    assert layer.claim(A, b"me", 60)
    sql(place, f"UPDATE Cache SET value = CAST({claim} AS BLOB)")
    assert layer.claim(A, b"other", 60)
    assert not layer.claim(A, b"me", 60)


@pytest.mark.parametrize("column", ["value", "tag", "key"])
def test_a_bit_that_makes_words_of_bytes(
    place: Path, open_one: Open, told: list[StoreTrouble], column: str
) -> None:
    layer = open_one(max_bytes=MIB)
    layer.set(A, b"secret \xff words", ttl_s=60, group="gold")
    layer.set(B, b"b", ttl_s=60)
    sql(place, f"UPDATE Cache SET {column} = CAST({column} || x'ff' AS TEXT) WHERE key = ?", b"s:" + A)
    assert layer.get(A) in (None, b"secret \xff words")
    assert layer.get(B) == b"b"
    for n in range(300):  # it goes like any other
        layer.set(slot(n), bytes(4000), ttl_s=60)
    assert not any("secret" in event.text or "moved" in event.text for event in told)
    assert [path for path in (place / "answers").iterdir() if ".damaged-" in path.name] == []


@pytest.mark.parametrize("table", ["Groups", "Probation"])
@pytest.mark.parametrize("number", ["9e999", "9223372036854775807"])
@pytest.mark.parametrize("quotas", [{}, {"g": 0.5}], ids=["no quotas", "quotas"])
def test_books_that_lie(
    place: Path, open_one: Open, told: list[StoreTrouble], table: str, number: str, quotas: dict[str, float]
) -> None:
    layer = open_one(max_bytes=MIB, quotas=quotas)
    for n in range(150):
        layer.set(slot(n), bytes(9000), ttl_s=60, group="gb"[n % 2])
    sql(place, f"UPDATE {table} SET bytes = {number}")
    for n in range(150):
        layer.set(slot(10**6 + n), bytes(9000), ttl_s=60, group="gb"[n % 2])
    assert layer.get(slot(10**6 + 149)) == bytes(9000)
    assert on_disk(place) <= 1.1 * MIB
    assert told == []


def test_a_trigger_of_the_right_name_does_nothing(place: Path, open_one: Open) -> None:
    layer = open_one()
    layer.set(A, b"a", ttl_s=60)
    layer.close()
    sql(place, "DROP TRIGGER Settings_count_insert")
    sql(
        place,
        "CREATE TRIGGER Settings_count_insert AFTER INSERT ON Cache BEGIN"
        " DELETE FROM Cache WHERE key = NEW.key; END",
    )
    assert layer.set(B, b"b", ttl_s=60)
    assert (layer.get(A), layer.get(B)) == (b"a", b"b")


# -- what fails ----------------------------------------------------------------------


@pytest.mark.parametrize("change", ["set", "delete"])
def test_what_could_not_be_replaced_is_not_answered_with(open_one: Open, change: str) -> None:
    layer = open_one()
    layer.set(A, b"old", ttl_s=60)
    layer.set(B, b"b", ttl_s=60)
    assert layer._database.rows is not None
    layer._database.rows.rows("PRAGMA query_only = 1")
    with pytest.raises(StoreUnavailableError):
        layer.delete(A) if change == "delete" else layer.set(A, b"new", ttl_s=60)
    assert (layer.get(A), layer.get(B)) == (None, b"b")
    assert [found for found, _ in layer.scan()] == [B]
    layer._database.rows.rows("PRAGMA query_only = 0")
    assert layer.get(A) is None
    assert layer.set(A, b"new", ttl_s=60)
    assert layer.get(A) == b"new"
    layer.delete(A)
    assert layer.get(A) is None


def test_a_clock_set_back_a_little_grants_no_claim_twice(open_one: Open, now: Now) -> None:
    layer = open_one()
    assert layer.claim(A, b"me", 10)
    now.s -= 0.01
    assert not layer.claim(A, b"other", 10)
    now.s -= 3600  # so far ahead no claim can lie
    assert layer.claim(A, b"other", 10)


# -- the board ---------------------------------------------------------------------


def test_a_post_reads_what_is_new_and_no_more(open_one: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = open_one()
    layer.post([Notice(f"n{n}", 0) for n in range(500)])
    monkeypatch.setattr(layer._board, "_read_all", None)
    for n in range(5):
        layer.post([Notice(f"m{n}", 0)])
    assert len(layer.board().notices) == 505


def test_a_touch_is_no_news(place: Path, open_one: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = open_one()
    number = layer.post([Notice(f"n{n}", 0) for n in range(500)])
    os.utime(file(place), ns=(1, 1))
    monkeypatch.setattr(layer._board, "_read_all", None)
    assert layer.heard() == number


def test_much_news_is_not_read_where_it_is_asked_about(
    open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, other = open_one(), open_one()
    known = other.post([Notice("n", 0)])
    assert layer.heard() == known
    number = other.post([Notice(f"n{n}" * 10, 0) for n in range(1000)])
    with monkeypatch.context() as patched:
        patched.setattr(disk_board.DiskBoard, "_read", None)
        assert layer.heard() > known
        assert open_one().heard() > 0
    assert layer.board(known).number == number == layer.heard()
    assert len(layer.board(known).notices) == 1000


def test_who_asks_waits_for_nobody_who_waits_to_post(open_one: Open) -> None:
    layer, other = open_one(timeout_s=30.0), open_one()
    number = layer.post([Notice("n", 0)])
    with other._board._place.alone(5, "notices.lock"):  # as somebody does who is frozen
        poster = threading.Thread(target=layer.post, args=([Notice("m", 0)],))
        poster.start()
        while not layer._board._turn._at_work:
            pass
        assert layer.heard() == number  # nothing has been posted
        os.utime(layer._board._path, ns=(1, 1))
        assert layer.heard() == number + 1  # whether anything has is to be read, by whoever may wait
        assert poster.is_alive()
    poster.join()
    assert layer.heard() == layer.board().number > number


def test_a_line_that_takes_the_place_of_a_torn_one_of_its_length(place: Path, open_one: Open) -> None:
    layer, other = open_one(), open_one()
    number = layer.post([Notice("a", 0)])
    was = file(place).stat()
    before = file(place).read_bytes()
    after = other.post([Notice("b", 0)])
    added = file(place).read_bytes()[len(before) :]
    layer.board()
    reader = open_one()
    with open(file(place), "r+b") as notices:  # as if it had been torn, then
        notices.seek(len(before))
        notices.write(b"~" * len(added))
    os.utime(file(place), ns=(was.st_atime_ns, was.st_mtime_ns))
    assert reader.heard() == number
    with open(file(place), "r+b") as notices:
        notices.seek(len(before))
        notices.write(added)
    os.utime(file(place), ns=(was.st_atime_ns, was.st_mtime_ns))
    assert reader.heard() == after


@pytest.mark.skipif(os.name != "posix", reason="directories cannot be opened there")
def test_the_new_files_name_is_written_down(open_one: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, plain = [], os.fsync

    def fsync(handle: int) -> None:
        kept.append(os.fstat(handle).st_mode & 0o170000)
        plain(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    open_one().post([Notice("a", 0)])
    assert 0o040000 in kept

"""The layer on the disk: room, damage, tampering, rights, other people's locks, other processes."""

from __future__ import annotations

import os
import pickle
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierllm.caching.disk_layer import DiskLayer
from tierllm.caching.layer import Layer, Notice
from tierllm.errors import ConfigError, StoreUnavailableError, UsageError
from tierllm.events import Event, StoreTrouble
from tierllm.stores import DiskStore, Line, Settlement

SPAWN = get_context("spawn")
A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))
MIB = 2**20


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


@pytest.fixture
def layer(place: Path, told: list[StoreTrouble], now: Now) -> Iterator[DiskLayer]:
    layer = open_at(place, told, wall_clock=now)
    yield layer
    layer.close()


def open_at(place: Path, told: list[StoreTrouble] | None = None, **options: Any) -> DiskLayer:
    layer = DiskLayer(place, **{"retry_s": 0.0, "timeout_s": 5.0} | options)

    def note(event: Event) -> None:
        assert isinstance(event, StoreTrouble)
        if told is not None:
            told.append(event)

    layer.emit = note
    return layer


def database(place: Path) -> Path:
    return place / "answers" / "cache.db"


def aside(place: Path) -> list[str]:
    return sorted(path.name for path in (place / "answers").iterdir() if ".damaged-" in path.name)


def sql(place: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with sqlite3.connect(database(place)) as connection:
        found = connection.execute(statement, values).fetchall()
    connection.close()
    return found


def on_disk(place: Path) -> int:
    return sum(path.stat().st_size for path in (place / "answers").iterdir())


def slot(number: int) -> bytes:
    return number.to_bytes(32, "big")


# -- what it holds -----------------------------------------------------------------


def test_entries_outlive_the_process(place: Path, now: Now) -> None:
    first = open_at(place, wall_clock=now)
    first.set(A, b"a", ttl_s=60)
    first.set(B, b"b", ttl_s=1)
    first.close()
    now.s += 2
    second = open_at(place, wall_clock=now)
    assert (second.get(A), second.get(B)) == (b"a", None)
    assert second.stats()[:2] == (1, 1)
    second.close()
    assert second.get(A) == b"a"  # closed is not gone
    second.close()


def test_a_clock_that_is_set_back_makes_a_miss(layer: DiskLayer, now: Now) -> None:
    layer.set(A, b"a", ttl_s=60)
    now.s -= 3600
    assert layer.get(A) is None
    layer.set(A, b"b", ttl_s=60)
    assert layer.get(A) == b"b"
    now.s += 3600
    assert layer.get(A) is None


def test_a_hit_writes_nothing(layer: DiskLayer, place: Path) -> None:
    layer.set(A, b"a" * 5000, ttl_s=60)
    journal = database(place).with_name("cache.db-wal")
    before = journal.stat()
    for _ in range(50):
        assert layer.get(A) is not None
        layer.get(B)
        layer.delete(B)
    after = journal.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_expired_entries_go_by_the_way(layer: DiskLayer, now: Now) -> None:
    for n in range(30):
        layer.set(slot(n), b"x", ttl_s=1)
    now.s += 2
    for n in range(100, 104):
        layer.set(slot(n), b"x", ttl_s=60)
    stats = layer.stats()
    assert (stats.entries, stats.expired, stats.evictions) == (4, 30, 0)


@pytest.mark.parametrize("size", [20, 1900, 5000, 60_000], ids=str)
def test_it_stays_within_its_room(place: Path, now: Now, size: int) -> None:
    layer = open_at(place, max_bytes=MIB, wall_clock=now)
    sets = min(8000, 4 * MIB // (size + 120))
    most = 0
    for n in range(sets):
        now.s += 0.001
        assert layer.set(slot(n * 7919 % 2**61), bytes(size), ttl_s=600, group=f"g{n % 3}")
        if n % 50 == 0:
            most = max(most, on_disk(place))
    stats = layer.stats()
    layer.close()
    assert most <= MIB + 100_000  # what SQLite shares between processes is besides
    assert stats.bytes <= MIB
    assert stats.entries + stats.evictions == sets
    assert stats.evictions
    assert stats.bytes > 0.75 * MIB  # and it is not thrown out for nothing


def test_those_set_first_go_first_save_those_asked_for(place: Path, now: Now) -> None:
    layer = open_at(place, max_bytes=MIB, wall_clock=now)
    for n in range(400):
        now.s += 1
        layer.set(slot(n), bytes(4000), ttl_s=6000)
        layer.get(slot(5))
    held = [n for n in range(400) if layer.get(slot(n)) is not None]
    assert held[0] == 5
    assert held[1:] == list(range(held[1], 400))
    layer.close()


@pytest.mark.parametrize(
    ("size", "kept"), [(MIB // 16 - 32, True), (MIB // 16, False)], ids=["fits", "too large"]
)
def test_what_is_too_large_is_not_kept(place: Path, size: int, kept: bool) -> None:
    layer = open_at(place, max_bytes=MIB)
    layer.set(A, b"old", ttl_s=60)
    assert layer.set(A, bytes(size), ttl_s=60) is kept
    assert (layer.get(A) is not None) is kept
    layer.close()


def test_many_of_a_group_are_cleared(layer: DiskLayer) -> None:
    for n in range(1203):
        layer.set(slot(n), b"x", ttl_s=60, group="gold" if n % 3 else "bronze")
    layer.clear("gold")
    assert [n for n in range(1203) if layer.get(slot(n))] == list(range(0, 1203, 3))
    layer.clear()
    assert layer.stats().entries == 0


def test_an_entry_belongs_to_the_group_that_set_it_last(layer: DiskLayer) -> None:
    layer.set(A, b"old", ttl_s=60, group="gold")
    layer.set(A, b"new", ttl_s=60, group="bronze")
    layer.clear("gold")
    assert layer.get(A) == b"new"
    layer.clear("bronze")
    assert layer.get(A) is None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 5), st.binary(max_size=9000), st.sampled_from([0, 1, 10])),
        st.tuples(st.just("get"), st.integers(0, 5)),
        st.tuples(st.just("delete"), st.integers(0, 5)),
        st.tuples(st.just("clear"), st.sampled_from([None, "g0", "g1"])),
        st.tuples(st.just("wait"), st.integers(0, 3)),
        st.tuples(
            st.just("open"),
        ),
    ),
    max_size=40,
)


@given(steps=STEPS)
@settings(max_examples=40, deadline=None)
def test_it_answers_as_a_dictionary_with_a_clock(steps: list[tuple[Any, ...]]) -> None:
    now = Now()
    model: dict[int, tuple[bytes, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        layer = open_at(Path(directory), wall_clock=now)
        for what, *values in steps:
            if what == "set":
                number, data, ttl_s = values
                model.pop(number, None)
                if layer.set(slot(number), data, ttl_s=ttl_s, group=f"g{number % 2}"):
                    model[number] = data, now.s + ttl_s
            elif what == "get":
                data, expires_at = model.get(values[0], (None, 0.0))
                assert layer.get(slot(values[0])) == (data if now.s < expires_at else None)
            elif what == "delete":
                layer.delete(slot(values[0]))
                model.pop(values[0], None)
            elif what == "clear":
                layer.clear(values[0])
                model = {n: each for n, each in model.items() if values[0] not in (None, f"g{n % 2}")}
            elif what == "wait":
                now.s += values[0]
            else:
                layer.close()
        layer.close()


# -- damage ------------------------------------------------------------------------


def garbled(file: Path) -> None:
    file.write_bytes(os.urandom(8192))


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def garbled_inside(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + os.urandom(len(whole) - 4096))


def a_text(file: Path) -> None:
    file.write_text("not a database\n" * 100)


def emptied_of_tables(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("DROP TABLE Cache")
    connection.close()


def a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "mine.txt").write_text("kept")


def a_link(file: Path) -> None:
    target = file.parent.parent / "elsewhere.db"
    file.rename(target)
    file.symlink_to(target)


def a_trigger(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("CREATE TRIGGER evil AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END")
    connection.close()


DAMAGES = [garbled, truncated, garbled_inside, a_text, a_directory, a_link, a_trigger]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_database_is_moved_aside(
    place: Path, told: list[StoreTrouble], damage: Callable[[Path], None]
) -> None:
    before = open_at(place)
    for n in range(50):
        before.set(slot(n), b"x" * 2000, ttl_s=60)
    before.close()
    damage(database(place))
    layer = open_at(place, told)
    assert layer.get(slot(1)) is None
    assert layer.set(A, b"a", ttl_s=60)
    assert layer.get(A) == b"a"
    assert len([name for name in aside(place) if not name.endswith(("-wal", "-shm"))]) == 1
    assert [event.ok for event in told] == [False]
    assert "starts afresh" in told[0].text
    assert aside(place)[0] in told[0].text
    layer.close()


@pytest.mark.parametrize("damage", [garbled, truncated, garbled_inside, emptied_of_tables, a_text])
def test_damage_while_it_is_in_use(
    place: Path, layer: DiskLayer, told: list[StoreTrouble], now: Now, damage: Callable[[Path], None]
) -> None:
    values = {slot(n): os.urandom(3000) for n in range(50)}
    for each, data in values.items():
        layer.set(each, data, ttl_s=60)
    sql(place, "PRAGMA wal_checkpoint(TRUNCATE)")
    damage(database(place))
    other = open_at(place, told, wall_clock=now)
    for each, data in values.items():
        assert layer.get(each) in (None, data)
        assert other.get(each) in (None, data)
    for one in (layer, other):
        try:
            one.set(A, b"a", ttl_s=60)
        except StoreUnavailableError:  # it may look like anything
            one.set(A, b"a", ttl_s=60)
    assert layer.get(A) == other.get(A) == b"a"
    assert told
    other.close()


def test_bits_that_fell_over_are_a_miss_and_told(
    place: Path, layer: DiskLayer, told: list[StoreTrouble]
) -> None:
    """SQLite itself sees nothing wrong with them."""
    layer.set(A, b"answer " * 500, ttl_s=60)
    layer.set(B, b"b", ttl_s=60)
    layer.close()
    whole = database(place).read_bytes()
    at = whole.index(b"answer answer") + 1000
    database(place).write_bytes(whole[:at] + b"\x00" + whole[at + 1 :])
    assert layer.get(A) is None
    assert [event.ok for event in told] == [False]
    assert "answer answer" not in told[0].text
    assert (layer.get(A), layer.get(B)) == (None, b"b")
    assert layer.stats().entries == 1
    assert len(told) == 1
    assert layer.set(A, b"new", ttl_s=60)
    assert layer.get(A) == b"new"
    assert aside(place) == []


def test_no_more_than_one_database_is_kept_aside(place: Path, told: list[StoreTrouble]) -> None:
    (place / "answers").mkdir(parents=True, mode=0o700)
    place.chmod(0o700)
    mine = place / "answers" / "cache.db.damaged-mine"
    mine.write_text("kept")
    for n in range(3):
        layer = open_at(place, told)
        layer.set(A, b"a", ttl_s=60)
        layer.close()
        garbled(database(place))
        layer = open_at(place, told)
        assert layer.get(A) is None
        layer.close()
        assert len(told) == n + 1
    assert (
        len([name for name in aside(place) if name != mine.name and not name.endswith(("-wal", "-shm"))]) == 1
    )
    assert mine.read_text() == "kept"


@pytest.mark.parametrize("what", ["database", "directory"])
def test_what_was_deleted_is_made_again(
    place: Path, layer: DiskLayer, told: list[StoreTrouble], what: str
) -> None:
    layer.set(A, b"a", ttl_s=60)
    for path in (place / "answers").iterdir():
        path.unlink()
    if what == "directory":
        (place / "answers").rmdir()
        place.rmdir()
    assert layer.get(A) is None
    assert layer.set(A, b"b", ttl_s=60)
    assert layer.get(A) == b"b"
    assert [event.ok for event in told] == [False]
    assert "deleted" in told[0].text
    assert stat.S_IMODE((place / "answers").stat().st_mode) == 0o700
    if what == "directory":
        assert stat.S_IMODE(place.stat().st_mode) & 0o022 == 0


# -- tampering ---------------------------------------------------------------------


class Bomb:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.victim}.went-off",)


TAMPERINGS = [
    *("pickle", "pickled file", "raw", "absolute", "upwards", "text", "null", "other words", "huge"),
    *("times", "text times", "broken text", "queue"),
]


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_nothing_that_was_put_there_is_executed_or_deleted_or_believed(
    place: Path, tmp_path: Path, told: list[StoreTrouble], now: Now, tampering: str
) -> None:
    layer = open_at(place, told, wall_clock=now, max_bytes=MIB)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    layer.set(A, b"a", ttl_s=60)
    (place / "answers" / "bomb").write_bytes(pickle.dumps(Bomb(victim)))
    tamperings: dict[str, tuple[str, list[object]]] = {
        "pickle": ("mode = 4, value = ?", [pickle.dumps(Bomb(victim))]),
        "pickled file": ("mode = 4, value = NULL, filename = ?", ["bomb"]),
        "raw": ("raw = 0, value = ?", [pickle.dumps(Bomb(victim))]),
        "absolute": ("mode = 2, value = NULL, filename = ?", [str(victim)]),
        "upwards": ("mode = 3, value = NULL, filename = ?", ["../victim"]),
        "text": ("value = ?", ["a"]),
        "null": ("mode = NULL, value = NULL", []),
        "other words": ("value = ?", [b"b"]),
        "huge": ("value = zeroblob(3000000)", []),
        "times": ("store_time = NULL, expire_time = NULL, access_time = NULL", []),
        "text times": ("store_time = 'x', expire_time = 'x', access_time = 'x'", []),
        "broken text": ("value = CAST(x'ff' AS TEXT)", []),
        "queue": ("access_time = 'x', value = ?", [b"b"]),
    }
    change, values = tamperings[tampering]
    sql(place, f"UPDATE Cache SET {change}", *values)
    assert layer.get(A) is None
    assert bool(told) == (tampering not in ("raw", "huge"))  # nobody asks for the one, nor reads the other
    for n in range(300):  # it goes like any other
        layer.set(slot(n), bytes(4000), ttl_s=60)
    assert layer.set(A, b"new", ttl_s=60)
    assert layer.get(A) == b"new"
    layer.delete(A)
    layer.clear()
    assert layer.stats().entries == 0
    assert sql(place, "SELECT count(*) FROM Cache") == [(0,)]
    layer.close()
    assert victim.read_text() == "precious"
    assert not Path(f"{victim}.went-off").exists()
    assert (place / "answers" / "bomb").exists()


def test_an_entry_under_the_slot_of_another_is_not_believed(place: Path, layer: DiskLayer) -> None:
    layer.set(A, b"of A", ttl_s=60)
    sql(place, "UPDATE Cache SET key = ?", b"s:" + B)
    assert layer.get(B) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_disk", "x"),
        ("close", "x"),
        ("disk_x", 1),
        ("sqlite_query_only", 1),
        ("cull_limit", "x"),
        ("count", "x"),
    ],
)
def test_settings_that_were_put_there_are_not_believed(place: Path, key: str, value: object) -> None:
    first = open_at(place)
    first.set(A, b"a", ttl_s=60)
    first.close()
    sql(place, "INSERT OR REPLACE INTO Settings VALUES (?, ?)", key, value)
    layer = open_at(place)
    assert layer.get(A) == b"a"
    assert layer.set(B, b"b", ttl_s=60)
    assert layer.stats().entries == 2
    layer.close()


# -- rights and space --------------------------------------------------------------


def test_only_its_owner_can_read_it(layer: DiskLayer, place: Path) -> None:
    layer.set(A, b"a", ttl_s=60)
    for path in (place, *place.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize("inner", [False, True], ids=["outer", "inner"])
def test_a_directory_that_others_may_write_to_is_refused(place: Path, inner: bool) -> None:
    (place / "answers").mkdir(parents=True, mode=0o700)
    place.chmod(0o700)
    (place / "answers" if inner else place).chmod(0o770)
    with pytest.raises(ConfigError, match=r"^DiskLayer: others may write.*chmod 700"):
        DiskLayer(place)


def test_a_file_where_the_directory_should_be(place: Path, told: list[StoreTrouble]) -> None:
    place.write_text("mine")
    layer = open_at(place, told)
    with pytest.raises(StoreUnavailableError, match="cannot be used"):
        layer.get(A)
    with pytest.raises(StoreUnavailableError):
        layer.set(A, b"a", ttl_s=60)
    assert {event.ok for event in told} == {False}
    place.unlink()
    assert layer.get(A) is None
    assert layer.set(A, b"a", ttl_s=60)
    assert told[-1].ok
    assert layer._misses == 2
    layer.close()


def test_a_full_disk_is_read_and_told_once(place: Path, told: list[StoreTrouble], now: Now) -> None:
    layer = open_at(place, told, wall_clock=now, retry_s=5.0, clock=now)
    layer.set(A, b"a", ttl_s=60)
    assert layer._database.rows is not None
    ((pages,),) = layer._database.rows.rows("PRAGMA page_count")
    layer._database.rows.rows(f"PRAGMA max_page_count = {pages}")
    for n in range(3):
        with pytest.raises(StoreUnavailableError, match="full"):
            layer.set(B, bytes(50_000), ttl_s=60)
        assert layer.get(A) == b"a"
        assert layer.get(B) is None
        now.s += 6 * (n < 2)
    assert [event.ok for event in told] == [False]
    layer._database.rows.rows("PRAGMA max_page_count = 1000000")
    with pytest.raises(StoreUnavailableError, match="not tried again"):
        layer.set(B, b"b", ttl_s=60)
    now.s += 6
    assert layer.set(B, b"b", ttl_s=60)
    assert [event.ok for event in told] == [False, True]
    layer.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_a_file_that_may_not_grow(place: Path) -> None:
    """A real limit of the system, in a process that can be spared."""
    script = (
        "import resource, signal, sys\n"
        "from tierllm.caching.disk_layer import DiskLayer\n"
        "from tierllm.errors import StoreUnavailableError\n"
        "layer = DiskLayer(sys.argv[1], retry_s=0)\n"
        "layer.set(b'a', b'a', ttl_s=60)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "refused = 0\n"
        "for n in range(300):\n"
        "    try:\n"
        "        layer.set(b'%d' % n, bytes(9000), ttl_s=60)\n"
        "    except StoreUnavailableError:\n"
        "        refused += 1\n"
        "    assert layer.get(b'a') == b'a'\n"
        "assert refused, refused\n"
    )
    subprocess.run([sys.executable, "-c", script, str(place)], check=True, timeout=60)
    layer = open_at(place)
    assert layer.get(b"a") == b"a"
    assert layer.set(B, b"b", ttl_s=60)
    layer.close()


def test_damage_that_cannot_be_set_aside_is_told_as_trouble(place: Path, layer: DiskLayer) -> None:
    layer.set(A, b"a", ttl_s=60)
    sql(place, "UPDATE Cache SET value = x'00'")
    assert layer.get(B) is None
    assert layer._database.rows is not None
    layer._database.rows.rows("PRAGMA query_only = 1")
    with pytest.raises(StoreUnavailableError, match="not as it was written"):
        layer.get(A)
    layer._database.rows.rows("PRAGMA query_only = 0")
    assert layer.get(A) is None


# -- locks -------------------------------------------------------------------------


@pytest.mark.parametrize("held_by", ["a thread", "a process"])
def test_a_lock_is_waited_for_and_not_for_ever(place: Path, told: list[StoreTrouble], held_by: str) -> None:
    layer = open_at(place, told, timeout_s=0.05)
    layer.set(A, b"a", ttl_s=60)
    holder = sqlite3.connect(database(place), isolation_level=None)
    begun, over = threading.Event(), threading.Event()

    def at_work() -> None:
        begun.set()
        over.wait(30)

    thread = threading.Thread(target=layer._database.turn.take, args=(at_work, 30))
    if held_by == "a thread":
        thread.start()
        begun.wait()
    else:
        holder.execute("BEGIN IMMEDIATE")
        assert layer.get(A) == b"a"  # readers wait for nobody
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=r"busy|locked"):
            layer.set(B, b"b", ttl_s=60)
    assert [event.ok for event in told] == [False]
    over.set()
    if held_by == "a thread":
        thread.join()
    else:
        holder.execute("ROLLBACK")
    holder.close()
    assert layer.set(B, b"b", ttl_s=60)
    assert [event.ok for event in told] == [False, True]
    layer.close()


def test_an_error_of_the_application_is_neither_quoted_nor_damage(layer: DiskLayer, place: Path) -> None:
    layer.set(A, b"a", ttl_s=60)
    assert layer._database.rows is not None
    layer._database.rows.rows("PRAGMA query_only = 1")
    try:
        raise ValueError("the secret prompt")
    except ValueError:
        with pytest.raises(StoreUnavailableError) as caught:
            layer.set(A, b"b", ttl_s=60)
    assert "secret" not in str(caught.value)
    assert aside(place) == []


def test_a_listener_that_fails_harms_nobody(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    layer = open_at(place)

    def fail(event: Event) -> None:
        raise ValueError("of the application")

    layer.emit = fail
    layer.set(A, b"a", ttl_s=60)
    layer.close()
    garbled(database(place))
    assert layer.get(A) is None
    assert "a listener failed on StoreTrouble" in caplog.text
    layer.close()


# -- processes ---------------------------------------------------------------------


def set_for_ever(where: str, told: Connection) -> None:
    layer = open_at(Path(where), max_bytes=MIB)
    rng = random.Random(os.getpid())
    told.send("begun")
    while True:
        number = rng.randrange(300)
        layer.set(slot(number), slot(number) * rng.randrange(1, 400), ttl_s=60)


def test_it_survives_being_killed_while_writing(place: Path, told: list[StoreTrouble]) -> None:
    layer = open_at(place, told, max_bytes=MIB)
    found = 0
    for n in range(5):
        here, there = SPAWN.Pipe(duplex=False)
        writer = SPAWN.Process(target=set_for_ever, args=(str(place), there))
        writer.start()
        assert here.poll(30)
        time.sleep(0.03 + 0.011 * n)  # somewhere in the middle of something
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        for number in range(300):
            data = layer.get(slot(number))
            if data is not None:
                found += 1
                assert data.replace(slot(number), b"") == b""
        assert layer.set(A, b"a", ttl_s=60)
    assert found
    assert told == []
    layer.close()
    ((answer,),) = sql(place, "PRAGMA integrity_check")
    assert answer == "ok"


def set_and_get(where: str, seed: int, told: Connection) -> None:
    troubles: list[StoreTrouble] = []
    layer = open_at(Path(where), troubles, max_bytes=MIB, timeout_s=30.0)
    rng = random.Random(seed)
    wrong = refused = found = most = 0
    for n in range(600):
        number = rng.randrange(500)
        try:
            data = layer.get(slot(number))
            if data is None:
                layer.set(slot(number), slot(number) * rng.randrange(1, 300), ttl_s=60, group=f"g{seed}")
            else:
                found += 1
                wrong += data.replace(slot(number), b"") != b""
            if n % 97 == 0:
                layer.delete(slot(number))
            if n == 300:
                layer.clear(f"g{seed}")
            most = max(most, layer.stats().bytes)
        except StoreUnavailableError:
            refused += 1
    layer.close()
    told.send((wrong, refused, found > 0, most <= MIB, len(troubles)))


def test_four_processes_share_it(place: Path) -> None:
    pipes, workers = [], []
    for seed in range(4):
        here, there = SPAWN.Pipe(duplex=False)
        worker = SPAWN.Process(target=set_and_get, args=(str(place), seed, there))
        worker.start()
        pipes.append(here)
        workers.append(worker)
    for here in pipes:
        assert here.poll(60)
        assert here.recv() == (0, 0, True, True, 0)
    for worker in workers:
        worker.join()
    assert on_disk(place) <= MIB + 100_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_after_a_fork_both_go_on(place: Path) -> None:
    layer = open_at(place)
    layer.set(A, b"a", ttl_s=60)
    layer.get(A)
    child = os.fork()
    if not child:
        ok = False
        try:
            ok = layer.get(A) == b"a" and layer.set(B, b"b", ttl_s=60) and layer.stats()[:3] == (1, 0, 1)
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (layer.get(A), layer.get(B)) == (b"a", b"b")
    assert layer.stats()[:3] == (3, 0, 1)
    layer.close()


def test_a_store_in_the_same_directory_keeps_its_accounts(place: Path) -> None:
    store = DiskStore(place)
    hold = store.hold([Line("u", 5, None, 4e9)])
    store.reserve(hold)
    store.post(Settlement(hold, (5,), (0,)))
    assert store.flush()
    layer = open_at(place, max_bytes=MIB)
    for n in range(300):
        layer.set(slot(n), bytes(4000), ttl_s=60)
    layer.clear()
    assert store.standings([Line("u", 0, None, 4e9)])[0].settled == 5
    layer.close()
    store.close()


# -- options -----------------------------------------------------------------------

BAD: dict[str, dict[str, Any]] = {
    "max-small": {"max_bytes": 1000},
    "max-float": {"max_bytes": 1e9},
    "max-bool": {"max_bytes": True},
    "timeout-zero": {"timeout_s": 0},
    "timeout-nan": {"timeout_s": float("nan")},
    "timeout-str": {"timeout_s": "1"},
    "retry-negative": {"retry_s": -1},
    "retry-nan": {"retry_s": float("nan")},
}


@pytest.mark.parametrize("options", BAD.values(), ids=BAD)
def test_options_that_make_no_sense_are_refused(place: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"DiskLayer\({next(iter(options))}=.*give "):
        DiskLayer(place, **options)
    assert not place.exists()


def test_a_directory_has_to_be_named() -> None:
    with pytest.raises(ConfigError, match="give the path of a directory"):
        DiskLayer(None)  # type: ignore[arg-type]


def test_it_is_one_that_blocks_and_is_shared(layer: DiskLayer) -> None:
    kind: Layer = layer
    assert (kind.inline, kind.shared, kind.aget, kind.aset) == (False, True, None, None)
    assert "cache" in repr(layer)


def test_nothing_heavy_is_loaded_until_it_is_used() -> None:
    script = (
        "import sys, tierllm.caching.disk_layer\n"
        "assert not {'diskcache', 'sqlite3', 'pydantic', 'redis'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_read_only_it_is_looked_at_and_no_more(place: Path, layer: DiskLayer, now: Now) -> None:
    layer.set(slot(1), b"data", ttl_s=60)
    layer.post([Notice("doc:1", 1)])
    seen = open_at(place, wall_clock=now, read_only=True)
    assert seen.get(slot(1)) == b"data"
    assert list(seen.scan()) == [(slot(1), b"data")]
    assert (seen.stats().entries, seen.stats().bytes) == (1, layer.stats().bytes)
    assert seen.board() == layer.board()
    with pytest.raises(UsageError, match="read_only"):
        seen.post([Notice("doc:2", 1)])
    with pytest.raises(StoreUnavailableError, match="readonly"):
        seen.set(slot(2), b"more", ttl_s=60)
    seen.close()
    assert layer.stats().entries == 1


def test_read_only_there_has_to_be_one(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"read_only=True\): there is no cache in"):
        open_at(place, read_only=True)
    assert not place.exists()

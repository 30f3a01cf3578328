"""What may be wrong with a disk: damage, tampering, rights, space, other people's locks."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from stores.ground import SPAWN, eventually, line, opened, standing, used
from tierllm.errors import ConfigError, StoreUnavailableError
from tierllm.events import Event, StoreTrouble
from tierllm.stores import DiskStore, Settlement
from tierllm.stores.boot import boot_clock


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def told() -> list[StoreTrouble]:
    return []


@pytest.fixture
def store(place: Path, told: list[StoreTrouble]) -> Iterator[DiskStore]:
    store = open_at(place, told)
    yield store
    store.close()


def open_at(place: Path, told: list[StoreTrouble], **settings: float) -> DiskStore:
    store = DiskStore(place, **settings)

    def note(event: Event) -> None:
        assert isinstance(event, StoreTrouble)
        told.append(event)

    store.emit = note
    return store


def aside(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if ".damaged-" in path.name)


def sql(place: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(place / "cache.db") as connection:
        connection.execute(statement, values)
    connection.close()


# -- damage ----------------------------------------------------------------------


def garbled(database: Path) -> None:
    database.write_bytes(os.urandom(8192))


def truncated(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:5000])


def garbled_inside(database: Path) -> None:
    whole = database.read_bytes()
    database.write_bytes(whole[:4096] + os.urandom(len(whole) - 4096))


def emptied_of_tables(database: Path) -> None:
    sql(database.parent, "DROP TABLE Cache")


def a_text(database: Path) -> None:
    database.write_text("not a database\n" * 100)


def a_directory(database: Path) -> None:
    database.unlink()
    database.mkdir()
    (database / "mine.txt").write_text("kept")


def a_link(database: Path) -> None:
    target = database.parent.parent / "elsewhere.db"
    database.rename(target)
    database.symlink_to(target)


def a_trigger(database: Path) -> None:
    sql(database.parent, "CREATE TRIGGER evil AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END")


DAMAGES = [garbled, truncated, garbled_inside, a_text, a_directory, a_link, a_trigger]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_database_is_moved_aside(
    place: Path, told: list[StoreTrouble], damage: Callable[[Path], None]
) -> None:
    before = opened(str(place))
    used(before, [line("u", 5)], [5])
    before.close()
    damage(place / "cache.db")
    store = open_at(place, told)
    assert standing(store, "u") == (0, 0, None)
    used(store, [line("u", 5)], [4])
    assert standing(store, "u").settled == 4
    assert len([name for name in aside(place) if not name.endswith(("-wal", "-shm"))]) == 1
    assert [event.ok for event in told] == [False]
    assert "forgotten" in told[0].text
    assert aside(place)[0] in told[0].text
    store.close()
    again = open_at(place, told)
    assert standing(again, "u").settled == 4
    assert len(told) == 1
    again.close()


@pytest.mark.parametrize("damage", [garbled, truncated, emptied_of_tables, a_text], ids=lambda d: d.__name__)
def test_damage_while_the_store_is_in_use(
    place: Path, store: DiskStore, told: list[StoreTrouble], damage: Callable[[Path], None]
) -> None:
    used(store, [line("u", 5)], [5])
    other = opened(str(place))
    assert standing(other, "u").settled == 5
    with sqlite3.connect(place / "cache.db") as connection:  # so that nothing is read from the journal
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    damage(place / "cache.db")
    hold = store.hold([line("u", 5)])
    try:
        store.reserve(hold)
        store.post(Settlement(hold, (3,), (0,)))
    except StoreUnavailableError:  # it may look like anything
        store.give_back(hold)
    eventually(store.flush)
    used(store, [line("w", 1)], [1])
    used(other, [line("w", 1)], [1])
    assert standing(store, "w").settled == 2
    assert told
    other.close()


@pytest.mark.parametrize("what", ["database", "directory"])
def test_what_was_deleted_is_made_again(
    place: Path, store: DiskStore, told: list[StoreTrouble], what: str
) -> None:
    used(store, [line("u", 5)], [5])
    hold = store.hold([line("u", 5)])
    store.reserve(hold)
    for path in place.iterdir():
        path.unlink()
    if what == "directory":
        place.rmdir()
    store.post(Settlement(hold, (5,), (0,)))
    assert store.flush()
    used(store, [line("u", 5)], [5])
    assert standing(store, "u") == (5, 0, 0)
    assert [event.ok for event in told] == [False]
    assert "deleted" in told[0].text
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


# -- tampering -------------------------------------------------------------------


class Bomb:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.victim}.went-off",)


GARBAGE = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'[1,"x",null,0]',
    b"[-1,0,null,0]",
    b'[0,0,{"x":1},0]',
    b'[0,0,{"1":"x"},0]',
]
GARBAGE += [b"[" * 100_000, b"\xff", b"9" * 5000, b"[0,0,[1],0]", b"[true]"]


@pytest.mark.parametrize("value", GARBAGE, ids=lambda value: ascii(value[:12]))
@pytest.mark.parametrize("row", ["a:u", "o:{owner}", "h:{hold}", "m:{hold}"])
def test_rows_that_cannot_be_read_are_set_aside(
    store: DiskStore, place: Path, told: list[StoreTrouble], row: str, value: bytes
) -> None:
    used(store, [line("v", 3)], [3])
    hold = store.hold([line("u", 5, 100)])
    assert store.reserve(hold).ok
    key = row.format(owner=store.owner, hold=hold.id).encode()
    sql(place, "DELETE FROM Cache WHERE key = ?", key)
    sql(place, "INSERT INTO Cache (key, raw, mode, value) VALUES (?, 1, 1, ?)", key, value)
    other = opened(str(place))
    other.reserve(other.hold([line("u", 10**6, 100)]))  # looks at everything
    store.post(Settlement(hold, (5,), (0,)))
    assert store.flush()
    used(store, [line("u", 1)], [1])
    assert standing(store, "v").settled == 3  # the others' rows are none the worse
    assert aside(place) == []
    store.renew_lease()
    other.close()


@pytest.mark.parametrize(
    "tampering", ["pickle", "pickled file", "raw", "absolute", "upwards", "text", "null"]
)
def test_nothing_that_was_put_there_is_executed_or_deleted(
    store: DiskStore, place: Path, tmp_path: Path, tampering: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    used(store, [line("u", 5)], [5])
    assert store.swap("d", b"x", None)
    (place / "bomb").write_bytes(pickle.dumps(Bomb(victim)))
    change, values = {
        "pickle": ("mode = 4, value = ?", [pickle.dumps(Bomb(victim))]),
        "pickled file": ("mode = 4, value = NULL, filename = ?", ["bomb"]),
        "raw": ("raw = 0, value = ?", [pickle.dumps(Bomb(victim))]),
        "absolute": ("mode = 2, value = NULL, filename = ?", [str(victim)]),
        "upwards": ("mode = 3, value = NULL, filename = ?", ["../victim"]),
        "text": ("value = ?", ["[0,0,null,0]"]),
        "null": ("mode = NULL, value = NULL", []),
    }[tampering]
    sql(place, f"UPDATE Cache SET {change}", *values)
    sql(place, "UPDATE Cache SET expire_time = 1 WHERE key = ?", b"o:" + store.owner.encode())
    store.standings([line("u")])
    assert store.load("d") is None
    assert store.swap("d", b"y", None)
    used(store, [line("u", 1)], [1])
    store.renew_lease()
    store.end_lease()
    assert standing(store, "u").settled == 1
    assert victim.read_text() == "precious"
    assert not Path(f"{victim}.went-off").exists()


def test_settings_that_were_put_there_are_not_believed(place: Path, tmp_path: Path) -> None:
    first = opened(str(place))
    used(first, [line("u", 5)], [5])
    first.close()
    for key, value in (
        ("_disk", "x"),
        ("close", "x"),
        ("disk_x", 1),
        ("sqlite_query_only", 1),
        ("cull_limit", "x"),
    ):
        sql(place, "INSERT OR REPLACE INTO Settings VALUES (?, ?)", key, value)
    store = opened(str(place))
    used(store, [line("u", 5)], [5])
    assert standing(store, "u").settled == 10
    store.close()


# -- rights and space ------------------------------------------------------------


def test_only_its_owner_can_read_it(store: DiskStore, place: Path) -> None:
    used(store, [line("u", 5)], [5])
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o600}


def test_a_directory_that_others_may_write_to_is_refused(place: Path) -> None:
    place.mkdir()
    place.chmod(0o770)
    with pytest.raises(ConfigError, match="chmod 700"):
        DiskStore(place)
    place.chmod(0o755)
    DiskStore(place).close()


def test_a_directory_that_is_opened_to_others_later(store: DiskStore, place: Path) -> None:
    store.close()
    place.chmod(0o777)
    with pytest.raises(StoreUnavailableError, match="chmod 700"):
        store.load("d")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_a_directory_of_somebody_else_is_refused(place: Path) -> None:
    place.mkdir(mode=0o700)
    os.chown(place, 12345, 12345)
    with pytest.raises(ConfigError, match="another user"):
        DiskStore(place)


def test_a_file_where_the_directory_should_be(place: Path) -> None:
    place.write_text("x")
    store = DiskStore(place)
    with pytest.raises(StoreUnavailableError):
        store.load("d")
    store.close()


def test_a_full_disk_is_said_once_and_over_when_it_is(store: DiskStore, told: list[StoreTrouble]) -> None:
    used(store, [line("u", 5)], [5])
    assert store._books is not None
    ((pages,),) = store._books.shelf.rows("PRAGMA page_count")
    store._books.shelf.rows(f"PRAGMA max_page_count = {pages}")
    for n in range(2):
        with pytest.raises(StoreUnavailableError, match="full"):
            store.swap(f"big{n}", b"x" * 100_000, None)
    assert standing(store, "u").settled == 5
    assert [event.ok for event in told] == [False]  # reading works, and is no recovery
    store._books.shelf.rows("PRAGMA max_page_count = 1000000")
    assert store.swap("big", b"x" * 100_000, None)
    assert [event.ok for event in told] == [False, True]
    assert store._books is not None
    assert not store._books.shelf.in_doubt


def test_what_a_full_disk_refused_need_not_be_given_back(store: DiskStore) -> None:
    used(store, [line("u", 5)], [5])
    assert store._books is not None
    ((pages,),) = store._books.shelf.rows("PRAGMA page_count")
    store._books.shelf.rows(f"PRAGMA max_page_count = {pages}")
    refused = 0
    for n in range(200):
        hold = store.hold([line(f"{n}" * 50, 1)])
        try:
            store.reserve(hold)
        except StoreUnavailableError:
            refused += 1
            store.give_back(hold)
    assert refused
    assert not store.outbox


def test_a_disk_that_cannot_be_written_to(store: DiskStore) -> None:
    used(store, [line("u", 5)], [5])
    assert store._books is not None
    store._books.shelf.rows("PRAGMA query_only = 1")
    hold = store.hold([line("u", 5)])
    with pytest.raises(StoreUnavailableError, match="readonly"):
        store.reserve(hold)
    assert standing(store, "u").settled == 5
    store._books.shelf.rows("PRAGMA query_only = 0")
    store.give_back(hold)
    assert store.flush()


@pytest.mark.parametrize("held_by", ["another process", "a thread"])
def test_a_lock_is_waited_for_and_not_for_ever(place: Path, told: list[StoreTrouble], held_by: str) -> None:
    store = open_at(place, told, timeout_s=0.05)
    used(store, [line("u", 5)], [5])
    holder = sqlite3.connect(place / "cache.db", isolation_level=None)
    before = store.hold([line("u", 5)])
    assert store.reserve(before).ok
    begun, over = threading.Event(), threading.Event()

    def at_work() -> None:
        begun.set()
        over.wait(30)

    thread = threading.Thread(target=store._turn.take, args=(at_work, 30))
    if held_by == "a thread":
        thread.start()
        begun.wait()
    else:
        holder.execute("BEGIN IMMEDIATE")
    for _ in range(20):
        hold = store.hold([line("u", 5)])
        with pytest.raises(StoreUnavailableError, match=r"locked|busy"):
            store.reserve(hold)
        store.give_back(hold)
    assert not store.outbox  # nothing came of them, for certain
    store.give_back(before)
    assert not store.flush()
    assert len(store.outbox) == 1
    if held_by == "a thread":
        over.set()
        thread.join()
    else:
        holder.execute("ROLLBACK")
    assert store.flush()
    assert standing(store, "u") == (5, 0, 0)
    assert [event.ok for event in told] == [False, True]
    holder.close()
    store.close()


def test_an_error_of_the_application_is_no_news_of_the_disk(store: DiskStore) -> None:
    """It may be the context of ours: it is neither quoted nor taken for damage."""
    store.load("d")
    assert store._books is not None
    store._books.shelf.rows("PRAGMA query_only = 1")
    try:
        raise ValueError("the secret prompt")
    except ValueError:
        with pytest.raises(StoreUnavailableError) as caught:
            store.swap("d", b"x", None)
    assert "secret" not in str(caught.value)


# -- life and death --------------------------------------------------------------


def write_for_ever(where: str, told: Connection) -> None:
    store = opened(where, lease_s=0.2)
    used(store, [line("u", 3), line("v", 3)], [1, 1])
    told.send("begun")
    while True:
        used(store, [line("u", 3), line("v", 3)], [1, 1])


def test_it_survives_being_killed_while_writing(place: Path, told: list[StoreTrouble]) -> None:
    store = open_at(place, told)
    for n in range(4):
        here, there = SPAWN.Pipe(duplex=False)
        writer = SPAWN.Process(target=write_for_ever, args=(str(place), there))
        writer.start()
        assert here.poll(30)
        time.sleep(0.02 + 0.011 * n)  # somewhere in the middle of something
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        u, v = store.standings([line("u"), line("v")])
        assert u == v
    assert u.settled > 0
    eventually(lambda: store.reserve(store.hold([line("u", 1, u.settled + 1)])).ok)
    assert told == []
    store.close()


def test_a_restart_of_the_machine_gives_everything_back(place: Path) -> None:
    before = DiskStore(place)
    assert before.reserve(before.hold([line("u", 10, 10)])).ok
    before.close()
    after = DiskStore(place)
    after._boot = "another start"
    assert after.reserve(after.hold([line("u", 10, 10)])).ok
    after.close()


def test_the_wall_clock_ends_no_lease(place: Path) -> None:
    wall = [2e9]
    store, other = (DiskStore(place, wall_clock=lambda: wall[0]) for _ in range(2))
    assert store.reserve(store.hold([line("u", 10, 10)])).ok
    for jump in (1e8, -2e8, 3e8):
        wall[0] += jump
        assert not other.reserve(other.hold([line("u", 10, 10)])).ok
    store.close()
    other.close()


def test_a_lease_on_a_clock_of_its_own(place: Path) -> None:
    now = [100.0]
    store, other = (DiskStore(place, lease_s=60, clock=lambda: now[0]) for _ in range(2))
    assert store.reserve(store.hold([line("u", 10, 10)])).ok
    now[0] += 59
    assert not other.reserve(other.hold([line("u", 1, 10)])).ok
    now[0] += 2
    assert other.reserve(other.hold([line("u", 10, 10)])).ok
    store.close()
    other.close()


def test_the_clock_is_one_for_all_processes() -> None:
    name, clock = boot_clock()
    assert boot_clock()[0] == name
    first = clock()
    assert boot_clock()[1]() >= first


def test_it_is_closed_twice_and_goes_on(store: DiskStore) -> None:
    used(store, [line("u", 5)], [5])
    store.close()
    store.close()
    assert standing(store, "u").settled == 5


def test_threads_share_one_connection(store: DiskStore, place: Path) -> None:
    def run() -> None:
        for _ in range(50):
            used(store, [line("u", 1)], [1])

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert standing(store, "u") == (400, 0, 0)
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
    assert sum(each == str(place / "cache.db") for each in links) == 1


def _is_link(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


def test_its_rows_are_plain_json(store: DiskStore, place: Path) -> None:
    used(store, [line("u", 5, None, 7)], [4])
    connection = sqlite3.connect(place / "cache.db")
    rows = connection.execute("SELECT key, value FROM Cache").fetchall()
    connection.close()
    assert {bytes(key): json.loads(value) for key, value in rows}[b"a:u"][:3] == [0, 0, {"7": 4}]

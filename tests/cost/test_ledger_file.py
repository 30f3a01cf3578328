"""The ledger's file: other processes, kill -9, forks, threads, locks, damage, full disks."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from tierllm.cost.ledger import Entry, UsageLedger
from tierllm.cost.ledger_database import LedgerDatabase, _inode, _make, connected, is_new
from tierllm.cost.ledger_file import INSERT
from tierllm.cost.ledger_row import COLUMNS, row_of
from tierllm.errors import ConfigError, StoreUnavailableError
from tierllm.events import Event, StoreTrouble

DAY = 86_400.0


def entry(name: object, at: float = 1_000.0, **fields: object) -> Entry:
    return Entry(id=f"e{name}", trace_id="t", at=at, cost_usd=Decimal("0.1"), **fields)  # type: ignore[arg-type]


class Wall:
    """A clock to be set by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.db"


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def ledger(path: Path, events: list[Event]):
    made = UsageLedger(path, clock=Wall())
    made.emit = events.append
    yield made
    made.close()


def ids(ledger: UsageLedger) -> list[str]:
    return [one.id for one in ledger.entries()]


def ids_in(path: Path) -> list[str]:
    with closing(UsageLedger(path, read_only=True)) as reader:
        return ids(reader)


def troubles(events: list[Event]) -> list[tuple[bool, str]]:
    assert all(isinstance(event, StoreTrouble) and event.store == "ledger" for event in events)
    return [(event.ok, event.text) for event in events]


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from decimal import Decimal\nimport os, sys\n" + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_file_outlives_its_ledger_and_is_its_owners_alone(path):
    old = os.umask(0)
    try:
        ledger = UsageLedger(path)
        ledger.post(entry(1))
        assert ledger.flush()
        files = sorted(file.name for file in path.parent.iterdir())
        assert files == ["usage.db", "usage.db-shm", "usage.db-wal"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    finally:
        os.umask(old)
    ledger.close()
    ledger.close()
    assert [file.name for file in path.parent.iterdir()] == ["usage.db"]
    assert ids_in(path) == ["e1"]


def test_one_flush_is_asked_for_at_a_time(ledger):
    assert ledger.post(entry(1))
    assert not ledger.post(entry(2))
    assert ledger.flush()
    assert ledger.post(entry(3))


def test_rows_posted_after_close_can_still_be_written(ledger, path):
    ledger.post(entry(1))
    ledger.close()
    ledger.post(entry(2))
    ledger.close()
    assert ids_in(path) == ["e1", "e2"]


# -- better times --------------------------------------------------------------------


def test_a_locked_file_keeps_rows_waiting_in_order(ledger, path, events):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(3):
            ledger.post(entry(number))
            assert not ledger.flush()
        assert ids(ledger) == []  # what can be read is what was written
        assert ledger.waiting == 3
        other.execute("ROLLBACK")
    assert ledger.flush()
    assert ids(ledger) == ["e0", "e1", "e2"]
    assert [ok for ok, _ in troubles(events)] == [False, True]
    assert "database is locked" in events[0].text


def test_after_a_failure_a_flush_is_asked_for_now_and_then(ledger, path):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert ledger.post(entry(1))
        assert not ledger.flush()
        assert not ledger.post(entry(2))
        ledger.clock.now += 1.0
        assert ledger.post(entry(3))
        assert not ledger.flush()
        ledger.clock.now -= 3_600  # a clock that is set back does not stop it
        assert ledger.post(entry(4))


def test_what_waits_is_bounded_and_what_is_left_out_is_told(path, events):
    ledger = UsageLedger(path, max_waiting=3)
    ledger.emit = events.append
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(5):
            ledger.post(entry(number))
        assert not ledger.flush()
        ledger.post(entry(5))
        assert not ledger.flush()
        other.execute("ROLLBACK")
    assert ledger.flush()
    assert ids(ledger) == ["e0", "e1", "e2"]
    assert ledger.lost == 3
    told = troubles(events)
    assert [ok for ok, _ in told] == [False, False, True, False]
    assert told[1][1].startswith("rows left out so far: 2,")
    assert told[3][1].startswith("rows left out so far: 3,")
    ledger.close()


def test_a_close_that_cannot_write_says_so(path, events, monkeypatch):
    monkeypatch.setattr("tierllm.cost.ledger_file.PATIENCE_S", 0.01)
    ledger = UsageLedger(path)
    ledger.emit = events.append
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ledger.post(entry(1))
        ledger.close()
    assert "could not be written: 1" in events[-1].text
    ledger.close()  # now it can
    assert ids_in(path) == ["e1"]


def test_a_full_disk_loses_nothing(path):
    code = """
import resource, signal
from tierllm.cost.ledger import Entry, UsageLedger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = UsageLedger(sys.argv[1])
told = []
ledger.emit = told.append
size = 200_000
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
posted = 0
while True:
    for _ in range(50):
        ledger.post(Entry(id=f"e{posted:05d}", trace_id="t" * 100, at=float(posted)))
        posted += 1
    if not ledger.flush():
        break
assert not ledger.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert ledger.flush()
found = [one.id for one in ledger.entries()]
assert found == [f"e{n:05d}" for n in range(posted)], (len(found), posted)
assert [event.ok for event in told] == [False, True], told
print("ok")
"""
    process = python(code, path)
    assert process.communicate(timeout=60)[0] == "ok\n"


def test_a_listener_may_use_the_ledger(ledger, path, events):
    ledger.emit = lambda event: (events.append(event), ledger.post(entry("told")), ledger.flush())
    ledger.post(entry(1))
    path.unlink()
    assert ledger.flush()
    assert ids(ledger) == ["e1", "etold"]


def test_without_a_listener_trouble_is_logged(ledger, path, caplog):
    ledger.emit = None
    ledger.post(entry("bad", at=-1.0))
    assert ledger.flush()
    assert "'ebad' is left out" in caplog.text


# -- damage --------------------------------------------------------------------------


def damage(path: Path) -> None:
    """All but the header is gone."""
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"no database at all" * (path.stat().st_size // 18))


@pytest.mark.parametrize(
    "content", [b"my notes\n" * 200, b'{"a": 1}' * 500, b"x"], ids=["notes", "json", "x"]
)
def test_a_file_of_something_else_is_refused_and_left_alone(path, content):
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"no usage ledger, and not touched|something else"):
            UsageLedger(path)
    assert [file.name for file in path.parent.iterdir()] == ["usage.db"]
    assert path.read_bytes() == content


def test_a_file_of_something_else_that_came_meanwhile_is_left_alone(ledger, path, events):
    ledger.post(entry(1))
    assert ledger.flush()
    ledger.close()
    path.unlink()
    path.write_bytes(b"my notes\n" * 200)
    ledger.post(entry(2))
    assert not ledger.flush()
    assert ledger.waiting == 1
    assert path.read_bytes() == b"my notes\n" * 200
    path.unlink()


def test_damage_that_only_readers_meet_is_put_aside_by_the_next_flush(path, events):
    ledger = UsageLedger(path)
    for number in range(20_000):
        ledger.post(entry(number, user=f"u{number % 50}"))
    ledger.close()
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(os.urandom(4096))
    ledger = UsageLedger(path)
    ledger.emit = events.append
    ledger.post(entry("before", at=30_000.0))
    with pytest.raises(StoreUnavailableError, match="malformed"):
        ledger.total()
    ledger.post(entry("after", at=30_001.0))
    assert ids(ledger) == ["eafter"]
    assert "damaged" in events[0].text
    assert path.with_name("usage.db.damaged-1").exists()
    ledger.close()


def test_a_reader_in_doubt_of_a_sound_file_changes_nothing(ledger, path):
    ledger.post(entry(1))
    assert ledger.flush()
    ledger._rows._database.suspected = True
    ledger.post(entry(2))
    assert ids(ledger) == ["e1", "e2"]


def test_of_a_link_what_it_points_to_is_put_aside(tmp_path, path):
    real = tmp_path / "volume" / "real.db"
    real.parent.mkdir()
    path.symlink_to(real)
    with closing(UsageLedger(path)) as ledger:
        for number in range(2_000):
            ledger.post(entry(number))
    damage(real)
    with closing(UsageLedger(path)) as ledger:
        ledger.post(entry("new"))
        assert ids(ledger) == ["enew"]
    assert path.is_symlink()
    assert sorted(file.name for file in real.parent.iterdir()) == ["real.db", "real.db.damaged-1"]


# -- where it is ---------------------------------------------------------------------


def test_a_change_of_directory_does_not_move_it(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with closing(UsageLedger("usage.db")) as ledger:
        ledger.post(entry(1))
        assert ledger.flush()
        monkeypatch.chdir(tmp_path / "b")
        ledger.post(entry(2))
        assert ids(ledger) == ["e1", "e2"]
    assert ids_in(tmp_path / "a" / "usage.db") == ["e1", "e2"]


@pytest.mark.parametrize("name", ["", "a\0b", ":memory:"], ids=["empty", "nul", "memory"])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_path_that_can_be_no_file(tmp_path, monkeypatch, name, read_only):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="path"):
        UsageLedger(name, read_only=read_only)
    assert list(tmp_path.iterdir()) == []


def test_a_statement_adds_up_while_others_write(path):
    stop = threading.Event()

    def write() -> None:
        with closing(UsageLedger(path)) as writer:
            number = 0
            while not stop.is_set():
                writer.post(entry(number, tenant="a"))
                writer.flush()
                number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with closing(UsageLedger(path)) as ledger:
            for _ in range(100):
                made = ledger.statement(tenant="a")
                assert sum(line.cost_usd for line in made.lines) == made.total.cost_usd
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("damage", "when"),
    [
        ("garbage", "before"),
        ("garbage", "meanwhile"),
        ("truncated", "before"),
        ("truncated", "meanwhile"),
        ("header", "meanwhile"),
    ],
)
def test_a_damaged_file_is_put_aside_and_begun_afresh(path, events, damage, when):
    ledger = UsageLedger(path)
    ledger.emit = events.append
    for number in range(2_000):
        ledger.post(entry(number))
    assert ledger.flush()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if when == "before":
        ledger.close()
    size = path.stat().st_size
    with open(path, "r+b") as file:
        if damage == "garbage":
            file.seek(4096)
            file.write(os.urandom(size - 4096))
        elif damage == "truncated":
            file.truncate(size // 3)
        else:
            file.write(b"no database at all" * 10)
    if when == "before":
        ledger = UsageLedger(path)
        ledger.emit = events.append
    for number in range(5_000, 5_100):
        ledger.post(entry(number))
    assert ledger.flush()
    assert ids(ledger) == [f"e{number}" for number in range(5_000, 5_100)]
    aside = path.with_name("usage.db.damaged-1")
    assert aside.stat().st_size <= size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ((ok, text),) = troubles(events)
    assert not ok
    assert "usage.db.damaged-1" in text
    ledger.close()


def test_reading_a_damaged_file_is_an_error_and_changes_nothing(path):
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreUnavailableError, match="not a database"):
        UsageLedger(path, read_only=True)
    assert [file.name for file in path.parent.iterdir()] == ["usage.db"]


def test_a_file_that_was_removed_is_made_again(ledger, path, events):
    ledger.post(entry(1))
    assert ledger.flush()
    path.unlink()
    ledger.post(entry(2))
    assert ledger.flush()
    assert ids(ledger) == ["e2"]
    assert "removed or replaced" in events[0].text


def test_a_file_that_was_replaced_by_something_else_keeps_rows_waiting(ledger, path, events):
    path.unlink()
    for end in ("-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    ledger.post(entry(1))
    assert not ledger.flush()
    assert "something else" in "".join(text for _, text in troubles(events))
    path.unlink()
    assert ledger.flush()
    assert ids(ledger) == ["e1"]


def test_a_newer_layout_is_left_alone(path):
    UsageLedger(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(ConfigError, match="newer tierllm"):
            UsageLedger(path, read_only=read_only)
    assert path.read_bytes() == before


def test_a_database_of_something_else_is_left_alone(path):
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(ConfigError, match="something else"):
            UsageLedger(path, read_only=read_only)
    assert path.read_bytes() == before


@pytest.mark.parametrize("where", ["no/such/directory/l.db", "."], ids=["missing", "directory"])
def test_a_path_that_cannot_be_a_ledger(tmp_path, where):
    with pytest.raises(ConfigError, match="cannot be made"):
        UsageLedger(tmp_path / where)


def test_who_may_not_write_in_the_directory_is_told_what_to_do(path, monkeypatch):
    UsageLedger(path).close()

    def refuse(*_: object) -> bool:
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY_DIRECTORY
        raise error

    monkeypatch.setattr("tierllm.cost.ledger_reader.is_new", refuse)
    with pytest.raises(StoreUnavailableError, match="write to its directory, or be given a copy"):
        UsageLedger(path, read_only=True)


def test_a_file_that_was_there_keeps_its_mode(path):
    path.touch(mode=0o640)
    path.chmod(0o640)
    with closing(UsageLedger(path)) as ledger:
        ledger.post(entry(1))
        assert ledger.flush()
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o640}


def test_a_reader_makes_no_file(path):
    with pytest.raises(ConfigError, match="no usage ledger"):
        UsageLedger(path, read_only=True)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a?mode=ro", "a#b", "a%20b", "é"])
def test_any_file_name_will_do(tmp_path, name):
    ledger = UsageLedger(tmp_path / name)
    ledger.post(entry(1))
    assert ids(ledger) == ["e1"]
    ledger.close()
    assert [file.name for file in tmp_path.iterdir()] == [name]


# -- retention -----------------------------------------------------------------------


def test_old_rows_go_a_few_at_a_time(path):
    clock = Wall()
    ledger = UsageLedger(path, retention_days=1, clock=clock)
    for number in range(1_000):
        ledger.post(entry(number, at=1_000.0 + number / 1_000))
    assert ledger.flush()
    clock.now += 2 * DAY
    left = []
    for number in range(7):
        ledger.post(entry(f"n{number}", at=clock.now))
        assert ledger.flush()
        left.append(ledger.total(until=clock.now).calls)
    assert left == [800, 600, 400, 200, 0, 0, 0]
    assert ledger.total().calls == 7
    ledger.close()


# -- threads and processes -----------------------------------------------------------


def test_threads_post_flush_and_read_at_once(ledger):
    problems: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(200):
                ledger.post(entry(f"{name}-{number}", user=f"u{name}"))
                if number % 20 == 0:
                    assert ledger.flush()
                    ledger.total(user=f"u{name}")
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert ledger.total().calls == 1_600
    assert ledger.total().cost_usd == 160


WRITER = """
from tierllm.cost.ledger import Entry, UsageLedger
ledger = UsageLedger(sys.argv[1])
name, rows = sys.argv[2], int(sys.argv[3])
for number in range(rows):
    at = 1000.0 + number
    ledger.post(Entry(id=f"{name}-{number}", trace_id="t", at=at, user=name, cost_usd=Decimal("0.01")))
    if number % 10 == 9 and ledger.flush() and number % 100 == 99:
        print(number + 1, flush=True)
ledger.close()
"""


def test_processes_write_one_file(path):
    processes = [python(WRITER, path, f"p{n}", 500) for n in range(6)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    with closing(UsageLedger(path, read_only=True)) as reader:
        assert [(line.calls, line.cost_usd) for line in reader.usage()] == [(500, 5)] * 6


def test_a_file_that_is_being_made_is_never_taken_for_something_else(path):
    """Another process makes it between any two of the statements by which this one looks at it."""
    for steps in range(8):
        file = path.with_name(f"{steps}.db")
        file.touch()
        with closing(connected(str(file), "rw", 0.25)) as connection:
            left = steps

            def made_meanwhile(_statement: str, file: Path = file) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    with closing(connected(str(file), "rw", 0.0)) as other:
                        _make(other)

            connection.set_trace_callback(made_meanwhile)
            try:
                is_new(connection, str(file))
            except sqlite3.OperationalError:
                pass  # locked: it is tried again later
            connection.set_trace_callback(None)


def test_kill_9_loses_nothing_that_was_flushed(path):
    flushed = 0
    for turn in range(3):
        process = python(WRITER, path, f"k{turn}", 1_000_000)
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(2 + turn)]
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=30)
        told += [int(line) for line in rest.splitlines()]
        flushed = told[-1]
        ledger = UsageLedger(path)
        found = sorted(int(one.id.split("-")[1]) for one in ledger.entries(user=f"k{turn}"))
        assert len(found) >= flushed
        assert found == list(range(len(found)))
        assert len(found) % 10 == 0  # a flush is there wholly or not at all
        ledger.close()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)


FORKING = """
from tierllm.cost.ledger import Entry, UsageLedger
ledger = UsageLedger(sys.argv[1])
def row(name): return Entry(id=name, trace_id="t", at=1000.0)
ledger.post(row("before")); assert ledger.flush()
ledger.post(row("parents"))  # waits while the child is made
pid = os.fork()
if pid == 0:
    assert not ledger._queue
    ledger.post(row("child")); assert ledger.flush()
    ledger.close()
    if sys.argv[2] == "exit":
        sys.exit()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
ledger.post(row("after")); assert ledger.flush()
print(sorted(one.id for one in ledger.entries()))
ledger.close()
"""


@pytest.mark.parametrize("end", ["exit", "_exit"])
def test_a_fork_shares_the_file_and_nothing_else(path, end):
    process = python(FORKING, path, end)
    assert process.communicate(timeout=30)[0] == "['after', 'before', 'child', 'parents']\n"
    assert process.returncode == 0
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)


FORKED_BEFORE = """
from tierllm.cost.ledger import Entry, UsageLedger
ledger = UsageLedger(sys.argv[1])
def row(name): return Entry(id=name, trace_id="t", at=1000.0)
for number in range(5000):
    ledger.post(row(f"before{number}"))
assert ledger.flush()
reading = ledger.entries()  # half-way while the process forks
assert next(reading).id == "before0"
go, gone = os.pipe()
done, finished = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(gone)
    ledger.post(row("child-first")); assert ledger.flush()
    os.write(finished, b"x")
    os.read(go, 1)  # until the parent has closed the ledger, or is no more
    for number in range(50):
        ledger.post(row(f"child{number}")); assert ledger.flush()
    assert sum(1 for _ in reading) == 4999
    if sys.argv[2] == "close":
        ledger.close()
    print("written", flush=True)
    os._exit(0)
os.read(done, 1)
if sys.argv[2] == "exit":
    os._exit(0)
assert sum(1 for _ in reading) == 4999
ledger.close()
os.close(gone)
assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("end", ["close", "leave", "exit"])
def test_a_child_goes_on_writing_when_its_parent_has_closed_or_is_no_more(path, end):
    process = python(FORKED_BEFORE, path, end)
    assert process.communicate(timeout=60)[0] == "written\n"
    assert process.returncode == 0
    with closing(UsageLedger(path, read_only=True)) as reader:
        assert reader.total().calls == 5_051
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_processes_that_find_damage_at_once_put_it_aside_once(path):
    ledger = UsageLedger(path)
    for number in range(2_000):
        ledger.post(entry(number))
    ledger.close()
    damage(path)
    processes = [python(WRITER, path, f"p{n}", 100) for n in range(4)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(ids_in(path)) == 400
    assert [file.name for file in sorted(path.parent.iterdir())][:2] == ["usage.db", "usage.db.damaged-1"]
    assert not Path(f"{path}.damaged-2").exists()


def test_importing_the_ledger_does_not_import_sqlite():
    code = "import tierllm.cost.ledger, sys; print('sqlite3' in sys.modules)"
    process = python(code)
    assert process.communicate(timeout=30)[0] == "False\n"


def test_the_log_of_a_damaged_file_is_put_aside_with_it(path, tmp_path):
    writer = UsageLedger(path)
    writer.post(entry("old"))
    assert writer.flush()
    killed = tmp_path / "killed.db"  # as a killed process leaves it: with its log
    for end in ("", "-wal"):
        Path(f"{killed}{end}").write_bytes(Path(f"{path}{end}").read_bytes())
    writer.close()
    damage(killed)
    with closing(UsageLedger(killed)) as ledger:
        ledger.post(entry("new"))
        assert ids(ledger) == ["enew"]
    assert any(b"eold" in file.read_bytes() for file in tmp_path.glob("killed.db.damaged-1*"))


def test_a_file_that_another_process_put_aside_already_is_let_be(path):
    database = LedgerDatabase(str(path))
    database.opened()
    before = _inode(str(path))
    assert database._put_aside(sqlite3.DatabaseError("malformed"), (0, 0))
    assert _inode(str(path)) == before
    assert database.notes == []
    database.close()


def test_what_breaks_off_half_way_leaves_nothing_behind(path):
    database = LedgerDatabase(str(path))

    def half(connection: sqlite3.Connection) -> None:
        connection.execute(INSERT, row_of(entry(1)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.change(half)
    database.change(lambda connection: connection.execute(INSERT, row_of(entry(2))))
    database.close()
    assert ids_in(path) == ["e2"]


def test_a_flush_within_a_flush_lets_the_outer_one_go_on(ledger):
    """As when garbage is collected in the midst of one, and ends a call."""
    write = ledger._rows.write

    def interrupted(entries, now):
        left_out = write(entries, now)
        ledger.post(entry("inner"))
        assert ledger.flush()
        ledger._rows.write = write
        return left_out

    ledger._rows.write = interrupted
    ledger.post(entry("outer"))
    assert ledger.flush()
    assert ids(ledger) == ["eouter", "einner"]


# -- files of an earlier version ---------------------------------------------------------------


def columns_in(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as other:
        return {row[1] for row in other.execute("PRAGMA table_info(entries)")}


@pytest.fixture
def earlier(path: Path) -> str:
    """A file as the first version made it, with a row; what that version writes by."""
    with closing(UsageLedger(path, clock=Wall())) as ledger:
        ledger.post(entry(1, user="ann"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("ALTER TABLE entries DROP COLUMN contract")
    assert "contract" not in columns_in(path)
    return INSERT.replace(" contract,", "", 1).replace("?, ", "", 1)


def test_who_reads_a_file_of_an_earlier_version_leaves_it_as_it_is(path, earlier):
    with closing(UsageLedger(path, read_only=True)) as ledger:
        assert [(e.id, e.contract) for e in ledger.entries()] == [("e1", None)]
        assert [line.group for line in ledger.usage(("contract",))] == [{"contract": None}]
        assert ledger.total(contract="acme").calls == 0
    assert "contract" not in columns_in(path)


def test_a_file_of_an_earlier_version_grows_when_it_is_written(path, earlier):
    with closing(UsageLedger(path, clock=Wall())) as ledger:
        ledger.post(entry(2, contract="acme"))
        assert ledger.flush()
        row = dict(zip(COLUMNS, row_of(entry(3)), strict=True))
        del row["contract"]
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute(earlier, tuple(row.values()))
        assert [(e.id, e.contract) for e in ledger.entries()] == [("e1", None), ("e2", "acme"), ("e3", None)]
        assert ledger.total(contract="acme").calls == 1
        assert {line.group["contract"]: line.calls for line in ledger.usage(("contract",))} == {
            None: 2,
            "acme": 1,
        }


def test_two_that_grow_a_file_at_once_do_not_meet(path, earlier):
    opened = [LedgerDatabase(str(path)) for _ in range(4)]
    failures: list[BaseException] = []

    def open_it(database: LedgerDatabase) -> None:
        try:
            database.opened()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it, args=(database,)) for database in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for database in opened:
        database.close()
    assert failures == []
    assert "contract" in columns_in(path)

"""The disk layer between processes: its board, damaged or lost or not to be written; claims of the dead."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from stores.ground import SPAWN
from tierllm.caching import disk_claims, disk_notices
from tierllm.caching.disk_layer import DiskLayer
from tierllm.caching.layer import Notice
from tierllm.errors import ConfigError, StoreUnavailableError
from tierllm.events import Event, StoreTrouble

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))


class Now:
    """Seconds since 1970, as the test says."""

    def __init__(self) -> None:
        self.s = 1.7e9

    def __call__(self) -> float:
        return self.s

    @property
    def ms(self) -> int:
        return int(self.s * 1000)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def told() -> list[StoreTrouble]:
    return []


Open = Callable[[], DiskLayer]


@pytest.fixture
def open_one(place: Path, told: list[StoreTrouble], now: Now) -> Iterator[Open]:
    layers: list[DiskLayer] = []

    def note(event: Event) -> None:
        assert isinstance(event, StoreTrouble)
        told.append(event)

    def open_one() -> DiskLayer:
        layers.append(DiskLayer(place, retry_s=0.0, timeout_s=5.0, wall_clock=now))
        layers[-1].emit = note
        return layers[-1]

    yield open_one
    for each in layers:
        each.close()


def file(place: Path) -> Path:
    return place / "answers" / "notices"


def aside(place: Path) -> list[str]:
    return sorted(path.name for path in (place / "answers").iterdir() if ".damaged-" in path.name)


def said(layer: DiskLayer) -> dict[str, int]:
    return {notice.name: notice.number for notice in layer.board().notices}


# -- as it should be -------------------------------------------------------------------


def test_it_outlives_processes_and_the_database(place: Path, open_one: Open) -> None:
    first = open_one()
    first.set(A, b"a", ttl_s=60)
    number = first.post([Notice("a", 0, "x")])
    first.close()
    (place / "answers" / "cache.db").write_bytes(os.urandom(9000))
    second = open_one()
    assert second.get(A) is None
    assert second.heard() == number
    assert second.board().notices == (("a", number, "x"),)


def test_numbers_are_those_of_the_clock_and_only_go_up(open_one: Open, now: Now) -> None:
    layer = open_one()
    assert layer.post([Notice("a", 0)]) == now.ms
    assert layer.post([Notice("a", 0)]) == now.ms + 1
    now.s -= 3600
    assert layer.post([Notice("a", 0)]) == now.ms + 3_600_002
    now.s += 7200
    assert layer.post([Notice("a", 0)]) == now.ms


def test_only_its_owner_can_read_it(place: Path, open_one: Open) -> None:
    open_one().post([Notice("a", 0)])
    for path in (place / "answers").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_to_ask_again_reads_nothing(open_one: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = open_one()
    layer.post([Notice("a", 0)])
    layer.heard()
    monkeypatch.setattr(layer._board, "_read", None)
    assert layer.heard() == layer.heard() > 0


def test_to_ask_before_anything_is_there_makes_nothing(place: Path, open_one: Open) -> None:
    layer = open_one()
    before = sorted(place.rglob("*"))
    assert layer.heard() == 0
    assert layer.board() == (0, 0, ())
    assert sorted(place.rglob("*")) == before


def test_what_was_said_anew_makes_the_file_no_longer(
    place: Path, open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_notices, "SUPERSEDED", 20)
    monkeypatch.setattr(disk_notices, "AT_ONCE", 2)
    layer, other = open_one(), open_one()
    sizes = []
    for n in range(100):
        number = layer.post([Notice(f"n{n % 5}", 0)])
        assert other.heard() == layer.heard() == number
        sizes.append(file(place).stat().st_size)
    assert max(sizes) < 3000
    assert said(open_one()) == said(layer) == said(other)
    assert len(said(layer)) == 5
    assert not file(place).with_name("notices.new").exists()


def test_what_nobody_can_write_down_is_told(open_one: Open) -> None:
    layer = open_one()
    for wrong in (Notice(b"a", 0), Notice("a", -1), Notice("a", "1"), Notice("a", 1.5), Notice("a", 2**60)):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="give names"):
            layer.post([wrong])
    assert layer.post([]) == 0
    assert layer.heard() == 0


def test_a_file_that_was_replaced_is_read_from_its_beginning(place: Path, open_one: Open) -> None:
    """Even where the new one has the old one's inode, and goes on where that one ended."""
    layer = open_one()
    number = layer.post([Notice("a", 0)])
    assert layer.heard() == number
    old = file(place).read_bytes()
    lines = [disk_notices._checked({"notices": 1, "id": "0" * 16, "number": 0, "floor": 0})]
    lines += [disk_notices.line([Notice(name, number + 9)]) for name in "abc"]
    assert len(b"".join(lines[:2])) == len(old)
    file(place).write_bytes(b"".join(lines))
    assert said(layer) == dict.fromkeys("abc", number + 9)


# -- damage ----------------------------------------------------------------------------


def garbled_in_the_middle(file: Path) -> None:
    whole = file.read_bytes()
    at = len(whole) // 2
    file.write_bytes(whole[:at] + b"~" + whole[at + 1 :])


def another_word_in_the_middle(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"n2"', b'"n7"'))


def cut_in_front(file: Path) -> None:
    file.write_bytes(file.read_bytes()[40:])


def a_line_of_garbage(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"garbage\n")


def of_zeros(file: Path) -> None:
    file.write_bytes(bytes(4096))


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def of_a_later_version(file: Path) -> None:
    file.write_bytes(disk_notices._checked({"notices": 2, "number": 1, "floor": 0}))


def of_other_lines(file: Path) -> None:
    file.write_bytes(file.read_bytes() + disk_notices._checked({"a": 1}))


def of_other_notices(file: Path) -> None:
    file.write_bytes(file.read_bytes() + disk_notices._checked([["a", "1", None]]))


def a_link(file: Path) -> None:
    target = file.parent.parent / "elsewhere"
    file.rename(target)
    file.symlink_to(target)


def a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def open_to_others(file: Path) -> None:
    file.chmod(0o666)


DAMAGES = [
    garbled_in_the_middle,
    another_word_in_the_middle,
    cut_in_front,
    a_line_of_garbage,
    of_zeros,
    emptied,
    of_a_later_version,
    of_other_lines,
    of_other_notices,
    a_link,
    a_directory,
    pytest.param(a_pipe, marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")),
    open_to_others,
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("first", ["heard", "post", "board"])
def test_after_damage_nothing_from_before_is_valid(
    place: Path,
    open_one: Open,
    told: list[StoreTrouble],
    now: Now,
    damage: Callable[[Path], None],
    first: str,
) -> None:
    before = open_one()
    before.set(A, b"a", ttl_s=60)
    last = max(before.post([Notice(f"n{n}", 0, "content")]) for n in range(5))
    now.s += 1
    damage(file(place))
    layer = open_one()
    if first == "heard":
        assert layer.heard() >= now.ms
    elif first == "post":
        assert layer.post([Notice("new", 0)]) > now.ms
    board = layer.board()
    assert board.floor >= now.ms > last
    assert board.number >= board.floor
    assert [notice.name for notice in board.notices] == ["new"] * (first == "post")
    assert [event.ok for event in told] == [False]
    assert "not valid any more" in told[0].text
    assert "content" not in told[0].text
    assert before.heard() == board.number
    assert before.board() == board
    assert len(aside(place)) == 1
    assert len(told) == 1
    assert stat.S_IMODE(file(place).lstat().st_mode) == 0o600
    assert layer.get(A) == b"a"  # it is the cache that does not believe it any more


def test_damage_while_it_is_in_use_and_the_clock_is_wrong(place: Path, open_one: Open, now: Now) -> None:
    layer = open_one()
    far = now.ms + 10**9
    layer.post([Notice("a", far)])
    garbled_in_the_middle(file(place))
    assert layer.board().floor == far + 1
    assert layer.heard() == far + 1


def test_a_fresh_process_reads_what_numbers_it_can(place: Path, open_one: Open, now: Now) -> None:
    layer = open_one()
    far = now.ms + 10**9
    layer.post([Notice("a", far)])
    a_line_of_garbage(file(place))
    assert open_one().board().floor == far + 1


def test_no_more_than_one_damaged_file_is_kept(place: Path, open_one: Open) -> None:
    layer = open_one()
    for n in range(3):
        layer.post([Notice("a", 0)])
        (file(place)).write_text(f"garbage {n}\n")
        layer.heard()
    assert len(aside(place)) == 1
    assert (place / "answers" / aside(place)[0]).read_text() == "garbage 2\n"


@pytest.mark.parametrize("torn", [b"~", b'0badc0de [["b",17', bytes(300)], ids=["a byte", "a half", "zeros"])
def test_a_line_without_an_end_was_never_said(
    place: Path, open_one: Open, told: list[StoreTrouble], torn: bytes
) -> None:
    layer = open_one()
    number = layer.post([Notice("a", 0)])
    with open(file(place), "ab") as notices:
        notices.write(torn)
    other = open_one()
    assert layer.heard() == other.heard() == number
    after = other.post([Notice("c", 0)])
    assert said(layer) == said(other) == said(open_one()) == {"a": number, "c": after}
    assert told == []
    assert torn not in file(place).read_bytes()


# -- loss ------------------------------------------------------------------------------


@pytest.mark.parametrize("everything", [False, True], ids=["the file", "the directory"])
def test_what_is_known_here_is_put_back(
    place: Path, open_one: Open, told: list[StoreTrouble], everything: bool
) -> None:
    layer = open_one()
    layer.set(A, b"a", ttl_s=60)
    layer.post([Notice("a", 0), Notice("b", 0, "x")])
    layer.post([Notice("a", 0)])
    before = layer.board()
    for path in list((place / "answers").iterdir()) if everything else [file(place)]:
        path.unlink()
    if everything:
        (place / "answers").rmdir()
    assert layer.heard() == before.number
    assert layer.board() == before
    assert open_one().board() == before
    assert [event.ok for event in told] == [False]
    assert "put back" in told[0].text


def test_a_fresh_process_that_finds_only_the_database_believes_no_entry(
    place: Path, open_one: Open, now: Now, told: list[StoreTrouble]
) -> None:
    layer = open_one()
    layer.set(A, b"a", ttl_s=60)
    layer.post([Notice("a", 0)])
    layer.close()
    file(place).unlink()
    now.s += 1
    fresh = open_one()
    assert fresh.heard() == now.ms
    assert fresh.board() == (now.ms, now.ms, ())
    assert [event.ok for event in told] == [False]


def test_an_older_copy_is_filled_up(place: Path, open_one: Open, told: list[StoreTrouble]) -> None:
    layer = open_one()
    first = layer.post([Notice("a", 0)])
    copy = file(place).read_bytes()
    layer.post([Notice("b", 0), Notice("c", 0)])
    file(place).write_bytes(copy)
    reader = open_one()
    reader.board()
    last = reader.post([Notice("d", 0)])  # in the older copy
    number = layer.heard()
    assert number > last
    assert said(layer) == {"a": first, "b": number, "c": number, "d": last}
    assert {each.name for each in reader.board(last).notices} == {"b", "c"}  # he has read so far already
    assert said(open_one()) == said(layer)
    assert "put back" in told[0].text


def test_another_board_in_its_place_is_joined_with_what_is_known(place: Path, open_one: Open) -> None:
    layer = open_one()
    layer.post([Notice("a", 0)])
    file(place).unlink()
    (place / "answers" / "cache.db").unlink(missing_ok=True)
    stranger = open_one()
    theirs = stranger.post([Notice("b", 0)])
    assert set(said(layer)) == {"a", "b"}
    assert stranger.heard() > theirs
    assert set(said(stranger)) == {"a", "b"}


# -- trouble ---------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_a_file_that_may_not_grow(place: Path, open_one: Open) -> None:
    """A real limit of the system, in a process that can be spared."""
    script = (
        "import resource, signal, sys\n"
        "from tierllm.caching.disk_layer import DiskLayer\n"
        "from tierllm.caching.layer import Notice\n"
        "from tierllm.errors import StoreUnavailableError\n"
        "layer = DiskLayer(sys.argv[1], retry_s=0)\n"
        "told = []\n"
        "layer.emit = told.append\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "last, refused = 0, 0\n"
        "for n in range(100):\n"
        "    try:\n"
        "        last = layer.post([Notice(f'n{n}', 0)])\n"
        "    except StoreUnavailableError:\n"
        "        refused += 1\n"
        "    assert layer.heard() == last\n"
        "    assert len(layer.board().notices) == n + 1 - refused\n"
        "assert 10 < refused < 90, refused\n"
        "assert not told[0].ok\n"
    )
    subprocess.run([sys.executable, "-c", script, str(place)], check=True, timeout=60)
    layer = open_one()
    assert layer.board().floor == 0
    assert layer.post([Notice("again", 0)]) == layer.heard()


def test_what_cannot_be_read_goes_on_with_what_is_known(
    place: Path, open_one: Open, told: list[StoreTrouble], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, other = open_one(), open_one()
    number = layer.post([Notice("a", 0)])
    later = other.post([Notice("b", 0)])

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        assert layer.heard() == number
        assert layer.heard() == number
        with pytest.raises(StoreUnavailableError, match="cannot be read"):
            layer.board()
        with pytest.raises(StoreUnavailableError, match="cannot be read"):
            layer.post([Notice("c", 0)])
    assert [event.ok for event in told] == [False]
    assert layer.heard() == later
    assert [event.ok for event in told] == [False, True]


def test_a_reader_in_its_own_way_never_waits_for_itself(open_one: Open) -> None:
    """As in a handler of a signal that came while the board was being read."""
    layer, other = open_one(), open_one()
    number = layer.post([Notice("a", 0)])
    other.post([Notice("b", 0)])
    assert layer._board._turn.take(layer.heard, 1) > number  # there is news, to be read by another's turn


def post_for_ever(where: str, told: Connection) -> None:
    layer = DiskLayer(where, timeout_s=20)
    rng = random.Random(os.getpid())
    disk_notices.SUPERSEDED = 10  # so that it is often replaced
    for n in range(10**9):
        number = layer.post([Notice(f"{os.getpid()}:{rng.randrange(8)}", 0, "x" * rng.randrange(2000))])
        if n % 5 == 0:
            told.send(number)


def test_nothing_that_was_posted_is_lost_when_posters_are_killed(
    place: Path, told: list[StoreTrouble]
) -> None:
    layer = DiskLayer(place, timeout_s=20)
    layer.emit = lambda event: told.append(event)  # type: ignore[arg-type]
    last = layer.post([Notice("mine", 0)])
    for n in range(4):
        pipes, posters = [], []
        for _ in range(2):
            here, there = SPAWN.Pipe(duplex=False)
            posters.append(SPAWN.Process(target=post_for_ever, args=(str(place), there)))
            posters[-1].start()
            pipes.append(here)
        numbers = []
        for here in pipes:
            for _ in range(2 + n):
                assert here.poll(60)
                numbers.append(here.recv())
        for poster in posters:
            os.kill(poster.pid or 0, signal.SIGKILL)
            poster.join()
        assert layer.heard() > last
        heard = layer.board().number
        assert heard >= max(numbers) > last
        last = layer.post([Notice("mine", 0)])
        assert last > heard
        assert said(layer)["mine"] == last
    fresh = DiskLayer(place)
    assert fresh.board() == layer.board()
    assert (layer.board().floor, told) == (0, [])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_after_a_fork_both_go_on(open_one: Open) -> None:
    layer = open_one()
    number = layer.post([Notice("a", 0)])
    child = os.fork()
    if not child:
        ok = False
        try:
            ok = layer.heard() == number and layer.post([Notice("b", 0)]) > number
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert set(said(layer)) == {"a", "b"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_forked_while_the_lock_was_held_keeps_nobody_waiting(open_one: Open) -> None:
    layer, other = open_one(), open_one()
    layer.post([Notice("a", 0)])
    reading, writing = os.pipe()
    with layer._board._place.alone(5, "notices.lock"):
        child = os.fork()
        if not child:
            os.close(writing)
            os.read(reading, 1)  # until the parent has done its work
            os._exit(0)
    try:
        other.post([Notice("b", 0)])
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)


# -- claims ----------------------------------------------------------------------------


def claim_and_wait(where: str, told: Connection) -> None:
    told.send(DiskLayer(where).claim(A, b"the one that is killed", 3600))
    threading.Event().wait()


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the system does not tell")


@needs_proc
@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "not yet waited for"])
def test_the_claim_of_a_dead_process_is_free_at_once(place: Path, reaped: bool) -> None:
    layer = DiskLayer(place)
    here, there = SPAWN.Pipe(duplex=False)
    worker = SPAWN.Process(target=claim_and_wait, args=(str(place), there))
    worker.start()
    assert here.poll(60)
    assert here.recv()
    assert not layer.claim(A, b"me", 60)
    os.kill(worker.pid or 0, signal.SIGKILL)
    if reaped:
        worker.join()
    else:
        os.waitid(os.P_PID, worker.pid or 0, os.WEXITED | os.WNOWAIT)
    assert layer.claim(A, b"me", 60)
    worker.join()
    layer.close()


PROCESSES: dict[str, tuple[dict[str, Any], bool]] = {
    "another of the same pid": ({"began": "1"}, True),
    "one that is no more": ({"pid": 2**22 + 1}, True),
    "on another machine": ({"boot": "elsewhere", "pid": 2**22 + 1}, False),
    "in another container": ({"space": "pid:[1]", "pid": 2**22 + 1}, False),
}


@needs_proc
@pytest.mark.parametrize(("changed", "free"), PROCESSES.values(), ids=PROCESSES)
def test_only_what_is_certainly_dead_is_dead(
    place: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], free: bool
) -> None:
    here = disk_claims.this_process()
    assert here is not None
    other = DiskLayer(place)
    with monkeypatch.context() as patched:
        patched.setattr(disk_claims, "this_process", lambda: here._replace(**changed))
        assert other.claim(A, b"other", 60)
    layer = DiskLayer(place)
    assert layer.claim(A, b"me", 60) is free
    layer.close()
    other.close()


def test_who_comes_second_between_a_look_and_a_claim_does_not_get_it(open_one: Open, now: Now) -> None:
    layer = open_one()
    assert layer.claim(A, b"first", 60)
    assert not layer._do(lambda rows: disk_claims.claim(rows, A, b"second", 60, lambda: now.s, None))
    assert not layer.claim(A, b"second", 60)
    assert layer.claim(A, b"first", 60)


def test_without_proc_time_alone_tells(
    place: Path, now: Now, open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_claims, "this_process", lambda: None)
    one, two = open_one(), open_one()
    assert one.claim(A, b"one", 60)
    now.s += 59
    assert not two.claim(A, b"two", 60)
    assert one.claim(A, b"one", 60)
    now.s += 59
    assert not two.claim(A, b"two", 60)
    now.s += 1
    assert two.claim(A, b"two", 60)
    now.s -= 3600  # a claim from the future is none
    assert one.claim(A, b"one", 60)


@pytest.mark.parametrize(
    "value", [b"garbage", b'{"a": 1}', b"[]", b'["zz"]', b"[1]", "text", None, 7], ids=repr
)
def test_a_claim_that_was_not_written_here_is_nobodys(place: Path, open_one: Open, value: object) -> None:
    layer = open_one()
    layer.claim(A, b"other", 60)
    with sqlite3.connect(place / "answers" / "cache.db") as connection:
        connection.execute("UPDATE Cache SET value = ? WHERE key >= x'633a' AND key < x'633b'", (value,))
    connection.close()
    layer.release(A, b"other")
    assert layer.claim(A, b"me", 60)
    assert not layer.claim(A, b"other", 60)


def test_claims_neither_go_for_want_of_room_nor_stay_for_ever(place: Path, now: Now) -> None:
    layer = DiskLayer(place, max_bytes=2**20, wall_clock=now)
    for n in range(200):
        assert layer.claim(b"%d" % n, b"me", 60)
    for n in range(600):
        layer.set(b"%d" % n, bytes(4000), ttl_s=600)
    assert not any(layer.claim(b"%d" % n, b"you", 60) for n in range(200))
    stats = layer.stats()
    assert stats.entries + stats.evictions == 600
    now.s += 61
    for n in range(25):
        layer.set(b"%d" % n, bytes(400), ttl_s=600)
    assert layer.stats().expired == 0
    with sqlite3.connect(place / "answers" / "cache.db") as connection:
        assert connection.execute("SELECT count(*) FROM Cache WHERE tag IS NULL").fetchone() == (0,)
    connection.close()
    layer.close()


def test_a_claim_where_there_is_no_database_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    layer = DiskLayer(tmp_path / "file", retry_s=0)
    for ask in (
        lambda: layer.claim(A, b"me", 1),
        lambda: layer.release(A, b"me"),
        lambda: list(layer.scan()),
        lambda: layer.post([Notice("a", 0)]),
    ):
        with pytest.raises(StoreUnavailableError):
            ask()
    assert layer.heard() == 0


@pytest.mark.parametrize("lease_s", [0, -1, float("nan"), "1", None, float("inf")], ids=str)
def test_a_lease_is_seconds(open_one: Open, lease_s: Any) -> None:
    with pytest.raises(ConfigError, match="give seconds"):
        open_one().claim(A, b"me", lease_s)


def test_a_scan_passes_over_what_is_damaged_or_over(
    place: Path, open_one: Open, told: list[StoreTrouble], now: Now
) -> None:
    layer = open_one()
    for each in (A, B, C):
        layer.set(each, each, ttl_s=60 if each != C else 1)
    with sqlite3.connect(place / "answers" / "cache.db") as connection:
        connection.execute("UPDATE Cache SET value = x'00' WHERE key = ?", (b"s:" + A,))
    connection.close()
    now.s += 2
    assert list(layer.scan()) == [(B, B)]
    assert [event.ok for event in told] == [False]
    assert layer.stats()[:2] == (0, 0)

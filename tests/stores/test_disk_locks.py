"""Locks of the disk: several stores in one process, forks, interrupts, and waiting."""

from __future__ import annotations

import fcntl
import gc
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from stores.ground import FAR, SPAWN, line, opened, standing, used
from tierllm.errors import StoreUnavailableError
from tierllm.stores import DiskStore, Line, Settlement
from tierllm.stores.disk_books import SWEPT_AT_ONCE, Books
from tierllm.stores.disk_place import Place

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    store = DiskStore(tmp_path / "store")
    yield store
    store.close()


def visit(where: str, tries: int, told: Connection) -> None:
    """Open, take what there is, and close."""
    store = opened(where)
    store.load("d")
    told.send(sum(store.reserve(store.hold([line("u", 1, 10)])).ok for _ in range(tries)))
    store.close()


def visited(where: str, tries: int) -> int:
    here, there = SPAWN.Pipe(duplex=False)
    visitor = SPAWN.Process(target=visit, args=(where, tries, there))
    visitor.start()
    assert here.poll(30)
    visitor.join()
    return int(here.recv())


def test_two_stores_of_one_process_keep_their_locks(tmp_path: Path) -> None:
    """To open and close the file beside SQLite would drop them, and a visitor then delete the journal."""
    where = str(tmp_path / "store")
    one, two = opened(where), opened(where)
    used(one, [line("w", 1)], [1])
    used(two, [line("w", 1)], [1])
    assert visited(where, 0) == 0
    taken = sum(one.reserve(one.hold([line("u", 1, 10)])).ok for _ in range(7))
    assert visited(where, 20) == 3
    assert taken == 7
    assert not two.reserve(two.hold([line("u", 1, 10)])).ok
    used(one, [line("w", 1)], [1])
    assert visited(where, 0) == 0
    assert standing(two, "w").settled == 3
    one.close()
    two.close()


def test_alone_means_alone(tmp_path: Path) -> None:
    place = Place(tmp_path, 0.05)
    with place.alone(0.05), pytest.raises(StoreUnavailableError, match="being opened"), place.alone(0.05):
        pass
    with place.alone(0.05), (tmp_path / "open.lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_wait_is_one_wait(tmp_path: Path) -> None:
    """For the thread before and then for another process, not for each in full."""
    store = DiskStore(tmp_path / "store", timeout_s=10.0)
    used(store, [line("u", 1)], [1])
    assert store._books is not None
    shelf = store._books.shelf
    for left, expected in ((4.0, 4000), (9.99, 10_000), (-1.0, 1)):
        shelf.wait_for(left)
        assert shelf.rows("PRAGMA busy_timeout") == [(expected,)]
    store.close()


# -- forks -----------------------------------------------------------------------


@forks
def test_two_threads_that_fork_at_once(store: DiskStore) -> None:
    used(store, [line("u", 1)], [1])

    def fork() -> None:
        store.before_fork()
        store.after_fork()

    store.before_fork()
    other = threading.Thread(target=fork)
    other.start()
    other.join(0.05)  # it waits for its turn
    assert other.is_alive()
    store.after_fork()
    other.join(30)
    assert not other.is_alive()
    used(store, [line("u", 1)], [1])


@forks
def test_a_child_that_knows_of_a_transaction_says_so(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tierllm.stores.disk_turn.FORK_WAIT_S", 0.01)
    begun, over = threading.Event(), threading.Event()

    def slowly(books: Books) -> None:
        books.keep_document("d", b"x", None)
        begun.set()
        over.wait(30)

    thread = threading.Thread(target=store._write, args=(slowly,))
    thread.start()
    begun.wait()
    child = os.fork()
    if not child:
        code = 1
        signal.alarm(60)
        try:
            with pytest.raises(StoreUnavailableError, match="start it anew"):
                store.load("d")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    over.set()
    thread.join()
    assert store.load("d") == b"x"


@forks
def test_a_hold_of_the_parent_is_the_parents_to_hold(tmp_path: Path) -> None:
    """Reserved in the child it would otherwise be nobody's when the child is gone."""
    now = [100.0]
    store = DiskStore(tmp_path / "store", lease_s=60, clock=lambda: now[0])
    hold = store.hold([line("u", 10, 10)])
    child = os.fork()
    if not child:
        os._exit(not store.reserve(hold).ok)
    assert os.waitpid(child, 0)[1] == 0
    assert not store.reserve(store.hold([line("u", 10, 10)])).ok
    now[0] += 61
    assert store.reserve(store.hold([line("u", 10, 10)])).ok
    store.close()


# -- interrupts ------------------------------------------------------------------


class Interrupted(BaseException):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_an_interrupt_leaves_no_lock_and_no_transaction(store: DiskStore, tmp_path: Path) -> None:
    used(store, [line("u", 1)], [1])
    rng, struck, armed = random.Random(7), 0, False

    def strike(_: int, __: FrameType | None) -> None:
        if armed:
            raise Interrupted

    before, tracing = signal.signal(signal.SIGALRM, strike), sys.gettrace()
    sys.settrace(None)  # a tracer of coverage's, interrupted, would keep its own lock for ever
    gc.collect()
    gc.disable()  # one that strikes in a callback of the collector is lost, and told of by pytest
    try:
        for _ in range(400):
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(2e-5, 5e-4))
                for _ in range(3):
                    store.swap("d", b"x", None)
                armed = False
            except Interrupted:
                armed = False
                struck += 1
                free = threading.Thread(target=store._turn.take, args=(int, 5))
                assert store._books is None or not store._books.shelf.in_doubt
                free.start()
                free.join()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        gc.enable()
        signal.signal(signal.SIGALRM, before)
        sys.settrace(tracing)
    assert struck
    used(store, [line("u", 1)], [1])
    connection = sqlite3.connect(tmp_path / "store" / "cache.db", timeout=0, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")  # nobody holds it
    connection.close()


@pytest.mark.parametrize("nth", range(1, 110, 2))
def test_an_interrupt_at_any_line(store: DiskStore, nth: int) -> None:
    """Of the store's own code, or of contextlib. What takes turns runs where no signal is looked for."""
    used(store, [line("u", 1)], [1])
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        path = frame.f_code.co_filename
        if "disk_turn" in path or ("/stores/disk" not in path and "contextlib" not in path):
            return None
        if event == "line":
            lines += 1
            if lines == nth:
                sys.settrace(None)
                raise Interrupted
        return trace

    coverage = sys.gettrace()
    sys.settrace(trace)
    try:
        store.swap("e", b"x", None)
    except Interrupted:
        pass
    finally:
        sys.settrace(coverage)
    assert lines == nth, "there are fewer by now"
    done = threading.Thread(target=used, args=(store, [line("u", 1)], [1]))
    done.start()
    done.join(10)
    assert standing(store, "u") == (2, 0, 0)


# -- what may build up -----------------------------------------------------------


def test_many_holds_of_the_dead_are_given_back_in_turns(store: DiskStore, tmp_path: Path) -> None:
    now = [0.0]
    dead, other = (DiskStore(tmp_path / "own", lease_s=1, clock=lambda: now[0]) for _ in range(2))
    holds = [dead.hold([line("u", 1)]) for _ in range(SWEPT_AT_ONCE + 100)]

    def take(books: Books) -> None:
        for hold in holds:
            books.reserve(hold, 1.0)

    dead._write(take)
    now[0] += 2
    other.renew_lease()
    assert standing(other, "u").reserved == 100
    other.end_lease()
    assert standing(other, "u").reserved == 0
    assert other._books is not None
    assert other._books.shelf.under(b"o:") == []
    other.close()
    dead.close()


def test_nothing_expires_that_is_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, jump = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    store = DiskStore(tmp_path / "store", wall_clock=lambda: time.time())
    hold = store.hold([Line("u", 10, 10, real() + 60)])
    assert store.reserve(hold).ok
    jump = 30 * 86_400.0
    assert not store.reserve(store.hold([Line("u", 10, 10, FAR)])).ok
    store.post(Settlement(hold, (4,), (0,)))
    assert store.flush()
    assert standing(store, "u") == (4, 0, 0)
    store.close()


def test_leases_do_not_go_by_the_wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/sys/kernel/random/boot_id").exists():
        pytest.skip("the wall clock it is here")
    real, jump = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    store, other = (DiskStore(tmp_path / "store", lease_s=60) for _ in range(2))
    assert store.reserve(store.hold([line("u", 10, 10)])).ok
    jump = 1e6
    assert not other.reserve(other.hold([line("u", 10, 10)])).ok
    store._lease.stop()
    store.close()
    other.close()


def test_a_mistake_of_the_caller_is_no_trouble(store: DiskStore) -> None:
    told: list[object] = []
    store.listen(told.append)
    with pytest.raises(TypeError):
        store.swap("d", "text", None)  # type: ignore[arg-type]
    assert store.swap("d", b"x", None)
    assert not told


def test_standings_are_of_one_moment(store: DiskStore, tmp_path: Path) -> None:
    used(store, [line("u", 1), line("v", 1)], [1, 1])
    other = opened(str(tmp_path / "store"))
    assert store._books is not None
    read, others = store._books._account, iter([True])

    def read_slowly(name: str) -> object:
        found = read(name)
        if next(others, False):
            used(other, [line("u", 1), line("v", 1)], [1, 1])
        return found

    store._books._account = read_slowly  # type: ignore[assignment,method-assign]
    assert [each.settled for each in store.standings([line("u"), line("v")])] == [1, 1]
    assert [each.settled for each in store.standings([line("u"), line("v")])] == [2, 2]
    other.close()


@pytest.mark.parametrize(
    ("code", "certain"), [(sqlite3.SQLITE_FULL, True), (sqlite3.SQLITE_IOERR, False)], ids=["full", "error"]
)
def test_what_failed_in_its_last_step_may_have_been_done(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, code: int, certain: bool
) -> None:
    """Unless there was no room for that step."""
    do = store._do

    def failing(work: Callable[[Books], object], *, writes: bool = False) -> None:
        do(work, writes=writes)
        cause = sqlite3.OperationalError("at the commit")
        cause.sqlite_errorcode = code
        raise StoreUnavailableError("it failed") from cause

    monkeypatch.setattr(store, "_do", failing)
    hold = store.hold([line("u", 1)])
    with pytest.raises(StoreUnavailableError):
        store.reserve(hold)
    monkeypatch.undo()
    store.give_back(hold)
    assert len(store.outbox) == (0 if certain else 1)

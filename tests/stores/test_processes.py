"""Many processes at once: limits hold, everything is given back, and the dead hold nothing."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from stores.ground import SPAWN, Server, eventually, line, opened, standing, used
from tierllm.stores import DiskStore, RedisStore, Settlement, Store
from tierllm.stores.disk_books import Books

USERS = 4


def spend(where: str, threads: int, tries: int, limit: int, answers: Connection) -> None:
    """Reserve 10 of a user and of all, use 7, again and again; tell how often it was allowed."""
    store = opened(where)
    allowed: list[int] = []
    worst: list[int] = []

    def run(seed: int) -> None:
        for i in range(tries):
            user = line(f"user{(seed + i) % USERS}", 10, limit)
            hold = store.hold([user, line("all", 10, USERS * limit - limit // 2)])
            verdict = store.reserve(hold)
            worst.extend(s.settled + s.reserved + 10 * verdict.ok - limit for s in verdict.standings[:1])
            if verdict.ok:
                store.post(Settlement(hold, (7, 7), (0, 0)))
                allowed.append(1)
                if i % 3 == 0:
                    assert store.flush()

    running = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    store.close()
    answers.send((len(allowed), max(worst), len(store.outbox)))


def spend_everywhere(where: str, processes: int, threads: int, tries: int, limit: int) -> int:
    pipes = [SPAWN.Pipe(duplex=False) for _ in range(processes)]
    spenders = [SPAWN.Process(target=spend, args=(where, threads, tries, limit, there)) for _, there in pipes]
    for spender in spenders:
        spender.start()
    total = 0
    for here, _ in pipes:
        assert here.poll(90)
        allowed, worst, left = here.recv()
        assert worst <= 0
        assert left == 0
        total += allowed
    for spender in spenders:
        spender.join()
        assert spender.exitcode == 0
    return total


def test_no_limit_is_passed_by_processes_and_threads(where: str) -> None:
    limit = 4000
    total = spend_everywhere(where, processes=8, threads=4, tries=120, limit=limit)
    store = opened(where)
    users = [standing(store, f"user{n}") for n in range(USERS)]
    assert [each.reserved for each in users] == [0] * USERS
    assert standing(store, "all").reserved == 0
    assert standing(store, "all").settled == sum(each.settled for each in users) == 7 * total
    assert all(each.settled <= limit for each in users)
    assert standing(store, "all").settled > USERS * limit - limit // 2 - 8 * 4 * 10  # and it was used up
    store.close()


def test_processes_that_meet_damage_at_once_move_it_aside_once(tmp_path: Path) -> None:
    place = tmp_path / "store"
    place.mkdir(mode=0o700)
    (place / "cache.db").write_bytes(b"not a database" * 1000)
    total = spend_everywhere(str(place), processes=4, threads=2, tries=20, limit=4000)
    store = opened(str(place))
    assert total == 4 * 2 * 20
    assert standing(store, "all") == (7 * total, 0, 0)
    assert len([path for path in place.iterdir() if ".damaged-" in path.name]) == 1
    store.close()


# -- leases ----------------------------------------------------------------------


def take_and_wait(where: str, lease_s: float, told: Connection) -> None:
    store = opened(where, lease_s=lease_s)
    holds = [store.hold([line("u", 10, 100), line("v", 5)]) for _ in range(10)]
    for hold in holds:
        assert store.reserve(hold).ok
    told.send(holds[0].id)
    time.sleep(600)


def killed_spender(where: str, lease_s: float) -> None:
    here, there = SPAWN.Pipe(duplex=False)
    spender = SPAWN.Process(target=take_and_wait, args=(where, lease_s, there))
    spender.start()
    assert here.poll(30)
    os.kill(spender.pid or 0, signal.SIGKILL)
    spender.join()


def test_a_killed_spender_gives_back_when_somebody_needs_it(where: str) -> None:
    store = opened(where)
    killed_spender(where, lease_s=1.0)
    assert standing(store, "u").reserved == 100  # nobody has looked yet
    eventually(lambda: store.reserve(store.hold([line("u", 100, 100)])).ok)
    assert standing(store, "u").reserved == 100
    assert standing(store, "v").reserved == 0
    store.close()


def test_a_killed_spender_gives_back_when_others_renew(where: str) -> None:
    killed_spender(where, lease_s=0.3)
    store = opened(where, lease_s=0.6)
    mine = store.hold([line("mine", 1)])
    store.reserve(mine)
    eventually(lambda: standing(store, "u").reserved == 0)
    assert standing(store, "mine").reserved == 1
    store.close()


def test_a_living_owner_keeps_what_it_reserved(where: str) -> None:
    store, other = opened(where, lease_s=0.3), opened(where, lease_s=0.3)
    hold = store.hold([line("u", 10, 10)])
    assert store.reserve(hold).ok
    ends = time.monotonic() + 1.2  # four leases
    while time.monotonic() < ends:
        assert not other.reserve(other.hold([line("u", 1, 10)])).ok
        time.sleep(0.02)
    store.post(Settlement(hold, (4,), (0,)))
    assert store.flush()
    assert standing(other, "u") == (4, 0, 0)
    store.close()
    other.close()


def test_an_owner_that_slept_through_its_lease_books_once_what_it_used(where: str) -> None:
    store, other = opened(where, lease_s=0.2), opened(where)
    hold = store.hold([line("u", 10, 10)])
    assert store.reserve(hold).ok
    asleep(store)
    eventually(lambda: other.reserve(other.hold([line("u", 10, 10)])).ok)
    assert standing(other, "u").reserved == 10
    settlement = Settlement(hold, (6,), (0,))
    for _ in range(3):
        store.apply([settlement])
    assert standing(other, "u") == (6, 10, 0)
    assert store.reserve(store.hold([line("v", 1)])).ok  # and it goes on as before
    store.close()
    other.close()


def test_a_store_that_one_of_its_users_closes_keeps_what_is_open(where: str) -> None:
    store, other = opened(where, lease_s=0.3), opened(where)
    hold = store.hold([line("u", 10, 10)])
    assert store.reserve(hold).ok
    store.close()
    ends = time.monotonic() + 1.2  # four leases
    while time.monotonic() < ends:
        assert not other.reserve(other.hold([line("u", 1, 10)])).ok
        time.sleep(0.02)
    store.post(Settlement(hold, (4,), (0,)))
    assert store.flush()
    assert standing(other, "u") == (4, 0, 0)
    assert isinstance(store, DiskStore | RedisStore)
    eventually(lambda: store._lease._stop is None)  # and closes after all
    other.close()


def asleep(store: Store) -> None:
    """Its renewals stop, as if the process did."""
    assert isinstance(store, DiskStore | RedisStore)
    store._lease.stop()
    store._lease._start = lambda: None  # type: ignore[method-assign]


def test_the_thread_of_a_lease_ends_with_the_last_hold(where: str) -> None:
    before = set(lease_threads())  # of stores that were closed with something open
    store = opened(where, lease_s=0.15)
    used(store, [line("u", 1)], [1])
    eventually(lambda: not set(lease_threads()) - before)
    hold = store.hold([line("u", 1)])
    store.reserve(hold)
    assert set(lease_threads()) - before
    store.give_back(hold)
    assert store.flush()
    eventually(lambda: not set(lease_threads()) - before)
    store.reserve(store.hold([line("u", 1)]))
    del store, hold
    gc.collect()
    eventually(lambda: not set(lease_threads()) - before)  # nobody has the store any more


def lease_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tierllm-lease"]


def test_the_interpreter_ends_with_something_open(where: str) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); from stores.ground import opened, line\n"
        "store = opened(sys.argv[1]); assert store.reserve(store.hold([line('u', 1)])).ok"
    )
    tests = str(Path(__file__).parents[1])
    done = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-W", "error", "-c", script, where, tests])
    assert done == 0


# -- forks -----------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_threads_are_spending(where: str) -> None:
    store = opened(where)
    parents = store.hold([line("u", 100)])
    store.reserve(parents)
    owner, stop = store.owner, threading.Event()

    def keep_spending() -> None:
        while not stop.is_set():
            used(store, [line("busy", 3)], [1])

    threads = [threading.Thread(target=keep_spending, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    children = []
    for _ in range(6):
        child = os.fork()
        if not child:
            code = 1
            signal.alarm(20)  # a child that hangs has failed
            try:
                assert store.owner != owner
                for _ in range(20):
                    used(store, [line("u", 5), line("child", 5)], [2, 2])
                store.post(Settlement(parents, (9,), (0,)))  # not its own to settle
                store.close()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    ended = [os.waitpid(child, 0)[1] for child in children]
    stop.set()
    assert ended == [0] * 6
    for thread in threads:
        thread.join()
    assert standing(store, "child") == (240, 0, 0)
    assert standing(store, "u") == (240, 100, 0)
    store.give_back(parents)
    assert store.flush()
    assert standing(store, "u") == (240, 0, 0)
    assert standing(store, "busy").reserved == 0
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_waits_for_a_transaction_under_way(tmp_path: Path) -> None:
    """A child that knew of one would believe the database locked, by itself, for ever."""
    store = DiskStore(tmp_path / "store", timeout_s=0.1)
    begun = threading.Event()

    def slowly(books: Books) -> None:
        books.keep_document("d", b"x", None)
        begun.set()
        time.sleep(0.4)

    thread = threading.Thread(target=store._write, args=(slowly,))
    thread.start()
    begun.wait()
    child = os.fork()  # waits longer than anything else would
    if not child:
        code = 1
        signal.alarm(20)
        try:
            used(store, [line("u", 5)], [2])
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()
    used(store, [line("u", 5)], [2])
    assert store.load("d") == b"x"
    assert standing(store, "u") == (4, 0, 0)
    store.close()


def test_what_redis_keeps_ends_some_day(server: Server) -> None:
    store = opened(server.url)
    used(store, [line("u", 1, None, 5)], [1])
    store.reserve(store.hold([line("u", 1)]))
    store.give_back(store.hold([line("never", 1)]))
    store.apply([Settlement(store.hold([line("never", 1)]), (0,), (0,))])
    store.swap("d", b"x", None, ttl_s=60)
    with server.client() as client:
        keys = client.keys("*")
        assert len(keys) == 6
        assert all(
            key.startswith(b"{tierllm}:") and 0 < client.pttl(key) <= 10 * 366 * 86_400_000 for key in keys
        )
    store.close()

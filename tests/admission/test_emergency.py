"""Emergencies: declared once, known everywhere that shares the store, over by themselves."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.ground import SPAWN, Server, eventually, opened
from tierllm.admission.emergency import Emergencies
from tierllm.admission.emergency_document import DOCUMENT, read, written
from tierllm.errors import ConfigError, StoreUnavailableError
from tierllm.events import EmergencyChanged, Event, StoreTrouble
from tierllm.stores import DiskStore, MemoryStore, Store
from tierllm.testing import FakeClock

NOW = 1_760_000_000.0
HOUR = 3600.0


class Ground:
    """One process's view of a store, with its own clocks."""

    def __init__(self, store: Store | None = None, **settings: Any) -> None:
        self.wall = FakeClock(NOW)
        self.clock = FakeClock()
        self.events: list[Event] = []
        self.store = store or MemoryStore(clock=self.wall)
        self.known = Emergencies(
            self.store, clock=self.clock, wall=self.wall, emit=self.events.append, **settings
        )

    def pass_s(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall.advance(seconds)

    def told(self) -> list[tuple[str, bool]]:
        return [(e.name, e.on) for e in self.events if isinstance(e, EmergencyChanged)]


class Shelf(MemoryStore):
    """A store that can be out of reach, and counts how often it was read."""

    inline = False
    out_of_reach = False
    loads = 0
    meanwhile: Callable[[], object] | None = None

    def load(self, name: str) -> bytes | None:
        self.loads += 1
        if self.out_of_reach:
            raise StoreUnavailableError("the store is out of reach")
        found = super().load(name)
        if self.meanwhile is not None:
            self.meanwhile, meanwhile = None, self.meanwhile
            meanwhile()
        return found


# -- one process ---------------------------------------------------------------------


def test_declared_it_holds_until_its_time_is_over() -> None:
    ground = Ground()
    assert ground.known.active() == frozenset()
    assert ground.known.declare("disaster", for_s=90) == NOW + 90
    assert ground.known.active() == {"disaster"}
    assert ground.known.until("disaster") == NOW + 90
    ground.pass_s(89.9)
    assert ground.known.active() == {"disaster"}
    ground.pass_s(0.2)
    assert ground.known.active() == frozenset()
    assert ground.known.until("disaster") is None
    assert dict(ground.known.listing()) == {}
    assert ground.told() == [("disaster", True), ("disaster", False)]


def test_ended_by_hand_it_is_over_at_once() -> None:
    ground = Ground()
    ground.known.declare("disaster")
    ground.known.declare("flood")
    assert ground.known.end("disaster")
    assert ground.known.active() == {"flood"}
    assert not ground.known.end("disaster")
    assert ground.told() == [("disaster", True), ("flood", True), ("disaster", False)]


def test_an_end_can_be_moved_and_that_is_told() -> None:
    ground = Ground()
    ground.known.declare("disaster", for_s=60)
    ground.known.declare("disaster", for_s=600)
    assert [e.until for e in ground.events if isinstance(e, EmergencyChanged)] == [NOW + 60, NOW + 600]
    ground.known.declare("disaster", for_s=30)
    ground.pass_s(31)
    assert ground.known.active() == frozenset()


@pytest.mark.parametrize(
    ("given_", "ends"),
    [
        ({}, NOW + HOUR),
        ({"for_s": 7 * 86_400}, NOW + 7 * 86_400),
        ({"until": NOW + 30 * 86_400}, NOW + 30 * 86_400),
        ({"until": int(NOW) + 5}, NOW + 5),
        ({"until": datetime.fromtimestamp(NOW, UTC) + timedelta(hours=2)}, NOW + 2 * HOUR),
        ({"until": datetime.fromtimestamp(NOW) + timedelta(hours=2)}, NOW + 2 * HOUR),  # local time
    ],
    ids=["an hour", "for 7 days", "until a month", "until whole seconds", "with a zone", "without one"],
)
def test_when_it_ends(given_: dict[str, Any], ends: float) -> None:
    assert Ground().known.declare("disaster", **given_) == ends


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"for_s": 0}, "for_s=0"),
        ({"for_s": 8 * 86_400}, "up to 7 days"),
        ({"for_s": float("nan")}, "for_s=nan"),
        ({"for_s": "2h"}, "for_s='2h'"),
        ({"until": NOW}, "over already"),
        ({"until": NOW * 1000}, "within a year"),
        ({"until": float("inf")}, "seconds since 1970"),
        ({"until": True}, "seconds since 1970"),
        ({"until": "tomorrow"}, "seconds since 1970"),
        ({"until": datetime.min}, "datetime"),
        ({"until": datetime.max}, "within a year|datetime"),
        ({"until": 10**400}, "seconds since 1970"),
        ({"for_s": 10**400}, "up to 7 days"),
        ({"until": NOW + 5, "for_s": 5}, "give one of them"),
    ],
    ids=str,
)
def test_ends_that_make_no_sense_are_refused(given_: dict[str, Any], told: str) -> None:
    ground = Ground()
    with pytest.raises(ConfigError, match=told):
        ground.known.declare("disaster", **given_)
    assert ground.known.active() == frozenset()


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb", None, 3, ["disaster"]])
def test_names_that_are_none_are_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="give a name"):
        Ground().known.declare(name)
    with pytest.raises(ConfigError, match="give a name"):
        Ground().known.end(name)


# -- several that share a store --------------------------------------------------------


def test_others_notice_within_the_refresh_time() -> None:
    ours = Ground(refresh_s=1.0)
    theirs = Ground(ours.store, refresh_s=1.0)
    assert theirs.known.active() == frozenset()
    ours.known.declare("disaster", for_s=60)
    theirs.clock.advance(0.9)
    assert theirs.known.active() == frozenset()
    theirs.clock.advance(0.2)
    assert theirs.known.active() == {"disaster"}
    ours.known.end("disaster")
    theirs.clock.advance(1.1)
    assert theirs.known.active() == frozenset()
    assert theirs.told() == [("disaster", True), ("disaster", False)]


def test_each_declares_beside_what_others_declared() -> None:
    ours = Ground()
    theirs = Ground(ours.store)
    ours.known.declare("disaster")
    theirs.known.declare("flood")
    assert theirs.known.active() == {"disaster", "flood"}
    ours.known.refresh()
    assert ours.known.active() == {"disaster", "flood"}


def test_two_that_write_at_once_lose_nothing() -> None:
    shelf = Shelf(clock=FakeClock(NOW))
    ours, theirs = Ground(shelf), Ground(shelf)
    shelf.meanwhile = lambda: theirs.known.declare("flood")
    ours.known.declare("disaster")
    assert ours.known.active() == {"disaster", "flood"}


def test_what_was_read_before_we_wrote_does_not_take_it_back() -> None:
    shelf = Shelf(clock=FakeClock(NOW))
    ours = Ground(shelf)
    shelf.meanwhile = lambda: ours.known.declare("disaster")
    ours.known.refresh()
    assert ours.known.active() == {"disaster"}
    assert ours.told() == [("disaster", True)]


def test_a_store_that_does_io_is_read_in_the_background() -> None:
    shelf, works = Shelf(clock=FakeClock(NOW)), []
    ground = Ground(shelf, soon=works.append)
    theirs = Ground(shelf)
    assert ground.known.active() == frozenset()  # the first time it is read at once
    theirs.known.declare("disaster")
    ground.clock.advance(1.0)
    shelf.loads = 0
    for _ in range(100):
        assert ground.known.active() == frozenset()
    assert shelf.loads == 0
    assert len(works) == 1
    works.pop()()
    assert ground.known.active() == {"disaster"}
    ground.clock.advance(1.0)
    ground.known.active()
    assert len(works) == 1


def test_who_has_not_asked_for_a_while_reads_before_acting() -> None:
    shelf, works = Shelf(clock=FakeClock(NOW)), []
    ground, theirs = Ground(shelf, soon=works.append), Ground(shelf)
    theirs.known.declare("disaster")
    assert ground.known.behind()
    assert ground.known.active() == {"disaster"}  # the very first time
    assert not ground.known.behind()
    theirs.known.end("disaster")
    ground.clock.advance(60.0)
    assert ground.known.behind()
    ground.known.catch_up()
    assert ground.known.active() == frozenset()
    shelf.loads = 0
    ground.known.catch_up()
    assert (shelf.loads, works) == (0, [])


def test_in_an_event_loop_asking_never_waits() -> None:
    shelf, works = Shelf(clock=FakeClock(NOW)), []
    ground = Ground(shelf, soon=works.append)
    Ground(shelf).known.declare("disaster")
    shelf.loads = 0

    async def asks() -> frozenset[str]:
        return [ground.known.active() for _ in range(10)][-1]

    assert asyncio.run(asks()) == frozenset()
    assert (shelf.loads, len(works)) == (0, 1)
    works.pop()()
    assert asyncio.run(asks()) == {"disaster"}


def test_nobody_waits_for_a_store_that_is_out_of_reach() -> None:
    shelf, works = Shelf(clock=FakeClock(NOW)), []
    ground = Ground(shelf, soon=works.append)
    shelf.out_of_reach = True
    assert ground.known.active() == frozenset()
    assert shelf.loads == 1
    ground.clock.advance(60.0)
    assert not ground.known.behind()
    assert ground.known.active() == frozenset()
    assert (shelf.loads, len(works)) == (1, 1)
    shelf.out_of_reach = False
    Ground(shelf).known.declare("disaster")
    works.pop()()
    assert ground.known.active() == {"disaster"}


def test_between_processes_ends_are_told_by_the_time_of_day(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "store")
    try:
        ours, theirs = Emergencies(store, wall=FakeClock(5.0)), Emergencies(store)
        assert ours.declare("disaster", for_s=600) == pytest.approx(time.time() + 600, abs=30)
        assert theirs.active() == {"disaster"}
    finally:
        store.close()


def test_ends_that_this_clock_cannot_judge_are_left_to_others() -> None:
    ours = Ground()
    slow, fast = Ground(ours.store), Ground(ours.store)
    slow.wall._now -= 2 * 366 * 86_400  # there the end is more than a year away
    fast.wall.advance(2 * HOUR)  # and here it is over
    ours.known.declare("disaster", for_s=HOUR)
    for theirs in (slow, fast):
        assert theirs.known.active() == frozenset()
        theirs.known.declare("flood", for_s=60)
        theirs.known.end("flood")
        ours.pass_s(2)
        assert ours.known.active() == {"disaster"}
    assert slow.known.end("disaster")
    ours.pass_s(2)
    assert ours.known.active() == frozenset()


def test_those_that_are_over_leave_room_for_new_ones() -> None:
    ground = Ground()
    for number in range(1010):
        ground.known.declare(str(number), for_s=1)
        ground.pass_s(2)
    assert ground.known.declare("disaster") > NOW


def test_while_the_store_is_out_of_reach_the_last_known_holds_until_it_expires(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shelf = Shelf(clock=FakeClock(NOW))
    ground = Ground(shelf)
    ground.known.declare("disaster", for_s=600)
    shelf.out_of_reach = True
    for _ in range(599):
        ground.pass_s(1)
        assert ground.known.active() == {"disaster"}
    assert caplog.text.count("going by what was last known") == 1
    ground.pass_s(1)
    assert ground.known.active() == frozenset()
    with pytest.raises(StoreUnavailableError):
        ground.known.declare("flood")
    with pytest.raises(StoreUnavailableError):
        ground.known.end("disaster")
    shelf.out_of_reach = False
    ground.known.declare("flood")
    assert ground.known.active() == {"flood"}


def test_who_never_stops_writing_does_not_keep_us_for_ever() -> None:
    class Busy(MemoryStore):
        def swap(self, *args: Any, **more: Any) -> bool:
            return False

    with pytest.raises(StoreUnavailableError, match="all the time"):
        Ground(Busy()).known.declare("disaster")


def test_a_listener_that_fails_fails_nothing() -> None:
    def failing(event: Event) -> None:
        raise RuntimeError

    wall = FakeClock(NOW)
    known = Emergencies(MemoryStore(clock=wall), wall=wall, emit=failing)
    known.declare("disaster")
    assert known.active() == {"disaster"}


# -- what is no emergency -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "left"),
    [
        (b"", set()),
        (b"\xff\x00", set()),
        (b"[" * 100_000, set()),
        (b"[]", set()),
        (b'{"emergencies": ["disaster"]}', set()),
        (b'{"emergencies": {"disaster": "soon"}}', set()),
        (b'{"emergencies": {"disaster": 1e999}}', set()),
        (b'{"emergencies": {"disaster": true}}', set()),
        (b'{"emergencies": {"disaster": 1' + b"0" * 400 + b"}}", set()),
        (b'{"emergencies": {"disaster": 9999999999999}}', set()),
        (b'{"emergencies": {"": 1760000060, "flood": 1760000060}}', {"flood"}),
        (b'{"emergencies": {"a\\u0007": 1760000060, "flood": 1760000060}}', {"flood"}),
        (b" " * 1_000_001, set()),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_garbage_in_the_store_is_ignored_told_once_and_replaced(raw: bytes, left: set[str]) -> None:
    ground = Ground()
    assert ground.store.swap(DOCUMENT, raw, None)
    for _ in range(5):
        assert ground.known.active() == left
        ground.pass_s(1)
    (trouble,) = [e for e in ground.events if isinstance(e, StoreTrouble)]
    assert "ignored" in trouble.text
    ground.known.declare("disaster", for_s=60)
    assert ground.known.active() == {"disaster", *left}
    assert json.loads(ground.store.load(DOCUMENT) or b"")["emergencies"].keys() == {"disaster", *left}


@given(
    raw=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["emergencies", "a", ""]), inner, max_size=3)
        ),
    ).map(lambda found: json.dumps(found).encode())
)
def test_whatever_is_read_only_names_and_moments_come_out(raw: bytes) -> None:
    untils, _ = read(raw, 0.0, 1e10)
    assert all(isinstance(name, str) and 0 < end <= 1e10 for name, end in untils.items())


@given(
    st.dictionaries(
        st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=100), st.floats(1, 1e9)
    )
)
def test_what_is_written_is_read(untils: dict[str, float]) -> None:
    assert read(written(untils), 0.0, 1e9) == (untils, True)


def test_there_are_so_many_at_most() -> None:
    with pytest.raises(ConfigError, match="end some of them"):
        written({str(number): 1.0 for number in range(1001)})


# -- threads, processes, forks ---------------------------------------------------------------


def test_threads_that_declare_at_once_lose_nothing() -> None:
    wall = FakeClock(NOW)
    store = MemoryStore(clock=wall)
    views = [Emergencies(store, wall=wall) for _ in range(4)]

    def declare(view: Emergencies, number: int) -> None:
        for each in range(20):
            view.declare(f"{number}-{each}")

    threads = [threading.Thread(target=declare, args=pair) for pair in zip(views, range(4), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Emergencies(store, wall=wall).active()) == 80


def test_threads_that_declare_at_once_know_all_that_they_declared() -> None:
    was = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(150):
            known = Emergencies(MemoryStore(), refresh_s=100.0)
            threads = [threading.Thread(target=known.declare, args=(f"e{number}",)) for number in range(6)]
            known.active()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(known.active()) == 6
    finally:
        sys.setswitchinterval(was)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        running = Server(Path(directory))
        yield running
        running.stop()


@pytest.fixture(params=["disk", "redis"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        server: Server = request.getfixturevalue("server")
        with server.client() as client:
            client.flushall()
        return server.url
    return str(tmp_path / "store")


def another_process(where: str, seen: Any, stop: Any) -> None:
    store = opened(where)
    known = Emergencies(store, refresh_s=0.02)
    before: frozenset[str] = frozenset()
    while not stop.is_set():
        if (now := known.active()) != before:
            before = now
            seen.put(sorted(now))
        stop.wait(0.005)
    store.close()


def test_it_reaches_another_process_and_ends_there_by_itself(where: str) -> None:
    seen, stop = SPAWN.Queue(), SPAWN.Event()
    process = SPAWN.Process(target=another_process, args=(where, seen, stop))
    process.start()
    store = opened(where)
    try:
        known = Emergencies(store)
        known.declare("disaster")
        assert seen.get(timeout=30) == ["disaster"]
        known.declare("flood", until=time.time() + 1.0)
        assert seen.get(timeout=30) == ["disaster", "flood"]
        assert seen.get(timeout=30) == ["disaster"]  # nobody ended it
        known.end("disaster")
        assert seen.get(timeout=30) == []
    finally:
        stop.set()
        process.join(30)
        store.close()
    assert process.exitcode == 0


def test_one_that_was_killed_after_declaring_it_has_declared_it(tmp_path: Path) -> None:
    process = SPAWN.Process(target=declares_and_dies, args=(str(tmp_path / "store"),))
    process.start()
    process.join(30)
    assert process.exitcode == -9
    store = DiskStore(tmp_path / "store")
    try:
        assert Emergencies(store).active() == {"disaster"}
    finally:
        store.close()


def declares_and_dies(directory: str) -> None:
    Emergencies(DiskStore(directory)).declare("disaster")
    os.kill(os.getpid(), 9)


def test_a_redis_that_stops_does_not_take_an_emergency_with_it(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = Server(Path(directory))
        store = opened(server.url)
        try:
            clock = FakeClock()
            known = Emergencies(store, clock=clock)
            known.declare("disaster")
            server.stop()
            clock.advance(5)
            assert known.active() == {"disaster"}
            assert not known.refresh()
            server.start()
            eventually(known.refresh)  # an empty one: it had been kept nowhere else
            assert known.active() == frozenset()
        finally:
            store.close()
            server.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_still_knows_and_has_locks_of_its_own() -> None:
    ground = Ground()
    ground.known.declare("disaster")
    ground.known._lock.acquire()
    ground.known._reading.acquire()
    ground.known._writing.acquire()
    child = os.fork()
    if child == 0:
        ground.known.declare("flood")
        os._exit(0 if ground.known.active() == {"disaster", "flood"} else 1)
    ground.known._lock.release()
    ground.known._reading.release()
    ground.known._writing.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

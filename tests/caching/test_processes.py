"""One flight across processes that share a layer: one call, whoever is killed, whatever breaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from caching.flyers import (
    TEXT,
    Crowd,
    Held,
    aplain,
    astreamed,
    at_rest,
    client_of,
    eventually,
    plain,
    readers,
    soon,
    streamed,
)
from stores.ground import SPAWN, Server
from tierllm import DiskLayer, MemoryLayer, RedisLayer, ResultCache, TieredClient
from tierllm.caching.claims import Claims
from tierllm.caching.layer import Layer
from tierllm.errors import StoreUnavailableError
from tierllm.types import Call

PROCESSES, CALLERS = 8, 50
SLOT = b"slot" * 8


def opened(place: str, **settings: Any) -> Layer:
    if "://" in place:
        return RedisLayer(place, **{"timeout_s": 20, "max_bytes": 2**24, **settings})
    return DiskLayer(place, **{"timeout_s": 20, "max_bytes": 2**24, **settings})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        server = Server(Path(directory))
        yield server
        server.stop()


@pytest.fixture(params=["disk", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "cache")
    server: Server = request.getfixturevalue("server")
    with server.client() as client:
        client.flushall()
    return server.url


class Counted(Held):
    """Notes each call in a file that all processes append to."""

    def __init__(self, calls: Path) -> None:
        super().__init__()
        self.file = calls

    def _begin(self, call: Call) -> None:
        super()._begin(call)
        at = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(at, f"{os.getpid()}\n".encode())
        finally:
            os.close(at)


def callers_of(calls: Path) -> list[int]:
    """The processes that called the provider, in order."""
    return [int(line) for line in calls.read_text().split()] if calls.exists() else []


def ask(place: str, directory: Path, lease_s: float, pipe: Connection) -> None:
    """In a process of its own: many callers at once, in all forms."""
    held = Counted(directory / "calls")
    cache = ResultCache([MemoryLayer(), opened(place)])
    cache.claims.lease_s = lease_s
    with client_of(held, cache=cache) as client, Crowd() as crowd:
        pipe.send("ready")
        assert pipe.recv() == "go"
        for works in ((plain, streamed), (plain, plain)):
            crowd.threads(*(partial(work, client) for work in works * 6))
        crowd.tasks(*(partial(work, client) for work in (aplain, astreamed) * 13))
        eventually(lambda: readers(client) == CALLERS)
        pipe.send("all there")
        assert pipe.recv() == "answer"
        held.let()
        told = [(getattr(r, "text", repr(r)), getattr(r, "cached", None)) for r in crowd.join()]
        eventually(lambda: at_rest(client, held))
        pipe.send(told)


class Fleet:
    """The processes, and a pipe to each."""

    def __init__(self, place: str, directory: Path, lease_s: float = 6.0) -> None:
        self.directory = directory
        self.processes: list[BaseProcess] = []
        self.pipes: dict[int, Connection] = {}
        pipes = [SPAWN.Pipe() for _ in range(PROCESSES)]
        for _, there in pipes:
            process = SPAWN.Process(target=ask, args=(place, directory, lease_s, there), daemon=True)
            process.start()
            there.close()
            self.processes.append(process)
        for process, (here, _) in zip(self.processes, pipes, strict=True):
            assert process.pid is not None
            self.pipes[process.pid] = here
        self.hear("ready")
        self.say("go")
        self.hear("all there")

    def say(self, what: str) -> None:
        for pipe in self.pipes.values():
            pipe.send(what)

    def hear(self, what: str) -> None:
        for pipe in self.pipes.values():
            assert pipe.poll(60), "a process never came so far"
            assert pipe.recv() == what

    def told(self) -> list[tuple[str, bool]]:
        answers: list[tuple[str, bool]] = []
        for pipe in self.pipes.values():
            assert pipe.poll(60), "a process hangs"
            answers += pipe.recv()
        for process in self.processes:
            process.join(20)
        return answers

    def callers(self) -> list[int]:
        return callers_of(self.directory / "calls")

    def called(self, times: int) -> list[int]:
        """Who has called the provider, once there are so many."""
        eventually(lambda: len(self.callers()) >= times)
        callers = self.callers()
        assert len(callers) == times
        return callers


def test_processes_make_one_call(place: str, tmp_path: Path) -> None:
    fleet = Fleet(place, tmp_path)
    fleet.called(1)
    fleet.say("answer")
    told = fleet.told()
    assert [text for text, _ in told] == [TEXT] * PROCESSES * CALLERS
    assert [cached for _, cached in told].count(False) == 1
    assert len(fleet.callers()) == 1


def test_when_the_one_that_leads_is_killed_there_is_one_more_and_none_is_lost(
    place: str, tmp_path: Path
) -> None:
    by_lease = "://" in place
    fleet = Fleet(place, tmp_path, lease_s=2.0 if by_lease else 600.0)
    [leader] = fleet.called(1)
    os.kill(leader, signal.SIGKILL)
    del fleet.pipes[leader]
    fleet.called(2)  # far sooner than the disk's lease
    fleet.say("answer")
    told = fleet.told()
    assert [text for text, _ in told] == [TEXT] * (PROCESSES - 1) * CALLERS
    assert [cached for _, cached in told].count(False) == 1
    assert len(fleet.callers()) == 2
    assert fleet.callers()[1] != leader


# -- a layer that dies -----------------------------------------------------------------


def waiting(client: TieredClient) -> Crowd:
    """Callers of all forms, who wait for another process's answer."""
    crowd = Crowd()
    crowd.threads(*(partial(work, client) for work in (plain, streamed) * 5))
    crowd.tasks(*(partial(work, client) for work in (aplain, astreamed) * 5))
    eventually(lambda: readers(client) == 20)
    return crowd


def claim_all(layer: Layer, client: TieredClient) -> None:
    """Another one claims whatever this client asks for."""
    mine = next(each for each in client.cache.layers if each.shared)
    claimed: set[bytes] = set()

    def refused(slot: bytes, owner: bytes, lease_s: float) -> bool:
        if slot not in claimed:
            claimed.add(slot)
            assert layer.claim(slot, b"another process", 600.0)
        return type(mine).claim(mine, slot, owner, lease_s)

    mine.claim = refused  # type: ignore[method-assign]


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_a_redis_that_dies_lets_all_go_on(tmp_path: Path, how: str) -> None:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = Server(Path(directory))
        other, held = opened(server.url), Held()
        held.let()
        try:
            with client_of(held, layers=[MemoryLayer(), opened(server.url, timeout_s=0.5)]) as client:
                claim_all(other, client)
                with waiting(client) as crowd:
                    time.sleep(0.1)
                    assert not held.calls, "they should have waited"
                    server.stop() if how == "stopped" else server.freeze()
                    told = crowd.join()
                assert [getattr(r, "text", r) for r in told] == [TEXT] * 20
                assert len(held.calls) == 1
                eventually(lambda: at_rest(client, held))
        finally:
            server.thaw() if how == "frozen" else None
            server.stop()
            other.close()


def test_a_directory_that_goes_lets_all_go_on(tmp_path: Path) -> None:
    where, held = tmp_path / "cache", Held()
    held.let()
    other = opened(str(where))
    with client_of(held, layers=[MemoryLayer(), opened(str(where), timeout_s=0.5)]) as client:
        claim_all(other, client)
        with waiting(client) as crowd:
            time.sleep(0.1)
            assert not held.calls, "they should have waited"
            other.close()
            shutil.rmtree(where)
            where.write_text("no directory any more")
            told = crowd.join()
        assert [getattr(r, "text", r) for r in told] == [TEXT] * 20
        assert len(held.calls) == 1


# -- claims ----------------------------------------------------------------------------


def test_a_claim_is_given_up_only_after_what_was_written_behind(tmp_path: Path) -> None:
    may_write = threading.Event()

    class Slow(DiskLayer):
        def set(self, *args: Any, **more: Any) -> bool:
            assert may_write.wait(20)
            return super().set(*args, **more)

    held = Held()
    held.let()
    slow = ResultCache([Slow(tmp_path, timeout_s=20)], write="behind")
    with client_of(held, cache=slow) as one, client_of(held, layers=[opened(str(tmp_path))]) as two:
        assert not plain(one).cached
        with Crowd() as crowd:
            crowd.threads(partial(plain, two), partial(streamed, two))
            eventually(lambda: readers(two) == 2)
            time.sleep(0.1)
            may_write.set()
            assert [getattr(r, "cached", r) for r in crowd.join()] == [True, True]
        assert len(held.calls) == 1


def test_two_clients_of_one_process_that_share_a_cache_make_one_call(place: str) -> None:
    held, cache = Held(), ResultCache([opened(place)])
    with client_of(held, cache=cache) as one, client_of(held, cache=cache) as two, Crowd() as crowd:
        crowd.threads(*(partial(plain, client) for client in (one, two) * 5))
        eventually(lambda: readers(one) + readers(two) == 10 and len(held.calls) == 1)
        held.let()
        assert [getattr(r, "text", r) for r in crowd.join()] == [TEXT] * 10
        assert len(held.calls) == 1
        eventually(lambda: not cache.claims._held)


async def test_a_task_cancelled_while_it_claims_leaves_no_claim(tmp_path: Path) -> None:
    claiming, may_claim = threading.Event(), threading.Event()

    class Slow(DiskLayer):
        def claim(self, *args: Any) -> bool:
            claiming.set()
            assert may_claim.wait(20)
            return super().claim(*args)

    held = Held()
    held.let()
    layers = [MemoryLayer(), Slow(tmp_path, timeout_s=20)]
    async with client_of(held, layers=layers) as one, client_of(held, layers=[opened(str(tmp_path))]) as two:
        task = asyncio.create_task(aplain(one))
        await soon(claiming.is_set)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        may_claim.set()
        await soon(lambda: at_rest(one, held))
        assert not held.calls
        async with asyncio.timeout(5):  # far less than a lease, which would be renewed for ever
            assert not (await aplain(two)).cached


def test_giving_up_a_claim_leaves_the_next_one_alone(tmp_path: Path) -> None:
    releasing, may_release = threading.Event(), threading.Event()

    class Slow(DiskLayer):
        def release(self, *args: Any) -> None:
            releasing.set()
            assert may_release.wait(20)
            super().release(*args)

    layer, other = Slow(tmp_path, timeout_s=20), DiskLayer(tmp_path, timeout_s=20)
    mine, theirs = Claims(), Claims()
    assert mine.take(layer, SLOT)
    giving = threading.Thread(target=mine.give, args=(layer, SLOT))
    giving.start()
    assert releasing.wait(20)
    again = mine.take(layer, SLOT)  # by the next flight, while the last one's is on its way out
    may_release.set()
    giving.join()
    assert theirs.take(other, SLOT) is not again, "two may make it, or nobody"
    for claims, each in ((mine, layer), (theirs, other)):
        claims.give(each, SLOT)
        claims.close()
    assert mine.take(layer, SLOT)
    mine.give(layer, SLOT)
    for each in (layer, other):
        each.close()


def test_of_threads_that_take_at_once_one_gets_it(place: str) -> None:
    layer, claims = opened(place), Claims()
    for round_ in range(20):
        slot, barrier, taken = bytes([round_]) * 32, threading.Barrier(8), []

        def take(slot: bytes = slot, barrier: Any = barrier, taken: list[bool] = taken) -> None:
            barrier.wait()
            taken.append(claims.take(layer, slot))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert taken.count(True) == 1
        claims.give(layer, slot)
    claims.close()
    layer.close()


def test_of_two_who_claim_on_a_disk_at_once_one_gets_it_whoever_read_the_clock_first(tmp_path: Path) -> None:
    taken: list[bool] = []
    looks: list[float] = []
    quick = DiskLayer(tmp_path, timeout_s=0.3)

    def clock() -> float:
        now = time.time()
        looks.append(now)
        if len(looks) == 2:  # the first is a look before, whether it is worth while
            with contextlib.suppress(StoreUnavailableError):  # where this is asked under the lock
                taken.append(quick.claim(SLOT, b"one", 60.0))
        return now

    slow = DiskLayer(tmp_path, timeout_s=20, wall_clock=clock)
    assert quick.claim(b"another" * 4, b"one", 60.0)
    taken.append(slow.claim(SLOT, b"two", 60.0))
    assert len(looks) >= 2
    assert taken.count(True) == 1
    for each in (quick, slow):
        each.close()

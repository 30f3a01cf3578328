"""A real Redis for each worker, emptied for each test, and stores of each kind on the same ground."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stores.ground import OPENED, Server, opened
from tierllm.stores import MemoryStore, Store

Making = Callable[..., Store]


@pytest.fixture(scope="session")
def running_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        running = Server(Path(directory))
        yield running
        running.stop()


@pytest.fixture
def server(running_server: Server) -> Server:
    with running_server.client() as client:
        client.flushall()
        client.script_flush()
    return running_server


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    yield
    for store in tuple(OPENED):
        store.close()
    OPENED.clear()


@pytest.fixture(params=["memory", "disk", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["disk", "redis"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The place of a store that processes share."""
    if request.param == "redis":
        return str(request.getfixturevalue("server").url)
    return str(tmp_path / "store")


@pytest.fixture
def make(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Making]:
    """Makes stores of one kind, closed in the end; those of disk and Redis share their state."""
    made: list[Store] = []
    place = request.getfixturevalue("server").url if kind == "redis" else str(tmp_path / "store")

    def make(**settings: float) -> Store:
        store = MemoryStore() if kind == "memory" else opened(place, **settings)
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make: Making) -> Store:
    return make()

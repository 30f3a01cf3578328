"""A real Redis for each worker that asks for one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stores.ground import Server


@pytest.fixture(scope="session")
def running_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        running = Server(Path(directory))
        yield running
        running.stop()


@pytest.fixture(params=["disk", "redis"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The place of a store that processes share."""
    if request.param == "disk":
        return str(tmp_path / "store")
    server: Server = request.getfixturevalue("running_server")
    with server.client() as client:
        client.flushall()
    return server.url

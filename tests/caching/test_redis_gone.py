"""The Redis layer while Redis is gone: one call pays, a thread finds out when it is back."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from stores.ground import Server, eventually
from tierllm.caching import redis_news
from tierllm.caching.redis_board import RedisBoard
from tierllm.caching.redis_layer import RedisLayer
from tierllm.caching.redis_news import News
from tierllm.errors import StoreUnavailableError
from tierllm.events import Event, StoreTrouble
from tierllm.stores.trouble import Health, NotDone

A = b"a" * 32
RETRY_S, TIMEOUT_S = 0.1, 0.1
CALLS, PERIODS = 200, 5


class Manual:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Watcher:
    watches = True


@pytest.fixture(autouse=True)
def seldom_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not the check of the connection that finds out."""
    monkeypatch.setattr(redis_news, "CHECK_S", 60.0)


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        server = Server(Path(directory))
        yield server
        if server.process.poll() is None:
            server.thaw()
        server.stop()


Making = Callable[..., RedisLayer]


@pytest.fixture
def make(server: Server) -> Iterator[Making]:
    made: list[RedisLayer] = []

    def make(retry_s: float = RETRY_S, clock: Callable[[], float] = time.monotonic) -> RedisLayer:
        made.append(RedisLayer(server.url, timeout_s=TIMEOUT_S, retry_s=retry_s, clock=clock))
        return made[-1]

    yield make
    for each in made:
        each.close()


def listen(layer: RedisLayer, server: Server) -> None:
    """Until its thread waits for news."""
    layer.heard()
    with server.client() as raw:
        eventually(lambda: bool(raw.pubsub_channels()))


def has_heard(layer: RedisLayer, number: int) -> bool:
    return layer.heard() == number


def paid(found: list[object]) -> int:
    return sum(isinstance(each, StoreUnavailableError) and not isinstance(each, NotDone) for each in found)


async def asked(layer: RedisLayer, form: str) -> object:
    assert layer.aget is not None
    try:
        return await layer.aget(A) if form == "async" else layer.get(A)
    except StoreUnavailableError as error:
        return error


@pytest.mark.parametrize("form", ["threads", "async"])
@pytest.mark.parametrize("how", ["frozen", "restarted"])
async def test_only_the_first_call_pays(server: Server, make: Making, how: str, form: str) -> None:
    layer = make()
    told: list[Event] = []
    layer.emit = told.append
    assert layer.aget is not None
    layer.set(A, b"a", ttl_s=60)
    await asyncio.gather(*(layer.aget(A) for _ in range(5)))  # connections that are lost with the server
    listen(layer, server)
    (server.freeze if how == "frozen" else server.stop)()
    found = []
    for _ in range(CALLS):
        found.append(await asked(layer, form))
        await asyncio.sleep(PERIODS * RETRY_S / CALLS)
    assert all(isinstance(each, StoreUnavailableError) for each in found)
    if how == "frozen":
        assert not isinstance(found[0], NotDone)
    assert paid(found[1:]) == 0
    (server.thaw if how == "frozen" else server.start)()
    found = [await asked(layer, form)]
    ends = time.monotonic() + 10
    while isinstance(found[-1], StoreUnavailableError) and time.monotonic() < ends:
        await asyncio.sleep(0.005)
        found.append(await asked(layer, form))
    assert paid(found) == 0
    assert found[-1] == (b"a" if how == "frozen" else None)
    assert layer.set(A, b"b", ttl_s=60)
    assert await asyncio.gather(*(layer.aget(A) for _ in range(5))) == [b"b"] * 5
    # told after the layer is used again, perhaps
    eventually(lambda: [each.ok for each in told if isinstance(each, StoreTrouble)] == [False, True])
    await layer.aclose()


def test_news_are_heard_again_when_it_is_back(server: Server, make: Making) -> None:
    layer, other = make(), make()
    listen(layer, server)
    server.freeze()
    with pytest.raises(StoreUnavailableError):
        layer.get(A)
    server.thaw()
    number = other.post([])
    eventually(lambda: layer.heard() == number)
    eventually(lambda: layer.health.left_alone_s is None)
    assert layer.get(A) is None


def test_news_are_heard_while_it_is_left_alone(server: Server, make: Making) -> None:
    clock = Manual()
    layer, other = make(clock=clock), make()
    listen(layer, server)
    eventually(partial(has_heard, layer, other.post([])))  # its first look is over
    layer.health.failed("one answer came late")
    for _ in range(3):
        number = other.post([])
        eventually(partial(has_heard, layer, number))
    assert layer.health.left_alone_s == RETRY_S
    clock.now = 1.0
    eventually(lambda: layer.health.left_alone_s is None)  # nobody called
    assert layer.get(A) is None


@pytest.mark.parametrize("why", ["forked", "closed", "no-thread", "dead"])
def test_without_its_thread_calls_try_again(
    server: Server, make: Making, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    clock = Manual()
    layer = make(retry_s=1.0, clock=clock)

    def fail(self: object) -> None:
        raise RuntimeError("can't start new thread")

    if why == "no-thread":
        monkeypatch.setattr(News, "start", fail)
        layer.heard()
    elif why == "dead":
        monkeypatch.setattr(RedisBoard, "look", fail)
        layer.heard()
        eventually(lambda: not layer._board.watches)
    else:
        listen(layer, server)
        assert layer._board.watches
        (layer.renew if why == "forked" else layer.close)()
    assert not layer._board.watches
    server.freeze()
    for now in (0.0, 1.5, 3.0):
        clock.now = now
        with pytest.raises(StoreUnavailableError) as caught:
            layer.get(A)
        assert not isinstance(caught.value, NotDone)
        with pytest.raises(NotDone, match="not tried again for 1 s"):
            layer.get(A)
    server.thaw()
    clock.now = 4.5
    assert layer.get(A) is None


def test_who_watches_tries_and_nobody_else() -> None:
    told: list[Event] = []
    clock = Manual()
    health = Health("redis", told.append, retry_s=1.0, clock=clock)
    watcher = health.watcher = Watcher()
    health.expect()
    assert health.left_alone_s is None
    health.failed("gone")
    health.failed("gone")
    assert len(told) == 1
    assert health.left_alone_s == 1.0
    with pytest.raises(NotDone, match="not tried again for 1 s"):
        health.expect(watching=True)  # left alone all the same
    clock.now = 5.0
    assert health.left_alone_s == 0.0
    with pytest.raises(NotDone, match="until it is well"):
        health.expect()
    health.expect(watching=True)
    with pytest.raises(NotDone):
        health.expect(watching=True)
    watcher.watches = False
    with pytest.raises(NotDone):
        health.expect()
    clock.now = 6.0
    health.expect()  # so it is never left alone for good
    health.well()
    health.expect()
    assert health.left_alone_s is None

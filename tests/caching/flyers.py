"""A provider that answers when it is told to, and crowds of callers in threads, tasks and streams."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from tierllm import Deployment, Price, ResultCache, Tier, TieredClient
from tierllm.caching.flights import Flight
from tierllm.pipeline.scope import Invocation
from tierllm.providers.base import BaseProvider
from tierllm.types import Call, Chunk, Response, Usage

PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=4)
PIECES = ("one ", "two ", "three ", "four ")
TEXT = "".join(PIECES)
PATIENCE_S = 20.0


class Held(BaseProvider):
    """Gives a piece of its answer whenever it is let; ``failure()`` in place of the end."""

    name = "held"
    origin = ""

    def __init__(
        self, pieces: Sequence[str] = PIECES, failure: Callable[[], Exception] | None = None
    ) -> None:
        self.pieces = tuple(pieces)
        self.failure = failure
        self.calls: list[str] = []
        self.in_flight = 0
        self.cancelled = 0
        self._let = 0
        self._told = threading.Condition()

    def let(self, pieces: int | None = None) -> None:
        """So many more pieces may go, or all there will ever be."""
        with self._told:
            self._let = self._let + pieces if pieces is not None else 1_000_000_000
            self._told.notify_all()

    def _roused(self) -> None:
        with self._told:
            self._told.notify_all()

    def _begin(self, call: Call) -> None:
        with self._told:
            self.calls.append(call.model)
            self.in_flight += 1

    def _end(self, whole: bool) -> None:
        with self._told:
            self.in_flight -= 1
            self.cancelled += not whole

    def _steps(self) -> Iterator[Chunk | int]:
        """Numbers: wait until so many pieces may go."""
        last = len(self.pieces)
        for number, piece in enumerate(self.pieces, 1):
            yield number
            if number == last:
                if self.failure is not None:
                    raise self.failure()
                yield Chunk(piece, finish_reason="stop", usage=Usage(input_tokens=10, output_tokens=20))
            else:
                yield Chunk(piece)

    def stream(self, call: Call, scope: Invocation) -> Iterator[Chunk]:
        self._begin(call)
        whole = False
        scope.on_cancel(self._roused)
        try:
            for step in self._steps():
                if isinstance(step, Chunk):
                    whole = step.finish_reason is not None
                    yield step
                    continue
                with self._told:
                    while self._let < step and not scope.cancelled:
                        self._told.wait(scope.remaining_s())
                        scope.check()
                scope.check()
        except Exception:
            whole = True
            raise
        finally:
            scope.off_cancel(self._roused)
            self._end(whole)

    async def astream(self, call: Call, scope: Invocation) -> AsyncIterator[Chunk]:
        self._begin(call)
        whole = False
        try:
            for step in self._steps():
                if isinstance(step, Chunk):
                    whole = step.finish_reason is not None
                    yield step
                    continue
                while self._let < step:
                    await asyncio.sleep(0.001)
        except Exception:
            whole = True
            raise
        finally:
            self._end(whole)

    def complete(self, call: Call, scope: Invocation) -> Response:
        for chunk in self.stream(call, scope):
            scope.feed(chunk)
        return scope.finished()

    async def acomplete(self, call: Call, scope: Invocation) -> Response:
        async for chunk in self.astream(call, scope):
            scope.feed(chunk)
        return scope.finished()


def client_of(provider: Any, *, layers: Any = None, **settings: Any) -> TieredClient:
    """Gold over silver, each one place of ``provider``; no retries, no breaker."""
    cache = settings.pop("cache", None) or ResultCache(layers)
    return TieredClient(
        [
            Tier("gold", [Deployment("g", provider, price=PRICE)], max_concurrency=4),
            Tier("silver", [Deployment("s", provider, price=PRICE)], max_concurrency=4),
        ],
        cache=cache,
        **{"retry": False, "breaker": False, **settings},
    )


def flights(client: TieredClient) -> list[Flight]:
    caching = client._setup.caching
    assert caching is not None
    return list(caching._flown.flights._flights.values())


def readers(client: TieredClient) -> int:
    return sum(flight.readers for flight in flights(client))


def at_rest(client: TieredClient, provider: Any) -> bool:
    """Nothing is held any more."""
    pools = [tier["pool"] for tier in client.status()["tiers"].values()]
    caching = client._setup.caching
    assert caching is not None
    return (
        not flights(client)
        and not client._ground.host.live
        and not provider.in_flight
        and not any(pool is not None and (pool["in_use"] or pool["waiting"]) for pool in pools)
        and not caching.cache.claims._held
    )


def eventually(what: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.001)


async def soon(what: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until, "it never came to that"
        await asyncio.sleep(0.001)


Told = Response | BaseException


def plain(client: TieredClient, **options: Any) -> Response:
    return client.complete("Hello", **options)


def streamed(client: TieredClient, **options: Any) -> Response:
    with client.stream("Hello", **options) as stream:
        text = "".join(chunk.text for chunk in stream)
        assert text == stream.response.text
        return stream.response


async def aplain(client: TieredClient, **options: Any) -> Response:
    return await client.acomplete("Hello", **options)


async def astreamed(client: TieredClient, **options: Any) -> Response:
    async with client.astream("Hello", **options) as stream:
        text = "".join([chunk.text async for chunk in stream])
        assert text == stream.response.text
        return stream.response


class Crowd:
    """Callers in threads of their own, and in tasks of some threads' event loops."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.join()

    def threads(self, *works: Callable[[], Response]) -> None:
        for work in works:
            self._start(lambda work=work: [self._heard(work)])  # type: ignore[misc]

    def tasks(self, *works: Callable[[], Any]) -> None:
        """All on one new event loop."""

        async def all_of_them() -> list[Told]:
            return await asyncio.gather(*(work() for work in works), return_exceptions=True)

        self._start(lambda: asyncio.run(all_of_them()))

    def _heard(self, work: Callable[[], Response]) -> Told:
        try:
            return work()
        except BaseException as error:
            return error

    def _start(self, work: Callable[[], list[Told]]) -> None:
        def run() -> None:
            told = work()
            self.told += told

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> list[Told]:
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "somebody hangs"
        return self.told

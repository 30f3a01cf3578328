"""What a call leaves behind: no frames, no exceptions, no context variables."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.drivers import Mode, call, eventually, says, stack
from tierllm.errors import ProviderError, ProviderUnavailableError, StreamInterruptedError
from tierllm.pipeline.aio import AsyncRun
from tierllm.pipeline.effects import Blocking, Follow, Gather, Handler, Race, Spawn
from tierllm.pipeline.host import Host
from tierllm.pipeline.ready import AsyncResponseStream, ReadyCall, ResponseStream
from tierllm.pipeline.scope import Scope
from tierllm.pipeline.tape import Tape
from tierllm.providers.base import PlayedProvider
from tierllm.types import Call, Chunk, Response


class Weight:
    """Something big in a policy's frame."""


class Failing(PlayedProvider):
    """Fails at once, or after a chunk, and remembers nothing."""

    name = "failing"

    def __init__(self, chunks: int = 0) -> None:
        self.chunks = chunks

    def play(self, call: Call, scope: Any) -> Any:
        for _ in range(self.chunks):
            yield Chunk("x")
        raise ProviderUnavailableError("down")


class Heavy:
    """A policy whose frames hold a weight; ``alive`` counts those that are still there."""

    def __init__(self) -> None:
        self._weights: list[weakref.ref[Weight]] = []

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        weight = Weight()
        self._weights.append(weakref.ref(weight))
        response = await call_next(call)
        assert weight
        return response

    @property
    def alive(self) -> int:
        return sum(ref() is not None for ref in self._weights)

    @property
    def made(self) -> int:
        return len(self._weights)


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _flow(shape: str, heavy: Heavy, provider: Any) -> Any:
    def leg() -> Any:
        return stack([heavy], provider)(call())

    async def race(win: Any) -> Any:
        return await Race([(0.0, leg), (0.0, leg)], win)

    async def gather() -> Any:
        return await Gather(leg(), leg())

    async def spawn() -> Any:
        tape = Tape()
        await Spawn(leg(), tape)
        return await Follow(tape)

    flows = {
        "invoke": leg,
        "race": lambda: race("chunk"),
        "race by result": lambda: race("result"),
        "gather": gather,
        "spawn": spawn,
    }
    return stack([heavy], provider)(call()) if shape == "invoke" else flows[shape]()


def _fail(mode: Mode, flow: Any) -> None:
    """As ``mode.drive``, but the error goes no further: asyncio.run keeps what it raises in its frames."""
    if mode.name == "virtual":
        driven = mode.world.start(flow, mode.host, streaming=mode.streaming)
        mode.world.run()
        assert isinstance(driven.error, ProviderError)
    elif mode.name == "sync":
        with contextlib.suppress(ProviderError):
            mode.drive(flow)
    else:

        async def main() -> None:
            driven = AsyncRun(flow, mode.scope(), mode.host, mode.streaming)
            with contextlib.suppress(ProviderError):
                while await driven.advance() is not None:
                    pass
            await driven.aclose()

        asyncio.run(main())


@pytest.mark.parametrize("shape", ["invoke", "race", "race by result", "gather", "spawn"])
@pytest.mark.parametrize("chunks", [0, 1])
def test_a_failed_call_keeps_no_frame_alive(mode: Mode, shape: str, chunks: int) -> None:
    heavy = Heavy()

    _fail(mode, _flow(shape, heavy, Failing(chunks)))
    assert heavy.made
    eventually(lambda: heavy.alive == 0)


@pytest.mark.parametrize("shape", ["invoke", "race", "race by result", "gather", "spawn"])
def test_a_call_that_went_well_keeps_no_frame_alive(mode: Mode, shape: str) -> None:
    heavy = Heavy()
    mode.drive(_flow(shape, heavy, says()))
    assert heavy.made
    eventually(lambda: heavy.alive == 0)


class Asked(Call):
    __slots__ = ("__weakref__",)


def _ready(host: Host, provider: Any, heavy: Heavy) -> tuple[ReadyCall, weakref.ref[Asked]]:
    asked = Asked(call().request, model="m")
    return ReadyCall(asked, stack([heavy], provider), Scope(time.monotonic), host), weakref.ref(asked)


@pytest.mark.parametrize("how", ["to the end", "early", "failed"])
def test_a_stream_is_gone_as_soon_as_nobody_holds_it(how: str) -> None:
    host, heavy = Host(), Heavy()
    provider: Any = Failing(1) if how == "failed" else says()

    def use() -> weakref.ref[Asked]:
        ready, asked = _ready(host, provider, heavy)
        with ResponseStream(ready) as stream:
            for _ in stream:
                if how == "early":
                    break
        return asked

    def fail() -> weakref.ref[Asked]:
        ready, asked = _ready(host, provider, heavy)
        with contextlib.suppress(StreamInterruptedError), ResponseStream(ready) as stream:
            for _ in stream:
                pass
        return asked

    asked = fail() if how == "failed" else use()
    assert asked() is None
    assert heavy.alive == 0


@pytest.mark.parametrize("how", ["to the end", "early", "failed"])
async def test_an_async_stream_is_gone_as_soon_as_nobody_holds_it(how: str) -> None:
    host, heavy = Host(), Heavy()
    provider: Any = Failing(1) if how == "failed" else says()

    async def use() -> weakref.ref[Asked]:
        ready, asked = _ready(host, provider, heavy)
        async with AsyncResponseStream(ready) as stream:
            async for _ in stream:
                if how == "early":
                    break
        return asked

    async def fail() -> weakref.ref[Asked]:
        ready, asked = _ready(host, provider, heavy)
        with contextlib.suppress(StreamInterruptedError):
            async with AsyncResponseStream(ready) as stream:
                async for _ in stream:
                    pass
        return asked

    asked = await (fail() if how == "failed" else use())
    assert asked() is None
    assert heavy.alive == 0


def test_plain_calls_are_gone_too() -> None:
    host, heavy = Host(), Heavy()

    def use(asynchronous: bool) -> weakref.ref[Asked]:
        ready, asked = _ready(host, says(), heavy)
        asyncio.run(ready.arun()) if asynchronous else ready.run()
        return asked

    for asynchronous in (False, True):
        assert use(asynchronous)() is None
    assert heavy.alive == 0


# -- context variables ---------------------------------------------------------------------

user = contextvars.ContextVar("user", default="nobody")


class Seen(PlayedProvider):
    name = "seen"

    def __init__(self) -> None:
        self.users: list[str] = []

    def play(self, call: Call, scope: Any) -> Any:
        self.users.append(user.get())
        yield 0.001
        yield Chunk("x", finish_reason="stop")


class Named:
    """A policy that sets a variable around the call, and puts it back."""

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        token = user.set("policy")
        try:
            return await call_next(call)
        finally:
            user.reset(token)


@pytest.mark.parametrize("shape", ["invoke", "race", "gather", "spawn"])
def test_the_callers_context_is_visible_in_every_leg(mode: Mode, shape: str) -> None:
    seen = Seen()
    token = user.set("u42")
    try:
        mode.drive(_flow(shape, Heavy(), seen))
    finally:
        user.reset(token)
    eventually(lambda: len(seen.users) >= 1)
    assert set(seen.users) == {"u42"}


def test_blocking_sees_the_callers_context(mode: Mode) -> None:
    async def flow() -> str:
        return await Blocking(user.get)

    token = user.set("u42")
    try:
        assert mode.drive(flow()).response == "u42"  # type: ignore[comparison-overlap]
    finally:
        user.reset(token)


def test_what_a_policy_sets_is_seen_below_it_and_gone_afterwards(mode: Mode) -> None:
    seen = Seen()
    mode.drive(stack([Named()], seen)(call()))
    assert seen.users == ["policy"]
    assert user.get() == "nobody"
    with pytest.raises(ProviderUnavailableError):
        mode.drive(stack([Named()], Failing())(call()))
    assert user.get() == "nobody"


@pytest.mark.parametrize("leave", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ["sync", "async"])
def test_what_a_policy_sets_in_a_leg_is_put_back_in_that_legs_context(
    name: str, streamed: bool, leave: bool
) -> None:
    """The winner of a race is adopted by another thread or task, which has another context."""
    mode = Mode(name, streamed)
    providers = [says("a b c", first_token_s=s, between_s=0.001) for s in (0.0, 0.0, 30.0)]

    async def race() -> Response:
        return await Race([(0.0, lambda p=p: stack([Named()], p)(call())) for p in providers])  # type: ignore[misc]

    def consumer(chunk: Chunk) -> None:
        assert user.get() == "nobody"
        if leave:
            raise ZeroDivisionError

    if streamed and leave:
        with pytest.raises(ZeroDivisionError):
            mode.drive(race(), after=consumer)
    else:
        assert mode.drive(race(), after=consumer).text == "a b c "
    eventually(lambda: all(p.in_flight == 0 for p in providers))
    assert user.get() == "nobody"

"""One way to drive a flow in each kind of time, so that a test can state a promise once for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tierllm.pipeline.aio import AsyncRun
from tierllm.pipeline.clock import Clock
from tierllm.pipeline.compose import compose, invoking
from tierllm.pipeline.effects import Flow, Handler, Policy
from tierllm.pipeline.host import Host
from tierllm.pipeline.provider import Provider
from tierllm.pipeline.scope import Scope
from tierllm.pipeline.sync import SyncRun
from tierllm.pipeline.virtual import VirtualTime
from tierllm.testing import FakeProvider, Reply
from tierllm.types import Call, Chunk, Request, Response, Timeouts

PATIENCE_S = 5.0


def call(text: str = "hi", timeouts: Timeouts | None = None, **more: Any) -> Call:
    return Call(Request(messages=({"role": "user", "content": text},)), model="m", timeouts=timeouts, **more)


def limits(**bounds: float) -> Timeouts:
    """Only these bounds."""
    none = {"connect_s": None, "first_token_s": None, "between_tokens_s": None, "total_s": None}
    return Timeouts(**{**none, **bounds})  # type: ignore[arg-type]


def says(text: str = "a b c", name: str = "fake", **times: float) -> FakeProvider:
    """A provider with one answer for all, streamed word by word."""
    words = [word + " " for word in text.split()]
    return FakeProvider(answer=lambda _: Reply(chunks=words, **times), name=name)  # type: ignore[arg-type]


def stack(policies: Sequence[Policy], provider: Any) -> Handler:
    return compose(policies, invoking(provider))


def eventually(condition: Callable[[], bool]) -> None:
    """Other threads need a moment; a hang must not."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.001)


async def soon(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "it never came to that"
        await asyncio.sleep(0.001)


class Heard(NamedTuple):
    """What came back: the pieces (one, where it was not streamed) and the flow's value."""

    pieces: list[str]
    response: Response

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Mode:
    """A driver, plain or streaming. ``real``: its waits take real time."""

    def __init__(self, name: str, streaming: bool, clock: Clock | None = None) -> None:
        self.name = name
        self.streaming = streaming
        self.real = name != "virtual"
        self.world = VirtualTime()
        self.clock: Clock = clock or (time.monotonic if self.real else self.world.clock)
        self.host = Host(self.clock)

    def __repr__(self) -> str:
        return self.name + ("-stream" if self.streaming else "")

    def scope(self, deadline_s: float | None = None) -> Scope:
        return Scope(self.clock, None if deadline_s is None else self.clock() + deadline_s)

    def drive(
        self, flow: Flow[Any], deadline_s: float | None = None, scope: Scope | None = None, after: Any = None
    ) -> Heard:
        """Drive ``flow`` to its end; raises what it raises. ``after(chunk)`` is the consumer."""
        scope = scope or self.scope(deadline_s)
        chunks: list[Chunk] = []

        def heard(chunk: Chunk) -> None:
            chunks.append(chunk)
            if after is not None:
                after(chunk)

        result = getattr(self, "_" + self.name)(flow, scope, heard)
        if not self.streaming and isinstance(result, Response):
            return Heard([result.text], result)
        return Heard([c.text for c in chunks if c.text], result)

    def _sync(self, flow: Flow[Any], scope: Scope, heard: Callable[[Chunk], None]) -> Any:
        driven = SyncRun(flow, scope, self.host, self.streaming)
        try:
            while (chunk := driven.advance()) is not None:
                heard(chunk)
            return driven.result
        finally:
            driven.close()

    def _async(self, flow: Flow[Any], scope: Scope, heard: Callable[[Chunk], None]) -> Any:
        async def main() -> Any:
            driven = AsyncRun(flow, scope, self.host, self.streaming)
            try:
                while (chunk := await driven.advance()) is not None:
                    heard(chunk)
                return driven.result
            finally:
                await driven.aclose()
                await asyncio.sleep(0)

        return asyncio.run(main())

    def _virtual(self, flow: Flow[Any], scope: Scope, heard: Callable[[Chunk], None]) -> Any:
        ended: list[Any] = []
        self.world.start(
            flow, self.host, scope=scope, streaming=self.streaming, on_chunk=heard, on_end=ended.append
        )
        self.world.run()
        (run,) = ended
        if run.error is not None:
            raise run.error
        return run.result


class Tagged:
    """A policy that notes how each call through it ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        try:
            response = await call_next(call)
        except BaseException as error:
            self.ends.append(type(error).__name__)
            raise
        self.ends.append("ok")
        return response


__all__ = [
    "Call",
    "Heard",
    "Mode",
    "Provider",
    "Tagged",
    "call",
    "eventually",
    "limits",
    "says",
    "soon",
    "stack",
]

"""What a chunk costs on its way through a stream, over the provider's bare generator.

Run: ``python tests/benchmarks/bench_stream.py``. The best of several rounds is kept, so that the
numbers hold on a noisy machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from tierllm.pipeline.compose import compose, invoking
from tierllm.pipeline.effects import Handler, Race
from tierllm.pipeline.host import Host
from tierllm.pipeline.ready import AsyncResponseStream, ReadyCall, ResponseStream
from tierllm.pipeline.scope import Scope
from tierllm.types import Call, Chunk, Request, Response, Timeouts

CHUNKS, ROUNDS = 20_000, 15
ANSWER = [Chunk("x")] * CHUNKS + [Chunk(finish_reason="stop")]


class Bare:
    name, waits = "bare", False

    def stream(self, call: Any, scope: Any) -> Iterator[Chunk]:
        yield from ANSWER

    async def astream(self, call: Any, scope: Any) -> AsyncIterator[Chunk]:
        for chunk in ANSWER:
            yield chunk


async def passing(call: Call, call_next: Handler) -> Response:
    return await call_next(call)


async def racing(call: Call, call_next: Handler) -> Response:
    return await Race([(0.0, lambda: call_next(call.copy())), (60.0, lambda: call_next(call.copy()))])


PROVIDER: Any = Bare()


def ready(*policies: Any) -> ReadyCall:
    host = Host()
    handler = compose(policies, invoking(PROVIDER))
    call = Call(Request(messages=()), timeouts=Timeouts())
    return ReadyCall(call, handler, Scope(host.clock, host.clock() + 600), host)


def bare() -> None:
    for _ in PROVIDER.stream(None, None):
        pass


async def abare() -> None:
    async for _ in PROVIDER.astream(None, None):
        pass


def streamed(*policies: Any) -> Callable[[], None]:
    def read() -> None:
        with ResponseStream(ready(*policies)) as stream:
            for _ in stream:
                pass

    return read


def astreamed(*policies: Any) -> Callable[[], None]:
    async def read() -> None:
        async with AsyncResponseStream(ready(*policies)) as stream:
            async for _ in stream:
                pass

    return lambda: asyncio.run(read())


def best(read: Callable[[], object]) -> float:
    """Microseconds a chunk."""
    fastest = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        read()
        fastest = min(fastest, time.perf_counter() - began)
    return fastest / CHUNKS * 1e6


def main() -> None:
    for form, base, through, target in (
        ("sync", bare, streamed, 1.0),
        ("async", lambda: asyncio.run(abare()), astreamed, 2.0),
    ):
        floor = best(base)
        print(f"{form}: the bare generator takes {floor:.3f} µs a chunk; on top (target ≤ {target} µs)")
        for name, policies in (
            ("no policy", ()),
            ("3 policies", (passing,) * 3),
            ("the winner of a race", (racing,)),
        ):
            print(f"  {name:<22} {best(through(*policies)) - floor:.3f} µs")


if __name__ == "__main__":
    main()

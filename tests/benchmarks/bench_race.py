"""A race between two streaming providers, shown: the loser gone while the winner speaks, and photo finishes.

Run: ``python tests/benchmarks/bench_race.py [FINISHES]``. It measures what a race costs up to the
first chunk, and fails loudly if a finish is lost or doubled, or a permit or a provider left behind.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

from tierllm.admission.pool import Pool
from tierllm.pipeline.compose import compose, invoking
from tierllm.pipeline.effects import Handler, Race, Wait
from tierllm.pipeline.host import Host
from tierllm.pipeline.ready import AsyncResponseStream, ReadyCall, ResponseStream
from tierllm.pipeline.scope import Scope
from tierllm.testing import FakeProvider, Reply
from tierllm.types import Call, Request, Response

REQUEST = Request(messages=({"role": "user", "content": "hi"},))


def says(name: str, first_token_s: float = 0.0, between_s: float = 0.0) -> FakeProvider:
    reply = Reply(chunks=[f"{name}{n} " for n in range(5)], first_token_s=first_token_s, between_s=between_s)
    return FakeProvider(answer=lambda _: reply, name=name)


class Course:
    def __init__(self, *providers: FakeProvider) -> None:
        self.providers = providers
        self.pool = Pool(len(providers))
        self.host = Host()

    async def seated(self, call: Call, call_next: Handler) -> Response:
        with await Wait(self.pool):
            return await call_next(call)

    async def handler(self, call: Call, /) -> Response:
        legs = [compose([self.seated], invoking(provider)) for provider in self.providers]
        return await Race([(0.0, lambda leg=leg: leg(call.copy())) for leg in legs])

    def ready(self) -> ReadyCall:
        return ReadyCall(Call(REQUEST), self.handler, Scope(time.monotonic), self.host)

    def rest(self) -> None:
        """Wait until everything is back, which must not take long."""
        until = time.monotonic() + 2
        while self.pool.in_use or any(p.in_flight for p in self.providers):
            assert time.monotonic() < until, "a permit or a provider was left behind"
            time.sleep(0.0002)

    async def arest(self) -> None:
        until = time.monotonic() + 2
        while self.pool.in_use or any(p.in_flight for p in self.providers):
            assert time.monotonic() < until, "a permit or a provider was left behind"
            await asyncio.sleep(0)


def read(course: Course, at_first: Callable[[], Any]) -> str:
    text = ""
    with ResponseStream(course.ready()) as stream:
        for chunk in stream:
            if not text:
                at_first()
            text += chunk.text
    course.rest()
    return text


async def aread(course: Course, at_first: Callable[[], Any]) -> str:
    text = ""
    async with AsyncResponseStream(course.ready()) as stream:
        async for chunk in stream:
            if not text:
                at_first()
            text += chunk.text
    await course.arest()
    return text


def show(form: str, drive: Callable[[Course, Callable[[], Any]], str]) -> None:
    course = Course(says("slow", first_token_s=30.0), says("fast", first_token_s=0.02, between_s=0.002))
    seen: list[str] = []

    def at_first() -> None:
        time.sleep(0.005)  # a thread that lost needs a moment to notice
        loser = course.providers[0].journal[0].outcome
        seen.append(f"loser {loser}, {course.pool.in_use} of 2 permits in use")

    text = drive(course, at_first)
    assert text == "fast0 fast1 fast2 fast3 fast4 ", text
    print(f"{form}: at the winner's first chunk: {seen[0]}; at the end {course.pool.in_use} in use")
    assert seen == ["loser cancelled, 1 of 2 permits in use"]


def judged(text: str) -> str:
    winner = text[:1]
    assert text == "".join(f"{winner}{n} " for n in range(5)), f"lost or doubled: {text!r}"
    return winner


def photo(number: int) -> Course:
    tie = 0.0 if number % 2 else 0.001
    return Course(says("a", first_token_s=tie), says("b", first_token_s=tie))


def tally(form: str, winners: list[str], took: float) -> None:
    count = {name: winners.count(name) for name in sorted(set(winners))}
    each = took / len(winners) * 1e6
    print(f"{form}: {len(winners)} photo finishes, none lost or doubled; won by {count}; {each:.0f} µs each")


def main() -> None:
    finishes = int(sys.argv[1]) if len(sys.argv) > 1 else 350
    show("sync ", read)
    show("async", lambda course, at_first: asyncio.run(aread(course, at_first)))

    began = time.perf_counter()
    winners = [judged(read(photo(number), int)) for number in range(finishes)]
    tally("sync ", winners, time.perf_counter() - began)

    async def all_of_them() -> list[str]:
        return [judged(await aread(photo(number), int)) for number in range(finishes)]

    began = time.perf_counter()
    winners = asyncio.run(all_of_them())
    tally("async", winners, time.perf_counter() - began)


if __name__ == "__main__":
    main()

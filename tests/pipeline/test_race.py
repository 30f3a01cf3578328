"""A race between streaming providers: the loser is gone while the winner still speaks."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from pipeline.drivers import Mode, Tagged, call, eventually, says, soon, stack
from tierllm.admission.pool import Pool
from tierllm.pipeline.effects import Handler, Race, Wait
from tierllm.pipeline.host import Host
from tierllm.pipeline.ready import AsyncResponseStream, ReadyCall, ResponseStream
from tierllm.pipeline.scope import Scope
from tierllm.testing import FakeProvider
from tierllm.types import Call, Response

FINISHES = 350


class Course:
    """Two legs, each with its own permit from one pool of two."""

    def __init__(self, slow: FakeProvider, fast: FakeProvider, delay_s: float = 0.0) -> None:
        self.pool = Pool(2)
        self.tagged = Tagged()
        self.providers = slow, fast
        self.delay_s = delay_s
        self.host = Host()

    async def seated(self, call: Call, call_next: Handler) -> Response:
        with await Wait(self.pool):
            return await call_next(call)

    async def handler(self, asked: Call, /) -> Response:
        legs = [stack([self.seated, self.tagged], provider) for provider in self.providers]
        return await Race(
            [(self.delay_s * number, lambda h=h: h(asked.copy())) for number, h in enumerate(legs)]
        )

    def ready(self) -> ReadyCall:
        return ReadyCall(call(), self.handler, Scope(time.monotonic), self.host)

    @property
    def at_rest(self) -> bool:
        return self.pool.in_use == 0 and all(p.in_flight == 0 for p in self.providers)


def test_the_loser_is_gone_while_the_winner_still_streams() -> None:
    course = Course(says("slow", first_token_s=30.0), says("a b c d", first_token_s=0.01, between_s=0.002))
    pieces = []
    with ResponseStream(course.ready()) as stream:
        pieces.append(next(stream).text)
        eventually(lambda: course.pool.in_use == 1)
        assert course.providers[0].journal[0].outcome == "cancelled"
        assert course.providers[1].in_flight == 1
        pieces += [chunk.text for chunk in stream]
    assert "".join(pieces) == "a b c d " == stream.response.text
    assert course.at_rest
    assert sorted(course.tagged.ends) == ["Cancelled", "ok"]


async def test_the_loser_is_gone_before_the_winners_first_chunk_on_an_event_loop() -> None:
    course = Course(says("slow", first_token_s=30.0), says("a b c d", first_token_s=0.01, between_s=0.002))
    pieces = []
    async with AsyncResponseStream(course.ready()) as stream:
        async for chunk in stream:
            pieces.append(chunk.text)
            assert course.pool.in_use == (1 if chunk.finish_reason is None else course.pool.in_use)
            assert course.providers[0].journal[0].outcome == "cancelled"
    assert "".join(pieces) == "a b c d " == stream.response.text
    assert course.at_rest
    assert sorted(course.tagged.ends) == ["CancelledError", "ok"]


def test_the_hedge_is_not_sent_when_the_first_is_quick() -> None:
    course = Course(says("a b"), says("spare"), delay_s=5.0)
    with ResponseStream(course.ready()) as stream:
        assert "".join(c.text for c in stream) == "a b "
    assert course.providers[1].calls == 0


def _photo(number: int) -> Course:
    tie = 0.0 if number % 2 else 0.001
    return Course(says("a a a a", name="a", first_token_s=tie), says("b b b b", name="b", first_token_s=tie))


def _judge(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert text in ("a a a a ", "b b b b "), text


def test_no_photo_finish_is_lost_or_doubled() -> None:
    for number in range(FINISHES):
        course = _photo(number)
        with ResponseStream(course.ready()) as stream:
            _judge([c.text for c in stream])
        eventually(lambda course=course: course.at_rest)  # type: ignore[misc]
        assert course.pool.peak <= 2


async def test_no_photo_finish_is_lost_or_doubled_on_an_event_loop() -> None:
    for number in range(FINISHES):
        course = _photo(number)
        async with AsyncResponseStream(course.ready()) as stream:
            _judge([c.text async for c in stream])
        await soon(lambda course=course: course.at_rest)  # type: ignore[misc]


def test_no_photo_finish_is_lost_or_doubled_in_virtual_time() -> None:
    for number in range(FINISHES):
        course, mode = _photo(number), Mode("virtual", True)
        _judge(mode.drive(course.handler(call())).pieces)
        assert course.at_rest


@pytest.mark.parametrize("leave_after", [0, 1])
def test_leaving_a_photo_finish_early_loses_nothing(leave_after: int) -> None:
    async def main(course: Course) -> None:
        async with AsyncResponseStream(course.ready()) as stream:
            for _ in range(leave_after):
                await anext(stream)
        await soon(lambda: course.at_rest)

    for number in range(40):
        course: Any = _photo(number)
        with ResponseStream(course.ready()) as stream:
            for _ in range(leave_after):
                next(stream)
        eventually(lambda course=course: course.at_rest)  # type: ignore[misc]
        asyncio.run(main(_photo(number)))

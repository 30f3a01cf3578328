"""Replies and failures laid out in time: seconds to wait, and chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING

from ..types import Chunk, ToolCall
from .answers import CHARS_PER_TOKEN, pieces_of
from .latency import Pace
from .replies import Fail, Reply

if TYPE_CHECKING:
    from ..pipeline.provider import Steps

__all__ = ["failed_steps", "streamed_steps", "whole_steps"]

_HANG_S = 4e6  # 46 days: as long as every platform's timers can wait


def whole_steps(reply: Reply, pace: Pace) -> Steps:
    """The answer in one piece, after the time that streaming it would have taken."""
    pace = _pace_of(reply, pace)
    wait = sum(_waits(_chunks(reply), pace)) if pace.between_s or pace.token_s else pace.first_s
    if wait:
        yield wait
    for tool_call in reply.tool_calls:
        yield Chunk(tool_call=tool_call)
    yield Chunk(reply.text, reasoning=reply.reasoning, finish_reason=reply.finish_reason, usage=reply.usage)


def streamed_steps(reply: Reply, pace: Pace) -> Steps:
    """The answer piece by piece, and with the last its finish reason and usage."""
    return _in_time(_chunks(reply), _pace_of(reply, pace))


def failed_steps(fail: Fail, usual: Reply, pace: Pace, streaming: bool) -> Steps:
    """As much of the ``usual`` answer as comes before the failure, and the failure."""
    if fail.latency_s:
        yield float(fail.latency_s)
    if fail.after:
        pieces = _chunks(usual)[:-1] or [Chunk("…")]
        chunks = list(islice(cycle(pieces), fail.after))
        if streaming:
            yield from _in_time(chunks, pace)
        elif wait := sum(_waits(chunks, pace)):
            yield wait
    if fail.hangs:
        yield _HANG_S
        raise AssertionError(f"Fail.{fail.kind}: nothing ended this call; give it a timeout or a deadline")
    if fail.make is not None:
        raise fail.make()


def _in_time(chunks: Sequence[Chunk], pace: Pace) -> Steps:
    for wait, chunk in zip(_waits(chunks, pace), chunks, strict=True):
        if wait:
            yield wait
        yield chunk


def _waits(chunks: Sequence[Chunk], pace: Pace) -> Iterator[float]:
    yield pace.first_s
    for chunk in chunks[1:]:
        end = chunk.finish_reason is not None  # comes with the piece before it
        yield 0.0 if end else pace.between_s + pace.token_s * _tokens(chunk)


def _tokens(chunk: Chunk) -> float:
    arguments = "" if chunk.tool_call is None else chunk.tool_call.arguments
    return (len(chunk.text) + len(chunk.reasoning) + len(arguments)) / CHARS_PER_TOKEN


def _chunks(reply: Reply) -> list[Chunk]:
    texts = pieces_of(reply.text) if reply.chunks is None else reply.chunks
    return [
        *(Chunk(reasoning=piece) for piece in pieces_of(reply.reasoning)),
        *(Chunk(piece) for piece in texts),
        *(Chunk(tool_call=piece) for piece in chain.from_iterable(map(_parts, reply.tool_calls))),
        Chunk(finish_reason=reply.finish_reason, usage=reply.usage),
    ]


def _parts(whole: ToolCall) -> Iterator[ToolCall]:
    """A tool call as vendors stream it: first its name, then its arguments in fragments."""
    yield ToolCall(whole.index, whole.id, whole.name)
    middle = len(whole.arguments) // 2
    for fragment in (whole.arguments[:middle], whole.arguments[middle:]):
        if fragment:
            yield ToolCall(whole.index, arguments=fragment)


def _pace_of(reply: Reply, usual: Pace) -> Pace:
    whole_s, first_s, between_s = reply.latency_s, reply.first_token_s, reply.between_s
    if whole_s is None and first_s is None and between_s is None:
        return usual
    if first_s is None:
        first_s = usual.first_s if whole_s is None else whole_s
    if between_s is None:
        gaps = len(_chunks(reply)) - 2
        if whole_s is None:
            return Pace(float(first_s), usual.between_s, usual.token_s)
        between_s = max(0.0, whole_s - first_s) / gaps if gaps > 0 else 0.0
    return Pace(float(first_s), float(between_s))

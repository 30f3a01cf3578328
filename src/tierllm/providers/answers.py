"""What a function may answer with, read as a response or as chunks."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import MalformedResponseError
from ..types import Chunk, Response

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation

__all__ = ["Answer", "achunks_of", "awhole", "chunks_of", "is_pending", "whole"]

Answer = str | Response | Iterable[str | Chunk]
"""Text, a whole response, or pieces as they come."""


class _Reader:
    """Turns pieces into chunks, and ends them with a reason where they gave none."""

    def __init__(self) -> None:
        self._finished = False
        self._reason = "stop"

    def read(self, piece: object) -> Chunk:
        chunk = Chunk(piece) if isinstance(piece, str) else piece
        if not isinstance(chunk, Chunk):
            raise _malformed(f"yielded {type(piece).__name__}")
        if chunk.tool_call is not None:
            self._reason = "tool_calls"
        self._finished = self._finished or chunk.finish_reason is not None
        return chunk

    def last(self) -> Iterator[Chunk]:
        if not self._finished:
            yield Chunk(finish_reason=self._reason)


def _malformed(what: str) -> MalformedResponseError:
    wanted = "text, a Response, or an iterable of text and Chunks"
    return MalformedResponseError(f"a function {what}: it has to answer with {wanted}", retryable=False)


def is_pending(answer: object) -> bool:
    return isinstance(answer, Awaitable | AsyncIterable)


def whole(answer: object, scope: Invocation) -> Response:
    """Raises what a late or cancelled call ends with, as ``chunks_of`` does: late is late in every form."""
    scope.check()
    if isinstance(answer, str):
        return Response(answer, finish_reason="stop", model=scope.call.model)
    if isinstance(answer, Response):
        reason = answer.finish_reason or ("tool_calls" if answer.tool_calls else "stop")
        return replace(answer, finish_reason=reason, model=answer.model or scope.call.model)
    for chunk in chunks_of(answer, scope):
        scope.feed(chunk)
    return scope.finished()


def chunks_of(answer: object, scope: Invocation) -> Generator[Chunk, None, None]:
    if isinstance(answer, str | Response):
        yield from whole(answer, scope).chunks()
        return
    if not isinstance(answer, Iterable) or isinstance(answer, bytes | Mapping):
        raise _malformed(f"returned {type(answer).__name__}")
    reader, pieces = _Reader(), iter(answer)
    try:
        for piece in pieces:
            chunk = reader.read(piece)
            scope.check()
            yield chunk
        scope.check()
        yield from reader.last()
    finally:
        if isinstance(pieces, Generator):
            pieces.close()


async def awhole(answer: object, scope: Invocation) -> Response:
    if isinstance(answer, Awaitable):
        answer = await answer
    if not isinstance(answer, AsyncIterable):
        return whole(answer, scope)
    async for chunk in achunks_of(answer, scope):
        scope.feed(chunk)
    return scope.finished()


async def achunks_of(answer: object, scope: Invocation) -> AsyncGenerator[Chunk, None]:
    if isinstance(answer, Awaitable):
        answer = await answer
    if not isinstance(answer, AsyncIterable):
        for chunk in chunks_of(answer, scope):
            yield chunk
        return
    reader, pieces = _Reader(), aiter(answer)
    try:
        async for piece in pieces:
            yield reader.read(piece)
        for chunk in reader.last():
            yield chunk
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()

"""A call that is ready to go, in whichever kind of time."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import CallCancelledError, ClientClosedError, UsageError
from .scope import Cancelled
from .sync import SyncRun, run

if TYPE_CHECKING:
    from ..types import Call, Chunk, Response
    from .aio import AsyncRun
    from .effects import Flow, Handler
    from .host import Host
    from .scope import Scope

__all__ = ["AsyncResponseStream", "ReadyCall", "ResponseStream", "begins_now"]


def begins_now(call: Call, scope: Scope) -> None:
    """Its times and its deadline count from here."""
    waited = scope.clock() - call.begun_at
    call.begun_at += waited
    if scope.deadline_at is not None:
        scope.deadline_at += waited


class ReadyCall:
    """One call, its scope and the handler that will serve it; driven once, by one of its methods."""

    __slots__ = ("call", "handler", "host", "scope")

    def __init__(self, call: Call, handler: Handler, scope: Scope, host: Host) -> None:
        self.call = call
        self.handler = handler
        self.scope = scope
        self.host = host

    def flow(self) -> Flow[Response]:
        return self.handler(self.call)

    def begin_now(self) -> None:
        """The call begins now, though it may have been ready for a while; its deadline counts from here."""
        begins_now(self.call, self.scope)
        self.host.begin(self.scope)

    def run(self) -> Response:
        """Wait for the whole answer in this thread."""
        self.call.driven = "sync"
        try:
            self.host.begin(self.scope)
            return run(self.flow(), self.scope, self.host)
        except Cancelled:
            raise self.closed() from None
        finally:
            self.host.end(self.scope)

    async def arun(self) -> Response:
        """Wait for the whole answer in this task."""
        from .aio import arun

        self.call.driven = "async"
        try:
            self.host.begin(self.scope)
            return await arun(self.flow(), self.scope, self.host)
        except Cancelled:
            raise self.closed() from None
        finally:
            self.host.end(self.scope)

    def closed(self) -> CallCancelledError | ClientClosedError:
        error: CallCancelledError | ClientClosedError
        if self.call.turn.cancelled:
            error = CallCancelledError("the call was cancelled by its handle")
        else:
            error = ClientClosedError("the client, or this stream, was closed while the call was under way")
        error.trace = self.call.trace
        return error


class ResponseStream:
    """An answer as it arrives: a context manager to iterate over.

    The call is ended, and everything it holds given back, by leaving it. It begins as its first chunk is
    asked for: nobody waits for it before. ``response`` is the folded answer once the last chunk has come.
    """

    __slots__ = ("_chunks", "_closer", "_ready", "_run")

    def __init__(self, ready: ReadyCall) -> None:
        self._ready = ready
        self._run: SyncRun | None = None
        self._chunks: Iterator[Chunk] | None = None
        self._closer = 0

    def __enter__(self) -> ResponseStream:
        ready = self._ready
        if self._run is not None:
            raise UsageError("this stream has been used: ask for a new one")
        ready.call.driven = "stream"
        ready.begin_now()
        self._run = SyncRun(ready.flow(), ready.scope, ready.host, streaming=True)
        self._chunks = self._deliver(self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the call where it stands. Safe to call twice."""
        if self._run is not None:
            driven = self._run
            self._closer = self._closer or threading.get_ident()
            try:
                driven.close()
            finally:
                if driven.closed:
                    self._chunks = iter(())  # what it was refers to this stream
                    self._ready.host.end(self._ready.scope)

    def __iter__(self) -> Iterator[Chunk]:
        if self._chunks is None:
            raise UsageError("use the stream in a with block: with client.stream(...) as s: ...")
        return self._chunks

    def __next__(self) -> Chunk:
        return next(iter(self))

    def _deliver(self, driven: SyncRun) -> Iterator[Chunk]:
        advance = driven.advance
        try:
            while (chunk := advance()) is not None:
                if chunk.finish_reason is not None:
                    self._ready.call.driven = "read"
                yield chunk
        except Cancelled:
            self._ready.host.end(self._ready.scope)
            raise self._ready.closed() from None
        if driven.closed:
            if driven.result is None and self._closer != threading.get_ident():
                raise self._ready.closed()  # not by this reader, who has only read a part
        elif not driven.delivered:  # answered without a stream: from a cache, say
            yield from driven.result.chunks()

    @property
    def response(self) -> Response:
        """The folded answer. Raises ``UsageError`` before the stream has been read to its end."""
        return _result(self._run)


class AsyncResponseStream:
    """``ResponseStream`` on an event loop: ``async with``, ``async for``."""

    __slots__ = ("_closer", "_ready", "_replay", "_run")

    def __init__(self, ready: ReadyCall) -> None:
        self._ready = ready
        self._run: AsyncRun | None = None
        self._replay: Iterator[Chunk] | None = None
        self._closer = 0

    async def __aenter__(self) -> AsyncResponseStream:
        from .aio import AsyncRun

        ready = self._ready
        if self._run is not None:
            raise UsageError("this stream has been used: ask for a new one")
        ready.call.driven = "stream"
        ready.begin_now()
        self._run = AsyncRun(ready.flow(), ready.scope, ready.host, streaming=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the call where it stands. Safe to call twice."""
        if self._run is not None:
            self._closer = self._closer or _this_task()
            try:
                await self._run.aclose()
            finally:
                self._ready.host.end(self._ready.scope)

    def __aiter__(self) -> AsyncIterator[Chunk]:
        if self._run is None:
            raise UsageError("use the stream in a with block: async with client.astream(...) as s: ...")
        return self

    async def __anext__(self) -> Chunk:
        driven = self._run
        if driven is None:
            raise UsageError("use the stream in an async with block")
        if self._replay is None:
            try:
                chunk = await driven.advance()
            except BaseException as error:
                self._replay = iter(())
                if isinstance(error, Cancelled):
                    raise self._ready.closed() from None
                raise
            if chunk is not None:
                if chunk.finish_reason is not None:
                    self._ready.call.driven = "read"
                return chunk
            if driven.closed and driven.result is None and self._closer != _this_task():
                raise self._ready.closed()  # not by this reader, who has only read a part
            # answered without a provider's stream (from a cache, say): told as one
            replayed = not (driven.delivered or driven.closed)
            self._replay = driven.result.chunks() if replayed else iter(())
        for chunk in self._replay:
            return chunk
        raise StopAsyncIteration

    @property
    def response(self) -> Response:
        """The folded answer. Raises ``UsageError`` before the stream has been read to its end."""
        return _result(self._run)


def _this_task() -> int:
    from asyncio import current_task

    return id(current_task())  # the task itself would be kept alive


def _result(driven: SyncRun | AsyncRun | None) -> Response:
    if driven is None or driven.result is None:
        raise UsageError("the stream has not ended: read it to its end before asking for the response")
    response: Response = driven.result
    return response

"""Where an async flow's chunks come from while it waits, and the watchdog over its provider."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

from .scope import Cancelled, Invocation
from .tape import TapeHead

if TYPE_CHECKING:
    from ..types import Chunk, Response
    from .aio import AsyncRun
    from .provider import Provider

__all__ = ["AsyncSource", "ProviderStream", "TapeReader", "Watchdog"]


class AsyncSource(Protocol):
    """Where chunks come from while a flow waits: a provider, a race's winner, a tape."""

    @property
    def result(self) -> Any: ...

    async def advance(self) -> Chunk | None: ...

    async def aclose(self) -> None: ...


BITE_AGAIN_S = 1.0
"""A provider that swallows a cancellation is cancelled again after so long."""


class Watchdog:
    """One timer for one invocation; it looks at a timestamp instead of being set at each chunk.

    It bites by cancelling the task that waits for the provider, if one does.
    """

    __slots__ = ("_bites", "_invocation", "_run", "_timer")

    def __init__(self, run: AsyncRun, invocation: Invocation) -> None:
        self._run = run
        self._invocation = invocation
        self._timer: asyncio.TimerHandle | None = None
        self._bites = 0

    def watch(self) -> None:
        """A wait begins: be there when it is due, which may be sooner than the present timer."""
        left = self._invocation.remaining_s()
        if left is None:
            return
        loop = self._run.loop
        at = loop.time() + left
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._look)

    @property
    def bitten(self) -> bool:
        return self._bites > 0

    @property
    def asleep(self) -> bool:
        return self._timer is None

    def _look(self) -> None:
        self._timer = None
        task, left = self._run.task, self._invocation.remaining_s()
        if task is None or left is None:
            return  # a consumer has the time; the next wait sets the timer again
        if left > 0:
            self._timer = self._run.loop.call_later(left, self._look)
            return
        self._bites += 1
        task.cancel()
        self._timer = self._run.loop.call_later(BITE_AGAIN_S, self._look)

    def judge(self, error: BaseException) -> BaseException:
        """A cancellation by this watchdog is a timeout; anything else stays what it is."""
        if self._bites:
            ours = self._let_go() <= self._run.before
            if ours and isinstance(error, asyncio.CancelledError):
                return self._invocation.timed_out()
        return error

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._let_go()  # where the provider swallowed it and answered

    def _let_go(self) -> int:
        """Take the bites back. Gives how many other cancellations the task is left with."""
        task, bites, self._bites = self._run.task, self._bites, 0
        if task is None:
            return 0
        for _ in range(bites):
            task.uncancel()
        return task.cancelling()


class ProviderStream:
    """An invocation that streams."""

    __slots__ = ("_chunks", "_invocation", "_watchdog", "result")

    def __init__(self, provider: Provider, invocation: Invocation, watchdog: Watchdog) -> None:
        self._invocation = invocation
        self._watchdog = watchdog
        self._chunks: AsyncIterator[Chunk] = provider.astream(invocation.call, invocation)
        self.result: Response | None = None

    async def advance(self) -> Chunk | None:
        invocation, watchdog = self._invocation, self._watchdog
        first = invocation.first_at is None
        invocation.back()
        try:
            if invocation.scope.cancelled:
                raise Cancelled
            if watchdog.asleep:
                watchdog.watch()
            try:
                chunk = await anext(self._chunks)
            except StopAsyncIteration:
                self.result = invocation.finished()
                watchdog.stop()
                return None
            invocation.feed(chunk)
            if watchdog.bitten:
                watchdog.stop()  # the provider swallowed it and went on: the next wait is bounded anew
            elif first:
                watchdog.watch()  # the bound between tokens may come sooner than the first token's
            return chunk
        except BaseException as error:
            failure = invocation.failed(watchdog.judge(error))
            try:
                await self.aclose()
            except Exception:  # the failure matters more than what its cleaning up met
                pass
            try:
                raise failure
            finally:
                del failure  # its traceback holds this frame

    async def aclose(self) -> None:
        self._watchdog.stop()
        self._invocation.end()
        aclose = getattr(self._chunks, "aclose", None)
        if aclose is not None:
            await aclose()


class TapeReader(TapeHead):
    """A reader of a tape, as a source of chunks."""

    __slots__ = ()

    async def advance(self) -> Chunk | None:
        self.back()
        while (chunk := self.next()) is None and not self.ended():
            await self._wait_for_more()
        return chunk

    async def _wait_for_more(self) -> None:
        loop, here = asyncio.get_running_loop(), threading.get_ident()
        woken: asyncio.Future[None] = loop.create_future()

        def rouse() -> None:
            if not woken.done():
                woken.set_result(None)

        def wake() -> None:
            if threading.get_ident() == here:
                rouse()
            else:
                loop.call_soon_threadsafe(rouse)

        if self.tape.wake_later(self.seen, wake):
            return
        timer = None
        try:
            left = self.scope.remaining_s()
            if left is not None:
                if left <= 0:
                    raise self.late()
                timer = loop.call_later(left, rouse)
            await woken
        finally:
            self.tape.forget(wake)
            if timer is not None:
                timer.cancel()

    async def aclose(self) -> None:
        """The tape belongs to others."""

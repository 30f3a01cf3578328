"""Crossing between threads and event loops, for what was written for the other kind."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation

__all__ = ["OwnLoop", "OwnThread", "within"]

T = TypeVar("T")


async def within(scope: Invocation, step: Awaitable[T]) -> T:
    """Await one step of an async function for as long as the scope allows."""
    left = scope.remaining_s()
    if left is None:
        return await step
    bound = asyncio.timeout(left)
    try:
        async with bound:
            return await step
    except TimeoutError:
        if bound.expired():
            raise scope.timed_out() from None
        raise


class OwnLoop:
    """An event loop of its own for an async function in a sync call."""

    def __init__(self, scope: Invocation) -> None:
        self._scope = scope
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)

    def __enter__(self) -> OwnLoop:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._runner.close()

    def run(self, step: Awaitable[T]) -> T:
        """One step, cut short by timeout, deadline or cancellation."""
        return self._runner.run(self._bounded(step))

    def finish(self, step: Awaitable[T]) -> T:
        """A last step, which clears up and so runs to its end."""

        async def unbounded() -> T:
            return await step

        return self._runner.run(unbounded())

    async def _bounded(self, step: Awaitable[T]) -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def leave() -> None:
            with suppress(RuntimeError):  # the loop has closed in the same moment
                loop.call_soon_threadsafe(task.cancel)

        self._scope.on_cancel(leave)
        try:
            return await within(self._scope, step)
        except asyncio.CancelledError:
            self._scope.scope.check()
            raise
        finally:
            self._scope.off_cancel(leave)


class OwnThread:
    """A thread of its own in which an async call has a sync function work, one step at a time.

    It is a daemon: a function that never returns must not keep the process from ending.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        context = contextvars.copy_context()
        worker = threading.Thread(
            target=context.run, args=(self._work,), name="tierllm-function", daemon=True
        )
        worker.start()

    def __enter__(self) -> OwnThread:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._jobs.put(None)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()
            del job  # it must not outlive its call

    async def do(self, step: Callable[[], T]) -> T:
        """Run ``step`` to its end, even when cancelled meanwhile; the cancellation follows."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()

        def job() -> None:
            value, error = None, None
            try:
                value = step()
            except BaseException as exc:  # the caller's, who waits elsewhere
                error = exc
            with suppress(RuntimeError):  # the loop was closed under the call
                loop.call_soon_threadsafe(done.set_result, (value, error))

        self._jobs.put(job)
        cancelled = False
        while not done.done():
            try:
                await asyncio.wait((done,))
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError
        value, error = done.result()
        try:
            if error is not None:
                raise error
            return cast("T", value)
        finally:
            del error

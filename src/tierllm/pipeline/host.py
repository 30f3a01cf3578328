"""Who owns the flows: runs under way, spawned flows, and threads for short blocking I/O."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ClientClosedError
from ..events import log_failure

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future, ThreadPoolExecutor

    from .clock import Clock
    from .scope import Scope

__all__ = ["Host"]

T = TypeVar("T")


class Host:
    """Keeps every flow of one client findable, so that closing the client ends them all.

    ``begin`` and ``end`` frame each flow; ``close`` refuses new ones and cancels the rest.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.closed = False
        self.live: set[Scope] = set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def begin(self, scope: Scope) -> None:
        self.live.add(scope)  # first: ``close`` sets the flag, then cancels those it finds here
        if self.closed:
            self.live.discard(scope)
            raise ClientClosedError("this client is closed: build a new one")

    def end(self, scope: Scope) -> None:
        self.live.discard(scope)

    def thread(self, work: Callable[[], object], name: str) -> None:
        """Run ``work`` in a thread of its own, in a copy of this context.

        One thread a flow and no pool: flows wait for each other, and a bounded pool would deadlock.
        """
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(work,), name=f"tierllm-{name}", daemon=True).start()

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Hold a reference: the event loop alone keeps only a weak one."""
        self.tasks.add(task)
        task.add_done_callback(self._dropped)

    def _dropped(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever cared has it from the flow itself

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do short blocking I/O, which waits for no other flow, in one of a few threads."""
        from concurrent.futures import ThreadPoolExecutor

        with self._lock:
            executor = self._executor or ThreadPoolExecutor(8, thread_name_prefix="tierllm-io")
            self._executor = None if self.closed else executor
            try:
                return executor.submit(contextvars.copy_context().run, work)
            finally:
                if self.closed:  # something is still being undone
                    executor.shutdown(wait=False)

    def soon(self, work: Callable[[], object]) -> None:
        """Do short I/O that nobody waits for, off this thread. What it raises is logged."""

        def done() -> None:
            try:
                work()
            except Exception:
                log_failure("work in the background failed")

        self.submit(done)

    def close(self) -> None:
        """Cancel every flow under way and refuse new ones. Safe to call twice and from any thread."""
        self.closed = True
        for scope in tuple(self.live):
            scope.cancel()
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)

    async def drained(self) -> None:
        """Until the tasks of this event loop have ended; they have been cancelled."""
        import asyncio

        loop = asyncio.get_running_loop()
        mine = [task for task in self.tasks if task.get_loop() is loop]
        if mine:
            await asyncio.wait(mine)

    def renew(self) -> None:
        """After a fork: no flow and no thread of the parent lives here."""
        self._lock = threading.Lock()
        self.live = set()
        self.tasks = set()
        self._executor = None

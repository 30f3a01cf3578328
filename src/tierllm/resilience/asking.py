"""Asking a judge: a quick one at once, one that waits in a thread of its own, an async one on the loop."""

from __future__ import annotations

import contextvars
import inspect
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..pipeline.clock import SteppedClock
from ..pipeline.effects import Blocking, Wait
from ..pipeline.fork import renew_after_fork
from ..routing.judges import as_score

if TYPE_CHECKING:
    from ..pipeline.effects import Grant, Ticket
    from ..types import Call, Request, Response

__all__ = ["MOST_THREADS", "Asking", "AsyncJudge", "Word", "failed", "judging_now"]

log = logging.getLogger("tierllm")

MOST_THREADS = 32
"""So many threads of one judge work at once, those that nobody waits for any more among them."""

_judging: ContextVar[bool] = ContextVar("tierllm_judging", default=False)
"""Whether the code is within a judge: what that asks models itself is not judged again."""


class AsyncJudge(UsageError):
    """The judge is a coroutine function, and the call is not async."""


class _Gone(Exception):
    """An async judge was cancelled, though nobody has cancelled its call."""


class Word:
    """What somebody in another flow or thread will say, once: something to wait for."""

    __slots__ = ("_lock", "_ticket", "error", "said", "value")

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.said = False
        self._ticket: Ticket | None = None
        self._lock = threading.Lock()

    def say(self, value: object = None, error: BaseException | None = None) -> None:
        with self._lock:
            self.value, self.error, self.said = value, error, True
            ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.give(self)

    def take(self, owner: list[Grant]) -> Word | None:
        return self if self.said else None

    def enter(self, ticket: Ticket, call: Call | None = None) -> bool:
        with self._lock:
            if not self.said:
                self._ticket = ticket
                return False
        ticket.give(self)
        return True

    def leave(self, ticket: Ticket) -> None:
        with self._lock:
            if self._ticket is ticket:
                self._ticket = None

    def release(self) -> None:
        """Having heard it takes nothing from anyone."""


class Asking:
    """A judge at work in one client. Thread-safe.

    One that waits for something (``judge.blocking``) has threads of its own, ``most`` at once: neither the
    event loop nor the client's threads for stores wait for it. One that takes longer than it may is left to
    itself; that does not keep the process alive.
    """

    def __init__(self, judge: Callable[..., object], *, most: int = MOST_THREADS) -> None:
        self.judge = judge
        self.is_async = inspect.iscoroutinefunction(judge) or inspect.iscoroutinefunction(
            getattr(type(judge), "__call__", None)  # noqa: B004 - its own, not whether it has one
        )
        self.waits = self.is_async or bool(getattr(judge, "blocking", False))
        self._most = most
        self._free = threading.BoundedSemaphore(most)
        renew_after_fork(self)

    def renew(self) -> None:
        """After a fork: the parent's threads do not run here."""
        self._free = threading.BoundedSemaphore(self._most)

    async def __call__(
        self, call: Call, response: Response, *, most_s: float | None = None, apart: bool = False
    ) -> float | None:
        """Its score; ``None`` where it raised, took more than ``most_s``, gave no number from 0 to 1, or has
        no thread left.

        ``apart``: whatever kind of judge it is, it may take its time. Raises ``AsyncJudge`` where an async
        one meets a call that is not.
        """
        try:
            if self.is_async or not (apart or self.waits):
                value = self._said(call.request, response)
            else:
                value = await self._elsewhere(call, response, most_s)
            if inspect.isawaitable(value):
                value = await _waited(value, most_s)
        except AsyncJudge:
            raise
        except Exception as error:
            failed("a judge", error)
            return None
        score = as_score(value)
        if score is None and value == value:  # a NaN says that it does not know
            log.error("a judge gave %s, not a number from 0 to 1", type(value).__name__)
        return score

    def _said(self, request: Request, response: Response) -> object:
        token = _judging.set(True)
        try:
            return self.judge(request, response)
        finally:
            _judging.reset(token)

    async def _elsewhere(self, call: Call, response: Response, most_s: float | None) -> object:
        """What it says where it may wait; in a sync call without any bound that is the call's own thread."""
        request = call.request
        told = not call.driven or call.scope is None or isinstance(call.scope.clock, SteppedClock)
        if told or (most_s is None and not _in_event_loop()):
            return await Blocking(lambda: self._said(request, response))
        free, word = self._free, Word()
        if not free.acquire(blocking=False):
            log.warning("a judge has %d answers before it: another one is not judged", self._most)
            return float("nan")

        def work() -> None:
            try:
                word.say(self._said(request, response))
            except BaseException as error:
                word.say(error=error)
            finally:
                free.release()

        context = contextvars.copy_context()
        try:
            threading.Thread(target=context.run, args=(work,), name="tierllm-judge", daemon=True).start()
        except BaseException:  # no thread is to be had
            free.release()
            raise
        await Wait(word, most_s)
        if word.error is not None:
            raise word.error if isinstance(word.error, Exception) else _Gone
        return word.value


def judging_now() -> bool:
    """Whether a judge is at work around this code."""
    return _judging.get()


def failed(what: str, error: Exception) -> None:
    """The application's own code failed, and its message may quote the prompt: log the kind only."""
    kind = "asyncio.CancelledError" if isinstance(error, _Gone) else type(error).__name__
    log.error("%s raised %s", what, kind)


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


async def _waited(value: Awaitable[object], most_s: float | None) -> object:
    """What an async judge says, in a task of its own, so that its calls know that they are a judge's."""
    import asyncio

    if not _in_event_loop():
        close = getattr(value, "close", None)
        if close is not None:
            close()
        raise AsyncJudge(
            "the judge is a coroutine function, and this call is not async: call acomplete() or astream(), "
            "or give a plain function"
        )
    here = asyncio.current_task()
    before = 0 if here is None else here.cancelling()
    token = _judging.set(True)
    try:
        task = asyncio.ensure_future(value)
    finally:
        _judging.reset(token)
    try:
        return await (task if most_s is None else asyncio.wait_for(task, most_s))
    except asyncio.CancelledError:
        if here is not None and here.cancelling() > before:
            raise
        raise _Gone from None  # its own affair
    finally:
        task.cancel()  # no more than a word where it is done

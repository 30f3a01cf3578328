"""Pauses: the one place where tierllm's sync code waits, and where it refuses to block an event loop."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from ..errors import UsageError
from .clock import SteppedClock
from .scope import Cancelled

if TYPE_CHECKING:
    from .clock import Clock
    from .scope import Invocation, Scope

__all__ = ["anap", "apause", "forbid_in_event_loop", "nap", "pause"]


def forbid_in_event_loop(doing: str) -> None:
    """Raise ``UsageError`` where this thread is running an event loop, which waiting would stall."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        raise UsageError(
            f"{doing} would block the event loop running in this thread: "
            "use `await client.acomplete(...)` or `async with client.astream(...)`, an `async def` function "
            "under @tiered.call, or asyncio.to_thread()"
        )


def nap(scope: Scope, seconds: float) -> None:
    """Wait ``seconds`` in this thread, or until the scope is cancelled (then ``Cancelled``)."""
    scope.check()
    if seconds <= 0:
        return
    clock: Clock = scope.clock
    if isinstance(clock, SteppedClock):
        clock.advance(seconds)
        return
    forbid_in_event_loop("waiting here")
    woken = threading.Event()
    scope.on_cancel(woken.set)
    try:
        if woken.wait(min(seconds, threading.TIMEOUT_MAX)):
            raise Cancelled
    finally:
        scope.off_cancel(woken.set)


def pause(invocation: Invocation, seconds: float) -> None:
    """A provider's own wait, cut short by timeout, deadline or cancellation (each raises its error)."""
    until = invocation.clock() + seconds
    while (left := invocation.remaining_s()) is not None and left < seconds:
        nap(invocation.scope, left)
        if invocation.remaining_s() == 0:
            raise invocation.timed_out()
        seconds = max(0.0, until - invocation.clock())  # the deadline was moved meanwhile
    nap(invocation.scope, seconds)


async def apause(invocation: Invocation, seconds: float) -> None:
    """The same on an event loop."""
    until = invocation.clock() + seconds
    while (left := invocation.remaining_s()) is not None and left < seconds:
        await anap(invocation.clock, left)
        if invocation.remaining_s() == 0:
            raise invocation.timed_out()
        seconds = max(0.0, until - invocation.clock())
    await anap(invocation.clock, seconds)


async def anap(clock: Clock, seconds: float) -> None:
    """Wait ``seconds`` in this task, however short."""
    import asyncio

    if isinstance(clock, SteppedClock):
        clock.advance(seconds)
        seconds = 0
    await asyncio.sleep(seconds)

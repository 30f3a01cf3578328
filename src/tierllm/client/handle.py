"""A call that was handed over: looked at, hurried along, cancelled, waited for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ..admission.place import Place
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..pipeline.ready import ReadyCall
    from ..types import Call, Response

__all__ = ["CallHandle", "QueuedCall"]


class QueuedCall:
    """A call of this client that may still be waiting: ``client.queued()`` lists those that are.

    Safe from any thread.
    """

    def __init__(self, call: Call) -> None:
        self._call = call

    @property
    def trace_id(self) -> str:
        trace = self._call.trace
        return "" if trace is None else trace.id

    @property
    def priority(self) -> int:
        """How urgent it is now; higher is more urgent."""
        return self._call.priority

    @property
    def user(self) -> str | None:
        return self._call.request.user

    @property
    def tenant(self) -> str | None:
        return self._call.request.tenant

    @property
    def tier(self) -> str | None:
        """The tier in whose queue it waits; ``None`` where it waits in none."""
        place = self._place
        return None if place is None else place.pool.name

    @property
    def waiting(self) -> bool:
        return self._place is not None

    @property
    def deferred(self) -> bool:
        """Whether it waits for a calmer time."""
        place = self._place
        return place is not None and place.due_at is not None

    @property
    def waited_s(self) -> float:
        """Seconds spent in the present queue so far."""
        place = self._place
        return 0.0 if place is None else place.pool.clock() - place.arrived_at

    @property
    def eta_s(self) -> float | None:
        """In how many seconds it will probably begin; 0 where it does not wait, ``None``: nobody knows."""
        place = self._place
        return 0.0 if place is None else place.pool.eta_s(place)

    def reprioritise(self, priority: int) -> None:
        """Let it be this urgent from now on, in whichever queue it waits or will wait.

        It is whoever runs the application that says so: a plan's ``max_priority`` does not bound it.
        Raises ``ConfigError`` for anything but a whole number.
        """
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise ConfigError(f"reprioritise({priority!r}): give a whole number; higher is more urgent")
        self._call.turn.set_priority(priority)

    def cancel(self) -> None:
        """End it, whether it waits or is under way: its caller gets ``CallCancelledError``."""
        scope = self._call.scope
        self._call.turn.cancelled = True
        if scope is not None:
            scope.cancel()

    @property
    def _place(self) -> Place | None:
        turn = self._call.turn
        ahead = turn.ahead
        place = turn.place if ahead is None else ahead.place
        return place if isinstance(place, Place) else None

    def __repr__(self) -> str:
        where = f"waiting in {self.tier}" if self.waiting else "not waiting"
        return f"<{type(self).__name__} {self.trace_id} priority={self.priority} {where}>"


class CallHandle(QueuedCall):
    """A call that runs in a thread of the client's: what ``client.submit`` gives."""

    def __init__(self, ready: ReadyCall) -> None:
        super().__init__(ready.call)
        self._ready = ready
        self._ended = threading.Event()
        self._response: Response | None = None
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self._ended.is_set()

    def result(self, timeout_s: float | None = None) -> Response:
        """Wait for the answer. Raises the call's error, or ``TimeoutError`` if it is not there in time."""
        if not self._ended.wait(timeout_s):
            raise TimeoutError(f"no answer within {timeout_s:g} s; the call goes on")
        if self._error is not None:
            raise self._error
        assert self._response is not None
        return self._response

    def run(self) -> None:
        """Make the call, in this thread."""
        try:
            self._response = self._ready.run()
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()

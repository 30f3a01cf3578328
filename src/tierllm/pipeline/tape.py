"""A tape: what one flow has said so far, for any number of readers in threads and tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import copied

if TYPE_CHECKING:
    from ..types import Chunk, Response

__all__ = ["FlightLost", "Tape"]


class FlightLost(Exception):
    """The flow behind a tape was cancelled or its event loop died; nothing is known of its outcome.

    A policy that follows tapes catches this and starts over.
    """


class Tape:
    """Written by one flow, read by many. Chunks are kept until the tape is dropped.

    ``wake_later`` registers a callback that is called once, at the next chunk or the end; a
    callback whose event loop is closed may raise ``RuntimeError``, which is ignored.
    """

    __slots__ = ("_lock", "_wakes", "chunks", "done", "error", "response")

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.done = False
        self.response: Response | None = None
        self.error: BaseException | None = None
        self._wakes: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def push(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        if self._wakes:
            self._wake()

    def end(self, response: Response | None = None, error: BaseException | None = None) -> None:
        """The last word. Called once; later calls are ignored."""
        with self._lock:
            if self.done:
                return
            self.response = response
            self.error = error
            self.done = True
        self._wake()

    def told(self) -> Response | None:
        """The response; or the error, as each reader's own copy."""
        if self.error is not None:
            raise copied(self.error)
        return self.response

    def wake_later(self, seen: int, wake: Callable[[], object]) -> bool:
        """True when there is something past ``seen`` chunks already; else ``wake`` is called then."""
        with self._lock:
            self._wakes.append(wake)  # first: ``push`` appends, then looks here, without the lock
            if self.done or len(self.chunks) > seen:
                self._wakes.remove(wake)
                return True
            return False

    def forget(self, wake: Callable[[], object]) -> None:
        """A reader leaves."""
        with self._lock:
            if wake in self._wakes:
                self._wakes.remove(wake)

    def _wake(self) -> None:
        with self._lock:
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            try:
                wake()
            except RuntimeError:  # that reader's event loop is closed
                continue

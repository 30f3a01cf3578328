"""A tape: what one flow has said so far, for any number of readers in threads and tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import DeadlineExceededError, ProviderError, StreamInterruptedError, copied
from ..types import Response
from .run import past_deadline

if TYPE_CHECKING:
    from ..types import Chunk
    from .scope import Scope

__all__ = ["FlightLost", "Tape", "TapeHead"]


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
        self._lock = threading.RLock()  # reentrant: garbage collection may end a reader right here

    def push(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        if self._wakes:
            self._wake()

    def end(self, response: Response | None = None, error: BaseException | None = None) -> None:
        """The last word. Called once; later calls are ignored.

        Readers are told of errors only: what ends a thread or a task (a cancellation, an interrupt)
        ends that one alone, and is ``FlightLost`` to them.
        """
        with self._lock:
            if self.done:
                return
            self.response = response
            self.error = error if error is None or isinstance(error, Exception) else FlightLost()
            if error is not None and error.__traceback__ is not None:
                error.__traceback__ = error.__traceback__.tb_next  # the writer's frame holds this tape
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
                self.forget(wake)
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


class TapeHead:
    """Where one reader stands on a tape. Time in which its consumer holds a chunk is nobody's."""

    __slots__ = ("_given_at", "_live", "result", "scope", "seen", "tape")

    def __init__(self, tape: Tape, scope: Scope, live: bool) -> None:
        self.tape = tape
        self.scope = scope
        self.seen = 0
        self.result: Response | None = None
        self._live = live
        self._given_at = 0.0

    def back(self) -> None:
        """The reader came back for more."""
        self.scope.check()
        scope = self.scope
        deadline_at = scope.deadline_at
        if self._live and self.seen and deadline_at is not None:
            scope.deadline_at = deadline_at + scope.clock() - self._given_at

    def next(self) -> Chunk | None:
        """The next chunk, where it is on the tape already."""
        if self.seen >= len(self.tape.chunks):
            return None
        chunk = self.tape.chunks[self.seen]
        self.seen += 1
        self._given_at = self.scope.clock()
        return chunk

    def ended(self) -> bool:
        """True at the end of the tape, with its ``result``; raises its error."""
        tape = self.tape
        if not tape.done or self.seen < len(tape.chunks):
            return False
        try:
            self.result = tape.told()
        except FlightLost:
            if not (self._live and self.seen):
                raise  # whoever follows may start over: nobody has heard anything yet
            raise StreamInterruptedError(
                "the call that this one followed was cancelled", partial=self._partial()
            ) from None
        except DeadlineExceededError as error:
            error.partial = self._partial()  # the flow's own is what it has said, not what was heard here
            raise
        except StreamInterruptedError as error:
            if self._live or not isinstance(error.__cause__, ProviderError):
                raise
            raise copied(error.__cause__) from None  # this reader has passed nothing on to anyone
        return True

    def late(self) -> DeadlineExceededError:
        """The error for a reader whose own deadline has passed."""
        error = past_deadline("following another call")
        error.partial = self._partial()
        return error

    def _partial(self) -> Response | None:
        """What its consumer has seen."""
        if not (self._live and self.seen):
            return None
        return Response(text="".join(chunk.text for chunk in self.tape.chunks[: self.seen]))

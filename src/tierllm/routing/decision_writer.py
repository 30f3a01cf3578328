"""Lines on their way into the decision log's file: kept in memory until a flush has written them."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable

from ..events import Event, StoreTrouble, log
from ..pipeline.fork import renew_after_fork
from ..stores.disk_fork import close_before_fork
from .decision_file import DecisionFile

__all__ = ["DecisionWriter"]

RETRY_S = 1.0
"""After a failure, the next try is no sooner."""

TELL_EVERY_S = 60.0

LINGER_S = 0.05
"""A flush in the background waits so long for more lines: starting it costs more than writing one."""

LINES_A_TIME = 1_000
"""Other processes may write between so many lines and the next."""

PATIENCE_S = 0.25
LAST_PATIENCE_S = 5.0
"""How long a flush waits for another process's writing; and the last one."""

FORK_S = 1.0
"""How long a fork waits for a flush that is under way. One that takes longer hangs, and goes on in the parent
alone."""

LATE_S = 0.1
"""Once a flush has taken so long, lines are made by the calls: what they are made of may be large."""

LONGEST_BYTES = 256 << 10
"""A longer line is left out: tags may be anything, and so many wait in memory."""


Waiting = bytes | Callable[[], bytes]
"""A line, or what makes one: done by the flush, so that calls do not pay for it."""


class DecisionWriter:
    """A queue in front of a ``DecisionFile``. Thread-safe; ``post`` never raises.

    ``soon`` runs a flush off the call's path; without it, whoever posts a line writes it.
    """

    def __init__(self, file: DecisionFile, *, max_waiting: int, clock: Callable[[], float]) -> None:
        self.file = file
        self.max_waiting = max_waiting
        self.clock = clock
        self.emit: Callable[[Event], None] | None = None
        self.soon: Callable[[Callable[[], object]], None] | None = None
        self.written = 0
        self.lost = 0
        self.unfit = 0
        self.trouble = ""
        self._losses = itertools.count(1)
        self._unfits = itertools.count(1)
        self._why_unfit = ""
        self._told_unfit = 0
        self._queue: deque[Waiting] = deque()
        self._asked = False  # for a flush
        self._begun_at: float | None = None  # the one under way
        self._failed_at: float | None = None
        self._told_at: float | None = None
        self._told_lost = 0
        self._patience_s = PATIENCE_S
        self._lock = threading.RLock()  # reentrant: garbage collection may end a call right here
        self._flushing = False
        self._hurry = threading.Event()
        self._held = False  # the lock, over a fork
        close_before_fork(self)
        renew_after_fork(self)

    @property
    def waiting(self) -> int:
        """How many lines are not written yet."""
        return len(self._queue)

    def post(self, line: Waiting) -> None:
        """Have ``line`` written soon; or lose it, where too many wait already."""
        if len(self._queue) >= self.max_waiting:
            self.lost = max(self.lost, next(self._losses))  # one step, that no other thread can split
        else:
            begun_at = self._begun_at
            if begun_at is not None and abs(self.clock() - begun_at) > LATE_S and not isinstance(line, bytes):
                line = self._encoded(line)
            self._queue.append(line)
        if self._asked:
            return
        if self._failed_at is not None and abs(self.clock() - self._failed_at) < RETRY_S:
            return
        self._asked = True
        if self.soon is not None:
            try:
                self.soon(self._later)
                return
            except Exception:  # no thread can be started any more: the interpreter is on its way out
                pass
        self.flush()

    def _later(self) -> None:
        self._hurry.wait(LINGER_S)
        self.flush()

    def flush(self) -> bool:
        """Write what waits. False where it has to wait for better times; it is then kept, in order."""
        notes: list[tuple[bool, str]] = []
        try:
            with self._lock:
                if self._flushing:
                    return True  # the one under way goes on until nothing waits
                self._flushing = True
                self._begun_at = self.clock()
                try:
                    return self._drain(notes)
                finally:
                    self._flushing = False
                    self._begun_at = None
        finally:
            self._tell(notes)

    def _drain(self, notes: list[tuple[bool, str]]) -> bool:
        queue = self._queue
        self._asked = False  # first: what comes from here on may ask again
        while queue:
            # Lines leave the queue once they are written: an interrupt in between writes some twice, which
            # counts once.
            lines = [self._made(number) for number in range(min(len(queue), LINES_A_TIME))]
            done, error = self.file.append(lines, patience_s=self._patience_s)
            for line in lines[:done]:
                queue.popleft()
                self.written += bool(line)
            if error is not None:
                for number in range(len(queue)):  # they may wait for long: keep no more than the lines
                    self._made(number)
                self._failed_at = self.clock()
                self.trouble = error.strerror or str(error)
                self._note(
                    notes,
                    f"{self.file.path!r} cannot be written: {self.trouble}; "
                    f"{len(queue)} lines wait in memory, {self.lost} are lost",
                )
                return False
        if self.unfit > self._told_unfit:
            self._told_unfit = self.unfit
            self._note(notes, f"a line is left out, since {self._why_unfit}")
        if self._failed_at is not None:
            self._failed_at, self._told_at, self.trouble = None, None, ""
            self._told_lost = self.lost
            notes.append((True, f"lines are written again; lost so far: {self.lost}"))
        elif self.lost > self._told_lost:
            self._told_lost = self.lost
            self._note(notes, f"lines lost so far: {self.lost}, since {self.max_waiting} were waiting")
        return True

    def _made(self, number: int) -> bytes:
        """One of the lines that wait, as it is written; empty where it cannot be."""
        line = self._queue[number]
        if not isinstance(line, bytes):
            line = self._queue[number] = self._encoded(line)
        return line

    def _encoded(self, line: Callable[[], bytes]) -> bytes:
        try:
            made = line()
        except Exception as error:  # an application's own tags, tools or scorer may be anything
            made, why = b"", f"it cannot be made: {type(error).__name__}"
        else:
            why = f"it is longer than {LONGEST_BYTES:,} bytes"
            if len(made) <= LONGEST_BYTES:
                return made
        self.unfit = max(self.unfit, next(self._unfits))
        self._why_unfit = why
        return b""

    def _note(self, notes: list[tuple[bool, str]], text: str) -> None:
        now = self.clock()
        if self._told_at is None or not 0 <= now - self._told_at < TELL_EVERY_S:
            self._told_at = now
            notes.append((False, text))

    def _tell(self, notes: list[tuple[bool, str]]) -> None:
        for ok, text in notes:
            if self.emit is not None:
                self.emit(StoreTrouble(store="decisions", ok=ok, text=text))
            else:
                (log.info if ok else log.warning)("decision log: %s", text)

    def close(self) -> None:
        """Flush, with more patience than usual; what cannot be written even then stays in memory."""
        self._patience_s = LAST_PATIENCE_S
        self._hurry.set()
        try:
            if not self.flush():
                self._tell([(False, f"closed with lines that could not be written: {len(self._queue)}")])
        finally:
            self._patience_s = PATIENCE_S
            self._hurry.clear()  # those who lingered are awake; another client may still write

    def before_fork(self) -> None:
        """No thread is at work in the file while the process forks."""
        self._held = self._lock.acquire(timeout=FORK_S)

    def after_fork(self) -> None:
        """In the parent: go on."""
        if self._held:
            self._lock.release()

    def renew(self) -> None:
        """In the child: the lock and the lines that wait are the parent's."""
        self._lock = threading.RLock()
        self._hurry = threading.Event()
        self._flushing = False
        self._begun_at = None
        self._asked = False
        self._queue = deque()

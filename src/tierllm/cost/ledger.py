"""The usage ledger: what every call used, as rows."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ConfigError, StoreUnavailableError, UsageError
from ..events import Event, StoreTrouble, log
from ..pipeline.fork import renew_after_fork
from ..stores.disk_fork import close_before_fork
from .ledger_entry import Entry, Outcome
from .ledger_questions import Questions

if TYPE_CHECKING:
    from .ledger_file import LedgerFile
    from .ledger_memory import LedgerMemory

__all__ = ["Entry", "Outcome", "UsageLedger"]

RETRY_S = 1.0
"""After a failed flush, ``post`` asks for the next one no sooner than this."""

ROWS_A_TRANSACTION = 10_000

FORK_S = 10.0
"""How long a fork waits for a flush that is under way."""


class UsageLedger(Questions):
    """What every call used: in the SQLite file at ``path``, or in memory (the last ``max_rows`` rows).

    Threads, and for a file any number of processes, may use one ledger at once. A row counts once,
    however often it is posted; what ``flush`` has written survives ``kill -9``. Rows wait for a flush
    in memory, at most ``max_waiting`` of them; those that come while so many wait are left out,
    counted in ``lost`` and announced (``StoreTrouble``), and so are rows that cannot be kept, counted
    in ``unfit``. Amounts are kept to 10⁻¹⁸ dollars, and sums of them are exact. Rows older than
    ``retention_days`` are deleted a few at a time as others are written. ``read_only`` is for reports:
    the file must exist, and nothing can be posted.

    ``clock`` tells the seconds since 1970; ``emit`` hears of trouble and its end. Raises ``ConfigError``
    where ``path`` cannot be such a file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        retention_days: float | None = None,
        max_rows: int = 100_000,
        max_waiting: int = 100_000,
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for name, value in (
            ("retention_days", retention_days),
            ("max_rows", max_rows),
            ("max_waiting", max_waiting),
        ):
            if value is not None and not value > 0:
                raise ConfigError(f"UsageLedger({name}={value!r}): give a number above 0")
        self.emit: Callable[[Event], None] | None = None
        self.lost = 0
        self.unfit = 0
        self._losses = itertools.count(1)
        self.clock = clock
        self.max_waiting = max_waiting
        self.read_only = read_only
        self._queue: deque[Entry] = deque()
        self._asked = False  # for a flush
        self._failed_at: float | None = None
        self._told_lost = 0
        retention_s = None if retention_days is None else retention_days * 86_400.0
        self._rows: LedgerFile | LedgerMemory
        if path is not None:
            from .ledger_file import LedgerFile

            self._rows = LedgerFile(_absolute(path), retention_s=retention_s, read_only=read_only)
        elif read_only:
            raise ConfigError("UsageLedger(read_only=True): say which file is to be read")
        else:
            from .ledger_memory import LedgerMemory

            self._rows = LedgerMemory(max_rows, retention_s=retention_s)
        self._inline = path is None
        self._lock = threading.RLock()  # reentrant: garbage collection may end a call right here
        self._flushing = False
        self._held = False  # the lock, over a fork
        close_before_fork(self)
        renew_after_fork(self)

    @property
    def waiting(self) -> int:
        """How many rows are not written yet, and so not in what is read."""
        return len(self._queue)

    # -- writing ---------------------------------------------------------------

    def post(self, entry: Entry) -> bool:
        """Keep ``entry``, soon: never waits, never fails. True where a flush should be arranged for."""
        if self.read_only:
            raise UsageError("this ledger was opened read_only: post to one that was not")
        queue = self._queue
        if len(queue) >= self.max_waiting:
            self.lost = max(self.lost, next(self._losses))  # one step, that no other thread can split
        else:
            queue.append(entry)
        if self._inline:
            self.flush()
            return False
        if self._asked:
            return False
        if self._failed_at is not None and abs(self.clock() - self._failed_at) < RETRY_S:
            return False
        self._asked = True
        return True

    def flush(self) -> bool:
        """Write what waits. False where it has to wait for better times; it is then kept, in order.

        May be called from any thread. The first failure in a row is announced, and so is its end.
        """
        notes: list[tuple[bool, str]] = []
        try:
            with self._lock:
                if self._flushing:
                    return True  # the one under way goes on until nothing waits
                self._flushing = True
                try:
                    return self._drain(notes)
                finally:
                    self._flushing = False
                    notes[:0] = self._rows.notes()
        finally:
            for ok, text in notes:
                self._tell(ok, text)

    def _drain(self, notes: list[tuple[bool, str]]) -> bool:
        queue = self._queue
        self._asked = False  # first: what is posted from here on may ask again
        while queue:
            # They leave the queue once they are written: an interrupt in between writes some twice,
            # which counts once.
            batch = [queue[at] for at in range(min(len(queue), ROWS_A_TRANSACTION))]
            try:
                left_out = self._rows.write(batch, self.clock())
            except StoreUnavailableError as error:
                if self._failed_at is None:
                    notes.append((False, f"{error}; rows are kept in memory meanwhile"))
                self._failed_at = self.clock()
                self._told_of_lost(notes)
                return False
            for _ in batch:
                queue.popleft()
            self.unfit += len(left_out)
            for name, reason in left_out:
                notes.append((False, f"row {name!r} is left out, since it cannot be kept: {reason}"))
        if self._failed_at is not None:
            self._failed_at = None
            notes.append((True, "rows are written again"))
        self._told_of_lost(notes)
        return True

    def _told_of_lost(self, notes: list[tuple[bool, str]]) -> None:
        if self.lost > self._told_lost and (self._told_lost == 0 or self._failed_at is None):
            self._told_lost = self.lost
            notes.append((False, f"rows left out so far: {self.lost}, since {self.max_waiting} were waiting"))

    def _tell(self, ok: bool, text: str) -> None:
        if self.emit is not None:
            self.emit(StoreTrouble(store="ledger", ok=ok, text=text))
        else:
            (log.info if ok else log.warning)("ledger: %s", text)

    def _ready(self) -> None:
        if not self.read_only:
            self.flush()

    # -- life ------------------------------------------------------------------

    def close(self) -> None:
        """Flush, with more patience than usual, and close the file. Safe to call twice.

        What cannot be written even then stays in memory, and is announced.
        """
        if not self.read_only:
            self._rows.be_patient()
            if not self.flush():
                self._tell(False, f"closed with rows that could not be written: {len(self._queue)}")
        with self._lock:
            self._rows.close()

    def before_fork(self) -> None:
        """No thread is at work in the file while the process forks, and it is closed."""
        self._held = self._lock.acquire(timeout=FORK_S)
        self._rows.before_fork(alone=self._held)

    def after_fork(self) -> None:
        """In the parent: go on."""
        self._rows.after_fork()
        if self._held:
            self._lock.release()

    def renew(self) -> None:
        """In the child: the lock, the connection and the rows that wait are the parent's."""
        self._lock = threading.RLock()
        self._flushing = False
        self._asked = False
        self._queue = deque()
        self._rows.renew()

    def __repr__(self) -> str:
        return f"UsageLedger({self._rows.name})"


def _absolute(path: str | os.PathLike[str]) -> str:
    """The path as it is meant now: a later change of directory must not move the ledger."""
    text = os.fsdecode(path)
    if not text or "\0" in text:
        raise ConfigError(f"UsageLedger({text!r}): give the path of a file")
    if text == ":memory:":
        raise ConfigError("UsageLedger(':memory:'): leave the path out for a ledger in memory")
    return os.path.abspath(text)

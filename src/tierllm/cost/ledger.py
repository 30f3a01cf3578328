"""The usage ledger: what every call used, as rows."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING

from ..errors import ConfigError, StoreUnavailableError, UsageError
from ..events import Event, StoreTrouble, log
from ..pipeline.fork import renew_after_fork
from .ledger_entry import Entry, Outcome

if TYPE_CHECKING:
    from .ledger_file import LedgerFile
    from .ledger_memory import LedgerMemory
    from .ledger_statement import Statement
    from .ledger_summary import UsageLine, Wanted

__all__ = ["Entry", "Outcome", "UsageLedger"]

RETRY_S = 1.0
"""After a failed flush, ``post`` asks for the next one no sooner than this."""

ROWS_A_TRANSACTION = 10_000


class UsageLedger:
    """What every call used: in the SQLite file at ``path``, or in memory (the last ``max_rows`` rows).

    Threads, and for a file any number of processes, may use one ledger at once. A row counts once,
    however often it is posted; what ``flush`` has written survives ``kill -9``. Rows wait for a flush
    in memory, at most ``max_waiting`` of them; those that come while so many wait are left out,
    counted in ``lost`` and announced (``StoreTrouble``). Amounts are kept to 10⁻¹⁸ dollars, and sums
    of them are exact. Rows older than ``retention_days`` are deleted a few at a time as others are
    written. ``read_only`` is for reports: the file must exist, and nothing can be posted.

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

            self._rows = LedgerFile(os.fspath(path), retention_s=retention_s, read_only=read_only)
        elif read_only:
            raise ConfigError("UsageLedger(read_only=True): say which file is to be read")
        else:
            from .ledger_memory import LedgerMemory

            self._rows = LedgerMemory(max_rows, retention_s=retention_s)
        self._inline = path is None
        self._lock = threading.RLock()  # reentrant: garbage collection may end a call right here
        self._flushing = False
        renew_after_fork(self)

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

    # -- reading ---------------------------------------------------------------

    def entries(
        self,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        **where: str | None,
    ) -> Iterator[Entry]:
        """The rows with ``since`` ≤ time < ``until``, oldest first, after a flush.

        ``where``: ``user``, ``tenant``, ``plan``, ``tag``, ``tier``, ``deployment``, ``model``, ``route``,
        ``run``, ``trace_id``, ``request_id``, ``outcome`` or ``budget``, equal to what is given (``None``:
        not set). Raises ``ConfigError`` for others, ``StoreUnavailableError`` where nothing can be read.
        """
        wanted = self._wanted(since, until, where)
        return self._rows.entries(wanted)

    def usage(
        self,
        by: Sequence[str] = ("user",),
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        *,
        tz: tzinfo | None = None,
        **where: str | None,
    ) -> list[UsageLine]:
        """Sums for each group, dearest first (where ``by`` holds a time: in its order first).

        ``by``: names as in ``entries``, and ``hour``, ``day`` and ``month`` in ``tz`` (UTC). A call with
        several tags counts in the group of each. Raises as ``entries`` does.
        """
        return self._lines(by, self._wanted(since, until, where), tz)

    def total(
        self,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        **where: str | None,
    ) -> UsageLine:
        """The sum over all rows wanted, each counted once. Raises as ``entries`` does."""
        return self._lines((), self._wanted(since, until, where))[0]

    def estimate_error(
        self,
        by: Sequence[str] = ("model",),
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        **where: str | None,
    ) -> list[UsageLine]:
        """Groups whose estimates can be held against reported costs, worst first.

        See ``mean_error_usd``, ``mean_abs_error_usd`` and ``error_share`` of each line.
        """
        lines = self._lines(by, self._wanted(since, until, where))
        return sorted(
            (line for line in lines if line.compared), key=lambda line: -abs(line.error_share or 0.0)
        )

    def statement(
        self,
        *,
        tenant: str | None = None,
        tag: str | None = None,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        by: Sequence[str] = ("tier", "model", "user"),
        currency: str = "USD",
        rate: Decimal | int | str = 1,
        tz: tzinfo | None = None,
    ) -> Statement:
        """What ``tenant`` or ``tag`` used, to be handed on. ``rate``: ``currency`` for a dollar."""
        from .ledger_statement import stated

        return stated(
            self, tenant=tenant, tag=tag, since=since, until=until, by=by, currency=currency, rate=rate, tz=tz
        )

    def _lines(self, by: Sequence[str], wanted: Wanted, tz: tzinfo | None = None) -> list[UsageLine]:
        from .ledger_summary import grouped

        return grouped(self._rows, by, wanted, tz)

    def _wanted(
        self, since: float | datetime | None, until: float | datetime | None, where: dict[str, str | None]
    ) -> Wanted:
        from .ledger_summary import wanted

        made = wanted(since, until, where)
        if not self.read_only:
            self.flush()
        return made

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

    def renew(self) -> None:
        """After a fork: the lock, the connection and the rows that wait are the parent's."""
        self._lock = threading.RLock()
        self._flushing = False
        self._asked = False
        self._queue = deque()
        self._rows.renew()

    def __repr__(self) -> str:
        return f"UsageLedger({self._rows.name})"

"""Reading from a ledger's SQLite file: many readers at once, and forks while they read."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import StoreUnavailableError
from .ledger_database import connected, is_new
from .ledger_growth import read_as_grown

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Question", "Reader", "reading"]

READ_S = 5.0
"""How long a reader waits for another process that is just making or mending the file."""

FORK_S = 10.0
"""How long a fork waits for a reader that is in the midst of a query."""

PAGE = 1_000

Question = tuple[str, Sequence[str | float]]
Found = tuple[Any, ...]  # Any: what SQLite hands back


def reading(path: str) -> sqlite3.Connection:
    """A connection that changes no row. Raises ``ConfigError`` or ``StoreUnavailableError``."""
    import sqlite3

    try:
        connection = connected(path, "rw", READ_S)  # as "ro" it could not clean up behind itself
    except sqlite3.Error:
        try:
            connection = connected(path, "ro", READ_S)
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"the usage ledger {path!r} cannot be opened: {error}") from error
    try:
        if is_new(connection, path):
            raise StoreUnavailableError(f"the usage ledger {path!r} is empty: nothing was written there yet")
        read_as_grown(connection)
        connection.execute("PRAGMA query_only = 1")
    except sqlite3.Error as error:
        connection.close()
        hint, code = "", getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            hint = "; who reads it must be able to write to its directory, or be given a copy"
        raise StoreUnavailableError(f"the usage ledger {path!r} cannot be read: {error}{hint}") from error
    except BaseException:
        connection.close()
        raise
    return connection


class Reader:
    """A connection of its own, so that a long query keeps no writer waiting.

    It must not be open while the process forks: two processes would take themselves for one. What is
    still to be read is read ahead then, and both go on from memory.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._locked = False
        self._connection: sqlite3.Connection | None = None
        self._cursor: sqlite3.Cursor | None = None
        self._rest: list[Found] = []
        self._failure: Exception | None = None

    def all_of(self, questions: Sequence[Question]) -> list[list[Found]]:
        """The answers to all questions, of one moment."""
        with self._lock:
            connection = self._connection = reading(self._path)
            connection.execute("BEGIN")
            return [connection.execute(asked, tuple(values)).fetchall() for asked, values in questions]

    def each_of(self, question: Question) -> Iterator[Found]:
        """The answers to one question, a few at a time."""
        asked, values = question
        with self._lock:
            self._connection = reading(self._path)
            self._cursor = self._connection.execute(asked, tuple(values))
        while page := self._page():
            yield from page

    def _page(self) -> list[Found]:
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._cursor is not None:
                return self._cursor.fetchmany(PAGE)
            rest, self._rest = self._rest, []
            return rest

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._cursor = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # -- forks -----------------------------------------------------------------

    def before_fork(self) -> None:
        import sqlite3

        self._locked = self._lock.acquire(timeout=FORK_S)
        if not self._locked:
            return
        if self._cursor is not None:
            try:
                self._rest = self._cursor.fetchall()
            except sqlite3.Error as error:
                self._failure = error
        self._close()

    def after_fork(self) -> None:
        if self._locked:
            self._lock.release()

    def renew(self) -> None:
        """In the child."""
        self._lock = threading.Lock()

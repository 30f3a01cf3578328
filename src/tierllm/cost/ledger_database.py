"""The SQLite file beneath a ledger: opened, made, put aside where it is damaged, left alone after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..errors import ConfigError, StoreUnavailableError
from .ledger_growth import grow, lacking

if TYPE_CHECKING:
    import sqlite3

__all__ = ["LedgerDatabase", "connected", "is_damage", "is_new"]

APPLICATION = 0x546C4C67  # "TlLg", in the header of every file of ours
VERSION = 1

BUSY_S = 0.25
"""How long a flush waits for another process's writing; the rows can wait longer than the call can."""

MAGIC = b"SQLite format 3\0"
APPLICATION_AT = 68
"""Where a header has the number of who made the file."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE, trace_id TEXT NOT NULL, at REAL NOT NULL, outcome TEXT NOT NULL,
    user TEXT, tenant TEXT, plan TEXT, contract TEXT, tags TEXT NOT NULL, route TEXT, run TEXT,
    tier TEXT NOT NULL, deployment TEXT NOT NULL, model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cached_input_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL,
    service_tier TEXT, estimated INTEGER NOT NULL,
    cost_nano INTEGER, cost_atto INTEGER, estimate_nano INTEGER, estimate_atto INTEGER,
    reserved_nano INTEGER, reserved_atto INTEGER, list_nano INTEGER, list_atto INTEGER,
    price_as_of TEXT, cached INTEGER NOT NULL, degraded TEXT NOT NULL, request_id TEXT,
    latency_s REAL, budget TEXT, error_nano INTEGER, error_atto INTEGER
);
CREATE INDEX IF NOT EXISTS by_time ON entries (at);
CREATE INDEX IF NOT EXISTS by_user ON entries (user, at) WHERE user NOTNULL;
CREATE INDEX IF NOT EXISTS by_run ON entries (run) WHERE run NOTNULL;
"""

Work = Callable[["sqlite3.Connection"], None]


class LedgerDatabase:
    """One connection for writing. Not thread-safe: its ledger has the lock. ``notes``: what to announce."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.busy_s = BUSY_S
        self.notes: list[tuple[bool, str]] = []
        self._connection: sqlite3.Connection | None = None
        self.suspected = False
        """A reader met damage: to be looked for before anything more is written."""
        self._inode: tuple[int, int] | None = None

    def change(self, work: Work) -> None:
        """Do ``work`` in one transaction. Raises ``StoreUnavailableError`` where it could not be done.

        A damaged file is put aside, and the work done in a new one.
        """
        import sqlite3

        for again in (True, False):
            try:
                connection = self.opened()
                if self.suspected:
                    self.suspected = False
                    _examine(connection)
                connection.execute("BEGIN IMMEDIATE")
                try:
                    work(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    self._roll_back()
                    raise
                return
            except sqlite3.Error as error:
                if again and is_damage(error) and self._put_aside(error, self._inode):
                    continue  # it was open here, and so it was ours
                raise StoreUnavailableError(f"{self.path!r} cannot be written: {error}") from error
            except ConfigError as error:  # the file was replaced by something else meanwhile
                raise StoreUnavailableError(str(error)) from error

    def opened(self) -> sqlite3.Connection:
        """The connection to the file that is at ``path`` now.

        Raises ``ConfigError`` for a file of another kind, ``StoreUnavailableError`` otherwise.
        """
        connection = self._connection
        if connection is not None:
            if self._inode == _inode(self.path):
                connection.execute(f"PRAGMA busy_timeout = {int(self.busy_s * 1000)}")
                return connection
            self.close()
            self.notes.append(
                (False, f"{self.path!r} was removed or replaced; going on in what is there now")
            )
        return self._open()

    def _open(self) -> sqlite3.Connection:
        import sqlite3

        for again in (True, False):
            self._create_file()
            inode = _inode(self.path)
            try:
                connection = connected(self.path, "rw", self.busy_s)
            except sqlite3.Error as error:
                raise StoreUnavailableError(f"{self.path!r} cannot be opened: {error}") from error
            try:
                if is_new(connection, self.path):
                    _make(connection)
                elif lacking(connection):
                    grow(connection)
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                # Where there is no shared memory there is no WAL, and NORMAL would be too little.
                connection.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
            except sqlite3.Error as error:
                connection.close()
                if is_damage(error):
                    if _header(self.path)[APPLICATION_AT:][:4] != APPLICATION.to_bytes(4, "big"):
                        raise ConfigError(
                            f"{self.path!r} is no usage ledger, and not touched: give another path ({error})"
                        ) from error
                    if again and self._put_aside(error, inode):
                        continue
                raise StoreUnavailableError(f"{self.path!r} cannot be opened: {error}") from error
            except BaseException:
                connection.close()
                raise
            self._connection, self._inode = connection, inode
            return connection
        raise AssertionError("the second round returns or raises")

    def _create_file(self) -> None:
        """An empty file that only its owner may read; SQLite gives its companions the same mode.

        One that is there already keeps the mode it has.
        """
        path = os.path.realpath(self.path)  # a link may point to where there is nothing yet
        with _alone_in(path):
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            except FileExistsError:
                if not os.path.isdir(path):
                    return
                raise ConfigError(
                    f"the usage ledger {self.path!r} cannot be made: that is a directory; give a file in it"
                ) from None
            except OSError as error:
                raise ConfigError(
                    f"the usage ledger {self.path!r} cannot be made: {error.strerror}; "
                    "give a path in a directory that exists and may be written"
                ) from error

    def _put_aside(self, error: sqlite3.Error, damaged: tuple[int, int] | None) -> bool:
        """Rename the damaged file, unless another process just did. False where that is impossible."""
        self.close()
        path = os.path.realpath(self.path)  # of a link, what it points to
        try:
            with _alone_in(path):
                if _inode(path) != damaged:
                    return True
                number = 1
                while os.path.lexists(aside := f"{path}.damaged-{number}"):
                    number += 1
                for end in ("-wal", "-shm", ""):  # in this order: a log must never meet a new file
                    if os.path.lexists(path + end):
                        os.rename(path + end, aside + end)
        except OSError:
            return False
        self.notes.append(
            (False, f"{self.path!r} was damaged ({error}): kept as {aside!r}, and begun afresh")
        )
        return True

    def _roll_back(self) -> None:
        import sqlite3

        if self._connection is not None:
            try:
                self._connection.rollback()
            except sqlite3.Error:
                self.close()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def forget(self) -> None:
        """In a forked child, of a connection that could not be closed before: it is the parent's to close."""
        if self._connection is not None:
            self._parents, self._connection = self._connection, None
        self.notes = []


def connected(path: str, mode: str, busy_s: float) -> sqlite3.Connection:
    import sqlite3

    address = f"file:{quote(os.path.abspath(path))}?mode={mode}"
    return sqlite3.connect(address, busy_s, isolation_level=None, check_same_thread=False, uri=True)


def is_new(connection: sqlite3.Connection, path: str) -> bool:
    """Whether nothing is in there yet. Raises ``ConfigError`` for what is no ledger of ours."""
    connection.execute("BEGIN")  # all of one moment: another process may be making it just now
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (things,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    finally:
        connection.rollback()
    if application == APPLICATION:
        if version > VERSION:
            raise ConfigError(
                f"the usage ledger {path!r} was written by a newer tierllm (layout {version}, "
                f"here {VERSION}): upgrade tierllm, or give another path"
            )
        return False
    tiny = os.path.getsize(path) > 0 and not _header(path)  # SQLite takes a byte or two for nothing
    if application or version or things or tiny:
        raise ConfigError(f"{path!r} is a database of something else: give another path for the usage ledger")
    return True


def _make(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _header(path: str) -> bytes:
    """What a database file begins with, or nothing; it says who made it, whatever became of the rest."""
    try:
        with open(path, "rb") as file:
            header = file.read(100)
    except OSError:
        return b""
    return header if header.startswith(MAGIC) else b""


def _examine(connection: sqlite3.Connection) -> None:
    """Raises ``sqlite3.DatabaseError`` where the file is damaged; reads all of it."""
    import sqlite3

    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def is_damage(error: sqlite3.Error) -> bool:
    import sqlite3

    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _alone_in(path: str) -> Iterator[None]:
    """Only one process at a time makes or renames files beside ``path``: its directory is locked."""
    try:
        import fcntl

        directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    except (ImportError, OSError):  # no such locks, or no such directory
        yield
        return
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)

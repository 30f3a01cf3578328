"""diskcache without what makes it dangerous: bytes in, bytes out, nothing unpickled, no files."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import diskcache
from diskcache import Timeout
from diskcache.core import METADATA, MODE_RAW

from .disk_place import Place

__all__ = ["Damaged", "Shelf", "Timeout"]

_SETTINGS = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",  # nothing is thrown out for want of space: it is money
    "cull_limit": 10,  # expired rows are deleted by the way
    "sqlite_journal_mode": "wal",
    "sqlite_synchronous": 1,
    "sqlite_mmap_size": 0,  # a truncated file is then an error and not a SIGBUS
}

_TRIGGERS = frozenset(
    ("trigger", f"Settings_{what}")
    for what in ("count_insert", "count_delete", "size_insert", "size_update", "size_delete")
)


class Damaged(Exception):
    """The database, or the row under ``key``, is not as it was written here."""

    def __init__(self, what: str, key: bytes | None = None) -> None:
        super().__init__(what)
        self.key = key


class BytesDisk(diskcache.Disk):  # type: ignore[misc]
    """Keys and values are bytes in the row itself; anything else found there is refused."""

    def put(self, key: bytes) -> tuple[bytes, bool]:
        if type(key) is not bytes:
            raise TypeError("keys are bytes")
        return key, True

    def get(self, key: object, raw: object) -> bytes:
        if not raw or type(key) is not bytes:
            raise Damaged("a key is not of ours")
        return key

    def store(self, value: bytes, read: bool, key: object = None) -> tuple[int, int, None, bytes]:
        if type(value) is not bytes or read:
            raise TypeError("values are bytes")
        return 0, MODE_RAW, None, value

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> bytes:
        if mode != MODE_RAW or filename is not None or type(value) is not bytes or read:
            raise Damaged("a value is not of ours")
        return value

    def remove(self, file_path: object) -> None:
        """There are no files: a row that names one was not written here, and nothing is deleted for it."""


class Shelf(diskcache.Cache):  # type: ignore[misc]
    """One database with one connection, for one thread at a time; which is the caller's to see to.

    Raises ``Damaged`` where the file is no sound database of ours, ``sqlite3.Error`` for other trouble.
    """

    auto_vacuum = 0  # freed pages are used again
    _txn_id: int | None

    def __init__(self, place: Place) -> None:
        self._connection: sqlite3.Connection | None = None
        self._wait_s = self._waits_s = place.timeout_s
        if place.identity() is not None and not place.is_plain_file():
            raise Damaged("what is there is not a file of ours")
        place.make_file()
        self.identity = place.identity()
        self._path = str(place.database)
        try:
            self._inspect()
            settings = _SETTINGS | {"sqlite_auto_vacuum": self.auto_vacuum}
            super().__init__(str(place.directory), timeout=self._wait_s, disk=BytesDisk, **settings)
            self.rows("PRAGMA journal_size_limit = 4194304")
        except BaseException:
            self.close()
            raise

    @property
    def _con(self) -> sqlite3.Connection:
        # One for all threads, so that a fork can be preceded by closing it: what SQLite knows of a
        # parent's open connections would be wrong in the child.
        if self._connection is None:
            connection = sqlite3.connect(
                self._path, timeout=self._wait_s, isolation_level=None, check_same_thread=False
            )
            self._connection = connection
            connection.text_factory = lenient
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA synchronous = 1")
            connection.execute("PRAGMA mmap_size = 0")
        return self._connection

    @property
    def _sql_retry(self) -> Any:  # SQLite's own timeout is enough; the original waits a minute
        return self._con.execute

    @contextmanager
    def _transact(
        self, retry: bool = False, filename: str | None = None
    ) -> Iterator[tuple[Callable[..., Any], Callable[[object], None]]]:
        """As in the base class, but an interrupt anywhere leaves no transaction behind."""
        connection = self._con
        if self._txn_id is not None:  # by the same thread: there is one at a time
            yield connection.execute, _nothing
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._txn_id = threading.get_ident()
            yield connection.execute, _nothing
            connection.execute("COMMIT")
        finally:
            self._txn_id = None
            if self._connection is connection and connection.in_transaction:
                connection.execute("ROLLBACK")

    @contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """What is read within is as it was at one moment."""
        self.rows("BEGIN")
        try:
            yield
        finally:
            if self.in_doubt:
                self.rows("COMMIT")

    def wait_for(self, wait_s: float) -> None:
        """Wait no longer than this for other processes, from now on."""
        if wait_s > 0.95 * self._wait_s:  # not worth a word
            wait_s = self._wait_s
        if wait_s != self._waits_s:
            self._waits_s = wait_s
            self.rows(f"PRAGMA busy_timeout = {max(1, int(self._waits_s * 1000))}")

    def _inspect(self) -> None:
        """See that the database is sound and ours before anything in it is believed."""
        self._check_pages()
        schema = {(kind, name) for kind, name in self.rows("SELECT type, name FROM sqlite_master")}
        if any(each[0] in ("trigger", "view") and each not in _TRIGGERS for each in schema):
            raise Damaged("the database was changed by somebody else")
        for name in [name for kind, name in schema if kind == "trigger"]:
            self.rows(f"DROP TRIGGER IF EXISTS {name}")  # whatever it does; the base class makes it anew
        if ("table", "Settings") in schema:  # the base class would believe them; its own come again
            marks = ",".join("?" * len(METADATA))
            self.rows(f"DELETE FROM Settings WHERE key NOT IN ({marks})", tuple(METADATA))  # noqa: S608

    def _check_pages(self) -> None:
        """Reads the whole database."""
        ((answer,),) = self.rows("PRAGMA quick_check(1)")
        if answer != "ok":
            raise Damaged("the database is corrupt")

    def rows(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        return self._con.execute(statement, values).fetchall()

    def under(self, prefix: bytes, most: int = -1) -> list[bytes]:
        """The keys that begin so; at ``most`` so many."""
        end = prefix[:-1] + bytes((prefix[-1] + 1,))
        statement = "SELECT key FROM Cache WHERE key >= ? AND key < ? AND raw = 1 LIMIT ?"
        found = self.rows(statement, (prefix, end, most))
        return [bytes(key) for (key,) in found]

    def set_aside(self, key: bytes) -> None:
        """Keep the row under ``key`` out of the way."""
        aside = b"damaged:" + key
        with self.transact():
            self.rows("DELETE FROM Cache WHERE key = ? AND raw = 1", (aside,))
            renaming = "UPDATE Cache SET key = ?, expire_time = NULL WHERE key = ? AND raw = 1"
            self.rows(renaming, (aside, key))

    @property
    def in_doubt(self) -> bool:
        """Whether a transaction that failed was neither kept nor undone."""
        return self._connection is not None and self._connection.in_transaction

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                pass  # it is given up in any case


def lenient(text: bytes) -> str:
    """A text as it may come of a bit that fell over: not to be quoted in an error of SQLite's own."""
    return text.decode("utf-8", "replace")


def _nothing(_: object) -> None:
    """There are no files to delete."""

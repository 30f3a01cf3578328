"""Ledger rows kept in an SQLite file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import ConfigError, StoreUnavailableError
from .ledger_database import BUSY_S, LedgerDatabase, is_damage
from .ledger_reader import FORK_S, Question, Reader, reading
from .ledger_row import COLUMNS, NANO, LeftOut, Row, entry_of, left_out_of, needle, row_of
from .ledger_summary import FIELDS, Columns, Key, Wanted

if TYPE_CHECKING:
    import sqlite3

    from .ledger_entry import Entry

__all__ = ["LedgerFile"]

PATIENCE_S = 5.0
"""How long the last flush waits for another process's writing."""

PRUNE_EVERY_S = 3_600.0

INSERT = (
    f"INSERT INTO entries ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608
    "ON CONFLICT (id) DO NOTHING"
)
PRUNE = "DELETE FROM entries WHERE seq IN (SELECT seq FROM entries WHERE at < ? ORDER BY at LIMIT ?)"


_CALL = "outcome <> 'refused'"
_CACHED = "(cached OR outcome = 'cached')"


def _money(amount: str) -> tuple[str, str]:
    """Sums of both parts of an amount; ``amount`` has a ``?`` where the part's name belongs.

    Sums pass over what is NULL, and so over differences where either side is not known.
    """
    return f"SUM({amount.replace('?', 'nano')})", f"SUM({amount.replace('?', 'atto')})"


SUMS_SQL: tuple[str | tuple[str, str], ...] = (
    f"SUM({_CALL})",
    "SUM(outcome = 'refused')",
    "SUM(outcome = 'failed')",
    "SUM(outcome = 'cancelled')",
    f"SUM({_CACHED})",
    f"SUM(degraded <> '' AND {_CALL})",
    f"SUM(cost_nano ISNULL AND input_tokens + output_tokens > 0 AND {_CALL} AND NOT {_CACHED})",
    "SUM(input_tokens)",
    "SUM(output_tokens)",
    "SUM(cached_input_tokens)",
    "SUM(cache_write_tokens)",
    "SUM(reasoning_tokens)",
    _money("cost_?"),
    _money("list_?"),
    _money("estimate_?"),
    _money("list_? - cost_?"),
    "COUNT(error_nano)",
    _money("CASE WHEN error_nano NOTNULL THEN cost_? END"),
    _money("error_?"),
    _money("CASE WHEN error_nano < 0 THEN -error_? ELSE error_? END"),
)
"""In the order of ``SUMS``; an amount as two sums. ``ledger_memory`` says the same in Python."""

_SELECTED = ", ".join(part for sql in SUMS_SQL for part in ((sql,) if isinstance(sql, str) else sql))


class LedgerFile:
    """Rows in the SQLite file at ``path``. Writing is guarded by the ledger's lock."""

    def __init__(self, path: str, *, retention_s: float | None, read_only: bool) -> None:
        self.name = repr(path)
        self._path = path
        self._retention_s = retention_s
        self._pruned_at: float | None = None
        self._readers: set[Reader] = set()
        self._gate = threading.Lock()  # for new readers
        self._gate_shut = False
        if read_only and not os.path.isfile(path):
            raise ConfigError(f"there is no usage ledger at {path!r}")
        self._database = LedgerDatabase(path)
        if read_only:
            reading(path).close()  # says at once if it is something else
        else:
            try:
                self._database.opened()
            except StoreUnavailableError:  # another process is at it: a flush tries again
                pass

    def write(self, entries: Sequence[Entry], now: float) -> list[LeftOut]:
        """All that can be kept, in one transaction. Raises ``StoreUnavailableError``."""
        rows: list[Row] = []
        left_out: list[LeftOut] = []
        for entry in entries:
            try:
                rows.append(row_of(entry))
            except Exception as error:  # what callers put into a row may raise anything
                left_out.append(left_out_of(entry, error))

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(INSERT, rows)
            self._prune(connection, now, len(rows))

        self._database.change(work)
        return left_out

    def _prune(self, connection: sqlite3.Connection, now: float, written: int) -> None:
        """Delete rows that are too old, at most a few times as many as were written."""
        if self._retention_s is None:
            return
        if self._pruned_at is not None and 0 <= now - self._pruned_at < PRUNE_EVERY_S:
            return
        at_most = max(200, 4 * written)
        gone = connection.execute(PRUNE, (now - self._retention_s, at_most)).rowcount
        self._pruned_at = now if gone < at_most else None

    def entries(self, wanted: Wanted) -> Iterator[Entry]:
        condition, values = _condition(wanted)
        asked = f"SELECT {', '.join(COLUMNS)} FROM entries{condition} ORDER BY at, seq"  # noqa: S608
        with self._reader() as reader:
            for row in reader.each_of((asked, values)):
                yield entry_of(row)

    def sums(self, bys: Sequence[Columns], wanted: Wanted) -> list[Iterable[tuple[Key, Sequence[int]]]]:
        with self._reader() as reader:
            answers = reader.all_of([_sums_by(by, wanted) for by in bys])
        return [
            [(row[: len(by)], _whole(row[len(by) :])) for row in rows]
            for by, rows in zip(bys, answers, strict=True)
        ]

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        """Raises ``StoreUnavailableError`` where nothing can be read, and tells who writes of damage."""
        import sqlite3

        reader = Reader(self._path)
        with self._gate:
            self._readers.add(reader)
        try:
            yield reader
        except sqlite3.Error as error:
            self._database.suspected |= is_damage(error)
            raise StoreUnavailableError(f"the usage ledger {self._path!r} cannot be read: {error}") from error
        except StoreUnavailableError as error:
            cause = error.__cause__
            self._database.suspected |= isinstance(cause, sqlite3.Error) and is_damage(cause)
            raise
        finally:
            self._readers.discard(reader)
            reader.close()

    def notes(self) -> list[tuple[bool, str]]:
        told, self._database.notes = self._database.notes, []
        return told

    def be_patient(self) -> None:
        self._database.busy_s = PATIENCE_S

    def close(self) -> None:
        self._database.close()
        self._database.busy_s = BUSY_S

    # -- forks -----------------------------------------------------------------

    def before_fork(self, alone: bool) -> None:
        """Nothing is open while the process forks. ``alone``: the ledger's lock is held."""
        if alone:
            self._database.close()
        self._gate_shut = self._gate.acquire(timeout=FORK_S)
        for reader in tuple(self._readers):
            reader.before_fork()

    def after_fork(self) -> None:
        for reader in tuple(self._readers):
            reader.after_fork()
        if self._gate_shut:
            self._gate.release()

    def renew(self) -> None:
        self._gate = threading.Lock()
        for reader in tuple(self._readers):
            reader.renew()
        self._database.forget()


def _sums_by(by: Columns, wanted: Wanted) -> Question:
    condition, values = _condition(wanted)
    keys = [column if bucket_s is None else f"CAST(at AS INTEGER) / {bucket_s}" for column, bucket_s in by]
    grouping = f" GROUP BY {', '.join(str(1 + place) for place in range(len(keys)))}" if keys else ""
    asked = f"SELECT {', '.join((*keys, _SELECTED))} FROM entries{condition}{grouping}"  # noqa: S608
    return asked, values


def _condition(wanted: Wanted) -> tuple[str, list[str | float]]:
    terms: list[str] = []
    values: list[str | float] = []
    for bound, term in ((wanted.since, "at >= ?"), (wanted.until, "at < ?")):
        if bound is not None:
            terms.append(term)
            values.append(bound)
    for name, value in wanted.where:
        if name == "tag":
            terms.append("instr(tags, ?)" if value is not None else "tags = ''")
        else:
            terms.append(f"{FIELDS[name]} = ?" if value is not None else f"{FIELDS[name]} IS NULL")
        if value is not None:
            values.append(needle(value) if name == "tag" else value)
    return (f" WHERE {' AND '.join(terms)}" if terms else ""), values


def _whole(row: Sequence[object]) -> list[int]:
    """``SUMS`` from what SQLite summed: amounts put together again, sums over nothing made 0."""
    found = iter(row)
    made = []
    for sql in SUMS_SQL:
        number = next(found) or 0
        assert isinstance(number, int)
        if not isinstance(sql, str):
            rest = next(found) or 0
            assert isinstance(rest, int)
            number = number * NANO + rest
        made.append(number)
    return made

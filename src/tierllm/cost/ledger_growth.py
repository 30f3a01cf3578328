"""Columns that a ledger's file of an earlier version lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

__all__ = ["grow", "lacking", "read_as_grown"]

LATER = ("contract",)
"""What came later than the first layout. Earlier versions go on writing beside us: they leave it empty."""


def lacking(connection: sqlite3.Connection) -> list[str]:
    """The columns that the file does not have yet."""
    there = {row[1] for row in connection.execute("PRAGMA table_info(entries)")}
    return [column for column in LATER if column not in there]


def grow(connection: sqlite3.Connection) -> None:
    """Add the columns that the file lacks, unless another process just did."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for column in lacking(connection):
            connection.execute(f"ALTER TABLE entries ADD COLUMN {column} TEXT")
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def read_as_grown(connection: sqlite3.Connection) -> None:
    """Have a reader see the columns that the file lacks, as empty; the file stays as it is."""
    missing = lacking(connection)
    if missing:
        empty = ", ".join(f"NULL AS {column}" for column in missing)
        connection.execute(f"CREATE TEMP VIEW entries AS SELECT *, {empty} FROM main.entries")  # noqa: S608

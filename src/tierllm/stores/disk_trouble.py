"""What an exception of the database means: damage, or trouble that may pass."""

from __future__ import annotations

import sqlite3

from ..errors import ConfigError, StoreUnavailableError
from .disk_shelf import Damaged, Timeout

__all__ = ["TROUBLE", "is_damage", "is_full", "why"]

TROUBLE = (sqlite3.Error, Timeout, Damaged, OSError, StoreUnavailableError, ConfigError)
"""What a disk may be the cause of. Anything else is a fault of who calls, and is raised as it is."""

_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_NOT_OURS = ("no such table", "no such column")


def is_damage(error: BaseException) -> bool:
    """Whether the database cannot be used as it is, and never will be."""
    root = _root(error)
    if isinstance(error, Damaged):
        return True
    if not isinstance(root, sqlite3.Error):
        return False
    code = getattr(root, "sqlite_errorcode", None) or 0  # the low byte; the others say more
    return code & 0xFF in _CORRUPT or str(root).startswith(_NOT_OURS)


def is_full(error: BaseException | None) -> bool:
    """Whether there was no room, so that not even the end of a transaction can have been written."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_FULL


def why(error: BaseException, timeout_s: float) -> str:
    """What to say of it."""
    root = _root(error)
    if isinstance(root, sqlite3.Error) and "locked" in str(root):
        return f"kept locked by other processes for longer than {timeout_s:g} s"
    return f"{type(root).__name__}: {root}"


def _root(error: BaseException) -> BaseException:
    """What SQLite said first: behind diskcache's own ``Timeout``, or before a rollback that failed too.

    No further: what an exception came after may be the application's.
    """
    while isinstance(error, sqlite3.Error | Timeout) and isinstance(error.__context__, sqlite3.Error):
        error = error.__context__
    return error

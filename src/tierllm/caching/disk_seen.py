"""The disk layer, looked at from outside: nothing is made, mended or moved."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from ..errors import UsageError
from ..stores.disk_place import Place
from ..stores.disk_shelf import Damaged, lenient
from .disk_board import DiskBoard
from .disk_database import DiskDatabase
from .disk_notices import Notices, Unreadable
from .disk_rows import ENTRY, MOST_ENTRY_BYTES, SLOT, Rows
from .layer import Notice

__all__ = ["SeenBoard", "SeenDatabase"]


class SeenBoard(DiskBoard):
    """What the file says. Where that is nothing, or garbled, no entry is valid: the next use will say so."""

    def post(self, notices: Sequence[Notice]) -> int:
        raise UsageError("this layer was opened read_only: post to one that was not")

    def _up_to_date(self) -> Notices:
        try:
            self._read()
        except (FileNotFoundError, Unreadable):
            if not self._is_new():
                return self._afresh(self._notices.number)
        return self._notices


class SeenDatabase(DiskDatabase):
    def _open_anew(self, ends: float, news: list[str]) -> Rows:
        self.rows = _SeenRows(self._place, self._max_bytes, self._quotas)
        return self.rows

    def _mended(self, error: Exception, ends: float, news: list[str]) -> bool:
        return False


class _SeenRows(Rows):
    """What is damaged reads as ``b""``."""

    def __init__(self, place: Place, max_bytes: int, quotas: Mapping[str, float]) -> None:
        self._wait_s = self._waits_s = place.timeout_s
        self._txn_id = None
        self.identity = place.identity()
        self.most_entry_bytes = min(MOST_ENTRY_BYTES, max_bytes // ENTRY)
        if not place.is_plain_file():
            raise Damaged("what is there is not a file of ours")
        # not mode=ro, by which SQLite could not clean up behind itself
        self._connection = sqlite3.connect(
            f"{place.database.as_uri()}?mode=rw",
            uri=True,
            timeout=self._wait_s,
            isolation_level=None,
            check_same_thread=False,
        )
        self._connection.text_factory = lenient
        for pragma in ("trusted_schema = OFF", "mmap_size = 0", "query_only = ON"):
            self.rows(f"PRAGMA {pragma}")

    def bound_files(self) -> None:
        """Nothing is written."""

    def find(self, slot: bytes, now: float, *, ask: bool = True) -> bytes | None:
        try:
            return super().find(slot, now, ask=False)
        except Damaged:
            return b""

    def held(self) -> tuple[int, int]:
        ((pages,),), ((free,),), ((size,),) = (
            self.rows(f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size")
        )
        return len(self.under(SLOT)), (pages - free) * size

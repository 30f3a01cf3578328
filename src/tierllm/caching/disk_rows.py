"""The entries of the disk layer, as rows of diskcache's table.

Of its columns ``tag`` is the group, ``size`` the bytes that the row takes, ``access_time`` the place in the
queues of those to go, and ``access_count`` the CRC-32 of slot and data: SQLite does not notice when a bit of
a value falls over.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Mapping

from diskcache.core import MODE_RAW

from ..errors import StoreUnavailableError
from ..stores.disk_place import Place
from ..stores.disk_shelf import Damaged, Shelf
from .disk_room import IS_CLAIM, PROVEN, ROW_BYTES, Made, Room, is_on_probation

__all__ = ["CLAIM", "SLOT", "Rows"]

SLOT, CLAIM = b"s:", b"c:"
"""Keys of entries begin so, and those of claims; of rows that were set aside, otherwise."""

MOST_JOURNAL_BYTES = 4 * 2**20
JOURNAL = 8
"""One in so many bytes is for SQLite's journal."""

JOURNAL_WAIT_S = 0.25
"""So long those who read are waited for, so that the journal can begin anew."""

MOST_ENTRY_BYTES = 64 * 2**20
ENTRY = 16
"""An entry takes one in so many bytes at most: it has to go through the journal."""

EXPIRED_AT_ONCE = 10
"""So many rows whose time is over go with each that is set."""

NEVER = 9e18
"""The place in the queue of what does not go for want of room."""

CLEARED_AT_ONCE = 500
SCANNED_AT_ONCE = 100

_FIND = (
    "SELECT store_time, expire_time, access_count, mode, filename,"
    " length(value) > ?1, CASE WHEN length(value) <= ?1 THEN value END FROM Cache WHERE key = ?2 AND raw = 1"
)
_KEEP = (
    "INSERT INTO Cache (key, raw, store_time, expire_time, access_time, access_count, tag, size, mode,"
    " filename, value) VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?, NULL, ?)"
    " ON CONFLICT (key, raw) DO UPDATE SET store_time = excluded.store_time,"
    " expire_time = excluded.expire_time, access_time = excluded.access_time,"
    " access_count = excluded.access_count, tag = excluded.tag, size = excluded.size,"
    " mode = excluded.mode, filename = NULL, value = excluded.value"
)
_BOOKED = "SELECT rowid, tag, size, access_time FROM Cache WHERE key = ? AND raw = 1"
_EXPIRED = (
    "SELECT rowid, tag, size, access_time, key FROM Cache WHERE expire_time < ? AND key IS NOT ?"
    " ORDER BY expire_time LIMIT ?"
)
_CLEARED = (
    "SELECT rowid, tag, size, access_time FROM Cache WHERE {} rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?"
)
_ALL, _OF_GROUP = (
    _CLEARED.format(f"NOT {IS_CLAIM} AND"),
    _CLEARED.format("tag = ? AND"),
)
_IS_ENTRY = "key >= x'733a' AND key < x'733b' AND raw = 1"
_SCANNED = (
    f"SELECT rowid, key FROM Cache WHERE rowid > ? AND rowid <= ? AND {_IS_ENTRY} ORDER BY rowid LIMIT ?"  # noqa: S608
)
_COUNT = f"SELECT count(*) FROM Cache WHERE {_IS_ENTRY}"  # noqa: S608


class Rows(Shelf):
    """One open database. Raises what ``Shelf`` does. For one thread at a time."""

    auto_vacuum = 2  # freed pages are used again; and given up in steps where the bound has become smaller

    def __init__(self, place: Place, max_bytes: int, quotas: Mapping[str, float]) -> None:
        super().__init__(place)
        self._file, self._journal = str(place.database), f"{place.database}-wal"
        self._journal_bytes = journal_bytes = min(MOST_JOURNAL_BYTES, max_bytes // JOURNAL)
        self._file_bytes = max_bytes - journal_bytes
        self._pages_at_once = journal_bytes // self._page_size
        most_pages = self._file_bytes // self._page_size
        self.most_entry_bytes = min(MOST_ENTRY_BYTES, max_bytes // ENTRY)
        try:
            self.rows(f"PRAGMA journal_size_limit = {journal_bytes}")
            self.rows(f"PRAGMA wal_autocheckpoint = {max(1, journal_bytes // 2 // self._page_size)}")
            self._room = Room(self, most_pages, self._page_size, quotas)
        except BaseException:
            self.close()
            raise

    def _check_pages(self) -> None:
        """Not ahead of use: it would read a gigabyte first. Entries have a check of their own."""

    def bound_files(self) -> None:
        """Ahead of a transaction. SQLite alone begins its journal anew only when nobody reads.

        Raises ``StoreUnavailableError`` where somebody does not end, and the journal would grow without end.
        """
        if os.stat(self._file).st_size > self._file_bytes:
            # each page is a row of no columns, of which ``execute`` would fetch but one
            self._con.executescript(f"PRAGMA incremental_vacuum({self._pages_at_once})")
        if self._journal_size() * 4 <= self._journal_bytes * 3:
            return
        waits_s = self._waits_s
        self.wait_for(min(waits_s, JOURNAL_WAIT_S))
        ends = time.monotonic() + self._waits_s
        try:
            while self.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
                if self._journal_size() <= 2 * self._journal_bytes:  # somebody else is at it, or will be
                    break
                if time.monotonic() > ends:
                    raise StoreUnavailableError("somebody who reads keeps the database's journal from ending")
                time.sleep(0.001)
        finally:
            self.wait_for(waits_s)

    def _journal_size(self) -> int:
        try:
            return os.stat(self._journal).st_size
        except FileNotFoundError:
            return 0

    # -- entries -------------------------------------------------------------------

    def find(self, slot: bytes, now: float, *, ask: bool = True) -> bytes | None:
        """``ask``: it is for somebody's use, and worth to be kept for the next one."""
        key = SLOT + slot
        row = self._con.execute(_FIND, (self.most_entry_bytes, key)).fetchone()
        if row is None:
            return None
        set_at, expires_at, crc, mode, filename, too_large, data = row
        if too_large:  # here, not where it was written
            return None
        if (
            type(data) is not bytes
            or type(set_at) is not float
            or type(expires_at) is not float
            or mode != MODE_RAW
            or filename is not None
            or zlib.crc32(data, zlib.crc32(slot)) != crc
        ):
            raise Damaged("an entry is not as it was written", key)
        if not set_at <= now < expires_at:
            return None
        if ask:
            self._room.asked_for.add(key)
        return data

    def keep(self, slot: bytes, data: bytes, ttl_s: float, group: str, now: float) -> Made:
        """Within a transaction. What is set again while it is here was asked for, wherever that was."""
        key, tag = SLOT + slot, group.encode("utf-8", "surrogatepass")
        size = ROW_BYTES + 2 * (len(key) + len(tag)) + len(data)
        if len(slot) + len(tag) + len(data) > self.most_entry_bytes:
            self.delete_row(key)
            return Made(False)
        before = self.rows(_BOOKED, (key,))
        expired = self._sweep(now, key)
        proven = self._room.came_back(key) or bool(before)
        at = PROVEN + now if proven else now
        if before and self._room.fits(size):
            made = Made(True)
            _, *booked = before[0]
            if booked[:2] != [tag, size] or is_on_probation(booked[2]):
                self._room.takes(tag, size, at)  # first: an empty group is forgotten
                self._room.gives(*booked)
        else:
            for row in before:
                self._room.delete(*row)  # it gives its room first, and is gone if there is no other
            made = self._room.make(size, tag, at, now)
        if made.room:
            crc = zlib.crc32(data, zlib.crc32(slot))
            self.rows(_KEEP, (key, now, now + ttl_s, at, crc, tag, size, MODE_RAW, data))
        return Made(made.room, made.evicted, made.expired + expired)

    def forget(self, slot: bytes) -> None:
        with self.transact():
            self.delete_row(SLOT + slot)

    def is_held(self, slot: bytes) -> bool:
        return bool(self.rows("SELECT 1 FROM Cache WHERE key = ? AND raw = 1", (SLOT + slot,)))

    def last(self) -> int:
        """The number of the last row."""
        ((last,),) = self.rows("SELECT max(rowid) FROM Cache")
        return last or 0

    def clear_some(self, group: str | None, after: int, last: int) -> int:
        """Forget some rows numbered above ``after`` and up to ``last``; where to go on. In a transaction."""
        if group is None:
            found = self.rows(_ALL, (after, last, CLEARED_AT_ONCE))
        else:
            tag = group.encode("utf-8", "surrogatepass")
            found = self.rows(_OF_GROUP, (tag, after, last, CLEARED_AT_ONCE))
        for row in found:
            self._room.delete(*row)
        return found[-1][0] if len(found) == CLEARED_AT_ONCE else last

    def scan_some(self, after: int, last: int) -> list[tuple[int, bytes]]:
        """Some of the slots in rows numbered above ``after`` and up to ``last``, and those numbers."""
        found = self.rows(_SCANNED, (after, last, SCANNED_AT_ONCE))
        return [(number, bytes(key[len(SLOT) :])) for number, key in found]

    def held(self) -> tuple[int, int]:
        """Entries, and the bytes of the database that are in use."""
        ((entries,),) = self.rows(_COUNT)
        return entries, self._room.used_pages() * self._page_size

    # -- any rows --------------------------------------------------------------------

    def put_row(self, key: bytes, value: bytes, set_at: float, expires_at: float) -> None:
        """Keep a row that is no entry, and never makes room for one. Within a transaction."""
        self._sweep(set_at)
        self.delete_row(key)
        self._room.make(ROW_BYTES + 2 * len(key) + len(value), None, NEVER, set_at)
        self.rows(_KEEP, (key, set_at, expires_at, NEVER, 0, None, 0, MODE_RAW, value))

    def delete_row(self, key: bytes) -> None:
        """Within a transaction."""
        for row in self.rows(_BOOKED, (key,)):
            self._room.delete(*row)

    def set_aside(self, key: bytes) -> None:
        with self.transact():
            aside = b"damaged:" + key
            self.delete_row(aside)
            for row in self.rows(_BOOKED, (key,)):
                # first to go: it takes room that is not its own, and its place in the queue may be a lie
                self._room.move(row, 0.0)
            super().set_aside(key)

    def _sweep(self, now: float, spared: bytes | None = None) -> int:
        """How many entries went because their time is over; not the one under ``spared``."""
        expired = 0
        for number, tag, size, at, key in self.rows(_EXPIRED, (now, spared, EXPIRED_AT_ONCE)):
            self._room.delete(number, tag, size, at)
            expired += not (type(key) is bytes and key.startswith(CLAIM))
        return expired

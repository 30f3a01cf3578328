"""Room on the disk: how much of it each group takes, and who goes when there is none left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from ..stores.disk_shelf import Shelf
from .disk_marks import Marks

__all__ = ["PROVEN", "ROW_BYTES", "Made", "Room", "is_on_probation"]

ROW_BYTES = 160
"""What an entry takes in the database beside its slot, its data and its group: measured, in the mean."""

IS_CLAIM = "(key >= x'633a' AND key < x'633b')"
"""They end with their time; their place in the queue is the last one, so that nobody passes them by."""

PROVEN = 1e12
"""Places in the main queue are times above this one; those below are on probation."""

SMALL = 10
"""Those on probation go first while they have one in so many bytes."""

MOST_MARKS = 50_000
"""So many keys are remembered to have been asked for, and so many to have gone."""

MOST_SPARED = 64
"""So many are spared in one step because they were asked for: it keeps everybody waiting meanwhile."""

MOST_GONE = 2000
"""So many go in one step at most: a bound may be much smaller than it was when the directory was filled."""

_VICTIM = "SELECT rowid, tag, size, access_time, key, expire_time FROM Cache {} ORDER BY access_time LIMIT 1"
_OF_ALL = (
    _VICTIM.format(f"WHERE NOT {IS_CLAIM}"),
    _VICTIM.format(f"WHERE access_time >= {PROVEN} AND NOT {IS_CLAIM}"),
)
_OF_GROUP = (_VICTIM.format("WHERE tag = ?"), _VICTIM.format(f"WHERE tag = ? AND access_time >= {PROVEN}"))
"""Of both queues; and of the main one."""

_BOOKED = "ON CONFLICT (tag) DO UPDATE SET bytes = bytes + excluded.bytes"
_BOOK = f"INSERT INTO Groups VALUES (?, ?) {_BOOKED}"  # noqa: S608
_BOOK_PROBATION = f"INSERT INTO Probation VALUES (?1, ?2), (0, ?2) {_BOOKED}"  # noqa: S608
_BOOKS = (
    "SELECT (SELECT total(CAST(bytes AS INTEGER)) FROM Probation WHERE tag = ?1),"
    " (SELECT total(CAST(bytes AS INTEGER)) FROM Groups WHERE tag = ?1)"
)
_BOOKS_OF_PROBATION = (
    "CREATE TABLE IF NOT EXISTS Probation (tag BLOB PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID",
    # in a database from when there was no main queue
    "INSERT OR IGNORE INTO Probation"
    " SELECT tag, CAST(bytes AS INTEGER) FROM Groups WHERE typeof(tag) = 'blob'",
    "INSERT OR IGNORE INTO Probation SELECT 0, CAST(total(bytes) AS INTEGER) FROM Groups",
)
"""The bytes of each group's rows there; those of all under 0, which is no group's name."""

_Row = tuple[int, object, object, object, object, object]


class Made(NamedTuple):
    """Whether there is room now; so many went for it, and so many because their time was over."""

    room: bool
    evicted: int = 0
    expired: int = 0


class Room:
    """The pages of a database, the bytes that each group's rows take of them, and who goes first.

    S3-FIFO, as in memory (Yang et al., *FIFO queues are all you need for cache eviction*, SOSP 2023): new
    rows are on probation, and go first while those on probation have about a tenth of the room. One that
    this process was asked for when its turn comes goes on to the main queue, where being asked for buys one
    more round each time (CLOCK: Corbató, *A paging experiment with the Multics system*, 1968). What went
    from probation is remembered for a while, in this process; if it comes back, the main queue has it at
    once. A hit itself writes nothing.

    Each group's bytes, and those on probation, are in tables of the database's own, changed with the rows in
    one transaction. With ``quotas``, shares are of what all rows take (pages that are half full count
    for nobody), and each group has queues of its own. To be used within a transaction.
    """

    def __init__(self, shelf: Shelf, most_pages: int, page_size: int, quotas: Mapping[str, float]) -> None:
        self.asked_for = Marks(MOST_MARKS)
        self._shelf = shelf
        self._most_pages = most_pages
        self._page_size = page_size
        self._bytes = most_pages * page_size
        self._went = Marks(MOST_MARKS, self._bytes)
        self._quotas: dict[bytes | None, float] = {
            name.encode("utf-8", "surrogatepass"): share for name, share in quotas.items()
        }
        self._rest = max(0.0, 1 - sum(quotas.values()))
        marks = ",".join("?" * len(quotas))
        self._named = f"SELECT tag, CAST(bytes AS INTEGER) FROM Groups WHERE tag IN ({marks})"  # noqa: S608
        self._largest = f"SELECT tag FROM Groups WHERE tag NOT IN ({marks}) ORDER BY bytes DESC LIMIT 1"  # noqa: S608
        shelf.rows("CREATE INDEX IF NOT EXISTS Cache_queue ON Cache (access_time)")
        shelf.rows("CREATE INDEX IF NOT EXISTS Cache_queues ON Cache (tag, access_time)")
        shelf.rows("CREATE TABLE IF NOT EXISTS Groups (tag BLOB PRIMARY KEY, bytes INTEGER NOT NULL)")
        shelf.rows("CREATE INDEX IF NOT EXISTS Groups_bytes ON Groups (bytes)")
        if not shelf.rows("SELECT 1 FROM sqlite_master WHERE name = 'Probation'"):
            with shelf.transact():
                for statement in _BOOKS_OF_PROBATION:
                    shelf.rows(statement)

    def used_pages(self) -> int:
        ((pages,),) = self._shelf.rows("PRAGMA page_count")
        ((free,),) = self._shelf.rows("PRAGMA freelist_count")
        return int(pages - free)

    def fits(self, size: int) -> bool:
        """Whether there is room for a row of ``size`` bytes, so that the database never grows."""
        # a page for the rest of the row in the tree, and one each for the indices to grow
        return self.used_pages() <= self._most_pages - size // (self._page_size - 8) - 8

    # -- books -----------------------------------------------------------------------

    def takes(self, tag: bytes, size: int, at: float) -> None:
        """A row of ``tag`` was added, with its place in the queue."""
        self._book(tag, size, size if is_on_probation(at) else 0)

    def delete(self, number: int, tag: object, size: object, at: object) -> None:
        """Delete the row of this ``number``."""
        self._shelf.rows("DELETE FROM Cache WHERE rowid = ?", (number,))
        self.gives(tag, size, at)

    def gives(self, tag: object, size: object, at: object) -> None:
        """A row was deleted. What it says may be a lie: a group that has no rows is found out later."""
        if type(size) is int and size:
            self._shelf.rows("UPDATE Groups SET bytes = bytes - ? WHERE tag = ?", (size, tag))
            self._shelf.rows("DELETE FROM Groups WHERE tag = ? AND bytes <= 0", (tag,))
            if is_on_probation(at):
                self._end_probation(tag, size)

    def move(self, row: Sequence[Any], to: float) -> None:
        """Give the ``row`` (number, tag, size, place in the queue) another place."""
        number, tag, size, at = row
        self._shelf.rows("UPDATE Cache SET access_time = ? WHERE rowid = ?", (to, number))
        if type(size) is int and is_on_probation(at) != is_on_probation(to):
            self._end_probation(tag, size if is_on_probation(at) else -size)

    def _end_probation(self, tag: object, size: int) -> None:
        self._shelf.rows("UPDATE Probation SET bytes = bytes - ? WHERE tag IN (?, 0)", (size, tag))
        self._shelf.rows("DELETE FROM Probation WHERE tag = ? AND bytes <= 0", (tag,))

    def _book(self, tag: bytes, size: int, on_probation: int) -> None:
        """So many bytes more, or fewer."""
        if size:
            self._shelf.rows(_BOOK, (tag, size))
        if on_probation:
            self._shelf.rows(_BOOK_PROBATION, (tag, on_probation))

    # -- room ------------------------------------------------------------------------

    def came_back(self, key: bytes) -> bool:
        """Whether ``key`` went not long ago, without having been asked for."""
        return self._went.take(key)

    def make(self, size: int, tag: bytes | None, at: float, now: float) -> Made:
        """Room for a row of ``tag`` with the place ``at`` in its queue, and the books for it if there is.

        What goes leaves pages, and they are used again. ``None``: it is no entry.
        """
        room, evicted, expired, spared = True, 0, 0, 0
        freed = ended = 0  # by its own group, whose books are written once
        if self._quotas and tag is not None and not self.fits(size) and not self._can_have(size, tag):
            return Made(False)
        while not self.fits(size):
            if evicted + expired >= MOST_GONE:
                room = tag is None  # there will be, some steps later
                break
            row = self._next_to_go(size, tag, ended)
            if row is None:
                room = tag is None or not self._quotas
                break
            number, of, its_size, its_place, key, expires_at = row
            if type(expires_at) is float and expires_at <= now:
                expired += 1
            elif spared < MOST_SPARED and self.asked_for.take(key):
                spared += 1
                self.move(row[:4], PROVEN + now)
                continue
            else:
                evicted += 1
                if type(its_size) is int and is_on_probation(its_place):
                    self._went.add(key, its_size)
            if self._quotas or of != tag or type(its_size) is not int:
                self.delete(number, of, its_size, its_place)
            else:
                self._shelf.rows("DELETE FROM Cache WHERE rowid = ?", (number,))
                freed += its_size
                ended += its_size if is_on_probation(its_place) else 0
        if tag is not None and room:
            self._book(tag, size - freed, (size if is_on_probation(at) else 0) - ended)
        return Made(room, evicted, expired)

    def _next_to_go(self, size: int, tag: bytes | None, ended: int) -> _Row | None:
        if not self._quotas:
            ((on_probation,),) = self._shelf.rows(
                "SELECT total(CAST(bytes AS INTEGER)) FROM Probation WHERE tag = 0"
            )
            return self._first(_OF_ALL, (), 0, on_probation - ended, self._bytes)
        while (group := self._loser(size, tag)) is not None:
            ((on_probation, whole),) = self._shelf.rows(_BOOKS, (group,))
            row = self._first(_OF_GROUP, (group,), group, on_probation, whole)
            if row is not None:
                return row
            self._shelf.rows("DELETE FROM Groups WHERE tag = ?", (group,))  # its bytes were not right
        return None

    def _first(
        self,
        victims: tuple[str, str],
        values: tuple[object, ...],
        of: object,
        on_probation: float,
        whole: float,
    ) -> _Row | None:
        """Whose turn it is, if so many bytes of the ``whole`` are on probation. Mends books that lie."""
        few = on_probation * SMALL < whole
        row = self._one(victims[1], values) if few else None
        if row is None:
            row = self._one(victims[0], values)  # those on probation come first
            if row is not None and few == is_on_probation(row[3]):
                self._shelf.rows("REPLACE INTO Probation VALUES (?, ?)", (of, whole if few else 0))
        return row

    def _one(self, statement: str, values: tuple[object, ...]) -> _Row | None:
        found = self._shelf.rows(statement, values)
        return cast("_Row", found[0]) if found else None

    # -- shares ----------------------------------------------------------------------

    def _above(
        self, size: int, tag: bytes | None
    ) -> tuple[dict[bytes | None, float], dict[bytes | None, int]]:
        """How far each share is above its own with ``size`` bytes more for ``tag``; and what each takes.

        ``None`` is the share of all groups without a quota. They sum up to nothing: somebody is above.
        """
        names = tuple(self._quotas)
        held: dict[bytes | None, int] = dict.fromkeys(names, 0)
        held.update(self._shelf.rows(self._named, names))
        ((every,),) = self._shelf.rows("SELECT total(CAST(bytes AS INTEGER)) FROM Groups")
        held[None] = max(0, int(every) - sum(held.values()))
        everything = sum(held.values()) + size
        above = {
            each: bytes - self._quotas.get(each, self._rest) * everything for each, bytes in held.items()
        }
        above[tag if tag in held else None] += size
        return above, held

    def _can_have(self, size: int, tag: bytes) -> bool:
        """Whether there is room for it once everybody else is back within his share."""
        above, held = self._above(size, tag)
        own = tag if tag in held else None
        within = held[own] + size - above[own] >= size
        return within or held[own] + sum(max(0.0, above[each]) for each in held if each != own) >= size

    def _loser(self, size: int, tag: bytes | None) -> object:
        """The group that gives room: of those above their share, or of the newcomer's."""
        above, held = self._above(size, tag)
        own = tag if tag in held else None
        losers = [each for each in held if held[each] and (above[each] > 0 or each == own)]
        if not losers:
            return None
        loser = max(losers, key=lambda each: above[each])
        if loser is not None:
            return loser
        found = self._shelf.rows(self._largest, tuple(self._quotas))
        return found[0][0] if found else None


def is_on_probation(at: object) -> bool:
    """Whether the queue's place ``at`` is there. As SQLite sorts: nothing comes first, a text last."""
    return at is None or (isinstance(at, float | int) and at < PROVEN)

"""Room on the disk: how much of it each group takes, and who goes when there is none left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

from ..stores.disk_shelf import Shelf

__all__ = ["ROW_BYTES", "Made", "Room"]

ROW_BYTES = 160
"""What an entry takes in the database beside its slot, its data and its group: measured, in the mean."""

IS_CLAIM = "(key >= x'633a' AND key < x'633b')"
"""They end with their time; their place in the queue is the last one, so that nobody passes them by."""

MOST_SPARED = 16
"""So many are spared in one step because they were asked for: it keeps everybody waiting meanwhile."""

_VICTIM = "SELECT rowid, key, expire_time, tag, size FROM Cache {} ORDER BY access_time LIMIT 1"
_FIRST_OF_ALL, _FIRST_OF_GROUP = _VICTIM.format(f"WHERE NOT {IS_CLAIM}"), _VICTIM.format("WHERE tag = ?")

_Row = tuple[int, object, object, object, object]


class Made(NamedTuple):
    """Whether there is room now; so many went for it, and so many because their time was over."""

    room: bool
    evicted: int = 0
    expired: int = 0


class Room:
    """The pages of a database, and the bytes that each group's rows take of them.

    Each group's bytes are in a table of the database's own, changed with the rows in one transaction.
    Without ``quotas`` the first come go first. With them, shares are of what all rows take: pages that
    are half full count for nobody. To be used within a transaction. ``asked_for`` holds hashes of keys.
    """

    def __init__(
        self, shelf: Shelf, most_pages: int, page_size: int, quotas: Mapping[str, float], asked_for: set[int]
    ) -> None:
        self._shelf = shelf
        self._most_pages = most_pages
        self._page_size = page_size
        self._asked_for = asked_for
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

    def used_pages(self) -> int:
        ((pages,),) = self._shelf.rows("PRAGMA page_count")
        ((free,),) = self._shelf.rows("PRAGMA freelist_count")
        return int(pages - free)

    @property
    def is_shared_out(self) -> bool:
        return bool(self._quotas)

    def takes(self, tag: bytes, size: int) -> None:
        """A row of ``tag`` was added."""
        self._shelf.rows(
            "INSERT INTO Groups VALUES (?, ?) ON CONFLICT (tag) DO UPDATE SET bytes = bytes + excluded.bytes",
            (tag, size),
        )

    def delete(self, number: int, tag: object, size: object) -> None:
        """Delete the row of this ``number``."""
        self._shelf.rows("DELETE FROM Cache WHERE rowid = ?", (number,))
        self.gives(tag, size)

    def gives(self, tag: object, size: object) -> None:
        """A row was deleted. What it says may be a lie: a group that has no rows is found out later."""
        if type(size) is int and size:
            self._shelf.rows("UPDATE Groups SET bytes = bytes - ? WHERE tag = ?", (size, tag))
            self._shelf.rows("DELETE FROM Groups WHERE tag = ? AND bytes <= 0", (tag,))

    def make(self, size: int, tag: bytes | None, now: float) -> Made:
        """Room for a row of ``tag``, so that the database never grows; ``None``: it is no entry.

        What goes leaves pages, and they are used again. In its queue those that this process was asked
        for get one more round; a hit itself writes nothing (CLOCK: Corbató, *A paging experiment with
        the Multics system*, 1968).
        """
        # a page for the rest of the row in the tree, and one each for the indices to grow
        most = self._most_pages - size // (self._page_size - 8) - 8
        if self.used_pages() <= most:
            return Made(True)
        if self._quotas and tag is not None and not self._can_have(size, tag):
            return Made(False)
        evicted = expired = spared = 0
        while self.used_pages() > most:
            row = self._next_to_go(size, tag)
            if row is None:
                return Made(tag is None or not self._quotas, evicted, expired)
            number, key, expires_at, of, its_size = row
            mark = hash(key)
            if mark in self._asked_for and spared < MOST_SPARED:
                spared += 1
                self._asked_for.discard(mark)
                self._shelf.rows("UPDATE Cache SET access_time = ? WHERE rowid = ?", (now, number))
                continue
            self.delete(number, of, its_size)
            if type(expires_at) is float and expires_at <= now:
                expired += 1
            else:
                evicted += 1
        return Made(True, evicted, expired)

    def _next_to_go(self, size: int, tag: bytes | None) -> _Row | None:
        if not self._quotas:
            return self._one(_FIRST_OF_ALL)
        while (group := self._loser(size, tag)) is not None:
            row = self._one(_FIRST_OF_GROUP, group)
            if row is not None:
                return row
            self._shelf.rows("DELETE FROM Groups WHERE tag = ?", (group,))  # its bytes were not right
        return None

    def _one(self, statement: str, *values: object) -> _Row | None:
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
        ((every,),) = self._shelf.rows("SELECT total(bytes) FROM Groups")
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

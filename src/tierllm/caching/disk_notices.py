"""The notices of a board, and the lines that they are written in."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator

from .layer import MOST_NOTICES, Board, Notice

__all__ = ["Notices", "Unreadable", "last_readable", "line"]

VERSION = 1

MOST_NUMBER = 2**53
"""Numbers count milliseconds since 1970, or are made up; those that are posted go to half of it."""

AT_ONCE = 1000
"""So many notices make one line where all are written anew."""

SUPERSEDED = 1000
"""So many lines may be about names that have later ones, beside one for each name, before it is worth it."""


class Unreadable(Exception):
    """What is written is not as it was written here; the text says in what way."""


class Notices:
    """What a board says: to be brought up to date with the lines that were added to it.

    Lines may be taken twice: whoever was interrupted begins again.
    """

    def __init__(self, number: int = 0, floor: int = 0) -> None:
        self.number = number
        self.floor = floor
        self.written = 0
        self._by_name: dict[str, Notice] = {}  # in the order of their numbers

    def add(self, notices: Iterable[Notice]) -> None:
        for each in notices:
            self.written += 1
            self._by_name.pop(each.name, None)
            self._by_name[each.name] = each
            if each.number > self.number:
                self.number = each.number

    def board(self, since: int) -> Board:
        found = []
        for each in reversed(self._by_name.values()):
            if each.number <= since:
                break
            found.append(each)
        return Board(self.number, self.floor, tuple(reversed(found)))

    @property
    def is_long(self) -> bool:
        """Whether what is written is much more than what is said."""
        names = len(self._by_name)
        return names > MOST_NOTICES or self.written > 2 * names + SUPERSEDED

    def covers(self, other: Notices) -> bool:
        """Whether nothing that ``other`` says goes without saying here."""
        return self.number >= other.number and self.floor >= other.floor and not self._lacks(other)

    def joined(self, other: Notices) -> Notices:
        """The same, with what only ``other`` says.

        That gets a higher number than all: somebody may have read the board up to its last one.
        """
        number = max(self.number, other.number) + 1
        both = Notices(number, max(self.floor, other.floor))
        both.add(self._by_name.values())
        both.add(each._replace(number=number) for each in self._lacks(other))
        return both.folded()

    def _lacks(self, other: Notices) -> list[Notice]:
        """What ``other`` says, and is neither here nor below the floor."""
        lacks = []
        for name, each in other._by_name.items():
            own = self._by_name.get(name)
            if each.number > self.floor and (own is None or own.number < each.number):
                lacks.append(each)
        return lacks

    def folded(self) -> Notices:
        """The same, with the older half summed up if there are too many."""
        notices = list(self._by_name.values())
        floor = self.floor
        if len(notices) > MOST_NOTICES:
            kept = MOST_NOTICES // 2
            floor = max(floor, notices[-kept - 1].number)
            notices = notices[-kept:]
        folded = Notices(self.number, floor)
        folded.add(notices)
        return folded

    def lines(self) -> Iterator[bytes]:
        """All of it, for a new file. The first line is like no other file's."""
        first = {"notices": VERSION, "id": os.urandom(8).hex(), "number": self.number, "floor": self.floor}
        yield _checked(first)
        notices = list(self._by_name.values())
        for at in range(0, len(notices), AT_ONCE):
            yield line(notices[at : at + AT_ONCE])

    @classmethod
    def read(cls, lines: Iterable[bytes]) -> Notices:
        """What was written as ``lines``. Raises ``Unreadable``."""
        first, *others = [*lines] or [b""]
        found = _beginning(first)
        for each in others:
            found.take(each)
        return found

    def take(self, written: bytes) -> None:
        """What was added as one line, without its end. Raises ``Unreadable``."""
        self.add(_notices(written))


def _beginning(first: bytes) -> Notices:
    """What the first line of a file says. Raises ``Unreadable``."""
    match _unchecked(first):
        case {"notices": 1, "number": int(number), "floor": int(floor)}:
            if 0 <= floor <= number <= MOST_NUMBER:
                return Notices(number, floor)
    raise Unreadable("does not begin as it should")


def last_readable(data: bytes) -> int:
    """The highest number in what is damaged."""
    last = 0
    for each in data.splitlines():
        try:
            last = max((last, *(notice.number for notice in _notices(each))))
        except Unreadable:
            pass  # it may be its first line, or what is damaged
    return last


def line(notices: Iterable[Notice]) -> bytes:
    return _checked([list(each) for each in notices])


def _notices(written: bytes) -> list[Notice]:
    notices = []
    found = _unchecked(written)
    if not isinstance(found, list):
        raise Unreadable("says something else")
    for each in found:
        match each:
            case [str(name), int(number), str() | None as content] if 0 <= number <= MOST_NUMBER:
                notices.append(Notice(name, number, content))
            case _:
                raise Unreadable("says something else")
    return notices


def _checked(value: object) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _unchecked(written: bytes) -> object:
    text = written[9:]
    if written[:9] != b"%08x " % zlib.crc32(text):
        raise Unreadable("is garbled")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable("is garbled") from None

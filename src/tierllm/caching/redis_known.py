"""What a process knows of the board in Redis, so that it can put it back when Redis has lost it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .layer import Board, Notice

__all__ = ["NOTHING", "Known", "Saying", "board_of", "written"]

AT_ONCE = 500
"""Notices that one step puts back: it keeps everybody waiting meanwhile."""


class Saying(NamedTuple):
    """What a board says of itself."""

    number: int
    floor: int
    origin: bytes

    @classmethod
    def read(cls, value: bytes | None) -> Saying | None:
        """``None``: there is no board, or what is there is not of ours."""
        parts = (value or b"").split(b" ")
        if len(parts) != 4 or not all(part.isdigit() for part in parts[:3]):
            return None
        return cls(int(parts[0]), int(parts[1]), parts[3])


NOTHING = Saying(0, 0, b"")


class Known:
    """The notices that were posted or read here, ``most`` at most, and the last number heard. Thread-safe."""

    def __init__(self, most: int) -> None:
        self.number = 0
        """Of the last notice, as far as it is known; never goes backwards."""
        self.most = most
        self._seen: bytes | None = None
        self._origin = b""
        self._complete = 0  # up to here all notices are known
        self._floor = 0
        self._notices: dict[str, Notice] = {}
        self.renew()

    def renew(self) -> None:
        """After a fork: what is known stays known."""
        self._lock = threading.Lock()

    def takes(self, value: bytes | None) -> bool:
        """Whether a board that says so has lost nothing, as far as can be seen; its number is known then."""
        if value == self._seen:
            return True
        said = Saying.read(value)
        with self._lock:
            if said is None:
                return value is None and self.number == 0
            if said.number < self.number or (self._origin and said.origin != self._origin):
                return False
            self._believe(said, value)
            return True

    def adopt(self, value: bytes) -> None:
        """Everything that is known is on the board that says so."""
        said = Saying.read(value)
        if said is not None:
            with self._lock:
                self._believe(said, value)

    def _believe(self, said: Saying, value: bytes | None) -> None:
        if said.number >= self.number:
            self.number, self._seen = said.number, value
        self._origin = said.origin

    def posted(self, notices: Iterable[Notice], *, before: int, number: int) -> None:
        """``notices`` were given ``number`` by a board whose last number had been ``before``."""
        with self._lock:
            self._learn([Notice(each.name, number, each.content) for each in notices])
            if self._complete >= before:
                self._complete = max(self._complete, number)

    def learnt(self, since: int, board: Board) -> None:
        """``board`` was read, with its notices above ``since``."""
        with self._lock:
            self._floor = max(self._floor, board.floor)
            self._learn(board.notices)
            if since <= self._complete:
                self._complete = max(self._complete, board.number)

    def _learn(self, notices: Iterable[Notice]) -> None:
        for each in notices:
            before = self._notices.get(each.name)
            if before is None or before.number < each.number:
                self._notices[each.name] = each
        if len(self._notices) > self.most:
            ordered = sorted(self._notices.values(), key=lambda each: each.number)
            over = len(ordered) - self.most // 2
            self._floor = max(self._floor, ordered[over - 1].number)
            self._notices = {each.name: each for each in ordered[over:]}

    def to_put_back(self) -> Iterator[list[bytes | int]]:
        """What to tell a board that has lost something, in steps: see the script.

        Notices of one number go in one step: so a board that has the last one has them all. Where not
        all up to the last number are known here or there, nothing made before it is valid.
        """
        with self._lock:
            number, origin = self.number, self._origin
            floor, whole = self._floor, int(self._complete >= number)
            notices = sorted((n for n in self._notices.values() if n.number > floor), key=lambda n: n.number)
        start = 0
        while True:
            end = min(start + AT_ONCE, len(notices))
            while 0 < end < len(notices) and notices[end].number == notices[end - 1].number:
                end += 1
            part, first, start = notices[start:end], start == 0, end
            last = end == len(notices)
            reached = number if last else part[-1].number
            step: list[bytes | int] = [number, origin, floor, reached, int(first), whole]
            for each in part:
                name, content = written(each)
                step += (name, each.number, content)
            yield step
            if last:
                return


def written(notice: Notice) -> tuple[bytes, bytes]:
    """Name and content as they are in Redis."""
    content = b"" if notice.content is None else b"=" + notice.content.encode("utf-8", "surrogatepass")
    return notice.name.encode("utf-8", "surrogatepass"), content


def board_of(reply: Sequence[bytes]) -> Board:
    said = Saying.read(reply[0]) or NOTHING
    notices = tuple(
        Notice(_text(reply[i]), int(float(reply[i + 1])), _text(reply[i + 2][1:]) if reply[i + 2] else None)
        for i in range(1, len(reply), 3)
    )
    return Board(said.number, said.floor, notices)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")

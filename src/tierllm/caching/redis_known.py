"""What a process knows of the board in Redis, so that it can put it back when Redis has lost it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .layer import Board, Notice

__all__ = ["LONGEST_SAYING", "MOST_NUMBER", "NOTHING", "Known", "Saying", "board_of", "written"]

MOST_NUMBER = 2**52
"""Lua counts in doubles. What is said to be above was not said by a layer."""

LONGEST_SAYING = 128

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
        if value is None or len(value) > LONGEST_SAYING:
            return None
        parts = value.split(b" ")
        if len(parts) != 4 or not all(part.isdigit() for part in parts[:3]):
            return None
        said = cls(int(parts[0]), int(parts[1]), parts[3])
        return said if max(said[:2]) <= MOST_NUMBER else None


NOTHING = Saying(0, 0, b"")


class Known:
    """The notices that were posted or read here, ``most`` at most, and the last number heard. Thread-safe."""

    def __init__(self, most: int) -> None:
        self.said = NOTHING
        """The last that is known; its number never goes backwards."""
        self.most = most
        self._seen: bytes | None = None
        self._complete = 0  # up to here all notices are known
        self._floor = 0
        self._notices: dict[str, Notice] = {}
        self.renew()

    def renew(self) -> None:
        """After a fork: what is known stays known."""
        self._lock = threading.Lock()

    @property
    def number(self) -> int:
        """Of the last notice, as far as it is known."""
        return self.said.number

    def takes(self, value: bytes | None, knew: Saying) -> bool:
        """Whether a board that says so has lost nothing, as far as can be seen; its number is known then.

        ``knew`` is what had been ``said`` before it was asked: more may have been heard since.
        """
        if value == self._seen:
            return True
        said = Saying.read(value)
        if said is None:
            return value is None and knew.number == 0
        with self._lock:
            known = self.said
            if said.number < knew.number or (knew.origin and said.origin not in (knew.origin, known.origin)):
                return False
            if said.number >= known.number:
                self._believe(said, value)
            return True

    def adopt(self, value: bytes) -> None:
        """Everything that is known is on the board that says so."""
        said = Saying.read(value)
        if said is not None:
            with self._lock:
                self._believe(said, value)

    def _believe(self, said: Saying, value: bytes | None) -> None:
        known = self.said
        if said.number >= known.number:
            self.said, self._seen = said, value
        else:
            self.said = known._replace(origin=said.origin)

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
            number, _, origin = self.said
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
        Notice(_text(name), _number(score), _text(content[1:]) if content else None)
        for name, score, content in zip(reply[1::3], reply[2::3], reply[3::3], strict=True)
    )
    return Board(said.number, said.floor, notices)


def _number(score: bytes) -> int:
    return int(min(max(0.0, float(score)), MOST_NUMBER))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")

"""What is declared invalid goes onto the boards of all shared layers, and is read from there."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence

from ..errors import StoreUnavailableError
from ..events import log_failure
from .layer import MOST_NOTICES, Board, Layer, Notice
from .notices import Notices, name_of

__all__ = ["Boards"]


class Boards:
    """The boards of the shared ``layers``, and what they are known to say. Thread-safe.

    The first layer's board gives the numbers. Without shared layers all stays in this process.
    """

    def __init__(self, layers: Sequence[Layer], *, wall: Callable[[], float]) -> None:
        self.layers = tuple(layer for layer in layers if layer.shared)
        self.notices = Notices()
        self._wall = wall
        self._read = [0] * len(self.layers)
        self._owed: list[list[Notice]] = [[] for _ in self.layers]
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def renew(self) -> None:
        """After a fork."""
        self._lock = threading.Lock()

    @property
    def behind(self) -> bool:
        """Whether somebody has posted what is not known here yet. Takes about a microsecond."""
        read = self._read
        try:
            for at, layer in enumerate(self.layers):  # every call asks, and ``any`` takes twice as long
                if layer.heard() > read[at]:
                    return True
        except Exception:  # of an application's own layer: its entries are missed, and no call fails
            self._complain("a layer of the cache does not say what it has heard")
            return True
        return False

    @property
    def owes(self) -> bool:
        """Whether a layer has not been told of something since it was out of reach."""
        return any(self._owed)

    def catch_up(self) -> bool:
        """Read what is new. False: a board cannot be read, and what is kept here may be invalid. Blocks."""
        with self._lock:
            caught_up = True
            read: dict[int, Board] = {}
            for at, layer in enumerate(self.layers):
                heard = math.inf
                try:
                    heard = layer.heard()
                    self._settle(at)
                    if layer.heard() > self._read[at]:
                        read[at] = layer.board(self._read[at])
                except StoreUnavailableError:
                    caught_up = caught_up and heard <= self._read[at]
                except Exception:
                    caught_up = False
                    self._complain(f"the board of the cache's layer {layer.name} could not be read")
            self._learn(read)
            return caught_up

    def post(self, notices: Sequence[tuple[str, str | None]]) -> int:
        """Declare names invalid (but for entries with this content): here at once, and on all boards.

        Raises ``StoreUnavailableError`` where a layer cannot be told now; it is told as soon as it can be.
        """
        with self._lock:
            number = max(self.notices.number + 1, int(self._wall() * 1000))
            told = [Notice(name, number, content) for name, content in notices]
            missed: Exception | None = None
            for at, layer in enumerate(self.layers):
                try:
                    self._settle(at)
                    number = max(number, layer.post(told))
                    told = [notice._replace(number=number) for notice in told]
                except Exception as error:  # whatever it is, the others are to be told
                    missed = missed or error
                    self._owe(at, told)
            self.notices.learn(Board(number, 0, tuple(told)))
        if missed is not None:
            raise StoreUnavailableError(
                f"{missed}; what was invalidated holds here, and is told there as soon as that is possible, "
                "as long as this process lives"
            ) from missed
        return number

    def _complain(self, what: str) -> None:
        """Once: every call comes by here."""
        if what not in self._said:
            self._said.add(what)
            log_failure(what)

    def _owe(self, at: int, notices: Sequence[Notice]) -> None:
        """A layer is to be told later; of everything, where it has missed more than a board holds."""
        owed = self._owed[at] + list(notices)
        if len(owed) > MOST_NOTICES:
            owed = list({notice.name: notice for notice in owed}.values())
        if len(owed) > MOST_NOTICES:
            owed = [Notice(name_of("all"), max(notice.number for notice in owed))]
        self._owed[at] = owed

    def _settle(self, at: int) -> None:
        """Tell a layer what it has missed."""
        owed = self._owed[at]
        if owed:
            self.layers[at].post(owed)
            self._owed[at] = []

    def _learn(self, read: Mapping[int, Board]) -> None:
        """The boards below hear of it too: one of them may be all that the next process finds.

        Not of what they say already: told again it gets a new number, and what was made since is invalid.
        """
        new = {
            at: [notice for notice in _told(board) if not self.notices.knows(notice)]
            for at, board in read.items()
        }
        for at, board in read.items():
            self.notices.learn(board)
            self._read[at] = max(self._read[at], board.number)
        for other, layer in enumerate(self.layers):
            said = {notice.name: notice.number for notice in read[other].notices} if other in read else {}
            above = [notice for at in new if at < other for notice in new[at]]
            lacks = [notice for notice in above if said.get(notice.name, 0) < notice.number]
            if lacks:
                try:
                    layer.post(lacks)
                except Exception:
                    self._owe(other, lacks)


def _told(board: Board) -> tuple[Notice, ...]:
    """What a board says, its floor put into words."""
    floor = (Notice(name_of("all"), board.floor),) if board.floor else ()
    return (*floor, *board.notices)

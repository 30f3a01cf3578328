"""The board in Redis: read, posted to, heard of, and put back when Redis has lost it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import cast

from ..errors import ConfigError, StoreUnavailableError
from ..events import log
from ..stores.redis_clients import Clients
from ..stores.redis_scripts import Script
from ..stores.redis_trips import Ask, Trips
from ..stores.trouble import Health
from .layer import MOST_NOTICES, Board, Notice
from .redis_board_scripts import BOARD, POST, PUT_BACK
from .redis_known import MOST_NUMBER, NOTHING, Known, Saying, board_of, written
from .redis_news import News

__all__ = ["Mget", "RedisBoard"]

TRIES = 3

CLOSES_WITHIN_S = 0.2
"""So long ``close`` waits for what is being asked just then."""

_NO_SCRIPT = Script("return 0")


class Mget(Ask):
    """A plain ``MGET``: each key's string, or ``None`` where there is none."""

    __slots__ = ()

    def __new__(cls, *keys: bytes) -> Mget:
        return super().__new__(cls, _NO_SCRIPT, keys, ())

    def by_hash(self) -> tuple[str | bytes | int, ...]:
        return ("MGET", *self.keys)


class RedisBoard:
    """The board of the layer whose keys begin with ``base``. Thread-safe.

    ``number`` is the key of what the board says of itself: to be brought along by every ``get`` and given
    to ``known.takes``, with what ``known.said`` before; where that is false, ``put_back`` comes before any
    answer.
    Methods raise ``StoreUnavailableError``.
    """

    def __init__(self, base: bytes, trips: Trips, clients: Clients, health: Health) -> None:
        self.number = base + b":number"
        self.known = Known(MOST_NOTICES)
        self.listens = False
        self._base = base
        self._trips = trips
        self._clients = clients
        self._health = health
        self._news: News | None = None
        self._abandoned: list[News] = []
        self._lock = threading.Lock()
        health.watcher = self

    # -- asking ------------------------------------------------------------------

    def post(self, notices: Sequence[Notice]) -> int:
        least = max((each.number for each in notices), default=0)
        if not 0 <= least <= MOST_NUMBER:
            raise ConfigError(f"Notice(number={least!r}): give a whole number, at most {MOST_NUMBER}")
        knew = self.known.said
        # above all that entries were made with here, also where the board has lost its number
        args: list[bytes | int] = [self._base, MOST_NOTICES, max(least, knew.number + 1)]
        for each in notices:
            args += written(each)
        before, value = cast("Sequence[bytes]", self._run(Ask(POST, (self.number,), args)))
        posted = Saying.read(value)
        if posted is None:
            raise StoreUnavailableError(f"{self.number.decode()} in Redis counts no further: delete it")
        if self.known.takes(before or None, knew):
            said = Saying.read(before) or NOTHING
            self.known.posted(notices, before=said.number, number=posted.number)
        else:
            self.put_back()
        if not self.known.takes(value, knew):
            self.put_back()
        return posted.number

    def read(self, since: int) -> Board:
        for _ in range(TRIES):
            knew = self.known.said
            reply = cast("Sequence[bytes]", self._run(Ask(BOARD, (self.number,), (self._base, since))))
            if self.known.takes(reply[0] or None, knew):
                board = board_of(reply)
                self.known.learnt(since, board)
                return board
            self.put_back()
        raise StoreUnavailableError(f"{self._health.name} loses notices as soon as they are put back")

    def look(self) -> None:
        """Ask what the board says of itself; in trouble, whether Redis is well again."""
        self._health.expect(watching=True)
        knew = self.known.said
        (value,) = cast("Sequence[bytes | None]", self._trips.run(Mget(self.number)))
        if not self.known.takes(value, knew):
            self.put_back()

    def told(self, value: bytes) -> None:
        """The board said ``value`` a while ago; where that does not fit what is known, it is asked itself."""
        if not self.known.takes(value, self.known.said._replace(number=0)):
            self.look()

    def put_back(self) -> None:
        self._tell_lost()
        for step in self.known.to_put_back():
            value, lost = cast("tuple[bytes, int]", self._run(self._ask_put_back(step)))
            if not lost:
                break
        self.known.adopt(value)

    async def aput_back(self) -> None:
        self._tell_lost()
        for step in self.known.to_put_back():
            self._health.expect()
            reply = await self._trips.arun(self._ask_put_back(step))
            value, lost = cast("tuple[bytes, int]", reply)
            if not lost:
                break
        self.known.adopt(value)

    def _ask_put_back(self, step: Sequence[bytes | int]) -> Ask:
        return Ask(PUT_BACK, (self.number,), (self._base, MOST_NOTICES, *step))

    def _tell_lost(self) -> None:
        log.info(
            "%s may have lost notices of what is not valid any more: they are put back", self._health.name
        )

    def _run(self, ask: Ask) -> object:
        self._health.expect()
        return self._trips.run(ask)

    # -- listening ---------------------------------------------------------------

    @property
    def watches(self) -> bool:
        """Whether whoever listens finds out, too, when Redis is well again."""
        news = self._news
        return news is not None and news.alive

    @property
    def left_alone_s(self) -> float | None:
        return self._health.left_alone_s

    def listen(self) -> None:
        """Hear of what others post, from now on."""
        with self._lock:
            if self.listens:
                return
            news = News(self, self._clients, self._base + b":news", self._health.retry_s)
            try:
                news.start()
            except RuntimeError:  # no more threads just now, or the interpreter is ending
                return
            self._news, self.listens = news, True

    def close(self) -> None:
        """Listen no more; whoever goes on asks again what was ``heard``."""
        with self._lock:
            news, self._news, self.listens = self._news, None, False
        if news is not None:
            news.stop(min(self._clients.timeout_s, CLOSES_WITHIN_S))

    def renew(self) -> None:
        """After a fork: the parent's thread and its connection are the parent's."""
        self._lock = threading.Lock()
        self.known.renew()
        if self._news is not None:
            self._abandoned.append(self._news)
        self._news, self.listens = None, False

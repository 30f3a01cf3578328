"""What every layer of the cache can do.

A layer keeps short-lived bytes under **slots**. It may forget any of them at any time, and it never
answers with other bytes than those that were set last, nor once their time is over.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from ..errors import ConfigError
from ..events import Event
from ..pipeline.fork import renew_after_fork

__all__ = [
    "MOST_NOTICES",
    "Board",
    "Layer",
    "LayerStats",
    "Notice",
    "check_set",
    "checked_name",
    "checked_ttl",
]

MOST_TTL_S = 3.2e9
"""A century. Above it a number is no time to live, but a mistake."""

MOST_NOTICES = 10_000
"""So many names a board keeps. When there are more, the older half is summed up in its ``floor``."""


class Notice(NamedTuple):
    """Entries of ``name`` made before ``number`` was posted are not valid any more.

    ``content``: but for those that rest on just this content.
    """

    name: str
    number: int
    content: str | None = None


class Board(NamedTuple):
    """What a layer's board says: the ``number`` of its last notice, and ``notices``, each name once.

    Entries made before ``floor`` are not valid any more, whatever their names.
    """

    number: int
    floor: int
    notices: tuple[Notice, ...]


class LayerStats(NamedTuple):
    """What a layer did in this process, and what it holds.

    ``hits`` and ``misses`` sum up to the calls of ``get``, ``sets`` (kept) and ``rejected`` to those of
    ``set``. ``evictions`` went to make room, ``expired`` because their time was over. ``entries`` and
    ``bytes`` are what is held now, by what it takes in memory or on the disk; entries whose time is
    over count until they are found.
    """

    hits: int
    misses: int
    sets: int
    rejected: int
    evictions: int
    expired: int
    entries: int
    bytes: int


class Layer:
    """Base of the layers. All methods may be called from any thread.

    ``name`` is what statistics and events call it. ``inline``: nothing here does I/O, so that it may be
    called on an event loop. Layers that have native async forms put them in ``aget`` and ``aset``.
    ``shared``: other processes see the same entries, and the layer has what comes last below: a board
    and claims. ``quotas`` are the groups that are guaranteed a share, ``ttl_s`` is the longest that
    a cache keeps an entry here. ``emit`` hears of trouble and its end.

    Where the layer cannot be reached or is broken, methods raise ``StoreUnavailableError`` and nothing
    else; ``close`` raises nothing.
    """

    name: str = "layer"
    inline: bool = False
    shared: bool = True
    quotas: Mapping[str, float] = MappingProxyType({})
    ttl_s: float | None = None
    aget: Callable[[bytes], Awaitable[bytes | None]] | None = None
    aset: Callable[[bytes, bytes, float, str], Awaitable[bool]] | None = None

    def __init__(self) -> None:
        self.emit: Callable[[Event], None] | None = None
        renew_after_fork(self)

    @abstractmethod
    def get(self, slot: bytes) -> bytes | None:
        """What was set last under ``slot``, if it is here and its time is not over."""

    @abstractmethod
    def set(self, slot: bytes, data: bytes, *, ttl_s: float, group: str = "") -> bool:
        """Keep ``data`` for ``ttl_s`` seconds at most. False: it was not kept.

        Whatever the answer, what was under ``slot`` before is gone. A ``ttl_s`` of 0 or less keeps
        nothing. ``group`` says on whose share of the layer it draws.
        Raises ``ConfigError`` for what is not bytes, seconds or a name.
        """

    @abstractmethod
    def delete(self, slot: bytes) -> None:
        """Forget what is under ``slot``, if anything."""

    @abstractmethod
    def clear(self, group: str | None = None) -> None:
        """Forget all entries of ``group``; ``None``: of every group."""

    @abstractmethod
    def stats(self) -> LayerStats:
        """What this process did with the layer, and what the layer holds."""

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """Slots and data of all entries that are there now, in no order, each read when its turn comes.

        For looking at a layer by hand: slow, and not to be used where calls wait.
        """
        raise NotImplementedError

    # -- between processes -------------------------------------------------------------

    def heard(self) -> int:
        """The number of the last notice that was posted, as far as it is known here; 0: none was.

        One above what ``board`` has told stands for news that takes its time to be read.
        Asked before every answer: takes about a microsecond, never waits for a network, never fails.
        """
        return 0

    def post(self, notices: Sequence[Notice]) -> int:
        """Put ``notices`` on the board, all at once, and tell those who listen. The number they got.

        Theirs is the least that all of them may have; they get a higher one where the board is
        further already: one more than its last. A name that is there already gets its new number.
        """
        raise NotImplementedError

    def board(self, since: int = 0) -> Board:
        """The board, with the notices numbered above ``since``."""
        raise NotImplementedError

    def claim(self, slot: bytes, owner: bytes, lease_s: float) -> bool:
        """Whether ``owner`` may make what is missing under ``slot``: nobody else has claimed it.

        The claim lasts for ``lease_s`` seconds, from now on if ``owner`` had it already.
        """
        raise NotImplementedError

    def release(self, slot: bytes, owner: bytes) -> None:
        """Give up the claim, if ``owner`` has it."""
        raise NotImplementedError

    # -- life ------------------------------------------------------------------------

    def close(self) -> None:
        """Give up what is held open. Safe to call twice."""

    async def aclose(self) -> None:
        """``close``, with what belongs to the running event loop."""
        self.close()

    @abstractmethod
    def renew(self) -> None:
        """After a fork: locks, connections and counts of the parent are not this process's."""


def checked_name(name: str, who: str) -> str:
    """Raise ``ConfigError`` for what is no name."""
    if type(name) is not str or not name:
        raise ConfigError(f"{who}(name={name!r}): give a name, or leave it out")
    return name


def checked_ttl(ttl_s: float | None, who: str) -> float | None:
    """Raise ``ConfigError`` for what is no time to live."""
    if ttl_s is not None and (type(ttl_s) not in (float, int) or not 0 < ttl_s <= MOST_TTL_S):
        raise ConfigError(f"{who}(ttl_s={ttl_s!r}): give seconds above 0, or leave it out")
    return ttl_s


def check_set(slot: bytes, data: bytes, ttl_s: float, group: str) -> None:
    """Raise ``ConfigError`` for what no layer takes. Tells types alone: data may hold somebody's words."""
    if type(slot) is not bytes or not slot:
        raise ConfigError(f"Layer.set(slot={type(slot).__name__}): give bytes, one at least")
    if type(data) is not bytes:
        raise ConfigError(f"Layer.set(data={type(data).__name__}): give bytes, which nobody can change")
    if type(ttl_s) not in (float, int) or not ttl_s <= MOST_TTL_S:
        raise ConfigError(f"Layer.set(ttl_s={type(ttl_s).__name__}): give seconds, at most {MOST_TTL_S:.0f}")
    if type(group) is not str:
        raise ConfigError(f"Layer.set(group={type(group).__name__}): give a name, or leave it out")

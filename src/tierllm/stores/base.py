"""What every store can do, and the words it is told in.

A store keeps **accounts** and small **documents**.

An account is a running count in whole units (nano-dollars, tokens or calls): what was *settled*,
and what is *reserved* by calls under way. ``reserve`` takes on several accounts at once, all or
nothing, under their limits; each reservation is settled exactly once, by the amounts that were
really used (zeros give it back). An account that slides keeps its settled amounts in numbered
*slots*, so that those that are over can be left out of the sum.

Settling never waits and never fails: ``post`` puts a settlement into the store's **outbox**, and
``flush`` applies what is there. A settlement whose fate is unknown (the connection broke) is
applied again; it counts once all the same.

A document is a short piece of bytes under a name, changed by comparing first.
"""

from __future__ import annotations

import itertools
import os
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from ..errors import StoreUnavailableError
from ..events import Event
from ..pipeline.fork import renew_after_fork

__all__ = ["Hold", "Line", "Settlement", "Standing", "Store", "Verdict"]


class Line(NamedTuple):
    """One account that a reservation draws on.

    ``amount`` is reserved if settled + reserved + amount ≤ ``limit`` (``None``: in any case).
    Only slots from ``oldest`` on count as settled; one that does not slide has slot 0 alone.
    Nobody asks for the account after ``expires_at`` (seconds since 1970).
    """

    account: str
    amount: int
    limit: int | None
    expires_at: float
    slot: int = 0
    oldest: int = 0


class Standing(NamedTuple):
    """How an account stands. ``first_slot`` is the oldest slot that still counts and is not empty."""

    settled: int
    reserved: int
    first_slot: int | None = None


class Verdict(NamedTuple):
    """``ok``: all lines were reserved; else none was. ``standings``: each line's account just before."""

    ok: bool
    standings: tuple[Standing, ...]


class Hold:
    """One reservation: an id that no other has, and its lines, each on another account."""

    __slots__ = ("id", "lines")

    def __init__(self, id: str, lines: Sequence[Line]) -> None:
        self.id = id
        self.lines = tuple(lines)

    def __repr__(self) -> str:
        return f"Hold({self.id!r}, {len(self.lines)} lines)"


class Settlement(NamedTuple):
    """The end of a hold: for each of its lines the amount really used, and the slot it falls into."""

    hold: Hold
    amounts: tuple[int, ...]
    slots: tuple[int, ...]


class Store:
    """Base of the stores. All methods may be called from any thread.

    ``inline``: nothing here does I/O, so that it may be called on an event loop. Stores that do have
    native async forms in ``areserve``, ``aflush`` and ``astandings``, or leave them ``None``.
    ``shared``: other processes see the same state. ``emit`` hears of trouble and its end.

    Everything but ``post`` raises ``StoreUnavailableError`` where the store cannot be reached or is
    broken; ``flush`` keeps what it could not apply and says so by its answer.
    """

    inline: bool = False
    shared: bool = True
    areserve: Callable[[Hold], Awaitable[Verdict]] | None = None
    aflush: Callable[[], Awaitable[bool]] | None = None
    astandings: Callable[[Sequence[Line]], Awaitable[tuple[Standing, ...]]] | None = None

    def __init__(self) -> None:
        self.emit: Callable[[Event], None] | None = None
        self.outbox: deque[Settlement] = deque()
        self._name_holds()
        renew_after_fork(self)

    def _name_holds(self) -> None:
        """``owner`` is this process's name among those that share the store."""
        self.owner = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    def hold(self, lines: Sequence[Line]) -> Hold:
        """A hold to be reserved here."""
        return Hold(f"{self.owner}-{next(self._numbers):x}", lines)

    # -- accounts --------------------------------------------------------------

    @abstractmethod
    def reserve(self, hold: Hold) -> Verdict:
        """Reserve on all lines of ``hold``, or on none.

        Raises ``StoreUnavailableError``. What became of the hold is then unknown: give it back. One that
        was given back before it came is not reserved.
        """

    def post(self, settlement: Settlement) -> None:
        """Settle soon: never waits, never raises."""
        self.outbox.append(settlement)

    def give_back(self, hold: Hold) -> None:
        """``hold`` was not used: settle it with nothing. Harmless for one that was never reserved."""
        none = (0,) * len(hold.lines)
        self.post(Settlement(hold, none, tuple(line.slot for line in hold.lines)))

    def flush(self) -> bool:
        """Apply what is in the outbox. False where some of it has to wait for better times."""
        try:
            with self.outgoing() as batch:
                if batch:
                    self.apply(batch)
        except StoreUnavailableError:
            return False
        return True

    @contextmanager
    def outgoing(self) -> Iterator[list[Settlement]]:
        """What is in the outbox, taken out; put back if the block raises."""
        batch: list[Settlement] = []
        while self.outbox:
            try:
                batch.append(self.outbox.popleft())
            except IndexError:  # another thread was quicker
                break
        try:
            yield batch
        except BaseException:
            self.outbox.extendleft(reversed(batch))
            raise

    @abstractmethod
    def apply(self, batch: Sequence[Settlement]) -> None:
        """Settle each of ``batch``; one that was applied before counts for nothing."""

    @abstractmethod
    def standings(self, lines: Sequence[Line]) -> tuple[Standing, ...]:
        """How the accounts of ``lines`` stand. Changes nothing. Raises ``StoreUnavailableError``."""

    # -- documents -------------------------------------------------------------

    @abstractmethod
    def load(self, name: str) -> bytes | None:
        """The document of that name. Raises ``StoreUnavailableError``."""

    @abstractmethod
    def swap(self, name: str, value: bytes, expected: bytes | None, ttl_s: float | None = None) -> bool:
        """Keep ``value`` if the document is ``expected`` now (``None``: there is none).

        Raises ``StoreUnavailableError``.
        """

    # -- life ------------------------------------------------------------------

    def close(self) -> None:
        """Flush, and give up what is held open. Safe to call twice."""
        self.flush()

    async def aclose(self) -> None:
        """``close``, with what belongs to the running event loop."""
        self.close()

    def renew(self) -> None:
        """After a fork: locks, connections, holds and outbox of the parent are not this process's."""
        self.outbox = deque()
        self._name_holds()

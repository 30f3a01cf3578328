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

from ..errors import ConfigError, StoreUnavailableError
from ..events import Event, StoreTrouble, log, log_failure
from ..pipeline.fork import renew_after_fork

__all__ = ["Hold", "Line", "Settlement", "Standing", "Store", "Verdict"]

AT_ONCE = 250
"""Settlements in one step of a shared store: it keeps everybody waiting meanwhile."""


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
    """One reservation: an id that no other has, and its lines, each on another account.

    Raises ``ConfigError`` for amounts, limits or slots that are no whole numbers.
    """

    __slots__ = ("id", "lines")

    def __init__(self, id: str, lines: Sequence[Line]) -> None:
        self.id = id
        self.lines = lines = tuple(lines)
        try:
            for _, amount, limit, _, slot, oldest in lines:
                # on every call's path: a sum of integers is one, and anything else in it shows
                if type(amount + slot + oldest + (limit or 0)) is not int:
                    raise TypeError
        except TypeError:
            found = [(line.amount, line.limit, line.slot, line.oldest) for line in lines]
            raise ConfigError(
                f"a store counts in whole numbers: amount, limit, slot or oldest of {found} is none"
            ) from None

    @property
    def owner(self) -> str:
        """The process that made it."""
        return self.id.rpartition("-")[0]

    def __repr__(self) -> str:
        return f"Hold({self.id!r}, {len(self.lines)} lines)"


class Settlement(NamedTuple):
    """The end of a hold: for each of its lines the amount really used, and the slot it falls into."""

    hold: Hold
    amounts: tuple[int, ...]
    slots: tuple[int, ...]

    def sound(self) -> Settlement:
        """This one; or, where it does not fit its hold, one of what was reserved, which is logged."""
        hold, amounts, slots = self
        try:
            if len(amounts) == len(slots) == len(hold.lines) and type(sum(amounts, sum(slots))) is int:
                return self
        except TypeError:
            pass
        log.error("a settlement that is not one whole number a line was booked as what was reserved")
        reserved = [(line.amount, line.slot) for line in hold.lines]
        return Settlement(hold, tuple(n for n, _ in reserved), tuple(slot for _, slot in reserved))


class Store:
    """Base of the stores. All methods may be called from any thread.

    ``inline``: nothing here does I/O, so that it may be called on an event loop. Stores that do have
    native async forms in ``areserve``, ``aflush`` and ``astandings``, or leave them ``None``.
    ``shared``: other processes see the same state. Whoever is given to ``listen`` hears of trouble and its
    end.

    Everything but ``post`` raises ``StoreUnavailableError`` where the store cannot be reached or is
    broken; ``flush`` keeps what it could not apply and says so by its answer.
    """

    inline: bool = False
    shared: bool = True
    name: str = "store"
    areserve: Callable[[Hold], Awaitable[Verdict]] | None = None
    aflush: Callable[[], Awaitable[bool]] | None = None
    astandings: Callable[[Sequence[Line]], Awaitable[tuple[Standing, ...]]] | None = None

    def __init__(self) -> None:
        self._alone = 0  # so many settlements are applied one by one: one of them cannot be
        self._listeners: tuple[Callable[[Event], None], ...] = ()
        self.outbox: deque[Settlement] = deque()
        self._name_holds()
        renew_after_fork(self)

    def _name_holds(self) -> None:
        """``owner`` is this process's name among those that share the store."""
        self.owner = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    def hold(self, lines: Sequence[Line]) -> Hold:
        """A hold to be reserved here. Raises ``ConfigError`` for anything but whole numbers."""
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
        self.outbox.append(settlement.sound())

    def give_back(self, hold: Hold) -> None:
        """``hold`` was not used: settle it with nothing. Harmless for one that was never reserved."""
        none = (0,) * len(hold.lines)
        self.post(Settlement(hold, none, tuple(line.slot for line in hold.lines)))

    def flush(self) -> bool:
        """Apply what is in the outbox. False where some of it has to wait for better times."""
        try:
            while self.outbox:
                with self.outgoing() as batch:
                    self.apply(batch)
        except StoreUnavailableError:
            return False
        return True

    @contextmanager
    def outgoing(self) -> Iterator[list[Settlement]]:
        """The next of the outbox, taken out; put back if the block raises.

        Where it raises anything but ``StoreUnavailableError``, nothing but a fault in one of them can be
        the cause: then each is applied alone, and what cannot be is given up, which is told.
        """
        batch: list[Settlement] = []
        most = 1 if self._alone else AT_ONCE
        while self.outbox and len(batch) < most:
            try:
                batch.append(self.outbox.popleft())
            except IndexError:  # another thread was quicker
                break
        try:
            yield batch
        except StoreUnavailableError:
            self.outbox.extendleft(reversed(batch))
            raise
        except Exception:
            if len(batch) == 1:
                self._give_up(batch[0])
            else:
                self.outbox.extendleft(reversed(batch))
                self._alone = len(batch) + 1
        except BaseException:
            self.outbox.extendleft(reversed(batch))
            raise
        self._alone = max(0, self._alone - 1)

    def _give_up(self, settlement: Settlement) -> None:
        log_failure(f"{settlement.hold!r} could not be settled, and is given up")
        text = f"{settlement.hold!r} could not be settled: what it used is booked nowhere"
        self.tell(StoreTrouble(store=self.name, ok=False, text=text))

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

    # -- listeners -------------------------------------------------------------

    def listen(self, emit: Callable[[Event], None]) -> None:
        """Tell ``emit`` of trouble too. What it raises is logged."""
        if emit not in self._listeners:
            self._listeners += (emit,)

    def unlisten(self, emit: Callable[[Event], None]) -> None:
        """Tell ``emit`` no more."""
        self._listeners = tuple(each for each in self._listeners if each != emit)

    @property
    def emit(self) -> Callable[[Event], None] | None:
        """The first listener, if there is one. To set it replaces all of them."""
        return self._listeners[0] if self._listeners else None

    @emit.setter
    def emit(self, emit: Callable[[Event], None] | None) -> None:
        self._listeners = () if emit is None else (emit,)

    def tell(self, event: Event) -> None:
        """Tell all listeners. Not to be called under a lock."""
        for emit in self._listeners:
            try:
                emit(event)
            except Exception:
                log_failure(f"a listener failed on {type(event).__name__}")

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

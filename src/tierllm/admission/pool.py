"""A pool of permits, handed over in the order of arrival."""

from __future__ import annotations

import threading
from collections import OrderedDict
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..pipeline.effects import Ticket

if TYPE_CHECKING:
    from ..pipeline.effects import Grant
    from ..types import Call

__all__ = ["Permit", "Pool"]


class Permit:
    """One place in a pool. A context manager; releasing it twice is harmless."""

    __slots__ = ("pool",)

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def release(self) -> None:
        self.pool.take_back(self)

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.pool.take_back(self)


class Pool:
    """At most ``size`` permits at once, for threads and tasks alike, in order of arrival (FIFO).

    ``max_waiting`` bounds the queue; ``None`` is no bound. The permits in use are a set: adding
    and discarding are single steps that an interrupt (Ctrl-C) cannot split, so the count cannot
    drift.
    """

    def __init__(self, size: int, *, name: str = "", max_waiting: int | None = None) -> None:
        if size < 1:
            raise ConfigError(f"a pool needs room for at least one call, not {size}")
        self.name = name
        self.size = size
        self.max_waiting = max_waiting
        self.peak = 0
        self._held: set[Permit] = set()
        self._queue: OrderedDict[Ticket, Permit] = OrderedDict()
        self._lock = threading.RLock()  # reentrant: garbage collection may end a flow right here

    @property
    def in_use(self) -> int:
        return len(self._held)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def full(self) -> bool:
        """True when a newcomer would have to wait and the queue takes no more."""
        return (
            len(self._held) >= self.size
            and self.max_waiting is not None
            and len(self._queue) >= self.max_waiting
        )

    def take(self, owner: list[Permit] | list[Grant]) -> Permit | None:
        """A permit, if one is free and nobody waits for it."""
        with self._lock:
            held = self._held
            if self._queue or len(held) >= self.size:
                return None
            permit = Permit(self)
            owner.append(permit)  # first, so that an interrupt between the two cannot lose it
            held.add(permit)
            if len(held) > self.peak:
                self.peak = len(held)
            return permit

    def enter(self, ticket: Ticket, call: Call | None = None) -> bool:
        with self._lock:
            self._queue[ticket] = Permit(self)
        self._hand_out()
        return ticket.grant is not None

    def leave(self, ticket: Ticket) -> None:
        with self._lock:
            permit = self._queue.pop(ticket, ticket.grant)
        if permit is not None:
            permit.release()

    def take_back(self, permit: Permit) -> None:
        """The permit's place is free again. Harmless where it was given back before."""
        self._held.discard(permit)
        if self._queue:
            self._hand_out()

    def _hand_out(self) -> None:
        """Give free permits to those who wait. A waiter who cannot be woken any more is skipped.

        Each one stays in the queue, with the permit that is meant for it, until it has been told:
        wherever an interrupt strikes, the next release takes up the work from there.
        """
        held, queue = self._held, self._queue
        while True:
            with self._lock:
                if not queue:
                    return
                ticket, permit = next(iter(queue.items()))
                if ticket.grant is None:
                    if permit not in held and len(held) >= self.size:
                        return
                    held.add(permit)
                    self.peak = max(self.peak, len(held))
                if not ticket.give(permit):
                    held.discard(permit)
                queue.pop(ticket, None)

    def renew(self) -> None:
        """After a fork: the parent's permits and waiters do not exist here."""
        self._lock = threading.RLock()
        self._held = set()
        self._queue = OrderedDict()

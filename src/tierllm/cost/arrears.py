"""What calls that went on without their store still owe it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import StoreUnavailableError
from ..stores import Settlement

if TYPE_CHECKING:
    from ..stores import Store
    from .purchase import Taken

__all__ = ["Arrears"]

KEPT = 100_000

log = logging.getLogger("tierllm")


class Arrears:
    """To be booked when the store is back. Thread-safe."""

    def __init__(self) -> None:
        self.owed: deque[tuple[Store, Settlement]] = deque()
        self._paying = threading.Lock()

    def __len__(self) -> int:
        return len(self.owed)

    def owe(self, lost: Taken, used: Sequence[int], now: float) -> None:
        """A call went on without its store, and cost something."""
        unlimited = [line._replace(amount=0, limit=None) for line in lost.hold.lines]
        slots = tuple(draw.budget.window.at(now).slot for draw in lost.draws)
        if len(self.owed) == KEPT:
            log.error(
                "a store has been away for too long: what %s cost is in no budget", lost.draws[0].bucket
            )
            return
        self.owed.append((lost.store, Settlement(lost.store.hold(unlimited), tuple(used), slots)))

    def pay(self) -> None:
        """Book what is owed, as far as stores can be reached. One thread at a time; the next waits."""
        with self._paying:
            away: set[int] = set()
            for owed in tuple(self.owed):
                store, settlement = owed
                if id(store) in away:
                    continue
                try:
                    store.reserve(settlement.hold)
                except StoreUnavailableError:  # reserving it again is harmless
                    away.add(id(store))
                    continue
                store.post(settlement)
                self.owed.remove(owed)
                store.flush()

    def renew(self) -> None:
        """After a fork: what is owed is the parent's to pay."""
        self.owed = deque()
        self._paying = threading.Lock()

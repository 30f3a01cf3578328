"""What a client has for life, whatever its configuration becomes."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..events import Listener, emitter
from ..pipeline.host import Host

if TYPE_CHECKING:
    from ..events import Event
    from ..pipeline.clock import Clock
    from ..resilience.retry import RetryBudget

__all__ = ["Ground"]


class Ground:
    """Time, chance, listeners, the flows under way, and the names of traces."""

    def __init__(
        self, clock: Clock, rng: random.Random, listeners: Sequence[Listener], retry_budget: RetryBudget
    ) -> None:
        self.clock = clock
        self.wall: Callable[[], float] = time.time if clock is time.monotonic else clock
        self.rng = rng
        self.emit: Callable[[Event], None] | None = emitter(listeners) if listeners else None
        self.host = Host(clock)
        self.retry_budget = retry_budget
        retry_budget.bind(clock)
        self._new_ids()

    def trace_id(self) -> str:
        """Unique across processes, and one step each, so that threads cannot share one."""
        return f"{self._prefix}-{next(self.numbers):x}"

    def renew(self) -> None:
        """After a fork."""
        self._new_ids()
        self.host.renew()
        self.retry_budget.renew()

    def _new_ids(self) -> None:
        self._prefix = os.urandom(5).hex()
        self.numbers = itertools.count(1)

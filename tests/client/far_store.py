"""A store that is somewhere else: it has an outbox, takes its time, and can be out of reach."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tierllm.errors import StoreUnavailableError
from tierllm.stores import Hold, Line, MemoryStore, Settlement, Standing, Store, Verdict


class FarStore(MemoryStore):
    """``down``: nothing reaches it. ``mute``: everything reaches it, and no answer comes back."""

    inline = False
    shared = True

    def __init__(self, *, native: bool = False) -> None:
        super().__init__()
        self.down = False
        self.mute = False
        self.applied = 0
        if native:
            self.areserve = self._areserve
            self.aflush = self._aflush

    def _out(self) -> None:
        if self.down:
            raise StoreUnavailableError("the store cannot be reached")

    def _back(self) -> None:
        if self.mute:
            raise StoreUnavailableError("the store does not answer")

    def reserve(self, hold: Hold) -> Verdict:
        self._out()
        verdict = super().reserve(hold)
        self._back()
        return verdict

    async def _areserve(self, hold: Hold) -> Verdict:
        await asyncio.sleep(0)
        self._out()
        verdict = MemoryStore.reserve(self, hold)
        await asyncio.sleep(0)
        self._back()
        return verdict

    async def _aflush(self) -> bool:
        await asyncio.sleep(0)
        done = self.flush()
        await asyncio.sleep(0)
        return done

    def post(self, settlement: Settlement) -> None:
        Store.post(self, settlement)

    def flush(self) -> bool:
        return Store.flush(self)

    def apply(self, batch: Sequence[Settlement]) -> None:
        self._out()
        before = len(self._open)
        super().apply(batch)
        self.applied += before - len(self._open)
        self._back()

    def standings(self, lines: Sequence[Line]) -> tuple[Standing, ...]:
        self._out()
        return super().standings(lines)

    def told(self) -> tuple[int, int]:
        """All that is settled and reserved, in whatever units."""
        accounts = self._accounts.values()
        return sum(a.settled for a in accounts), sum(a.reserved for a in accounts)

"""Reserving as an effect: what was reserved for a call that is cancelled meanwhile is given back."""

from __future__ import annotations

from functools import partial

from ..pipeline.effects import Blocking
from .base import Hold, Store, Verdict

__all__ = ["reserving"]


def reserving(store: Store, hold: Hold) -> Blocking[Verdict]:
    """Reserve ``hold``, sync or async; where that fails it may have happened all the same, and is undone."""

    def reserve() -> Verdict:
        try:
            return store.reserve(hold)
        except BaseException:
            store.give_back(hold)
            raise

    native = store.areserve
    if native is None:
        return Blocking(reserve, undo=partial(_undo, store, hold))

    async def areserve() -> Verdict:
        try:
            return await native(hold)
        except BaseException:
            store.give_back(hold)
            raise

    return Blocking(reserve, undo=partial(_undo, store, hold), afn=areserve)


def _undo(store: Store, hold: Hold, _: Verdict) -> None:
    """The call was cancelled while its hold was being reserved."""
    store.give_back(hold)
    store.flush()

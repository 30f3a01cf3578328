"""The arithmetic of one account. Pure state, for stores that keep accounts in Python."""

from __future__ import annotations

from .base import Standing

__all__ = ["Account"]

SLOTS_KEPT = 512
"""Slots that are over are kept a while, since a clock may be set back; of these at most so many."""


class Account:
    """What was settled, by slot, and what is reserved. Not thread-safe: its store has the lock."""

    __slots__ = ("expires_at", "reserved", "settled", "slots")

    def __init__(self) -> None:
        self.settled = 0  # in slot 0, all there is for an account that does not slide
        self.slots: dict[int, int] | None = None
        self.reserved = 0
        self.expires_at = 0.0

    def standing(self, oldest: int) -> Standing:
        slots = self.slots
        if slots is None:  # on every call's path: what Standing(...) does, without its own function
            if not self.settled or oldest > 0:
                return tuple.__new__(Standing, (0, self.reserved, None))
            return tuple.__new__(Standing, (self.settled, self.reserved, 0))
        live = [slot for slot in slots if slot >= oldest]
        return Standing(sum(slots[slot] for slot in live), self.reserved, min(live, default=None))

    def settle(self, amount: int, slot: int, oldest: int) -> None:
        """Book ``amount`` in ``slot``. Slots before ``oldest`` are over."""
        if slot == 0 and self.slots is None:
            self.settled += amount
            return
        if not amount:
            return
        slots = self.slots
        if slots is None:
            slots = self.slots = {0: self.settled} if self.settled else {}
        slots[slot] = slots.get(slot, 0) + amount
        if len(slots) > SLOTS_KEPT:
            for over in sorted(s for s in slots if s < oldest)[: len(slots) - SLOTS_KEPT]:
                del slots[over]

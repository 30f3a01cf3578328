"""What the cache knows of one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .flights import Flight
    from .key import Key
    from .returned import Returned
    from .stack import Found

__all__ = ["CallLookup", "Lookup"]


class Lookup:
    """One question to the cache. Without a ``key`` the cache does not apply to it.

    ``mode`` is the call's ``cache=``, or ``"renew"``: an old answer is served meanwhile. ``scope`` names
    those who share its answer, ``slot`` is where that would be kept, ``generation`` the last notice known
    when it was asked, ``spare`` an entry that may not be served now: it is of a lower tier, or old.
    ``asked_at`` is when a tier was asked, ``returned`` what a wrapped function returned. ``alone``: not to
    be answered from what is there, nor together with others. ``altered``: the call was made smaller on
    its way, so that its answer is not what was asked for. ``up_to_date``: the boards had been read.
    ``flights`` are those that the call founded, with budgets of its own.
    """

    __slots__ = (
        "alone",
        "altered",
        "asked_at",
        "flights",
        "generation",
        "key",
        "mode",
        "returned",
        "scope",
        "slot",
        "spare",
        "up_to_date",
    )

    def __init__(self, mode: str, flights: list[Flight] | None = None) -> None:
        self.mode = mode
        self.key: Key | None = None
        self.scope = ""
        self.slot = b""
        self.generation = 0
        self.asked_at = 0.0
        self.alone = False
        self.altered = False
        self.up_to_date = False
        self.spare: Found | None = None
        self.returned: Returned | None = None
        self.flights: list[Flight] = [] if flights is None else flights


class CallLookup(Lookup):
    """What a call begins with: a client's policy may ask the cache more than once for it.

    ``latest`` is the last question, and ``slots`` are those that it has asked for.
    """

    __slots__ = ("latest", "slots")

    def __init__(self, mode: str) -> None:
        super().__init__(mode)
        self.latest: Lookup | None = None
        self.slots: list[bytes] = []

    def another(self) -> Lookup:
        self.latest = Lookup(self.mode, self.flights)
        return self.latest

    def asks_again(self, slot: bytes) -> bool:
        """Whether what there is for ``slot`` would not do before."""
        again = slot in self.slots
        self.slots.append(slot)
        return again

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
    ``flights`` are those that the call founded, with budgets of its own. ``wanted`` is the tier whose answer
    will do.
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
        "wanted",
    )

    def __init__(self, mode: str, flights: list[Flight] | None = None) -> None:
        self.mode = mode
        self.key: Key | None = None
        self.scope = ""
        self.wanted = ""
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

    ``questions`` are the first ones for each slot, ``answered`` the slots for which there was an answer,
    or will be.
    """

    __slots__ = ("answered", "questions")

    def __init__(self, mode: str) -> None:
        super().__init__(mode)
        self.questions: dict[bytes, Lookup] = {}
        self.answered: set[bytes] = set()

    def asks(self, look: Lookup) -> None:
        """``look`` is about to be answered. One that was answered before asks for something else."""
        look.alone = look.slot in self.answered and look.mode != "only"
        self.answered.add(look.slot)
        self.questions.setdefault(look.slot, look)

"""What the cache knows of one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .flights import Flight
    from .key import Key
    from .returned import Returned
    from .stack import Found

__all__ = ["Lookup"]


class Lookup:
    """Shared by all copies of a call. ``mode`` is its ``cache=``, or ``"renew"``: an old answer is served
    meanwhile. Without a ``key`` the cache does not apply to it.

    ``slot`` is where its answer would be kept, ``generation`` the last notice known when it began,
    ``spare`` an entry that may not be served now: it is of a lower tier, or old. ``returned`` is what a
    wrapped function returned. ``altered``: the call was made smaller on its way, so that its answer is
    not what was asked for. ``up_to_date``: the boards had been read when it began.
    """

    __slots__ = (
        "altered",
        "flights",
        "generation",
        "key",
        "mode",
        "returned",
        "slot",
        "spare",
        "up_to_date",
    )

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.key: Key | None = None
        self.slot = b""
        self.generation = 0
        self.altered = False
        self.up_to_date = False
        self.spare: Found | None = None
        self.returned: Returned | None = None
        self.flights: tuple[Flight, ...] = ()

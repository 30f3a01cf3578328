"""How accounts stood when this process last drew on them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ..stores import Standing
from .budget import lines_of

if TYPE_CHECKING:
    from .budget import Draw

__all__ = ["NEVER_SEEN", "LastSeen"]

KEPT = 10_000
NEVER_SEEN = Standing(0, 0)


class LastSeen:
    """The accounts that were used lately, as a shared store told of them. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Standing, int]] = {}
        self._lock = threading.Lock()

    def of(self, draw: Draw) -> Standing:
        """How an account stood; a store that is no further away than memory is asked."""
        if draw.store.inline:
            return draw.store.standings(lines_of((draw,)))[0]
        standing, slot = self._known.get(draw.account, (NEVER_SEEN, 0))
        return standing if slot >= draw.span.oldest else NEVER_SEEN  # all of that is over by now

    def note(self, draw: Draw, standing: Standing) -> None:
        known = self._known
        with self._lock:
            known.pop(draw.account, None)
            if len(known) >= KEPT:
                del known[next(iter(known))]  # the one that was used least lately
            known[draw.account] = standing, draw.span.slot

    def renew(self) -> None:
        """After a fork."""
        self._known = {}
        self._lock = threading.Lock()

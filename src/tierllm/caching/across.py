"""One flight across processes: who asks, and who waits for the others' answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..pipeline.effects import Blocking, Sleep
from ..pipeline.tape import FlightLost

if TYPE_CHECKING:
    from .flights import Flight
    from .layer import Layer
    from .lookup import Lookup
    from .policy import Caching
    from .stack import Found

__all__ = ["Across"]

LOOK_AGAIN_S, LOOK_AGAIN_AT_MOST_S = 0.01, 0.25
"""How soon one looks whether another process has the answer: at first, and after a while."""

MOST_WAITED_S = 600.0
"""So long another process is waited for that is alive, but does not come to an end."""


class Across:
    """A flight claims its slot in the first shared layer that can be asked."""

    def __init__(self, caching: Caching) -> None:
        self._caching = caching
        self._cache = caching.cache
        self._layers = [layer for layer in caching.cache.layers if layer.shared]

    async def meanwhile(self, flight: Flight, look: Lookup) -> Found | None:
        """The answer, if somebody has it ready by now; waits for other processes that are making it.

        A renewal, which nobody waits for, does not wait either: ``FlightLost``.
        """
        caching, call = self._caching, flight.call
        if look.mode == "refresh":
            return None
        found = caching.usable(caching.peek(look), call, call.tier)
        if found is not None or not self._layers or caching.origins.all_own(call.tier):
            return found
        pause_s, waited_s = LOOK_AGAIN_S, 0.0
        while waited_s < MOST_WAITED_S:
            taken, flight.claimed = await Blocking(
                lambda: self._claim(flight), undo=lambda claim: self.give(claim[1], flight)
            )
            found = caching.usable(await caching.find(look), call, call.tier)
            if found is not None or taken:
                return found
            if look.mode == "renew":
                raise FlightLost
            left_s = flight.scope.remaining_s()  # up to the deadline it may come
            await Sleep(pause_s if left_s is None or left_s > pause_s else max(left_s / 2, LOOK_AGAIN_S))
            waited_s += pause_s
            pause_s = min(pause_s * 1.5, LOOK_AGAIN_AT_MOST_S)
        return None

    def _claim(self, flight: Flight) -> tuple[bool, Layer | None]:
        """Whether this process is to make it, and the layer that has its claim, if one could be asked."""
        for layer in self._layers:
            try:
                taken = self._cache.claims.take(layer, flight.key)
            except Exception as error:
                self._cache.stack.failed(layer, error)
                continue
            return taken, layer if taken else None
        return True, None

    def give(self, layer: Layer | None, flight: Flight) -> None:
        if layer is not None:
            self._cache.claims.give(layer, flight.key)

    def behind(self, flight: Flight, write: Callable[[], object]) -> None:
        """Do a write that nobody waits for; what is claimed is given back after it, when others look."""
        claimed, flight.claimed = flight.claimed, None

        def done() -> None:
            try:
                write()
            finally:
                self.give(claimed, flight)

        self._caching.host.soon(done)

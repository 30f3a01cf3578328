"""Old answers are made anew behind the back of the call that they are served to."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ..errors import ClientClosedError
from ..events import CacheRefreshed, log_failure
from ..pipeline.effects import Spawn
from ..pipeline.tape import FlightLost
from ..types import Response
from .flights import Flight, Led
from .flown import flight_key
from .lookup import Lookup

if TYPE_CHECKING:
    from ..types import Call
    from .flown import Flown
    from .policy import Caching

__all__ = ["Renewal"]

MOST_AT_ONCE = 16
"""So many old answers are made anew at once; others wait until somebody asks for them again."""


class Renewal:
    """Spawns a flight that nobody has to wait for, but which anybody may join."""

    def __init__(self, caching: Caching, flown: Flown) -> None:
        self._caching = caching
        self._flown = flown
        self._counts = caching.cache.counts
        self.renew()

    def renew(self) -> None:
        """After a fork."""
        self._room = threading.Semaphore(MOST_AT_ONCE)

    async def refresh(self, call: Call, look: Lookup, tier: str) -> None:
        """Have the answer made anew by ``tier``, while the old one is served."""
        if not self._room.acquire(blocking=False):
            return
        try:
            await self._begun(call, look, tier)
        except ClientClosedError:
            self._room.release()
            raise
        except Exception:  # the old answer is there all the same
            self._room.release()
            log_failure("an old answer could not be made anew")

    async def _begun(self, call: Call, look: Lookup, tier: str) -> None:
        flown = self._flown
        own = self._caching.renewed(call)
        own.lookup = fresh = Lookup("renew")
        fresh.key, fresh.slot, fresh.generation = look.key, look.slot, look.generation
        flight, founder = flown.flights.join(
            flight_key(look, tier), own, lambda flight: flown.alike(flight, own)
        )
        if not founder:
            flown.flights.leave(flight, founder=False)
            self._room.release()
            return
        own.tier, own.scope, own.messages = tier, flight.scope, call.messages
        flow = Led(self._refreshed(flight), lambda: self._over(flight))
        await flown.spawned(Spawn(flow, None, flight.scope), flight)

    async def _refreshed(self, flight: Flight) -> Response:
        call = flight.call
        failure: str | None = ""
        try:
            response = await self._flown.plain(flight, self._caching.lines(call.tier))
            failure = None
        except FlightLost:  # another process is at it
            return Response()
        except Exception as error:
            failure = type(error).__name__
            return Response()
        finally:
            self._over(flight, failure)
        return response

    def _over(self, flight: Flight, failure: str | None = "") -> None:
        """A renewal has ended; ``""``: without an outcome."""
        call = flight.call
        self._room.release()
        self._flown.lost(flight)
        self._flown.flights.leave(flight, founder=True)
        for cap in call.caps:
            cap.close()
        if failure == "":
            return
        self._counts.count("refresh_failures" if failure else "refreshed")
        if self._caching.emit is not None:
            trace_id = "" if call.trace is None else call.trace.id
            self._caching.emit(CacheRefreshed(trace_id=trace_id, tier=call.tier, error=failure))

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
from .lookup import Lookup

if TYPE_CHECKING:
    from ..types import Call
    from .flown import Flown
    from .policy import Caching

__all__ = ["Renewal"]

MOST_AT_ONCE = 16
"""So many old answers are made anew at once; others wait until somebody asks for them again."""


TRY_AGAIN_S = 5.0
"""So long after a failure the old answer is served without another try."""

FAILURES_KEPT = 1000


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
        self._failures: dict[bytes, float] = {}

    async def refresh(self, call: Call, look: Lookup, tier: str) -> None:
        """Have the answer made anew by ``tier``, while the old one is served."""
        flown = self._flown
        if self._failed_lately(look.slot):
            return
        if not self._room.acquire(blocking=False):
            flown.flights.abandon_dead()
            if not self._room.acquire(blocking=False):
                return
        try:
            own = self._caching.renewed(call)
        except ClientClosedError:
            self._room.release()
            raise
        except Exception:
            self._room.release()
            log_failure("an old answer could not be made anew")
            return
        own.lookup = fresh = Lookup("renew")
        fresh.key, fresh.slot, fresh.scope = look.key, look.slot, look.scope
        fresh.generation = look.generation
        flight, founder = flown.flights.join(
            flown.key(own, look, tier), own, lambda flight: flown.alike(flight, own)
        )
        if not founder:
            flown.flights.leave(flight, founder=False)
            self._room.release()
            return
        own.tier, own.scope, own.messages, own.plan = tier, flight.scope, call.messages, call.plan
        flight.abandon = lambda: self._over(flight)  # from here on, it gives back what it holds
        flow = Led(self._refreshed(flight), flight.abandon)
        try:
            await flown.spawned(Spawn(flow, None, flight.scope), flight)
        except ClientClosedError:
            raise
        except Exception:  # the old answer is there all the same
            log_failure("an old answer could not be made anew")

    def _failed_lately(self, slot: bytes) -> bool:
        failed_at = self._failures.get(slot)
        return failed_at is not None and self._caching.host.clock() < failed_at + TRY_AGAIN_S

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
        if flight.released:
            return  # it has been given up before
        flight.released = True
        self._room.release()
        self._flown.lost(flight)
        self._flown.flights.leave(flight, founder=True)
        for cap in call.caps:
            cap.close()
        if failure == "":
            return
        self._counts.count("refresh_failures" if failure else "refreshed")
        self._note(flight.slot, failed=bool(failure))
        if self._caching.emit is not None:
            trace_id = "" if call.trace is None else call.trace.id
            self._caching.emit(CacheRefreshed(trace_id=trace_id, tier=call.tier, error=failure))

    def _note(self, slot: bytes, *, failed: bool) -> None:
        failures = self._failures
        failures.pop(slot, None)
        if failed:
            if len(failures) >= FAILURES_KEPT:
                self._failures = failures = {}
            failures[slot] = self._caching.host.clock()

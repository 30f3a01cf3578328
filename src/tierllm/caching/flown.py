"""What the cache does to a call that comes to a tier: lets it join another one, and keeps its answer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Literal

from ..errors import DeadlineExceededError, RejectedError, StoreUnavailableError
from ..events import CacheRefreshed
from ..pipeline.effects import Blocking, Follow, Handler, Sleep, Spawn
from ..pipeline.tape import FlightLost
from ..providers.parsing import parsed
from ..types import Response, Trace
from .entry import Entry
from .flights import Flight, Flights, Led
from .lookup import Lookup
from .notices import Begun
from .returned import pack, unpack
from .storable import storable

if TYPE_CHECKING:
    from ..types import Call
    from .layer import Layer
    from .policy import Caching
    from .stack import Found, Soon

__all__ = ["Flown"]

LOOK_AGAIN_S, LOOK_AGAIN_AT_MOST_S = 0.01, 0.25
"""How soon one looks whether another process has the answer: at first, and after a while."""

MOST_WAITED_S = 600.0
"""So long another process is waited for that is alive, but does not come to an end."""

MOST_REFRESHES = 16
"""So many old answers are made anew at once; others wait until somebody asks for them again."""


class Flown:
    """Identical calls at once become one flight: a flow of its own, which all of them follow.

    There is no leader whose leaving could hurt others; the last to leave cancels the flight.
    """

    def __init__(self, caching: Caching) -> None:
        self.flights = Flights()
        self._caching = caching
        self._cache = caching.cache
        self._counts = caching.cache.counts
        self._refreshing = 0

    def renew(self) -> None:
        """After a fork."""
        self.flights.renew()
        self._refreshing = 0

    async def __call__(self, call: Call, look: Lookup, handler: Handler) -> Response:
        caching, spare = self._caching, look.spare
        now = caching.wall()
        if (
            spare is not None
            and spare.entry.tier == call.tier
            and now < spare.entry.fresh_until
            and await caching.still_valid(spare, look)
        ):
            return caching.hit(spare, call, "hit", now, missed=True)
        if self._cache.mode == "observe" or not self._cache.one_flight:
            return await self._asked(call, look, handler)
        key = _flight_key(look, call.tier)
        while True:
            flight, founder = self.flights.join(key, call, lambda flight: self._alike(flight, call))
            try:
                if not founder:
                    response = await Follow(flight.tape)
                elif call.driven == "sync" and (flight.scope.deadline_at is None or call.target is not None):
                    return await self._inline(flight, call, handler)
                else:
                    response = await self._lead(flight, call, look, handler)
            except FlightLost:
                continue
            except Exception as error:
                if not founder and _own_affair(error, call):
                    continue
                flight.tell(call, founder, error)
                raise
            finally:
                self.flights.leave(flight, founder=founder)
            flight.tell(call, founder, None)
            if founder:
                return copy.copy(response)
            shared = self._shared(response, call, flight)
            return await handler(call) if shared is None else shared

    def _alike(self, flight: Flight, call: Call) -> bool:
        """Whether the flight's answer, begun when it was, may be the call's: hashes may be the same."""
        theirs, own = flight.call.lookup, call.lookup
        if theirs is None or theirs.key is None or own is None or own.key is None:
            return False
        if theirs.key.canonical != own.key.canonical:
            return False
        request = flight.call.request
        begun = Begun(theirs.generation, self._caching.tenant(request), request.tags, request.depends_on)
        return self._cache.boards.notices.allow(begun, own.slot)

    # -- leading -----------------------------------------------------------------------

    async def _inline(self, flight: Flight, call: Call, handler: Handler) -> Response:
        """Lead in the caller's own thread, which nobody can call off, and which a wrapped function knows."""
        assert call.scope is not None
        flight.scope, flight.inline, flight.begun = call.scope, True, True
        flight.leads(call.trace)
        return await self._plain(flight, handler)

    async def _lead(self, flight: Flight, call: Call, look: Lookup, handler: Handler) -> Response:
        """Lead in a flow of its own, so that the founder may leave as well as any other."""
        own = call.copy()
        own.scope = flight.scope
        if call.trace is not None:
            own.trace = Trace(call.trace.id, call.trace.asked, call.trace.granted)
        self.flights.leads(flight, own)
        if call.caps:
            look.flights += (flight,)
        if call.driven in ("sync", "async"):
            flow, tape = self._plain(flight, handler), None
        else:
            flow, tape = self._made(flight, handler), flight.tape
        spawn = Spawn(Led(flow, lambda: self._lost(flight)), tape, flight.scope)
        await self._spawned(spawn, flight)
        return await Follow(flight.tape)

    async def _spawned(self, spawn: Spawn, flight: Flight) -> None:
        try:
            await spawn
        except BaseException:
            spawn.flow.close()
            raise
        flight.begun = True

    def _lost(self, flight: Flight) -> None:
        """Its event loop ended before its first step."""
        self._landed(flight)
        flight.tape.end(error=FlightLost())

    async def _plain(self, flight: Flight, handler: Handler) -> Response:
        """``_made``, where no driver writes the tape."""
        try:
            response = await self._made(flight, handler)
        except BaseException as error:
            flight.tape.end(error=error)
            raise
        flight.tape.end(copy.copy(response))  # the founder's is his own, to do with as he likes
        return response

    async def _made(self, flight: Flight, handler: Handler) -> Response:
        """Ask the tier, unless the answer has come meanwhile; and keep what it says."""
        caching, call = self._caching, flight.call
        look = call.lookup
        assert look is not None
        try:
            found = await self._meanwhile(flight, look)
            if found is not None:
                if look.mode == "renew":
                    raise FlightLost  # somebody else has renewed it
                flight.answered_by, flight.worth_usd = found.layer, found.entry.cost_usd
                return caching.hit(found, call, "hit", caching.wall(), missed=True)
            return await self._asked(call, look, handler, flight)
        finally:
            self._landed(flight)

    def _landed(self, flight: Flight) -> None:
        self.flights.landed(flight)
        claimed = flight.claimed
        if claimed is not None:
            self._caching.host.soon(lambda: self._give(claimed, flight))
        if flight.closes:
            for cap in flight.call.caps:
                cap.close()

    # -- other processes ---------------------------------------------------------------

    async def _meanwhile(self, flight: Flight, look: Lookup) -> Found | None:
        """The answer, if somebody has it ready by now; waits for other processes that are making it.

        A renewal, which nobody waits for, does not wait either: ``FlightLost``.
        """
        caching, call = self._caching, flight.call
        if look.mode == "refresh":
            return None
        found = caching.usable(caching.peek(look), call, call.tier)
        layers = [layer for layer in self._cache.layers if layer.shared]
        if found is not None or not layers:
            return found
        pause_s, waited_s = LOOK_AGAIN_S, 0.0
        while waited_s < MOST_WAITED_S:
            taken, flight.claimed = await Blocking(
                lambda: self._claim(flight, layers), undo=lambda claim: self._give(claim[1], flight)
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

    def _claim(self, flight: Flight, layers: Sequence[Layer]) -> tuple[bool, Layer | None]:
        """Whether this process is to make it, and the layer that has its claim, if one could be asked."""
        for layer in layers:
            try:
                taken = self._cache.claims.take(layer, flight.key)
            except StoreUnavailableError:
                continue
            return taken, layer if taken else None
        return True, None

    def _give(self, layer: Layer | None, flight: Flight) -> None:
        if layer is not None:
            self._cache.claims.give(layer, flight.key)

    # -- keeping -----------------------------------------------------------------------

    async def _asked(
        self, call: Call, look: Lookup, handler: Handler, flight: Flight | None = None
    ) -> Response:
        """What the tier says; it is kept, unless the tier's prompt said other words meanwhile."""
        origins, request = self._caching.origins, call.request
        before = origins.wording(call.tier, request)
        response = await handler(call)
        changed = before != origins.wording(call.tier, request)
        soon = self._caching.host.soon if flight is None else partial(self._behind, flight)
        await self._keep(call, look, response, soon, changed=changed)
        return response

    def _behind(self, flight: Flight, write: Callable[[], object]) -> None:
        """Do a write that nobody waits for; what is claimed is given back after it, when others look."""
        claimed, flight.claimed = flight.claimed, None

        def done() -> None:
            try:
                write()
            finally:
                self._give(claimed, flight)

        self._caching.host.soon(done)

    async def _keep(self, call: Call, look: Lookup, response: Response, soon: Soon, *, changed: bool) -> None:
        caching, cache, request = self._caching, self._cache, call.request
        origin = caching.origins.place(response.tier, response.deployment)
        made_by = None if origin is None else origin.fingerprint(request)
        tenant = caching.tenant(request)
        look.returned = pack(response.raw) if call.target is not None else None
        if (
            made_by is None
            or changed
            or look.key is None
            or response.warnings
            or not storable(response, request, returned=look.returned)
            or cache.boards.notices.outdated(request.depends_on, tenant)
            or not cache.boards.notices.allow(
                Begun(look.generation, tenant, request.tags, request.depends_on), look.slot
            )
            or (look.mode != "refresh" and self._has_better(call, look, response))
        ):
            self._counts.count("not_kept")
            return
        now = caching.wall()
        ttl_s = cache.ttl_of(response.tier) if request.cache_ttl_s is None else request.cache_ttl_s
        fresh_until = now + ttl_s * (1 - cache.jitter * caching.rng.random())
        stale_s = max(cache.stale_while_revalidate_s, cache.stale_if_error_s)
        entry = Entry.of(
            response,
            look.key,
            fingerprint=made_by,
            made_at=now,
            fresh_until=fresh_until,
            stale_until=fresh_until + stale_s,
            latency_s=_latency_s(call),
            depends=request.depends_on,
            tags=request.tags,
            tenant=tenant,
            generation=look.generation,
            returned=look.returned,
        )
        await cache.stack.keep(look.slot, entry, now, soon)
        self._counts.count("kept")

    def _has_better(self, call: Call, look: Lookup, response: Response) -> bool:
        """Whether a higher tier has answered meanwhile, for those who may come to it."""
        caching, tier = self._caching, response.tier
        assert tier is not None
        found = caching.usable(caching.peek(look), call, tier)
        return found is not None and found.entry.tier != tier

    # -- following -----------------------------------------------------------------------

    def _shared(self, response: Response, call: Call, flight: Flight) -> Response | None:
        """A follower's own copy: it was made for somebody else, who paid for it.

        ``None``: what a wrapped function returned cannot be copied.
        """
        caching = self._caching
        saved_usd = response.cost_usd if flight.answered_by is None else flight.worth_usd
        twin = copy.copy(response)
        twin.trace = twin.raw = None
        if call.target is not None:
            look = flight.call.lookup
            if look is None or look.returned is None:
                return None
            twin.raw = unpack(look.returned)
        if response.parsed is not None:
            place, asked = caching.origins.place(response.tier, response.deployment), call.request.params
            params = asked if place is None else place.params(asked)
            twin.parsed = parsed(response.text, params.get("response_format"))
        twin.cached = True
        twin.cost_usd = Decimal(0)
        self._counts.joined(saved_usd)
        caching.paid(call, twin, saved_usd)
        return twin

    # -- renewal -----------------------------------------------------------------------

    async def refresh(self, call: Call, look: Lookup, tier: str) -> None:
        """Have the answer made anew by ``tier``, while the old one is served."""
        if self._refreshing >= MOST_REFRESHES:
            return
        own = self._caching.renewed(call)
        own.lookup = fresh = Lookup("renew")
        fresh.key, fresh.slot, fresh.generation = look.key, look.slot, look.generation
        flight, founder = self.flights.join(
            _flight_key(look, tier), own, lambda flight: self._alike(flight, own)
        )
        if not founder:
            self.flights.leave(flight, founder=False)
            return
        own.tier, own.scope, own.messages = tier, flight.scope, call.messages
        self._refreshing += 1
        flow = Led(self._refreshed(flight), lambda: self._over(flight))
        await self._spawned(Spawn(flow, None, flight.scope), flight)

    async def _refreshed(self, flight: Flight) -> Response:
        call = flight.call
        failure: str | None = ""
        try:
            response = await self._plain(flight, self._caching.lines(call.tier))
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
        self._refreshing -= 1
        self._lost(flight)
        self.flights.leave(flight, founder=True)
        for cap in call.caps:
            cap.close()
        if failure == "":
            return
        self._counts.count("refresh_failures" if failure else "refreshed")
        if self._caching.emit is not None:
            trace_id = "" if call.trace is None else call.trace.id
            self._caching.emit(CacheRefreshed(trace_id=trace_id, tier=call.tier, error=failure))


def _flight_key(look: Lookup, tier: str) -> bytes:
    """Calls that want a new answer do not join one that was asked for before."""
    how: Literal[0, 1] = 1 if look.mode == "refresh" else 0
    return b"%s:%s:%d" % (look.slot, tier.encode("utf-8", "surrogatepass"), how)


def _latency_s(call: Call) -> float:
    attempts = [] if call.trace is None else call.trace.attempts
    return attempts[-1].latency_s if attempts else 0.0


def _own_affair(error: Exception, call: Call) -> bool:
    """Whether the one who led failed for a reason of its own, so that another may fare better."""
    if isinstance(error, RejectedError):
        return error.personal
    if isinstance(error, DeadlineExceededError):
        left_s = None if call.scope is None else call.scope.remaining_s()
        return error.partial is None and (left_s is None or left_s > 0)
    return False

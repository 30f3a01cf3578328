"""What the cache does to a call that comes to a tier: lets it join another one, and keeps its answer."""

from __future__ import annotations

import copy
import json
from contextvars import ContextVar, Token
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Literal

from ..errors import DeadlineExceededError, RejectedError
from ..pipeline.effects import Follow, Handler, Spawn
from ..pipeline.tape import FlightLost
from ..providers.parsing import parsed
from ..types import Response, Trace
from .across import Across
from .flights import Flight, Flights, Led
from .keeping import Keeping
from .lookup import Lookup
from .notices import Begun
from .returned import unpack
from .storable import format_of

if TYPE_CHECKING:
    from ..types import Call
    from .policy import Caching

__all__ = ["Flown"]


MOST_ROUNDS = 32
"""So often a call joins again after one who led had failed for a reason of his own; then it goes alone."""

NONE: frozenset[str] = frozenset()

_leading: ContextVar[frozenset[bytes]] = ContextVar("tierllm_leading", default=frozenset())
"""The flights that the code is within: a provider may itself call the client."""


class Flown:
    """Identical calls at once become one flight: a flow of its own, which all of them follow.

    There is no leader whose leaving could hurt others; the last to leave cancels the flight.
    """

    def __init__(self, caching: Caching) -> None:
        self.flights = Flights()
        self._caching = caching
        self._cache = caching.cache
        self._counts = caching.cache.counts
        self._keeping = Keeping(caching)
        self._across = Across(caching)

    def renew(self) -> None:
        """After a fork."""
        self.flights.renew()

    async def __call__(self, call: Call, look: Lookup, handler: Handler) -> Response:
        caching, spare = self._caching, look.spare
        now = caching.wall()
        if (
            spare is not None
            and spare.entry.tier == call.tier
            and now < spare.entry.fresh_until
            and await caching.still_valid(spare, look)
        ):
            answer = caching.hit(spare, call, "hit", now, missed=True)
            if answer is not None:
                return answer
        key = self.key(call, look, call.tier)
        alone = self._cache.mode == "observe" or not self._cache.one_flight or look.alone
        if alone or (call.driven and key in _leading.get()):  # its own flight would wait for itself
            return await self._keeping.asked(call, look, handler, caching.host.soon)
        for _ in range(MOST_ROUNDS):
            flight, founder = self.flights.join(key, call, lambda flight: self.alike(flight, call))
            try:
                if not founder:
                    call.turn.ahead = flight.call.turn
                    response = await Follow(flight.tape)
                elif call.driven == "sync" and _must_stay(flight, call):
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
            except BaseException:
                flight.tell(call, founder, None)
                raise
            finally:
                call.turn.ahead = None
                call.min_window = max(call.min_window, flight.call.min_window)
                self.flights.leave(flight, founder=founder)
            if not founder and _cut_for_another(response, flight, call):
                continue
            flight.tell(call, founder, None)
            if founder:
                return copy.copy(response)
            shared = self._shared(response, call, flight)
            return await handler(call) if shared is None else shared
        return await self._keeping.asked(call, look, handler, caching.host.soon)

    def key(self, call: Call, look: Lookup, tier: str) -> bytes:
        """Whose answer it may share. Calls that want a new answer do not join one that was asked for before;
        nor those that have not agreed to get less one that has.
        """
        how: Literal[0, 1] = 1 if look.mode == "refresh" else 0
        key = b"%s:%s:%d" % (look.slot, tier.encode("utf-8", "surrogatepass"), how)
        if call.course is not None and call.course.judged == tier:
            key += b":judged"  # whose answers may be refused
        granted = self._granted(call, tier)
        return key + json.dumps(sorted(granted)).encode() if granted else key

    def _granted(self, call: Call, tier: str | None) -> frozenset[str]:
        """The steps of ``tier`` by which the call's answer may get simpler."""
        consents = self._caching.consents
        granted = consents.get(tier or "") if consents else None
        return NONE if granted is None else granted(call.request)

    def alike(self, flight: Flight, call: Call) -> bool:
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
        return await self.plain(flight, handler)

    async def _lead(self, flight: Flight, call: Call, look: Lookup, handler: Handler) -> Response:
        """Lead in a flow of its own, so that the founder may leave as well as any other."""
        own = call.copy()
        own.scope = flight.scope
        if call.trace is not None:
            own.trace = Trace(call.trace.id, call.trace.asked, call.trace.granted)
        self.flights.leads(flight, own)
        if call.caps:
            look.flights.append(flight)
        if call.driven in ("sync", "async"):
            flow, tape = self.plain(flight, handler), None
        else:
            flow, tape = self._made(flight, handler), flight.tape
        flight.abandon = partial(self.lost, flight)
        spawn = Spawn(Led(flow, flight.abandon), tape, flight.scope)
        try:
            await self.spawned(spawn, flight)
        except RuntimeError:  # no thread is to be had
            return await self._keeping.asked(call, look, handler, self._caching.host.soon)
        return await Follow(flight.tape)

    async def spawned(self, spawn: Spawn, flight: Flight) -> None:
        try:
            await spawn
        except BaseException:
            spawn.flow.close()
            raise
        flight.begun = True

    def lost(self, flight: Flight) -> None:
        """Its event loop ended before its first step."""
        self._landed(flight)
        flight.tape.end(error=FlightLost())

    async def plain(self, flight: Flight, handler: Handler) -> Response:
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
        token = _leading.set(_leading.get() | {flight.key}) if call.driven else None
        try:
            found = await self._across.meanwhile(flight, look)
            if found is not None:
                if look.mode == "renew":
                    raise FlightLost  # somebody else has renewed it
                answer = caching.hit(found, call, "hit", caching.wall(), missed=True)
                if answer is not None:
                    flight.answered_by, flight.worth_usd = found.layer, found.entry.cost_usd
                    look.returned = found.entry.returned
                    return answer
            return await self._keeping.asked(call, look, handler, partial(self._across.behind, flight))
        finally:
            self._landed(flight)
            if token is not None:
                _left(token)

    def _landed(self, flight: Flight) -> None:
        self.flights.landed(flight)
        flight.abandon = None  # it refers to the flight
        claimed, flight.claimed = flight.claimed, None
        if claimed is not None:
            self._caching.host.soon(lambda: self._across.give(claimed, flight))
        if flight.closes:
            for cap in flight.call.caps:
                cap.close()

    # -- following -----------------------------------------------------------------------

    def _shared(self, response: Response, call: Call, flight: Flight) -> Response | None:
        """A follower's own copy: it was made for somebody else, who paid for it.

        ``None``: what a wrapped function returned cannot be copied; or it got simpler as a new day began,
        on which they have not agreed to the same.
        """
        caching, tier = self._caching, call.tier
        if response.degraded and self._granted(flight.call, tier) != self._granted(call, tier):
            return None
        saved_usd = response.cost_usd if flight.answered_by is None else flight.worth_usd
        twin = copy.copy(response)
        twin.trace, twin.raw, twin.warnings = None, None, ()
        if call.target is not None:
            look = flight.call.lookup
            if look is None or look.returned is None:
                return None
            twin.raw = unpack(look.returned)
        sent = caching.origins.sent(response.tier, response.deployment, call.request)
        twin.parsed = parsed(response.text, format_of(sent, call.request.extra))
        twin.cached = True
        twin.cost_usd = Decimal(0)
        self._counts.joined(saved_usd)
        caching.paid(call, twin, saved_usd)
        return twin


def _must_stay(flight: Flight, call: Call) -> bool:
    """Whether a sync call leads in its own thread: nobody can call it off, its function knows the thread,
    or an event loop runs there, which must not be kept waiting for another one.
    """
    return flight.scope.deadline_at is None or call.target is not None or flight.loop is not None


def _left(token: Token[frozenset[bytes]]) -> None:
    try:
        _leading.reset(token)
    except ValueError:  # closed from another thread or task, whose context this is not
        pass


def _cut_for_another(response: Response, flight: Flight, call: Call) -> bool:
    """Whether it was the budget of the one who led that cut the answer short; unless it has been read."""
    look = flight.call.lookup
    altered = look is not None and look.altered and response.finish_reason == "length"
    return altered and call.driven in ("sync", "async")


def _own_affair(error: Exception, call: Call) -> bool:
    """Whether the one who led failed for a reason of its own, so that another may fare better."""
    if isinstance(error, RejectedError):
        return error.personal
    if isinstance(error, DeadlineExceededError):
        left_s = None if call.scope is None else call.scope.remaining_s()
        return error.partial is None and (left_s is None or left_s > 0)
    return False

"""What the cache does to a call that comes to a client: answers it, if it can."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ..errors import CacheMissError
from ..pipeline.effects import Blocking, Handler
from ..providers.identity import identity
from ..types import Request, Response, length_of
from .flown import Flown
from .key import key_of
from .lookup import CallLookup, Lookup
from .notices import Begun
from .renewal import Renewal
from .stack import Found
from .storable import format_of

if TYPE_CHECKING:
    import random

    from ..events import Event
    from ..pipeline.effects import Flow
    from ..pipeline.host import Host
    from ..types import Call
    from .entry import Entry
    from .key import Key
    from .origins import Origins
    from .result_cache import ResultCache

__all__ = ["Caching"]

LARGE = 100_000
"""Characters from which a key is made off the event loop."""


class Caching:
    """A ``ResultCache`` at work in one client.

    Client level: ``__call__`` answers from the cache. Tier level: ``enter`` makes one flight of identical
    calls, and keeps what it brings. ``lines`` are the tiers' handlers, ``renewed`` makes the same
    call once more, for a refresh that nobody waits for; ``paid`` books an answer that cost nothing.
    """

    def __init__(
        self,
        cache: ResultCache,
        origins: Origins,
        *,
        host: Host,
        wall: Callable[[], float],
        rng: random.Random,
        emit: Callable[[Event], None] | None,
        lines: Callable[[str], Handler],
        renewed: Callable[[Call], Call],
        paid: Callable[[Call, Response, Decimal | None], None],
    ) -> None:
        self.cache = cache
        self.origins = origins
        self.host = host
        self.wall = wall
        self.rng = rng
        self.emit = emit
        self.lines = lines
        self.renewed = renewed
        self.paid = paid
        self.consents: Mapping[str, Callable[[Request], frozenset[str]]] = {}
        """For each tier whose answers may get simpler under load: by which steps those to a request may."""
        self._stack, self._boards, self._counts = cache.stack, cache.boards, cache.counts
        self._flown = Flown(self)
        self._renewal = Renewal(self, self._flown)

    def renew(self) -> None:
        """After a fork."""
        self._flown.renew()
        self._renewal.renew()

    def lookup(self, request: Request) -> Lookup | None:
        """What a call begins with; ``None``: the cache has nothing to do with it."""
        mode = request.cache or self.cache.default
        return None if mode == "off" else CallLookup(mode)

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        asked, trace = call.lookup, call.trace
        look = Lookup(asked.mode, asked.flights) if isinstance(asked, CallLookup) else asked
        applies = look is not None and await self._keyed(call, look)
        if look is None or not applies:
            if look is not None:
                self._counts.count("bypassed")
                if look.mode == "only":
                    raise CacheMissError('cache="only": the cache does not apply to this call')
            if trace is not None:
                trace.cache = "off" if look is None else "bypassed"
            return await call_next(call)
        if isinstance(asked, CallLookup):
            asked.asks(look)
        if look.mode != "refresh" and not look.alone:
            answer = await self._answered(call, look)
            if answer is not None:
                return answer
            if look.mode == "only":
                raise CacheMissError('cache="only": the cache has no answer to this call')
        else:
            self._counts.count("misses")
        if trace is not None:
            trace.cache = "miss"
        own = call.copy()
        own.lookup = look
        try:
            return await call_next(own)
        except Exception:
            if isinstance(asked, CallLookup):
                asked.answered.discard(look.slot)  # whoever tries again may have what there is
            raise

    def enter(self, call: Call, handler: Handler) -> Flow[Response]:
        """A call comes to a tier, whose line is ``handler``."""
        look = call.lookup
        if look is None or look.key is None or not self._cool(call.tier, look, call.request):
            return handler(call)
        return self._flown(call, look, handler)

    def over(self, call: Call) -> bool:
        """The call has ended. False: a flight that it founded goes on, and closes its budgets."""
        look = call.lookup
        going_on = 0 if look is None else sum(self._flown.flights.outlives(each) for each in look.flights)
        if look is not None:
            look.flights.clear()  # they refer to the call
        return not going_on

    # -- the key ---------------------------------------------------------------------

    async def _keyed(self, call: Call, look: Lookup) -> bool:
        """Whether the cache applies to the call; it then has a key, and a slot."""
        request, plan = call.request, call.plan
        assert plan is not None
        if not request.repeatable or getattr(call.target, "streams", False):
            return False
        if not self._cool(plan.tiers[0], look, request):
            return False
        look.wanted = plan.tiers[0]
        look.scope = self.cache.scope_of(request)
        look.key = await self.key(call, look)
        if look.key is None:
            return False
        look.slot = look.key.digest
        look.up_to_date = not self._boards.behind or await Blocking(self._boards.catch_up)
        look.generation = self._boards.notices.number
        if request.depends_on and self._boards.notices.outdated(request.depends_on, self.tenant(request)):
            look.key = None
        return look.key is not None

    def _cool(self, tier: str, look: Lookup, request: Request) -> bool:
        """Whether the temperature is low enough that an answer may be given again."""
        return look.mode == "always" or not self.origins.is_warm(tier, request)

    async def key(self, call: Call, look: Lookup) -> Key | None:
        """Of the request; and of which labels answers need, and which contents they rest on."""
        if call.sizes is not None and length_of(call.messages) > LARGE:
            return await Blocking(lambda: self._key(call, look))
        return self._key(call, look)

    def _key(self, call: Call, look: Lookup) -> Key | None:
        request = call.request
        also: list[Any] = []
        if request.require:
            also.append(["require", sorted(request.require)])
        if request.depends_on:
            also.append(["depends_on", request.depends_on])
        if not self.cache.serve_higher:
            also.append(["tier", look.wanted])
        elif call.plan is not None and call.plan.cap is not None:
            also.append(["cap", call.plan.cap])  # others' better answers would push its own out
        if call.target is not None:  # a wrapped function
            own = getattr(call.target, "own", None)
            if own is not None and own.name is None:
                own.name = _named(identity(call.target.fn))  # type: ignore[attr-defined]
            asks = getattr(call.target, "asks", None)
            also.append(["call", call.target if asks is None else asks()])
        return key_of(
            request,
            scope=look.scope,
            messages=call.messages,
            also=also or None,
            hasher=self.cache.hasher,
            schemas=self.cache.schemas,
        )

    def tenant(self, request: Request) -> str | None:
        """Whose an answer is; nobody's where all share."""
        return None if self.cache.scope == "shared" else request.tenant

    # -- answers ---------------------------------------------------------------------

    async def _answered(self, call: Call, look: Lookup) -> Response | None:
        """The answer that was kept, if there is one which this call may have now."""
        assert look.key is not None
        granted, found = look.wanted, None
        if look.up_to_date:  # nothing was awaited since then: not worth asking the boards again
            found = self._stack.peek(look.slot, look.key.canonical, self.wall())
        if self.cache.mode == "observe":
            found = self.usable(found, call, granted) or self.usable(await self.find(look), call, granted)
            self._counts.count("misses" if found is None else "would_hit")
            return None
        served = None if found is None else await self._served(found, call, look, granted)
        if served is None and self._stack.is_deep:
            found = await self.find(look)
            served = None if found is None else await self._served(found, call, look, granted)
        if served is None:
            self._counts.count("misses")
        return served

    def peek(self, look: Lookup) -> Found | None:
        """An entry from where no waiting is needed."""
        assert look.key is not None
        if self._boards.behind:
            return None
        return self._stack.peek(look.slot, look.key.canonical, self.wall())

    async def find(self, look: Lookup) -> Found | None:
        """An entry from further down."""
        assert look.key is not None
        found = await self._stack.find(look.slot, look.key.canonical, self.wall(), self.host.soon)
        look.generation = max(look.generation, self._boards.notices.number)  # nobody has been called yet
        return found

    async def _served(self, found: Found, call: Call, look: Lookup, granted: str) -> Response | None:
        entry = found.entry
        if not self._may_have(entry, call.request):
            return None
        if not self._good_enough(entry.tier, granted, call):
            look.spare = found  # of a lower tier: for when the call has come down to it
            return None
        now = self.wall()
        if now < entry.fresh_until:
            return self.hit(found, call, "hit", now)
        look.spare = found
        if now >= entry.fresh_until + self.cache.stale_while_revalidate_s:
            return None
        await self._renewal.refresh(
            call, look, granted if call.plan is None or entry.tier not in call.plan.tiers else entry.tier
        )
        return self.hit(found, call, "stale", now)

    def _good_enough(self, tier: str, wanted: str, call: Call) -> bool:
        """Whether an answer of ``tier`` will do for one of ``wanted``, and is not above the call's cap."""
        if tier == wanted:
            return True
        cap = None if call.plan is None else call.plan.cap
        within = cap is None or tier == cap or not self.origins.above(tier, cap)
        return within and self.cache.serve_higher and self.origins.above(tier, wanted)

    def usable(self, found: Found | None, call: Call, tier: str) -> Found | None:
        """``found``, where it is fresh, and what ``tier`` would answer, or better."""
        if found is None or self.wall() >= found.entry.fresh_until:
            return None
        if not self._may_have(found.entry, call.request):
            return None
        return found if self._good_enough(found.entry.tier, tier, call) else None

    def _may_have(self, entry: Entry, request: Request) -> bool:
        """Whether its maker could serve the request today, and nothing is invalid of what the request names.

        That may be more than the one named that the answer was made for: other tags, another tenant.
        """
        if self.origins.maker(entry, request) is None:
            return False
        notices = self._boards.notices
        if entry.generation < notices.number:
            asked = Begun(entry.generation, request.tenant, request.tags, request.depends_on)
            return notices.allow(asked, b"")
        return True

    async def still_valid(self, found: Found, look: Lookup) -> bool:
        """Whether nothing has been heard of ``found`` since it was read."""
        if self._boards.behind and not await Blocking(self._boards.catch_up):
            return False
        return self._boards.notices.allow(found.entry, look.slot)

    def hit(self, found: Found, call: Call, how: str, now: float, *, missed: bool = False) -> Response | None:
        """The kept answer, as this call's own; told to all who keep accounts.

        ``missed``: it has been counted as a miss, which it was at first. ``None``: it cannot be made here.
        """
        entry, request, wanted = found.entry, call.request, None
        if call.target is not None and entry.returned is None:
            return None
        if entry.structured:
            wanted = format_of(self.origins.sent(entry.tier, entry.deployment, request), request.extra)
        try:
            response = entry.response(wanted)
        except ValueError:  # its SDK is not loaded yet, or its class takes less: the call itself will tell
            return None
        response.age_s = max(0.0, now - entry.made_at)
        if call.trace is not None:
            call.trace.cache = how
            call.trace.cache_layer = found.layer
        self._counts.hit(found.layer, how, entry.cost_usd, entry.latency_s, missed)
        self.paid(call, response, entry.cost_usd)
        return response

    def rung(self, call: Call) -> Response | None:
        """When all tiers are out: an old answer, of a tier that the call may come to."""
        asked, plan = call.lookup, call.plan
        if not isinstance(asked, CallLookup) or len(asked.questions) != 1 or plan is None:
            return None  # of several questions nobody knows which one was the call's
        (look,) = asked.questions.values()
        if look.spare is None:
            return None
        tier = look.spare.entry.tier
        if tier not in plan.tiers and not self._good_enough(tier, plan.tiers[0], call):
            return None
        return self._old(look, look.spare, call)

    def old(self, call: Call) -> Response | None:
        """When a tier is not to be asked: an old answer of that tier, or of a higher one."""
        look = call.lookup
        if look is None or look.key is None or look.alone or look.spare is None:
            return None
        if not self._good_enough(look.spare.entry.tier, call.tier, call):
            return None
        return self._old(look, look.spare, call) if self._cool(call.tier, look, call.request) else None

    def _old(self, look: Lookup, spare: Found, call: Call) -> Response | None:
        """``spare``, as long as it bridges an outage, and nothing has been heard of it."""
        entry, now = spare.entry, self.wall()
        longest_s = max(self.cache.stale_while_revalidate_s, self.cache.stale_if_error_s)
        if now >= entry.stale_until - longest_s + self.cache.stale_if_error_s:
            return None
        if self._boards.behind and not self._boards.catch_up():
            return None
        if not self._boards.notices.allow(entry, look.slot) or not self._may_have(entry, call.request):
            return None
        return self.hit(spare, call, "stale", now, missed=True)


def _named(function: list[object]) -> str:
    """A name for what a function holds; its own, unlike any other's, where that cannot be written down."""
    written = key_of(Request(messages=({"role": "function", "content": function},)), scope="")
    return (os.urandom(32) if written is None else written.digest).hex()

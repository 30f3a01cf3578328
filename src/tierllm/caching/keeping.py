"""Which answers are kept, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .entry import Entry
from .notices import Begun
from .returned import pack
from .storable import storable

if TYPE_CHECKING:
    from ..pipeline.effects import Handler
    from ..types import Call, Response
    from .lookup import Lookup
    from .policy import Caching
    from .stack import Soon

__all__ = ["Keeping"]


class Keeping:
    """Asks a tier, and puts what it says into the layers."""

    def __init__(self, caching: Caching) -> None:
        self._caching = caching
        self._cache = caching.cache
        self._counts = caching.cache.counts

    async def asked(self, call: Call, look: Lookup, handler: Handler, soon: Soon) -> Response:
        """What the tier says; it is kept, unless its prompt's function said other words meanwhile.

        ``soon`` does what nobody waits for.
        """
        origins, request = self._caching.origins, call.request
        words = origins.words(call.tier, request)
        look.asked_at = self._caching.wall()
        response = await handler(call)
        if words != origins.words(call.tier, request):
            words = None
        await self._keep(call, look, response, soon, words)
        return response

    async def _keep(
        self, call: Call, look: Lookup, response: Response, soon: Soon, words: bytes | None
    ) -> None:
        caching, cache, request = self._caching, self._cache, call.request
        origin = caching.origins.place(response.tier, response.deployment)
        made_by = None if origin is None or origin.tier != call.tier else origin.signed(words)
        tenant = caching.tenant(request)
        look.returned = pack(response.raw) if call.target is not None else None
        if (
            origin is None
            or made_by is None
            or look.key is None
            or look.altered
            or (call.target is not None and look.returned is None)
            or not storable(response, origin.params(request.params), request.extra, returned=look.returned)
            or cache.boards.notices.outdated(request.depends_on, tenant)
            or not cache.boards.notices.allow(
                Begun(look.generation, tenant, request.tags, request.depends_on), look.slot
            )
            or self._has_better(call, look, response)
            or await caching.key(call, look) != look.key  # what was asked was changed while it waited
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
            stale_until=now + ttl_s + stale_s,  # the jitter takes nothing from what an outage is bridged by
            latency_s=max(0.0, now - look.asked_at),
            depends=request.depends_on,
            tags=request.tags,
            tenant=tenant,
            generation=look.generation,
            returned=look.returned,
        )
        await cache.stack.keep(look.slot, entry, now, soon, for_others=not origin.own)
        self._counts.count("kept")

    def _has_better(self, call: Call, look: Lookup, response: Response) -> bool:
        """Whether there is an answer meanwhile that was asked for later, or one of a higher tier."""
        caching, tier = self._caching, response.tier
        assert tier is not None
        found = caching.usable(caching.peek(look), call, tier)
        if found is None:
            return False
        if found.entry.tier != tier:
            return look.mode != "refresh"
        return found.entry.asked_at > look.asked_at

"""Taken before, settled after: the policy that keeps all rate limits at one deployment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..events import CallThrottled, Event
from ..pipeline.effects import Handler
from ..types import Response
from .limit_draw import Draw, take_on
from .limit_headers import told_by
from .limit_log import MINUTE_S
from .limit_need import Expected
from .limit_outcome import AS_TAKEN, Outcome, answered, failed
from .limit_shortfall import Need, Shortfall
from .limit_take import Take
from .shared_limit import Shared, flush, flush_soon, store_of, take_shared
from .shared_refusal import recalled

if TYPE_CHECKING:
    from ..cost.place import Place
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Flow
    from ..stores import Store
    from ..types import Call
    from .limit_log import LimitLog
    from .limit_meter import Meter
    from .limiter import Limiter
    from .rate_limit import RateLimit

__all__ = ["Limits", "Need", "Shortfall"]


class Limits:
    """Every rate limit that holds for the calls at one place: a policy. Thread-safe.

    A call takes from all of them at once, or from none and is refused with ``ThrottledError`` or
    ``RequestTooLargeError``. What it took is settled as it ends, whichever way, without waiting: an answer
    by what it used; an attempt that failed with nothing used gives its tokens back, and its request where
    it is the caller's own and not one that the vendor has counted; a call that was never sent gives all
    of it back.

    ``store`` is the client's: limits without one of their own are shared by it, where it is shared between
    processes and the limit has a name or is not the account's. ``expected`` tells what a call will use;
    ``soon`` runs a store's flush off the path of the call.
    """

    def __init__(
        self,
        limits: Sequence[RateLimit],
        *,
        place: Place,
        clock: Clock,
        wall: Callable[[], float],
        store: Store | None = None,
        emit: Callable[[Event], None] | None = None,
        expected: Callable[[Call, str], Need] | None = None,
        soon: Callable[[Callable[[], object]], None] | None = None,
    ) -> None:
        self.place = place
        unique = {id(limit): limit for limit in limits}.values()
        here = place.tier, place.deployment, place.model
        self.limits = tuple(limit for limit in unique if limit.holds_at(*here))
        names = [limit.name for limit in self.limits]
        for name in names:
            if names.count(name) > 1:
                ours = name.startswith(("plan ", "contract "))
                hint = ", as that of a plan or contract is" if ours else ""
                raise ConfigError(
                    f"{place.name}: two rate limits are called {name!r}{hint}; give one a name=..."
                )
        self._clock = clock
        self._wall = wall
        self._emit = emit
        self._soon = soon
        self._learns: Expected | None = None
        if expected is None:
            expected = self._learns = Expected(place)
        self._expected = expected
        modes = {limit.tokens for limit in self.limits}
        self._reserve = "max" if modes == {"max"} else "p90"
        self._mixed = len(modes) > 1
        self._tier = place.tier
        self._origin = (place.vendor or place.provider, place.model)
        self._stores = {id(limit): store_of(limit, store) for limit in self.limits}
        self._shares = any(found is not None for found in self._stores.values())
        self._pokes: tuple[Callable[[], None], ...] = ()
        self._refused: dict[str, int] = {}
        self._fixed: tuple[Draw, ...] | None = None
        fixed = [(limit, limit.fixed_bucket(place.tier, place.deployment)) for limit in self.limits]
        if all(bucket is not None and not limit.about_caller for limit, bucket in fixed):
            self._fixed = tuple(
                sorted(Draw(limit, bucket or "", fixed=True, origin=self._origin) for limit, bucket in fixed)
            )
        self._single: Draw | None = None
        if self._fixed is not None and len(self._fixed) == 1 and not self._shares:
            self._single = self._fixed[0]
        self._other_clocks = False
        """Whether a limit goes by the clock of another client, which had it first."""
        for limit in self.limits:
            if limit.limiter.go_by(clock) != clock:
                self._other_clocks = True
            limit.limiter.watch(self)

    # -- before ----------------------------------------------------------------

    def peek(self, call: Call, now: float, copies: int = 1) -> Shortfall | None:
        """What is missing for the call now, after ``copies - 1`` like it. From memory; changes nothing."""
        draws = self._draws(call) if self._fixed is None else self._fixed
        worst: Shortfall | None = None
        needs: dict[str, Need] = {}
        for draw in draws:
            limit = draw.limit
            if limit.mode != "enforce":
                continue
            need = needs.get(limit.tokens)
            if need is None:
                need = needs[limit.tokens] = self._expected(call, limit.tokens)
            if self._other_clocks:
                now = self._now_of(limit)
            found = draw.peek(need, now, self.place.tier, copies)
            if found is not None and found.too_large and need.least_input is None:
                need = needs[limit.tokens] = self._at_least(call, need)
                found = draw.peek(need, now, self.place.tier, copies)
            if found is None and self._stores[id(limit)] is not None:
                found = recalled(draw, need, now, self._tier, peeks=True)
            if found is not None and (worst is None or found.wait_s > worst.wait_s):
                worst = found
        return worst

    def _at_least(self, call: Call, need: Need) -> Need:
        """What seems to fit nowhere does so by a guess of its input: only what it has for certain counts."""
        learns = self._learns
        return need if learns is None else need._replace(least_input=learns.least(call))

    def _now_of(self, limit: RateLimit) -> float:
        clock = limit.limiter.clock
        return self._clock() if clock is None else clock()

    def listen(self, poke: Callable[[], None]) -> None:
        """Call ``poke``, outside of locks, when room may have come back."""
        self._pokes = (*self._pokes, poke)

    def poked(self) -> None:
        """Room came back, here or wherever else one of these limits holds."""
        for poke in self._pokes:
            poke()

    # -- the policy --------------------------------------------------------------

    def __call__(self, call: Call, call_next: Handler) -> Flow[Response]:
        single = self._single
        if single is not None:
            meter = single.meter
            log = None if meter is None else meter.only
            if meter is not None and log is not None:
                return self._on_one(call, call_next, single.limiter, meter, log)
        return self._on_all(call, call_next)

    async def _on_one(
        self, call: Call, call_next: Handler, limiter: Limiter, meter: Meter, log: LimitLog
    ) -> Response:
        """What most calls meet: one limit, kept here, and room. A shortcut through ``_on_all``."""
        earlier = call.progress
        input_tokens, output_tokens, requests, _, _ = self._expected(call, self._reserve)
        take = Take(meter, requests, input_tokens, output_tokens, 0.0)
        try:
            with limiter.lock:
                take.at = now = limiter.clock()  # type: ignore[misc]  # it has one since this was made
                owed = meter.owed(log) if meter.excess else 0
                if log.fits(requests, input_tokens, output_tokens + owed, now):
                    take.cells = (log.add(requests, input_tokens, output_tokens, now),)
                    meter.under_way += 1
            if limiter.todo:
                limiter.catch_up()
            if not take.cells:
                return await self._on_all(call, call_next)
            seat = call.permit
            if seat is not None and seat.place is not None:
                seat.sent()
            response = await call_next(call)
            usage = response.usage
            self._settle_one(take, AS_TAKEN if usage is None else answered(usage), call, limiter)
        except BaseException as error:  # an interrupt may come anywhere: what is settled counts once
            if take.cells:
                self._settle_one(take, failed(error, call.progress, earlier), call, limiter)
            raise
        if self._learns is not None:
            self._learns.learn(call, response)
        return response

    def _settle_one(self, take: Take, outcome: Outcome, call: Call, limiter: Limiter) -> None:
        progress = call.progress
        if progress is not None and progress.headers:
            self._settle(self._fixed or (), (take,), outcome, call)
            return
        input_tokens, output_tokens, counts, sent = outcome
        if input_tokens is None:
            input_tokens = take.input_tokens
        if output_tokens is None:
            output_tokens = take.output_tokens
        requests = take.requests if counts or (sent and not limiter.limit.personal) else 0
        limiter.settle(take, requests, input_tokens, output_tokens)
        if limiter.roomy:
            limiter.tell()

    async def _on_all(self, call: Call, call_next: Handler) -> Response:
        draws = self._draws(call) if self._fixed is None else self._fixed
        if not draws:
            return await call_next(call)
        takes: list[Take] = []
        held: list[Shared] = []
        earlier = call.progress
        try:
            need = most = self._expected(call, self._reserve)
            if self._mixed:
                most = self._expected(call, "max")
            missing = take_on(draws, need, most, self._tier, takes)
            if missing is not None and not takes and any(each.too_large for each in missing):
                need, most = self._at_least(call, need), self._at_least(call, most)
                missing = take_on(draws, need, most, self._tier, takes)
            if missing is not None:
                self._missing(call, missing, taken=bool(takes))
            if self._shares:
                await self._share(draws, takes, held, call, {each.limit for each in missing or ()})
            seat = call.permit
            if seat is not None:
                seat.sent()
            response = await call_next(call)
            usage = response.usage
            outcome = AS_TAKEN if usage is None else answered(usage)
            self._settle(draws, takes, outcome, call)
            for shared in held:
                shared.settle()
        except BaseException as error:  # an interrupt may come anywhere: what is settled counts once
            self._settle(draws, takes, failed(error, call.progress, earlier), call)
            for shared in held:
                shared.settle()
            if held:
                if isinstance(error, Exception):
                    await flush(held, self._soon)
                else:
                    flush_soon(held, self._soon)
            raise
        if self._learns is not None:
            self._learns.learn(call, response)
        if held:
            await flush(held, self._soon)
        return response

    def _draws(self, call: Call) -> Sequence[Draw]:
        """The buckets that the call draws on, in the order of their locks."""
        request, place = call.request, self.place
        draws = [
            Draw(limit, bucket, origin=self._origin)
            for limit in self.limits
            if not limit.where or limit.holds_for(request)
            for bucket in limit.buckets(request, place.tier, place.deployment)
        ]
        if len(draws) > 1:
            draws.sort()
        return draws

    def _missing(self, call: Call, missing: Sequence[Shortfall], *, taken: bool) -> None:
        """Tell of what limits would have refused that only observe; raise what is refused."""
        if taken:  # by limits that only observe
            for each in missing:
                self._tell(call, each)
            return
        refusals = [each for each in missing if each.mode == "enforce"]
        raise self._tell(call, max(refusals, key=lambda each: (each.too_large, each.wait_s)))

    def _tell(self, call: Call, shortfall: Shortfall) -> Any:
        """The error for ``shortfall``, told to whom it may concern."""
        error = shortfall.error(self.place.name)
        if shortfall.mode == "enforce":
            self._refused[shortfall.limit] = self._refused.get(shortfall.limit, 0) + 1
        if self._emit is not None:
            event = CallThrottled(
                trace_id=call.trace.id if call.trace is not None else "",
                tier=self.place.tier,
                deployment=self.place.deployment,
                by=shortfall.limit,
                mode=shortfall.mode,
                error=error,
            )
            self._emit(event)
        return error

    async def _share(
        self, draws: Sequence[Draw], takes: Sequence[Take], held: list[Shared], call: Call, told: set[str]
    ) -> None:
        """Take the same in the stores that processes share. ``told`` are limits that were told of before."""
        groups: dict[int, tuple[Store, list[tuple[Draw, Take]]]] = {}
        for draw, take in zip(draws, takes, strict=True):
            store = self._stores[id(draw.limit)]
            if store is not None:
                groups.setdefault(id(store), (store, []))[1].append((draw, take))
        for store, drawn in groups.values():
            clock = drawn[0][0].limiter.clock or self._clock  # what is remembered of it goes by that
            missing = await take_shared(store, drawn, self.place, clock, self._wall, held)
            if missing is not None:
                raise self._tell(call, missing)
        for shared in held:
            for short in shared.observed:
                if short.part.draw.limit.name not in told:
                    self._tell(call, short.shortfall())

    # -- after -------------------------------------------------------------------

    def _settle(self, draws: Sequence[Draw], takes: Sequence[Take], outcome: Outcome, call: Call) -> None:
        """Book what was used. Room that came back is told when all of it is done."""
        input_tokens, output_tokens, counts, sent = outcome
        progress = call.progress
        headers = None if progress is None or not sent else progress.headers
        told = told_by(headers, self._wall()) if headers else None
        for draw, take in zip(draws, takes):  # noqa: B905  an interrupt may have left some out
            if not take.open:
                continue
            limiter = draw.limiter
            requests = take.requests if counts or (sent and not draw.limit.personal) else 0
            inputs = take.input_tokens if input_tokens is None else input_tokens
            outputs = take.output_tokens if output_tokens is None else output_tokens
            if self._shares:
                take.used = requests, inputs, outputs
            limiter.settle(take, requests, inputs, outputs)
            if told and draw.limit.headers:
                limiter.hear(told, take, draw.origin)
        for draw in draws:
            if draw.limiter.roomy:
                draw.limiter.tell()

    # -- watching ------------------------------------------------------------------

    def rate_per_s(self) -> float | None:
        """The most calls a second that these limits let through for long, as far as known.

        By the minute: what is left of a day's limit says nothing of the next minute. Limits of single
        callers do not bound what all of them may do.
        """
        usual = None if self._learns is None else self._learns.usual_tokens
        rates: list[float] = []
        for limit in self.limits:
            if limit.personal or limit.mode != "enforce" or limit.about_caller:
                continue
            given = limit.limits
            if "rpm" in given:
                rates.append(given["rpm"] / MINUTE_S)
            if "tpm" in given and usual:
                rates.append(given["tpm"] / MINUTE_S / usual)
            if "max_concurrency" in given:
                held_s = self._meter(limit).usual_s
                if held_s:
                    rates.append(given["max_concurrency"] / held_s)
        return min(rates, default=None)

    def _meter(self, limit: RateLimit) -> Meter:
        bucket = limit.fixed_bucket(self.place.tier, self.place.deployment) or ""
        limiter = limit.limiter
        with limiter.lock:
            found = limiter.meter(bucket)
        if limiter.todo:
            limiter.catch_up()
        return found

    def inherit(self, older: Limits) -> None:
        """Go on with what ``older`` knows of its place. What was taken is known by the limits themselves."""
        self._refused = older._refused
        if self._learns is not None and older._learns is not None:
            self._learns, self._expected = older._learns, older._expected

    def renew(self) -> None:
        """After a fork; the limits see to themselves."""
        if self._learns is not None:
            self._learns.renew()

    def stores(self) -> list[Store]:
        """Every store that is used, once."""
        return list({id(store): store for store in self._stores.values() if store is not None}.values())

    def status(self) -> dict[str, Any]:
        """How each limit stands, by name, as plain data."""
        found: dict[str, Any] = {}
        for limit in self.limits:
            store = self._stores[id(limit)]
            found[limit.name] = {
                "per": list(limit.per),
                "mode": limit.mode,
                "limits": dict(limit.limits),
                "reserve": dict(limit.reserve),
                "store": None if store is None else store.name,
                "buckets": len(limit.limiter.meters),
                "refused": self._refused.get(limit.name, 0),
            }
            if not limit.personal:
                meter, now = self._meter(limit), self._now_of(limit)
                with limit.limiter.lock:
                    found[limit.name]["used"] = meter.status(now)
                if limit.limiter.todo:
                    limit.limiter.catch_up()
        return found

"""The buckets of one rate limit, and taking on several limits at once."""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from ..pipeline.fork import renew_after_fork
from .limit_meter import Meter
from .limit_shortfall import Need, Shortfall
from .limit_take import Take

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from .limit_headers import Told
    from .rate_limit import RateLimit

__all__ = ["Draw", "Limiter", "take_on"]

SWEEP_AT = 1024
"""So many buckets are kept before those that are idle are looked for."""


class Watcher(Protocol):
    """Somebody who waits for room."""

    def poked(self) -> None: ...


class Limiter:
    """The state of one ``RateLimit``, wherever that is attached: one account for all. Thread-safe.

    Settling may happen anywhere, in a finalizer too: one that comes while this thread is at work on the
    same state is put aside, and done when that work is.
    """

    __slots__ = ("__weakref__", "_watchers", "busy", "limit", "lock", "meters", "pending", "sweep_at")

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self.meters: dict[str, Meter] = {}
        self.sweep_at = SWEEP_AT
        self.busy = 0
        self.pending: deque[Callable[[], object]] = deque()
        self._watchers: tuple[weakref.ref[Watcher], ...] = ()
        self.lock = threading.RLock()
        renew_after_fork(self)

    def meter(self, bucket: str, now: float) -> Meter:
        """The bucket of that name. To be called under the lock."""
        found = self.meters.get(bucket)
        if found is None:
            if self.limit.personal and len(self.meters) >= self.sweep_at:
                self._sweep(now)
            found = self.meters[bucket] = self.limit.meter(bucket)
        return found

    def _sweep(self, now: float) -> None:
        for bucket, meter in tuple(self.meters.items()):
            if meter.idle(now):
                del self.meters[bucket]
        self.sweep_at = max(SWEEP_AT, 2 * len(self.meters))

    def done(self) -> None:
        """The work under the lock is done: what was put aside meanwhile follows."""
        self.busy -= 1
        if self.pending and not self.busy:
            while self.pending:
                self.pending.popleft()()

    # -- after -----------------------------------------------------------------

    def settle(self, take: Take, requests: int, input_tokens: int, output_tokens: int, clock: Clock) -> bool:
        """It really was so much. Whether room came back. Never raises, never waits for long; once only."""
        with self.lock:
            if self.busy:
                self.pending.append(
                    lambda: take.meter.settle(take, requests, input_tokens, output_tokens, clock)
                )
                return False
            return take.meter.settle(take, requests, input_tokens, output_tokens, clock)

    def hear(self, told: Sequence[Told], take: Take) -> bool:
        """What the vendor's headers said. Whether there may be more room by that."""
        with self.lock:
            return not self.busy and take.meter.hear(told, take)

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher`` where room came back, as long as it lives."""
        alive = tuple(ref for ref in self._watchers if ref() is not None)
        self._watchers = (*alive, weakref.ref(watcher))

    def tell(self) -> None:
        """Room came back. Not to be called under a lock."""
        for ref in self._watchers:
            watcher = ref()
            if watcher is not None:
                watcher.poked()

    def renew(self) -> None:
        """After a fork: what was under way is the parent's."""
        self.lock = threading.RLock()
        self.busy = 0
        self.pending.clear()
        for meter in self.meters.values():
            meter.held.clear()
            meter.under_way = 0


class Draw:
    """One bucket of one limit that a call draws on.

    ``fixed``: all calls at a place do, so that it is looked up once. ``most``: as much output is taken as
    the call may have.
    """

    __slots__ = ("bucket", "fixed", "limit", "limiter", "meter", "most")

    def __init__(self, limit: RateLimit, bucket: str, *, fixed: bool = False) -> None:
        self.limit = limit
        self.limiter = limit.limiter
        self.bucket = bucket
        self.fixed = fixed
        self.meter: Meter | None = None
        self.most = limit.tokens == "max"

    def __lt__(self, other: Draw) -> bool:
        """By the order in which locks are taken everywhere."""
        return id(self.limiter) < id(other.limiter)

    def find(self, now: float) -> Meter:
        """The bucket. To be called under the lock."""
        meter = self.limiter.meter(self.bucket, now)
        if self.fixed:
            self.meter = meter
        return meter

    def shortfall(self, meter: Meter, need: Need, now: float, tier: str, copies: int = 1) -> Shortfall | None:
        """What is missing; ``None``: nothing. To be called under the lock."""
        requests, input_tokens, output_tokens = need.requests, need.input_tokens, need.output_tokens
        lack = meter.lack(requests, input_tokens, output_tokens, now, tier, copies)
        if lack is None:
            return None
        limit = self.limit
        wait_s = until(lack.frees_at, now)
        return Shortfall(
            wait_s,
            limit.name,
            lack.dimension,
            self.bucket,
            limit.personal,
            lack.never,
            lack.asked,
            lack.most,
            input_tokens,
            output_tokens,
            limit.mode,
        )

    def clamped(self, meter: Meter, need: Need, tier: str) -> Need:
        """``need`` with a guessed output no larger than could ever be taken."""
        most = meter.room_for_output(need.input_tokens, tier)
        if not need.guessed or need.output_tokens <= most:
            return need
        return need._replace(output_tokens=max(1, int(most)))

    def peek(self, need: Need, now: float, tier: str, copies: int = 1) -> Shortfall | None:
        """What would be missing. Changes nothing."""
        limiter = self.limiter
        with limiter.lock:
            meter = self.meter or limiter.meters.get(self.bucket)
            if meter is None:
                meter = limiter.limit.meter(self.bucket)  # an empty one, to ask what it would say
            limiter.busy += 1
            try:
                if meter.fits(need.requests, need.input_tokens, need.output_tokens, now, tier, copies):
                    return None
                return self.shortfall(meter, self.clamped(meter, need, tier), now, tier, copies)
            finally:
                limiter.done()


def until(at: float, now: float) -> float:
    """Seconds from ``now`` after which it is ``at`` or later, rounding or not."""
    wait_s = max(0.0, at - now)
    while now + wait_s < at < math.inf:
        wait_s = math.nextafter(wait_s, math.inf)
    return wait_s


def take_on(
    draws: Sequence[Draw],
    likely: Need,
    most: Need,
    tier: str,
    clock: Clock,
    takes: list[Take],
    at: int = 0,
) -> list[Shortfall] | None:
    """Take what a call needs on all of ``draws``, or on none; what is missing, if anything is.

    ``likely`` and ``most`` differ in the output. ``draws`` are in the order of their locks. Limits that
    only observe tell what they would have missed, and are taken all the same. Whatever is taken is in
    ``takes`` first, for whoever has to settle it.
    """
    limiter = draws[at].limiter
    with limiter.lock:
        limiter.busy += 1
        try:
            if at + 1 < len(draws):
                return take_on(draws, likely, most, tier, clock, takes, at + 1)
            now = clock()
            if not at:  # what most calls meet: one limit, with room
                draw = draws[0]
                meter = draw.meter or draw.find(now)
                input_tokens, output_tokens, requests, _ = most if draw.most else likely
                log = meter.only
                if log is not None:
                    owed = meter.owed(log) if meter.excess else 0
                    if log.fits(requests, input_tokens, output_tokens + owed, now):
                        meter.under_way += 1
                        take = Take(meter, requests, input_tokens, output_tokens, now)
                        takes.append(take)
                        take.cells = (log.add(requests, input_tokens, output_tokens, now),)
                        return None
                elif meter.fits(requests, input_tokens, output_tokens, now, tier):
                    take = Take(meter, requests, input_tokens, output_tokens, now)
                    takes.append(take)
                    meter.charge(take, tier)
                    return None
            return _take_on(draws, likely, most, tier, now, takes)
        finally:
            limiter.done()


def _take_on(
    draws: Sequence[Draw], likely: Need, most: Need, tier: str, now: float, takes: list[Take]
) -> list[Shortfall] | None:
    """The same, with all locks held."""
    found: list[tuple[Meter, Need]] = []
    short: list[Shortfall] = []
    refused = False
    for draw in draws:
        meter = draw.meter or draw.find(now)
        need = most if draw.most else likely
        if not meter.fits(need.requests, need.input_tokens, need.output_tokens, now, tier):
            need = draw.clamped(meter, need, tier)
            missing = draw.shortfall(meter, need, now, tier)
            if missing is not None:
                short.append(missing)
                refused = refused or draw.limit.mode == "enforce"
        found.append((meter, need))
    if not refused:
        for meter, need in found:
            take = Take(meter, need.requests, need.input_tokens, need.output_tokens, now)
            takes.append(take)
            meter.charge(take, tier)
    return short or None

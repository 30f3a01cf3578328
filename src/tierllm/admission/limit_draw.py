"""Taking on several limits at once, on all or on none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .limit_shortfall import BUSY, Need, Shortfall
from .limit_take import Take
from .limit_vendor import ANYWHERE, Origin

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from .limit_meter import Meter
    from .rate_limit import RateLimit

__all__ = ["LOOK_AGAIN_S", "Draw", "take_on", "until"]

PATIENCE_S, LOOK_AGAIN_S = 0.005, 0.05
"""A look waits no longer for those who are at it, and is told to come again so soon."""


class Draw:
    """One bucket of one limit that a call draws on.

    ``fixed``: all calls at a place do, so that it is looked up once. ``most``: as much output is taken as
    the call may have. ``origin``: the vendor and model that it is sent to.
    """

    __slots__ = ("bucket", "fixed", "limit", "limiter", "meter", "most", "origin")

    def __init__(
        self, limit: RateLimit, bucket: str, *, fixed: bool = False, origin: Origin = ANYWHERE
    ) -> None:
        self.limit = limit
        self.origin = origin
        self.limiter = limit.limiter
        self.bucket = bucket
        self.fixed = fixed
        self.meter: Meter | None = None
        self.most = limit.tokens == "max"

    def __lt__(self, other: Draw) -> bool:
        """By the order in which locks are taken everywhere."""
        return id(self.limiter) < id(other.limiter)

    def find(self) -> Meter:
        """The bucket. To be called under the lock."""
        meter = self.limiter.meter(self.bucket)
        if self.fixed:
            self.meter = meter
        return meter

    def shortfall(self, meter: Meter, need: Need, now: float, tier: str, copies: int = 1) -> Shortfall | None:
        """What is missing; ``None``: nothing. To be called under the lock."""
        input_tokens, output_tokens, requests = need[:3]
        lack = meter.lack(requests, input_tokens, output_tokens, now, tier, copies, self.origin)
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
        """``need`` with what is a guess in it no larger than could ever be taken."""
        inputs, outputs, _, guessed, least = need
        if least is not None:
            room = meter.room_for_input(1 if guessed else outputs, tier)
            if inputs > room:
                inputs = max(least, int(room))
        if guessed:
            room = meter.room_for_output(inputs, tier)
            if outputs > room:
                outputs = max(1, int(room))
        return need._replace(input_tokens=inputs, output_tokens=outputs)

    def peek(self, need: Need, now: float, tier: str, copies: int = 1) -> Shortfall | None:
        """What would be missing. Changes nothing.

        Whoever asks may hold a pool's lock, and whoever has this one may come to want that: so nobody waits
        here for long, but looks again soon.
        """
        limiter = self.limiter
        lock = limiter.lock
        if lock._is_owned():  # type: ignore[attr-defined]
            return self._unseen(need)
        short = None
        try:
            if not (lock.acquire(False) or lock.acquire(True, PATIENCE_S)):
                return self._unseen(need)
            meter = self.meter or limiter.meters.get(self.bucket)
            if meter is None:
                meter = limiter.limit.meter(self.bucket)  # an empty one, to ask what it would say
            inputs, outputs, requests = need[:3]
            if not meter.fits(requests, inputs, outputs, now, tier, copies, self.origin):
                short = self.shortfall(meter, self.clamped(meter, need, tier), now, tier, copies)
        finally:
            if lock._is_owned():  # type: ignore[attr-defined]
                lock.release()
        if limiter.todo:
            limiter.catch_up()
        return short

    def _unseen(self, need: Need) -> Shortfall:
        """Others are at it, who may want what this thread has."""
        limit = self.limit
        return Shortfall(
            LOOK_AGAIN_S,
            limit.name,
            BUSY,
            self.bucket,
            limit.personal,
            False,
            1,
            1,
            need.input_tokens,
            need.output_tokens,
            limit.mode,
        )


def until(at: float, now: float) -> float:
    """Seconds from ``now`` after which it is ``at`` or later, rounding or not."""
    wait_s = max(0.0, at - now)
    while now + wait_s < at < math.inf:
        wait_s = math.nextafter(wait_s, math.inf)
    return wait_s


def take_on(
    draws: Sequence[Draw], likely: Need, most: Need, tier: str, takes: list[Take]
) -> list[Shortfall] | None:
    """Take what a call needs on all of ``draws``, or on none; what is missing, if anything is.

    ``likely`` and ``most`` differ in the output. ``draws`` are in the order of their locks, and each limit
    that they are of goes by a clock. Limits that only observe tell what they would have missed, and are
    taken all the same. Whatever is taken is in ``takes`` first, for whoever has to settle it.
    """
    try:
        if len(draws) == 1:
            return _take_on_one(draws[0], likely, most, tier, takes)
        return _locked(draws, 0, likely, most, tier, takes)
    finally:
        for draw in draws:
            if draw.limiter.todo:
                draw.limiter.catch_up()


def _take_on_one(
    draw: Draw, likely: Need, most: Need, tier: str, takes: list[Take]
) -> list[Shortfall] | None:
    """What most calls meet: one limit, with room."""
    limiter = draw.limiter
    clock = limiter.clock
    assert clock is not None
    with limiter.lock:
        now = clock()
        meter = draw.meter or draw.find()
        input_tokens, output_tokens, requests, _, _ = most if draw.most else likely
        if meter.fits(requests, input_tokens, output_tokens, now, tier, 1, draw.origin):
            take = Take(meter, requests, input_tokens, output_tokens, now)
            takes.append(take)
            meter.charge(take, tier, draw.origin)
            short = None
        else:
            short = _take_on((draw,), likely, most, tier, takes)
        if limiter.young:
            limiter.sweep(now)
        return short


def _locked(
    draws: Sequence[Draw], at: int, likely: Need, most: Need, tier: str, takes: list[Take]
) -> list[Shortfall] | None:
    """Take with the locks of all limits from the one of ``draws[at]`` on."""
    limiter = draws[at].limiter
    with limiter.lock:
        beyond = at + 1
        while beyond < len(draws) and draws[beyond].limiter is limiter:
            beyond += 1
        if beyond < len(draws):
            short = _locked(draws, beyond, likely, most, tier, takes)
        else:
            short = _take_on(draws, likely, most, tier, takes)
        if limiter.young and limiter.clock is not None:
            limiter.sweep(limiter.clock())
        return short


def _take_on(
    draws: Sequence[Draw], likely: Need, most: Need, tier: str, takes: list[Take]
) -> list[Shortfall] | None:
    """The same, with all locks held."""
    found: list[tuple[Meter, Need, float, Origin]] = []
    short: list[Shortfall] = []
    refused = False
    clock: Clock | None = None
    now = 0.0
    for draw in draws:
        if draw.limiter.clock is not clock:
            clock = draw.limiter.clock
            assert clock is not None
            now = clock()
        meter = draw.meter or draw.find()
        need = most if draw.most else likely
        if not meter.fits(need.requests, need.input_tokens, need.output_tokens, now, tier, 1, draw.origin):
            need = draw.clamped(meter, need, tier)
            missing = draw.shortfall(meter, need, now, tier)
            if missing is not None:
                short.append(missing)
                refused = refused or draw.limit.mode == "enforce"
        found.append((meter, need, now, draw.origin))
    if not refused:
        for meter, need, now, origin in found:
            take = Take(meter, need.requests, need.input_tokens, need.output_tokens, now)
            takes.append(take)
            meter.charge(take, tier, origin)
    return short or None

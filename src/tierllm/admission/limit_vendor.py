"""What a vendor says is left, held against what was sent since."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .limit_log import DAY_S, MINUTE_S

if TYPE_CHECKING:
    from .limit_headers import Told

__all__ = ["Booked", "VendorView"]

NEAR, ROUNDED_S = 0.15, 1.0
"""How far a told reset may be from the sum, relatively and for being told in whole seconds."""

Booked = tuple[int, int, int, int]
"""Requests, tokens, input and output tokens that were ever booked, one after the other."""


class Cap:
    """So much may be booked in all: ``most`` at ``since``, growing by ``refill_per_s``, until ``until``."""

    __slots__ = ("most", "refill_per_s", "since", "until")

    def __init__(self, most: int, since: float, until: float, refill_per_s: float) -> None:
        self.most = most
        self.since = since
        self.until = until
        self.refill_per_s = refill_per_s

    def frees_at(self, wanted: int, now: float) -> float:
        """When ``wanted`` in all is within the cap; now or earlier: it is."""
        missing = wanted - self.most
        if missing <= 0 or now >= self.until:
            return now
        if not self.refill_per_s:
            return self.until
        return min(self.since + missing / self.refill_per_s, self.until)


class VendorView:
    """What was told last of each limit. Pure state; its owner locks.

    ``remaining`` was true when the vendor counted the request it came with. What was booked after that
    request is not in it, and counts against it here. It holds until its reset. Where limit, remaining and
    reset agree on a bucket that is refilled evenly (as OpenAI and Anthropic say theirs are), it grows at
    that rate meanwhile.
    """

    __slots__ = ("caps", "limits", "newest")

    def __init__(self) -> None:
        self.caps: list[Cap | None] = [None, None, None, None]
        self.limits: list[int | None] = [None, None, None, None]
        self.newest = -1

    def hear(self, told: Sequence[Told], booked: Booked | None, sent_at: float) -> bool:
        """Take in what came with the answer to one, after which ``booked`` was the sum. False: old news.

        ``None``: that is not known, and only the limits themselves are heard.
        """
        if booked is not None:
            if booked[0] < self.newest:
                return False
            self.newest = booked[0]
        for dimension, limit, remaining, reset_s in told:
            refill = 0.0
            a_day = False
            if limit is not None and remaining is not None and reset_s is not None and remaining < limit:
                whole_s = limit * reset_s / (limit - remaining)
                a_day = whole_s > 3600.0
                for window_s in (MINUTE_S, DAY_S):
                    blur_s = window_s * NEAR + ROUNDED_S * limit / (limit - remaining)
                    if abs(whole_s - window_s) <= min(blur_s, window_s / 3):
                        refill = limit / window_s
            if limit is not None and not a_day:
                self.limits[dimension] = limit
            if remaining is not None and reset_s is not None and booked is not None:
                most = booked[dimension] + remaining
                self.caps[dimension] = Cap(most, sent_at, sent_at + reset_s, refill)
        return True

    def frees_at(self, booked: Booked, need: Booked, now: float) -> tuple[int, float] | None:
        """Which limit has no room for ``need`` now, and when it will; ``None``: there is room."""
        dimension, at = -1, -math.inf
        for each, cap in enumerate(self.caps):
            if cap is not None and need[each]:
                if now >= cap.until:
                    self.caps[each] = None
                else:
                    frees_at = cap.frees_at(booked[each] + need[each], now)
                    if frees_at > now and frees_at > at:
                        dimension, at = each, frees_at
        return None if dimension < 0 else (dimension, at)

"""What a vendor says is left, held against what was sent since."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .limit_log import DAY_S, MINUTE_S, Lack, LimitLog, Shape

if TYPE_CHECKING:
    from .limit_headers import Told
    from .limit_take import Take

__all__ = ["ANYWHERE", "Booked", "Origin", "VendorView"]

NEAR, ROUNDED_S = 0.15, 1.0
"""How far a told reset may be from the sum, relatively and for being told in whole seconds."""

HOLDS_S = 600.0
"""A limit that the vendor has not told of for so long is forgotten: it may have been raised."""

UNITS = ("requests", "tokens", "input tokens", "output tokens")

Booked = tuple[int, int, int, int]
"""Requests, tokens, input and output tokens that were ever booked, one after the other."""

Origin = tuple[str, str]
"""Whose word it is, and about which model: a vendor counts each by itself."""

ANYWHERE: Origin = ("", "")


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
    """What one vendor said last of its limits for one model. Pure state; its owner locks.

    ``remaining`` was true when the vendor counted the request it came with. What was booked after that
    request is not in it, and counts against it here. It holds until its reset. Where limit, remaining and
    reset agree on a bucket that is refilled evenly within a minute or a day (as OpenAI and Anthropic say
    theirs are), it grows at that rate meanwhile; and only where they agree on a minute is the limit taken
    for one of a minute. Where that is lower than the configured one (``shapes``), what is booked here is
    kept within it, as long as the vendor goes on saying so. None of it is certain: what is larger than such
    a limit waits until nothing else is in its window, and is then left to the vendor.
    """

    __slots__ = ("booked", "caps", "heard_at", "limits", "logs", "newest", "shapes")

    def __init__(self, shapes: Iterable[Shape] = ()) -> None:
        self.shapes = tuple(shape for shape in shapes if shape.window_s == MINUTE_S)
        self.booked: Booked = (0, 0, 0, 0)
        self.caps: list[Cap | None] = [None, None, None, None]
        self.limits: list[int | None] = [None, None, None, None]
        self.heard_at = [-math.inf] * 4
        self.newest = -1
        self.logs: tuple[LimitLog, ...] = ()
        """One for each of ``shapes``, where a limit of the vendor's is lower."""

    # -- hearing ---------------------------------------------------------------

    def hear(
        self,
        told: Sequence[Told],
        booked: Booked | None,
        sent_at: float,
        now: float,
        earlier: Sequence[LimitLog] = (),
    ) -> bool:
        """Take in what came with the answer to one, after which ``booked`` was the sum. False: old news.

        ``None``: that is not known, and only the limits themselves are heard. ``earlier`` are logs of what
        was booked before, if that was all for this vendor and model.
        """
        if booked is not None:
            if booked[0] < self.newest:
                return False
            self.newest = booked[0]
        for dimension, limit, remaining, reset_s, is_moment in told:
            since = now if is_moment else sent_at
            window_s = None
            if limit is not None and remaining is not None and reset_s is not None:
                window_s = _window_s(limit, remaining, reset_s)
            if limit is not None:
                self._heard(dimension, limit, now, agrees=window_s == MINUTE_S)
            if remaining is not None and reset_s is not None and booked is not None:
                refill = 0.0 if window_s is None or limit is None else limit / window_s
                self.caps[dimension] = Cap(booked[dimension] + remaining, since, since + reset_s, refill)
        self._bound(earlier)
        return True

    def _heard(self, dimension: int, limit: int, now: float, *, agrees: bool) -> None:
        if agrees or limit == self.limits[dimension]:
            self.limits[dimension] = limit
            self.heard_at[dimension] = now
        else:  # what was known is known no more
            self.limits[dimension] = None

    def _bound(self, earlier: Sequence[LimitLog] = ()) -> None:
        """Keep to the limits that are lower than configured, each tier's share of them in proportion."""
        shapes = self.shapes
        if not shapes:
            return
        whole = next((shape.most for shape in shapes if not shape.spares), shapes[0].most)
        lower = [
            limit if limit is not None and limit < most < math.inf else None
            for limit, most in zip(self.limits, whole, strict=True)
        ]
        if lower == [None] * 4:
            self.logs = ()
            return
        if not self.logs:
            self.logs = tuple(LimitLog(shape) for shape in shapes)
            for log, past in zip(self.logs, earlier, strict=False):
                for cell in past.cells[past.head :]:
                    log.add(cell.requests, cell.input_tokens, cell.output_tokens, cell.at)
        for log in self.logs:
            bounds = [
                math.inf if limit is None else max(1.0, min(own, math.floor(own * limit / most)))
                for limit, own, most in zip(lower, log.shape.most, whole, strict=True)
            ]
            log.most_requests, log.most_tokens, log.most_input, log.most_output = bounds

    # -- booking -----------------------------------------------------------------

    def book(self, take: Take, tier: str) -> None:
        """It is sent, to this vendor and model."""
        requests, tokens, inputs, outputs = self.booked
        self.booked = take.booked = (
            requests + take.requests,
            tokens + take.input_tokens + take.output_tokens,
            inputs + take.input_tokens,
            outputs + take.output_tokens,
        )
        if self.logs:
            cells = [
                log.add(take.requests, take.input_tokens, take.output_tokens, take.at)
                for log in self.logs
                if tier not in log.shape.spares
            ]
            take.cells = (*take.cells, *cells)

    # -- before ------------------------------------------------------------------

    def lack(
        self,
        requests: int,
        input_tokens: int,
        output_tokens: int,
        now: float,
        tier: str = "",
        copies: int = 1,
    ) -> Lack | None:
        """What is in the way of so much, ``copies`` times, and until when; ``None``: nothing."""
        worst: Lack | None = None
        need = (requests, input_tokens + output_tokens, input_tokens, output_tokens)
        for at, cap in enumerate(self.caps):
            if cap is None or not need[at]:
                continue
            if now >= cap.until:
                self.caps[at] = None
                continue
            frees_at = cap.frees_at(self.booked[at] + copies * need[at], now)
            if frees_at > now and (worst is None or frees_at > worst.frees_at):
                worst = Lack(f"vendor's {UNITS[at]}", frees_at, need[at], self.limits[at] or need[at])
        if self.logs:
            self._forget(now)
        for log in self.logs:
            if tier in log.shape.spares:
                continue
            log.forget(now)
            inputs = int(min(input_tokens, log.most_input, log.most_tokens))
            outputs = int(min(output_tokens, log.most_output, log.most_tokens - inputs))
            found = log.lack(int(min(requests, log.most_requests)), inputs, outputs, now, copies)
            if found is not None and (worst is None or found.frees_at > worst.frees_at):
                at = log.shape.names.index(found.dimension)
                worst = found._replace(dimension=f"vendor's {UNITS[at]}", asked=need[at])
        return worst

    def _forget(self, now: float) -> None:
        """Limits that were told of too long ago hold no more."""
        old = [at for at in range(4) if self.limits[at] is not None and now - self.heard_at[at] >= HOLDS_S]
        for at in old:
            self.limits[at] = None
        if old:
            self._bound()


def _window_s(limit: int, remaining: int, reset_s: float) -> float | None:
    """In what time a bucket of ``limit`` is refilled that lacks the rest of ``remaining`` for ``reset_s``.

    ``None``: they do not agree on a minute or a day.
    """
    used = limit - remaining
    if used <= 0 or reset_s <= 0:
        return None
    whole_s = limit * reset_s / used
    for window_s in (MINUTE_S, DAY_S):
        blur_s = window_s * NEAR + ROUNDED_S * limit / used
        if abs(whole_s - window_s) <= min(blur_s, window_s / 3):
            return window_s
    return None

"""Additive increase, multiplicative decrease: a limit that follows what a place bears.

The rule is that of TCP's congestion avoidance (Chiu and Jain, 1989). Which failures drive it is here too.
"""

from __future__ import annotations

from ..errors import (
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    StreamInterruptedError,
)

__all__ = ["Aimd", "overload"]

OVERLOADED = (503, 504, 529)
"""Statuses of a server that has too much to do, or waited in vain for one that has."""


class Aimd:
    """The limit itself: pure state, without a lock.

    It grows by 1 after as many good calls as it is high, counting those that found at least half of it
    in use. It is multiplied by ``backoff``, and falls by 1 at least, on an overload. That begins a new
    round: what was sent before tells of the old limit, and does not count again, well or not. The level
    at which it was cut last is tried again only after ``caution`` times as many good calls: without that,
    a limit of 5 would run into every tenth call's refusal, forever.
    """

    __slots__ = ("_cut_after", "_failed_at", "_good", "backoff", "caution", "least", "most", "sent", "size")

    def __init__(self, start: int, least: int, most: int, backoff: float, caution: int) -> None:
        self.size = start
        self.least = least
        self.most = most
        self.backoff = backoff
        self.caution = caution
        self.sent = 0
        self._good = 0
        self._failed_at = 0
        self._cut_after = 0

    def begin(self) -> int:
        """A call is sent: its number, counted from 1."""
        self.sent += 1
        return self.sent

    def good(self, number: int, in_flight: int) -> None:
        """Call ``number`` was answered, which was one of ``in_flight`` when it was sent."""
        size = self.size
        if number <= self._cut_after or 2 * in_flight < size or size >= self.most:
            return
        self._good += 1
        if self._good >= size * (self.caution if size + 1 == self._failed_at else 1):
            self.size = size + 1
            self._good = 0

    def overloaded(self, number: int) -> None:
        """Call ``number`` was one too many."""
        if number <= self._cut_after:
            return
        self._failed_at = self.size
        self.size = max(self.least, int(self.size * self.backoff))  # rounded down: by 1 at least
        self._cut_after = self.sent
        self._good = 0


def overload(error: BaseException, on: tuple[type[Exception], ...]) -> str | None:
    """Why ``error`` says that there are too many calls; ``None`` where it does not.

    ``on`` are a wrapped function's own errors that say so.
    """
    while isinstance(error, StreamInterruptedError) and isinstance(error.__cause__, ProviderError):
        error = error.__cause__  # text was out already
    if isinstance(error, RateLimitError):
        return "rate limited"
    if isinstance(error, ProviderTimeoutError):
        return "timed out"
    if isinstance(error, ProviderUnavailableError):
        if isinstance(error.__cause__, on):
            return type(error.__cause__).__name__
        if error.status in OVERLOADED:
            return f"answered {error.status}"
        if error.status is None and "overload" in str(error).lower():
            return "overloaded"
    return None

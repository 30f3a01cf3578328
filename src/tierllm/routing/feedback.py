"""What waits for its outcome, and how much one voice may weigh. Pure state; not thread-safe."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Pending", "Voices", "Waiting"]

HALF_S = 86_400.0
"""After a day, what somebody has said counts half towards how much they have said."""

FREE = 100.0
"""So many outcomes a day everybody may tell at full weight."""

TIMES_OTHERS = 10.0
"""And as many as ten times what the others tell on average."""

FEW = 10
"""With fewer others than this there is no crowd to protect, and nobody is held back."""


class Waiting(NamedTuple):
    """A call whose answer came, until somebody says how good it was. Without its text."""

    strong: bool
    buckets: Sequence[int] | None
    who: str
    since: float


class Pending:
    """Calls by trace id that wait for their outcome: up to ``most`` of them, for up to ``ttl_s``, in up to
    ``most_bytes``; the oldest make room."""

    __slots__ = ("_bytes", "_waiting", "most", "most_bytes", "ttl_s")

    def __init__(self, *, most: int, ttl_s: float, most_bytes: int = 16 << 20) -> None:
        self.most = most
        self.most_bytes = most_bytes
        self.ttl_s = ttl_s
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, trace_id: str, waiting: Waiting) -> None:
        known = self._waiting.pop(trace_id, None)
        if known is not None:
            self._bytes -= size(known)
        self._waiting[trace_id] = waiting
        self._bytes += size(waiting)
        while len(self._waiting) > self.most or self._bytes > self.most_bytes:
            self._bytes -= size(self._waiting.popitem(last=False)[1])
        self._expire(waiting.since)

    def take(self, trace_id: str, now: float) -> Waiting | None:
        """The call, which waits no longer; ``None`` where there is none."""
        self._expire(now)
        waiting = self._waiting.pop(trace_id, None)
        if waiting is not None:
            self._bytes -= size(waiting)
        return waiting

    def _expire(self, now: float) -> None:
        waiting = self._waiting
        while waiting:
            oldest = next(iter(waiting))
            if now - waiting[oldest].since < self.ttl_s:
                return
            self._bytes -= size(waiting.pop(oldest))


def size(waiting: Waiting) -> int:
    """Roughly the bytes that it takes."""
    return 300 + len(waiting.who) + (0 if waiting.buckets is None else 4 * len(waiting.buckets))


class Voices:
    """How much each of those who tell outcomes may weigh, so that no single one outweighs the others.

    Full weight for up to ``FREE`` outcomes a day, or ``TIMES_OTHERS`` times as many as the others tell on
    average. Beyond that weights fall with the square, so that what one tells in a day never adds up to more
    than twice that. Those who are not named ("") cannot be told apart and are not held back. Up to ``most``
    are known at a time; who told nothing for the longest is forgotten.
    """

    __slots__ = ("_known", "_total", "_total_at", "most")

    def __init__(self, *, most: int = 10_000) -> None:
        self.most = most
        self._known: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._total = 0.0
        self._total_at = 0.0

    def __len__(self) -> int:
        return len(self._known)

    def weight(self, who: str, now: float) -> float:
        """The weight, 0…1, of one more outcome that ``who`` tells, which is counted."""
        if not who:
            return 1.0
        count, at = self._known.pop(who, (0.0, now))
        count = faded(count, now - at)
        self._total = faded(self._total, now - self._total_at)
        self._total_at = now
        others = len(self._known)
        mean = max(0.0, self._total - count) / others if others else 0.0
        count += 1.0
        self._total += 1.0
        self._known[who] = count, now
        if others >= self.most:
            gone, gone_at = self._known.popitem(last=False)[1]
            self._total = max(0.0, self._total - faded(gone, now - gone_at))
        if others < FEW:
            return 1.0
        allowed = max(FREE, TIMES_OTHERS * mean)
        return 1.0 if count <= allowed else (allowed / count) ** 2


def faded(count: float, for_s: float) -> float:
    return count * 0.5 ** (max(0.0, for_s) / HALF_S) if count else 0.0

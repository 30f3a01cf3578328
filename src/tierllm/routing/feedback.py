"""What waits for its outcome, and how much one voice may weigh. Pure state; not thread-safe."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Callers", "Pending", "Voices", "Waiting"]

HALF_S = 86_400.0
"""After a day, what somebody has said counts half."""

FEW = 3
"""With fewer others than this there is no crowd to protect, and nobody is held back."""

PART = 0.25
"""One counts for no more than this part of all that the others have said,"""

TWICE = 2.0
"""but where others are few, for twice what they have on average: else those who say alike would hold each
other back."""

FREE, TIMES = 20.0, 4.0
"""A user may count for this much in any case, and for so many times what the others do on average."""

TENANT_FREE, TENANT_TIMES = 100.0, 10.0
"""The same for a tenant with all its users: tenants differ more in size than users do."""

LEAST = 0.001
"""What would weigh less is not heard at all."""

LATELY = 10_000


class Waiting(NamedTuple):
    """A call whose answer came, until somebody says how good it was. Without its text."""

    strong: bool
    buckets: Sequence[int] | None
    who: str
    since: float
    judged: bool = False
    """Whether a judge has said what it thinks; somebody else still may."""


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

    def judge(self, trace_id: str, now: float) -> Waiting | None:
        """The call, which goes on waiting, but not for a judge; ``None`` where there is none."""
        self._expire(now)
        waiting = self._waiting.get(trace_id)
        if waiting is None or waiting.judged:
            return None
        self._waiting[trace_id] = waiting._replace(judged=True)
        return waiting

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
    buckets = waiting.buckets
    each = buckets.itemsize if isinstance(buckets, array) else 4
    return 300 + len(waiting.who) + (0 if buckets is None else each * len(buckets))


class Voices:
    """How much each of those who tell outcomes may weigh, so that no single one outweighs the others.

    What counts is the weight that was given, which fades by half a day. One user may count for four times
    what the others do on average, one tenant with all its users for ten times; neither for more than a
    quarter of all that the others do (twice the average where there are fewer than eight others), and each
    for a little in any case (20, 100). Up to half of that, outcomes weigh in full; then less and less, so
    that the sum never gets beyond it.

    ``who`` is ``tenant\\0user``, either of which may be empty. Those who are not named ("") cannot be told
    apart and are not held back, nor is anybody where there are fewer than three others. Up to ``most`` are
    known at a time; who told nothing for the longest is forgotten.
    """

    __slots__ = ("_tenants", "_users")

    def __init__(self, *, most: int = 10_000) -> None:
        self._users = _Crowd(FREE, TIMES, most)
        self._tenants = _Crowd(TENANT_FREE, TENANT_TIMES, most)

    def __len__(self) -> int:
        return len(self._users) + len(self._tenants)

    def weight(self, who: str, now: float) -> float:
        """The weight, 0…1, of one more outcome that ``who`` tells, which is counted."""
        if not who:
            return 1.0
        tenant, both, user = who.partition("\0")
        if not both:
            tenant, user = "", who
        weight = 1.0
        if user:
            weight = self._users.allows(who, now)
        if tenant:
            weight = min(weight, self._tenants.allows(tenant, now))
            self._tenants.count(tenant, weight)
        if user:
            self._users.count(who, weight)
        return weight


class _Crowd:
    """Those who speak, and how much was given on the word of each."""

    __slots__ = ("_at", "_free", "_given", "_most", "_times", "_total")

    def __init__(self, free: float, times: float, most: int) -> None:
        self._free = free
        self._times = times
        self._most = most
        # when it was brought up to date, how much it was then; a total is as old as the last of them
        self._given: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._total = 0.0
        self._at = 0.0

    def __len__(self) -> int:
        return len(self._given)

    def allows(self, who: str, now: float) -> float:
        """The weight that one more word of ``who`` may have."""
        given, at = self._given.pop(who, (0.0, now))
        given = faded(given, now - at)
        self._total = faded(self._total, now - self._at)
        self._at = now
        others = len(self._given)
        of_others = max(0.0, self._total - given)
        self._given[who] = given, now
        if others >= self._most:
            gone, gone_at = self._given.popitem(last=False)[1]
            self._total = max(0.0, self._total - faded(gone, now - gone_at))
        if others < FEW:
            return 1.0
        times = min(self._times, max(TWICE, PART * others))
        allowed = max(self._free, times * of_others / others)
        weight = 2.0 * (allowed - given) / allowed
        return min(1.0, weight) if weight > LEAST else 0.0

    def count(self, who: str, weight: float) -> None:
        """Take in what was given on the word of ``who``, who was just asked about."""
        given, at = self._given[who]
        self._given[who] = given + weight, at
        self._total += weight


def faded(given: float, for_s: float) -> float:
    return given * 0.5 ** (max(0.0, for_s) / HALF_S) if given else 0.0


class Callers:
    """Whose calls the last 10,000 to 20,000 were: what is told in a name is heard for its own calls alone.

    Safe for threads, as far as it matters: a race forgets a call.
    """

    __slots__ = ("_lately", "_older")

    def __init__(self) -> None:
        self._lately: dict[str, tuple[str | None, str | None]] = {}
        self._older: dict[str, tuple[str | None, str | None]] = {}

    def note(self, trace_id: str, user: str | None, tenant: str | None) -> None:
        if len(self._lately) >= LATELY:
            self._older, self._lately = self._lately, {}
        self._lately[trace_id] = user, tenant

    def belongs(self, trace_id: str, user: str | None, tenant: str | None) -> bool:
        """Whether the call was theirs, as far as they are named. Nobody's are those that are not known."""
        if user is None and tenant is None:
            return True
        caller = self._lately.get(trace_id) or self._older.get(trace_id)
        return caller is not None and user in (None, caller[0]) and tenant in (None, caller[1])

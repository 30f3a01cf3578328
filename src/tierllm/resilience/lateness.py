"""How late is late at each place, and what is left to spend on it. Pure state: nothing here waits."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING, Protocol

from ..errors import DeadlineExceededError, ProviderTimeoutError

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation

__all__ = ["SIZE", "Bank", "FirstTokens", "Lateness", "has_spoken"]

SIZE = 256
"""How many first tokens a place remembers."""

RECENT = 20
"""How many of its latest calls say whether a place is slow as a whole."""

FORGET_S = 60.0
"""How long they say so: where nobody else calls, a place that is never asked would stay slow for good."""

LEAST = 5
"""With fewer known, no place is called slow."""

UNIT = 1_000_000_000
"""Shares are counted in whole billionths: thousands of them must not add up to more than they are."""


class Bank:
    """Each call pays in ``share``, a hedge takes out 1, and no more than ``most`` is kept. It starts empty.

    So of any run of calls from the first on, at most ``share`` were hedged.
    """

    __slots__ = ("_lock", "_most", "_saved", "_share", "calls", "hedges")

    def __init__(self, share: float, most: float) -> None:
        self.calls = 0
        self.hedges = 0
        self._share = int(share * UNIT)
        self._most = int(most * UNIT)
        self._saved = 0
        self._lock = threading.RLock()  # reentrant: garbage collection may end a flow right here

    @property
    def balance(self) -> float:
        return self._saved / UNIT

    @property
    def enough(self) -> bool:
        """Whether there is enough for a hedge now."""
        return self._saved >= UNIT

    def pay_in(self) -> bool:
        """One more call. Whether there is enough for a hedge now."""
        with self._lock:
            self.calls += 1
            saved = self._saved + self._share
            self._saved = saved = saved if saved < self._most else self._most
        return saved >= UNIT

    def withdraw(self) -> bool:
        with self._lock:
            if self._saved < UNIT:
                return False
            self._saved -= UNIT
            self.hedges += 1
            return True

    def give_back(self) -> None:
        """The hedge came to nothing: no provider was asked."""
        with self._lock:
            self._saved = min(self._saved + UNIT, self._most)
            self.hedges -= 1

    def renew(self) -> None:
        """After a fork: the parent's lock may be held for good, and what was saved is the parent's."""
        self._lock = threading.RLock()
        self._saved = 0


class FirstTokens:
    """The last ``SIZE`` waits for a first token, kept in order; the caller holds a lock.

    ``late_after_s`` is their ``quantile`` (order statistic of rank ⌈q·(n+1)⌉) and a little, since a call
    that is as slow as those before is not late; ``None`` below ``min_samples``.

    A wait that was ``cut`` short would have been longer: the other one in a race was quicker. It has to
    count, or the slowest would be missing and the quantile sink with every race. But a place that hangs
    makes many at once, and they must not teach that hanging is usual. So they are taken in only as long
    as there are no more of them than values above the quantile: it stays within what was seen whole.
    """

    __slots__ = ("_cuts", "_ordered", "_quantile", "_ring", "late_after_s", "min_samples")

    def __init__(self, quantile: float, min_samples: int) -> None:
        self._quantile = quantile
        self.min_samples = min_samples
        self._ring: deque[tuple[float, bool]] = deque()
        self._ordered: list[float] = []
        self._cuts = 0
        self.late_after_s: float | None = None

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, seconds: float, *, cut: bool = False) -> None:
        ring, ordered = self._ring, self._ordered
        if cut and self._cuts >= len(ordered) - 1 - self._rank(len(ordered)):
            return
        if len(ring) >= SIZE:
            oldest, was_cut = ring.popleft()
            self._cuts -= was_cut
            del ordered[bisect_left(ordered, oldest)]
        ring.append((seconds, cut))
        self._cuts += cut
        insort(ordered, seconds)
        if len(ordered) >= self.min_samples:
            usual_s = ordered[self._rank(len(ordered))]
            self.late_after_s = max(usual_s * 1.01, usual_s + 0.001)

    def _rank(self, count: int) -> int:
        return min(max(math.ceil(self._quantile * (count + 1) - 1e-9), 1), count) - 1


class Asked(Protocol):
    """A call at a place, whichever way it gets to the provider."""

    @property
    def progress(self) -> Invocation | None: ...


class Lateness:
    """How one place keeps its time: what is usual there, and whether it is now. Thread-safe."""

    __slots__ = ("_lock", "_recent", "_under_way", "streamed", "whole")

    def __init__(self, quantile: float, min_samples: int) -> None:
        self.streamed = FirstTokens(quantile, min_samples)
        self.whole = FirstTokens(quantile, min_samples)
        self._recent: deque[tuple[float, bool]] = deque(maxlen=RECENT)
        self._under_way: dict[int, Asked] = {}
        self._lock = threading.RLock()

    def late_after_s(self, driven: str) -> float | None:
        """When a call made in this way is late; where the way is not known, the sooner of the two."""
        streamed_s, whole_s = self.streamed.late_after_s, self.whole.late_after_s
        if driven == "stream" or (not driven and whole_s is None):
            return streamed_s
        if driven or streamed_s is None:
            return whole_s
        return streamed_s if whole_s is None or streamed_s < whole_s else whole_s

    def bound_s(self, progress: Invocation) -> float | None:
        return (self.streamed if progress.streaming else self.whole).late_after_s

    def began(self, asked: Asked) -> None:
        with self._lock:
            self._under_way[id(asked)] = asked

    def ended(self, asked: Asked, error: BaseException | None, *, forgone: bool = False) -> None:
        """Learn from how a call ended here. ``forgone``: it would have been cut short, had it been late."""
        progress = asked.progress
        with self._lock:
            self._under_way.pop(id(asked), None)
            if progress is None:
                return  # no provider was reached
            seconds, spoke = _waited(progress, error)
            bound_s = self.bound_s(progress)
            late = bound_s is not None and seconds > bound_s
            if not spoke and (not late or _said_no(error)):
                return
            if bound_s is not None:
                self._recent.append((progress.started_at + seconds, late))
            cut = not spoke or (forgone and late)
            (self.streamed if progress.streaming else self.whole).add(seconds, cut=cut)

    def overran(self, progress: Invocation) -> bool:
        """Whether a provider that has ended was silent for too long, whatever it said then."""
        seconds, bound_s = _waited(progress, None)[0], self.bound_s(progress)
        return bound_s is not None and seconds > bound_s

    def mostly_late(self, now: float, share: float) -> bool:
        """Whether more than ``share`` of the last 20 calls of this minute were late, silent ones included."""
        with self._lock:
            silent = sum(self._overdue(asked.progress, now) for asked in self._under_way.values())
            known = self._known(now)
        silent = min(silent, RECENT)
        known = known[max(0, len(known) - (RECENT - silent)) :]
        total = silent + len(known)
        return total >= LEAST and silent + sum(known) > share * total

    def _known(self, now: float) -> list[bool]:
        return [late for at, late in self._recent if now - at < FORGET_S]

    def _overdue(self, progress: Invocation | None, now: float) -> bool:
        if progress is None or progress.ended_at is not None or has_spoken(progress):
            return False
        bound_s = self.bound_s(progress)
        return bound_s is not None and now - progress.started_at > bound_s

    def late_share(self, now: float) -> float:
        with self._lock:
            known = self._known(now)
        return sum(known) / len(known) if known else 0.0

    def renew(self) -> None:
        """After a fork: the parent's lock may be held for good, and its calls do not end here."""
        self._lock = threading.RLock()
        self._under_way = {}


def has_spoken(progress: Invocation) -> bool:
    if progress.streaming:
        return progress.first_at is not None
    return progress.ended_at is not None and progress.finish_reason is not None


def _waited(progress: Invocation, error: BaseException | None) -> tuple[float, bool]:
    """Seconds to the first token, or to the whole answer, and whether it came."""
    if progress.streaming:
        first_s = progress.first_token_s
        return (progress.elapsed_s, False) if first_s is None else (first_s, True)
    return progress.elapsed_s, error is None


def _said_no(error: BaseException | None) -> bool:
    """Whether it is a failure, which came when it came, rather than silence that somebody ended."""
    return isinstance(error, Exception) and not isinstance(
        error, DeadlineExceededError | ProviderTimeoutError
    )

"""How long answers are, learnt from those before."""

from __future__ import annotations

import math
import threading
from array import array
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple, TypeGuard

from ..errors import ConfigError

__all__ = ["MOST_TOKENS", "Histories", "OutputHistory", "Prediction", "is_tokens"]

MOST_TOKENS = 1_000_000_000
"""No answer is longer; a report above it is an error."""

TURN = (math.sqrt(5) - 1) / 2
"""Multiples of the golden section, modulo 1, visit all parts of 0…1 evenly."""


class Prediction(NamedTuple):
    """How long the next answer will be, in tokens. ``sd``: standard deviation of a single answer.

    ``samples`` is how many answers this was learnt from; below the history's ``min_samples``, ``p90``
    and ``p95`` are no more than the ceiling. ``longest`` is the longest of them, up to the ceiling.
    """

    p50: int
    p90: int
    p95: int
    mean: float
    sd: float
    samples: int
    longest: int


class OutputHistory:
    """The last ``size`` output lengths, kept in order. One lock; any thread may use it.

    ``quantile(q)`` is the smallest of them that the next answer stays within with probability ``q``
    or more, as long as answers keep coming from one distribution: the order statistic of rank
    ⌈q·(n+1)⌉, which is exceeded with probability 1 - rank/(n+1). Below ``min_samples`` (22: with
    fewer, that rank is nearly the largest one seen) all are ``None``.

    An answer that was cut off at its ``max_tokens`` would have been longer. Taken as it is, it would
    make calls with more room look short; so it counts as one of the longer answers seen, each in its
    turn, which spreads its weight over them (the redistribution to the right of Efron, 1967, that
    gives the Kaplan-Meier estimate). Where none was longer it counts as twice its length, a guess.

    16 bytes for each of ``size`` at most. Raises ``ConfigError`` for sizes that make no sense.
    """

    __slots__ = (
        "_at",
        "_cut",
        "_lock",
        "_ordered",
        "_ranks",
        "_ring",
        "_squares",
        "_total",
        "min_samples",
        "size",
    )

    def __init__(self, size: int = 256, min_samples: int = 22) -> None:
        for name, number in (("size", size), ("min_samples", min_samples)):
            if not _whole(number) or number < 1:
                raise ConfigError(f"OutputHistory({name}={number!r}): give a whole number from 1 up")
        if min_samples > size:
            raise ConfigError(
                f"OutputHistory(min_samples={min_samples}): give at most size, which is {size}, "
                "or it would never be ready"
            )
        self.size = size
        self.min_samples = min_samples
        self._ring = array("q")
        self._ordered = array("q")
        self._ranks = (0, 0, 0)
        self._at = 0
        self._cut = 0
        self._total = 0
        self._squares = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, tokens: int, *, truncated: bool = False) -> None:
        """Learn the length of an answer; ``truncated``: it was cut off there.

        Raises ``ConfigError`` for what is not a whole number from 0 up.
        """
        if not is_tokens(tokens):
            raise ConfigError(f"OutputHistory.add({tokens!r}): give a whole number of tokens, 0 or more")
        with self._lock:
            ordered, ring = self._ordered, self._ring
            if truncated:
                tokens = self._longer(tokens)
            if len(ring) < self.size:
                ring.append(tokens)
                count = len(ring)
                self._ranks = (_rank(0.5, count), _rank(0.9, count), _rank(0.95, count))
            else:
                at = self._at
                oldest = ring[at]
                ring[at] = tokens
                self._at = at + 1 if at + 1 < self.size else 0
                del ordered[bisect_left(ordered, oldest)]
                self._total -= oldest
                self._squares -= oldest * oldest
            insort(ordered, tokens)
            self._total += tokens
            self._squares += tokens * tokens

    def _longer(self, tokens: int) -> int:
        ordered = self._ordered
        first = bisect_right(ordered, tokens)
        longer = len(ordered) - first
        if not longer:
            return min(2 * tokens, MOST_TOKENS)
        self._cut += 1
        return ordered[first + int(self._cut * TURN % 1 * longer)]

    @property
    def ready(self) -> bool:
        """There are enough samples."""
        return len(self._ring) >= self.min_samples

    @property
    def p50(self) -> int | None:
        return self.quantile(0.5)

    @property
    def p90(self) -> int | None:
        return self.quantile(0.9)

    @property
    def mean(self) -> float | None:
        with self._lock:
            return self._total / len(self._ring) if self.ready else None

    def quantile(self, q: float) -> int | None:
        """The length that the next answer stays within with probability ``q`` (0…1)."""
        if isinstance(q, bool) or not isinstance(q, int | float) or not 0 <= q <= 1:
            raise ConfigError(f"OutputHistory.quantile({q!r}): give a share from 0 to 1, such as 0.9")
        with self._lock:
            return self._ordered[_rank(q, len(self._ordered))] if self.ready else None

    def predict(self, ceiling: int, unready: int) -> Prediction | None:
        """What the next answer will be, if it is cut off at ``ceiling``. ``None``: nothing is known.

        Below ``min_samples`` median and mean are those of the few there are, and P90 and P95 are
        ``unready``, or the longest seen if that is more.
        """
        with self._lock:
            ordered = self._ordered
            count = len(ordered)
            if not count:
                return None
            longest = ordered[-1]
            if longest <= ceiling:
                mean = self._total / count
            else:
                within = bisect_right(ordered, ceiling)
                mean = (sum(ordered[:within]) + (count - within) * ceiling) / count
            at_p50, at_p90, at_p95 = self._ranks
            p50 = ordered[at_p50]
            if count >= self.min_samples:
                p90, p95 = ordered[at_p90], ordered[at_p95]
            else:
                p90 = p95 = max(unready, longest)
            # cutting off at a ceiling can only bring lengths closer together, so this is enough
            sd = math.sqrt(max(0, count * self._squares - self._total * self._total)) / count
        p50, p90, p95 = min(p50, ceiling), min(p90, ceiling), min(p95, ceiling)
        return Prediction(p50, p90, p95, mean, sd, count, min(longest, ceiling))

    def renew(self) -> None:
        """After a fork: the parent's lock may be held for good."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"OutputHistory({len(self)} of {self.size}, p50={self.p50}, p90={self.p90})"


class Histories:
    """Output lengths by place and route; where a route has too few, those of the place over all routes.

    ``place`` is anything hashable that stands for a deployment. The ``max_routes`` routes used last
    are remembered, and as many places: 4 KB each at the default size. Thread-safe.
    """

    __slots__ = ("_by_place", "_by_route", "_lock", "max_routes", "min_samples", "size")

    def __init__(self, *, size: int = 256, min_samples: int = 22, max_routes: int = 1024) -> None:
        OutputHistory(size, min_samples)  # raises what is to be raised
        if not _whole(max_routes) or max_routes < 1:
            raise ConfigError(f"Histories(max_routes={max_routes!r}): give a whole number from 1 up")
        self.size = size
        self.min_samples = min_samples
        self.max_routes = max_routes
        self._by_place: OrderedDict[Hashable, OutputHistory] = OrderedDict()
        self._by_route: OrderedDict[Hashable, OutputHistory] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, place: Hashable, route: str | None, tokens: int, *, truncated: bool = False) -> None:
        """Learn the length of an answer; see ``OutputHistory.add``."""
        with self._lock:
            known = [self._kept(self._by_place, place)]
            if route is not None:
                known.append(self._kept(self._by_route, (place, route)))
        for history in known:
            history.add(tokens, truncated=truncated)

    def _kept(self, histories: OrderedDict[Hashable, OutputHistory], key: Hashable) -> OutputHistory:
        history = histories.get(key)
        if history is None:
            history = histories[key] = OutputHistory(self.size, self.min_samples)
            if len(histories) > self.max_routes:
                histories.popitem(last=False)
        else:
            histories.move_to_end(key)
        return history

    def of(self, place: Hashable, route: str | None = None) -> OutputHistory | None:
        """The history that predicts this route: its own once that is ready, else the place's."""
        with self._lock:
            place_known = self._by_place.get(place)
            if route is None:
                return place_known
            key = (place, route)
            own = self._by_route.get(key)
            if own is None:
                return place_known
            if place_known is None or own.ready or len(own) >= len(place_known):
                self._by_route.move_to_end(key)
                return own
            return place_known

    def predict(self, place: Hashable, route: str | None, ceiling: int, unready: int) -> Prediction | None:
        """What the next answer will be, if it is cut off at ``ceiling``; see ``OutputHistory.predict``."""
        history = self.of(place, route)
        return None if history is None else history.predict(ceiling, unready)

    def __len__(self) -> int:
        return len(self._by_route)

    def renew(self) -> None:
        """After a fork: the parent's locks may be held for good."""
        self._lock = threading.Lock()
        for history in (*self._by_place.values(), *self._by_route.values()):
            history.renew()


def _rank(q: float, count: int) -> int:
    """Index of the order statistic that the next value stays within with probability ``q``."""
    # 0.9 * 10 must count as 9, whatever its last binary digit
    rank = math.ceil(q * (count + 1) - 1e-9)
    return min(max(rank, 1), count) - 1


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_tokens(value: object) -> TypeGuard[int]:
    """Whether it is a number of tokens."""
    # isinstance would let a bool in
    return type(value) is int and 0 <= value <= MOST_TOKENS

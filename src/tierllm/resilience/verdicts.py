"""What a cascade's judge has said so far, and what came of it. Pure state."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from decimal import Decimal
from typing import Any

from .timeouts import DurationHistory

__all__ = ["Verdicts"]

RECENT = 200
"""So many verdicts tell how often calls go up."""

KNOWN = 10_000
"""So many answers are known to have been judged good, for when the cache gives them again."""

COUNTS = ("begun", "good", "poor", "unsure", "escalated", "spared", "explored", "late")


class Verdicts:
    """Counts, the last verdicts, how long the judge takes, and what was saved. Thread-safe."""

    def __init__(self) -> None:
        self.begun = 0
        """Calls that began at the cheap tier."""
        self.good = 0
        self.poor = 0
        self.unsure = 0
        """The judge failed."""
        self.escalated = 0
        """Calls that went up: several may share a verdict."""
        self.spared = 0
        """Calls that were served a poor answer after all."""
        self.explored = 0
        """Poor answers that were served all the same, to learn from."""
        self.late = 0
        """Calls that began at the strong tier, since their deadline left no room for both."""
        self.saved_usd = Decimal(0)
        self.duration = DurationHistory()
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._known: OrderedDict[tuple[bytes, int], float] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, what: str) -> None:
        with self._lock:
            setattr(self, what, getattr(self, what) + 1)

    def judged(self, score: float | None, *, good: bool) -> None:
        with self._lock:
            self._recent.append(good)
            if score is None:
                self.unsure += 1
            elif good:
                self.good += 1
            else:
                self.poor += 1

    def took(self, seconds: float) -> None:
        """The judge took so long."""
        self.duration.add(max(0.0, seconds))

    def judge_s(self) -> float:
        """How long the judge takes: what 95 % of its verdicts took lately; 0 while too few are known."""
        return self.duration.p95_s or 0.0

    def saved(self, usd: Decimal) -> None:
        """Dollars more (or, below 0, less) than the strong tier would have cost."""
        with self._lock:
            self.saved_usd += usd

    def rate(self) -> float:
        """The share of answers that were not good enough, of the last 200; one half before there is any.

        With one of either kind added (Laplace's rule of succession), so that few verdicts say little.
        """
        with self._lock:
            recent = tuple(self._recent)
        return (recent.count(False) + 1) / (len(recent) + 2)

    # -- answers that are known ----------------------------------------------------

    def remember(self, slot: bytes, text: str, score: float) -> None:
        """This answer was good enough with that score: the cache may give it again."""
        if not slot:
            return
        key = (slot, hash(text))
        with self._lock:
            self._known[key] = score
            self._known.move_to_end(key)
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)

    def knows(self, slot: bytes, text: str, at_least: float) -> bool:
        """Whether this answer was judged to be worth ``at_least`` so much."""
        with self._lock:
            return self._known.get((slot, hash(text)), -1.0) >= at_least

    def inherit(self, older: Verdicts) -> None:
        """Go on where ``older`` was, under another configuration."""
        with older._lock:
            counts = {name: getattr(older, name) for name in COUNTS}
            recent, known, saved_usd = tuple(older._recent), older._known.copy(), older.saved_usd
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)
            self._recent = deque((*recent, *self._recent), maxlen=RECENT)
            self._known = OrderedDict((*known.items(), *self._known.items()))
            self.saved_usd += saved_usd
        self.duration = older.duration

    # -- watching ------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        with self._lock:
            judged = self.good + self.poor + self.unsure
            recent = tuple(self._recent)
            return {
                "begun": self.begun,
                "judged": judged,
                "good": self.good,
                "poor": self.poor,
                "unsure": self.unsure,
                "escalated": self.escalated,
                "served_anyway": self.spared,
                "explored": self.explored,
                "no_time": self.late,
                "escalation_rate": recent.count(False) / len(recent) if recent else None,
                "judge_p95_s": self.duration.p95_s,
                "saved_usd": self.saved_usd,
            }

    def renew(self) -> None:
        """After a fork."""
        self._lock = threading.Lock()

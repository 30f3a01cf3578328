"""What becomes of what one hears of answers: who may say how much, and what the scorer learns from it."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from ..pipeline.fork import renew_after_fork
from .feedback import Pending, Voices, Waiting
from .scorers import Teachable, check_outcome

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from .choice import Arm, Choice

__all__ = ["JUDGE", "Hearing"]

log = logging.getLogger("tierllm")

MOST_SOURCES = 16

JUDGE = "judge"
"""The source of what the router's own judge says: nobody's voice, and not the last word."""


class Hearing:
    """Keeps answered calls until somebody says how good they were, and teaches the scorer; thread-safe.

    ``teach`` is ``None`` where the scorer does not learn: then it only counts.
    """

    def __init__(self, teach: Teachable | None, *, clock: Clock, max_pending: int, pending_s: float) -> None:
        self._teach = teach
        self._clock = clock
        self._pending = Pending(most=max_pending, ttl_s=pending_s)
        self._voices = Voices()
        self._heard = {
            "learned": 0,
            "held back": 0,
            "nothing to teach": 0,
            "unknown": 0,
            "failed": 0,
        }
        self._sources: dict[str, int] = {}
        self._lock = threading.Lock()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock: in a forked child it may belong to the parent."""
        self._lock = threading.Lock()

    def inherit(self, older: Hearing) -> None:
        """Go on with what ``older`` has counted, and with what it waits for, which teaches the same scorer.

        What another scorer has read from a text means nothing to this one.
        """
        self._lock, self._voices = older._lock, older._voices
        self._heard, self._sources = older._heard, older._sources
        if self._teach is older._teach:
            self._pending = older._pending

    def remember(self, trace_id: str, choice: Choice, who: str, answered: Arm) -> None:
        waiting = Waiting(answered == "strong", choice.buckets, who, self._clock())
        with self._lock:
            self._pending.add(trace_id, waiting)

    def feedback(self, trace_id: str, score: float, source: str) -> bool:
        """How good the answer to a call was, 0…1; whether anything was learned from it.

        Each call once, and once more from the judge, if that is first: what it says counts in full, whoever
        asked, and what others say counts as the word of those who asked.
        """
        outcome = check_outcome("score", score)
        teach = self._teach
        with self._lock:
            now = self._clock()
            take = self._pending.judge if source == JUDGE else self._pending.take
            waiting = take(trace_id, now)
            if waiting is None:
                self._heard["unknown"] += 1
                return False
            sources = self._sources
            kind = source if source in sources or len(sources) < MOST_SOURCES else "other"
            sources[kind] = sources.get(kind, 0) + 1
            if teach is None or waiting.buckets is None:
                self._heard["nothing to teach"] += 1
                return False
            weight = 1.0 if source == JUDGE else self._voices.weight(waiting.who, now)
        strong, weak = (outcome, None) if waiting.strong else (None, outcome)
        try:
            if weight:
                teach.learn_from(waiting.buckets, weak=weak, strong=strong, weight=weight)
        except Exception as error:  # it may be the application's own, and quote the prompt
            self._failed(error)
            return False
        with self._lock:
            self._heard["learned" if weight == 1.0 else "held back"] += 1
        return weight > 0.0

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._heard["failed"] += 1
            first = self._heard["failed"] == 1
        if first:
            log.error("the difficulty scorer failed to learn, with %s", type(error).__name__)

    def status(self) -> dict[str, object]:
        with self._lock:
            return {
                "pending": len(self._pending),
                "voices": len(self._voices),
                "feedback": dict(self._heard),
                "sources": dict(self._sources),
            }

"""How long answers take, learnt from those before."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from ..errors import ConfigError
from .estimate import Latency

__all__ = ["Speed"]

MOST_S = 1e7
"""Four months; no answer takes longer, and a report above it is an error."""


class Sample(NamedTuple):
    tokens: int  # after the first
    latency_s: float
    first_token_s: float | None


class Fit(NamedTuple):
    """Seconds for an answer: ``base_s``, ``token_s`` for each token after the first, and the rest."""

    base_s: float
    token_s: float
    left_p50_s: float
    left_p90_s: float
    left_p95_s: float


class Speed:
    """Seconds to the first token and seconds for each one after it, at one deployment.

    Streams show both: their medians are taken. From whole answers only the total is known: a line is
    laid through them that outliers do not bend (the resistant line of Tukey, *Exploratory Data
    Analysis*, 1977: through the medians of the shortest and the longest third). Either way, what the
    line leaves over is kept as its spread.

    Of the last ``size`` answers; fitted anew by every eighth addition, later by every thirty-second.
    Thread-safe. Raises ``ConfigError`` for sizes that make no sense.
    """

    __slots__ = ("_added", "_fit", "_fit_at", "_lock", "_ring", "min_samples")

    def __init__(self, size: int = 128, min_samples: int = 8) -> None:
        if type(size) is not int or type(min_samples) is not int or not 3 <= min_samples <= size:
            raise ConfigError(
                f"Speed(size={size!r}, min_samples={min_samples!r}): "
                "give min_samples from 3 up, and a size that is no less"
            )
        self.min_samples = min_samples
        self._ring: deque[Sample] = deque(maxlen=size)
        self._added = 0
        self._fit_at = min_samples
        self._fit: Fit | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, output_tokens: int, latency_s: float, first_token_s: float | None = None) -> None:
        """Learn from an answer: seconds spent waiting for the provider, until its end and its first token.

        Raises ``ConfigError`` for what is not a time, or a first token that came after the last.
        """
        if type(output_tokens) is not int or output_tokens < 0:
            raise ConfigError(f"Speed.add(output_tokens={output_tokens!r}): give a whole number, 0 or more")
        for name, seconds in (("latency_s", latency_s), ("first_token_s", first_token_s)):
            if seconds is not None and not is_time(seconds):
                raise ConfigError(f"Speed.add({name}={seconds!r}): give seconds, 0 or more")
        if first_token_s is not None and first_token_s > latency_s:
            raise ConfigError(
                f"Speed.add(latency_s={latency_s!r}, first_token_s={first_token_s!r}): "
                "the first token cannot come after the last"
            )
        with self._lock:
            self._ring.append(Sample(max(0, output_tokens - 1), latency_s, first_token_s))
            self._added += 1
            if self._added < self._fit_at:
                return
            self._fit_at = self._added + (8 if self._added < 64 else 32)
            samples = tuple(self._ring)
        self._fit = fitted(samples, self.min_samples)

    @property
    def token_s(self) -> float | None:
        """Seconds for each token after the first; ``None`` while there are too few answers."""
        return None if self._fit is None else self._fit.token_s

    @property
    def first_token_s(self) -> float | None:
        """Median seconds to the first token; ``None`` while there are too few answers."""
        return None if self._fit is None else self._fit.base_s

    def latency(self, p50: int, p90: int, p95: int | None = None, *, queue_s: float = 0.0) -> Latency | None:
        """Seconds for an answer of about ``p50`` tokens, after ``queue_s`` in a queue.

        How long the answer is and how fast it comes are taken as independent: their spreads add up
        as squares. ``p95`` left out is put where a normal distribution would have it. ``None`` while
        there are too few answers.
        """
        fit = self._fit
        if fit is None:
            return None
        if p95 is None:
            p95 = p50 + math.ceil((p90 - p50) * 1.645 / 1.282)
        token_s = fit.token_s
        middle_s = max(0.0, fit.base_s + token_s * max(0, p50 - 1) + fit.left_p50_s) + queue_s
        at_p90_s = middle_s + math.hypot(token_s * max(0, p90 - p50), fit.left_p90_s - fit.left_p50_s)
        at_p95_s = middle_s + math.hypot(token_s * max(0, p95 - p50), fit.left_p95_s - fit.left_p50_s)
        return Latency(middle_s, at_p90_s, max(at_p90_s, at_p95_s))

    def renew(self) -> None:
        """After a fork: the parent's lock may be held for good."""
        self._lock = threading.Lock()


def fitted(samples: Sequence[Sample], min_samples: int) -> Fit:
    streamed = [(s, s.first_token_s) for s in samples if s.first_token_s is not None]
    spoken = [(s.latency_s - first_s) / s.tokens for s, first_s in streamed if s.tokens]
    if len(streamed) >= min_samples and spoken:
        base_s, token_s = median(first_s for _, first_s in streamed), median(spoken)
    else:
        base_s, token_s = resistant_line(samples)
    left = sorted(s.latency_s - base_s - token_s * s.tokens for s in samples)
    count = len(left)
    p90, p95 = (left[min(count, math.ceil(q * (count + 1))) - 1] for q in (0.9, 0.95))
    return Fit(base_s, token_s, median(left), max(p90, median(left)), max(p95, median(left)))


def resistant_line(samples: Sequence[Sample]) -> tuple[float, float]:
    """Base and slope, neither below zero."""
    ordered = sorted(samples, key=lambda s: s.tokens)
    third = max(1, len(ordered) // 3)
    short, long = ordered[:third], ordered[-third:]
    run = median(s.tokens for s in long) - median(s.tokens for s in short)
    if run > 0:
        rise_s = median(s.latency_s for s in long) - median(s.latency_s for s in short)
        token_s = max(0.0, rise_s / run)
        base_s = median(s.latency_s - token_s * s.tokens for s in samples)
        if base_s >= 0:
            return base_s, token_s
    # answers of one length, or a line that begins below nothing: all of the time goes to tokens
    return 0.0, median(s.latency_s / max(1, s.tokens) for s in samples)


def is_time(value: object) -> bool:
    """Whether it is a number of seconds that an answer can take."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_S

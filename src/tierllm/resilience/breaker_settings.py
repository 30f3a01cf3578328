"""What a circuit breaker is told: when to open, for how long, and what counts as a failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..errors import (
    AuthenticationError,
    ConfigError,
    ContentFilteredError,
    DeadlineExceededError,
    InvalidRequestError,
    ProviderError,
    RateLimitError,
    RejectedError,
    UsageError,
)
from ..events import log_failure

__all__ = ["BreakerSettings", "Counts"]

MOST = 1_000_000
"""Calls in a window, at most: it is held in memory."""

MAY_BE_NONE = ("failure_rate", "consecutive_failures", "slow_call_s", "window_s", "half_open_concurrency")
"""Rules that ``None`` switches off; every other setting needs a value."""

Counts = Callable[[Exception], "bool | None"] | type[Exception] | tuple[type[Exception], ...]
"""Which errors are failures: a function (``None`` leaves it to the built-in rule), or their types."""

NEUTRAL = (
    RejectedError,  # the provider was not called
    ConfigError,
    UsageError,
    RateLimitError,  # it is well, and says so
    AuthenticationError,  # permanent at that place: waiting and probing would not mend it
    InvalidRequestError,  # the caller's fault
    ContentFilteredError,
    DeadlineExceededError,  # the caller's patience; see ``judge``
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """The rules of a circuit breaker; ``CircuitBreaker`` documents each of them."""

    failure_rate: float | None = 0.5
    window: int = 20
    window_s: float | None = None
    min_calls: int = 10
    consecutive_failures: int | None = 3
    slow_call_s: float | None = None
    slow_call_rate: float = 0.8
    open_s: float = 30.0
    open_backoff: float = 2.0
    max_open_s: float = 300.0
    half_open_probes: int = 1
    half_open_concurrency: int | None = None
    probe_timeout_s: float = 60.0
    store_refresh_s: float = 1.0
    mode: Literal["enforce", "observe"] = "enforce"
    counts: Counts | None = None

    def __post_init__(self) -> None:
        for name in ("failure_rate", "slow_call_rate"):
            share = getattr(self, name)
            if _missing(name, share) or (share is not None and not (_number(share) and 0 < share <= 1)):
                raise ConfigError(
                    f"CircuitBreaker({name}={share!r}): give a share above 0 and up to 1, such as 0.5"
                )
        for name in ("window_s", "slow_call_s", "open_s", "probe_timeout_s", "store_refresh_s"):
            seconds = getattr(self, name)
            if _missing(name, seconds) or (seconds is not None and not (_number(seconds) and seconds > 0)):
                raise ConfigError(f"CircuitBreaker({name}={seconds!r}): give seconds above 0")
        for name in (
            "window",
            "min_calls",
            "consecutive_failures",
            "half_open_probes",
            "half_open_concurrency",
        ):
            count = getattr(self, name)
            whole = isinstance(count, int) and not isinstance(count, bool)
            if _missing(name, count) or (count is not None and not (whole and count >= 1)):
                raise ConfigError(f"CircuitBreaker({name}={count!r}): give a whole number from 1 up")
        if self.window > MOST:
            raise ConfigError(f"CircuitBreaker(window={self.window!r}): give {MOST:,} calls at most")
        if not (_number(self.open_backoff) and self.open_backoff >= 1):
            raise ConfigError(
                f"CircuitBreaker(open_backoff={self.open_backoff!r}): "
                "give 1 for a constant open time, more to back off"
            )
        if not (_number(self.max_open_s) and self.max_open_s >= self.open_s):
            raise ConfigError(
                f"CircuitBreaker(max_open_s={self.max_open_s!r}): "
                f"give at least open_s, which is {self.open_s!r}"
            )
        if self.mode not in ("enforce", "observe"):
            raise ConfigError(f'CircuitBreaker(mode={self.mode!r}): give "enforce" or "observe"')
        if self.failure_rate is None and self.consecutive_failures is None and self.slow_call_s is None:
            raise ConfigError(
                "this CircuitBreaker has every rule switched off and would never open: "
                "give failure_rate, consecutive_failures or slow_call_s"
            )
        if isinstance(self.counts, type):  # a class is callable too, but is never meant as a predicate
            object.__setattr__(self, "counts", (self.counts,))

    def judge(self, error: BaseException | None, waited_s: float, *, alone: bool) -> tuple[bool | None, bool]:
        """What an outcome tells: whether it failed (``None``: neutral), and whether it was slow.

        ``alone``: around a function, every ``Exception`` fails but the neutral kinds; in a pipeline
        only a ``ProviderError`` can.
        """
        if error is not None and not isinstance(error, Exception):
            return None, False  # cancelled or abandoned
        slow = self.is_slow(waited_s)
        if error is None:
            return False, slow
        if self._fails(error, alone):
            return True, slow
        return None, slow and isinstance(error, DeadlineExceededError)

    def is_slow(self, waited_s: float) -> bool:
        return self.slow_call_s is not None and waited_s > self.slow_call_s

    def _fails(self, error: Exception, alone: bool) -> bool:
        counts = self.counts
        if isinstance(counts, tuple):
            return isinstance(error, counts)
        if counts is not None:
            assert not isinstance(counts, type)
            try:
                said = counts(error)
            except Exception:  # it must not hide the call's own error
                log_failure(f"counts= of a circuit breaker failed on {type(error).__name__}")
            else:
                if said is not None:
                    return said
        return not isinstance(error, NEUTRAL) and (alone or isinstance(error, ProviderError))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _missing(name: str, value: object) -> bool:
    return value is None and name not in MAY_BE_NONE

"""Requests and tokens a minute, as a vendor counts them: one sliding window a model."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import ConfigError, RateLimitError

__all__ = ["Limit", "Limits"]

WINDOW_S = 60.0
_TOLERANCE_S = 1e-6  # whoever waits exactly ``retry_after_s`` must be let in, rounding or not

Limit = int | Mapping[str, int] | None
"""The same number for each model, or a number a model; ``"*"`` stands for those not named."""


class Admitted(NamedTuple):
    leaves_s: float
    tokens: int


class Window:
    """The requests let in during the last minute. Not thread-safe: its owner locks."""

    __slots__ = ("_admitted", "_tokens", "rpm", "tpm")

    def __init__(self, rpm: int | None, tpm: int | None) -> None:
        self.rpm = rpm
        self.tpm = tpm
        self._admitted: deque[Admitted] = deque()
        self._tokens = 0

    def admit(self, tokens: int, now: float) -> RateLimitError | None:
        """Let a request in, or say when there will be room for it."""
        admitted = self._admitted
        while admitted and admitted[0].leaves_s <= now + _TOLERANCE_S:
            self._tokens -= admitted.popleft().tokens
        if self.tpm is not None and tokens > self.tpm:
            return RateLimitError(
                f"the request counts {tokens} tokens and the limit is {self.tpm} a minute: it never fits",
                status=429,
                retryable=False,
            )
        room_at = self._room_at(tokens)
        if room_at is not None:
            return RateLimitError("the rate limit is reached", status=429, retry_after_s=room_at - now)
        admitted.append(Admitted(now + WINDOW_S, tokens))
        self._tokens += tokens
        return None

    def _room_at(self, tokens: int) -> float | None:
        requests, used, room_at = len(self._admitted), self._tokens, None
        for leaves_s, freed in self._admitted:
            full = self.rpm is not None and requests >= self.rpm
            if not full and (self.tpm is None or used + tokens <= self.tpm):
                break
            requests, used, room_at = requests - 1, used - freed, leaves_s
        return room_at

    def headers(self, now: float) -> dict[str, str]:
        """The ``x-ratelimit-*`` headers; ``reset`` is the time until the window is empty again."""
        reset_s = max(0.0, self._admitted[-1].leaves_s - now) if self._admitted else 0.0
        headers: dict[str, str] = {}
        for unit, limit, used in (
            ("requests", self.rpm, len(self._admitted)),
            ("tokens", self.tpm, self._tokens),
        ):
            if limit is not None:
                headers[f"x-ratelimit-limit-{unit}"] = str(limit)
                headers[f"x-ratelimit-remaining-{unit}"] = str(limit - used)
                headers[f"x-ratelimit-reset-{unit}"] = f"{reset_s:.3f}s"
        return headers


class Limits:
    """The windows of all models. Not thread-safe: its owner locks."""

    def __init__(self, rpm: Limit, tpm: Limit) -> None:
        for name, limit in (("rpm", rpm), ("tpm", tpm)):
            given = limit.values() if isinstance(limit, Mapping) else () if limit is None else (limit,)
            if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in given):
                raise ConfigError(
                    f"{name}={limit!r}: give a whole number a minute, 1 or more, or leave it out"
                )
        self._rpm = rpm
        self._tpm = tpm
        self._windows: dict[str, Window] = {}

    def window(self, model: str) -> Window:
        window = self._windows.get(model)
        if window is None:
            window = self._windows[model] = Window(_for(model, self._rpm), _for(model, self._tpm))
        return window

    def clear(self) -> None:
        self._windows.clear()


def _for(model: str, limit: Limit) -> int | None:
    return limit.get(model, limit.get("*")) if isinstance(limit, Mapping) else limit

"""Settings that calls carry: what a tier promises, and how long it may wait for a provider."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal

from ..errors import ConfigError

__all__ = ["Objective", "Timeouts"]

MOST_AVAILABLE = 0.999999999
"""One bad call in a billion. What is nearer to 1 leaves nothing to reckon with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Bounds on the time spent waiting for a provider, in seconds; ``None`` is no bound.

    They never run while a consumer holds a stream. Whole answers know only ``connect_s`` and
    ``total_s``: their first token is not seen before their last.
    """

    connect_s: float | None = 5.0
    first_token_s: float | None = 60.0
    between_tokens_s: float | None = 30.0
    total_s: float | None = 300.0

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and not _above_zero(value):
                raise ConfigError(f"Timeouts({f.name}={value!r}): give seconds above 0, or None for no bound")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a tier or a contract promises; what is left out is not promised.

    ``latency_pNN_s``: so many percent of the calls are answered within these seconds, ``first_token_pNN_s``:
    so many percent of the streams begin within these. ``availability``: the share of calls that get an
    answer, in 0…1. ``cost_usd``: the mean cost of a call, in dollars.
    """

    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    latency_p99_s: float | None = None
    first_token_p50_s: float | None = None
    first_token_p95_s: float | None = None
    first_token_p99_s: float | None = None
    availability: float | None = None
    cost_usd: Decimal | float | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and not _above_zero(value):
                raise ConfigError(f"Objective({f.name}={value!r}): give a number above 0, or leave it out")
            if isinstance(value, Decimal) and f.name != "cost_usd":
                object.__setattr__(self, f.name, float(value))  # what is reckoned with it is no money
        if self.availability is not None and self.availability > MOST_AVAILABLE:
            raise ConfigError(
                f"Objective(availability={self.availability!r}): give a share below 1, "
                f"{MOST_AVAILABLE} at most"
            )


def _above_zero(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool) and value > 0

"""Whole numbers that every store keeps exactly. Redis counts in doubles: exact below 2**53."""

from __future__ import annotations

from ..errors import ConfigError
from ..events import log
from .base import Hold

__all__ = ["MOST", "exact", "expect_exact"]

MOST = 2**53 - 1
"""In nano-dollars a little above nine million dollars."""


def expect_exact(hold: Hold) -> None:
    """Raises ``ConfigError`` for amounts or limits that could not be kept exactly."""
    for line in hold.lines:
        if not 0 <= line.amount <= MOST or (line.limit is not None and line.limit > MOST):
            raise ConfigError(
                f"a shared store counts from 0 to {MOST} (about $9,000,000): amount {line.amount} or limit "
                f"{line.limit} is beyond"
            )


def exact(amount: int) -> int:
    """What of ``amount`` can be booked: settling never fails, so that more is cut off, and logged."""
    if -MOST <= amount <= MOST:
        return amount
    log.error("a settled amount of %d is beyond what a shared store can count: booked as %d", amount, MOST)
    return MOST if amount > 0 else -MOST

"""Time as a parameter."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["Clock", "SteppedClock"]


class Clock(Protocol):
    """Seconds since some fixed moment, never running backwards: ``time.monotonic`` is one."""

    def __call__(self) -> float: ...


@runtime_checkable
class SteppedClock(Protocol):
    """A clock that moves when told to: drivers step it instead of waiting."""

    def __call__(self) -> float: ...

    def advance(self, seconds: float) -> None: ...

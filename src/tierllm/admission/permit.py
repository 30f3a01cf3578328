"""What a pool gives, and what it asks of whatever else has to have room."""

from __future__ import annotations

import math
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from ..types import Call
    from .pool import Pool
    from .slots import Slots

__all__ = ["LOOK_AGAIN_S", "Full", "Gate", "Permit", "Short", "until_a_look"]

LOOK_AGAIN_S = 1.0
"""Where nobody says when there will be room, somebody looks so often."""

SOONEST_S = 0.001
ESTIMATED_S = 0.05
"""Where it is a guess when there will be room, nobody looks sooner: it is told when it comes."""


class Short(Protocol):
    """Why a call finds no room: for how long, and whether that is its own affair alone.

    ``whose`` is the same for calls that lack the same. ``early``: room may come sooner than that.
    """

    @property
    def wait_s(self) -> float: ...

    @property
    def personal(self) -> bool: ...

    @property
    def too_large(self) -> bool: ...

    @property
    def whose(self) -> object: ...

    @property
    def early(self) -> bool: ...


class Full(NamedTuple):
    """No room for about ``wait_s``; perhaps for less."""

    wait_s: float
    personal: bool = False
    too_large: bool = False
    whose: object = None
    early: bool = True


def until_a_look(short: Short) -> float:
    """In how many seconds to look whether there is room."""
    if short.wait_s == math.inf:
        return LOOK_AGAIN_S
    return max(short.wait_s, ESTIMATED_S if short.early else SOONEST_S)


class Gate(Protocol):
    """What has to have room besides the pool; asked under the pool's lock, and answers at once.

    ``prepare`` is called before, outside of the lock: whatever runs the caller's own code belongs there.
    ``short``: why a call, after ``copies - 1`` others like it, finds none now.
    """

    def prepare(self, call: Call) -> None: ...

    def short(self, call: Call, now: float, copies: int) -> Short | None: ...

    def rate_per_s(self) -> float | None: ...


class Permit:
    """One place in a pool. A context manager; releasing it twice is harmless.

    ``pool`` is whose slot it takes: the pool's where the call belongs, ``of``, or one that lends it.
    ``since`` is the moment up to which its time is written down, ``None`` where nobody writes.
    """

    __slots__ = ("of", "pool", "since")

    def __init__(self, pool: Pool) -> None:
        self.of = pool
        self.pool: Slots = pool
        self.since: float | None = None

    def release(self) -> None:
        self.pool.take_back(self)

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.pool.take_back(self)

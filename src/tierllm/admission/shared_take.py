"""What one call takes of limits in a store that processes share, and how it is settled there."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from ..stores.base import Hold, Line, Settlement, Verdict
from .limit_log import DAY_S
from .shared_refusal import CONCURRENCY, SLOTS, Part, Short, short_of

if TYPE_CHECKING:
    from ..stores import Store
    from .limit_draw import Draw
    from .limit_take import Take

__all__ = ["Ask", "Drawn", "Shared"]

Drawn = Sequence[tuple["Draw", "Take"]]

Ask = Hold | list[Line] | None
"""To be reserved; whose standing is to be told; or ``None``: apply what was posted."""


class Shared:
    """What one call takes in one store, at ``wall_s`` by the wall clock.

    ``counted`` is what it takes of windows, ``open`` what lasts as long as the call: its part of those at
    once, and the right to correct what was counted. ``observed`` is what limits would have refused that
    only observe.
    """

    __slots__ = (
        "_booked",
        "_holds",
        "_parts",
        "_posted",
        "counted",
        "observed",
        "open",
        "reserved",
        "store",
        "wall_s",
    )

    def __init__(self, store: Store, drawn: Drawn, tier: str, wall_s: float) -> None:
        self.store = store
        self.wall_s = wall_s
        self.observed: list[Short] = []
        self._booked = self._posted = False
        self.reserved = False
        """Whether anything is, so that it has to be given back."""
        lines: list[Line] = []
        parts: list[Part] = []
        at_once: list[Line] = []
        those: list[Part] = []
        for draw, take in drawn:
            for line, part in _windows(draw, take, tier, wall_s):
                lines.append(line)
                parts.append(part)
            most = take.meter.most_at_once
            if most is not None:
                account = f"limit|{draw.limit.name}|max_concurrency||{draw.bucket}"
                bound = most if draw.limit.mode == "enforce" else None
                at_once.append(Line(account, 1, bound, wall_s + DAY_S))
                those.append(Part(take, draw, CONCURRENCY, "max_concurrency", frozenset(), most, 0.0))
        corrections = [line._replace(amount=0, limit=None) for line in lines]
        self._parts = [*parts, *those]
        self.counted = store.hold(lines) if lines else None
        self.open = store.hold(corrections + at_once)
        self._holds = [(self.open, corrections + at_once, self._parts)]
        if self.counted is not None:
            self._holds.insert(0, (self.counted, lines, parts))

    def steps(self) -> Generator[Ask, object, list[Short] | None]:
        """Take it: what to ask the store, one after the other. What is missing, or ``None``: it is taken.

        Nothing missing and yet not taken: it was given back before it came.
        """
        for hold, lines, parts in self._holds:
            verdict = yield hold
            assert isinstance(verdict, Verdict)
            found = [
                short
                for short in short_of(lines, parts, verdict.standings, self.wall_s)
                if hold is self.counted or short.part.dimension == CONCURRENCY
            ]
            if verdict.ok:
                self.reserved = True
                self.observed += found
                continue
            found = [short for short in found if short.line.limit is not None]
            for short in found:
                lookups = short.lookups()
                if lookups:
                    standings = yield lookups
                    assert isinstance(standings, tuple)
                    short.told(lookups, standings, self.wall_s)
            return found
        if self.counted is not None:
            self._booked = True  # first: what an interrupt keeps from being posted is posted at the end
            self._book()
            yield None
        return None

    def _book(self) -> None:
        if self.counted is not None and not self._posted:
            self.store.post(
                Settlement(
                    self.counted,
                    tuple(line.amount for line in self.counted.lines),
                    tuple(line.slot for line in self.counted.lines),
                )
            )
            self._posted = True

    def settle(self) -> None:
        """Book what the takes were settled with, into the slots of when they were made. Never waits.

        To be called after their settlement. What was never counted is given back.
        """
        if self._booked:
            self._book()
        elif self.counted is not None:
            self.store.give_back(self.counted)
        slots = tuple(line.slot for line in self.open.lines)
        amounts = [0] * len(slots)
        for index, part in enumerate(self._parts):
            take = part.take
            if take.used is not None and self._booked and part.dimension != CONCURRENCY:
                amounts[index] = _four(*take.used)[part.dimension] - _taken(take)[part.dimension]
        self.store.post(Settlement(self.open, tuple(amounts), slots))
        for part, amount in zip(self._parts, amounts, strict=True):
            if amount < 0 or part.dimension == CONCURRENCY:
                part.take.meter.refused = None  # there may be room now


def _four(requests: int, input_tokens: int, output_tokens: int) -> tuple[int, int, int, int]:
    return requests, input_tokens + output_tokens, input_tokens, output_tokens


def _taken(take: Take) -> tuple[int, int, int, int]:
    return _four(take.requests, take.input_tokens, take.output_tokens)


def _windows(draw: Draw, take: Take, tier: str, wall_s: float) -> list[tuple[Line, Part]]:
    """A line for each number that the limit bounds by the minute or day, and what it is about."""
    found: list[tuple[Line, Part]] = []
    limit, wanted = draw.limit, _taken(take)
    for log in take.meter.logs_of(tier):
        shape = log.shape
        width_s = shape.window_s / SLOTS
        slot = math.floor(wall_s / width_s)
        expires_at = wall_s + shape.window_s + 2 * width_s
        spares = "+".join(sorted(shape.spares))
        for dimension, most in enumerate(shape.most):
            if most == math.inf:
                continue
            name = shape.names[dimension]
            account = f"limit|{limit.name}|{name}|{spares}|{draw.bucket}"
            bound = int(most) if limit.mode == "enforce" else None
            line = Line(account, wanted[dimension], bound, expires_at, slot, max(0, slot - SLOTS))
            part = Part(take, draw, dimension, name, shape.spares, int(most), width_s)
            found.append((line, part))
    return found

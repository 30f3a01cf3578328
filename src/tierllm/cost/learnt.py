"""What was learnt of one deployment: how its own count of a request compares, and how fast it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .estimate import Tokens
from .guess import guessed_tokens, only_text
from .speed import Speed
from .tokens.correction import Correction
from .tokens.families import family_of

if TYPE_CHECKING:
    from ..types import Message
    from .place import Place

__all__ = ["Learnt"]

COUNTED_UP_TO = 100_000
"""Bytes of a request that are counted unless told otherwise: a few milliseconds at most."""

COUNTED_P90, GUESSED_P90 = 1.2, 1.25
"""How far above a count that is not exact, or above a guess, nine in ten requests stay at most."""


class Learnt:
    """Corrections of counts and of guesses, and the speed of answers."""

    __slots__ = ("counted", "family", "guessed", "speed")

    def __init__(self, place: Place) -> None:
        self.counted = Correction()
        self.guessed = Correction()
        self.speed = Speed()
        self.family = family_of(place.model, place.vendor)

    def input(
        self,
        place: Place,
        messages: Sequence[Message],
        params: Mapping[str, Any],
        exact: bool | None,
    ) -> Tokens:
        """Tokens of a request; ``exact`` as in ``CostEstimator.quote``."""
        tokens = place.tokens
        lower, upper = tokens.bounds(messages, params)
        if exact or (exact is None and upper <= COUNTED_UP_TO):
            raw = tokens.count(messages, params)
            if tokens.exact:
                if only_text(messages, params):
                    return Tokens(raw)
                upper = tokens.worst(messages, params)
            factor, p90, counted = self.counted.factor, COUNTED_P90, True
        else:
            raw = guessed_tokens(messages, params, self.family)
            factor, p90, counted = self.guessed.factor, GUESSED_P90, False
        if (window := place.context_window) is not None:
            upper = max(lower, min(upper, window))  # a longer request is refused
        p50 = round(raw * factor)
        if tokens.exact or factor <= 1.0:  # else the vendor adds something of its own to what is sent
            p50 = min(p50, upper)
        p50 = max(p50, lower, 1)
        high = max(p50, min(round(p50 * p90), upper))
        return Tokens(p50, high, max(high, upper), raw=raw, counted=counted)

    def correct(self, asked: Tokens, reported: int) -> None:
        """A request that was taken for ``asked`` tokens had ``reported``."""
        if not asked.counted:
            self.guessed.learn(asked.raw, reported)
        elif not asked.exact:
            self.counted.learn(asked.raw, reported)

"""A scorer of readable rules: no training, and every point can be traced to a line of a table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ..errors import ConfigError
from .features import cut
from .heads import logistic
from .signs import SIGNS, Sign, check_points

__all__ = ["SIGNS", "RuleScorer", "Sign"]

WORDS = re.compile(r"[^\W\d_]+")
FREE = 64
"""Characters that a question takes anyway; points for length begin here."""


class RuleScorer:
    """Adds up the points of what a text has, and makes 0…1 of them; needs no training; thread-safe.

    ``signs`` is the table, by default ``SIGNS``. Each doubling of the length beyond 64 characters is worth
    ``per_doubling`` points, and every text starts with ``base``. The score is the logistic function of the
    points, the same in every process. Raises ``ConfigError`` for a table that makes no sense.
    """

    classes = 0.3, 0.7

    def __init__(
        self, signs: Iterable[Sign] = SIGNS, *, per_doubling: float = 0.1, base: float = -2.0
    ) -> None:
        given: object = signs
        if not isinstance(given, Iterable):
            raise ConfigError("RuleScorer(signs=...): give a list of Sign(...)")
        self.signs = tuple(signs)
        for sign in self.signs:
            if not isinstance(sign, Sign):
                raise ConfigError(f"RuleScorer(signs=...): {type(sign).__name__} is no Sign(...)")
        check_points("RuleScorer(per_doubling", per_doubling)
        check_points("RuleScorer(base", base)
        self.per_doubling = per_doubling
        self.base = base
        self._words: dict[str, list[int]] = {}
        for at, sign in enumerate(self.signs):
            for word in set(sign.words.lower().split()):
                self._words.setdefault(word, []).append(at)

    def score(self, text: str) -> float:
        """How much a stronger model is thought to gain, 0…1."""
        points = self.base + sum(points for _, points in self.explain(text))
        return logistic(max(-50.0, min(50.0, points)))

    def explain(self, text: str) -> list[tuple[str, float]]:
        """The points that a text has, by sign, in the table's order; "length" comes last."""
        length = len(text)
        text = cut(text)
        counts = [0] * len(self.signs)
        signs_of = self._words.get
        for word in WORDS.findall(text.lower()):
            for at in signs_of(word, ()):
                counts[at] += 1
        found: list[tuple[str, float]] = []
        for sign, counted in zip(self.signs, counts, strict=True):
            count = counted
            if sign.compiled is not None and count < sign.most:
                for _ in sign.compiled.finditer(text):
                    count += 1
                    if count == sign.most:
                        break
            if count:
                found.append((sign.name, sign.points * min(count, sign.most)))
        if length > FREE:
            found.append(("length", self.per_doubling * math.log2(length / FREE)))
        return found

    def __repr__(self) -> str:
        return f"<RuleScorer of {len(self.signs)} signs>"

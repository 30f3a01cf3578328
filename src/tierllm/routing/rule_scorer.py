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
USUAL = (
    "the and what how why which who when where this that these those with from for are my your you have has "
    "can does did write give make tell find explain would should could there their it its be by if about "
    "more than most of to into been were they them please thanks thank hello hi hey ok yes good"
)
"""Words without which hardly any English is written, and few of which any other language has."""

EVERY = 25
"""One word in so many is one of them at least, where a text is English."""

ENGLISH = frozenset(USUAL.split())

FREE = 64
"""Characters that a question takes anyway; points for length begin here."""


class RuleScorer:
    """Adds up the points of what an English text has, and makes 0…1 of them; needs no training; thread-safe.

    Of a text in another language it does not know that it is easy: as long as there are signs of ``SIGNS`` in
    the table, which look for English words, that has .5 at least, and is called "medium".

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
        usual = {sign.name for sign in SIGNS if sign.words}
        self._english = any(sign.name in usual and sign in SIGNS for sign in self.signs)
        self._words: dict[str, list[int]] = {}
        for at, sign in enumerate(self.signs):
            for word in set(sign.words.lower().split()):
                self._words.setdefault(word, []).append(at)

    def score(self, text: str) -> float:
        """How much a stronger model is thought to gain, 0…1."""
        points = self.base + sum(points for _, points in self.explain(text))
        return logistic(max(-50.0, min(50.0, points)))

    def explain(self, text: str) -> list[tuple[str, float]]:
        """The points that a text has, by sign, in the table's order; "length" comes last, and after it what
        lifts a text to the middle that is "not in English"."""
        length = len(text)
        text = cut(text)
        counts = [0] * len(self.signs)
        signs_of = self._words.get
        words = WORDS.findall(text.lower())
        for word in words:
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
        if self._english and len(words) > EVERY * sum(map(ENGLISH.__contains__, words)):
            short = -self.base - sum(points for _, points in found)
            if short > 0.0:
                found.append(("not in English", short))
        return found

    def __repr__(self) -> str:
        return f"<RuleScorer of {len(self.signs)} signs>"

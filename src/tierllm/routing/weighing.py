"""What a scorer says of a text, taken with care: it may be anybody's code."""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Sequence
from types import CoroutineType

from ..errors import ConfigError
from .choice import RequestClass
from .scorers import DifficultyScorer, Teachable, finite

__all__ = ["Failures", "Weighing"]

log = logging.getLogger("tierllm")

ENOUGH = 100
"""Before a scorer has learned from so many prompts, it calls nothing easy and nothing difficult."""

ENOUGH_OF_EACH = 20.0
"""And before outcomes of either model weigh so much: what is known of one says nothing of the other."""

CLASSES = 0.05, 0.25
"""A strong model that gains less than this is not needed; one that gains more than that is."""


class Failures:
    """Counts what fails, and logs the first of each kind: by its type, since its words may quote a prompt.

    A race costs a count.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def note(self, kind: str, says: str) -> None:
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count == 1:
            log.error(says)

    def of(self, kind: str) -> int:
        return self._counts.get(kind, 0)


class Weighing:
    """Asks a scorer, whose failures fail nothing, and makes classes of its scores.

    Raises ``ConfigError`` for classes that make no sense.
    """

    def __init__(
        self, scorer: DifficultyScorer, classes: tuple[float, float] | None, failures: Failures
    ) -> None:
        self._scorer = scorer
        self.teach = scorer if isinstance(scorer, Teachable) else None
        self.classes = _classes(classes, scorer)
        self._failures = failures
        self._enough = False

    def score(self, text: str) -> tuple[float, Sequence[int] | None]:
        """The score, and what was read from the text by a scorer that learns; NaN where it says nothing."""
        teach = self.teach
        buckets: Sequence[int] | None = None
        given: object
        try:
            if teach is not None:
                buckets = teach.buckets_of(text)
                if type(buckets) is not array:  # a list takes many times as much until feedback comes
                    buckets = array("I", buckets)
                given = teach.score_of(buckets)
            else:
                given = self._scorer.score(text)
        except Exception as error:
            self._failed(f"failed with {type(error).__name__}")
            return math.nan, None
        score = finite(given)
        if score != score:
            self._failed(_shown(given))
        return score, buckets

    def class_of(self, score: float) -> RequestClass:
        """How difficult a text of this score is; "medium" where the scorer does not know enough yet, "high"
        where it failed."""
        if score != score:
            return "high"
        if not (self._enough or self._knows_enough()):
            return "medium"
        low, high = self.classes
        return "low" if score < low else "high" if score >= high else "medium"

    @property
    def samples(self) -> int | None:
        """How many prompts the scorer has learned from; ``None`` where it does not learn, or say."""
        if self.teach is None:
            return None
        try:
            return self.teach.samples
        except Exception as error:
            self._failed(f"failed with {type(error).__name__}")
            return None

    def _knows_enough(self) -> bool:
        teach = self.teach
        if teach is not None:
            try:
                evidence: tuple[float, float] | None = getattr(teach, "evidence", None)
                if teach.samples < ENOUGH or (evidence is not None and min(evidence) < ENOUGH_OF_EACH):
                    return False
            except Exception as error:
                self._failed(f"failed with {type(error).__name__}")
                return False
        self._enough = True  # nobody forgets what it has learned
        return True

    def _failed(self, how: str) -> None:
        self._failures.note("scorer", f"the difficulty scorer {how}; such calls go to the strong model")


def _shown(given: object) -> str:
    if isinstance(given, CoroutineType):
        given.close()  # else Python complains that nobody awaits it
    return "gave NaN" if isinstance(given, float) else f"gave {type(given).__name__}, which is no number"


def _classes(given: tuple[float, float] | None, scorer: DifficultyScorer) -> tuple[float, float]:
    classes = given if given is not None else getattr(scorer, "classes", CLASSES)
    if (
        not isinstance(classes, tuple | list)
        or len(classes) != 2
        or not all(isinstance(each, int | float) and not isinstance(each, bool) for each in classes)
        or not classes[0] <= classes[1]
    ):
        raise ConfigError(
            f"Difficulty(classes={classes!r}): give the scores at which 'medium' and 'high' begin, "
            f"such as {CLASSES}"
        )
    return float(classes[0]), float(classes[1])

"""Strong or weak: which calls are worth a stronger model, and what becomes of what one hears of them."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError
from ..pipeline.fork import renew_after_fork
from .choice import Arm, Choice, RequestClass
from .hearing import Hearing
from .scorers import DifficultyScorer, FunctionScorer, finite, scorer_of
from .share import Share
from .weighing import Failures, Weighing

if TYPE_CHECKING:
    from ..pipeline.clock import Clock

__all__ = ["Arm", "Choice", "Difficulty"]

MOST_RULES = 4_096
"""So many rules have a share of their own; of more, the one that was not used for the longest starts over."""


class Difficulty:
    """Chooses between a weak and a strong model by what a scorer says, and learns from outcomes; thread-safe.

    ``share`` is the part of the calls that is to be strong, 0…1: those with the highest scores are, and it is
    kept within a point over 2,000 calls and more, for each rule by itself. ``pace()`` moves it: 2.0 says that
    money goes twice as fast as it may, and halves the share. Without a share (``None``) all but calls of
    class "low" are strong. ``classes`` are the scores at which "medium" and "high" begin.

    With the probability ``explore`` a call is drawn at random, strong or weak in the proportion of the share:
    otherwise the weak model would never be tried where it is thought to be bad, nor the strong one where it
    is not thought to be needed. Never where a call has a floor; 0 turns it off.

    A call of which the scorer says nothing (an error, no number) is strong, and counted as its failure.
    ``mode="observe"`` is for whoever asks to heed: choices are made and counted all the same.

    Up to ``max_pending`` answered calls wait for their outcome, for up to ``pending_s``. Raises
    ``ConfigError`` for settings that make no sense.
    """

    def __init__(
        self,
        scorer: DifficultyScorer | Callable[[str], float],
        *,
        share: float | None = None,
        explore: float = 0.05,
        classes: tuple[float, float] | None = None,
        rng: random.Random | None = None,
        mode: Literal["enforce", "observe"] = "enforce",
        pace: Callable[[], float] | None = None,
        clock: Clock = time.monotonic,
        max_pending: int = 10_000,
        pending_s: float = 86_400.0,
    ) -> None:
        self.scorer = scorer_of(scorer)
        self.share = None if share is None else _part("share", share)
        self.explore = _part("explore", explore)
        self._failures = Failures()
        self._weighing = Weighing(self.scorer, classes, self._failures)
        self.classes = self._weighing.classes
        if mode not in ("enforce", "observe"):
            raise ConfigError(f"Difficulty(mode={mode!r}): 'enforce' or 'observe'")
        self.mode = mode
        if isinstance(max_pending, bool) or not isinstance(max_pending, int) or max_pending < 0:
            raise ConfigError(f"Difficulty(max_pending={max_pending!r}): give a whole number, 0 or more")
        if isinstance(pending_s, bool) or not isinstance(pending_s, int | float) or not pending_s > 0:
            raise ConfigError(f"Difficulty(pending_s={pending_s!r}): give seconds above 0")
        self.pace = pace
        self._rng = rng if rng is not None else random.Random()
        self._shares: OrderedDict[str, Share] = OrderedDict()
        self._hearing = Hearing(
            self._weighing.teach, clock=clock, max_pending=max_pending, pending_s=pending_s
        )
        self._note_words: Callable[[str], None] | None = getattr(self.scorer, "note_words", None)
        self._floors = 0
        self._explored = 0
        self._lock = threading.Lock()
        renew_after_fork(self)

    def renew(self) -> None:
        """In a forked child: the lock may belong to the parent, and children are not to draw all alike."""
        self._lock = threading.Lock()
        self._rng = random.Random()

    def inherit(self, older: Difficulty) -> None:
        """Go on with what ``older`` waits to hear of, and with the shares it holds where they are asked for
        alike. Calls of both count together."""
        self._lock = older._lock
        self._floors, self._explored = older._floors, older._explored
        self._hearing.inherit(older._hearing)
        if (self.share, self.explore) == (older.share, older.explore) and _same(self.scorer, older.scorer):
            self._shares = older._shares

    # -- before a call ---------------------------------------------------------

    def classify(self, text: str) -> tuple[RequestClass, float]:
        """How difficult a text is, with its score; "medium" where the scorer does not know enough yet."""
        score, _ = self._weighing.score(text)
        return self._weighing.class_of(score), score

    def weighed(self, text: str) -> tuple[RequestClass, float, Sequence[int] | None]:
        """As ``classify``, with what the scorer made of the text; score and that are ``known`` afterwards."""
        score, buckets = self._weighing.score(text)
        return self._weighing.class_of(score), score, buckets

    def foreseen(self, text: str, *, share: float | None = None, rule: str = "", floor: bool = False) -> Arm:
        """What ``choose`` would say as things are, were there no chance. Nothing counts."""
        score, _ = self._weighing.score(text)
        asked = self.share if share is None else _part("share", share)
        if floor or score != score:
            return "strong"
        if asked is None:
            return "weak" if self._weighing.class_of(score) == "low" else "strong"
        asked = self._at_pace(asked)
        with self._lock:
            kept = self._shares.get(rule) or Share()
            return "strong" if kept.chance(score, kept.wanted(asked)) >= 0.5 else "weak"

    def choose(
        self,
        text: str,
        *,
        share: float | None = None,
        rule: str = "",
        floor: bool = False,
        known: tuple[float, Sequence[int] | None] | None = None,
    ) -> Choice:
        """Strong or weak for one call. ``share`` is its rule's own; with a ``floor`` it is strong anyway.

        Calls with a floor do not count towards the share: that is about calls that difficulty decides on.
        """
        score, buckets = self._weighing.score(text) if known is None else known
        if self._note_words is not None:
            self._note_words(text)
        request_class = self._weighing.class_of(score)
        asked = self.share if share is None else _part("share", share)
        if floor:
            with self._lock:
                self._floors += 1
            return Choice(
                "strong", score, 1.0, share=asked, floor=True, request_class=request_class, buckets=buckets
            )
        unknown = score != score
        if asked is None:
            if unknown:
                return Choice("strong", score, 1.0, request_class=request_class, buckets=buckets)
            return self._by_class(score, request_class, buckets)
        asked = self._at_pace(asked)
        with self._lock:
            kept = self._share_of(rule)
            if unknown:  # no number: nothing is left to chance
                kept.took(None, asked, True)
                return Choice("strong", score, 1.0, share=asked, request_class=request_class, buckets=buckets)
            wanted = kept.wanted(asked)
            threshold = kept.threshold(asked)
            chance = kept.chance(score, wanted)
            overall = (1.0 - self.explore) * chance + self.explore * wanted
            explored = self._rng.random() < self.explore
            strong = self._rng.random() < (wanted if explored else chance)
            self._explored += explored
            kept.took(score, asked, strong)
        return Choice(
            "strong" if strong else "weak",
            score,
            overall if strong else 1.0 - overall,
            explored,
            asked,
            threshold,
            False,
            request_class,
            buckets,
        )

    def _by_class(self, score: float, request_class: RequestClass, buckets: Sequence[int] | None) -> Choice:
        """Without a share: what is easy is weak; exploring tries the other one."""
        strong = request_class != "low"
        explored = False
        if self.explore:
            with self._lock:
                explored = self._rng.random() < self.explore
                strong = self._rng.random() < 0.5 if explored else strong
                self._explored += explored
        usual = (request_class != "low") == strong
        return Choice(
            "strong" if strong else "weak",
            score,
            1.0 - self.explore / 2 if usual else self.explore / 2,
            explored,
            request_class=request_class,
            buckets=buckets,
        )

    def _at_pace(self, share: float) -> float:
        pace = self.pace
        if pace is None:
            return share
        try:
            fast = finite(pace())
        except Exception as error:
            self._failures.note(
                "pace", f"the pace of budgets failed with {type(error).__name__}; the share stays as it is"
            )
            return share
        return share / fast if 1.0 < fast < math.inf else share

    def _share_of(self, rule: str) -> Share:
        shares = self._shares
        found = shares.get(rule)
        if found is None:
            found = shares[rule] = Share()
            if len(shares) > MOST_RULES:
                shares.popitem(last=False)
        else:
            shares.move_to_end(rule)
        return found

    # -- after it --------------------------------------------------------------

    def remember(self, trace_id: str, choice: Choice, who: str = "", *, answered: Arm | None = None) -> None:
        """The answer came; keep what its outcome will teach, for a day at most.

        ``who`` is the one whose voice its feedback will be; those who are not named are not held back.
        ``answered`` is the model that did answer, where that was not the chosen one.
        """
        self._hearing.remember(trace_id, choice, who, answered or choice.arm)

    def feedback(self, trace_id: str, score: float, *, source: str = "explicit") -> bool:
        """How good the answer to a call was, from 0 to 1; whether anything was learned from it.

        ``False`` for a call that nobody remembers or that has had its feedback, where the scorer does not
        learn, and where its voice has said too much. The source ``"judge"`` is the router's own judge: what
        it says counts in full, and takes nothing from what is said later. Raises ``ConfigError`` for what is
        no number from 0 to 1.
        """
        return self._hearing.feedback(trace_id, score, source)

    # -- what it says ----------------------------------------------------------

    def status(self) -> dict[str, object]:
        """Plain data: the share asked for, what came of it by rule, exploration, feedback, the scorer."""
        heard, samples = self._hearing.status(), self._weighing.samples
        with self._lock:
            return {
                "mode": self.mode,
                "share": self.share,
                "explore": self.explore,
                "explored": self._explored,
                "floors": self._floors,
                "scorer_failures": self._failures.of("scorer"),
                "samples": samples,
                **heard,
                "rules": {
                    rule: {"calls": share.calls, "strong": share.strong, "realised": share.realised}
                    for rule, share in self._shares.items()
                },
            }

    def __repr__(self) -> str:
        return f"<Difficulty {self.scorer!r} share={self.share}>"


def _part(option: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ConfigError(f"Difficulty({option}={value!r}): give a number from 0 to 1")
    return float(value)


def _same(one: DifficultyScorer, other: DifficultyScorer) -> bool:
    if isinstance(one, FunctionScorer) and isinstance(other, FunctionScorer):
        return one.function is other.function
    return one is other

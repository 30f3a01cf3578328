"""A judge that learns from your own calls which answers of the cheap model do."""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from ..errors import ConfigError
from ..pipeline.fork import renew_after_fork
from .feedback import Pending, Voices, Waiting
from .judges import COMPARISONS, as_score
from .learned_scorer import LearnedScorer

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..types import Request, Response

__all__ = ["UNSURE", "LearnedJudge"]

UNSURE: Final = float("nan")
"""What it says as long as it has learned too little."""

OF_PROMPT, OF_ANSWER, OF_END = 1_200, 1_400, 1_000
"""So many characters are read: of the prompt, of the answer's beginning and of its end."""


MOST_PENDING, PENDING_S = 10_000, 86_400.0
"""So many served answers wait for somebody's word, and for so long."""


class LearnedJudge:
    """Predicts from prompt and answer whether the answer does; thread-safe.

    It **starts untrained**: until it has learned from ``min_samples`` answers every call goes up to the
    strong tier. It learns

    - from each call that went up: how far the strong answer says the same, by ``compare`` (``"words"``,
      ``"text"``, ``"number"`` as in ``Agreement``, or a function of the two responses; ``None``: not at all);
    - from ``client.feedback(trace_id, score)`` for calls that were served the cheap answer. So that it hears
      of answers that it thinks poor, too, a share ``explore`` of them is served all the same; 0 switches
      that off. Nobody's word weighs more than many others' together.

    Answers are kept as weights of hashed words, never as text (see ``LearnedScorer``); ``buckets`` and
    ``salt`` are its own. Raises ``ConfigError`` for settings that make no sense.
    """

    def __init__(
        self,
        *,
        min_samples: int = 100,
        compare: Literal["words", "text", "number"] | Callable[[Response, Response], object] | None = "words",
        explore: float = 0.0,
        buckets: int = 65_536,
        salt: bytes = b"",
        rng: random.Random | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        if isinstance(min_samples, bool) or not isinstance(min_samples, int) or min_samples < 1:
            raise ConfigError(f"LearnedJudge(min_samples={min_samples!r}): give a whole number, 1 or more")
        if compare is not None and not callable(compare) and compare not in COMPARISONS:
            raise ConfigError(
                f"LearnedJudge(compare={compare!r}): one of {', '.join(COMPARISONS)}, a function of two "
                "responses, or None"
            )
        number = isinstance(explore, int | float) and not isinstance(explore, bool)
        if not number or not 0 <= explore <= 0.5:
            raise ConfigError(f"LearnedJudge(explore={explore!r}): give a share from 0 to 0.5")
        self.min_samples = min_samples
        self.compare = compare
        self.explore = float(explore)
        self._scorer = LearnedScorer(buckets=buckets, salt=salt)
        self._draw = (rng or random.Random()).random
        self._clock = clock
        self._pending = Pending(most=MOST_PENDING, ttl_s=PENDING_S)
        self._voices = Voices()
        self._lock = threading.Lock()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock: in a forked child it may belong to the parent."""
        self._lock = threading.Lock()

    @property
    def samples(self) -> int:
        """How many answers it has learned from."""
        return self._scorer.samples

    def __call__(self, request: Request, response: Response, /) -> float:
        if response.finish_reason == "length" or not (response.text.strip() or response.tool_calls):
            return 0.0
        if self._scorer.samples < self.min_samples:
            return UNSURE
        return self._scorer.predict(_read(request, response))[0]

    def explores(self) -> bool:
        """Whether an answer that it thinks poor is to be served all the same."""
        return self.explore > 0 and self._draw() < self.explore

    # -- learning ------------------------------------------------------------------

    def learn(self, request: Request, response: Response, score: float) -> None:
        """An answer and how good it was, 0…1. Raises ``ConfigError`` for what is no number from 0 to 1."""
        self._scorer.learn(_read(request, response), weak=score)

    def compared(self, request: Request, cheap: Response, strong: Response) -> None:
        """Learn from what the strong tier said to the same request."""
        how = self.compare
        if how is None or cheap.finish_reason == "length" or strong.finish_reason == "length":
            return
        try:
            value = how(cheap, strong) if callable(how) else COMPARISONS[how](cheap.text, strong.text)
        except Exception:  # nothing is learned from a comparison that fails
            return
        score = as_score(value)
        if score is not None:
            self.learn(request, cheap, score)

    def remember(self, trace_id: str, request: Request, response: Response) -> None:
        """This answer was served: somebody may say how good it was."""
        scorer = self._scorer
        buckets: array[int] = scorer.buckets_of(_read(request, response))
        who = f"{request.tenant or ''}\0{request.user}" if request.user is not None else ""
        with self._lock:
            if scorer is self._scorer:
                self._pending.add(trace_id, Waiting(False, buckets, who, self._clock()))

    def feedback(self, trace_id: str, score: float) -> bool:
        """How good a served answer was; False: nothing is known of that call, or it was said before."""
        now = self._clock()
        with self._lock:
            waiting = self._pending.take(trace_id, now)
            weight = 0.0 if waiting is None else self._voices.weight(waiting.who, now)
            scorer = self._scorer
        if waiting is None or waiting.buckets is None:
            return False
        scorer.learn_from(waiting.buckets, weak=score, weight=weight)
        return weight > 0

    # -- kept ----------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write what it has learned to a file, which is replaced as a whole. Raises ``OSError``."""
        self._scorer.save(path)

    def restore(self, path: str | Path) -> None:
        """Go on with what ``save`` wrote; nothing in the file is ever executed.

        What was served before and has had no word yet is forgotten, where that file reads answers in another
        way. Raises ``ConfigError`` where it is damaged or of another kind, ``OSError`` where it cannot be
        read.
        """
        scorer = LearnedScorer.load(path)
        with self._lock:
            if (scorer.buckets, scorer.salt) != (self._scorer.buckets, self._scorer.salt):
                self._pending = Pending(most=MOST_PENDING, ttl_s=PENDING_S)
            self._scorer = scorer

    def __repr__(self) -> str:
        return f"<LearnedJudge of {self.samples} samples>"


def _read(request: Request, response: Response) -> str:
    """Prompt and answer as one text, with what can be said of the two together as words of its own."""
    prompt, answer = request.text[:OF_PROMPT], response.text
    if len(answer) > OF_ANSWER + OF_END:
        answer = f"{answer[:OF_ANSWER]} {answer[-OF_END:]}"
    asked, said = set(prompt.lower().split()), set(answer.lower().split())
    shared = 10 * len(asked & said) // len(said) if said else 0
    lines = response.text.count("\n")
    signs = (
        f"answerlength{len(response.text).bit_length()} answerlines{lines.bit_length()} answershare{shared} "
        f"answerends{response.finish_reason} answertools{len(response.tool_calls)}"
    )
    return f"{signs}\n{prompt}\n{answer}"

"""A scorer that learns from your own calls what a stronger model gains; it starts knowing nothing."""

from __future__ import annotations

import threading
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..pipeline.fork import renew_after_fork
from .features import buckets_of, cut, named_buckets, words_of
from .heads import STRONG, WEAK, Heads
from .scorer_file import MOST_BYTES, Saved, read_scorer, scorer_bytes, write_scorer
from .scorers import check_outcome
from .vocabulary import Vocabulary

__all__ = ["LearnedScorer"]

MOST_BUCKETS: Final = 1 << 20
LEAST_BUCKETS: Final = 1 << 8


class LearnedScorer:
    """Predicts from a prompt's words how well the weak and the strong model will do; thread-safe.

    ``score`` is the difference, -1…1: what the strong model would gain. It **starts untrained** and says 0
    of everything until ``learn`` has told it how calls came out; what it learns of one kind of work is of no
    use for another. ``learn`` takes about 0.1 ms a prompt, and 1 MB holds 65,536 ``buckets`` (a power
    of two, 256…1,048,576), however much is learned.

    Prompts are read up to 4,000 characters (the first 3,000 and the last 1,000) and kept only as weights of
    hashed words. With ``keep_words=True`` it also keeps the commonest words themselves, up to 5,000, for
    ``words()``; those are text of prompts, and they are saved with it. ``salt`` tells the tables of two
    applications apart; it hides nothing.

    Raises ``ConfigError`` for settings that make no sense.
    """

    def __init__(self, *, buckets: int = 65_536, salt: bytes = b"", keep_words: bool = False) -> None:
        if (
            isinstance(buckets, bool)
            or not isinstance(buckets, int)
            or not LEAST_BUCKETS <= buckets <= MOST_BUCKETS
            or buckets & (buckets - 1)
        ):
            raise ConfigError(
                f"LearnedScorer(buckets={buckets!r}): give a power of two from 256 to 1048576; 65536 will do"
            )
        if not isinstance(salt, bytes) or len(salt) > 1024:
            raise ConfigError("LearnedScorer(salt=...): give up to 1024 bytes")
        if not isinstance(keep_words, bool):
            raise ConfigError(f"LearnedScorer(keep_words={keep_words!r}): give True or False")
        self.buckets = buckets
        self.salt = salt
        self._seed = zlib.crc32(salt)
        self._heads = Heads(buckets)
        self._outcomes = [0, 0]
        self._evidence = [0.0, 0.0]
        self._samples = 0
        self._vocabulary = Vocabulary() if keep_words else None
        self._lock = threading.Lock()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock: in a forked child it may belong to the parent."""
        self._lock = threading.Lock()

    # -- what it is asked ------------------------------------------------------

    def score(self, text: str) -> float:
        """What the strong model would gain on ``text``, -1…1; 0 while nothing is known."""
        return self.score_of(buckets_of(text, self.buckets, self._seed))

    def predict(self, text: str) -> tuple[float, float]:
        """How well the weak and the strong model would do, each 0…1."""
        return self._heads.predict(buckets_of(text, self.buckets, self._seed))

    def buckets_of(self, text: str) -> array[int]:
        """What is read from a text: numbers of buckets, from which no text can be made again."""
        return array("I", buckets_of(text, self.buckets, self._seed))

    def note_words(self, text: str) -> None:
        """Count the words of a prompt, where words are kept; the router does so for each call, once."""
        vocabulary = self._vocabulary
        if vocabulary is not None:
            words = words_of(cut(text))
            with self._lock:
                vocabulary.read(words, self.buckets, self._seed)

    def score_of(self, buckets: Sequence[int]) -> float:
        """The score of a text of which only the buckets are known."""
        # without the lock: a prediction half before and half after a step is as good as either
        weak, strong = self._heads.predict(buckets)
        return strong - weak

    # -- what it is told -------------------------------------------------------

    def learn(
        self, text: str, *, weak: float | None = None, strong: float | None = None, weight: float = 1.0
    ) -> None:
        """Take in how good the answers of the weak and the strong model to ``text`` were, or of one.

        Outcomes are numbers from 0 (useless) to 1; ``weight``, from 0 to 1, says how far to trust them.
        Raises ``ConfigError`` for others, and learns nothing from them.
        """
        self.learn_from(self.buckets_of(text), weak=weak, strong=strong, weight=weight)
        self.note_words(text)

    def learn_from(
        self,
        buckets: Sequence[int],
        *,
        weak: float | None = None,
        strong: float | None = None,
        weight: float = 1.0,
    ) -> None:
        """``learn`` for a text of which only the buckets were kept. A ``weight`` of 0 teaches nothing."""
        if weak is not None:
            weak = check_outcome("weak", weak)
        if strong is not None:
            strong = check_outcome("strong", strong)
        weight = check_outcome("weight", weight)
        if (weak is None and strong is None) or not weight:
            return
        _check_buckets(buckets, self.buckets)
        with self._lock:
            for head, outcome in ((WEAK, weak), (STRONG, strong)):
                if outcome is not None:
                    self._heads.learn(head, buckets, outcome, weight)
                    self._outcomes[head] += 1
                    self._evidence[head] += weight
            self._samples += 1

    @property
    def samples(self) -> int:
        """How many prompts it has learned from."""
        return self._samples

    @property
    def outcomes(self) -> tuple[int, int]:
        """How many outcomes of the weak and of the strong model it has learned from."""
        return self._outcomes[WEAK], self._outcomes[STRONG]

    @property
    def evidence(self) -> tuple[float, float]:
        """The same, each counted as much as it was trusted."""
        return self._evidence[WEAK], self._evidence[STRONG]

    # -- why -------------------------------------------------------------------

    def explain(self, text: str, most: int = 10) -> list[tuple[str, float]]:
        """What in ``text`` pulls its score where, strongest first: positive towards the strong model.

        Words, pairs of words, and in brackets what the text looks like. The pulls of all of them do not quite
        add up to the score, since predictions bend towards 0 and 1.
        """
        named: dict[int, str] = {}
        for name, bucket in named_buckets(text, self.buckets, self._seed):
            named.setdefault(bucket, name)
        return self._ranked(named, list(named), most)

    def words(self, of: Iterable[str] | None = None, most: int = 20) -> list[tuple[str, float]]:
        """The words that pull most, on either side, in texts of the usual length.

        Looked for among the words of the texts in ``of``, else among those kept (``keep_words=True``).
        Raises ``ConfigError`` where there is neither.
        """
        named: dict[int, str] = {}
        if of is not None:
            for text in of:
                for name, bucket in named_buckets(text, self.buckets, self._seed):
                    named.setdefault(bucket, name)
        elif self._vocabulary is not None:
            with self._lock:
                named.update(self._vocabulary.words())
        else:
            raise ConfigError(
                "words(): this scorer keeps no words; give texts to look in, words(of=[...]), "
                "or make it with LearnedScorer(keep_words=True)"
            )
        return self._ranked(named, [], most)

    def _ranked(self, named: Mapping[int, str], buckets: Sequence[int], most: int) -> list[tuple[str, float]]:
        heads = self._heads
        weak, strong = heads.predict(buckets)
        scale = 1.0 / sqrt(len(buckets) or 64)
        slopes = weak * (1.0 - weak) * scale, strong * (1.0 - strong) * scale
        pulls: list[tuple[str, float]] = []
        for bucket, name in named.items():
            for_weak, for_strong = heads.pull(bucket)
            pulls.append((name, for_strong * slopes[1] - for_weak * slopes[0]))
        pulls.sort(key=lambda pull: -abs(pull[1]))
        return [pull for pull in pulls[:most] if pull[1]]

    # -- kept ------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """All that it has learned, as JSON (about 1 MB): weights, counts, and the words if it keeps any."""
        with self._lock:  # calls wait for a copy, and not for what is made of it
            saved = Saved(
                self.buckets,
                self.salt,
                self._samples,
                tuple(self._outcomes),
                tuple(self._evidence),
                self._heads.copy(),
                None if self._vocabulary is None else self._vocabulary.kept(),
            )
        return scorer_bytes(saved)

    def __reduce__(self) -> tuple[object, ...]:
        return LearnedScorer.from_bytes, (self.to_bytes(),)

    @classmethod
    def from_bytes(cls, raw: bytes) -> LearnedScorer:
        """A scorer as ``to_bytes`` wrote it. Raises ``ConfigError`` for anything else."""
        saved = read_scorer(raw)
        scorer = cls(buckets=saved.buckets, salt=saved.salt, keep_words=saved.words is not None)
        scorer._heads = saved.heads
        scorer._samples = saved.samples
        scorer._outcomes = list(saved.outcomes)
        scorer._evidence = list(saved.evidence)
        if saved.words is not None:
            scorer._vocabulary = Vocabulary(saved.words)
        return scorer

    def save(self, path: str | Path) -> None:
        """Write it to a file, which is replaced as a whole. Raises ``OSError`` where that fails.

        A new file is for its owner alone; one that is there keeps its permissions.
        """
        write_scorer(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> LearnedScorer:
        """A scorer from a file that ``save`` wrote; nothing in the file is ever executed.

        Raises ``ConfigError`` where it is damaged or of another kind, ``OSError`` where it cannot be read.
        """
        with Path(path).open("rb") as file:
            return cls.from_bytes(file.read(MOST_BYTES + 1))

    def __repr__(self) -> str:
        return f"<LearnedScorer of {self._samples} samples>"


def _check_buckets(given: Sequence[int], buckets: int) -> None:
    """Raises ``ConfigError`` for numbers that this scorer's texts do not have."""
    try:
        if not given or (min(given) >= 0 and max(given) < buckets):
            return
    except TypeError:
        pass
    raise ConfigError(f"learn_from(buckets): give whole numbers from 0 to {buckets - 1}, as of buckets_of()")

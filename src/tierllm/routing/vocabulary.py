"""The commonest words of prompts, kept for those who want to look at them. Pure state; not thread-safe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

__all__ = ["Vocabulary"]

MOST_WORDS = 5_000
LONGEST = 24


class Vocabulary:
    """Up to 5,000 words by bucket, with a count each; a word that is seldom makes room for others.

    Only plain words of 2 to 24 letters: no numbers, no pairs of words, nothing that looks like a key. A word
    is told once it was seen in a second prompt.
    """

    __slots__ = ("_words",)

    def __init__(self, kept: Mapping[int, tuple[str, int]] | None = None) -> None:
        self._words: dict[int, tuple[str, int]] = dict(kept or {})

    def read(self, named: Iterable[tuple[str, int]]) -> None:
        words = self._words
        for name, bucket in {bucket: (name, bucket) for name, bucket in named}.values():
            if plain(name):
                known = words.get(bucket)
                words[bucket] = (name, 1) if known is None else (known[0], known[1] + 1)
        if len(words) > MOST_WORDS:
            self._thin_out()

    def _thin_out(self) -> None:
        """Halve all counts and let go of those that are left with nothing, then of the rarest."""
        halved = sorted(((w, count >> 1, at) for at, (w, count) in self._words.items()), key=lambda e: -e[1])
        self._words = {at: (word, count) for word, count, at in halved[: MOST_WORDS * 3 // 4] if count}

    def words(self) -> Iterator[tuple[int, str]]:
        return ((bucket, word) for bucket, (word, count) in self._words.items() if count > 1)

    def kept(self) -> dict[int, tuple[str, int]]:
        return dict(self._words)


def plain(name: str) -> bool:
    return 2 <= len(name) <= LONGEST and name.isalpha()

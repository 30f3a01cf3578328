"""The commonest words of prompts, kept for those who want to look at them. Pure state; not thread-safe."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from unicodedata import category

__all__ = ["Vocabulary"]

MOST_WORDS = 5_000
LONGEST = 24


class Vocabulary:
    """Up to 5,000 words by bucket, with a count each; a word that is seldom makes room for others.

    Only plain words of 2 to 24 letters: no numbers, no pairs of words, nothing that looks like a key. A word
    is kept once it was seen in a second prompt; until then it may be forgotten, and nobody is told.
    """

    __slots__ = ("_new", "_newer", "_words")

    def __init__(self, kept: Mapping[int, tuple[str, int]] | None = None) -> None:
        self._words: dict[int, tuple[str, int]] = dict(kept or {})
        self._newer: set[str] = set()  # in one prompt so far, lately
        self._new: set[str] = set()  # the same, before that

    def read(self, words: Iterable[str], buckets: int, seed: int) -> None:
        """Take in the words of one prompt."""
        known = self._words
        for word in set(words):
            if not plain(word):
                continue
            bucket = zlib.crc32(word.encode("utf-8", "surrogatepass"), seed) & buckets - 1
            found = known.get(bucket)
            if found is not None:
                known[bucket] = found[0], found[1] + 1
            elif word in self._newer or word in self._new:
                known[bucket] = word, 2
            else:
                self._newer.add(word)
        if len(self._newer) > MOST_WORDS:
            self._new, self._newer = self._newer, set()
        if len(known) > MOST_WORDS:
            self._thin_out()

    def _thin_out(self) -> None:
        """Keep the commoner half, with half the count."""
        counts = sorted(count for _, count in self._words.values())
        least = counts[len(counts) // 2]
        room = MOST_WORDS * 3 // 4
        kept = {at: (word, count + 2 >> 1) for at, (word, count) in self._words.items() if count > least}
        for at, (word, count) in self._words.items():
            if len(kept) >= room:
                break
            if count == least:
                kept[at] = word, count + 2 >> 1
        self._words = kept

    def words(self) -> Iterator[tuple[int, str]]:
        return ((bucket, word) for bucket, (word, _) in self._words.items())

    def kept(self) -> dict[int, tuple[str, int]]:
        return dict(self._words)


def plain(name: str) -> bool:
    if not 2 <= len(name) <= LONGEST:
        return False
    return name.isalpha() or (
        not name.isascii() and all(each.isalpha() or category(each)[0] == "M" for each in name)
    )

"""What this process remembers of keys on the disk that were asked for, or have gone."""

from __future__ import annotations

import math

__all__ = ["Marks"]


class Marks:
    """Remembers keys by their hashes: the last half of ``most`` for certain, and never more than ``most``.

    ``most_bytes`` bounds likewise what they have together. The older half goes at once.
    """

    __slots__ = ("_bytes", "_half", "_half_bytes", "_new", "_old")

    def __init__(self, most: int, most_bytes: float = math.inf) -> None:
        self._half, self._half_bytes = most // 2, most_bytes / 2
        self._new: set[int] = set()
        self._old: set[int] = set()
        self._bytes = 0

    def add(self, key: object, size: int = 0) -> None:
        if len(self._new) >= self._half or self._bytes > self._half_bytes:
            self._old, self._new, self._bytes = self._new, set(), 0
        self._new.add(hash(key))
        self._bytes += size

    def take(self, key: object) -> bool:
        """Whether ``key`` is remembered; not any more, then."""
        mark = hash(key)
        known = mark in self._new or mark in self._old
        if known:
            self._new.discard(mark)
            self._old.discard(mark)
        return known

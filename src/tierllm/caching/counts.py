"""What a cache did in this process."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from .layer import LayerStats

__all__ = ["CacheStats", "Counts"]

COUNTED = ("misses", "stale", "joined", "bypassed", "kept", "not_kept", "refreshed", "refresh_failures")


class CacheStats(NamedTuple):
    """What a cache did in this process, and what its layers hold.

    ``hits`` by layer; ``stale`` of them were old answers. ``joined`` calls got the answer of another
    one that was under way. To ``bypassed`` ones the cache did not apply. ``kept`` answers were put into the
    layers, ``not_kept`` could not be. ``would_hit`` counts in ``mode="observe"``. ``saved_usd`` and
    ``saved_s`` are what the answers had cost that were given again. A layer that cannot be reached
    is ``None`` in ``layers``. ``left_out`` writes were not done because too many waited.
    """

    hits: Mapping[str, int]
    misses: int
    stale: int
    joined: int
    bypassed: int
    kept: int
    not_kept: int
    refreshed: int
    refresh_failures: int
    would_hit: int
    left_out: int
    saved_usd: Decimal
    saved_s: float
    layers: Mapping[str, LayerStats | None]

    @property
    def hit_rate(self) -> float:
        """Of the calls to which the cache applies, the part that was answered without a call of its own."""
        answered = sum(self.hits.values()) + self.joined
        return answered / (answered + self.misses) if answered else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; dollars as text."""
        told = self._asdict()
        told["hits"] = dict(self.hits)
        told["saved_usd"] = str(self.saved_usd)
        told["layers"] = {n: None if stats is None else stats._asdict() for n, stats in self.layers.items()}
        return {**told, "hit_rate": self.hit_rate}


class Counts:
    """Thread-safe counters."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """After a fork: the parent's are the parent's."""
        self._lock = threading.Lock()
        self._hits: dict[str, int] = {}
        self._others = dict.fromkeys((*COUNTED, "would_hit"), 0)
        self._saved_usd = Decimal(0)
        self._saved_s = 0.0

    def hit(self, layer: str, how: str, usd: Decimal | None, seconds: float, missed: bool = False) -> None:
        """``missed``: it was counted as a miss, before it got what could not be served to it at first."""
        with self._lock:
            self._hits[layer] = self._hits.get(layer, 0) + 1
            self._others["misses"] -= missed
            self._saved_s += seconds
            if usd is not None:
                self._saved_usd += usd
            if how == "stale":
                self._others["stale"] += 1

    def joined(self, usd: Decimal | None) -> None:
        """A call got what another one was billed for; time it saved none, or little."""
        with self._lock:
            self._others["joined"] += 1
            self._others["misses"] -= 1  # it had found nothing, before it found the other call
            if usd is not None:
                self._saved_usd += usd

    def count(self, what: str) -> None:
        with self._lock:
            self._others[what] += 1

    def told(self, layers: Mapping[str, LayerStats | None], left_out: int) -> CacheStats:
        with self._lock:
            return CacheStats(
                hits=dict(self._hits),
                left_out=left_out,
                saved_usd=self._saved_usd,
                saved_s=self._saved_s,
                layers=layers,
                **self._others,
            )

"""On whose account a shadow runs, and what it finds out."""

from __future__ import annotations

import threading
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ..cost.runs import Cap
from ..types import Request

if TYPE_CHECKING:
    from ..cost.budget import Budget, Draw
    from ..stores import Store
    from ..types import Call

__all__ = ["SHADOW", "Purse", "Tally", "anonymous"]

SHADOW = "shadow"
"""Under this name it stands in the ledger, as user and tenant."""


class Purse(Cap):
    """The shadow's own budget, on the client's store."""

    __slots__ = ("_kept",)

    def __init__(self, budget: Budget, store: Store) -> None:
        self.budget, self.bucket, self.run = budget, "client", None
        self._kept = store

    def draws(self, now: float) -> list[Draw]:
        assert self.budget is not None
        return self.budget.draws(Request(messages=()), "", "", now, self._kept)

    def close(self) -> None:
        """Its account stays."""


class Quality:
    """How good the answers of one deployment were: their number and the mean of their scores."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0


class Tally:
    """What came of the shadows of one client, under whichever configuration they ended. Thread-safe."""

    def __init__(self) -> None:
        self.running = 0
        self.counts: Counter[str] = Counter()
        self.quality: dict[tuple[str, str], Quality] = {}
        self.spent_usd = Decimal(0)
        self._lock = threading.Lock()

    def enter(self, most: int) -> bool:
        """Whether one more may be under way."""
        with self._lock:
            if self.running >= most:
                return False
            self.running += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self.running = max(0, self.running - 1)  # a child of the process has none of the parent's

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def spent(self, usd: Decimal | None) -> None:
        with self._lock:
            self.spent_usd += usd or Decimal(0)

    def note(self, place: tuple[str, str], score: float) -> None:
        """An answer of ``place`` was worth so much."""
        with self._lock:
            quality = self.quality.setdefault(place, Quality())
            quality.count += 1
            quality.total += score

    def status(self) -> dict[str, Any]:
        with self._lock:
            return {
                "running": self.running,
                "counts": dict(self.counts),
                "spent_usd": self.spent_usd,
                "quality": {
                    f"{tier}/{name}": {"count": each.count, "mean": each.total / each.count}
                    for (tier, name), each in self.quality.items()
                },
            }

    def renew(self) -> None:
        """After a fork: the parent's flows do not run here."""
        self._lock = threading.Lock()
        self.running = 0


def anonymous(call: Call) -> Request:
    """The same question, as it was left by all who stand around the tiers, on nobody's account."""
    request = call.request
    return Request(
        messages=call.messages,
        user=SHADOW,
        tenant=SHADOW,
        require=request.require,
        route=request.route,
        language=request.language,
        cache="off",
        params=request.params,
        extra=request.extra,
    )

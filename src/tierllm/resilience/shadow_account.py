"""On whose account a shadow runs, and what it finds out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cost.runs import Cap
from ..types import Request

if TYPE_CHECKING:
    from ..cost.budget import Budget, Draw
    from ..stores import Store

__all__ = ["SHADOW", "Purse", "Quality", "anonymous"]

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


def anonymous(request: Request) -> Request:
    """The same question, on nobody's account."""
    return Request(
        messages=request.messages,
        user=SHADOW,
        tenant=SHADOW,
        require=request.require,
        route=request.route,
        language=request.language,
        cache="off",
        params=request.params,
        extra=request.extra,
    )

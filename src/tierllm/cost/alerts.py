"""What is told about budgets: soft limits passed, overruns, paces, and what observing would have refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..events import BudgetOverrun, BudgetPace, BudgetRefused, BudgetWarning, Event
from .amounts import EXACT
from .forecast import pace

if TYPE_CHECKING:
    from ..errors import BudgetExceededError
    from ..stores import Standing
    from .budget import Draw
    from .purchase import Purchase, Taken

__all__ = ["Alerts"]

ACCOUNTS_KEPT = 10_000


class Alerts:
    """Tells of each matter once for each account, and keeps count of refusals. Thread-safe."""

    def __init__(self, emit: Callable[[Event], None] | None, wall: Callable[[], float]) -> None:
        self.emit = emit
        self.wall = wall
        self.renew()

    def renew(self) -> None:
        """After a fork."""
        self._lock = threading.Lock()
        self._announced: dict[tuple[str, str], bool] = {}
        self.refusals: dict[str, int] = {}
        self.peaks: dict[tuple[str, str], int] = {}

    def refused(self, purchase: Purchase, error: BudgetExceededError, mode: str = "enforce") -> None:
        with self._lock:
            self.refusals[error.budget] = self.refusals.get(error.budget, 0) + 1
        if self.emit is not None:
            trace, place = purchase.call.trace, purchase.place
            self.emit(
                BudgetRefused(
                    trace_id="" if trace is None else trace.id,
                    tier=place.tier,
                    deployment=place.deployment,
                    mode=mode,
                    error=error,
                )
            )

    def reserved(self, purchase: Purchase, taken: Taken) -> None:
        """Budgets that only observe tell what they would have refused."""
        for draw, line, standing in zip(taken.draws, taken.hold.lines, taken.standings, strict=True):
            hard = draw.limit.hard
            if line.limit is not None or hard is None:
                continue
            if standing.settled + standing.reserved + line.amount > hard:
                error = draw.budget.refusal(draw, standing, line.amount, self.wall())
                purchase.warnings.append(f"observed only: {error}")
                self.refused(purchase, error, "observe")

    def settled(self, purchase: Purchase, taken: Taken, used: Sequence[int]) -> None:
        """One hold was settled: warnings for the response, and events."""
        rows = zip(taken.draws, taken.hold.lines, taken.standings, used, strict=True)
        for draw, line, standing, amount in rows:
            limit = draw.limit
            total = standing.settled + amount
            if limit.soft is not None and taken.store.inline:  # others may have been settled meanwhile
                total = max(total, taken.store.standings((line,))[0].settled)
            if limit.hard is not None:
                key = (draw.budget.name, limit.unit)
                if total > self.peaks.get(key, 0):
                    self.peaks[key] = total
            if limit.soft is not None and total > limit.soft:
                purchase.warnings.append(_over_soft(draw, total))
                self._warn(draw, standing, total)
            if self.emit is None:
                continue
            if limit.hard is not None and amount > line.amount:
                self.emit(
                    BudgetOverrun(
                        budget=draw.budget.name,
                        bucket=draw.bucket,
                        unit=limit.unit,
                        reserved=limit.told(line.amount),
                        used=limit.told(amount),
                    )
                )
            if draw.span.begins_at is not None:
                self._pace(draw, total)

    def _warn(self, draw: Draw, standing: Standing, total: int) -> None:
        limit = draw.limit
        if self.emit is not None and limit.soft is not None and self._first_time(draw, "soft"):
            self.emit(
                BudgetWarning(
                    budget=draw.budget.name,
                    bucket=draw.bucket,
                    unit=limit.unit,
                    used=limit.told(total),
                    limit=limit.told(limit.soft),
                    resets_at=draw.budget.window.frees_at(draw.span, standing.first_slot),
                )
            )

    def _pace(self, draw: Draw, total: int) -> None:
        span, limit, now = draw.span, draw.limit, self.wall()
        most = limit.hard if limit.hard is not None else limit.soft
        assert span.begins_at is not None
        assert span.resets_at is not None
        assert most is not None
        if not total * (span.resets_at - span.begins_at) > most * (now - span.begins_at) or total >= most:
            return  # slow enough, or there already
        told = pace(
            used=limit.told(total),
            limit=limit.told(most),
            began_at=span.begins_at,
            now=now,
            resets_at=span.resets_at,
        )
        if told.falls_at is None or not told.confident or self.emit is None:
            return
        if self._first_time(draw, "pace"):
            self.emit(
                BudgetPace(
                    budget=draw.budget.name,
                    bucket=draw.bucket,
                    unit=limit.unit,
                    used=told.used,
                    limit=told.limit,
                    falls_at=told.falls_at,
                    resets_at=span.resets_at,
                )
            )

    def _first_time(self, draw: Draw, what: str) -> bool:
        announced, key = self._announced, (draw.account, what)
        with self._lock:
            if key in announced:
                announced[key] = announced.pop(key)  # those that were not heard of for longest go first
                return False
            if len(announced) >= ACCOUNTS_KEPT:
                announced.pop(next(iter(announced)))
            announced[key] = True
            return True


def _over_soft(draw: Draw, total: int) -> str:
    limit = draw.limit
    assert limit.soft is not None
    used, soft = (f"{limit.told(amount).normalize(EXACT):f}" for amount in (total, limit.soft))
    sign, unit = ("$", "") if limit.unit == "usd" else ("", f" {limit.unit}")
    return (
        f"budget {draw.budget.name!r} ({draw.bucket}): {sign}{used}{unit} used, "
        f"over the soft limit of {sign}{soft}{unit}"
    )

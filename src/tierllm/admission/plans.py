"""The plans of the application's customers, and what has been claimed of them."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import ConfigError
from ..events import Event, PriorityLowered, emitter
from .consent import Consent
from .promised import limit_of, same_limit
from .rate_limit import RateLimit
from .service_plan import ServicePlan

__all__ = ["Plans", "ServicePlan"]

EXACT_UP_TO = 10_000
"""Larger quotas are logged in cells of a window's ten-thousandth, so that memory stays bounded."""

KINDS = 64
"""So many different priorities are counted one by one; callers may claim any number."""


class Plans:
    """The plans of one client, and what has been claimed of them. Thread-safe.

    The quotas count within this client. ``emit`` hears of each priority that was lowered, outside locks.
    A plan that is not listed may claim anything. Raises ``ConfigError`` where two plans have one name.
    """

    def __init__(
        self, plans: Iterable[ServicePlan], *, emit: Callable[[Event], object] | None = None
    ) -> None:
        self._books: dict[str, _Book] = {}
        for plan in plans:
            if not isinstance(plan, ServicePlan):
                raise ConfigError(f"plans=[...]: give ServicePlan(...), not {type(plan).__name__}")
            if plan.name in self._books:
                raise ConfigError(f"plans=[...]: two are called {plan.name!r}; take one of them out")
            self._books[plan.name] = _Book(plan)
        limits = ((name, limit_of("plan", book.plan)) for name, book in self._books.items())
        self._limits = {name: limit for name, limit in limits if limit is not None}
        self._emit = emitter(() if emit is None else (emit,))
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._books)

    def __contains__(self, name: object) -> bool:
        return name in self._books

    def __iter__(self) -> Iterator[ServicePlan]:
        return iter([book.plan for book in self._books.values()])

    def get(self, name: str | None) -> ServicePlan | None:
        """The plan of that name; ``None`` where it is not listed."""
        book = None if name is None else self._books.get(name)
        return None if book is None else book.plan

    def rate_limits(self) -> list[RateLimit]:
        """What the plans limit: the same objects each time."""
        return list(self._limits.values())

    def consents(self) -> list[Consent]:
        """What those on the plans have agreed to; nothing where a plan only observes."""
        return [
            each.of(plan=book.plan.name)
            for book in self._books.values()
            if book.plan.mode == "enforce"
            for each in book.plan.consent
        ]

    def inherit(self, older: Plans) -> None:
        """Take over from the plans before a change what was claimed: it stays claimed, and both count on
        together. A limit that is still the same goes on as it is. Before anybody else has these."""
        with older._lock:
            for name, book in self._books.items():
                before = older._books.get(name)
                if before is not None:
                    book.inherit(before)
        self._lock = older._lock
        for name, limit in self._limits.items():
            earlier = older._limits.get(name)
            if earlier is not None and same_limit(earlier, limit):
                self._limits[name] = earlier

    def priority_of(
        self, request_plan: str | None, priority: int, now: float, *, trace_id: str = ""
    ) -> tuple[int, str | None]:
        """The priority that a call on this plan is granted, and the warning where it claimed another.

        To be asked once a call: what is granted counts against the quota. ``now`` is a monotonic clock's.
        """
        book = None if request_plan is None else self._books.get(request_plan)
        if book is None:
            return priority, None
        with self._lock:
            granted, why = book.grant(priority, now)
        if granted == priority:
            return priority, None
        plan = book.plan
        self._emit(
            PriorityLowered(
                trace_id=trace_id, plan=plan.name, claimed=priority, granted=granted, mode=plan.mode
            )
        )
        if plan.mode == "observe":
            said = f"observed only: plan {plan.name!r}: priority {priority} would be lowered to {granted}"
            return priority, f"{said}, {why}"
        return granted, f"plan {plan.name!r}: priority {priority} was lowered to {granted}, {why}"

    def weight_of(self, request_plan: str | None) -> float:
        """What a tenant on this plan weighs; 1.0 on one that is not listed."""
        book = None if request_plan is None else self._books.get(request_plan)
        return 1.0 if book is None else book.plan.weight

    def status(self, now: float | None = None) -> dict[str, dict[str, Any]]:
        """By plan: how many calls claimed and were granted each priority, how many were lowered and why.

        With ``mode="observe"``, ``granted`` is what would have been. ``quota_left`` is how many calls may
        still be of high priority at ``now`` (left out: when it was last asked), ``None`` without a quota.
        """
        with self._lock:
            return {name: book.status(now) for name, book in self._books.items()}

    def renew(self) -> None:
        """After a fork: the lock may belong to the parent. The child counts on from here by itself."""
        self._lock = threading.Lock()


class _Claims:
    """How many calls claimed and were granted which priority."""

    __slots__ = ("above_max", "claimed", "granted", "over_quota")

    def __init__(self) -> None:
        self.claimed: dict[int | str, int] = {}
        self.granted: dict[int | str, int] = {}
        self.above_max = 0
        self.over_quota = 0


class _Book:
    """One plan's log and counts. Its owner holds the lock."""

    def __init__(self, plan: ServicePlan) -> None:
        self.plan = plan
        self.quota = plan.high_priority_quota
        self.log = None if self.quota is None else _SlidingLog(self.quota, plan.quota_window_s)
        self.claims = _Claims()

    def inherit(self, older: _Book) -> None:
        self.claims = older.claims
        if self.log is not None and older.log is not None:
            self.log = self.log.after(older.log)

    def grant(self, claimed: int, now: float) -> tuple[int, str]:
        plan, claims, granted, why = self.plan, self.claims, claimed, ""
        if plan.max_priority is not None and claimed > plan.max_priority:
            granted = plan.max_priority
            why = "the highest it allows"
        high, log, quota = plan.high_priority, self.log, self.quota
        if high is not None and log is not None and quota is not None and granted >= high:
            if not log.take(now, quota):
                granted = high - 1
                why = (
                    f"its {quota} of priority {high} and above in {plan.quota_window_s:g} s are used up; "
                    f"the next comes in {log.wait_s(now, quota):.0f} s"
                    if quota
                    else f"it has none of priority {high} and above"
                )
                claims.over_quota += 1
            elif granted != claimed:
                claims.above_max += 1
        elif granted != claimed:
            claims.above_max += 1
        _count(claims.claimed, claimed)
        _count(claims.granted, granted)
        return granted, why

    def status(self, now: float | None) -> dict[str, Any]:
        claims, log, quota = self.claims, self.log, self.quota
        return {
            "mode": self.plan.mode,
            "calls": sum(claims.claimed.values()),
            "claimed": dict(claims.claimed),
            "granted": dict(claims.granted),
            "above_max_priority": claims.above_max,
            "over_quota": claims.over_quota,
            "quota_left": None if log is None or quota is None else log.left(now, quota),
        }


class _SlidingLog:
    """At most ``quota`` takes in any window of ``window_s``, exactly: a log of when they were.

    In a large one, takes that are close together have a cell in common, which counts until the window of
    its latest is over: never over, and short by less than a cell.
    """

    def __init__(self, quota: int, window_s: float) -> None:
        self.window_s = window_s
        self._cell_s = window_s / EXACT_UP_TO if quota > EXACT_UP_TO else 0.0
        self._cells: deque[list[float]] = deque()  # begun, latest, takes
        self._taken = 0
        self._now = -math.inf

    def after(self, older: _SlidingLog) -> _SlidingLog:
        """The log that goes on from ``older``: that very one, where it counts over the same window."""
        if older.window_s == self.window_s and older._cell_s == self._cell_s:
            return older
        self._cells = deque([*cell] for cell in older._cells)
        self._taken, self._now = older._taken, older._now
        return self

    def take(self, now: float, quota: int) -> bool:
        now = self._forget(now)
        if self._taken >= quota:
            return False
        cells = self._cells
        if cells and now - cells[-1][0] < self._cell_s:
            cells[-1][1] = now
            cells[-1][2] += 1
        else:
            cells.append([now, now, 1])
        self._taken += 1
        return True

    def left(self, now: float | None, quota: int) -> int:
        if now is not None:
            self._forget(now)
        return max(0, quota - self._taken)

    def wait_s(self, now: float, quota: int) -> float:
        """Until there is room again, where there is none."""
        over = self._taken - quota
        for cell in self._cells:  # a quota that was lowered may have to wait for more than the first
            over -= int(cell[2])
            if over < 0:
                return max(0.0, cell[1] + self.window_s - now)
        return 0.0

    def _forget(self, now: float) -> float:
        """Let go of what is a window old. Threads may come in another order than they read the clock."""
        now = self._now = max(now, self._now)
        cells = self._cells
        while cells and now - cells[0][1] >= self.window_s:
            self._taken -= int(cells.popleft()[2])
        return now


def _count(counts: dict[int | str, int], priority: int) -> None:
    kind: int | str = priority if priority in counts or len(counts) < KINDS else "other"
    counts[kind] = counts.get(kind, 0) + 1

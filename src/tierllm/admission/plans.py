"""What each plan of the application's customers may claim."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigError
from ..events import Event, PriorityLowered, emitter

__all__ = ["Plans", "ServicePlan"]

EXACT_UP_TO = 10_000
"""Larger quotas are logged in cells of a window's ten-thousandth, so that memory stays bounded."""

KINDS = 64
"""So many different priorities are counted one by one; callers may claim any number."""


@dataclass(frozen=True, slots=True, init=False)
class ServicePlan:
    """What calls with ``plan=name`` may claim, and what their tenants weigh.

    A ``priority`` above ``max_priority`` is lowered to it. Priorities of ``high_priority`` and above are
    scarce: at most ``high_priority_quota`` calls of all callers on the plan together have one in any
    ``quota_window_s`` seconds; what comes on top of that is lowered to ``high_priority - 1``.
    ``weight`` is the share that each tenant on the plan has in a tier's queue, relative to other tenants.

    ``mode="observe"`` lowers nothing, and tells what it would have lowered. Frozen; raises ``ConfigError``
    for settings that make no sense.
    """

    name: str
    max_priority: int | None
    high_priority: int | None
    high_priority_quota: int | None
    quota_window_s: float
    weight: float
    mode: Literal["enforce", "observe"]

    def __init__(
        self,
        name: str,
        *,
        max_priority: int | None = None,
        high_priority: int | None = None,
        high_priority_quota: int | None = None,
        quota_window_s: float = 3600.0,
        weight: float = 1.0,
        mode: Literal["enforce", "observe"] = "enforce",
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigError("ServicePlan(name): give the plan's name, such as 'free'")
        where = f"ServicePlan({name!r}"
        _check_whole(where, "max_priority", max_priority)
        _check_whole(where, "high_priority", high_priority)
        _check_whole(where, "high_priority_quota", high_priority_quota, least=0)
        _check_above_0(where, "quota_window_s", quota_window_s, "seconds")
        _check_above_0(where, "weight", weight, "a weight")
        if mode not in ("enforce", "observe"):
            raise ConfigError(f"{where}, mode={mode!r}): 'enforce' or 'observe'")
        if high_priority_quota is not None and high_priority is None:
            raise ConfigError(
                f"{where}, high_priority_quota={high_priority_quota}): say which priorities count against "
                "it, such as high_priority=5"
            )
        if high_priority is not None and high_priority_quota is None:
            raise ConfigError(
                f"{where}, high_priority={high_priority}): without high_priority_quota it says nothing; "
                "give both, or max_priority"
            )
        if max_priority is not None and high_priority is not None and high_priority > max_priority:
            raise ConfigError(
                f"{where}, high_priority={high_priority}): no call is granted more than "
                f"max_priority={max_priority}; give {max_priority} or less"
            )
        for field, value in (
            ("name", name),
            ("max_priority", max_priority),
            ("high_priority", high_priority),
            ("high_priority_quota", high_priority_quota),
            ("quota_window_s", float(quota_window_s)),
            ("weight", float(weight)),
            ("mode", mode),
        ):
            object.__setattr__(self, field, value)


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
        self._emit = emitter(() if emit is None else (emit,))
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._books)

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


class _Book:
    """One plan's log and counts. Its owner holds the lock."""

    def __init__(self, plan: ServicePlan) -> None:
        self.plan = plan
        self.log = None
        if plan.high_priority_quota is not None:
            self.log = _SlidingLog(plan.high_priority_quota, plan.quota_window_s)
        self.claimed: dict[int | str, int] = {}
        self.granted: dict[int | str, int] = {}
        self.above_max = 0
        self.over_quota = 0

    def grant(self, claimed: int, now: float) -> tuple[int, str]:
        plan, granted, why = self.plan, claimed, ""
        if plan.max_priority is not None and claimed > plan.max_priority:
            granted = plan.max_priority
            why = "the highest it allows"
        high, log = plan.high_priority, self.log
        if high is not None and log is not None and granted >= high and not log.take(now):
            granted = high - 1
            why = (
                f"its {log.quota} of priority {high} and above in {plan.quota_window_s:g} s are used up; "
                f"the next comes in {log.wait_s(now):.0f} s"
                if log.quota
                else f"it has none of priority {high} and above"
            )
            self.over_quota += 1
        elif granted != claimed:
            self.above_max += 1
        _count(self.claimed, claimed)
        _count(self.granted, granted)
        return granted, why

    def status(self, now: float | None) -> dict[str, Any]:
        log = self.log
        return {
            "mode": self.plan.mode,
            "calls": sum(self.claimed.values()),
            "claimed": dict(self.claimed),
            "granted": dict(self.granted),
            "above_max_priority": self.above_max,
            "over_quota": self.over_quota,
            "quota_left": None if log is None else log.left(now),
        }


class _SlidingLog:
    """At most ``quota`` takes in any window of ``window_s``, exactly: a log of when they were.

    In a large one, takes that are close together have a cell in common, which counts until the window of
    its latest is over: never over, and short by less than a cell.
    """

    def __init__(self, quota: int, window_s: float) -> None:
        self.quota = quota
        self.window_s = window_s
        self._cell_s = window_s / EXACT_UP_TO if quota > EXACT_UP_TO else 0.0
        self._cells: deque[list[float]] = deque()  # begun, latest, takes
        self._taken = 0
        self._now = -math.inf

    def take(self, now: float) -> bool:
        now = self._forget(now)
        if self._taken >= self.quota:
            return False
        cells = self._cells
        if cells and now - cells[-1][0] < self._cell_s:
            cells[-1][1] = now
            cells[-1][2] += 1
        else:
            cells.append([now, now, 1])
        self._taken += 1
        return True

    def left(self, now: float | None) -> int:
        if now is not None:
            self._forget(now)
        return self.quota - self._taken

    def wait_s(self, now: float) -> float:
        """Until there is room again, where there is none."""
        return max(0.0, self._cells[0][1] + self.window_s - now) if self._cells else 0.0

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


def _check_whole(where: str, option: str, value: object, least: int | None = None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        what = "a whole number" if least is None else f"a whole number of at least {least}"
        raise ConfigError(f"{where}, {option}={value!r}): give {what}, or leave it out")


def _check_above_0(where: str, option: str, value: object, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{where}, {option}={value!r}): give {what} above 0")

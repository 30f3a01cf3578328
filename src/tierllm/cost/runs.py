"""Budgets of one call, and of a run of many: a chain, an agent, a batch."""

from __future__ import annotations

import difflib
import functools
import threading
from collections import deque
from contextvars import ContextVar
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..errors import ConfigError
from ..pipeline.fork import renew_after_fork
from ..stores import MemoryStore
from .amounts import EXACT, Limit
from .budget import Budget, Draw, Remaining, lines_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .ledger import Entry

__all__ = ["Cap", "Run", "active_runs"]

ROWS_KEPT = 10_000
LIMITS = ("hard_usd", "soft_usd", "hard_tokens", "soft_tokens", "hard_calls", "soft_calls")
RUN_OPTIONS = (*LIMITS, "where", "on_exceed", "on_soft", "mode")

_active: ContextVar[tuple[Run, ...]] = ContextVar("tierllm_runs", default=())


def active_runs() -> tuple[Run, ...]:
    """The runs that the code is in, outermost first; one that was entered twice counts once."""
    runs = _active.get()
    return tuple(dict.fromkeys(runs)) if len(runs) > 1 else runs


class Cap:
    """A budget with a store and a bucket of its own; ``run`` is the run it belongs to, if any."""

    __slots__ = ("bucket", "budget", "run", "store")

    def __init__(
        self, budget: Budget | None, bucket: str, store: MemoryStore, run: Run | None = None
    ) -> None:
        self.budget = budget
        self.bucket = bucket
        self.store = store
        self.run = run

    def draws(self, now: float) -> list[Draw]:
        budget, bucket = self.budget, self.bucket
        if budget is None:
            return []
        span = budget.window.at(now)
        return [
            Draw(budget, limit, bucket, span, self._account(budget, limit), self.store)
            for limit in budget.limits
        ]

    def _account(self, budget: Budget, limit: Limit) -> str:
        return f"{budget.name}|{limit.unit}||{self.bucket}"

    def close(self) -> None:
        """The call is over; a run's account stays."""
        if self.run is None and self.budget is not None:
            for limit in self.budget.limits:
                self.store.drop(self._account(self.budget, limit))


class Run:
    """One budget over all calls made inside: ``with client.run(hard_usd=5) as run: ...``.

    Works with ``async with`` too, and covers the tasks started inside. A thread started inside enters
    it again: ``with run: ...``. Runs may be nested; a call draws on each. What it used is in
    ``spent_usd``, ``remaining``, ``entries`` (the last 10,000) and ``statement()``, during and after.
    """

    def __init__(
        self,
        owner: object,
        name: str,
        *,
        wall: Callable[[], float],
        budgets: Sequence[Budget] = (),
        **limits: Any,
    ) -> None:
        if not isinstance(name, str) or (not limits and not budgets and _is_number(name)):
            raise ConfigError(f"client.run({name!r}): that would be its name; say hard_usd={name!r}")
        for option in limits:
            if option not in RUN_OPTIONS:
                close = difflib.get_close_matches(option, RUN_OPTIONS, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(RUN_OPTIONS)}"
                raise ConfigError(f"client.run({option}=...): a run has no such setting; {hint}")
        self.owner = owner
        self.name = name
        self._wall = wall
        self._lock = threading.Lock()
        self._spent = Decimal(0)
        self.calls = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.entries: deque[Entry] = deque(maxlen=ROWS_KEPT)
        taken = any(budget.name == "run" for budget in budgets)  # two of one name would share an account
        own = [Budget(per="run", name="run's own" if taken else "run", **limits)] if limits else []
        # one without limits keeps the account all the same
        store = MemoryStore()
        self.caps = tuple(Cap(budget, f"run={name}", store, self) for budget in (*own, *budgets) or (None,))
        self.forked = False
        renew_after_fork(self)

    def renew(self) -> None:
        """After a fork: the child would spend the parent's limits once more."""
        self._lock = threading.Lock()
        self.forked = True

    @property
    def hard(self) -> bool:
        """Whether it may refuse."""
        return any(cap.budget is not None and cap.budget.hard for cap in self.caps)

    @property
    def spent_usd(self) -> Decimal:
        """What its calls have cost so far, as far as prices are known."""
        return self._spent

    @property
    def remaining(self) -> list[Remaining]:
        """How its limits stand, one for each unit."""
        draws = [draw for cap in self.caps for draw in cap.draws(self._wall())]
        return [d.budget.remains(d, d.store.standings(lines_of((d,)))[0]) for d in draws]

    @property
    def remaining_usd(self) -> Decimal | None:
        """Dollars left of ``hard_usd``; ``None`` without one."""
        return min((r.left for r in self.remaining if r.unit == "usd"), default=None)

    def book(self, entry: Entry) -> None:
        with self._lock:
            self.entries.append(entry)
            if entry.outcome in ("refused", "cached"):  # nothing was used
                return
            self.calls += 1
            self.input_tokens += entry.input_tokens
            self.output_tokens += entry.output_tokens
            self._spent = EXACT.add(self._spent, entry.cost_usd or 0)

    def statement(self) -> str:
        """What each tier and model was used for, as a small table of text."""
        groups: dict[tuple[str, str], list[Entry]] = {}
        with self._lock:
            for entry in self.entries:
                groups.setdefault((entry.tier, entry.model), []).append(entry)
        lines = [f"{'tier':<12} {'model':<24} {'calls':>6} {'in':>9} {'out':>9} {'usd':>12}"]
        for (tier, model), rows in sorted(groups.items()):
            used = [row for row in rows if row.outcome not in ("refused", "cached")]
            if not used:
                continue
            cost = functools.reduce(EXACT.add, (row.cost_usd or Decimal(0) for row in used), Decimal(0))
            tokens = sum(row.input_tokens for row in used), sum(row.output_tokens for row in used)
            lines.append(f"{tier:<12} {model:<24} {len(used):>6} {tokens[0]:>9} {tokens[1]:>9} {cost:>12.6f}")
        total = f"{self.calls:>6} {self.input_tokens:>9} {self.output_tokens:>9} {self._spent:>12.6f}"
        lines.append(f"{'total':<12} {self.name:<24} {total}")
        return "\n".join(lines)

    def __enter__(self) -> Self:
        _active.set((*_active.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        runs = _active.get()
        for at in range(len(runs) - 1, -1, -1):
            if runs[at] is self:
                _active.set(runs[:at] + runs[at + 1 :])
                return

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"<Run {self.name}: ${self._spent} in {self.calls} calls>"


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True

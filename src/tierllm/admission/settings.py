"""Who may go now, as the application describes it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

from ..errors import ConfigError
from ..pipeline.fork import renew_after_fork
from ..providers.alone import around
from .policy import TierAdmission
from .record import hourly
from .steps import HIGHEST_LOAD

if TYPE_CHECKING:
    from decimal import Decimal

    from ..events import Event
    from ..pipeline.clock import Clock
    from .schedule import Schedule

__all__ = ["Admission", "OnFull"]

P = ParamSpec("P")
R = TypeVar("R")
OnFull = Literal["wait", "step_down", "refuse"]


class Admission:
    """Who may go now, and in which order, at one tier.

    ``max_concurrency`` calls at once (a tier's own, where it is a tier's); the others wait: the highest
    priority first, then by their tenant's share, deadline and arrival. A call that was passed over for
    long counts as more urgent: one level for each ``age_s`` seconds (``None``: never). ``weights`` are the
    tenants' shares, 1 unless given.

    ``on_full``: ``"wait"`` in a queue of ``max_waiting`` at most and for ``max_wait_s`` at most, where the
    expected wait fits the deadline; ``"step_down"`` to the next tier at once; ``"refuse"`` with
    ``ThrottledError``. ``borrow`` is the share of the next lower tier's slots that may be used while they
    are idle. ``schedule`` changes the size by the hour. ``hourly_usd`` is what an hour of the whole pool
    costs, used or not.

    Calls with ``defer_ok`` are let in while no more than ``defer_at`` of the places are taken, at the latest
    after ``max_defer_s``. Where the load or its forecast reaches ``shed_at`` (1 is all the pool can do),
    calls of a priority below ``shed_below`` start at the next tier instead.

    ``mode="observe"`` lets every call pass, takes permits only where they are free, and reports whom it
    would have kept back. Raises ``ConfigError`` for settings that make no sense.
    """

    def __init__(
        self,
        *,
        max_concurrency: int | None = None,
        max_waiting: int | None = None,
        max_wait_s: float | None = None,
        on_full: OnFull = "wait",
        borrow: float = 0.0,
        schedule: Schedule | None = None,
        age_s: float | None = 30.0,
        weights: Mapping[str, float] | None = None,
        hourly_usd: Decimal | float | str | None = None,
        defer_at: float = 0.7,
        max_defer_s: float = 3600.0,
        shed_at: float | None = None,
        shed_below: int = 1,
        mode: Literal["enforce", "observe"] = "enforce",
    ) -> None:
        _whole(max_concurrency=(max_concurrency, 1), max_waiting=(max_waiting, 0))
        _positive(max_defer_s=max_defer_s, shed_at=shed_at)
        if age_s is not None and not (_number(age_s) and age_s > 0):
            raise ConfigError(
                f"Admission(age_s={age_s!r}): give seconds above 0; None (false in a file) is no ageing"
            )
        if shed_at is not None and shed_at > HIGHEST_LOAD:
            raise ConfigError(f"Admission(shed_at={shed_at!r}): 1 is all the pool can do; give 0.9 for 90 %")
        if max_wait_s is not None and not (_number(max_wait_s) and max_wait_s >= 0):
            raise ConfigError(f"Admission(max_wait_s={max_wait_s!r}): give 0 or more seconds")
        for name, share in (("borrow", borrow), ("defer_at", defer_at)):
            if not _number(share) or not 0 <= share <= 1:
                raise ConfigError(f"Admission({name}={share!r}): give a share from 0 to 1")
        if on_full not in ("wait", "step_down", "refuse"):
            raise ConfigError(f"Admission(on_full={on_full!r}): 'wait', 'step_down' or 'refuse'")
        if mode not in ("enforce", "observe"):
            raise ConfigError(f"Admission(mode={mode!r}): 'enforce' or 'observe'")
        if isinstance(shed_below, bool) or not isinstance(shed_below, int):
            raise ConfigError(f"Admission(shed_below={shed_below!r}): give a priority, a whole number")
        if schedule is not None and (not _is_schedule(schedule)):
            raise ConfigError(f"Admission(schedule={schedule!r}): give a Schedule")
        if weights is not None and not isinstance(weights, Mapping):
            raise ConfigError(
                f"Admission(weights={weights!r}): give weights by tenant, such as {{'acme': 2}}"
            )
        for tenant, weight in (weights or {}).items():
            if not isinstance(tenant, str) or not (_number(weight) and weight > 0):
                raise ConfigError(
                    f"Admission(weights={{{tenant!r}: {weight!r}}}): give a tenant's weight, above 0"
                )
        self.max_concurrency = max_concurrency
        self.max_waiting = max_waiting
        self.max_wait_s = max_wait_s
        self.on_full: OnFull = on_full
        self.borrow = borrow
        self.schedule = schedule
        self.age_s = age_s
        self.weights = dict(weights or {})
        self.hourly_usd = hourly_usd
        self.defer_at = defer_at
        self.max_defer_s = max_defer_s
        self.shed_at = shed_at
        self.shed_below = shed_below
        self.mode = mode
        if hourly_usd is not None:
            hourly(hourly_usd)

    def check_size(self, where: str, max_concurrency: int | None = None) -> None:
        """Raise ``ConfigError`` for what says nothing without a size; ``where`` begins its text.

        ``max_concurrency`` is the tier's, where there is one.
        """
        if self.max_concurrency is None and max_concurrency is None:
            for option in ("schedule", "hourly_usd", "borrow"):
                if getattr(self, option):
                    raise ConfigError(
                        f"{where}{option}: it says nothing of a pool without a size; set max_concurrency"
                    )

    def bound(
        self,
        *,
        name: str,
        max_concurrency: int | None = None,
        max_waiting: int | None = None,
        max_wait_s: float | None = None,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        emit: Callable[[Event], None] | None = None,
    ) -> TierAdmission:
        """The policy for one tier, with a pool of its own, and with these sizes where it has none."""
        return TierAdmission(
            self,
            name=name,
            size=max_concurrency if self.max_concurrency is None else self.max_concurrency,
            max_waiting=max_waiting if self.max_waiting is None else self.max_waiting,
            max_wait_s=max_wait_s if self.max_wait_s is None else self.max_wait_s,
            clock=clock,
            wall=wall,
            emit=emit,
        )

    def wrap(self, fn: Callable[P, R], *, name: str | None = None) -> Callable[P, R]:
        """``fn``, sync or async, called by ``max_concurrency`` at once, without a client.

        Raises ``ThrottledError`` where it may not be waited for.
        """
        self.check_size("Admission(...): ")
        policy = self.bound(name=name or str(getattr(fn, "__name__", "function")))
        renew_after_fork(policy)
        return around(policy, fn)


def _is_schedule(given: object) -> bool:
    return hasattr(given, "size_at") and not isinstance(given, type)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(**options: tuple[object, int]) -> None:
    for name, (value, least) in options.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ConfigError(f"Admission({name}={value!r}): give a whole number of at least {least}")


def _positive(**options: float | None) -> None:
    for name, value in options.items():
        if value is not None and not (_number(value) and value > 0):
            raise ConfigError(f"Admission({name}={value!r}): give a number above 0")

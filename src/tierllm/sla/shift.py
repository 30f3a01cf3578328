"""Automatic shifts: calls leave a deployment that breaks its tier's promise, and come back by degrees."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError
from .goals import goals_of
from .shifting import Shifting

if TYPE_CHECKING:
    from ..events import Event
    from ..pipeline.clock import Clock
    from ..types import Objective

__all__ = ["Shift"]


class Shift:
    """When calls leave a deployment of a tier, or the tier, and how they come back.

    A deployment is judged by the tier's objective: more than 5 % of its calls over ``latency_p95_s``, say,
    is too many. It is left where the share of bad calls is ``burn`` times what the objective allows within a
    minute (10/6 of that within 20 s, half of it within five minutes), there were ``min_calls`` of them, and
    chance would hardly explain it. ``burn`` is 3 or more. ``latency_s`` is judged in place of the objective's
    latencies, as a 95th percentile; ``error_rate`` in place of its availability, as it is. Goals for first
    tokens judge streams only: alone, they say nothing of a tier whose calls do not stream.

    A deployment that was left is not asked first for ``dwell_s``. Then it gets the shares of the sessions
    (or users) in ``stages``: each lasts ``stage_s`` and ``stage_calls`` good calls, or ``probe_s`` where too
    few come; then all. In a stage, more than ``calm`` times what the objective allows is too many; it is then
    left for twice as long as before, up to ``max_dwell_s``.

    Where no other deployment does better, or the tier's load reaches ``load`` (``None``: never), the tier
    sends the shares of its calls in ``shed_steps`` to the next tier, a step every ``shed_every_s`` at most,
    if their plan allows it and as long as that tier has room and keeps its own promise. Failures count for
    this only where neither a retry nor another deployment has made them good. ``shed=False``: never.

    At most ``max_shifts_per_hour`` times in any hour is a deployment left or taken back whole, and as often
    does a session change tier by shedding. ``mode="observe"`` tells of all this, and changes nothing. Raises
    ``ConfigError`` for settings that make no sense.
    """

    def __init__(
        self,
        *,
        latency_s: float | None = None,
        error_rate: float | None = None,
        burn: float = 6.0,
        calm: float = 2.0,
        min_calls: int = 10,
        dwell_s: float = 60.0,
        max_dwell_s: float = 900.0,
        stages: Sequence[float] = (0.01, 0.1, 0.5),
        stage_s: float = 15.0,
        stage_calls: int = 10,
        probe_s: float = 120.0,
        load: float | None = 1.2,
        shed: bool = True,
        shed_steps: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 0.9),
        shed_every_s: float = 20.0,
        max_shifts_per_hour: int = 6,
        mode: Literal["enforce", "observe"] = "enforce",
    ) -> None:
        if latency_s is not None:
            _check_number("latency_s", latency_s, "seconds above 0")
        if error_rate is not None and not (_number(error_rate) and 0 < error_rate < 1):
            raise ConfigError(
                f"Shift(error_rate={error_rate!r}): give a share above 0 and below 1, such as 0.1"
            )
        if load is not None:
            _check_number("load", load, "a load above 0, such as 1.2, or None for never")
        if not (_number(burn) and 3 <= burn <= 1000):
            raise ConfigError(f"Shift(burn={burn!r}): give a burn rate of 3 or more")
        if not (_number(calm) and 1 <= calm < burn / 2):
            raise ConfigError(
                f"Shift(calm={calm!r}): give a burn rate from 1 up, below half of burn, which is {burn!r}"
            )
        for name, seconds in (
            ("dwell_s", dwell_s),
            ("max_dwell_s", max_dwell_s),
            ("stage_s", stage_s),
            ("probe_s", probe_s),
            ("shed_every_s", shed_every_s),
        ):
            _check_number(name, seconds, "seconds above 0")
        if max_dwell_s < dwell_s:
            raise ConfigError(
                f"Shift(max_dwell_s={max_dwell_s!r}): give at least dwell_s, which is {dwell_s!r}"
            )
        for name, count, least in (
            ("min_calls", min_calls, 1),
            ("stage_calls", stage_calls, 1),
            ("max_shifts_per_hour", max_shifts_per_hour, 2),
        ):
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise ConfigError(f"Shift({name}={count!r}): give a whole number, {least} or more")
        if mode not in ("enforce", "observe"):
            raise ConfigError(f"Shift(mode={mode!r}): 'enforce' or 'observe'")
        if not isinstance(shed, bool):
            raise ConfigError(f"Shift(shed={shed!r}): give True or False")
        self.latency_s = latency_s
        self.error_rate = error_rate
        self.burn = burn
        self.calm = calm
        self.min_calls = min_calls
        self.dwell_s = dwell_s
        self.max_dwell_s = max_dwell_s
        self.stages = _shares("stages", stages)
        self.stage_s = stage_s
        self.stage_calls = stage_calls
        self.probe_s = probe_s
        self.load = load
        self.shed = shed
        self.shed_steps = _shares("shed_steps", shed_steps)
        self.shed_every_s = shed_every_s
        self.max_shifts_per_hour = max_shifts_per_hour
        self.mode = mode

    def bound(
        self,
        *,
        tier: str,
        places: Sequence[str],
        objective: Objective | None,
        load: Callable[[], tuple[float, float]] | None = None,
        closed: Callable[[], Collection[str]] | None = None,
        clock: Clock = time.monotonic,
        emit: Callable[[Event], object] | None = None,
        rng: random.Random | None = None,
        leads_down: bool = True,
    ) -> Shifting:
        """The shifts of one tier. ``load()`` gives its load and the forecast, each as a share of 1.0;
        ``closed()`` the places that would not serve a call now, whatever it is.

        ``leads_down=False``: there is no tier below it to shed calls to. Raises ``ConfigError`` where there
        is nothing to judge its deployments by.
        """
        goals = goals_of(
            objective,
            latency_s=self.latency_s,
            error_rate=self.error_rate,
            burn=self.burn,
            calm=self.calm,
        )
        if not goals:
            raise ConfigError(
                f"Tier({tier!r}, shift=...): nothing says when a deployment does badly: give the tier an "
                "Objective with a latency or an availability, or Shift(latency_s=..., error_rate=...)"
            )
        return Shifting(
            self,
            tier=tier,
            places=places,
            goals=goals,
            load=load,
            closed=closed,
            clock=clock,
            emit=emit,
            rng=rng or random.Random(),
            leads_down=leads_down,
        )

    def __repr__(self) -> str:
        given = [
            f"{name}={value!r}"
            for name, value in (("latency_s", self.latency_s), ("error_rate", self.error_rate))
            if value is not None
        ]
        return f"Shift({', '.join([*given, f'mode={self.mode!r}'])})"


def _shares(option: str, given: Any) -> tuple[float, ...]:
    """Shares that rise, above 0 and up to 1."""
    if isinstance(given, Sequence) and not isinstance(given, str) and given:
        shares = tuple(given)
        if all(_number(each) and 0 < each <= 1 for each in shares) and all(
            before < after for before, after in pairwise(shares)
        ):
            return shares
    raise ConfigError(
        f"Shift({option}={given!r}): give rising shares above 0 and up to 1, such as [0.1, 0.5]"
    )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_number(name: str, value: object, what: str) -> None:
    if not _number(value) or value <= 0:  # type: ignore[operator]
        raise ConfigError(f"Shift({name}={value!r}): give {what}")

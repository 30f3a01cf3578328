"""Which calls a cascade begins in the cheap tier, and where they go from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .asking import judging_now
from .deployment_line import heeds

if TYPE_CHECKING:
    from ..routing.cascade import Cascade, Way
    from ..routing.plan import Plan
    from ..types import Call
    from .second import Second
    from .tier_line import TierLine
    from .verdicts import Verdicts

__all__ = ["Ways"]

LED_AWAY = frozenset({"budget", "load", "shift"})
"""Reasons for which a call was led away from a tier: it is not led back there by its answer."""
WAYS_KEPT = 1024


class Ways:
    """The ways of calls through one client's tiers. Changes nothing; thread-safe."""

    def __init__(
        self,
        settings: Cascade,
        lines: Mapping[str, TierLine],
        verdicts: Verdicts,
        second: Second | None = None,
    ) -> None:
        self.settings = settings
        self._second = second
        self._lines = lines
        self._verdicts = verdicts
        self._ways: dict[tuple[Plan, frozenset[str]], Way | None] = {}

    def of(self, call: Call) -> Way | None:
        """How the call is cascaded; ``None``: it is not. Its deadline is not looked at."""
        course, plan, request = call.course, call.plan, call.request
        if plan is None or len(plan.tiers) < 2 or not request.repeatable or judging_now():
            return None
        if request.sla is not None or getattr(call.target, "streams", False):
            return None  # what a function streams is its caller's own affair
        if call.target is not None and (self._second is not None or not heeds(call)):
            return None  # nor is one called again that does not hear where it is to go, nor twice at once
        led = self._led(call)
        choice, at_home = None, False
        if course is not None:
            choice, at_home = course.choice, course.bound
            if course.important or course.fixed:
                return None
            if choice is not None and choice.arm == "strong":
                return None
        spared = frozenset(tier for tier, reason in led.items() if reason in LED_AWAY)
        if plan.raised and choice is None and not at_home:
            spared |= frozenset(plan.tiers[-plan.raised :])
        key = (plan, spared)
        if key in self._ways:
            way = self._ways[key]
        else:
            way = self.settings.way(plan, spared)
            if len(self._ways) < WAYS_KEPT:
                self._ways[key] = way
        if at_home and way is not None and way.cheap != plan.tiers[0]:
            return None  # its session stays where it is
        if way is not None and self._second is not None and not self._second.able(call, way.cheap):
            return None  # there is nobody to agree with
        return way

    @staticmethod
    def _led(call: Call) -> dict[str, str]:
        """The tiers that the call does not begin in, each with why."""
        noted = () if call.trace is None else call.trace.candidates
        return {each.tier: each.reason for each in noted if each.deployment == "*" and each.reason}

    def in_time(self, call: Call, way: Way) -> bool:
        """Whether the deadline leaves room for both answers: as far as is known, at the usual pace."""
        left_s = None if call.scope is None else call.scope.remaining_s()
        if left_s is None:
            return True
        first_s = self._pace_s(call, way.cheap, 0.9)
        if self._second is not None:
            first_s = max(first_s, self._pace_s(call, self._second.tier, 0.9))
            judge_s = 0.0
        else:
            judge_s = self.judge_s()
        return first_s + judge_s + self._pace_s(call, way.strong, 0.5) <= left_s

    def judge_s(self) -> float:
        """How long the judge takes, as far as one has to reckon with it."""
        most_s = self.settings.max_judge_s
        return self._verdicts.judge_s() if most_s is None else most_s

    def _pace_s(self, call: Call, tier: str, quantile: float) -> float:
        """How long the tier's first place takes that may serve the call; 0 as long as nothing is known."""
        for line in self._lines[tier].lines:
            if call.request.require <= line.deployment.labels:
                return line.pace.history.quantile(quantile) or 0.0
        return 0.0

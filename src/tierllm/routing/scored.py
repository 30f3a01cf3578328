"""How difficult a call is decides whether it begins in the weak tier or in the strong one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ..types import Candidate

if TYPE_CHECKING:
    from ..pipeline.effects import Handler
    from ..types import Call, Response
    from .choice import Arm, Choice
    from .course import Course
    from .difficulty import Difficulty
    from .plan import Plan

__all__ = ["Scored"]


class Scored:
    """Asks the scorer about calls whose tier nobody has named, and has it learn from what comes of them.

    It stands behind the cache: only what has to be asked for is scored. ``weak`` and ``strong`` are tiers; of
    the admissible ones, the lowest that is no lower than ``weak`` and the highest that is no higher than
    ``strong`` stand in for them. ``judged(call, response)`` has somebody say how good an answer is.
    """

    def __init__(
        self,
        difficulty: Difficulty,
        *,
        tiers: tuple[str, ...],
        weak: str,
        strong: str,
        mode: str,
        judged: Callable[[Call, Response], Awaitable[None]] | None = None,
    ) -> None:
        self.difficulty = difficulty
        self.mode = mode
        self._rank = {name: rank for rank, name in enumerate(tiers)}
        self._weak = self._rank[weak]
        self._strong = self._rank[strong]
        self._judged = judged

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        course, plan = call.course, call.plan
        assert plan is not None
        if course is None or course.fixed or len(plan.tiers) == 1 or plan.raised:
            return await call_next(call)
        between = self._between(plan)
        if between is None:
            return await call_next(call)
        own = call.copy()
        choice = self._chosen(own, course, plan, *between)
        response = await call_next(own)
        trace = call.trace
        if trace is not None and response.tier in between and not (response.cached or response.degraded):
            answered: Arm = "weak" if response.tier == between[0] else "strong"
            self.difficulty.remember(trace.id, choice, course.key, answered=answered)
            if self._judged is not None:
                await self._judged(call, response)
        return response

    def weakest(self, plan: Plan) -> str | None:
        """The lowest tier that difficulty may send a call with this plan to."""
        between = self._between(plan)
        return None if between is None else between[0]

    def _between(self, plan: Plan) -> tuple[str, str] | None:
        """The two tiers that the call may begin in; ``None`` where there is nothing to choose."""
        able = [t for t in plan.tiers if self._strong <= self._rank[t] <= self._weak]
        if len(able) < 2:
            return None
        return max(able, key=self._rank.__getitem__), min(able, key=self._rank.__getitem__)

    def _chosen(self, call: Call, course: Course, plan: Plan, weak: str, strong: str) -> Choice:
        """Choose, write it down, and have the call begin there."""
        choice = self.difficulty.choose(
            call.request.text, share=course.balance, rule=course.rule or "", floor=course.important
        )
        observes = self.mode == "observe"
        if not observes:  # what was not heeded says nothing about chance
            course.choice = choice
        course.request_class = course.request_class or choice.request_class
        tier = weak if choice.arm == "weak" else strong
        trace = call.trace
        if trace is not None:
            trace.request_class = course.request_class
            trace.scores = {**(trace.scores or {}), "difficulty": choice.score}
            if not observes:
                trace.explored = choice.propensity
        if tier == plan.granted:
            return choice
        if observes:
            if trace is not None:
                trace.candidates.append(Candidate(tier, "*", "observed: score"))
            return choice
        call.plan = plan.starting_at(tier)
        if trace is not None:
            trace.granted = tier
            passed = call.plan.tiers[len(plan.tiers) - call.plan.raised :]
            trace.candidates += [Candidate(name, "*", "score") for name in passed]
        return choice

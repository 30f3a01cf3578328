"""How difficult a call is decides whether it begins in the weak tier or in the strong one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ..types import Candidate, text_of

if TYPE_CHECKING:
    from ..pipeline.effects import Handler
    from ..types import Call, Message, Request, Response
    from .choice import Arm, Choice
    from .course import Course
    from .difficulty import Difficulty
    from .plan import Plan

__all__ = ["Scored", "prompt_of"]


class Scored:
    """Asks the scorer about calls whose tier nobody has named, and has it learn from what comes of them.

    It stands behind the cache: only what has to be asked for is scored. ``weak`` and ``strong`` are tiers; of
    the admissible ones, the lowest that is no lower than ``weak`` and the highest that is no higher than
    ``strong`` stand in for them. ``judged(call, response)`` has somebody say how good an answer is.
    ``settle(call)`` is told of calls that are to begin in another tier than their plan said: that tier may
    be one that sends them on.
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
        settle: Callable[[Call], None] | None = None,
    ) -> None:
        self.difficulty = difficulty
        self.mode = mode
        self._rank = {name: rank for rank, name in enumerate(tiers)}
        self._weak = self._rank[weak]
        self._strong = self._rank[strong]
        self._judged = judged
        self._settle = settle

    @property
    def arms(self) -> tuple[str, str]:
        """The weak and the strong tier."""
        names = list(self._rank)
        return names[self._weak], names[self._strong]

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        course, plan, between = call.course, call.plan, self._undecided(call)
        if course is None or plan is None or between is None:
            return await call_next(call)
        own = call.copy()
        choice = self._chosen(own, course, plan, *between)
        response = await call_next(own)
        trace = call.trace
        if trace is not None and response.tier in between and not (response.cached or response.degraded):
            answered: Arm = "weak" if response.tier == between[0] else "strong"
            self.difficulty.remember(trace.id, choice, _voice(call), answered=answered)
            if self._judged is not None:
                await self._judged(call, response)
        return response

    def foreseen(self, call: Call) -> None:
        """Have the call begin where its difficulty would send it, but for chance. Nothing counts."""
        course, plan, between = call.course, call.plan, self._undecided(call)
        if course is None or plan is None or between is None or self.mode == "observe":
            return
        text = prompt_of(call.request)
        arm = self.difficulty.foreseen(
            text, share=course.balance, rule=_share_of(course), floor=course.important or not text
        )
        tier = between[0] if arm == "weak" else between[1]
        call.plan = plan if tier == plan.granted else plan.starting_at(tier)

    def _undecided(self, call: Call) -> tuple[str, str] | None:
        """The weak and the strong tier that it may begin in; ``None`` where there is nothing to choose."""
        course, plan = call.course, call.plan
        assert plan is not None
        if course is None or course.fixed or course.bound or len(plan.tiers) == 1 or plan.raised:
            return None
        if course.observed is not None and course.observed.tier is not None:
            return None  # of those who observe, rules have the first word as well
        able = [t for t in plan.tiers if self._strong <= self._rank[t] <= self._weak]
        if len(able) < 2:
            return None
        return max(able, key=self._rank.__getitem__), min(able, key=self._rank.__getitem__)

    def _chosen(self, call: Call, course: Course, plan: Plan, weak: str, strong: str) -> Choice:
        """Choose, write it down, and have the call begin there."""
        text, said = prompt_of(call.request), course.observed
        share, floor = (course.balance, course.important) if said is None else (said.balance, said.floor)
        score = course.score if text == call.request.text else None  # rules read the last message as it is
        choice = self.difficulty.choose(
            text,
            share=share,
            rule=_share_of(course),
            floor=floor or not text,  # of what shows no prompt nobody knows that it is easy
            known=None if score is None else (score, course.buckets),
        )
        observes = self.mode == "observe"
        if not observes:  # what was not heeded says nothing about chance
            course.choice = choice
            course.request_class = course.request_class or choice.request_class
        tier = weak if choice.arm == "weak" else strong
        trace = call.trace
        if trace is not None:
            trace.request_class = trace.request_class or choice.request_class
            if choice.score == choice.score:
                trace.scores = {**(trace.scores or {}), "difficulty": choice.score}
            else:
                trace.warnings = (*trace.warnings, "the difficulty scorer failed: taken for difficult")
            if not observes:
                trace.explored = choice.propensity
        if not observes:
            course.home = tier
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
        if self._settle is not None:
            self._settle(call)
        return choice


def prompt_of(request: Request) -> str:
    """What is scored of a request: the text of its last message, or of the last that a user wrote where that
    is what a tool has found, which says nothing of the task. Empty where there is nothing to read."""
    messages = request.messages
    if not messages:
        return ""
    last = messages[-1]
    text = _text_of(last)
    if last.get("role") in ("tool", "function"):
        asked = (_text_of(each) for each in reversed(messages) if each.get("role") == "user")
        text = next(filter(None, asked), text)
    return text


def _text_of(message: Message) -> str:
    """As ``text_of``, with each part in lines of its own; empty where there is nothing but space."""
    content = message.get("content")
    if isinstance(content, list | tuple) and len(content) > 1:
        text = "\n".join(filter(None, (text_of({"content": [part]}) for part in content)))
    else:
        text = text_of(message)
    return "" if text.isspace() else text


def _share_of(course: Course) -> str:
    """Whose share a call belongs to: its rule's, where that asks for one, else the router's."""
    said = course if course.observed is None else course.observed
    return said.rule or "" if said.balance is not None else ""


def _voice(call: Call) -> str:
    """Whose word the feedback will be: a user's, however many sessions that user opens."""
    user, tenant = call.request.user, call.request.tenant
    return f"{tenant or ''}\0{user or ''}" if user or tenant else ""

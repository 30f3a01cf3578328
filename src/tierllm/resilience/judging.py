"""An answer is judged before anybody sees it: in the tier, so that a poor one is no answer to anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ProviderError
from ..pipeline.effects import Handler
from ..routing.course import Course
from ..types import Candidate

if TYPE_CHECKING:
    from decimal import Decimal

    from ..pipeline.clock import Clock
    from ..routing.cascade import Cascade
    from ..types import Call, Response
    from .asking import Asking
    from .rising import Question
    from .second import Second
    from .verdicts import Verdicts

__all__ = ["Judging", "Pass", "PoorAnswer", "note_poor", "note_score"]


class PoorAnswer(ProviderError):
    """A cheap tier's ``response`` was judged not to be good enough: the call goes on at a stronger one.

    ``score`` is ``None`` where it could not be judged. Seen by the chain of tiers alone; the breaker and
    the retries of the place that gave it know nothing of it.
    """

    default_retryable = False

    def __init__(
        self,
        message: str = "",
        *,
        response: Response | None = None,
        score: float | None = None,
        **data: Any,
    ) -> None:
        super().__init__(message, **data)
        self.response = response
        self.score = score


class Pass(Course):
    """The course of a call on one way through the tiers: whoever stands further out may call on twice.

    ``second_usd`` is what a second opinion has cost, ``risen`` the question with which it goes up.
    """

    __slots__ = ("risen", "second_usd")

    def __init__(self, course: Course | None, judged: str) -> None:
        super().__init__()
        if course is not None:
            for name in Course.__slots__:
                setattr(self, name, getattr(course, name))
        self.judged, self.spare = judged, None
        self.risen: Question | None = None
        self.second_usd: Decimal | None = None


class Judging:
    """The outermost policy of the cheap tier: holds its answers back, and lets those pass that will do.

    Within the flight of identical calls, so that they share the verdict; and what it refuses is not kept.
    ``asking`` is the judge, or ``second`` is.
    """

    def __init__(
        self,
        settings: Cascade,
        *,
        asking: Asking | None,
        second: Second | None,
        verdicts: Verdicts,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.verdicts = verdicts
        self._asking = asking
        self._second = second
        self._clock = clock

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        course = call.course
        if course is None or course.judged != call.tier:
            return await call_next(call)
        call.deliver = "hold"
        if self._second is not None:
            response, other = await self._second.beside(call, call_next)
            score = self._compared(self._second, call, response, other)
        else:
            response = await call_next(call)
            score = await self.score(call, response)
        return self.passed(call, response, score)

    def passed(self, call: Call, response: Response, score: float | None) -> Response:
        """``response``, if that score will do; otherwise raises ``PoorAnswer``."""
        settings, look = self.settings, call.lookup
        good = score is not None and score >= settings.at_least
        self.verdicts.judged(score, good=good)
        note_score(call, score)
        if good:
            if look is not None and score is not None:
                self.verdicts.remember(look.slot, response.text, score)
            return response
        explores = getattr(settings.judge, "explores", None)
        if explores is not None and explores():
            self.verdicts.count("explored")
            if look is not None:
                look.altered = True  # it is served to learn from, and to nobody else
            return response
        told = "could not be judged" if score is None else f"was judged {score:.2g}"
        poor = PoorAnswer(
            f"{call.tier}: the answer {told}, and {settings.at_least:g} is wanted",
            response=response,
            score=score,
            request_id=response.request_id,
        )
        note_poor(call, poor)
        raise poor

    async def score(self, call: Call, response: Response) -> float | None:
        """What the judge says of an answer that is there; ``None``: it failed. Raises ``AsyncJudge``."""
        began = self._clock()
        try:
            if self._second is not None:
                return self._compared(self._second, call, response, await self._second.alone(call))
            assert self._asking is not None
            return await self._asking(call, response, most_s=self._most_s(call))
        finally:
            self.verdicts.took(self._clock() - began)

    @staticmethod
    def _compared(second: Second, call: Call, response: Response, other: Response | None) -> float | None:
        if other is not None and isinstance(call.course, Pass):
            call.course.second_usd = other.cost_usd
        return second.score(response, other)

    def _most_s(self, call: Call) -> float | None:
        """How long a judge that waits may take: no longer than the call has."""
        most_s, left_s = self.settings.max_judge_s, None
        if call.scope is not None:
            left_s = call.scope.remaining_s()
        if most_s is None or left_s is None:
            return left_s if most_s is None else most_s
        return min(most_s, left_s)


def note_score(call: Call, score: float | None) -> None:
    """Write down what the judge said."""
    trace = call.trace
    if trace is not None and score is not None:
        trace.scores = {**(trace.scores or {}), "judge": score}


def note_poor(call: Call, poor: PoorAnswer) -> None:
    """Write down that the place which answered was not the one that was chosen in the end."""
    trace, response, score = call.trace, poor.response, poor.score
    note_score(call, score)
    if trace is None or response is None:
        return
    reason = "judge failed" if score is None else f"judged {score:.2g}"
    for candidate in reversed(trace.candidates):
        if (candidate.tier, candidate.deployment) == (response.tier, response.deployment):
            if candidate.reason is None:
                candidate.reason = reason
            return
    trace.candidates.append(Candidate(call.tier, response.deployment or "*", reason))

"""An answer is judged before anybody sees it: in the tier, so that a poor one is no answer to anybody."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..errors import ProviderError, RejectedError, UsageError
from ..pipeline.effects import Blocking, Gather, Handler
from ..routing.course import Course
from ..routing.judges import Agreement, as_score
from ..types import Candidate, Request, Trace

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..routing.cascade import Cascade
    from ..types import Call, Response
    from .tier_line import TierLine
    from .verdicts import Verdicts

__all__ = ["Judging", "PoorAnswer", "asked", "judging_now", "note_poor", "note_score"]

log = logging.getLogger("tierllm")

_judging: ContextVar[bool] = ContextVar("tierllm_judging", default=False)
"""Whether the code is within a judge: what that asks models itself is not judged again."""


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


class Judging:
    """The outermost policy of the cheap tier: holds its answers back, and lets those pass that will do.

    Within the flight of identical calls, so that they share the verdict; and what it refuses is not kept.
    """

    def __init__(
        self,
        settings: Cascade,
        *,
        lines: Mapping[str, TierLine],
        verdicts: Verdicts,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.verdicts = verdicts
        self._lines = lines
        self._clock = clock

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        course = call.course
        if course is None or course.judged != call.tier:
            return await call_next(call)
        call.deliver = "hold"
        if isinstance(self.settings.judge, Agreement):
            response, other = await self._both(call, call_next)
            score = self._agreed(response, other)
        else:
            response = await call_next(call)
            score = await self.score(call, response)
        return self.passed(call, response, score)

    def passed(self, call: Call, response: Response, score: float | None) -> Response:
        """``response``, if that score will do; otherwise raises ``PoorAnswer``."""
        settings = self.settings
        good = score is not None and score >= settings.at_least
        self.verdicts.judged(score, good=good)
        note_score(call, score)
        if good:
            if call.lookup is not None:
                self.verdicts.remember(call.lookup.slot, response.text)
            return response
        explores = getattr(settings.judge, "explores", None)
        if explores is not None and explores():
            self.verdicts.count("explored")
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
        """What the judge says; ``None``: it failed. Waits for judges that have to wait themselves."""
        began = self._clock()
        try:
            judge = self.settings.judge
            if isinstance(judge, Agreement):
                return self._agreed(response, await self._second(call))
            return await asked(judge, call.request, response, most_s=self._most_s(call))
        finally:
            self.verdicts.took(self._clock() - began)

    def _most_s(self, call: Call) -> float | None:
        """How long an async judge may take: no longer than the call has."""
        most_s, left_s = self.settings.max_judge_s, None
        if call.scope is not None:
            left_s = call.scope.remaining_s()
        if most_s is None or left_s is None:
            return left_s if most_s is None else most_s
        return min(most_s, left_s)

    # -- two models ----------------------------------------------------------------

    async def _both(self, call: Call, call_next: Handler) -> tuple[Response, Response | None]:
        own: list[Response] = []

        async def first() -> Response | None:
            own.append(await call_next(call))
            return None

        _, other = await Gather(first(), self._second(call))
        return own[0], other

    async def _second(self, call: Call) -> Response | None:
        """The other model's answer; ``None`` where it has none."""
        judge = self.settings.judge
        assert isinstance(judge, Agreement)
        tier, deployment = judge.place
        line = self._lines[tier]
        twin = call.copy()
        twin.request = Request(**{**call.request.__dict__, "repeatable": False})  # at one place, and once
        twin.tier, twin.lookup, twin.deliver = tier, None, "hold"
        twin.course = Course()
        if deployment is not None:
            twin.course.prefer = (tier, deployment)
            place = next((each for each in line.lines if each.name == deployment), None)
            if place is None or place.obstacle(twin, count=False) is not None:
                return None
        trace = call.trace
        if trace is not None:
            twin.trace = Trace(trace.id)  # what one of the two meets is not what the other has met
        try:
            return await line.handler(twin)
        except (ProviderError, RejectedError):
            return None
        finally:
            if trace is not None and twin.trace is not None:
                trace.attempts += twin.trace.attempts
                trace.waits += twin.trace.waits
                trace.candidates += twin.trace.candidates

    def _agreed(self, first: Response, second: Response | None) -> float | None:
        judge = self.settings.judge
        assert isinstance(judge, Agreement)
        if second is None or (first.tier, first.deployment) == (second.tier, second.deployment):
            return None  # a model agrees with itself
        try:
            return judge.score(first, second)
        except Exception as error:
            _failed("the comparison of an Agreement", error)
            return None


def judging_now() -> bool:
    """Whether a judge is at work around this code."""
    return _judging.get()


async def asked(
    judge: Callable[..., object],
    request: Request,
    response: Response,
    *,
    most_s: float | None = None,
    apart: bool = False,
) -> float | None:
    """A judge's score; ``None`` where it raised, took more than ``most_s``, or gave no number from 0 to 1.

    ``apart``: it may take its time, wherever it runs. Raises ``UsageError`` where an async judge meets a
    call that is not.
    """

    def judged() -> object:
        token = _judging.set(True)
        try:
            return judge(request, response)
        finally:
            _judging.reset(token)

    try:
        value = await Blocking(judged) if apart or getattr(judge, "blocking", False) else judged()
        if inspect.isawaitable(value):
            value = await _waited(value, most_s)
    except UsageError:
        raise
    except Exception as error:
        _failed("a judge", error)
        return None
    score = as_score(value)
    if score is None and value == value:  # a NaN is how a judge says that it does not know
        log.error("a judge gave %s, not a number from 0 to 1", type(value).__name__)
    return score


async def _waited(value: Awaitable[object], most_s: float | None) -> object:
    """What an async judge says, in a task of its own, so that its calls know that they are a judge's."""
    import asyncio

    if asyncio._get_running_loop() is None:
        close = getattr(value, "close", None)
        if close is not None:
            close()
        raise UsageError(
            "the judge is a coroutine function, and this call is not async: call acomplete() or astream(), "
            "or give a plain function"
        )
    token = _judging.set(True)
    try:
        task = asyncio.ensure_future(value)
    finally:
        _judging.reset(token)
    try:
        return await (task if most_s is None else asyncio.wait_for(task, most_s))
    finally:
        task.cancel()  # no more than a word where it is done


def _failed(what: str, error: Exception) -> None:
    """The application's own code failed, and its message may quote the prompt: log the kind only."""
    log.error("%s raised %s", what, type(error).__name__)


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

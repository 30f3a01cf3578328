"""The second opinion of an ``Agreement``: another cheap model is asked at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import ConfigError, DeadlineExceededError, ProviderError, RejectedError
from ..pipeline.effects import Spawn, Wait
from ..pipeline.scope import Scope
from ..routing.course import Course
from ..types import Request, Response, Trace
from ..types.asked import Turn
from .asking import Word, failed

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Handler, Spawned
    from ..routing.judges import Agreement
    from ..types import Call
    from .deployment_line import DeploymentLine
    from .tier_line import TierLine

__all__ = ["Second"]


class Second:
    """An ``Agreement`` at work in one client: where the second model is asked, and how far the two agree."""

    def __init__(self, judge: Agreement, lines: Mapping[str, TierLine], *, clock: Clock, cheap: str) -> None:
        self.judge = judge
        self.tier, self.deployment = judge.place
        self._lines = lines
        self._clock = clock
        self._check(cheap)

    def _check(self, cheap: str) -> None:
        places = self._places()
        if not places:
            names = ", ".join(line.name for line in self._lines[self.tier].lines)
            raise ConfigError(
                f"Agreement(other={self.judge.other!r}): tier {self.tier!r} has no such deployment; it has "
                f"{names}"
            )
        if not self._differs(self._lines[cheap].lines, places):
            raise ConfigError(
                f"Agreement(other={self.judge.other!r}): that is the model that answers first; a model "
                "agrees with itself. Name one that tier "
                f"{cheap!r} does not begin with"
            )

    def _places(self) -> list[DeploymentLine]:
        return [line for line in self._lines[self.tier].lines if self.deployment in (None, line.name)]

    @staticmethod
    def _differs(first: tuple[DeploymentLine, ...], second: list[DeploymentLine]) -> bool:
        return any(_model(one) != _model(other) for one in first for other in second if one is not other)

    def able(self, call: Call, cheap: str) -> bool:
        """Whether a call that begins in ``cheap`` may come to the second model: within its bounds, by its
        labels, and where that is another one than those which answer first."""
        plan, require = call.plan, call.request.require
        if plan is None or self.tier not in plan.tiers:
            return False
        if self.tier == cheap and self.deployment is None:
            return False
        first = tuple(line for line in self._lines[cheap].lines if require <= line.deployment.labels)
        return self._differs(first, [p for p in self._places() if require <= p.deployment.labels])

    def place(self, call: Call) -> DeploymentLine | None:
        """Where it would be asked first; ``None``: nowhere."""
        require = call.request.require
        return next((line for line in self._places() if require <= line.deployment.labels), None)

    # -- asking ----------------------------------------------------------------------

    async def beside(self, call: Call, call_next: Handler) -> tuple[Response, Response | None]:
        """The first answer, which ``call_next`` brings, and the second, which is asked for meanwhile.

        Whatever becomes of the second, the first is there; what it raises is raised.
        """
        twin, word = self._twin(call), Word()
        other = None if twin is None else await self._begun(twin, word)
        began = self._clock()
        before, call.turn.ahead = call.turn.ahead, None if twin is None else twin.turn
        try:
            response = await call_next(call)
            if other is not None:
                await self._heard(call, word, self._clock() - began)
        finally:
            call.turn.ahead = before
            if other is not None and not word.said:
                other.cancel()
            if twin is not None:
                _merged(call, twin)
        return response, word.value

    async def alone(self, call: Call) -> Response | None:
        """The second answer, where the first is there already."""

        async def there(_: Call, /) -> Response:
            return Response()

        return (await self.beside(call, there))[1]

    async def _begun(self, twin: Call, word: Word) -> Spawned | None:
        flow = self._asked(twin, word)
        try:
            return await Spawn(flow, None, twin.scope)
        except RuntimeError:  # no thread is to be had
            flow.close()
            return None

    async def _heard(self, call: Call, word: Word, took_s: float) -> None:
        """Wait for it, as long as the deadline leaves room for the strong tier: for as long as half of its
        answers take; where that is not known, for as long as the first took, and for half of what is left.
        """
        left_s = None if call.scope is None else call.scope.remaining_s()
        if left_s is not None:
            strong_s = self._strong_s(call)
            left_s = left_s - strong_s if strong_s else min(left_s - took_s, left_s / 2)
            if left_s <= 0:
                return
        try:
            await Wait(word, left_s)
        except (TimeoutError, DeadlineExceededError):
            pass  # too late to be heard

    def _strong_s(self, call: Call) -> float:
        tiers = () if call.plan is None else call.plan.tiers
        if len(tiers) < 2 or tiers[0] != call.tier:
            return 0.0
        for line in self._lines[tiers[1]].lines:
            if call.request.require <= line.deployment.labels:
                return line.pace.history.quantile(0.5) or 0.0
        return 0.0

    def _twin(self, call: Call) -> Call | None:
        """The second call: at one place, and once; ``None`` where that place would not serve it now."""
        twin = call.copy()
        twin.request = Request(**{**call.request.__dict__, "repeatable": False})
        twin.tier, twin.lookup, twin.deliver = self.tier, None, "hold"
        twin.course = Course()
        twin.scope = Scope(self._clock, None if call.scope is None else call.scope.deadline_at)
        twin.turn = turn = Turn(call.turn.priority, call.turn.defer)  # each leg stands in line by itself
        turn.weight = call.turn.weight
        if call.trace is not None:
            twin.trace = Trace(call.trace.id)  # what one of the two meets is not what the other has met
        if self.deployment is not None:
            twin.course.prefer = (self.tier, self.deployment)
            place = self.place(twin)
            if place is None or not self._has_room(place, twin):
                return None
        return twin

    def _has_room(self, place: DeploymentLine, twin: Call) -> bool:
        if place.obstacle(twin, count=False) is not None:
            return False
        return not place.bounded or place.short(place.fitted(twin), self._clock()) is None

    async def _asked(self, twin: Call, word: Word) -> Response:
        response: Response | None = None
        try:
            response = await self._lines[self.tier].handler(twin)
        except (ProviderError, RejectedError, DeadlineExceededError):
            pass
        except Exception as error:
            failed("the second model of an Agreement", error)
        finally:
            word.say(response)
        return response or Response()

    # -- comparing -------------------------------------------------------------------

    def score(self, first: Response, second: Response | None) -> float | None:
        """How far they agree; ``None`` where that cannot be said: there is no second, or it is the first."""
        if second is None or (self.deployment is not None and second.deployment != self.deployment):
            return None
        if self._of(first) == self._of(second):
            return None  # a model agrees with itself
        try:
            return self.judge.score(first, second)
        except Exception as error:
            failed("the comparison of an Agreement", error)
            return None

    def _of(self, response: Response) -> tuple[str, str]:
        tier = self._lines.get(response.tier or "")
        for line in () if tier is None else tier.lines:
            if line.name == response.deployment:
                return _model(line)
        return "", response.model or ""


def _model(line: DeploymentLine) -> tuple[str, str]:
    return line.place.provider, line.deployment.model


def _merged(call: Call, twin: Call) -> None:
    """What the second has met is part of the call's story."""
    trace, other = call.trace, twin.trace
    if trace is not None and other is not None:
        trace.attempts += other.attempts
        trace.waits += other.waits
        trace.candidates += other.candidates

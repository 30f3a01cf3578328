"""A cascade at work in one client: which calls begin cheap, and what becomes of poor answers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ..errors import AllTiersFailedError, DeadlineExceededError, ProviderError, RejectedError, copied
from ..events import CascadeEscalated, Event
from ..pipeline.effects import Handler, Spawn
from ..routing.cascade import best_first
from ..routing.judges import Agreement
from ..types import Candidate, Response
from .asking import Asking, AsyncJudge, failed
from .judging import Judging, Pass, PoorAnswer, note_poor, note_score
from .rising import Rising
from .second import Second
from .verdicts import Verdicts
from .ways import Ways

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..routing.cascade import Cascade, Way
    from ..routing.learned_judge import LearnedJudge
    from ..types import Call
    from .tier_line import TierLine

__all__ = ["NOT_ESCALATED", "Cascading"]

NOT_ESCALATED = "not_escalated"
"""What ``degraded`` says of an answer that was not good enough, and is served since nothing better came."""

FAILED = (ProviderError, RejectedError, AllTiersFailedError, DeadlineExceededError)


class Cascading:
    """``Cascade`` at work. Thread-safe.

    A policy around the chain of tiers, which says where calls begin; its ``step`` is another, between that
    chain and each tier, outside of the flights that calls share; ``judging`` is the cheap tier's own.
    """

    def __init__(
        self,
        settings: Cascade,
        *,
        lines: Mapping[str, TierLine],
        clock: Clock,
        emit: Callable[[Event], None] | None,
    ) -> None:
        settings.check_tiers(list(lines))
        self.settings = settings
        self.verdicts = Verdicts()
        self.asking = self.second = None
        if isinstance(settings.judge, Agreement):
            cheap = settings.cheap or list(lines)[-1]
            self.second = Second(settings.judge, lines, clock=clock, cheap=cheap)
        else:
            self.asking = Asking(settings.judge)
        self.ways = Ways(settings, lines, self.verdicts, self.second)
        self.judging = Judging(
            settings, asking=self.asking, second=self.second, verdicts=self.verdicts, clock=clock
        )
        self.rising = Rising()
        self._lines = lines
        self._emit = emit
        self._learns: LearnedJudge | None = None
        if hasattr(settings.judge, "compared"):
            self._learns = settings.judge  # type: ignore[assignment]

    # -- a call --------------------------------------------------------------------

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        way = self.ways.of(call)
        if way is None:
            return await call_next(call)
        if self.settings.mode == "observe":
            return await self._watched(call, call_next, way)
        own = call.copy()
        assert call.plan is not None
        if not self.ways.in_time(call, way):
            self.verdicts.count("late")
            own.plan = call.plan.starting_at(way.strong)
            _passed_over(call, way.cheap, "deadline")
            return await call_next(own)
        self.verdicts.count("begun")
        own.plan = way.plan
        if call.plan.tiers[0] != way.cheap:
            _passed_over(call, call.plan.tiers[0], "cascade")
        course = own.course = Pass(call.course, way.cheap)
        course.home = way.cheap
        try:
            response = await call_next(own)
            self._account(way, course, response)
            if self._learns is not None:
                self._taught(self._learns, own, way, course, response)
            return response
        except FAILED as error:
            if course.spare is None or getattr(error, "partial", None) is not None:
                raise
            return self._served_anyway(course.spare, f"no better tier answered ({type(error).__name__})")
        finally:
            if course.risen is not None:
                self.rising.end(course.risen)
            if call.course is not None:
                call.course.home = course.home

    async def step(self, call: Call, call_next: Handler) -> Response:
        """A call comes to one of its tiers."""
        course = call.course
        if not isinstance(course, Pass) or course.judged is None:
            return await call_next(call)
        if call.tier != course.judged:
            if course.spare is not None and self._beneath(call, course.judged):
                return self._served_anyway(course.spare, "no better tier answered")
            return await call_next(call)
        known = self.rising.of(call)
        try:
            if known is not None:
                raise copied(known)
            response = await call_next(call)
            if _from_cache(call, response):
                response = await self._known(call, response)
            return response
        except PoorAnswer as poor:
            joined = call.trace is not None and call.trace.cache == "joined"
            if known is not None:
                note_poor(call, known)
            course.spare = _own(poor.response, call, shared=joined or known is not None)
            if course.spare is not None:
                course.risen = self.rising.begin(call, poor)
            course.home = None  # that tier is not good enough: it is wherever it will be answered
            self._escalated(call, poor.score, "enforce")
            raise

    async def _known(self, call: Call, response: Response) -> Response:
        """A cached answer of this tier may have been made for a call that was not to be judged."""
        look = call.lookup
        if look is not None and self.verdicts.knows(look.slot, response.text, self.settings.at_least):
            return response
        return self.judging.passed(call, response, await self.judging.score(call, response))

    def _beneath(self, call: Call, judged: str) -> bool:
        assert call.plan is not None
        order = best_first(call.plan)
        return order.index(call.tier) > order.index(judged)

    def _served_anyway(self, spare: Response, why: str) -> Response:
        self.verdicts.count("spared")
        answer = copy.copy(spare)
        answer.degraded = (*answer.degraded, NOT_ESCALATED)
        answer.warnings = (*answer.warnings, f"{spare.tier}: not judged to be good enough; {why}")
        return answer

    def _escalated(self, call: Call, score: float | None, mode: str) -> None:
        if mode == "enforce":
            self.verdicts.count("escalated")
        if self._emit is not None:
            tiers = call.plan.tiers if call.plan is not None else ()
            at = tiers.index(call.tier) + 1 if call.tier in tiers else 1
            self._emit(
                CascadeEscalated(
                    trace_id="" if call.trace is None else call.trace.id,
                    from_tier=call.tier,
                    to_tier=tiers[at] if at < len(tiers) else None,
                    score=score,
                    mode=mode,
                )
            )

    def _account(self, way: Way, course: Pass, response: Response) -> None:
        """What that saved: the strong tier's price for as many tokens, less what was paid on the way."""
        spare = course.spare
        if course.second_usd is not None:
            self.verdicts.saved(-course.second_usd)
        if spare is not None:
            self.verdicts.saved(-(spare.cost_usd or Decimal(0)))
        elif response.tier == way.cheap and response.cost_usd is not None and not response.cached:
            price = self._lines[way.strong].lines[0].place.price
            if price is not None and response.usage is not None:
                self.verdicts.saved(price.cost_usd(response.usage) - response.cost_usd)

    def _taught(self, judge: LearnedJudge, call: Call, way: Way, course: Pass, response: Response) -> None:
        """What the strong tier said instead says how good the cheap answer was; else its caller may."""
        spare, trace = course.spare, call.trace
        if response.cached or NOT_ESCALATED in response.degraded:
            return  # who made that answer has taught it, or nobody knows any better
        if spare is not None:
            if not spare.cached:
                judge.compared(call.request, spare, response)
        elif response.tier == way.cheap and trace is not None:
            judge.remember(trace.id, call.request, response)

    def feedback(self, trace_id: str, score: float) -> bool:
        """An application says how good an answer was; whether the judge has learned from it."""
        return self._learns is not None and self._learns.feedback(trace_id, score)

    # -- observing -----------------------------------------------------------------

    async def _watched(self, call: Call, call_next: Handler, way: Way) -> Response:
        """The call goes its way; where that was the cheap tier's, its answer is judged."""
        assert call.plan is not None
        if call.plan.tiers[0] != way.cheap:
            _passed_over(call, way.cheap, "observed: cascade would begin here")
        response = await call_next(call)
        asking = self.asking
        if response.tier != way.cheap or response.cached or asking is None:
            return response  # a second model is asked by nobody who only looks on
        own = call.copy()
        own.tier, own.plan = way.cheap, way.plan
        if asking.waits:
            try:
                await Spawn(self._looked_at(own, response))
            except RuntimeError:  # no thread is to be had: one answer fewer is looked at
                pass
        else:
            await self._looked_at(own, response)
        return response

    async def _looked_at(self, call: Call, response: Response) -> Response:
        try:
            score = await self.judging.score(call, response)
        except AsyncJudge as error:  # which calls hear of where it counts
            failed("a judge that only looks on", error)
            return response
        good = score is not None and score >= self.settings.at_least
        self.verdicts.judged(score, good=good)
        note_score(call, score)
        if not good:
            self._escalated(call, score, "observe")
        return response

    def inherit(self, older: Cascading) -> None:
        """Go on where ``older`` was, under another configuration; what another judge said is forgotten."""
        if older.settings.judge is self.settings.judge:
            self.verdicts.inherit(older.verdicts)

    # -- watching ------------------------------------------------------------------

    def renew(self) -> None:
        """After a fork."""
        self.verdicts.renew()
        self.rising.renew()

    def status(self) -> dict[str, Any]:
        """As plain data: counts, the share of the last 200 verdicts that sent calls up, dollars saved."""
        settings = self.settings
        return {"mode": settings.mode, "cheap": settings.cheap, "strong": settings.strong} | (
            self.verdicts.status()
        )


def _passed_over(call: Call, tier: str, reason: str) -> None:
    if call.trace is not None:
        call.trace.candidates.append(Candidate(tier, "*", reason))


def _from_cache(call: Call, response: Response) -> bool:
    """Whether it was kept, rather than made now by a flight that this call led or joined."""
    return response.cached and call.trace is not None and call.trace.cache in ("hit", "stale")


def _own(response: Response | None, call: Call, *, shared: bool) -> Response | None:
    """The poor answer as this call may be served it: one that was made for another costs it nothing."""
    if response is None or (shared and call.target is not None):
        return None  # what a wrapped function returned to one is not another's
    own = copy.copy(response)
    own.trace = None
    if shared:
        own.raw, own.cached, own.cost_usd, own.warnings = None, True, Decimal(0), ()
    return own

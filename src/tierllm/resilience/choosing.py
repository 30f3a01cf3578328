"""The choice among a tier's deployments: who is asked first, who next, and why others were passed over."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import (
    BudgetExceededError,
    CircuitOpenError,
    ContextWindowExceededError,
    DeadlineExceededError,
    ProviderError,
    RejectedError,
    RequestTooLargeError,
    ThrottledError,
)
from ..sla.place_watch import hung
from ..types import Attempt, Candidate
from .deployment_line import heeds
from .fallback import NotInTime

if TYPE_CHECKING:
    import random

    from ..pipeline.clock import Clock
    from ..routing.tier import Tier
    from ..sla.shifting import Shifting
    from ..types import Call, Response
    from .cheapest import Cheapest
    from .deployment_line import DeploymentLine, Obstacle
    from .fallback import FallbackChain
    from .hedging import Hedging

__all__ = ["Choosing"]


class Choosing:
    """Asks one deployment after the other, in the tier's order, until one answers.

    ``hedge`` asks a second one where the first is late, ``cheapest`` says which is the cheapest for a call.
    """

    def __init__(
        self,
        tier: Tier,
        lines: Sequence[DeploymentLine],
        *,
        rule: FallbackChain,
        clock: Clock,
        rng: random.Random,
        cheapest: Cheapest | None,
    ) -> None:
        self.tier = tier
        self.lines = tuple(lines)
        self.rule = rule
        self.clock = clock
        self.rng = rng
        self.cheapest = cheapest
        self.hedge: Hedging | None = None
        self.shifting: Shifting | None = None
        self._picks = tier.choose != "ordered" and len(self.lines) > 1

    async def __call__(self, call: Call, /) -> Response:
        """The first deployment that answers; each one passed over leaves its reason in the trace."""
        failure: ProviderError | RejectedError | None = None
        refusal: RejectedError | None = None
        degrade, drawn, avoid = call.degrade, self._drawn(), self._avoided(call)
        if avoid or call.course is not None:
            self._moved(call, drawn, avoid)
        why: dict[str, Obstacle | str] | None = None if call.trace is None or self.cheapest is None else {}
        for line in self._ordered(call, drawn, avoid, asks=True, why=why):
            obstacle: Obstacle | None = None
            if line is call.ahead:
                call.ahead = None  # once: a policy may come here again
            else:
                if not call.request.require <= line.deployment.labels:
                    self.passed_over(call, line, "labels")
                    continue
                obstacle = line.obstacle(call)
            if obstacle is None:
                if call.lane is not None and not call.lane.claim(line):
                    self.passed_over(call, line, "hedge")
                    continue
                fit = line.fitted(call)
                answered = False
                try:
                    response = await (
                        line.handler(fit) if self.hedge is None else self.hedge.ask(line, fit, line.handler)
                    )
                    answered = True
                except (ProviderError, RejectedError) as error:
                    self.passed_over(call, line, _reason(error))
                    if call.permit is not None and call.permit.lost:
                        raise
                    if not self.rule.goes_on(error, call, self.tier.name):
                        self._missed(error)
                        raise
                    if isinstance(error, RejectedError):
                        refusal = _sooner(refusal, error)
                    else:
                        failure = error
                    if isinstance(error, ContextWindowExceededError) and error.window:
                        call.min_window = max(call.min_window, error.window)
                    continue
                except BaseException as error:
                    self.passed_over(call, line, _reason(error))
                    if isinstance(error, DeadlineExceededError):
                        self._missed(error, hung=hung(fit))
                    raise
                finally:
                    if degrade is not None and fit.degrade is not None:
                        degrade.took(fit.degrade, answered=answered)
                if self.cheapest is not None:
                    self.cheapest.served(fit, response)
                if degrade is not None and degrade.cheaper and self._spares(call, line, drawn):
                    degrade.spared()
                if self._picks:
                    self._unasked(call, line, why)
                self.passed_over(call, line, None)
                return response
            self.barred(call, line, obstacle)
            if isinstance(obstacle, RejectedError):
                refusal = _sooner(refusal, obstacle)
            elif failure is None:
                failure = obstacle
        if failure is not None:
            self._missed(failure)
        raise failure or refusal or self.nowhere()

    def _missed(self, error: BaseException, *, hung: bool = False) -> None:
        """No place of the tier has answered a call."""
        if self.shifting is not None:
            self.shifting.failed(self.clock(), error, hung=hung)

    def _avoided(self, call: Call) -> Collection[str]:
        """The places to be asked last, as things stand now: the call may have stood in line."""
        if self.shifting is None:
            return ()
        return self.shifting.avoided("" if call.course is None else call.course.key, self.clock())

    def open_now(self, call: Call) -> Iterator[DeploymentLine]:
        """The places that would serve ``call`` at once, in order; none that calls go past at present."""
        now, avoid = self.clock(), self._avoided(call)
        for line in self._ordered(call, self._drawn(), ()):
            admissible = line.name not in avoid and call.request.require <= line.deployment.labels
            if admissible and not line.obstacle(call) and not line.short(call, now):
                yield line

    def nowhere(self) -> RejectedError:
        return NotInTime(f"{self.tier.name}: no deployment has the labels asked for")

    def _ordered(
        self,
        call: Call,
        drawn: Sequence[DeploymentLine],
        avoid: Collection[str],
        *,
        asks: bool = False,
        why: dict[str, Obstacle | str] | None = None,
    ) -> Sequence[DeploymentLine]:
        """``drawn``, the cheapest first where the call is to be served so; where its session is at home
        comes before all others, what is left alone now after them."""
        if call.degrade is not None and call.degrade.cheaper:
            cheapest = call.degrade.cheapest_first(drawn, _dearness)
            return sorted(cheapest, key=lambda line: line.name in avoid) if avoid else cheapest
        if self.cheapest is not None:
            drawn = self.cheapest.order(call, drawn, asks=asks, why=why)
        tier, prefer = self.tier.name, None if call.course is None else call.course.prefer
        if prefer is None and not avoid:
            return drawn
        return sorted(drawn, key=lambda line: (line.name in avoid, (tier, line.name) != prefer))

    def _spares(self, call: Call, line: DeploymentLine, drawn: Sequence[DeploymentLine]) -> bool:
        """Whether a dearer place, which was not asked, would have come before the ``line`` that answered."""
        return heeds(call) and any(
            call.request.require <= other.deployment.labels and not other.obstacle(call, count=False)
            for other in drawn[: drawn.index(line)]
            if _dearness(other) > _dearness(line)
        )

    def _drawn(self) -> Sequence[DeploymentLine]:
        if self.tier.choose != "weighted" or len(self.lines) == 1:
            return self.lines
        # a weighted draw without replacement: Efraimidis and Spirakis, 2006
        draw = self.rng.random
        return sorted(self.lines, key=lambda line: -(draw() ** (1.0 / line.deployment.weight)))

    def _moved(self, call: Call, drawn: Sequence[DeploymentLine], avoid: Collection[str]) -> None:
        """Write down which places are not asked in their turn, since calls avoid them or its session is at
        home elsewhere."""
        prefer = None if call.course is None else call.course.prefer
        home = None if prefer is None or prefer[0] != self.tier.name else prefer[1]
        if home is None and not avoid:
            return
        for line in drawn:
            if line.name in avoid:
                by_hand = self.shifting is not None and self.shifting.pinned_away(line.name)
                self.passed_over(call, line, "pinned" if by_hand else "shift")
            elif line.name == home:
                home = None  # those after it are in their turn
            elif home is not None:
                self.passed_over(call, line, "session")

    def _unasked(self, call: Call, winner: DeploymentLine, why: Mapping[str, Obstacle | str] | None) -> None:
        """Write down why places that are listed before the one that answered were not asked."""
        trace, tier = call.trace, self.tier.name
        if trace is None or winner is self.lines[0]:
            return
        told = {each.deployment for each in trace.attempts if each.tier == tier}
        for each in trace.candidates:
            if each.tier == tier and not (each.reason or "").startswith("observed:"):
                told.add(each.deployment)
        by_price = self.cheapest is not None or (call.degrade is not None and call.degrade.cheaper)
        for line in self.lines:
            if line is winner:
                return
            if line.name not in told:
                cause = None if why is None else why.get(line.name)
                reason = _reason(cause) if isinstance(cause, BaseException) else cause
                self.passed_over(call, line, reason or ("price" if by_price else "weight"))

    def passed_over(self, call: Call, line: DeploymentLine, reason: str | None) -> None:
        if call.trace is not None:
            call.trace.candidates.append(Candidate(self.tier.name, line.name, reason))

    def barred(self, call: Call, line: DeploymentLine, obstacle: Obstacle) -> None:
        """Write down that ``line`` was not tried."""
        self.passed_over(call, line, _reason(obstacle))
        if call.trace is not None and isinstance(obstacle, RejectedError):
            at = line.clock() - call.begun_at
            model = line.deployment.model
            call.trace.attempts.append(
                Attempt(self.tier.name, line.name, model, at, outcome="rejected", error=obstacle)
            )


def _sooner(refusal: RejectedError | None, other: RejectedError) -> RejectedError:
    """The one to be told: what can be waited for, the soonest first; else the last one met."""
    if isinstance(refusal, ThrottledError) and refusal.waitable:
        if not (isinstance(other, ThrottledError) and other.waitable):
            return refusal
        if (refusal.retry_after_s or 0.0) <= (other.retry_after_s or 0.0):
            return refusal
    return other


def _dearness(line: DeploymentLine) -> float:
    """Dollars for a million tokens in and a million out; a place without a price comes last."""
    price = line.place.price
    return math.inf if price is None else float(price.input_usd_per_mtok + price.output_usd_per_mtok)


def _reason(error: BaseException) -> str:
    """Why a place was passed over, in one word where there is one."""
    if isinstance(error, CircuitOpenError):
        return "breaker"
    if isinstance(error, NotInTime | DeadlineExceededError):
        return "deadline"
    if not isinstance(error, Exception):
        return "cancelled"
    if isinstance(error, ContextWindowExceededError | RequestTooLargeError):
        return "window"
    if isinstance(error, BudgetExceededError):
        return "budget"
    status = getattr(error, "status", None)
    return type(error).__name__ + (f" {status}" if status else "")

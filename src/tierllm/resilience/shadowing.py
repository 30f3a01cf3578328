"""A shadow at work in one client: a second answer behind the back of the call, which nobody sees."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..caching.flights import Led
from ..errors import (
    BudgetExceededError,
    ConfigError,
    DeadlineExceededError,
    ProviderError,
    RejectedError,
)
from ..events import Event, ShadowCompared
from ..pipeline.compose import compose
from ..pipeline.effects import Handler, Spawn
from ..pipeline.scope import Scope
from ..types import Call, Response, Trace, length_of
from .acting import may_act
from .asking import Asking, judging_now
from .shadow_account import Purse, Tally, anonymous

if TYPE_CHECKING:
    import random

    from ..pipeline.clock import Clock
    from ..routing.shadow import Shadow
    from ..stores import Store
    from ..types import Request
    from .deployment_line import DeploymentLine
    from .tier_line import TierLine

__all__ = ["Shadowing"]

log = logging.getLogger("tierllm")

MOST_AT_ONCE = 8
"""So many are under way at once; calls beyond them are not sampled."""

MOST_S = 120.0
"""So long one may take."""

LARGE = 100_000
"""Characters from which a prompt is left alone: counting it would take time from others."""


class _LeftOut(Exception):
    """It may not be asked after all: its word says why."""


class Shadowing:
    """``Shadow`` at work. Thread-safe.

    A policy around the tiers, within all that an application puts around calls itself: what that takes out
    of a prompt is not sent to the second place either. ``arms`` are the weak and the strong tier of a router
    that learns, ``compared`` writes down what came out, as ``DecisionLog.compared`` does.
    """

    def __init__(
        self,
        settings: Shadow,
        *,
        lines: Mapping[str, TierLine],
        store: Store,
        clock: Clock,
        rng: random.Random,
        emit: Callable[[Event], None] | None,
        compared: Callable[..., object] | None = None,
        arms: tuple[str, str] | None = None,
    ) -> None:
        settings.check_tiers(list(lines))
        self.settings = settings
        self._lines = lines
        self._ranks = {tier: rank for rank, tier in enumerate(lines)}
        self._clock = clock
        self._draw = rng.random
        self._emit = emit
        self._compared_to = compared
        self._arms = arms
        self._tier, self._deployment = settings.place
        self._purse = Purse(settings.budget, store)
        self._share = settings.share
        self._asking = None if settings.judge is None else Asking(settings.judge, most=MOST_AT_ONCE)
        self.tally = Tally()
        self._check_places()

    def _check_places(self) -> None:
        lines = [line for line in self._lines[self._tier].lines if self._deployment in (None, line.name)]
        if not lines:
            names = ", ".join(line.name for line in self._lines[self._tier].lines)
            raise ConfigError(
                f"Shadow(to={self.settings.to!r}): tier {self._tier!r} has no such deployment; it has {names}"
            )
        for line in lines:
            if line.place.price is None:
                raise ConfigError(
                    f"Shadow(to={self.settings.to!r}): no price is known for {line.deployment.model!r}, and "
                    "its budget is in dollars: give the deployment price=Price(...)"
                )

    # -- which calls ---------------------------------------------------------------

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        response = await call_next(call)
        if self._draw() < self._share and self._wants(call, response):
            await self._compare(call, response)
        return response

    def _wants(self, call: Call, response: Response) -> bool:
        """Whether this call, which was drawn, is sampled; then it counts as one that is under way."""
        why = self._left_out(call, response)
        if why is None and self.settings.mode == "observe":
            why = "observed"
        if why is None and not self.tally.enter(MOST_AT_ONCE):
            why = "no_room"
        self.tally.count("sampled" if why is None else why)
        return why is None

    def _left_out(self, call: Call, response: Response) -> str | None:
        """Why it is no call to be sampled."""
        request = call.request
        if response.cached or response.degraded or response.tier is None or request.cache == "only":
            return "not_fresh"
        if call.target is not None or not request.repeatable or judging_now():
            return "not_repeatable"
        if not self.settings.skip_tags.isdisjoint(request.tags):
            return "tagged"
        if may_act(request.params, request.extra):
            return "tools"
        if length_of(call.messages) > LARGE:
            return "no_room"
        return None

    # -- comparing -----------------------------------------------------------------

    async def _compare(self, call: Call, response: Response) -> None:
        """Begin to ask the second place. Never raises, and does not wait for its answer."""
        now = self._clock()
        own = Call(anonymous(call), scope=Scope(self._clock, now + MOST_S))
        own.driven = call.driven
        trace_id = "" if call.trace is None else call.trace.id
        own.trace = Trace(f"{trace_id}.shadow")
        own.begun_at = now
        own.caps = (self._purse,)
        own.tier, own.turn.priority = self._tier, -(2**31)
        own.turn.under = call.turn.under
        flow = Led(self._compared(own, response, trace_id), self.tally.leave)
        try:
            await Spawn(flow, None, own.scope)
        except Exception:  # closed meanwhile, or no thread is to be had
            flow.close()
            self._count("no_room")

    async def _compared(self, call: Call, served: Response, trace_id: str) -> Response:
        try:
            line = self._place(call, served)
            found = None if line is None else await self._answer(call, line)
            if found is not None:
                await self._judged(call, served, *found, trace_id)
        except _LeftOut as left:
            self._count(str(left))
        except BudgetExceededError:
            self._count("no_money")
        except (ProviderError, RejectedError, DeadlineExceededError):
            self._count("failed")
        except Exception as error:  # nobody waits for it, and its words may quote the prompt
            log.error("a shadow of a call failed: %s", type(error).__name__)
            self._count("failed")
        finally:
            self.tally.leave()
        return served

    async def _answer(self, call: Call, line: DeploymentLine) -> tuple[Response, float] | None:
        """The second place's answer, and the seconds it took; ``None``: it may not be asked now."""
        self._check(line, line.fitted(call))
        tier_line = self._lines[self._tier]
        seat = tier_line.spare_seat()
        handler = compose(tier_line.tier.policies, partial(self._once, line))
        try:
            began = self._clock()
            if seat is not None:
                if not seat.take():
                    self._count("no_room")
                    return None
                seat.begin(began)
                call.permit = seat
            answer = await handler(call)
            latency_s = self._clock() - began
        finally:
            if seat is not None:
                seat.release()
        self.tally.spent(answer.cost_usd)
        return answer, latency_s

    def _check(self, line: DeploymentLine, fit: Call) -> None:
        if may_act(fit.params, fit.request.extra):
            raise _LeftOut("tools")
        if line.spending.outlook(fit) is not None:
            raise _LeftOut("no_money")

    async def _once(self, line: DeploymentLine, call: Call, /) -> Response:
        """Ask ``line`` for what the tier's own policies have made of the call."""
        fit = line.fitted(call)
        self._check(line, fit)
        return await line.once(fit)

    def _place(self, call: Call, served: Response) -> DeploymentLine | None:
        """The place to be asked: open, with room, and not the one that has answered."""
        others = 0
        for line in self._lines[self._tier].choosing.open_now(call):
            if self._deployment in (None, line.name):
                if (self._tier, line.name) != (served.tier, served.deployment):
                    return line
                others += 1
        able = any(call.request.require <= line.deployment.labels for line in self._lines[self._tier].lines)
        self._count("labels" if not able else "same_place" if others else "no_room")
        return None

    async def _judged(
        self, call: Call, served: Response, answer: Response, latency_s: float, trace_id: str
    ) -> None:
        served_score = shadow_score = None
        if self._asking is not None:
            served_score = await self._asking(call, served, apart=True)
            shadow_score = await self._asking(call, answer, apart=True)
        self._note(served, served_score)
        self._note(answer, shadow_score)
        self._count("compared")
        if served_score is not None and shadow_score is not None:
            sign = shadow_score - served_score
            self._count("better" if sign > 0 else "worse" if sign < 0 else "equal")
            self._teach(call.request, trace_id, (served, served_score), (answer, shadow_score))
        if self._emit is not None:
            self._emit(
                ShadowCompared(
                    trace_id=trace_id,
                    tier=self._tier,
                    deployment=answer.deployment or "",
                    served_score=served_score,
                    shadow_score=shadow_score,
                    cost_usd=answer.cost_usd,
                    latency_s=latency_s,
                )
            )

    def _teach(
        self, request: Request, trace_id: str, served: tuple[Response, float], shadow: tuple[Response, float]
    ) -> None:
        """What came of the weak and of the strong model, where the two are of different tiers: the router's,
        if it learns, or else the better one is the strong one."""
        here, there = self._ranks.get(served[0].tier or "", -1), self._ranks[self._tier]
        if here in (-1, there):
            return
        (weak, weak_score), (strong, strong_score) = (shadow, served) if here < there else (served, shadow)
        if self._arms is not None and (weak.tier, strong.tier) != self._arms:
            return
        try:
            if self.settings.learn is not None:
                self.settings.learn(request.text, weak=weak_score, strong=strong_score)
            if self._compared_to is not None:
                self._compared_to(
                    trace_id,
                    weak=weak_score,
                    strong=strong_score,
                    weak_usd=weak.cost_usd,
                    strong_usd=strong.cost_usd,
                )
        except Exception as error:
            log.error("learn= of a Shadow raised %s", type(error).__name__)

    def _note(self, response: Response, score: float | None) -> None:
        if score is not None:
            self.tally.note((response.tier or "", response.deployment or ""), score)

    def _count(self, what: str) -> None:
        self.tally.count(what)

    def inherit(self, older: Shadowing) -> None:
        """Go on where ``older`` was, under another configuration, before the first call; its budget is in the
        store. What still runs there counts here."""
        self.tally = older.tally

    # -- watching ------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """As plain data: how many were sampled, compared and left out (and why), what that cost, and the
        mean score of each deployment that was judged.
        """
        settings = self.settings
        told = {"mode": settings.mode, "to": settings.to, "share": self._share}
        return {**told, **self.tally.status()}

    def renew(self) -> None:
        """After a fork."""
        self.tally.renew()

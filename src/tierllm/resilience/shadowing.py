"""A shadow at work in one client: a second answer behind the back of the call, which nobody sees."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DeadlineExceededError, ProviderError, RejectedError
from ..events import Event, ShadowCompared
from ..pipeline.effects import Spawn
from ..pipeline.scope import Scope
from ..types import Call, Response, Trace, length_of
from .acting import may_act
from .judging import asked, judging_now
from .shadow_account import Purse, Quality, anonymous

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


class Shadowing:
    """``Shadow`` at work. Thread-safe.

    ``wants(call, response)`` says at once, for a call that was just answered, whether it is sampled;
    ``compare`` then begins the flow that asks the second place. ``compared`` writes down what came out, as
    ``DecisionLog.compared`` does.
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
    ) -> None:
        settings.check_tiers(list(lines))
        self.settings = settings
        self._lines = lines
        self._ranks = {tier: rank for rank, tier in enumerate(lines)}
        self._clock = clock
        self._draw = rng.random
        self._emit = emit
        self._compared_to = compared
        self._tier, self._deployment = settings.place
        self._purse = Purse(settings.budget, store)
        self._share = settings.share
        self._lock = threading.Lock()
        self._running = 0
        self.counts: Counter[str] = Counter()
        self.quality: dict[tuple[str, str], Quality] = {}
        self.spent_usd = Decimal(0)
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

    def wants(self, call: Call, response: Response) -> bool:
        """Whether this call is sampled. Most are not, and that is known at once."""
        if self._draw() >= self._share:
            return False
        why = self._left_out(call, response)
        if why is None and self.settings.mode == "observe":
            why = "observed"
        with self._lock:
            self.counts["sampled" if why is None else why] += 1
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
        if self._running >= MOST_AT_ONCE or length_of(request.messages) > LARGE:
            return "no_room"
        return None

    # -- comparing -----------------------------------------------------------------

    async def compare(self, call: Call, response: Response) -> None:
        """Begin to ask the second place. Never raises, and does not wait for its answer."""
        now = self._clock()
        own = Call(anonymous(call.request), scope=Scope(self._clock, now + MOST_S))
        trace_id = "" if call.trace is None else call.trace.id
        own.trace = Trace(f"{trace_id}.shadow")
        own.begun_at = now
        own.caps = (self._purse,)
        own.tier, own.turn.priority = self._tier, -(2**31)
        flow = self._compared(own, response, trace_id)
        try:
            await Spawn(flow, None, own.scope)
        except Exception:  # closed meanwhile, or no thread is to be had
            flow.close()
            self._count("no_room")

    async def _compared(self, call: Call, served: Response, trace_id: str) -> Response:
        with self._lock:
            self._running += 1
        try:
            line = self._place(call, served)
            found = None if line is None else await self._answer(call, line)
            if found is not None:
                await self._judged(call.request, served, *found, trace_id)
        except (ProviderError, RejectedError, DeadlineExceededError):
            self._count("failed")
        except Exception as error:  # nobody waits for it, and its words may quote the prompt
            log.error("a shadow of a call failed: %s", type(error).__name__)
            self._count("failed")
        finally:
            with self._lock:
                self._running -= 1
        return served

    async def _answer(self, call: Call, line: DeploymentLine) -> tuple[Response, float] | None:
        """The second place's answer, and the seconds it took; ``None``: it may not be asked now."""
        fit = line.fitted(call)
        if may_act(fit.params, call.request.extra):
            self._count("tools")
            return None
        if line.spending.outlook(fit) is not None:
            self._count("no_money")
            return None
        seat = self._lines[self._tier].spare_seat()
        try:
            began = self._clock()
            if seat is not None:
                if not seat.take():
                    self._count("no_room")
                    return None
                seat.begin(began)
                fit.permit = seat
            answer = await line.once(fit)
            latency_s = self._clock() - began
        finally:
            if seat is not None:
                seat.release()
        with self._lock:
            self.spent_usd += answer.cost_usd or Decimal(0)
        return answer, latency_s

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
        self, request: Request, served: Response, answer: Response, latency_s: float, trace_id: str
    ) -> None:
        settings = self.settings
        served_score = shadow_score = None
        if settings.judge is not None:
            served_score = await asked(settings.judge, request, served, apart=True)
            shadow_score = await asked(settings.judge, request, answer, apart=True)
        self._note(served, served_score)
        self._note(answer, shadow_score)
        self._count("compared")
        if served_score is not None and shadow_score is not None:
            sign = shadow_score - served_score
            self._count("better" if sign > 0 else "worse" if sign < 0 else "equal")
            self._teach(request, trace_id, (served, served_score), (answer, shadow_score))
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
        """What came of the weak and of the strong model, where the two are of different tiers."""
        upper, lower = self._ranks.get(served[0].tier or "", -1), self._ranks[self._tier]
        if upper in (-1, lower):
            return
        (weak, weak_score), (strong, strong_score) = (shadow, served) if upper < lower else (served, shadow)
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
        if score is None:
            return
        place = (response.tier or "", response.deployment or "")
        with self._lock:
            quality = self.quality.setdefault(place, Quality())
            quality.count += 1
            quality.total += score

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def inherit(self, older: Shadowing) -> None:
        """Go on where ``older`` was, under another configuration; its budget is in the store."""
        with older._lock:
            counts, quality = Counter(older.counts), dict(older.quality)
            spent_usd = older.spent_usd
        with self._lock:
            self.counts += counts
            self.spent_usd += spent_usd
            for place, each in quality.items():
                own = self.quality.setdefault(place, Quality())
                own.count += each.count
                own.total += each.total

    # -- watching ------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """As plain data: how many were sampled, compared and left out (and why), what that cost, and the
        mean score of each deployment that was judged.
        """
        with self._lock:
            return {
                "mode": self.settings.mode,
                "to": self.settings.to,
                "share": self._share,
                "running": self._running,
                "counts": dict(self.counts),
                "spent_usd": self.spent_usd,
                "quality": {
                    f"{tier}/{name}": {"count": each.count, "mean": each.total / each.count}
                    for (tier, name), each in self.quality.items()
                },
            }

    def renew(self) -> None:
        """After a fork: the parent's flows do not run here."""
        self._lock = threading.Lock()
        self._running = 0

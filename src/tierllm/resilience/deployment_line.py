"""The line a call walks down at one deployment.

Retry → record → policies → RateLimit → Budget
→ AdaptiveConcurrency → ClientThrottle → CircuitBreaker → Invoke
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..admission.permit import Full
from ..cost.place import DEFAULT_MAX_TOKENS, Place
from ..cost.price import Price
from ..cost.spending import Spending
from ..errors import (
    BudgetExceededError,
    CircuitOpenError,
    ContextWindowExceededError,
    RejectedError,
    ThrottledError,
)
from ..events import Event
from ..pipeline.compose import compose, invoking
from ..providers.wrapped import Unprovided
from .fallback import NotInTime
from .recorded import RECENT, Recorded
from .timeouts import Pace
from .window import Window

if TYPE_CHECKING:
    from ..admission.limits import Limits
    from ..admission.permit import Short
    from ..admission.rate_limit import RateLimit
    from ..cost.prices import PriceBook
    from ..cost.treasury import Treasury
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Handler, Policy
    from ..pipeline.provider import Provider
    from ..routing.tier import Deployment, Tier
    from ..sla.shifting import Shifting
    from ..types import Call, Timeouts
    from .breaker import CircuitBreaker
    from .retry import Retry

__all__ = ["RECENT", "DeploymentLine", "Obstacle", "heeds"]

Obstacle = RejectedError | ContextWindowExceededError


class DeploymentLine(Recorded):
    """One deployment of one tier at run time: its breaker, its history, its way to the provider."""

    def __init__(
        self,
        tier: Tier,
        deployment: Deployment,
        *,
        name: str,
        clock: Clock,
        emit: Callable[[Event], None] | None,
        breaker: CircuitBreaker | None,
        retry: Retry | None,
        timeouts: Timeouts | None,
        treasury: Treasury,
        prices: PriceBook | None,
        limits: Sequence[RateLimit],
        rng: random.Random,
    ) -> None:
        self.tier = tier
        self.deployment = deployment
        self.name = name
        self.clock = clock
        self.emit = emit
        self.breaker = breaker
        self.timeouts = timeouts
        self.pace = Pace()
        self.held_until = float("-inf")
        self.complained_at = float("-inf")
        self.recent: deque[str] = deque(maxlen=RECENT)
        self.learns = False
        """Whether estimates are asked for, so that answers of unmetered calls teach them too."""
        self.served = 0
        self.failed = 0
        self.heir: Recorded | None = None
        """The line that has taken its place, while calls that began here are still under way."""
        self.shifting: Shifting | None = None
        provider = deployment.provider
        self.place = Place(
            tier.name,
            name,
            deployment.model,
            provider=provider.name,
            vendor=None if isinstance(provider, Unprovided) else _vendor(provider),
            price=deployment.price or (Price.free() if getattr(provider, "free", False) else None),
            context_window=deployment.context_window,
            max_output_tokens=deployment.max_output_tokens,
            book=prices,
            takes_max_tokens=getattr(provider, "takes_max_tokens", True),
            drop=deployment.drop,
            default_max_tokens=getattr(treasury.books.estimator, "default_max_tokens", DEFAULT_MAX_TOKENS),
        )
        treasury.places.append(self.place)
        self.spending = Spending(self.place, treasury)
        self.limits = self._limited(limits)
        self.adaptive = self.throttle = None
        guards: list[Policy] = []
        where: dict[str, Any] = {"tier": tier.name, "deployment": name, "clock": clock, "emit": emit}
        if deployment.adaptive is not None:
            self.adaptive = deployment.adaptive.bound(**where, rng=rng)
            guards.append(self.adaptive)
        if deployment.throttle is not None:
            self.throttle = deployment.throttle.bound(**where, rng=rng)
            guards.append(self.throttle)
        self.bounded = self.limits is not None or self.adaptive is not None
        """Whether it lets only so much through, so that there is something to wait for."""
        if breaker is not None:
            guards.append(breaker.policy)
        outer: list[Policy] = [*deployment.policies, *([] if self.limits is None else [self.limits])]
        self._guarded = compose([*outer, *guards], invoking(provider))
        self._metered = compose([*outer, self.spending, *guards], invoking(provider))
        self._always_metered = treasury.active
        self.once: Handler = self._recorded
        """One attempt, without retrying."""
        self.handler: Handler = self._recorded
        if retry is not None:
            retry.held_s = self.held_s
            retry.too_slow_for = lambda left_s: self.pace.too_slow_for(left_s, self.clock())
            self.handler = compose([retry], self._recorded)
        self._base: Mapping[str, Any] = self.params_for({})
        self.window = Window(self.place, tier, deployment, self.params_for)

    def _limited(self, limits: Sequence[RateLimit]) -> Limits | None:
        if not limits:
            return None
        from ..admission.limits import Limits

        treasury = self.spending.treasury
        store = treasury.store if treasury.store.shared else None
        return Limits(
            limits,
            place=self.place,
            clock=self.clock,
            wall=treasury.wall,
            store=store,
            emit=self.emit,
            soon=treasury.soon,
        )

    # -- before ----------------------------------------------------------------

    def short(self, call: Call, now: float, copies: int = 1) -> Short | None:
        """What room is lacking now for ``call``, after ``copies - 1`` others like it. Changes nothing."""
        if self.limits is not None:
            shortfall = self.limits.peek(call, now, copies)
            if shortfall is not None:
                return shortfall
        if self.adaptive is not None:
            full = self.adaptive.peek(now, copies)
            if full is not None:
                return Full(full.retry_after_s or 0.0)
        return None

    def listen(self, poke: Callable[[], None]) -> None:
        """Let ``poke`` know when there may be room again."""
        if self.limits is not None:
            self.limits.listen(poke)
        if self.adaptive is not None:
            self.adaptive.listen(poke)

    def held_s(self) -> float:
        """For how long the provider asked to be left alone."""
        return max(0.0, self.held_until - self.clock())

    def obstacle(self, call: Call, *, count: bool = True) -> Obstacle | None:
        """Why this place would not serve the call now; ``None`` where it would. Changes nothing.

        ``count``: count the tokens of a long prompt where its fitting depends on that.
        """
        now = self.clock()
        if now < self.held_until:
            left = self.held_until - now
            return ThrottledError(
                f"{self.tier.name}/{self.name}: the provider asked for a pause of another {left:.3g} s",
                retry_after_s=left,
            )
        if self.breaker is not None:
            left_open = self.breaker.peek()
            if left_open is not None:
                return CircuitOpenError(
                    f"{self.tier.name}/{self.name}: the circuit is open for another {left_open:.3g} s",
                    retry_after_s=left_open,
                )
        window = self.deployment.context_window
        if call.min_window and window is not None and window <= call.min_window:
            error = ContextWindowExceededError(
                f"{self.tier.name}/{self.name}: a window of {call.min_window} tokens was too small before"
            )
            error.window = window
            return error
        if call.sizes is not None or self.window.always:
            too_large = self.window.too_large(call, count=count)
            if too_large is not None:
                return too_large
        scope = call.scope
        if scope is not None and scope.deadline_at is not None:
            left_s = scope.deadline_at - now
            why = self.pace.too_slow_for(left_s, now)
            if why:
                return NotInTime(
                    f"{self.tier.name}/{self.name}: hardly answers within {left_s:.3g} s ({why})"
                )
        return None

    def too_dear(self, call: Call) -> BudgetExceededError | None:
        """The budget's refusal that is certain already; ``None`` where there is none."""
        if not (call.caps or self._always_metered):
            return None
        fit = self.fitted(call)
        refusal = self.spending.too_dear(fit)
        if refusal is not None:
            self.spending.refuse(fit, refusal)
        return refusal

    def fitted(self, call: Call) -> Call:
        """The call as this place is to receive it: prompt, parameters, ceilings, timeouts, model."""
        fit = call.copy()
        fit.deployment = self.name
        fit.model = self.deployment.model
        fit.timeouts = self.timeouts
        if call.scope is not None and call.scope.deadline_at is not None:
            usual_s = self.pace.history.p95_s
            if usual_s is not None:
                fit.patience_s = usual_s
        request = call.request
        if self.tier.prompt is not None:
            plain = call.messages if call.plain is None else call.plain
            fit.messages, fit.plain = self.tier.worded(plain), plain
        params = self.params_for(request.params) if request.params else dict(self._base)
        if call.degrade is not None:
            # a wrapped function that takes no route hears of no parameters: nothing can be taken from it
            fit.degrade = call.degrade.here() if heeds(call) else None
            if fit.degrade is not None:
                fit.degrade.apply(params, self.deployment.drop)
        fit.params = params
        return fit

    def params_for(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that are sent where these were asked for."""
        params = {**self.tier.defaults, **self.deployment.params, **asked}
        self.tier.ceilings.apply(params)
        for name in self.deployment.drop:
            params.pop(name, None)
        return params

    def leads_as(self, other: DeploymentLine | None) -> bool:
        """Whether both lead to the same model of the same provider."""
        if other is None:
            return False
        here, there = self.deployment, other.deployment
        return here.provider is there.provider and here.model == there.model

    def inherit(self, older: DeploymentLine) -> None:
        """Take the place of ``older``, which leads to the same model of the same provider, and know what it
        knows. Its calls under way count here too."""
        self.pace, self.recent, self.learns = older.pace, older.recent, older.learns
        self.served, self.failed = older.served, older.failed
        self.held_until, self.complained_at = older.held_until, older.complained_at
        older.heir = self
        if self.breaker is not None and older.breaker is not None:
            self.breaker.inherit(older.breaker)
        if self.adaptive is not None and older.adaptive is not None:
            self.adaptive.inherit(older.adaptive)
        if self.throttle is not None and older.throttle is not None:
            self.throttle.inherit(older.throttle)
        if self.limits is not None and older.limits is not None:
            self.limits.inherit(older.limits)

    def renew(self) -> None:
        """After a fork."""
        for part in (self.breaker, self.limits, self.adaptive, self.throttle):
            if part is not None:
                part.renew()

    def status(self) -> dict[str, Any]:
        return {
            "model": self.deployment.model,
            "provider": self.deployment.provider.name,
            "labels": sorted(self.deployment.labels),
            "served": self.served,
            "failed": self.failed,
            "recent": list(self.recent),
            "latency_p50_s": self.pace.history.quantile(0.5),
            "held_for_s": self.held_s(),
            "breaker": None if self.breaker is None else self.breaker.status(),
            "limits": None if self.limits is None else self.limits.status(),
            "adaptive": None if self.adaptive is None else self.adaptive.status(),
            "throttle": None if self.throttle is None else self.throttle.status(),
        }


def heeds(call: Call) -> bool:
    """Whether what serves the call is told where it goes, and with which parameters."""
    return call.target is None or getattr(call.target, "takes_route", True)


def _vendor(provider: Provider) -> str:
    return getattr(provider, "vendor", None) or provider.name

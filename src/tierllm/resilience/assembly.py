"""From tiers, as the application describes them, to the lines that calls walk down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from ..types import Timeouts
from .breaker import CircuitBreaker
from .deployment_line import DeploymentLine
from .fallback import FallbackChain
from .retry import Retry, RetryBudget
from .tier_line import TierLine

if TYPE_CHECKING:
    import random

    from ..admission.rate_limit import RateLimit
    from ..cost.prices import PriceBook
    from ..cost.treasury import Treasury
    from ..events import Event
    from ..pipeline.clock import Clock
    from ..routing.tier import Deployment, Tier

__all__ = ["Assembly", "lend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """What all lines of a client share. Of each rule, the one nearest to the deployment holds.

    A breaker given to a deployment is its very own; one given to a tier or to the client is a
    template, of which each deployment gets a twin.
    """

    clock: Clock
    rng: random.Random
    emit: Callable[[Event], None] | None
    budget: RetryBudget
    rule: FallbackChain
    retry: Retry | Literal[False] | None
    breaker: CircuitBreaker | Literal[False] | None
    timeouts: Timeouts | None
    treasury: Treasury
    prices: PriceBook | None
    limits: Sequence[RateLimit] = ()
    lowest: str = ""
    """The tier from which nothing leads down."""

    def line(self, tier: Tier) -> TierLine:
        """A tier's line, with those of its deployments."""
        rule = tier.fallback if isinstance(tier.fallback, FallbackChain) else self.rule
        lines = [
            self._deployment_line(tier, deployment, name)
            for deployment, name in zip(tier.deployments, _names(tier), strict=True)
        ]
        return TierLine(
            tier,
            lines,
            rule=rule,
            clock=self.clock,
            wall=self.treasury.wall,
            rng=self.rng,
            emit=self.emit,
            estimator=self.treasury.books.estimator,
            leads_down=tier.name != self.lowest,
        )

    def lines(self, tiers: Sequence[Tier], kept: Mapping[str, TierLine] | None = None) -> dict[str, TierLine]:
        """The lines of all tiers, best first, those ``kept`` as they are. Nobody borrows yet (``lend``)."""
        found = kept or {}
        return {tier.name: found.get(tier.name) or self.line(tier) for tier in tiers}

    def _deployment_line(self, tier: Tier, deployment: Deployment, name: str) -> DeploymentLine:
        return DeploymentLine(
            tier,
            deployment,
            name=name,
            clock=self.clock,
            emit=self.emit,
            breaker=self._breaker_of(tier, deployment, f"{tier.name}/{name}"),
            retry=self._retry_of(tier, deployment),
            timeouts=deployment.timeouts or tier.timeouts or self.timeouts or Timeouts(),
            treasury=self.treasury,
            prices=self.prices,
            limits=(*deployment.limits, *self.limits),
            rng=self.rng,
        )

    def _breaker_of(self, tier: Tier, deployment: Deployment, name: str) -> CircuitBreaker | None:
        breaker = _nearest(deployment.breaker, tier.breaker, self.breaker)
        if breaker is False:
            return None
        own = breaker if deployment.breaker is not None else (breaker or CircuitBreaker()).fresh(name)
        assert isinstance(own, CircuitBreaker)
        own.bind(name=name, clock=self.clock, emit=self.emit)
        return own

    def _retry_of(self, tier: Tier, deployment: Deployment) -> Retry | None:
        retry = _nearest(deployment.retry, tier.retry, self.retry)
        if retry is False:
            return None
        bound: Retry = (retry or Retry()).bound(
            clock=self.clock, rng=self.rng, budget=self.budget, emit=self.emit
        )
        return bound


def lend(lines: Sequence[TierLine]) -> None:
    """Let each tier borrow what the next one has idle, as far as it wants to."""
    for upper, lower in reversed([*pairwise(lines)]):  # from below: they share a lock
        admission = upper.admission
        if admission is not None and admission.borrow and lower.pool is not None:
            lower.pool.lend_to(admission.pool, admission.borrow)


def _nearest(*settings: Any) -> Any:
    """The setting nearest to the deployment."""
    return next((s for s in settings if s is not None), None)


def _names(tier: Tier) -> list[str]:
    """Deployment names, told apart where a tier has one twice (several keys of one account)."""
    names: list[str] = []
    for deployment in tier.deployments:
        name, number = deployment.name, 1
        while name in names:
            number += 1
            name = f"{deployment.name}#{number}"
        names.append(name)
    return names

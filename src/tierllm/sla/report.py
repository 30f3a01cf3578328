"""How well promises are kept, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .burn import Verdict

__all__ = ["NOBODY", "GoalReport", "Report", "Whose"]


class Whose(NamedTuple):
    """Whose promise it is: a tier's, a contract's, a plan's, or a tier's towards one tenant."""

    tier: str | None = None
    contract: str | None = None
    tenant: str | None = None
    plan: str | None = None

    def __str__(self) -> str:
        if self.plan is not None:
            return f"plan:{self.plan}"
        if self.contract is not None:
            return f"contract:{self.contract}"
        return f"tier:{self.tier}" if self.tenant is None else f"tenant:{self.tier}/{self.tenant}"


NOBODY = Whose()


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalReport:
    """One goal of an objective over one window.

    ``limit`` is what was promised: seconds, the available share, dollars. ``share`` of ``calls`` must keep
    to it (``None`` for the mean cost), ``within`` really did: that is counted, not estimated. ``measured``
    is the quantile (estimated, of the calls that were answered), the availability or the mean cost.
    ``burn_rate``: how many times more bad calls there were than may be; of the cost, mean ÷ objective.
    ``budget_left`` is the share of the error budget that is left over ``budget_window_s``, the longest window
    with calls enough, whichever was asked for; below 0 it is overdrawn; a mean cost has none.
    ``burning_over_s`` is the window over which it burns now.
    """

    goal: str
    limit: float
    share: float | None
    calls: int
    bad: int
    within: float | None
    measured: float | None
    burn_rate: float | None
    budget_left: float | None
    budget_window_s: float | None
    burning_over_s: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One subject over one window: a tier, a contract, or a tenant in a tier.

    Calls have been counted for ``covered_s`` of the window. ``calls`` are those that matter, ``answered`` and
    ``failed`` their two parts. Of those answered, ``degraded`` had something taken away, and ``elsewhere``
    were served by another tier. ``apart`` are calls that say nothing about the promise: ``"cached"``,
    ``"personal"``, ``"impatient"``, ``"cancelled"``, and those ``"moved"`` to another tier before they began.
    Quantiles, in seconds, are estimates, 19 % off at most, of calls that were answered: a goal's ``within``
    has those, too, that had waited longer than it when they failed. ``cost_usd`` is the mean of ``costed``
    calls. ``verdict`` is the worst of the goals' for which there were calls enough, ``budget_left`` the least
    of theirs, over ``budget_window_s``.
    """

    tier: str | None = None
    contract: str | None = None
    tenant: str | None = None
    window_s: float
    covered_s: float
    calls: int
    answered: int
    failed: int
    degraded: int
    elsewhere: int
    apart: dict[str, int]
    availability: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    latency_p99_s: float | None
    first_tokens: int
    first_token_p50_s: float | None
    first_token_p95_s: float | None
    first_token_p99_s: float | None
    costed: int
    cost_usd: float | None
    goals: dict[str, GoalReport] = field(default_factory=dict)
    verdict: Verdict
    budget_left: float | None
    budget_window_s: float | None

    @property
    def burning(self) -> tuple[str, ...]:
        """The goals whose error budgets burn now."""
        return tuple(name for name, goal in self.goals.items() if goal.burning_over_s is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "burning": list(self.burning)}

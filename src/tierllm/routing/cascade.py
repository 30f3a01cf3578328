"""Cascade: a cheap model answers first, and a judge says whether that will do."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..errors import ConfigError
from .judges import Agreement, check_judge
from .plan import Plan, unknown_tier

if TYPE_CHECKING:
    from .judges import Judge

__all__ = ["Cascade", "CascadePlan", "Way", "best_first"]


class Cascade:
    """Asks a cheap tier first, a stronger one where that answer does not do: ``TieredClient(cascade=...)``.

    ``judge`` is a function of the request and the response that gives a score from 0 to 1 (or a bool), sync
    or, in async calls, a coroutine function; or ``FormatCheck``, ``Agreement``, ``LearnedJudge``. A score of
    ``at_least`` will do. One that raises, or gives no number from 0 to 1, counts as not good enough. A
    function that waits for something says so by ``judge.blocking = True``.

    ``cheap`` is the tier that answers first (left out: the last one that the call may come to), ``strong``
    where it goes from there (left out: the best one it may come to). It applies to calls whose tier nobody
    named and which their difficulty did not send to the strong model, never to those that may be made only
    once. The answer is held back until it is judged: a stream begins only then. One that is not good enough
    is neither cached nor shown, but paid for; it is served after all, marked ``degraded``, where everything
    better fails.

    Where a deadline leaves no room for both, the call begins at the strong tier. ``max_judge_s`` is what is
    reckoned for the judge then (left out: what it took lately); an async one is given no longer.

    ``mode="observe"`` sends calls where they would have gone without it, and judges the answers that the
    cheap tier gave anyway. Raises ``ConfigError`` for settings that make no sense.
    """

    __slots__ = ("at_least", "cheap", "judge", "max_judge_s", "mode", "strong")

    def __init__(
        self,
        judge: Judge | Agreement,
        *,
        cheap: str | None = None,
        strong: str | None = None,
        at_least: float = 0.5,
        max_judge_s: float | None = None,
        mode: Literal["enforce", "observe"] = "enforce",
    ) -> None:
        check_judge("Cascade", judge)
        for option, tier in (("cheap", cheap), ("strong", strong)):
            if tier is not None and (not isinstance(tier, str) or not tier):
                raise ConfigError(f"Cascade({option}={tier!r}): give the name of a tier, or leave it out")
        if cheap is not None and cheap == strong:
            raise ConfigError(f"Cascade(cheap={cheap!r}, strong={strong!r}): give two different tiers")
        if not _number(at_least) or not 0 < at_least <= 1:
            raise ConfigError(f"Cascade(at_least={at_least!r}): give a score above 0 and up to 1")
        if max_judge_s is not None and not (_number(max_judge_s) and 0 < max_judge_s < math.inf):
            raise ConfigError(f"Cascade(max_judge_s={max_judge_s!r}): give seconds above 0, or leave it out")
        if mode not in ("enforce", "observe"):
            raise ConfigError(f"Cascade(mode={mode!r}): 'enforce' or 'observe'")
        self.judge = judge
        self.cheap = cheap
        self.strong = strong
        self.at_least = float(at_least)
        self.max_judge_s = None if max_judge_s is None else float(max_judge_s)
        self.mode = mode

    def check_tiers(self, tiers: Sequence[str]) -> None:
        """``tiers`` are the client's, best first. Raises ``ConfigError`` where these do not fit them."""
        for option, tier in (("cheap", self.cheap), ("strong", self.strong)):
            if tier is not None and tier not in tiers:
                raise unknown_tier(option, tier, tiers)
        if len(tiers) < 2:
            raise ConfigError("Cascade(...): with one tier there is nothing to go up to; give the client two")
        cheap = tiers[-1] if self.cheap is None else self.cheap
        strong = tiers[0] if self.strong is None else self.strong
        if tiers.index(cheap) <= tiers.index(strong):
            raise ConfigError(f"Cascade(cheap={cheap!r}, strong={strong!r}): {cheap!r} is not the lower tier")
        if isinstance(self.judge, Agreement):
            tier, deployment = self.judge.place
            if tier not in tiers:
                raise unknown_tier("other", tier, tiers)
            if tier == cheap and deployment is None:
                raise ConfigError(
                    f"Agreement(other={tier!r}): that is the tier that answers first; name another "
                    f"deployment of it, as '{tier}/name', or another tier"
                )

    def way(self, plan: Plan, spared: Collection[str] = ()) -> Way | None:
        """How a call with this plan goes; ``None`` where there is nothing to go up to.

        The tiers in ``spared`` (a soft limit, a load, a shift led the call away from them) come last.
        """
        order = best_first(plan)
        cheap = order[-1] if self.cheap is None else self.cheap
        if cheap not in order:
            return None
        better = order[: order.index(cheap)]
        free = [tier for tier in better if tier not in spared]
        if not free:
            return None
        strong = self.strong if self.strong in free else _nearest(free, better, self.strong)
        beneath = [tier for tier in free if order.index(tier) > order.index(strong)]
        above = [tier for tier in better if tier != strong and tier not in beneath]
        tiers = (cheap, strong, *beneath, *above, *order[len(better) + 1 :])
        made = CascadePlan(
            cheap,
            tiers,
            plan.excluded,
            ranked=order,
            floored=plan.floored,
            cap=plan.cap,
            started=plan.highest,
        )
        return Way(cheap, strong, made)

    def __repr__(self) -> str:
        return f"Cascade({self.judge!r}, cheap={self.cheap!r}, strong={self.strong!r})"


class Way(NamedTuple):
    """Where a cascaded call begins, where it goes up to, and its plan."""

    cheap: str
    strong: str
    plan: CascadePlan


@dataclass(frozen=True, slots=True)
class CascadePlan(Plan):
    """The cheap tier, then the strong one, then what else is admissible; ``ranked`` has them best first."""

    ranked: tuple[str, ...] = ()
    started: str = ""

    @property
    def highest(self) -> str:
        return self.started

    def starting_at(self, tier: str) -> Plan:
        at = self.ranked.index(tier)
        tiers = (*self.ranked[at:], *self.ranked[:at])
        return Plan(tier, tiers, self.excluded, at, floored=self.floored, cap=self.cap)

    def _rank(self, number: int) -> int:
        return self.ranked.index(self.tiers[number])


def best_first(plan: Plan) -> tuple[str, ...]:
    """Its tiers by their level, wherever it begins."""
    return plan.best_first


def _nearest(free: Sequence[str], better: Sequence[str], strong: str | None) -> str:
    """The tier to take for ``strong``, which is not to be had: the next best; or the best of all."""
    if strong in better:
        at = better.index(strong)
        return next((tier for tier in better[at:] if tier in free), free[-1])
    return free[0]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)

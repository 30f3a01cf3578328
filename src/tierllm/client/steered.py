"""What decides where calls go, at work in a setup: each part is there if it was asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..pipeline.effects import Spawn
from ..types import Response

if TYPE_CHECKING:
    from ..resilience.cascading import Cascading
    from ..resilience.shadowing import Shadowing
    from ..routing.cascade import Cascade
    from ..routing.decision_log import DecisionLog
    from ..routing.difficulty import Difficulty
    from ..routing.router import Router
    from ..routing.routing_table import RoutingTable
    from ..routing.scored import Scored
    from ..routing.shadow import Shadow
    from ..routing.sticking import Sticking
    from ..routing.sticky import StickySessions
    from ..sla.service_levels import ServiceLevels
    from ..types import Call
    from .setup import Setup

__all__ = [
    "cascading_of",
    "check_router",
    "decisions_of",
    "difficulty_of",
    "levels_of",
    "scored_of",
    "shadowing_of",
    "sticking_of",
    "table_of",
    "write_down",
]


def check_router(router: object) -> None:
    """Raises ``ConfigError`` for what is none."""
    if router is None:
        return
    from ..routing.router import Router

    if not isinstance(router, Router):
        raise ConfigError(f"TieredClient(router={router!r}): give Router([Rule(...), ...])")


def levels_of(setup: Setup, *, tenants: bool) -> ServiceLevels | None:
    """How far promises are kept; ``None`` where nothing was promised."""
    tiers = {tier.name: tier.objective for tier in setup.tiers if tier.objective is not None}
    contracts = {} if setup.service is None else setup.service.objectives()
    plans = {} if setup.service is None else setup.service.plan_objectives()
    if not tiers and not contracts and not plans:
        return None
    from ..sla.service_levels import ServiceLevels

    return ServiceLevels(
        tiers,
        contracts=contracts,
        plans=plans,
        tenants=tenants,
        deadline_s=setup.deadline_s,
        clock=setup.clock,
        emit=setup.emit,
    )


def decisions_of(given: DecisionLog | str | os.PathLike[str] | None, setup: Setup) -> DecisionLog | None:
    """Where decisions are written down; one at that path, where a path is given."""
    if given is None:
        return None
    from ..routing.decision_log import DecisionLog

    decisions = DecisionLog(given, clock=setup.wall) if isinstance(given, str | os.PathLike) else given
    if not isinstance(decisions, DecisionLog):
        raise ConfigError(f"TieredClient(decisions={given!r}): give a DecisionLog, or a path")
    return decisions


def write_down(setup: Setup) -> None:
    """Let the log go by ``setup``, once it is in use."""
    if setup.decisions is not None:
        teach = None if setup.difficulty is None else getattr(setup.difficulty.scorer, "buckets_of", None)
        setup.decisions.bind(emit=setup.emit, soon=setup.host.soon, buckets=teach)


def difficulty_of(router: Router | None, setup: Setup) -> Difficulty | None:
    """What tells easy calls from difficult ones; ``None`` where nothing does."""
    if router is None or router.scorer is None:
        return None
    from ..routing.difficulty import Difficulty

    return Difficulty(
        router.scorer,
        share=router.balance,
        explore=router.explore,
        classes=router.classes,
        rng=setup.ground.rng,
        mode=router.mode,
        pace=setup.treasury.pace if router.follow_budget else None,
        clock=setup.clock,
    )


def table_of(router: Router | None, setup: Setup) -> RoutingTable | None:
    """The routing rules for this setup's tiers."""
    if router is None:
        return None
    difficulty = setup.difficulty
    table = router.bound(
        list(setup.lines),
        load=lambda tier: _load_of(setup, tier),
        budget_left=setup.treasury.left_share,
        wall=setup.wall,
        classify=None if difficulty is None else difficulty.weighed,
    )
    return table if router.rules else None


def _load_of(setup: Setup, tier: str | None) -> tuple[float, float]:
    """The load of a tier, and its forecast; of the busiest one without a name."""
    lines = setup.lines.values() if tier is None else [setup.lines[tier]]
    found = [line.admission.reading() for line in lines if line.admission is not None]
    return max((level for level, _ in found), default=0.0), max((ahead for _, ahead in found), default=0.0)


def scored_of(router: Router | None, setup: Setup) -> Scored | None:
    """The policy that lets difficulty decide."""
    if router is None or setup.difficulty is None or len(setup.tiers) < 2:
        return None
    from ..routing.scored import Scored

    names = tuple(setup.lines)
    return Scored(
        setup.difficulty,
        tiers=names,
        weak=router.weak or names[-1],
        strong=router.strong or names[0],
        mode=router.mode,
        judged=None if router.judge is None else _Judged(router, setup),
        settle=setup.settle,
    )


class _Judged:
    """Has the router's judge look at an answer, behind the caller's back, and learns from what it says."""

    def __init__(self, router: Router, setup: Setup) -> None:
        from ..resilience.asking import Asking

        assert router.judge is not None
        self._asking = Asking(router.judge)
        self._setup = setup

    async def __call__(self, call: Call, response: Response) -> None:
        try:
            await Spawn(self._look(call, response))
        except RuntimeError:  # no thread is to be had: one answer fewer teaches anything
            pass

    async def _look(self, call: Call, response: Response) -> Response:
        score = await self._asking(call, response, apart=True)
        if score is not None and call.trace is not None:
            self._setup.heard(call.trace.id, score, "judge")
        return response


def sticking_of(
    sessions: StickySessions | None, setup: Setup, before: Setup | None = None
) -> Sticking | None:
    """The policy that sends sessions where they were."""
    if sessions is None:
        return None
    from ..routing.sticky import StickySessions

    if not isinstance(sessions, StickySessions):
        raise ConfigError(f"TieredClient(sessions={sessions!r}): give StickySessions(...)")

    def usable(call: Call, tier: str, deployment: str) -> bool:
        line = setup.lines.get(tier)
        return line is not None and any(
            deployment in ("", place.name)
            and call.request.require <= place.deployment.labels
            and not place.obstacle(call, count=False)
            for place in line.lines
        )

    return sessions.bound(
        before=None if before is None else before.sticking,
        clock=setup.clock,
        wall=setup.wall,
        store=setup.treasury.store,
        usable=usable,
        tiers=list(setup.lines),
        emit=setup.emit,
        soon=setup.host.soon,
        settle=setup.settle,
        chosen=setup.scored is not None or setup.cascading is not None,
    )


def cascading_of(cascade: Cascade | None, setup: Setup) -> Cascading | None:
    """The policies that try a cheap tier first."""
    if cascade is None:
        return None
    from ..resilience.cascading import Cascading
    from ..routing.cascade import Cascade

    if not isinstance(cascade, Cascade):
        raise ConfigError(f"TieredClient(cascade={cascade!r}): give Cascade(...)")
    cascading = Cascading(cascade, lines=setup.lines, clock=setup.clock, emit=setup.emit)
    for line in setup.lines.values():
        line.judges(cascading.judging)
    return cascading


def shadowing_of(shadow: Shadow | None, setup: Setup) -> Shadowing | None:
    """What asks a second model behind the callers' backs."""
    if shadow is None:
        return None
    from ..resilience.shadowing import Shadowing
    from ..routing.shadow import Shadow

    if not isinstance(shadow, Shadow):
        raise ConfigError(f"TieredClient(shadow={shadow!r}): give Shadow(...)")
    return Shadowing(
        shadow,
        lines=setup.lines,
        store=setup.treasury.store,
        clock=setup.clock,
        rng=setup.ground.rng,
        emit=setup.emit,
        compared=None if setup.decisions is None else setup.decisions.compared,
        arms=None if setup.scored is None else setup.scored.arms,
    )

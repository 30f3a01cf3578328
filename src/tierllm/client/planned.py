"""Where a call may go, and with which priority: settled before it begins."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..routing.plan import Plan, plan
from ..types import Candidate

if TYPE_CHECKING:
    from ..admission.plans import Plans
    from ..cost.treasury import Treasury
    from ..pipeline.clock import Clock
    from ..pipeline.provider import Provider
    from ..resilience.tier_line import TierLine
    from ..routing.tier import Tier
    from ..types import Call, Request, Trace

__all__ = ["Planned"]

PLANS_KEPT = 1024


class Planned:
    """The part of a setup that plans a call."""

    clock: Clock
    tiers: tuple[Tier, ...]
    lines: Mapping[str, TierLine]
    service: Plans | None
    treasury: Treasury
    _plans: dict[Any, Plan]

    def providers(self) -> list[Provider]:
        raise NotImplementedError

    def _rank(self, call: Call, trace: Trace) -> None:
        """The priority that its plan grants it, and its weight."""
        service, request = self.service, call.request
        assert service is not None
        call.turn.weight = service.weight_of(request.plan)
        if call.turn.priority != request.priority:
            return  # its handle has said how urgent it is
        granted, warning = service.priority_of(
            request.plan, request.priority, self.clock(), trace_id=trace.id
        )
        call.turn.priority = granted
        if warning is not None:
            trace.warnings = (*trace.warnings, warning)

    def _shed_now(self, call: Call) -> None:
        """It really comes, and no cache has an answer: the tiers it was sent down from have that load too."""
        names, call.turn.shed_from = call.turn.shed_from, ()
        for name in names:
            admission = self.lines[name].admission
            if admission is not None:
                admission.shed()

    def _shed(self, call: Call, trace: Trace) -> None:
        """Where the tier it would start in is about to be full, it starts at the next that is not."""
        before = call.plan
        assert before is not None
        for number, name in enumerate(before.tiers):
            admission = self.lines[name].admission
            if admission is None or not admission.sheds(call.turn.priority):
                if number and not before.raised:
                    tiers = (*before.tiers[number:], *before.tiers[:number])
                    call.plan = Plan(tiers[0], tiers, before.excluded, number)
                    trace.granted = tiers[0]
                    trace.candidates += [Candidate(tier, "*", "load") for tier in before.tiers[:number]]
                    call.turn.shed_from = before.tiers[:number]
                return

    def _steer(self, call: Call, trace: Trace) -> None:
        """Where a soft limit is passed that sends calls down, the tier it started in comes last."""
        before = call.plan
        assert before is not None
        tiers = self.treasury.steered(call.request, before.tiers, call.caps)
        if tiers is not before.tiers:
            raised = before.tiers.index(tiers[0])
            call.plan = Plan(tiers[0], tiers, before.excluded, raised)
            trace.granted = tiers[0]
            trace.candidates.append(Candidate(before.granted, "*", "budget"))

    def _check_extra(self, request: Request) -> None:
        vendors = {provider.name for provider in self.providers()}
        for name in request.extra:
            if name not in vendors:
                close = difflib.get_close_matches(name, vendors, 1)
                hint = (
                    f"did you mean {close[0]!r}?"
                    if close
                    else f"the providers are {', '.join(sorted(vendors))}"
                )
                raise ConfigError(f"extra[{name!r}]: no deployment has such a provider; {hint}")

    def _plan(self, request: Request) -> Plan:
        if request.min_tier is None and request.fallback and not request.require:
            key: Any = request.sla
        else:
            key = (request.sla, request.min_tier, request.fallback, request.require)
        found = self._plans.get(key)
        if found is None:
            found = plan(request, self.tiers)
            if len(self._plans) < PLANS_KEPT:
                self._plans[key] = found
        return found

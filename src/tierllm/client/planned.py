"""Where a call may go, and with which priority: settled before it begins."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigError
from ..routing.course import Course, key_of
from ..routing.plan import UNBOUND, Bounds, Plan, plan
from ..types import Candidate

if TYPE_CHECKING:
    from ..cost.treasury import Treasury
    from ..pipeline.clock import Clock
    from ..pipeline.provider import Provider
    from ..resilience.tier_line import TierLine
    from ..routing.routing_table import Decision, RoutingTable
    from ..routing.scored import Scored
    from ..routing.sticking import Sticking
    from ..routing.tier import Tier
    from ..sla.terms import ServiceTerms, Terms
    from ..types import Call, Request, Trace

__all__ = ["Planned"]

PLANS_KEPT = 1024

BOUNDS = ("plan", "contract", "rule")


class Observed(NamedTuple):
    """Where a call may go, and what bounds there would be if those held, too, who only observe."""

    plan: Plan
    bounds: Bounds
    rule: Decision | None


class Planned:
    """The part of a setup that plans a call."""

    clock: Clock
    tiers: tuple[Tier, ...]
    lines: Mapping[str, TierLine]
    service: ServiceTerms | None
    table: RoutingTable | None
    scored: Scored | None
    sticking: Sticking | None
    treasury: Treasury
    _observes: bool
    _plans: dict[Any, Plan]
    _ranks: Mapping[str, int]
    _sheds: bool
    _shifting: Sequence[TierLine]

    def providers(self) -> list[Provider]:
        raise NotImplementedError

    # -- before it is sent off -----------------------------------------------------

    def _routed(self, request: Request) -> tuple[Request, Plan, Course, Observed | None]:
        """The request with its contract, where it may go, and what those say who only observe."""
        service, table = self.service, self.table
        terms: Terms | None = None
        if service is not None:
            request, terms = service.settled(request)
        key = "" if self.sticking is None else self.sticking.key_of(request)
        course = Course(key or key_of(request), fixed=request.sla is not None)
        decision: Decision | None = None
        if terms is not None:
            course.shifts = terms.shifts
        if table is not None:
            decision = table.decide(request, terms)
            course.rule, course.score, course.buckets = decision.rule, decision.score, decision.buckets
        if decision is not None and not self._observes:
            held = decision
            course.request_class = decision.request_class
            course.important = decision.floor
            course.balance = decision.balance
            course.fixed = course.fixed or decision.tier is not None
        else:
            held, course.observed = None, decision
            course.request_class = request.request_class
            course.important = request.importance == "high" or request.request_class == "high"
        admissible = self._plan(request, self._bounds(terms, held))
        would = None if terms is None else terms.observed
        if would is None and held is decision:
            return request, admissible, course, None
        return (
            request,
            admissible,
            course,
            Observed(admissible, self._bounds(would or terms, decision), decision),
        )

    def _written(self, trace: Trace, request: Request, course: Course, observed: Observed | None) -> None:
        """What was decided, and what would have been by those who only observe."""
        trace.plan, trace.contract = request.plan, request.contract
        trace.rule, trace.request_class = course.rule, course.request_class
        if request.plan is not None and self.service is not None and not self.service.knows(request.plan):
            trace.warnings = (*trace.warnings, f"plan {request.plan!r} is not listed: no plan's bounds hold")
        if observed is None:
            return
        here, bounds, decision = observed
        if decision is not None and trace.request_class is None:
            trace.request_class = decision.request_class
        try:
            would = self._plan(request, bounds)
        except ConfigError:
            words = "no tier within its bounds has the labels it requires"
            trace.warnings = (*trace.warnings, f"observed only: it would be refused: {words}")
            return
        if would.tiers == here.tiers:
            return
        why = dict(would.excluded)
        if would.granted != here.granted:
            by = why.get(here.granted, "rule")
            by = by if by in BOUNDS else "rule"
            trace.candidates.append(Candidate(would.granted, "*", f"observed: {by}"))
        for by in BOUNDS:
            out = [tier for tier in here.tiers if why.get(tier) == by and self._above(would.granted, tier)]
            if out:
                said = f"observed only: its {by} would keep it out of {', '.join(out)}"
                trace.warnings = (*trace.warnings, said)

    def _bounds(self, terms: Terms | None, decision: Decision | None) -> Bounds:
        """The higher floor and the lower cap of what plan, contract and rule say."""
        if decision is None:
            tier = floor = cap = None
        else:
            tier, floor, cap = decision.tier, decision.min_tier, decision.max_tier
        floor_by = cap_by = "rule"
        if terms is not None:
            if terms.min_tier is not None and (floor is None or self._above(terms.min_tier, floor)):
                floor, floor_by = terms.min_tier, terms.floor_by
            if terms.max_tier is not None and (cap is None or self._above(cap, terms.max_tier)):
                cap, cap_by = terms.max_tier, terms.cap_by
        if tier is None and floor is None and cap is None:
            return UNBOUND
        return Bounds(tier, floor, floor_by, cap, cap_by)

    def _above(self, one: str, other: str) -> bool:
        return self._ranks[one] < self._ranks[other]

    def _plan(self, request: Request, bounds: Bounds = UNBOUND) -> Plan:
        if request.min_tier is None and request.fallback and not request.require:
            key: Any = (request.sla, bounds)
        else:
            key = (request.sla, request.min_tier, request.fallback, request.require, bounds)
        found = self._plans.get(key)
        if found is None:
            found = plan(request, self.tiers, bounds)
            if len(self._plans) < PLANS_KEPT:
                self._plans[key] = found
        return found

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

    # -- as it begins ----------------------------------------------------------------

    def _rank(self, call: Call, trace: Trace) -> None:
        """The priority that it is granted, and its weight."""
        service, request = self.service, call.request
        assert service is not None
        call.turn.weight = service.weight_of(request)
        if call.turn.priority != request.priority:
            return  # its handle has said how urgent it is
        granted, warnings = service.priority_of(request, request.priority, self.clock(), trace_id=trace.id)
        call.turn.priority = granted
        if warnings:
            trace.warnings = (*trace.warnings, *warnings)

    def _avoided(self, course: Course) -> None:
        """The places that calls go past at present."""
        now, avoid = self.clock(), []
        for line in self._shifting:
            shifting = line.shifting
            assert shifting is not None
            avoid += [(line.tier.name, name) for name in shifting.avoided(course.key, now)]
        course.avoid = avoid

    def settle(self, call: Call) -> None:
        """It is to begin in the first tier of its plan: that may be one that sends calls down at present."""
        trace = call.trace
        assert trace is not None
        if self.treasury.steers(call.caps):
            self._steer(call, trace)
        self._sent_down(call, trace)

    def _sent_down(self, call: Call, trace: Trace) -> None:
        if self._shifting:
            self._leave(call, trace)
        if self._sheds:
            self._shed(call, trace)

    def _steer(self, call: Call, trace: Trace) -> None:
        """Where a soft limit is passed that sends calls down, the tiers it is passed in come last.

        A limit that is not about tiers takes the best one away, whichever the call begins in.
        """
        before = call.plan
        assert before is not None
        best_first, tiers = before.best_first, before.open
        first = self.treasury.steered(call.request, best_first, call.caps)[0]
        passed = best_first[: best_first.index(first)]
        if before.raised:
            before = before.putting_last(passed)
            trace.candidates += [Candidate(name, "*", "budget") for name in passed if name not in tiers]
            if tiers[0] not in passed:
                over = passed[:1]  # counts for all tiers: no further down for that
                first = next(
                    tier
                    for tier in self.treasury.steered(call.request, (*over, *tiers), call.caps)
                    if tier not in over
                )
        if first != tiers[0]:
            trace.granted = first
            trace.candidates += [Candidate(name, "*", "budget") for name in tiers[: tiers.index(first)]]
            before = before.starting_at(first)
        call.plan = before

    def _leave(self, call: Call, trace: Trace) -> None:
        """The tier that sheds this one."""
        course, before = call.course, call.plan
        assert course is not None
        assert before is not None
        now, number, plan = self.clock(), 0, before
        while course.shifts and plan.leads_down(0):
            shifting, room = self.lines[plan.tiers[0]].shifting, self.lines[plan.tiers[1]].room
            if shifting is None or not shifting.leaves_tier(course.key, now, room):
                break
            why = "pinned" if shifting.pinned_away(None) else "shift"
            trace.candidates.append(Candidate(plan.tiers[0], "*", why))
            plan = before.starting_at(before.tiers[number := number + 1])
        if plan is not before:
            call.plan = plan
            trace.granted = plan.granted

    def _shed(self, call: Call, trace: Trace) -> None:
        """Where the tier it would start in is about to be full, it starts at the next that is not."""
        before = call.plan
        assert before is not None
        tiers = before.open
        for number, name in enumerate(tiers):
            admission = self.lines[name].admission
            if admission is None or not admission.sheds(call.turn.priority):
                if number:
                    call.plan = before.starting_at(name)
                    trace.granted = name
                    trace.candidates += [Candidate(tier, "*", "load") for tier in tiers[:number]]
                    call.turn.shed_from = tiers[:number]
                return

    def _shed_now(self, call: Call) -> None:
        """It really comes, and no cache has an answer: the tiers it was sent down from have that load too."""
        names, call.turn.shed_from = call.turn.shed_from, ()
        for name in names:
            admission = self.lines[name].admission
            if admission is not None:
                admission.shed()

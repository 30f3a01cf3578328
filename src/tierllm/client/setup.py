"""All of a client that depends on its configuration, and the way of a call through it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..cost.confirm import Confirm
from ..cost.estimator import CostEstimator
from ..cost.prices import PriceBook
from ..cost.runs import active_runs
from ..cost.treasury import Treasury
from ..errors import CacheMissError
from ..events import FeedbackReceived
from ..pipeline.compose import compose
from ..pipeline.ready import ReadyCall
from ..pipeline.scope import Scope
from ..resilience.assembly import Assembly, lend
from ..resilience.fallback import FallbackChain
from ..resilience.ladder import Ladder, Rung, SimpleReply, StaleAnswer, StaleEntry
from ..resilience.quotes import Quotes
from ..resilience.sized import Sized
from ..resilience.succession import check_succession, succeed
from ..resilience.window import may_be_large
from ..routing.ask import FOREVER_S, check_dollars
from ..routing.feedback import Callers
from ..routing.tier import Tier, check_rules
from ..types import Call, Candidate, Request, Response, Timeouts, Trace, length_of
from .checks import (
    check_money,
    check_options,
    check_treasury,
    checked_budgets,
    checked_limits,
    checked_tiers,
    ledger_of,
    listed,
    service_of,
)
from .digest import digest_of
from .kept import kept_by
from .outermost import Outermost
from .planned import Planned
from .sampled import sampled
from .steered import (
    cascading_of,
    check_router,
    decisions_of,
    difficulty_of,
    levels_of,
    scored_of,
    shadowing_of,
    sticking_of,
    table_of,
    write_down,
)

if TYPE_CHECKING:
    from decimal import Decimal

    from ..admission.emergency import Emergencies
    from ..admission.plans import ServicePlan
    from ..admission.rate_limit import RateLimit
    from ..caching import ResultCache
    from ..cost.budget import Budget
    from ..cost.estimate import Estimate
    from ..cost.ledger import UsageLedger
    from ..pipeline.effects import Flow, Policy
    from ..pipeline.provider import Provider
    from ..resilience.breaker import CircuitBreaker
    from ..resilience.retry import Retry
    from ..resilience.tier_line import TierLine
    from ..routing.cascade import Cascade
    from ..routing.decision_log import DecisionLog
    from ..routing.plan import Plan
    from ..routing.router import Router
    from ..routing.shadow import Shadow
    from ..routing.sticky import StickySessions
    from ..sla.contract import Contract
    from ..stores import Store
    from .ground import Ground

    class Owner(Protocol):
        """The client."""

        def ready(self, request: Request, target: Provider | None = None) -> ReadyCall: ...


__all__ = ["Setup"]


class Setup(Planned, Outermost):
    """A configuration at work. A client may come to have another one; calls end with the one they began with.

    ``owner`` is the client, by which runs and the cache know it. ``before`` is the setup whose place it is
    to take (``succeed``): it has the same store, ledger and cache, and keeps the lines of tiers that are the
    very same. ``tenure`` gives what calls hold as long as they go by it; once that is gone, they go
    to the owner's present setup. Raises ``ConfigError`` for settings that make no sense.
    """

    config: str | None = None
    """12 hex digits of the configuration's hash."""
    tenure: Callable[[], object | None] | None = None

    def __init__(
        self,
        ground: Ground,
        owner: Owner,
        tiers: Sequence[Tier],
        *,
        fallback: FallbackChain | None = None,
        retry: Retry | Literal[False] | None = None,
        breaker: CircuitBreaker | Literal[False] | None = None,
        timeouts: Timeouts | None = None,
        deadline_s: float | None = None,
        stale: Callable[[Request], Response | str | None] | None = None,
        simple_reply: Any = None,
        cache: ResultCache | None = None,
        budgets: Sequence[Budget] = (),
        limits: Sequence[RateLimit] = (),
        plans: Sequence[ServicePlan] = (),
        contracts: Sequence[Contract] = (),
        router: Router | None = None,
        sessions: StickySessions | None = None,
        cascade: Cascade | None = None,
        shadow: Shadow | None = None,
        decisions: DecisionLog | str | os.PathLike[str] | None = None,
        tenant_attainment: bool = False,
        store: Store | None = None,
        ledger: UsageLedger | str | os.PathLike[str] | Literal[False] | None = None,
        prices: PriceBook | None = None,
        estimator: CostEstimator | None = None,
        confirm: Callable[[Estimate], object] | None = None,
        confirm_over_usd: Decimal | float | str | None = None,
        policies: Sequence[Policy] = (),
        before: Setup | None = None,
    ) -> None:
        self.ground = ground
        self.owner = owner
        self.clock, self.wall, self.emit, self.host = ground.clock, ground.wall, ground.emit, ground.host
        self.tiers = checked_tiers(tiers)
        policies = listed("policies", policies)
        check_rules("TieredClient(tiers", timeouts, breaker, retry, policies)
        check_options(fallback, deadline_s, stale)
        check_money(store, prices, estimator, confirm)
        names = [tier.name for tier in self.tiers]
        self._ranks = {name: rank for rank, name in enumerate(names)}
        plans, contracts = listed("plans", plans), listed("contracts", contracts)
        self.service = service_of(plans, contracts, names, emit=self.emit)
        if self.service is not None and before is not None and before.service is not None:
            self.service.inherit(before.service)
        limits = checked_limits(listed("limits", limits), self.tiers, store)
        if self.service is not None:
            limits = (*limits, *self.service.rate_limits())
        over_usd = None if confirm_over_usd is None else check_dollars("confirm_over_usd", confirm_over_usd)
        self.deadline_s = None if deadline_s is None else min(deadline_s, FOREVER_S)
        self._plans: dict[Any, Plan] = {}
        prices = prices or PriceBook.bundled()
        budgets = checked_budgets(listed("budgets", budgets))
        if before is None:
            self.estimator = estimator or CostEstimator(prices=prices)
            self.treasury = Treasury(
                budgets,
                store=store,
                ledger=ledger_of(ledger, budgets, self.wall),
                estimator=self.estimator,
                wall=self.wall,
                emit=self.emit,
                soon=self.host.soon,
            )
        else:
            self.estimator, self.treasury = before.estimator, before.treasury.heir(budgets)
            ledger = self.treasury.ledger or False
        consents = [] if self.service is None else self.service.consents()
        self._common: tuple[object, ...] = (fallback, retry, breaker, timeouts, budgets, limits, prices)
        self._common += (ground.retry_budget, cascade, names[-1], consents)
        self.fallback = (fallback or FallbackChain()).bound(
            rules={t.name: t.fallback for t in self.tiers if isinstance(t.fallback, FallbackChain)},
            emit=self.emit,
        )
        self.lines = Assembly(
            clock=self.clock,
            rng=ground.rng,
            emit=self.emit,
            budget=ground.retry_budget,
            rule=self.fallback,
            retry=retry,
            breaker=breaker,
            timeouts=timeouts,
            treasury=self.treasury,
            prices=prices,
            limits=limits,
            lowest=names[-1],
        ).lines(self.tiers, self._kept(before))
        if before is None:
            lend(list(self.lines.values()))
        else:
            check_succession(self.lines, before.lines)
            self.fallback.inherit(before.fallback)
        for line in self.lines.values():
            self.treasury.keep(line.stores())
        admissions = [line.admission for line in self.lines.values() if line.admission is not None]
        self._sheds = any(admission.shed_at is not None for admission in admissions)
        self._shifting = [line for line in self.lines.values() if line.shifting is not None]
        check_router(router)
        self.config = digest_of(self.tiers, router, plans, contracts)
        self._observes = router is not None and router.mode == "observe"
        self.callers: Callers = Callers() if before is None else before.callers
        self.difficulty = difficulty_of(router, self)
        self.table = table_of(router, self)
        self.scored = scored_of(router, self)
        self.cascading = cascading_of(cascade, self)
        self.sticking = sticking_of(sessions, self, before)
        self.levels = levels_of(self, tenants=tenant_attainment)
        self.decisions = decisions_of(decisions, self)
        self.shadowing = shadowing_of(shadow, self)
        if before is not None:
            self._inherit(before)
        self._routes = self._is_routed()
        self._settles = self.service is not None or self._sheds or bool(self._shifting)
        self._accounts = self.levels is not None or self.decisions is not None
        self.caching = kept_by(cache, self)
        self.emergencies: Emergencies | None = sampled(self, before)
        self.quotes = Quotes(self.lines, self.estimator, self.cascading)
        self._confirms = confirm is not None or confirm_over_usd is not None
        outer = self._outer(stale, simple_reply, policies)
        if self.scored is not None:
            outer.append(self.scored)
        chain: list[Policy] = [self.fallback]
        if self.cascading is not None:
            chain = [self.cascading, self.fallback, self.cascading.step]
        if self.shadowing is not None:
            chain.insert(0, self.shadowing)  # within all that may take something out of a prompt
        asking = Confirm(self.quotes.of, self.quotes.dearest_usd, confirm, over_usd)
        self._sized = Sized(self.lines)
        self._handler = compose([*outer, *chain], self._enter)
        self._careful = compose([*outer, self._sized, asking, *chain], self._enter)
        check_treasury(self.treasury, ledger)
        if before is None:
            write_down(self)

    def _kept(self, before: Setup | None) -> dict[str, TierLine]:
        """The lines of ``before`` that go on as they are: nothing that they are made of is another."""
        if before is None or self._common != before._common or before.cascading is not None:
            return {}
        kept = {
            tier.name: before.lines[tier.name]
            for tier in self.tiers
            if tier.name in before.lines and before.lines[tier.name].tier is tier
        }
        self.treasury.places += [line.place for tier in kept.values() for line in tier.lines]
        return kept

    def succeed(self, before: Setup) -> None:
        """Take the place of ``before``, before any call comes. It does not fail."""
        succeed(self.lines, before.lines)
        write_down(self)
        if self.levels is not None and before.levels is not None:
            self.levels.inherit(before.levels)
        old = None if self.caching is None else self.caching.old
        for line in self.lines.values():
            if line.sampling is not None:
                line.sampling.look_in(old)

    def _inherit(self, before: Setup) -> None:
        """Go on with what ``before`` has learned and counted, wherever both have the same part."""
        if self.difficulty is not None and before.difficulty is not None:
            self.difficulty.inherit(before.difficulty)
        if self.cascading is not None and before.cascading is not None:
            self.cascading.inherit(before.cascading)
        if self.shadowing is not None and before.shadowing is not None:
            self.shadowing.inherit(before.shadowing)

    def _outer(self, stale: Any, simple_reply: Any, policies: Sequence[Policy]) -> list[Policy]:
        """What stands around the tiers."""
        rungs: list[Rung] = [] if self.caching is None else [StaleEntry(self.caching)]
        if stale is not None:
            rungs.append(StaleAnswer(stale))
        if simple_reply is not None:
            rungs.append(SimpleReply(simple_reply))
        outer: list[Policy] = [Ladder(rungs)] if rungs else []
        outer += policies
        if self.sticking is not None:
            outer.append(self.sticking)
        if self.caching is not None:
            outer.append(self.caching)
        return outer

    def _is_routed(self) -> bool:
        """Whether anything beside what a call says for itself decides where it goes."""
        parts = (self.table, self.difficulty, self.sticking, self.cascading, self.decisions)
        return bool(self._shifting) or self.service is not None or any(part is not None for part in parts)

    # -- calls -----------------------------------------------------------------

    def ready(self, request: Request, target: Provider | None = None) -> ReadyCall:
        """A call that has its plan and its deadline, to be driven in any kind of time.

        ``target`` stands in for the deployments' own providers: a wrapped function.
        """
        clock = self.clock
        under = None
        if self.tenure is not None:
            under = self.tenure()
            if under is None:  # another setup has taken its place just now
                return self.owner.ready(request, target)
        now = clock()
        deadline_s = request.deadline_s or self.deadline_s
        scope = Scope(clock, None if deadline_s is None else now + deadline_s)
        course = observed = None
        if self._routes:
            request, admissible, course, observed = self._routed(request)
        else:
            admissible = self._plan(request)
        trace = Trace(self.ground.trace_id(), request.sla, admissible.granted)
        trace.config = self.config
        if admissible.excluded:
            trace.candidates += [Candidate(tier, "*", reason) for tier, reason in admissible.excluded]
        if request.extra:
            self._check_extra(request)
        call = Call(request, trace=trace, scope=scope, target=target)
        call.plan = admissible
        call.turn.under = under
        call.begun_at = now
        if course is not None:
            call.course = course
            self._written(trace, request, course, observed)
            self.callers.note(trace.id, request.user, request.tenant)
        treasury = self.treasury
        if treasury.active or request.max_cost_usd is not None or active_runs():
            call.caps = treasury.caps_of(request, self.owner)
            if self.sticking is None and treasury.steers(call.caps):
                self._steer(call, trace)
        if self.caching is not None:
            call.lookup = self.caching.lookup(request)
        elif request.cache == "only":
            raise CacheMissError('cache="only": this client has no cache')
        if may_be_large(length_of(request.messages), request.params):
            call.sizes = {}
        return ReadyCall(call, self.observed, scope, self.host)

    def _places(self, call: Call, trace: Trace) -> None:
        if self.service is not None:
            self._rank(call, trace)
        if self._shifting and call.course is not None:
            self._avoided(call.course)
        if self.sticking is None:  # else once it has said where the call begins
            self._sent_down(call, trace)

    def _handled(self, call: Call) -> Flow[Response]:
        request = call.request
        asks = self._confirms or request.confirm or request.confirm_over_usd is not None
        careful = asks or (call.sizes is not None and self._sized.heavy(call))
        return (self._careful if careful else self._handler)(call)

    def _enter(self, call: Call, /) -> Flow[Response]:
        if call.turn.shed_from:
            self._shed_now(call)
        handler = self.lines[call.tier].handler
        return handler(call) if call.lookup is None else self.caching.enter(call, handler)  # type: ignore[union-attr]

    def _ended(self, call: Call, response: Response | None, error: BaseException | None) -> None:
        trace = call.trace
        assert trace is not None
        if self.levels is not None:
            self.levels.count(trace, call.request, response, error, driven=call.driven)
        if self.decisions is not None:
            self.decisions.note(trace, call.request, call.course, response)

    def heard(self, trace_id: str, score: float, source: str) -> bool:
        """How good the answer to a call was; whether the router has learned from it."""
        difficulty = self.difficulty
        learned = difficulty is not None and difficulty.feedback(trace_id, score, source=source)
        if self.cascading is not None and source != "judge":  # a judge does not learn from a judge
            learned = self.cascading.feedback(trace_id, score) or learned
        if self.decisions is not None:
            self.decisions.feedback(trace_id, score, source)
        if self.emit is not None:
            self.emit(FeedbackReceived(trace_id=trace_id, score=score, source=source, learned=learned))
        return learned

    # -- life ------------------------------------------------------------------

    def providers(self) -> list[Provider]:
        """Those that calls go to, each once."""
        found: dict[int, Provider] = {}
        for tier in self.tiers:
            for deployment in tier.deployments:
                found[id(deployment.provider)] = deployment.provider
        return list(found.values())

    def renew(self) -> None:
        """After a fork: locks, flows and connections of the parent are no use here."""
        self.treasury.renew()
        if self.caching is not None:
            self.caching.renew()
        for part in (self.service, self.cascading, self.shadowing, self.levels):
            if part is not None:
                part.renew()
        for line in reversed([*self.lines.values()]):  # who lends before who borrows
            line.renew()
        for provider in self.providers():
            renew = getattr(provider, "renew", None)
            if renew is not None:
                renew()

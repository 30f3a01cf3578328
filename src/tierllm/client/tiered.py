"""The client: tiers in, service levels out."""

from __future__ import annotations

import copy
import itertools
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack

from ..cost.confirm import Confirm
from ..cost.estimator import CostEstimator
from ..cost.prices import PriceBook
from ..cost.runs import active_runs
from ..cost.treasury import Treasury
from ..errors import CacheMissError, ConfigError, RejectedError, TierLLMError, UsageError
from ..events import CallFinished, Listener, emitter
from ..pipeline.compose import compose
from ..pipeline.fork import renew_after_fork
from ..pipeline.host import Host
from ..pipeline.ready import AsyncResponseStream, ReadyCall, ResponseStream
from ..pipeline.scope import Scope
from ..resilience.assembly import Assembly
from ..resilience.fallback import FallbackChain
from ..resilience.ladder import Ladder, Rung, SimpleReply, StaleAnswer, StaleEntry
from ..resilience.quotes import Quotes
from ..resilience.retry import Retry, RetryBudget
from ..resilience.sized import Sized
from ..resilience.window import may_be_large
from ..routing.ask import FOREVER_S, CallOptions, ask, check_dollars
from ..routing.tier import Tier, check_rules
from ..types import Call, Candidate, Message, Request, Response, Timeouts, Trace, length_of
from .accounts import Accounts
from .cached import Cached
from .checks import (
    check_money,
    check_options,
    check_treasury,
    checked_budgets,
    checked_limits,
    checked_tiers,
    close_made,
    ledger_of,
    listed,
    service_of,
)
from .planned import Planned
from .queued import Queued

if TYPE_CHECKING:
    from decimal import Decimal

    from ..admission.plans import ServicePlan
    from ..admission.rate_limit import RateLimit
    from ..caching import ResultCache
    from ..config import Config
    from ..cost.budget import Budget
    from ..cost.estimate import Estimate
    from ..cost.ledger import UsageLedger
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Flow, Policy
    from ..pipeline.provider import Provider
    from ..resilience.breaker import CircuitBreaker
    from ..routing.plan import Plan
    from ..stores import Store

__all__ = ["TieredClient"]

Prompt = str | Sequence[Message]
T = TypeVar("T")


class TieredClient(Accounts, Cached, Planned, Queued):
    """Wraps LLM calls in service levels: tiers with fallback, breakers, retries, pools and deadlines.

    ``tiers`` are listed best first. One client serves threads, tasks and several event loops.

    ``fallback``, ``retry``, ``breaker`` and ``timeouts`` replace the defaults for all tiers; a tier
    or deployment may have its own (``breaker=False`` or ``retry=False`` for none). ``retry_budget``
    bounds all retrying together. When every tier is out, ``stale(request)`` and ``simple_reply``
    are asked for an answer before the error is raised. ``policies`` go outermost around each call.
    ``clock`` and ``rng`` make time and chance the caller's. ``deadline_s`` is the default for calls
    that name none. ``cache`` keeps answers; clients may share one, and the last to close closes it.

    ``limits`` are ``RateLimit``s that hold at every deployment (per user, tenant, plan, …), ``plans`` the
    service plans that calls name, with their priorities. Where the store is shared, so are the limits.

    ``budgets`` limit what is spent, on accounts in ``store`` (in memory unless given). ``ledger`` keeps
    a row for every call: a ``UsageLedger``, a path, or ``False`` for none; left out, a client with
    budgets keeps one in memory. ``prices`` replaces the ``PriceBook`` that comes with tierllm,
    ``estimator`` its ``CostEstimator``. ``confirm(estimate)`` is asked before a call that may cost more
    than ``confirm_over_usd``. Closing a client closes its store and its ledger.

    Raises ``ConfigError`` for tiers that make no sense.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        *,
        fallback: FallbackChain | None = None,
        retry: Retry | Literal[False] | None = None,
        breaker: CircuitBreaker | Literal[False] | None = None,
        timeouts: Timeouts | None = None,
        retry_budget: RetryBudget | None = None,
        deadline_s: float | None = None,
        stale: Callable[[Request], Response | str | None] | None = None,
        simple_reply: Any = None,
        cache: ResultCache | None = None,
        budgets: Sequence[Budget] = (),
        limits: Sequence[RateLimit] = (),
        plans: Sequence[ServicePlan] = (),
        store: Store | None = None,
        ledger: UsageLedger | str | os.PathLike[str] | Literal[False] | None = None,
        prices: PriceBook | None = None,
        estimator: CostEstimator | None = None,
        confirm: Callable[[Estimate], object] | None = None,
        confirm_over_usd: Decimal | float | str | None = None,
        policies: Sequence[Policy] = (),
        listeners: Sequence[Listener] = (),
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.tiers = checked_tiers(tiers)
        policies, listeners = listed("policies", policies), listed("listeners", listeners)
        check_rules("TieredClient(tiers", timeouts, breaker, retry, policies)
        check_options(fallback, deadline_s, stale, listeners, clock)
        if retry_budget is not None and not isinstance(retry_budget, RetryBudget):
            raise ConfigError(f"TieredClient(retry_budget={retry_budget!r}): give a RetryBudget")
        if rng is not None and not isinstance(rng, random.Random):
            raise ConfigError(f"TieredClient(rng={rng!r}): give a random.Random")
        check_money(store, prices, estimator, confirm)
        limits = checked_limits(listed("limits", limits), self.tiers, store)
        over_usd = None if confirm_over_usd is None else check_dollars("confirm_over_usd", confirm_over_usd)
        self.clock = clock
        self.rng = rng or random.Random()
        self.deadline_s = None if deadline_s is None else min(deadline_s, FOREVER_S)
        self._emit = emitter(listeners) if listeners else None
        self._host = Host(clock)
        self._budget = retry_budget or RetryBudget()
        self._budget.bind(clock)
        self._plans: dict[Any, Plan] = {}
        self._new_ids()
        self._wall = time.time if clock is time.monotonic else clock
        prices = prices or PriceBook.bundled()
        self._estimator = estimator or CostEstimator(prices=prices)
        self._treasury = Treasury(
            checked_budgets(listed("budgets", budgets)),
            store=store,
            ledger=ledger_of(ledger, budgets, self._wall),
            estimator=self._estimator,
            wall=self._wall,
            emit=self._emit,
            soon=self._host.soon,
        )
        self.fallback = (fallback or FallbackChain()).bound(
            rules={t.name: t.fallback for t in self.tiers if isinstance(t.fallback, FallbackChain)},
            emit=self._emit,
        )
        assembly = Assembly(
            clock=clock,
            rng=self.rng,
            emit=self._emit,
            budget=self._budget,
            rule=self.fallback,
            retry=retry,
            breaker=breaker,
            timeouts=timeouts,
            treasury=self._treasury,
            prices=prices,
            limits=limits,
        )
        self._lines = assembly.lines(self.tiers)
        for line in self._lines.values():
            self._treasury.keep(line.stores())
        self._service = service_of(listed("plans", plans), emit=self._emit)
        admissions = [line.admission for line in self._lines.values() if line.admission is not None]
        self._sheds = any(admission.shed_at is not None for admission in admissions)
        caching = self._caching = self._with_cache(cache)
        rungs: list[Rung] = [] if caching is None else [StaleEntry(caching)]
        if stale is not None:
            rungs.append(StaleAnswer(stale))
        if simple_reply is not None:
            rungs.append(SimpleReply(simple_reply))
        outer: list[Policy] = [Ladder(rungs)] if rungs else []
        outer += policies
        if caching is not None:
            outer.append(caching)
        self._declare_emergencies(None if caching is None else StaleEntry(caching))
        self._quotes = Quotes(self._lines, self._estimator)
        self._confirms = confirm is not None or confirm_over_usd is not None
        asking = Confirm(self._quotes.of, self._quotes.dearest_usd, confirm, over_usd)
        self._sized = Sized(self._lines)
        self._handler = compose([*outer, self.fallback], self._enter)
        self._careful = compose([*outer, self._sized, asking, self.fallback], self._enter)
        check_treasury(self._treasury, ledger)
        if caching is not None:
            caching.cache.attach(self, self._emit)
        renew_after_fork(self)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **overrides: Any) -> TieredClient:
        """The client that a ``tierllm.toml`` describes; ``overrides`` are keywords of the constructor.

        Raises ``ConfigError`` that names file, key and remedy.
        """
        from ..config import Config

        return cls.from_config(Config.load(path), **overrides)

    @classmethod
    def from_config(
        cls, config: Config, *, providers: Mapping[str, Provider] | None = None, **overrides: Any
    ) -> TieredClient:
        """The client that a ``Config`` describes. ``providers`` stand in for those of these names."""
        arguments = config.arguments(providers=providers, **overrides)
        try:
            return cls(**arguments)
        except BaseException:
            close_made(arguments, overrides)
            raise

    # -- calls -----------------------------------------------------------------

    def complete(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Response:
        """Ask and wait for the whole answer. ``prompt`` is a text or a list of messages.

        Raises ``ConfigError`` before anything is sent where the call makes no sense, and the other
        errors of ``tierllm.errors`` after that.
        """
        return self.ready(ask(prompt, options)).run()

    async def acomplete(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Response:
        """``complete`` on an event loop."""
        return await self.ready(ask(prompt, options)).arun()

    def stream(self, prompt: Prompt, **options: Unpack[CallOptions]) -> ResponseStream:
        """Ask, and take the answer as it arrives: ``with client.stream(...) as s: for chunk in s: ...``."""
        return ResponseStream(self.ready(ask(prompt, options)))

    def astream(self, prompt: Prompt, **options: Unpack[CallOptions]) -> AsyncResponseStream:
        """``stream`` on an event loop: ``async with client.astream(...) as s: async for chunk in s: ...``."""
        return AsyncResponseStream(self.ready(ask(prompt, options)))

    def ready(self, request: Request, target: Provider | None = None) -> ReadyCall:
        """A call that has its plan and its deadline, to be driven in any kind of time.

        ``target`` stands in for the deployments' own providers: a wrapped function.
        """
        clock = self.clock
        now = clock()
        deadline_s = request.deadline_s or self.deadline_s
        scope = Scope(clock, None if deadline_s is None else now + deadline_s)
        admissible = self._plan(request)
        trace = Trace(f"{self._prefix}-{next(self._numbers):x}", request.sla, admissible.granted)
        if admissible.excluded:
            trace.candidates += [Candidate(tier, "*", reason) for tier, reason in admissible.excluded]
        if request.extra:
            self._check_extra(request)
        call = Call(request, trace=trace, scope=scope, target=target)
        call.plan = admissible
        call.begun_at = now
        treasury = self._treasury
        if treasury.active or request.max_cost_usd is not None or active_runs():
            call.caps = treasury.caps_of(request, self)
            if treasury.steers(call.caps):
                self._steer(call, trace)
        if self._caching is not None:
            call.lookup = self._caching.lookup(request)
        elif request.cache == "only":
            raise CacheMissError('cache="only": this client has no cache')
        if may_be_large(length_of(request.messages), request.params):
            call.sizes = {}
        return ReadyCall(call, self._observed, scope, self._host)

    async def _observed(self, call: Call, /) -> Response:
        """The outermost: writes down how the call ended, and tells the listeners."""
        trace = call.trace
        assert trace is not None
        trace.started_at = self._wall()
        if self._service is not None:
            self._rank(call, trace)
        if self._sheds:
            self._shed(call, trace)
        try:
            request = call.request
            asks = self._confirms or request.confirm or request.confirm_over_usd is not None
            careful = asks or (call.sizes is not None and self._sized.heavy(call))
            response = await (self._careful if careful else self._handler)(call)
            if not isinstance(response, Response):
                raise UsageError(f"a policy returned {type(response).__name__}, not a Response")
        except Exception as error:
            trace.outcome = "rejected" if isinstance(error, RejectedError) else "failed"
            trace.error = type(error).__name__
            _forget_frames(trace, error)
            if isinstance(error, TierLLMError):
                error.trace = trace
            raise
        except BaseException:
            trace.outcome = "cancelled"
            raise
        else:
            if response.trace is not None:  # a policy gave it before: each call has its own
                response = copy.copy(response)
            trace.outcome = "ok"
            trace.served = response.tier
            trace.deployment = response.deployment
            if trace.warnings:  # of before it was sent
                response.warnings = (*trace.warnings, *response.warnings)
            trace.degraded = response.degraded
            trace.warnings = response.warnings
            if trace.attempts:
                last = trace.attempts[-1]
                if last.outcome != "ok":  # it lost a race
                    last = next((a for a in trace.attempts if a.outcome == "ok"), last)
                if last.first_token_s is not None:
                    trace.first_token_s = last.started_s + last.first_token_s
                if len(trace.attempts) > 1:
                    _forget_frames(trace, None)
            response.trace = trace
            return response
        finally:
            if call.caps and (self._caching is None or self._caching.over(call)):
                for cap in call.caps:
                    cap.close()
            trace.duration_s = self.clock() - call.begun_at
            if self._emit is not None:
                self._emit(CallFinished(trace=trace))

    def _enter(self, call: Call, /) -> Flow[Response]:
        if call.turn.shed_from:
            self._shed_now(call)
        handler = self._lines[call.tier].handler
        return handler(call) if call.lookup is None else self._caching.enter(call, handler)  # type: ignore[union-attr]

    # -- watching --------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What is going on, as plain data: tiers, deployments, breakers, pools, recent outcomes."""
        return {
            "closed": self._host.closed,
            "in_flight": len(self._host.live),
            "retry_budget": self._budget.status(),
            "budgets": self._treasury.status(),
            "cache": None if self._caching is None else self._caching.cache.status(),
            "plans": None if self._service is None else self._service.status(self.clock()),
            "emergencies": sorted(self.emergencies()),
            "tiers": {name: line.status() for name, line in self._lines.items()},
        }

    # -- life ------------------------------------------------------------------

    def close(self) -> None:
        """Cancel what is under way (it gets ``ClientClosedError``), then refuse. Safe to call twice."""
        self._host.close()
        with ExitStack() as all_of_them:  # one that fails must not save the others
            all_of_them.callback(self._treasury.close)
            if self._caching is not None:
                all_of_them.callback(self._caching.cache.close, self)
            for provider in self._providers():
                all_of_them.callback(provider.close)

    async def aclose(self) -> None:
        """``close``, with what belongs to the running event loop."""
        self._host.close()
        await self._host.drained()
        async with AsyncExitStack() as all_of_them:
            all_of_them.push_async_callback(self._treasury.aclose)
            if self._caching is not None:
                all_of_them.push_async_callback(self._caching.cache.aclose, self)
            for provider in self._providers():
                all_of_them.push_async_callback(provider.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def renew(self) -> None:
        """After a fork: locks, flows and connections of the parent are no use here."""
        self._new_ids()
        self._host.renew()
        self._budget.renew()
        self._treasury.renew()
        if self._caching is not None:
            self._caching.renew()
        if self._service is not None:
            self._service.renew()
        for line in reversed([*self._lines.values()]):  # who lends before who borrows
            line.renew()
        for provider in self._providers():
            renew = getattr(provider, "renew", None)
            if renew is not None:
                renew()

    def _new_ids(self) -> None:
        """Trace ids: unique across processes, and one step each, so that threads cannot share one."""
        self._prefix = os.urandom(5).hex()
        self._numbers = itertools.count(1)

    def _providers(self) -> list[Provider]:
        found: dict[int, Provider] = {}
        for tier in self.tiers:
            for deployment in tier.deployments:
                found[id(deployment.provider)] = deployment.provider
        return list(found.values())

    def __reduce__(self) -> str:
        raise UsageError("a TieredClient holds connections: build one per process, do not pickle it")

    def __repr__(self) -> str:
        return f"<TieredClient {' > '.join(self._lines)}>"


def _forget_frames(trace: Trace, raised: BaseException | None) -> None:
    """A trace that is kept must not keep the frames of failures; those of ``raised`` are its own."""
    seen: set[int] = set()
    while raised is not None and id(raised) not in seen:
        seen.add(id(raised))
        raised = raised.__cause__
    for attempt in trace.attempts:
        error = attempt.error
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            error.__traceback__ = None
            error = error.__cause__

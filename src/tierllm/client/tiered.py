"""The client: tiers in, service levels out."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from ..errors import UsageError
from ..events import Listener
from ..pipeline.fork import renew_after_fork
from ..pipeline.ready import AsyncResponseStream, ReadyCall, ResponseStream
from ..resilience.retry import RetryBudget
from ..routing.ask import CallOptions, ask
from ..types import Message, Request, Response, Timeouts
from .accounts import Accounts
from .cached import Cached
from .checks import check_ground, listed
from .ground import Ground
from .queued import Queued
from .reloading import Reloading
from .routed import Routed
from .setup import Setup

if TYPE_CHECKING:
    import os
    from decimal import Decimal

    from ..admission.plans import ServicePlan
    from ..admission.rate_limit import RateLimit
    from ..caching import ResultCache
    from ..config import Config
    from ..cost.budget import Budget
    from ..cost.estimate import Estimate
    from ..cost.estimator import CostEstimator
    from ..cost.ledger import UsageLedger
    from ..cost.prices import PriceBook
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Policy
    from ..pipeline.provider import Provider
    from ..resilience.breaker import CircuitBreaker
    from ..resilience.fallback import FallbackChain
    from ..resilience.retry import Retry
    from ..routing.cascade import Cascade
    from ..routing.decision_log import DecisionLog
    from ..routing.router import Router
    from ..routing.shadow import Shadow
    from ..routing.sticky import StickySessions
    from ..routing.tier import Tier
    from ..sla.contract import Contract
    from ..stores import Store

__all__ = ["TieredClient"]

Prompt = str | Sequence[Message]


class TieredClient(Accounts, Cached, Queued, Routed, Reloading):
    """Wraps LLM calls in service levels: tiers with fallback, breakers, retries, pools and deadlines.

    ``tiers`` are listed best first. One client serves threads, tasks and several event loops.

    ``fallback``, ``retry``, ``breaker`` and ``timeouts`` replace the defaults for all tiers; a tier
    or deployment may have its own (``breaker=False`` or ``retry=False`` for none). ``retry_budget``
    bounds all retrying together. When every tier is out, ``stale(request)`` and ``simple_reply``
    are asked for an answer before the error is raised. ``policies`` go outermost around each call.
    ``clock`` and ``rng`` make time and chance the caller's. ``deadline_s`` is the default for calls
    that name none. ``cache`` keeps answers; clients may share one, and the last to close closes it.

    ``limits`` are ``RateLimit``s that hold at every deployment (per user, tenant, plan, …), ``plans`` the
    service plans that calls name, ``contracts`` what was promised to customers. Where the store is shared,
    so are the limits.

    ``router`` says which calls go to which tier, by rules and by their difficulty; ``sessions`` keep each
    session where it was, ``cascade`` asks a cheap tier first, ``shadow`` a second model behind the caller's
    back. ``decisions`` (a ``DecisionLog`` or a path) keeps a line for each call; ``tenant_attainment`` keeps
    how far promises are kept by tenant, too.

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
        listeners: Sequence[Listener] = (),
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        listeners = listed("listeners", listeners)
        check_ground(listeners, clock, rng, retry_budget)
        self._ground = Ground(clock, rng or random.Random(), listeners, retry_budget or RetryBudget())
        self._setup = Setup(
            self._ground,
            self,
            tiers,
            fallback=fallback,
            retry=retry,
            breaker=breaker,
            timeouts=timeouts,
            deadline_s=deadline_s,
            stale=stale,
            simple_reply=simple_reply,
            cache=cache,
            budgets=budgets,
            limits=limits,
            plans=plans,
            contracts=contracts,
            router=router,
            sessions=sessions,
            cascade=cascade,
            shadow=shadow,
            decisions=decisions,
            tenant_attainment=tenant_attainment,
            store=store,
            ledger=ledger,
            prices=prices,
            estimator=estimator,
            confirm=confirm,
            confirm_over_usd=confirm_over_usd,
            policies=policies,
        )
        if cache is not None:
            cache.attach(self, self._ground.emit)
        renew_after_fork(self)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, watch: bool | float = False, **overrides: Any
    ) -> TieredClient:
        """The client that a ``tierllm.toml`` describes; ``overrides`` are keywords of the constructor.

        ``watch``: reload whenever the file changes (a number: looking at it every so many seconds).
        Raises ``ConfigError`` that names file, key and remedy.
        """
        from ..config import Config

        client = cls.from_config(Config.load(path), **overrides)
        if watch is not False:
            try:
                client.watch() if watch is True else client.watch(watch)
            except BaseException:
                client.close()
                raise
        return client

    @classmethod
    def from_config(
        cls, config: Config, *, providers: Mapping[str, Provider] | None = None, **overrides: Any
    ) -> TieredClient:
        """The client that a ``Config`` describes. ``providers`` stand in for those of these names."""
        return cls._of(config, providers, overrides)

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
        return self._setup.ready(request, target)

    # -- watching --------------------------------------------------------------

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """The tiers, best first."""
        return self._setup.tiers

    @property
    def clock(self) -> Clock:
        """What tells the client the time, in seconds."""
        return self._ground.clock

    @property
    def rng(self) -> random.Random:
        """Where the client's chance comes from."""
        return self._ground.rng

    @property
    def deadline_s(self) -> float | None:
        """The deadline of calls that name none."""
        return self._setup.deadline_s

    @property
    def fallback(self) -> FallbackChain:
        """How calls step down."""
        return self._setup.fallback

    def status(self) -> dict[str, Any]:
        """What is going on, as plain data: tiers, deployments, breakers, pools, recent outcomes."""
        ground, setup = self._ground, self._setup
        return {
            "closed": ground.host.closed,
            "in_flight": len(ground.host.live),
            "retry_budget": ground.retry_budget.status(),
            "budgets": setup.treasury.status(),
            "cache": None if setup.caching is None else setup.caching.cache.status(),
            "plans": None if setup.service is None else setup.service.status(self.clock()),
            "contracts": None if setup.service is None else setup.service.contracts_status(),
            "emergencies": sorted(self.emergencies()),
            "objectives": None if setup.levels is None else setup.levels.status(),
            "router": None if setup.difficulty is None else setup.difficulty.status(),
            "sessions": None if setup.sticking is None else setup.sticking.status(),
            "shadow": None if setup.shadowing is None else setup.shadowing.status(),
            "cascade": None if setup.cascading is None else setup.cascading.status(),
            "decisions": None if setup.decisions is None else setup.decisions.status(),
            "tiers": {name: line.status() for name, line in setup.lines.items()},
        }

    # -- life ------------------------------------------------------------------

    def close(self) -> None:
        """Cancel what is under way (it gets ``ClientClosedError``), then refuse. Safe to call twice."""
        self._ground.host.close()
        setup = self._last()
        with ExitStack() as all_of_them:  # one that fails must not save the others
            all_of_them.callback(setup.treasury.close)
            if setup.decisions is not None:
                all_of_them.callback(setup.decisions.close)
            if setup.caching is not None:
                all_of_them.callback(setup.caching.cache.close, self)
            for provider in (*setup.providers(), *self._leave_origin()):
                all_of_them.callback(provider.close)

    async def aclose(self) -> None:
        """``close``, with what belongs to the running event loop."""
        import asyncio

        self._ground.host.close()
        await self._ground.host.drained()
        setup = self._last()
        async with AsyncExitStack() as all_of_them:
            all_of_them.push_async_callback(setup.treasury.aclose)
            if setup.decisions is not None:
                all_of_them.push_async_callback(asyncio.to_thread, setup.decisions.close)
            if setup.caching is not None:
                all_of_them.push_async_callback(setup.caching.cache.aclose, self)
            for thing in self._leave_origin():
                all_of_them.callback(thing.close)
            for provider in setup.providers():
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
        self._ground.renew()
        self._setup.renew()
        self._renew_origin()

    def __reduce__(self) -> str:
        raise UsageError("a TieredClient holds connections: build one per process, do not pickle it")

    def __repr__(self) -> str:
        return f"<TieredClient {' > '.join(self._setup.lines)}>"

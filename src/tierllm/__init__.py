"""Service levels for LLM calls, inside your own process.

    from tierllm import Deployment, Tier, TieredClient
    from tierllm.providers import OpenAI

    client = TieredClient(
        tiers=[
            Tier("gold", [Deployment("gpt-5.2", OpenAI())]),
            Tier("silver", [Deployment("gpt-5-mini", OpenAI())]),
        ]
    )
    print(client.complete("Summarise: ...", sla="gold").text)

Names are loaded when first used: importing tierllm costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .admission.adaptive import (
        AdaptiveConcurrency,
    )
    from .admission.client_throttle import (
        ClientThrottle,
    )
    from .admission.consent import (
        Consent,
    )
    from .admission.load import (
        Load,
    )
    from .admission.rate_limit import (
        RateLimit,
    )
    from .admission.sampling import (
        AdaptiveSampling,
    )
    from .admission.schedule import (
        Hours,
        Schedule,
    )
    from .admission.service_plan import (
        ServicePlan,
    )
    from .admission.settings import (
        Admission,
    )
    from .admission.steps import (
        Step,
    )
    from .caching import (
        DiskLayer,
        MemoryLayer,
        RedisLayer,
        ResultCache,
    )
    from .client import (
        TieredClient,
    )
    from .client.handle import (
        CallHandle,
        QueuedCall,
    )
    from .config import (
        Config,
    )
    from .cost.budget import (
        Budget,
    )
    from .cost.estimate import (
        Estimate,
    )
    from .cost.estimator import (
        CostEstimator,
    )
    from .cost.ledger import (
        UsageLedger,
    )
    from .cost.price import (
        Price,
    )
    from .cost.prices import (
        PriceBook,
    )
    from .decorator import (
        Route,
        configure,
        tiered,
    )
    from .errors import (
        AllTiersFailedError,
        AuthenticationError,
        BudgetExceededError,
        CacheMissError,
        CallCancelledError,
        CircuitOpenError,
        ClientClosedError,
        ConfigError,
        ContentFilteredError,
        ContextWindowExceededError,
        DeadlineExceededError,
        InvalidRequestError,
        MalformedResponseError,
        NotConfirmedError,
        ProviderError,
        ProviderTimeoutError,
        ProviderUnavailableError,
        RateLimitError,
        RejectedError,
        RequestTooLargeError,
        StoreUnavailableError,
        StreamInterruptedError,
        ThrottledError,
        TierLLMError,
        UnknownOptionError,
        UsageError,
    )
    from .resilience.breaker import (
        CircuitBreaker,
    )
    from .resilience.fallback import (
        FallbackChain,
    )
    from .resilience.hedge import (
        Hedge,
    )
    from .resilience.retry import (
        Retry,
        RetryBudget,
    )
    from .routing.ask import (
        scope,
    )
    from .routing.cascade import (
        Cascade,
    )
    from .routing.decision_log import (
        DecisionLog,
    )
    from .routing.deployment import (
        Deployment,
    )
    from .routing.judges import (
        Agreement,
        FormatCheck,
    )
    from .routing.learned_scorer import (
        LearnedScorer,
    )
    from .routing.router import (
        Router,
    )
    from .routing.rule_scorer import (
        RuleScorer,
    )
    from .routing.rules import (
        Rule,
    )
    from .routing.shadow import (
        Shadow,
    )
    from .routing.sticky import (
        StickySessions,
    )
    from .routing.tier import (
        Tier,
    )
    from .sla.contract import (
        Contract,
    )
    from .sla.shift import (
        Shift,
    )
    from .stores import (
        DiskStore,
        MemoryStore,
        RedisStore,
    )
    from .types import (
        Attempt,
        Call,
        Chunk,
        Objective,
        Request,
        Response,
        Timeouts,
        ToolCall,
        Trace,
        Usage,
    )

_HOMES = {
    "AdaptiveConcurrency": "admission.adaptive",
    "AdaptiveSampling": "admission.sampling",
    "Admission": "admission.settings",
    "Agreement": "routing.judges",
    "AllTiersFailedError": "errors",
    "Attempt": "types",
    "AuthenticationError": "errors",
    "Budget": "cost.budget",
    "BudgetExceededError": "errors",
    "CacheMissError": "errors",
    "Call": "types",
    "CallCancelledError": "errors",
    "CallHandle": "client.handle",
    "Cascade": "routing.cascade",
    "Chunk": "types",
    "CircuitBreaker": "resilience.breaker",
    "CircuitOpenError": "errors",
    "ClientClosedError": "errors",
    "ClientThrottle": "admission.client_throttle",
    "Config": "config",
    "ConfigError": "errors",
    "Consent": "admission.consent",
    "ContentFilteredError": "errors",
    "ContextWindowExceededError": "errors",
    "Contract": "sla.contract",
    "CostEstimator": "cost.estimator",
    "DeadlineExceededError": "errors",
    "DecisionLog": "routing.decision_log",
    "Deployment": "routing.deployment",
    "DiskLayer": "caching",
    "DiskStore": "stores",
    "Estimate": "cost.estimate",
    "FallbackChain": "resilience.fallback",
    "FormatCheck": "routing.judges",
    "Hedge": "resilience.hedge",
    "Hours": "admission.schedule",
    "InvalidRequestError": "errors",
    "LearnedScorer": "routing.learned_scorer",
    "Load": "admission.load",
    "MalformedResponseError": "errors",
    "MemoryLayer": "caching",
    "MemoryStore": "stores",
    "NotConfirmedError": "errors",
    "Objective": "types",
    "Price": "cost.price",
    "PriceBook": "cost.prices",
    "ProviderError": "errors",
    "ProviderTimeoutError": "errors",
    "ProviderUnavailableError": "errors",
    "QueuedCall": "client.handle",
    "RateLimit": "admission.rate_limit",
    "RateLimitError": "errors",
    "RedisLayer": "caching",
    "RedisStore": "stores",
    "RejectedError": "errors",
    "Request": "types",
    "RequestTooLargeError": "errors",
    "Response": "types",
    "ResultCache": "caching",
    "Retry": "resilience.retry",
    "RetryBudget": "resilience.retry",
    "Route": "decorator",
    "Router": "routing.router",
    "Rule": "routing.rules",
    "RuleScorer": "routing.rule_scorer",
    "Schedule": "admission.schedule",
    "ServicePlan": "admission.service_plan",
    "Shadow": "routing.shadow",
    "Shift": "sla.shift",
    "Step": "admission.steps",
    "StickySessions": "routing.sticky",
    "StoreUnavailableError": "errors",
    "StreamInterruptedError": "errors",
    "ThrottledError": "errors",
    "Tier": "routing.tier",
    "TierLLMError": "errors",
    "TieredClient": "client",
    "Timeouts": "types",
    "ToolCall": "types",
    "Trace": "types",
    "UnknownOptionError": "errors",
    "Usage": "types",
    "UsageError": "errors",
    "UsageLedger": "cost.ledger",
    "configure": "decorator",
    "scope": "routing.ask",
    "tiered": "decorator",
}

__all__ = [
    "AdaptiveConcurrency",
    "AdaptiveSampling",
    "Admission",
    "Agreement",
    "AllTiersFailedError",
    "Attempt",
    "AuthenticationError",
    "Budget",
    "BudgetExceededError",
    "CacheMissError",
    "Call",
    "CallCancelledError",
    "CallHandle",
    "Cascade",
    "Chunk",
    "CircuitBreaker",
    "CircuitOpenError",
    "ClientClosedError",
    "ClientThrottle",
    "Config",
    "ConfigError",
    "Consent",
    "ContentFilteredError",
    "ContextWindowExceededError",
    "Contract",
    "CostEstimator",
    "DeadlineExceededError",
    "DecisionLog",
    "Deployment",
    "DiskLayer",
    "DiskStore",
    "Estimate",
    "FallbackChain",
    "FormatCheck",
    "Hedge",
    "Hours",
    "InvalidRequestError",
    "LearnedScorer",
    "Load",
    "MalformedResponseError",
    "MemoryLayer",
    "MemoryStore",
    "NotConfirmedError",
    "Objective",
    "Price",
    "PriceBook",
    "ProviderError",
    "ProviderTimeoutError",
    "ProviderUnavailableError",
    "QueuedCall",
    "RateLimit",
    "RateLimitError",
    "RedisLayer",
    "RedisStore",
    "RejectedError",
    "Request",
    "RequestTooLargeError",
    "Response",
    "ResultCache",
    "Retry",
    "RetryBudget",
    "Route",
    "Router",
    "Rule",
    "RuleScorer",
    "Schedule",
    "ServicePlan",
    "Shadow",
    "Shift",
    "Step",
    "StickySessions",
    "StoreUnavailableError",
    "StreamInterruptedError",
    "ThrottledError",
    "Tier",
    "TierLLMError",
    "TieredClient",
    "Timeouts",
    "ToolCall",
    "Trace",
    "UnknownOptionError",
    "Usage",
    "UsageError",
    "UsageLedger",
    "configure",
    "scope",
    "tiered",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

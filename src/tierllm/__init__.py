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
    from .caching import (
        DiskLayer,
        MemoryLayer,
        RedisLayer,
        ResultCache,
    )
    from .client import (
        TieredClient,
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
    from .resilience.retry import (
        Retry,
        RetryBudget,
    )
    from .routing.ask import (
        scope,
    )
    from .routing.tier import (
        Deployment,
        Tier,
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
    "AllTiersFailedError": "errors",
    "Attempt": "types",
    "AuthenticationError": "errors",
    "Budget": "cost.budget",
    "BudgetExceededError": "errors",
    "CacheMissError": "errors",
    "Call": "types",
    "Chunk": "types",
    "CircuitBreaker": "resilience.breaker",
    "CircuitOpenError": "errors",
    "ClientClosedError": "errors",
    "Config": "config",
    "ConfigError": "errors",
    "ContentFilteredError": "errors",
    "ContextWindowExceededError": "errors",
    "CostEstimator": "cost.estimator",
    "DeadlineExceededError": "errors",
    "Deployment": "routing.tier",
    "DiskLayer": "caching",
    "DiskStore": "stores",
    "Estimate": "cost.estimate",
    "FallbackChain": "resilience.fallback",
    "InvalidRequestError": "errors",
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
    "AllTiersFailedError",
    "Attempt",
    "AuthenticationError",
    "Budget",
    "BudgetExceededError",
    "CacheMissError",
    "Call",
    "Chunk",
    "CircuitBreaker",
    "CircuitOpenError",
    "ClientClosedError",
    "Config",
    "ConfigError",
    "ContentFilteredError",
    "ContextWindowExceededError",
    "CostEstimator",
    "DeadlineExceededError",
    "Deployment",
    "DiskLayer",
    "DiskStore",
    "Estimate",
    "FallbackChain",
    "InvalidRequestError",
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

"""Every error tierllm raises.

    TierLLMError
    ├── ConfigError                      the call or the configuration is wrong; nothing was sent
    │   └── UnknownOptionError           … because a keyword is not known (also a TypeError)
    ├── UsageError                       the library was used where it cannot work
    │   └── ClientClosedError            the client was closed before or during the call
    ├── CallCancelledError               the call was cancelled by its handle
    ├── DeadlineExceededError            the call's own deadline passed
    ├── ProviderError                    a provider was called and failed
    │   ├── RateLimitError               429
    │   ├── ProviderTimeoutError         no connection, first token, next token or end in time
    │   ├── ProviderUnavailableError     5xx, refused or broken connections
    │   ├── AuthenticationError          401, 403, unknown model (404), spent quota
    │   ├── InvalidRequestError          400
    │   │   └── ContextWindowExceededError
    │   ├── ContentFilteredError
    │   ├── MalformedResponseError       an answer that is no answer
    │   └── StreamInterruptedError       broken after text was delivered; see .partial
    ├── RejectedError                    refused by tierllm; the provider was not called
    │   ├── BudgetExceededError
    │   ├── CacheMissError               cache="only", and nothing was there
    │   ├── CircuitOpenError
    │   ├── NotConfirmedError            confirm= said no to the estimate
    │   ├── RequestTooLargeError
    │   └── ThrottledError
    ├── StoreUnavailableError            a shared store cannot be reached, or is broken
    └── AllTiersFailedError              every admissible place was tried; see .attempts

Errors carry data as attributes, survive pickling and copying, and never hold an API key or
prompt text in their message. ``trace`` is filled in when an error leaves a client.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from decimal import Decimal

    from .cost.estimate import Estimate
    from .types import Attempt, Response, Trace

__all__ = [
    "AllTiersFailedError",
    "AuthenticationError",
    "BudgetExceededError",
    "CacheMissError",
    "CallCancelledError",
    "CircuitOpenError",
    "ClientClosedError",
    "ConfigError",
    "ContentFilteredError",
    "ContextWindowExceededError",
    "DeadlineExceededError",
    "InvalidRequestError",
    "MalformedResponseError",
    "NotConfirmedError",
    "ProviderError",
    "ProviderTimeoutError",
    "ProviderUnavailableError",
    "RateLimitError",
    "RejectedError",
    "RequestTooLargeError",
    "StoreUnavailableError",
    "StreamInterruptedError",
    "ThrottledError",
    "TierLLMError",
    "UnknownOptionError",
    "UsageError",
]


class TierLLMError(Exception):
    """Base of every error that tierllm raises.

    Subclasses take one positional message and keyword data with defaults, so that the default
    pickling of exceptions (class, ``args``, ``__dict__``) restores them whole.
    """

    trace: Trace | None = None


class ConfigError(TierLLMError, ValueError):
    """A setting or an argument is wrong. The text says which one and what to do."""


class UnknownOptionError(ConfigError, TypeError):
    """A keyword that no tierllm call takes. Vendor options go in ``extra``."""


class UsageError(TierLLMError, RuntimeError):
    """The library was used in a way that cannot work, such as waiting inside an event loop."""


class ClientClosedError(UsageError):
    """The client was closed before the call began, or while it was under way."""


class CallCancelledError(TierLLMError):
    """The call was cancelled by its handle, while it waited or was under way."""


class DeadlineExceededError(TierLLMError, TimeoutError):
    """The call's ``deadline_s`` passed. ``partial`` holds what a stream had delivered.

    ``retry_after_s`` is known where it passed while the call stood in a queue.
    """

    def __init__(
        self, message: str = "", *, partial: Response | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.partial = partial
        self.retry_after_s = retry_after_s


class ProviderError(TierLLMError):
    """A provider was called and failed.

    ``retryable``: the same request may succeed at the same place later.
    ``status``: the HTTP status, where there was one.
    ``retry_after_s``: seconds the provider asked to wait.
    ``request_id``: the vendor's id of the failed request.
    ``detail``: the vendor's own words; never part of the message, since they may quote the prompt.
    """

    default_retryable = True

    def __init__(
        self,
        message: str = "",
        *,
        retryable: bool | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
        detail: str | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable = self.default_retryable if retryable is None else retryable
        self.status = status
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        self.detail = detail


class RateLimitError(ProviderError):
    """The provider answered 429: it is well, but wants fewer requests."""


class ProviderTimeoutError(ProviderError):
    """No connection, first token, next token or end within the tier's timeouts.

    ``phase`` is ``"connect"``, ``"first_token"``, ``"between_tokens"`` or ``"total"``.
    """

    phase: str = "total"


class ProviderUnavailableError(ProviderError):
    """The provider answered 5xx, refused the connection or broke it."""


class AuthenticationError(ProviderError):
    """The key, the account, the permission or the model name is not valid there (401, 403, 404)."""

    default_retryable = False


class InvalidRequestError(ProviderError):
    """The provider says the request itself is wrong (400)."""

    default_retryable = False


class ContextWindowExceededError(InvalidRequestError):
    """The request is longer than the model's context window: ``window`` tokens, where known."""

    window: int | None = None


class ContentFilteredError(ProviderError):
    """The provider's content filter refused the request or its answer."""

    default_retryable = False


class MalformedResponseError(ProviderError):
    """The provider answered with something that is no answer."""


class StreamInterruptedError(ProviderError):
    """A stream broke after text had been delivered; ``partial`` is what the consumer has seen."""

    default_retryable = False

    def __init__(self, message: str = "", *, partial: Response | None = None, **data: object) -> None:
        super().__init__(message, **data)  # type: ignore[arg-type]
        self.partial = partial


class RejectedError(TierLLMError):
    """tierllm refused the call; the provider was not called and nothing was spent.

    ``personal``: for what this caller may do or pay; another with the same question might be served.
    """

    personal = False

    def __init__(self, message: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BudgetExceededError(RejectedError):
    """The call does not fit into a budget.

    ``budget`` is the budget's name and ``bucket`` whose it is (``"user=u42"``). ``asked``, ``left``
    and ``limit`` are in ``unit``: ``"usd"``, ``"tokens"`` or ``"calls"``. ``resets_at`` is when room
    comes back at the latest (seconds since 1970; ``None``: never), ``retry_after_s`` the same from now.
    ``steps_down`` says whether a cheaper place may be tried in its stead.
    """

    personal = True

    def __init__(
        self,
        message: str = "",
        *,
        budget: str = "",
        bucket: str = "",
        unit: str = "usd",
        asked: Decimal | int | None = None,
        left: Decimal | int | None = None,
        limit: Decimal | int | None = None,
        resets_at: float | None = None,
        retry_after_s: float | None = None,
        steps_down: bool = True,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.budget = budget
        self.bucket = bucket
        self.unit = unit
        self.asked = asked
        self.left = left
        self.limit = limit
        self.resets_at = resets_at
        self.steps_down = steps_down


class CacheMissError(RejectedError):
    """A call with ``cache="only"`` found nothing in the cache."""


class CircuitOpenError(RejectedError):
    """The deployment's circuit breaker is open for another ``retry_after_s`` seconds."""


class ThrottledError(RejectedError):
    """A pool or a rate limit is full; there is room in about ``retry_after_s`` seconds.

    ``waitable``: room comes by itself, so that waiting in the tier's queue helps. ``steps_down`` says
    whether the next place or tier may be tried instead.
    """

    def __init__(
        self,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        waitable: bool = False,
        steps_down: bool = True,
        personal: bool = False,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.waitable = waitable
        self.steps_down = steps_down
        self.personal = personal


class RequestTooLargeError(RejectedError):
    """The request fits no admissible deployment's context window or limit.

    ``input_tokens`` and ``output_tokens`` (the ``max_tokens`` asked for) do not fit into ``window``.
    ``counted`` says whether the input was counted exactly or estimated.
    """

    def __init__(
        self,
        message: str = "",
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        window: int | None = None,
        counted: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.window = window
        self.counted = counted


class NotConfirmedError(RejectedError):
    """``confirm=`` was shown the estimate and did not agree. ``estimate`` is what it was shown."""

    personal = True

    def __init__(self, message: str = "", *, estimate: Estimate | None = None) -> None:
        super().__init__(message)
        self.estimate = estimate


class StoreUnavailableError(TierLLMError):
    """A store cannot be reached or is broken. Whether a call goes on without is the budget's ``fail``."""


class AllTiersFailedError(TierLLMError):
    """Every admissible tier and deployment was tried or passed over.

    ``attempts`` lists them in order, each with ``tier``, ``deployment``, ``error``, ``started_s``
    and ``latency_s``. The last provider error is the ``__cause__``.
    """

    def __init__(self, message: str = "", *, attempts: Sequence[Attempt] = ()) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)

    @property
    def retry_after_s(self) -> float | None:
        """The soonest time at which one of the places said it may serve again, if any said so."""
        hints = [getattr(a.error, "retry_after_s", None) for a in self.attempts]
        return min((h for h in hints if h is not None), default=None)


E = TypeVar("E", bound=BaseException)


def copied(error: E) -> E:
    """A copy of ``error`` that can be raised on its own, with the same data and cause.

    One failure told to several waiters must not share a traceback between them.
    """
    try:
        twin = copy.copy(error)
    except Exception:  # a foreign exception that cannot be rebuilt from its args
        return error
    twin.__cause__ = error.__cause__ or error
    return twin

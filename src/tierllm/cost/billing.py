"""What a provider bills for a call that did not end well."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from ..errors import (
    ConfigError,
    ContentFilteredError,
    MalformedResponseError,
    ProviderError,
    ProviderTimeoutError,
    RejectedError,
    UsageError,
)
from ..types import Usage

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation
    from .tokens import ModelTokens

__all__ = ["NOTHING", "UNKNOWN", "Billed", "billed", "delivered", "reported"]


class Unknown(Enum):
    """Stands for usage that nobody reported."""

    TOKEN = 0


UNKNOWN: Final = Unknown.TOKEN
Billed = Usage | Unknown
NOTHING: Final = Usage()

MOST_TOKENS = 10**9
"""No answer has more."""

AFTER_THE_FACT = frozenset({408, 499, 504, 524})
"""Somebody on the way lost patience: what the model went on to do is unknown."""

LONG = 20_000
"""Characters of a delivered text that are counted; a longer one is told from so much of it."""


def reported(usage: Usage | None) -> Billed:
    """What the provider says was used; ``UNKNOWN`` where it says nothing, or what cannot be."""
    if usage is None:
        return UNKNOWN
    for tokens in (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
    ):
        if not isinstance(tokens, int) or not 0 <= tokens <= MOST_TOKENS:
            return UNKNOWN  # it would give back what others have spent, or take all they have
    return usage


def billed(error: BaseException, invocation: Invocation | None) -> Billed | None:
    """What ``error`` cost: usage that was reported, ``UNKNOWN``, or ``None`` for text that was delivered.

    A provider that says no (a 4xx, a 429, a 5xx), a connection that never stood, and a call that was
    not sent are not billed. After a timeout (a gateway's too), a broken connection, an answer that is
    none, or a cancellation nobody knows.
    """
    if invocation is None or isinstance(error, ConfigError | UsageError | RejectedError):
        return NOTHING
    if invocation.usage is not None:
        return reported(invocation.usage)
    if invocation.streaming and (invocation.texts or invocation.reasoning or invocation.tool_calls):
        return None
    if isinstance(error, ProviderTimeoutError):
        return NOTHING if error.phase == "connect" else UNKNOWN
    if isinstance(error, MalformedResponseError):
        return UNKNOWN
    if isinstance(error, ProviderError):
        if error.status is None:
            refused = isinstance(error, ContentFilteredError) or _never_connected(error)
        else:
            refused = error.status >= 400 and error.status not in AFTER_THE_FACT
        return NOTHING if refused else UNKNOWN
    return UNKNOWN


def delivered(invocation: Invocation, tokens: ModelTokens, input_tokens: int) -> Usage:
    """The usage of an answer that was cut short, told from what had arrived."""
    text = "".join((*invocation.reasoning, *invocation.texts, *(t.arguments for t in invocation.tool_calls)))
    sample = text[:LONG]
    output_tokens = tokens.text(sample) * len(text) // len(sample) if sample else 0
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens, estimated=True)


def _never_connected(error: ProviderError) -> bool:
    """Whether the transport says that no connection came about."""
    cause: BaseException | None = error
    seen = 0
    while cause is not None and seen < 8:
        if isinstance(cause, ConnectionRefusedError) or type(cause).__name__ in (
            "ConnectError",
            "ConnectTimeout",
            "gaierror",
            "NewConnectionError",
        ):
            return True
        cause, seen = cause.__cause__ or cause.__context__, seen + 1
    return False

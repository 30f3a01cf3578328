"""What a fake provider may be told to do with a call: replies and failures.

Reply("hi")                          that answer, word for word
"hi"                                 the same as the model's own words: ``max_tokens`` applies
Fail.rate_limited(retry_after_s=2)   a failure, at once or in the middle of an answer
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ..errors import (
    AuthenticationError,
    ConfigError,
    ContentFilteredError,
    ContextWindowExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)
from ..types import ToolCall, Usage
from .latency import check_seconds

__all__ = ["Fail", "Item", "Reply"]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, word for word.

    ``chunks`` are the pieces in which it is streamed (by default its words); alone they are the
    text. ``tool_calls`` are numbered in their order, given ids if they have none, and make the
    finish reason ``"tool_calls"``. ``usage`` is counted where it is not given.

    ``latency_s`` is the time to the whole answer, ``first_token_s`` to its first piece and
    ``between_s`` from each piece to the next; with none of them it takes the provider's time.
    """

    text: str = ""
    chunks: Sequence[str] | None = field(default=None, kw_only=True)
    tool_calls: Sequence[ToolCall] = field(default=(), kw_only=True)
    reasoning: str = field(default="", kw_only=True)
    finish_reason: str = field(default="stop", kw_only=True)
    usage: Usage | None = field(default=None, kw_only=True)
    latency_s: float | None = field(default=None, kw_only=True)
    first_token_s: float | None = field(default=None, kw_only=True)
    between_s: float | None = field(default=None, kw_only=True)
    model: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("latency_s", "first_token_s", "between_s"):
            check_seconds(f"Reply({name}", getattr(self, name))
        if self.chunks is not None:
            whole = "".join(self.chunks)
            if self.text not in ("", whole):
                raise ConfigError(
                    "Reply(chunks=...): joined, the chunks are not the text; give one of the two"
                )
            object.__setattr__(self, "text", whole)
            object.__setattr__(self, "chunks", tuple(self.chunks))
        if self.tool_calls:
            numbered = (replace(t, index=i, id=t.id or f"call_{i}") for i, t in enumerate(self.tool_calls))
            object.__setattr__(self, "tool_calls", tuple(numbered))
            if self.finish_reason == "stop":
                object.__setattr__(self, "finish_reason", "tool_calls")


@dataclass(frozen=True, slots=True, repr=False)
class Fail:
    """A failure. Made by its class methods; each takes ``latency_s``, the time before it begins.

    Those that end in ``_after(n)`` strike a stream when ``n`` pieces of the usual answer were
    delivered; a whole answer simply fails. Errors are made anew each time.
    """

    kind: str
    make: Callable[[], BaseException] | None = None
    after: int = 0
    hangs: bool = False
    latency_s: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.after, bool) or not isinstance(self.after, int) or self.after < 0:
            raise ConfigError(f"Fail.{self.kind}({self.after!r}): give a whole number of chunks, 0 or more")
        check_seconds(f"Fail.{self.kind}(latency_s", self.latency_s)

    def __repr__(self) -> str:
        return f"<Fail.{self.kind}({self.after or ''})>"

    # -- before the answer -----------------------------------------------------

    @classmethod
    def rate_limited(cls, retry_after_s: float | None = None, *, latency_s: float | None = None) -> Fail:
        """429, perhaps with the time to stay away."""
        check_seconds("Fail.rate_limited(retry_after_s", retry_after_s)
        make = partial(RateLimitError, "too many requests", status=429, retry_after_s=retry_after_s)
        return cls("rate_limited", make, latency_s=latency_s)

    @classmethod
    def unavailable(cls, status: int = 503, *, latency_s: float | None = None) -> Fail:
        """The vendor is down or overloaded."""
        make = partial(ProviderUnavailableError, f"the service is unavailable ({status})", status=status)
        return cls("unavailable", make, latency_s=latency_s)

    @classmethod
    def connection_refused(cls, *, latency_s: float | None = None) -> Fail:
        """Nobody listens there."""
        return cls("connection_refused", _refused, latency_s=latency_s)

    @classmethod
    def timeout(cls, *, latency_s: float | None = None) -> Fail:
        """A timeout, without the time: ``ProviderTimeoutError`` at once."""
        return cls("timeout", partial(ProviderTimeoutError, "no answer in time"), latency_s=latency_s)

    @classmethod
    def hang(cls, *, latency_s: float | None = None) -> Fail:
        """No answer at all, until a timeout, the deadline or a cancellation ends the wait."""
        return cls("hang", hangs=True, latency_s=latency_s)

    @classmethod
    def unauthorized(cls, *, latency_s: float | None = None) -> Fail:
        """401: the key is not valid."""
        make = partial(AuthenticationError, "the API key is not valid", status=401)
        return cls("unauthorized", make, latency_s=latency_s)

    @classmethod
    def not_found(cls, *, latency_s: float | None = None) -> Fail:
        """404: there is no such model."""
        make = partial(AuthenticationError, "there is no such model", status=404)
        return cls("not_found", make, latency_s=latency_s)

    @classmethod
    def quota(cls, *, latency_s: float | None = None) -> Fail:
        """429 that waiting does not cure: the account's quota is spent."""
        return cls(
            "quota", partial(AuthenticationError, "the quota is spent", status=429), latency_s=latency_s
        )

    @classmethod
    def invalid(cls, *, latency_s: float | None = None) -> Fail:
        """400: the request is wrong."""
        return cls(
            "invalid", partial(InvalidRequestError, "the request is invalid", status=400), latency_s=latency_s
        )

    @classmethod
    def too_long(cls, *, latency_s: float | None = None) -> Fail:
        """400: the request does not fit the context window."""
        make = partial(ContextWindowExceededError, "the request exceeds the context window", status=400)
        return cls("too_long", make, latency_s=latency_s)

    @classmethod
    def filtered(cls, *, latency_s: float | None = None) -> Fail:
        """The content filter refused."""
        make = partial(ContentFilteredError, "refused by the content filter", status=400)
        return cls("filtered", make, latency_s=latency_s)

    @classmethod
    def error(cls, error: BaseException | type[BaseException], *, latency_s: float | None = None) -> Fail:
        """Any exception: a class, or one of which a copy is raised each time."""
        is_class = isinstance(error, type) and issubclass(error, BaseException)
        if not is_class and not isinstance(error, BaseException):
            raise ConfigError(f"Fail.error({error!r}): give an exception, or the class of one")
        make = error if isinstance(error, type) else partial(_fresh, error)
        return cls("error", make, latency_s=latency_s)

    # -- in the middle of it ---------------------------------------------------

    @classmethod
    def cut_after(cls, n: int, *, latency_s: float | None = None) -> Fail:
        """The connection breaks."""
        make = partial(ProviderUnavailableError, "the connection was reset")
        return cls("cut_after", make, after=n, latency_s=latency_s)

    @classmethod
    def truncated_after(cls, n: int, *, latency_s: float | None = None) -> Fail:
        """The stream ends cleanly, but the answer was not finished."""
        return cls("truncated_after", after=n, latency_s=latency_s)

    @classmethod
    def stall_after(cls, n: int, *, latency_s: float | None = None) -> Fail:
        """Nothing more comes, and nothing says so; ends as ``hang`` does."""
        return cls("stall_after", after=n, hangs=True, latency_s=latency_s)

    @classmethod
    def malformed(cls, after: int = 0, *, latency_s: float | None = None) -> Fail:
        """Something comes that cannot be read."""
        make = partial(MalformedResponseError, "the answer could not be read")
        return cls("malformed", make, after=after, latency_s=latency_s)

    @classmethod
    def error_in_stream_after(cls, n: int, status: int = 500, *, latency_s: float | None = None) -> Fail:
        """The vendor reports an error inside the stream, of the kind that ``status`` has."""
        make = partial(
            _KINDS.get(status, ProviderUnavailableError), f"error {status} in the stream", status=status
        )
        return cls("error_in_stream_after", make, after=n, latency_s=latency_s)


_KINDS: dict[int, type[ProviderError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: AuthenticationError,
    404: AuthenticationError,
    429: RateLimitError,
}


def _refused() -> ProviderUnavailableError:
    error = ProviderUnavailableError("connection refused")
    error.__cause__ = ConnectionRefusedError()  # what tells it from a connection that broke
    return error


def _fresh(error: BaseException) -> BaseException:
    try:
        twin = copy.copy(error)  # one raised again and again would collect tracebacks
    except Exception:  # a foreign exception that cannot be rebuilt from its args
        return error
    twin.__cause__ = error.__cause__
    return twin


Item = Reply | Fail | str
"""What a call may meet; a ``str`` is the model's own words, to which ``max_tokens`` applies."""

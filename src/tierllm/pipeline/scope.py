"""How long a flow may live, and how far one call to a provider has come.

``Scope`` belongs to a flow: its deadline and its cancellation. ``Invocation`` belongs to one
``Invoke``: its timeouts, its progress and the answer as it is put together. Both are pure state;
providers receive the invocation as their ``scope``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import (
    ConfigError,
    DeadlineExceededError,
    MalformedResponseError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    StreamInterruptedError,
    TierLLMError,
)
from ..events import log_failure
from ..types import Chunk, Response, Timeouts, ToolCall, Usage

if TYPE_CHECKING:
    from ..types import Call
    from .clock import Clock

__all__ = ["Cancelled", "Invocation", "Scope"]


NO_TIMEOUTS = Timeouts(connect_s=None, first_token_s=None, between_tokens_s=None, total_s=None)


class Cancelled(BaseException):
    """Thrown into a flow whose scope was cancelled; like ``asyncio.CancelledError`` not an ``Exception``."""


class Scope:
    """Deadline and cancellation of one flow; legs of a race have a child scope each.

    ``deadline_at`` is a time of ``clock`` or ``None``; all scopes of a family share the root's.
    ``cancel()`` may come from any thread.
    """

    __slots__ = ("_deadline_at", "_hooks", "_root", "cancelled", "clock")

    def __init__(self, clock: Clock, deadline_at: float | None = None, parent: Scope | None = None) -> None:
        self.clock = clock
        self._root: Scope | None = None if parent is None else parent._root or parent
        self._deadline_at = deadline_at
        self.cancelled = False
        self._hooks: list[Callable[[], object]] = []
        if parent is not None:
            parent.on_cancel(self.cancel)

    @property
    def deadline_at(self) -> float | None:
        root = self._root
        return self._deadline_at if root is None else root._deadline_at

    @deadline_at.setter
    def deadline_at(self, at: float | None) -> None:
        (self._root or self)._deadline_at = at

    def remaining_s(self) -> float | None:
        """Seconds to the deadline, possibly negative; ``None`` without one."""
        at = self.deadline_at
        return None if at is None else at - self.clock()

    def on_cancel(self, hook: Callable[[], object]) -> None:
        """Call ``hook`` when cancelled: at least once, at once if that has happened, from any thread."""
        self._hooks.append(hook)  # first: ``cancel`` sets the flag, then looks here, without a lock
        if self.cancelled:
            hook()

    def off_cancel(self, hook: Callable[[], object]) -> None:
        try:
            self._hooks.remove(hook)
        except ValueError:
            pass  # taken off before

    def cancel(self) -> None:
        self.cancelled = True
        for hook in tuple(self._hooks):
            try:
                hook()
            except Exception:  # one that cannot be interrupted must not save the others
                log_failure("a hook for cancelling a call failed")

    def check(self) -> None:
        if self.cancelled:
            raise Cancelled


class Invocation:
    """One call to a provider: bounds on its waits, and the answer as it arrives.

    Time in which a consumer holds a stream is nobody's: ``left()`` stops the clock, ``back()``
    starts it again and moves the deadline along. A provider may note ``request_id``, ``headers``
    (rate limits), ``model`` and ``raw`` as soon as it knows them.
    """

    __slots__ = (
        "_asked",
        "_since",
        "call",
        "clock",
        "ended_at",
        "finish_reason",
        "first_at",
        "headers",
        "held_s",
        "model",
        "raw",
        "reasoning",
        "request_id",
        "scope",
        "started_at",
        "streaming",
        "texts",
        "timeouts",
        "tool_calls",
        "usage",
    )

    def __init__(self, call: Call, scope: Scope, streaming: bool) -> None:
        self.call = call
        self._asked = call.model
        self.scope = scope
        self.clock = scope.clock
        self.streaming = streaming
        self.timeouts = call.timeouts or NO_TIMEOUTS
        self.started_at = self._since = self.clock()
        self.first_at: float | None = None
        self.ended_at: float | None = None
        self.held_s = 0.0
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.tool_calls: list[ToolCall] = []
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.request_id: str | None = None
        self.headers: Mapping[str, str] | None = None
        self.model: str | None = None
        self.raw: object = None

    # -- bounds ----------------------------------------------------------------

    @property
    def due_at(self) -> float | None:
        """The time at which the present wait ends for want of an answer."""
        limits = self.timeouts
        due = self.scope.deadline_at
        if limits is NO_TIMEOUTS:
            return due
        if limits.total_s is not None:
            end = self.started_at + self.held_s + limits.total_s
            due = end if due is None or end < due else due
        if self.streaming:
            if self.first_at is None:
                step, since = limits.first_token_s, self.started_at
            else:
                step, since = limits.between_tokens_s, self._since
            if step is not None:
                end = since + step
                due = end if due is None or end < due else due
        return due

    def remaining_s(self) -> float | None:
        """How long the provider may wait now, in seconds (never below 0); ``None`` without bound."""
        due = self.due_at
        return None if due is None else max(0.0, due - self.clock())

    def timed_out(self) -> DeadlineExceededError | ProviderTimeoutError:
        """The error for a wait that has reached ``due_at``."""
        due, deadline, limits = self.due_at, self.scope.deadline_at, self.timeouts
        if deadline is not None and (deadline == due or self.clock() >= deadline):
            return DeadlineExceededError("the call's deadline passed while waiting for the provider")
        phase, bound = "total", limits.total_s
        # which bound it was is told by the sum, not by the clock: timers may fire a hair early
        if self.streaming and (bound is None or self.started_at + self.held_s + bound != due):
            first = self.first_at is None
            phase = "first_token" if first else "between_tokens"
            bound = limits.first_token_s if first else limits.between_tokens_s
        if bound is None:
            bound = self.clock() - self.started_at - self.held_s
        error = ProviderTimeoutError(f"no answer within {bound:g} s ({phase})")
        error.phase = phase
        return error

    @property
    def cancelled(self) -> bool:
        return self.scope.cancelled

    def check(self) -> None:
        """Raise what ends this wait: cancellation, deadline or timeout."""
        self.scope.check()
        due = self.due_at
        if due is not None and self.clock() >= due:
            raise self.timed_out()

    def on_cancel(self, hook: Callable[[], object]) -> None:
        """Call ``hook`` if the call is cancelled, from any thread, perhaps at once."""
        self.scope.on_cancel(hook)

    def off_cancel(self, hook: Callable[[], object]) -> None:
        self.scope.off_cancel(hook)

    # -- progress --------------------------------------------------------------

    def back(self) -> None:
        """The consumer came back for more: the wait for the provider goes on."""
        now = self.clock()
        held = now - self._since
        if self.first_at is not None and held > 0:
            self.held_s += held
            deadline_at = self.scope.deadline_at
            if deadline_at is not None:
                self.scope.deadline_at = deadline_at + held
        self._since = now

    def feed(self, chunk: Chunk) -> None:
        """Take in a chunk that has just arrived; from now on the consumer has the time."""
        if not isinstance(chunk, Chunk):
            raise MalformedResponseError(f"a provider streamed {type(chunk).__name__}, not a Chunk")
        self._since = now = self.clock()
        if self.first_at is None:
            self.first_at = now
        if chunk.text:
            self.texts.append(chunk.text)
        if chunk.reasoning:
            self.reasoning.append(chunk.reasoning)
        if chunk.tool_call is not None:
            self._feed_tool_call(chunk.tool_call)
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason
        if chunk.usage is not None:
            self.usage = chunk.usage
        if chunk.raw is not None:
            self.raw = chunk.raw

    def _feed_tool_call(self, piece: ToolCall) -> None:
        for at, whole in enumerate(self.tool_calls):
            if whole.index == piece.index:
                self.tool_calls[at] = ToolCall(
                    whole.index,
                    whole.id or piece.id,
                    whole.name or piece.name,
                    whole.arguments + piece.arguments,
                )
                return
        self.tool_calls.append(piece)

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the start to the first chunk of a stream, once there is one."""
        if self.first_at is None or not self.streaming:
            return None
        return self.first_at - self.started_at

    @property
    def elapsed_s(self) -> float:
        """Seconds spent waiting for the provider, so far or in all."""
        end = self.ended_at if self.ended_at is not None else self.clock()
        return end - self.started_at - self.held_s

    # -- ends ------------------------------------------------------------------

    def end(self) -> None:
        """The provider is done with, whichever way. The call, which has this as its progress, is let go."""
        if self.ended_at is None:
            self.ended_at = self.clock()
            self.call = None  # type: ignore[assignment]  # a cycle would keep both, and the prompt

    def folded(self) -> Response:
        """What has arrived so far, as one response."""
        tool_calls = self.tool_calls
        return Response(
            text="".join(self.texts),
            reasoning="".join(self.reasoning),
            tool_calls=tuple(sorted(tool_calls, key=lambda t: t.index)) if tool_calls else (),
            finish_reason=self.finish_reason,
            usage=self.usage,
            model=self.model or self._asked,
            request_id=self.request_id,
            raw=self.raw,
        )

    def finished(self) -> Response:
        """The stream ended by itself. Raises if it had not said that it was finished."""
        self.end()
        if self.finish_reason is None:
            raise ProviderUnavailableError(
                "the stream ended before the answer did (no finish reason)", request_id=self.request_id
            )
        return self.folded()

    def answered(self, response: Response) -> Response:
        """A whole answer came back."""
        self.end()
        if not isinstance(response, Response):
            raise MalformedResponseError(f"a provider returned {type(response).__name__}, not a Response")
        if response.finish_reason is None:
            raise MalformedResponseError(
                "the provider's answer has no finish reason", request_id=response.request_id
            )
        if response.usage is not None and not isinstance(response.usage, Usage):
            raise MalformedResponseError(f"a provider reported {type(response.usage).__name__}, not a Usage")
        self.usage = response.usage
        self.finish_reason = response.finish_reason
        return copy.copy(response)  # a provider may give the same one again

    def failed(self, error: BaseException) -> BaseException:
        """What to raise for ``error``: after a first chunk, a provider's failure is an interruption.

        What a cancelled call meets (its socket was shut down, say) is no failure at all.
        """
        self.end()
        if self.scope.cancelled and isinstance(error, Exception):
            return Cancelled()
        if self.first_at is None or not self.streaming:
            return error  # nobody has seen any of it
        if isinstance(error, DeadlineExceededError):
            error.partial = self.folded()
        elif isinstance(error, TierLLMError) and not isinstance(error, StreamInterruptedError | ConfigError):
            # a refusal, too, if a provider of the caller's own raised it: text is out
            interrupted = StreamInterruptedError(
                f"the stream broke off: {error}",
                partial=self.folded(),
                status=getattr(error, "status", None),
                retry_after_s=getattr(error, "retry_after_s", None),
                request_id=getattr(error, "request_id", None) or self.request_id,
                detail=getattr(error, "detail", None),
            )
            interrupted.__cause__ = error
            return interrupted
        return error

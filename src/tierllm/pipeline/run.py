"""What the drivers share: one flow, stepped from effect to effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import DeadlineExceededError, UsageError
from .effects import Effect, Flow, Grant, Invoke
from .scope import Invocation

if TYPE_CHECKING:
    from ..types import Response
    from .host import Host
    from .scope import Scope

__all__ = ["Run", "past_deadline"]


def past_deadline(doing: str) -> DeadlineExceededError:
    return DeadlineExceededError(f"the call's deadline passed while {doing}")


class Run:
    """One flow, its scope and what it holds.

    ``streaming``: chunks of live invocations go to whoever drives the run. ``delivered`` counts
    them. ``permits`` lists what ``Wait`` granted: whatever is still held when the flow ends is
    given back then. ``result`` is the flow's value once it has ended.
    """

    __slots__ = ("delivered", "flow", "host", "permits", "result", "scope", "streaming")

    def __init__(self, flow: Flow[Response], scope: Scope, host: Host, streaming: bool) -> None:
        self.flow = flow
        self.scope = scope
        self.host = host
        self.streaming = streaming
        self.delivered = 0
        self.permits: list[Grant] = []
        self.result: Any = None

    def open(self, effect: Invoke) -> Invocation:
        """Begin an invocation, if the delivery rule allows it."""
        call = effect.call
        live = self.streaming and effect.deliver != "hold"
        if live and self.delivered and effect.deliver != "continue":
            raise UsageError(
                "a policy called the provider again after chunks had been delivered; "
                'only Invoke(..., deliver="continue") may go on with an interrupted answer'
            )
        before = call.progress
        if before is not None and before.ended_at is None:
            raise UsageError(
                "a policy called the provider twice at once with one Call: give each its own call.copy()"
            )
        self.scope.check()
        invocation = call.progress = Invocation(call, self.scope, live)
        return invocation

    def release(self) -> None:
        """Give back what the flow left over."""
        for permit in self.permits:
            permit.release()
        self.permits.clear()


def foreign(flow: Flow[Any], awaited: object) -> UsageError:
    """The error for a policy that awaited something only an event loop can do."""
    return UsageError(
        f"{_innermost(flow)} awaited {type(awaited).__name__}, which needs an event loop: "
        "call acomplete() or astream(), or let the policy await tierllm's own effects only"
    )


def loopless(flow_error: RuntimeError, where: str) -> UsageError | None:
    """The error for a policy that asked for the event loop in sync mode, or None for other errors."""
    if "no running event loop" not in str(flow_error):
        return None
    return UsageError(
        f"{where} needs an event loop ({flow_error}): "
        "call acomplete() or astream(), or let the policy await tierllm's own effects only"
    )


def _innermost(flow: Any) -> str:
    """The name of the policy in whose code the flow now stands."""
    name = "a policy"
    while flow is not None:
        code = getattr(flow, "cr_code", None)
        if code is None:
            break
        name = code.co_qualname
        flow = flow.cr_await
    return name


def raised_in(error: BaseException) -> str:
    """The name of the outermost function outside this package's drivers that raised ``error``."""
    name, traceback = "a policy", error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if "asyncio" not in code.co_filename and not code.co_filename.startswith("<"):
            name = code.co_qualname
        traceback = traceback.tb_next
    return name


Step = Callable[[Any], Effect[Any]]

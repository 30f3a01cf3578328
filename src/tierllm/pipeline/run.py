"""What the drivers share: one flow, stepped from effect to effect."""

from __future__ import annotations

import contextvars
import os
import sys
from collections.abc import Callable
from types import CodeType
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
    them. ``permits`` lists what ``Wait`` granted: whatever is still held when the flow ends is given
    back then. ``result`` is the flow's value once it has ended.
    ``closed``: the consumer has left.
    """

    __slots__ = ("closed", "delivered", "flow", "host", "permits", "result", "scope", "streaming")

    def __init__(self, flow: Flow[Response], scope: Scope, host: Host, streaming: bool) -> None:
        self.flow = flow
        self.scope = scope
        self.host = host
        self.streaming = streaming
        self.delivered = 0
        self.permits: list[Grant] = []
        self.result: Any = None
        self.closed = False

    def open(self, effect: Invoke) -> Invocation:
        """Begin an invocation, if the delivery rule allows it."""
        call = effect.call
        live = self.streaming and effect.deliver != "hold"
        if live and self.delivered and effect.deliver != "continue":
            raise delivered_already("called the provider again")
        before = call.progress
        if before is not None and before.ended_at is None:
            raise UsageError(
                "a policy called the provider twice at once with one Call: give each its own call.copy()"
            )
        scope = self.scope
        scope.check()
        invocation = Invocation(call, scope, live)
        deadline = scope.deadline_at
        if deadline is not None and deadline <= invocation.started_at:
            raise past_deadline("about to call the provider")
        call.progress = invocation
        if call.lane is not None:
            call.lane.reached(invocation)
        return invocation

    def follows(self) -> bool:
        """May a tape be read out now? True where its chunks go to a consumer."""
        if self.streaming and self.delivered:
            raise delivered_already("followed another call")
        return self.streaming

    def patience(self, until: float | None, doing: str) -> float | None:
        """How many seconds a wait ``until`` then may still take; ``None`` without bound.

        Raises when there are none left. Asked anew after each wait, since a deadline may be moved.
        """
        scope = self.scope
        left = scope.remaining_s()
        spare = None if until is None else until - scope.clock()
        if left is not None and (spare is None or left < spare):
            if left <= 0:
                raise past_deadline(doing)
            return left
        if spare is not None and spare <= 0:
            raise TimeoutError
        return spare

    def release(self) -> None:
        """Give back what the flow left over."""
        for permit in self.permits:
            permit.release()
        self.permits.clear()


def differs(context: contextvars.Context) -> bool:
    """Does ``context`` hold anything else than the present one?"""
    here = contextvars.copy_context()
    return len(here) != len(context) or any(
        here.get(var, here) is not value for var, value in context.items()
    )


def delivered_already(doing: str) -> UsageError:
    return UsageError(
        f"a policy {doing} after chunks had been delivered; "
        'only Invoke(..., deliver="continue") may go on with an interrupted answer'
    )


def foreign(flow: Flow[Any], awaited: object) -> UsageError:
    """The error for a policy that awaited something only an event loop can do."""
    policy, what = "a policy", type(awaited).__name__
    at: Any = flow
    while at is not None and (code := getattr(at, "cr_code", None)) is not None:
        if _is_asyncio(code):
            what = f"asyncio.{code.co_qualname}"
            break
        policy, at = code.co_qualname, at.cr_await
    return _needs_loop(policy, what)


def loopless(error: RuntimeError) -> UsageError | None:
    """The error for a policy that asked for the running event loop; ``None`` for other errors."""
    if isinstance(error, UsageError) or "no running event loop" not in str(error):
        return None
    policy, what, traceback = "a policy", "the event loop", error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if _is_asyncio(code):
            what = f"asyncio.{code.co_qualname}"
            break
        policy, traceback = code.co_qualname, traceback.tb_next
    return _needs_loop(policy, what)


def _needs_loop(policy: str, what: str) -> UsageError:
    return UsageError(
        f"{policy} awaited {what}, which needs an event loop: "
        "call acomplete() or astream(), or let the policy await tierllm's own effects only"
    )


def _is_asyncio(code: CodeType) -> bool:
    asyncio = sys.modules.get("asyncio")
    home = getattr(asyncio, "__file__", None)
    return home is not None and code.co_filename.startswith(os.path.dirname(home) + os.sep)


Step = Callable[[Any], Effect[Any]]

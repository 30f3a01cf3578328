"""The ladder's end: what a caller gets when every tier is out.

A stale cached answer, then a simple reply of the application's own, then the error.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import (
    AllTiersFailedError,
    CircuitOpenError,
    ConfigError,
    DeadlineExceededError,
    ThrottledError,
)
from ..pipeline.effects import Blocking, Handler
from ..types import Request, Response

if TYPE_CHECKING:
    from ..caching.policy import Caching
    from ..types import Call

__all__ = ["Ladder", "Rung", "SimpleReply", "StaleAnswer", "StaleEntry"]

log = logging.getLogger("tierllm")

WHEN_ALL_IS_OUT = (AllTiersFailedError, DeadlineExceededError, ThrottledError, CircuitOpenError)


class Rung(Protocol):
    """One step of the ladder: an answer, or ``None`` to leave it to the next.

    ``knows_origin``: the rung itself has seen to it that the call may have its answers.
    """

    name: str
    knows_origin: bool

    def __call__(self, call: Call, /) -> Response | None: ...


class Ladder:
    """Hands a call for which no tier answered down its rungs; with none left, the error stands.

    Nothing is offered once text was delivered, nor to a call with ``fallback=False``. The answer's
    ``degraded`` names the rung. A rung may do short blocking I/O; one that raises is logged and
    passed over, so that the caller gets the next answer, or the error of the tiers themselves.
    """

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self.rungs = tuple(rungs)

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        try:
            return await call_next(call)
        except WHEN_ALL_IS_OUT as error:
            if getattr(error, "partial", None) is not None or not call.request.fallback:
                raise
            answer = await self._answer(call)
            if answer is None:
                raise
            return answer

    async def _answer(self, call: Call) -> Response | None:
        for rung in self.rungs:
            try:
                answer = await Blocking(_asking(rung, call))
            except Exception as error:
                # the application's own code, and its message may quote the prompt: log the kind only
                log.error("the ladder's rung %r raised %s", rung.name, type(error).__name__)
                continue
            if answer is None or not (rung.knows_origin or _admissible(answer, call)):
                continue
            if rung.name not in answer.degraded:
                answer.degraded = (*answer.degraded, rung.name)
            if answer.finish_reason is None:
                answer.finish_reason = "stop"
            return answer
        return None


def _asking(rung: Rung, call: Call) -> Callable[[], Response | None]:
    return lambda: rung(call)


def _admissible(answer: Response, call: Call) -> bool:
    """Whether the call may get this: what a tier once made must come from one this call may use.

    Where it came from is not always known; a call with a floor then goes without.
    """
    request = call.request
    if call.target is not None and answer.raw is None:
        return False  # a wrapped call returns what its function returns, never a bare text
    plan = call.plan
    floored = request.min_tier is not None or (plan is not None and plan.floored)
    if answer.cached and (request.require or (floored and answer.tier is None)):
        return False
    return answer.tier is None or plan is None or answer.tier in plan.tiers


class StaleEntry:
    """What the client's cache kept of an earlier answer, past its time."""

    name = "stale"
    knows_origin = True

    def __init__(self, caching: Caching) -> None:
        self.caching = caching

    def __call__(self, call: Call, /) -> Response | None:
        return self.caching.rung(call)


class StaleAnswer:
    """An old cached answer, from ``lookup(request)``: a response, a text, or ``None``."""

    name = "stale"
    knows_origin = False

    def __init__(self, lookup: Callable[[Request], Response | str | None]) -> None:
        self.lookup = lookup

    def __call__(self, call: Call, /) -> Response | None:
        answer = _as_response(self.lookup(call.request), "the stale answer")
        if answer is not None:
            answer.cached = True
        return answer


class SimpleReply:
    """The application's own words.

    A text; a function of the request (giving a response, a text or ``None``); or a mapping from
    route to one of these, or from route to a mapping by language. ``"*"`` stands for any other.
    """

    name = "simple_reply"
    knows_origin = False

    def __init__(self, reply: Any) -> None:
        _checked(reply, "simple_reply")
        self.reply = reply

    def __call__(self, call: Call, /) -> Response | None:
        request, found = call.request, self.reply
        for key in (request.route, request.language):
            if isinstance(found, Mapping):
                found = found.get(key, found.get("*"))
        if callable(found):
            found = found(request)
        return _as_response(found, "the simple reply")


def _checked(reply: Any, where: str) -> None:
    if isinstance(reply, Mapping):
        for key, inner in reply.items():
            _checked(inner, f"{where}[{key!r}]")
    elif not isinstance(reply, str) and (not callable(reply) or inspect.iscoroutinefunction(reply)):
        raise ConfigError(
            f"{where}: give a text, a function of the request, or a mapping by route and language, "
            f"not {type(reply).__name__}"
        )


def _as_response(answer: Any, what: str) -> Response | None:
    if answer is None:
        return None
    if isinstance(answer, str):
        return Response(text=answer, finish_reason="stop")
    if isinstance(answer, Response):
        return Response(**{name: getattr(answer, name) for name in Response.__slots__})
    raise ConfigError(f"{what} must be a text, a Response or None, not {type(answer).__name__}")

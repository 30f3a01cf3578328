"""What stands around every call: how it ended is written down, and told."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import RejectedError, TierLLMError, UsageError
from ..events import CallFinished, Event
from ..pipeline.ready import begins_now
from ..types import Response

if TYPE_CHECKING:
    from ..caching.policy import Caching
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Flow
    from ..types import Call, Trace

__all__ = ["Outermost"]


class Outermost:
    """The part of a setup that every call goes through first and last."""

    clock: Clock
    wall: Callable[[], float]
    emit: Callable[[Event], None] | None
    caching: Caching | None
    _settles: bool
    """Whether anything depends on the very moment at which a call begins."""
    _accounts: bool
    """Whether anybody keeps an account of calls."""

    def _places(self, call: Call, trace: Trace) -> None:
        """Settle what depends on the very moment at which the call begins."""
        raise NotImplementedError

    def _handled(self, call: Call) -> Flow[Response]:
        raise NotImplementedError

    def _ended(self, call: Call, response: Response | None, error: BaseException | None) -> None:
        """Tell those who keep an account of calls."""

    async def observed(self, call: Call, /) -> Response:
        """The outermost: writes down how the call ended, and tells the listeners."""
        trace = call.trace
        assert trace is not None
        if call.driven == "stream" and call.scope is not None:
            begins_now(call, call.scope)  # its consumer may have held it before it asked for the first chunk
        trace.started_at = self.wall()
        if self._settles:
            self._places(call, trace)
        answer: Response | None = None
        failure: BaseException | None = None
        try:
            response = await self._handled(call)
            if not isinstance(response, Response):
                raise UsageError(f"a policy returned {type(response).__name__}, not a Response")
        except Exception as error:
            trace.outcome = "rejected" if isinstance(error, RejectedError) else "failed"
            trace.error = type(error).__name__
            _forget_frames(trace, error)
            if isinstance(error, TierLLMError):
                error.trace = trace
            failure = error
            raise
        except BaseException as error:
            trace.outcome = "cancelled"
            failure = error
            raise
        else:
            if response.trace is not None:  # a policy gave it before: each call has its own
                response = copy.copy(response)
            _told(response, trace)
            answer = response
            return response
        finally:
            try:
                if call.caps and (self.caching is None or self.caching.over(call)):
                    for cap in call.caps:
                        cap.close()
                trace.duration_s = self.clock() - call.begun_at
                if self._accounts:
                    self._ended(call, answer, failure)
                if self.emit is not None:
                    self.emit(CallFinished(trace=trace))
            finally:
                del answer, failure


def _told(response: Response, trace: Trace) -> None:
    """Trace and answer say the same of each other."""
    trace.outcome = "ok"
    trace.served = response.tier
    trace.deployment = response.deployment
    if trace.warnings:  # of before it was sent
        response.warnings = (*trace.warnings, *response.warnings)
    trace.degraded = response.degraded
    trace.warnings = response.warnings
    if trace.attempts:
        last = trace.attempts[-1]
        if last.outcome != "ok":  # it lost a race
            last = next((a for a in trace.attempts if a.outcome == "ok"), last)
        if last.first_token_s is not None:
            trace.first_token_s = last.started_s + last.first_token_s
        if len(trace.attempts) > 1:
            _forget_frames(trace, None)
    response.trace = trace


def _forget_frames(trace: Trace, raised: BaseException | None) -> None:
    """A trace that is kept must not keep the frames of failures; those of ``raised`` are its own."""
    seen: set[int] = set()
    while raised is not None and id(raised) not in seen:
        seen.add(id(raised))
        raised = raised.__cause__
    for attempt in trace.attempts:
        error = attempt.error
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            error.__traceback__ = None
            error = error.__cause__

"""Stepping down: from deployment to deployment, and from tier to tier."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

from ..errors import (
    AllTiersFailedError,
    BudgetExceededError,
    ConfigError,
    ContentFilteredError,
    ContextWindowExceededError,
    DeadlineExceededError,
    InvalidRequestError,
    ProviderError,
    RejectedError,
    RequestTooLargeError,
    StreamInterruptedError,
    ThrottledError,
    TierLLMError,
)
from ..events import Event, SteppedDown, TierRestored, log_failure
from ..pipeline.effects import Handler
from ..types import Attempt
from .judging import PoorAnswer

if TYPE_CHECKING:
    from ..types import Call, Response

__all__ = ["FallbackChain", "NotInTime"]

P = ParamSpec("P")
R = TypeVar("R")

RAISED_THEMSELVES = (BudgetExceededError, ThrottledError, RequestTooLargeError)


class NotInTime(RejectedError):
    """No place can answer before the deadline. Told to the caller as ``DeadlineExceededError``."""

    personal = True


class FallbackChain:
    """Tries the admissible tiers in turn, best first, until one answers.

    Goes on after rate limits, timeouts, 5xx and broken connections (once ``Retry`` has given up),
    after refused keys, permissions and models, and after tierllm's own refusals. An invalid request
    is raised where the first place says so, and passed over where a later one does. Whatever the cheap
    tier of a cascade will not have goes up to the one that was granted. A context
    window that was too small leads to larger ones only, a spent budget to cheaper places only where
    it says ``on_exceed="downgrade"``. ``content_filter`` is ``"raise"`` or
    ``"next"``. ``on`` decides for any error in place of these rules, where it returns a bool.

    ``mode="observe"`` does not step down: it reports where it would have.
    Raises ``AllTiersFailedError`` with every attempt; a refusal that is the only kind met
    (a budget, a throttle) is raised itself.
    """

    def __init__(
        self,
        *,
        content_filter: Literal["raise", "next"] = "raise",
        on: Callable[[TierLLMError], bool | None] | None = None,
        mode: Literal["enforce", "observe"] = "enforce",
    ) -> None:
        if content_filter not in ("raise", "next"):
            raise ConfigError(f"FallbackChain(content_filter={content_filter!r}): 'raise' or 'next'")
        if on is not None and not callable(on):
            raise ConfigError(f"FallbackChain(on={on!r}): give a function of the error")
        if mode not in ("enforce", "observe"):
            raise ConfigError(f"FallbackChain(mode={mode!r}): 'enforce' or 'observe'")
        self.content_filter = content_filter
        self.on = on
        self.mode = mode
        self.emit: Callable[[Event], None] | None = None
        self.rules: Mapping[str, FallbackChain] = {}
        self._left_at: dict[str, float] = {}

    def bound(
        self, *, rules: Mapping[str, FallbackChain], emit: Callable[[Event], None] | None
    ) -> FallbackChain:
        """A twin for one client, with its tiers' own rules and its listeners."""
        twin = copy.copy(self)
        twin.rules = rules
        twin.emit = emit
        twin._left_at = {}
        return twin

    def inherit(self, older: FallbackChain) -> None:
        """Know which tiers calls have had to leave."""
        self._left_at = older._left_at

    def wrap(self, *fns: Callable[P, R], on_errors: tuple[type[Exception], ...] = ()) -> Callable[P, R]:
        """One function of several, sync or async: each is tried in turn, without a client.

        Failures are the errors of known SDKs and transports, told as tierllm's, and those in
        ``on_errors``; any other error passes.
        """
        from .alone import one_of

        return one_of(self, fns, on=on_errors)

    def goes_on(self, error: ProviderError | RejectedError, call: Call, tier: str = "") -> bool:
        """Whether ``error`` at one place leads to the next one, by ``tier``'s own rule if it has one."""
        if not call.request.repeatable and _reached(call):
            return False
        if isinstance(error, StreamInterruptedError):
            return False  # text has been delivered
        if isinstance(error, BudgetExceededError | ThrottledError) and not error.steps_down:
            return False  # another place is not what its owner asked for
        rule = self.rules.get(tier, self)
        decided = rule.decided(error)
        if decided is not None:
            return decided
        if isinstance(error, ContextWindowExceededError):
            return True
        if isinstance(error, InvalidRequestError):
            return not _first_place(call)
        if isinstance(error, ContentFilteredError):
            return rule.content_filter == "next"
        return True

    def decided(self, error: TierLLMError) -> bool | None:
        """What the application has decided for this error, if it has."""
        if self.on is None or isinstance(error, NotInTime):
            return None
        try:
            return self.on(error)
        except Exception:  # it must not hide the call's own error
            log_failure("on= of a FallbackChain failed")
            return None

    def goes_up(self, error: ProviderError | RejectedError, call: Call, tier: str) -> bool:
        """Whether ``tier`` is the cheap one of a cascade: what that will not have, whyever, goes on to the
        tier that was granted, as it would have without the cascade. That one speaks for itself."""
        if call.course is None or call.course.judged != tier or isinstance(error, StreamInterruptedError):
            return False
        return self.rules.get(tier, self).decided(error) is not False

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        assert call.plan is not None
        tiers = call.plan.tiers
        errors: list[TierLLMError] = []
        window = 0
        for number, tier in enumerate(tiers):
            step = call.copy()
            step.tier = tier
            step.min_window = window
            try:
                response = await call_next(step)
            except PoorAnswer as error:  # nothing is wrong with the tier: a better one is asked
                errors.append(error)
                if number + 1 < len(tiers):
                    continue
                raise
            except (ProviderError, RejectedError) as error:
                errors.append(error)
                _noted(error, step)
                up = self.goes_up(error, call, tier)
                if not up and not self.goes_on(error, call, tier):
                    raise
                spent = not up and isinstance(error, BudgetExceededError)  # which leads down only
                if call.plan.leads_down(number) if spent else number + 1 < len(tiers):
                    self._stepped(call, tier, tiers[number + 1], error)
                    if up or self.rules.get(tier, self).mode == "enforce":
                        window = step.min_window
                        if isinstance(error, ContextWindowExceededError):
                            window = max(window, error.window or 0)
                        continue
                final = verdict(errors, call)
                if final is error:
                    raise
                raise final from _cause(errors, call)
            else:
                if self._left_at:
                    self._came_back(call, tier)
                return response
        raise AssertionError("a plan has at least one tier")

    def _stepped(self, call: Call, tier: str, to: str, error: ProviderError | RejectedError) -> None:
        if call.scope is not None and not isinstance(error, InvalidRequestError | ContentFilteredError):
            self._left_at.setdefault(tier, call.scope.clock())
        if self.emit is not None:
            trace_id = call.trace.id if call.trace is not None else ""
            self.emit(SteppedDown(trace_id=trace_id, from_tier=tier, to_tier=to, error=error))

    def _came_back(self, call: Call, tier: str) -> None:
        left_at = self._left_at.pop(tier, None)
        if left_at is not None and self.emit is not None and call.scope is not None:
            self.emit(TierRestored(tier=tier, after_s=call.scope.clock() - left_at))


def _noted(error: ProviderError | RejectedError, call: Call) -> None:
    """A tier that turned the call away before any of its places was asked is one of the attempts too."""
    trace = call.trace
    if trace is None or not isinstance(error, RejectedError) or any(a.error is error for a in trace.attempts):
        return
    at = 0.0 if call.scope is None else call.scope.clock() - call.begun_at
    trace.attempts.append(Attempt(call.tier, "", started_s=at, outcome="rejected", error=error))


def verdict(errors: list[TierLLMError], call: Call) -> TierLLMError:
    """The one error that tells the caller how all places failed."""
    last = errors[-1]
    if isinstance(last, ContentFilteredError):
        return last
    attempts = call.trace.attempts if call.trace is not None else []
    met = [*errors, *(a.error for a in attempts if a.error is not None)]
    if isinstance(last, ContextWindowExceededError):
        ends = {(a.tier, a.deployment): a.error for a in attempts if a.error is not None}
        if all(isinstance(e, ContextWindowExceededError) for e in ends.values()):
            return last  # and no place with a larger window was merely out of order
    if all(isinstance(e, NotInTime) for e in met):
        return DeadlineExceededError(str(last), retry_after_s=getattr(last, "retry_after_s", None))
    if type(last) in RAISED_THEMSELVES and all(type(e) is type(last) for e in met):
        return min((e for e in met if isinstance(e, RejectedError)), key=_until)
    return AllTiersFailedError(_told(attempts), attempts=attempts)


def _until(refusal: RejectedError) -> tuple[float, float]:
    """When it is over (who does not say so comes last); of budgets, how much was asked of them."""
    asked = refusal.asked if isinstance(refusal, BudgetExceededError) else None
    return (
        math.inf if refusal.retry_after_s is None else refusal.retry_after_s,
        math.inf if asked is None else float(asked),
    )


def _told(attempts: list[Attempt]) -> str:
    places: dict[str, str] = {}
    for attempt in attempts:
        status = getattr(attempt.error, "status", None)
        words = type(attempt.error).__name__ + (f" {status}" if status else "")
        places["/".join(filter(None, (attempt.tier, attempt.deployment)))] = words
    return "every admissible place failed: " + "; ".join(f"{p}: {w}" for p, w in places.items())


def _cause(errors: list[TierLLMError], call: Call) -> BaseException:
    """The last thing a provider said; else the last refusal."""
    attempts = call.trace.attempts if call.trace is not None else []
    said = [*errors, *(a.error for a in attempts)]
    return next((e for e in reversed(said) if isinstance(e, ProviderError)), errors[-1])


def _reached(call: Call) -> bool:
    """Whether some provider has been called, whatever came of it."""
    return call.trace is None or any(a.outcome != "rejected" for a in call.trace.attempts)


def _first_place(call: Call) -> bool:
    """Whether only one place has been asked so far, however often.

    The cheap tier of a cascade counts only where it has answered.
    """
    if call.trace is None:
        return True
    judged = None if call.course is None else call.course.judged
    asked = {
        (a.tier, a.deployment)
        for a in call.trace.attempts
        if a.outcome != "rejected" and (a.tier != judged or a.outcome == "ok")
    }
    return len(asked) <= 1

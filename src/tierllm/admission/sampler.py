"""Adaptive sampling at one tier: what is done to a call while steps of degradation are on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import DeadlineExceededError, ThrottledError
from ..events import CallThrottled, DegradationChanged, Event, log
from ..pipeline.effects import Blocking, Handler
from ..pipeline.fork import renew_after_fork
from .consent import Consent, Consents
from .stairs import Stairs
from .steps import Degraded, Step

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..types import Call, Request, Response, Trace
    from .emergency import Emergencies
    from .load import LoadMeter
    from .sampling import AdaptiveSampling

__all__ = ["Sampler", "Stale"]

Stale = Callable[["Call"], "Response | None"]
"""An old answer to a call, where the cache still has one."""

LOOK_EVERY_S = 0.25
"""Where the load stays the same, time alone may change a step: it is looked at so often."""

NOBODY: frozenset[str] = frozenset()
LEAST_RETRY_S, LONGEST_RETRY_S = 1.0, 3600.0
HORIZON_S = 30.0


class Sampler:
    """``AdaptiveSampling`` at one tier: a policy, with its state. Thread-safe."""

    def __init__(
        self,
        settings: AdaptiveSampling,
        *,
        tier: str,
        load: Callable[[], tuple[float, float]],
        clock: Clock,
        wall: Clock,
        emit: Callable[[Event], None] | None,
        stale: Stale | None,
        emergencies: Emergencies | None,
        meter: LoadMeter | None,
        consent: Sequence[Consent] = (),
    ) -> None:
        self.tier = tier
        self.clock = clock
        self.wall = wall
        self.mode = settings.mode
        self._load = load
        self._emit = emit
        self._stale = stale
        self._emergencies = emergencies if settings.emergencies else None
        self._meter = meter
        self._dwell_s = settings.dwell_s
        self._consents = Consents([*settings.consent, *consent], [step.name for step in settings.steps])
        self._stairs = Stairs(
            settings.steps,
            settings.emergencies,
            dwell_s=settings.dwell_s,
            most=settings.max_changes_per_hour,
        )
        self._seen: tuple[float, float, frozenset[str]] | None = None
        self._look_at = 0.0
        self._touched = dict.fromkeys((step.name for step in settings.steps), 0)
        self._passed_over = dict(self._touched)
        self._lock = threading.RLock()
        renew_after_fork(self)

    def look_in(self, stale: Stale | None) -> None:
        """Where old answers come from, from now on."""
        self._stale = stale

    # -- a call ----------------------------------------------------------------

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        emergencies = self._emergencies
        if emergencies is not None and emergencies.behind():
            await Blocking(emergencies.catch_up)
        on = self.look()
        if not on:
            return await call_next(call)
        steps = self._agreed(on, call)
        if not steps:
            return await call_next(call)
        refuses = next((s for s in steps if _above(s.refuse_below, call)), None)
        if refuses is not None:
            error = self._refusal(refuses, call)
            if self.mode == "enforce":
                self._count([refuses])
                self._goes_no_further(refused=True)
                raise error
        if self.mode == "observe":
            self._count(steps)
            return await call_next(call)
        old = await self._old_answer(steps, call)
        if old is not None:
            return old
        return await self._degraded(steps, call, call_next)

    def _agreed(self, on: Sequence[Step], call: Call) -> Sequence[Step]:
        """Those of the steps that may touch this call; those that may not are counted."""
        granted = self.granted(call.request)
        steps = [step for step in on if step.name in granted]
        if len(steps) < len(on):
            with self._lock:
                for step in on:
                    self._passed_over[step.name] += step.name not in granted
        return steps

    def granted(self, request: Request) -> frozenset[str]:
        """The steps that today may touch a call like this one."""
        return self._consents.granted(request.plan, request.tenant, self.wall(), request.contract)

    async def _degraded(self, steps: Sequence[Step], call: Call, call_next: Handler) -> Response:
        """Let the call go on with less, and say in its answer what was really taken from it."""
        degraded, turn, trace = Degraded(steps), call.turn, call.trace
        before, deferred, waits = call.degrade, turn.defer, 0 if trace is None else len(trace.waits)
        later = [step.name for step in steps if _above(step.defer_below, call)]
        call.degrade = degraded
        turn.defer = deferred or bool(later)
        try:
            response = await call_next(call)
            if later and not deferred and self._waited(trace, waits):
                degraded.note(*later)
            degraded.lost = ()
            _say(response, degraded.names)
            return response
        finally:
            call.degrade, turn.defer = before, deferred
            names = (*degraded.names, *degraded.lost)
            if names:
                self._count([step for step in steps if step.name in names])
                if trace is not None:  # for one that fails: nobody else will say it
                    trace.degraded = tuple(dict.fromkeys((*trace.degraded, *names)))

    def _waited(self, trace: Trace | None, since: int) -> bool:
        """Whether the call has been put off in this tier, after so many earlier waits."""
        return trace is not None and any(
            w.kind == "deferred" and w.where == self.tier for w in trace.waits[since:]
        )

    async def _old_answer(self, steps: Sequence[Step], call: Call) -> Response | None:
        step = next((step for step in steps if step.cached), None)
        if step is None or self._stale is None:
            return None
        answer = await Blocking(lambda: self._look_for(call))
        if answer is not None:
            _say(answer, (step.name,))
            self._count([step])
            self._goes_no_further(refused=False)
        return answer

    def _look_for(self, call: Call) -> Response | None:
        assert self._stale is not None
        try:
            return self._stale(call)
        except DeadlineExceededError:
            raise
        except Exception as error:  # whoever looks may be anybody's code, and quote the prompt
            log.error("%s: looking for an old answer raised %s", self.tier, type(error).__name__)
            return None

    def _refusal(self, step: Step, call: Call) -> ThrottledError:
        """The error for a call that ``step`` refuses; listeners are told."""
        retry_after_s = self.retry_after_s(step)
        error = ThrottledError(
            f"{self.tier}: under its present load (step {step.name!r}) calls of a priority below "
            f"{step.refuse_below} are not served; try again in {retry_after_s:.3g} s",
            retry_after_s=retry_after_s,
            personal=True,
        )
        if self._emit is not None:
            self._emit(
                CallThrottled(
                    trace_id="" if call.trace is None else call.trace.id,
                    tier=self.tier,
                    deployment="",
                    by=step.name,
                    mode=self.mode,
                    error=error,
                )
            )
        return error

    def _count(self, steps: Iterable[Step]) -> None:
        with self._lock:
            for step in steps:
                self._touched[step.name] += 1

    def _goes_no_further(self, *, refused: bool) -> None:
        """The call belongs to what is offered all the same, or refusing would look like calm."""
        if self._meter is not None:
            now = self.clock()
            self._meter.arrived(now)
            if refused:
                self._meter.refused(now)

    # -- the steps -------------------------------------------------------------

    def look(self) -> tuple[Step, ...]:
        """The steps that are on now, by the load or an emergency, in their order."""
        now = self.clock()
        level, forecast = self._load()
        emergencies = self._emergencies
        seen = level, forecast, NOBODY if emergencies is None else emergencies.active()
        if seen == self._seen and self._look_at - LOOK_EVERY_S <= now < self._look_at:
            return self._stairs.on
        with self._lock:
            turns = self._stairs.look(*seen, now)
            on = self._stairs.on
            self._seen, self._look_at = seen, now + LOOK_EVERY_S
        if self._emit is not None:
            for step, is_on, reason in turns:
                self._emit(
                    DegradationChanged(
                        tier=self.tier, step=step.name, on=is_on, level=level, reason=reason, mode=self.mode
                    )
                )
        return on

    def retry_after_s(self, step: Step) -> float:
        """In about how many seconds ``step`` will be left, as things stand: an hour at most."""
        now = self.clock()
        level, forecast = self._load()
        with self._lock:
            seconds = self._stairs.off_in_s(step, now)
            emergency = self._stairs.forced.get(step.name)
        if seconds and level > step.leave_at:
            horizon_s = HORIZON_S if self._meter is None else self._meter.horizon_s
            falls = (level - forecast) / horizon_s
            falling_s = (level - step.leave_at) / falls if falls > 0 else horizon_s
            seconds = max(seconds, self._dwell_s + falling_s)
        if emergency is not None and self._emergencies is not None:
            until = self._emergencies.until(emergency)
            if until is not None:
                seconds = max(seconds, until - self.wall())
        return min(max(seconds, LEAST_RETRY_S), LONGEST_RETRY_S)

    def status(self) -> dict[str, Any]:
        """The load and each step as plain data: whether it is on, why, whom it touched or passed over.

        Of steps that observe, ``calls`` are those that they would have been applied to.
        """
        self.look()  # nobody may have called for a while
        level, forecast = self._load()
        with self._lock:
            steps = {
                name: {**told, "calls": self._touched[name], "passed_over": self._passed_over[name]}
                for name, told in self._stairs.status(self.clock()).items()
            }
        return {"mode": self.mode, "level": level, "forecast": forecast, "steps": steps}

    def inherit(self, older: Sampler) -> None:
        """Go on with the same steps on, and the same counts, where the steps are the same."""
        if not self._stairs.same_as(older._stairs):
            return
        self._lock, self._stairs = older._lock, older._stairs
        self._touched, self._passed_over = older._touched, older._passed_over

    def renew(self) -> None:
        """After a fork: a lock of one's own. The steps stay as they were."""
        self._lock = threading.RLock()


def _above(priority: int | None, call: Call) -> bool:
    return priority is not None and call.priority < priority


def _say(response: Response, names: Sequence[str]) -> None:
    if names:
        response.degraded = tuple(dict.fromkeys((*response.degraded, *names)))

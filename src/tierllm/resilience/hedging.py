"""A second place is asked where the first is unusually late; the first of the two to speak answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..events import CallHedged, Event
from ..pipeline.effects import Handler, Race, Wait
from ..types import Candidate
from .lane import Lane
from .lateness import Bank, Lateness

if TYPE_CHECKING:
    from ..admission.seat import Seat
    from ..pipeline.clock import Clock
    from ..types import Call, Response
    from .deployment_line import DeploymentLine
    from .hedge import Hedge

__all__ = ["Hedging"]


class _NotHedged(Exception):
    """There is nothing for the second leg to do. The race goes on without it; nobody else sees this."""


class Hedging:
    """``Hedge`` at work in one tier: a policy around the choice of deployment. Thread-safe.

    The choice asks each place through ``ask``, and passes over those that ``call.lane`` will not
    ``claim``.
    """

    def __init__(
        self,
        rules: Hedge,
        *,
        tier: str,
        lines: Sequence[DeploymentLine],
        open_now: Callable[[Call], Iterable[DeploymentLine]],
        seat: Callable[[], Seat | None],
        clock: Clock,
        emit: Callable[[Event], None] | None,
    ) -> None:
        self.rules = rules
        self.tier = tier
        self.clock = clock
        self.bank = Bank(rules.share, rules.bank)
        self.won = 0
        self._emit = emit
        self._open_now = open_now
        self._seat = seat
        self._lateness = {line: Lateness(rules.quantile, rules.min_samples) for line in lines}

    # -- a call ----------------------------------------------------------------

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        late_after_s = self._late_after_s(call)
        if late_after_s is None:
            return await call_next(call)
        first = call.lane = Lane()
        response: Response | None = None
        try:
            if self.rules.mode == "observe":
                return await call_next(call)
            second = first.against()
            response = await Race(
                [
                    (0.0, partial(_run, call, call_next, first)),
                    (late_after_s, partial(self._hedge, call, first, second)),
                ]
            )
            return response
        finally:
            call.lane = None
            if first.rival is not None:
                self._over(call, first, first.rival, response)

    async def ask(self, line: DeploymentLine, call: Call, way: Handler) -> Response:
        """Let ``call`` go to ``line`` by its handler ``way``, and learn how long its first token takes."""
        lateness, lane = self._lateness[line], call.lane
        if lane is not None:
            lane.asks(call)
        lateness.began(call)
        error: BaseException | None = None
        try:
            return await way(call)
        except BaseException as caught:
            error = caught
            raise
        finally:
            lateness.ended(call, error, forgone=self._forgone(line, call, error))
            error = None  # or it would hold this frame, and the frame it

    def _late_after_s(self, call: Call) -> float | None:
        """Seconds after which somebody has to look whether ``call`` is late; ``None``: it is not hedged."""
        paid, request = self.bank.pay_in(), call.request
        if not paid or call.target is not None or not request.repeatable or _acts(request.params):
            return None
        if request.extra and any(_acts(options) for options in request.extra.values()):
            return None
        soonest_s: float | None = None
        admissible = 0
        for line, lateness in self._lateness.items():
            if request.require and not request.require <= line.deployment.labels:
                continue
            admissible += 1
            late_after_s = lateness.late_after_s(call.driven)
            if late_after_s is not None and (soonest_s is None or late_after_s < soonest_s):
                soonest_s = late_after_s
        if admissible < 2 or soonest_s is None:
            return None
        left_s = None if call.scope is None else call.scope.remaining_s()
        return None if left_s is not None and left_s <= soonest_s else soonest_s

    # -- the second leg --------------------------------------------------------

    async def _hedge(self, call: Call, first: Lane, second: Lane) -> Response:
        """Waits until the first leg is late, and asks another place then."""
        await self._silence(first)
        seat = self._seat()
        try:
            line = self._other(call, first.tried)
            if line is None or (seat is not None and not seat.take()):
                raise _NotHedged
            other = call.copy()
            other.lane = second
            if seat is not None:
                other.permit = seat
            fit = line.fitted(other)
            if _acts(fit.params) or first.over or not second.claim(line, anew=True):
                raise _NotHedged
            return await self._asked(line, fit, second)
        finally:
            second.end()
            if seat is not None:
                seat.release()

    async def _silence(self, first: Lane) -> None:
        """Returns once the first leg's place has been silent for too long, counted from its being asked."""
        while not first.over and not first.spoke:
            line, progress, now = first.line, first.progress, self.clock()
            late_after_s = None
            if line is not None and progress is not None and progress.ended_at is None:
                late_after_s = self._lateness[line].bound_s(progress)
            if late_after_s is None or progress is None:
                due_at = now + self._soonest_s()  # it is not asked yet, or not known: not late before this
            else:
                due_at = progress.started_at + late_after_s
                if now >= due_at:
                    if first.call is None or _acts(first.call.params):
                        break
                    return
            try:
                await Wait(first, due_at - now)
            except TimeoutError as error:
                if type(error) is not TimeoutError:
                    raise
        raise _NotHedged

    def _soonest_s(self) -> float:
        known = [lateness.late_after_s("") for lateness in self._lateness.values()]
        return min(seconds for seconds in known if seconds is not None)

    def _other(self, call: Call, tried: Sequence[DeploymentLine]) -> DeploymentLine | None:
        """The next place that would serve ``call`` now and is not itself late with most of its calls."""
        now, share = self.clock(), self.rules.slow_share
        for line in self._open_now(call):
            if line not in tried and not self._lateness[line].mostly_late(now, share):
                return line
        return None

    async def _asked(self, line: DeploymentLine, call: Call, second: Lane) -> Response:
        if not self.bank.withdraw():
            raise _NotHedged
        reason: str | None = "cancelled"
        try:
            response = await self.ask(line, call, line.once)
            reason = None
            return response
        except Exception as error:
            reason = type(error).__name__
            raise
        finally:
            if call.progress is None:
                self.bank.give_back()
            if call.trace is not None:
                call.trace.candidates.append(Candidate(self.tier, line.name, reason))

    # -- afterwards ------------------------------------------------------------

    def _over(self, call: Call, first: Lane, second: Lane, response: Response | None) -> None:
        """The race is decided, or was left."""
        asked, progress = first.progress, second.progress
        if first.line is not None and second.line is not None and progress is not None:
            won: str | None = None
            if response is not None:
                won = response.deployment
            elif first.spoke != second.spoke:
                won = first.line.name if first.spoke else second.line.name
            if won == second.line.name:
                self.won += 1
            silent_s = 0.0 if asked is None else progress.started_at - asked.started_at
            self._tell(call, first.line, second.line, silent_s, won)
        first.let_go()
        second.let_go()

    def _forgone(self, line: DeploymentLine, call: Call, error: BaseException | None) -> bool:
        """``mode="observe"``: whether this call would have been hedged. It is told, and pays for it."""
        lane, progress = call.lane, call.progress
        if self.rules.mode == "enforce" or lane is None or progress is None or _acts(call.params):
            return False
        lateness = self._lateness[line]
        silent_s = lateness.was_late(call, error)
        other = None if silent_s is None else self._other(call, lane.tried)
        if silent_s is None or other is None or not self.bank.withdraw():
            return False
        self._tell(call, line, other, lateness.bound_s(progress) or silent_s, None)
        return True

    def _tell(
        self, call: Call, first: DeploymentLine, second: DeploymentLine, after_s: float, won: str | None
    ) -> None:
        if self._emit is not None:
            self._emit(
                CallHedged(
                    trace_id="" if call.trace is None else call.trace.id,
                    tier=self.tier,
                    first=first.name,
                    second=second.name,
                    after_s=after_s,
                    won=won,
                    mode=self.rules.mode,
                )
            )

    def status(self) -> dict[str, Any]:
        """How it stands, as plain data; ``hedged`` counts those that would have been in ``"observe"``."""
        return {
            "mode": self.rules.mode,
            "calls": self.bank.calls,
            "hedged": self.bank.hedges,
            "won": self.won,
            "bank": self.bank.balance,
            "deployments": {
                line.name: {
                    "first_token_late_after_s": lateness.streamed.late_after_s,
                    "answer_late_after_s": lateness.whole.late_after_s,
                    "late_share": lateness.late_share(),
                }
                for line, lateness in self._lateness.items()
            },
        }

    def renew(self) -> None:
        """After a fork."""
        self.bank.renew()
        for lateness in self._lateness.values():
            lateness.renew()


async def _run(call: Call, call_next: Handler, first: Lane) -> Response:
    """The first leg: the ordinary choice."""
    try:
        return await call_next(call)
    finally:
        first.end()


def _acts(options: Mapping[str, Any]) -> bool:
    """Whether the model is given tools: what it does with them must not happen twice."""
    return bool(options.get("tools") or options.get("functions")) and options.get("tool_choice") != "none"

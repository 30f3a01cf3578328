"""A second place is asked where the first is unusually late; the first of the two to speak answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import RejectedError
from ..events import CallHedged, Event
from ..pipeline.effects import Handler, Race, Wait
from ..types import Candidate
from .acting import may_act
from .lane import Lane, Trail
from .lateness import Bank, Lateness

if TYPE_CHECKING:
    from ..admission.seat import Seat
    from ..pipeline.clock import Clock
    from ..types import Call, Response
    from .deployment_line import DeploymentLine
    from .hedge import Hedge

__all__ = ["Hedging"]

LOOK_AGAIN_S = 0.25
"""So often a first leg that waits to try again is looked at, though it tells when it does."""


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
        self.served: Callable[[Call, Response], None] | None = None
        """Hears of the answers of second legs; of all others the choice knows."""
        self._emit = emit
        self._open_now = open_now
        self._seat = seat
        self._lateness = {line: Lateness(rules.quantile, rules.min_samples) for line in lines}
        self._lock = threading.RLock()

    def inherit(self, older: Hedging, lines: Iterable[tuple[DeploymentLine, DeploymentLine]]) -> None:
        """Go on with what ``older`` has saved up and knows of places: ``lines`` are pairs of new and old."""
        if (self.rules.share, self.rules.bank) == (older.rules.share, older.rules.bank):
            self.bank = older.bank
        self.won = older.won
        if (self.rules.quantile, self.rules.min_samples) == (older.rules.quantile, older.rules.min_samples):
            for line, before in lines:
                self._lateness[line] = older._lateness[before]

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
        except RuntimeError:
            if first.begun:
                raise
        finally:
            call.lane = None
            if first.rival is not None:
                self._over(call, first, first.rival, response)
            first.let_go()
        return await call_next(call)  # no race can be run here: a loop would be blocked, or no thread begins

    async def ask(self, line: DeploymentLine, call: Call, way: Handler) -> Response:
        """Let ``call`` go to ``line`` by its handler ``way``, and learn how long its first token takes."""
        lateness, given = self._lateness[line], call.lane
        lane = call.lane = given or Lane()
        trail = lane.asks(line, call)
        lateness.began(trail)
        error: BaseException | None = None
        try:
            return await way(call)
        except BaseException as caught:
            error = caught
            raise
        finally:
            forgone = given is not None and self._forgone(trail, call, given)
            lateness.ended(trail, error, forgone=forgone)
            if given is None:
                lane.let_go()
            error = None  # or it would hold this frame, and the frame it

    def _late_after_s(self, call: Call) -> float | None:
        """Seconds after which somebody has to look whether ``call`` is late; ``None``: it is not hedged."""
        turn, request = call.turn, call.request
        if turn.paid is self:
            enough = self.bank.enough  # it comes here again: it is one call all the same
        else:
            turn.paid, enough = self, self.bank.pay_in()
        if not enough or call.target is not None or not request.repeatable:
            return None
        if (request.params or request.extra) and may_act(request.params, request.extra):
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
        late, silent_s = await self._silence(first)
        seat = self._seat()
        try:
            found = self._other(call, first.tried)
            if found is None or (seat is not None and not seat.take()):
                raise _NotHedged
            line, fit = found
            if first.over or not second.claim(line, anew=True) or not self.bank.withdraw():
                raise _NotHedged
            second.hedged = late, line, silent_s
            fit.lane = second
            if seat is not None:
                seat.begin(self.clock())
                fit.permit = seat
            response = second.answer = await self._asked(line, fit, second)
            if call.degrade is not None and fit.degrade is not None:
                call.degrade.took(fit.degrade, answered=True)
            return response
        finally:
            second.end()
            if seat is not None:
                seat.release()

    async def _silence(self, first: Lane) -> tuple[DeploymentLine, float]:
        """Returns once the first leg's place has been silent for too long, counted from its being asked.

        Gives the place, and for how long.
        """
        while not first.over and not first.spoke:
            first.look()
            trail, now = first.trail, self.clock()
            progress = None if trail is None else trail.progress
            wait_s = self._soonest_s()  # not asked yet, or not known: not late before this
            if progress is not None and progress.ended_at is not None:
                wait_s = max(wait_s, LOOK_AGAIN_S)
            elif trail is not None and progress is not None:
                late_after_s = self._lateness[trail.line].bound_s(progress)
                if late_after_s is not None:
                    due_at = progress.started_at + late_after_s
                    if now >= due_at:
                        if any(may_act(each.params, each.request.extra) for each in trail.calls):
                            break
                        return trail.line, now - progress.started_at
                    wait_s = due_at - now
            try:
                await Wait(first, wait_s)
            except TimeoutError as error:
                if type(error) is not TimeoutError:
                    raise
        raise _NotHedged

    def _soonest_s(self) -> float:
        known = [lateness.late_after_s("") for lateness in self._lateness.values()]
        return min(seconds for seconds in known if seconds is not None)

    def _other(self, call: Call, tried: Sequence[DeploymentLine]) -> tuple[DeploymentLine, Call] | None:
        """The next place that would serve ``call`` now and is not itself late with most of its calls.

        With it the call as it is to receive it. What it costs is judged by what is known here: a budget that
        has no room for two is no reason to refuse anything.
        """
        now, share = self.clock(), self.rules.slow_share
        for line in self._open_now(call):
            if line in tried or self._lateness[line].mostly_late(now, share):
                continue
            fit = line.fitted(call)
            if not may_act(fit.params, call.request.extra) and line.spending.outlook(fit) is None:
                return line, fit
        return None

    async def _asked(self, line: DeploymentLine, call: Call, second: Lane) -> Response:
        reason: str | None = "cancelled"
        try:
            response = await self.ask(line, call, line.once)
            reason = None
            if self.served is not None:
                self.served(call, response)
            return response
        except Exception as error:
            reason = type(error).__name__
            trail = second.trail
            if isinstance(error, RejectedError) and trail is not None and not trail.asked:
                self.bank.give_back()  # the line refused it: for certain nobody was asked
                second.hedged = None
                reason = "hedge"
                if call.trace is not None:  # the call itself was not refused
                    attempts = call.trace.attempts
                    attempts[:] = [each for each in attempts if each.error is not error]
            raise
        finally:
            if call.trace is not None:
                call.trace.candidates.append(Candidate(self.tier, line.name, reason))

    # -- afterwards ------------------------------------------------------------

    def _over(self, call: Call, first: Lane, second: Lane, response: Response | None) -> None:
        """The race is decided, or was left."""
        if second.hedged is not None:
            late, other, silent_s = second.hedged
            won: str | None = None
            if response is not None:
                won = other.name if response is second.answer else late.name
            elif first.spoke != second.spoke:
                won = late.name if first.spoke else other.name
            if won == other.name:
                with self._lock:
                    self.won += 1
            self._tell(call, late, other, silent_s, won)
        second.let_go()

    def _forgone(self, trail: Trail, call: Call, lane: Lane) -> bool:
        """``mode="observe"``: whether this call would have been hedged. It is told, and pays for it.

        Whether there was room for it is known by what there is now.
        """
        if self.rules.mode == "enforce" or lane.hedged is not None:
            return False
        if any(may_act(each.params, each.request.extra) for each in trail.calls):
            return False
        lateness = self._lateness[trail.line]
        late = next((progress for progress in trail.asked if lateness.overran(progress)), None)
        found = None if late is None else self._other(call, lane.tried)
        if late is None or found is None or not self._has_seat() or not self.bank.withdraw():
            return False
        silent_s = lateness.bound_s(late) or 0.0
        lane.hedged = trail.line, found[0], silent_s
        self._tell(call, trail.line, found[0], silent_s, None)
        return True

    def _has_seat(self) -> bool:
        seat = self._seat()
        if seat is None:
            return True
        try:
            return seat.take()
        finally:
            seat.release()

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
                    "late_share": lateness.late_share(self.clock()),
                }
                for line, lateness in self._lateness.items()
            },
        }

    def renew(self) -> None:
        """After a fork."""
        self._lock = threading.RLock()
        self.bank.renew()
        for lateness in self._lateness.values():
            lateness.renew()


async def _run(call: Call, call_next: Handler, first: Lane) -> Response:
    """The first leg: the ordinary choice."""
    first.begun = True
    try:
        response = first.answer = await call_next(call)
        return response
    finally:
        if first.answer is None and first.outrun and call.permit is not None:
            call.permit.release()  # the other one has a seat of its own, and may talk for long
        first.end()

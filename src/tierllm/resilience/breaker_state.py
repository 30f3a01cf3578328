"""The state machine of a circuit breaker: pure, with the clock passed in; it neither locks nor waits.

    closed ──a rule trips──► open ──open time over, a call comes──► half_open
      ▲                        ▲                                      │    │
      │                        └──────a probe failed or hung──────────┘    │
      └───────────────────────────all probes succeeded─────────────────────┘

Every stay in a state is a ``Generation``. An ``Admission`` belongs to the generation that gave it;
what it reports later counts only while that generation lasts.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

from ..events import BreakerChanged, Event
from ..pipeline.clock import Clock
from .breaker_settings import BreakerSettings
from .breaker_store import BreakerSnapshot
from .breaker_tuning import Tuning
from .breaker_window import CountWindow, TimeWindow, Window

__all__ = ["Admission", "BreakerState", "Generation", "StateName"]

StateName = Literal["closed", "open", "half_open", "forced_open", "forced_closed", "metrics_only"]


class Generation:
    """One stay in one state.

    ``clean``: one more good call would change nothing, so it need not be counted. ``probes`` is
    replaced, never changed, so that it can be read without the lock.
    """

    __slots__ = ("clean", "number", "probes", "since", "slow", "state", "successes", "until")

    def __init__(self, number: int, state: StateName, since: float, until: float) -> None:
        self.number = number
        self.state: StateName = state
        self.since = since
        self.until = until
        self.clean = state == "forced_closed"
        self.probes: tuple[Admission, ...] = ()
        self.successes = 0
        self.slow = 0


class Admission:
    """The leave for one call. A ``shared`` one serves all calls of a closed generation."""

    __slots__ = ("generation", "probe", "settled", "shared", "started_at")

    def __init__(
        self, generation: Generation, started_at: float, *, probe: bool = False, shared: bool = False
    ) -> None:
        self.generation = generation
        self.started_at = started_at
        self.probe = probe
        self.shared = shared
        self.settled = False


class BreakerState:
    """Which calls may pass, and what their outcomes lead to.

    The caller holds a lock around ``admit``, ``settle`` and everything that changes the state;
    ``standing``, ``passing``, ``release`` and ``retry_after_s`` need none. ``news`` collects
    events for the caller to tell. ``shares`` allows the standing admission.
    """

    def __init__(
        self, settings: BreakerSettings, clock: Clock, *, name: str = "", shares: bool = True
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.name = name
        self.shares = shares and settings.slow_call_s is None
        self.news: list[Event] = []
        self.opens = 0
        self.reason = ""
        self.open_for_s = settings.open_s
        self._tuning = Tuning()
        self._closed_at: float | None = None  # when it last recovered
        self._enough = settings.min_calls
        if settings.window_s is None:
            self._enough = min(settings.min_calls, settings.window)
        self.consecutive = 0
        self.generation: Generation
        self.passing: Generation | None  # the generation, while all calls may pass
        self.standing: Admission | None  # theirs, where nothing is to be noted of a single call
        self._begin(Generation(0, "closed", clock(), 0.0))

    # -- calls -----------------------------------------------------------------

    def admit(self) -> Admission | None:
        """Leave for one call, or ``None``. May begin the half-open state."""
        now = self.clock()
        self._catch_up(now)
        generation = self.generation
        if generation.state == "open":
            if now < generation.until:
                return None
            self._enter("half_open", f"open for {generation.until - generation.since:g} s", now)
            generation = self.generation
        if generation.state == "half_open":
            probes = tuple(p for p in generation.probes if not p.settled)
            if not self._room(generation, len(probes)):
                return None
            probe = Admission(generation, now, probe=True)
            generation.probes = (*probes, probe)
            return probe
        return None if generation.state == "forced_open" else Admission(generation, now)

    def retry_after_s(self) -> float | None:
        """Seconds until a call may pass, as far as known; ``None`` when one may pass now. Changes nothing."""
        generation = self.generation
        if generation is self.passing:
            return None
        now, settings = self.clock(), self.settings
        if generation.state == "forced_open":
            return settings.open_s
        if generation.state == "open":
            left = min(generation.until - now, generation.until - generation.since)
        else:
            busy = [p.started_at for p in generation.probes if not p.settled]
            left = min(busy, default=now) + settings.probe_timeout_s - now
            if left > 0 and self._room(generation, len(busy)):
                return None
            if left <= 0:  # a hung probe, noticed by the next call
                left += self._longer()
        return left if left > 0 else None

    def _room(self, generation: Generation, busy: int) -> bool:
        """Whether one more probe is wanted, and allowed beside those under way."""
        settings = self.settings
        at_once = settings.half_open_concurrency or settings.half_open_probes
        return busy < at_once and busy + generation.successes < settings.half_open_probes

    def settle(self, admission: Admission, failed: bool | None, slow: bool = False) -> None:
        """The outcome of an admitted call; ``failed=None`` counts neither as a failure nor as a success.

        Reported twice, too late, or of an earlier generation, it is ignored.
        """
        generation = admission.generation
        if admission.probe:
            self._catch_up(self.clock())
        if admission.settled or generation is not self.generation:
            return
        if not admission.shared:
            admission.settled = True
        if failed is None and not slow:
            return
        if admission.probe:
            self._probed(generation, failed, slow)
        elif generation.state != "forced_closed":
            self._count(generation, failed, slow)

    def release(self, admission: Admission) -> None:
        """The call was cancelled or said nothing about the provider: its slot is free again.

        One assignment and no lock, since it may run in a finalizer at any moment. A probe beyond
        its time is left to be found hung.
        """
        if admission.probe and self.clock() - admission.started_at >= self.settings.probe_timeout_s:
            return
        if not admission.shared:
            admission.settled = True

    def _count(self, generation: Generation, failed: bool | None, slow: bool) -> None:
        window, tuning = self.window, self._tuning
        clean = generation.clean = window.add(failed is True, slow)
        tuning.calls += 1
        if failed:
            self.consecutive += 1
            tuning.failures += 1
        elif failed is False:
            self.consecutive = 0
        if clean:
            tuning.start_over()
        if not (window.failures or window.slow) or generation.state != "closed":
            return
        reason = self._tripped(window)
        if reason:
            self._open(reason, self.clock())
        elif failed:
            self.news += tuning.never_opens(self.settings.failure_rate, self.name, self.clock())

    def _tripped(self, window: Window) -> str:
        settings = self.settings
        if settings.consecutive_failures is not None and self.consecutive >= settings.consecutive_failures:
            return _many(self.consecutive, "consecutive failure")
        calls = window.calls
        if calls < self._enough:
            return ""
        if settings.failure_rate is not None and window.failures / calls >= settings.failure_rate:
            return f"failure rate {window.failures / calls * 100:.0f} % of {_many(calls, 'call')}"
        if settings.slow_call_s is not None and window.slow / calls >= settings.slow_call_rate:
            return f"slow-call rate {window.slow / calls * 100:.0f} % of {_many(calls, 'call')}"
        return ""

    def _probed(self, generation: Generation, failed: bool | None, slow: bool) -> None:
        now, wanted = self.clock(), self.settings.half_open_probes
        if failed or failed is None:
            self._open("probe failed" if failed else "probe was slow", now)
            return
        generation.successes += 1
        generation.slow += slow
        if generation.successes < wanted:
            return
        if generation.slow / wanted >= self.settings.slow_call_rate:
            self._open(f"{generation.slow} of {_many(wanted, 'probe')} slow", now)
        else:
            self._enter("closed", "probe succeeded" if wanted == 1 else f"{wanted} probes succeeded", now)

    def status(self) -> dict[str, object]:
        """The present state as plain data; the window's totals are those of the last closed stay."""
        window, generation = self.window, self.generation
        window.roll()
        calls = window.calls
        is_open = generation.state == "open"
        return {
            "name": self.name,
            "state": generation.state,
            "reason": self.reason,
            "calls": calls,
            "failures": window.failures,
            "slow": window.slow,
            "failure_rate": window.failures / calls if calls else 0.0,
            "slow_call_rate": window.slow / calls if calls else 0.0,
            "consecutive_failures": self.consecutive,
            "opens": self.opens,
            "open_for_s": generation.until - generation.since if is_open else None,
            "retry_after_s": self.retry_after_s(),
        }

    # -- transitions -----------------------------------------------------------

    def force(self, state: StateName, reason: str) -> None:
        """Go to ``state`` by hand, with empty windows and the open time reset."""
        self.open_for_s = self.settings.open_s
        self._tuning.relapses = 0
        self._enter(state, reason, self.clock())
        self._closed_at = None

    def adopt(self, snapshot: BreakerSnapshot, wall_s: float) -> bool:
        """Take over what another process, or this one before a restart, found out; False: it is no state."""
        if snapshot.state not in get_args(StateName) or snapshot.state == "half_open":
            return False
        state, now = cast("StateName", snapshot.state), self.clock()
        if state == self.generation.state != "open":
            return True
        self.open_for_s = min(max(snapshot.open_for_s, self.settings.open_s), self.settings.max_open_s)
        left = (snapshot.open_until_unix_s or wall_s) - wall_s  # bounded: the writer's clock may be off
        self._enter(state, f"shared: {snapshot.reason}", now, min(max(left, 0.0), self.open_for_s))
        return True

    def resume(self, older: BreakerState) -> None:
        """Stay open for as long as ``older`` would, or forced as it is; where that would try, try."""
        was = older.generation
        if was.state in ("closed", "half_open") and was.state == self.generation.state:
            return
        self.opens, self.reason = older.opens, older.reason
        if was.state == "half_open":
            self._begin(Generation(was.number, "open", was.since, was.since))
        elif was.state != "closed":
            self.open_for_s = min(max(older.open_for_s, self.settings.open_s), self.settings.max_open_s)
            self._begin(Generation(was.number, was.state, was.since, was.until))

    def forget_probes(self) -> None:
        """The probes under way are somebody else's (a forked parent's)."""
        self.generation.probes = ()

    def rebase(self, clock: Clock) -> None:
        """Another clock from now on; only before the first call."""
        self.clock = clock
        self._begin(Generation(self.generation.number, self.generation.state, clock(), 0.0))

    def _catch_up(self, now: float) -> None:
        generation = self.generation
        if generation.state == "half_open":
            waiting = [p.started_at for p in generation.probes if not p.settled]
            timeout_s = self.settings.probe_timeout_s
            if waiting and now - min(waiting) >= timeout_s:
                self._open(f"a probe gave no answer in {timeout_s:g} s", min(waiting) + timeout_s)
        elif generation.state == "open" and now < generation.since:  # the clock was set back
            generation.until += now - generation.since
            generation.since = now

    def _longer(self) -> float:
        return min(self.open_for_s * self.settings.open_backoff, self.settings.max_open_s)

    def _open(self, reason: str, now: float) -> None:
        if self.generation.state == "half_open":
            self.open_for_s = self._longer()
        elif self._closed_at is not None and now - self._closed_at < self.open_for_s:
            self._tuning.relapses += 1  # it had not stayed well: the open time reached so far still holds
        else:
            self._tuning.relapses = 0
            self.open_for_s = self.settings.open_s
        self.opens += 1
        self._enter("open", reason, now, self.open_for_s)
        self.news += self._tuning.flapping(self.name, now)

    def _enter(self, state: StateName, reason: str, now: float, open_for_s: float = 0.0) -> None:
        old = self.generation
        self.reason = reason
        recovered = state == "closed" and old.state in ("open", "half_open")
        self._closed_at = now if recovered else None
        self._begin(Generation(old.number + 1, state, now, now + open_for_s))
        if state != old.state:
            told_s = open_for_s if state == "open" else None
            self.news.append(
                BreakerChanged(
                    name=self.name, old=old.state, new=state, reason=reason, at_s=now, open_for_s=told_s
                )
            )

    def _begin(self, generation: Generation) -> None:
        self.standing = self.passing = None  # first of all, and set last: both are read without the lock
        self.generation = generation
        if generation.state not in ("closed", "metrics_only", "forced_closed"):
            return
        window_s = self.settings.window_s
        self.window: Window = (
            CountWindow(self.settings.window) if window_s is None else TimeWindow(window_s, self.clock)
        )
        self.consecutive = 0
        self._tuning.start_over()
        self.passing = generation
        if self.shares:
            self.standing = Admission(generation, generation.since, shared=True)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

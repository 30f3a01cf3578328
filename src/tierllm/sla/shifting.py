"""Which places of a tier calls go past at present, and who leaves the tier altogether."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..pipeline.fork import renew_after_fork
from .place_watch import Asked
from .ramp import rank
from .shift_state import SET_BACK_S, Pin, ShiftState

if TYPE_CHECKING:
    from ..events import Event
    from ..pipeline.clock import Clock
    from ..types import Outcome
    from .goals import Goal
    from .shift import Shift

__all__ = ["Shifting"]


class Shifting:
    """The shifts of one tier at run time. Thread-safe; ``begun`` and ``ended`` take about a microsecond.

    A place that burns is left by everybody as long as another one of the tier is there that does better.
    It is taken back key by key, in ``stages``. Where no other does better, or the tier is overloaded, the
    tier itself sheds a share of its calls to the next tier. Nothing waits here and nothing runs by itself:
    whoever calls looks at how things stand, once a second.

    **The bound.** Leaving a place, and having taken it back whole, are the shifts of a tier. In any 3,600
    seconds there are at most ``max_shifts_per_hour`` of them, over all its places; and as many beginnings and
    ends of shedding. Proof: under one lock, a shift at x is let through only where ``Quota.room(n)`` holds
    for an n of at least 1, so that no more than ``most - 1`` shifts lie in the hour that ends at x; then it
    is noted. Take any hour that holds shifts, and let x be the last in it: all others in it lie in the hour
    that ends at x. So it holds ``most`` at the most. (A clock that is set back moves the notes with it.)
    The way back asks for n = 2: it leaves room for leaving again, and it is what waits.
    Stages between are no shifts. One that goes badly sends its keys away for ``dwell_s`` at the least, so
    that no more than ``3600 / dwell_s + 1`` of them end badly in any hour at one place; the wait doubles.

    **Keys.** A place has those keys whose ``rank`` is below its share, and a key's rank never changes. From
    leaving to the way back the share only rises: each key goes away once, and comes back once. It changes
    side at most twice a cycle. A bad stage begins another cycle for the keys of that stage, and no others.

    What is pinned by hand outranks all this, counts for no bound, and holds with ``mode="observe"``, too.
    """

    def __init__(
        self,
        settings: Shift,
        *,
        tier: str,
        places: Sequence[str],
        goals: Sequence[Goal],
        load: Callable[[], tuple[float, float]] | None,
        clock: Clock,
        emit: Callable[[Event], object] | None,
        rng: random.Random,
        sheds: bool,
    ) -> None:
        self.settings = settings
        self.tier = tier
        self._clock = clock
        self._emit = emit
        self._load = None if settings.load is None else load
        self._rng = rng
        self._lock = threading.RLock()  # reentrant: garbage collection may end a flow right here
        self._state = ShiftState(settings, tier=tier, places=places, goals=goals, sheds=sheds)
        self._watches = {name: spot.watch for name, spot in self._state.spots.items()}
        self._number = 0
        self._past: tuple[tuple[str, float, str], ...] = ()
        """Places that have less than all their keys, with the share and the salt; read without the lock."""
        self._leaving = 0.0
        self._spares_sessions = False
        renew_after_fork(self)

    # -- what happens ----------------------------------------------------------

    def begun(self, place: str, now: float, asked: Asked | None = None) -> int:
        """An attempt begins at ``place``; the number to end it by.

        The ``progress`` of ``asked`` tells how long the provider has been silent: a consumer that holds its
        stream, or a wait for a rate limit, is then not taken for a slow place.
        """
        state = self._state
        if now >= state.look_at or now < state.looked_at - SET_BACK_S:
            self._look(now)
        with self._lock:
            self._number = number = self._number + 1
            self._watches[place].begun(number, now, asked)
        return number

    def ended(
        self,
        place: str,
        number: int,
        now: float,
        outcome: Outcome,
        latency_s: float,
        first_token_s: float | None,
        error: BaseException | None = None,
    ) -> None:
        """What came of it. ``error``: a provider's counts, but invalid requests, filters and 429s do not."""
        with self._lock:
            self._watches[place].ended(number, now, outcome, latency_s, first_token_s, error)
        if now >= self._state.look_at:
            self._look(now)

    # -- what is asked ---------------------------------------------------------

    def avoided(self, key: str, now: float) -> Collection[str]:
        """The places that ``key`` is to be asked at last. Without a key, each call draws its own."""
        if now >= self._state.look_at:
            self._look(now)
        past = self._past
        if not past:
            return ()
        return tuple([name for name, share, salt in past if share <= 0.0 or self._rank(salt, key) >= share])

    def leaves_tier(self, key: str, now: float) -> bool:
        """Whether ``key`` is to go on to the next tier, if its plan allows it.

        Where the tier is overloaded and its places do well, sessions stay.
        """
        if now >= self._state.look_at:
            self._look(now)
        share = self._leaving
        if not share or (self._spares_sessions and key.startswith("s:")):
            return False
        return share >= 1.0 or self._rank(self.tier, key) < share

    def _rank(self, salt: str, key: str) -> float:
        return rank(salt, key) if key else self._rng.random()

    def _look(self, now: float) -> None:
        """Take in how things stand, once a second."""
        level = None if self._load is None else self._load()[0]  # outside the lock: it has locks of its own
        if now < self._state.looked_at - SET_BACK_S:
            now = self._clock()  # perhaps it was only this thread that stood still
        with self._lock:
            if self._state.look(now, level):
                self._publish()
            said = self._said()
        self._tell(said)

    # -- by hand ---------------------------------------------------------------

    def pin(self, place: str | None, *, away: bool | None, until: float | None = None) -> None:
        """Send everybody past ``place`` (``away=True``), or keep it (``False``), whatever happens.

        ``None`` as the place is the tier itself: all its calls go on to the next tier, or none. ``until`` is
        a moment on the clock of this tier; left out, it holds until ``away=None`` ends it. What is automatic
        then begins anew. Raises ``ConfigError`` for a place that is not there.
        """
        state = self._state
        if place is not None and place not in state.spots:
            known = ", ".join(state.spots)
            raise ConfigError(f"tier {self.tier!r} has no deployment {place!r} to pin; there are {known}")
        if until is not None and not (isinstance(until, int | float) and math.isfinite(until)):
            raise ConfigError(f"pin(until={until!r}): give a moment on the client's clock, or leave it out")
        now = self._clock()
        cause = "the pin was taken off"
        if away is not None:
            cause = f"pinned {'away' if away else 'here'} by hand"
            cause += "" if until is None else f" for {max(0.0, until - now):.0f} s"
        with self._lock:
            spot = None if place is None else state.spots[place]
            state.fix(spot, None if away is None else Pin(away, until), cause, now)
            self._publish()
            said = self._said()
        self._tell(said)

    # -- what it says ----------------------------------------------------------

    def _publish(self) -> None:
        state, acts = self._state, self.settings.mode != "observe"
        self._past = tuple(
            (spot.name, spot.share, spot.salt)
            for spot in state.spots.values()
            if spot.share < 1.0 and (acts or spot.pin is not None)
        )
        self._spares_sessions = state.pin is None and state.shedding.spares_sessions
        self._leaving = 1.0 - state.share(None) if acts or state.pin is not None else 0.0

    def _said(self) -> Sequence[Event]:
        said, self._state.said = self._state.said, []
        return said

    def _tell(self, said: Sequence[Event]) -> None:
        if self._emit is not None:
            for event in said:
                self._emit(event)

    def status(self) -> dict[str, Any]:
        """How things stand, as plain data: the share that each place and the tier keep, and why."""
        with self._lock:
            return self._state.status(self._clock())

    def renew(self) -> None:
        """After a fork: the parent may hold the lock, and its calls do not end here."""
        self._lock = threading.RLock()
        for watch in self._watches.values():
            watch.renew()

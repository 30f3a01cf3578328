"""Which places of a tier calls go past at present, and who leaves the tier altogether."""

from __future__ import annotations

import itertools
import math
import random
import threading
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..pipeline.fork import renew_after_fork
from .place_watch import Asked, blames
from .ramp import rank
from .shift_state import SET_BACK_S, Around, ShiftState
from .spot import Pin

if TYPE_CHECKING:
    from ..events import Event
    from ..pipeline.clock import Clock
    from ..types import Outcome
    from .goals import Goal
    from .shift import Shift

__all__ = ["Shifting"]


class Shifting:
    """The shifts of one tier at run time. Thread-safe; ``begun`` and ``ended`` take no lock.

    A place that burns is left by everybody as long as another one of the tier is there that does better.
    It is taken back key by key, in ``stages``. Where no other does better, or the tier is overloaded, the
    tier itself sheds a share of its calls to the next tier, if that one has room and does well. Nothing waits
    here and nothing runs by itself: whoever calls looks at how things stand, once a second.

    **The bound.** Leaving a place, and having taken it back whole, are the shifts of a tier. In any 3,600
    seconds there are at most ``max_shifts_per_hour`` of them, over all its places. Proof: under one lock, a
    shift at x is let through only where ``Quota.room(n)`` holds for an n of at least 1, so that no more than
    ``most - 1`` shifts lie in the hour that ends at x; then it is noted. Take any hour that holds shifts, and
    let x be the last in it: all others in it lie in the hour that ends at x. So it holds ``most`` at the
    most. (A clock that is set back moves the notes with it.) The way back asks for n = 2: it leaves room for
    leaving again, and it is what waits. No key changes tier more often in an hour, either: that proof is in
    ``Shedding``. Stages between are no shifts. One that goes badly sends its keys away for ``dwell_s`` at the
    least, so that no more than ``3600 / dwell_s + 1`` of them end badly in any hour at one place; the wait
    doubles.

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
        closed: Callable[[], Collection[str]] | None,
        clock: Clock,
        emit: Callable[[Event], object] | None,
        rng: random.Random,
        leads_down: bool,
    ) -> None:
        self.settings = settings
        self.tier = tier
        self._leads_down = leads_down
        self._clock = clock
        self._emit = emit
        self._load = None if settings.load is None else load
        self._closed = closed
        self._room: Callable[[], bool] | None = None
        """Whether the next tier takes more: of whoever last asked whether to leave this one."""
        self._rng = rng
        self._lock = threading.RLock()  # reentrant: a signal handler may ask for the status right here
        self._busy = False
        self._state = ShiftState(
            settings, tier=tier, places=places, goals=goals, sheds=settings.shed and leads_down
        )
        self._watches = {name: spot.watch for name, spot in self._state.spots.items()}
        self._numbers = itertools.count(1)
        self._begun = 0
        self._retired = False
        self._look_at = self._set_back_at = -math.inf
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
        if now >= self._look_at or now < self._set_back_at:
            self._look(now)
        number = self._begun = next(self._numbers)
        self._watches[place].under_way[number] = now, asked
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
        """What came of it. ``error``: a provider's counts, but invalid requests, filters and 429s do not.

        Takes no lock: garbage collection may end a flow anywhere, even in the midst of a look.
        """
        self._watches[place].ended(number, now, outcome, latency_s, first_token_s, error)
        if now >= self._look_at:
            self._look(now)

    def failed(self, now: float, error: BaseException, *, hung: bool = False) -> None:
        """A call failed by ``error``: no place of the tier has answered it. ``hung``: the last one asked was
        silent until the deadline passed."""
        if hung or blames(error):
            self._state.calls.fails.append(now)

    # -- what is asked ---------------------------------------------------------

    def avoided(self, key: str, now: float) -> Collection[str]:
        """The places that ``key`` is to be asked at last. Without a key, each call draws its own."""
        if now >= self._look_at:
            self._look(now)
        past = self._past
        if not past:
            return ()
        return tuple([name for name, share, salt in past if share <= 0.0 or self._rank(salt, key) >= share])

    def leaves_tier(self, key: str, now: float, room: Callable[[], bool] | None = None) -> bool:
        """Whether ``key`` is to go on to the next tier, if its plan allows it. ``room()``: that one takes
        more calls, which is asked when it is time to look.

        Where the tier is overloaded and its places do well, sessions stay.
        """
        self._room = room
        if now >= self._look_at:
            self._look(now)
        share = self._leaving
        if not share or (self._spares_sessions and key.startswith("s:")):
            return False
        return share >= 1.0 or self._rank(self.tier, key) < share

    def well(self, now: float) -> bool:
        """Whether calls that another tier sends on are welcome here: nothing burns, and nothing is shed."""
        if now >= self._look_at:
            self._look(now)
        return not self._state.stuck and self._state.share(None) >= 1.0

    def _rank(self, salt: str, key: str) -> float:
        return rank(salt, key) if key else self._rng.random()

    def _begins(self) -> bool:
        """Whether nobody else is at it."""
        with self._lock:
            busy, self._busy = self._busy, True
        return not busy

    def _look(self, now: float) -> None:
        """Take in how things stand, once a second. Whoever finds another one at it, or itself, goes on."""
        if self._retired or not self._begins():
            return
        said: Sequence[Event] = ()
        try:
            if now < self._state.looked_at - SET_BACK_S:
                now = self._clock()  # perhaps it was only this thread that stood still
            around = Around(  # outside the lock: they have locks of their own, and listeners
                None if self._load is None else self._load()[0],
                () if self._closed is None else self._closed(),
                self._room is None or self._room(),
                self._begun,
            )
            with self._lock:
                if self._state.look(now, around):
                    self._publish()
                said = self._said()
        finally:
            self._busy = False
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
        if place is None and away and not self._leads_down:
            raise ConfigError(f"tier {self.tier!r} cannot be pinned away: no tier below it takes its calls")
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

    def pinned_away(self, place: str | None) -> bool:
        """Whether calls pass ``place`` (``None``: the tier) since somebody said so by hand."""
        state = self._state
        pin = state.pin if place is None else state.spots[place].pin
        return pin is not None and pin.away

    # -- what it says ----------------------------------------------------------

    def _publish(self) -> None:
        state, acts = self._state, self.settings.mode != "observe"
        self._look_at, self._set_back_at = state.look_at, state.looked_at - SET_BACK_S
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
            busy, self._busy = self._busy, True
            try:
                return self._state.status(self._clock())
            finally:
                self._busy = busy

    def inherit(self, older: Shifting, same: Collection[str] | None = None) -> None:
        """Take the place of ``older``, under another configuration, for those of its places in ``same``; left
        out: those of the same name.

        Pins go on, and what counts for the bounds. Where the settings and the objective are the same, so do
        departures and what was seen of the places; calls that end under ``older`` then count here. From now
        on ``older`` decides nothing any more. Before anybody else has this one.
        """
        with older._lock:
            older._retired = True
            if same is None:
                same = older._watches.keys()
            self._lock, self._numbers, self._begun = older._lock, older._numbers, older._begun
            self._state.inherit(older._state, [name for name in same if name in self._watches])
            self._watches = {name: spot.watch for name, spot in self._state.spots.items()}
            self._publish()

    def renew(self) -> None:
        """After a fork: the parent may hold the lock, and its calls do not end here."""
        self._lock = threading.RLock()
        self._busy = False
        for watch in self._watches.values():
            watch.under_way.clear()

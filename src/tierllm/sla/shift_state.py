"""The shifts of a tier: who is left, who is taken back, what the tier sheds. Pure state."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..events import ShiftChanged
from .goals import Burning, Goal, Totals, burning_of
from .place_watch import PlaceWatch
from .ramp import Quota, Ramp
from .shedding import Shedding
from .spot import Pin, Spot, pinned
from .stillness import Stillness
from .tier_calls import TierCalls

if TYPE_CHECKING:
    from .shift import Shift

__all__ = ["LOOK_S", "SET_BACK_S", "Around", "ShiftState"]

LOOK_S = 1.0
"""How often things are looked at, at most; by somebody who calls."""

SET_BACK_S = 1.0
"""By less than this, threads come in another order than they asked for the time."""

CALM_LOAD = 0.8
"""A tier is calm at this share of the load at which it sheds."""


class Around(NamedTuple):
    """What a tier's shifts are told of the rest: its load, if anybody knows; the places that would not serve
    a call now; whether the next tier has room for more; how many attempts have begun so far."""

    level: float | None = None
    closed: Collection[str] = ()
    room: bool = True
    begun: int = 0


class ShiftState:
    """What ``Shifting`` says of shifts, without its lock. ``look`` has to be called from time to time."""

    def __init__(
        self, settings: Shift, *, tier: str, places: Sequence[str], goals: Sequence[Goal], sheds: bool
    ) -> None:
        self.settings = settings
        self.tier = tier
        self.goals = tuple(goals)
        self._sheds = sheds
        self.quota = Quota(settings.max_shifts_per_hour)
        self.shedding = Shedding(
            settings.shed_steps,
            every_s=settings.shed_every_s,
            dwell_s=settings.dwell_s,
            max_dwell_s=settings.max_dwell_s,
            quota=Quota(settings.max_shifts_per_hour),
        )
        self.pin: Pin | None = None
        self.cause = ""
        self.spots = {name: self._spot(name) for name in places}
        self.stuck = False
        """Whether some place burns and calls cannot go anywhere better in the tier."""
        self.calls = TierCalls(self.goals)
        self._stillness = Stillness(LOOK_S)
        self.looked_at = -math.inf
        self.look_at = -math.inf
        self.said: list[ShiftChanged] = []
        """What is to be told, once the lock is free again."""

    def _spot(self, name: str) -> Spot:
        settings, watch = self.settings, PlaceWatch(self.goals)
        # good calls are over sooner than bad ones: a stage lasts until the first have shown what they are
        stage_s = max(settings.stage_s, min(2 * watch.usual_s, settings.probe_s))
        ramp = Ramp(
            settings.stages, dwell_s=settings.dwell_s, max_dwell_s=settings.max_dwell_s, stage_s=stage_s
        )
        return Spot(name, f"{self.tier}/{name}", watch, ramp)

    def share(self, spot: Spot | None) -> float:
        """What a place keeps of its keys, or the tier (``None``) of its calls."""
        if spot is not None:
            return spot.share
        if self.pin is not None:
            return 0.0 if self.pin.away else 1.0
        return 1.0 - self.shedding.share

    # -- looking ---------------------------------------------------------------

    def look(self, now: float, around: Around) -> bool:
        """Take in how things stand, here and around; whether it was time to."""
        if now < self.looked_at - SET_BACK_S:
            self._set_back(self.looked_at - now, now)
        elif now < self.look_at:
            return False  # somebody else just has
        now = max(now, self.looked_at)
        stood = self._stillness.look(self.looked_at, now, around.begun)
        if stood is not None:
            for spot in self.spots.values():
                spot.watch.stood_still(*stood)
        self.looked_at, self.look_at = now, now + LOOK_S
        for spot_or_tier in (*self.spots.values(), None):
            pin = self.pin if spot_or_tier is None else spot_or_tier.pin
            if pin is not None and pin.until is not None and now >= pin.until:
                self.fix(spot_or_tier, None, "the pin has run out", now)
        totals = {name: spot.watch.totals(now) for name, spot in self.spots.items()}
        self.calls.look(totals.values(), now)
        stuck = self._departures(totals, around.closed, now)
        self.stuck = stuck is not None
        self._returns(now)
        self._shed(stuck, around, totals, now)
        return True

    def _set_back(self, by_s: float, now: float) -> None:
        """The clock was set back: what was so long ago before still is."""
        self.looked_at -= by_s
        self.quota.set_back(by_s)
        self.shedding.set_back(by_s)
        self.calls.set_back(now)
        for spot in self.spots.values():
            spot.ramp.set_back(by_s)
            spot.watch.set_back(by_s, now)

    def _departures(
        self, totals: Mapping[str, Totals], closed: Collection[str], now: float
    ) -> Burning | None:
        """Leave the places that burn. What burns and cannot be left, or has nobody better to go to."""
        least = self.settings.min_calls
        burning: dict[str, Burning] = {}
        for name, spot in self.spots.items():
            if spot.share >= 1.0 or self._serves_most(name, totals):
                what = burning_of(self.goals, totals[name], least)
                if what is not None:
                    burning[name] = what
        stuck: Burning | None = None
        for name, what in sorted(burning.items(), key=lambda each: -each[1].share):
            spot = self.spots[name]
            if spot.pin is None and spot.share >= 1.0 and self.quota.room(1, now):
                better = any(
                    other.share >= 1.0
                    and other.name not in burning
                    and other.name not in closed
                    and not other.watch.shares(what, totals[other.name], least)
                    for other in self.spots.values()
                )
                if better or self._hurried_home(closed, now):
                    self.quota.use(now)
                    spot.leave(now)
                    self._say(spot, 1.0, what.words())
                    continue
            stuck = stuck or self.calls.missed(what, least)
        return stuck

    def _serves_most(self, name: str, totals: Mapping[str, Totals]) -> bool:
        """Whether a place that was left still serves most of the calls, since others do not."""
        if self.spots[name].share > 0.0 or self.settings.mode == "observe":
            return False
        counts = {each: max(count for count, _ in of_place[1]) for each, of_place in totals.items()}
        return counts[name] > sum(counts.values()) / 2

    def _hurried_home(self, closed: Collection[str], now: float) -> bool:
        """Take back whole, before its time, a place whose last stage goes well; whether there was one."""
        for spot in self.spots.values():
            ramp = spot.ramp
            if spot.returns and ramp.stage >= 0 and ramp.next_share >= 1.0 and spot.name not in closed:
                trial = spot.watch.tried(now, self.settings.stage_calls)
                if trial.well and self._forward(spot, "it does well, and another one does not", now):
                    return True
        return False

    def _returns(self, now: float) -> None:
        """Go on with the places that are on their way back."""
        for spot in self.spots.values():
            ramp, watch = spot.ramp, spot.watch
            if ramp.since is None or not spot.returns:
                continue
            if ramp.stage < 0:
                if ramp.due(now):
                    self._forward(spot, f"{ramp.dwell_s:g} s have passed", now)
                continue
            before, lasted_s = ramp.share, now - ramp.since
            well, calls, bad, goal = watch.tried(now, self.settings.stage_calls)
            if well is False:
                spot.leave(now)
                cause = f"{bad} of {calls} calls in {lasted_s:.0f} s {goal.words()}"
                self._say(spot, before, f"{cause}; the next try is in {ramp.dwell_s:g} s")
            elif well and ramp.due(now):
                self._forward(spot, f"{calls - bad} of {calls} calls in {lasted_s:.0f} s were good", now)
            elif well is None and lasted_s >= self.settings.probe_s:
                if bad > goal.leave * calls:  # one, and nobody knows whether by chance: once more
                    ramp.since = now
                    watch.try_out(now)
                else:
                    came = f"only {calls} calls" if calls else "no call"
                    said = f"{bad} bad, as may be" if bad else "none was bad"
                    self._forward(spot, f"{came} came within {lasted_s:.0f} s, and {said}", now)

    def _forward(self, spot: Spot, cause: str, now: float) -> bool:
        """The next stage of the way back, if there is room for it."""
        before = spot.ramp.share
        if spot.ramp.next_share >= 1.0:
            if not self.quota.room(2, now):
                return False
            self.quota.use(now)
        spot.forward(now)
        self._say(spot, before, cause)
        return True

    def _shed(
        self, burning: Burning | None, around: Around, totals: Mapping[str, Totals], now: float
    ) -> None:
        """Send a share of the calls on to the next tier, where none of the places is better."""
        most, shedding = self.settings.load, self.shedding
        if self.pin is not None or not self._sheds:
            return
        crowded, calm = False, True
        if most is not None and around.level is not None:
            crowded, calm = around.level >= most, around.level <= CALM_LOAD * most
        before = self.share(None)
        calm = calm and all(
            self.calls.calm(totals[name]) for name, spot in self.spots.items() if spot.share > 0.0
        )
        if shedding.look(crowded or burning is not None, calm, around.room, now):
            if not around.room:
                cause = "the next tier has no room for more, or does badly itself"
            elif burning is not None:
                cause = f"{burning.words()}, and no other deployment does better"
            elif crowded:
                cause = f"the load is {around.level:.2f} of what there is room for"
            else:
                cause = "it has been calm"
            self._say(None, before, cause)
        if burning is not None:
            shedding.spares_sessions = False

    # -- by hand ---------------------------------------------------------------

    def fix(self, spot: Spot | None, pin: Pin | None, cause: str, now: float) -> None:
        """Pin a place, or the tier (``None``), or let it begin anew (``pin=None``)."""
        before = self.share(spot)
        if pin is None and (self.pin if spot is None else spot.pin) is None:
            return
        if spot is None:
            self.pin = pin
            self.shedding.reset()
        else:
            spot.pin = pin
            spot.reset(now)
        self._say(spot, before, cause, by_hand=True)

    def inherit(self, older: ShiftState, same: Collection[str]) -> None:
        """Go on where ``older`` was, with those of its places that are the same."""
        alike = vars(self.settings) == vars(older.settings) and self.goals == older.goals
        for name in same:
            mine, theirs = self.spots[name], older.spots[name]
            if alike:
                self.spots[name] = theirs
            else:
                mine.pin, mine.cause = theirs.pin, theirs.cause if theirs.pin is not None else ""
        self.pin = older.pin if self._sheds or older.pin is None or not older.pin.away else None
        self.quota.inherit(older.quota)
        if alike and self._sheds == older._sheds:
            self.shedding, self.cause = older.shedding, older.cause
            self.calls = older.calls
        else:
            self.shedding.quota.inherit(older.shedding.quota)

    # -- what it says ----------------------------------------------------------

    def _say(self, spot: Spot | None, before: float, cause: str, *, by_hand: bool = False) -> None:
        if spot is None:
            self.cause = cause
        else:
            spot.cause = cause
        self.said.append(
            ShiftChanged(
                tier=self.tier,
                deployment=None if spot is None else spot.name,
                share=self.share(spot),
                before=before,
                cause=cause,
                pinned=by_hand,
                mode="enforce" if by_hand else self.settings.mode,
            )
        )

    def status(self, now: float) -> dict[str, Any]:
        return {
            "mode": self.settings.mode,
            "places": {name: spot.status(now) for name, spot in self.spots.items()},
            "share": self.share(None),
            "cause": self.cause,
            "pinned": pinned(self.pin, now),
            "shifts_last_hour": self.quota.used(now),
            "sheds_last_hour": self.shedding.quota.used(now),
            "max_shifts_per_hour": self.quota.most,
        }

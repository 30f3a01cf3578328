"""The shifts of a tier: who is left, who is taken back, what the tier sheds. Pure state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..events import ShiftChanged
from .goals import SPANS_S, Burning, Goal
from .place_watch import PlaceWatch, Totals
from .ramp import Quota, Ramp
from .shedding import Shedding

if TYPE_CHECKING:
    from .shift import Shift

__all__ = ["LOOK_S", "SET_BACK_S", "Pin", "ShiftState", "Spot"]

LOOK_S = 1.0
"""How often things are looked at, at most; by somebody who calls."""

SET_BACK_S = 1.0
"""By less than this, threads come in another order than they asked for the time."""

CALM_LOAD = 0.8
"""A tier is calm at this share of the load at which it sheds."""


class Pin(NamedTuple):
    """What was decided by hand, and until when."""

    away: bool
    until: float | None


class Spot:
    """A place, what came of its calls, and the share of its keys that it has."""

    __slots__ = ("cause", "name", "pin", "ramp", "salt", "watch")

    def __init__(self, name: str, salt: str, watch: PlaceWatch, ramp: Ramp) -> None:
        self.name = name
        self.salt = salt
        self.watch = watch
        self.ramp = ramp
        self.pin: Pin | None = None
        self.cause = ""

    @property
    def share(self) -> float:
        if self.pin is not None:
            return 0.0 if self.pin.away else 1.0
        return self.ramp.share


class ShiftState:
    """What ``Shifting`` says of shifts, without its lock. ``look`` has to be called from time to time."""

    def __init__(
        self, settings: Shift, *, tier: str, places: Sequence[str], goals: Sequence[Goal], sheds: bool
    ) -> None:
        self.settings = settings
        self.tier = tier
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
        self.spots = {name: self._spot(name, goals) for name in places}
        self.looked_at = -math.inf
        self.look_at = -math.inf
        self.said: list[ShiftChanged] = []
        """What is to be told, once the lock is free again."""

    def _spot(self, name: str, goals: Sequence[Goal]) -> Spot:
        settings, watch = self.settings, PlaceWatch(goals)
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

    def look(self, now: float, level: float | None) -> bool:
        """Take in how things stand, and the tier's load; whether it was time to."""
        if now < self.looked_at - SET_BACK_S:
            self._set_back(self.looked_at - now, now)
        elif now < self.look_at:
            return False  # somebody else just has
        now = max(now, self.looked_at)
        self.looked_at, self.look_at = now, now + LOOK_S
        for spot in (*self.spots.values(), None):
            pin = self.pin if spot is None else spot.pin
            if pin is not None and pin.until is not None and now >= pin.until:
                self.fix(spot, None, "the pin has run out", now)
        totals = {name: spot.watch.totals(now) for name, spot in self.spots.items()}
        stuck = self._departures(totals, now)
        self._returns(now)
        self._shed(stuck, level, totals, now)
        return True

    def _set_back(self, by_s: float, now: float) -> None:
        """The clock was set back: what was so long ago before still is."""
        self.looked_at -= by_s
        self.quota.set_back(by_s)
        self.shedding.set_back(by_s)
        for spot in self.spots.values():
            spot.ramp.set_back(by_s)
            spot.watch.set_back(by_s, now)

    def _departures(self, totals: Mapping[str, Totals], now: float) -> Burning | None:
        """Leave the places that burn. What burns and cannot be left, or has nobody better to go to."""
        least = self.settings.min_calls
        burning: dict[str, Burning] = {}
        for name, spot in self.spots.items():
            if spot.share >= 1.0:
                what = spot.watch.burning(totals[name], least)
                if what is not None:
                    burning[name] = what
        stuck = None
        for name, what in sorted(burning.items(), key=lambda each: -each[1].share):
            spot = self.spots[name]
            better = any(
                other.share >= 1.0
                and other.name not in burning
                and not other.watch.shares(what, totals[other.name], least)
                for other in self.spots.values()
            )
            if better and spot.pin is None and self.quota.room(1, now):
                self.quota.use(now)
                spot.ramp.leave(now)
                spot.watch.try_out(None)
                self._say(spot, 1.0, what.words())
            else:
                stuck = stuck or what
        return stuck

    def _returns(self, now: float) -> None:
        """Go on with the places that are on their way back."""
        for spot in self.spots.values():
            ramp, watch = spot.ramp, spot.watch
            if ramp.since is None or ramp.home or spot.pin is not None:
                continue
            if ramp.stage < 0:
                if ramp.due(now):
                    self._forward(spot, f"{ramp.dwell_s:g} s have passed", now)
                continue
            before, lasted_s = ramp.share, now - ramp.since
            well, calls, bad, goal = watch.tried(now, self.settings.stage_calls)
            if well is False:
                ramp.leave(now)
                watch.try_out(None)
                cause = f"{bad} of {calls} calls in {lasted_s:.0f} s {goal.words()}"
                self._say(spot, before, f"{cause}; the next try is in {ramp.dwell_s:g} s")
            elif well and ramp.due(now):
                self._forward(spot, f"{calls - bad} of {calls} calls in {lasted_s:.0f} s were good", now)
            elif well is None and lasted_s >= self.settings.probe_s:
                if bad:  # one, and nobody knows whether by chance: once more
                    ramp.since = now
                    watch.try_out(now)
                else:
                    came = f"only {calls} calls" if calls else "no call"
                    self._forward(spot, f"{came} came within {lasted_s:.0f} s, and none was bad", now)

    def _forward(self, spot: Spot, cause: str, now: float) -> None:
        """The next stage of the way back."""
        before = spot.ramp.share
        if spot.ramp.next_share >= 1.0:
            if not self.quota.room(2, now):
                return
            self.quota.use(now)
        spot.ramp.forward(now)
        if spot.ramp.home:
            spot.watch.try_out(None)
            spot.watch.forget(now)
        else:
            spot.watch.try_out(now)
        self._say(spot, before, cause)

    def _shed(
        self, burning: Burning | None, level: float | None, totals: Mapping[str, Totals], now: float
    ) -> None:
        """Send a share of the calls on to the next tier, where none of the places is better."""
        most, shedding = self.settings.load, self.shedding
        if self.pin is not None or not self._sheds:
            return
        crowded, calm = False, True
        if most is not None and level is not None:
            crowded, calm = level >= most, level <= CALM_LOAD * most
        calm = calm and all(
            spot.watch.calm(totals[name]) for name, spot in self.spots.items() if spot.share > 0.0
        )
        before = self.share(None)
        if shedding.look(crowded or burning is not None, calm, now):
            if burning is not None:
                cause = f"{burning.words()}, and no other deployment does better"
            else:
                cause = (
                    f"the load is {level:.2f} of what there is room for" if crowded else "it has been calm"
                )
            self._say(None, before, cause)
        if burning is not None:
            shedding.spares_sessions = False

    # -- by hand ---------------------------------------------------------------

    def fix(self, spot: Spot | None, pin: Pin | None, cause: str, now: float) -> None:
        """Pin a place, or the tier (``None``), or let it begin anew (``pin=None``)."""
        before = self.share(spot)
        if spot is None:
            if pin is None and self.pin is None:
                return
            self.pin = pin
            self.shedding.reset()
        else:
            if pin is None and spot.pin is None:
                return
            spot.pin = pin
            spot.ramp.reset()
            spot.watch.forget(now)
            spot.watch.try_out(None)
        self._say(spot, before, cause, by_hand=True)

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
            "places": {name: _standing(spot, now) for name, spot in self.spots.items()},
            "share": self.share(None),
            "cause": self.cause,
            "pinned": _pinned(self.pin, now),
            "shifts_last_hour": self.quota.used(now),
            "sheds_last_hour": self.shedding.quota.used(now),
            "max_shifts_per_hour": self.quota.most,
        }


def _standing(spot: Spot, now: float) -> dict[str, Any]:
    totals = spot.watch.totals(now)
    return {
        "share": spot.share,
        "cause": spot.cause,
        "pinned": _pinned(spot.pin, now),
        "since_s": None if spot.ramp.since is None else max(0.0, now - spot.ramp.since),
        "dwell_s": spot.ramp.dwell_s,
        "under_way": spot.watch.under_way,
        "windows": {
            goal.name: {
                f"{span_s:g}s": dict(zip(("calls", "bad"), totals[span][at], strict=True))
                for span, span_s in enumerate(SPANS_S)
            }
            for at, goal in enumerate(spot.watch.goals)
        },
    }


def _pinned(pin: Pin | None, now: float) -> dict[str, Any] | None:
    if pin is None:
        return None
    return {"away": pin.away, "for_s": None if pin.until is None else max(0.0, pin.until - now)}

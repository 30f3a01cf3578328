"""A place of a tier as shifts see it: what came of its calls, and which share of its keys it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .goals import SPANS_S

if TYPE_CHECKING:
    from .place_watch import PlaceWatch
    from .ramp import Ramp

__all__ = ["Pin", "Spot", "pinned"]


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

    @property
    def returns(self) -> bool:
        """Whether it is left, or on its way back."""
        return self.pin is None and self.ramp.since is not None and not self.ramp.home

    def leave(self, now: float) -> None:
        """Everybody away. What began before says nothing of what comes."""
        self.ramp.leave(now)
        self.watch.try_out(None)
        self.watch.forget(now)

    def forward(self, now: float) -> None:
        """The next stage of the way back."""
        first = self.ramp.stage < 0
        self.ramp.forward(now)
        if self.ramp.home:
            self.watch.try_out(None)
            self.watch.forget(now, since=now if first else self.watch.since)
        else:
            if first:
                self.watch.forget(now)
            self.watch.try_out(now)

    def reset(self, now: float) -> None:
        """Home, as if nothing had been."""
        self.ramp.reset()
        self.watch.try_out(None)
        self.watch.forget(now)

    def status(self, now: float) -> dict[str, Any]:
        totals = self.watch.totals(now)
        return {
            "share": self.share,
            "cause": self.cause,
            "pinned": pinned(self.pin, now),
            "since_s": None if self.ramp.since is None else max(0.0, now - self.ramp.since),
            "dwell_s": self.ramp.dwell_s,
            "under_way": len(self.watch.under_way),
            "windows": {
                goal.name: {
                    f"{span_s:g}s": dict(zip(("calls", "bad"), totals[span][at], strict=True))
                    for span, span_s in enumerate(SPANS_S)
                }
                for at, goal in enumerate(self.watch.goals)
            },
        }


def pinned(pin: Pin | None, now: float) -> dict[str, Any] | None:
    if pin is None:
        return None
    return {"away": pin.away, "for_s": None if pin.until is None else max(0.0, pin.until - now)}

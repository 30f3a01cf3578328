"""What an answer tells of where a session is: bound, moved, or back at home."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ..events import Event, SessionMoved
from ..types import Candidate
from .bindings import Binding, Bindings
from .sticky_rule import GOES_HOME, IS_LIFTED, IS_SENT, STAYS

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..types import Call
    from .bindings import Returns
    from .course import Course
    from .shared_bindings import SharedBindings

__all__ = ["Homing"]

Place = tuple[str, str]

MISSES: Final = 3
"""So many answers in a row from elsewhere, and the session is there."""


class Homing:
    """The part of ``Sticking`` that comes after the answer."""

    mode: str
    table: Bindings
    shared: SharedBindings | None
    returns: Returns
    level: Mapping[str, int]
    bound: int
    kept: int
    elsewhere: int
    left: int
    returned: int
    _chosen: bool
    _clock: Clock
    _usable: Callable[[Call, str, str], bool]
    _emit: Callable[[Event], None] | None

    def _bind(self, key: str, call: Call, binding: Binding | None, place: Place) -> None:
        """It was answered where routing led: there it is bound, at home in the tier it was to begin in.

        A tier that the caller has named, or that this one call was important enough for, is nobody's home;
        nor is one that difficulty chose for a call of a user.
        """
        course, plan, now = call.course, call.plan, self._clock()
        assert course is not None
        assert plan is not None
        loose = _is_named(call) or (self._chosen and key[0] == "u")
        if loose and binding is not None:
            self._loosely(key, call, binding, place, now)
            return
        home = place
        if not loose and course.home is not None and course.home != place[0] and course.home in self.level:
            home = (course.home, "")
        back_at = now if home is place else now + self.returns.wait_s(home, place, self.level)
        why = "" if home is place else self._cause(call, course, home)
        granted = plan.highest
        if binding is None:
            fresh = Binding(place, now)
            fresh.home, fresh.why, fresh.back_at = home, why, back_at
            fresh.granted, fresh.loose = granted, loose
            if self.table.add(key, fresh, now) is fresh:
                self.bound += 1
                if self.shared is not None:
                    self.shared.later(key, fresh)
            return
        before = binding.place
        given: dict[str, Any] = {"home": home, "granted": granted, "why": why, "back_at": back_at}
        if self.table.found(binding, place, now=now, **given):
            self.bound += 1
            if place != before:
                self._moved(key, call, binding, before, why or "routing")
            elif self.shared is not None:
                self.shared.later(key, binding)

    def _loosely(self, key: str, call: Call, binding: Binding, place: Place, now: float) -> None:
        """Its deployment is the one it was last at, in the tier that it is sent to for long."""
        course = call.course
        assert course is not None
        if place == binding.place or self.mode == "observe":
            self._stayed(key, binding, STAYS)
            return
        self.elsewhere += 1
        if place[0] == binding.place[0]:
            binding.misses += 1
            if binding.misses >= MISSES or not self._well(call, course, binding.place):
                self._settle(key, call, binding, place, self._cause(call, course, binding.place), now)
        elif self.returns.cold(binding, now):
            self._settle(key, call, binding, place, "tier", now)

    def _stayed(self, key: str, binding: Binding, does: str) -> None:
        """It was answered where it is."""
        now = self._clock()
        self.kept += 1
        binding.misses = 0
        binding.used_at = now
        if does == GOES_HOME:
            self._put_off(binding, now)
        if self.shared is not None and self.shared.due(binding, now):
            self.shared.later(key, binding)

    def _strayed(self, key: str, call: Call, binding: Binding, does: str, place: Place) -> None:
        """It was answered elsewhere: that is where it is now, if its own place is not well or it was sent."""
        now = self._clock()
        self.elsewhere += 1
        course = call.course
        assert course is not None
        if self.mode == "observe" and does in (STAYS, GOES_HOME):
            self._observed(key, call, binding, does, now)
        elif does == IS_LIFTED or binding.home[0] not in self.level:
            self._settle(key, call, binding, place, "floor", now)
        elif does == IS_SENT:
            if place == binding.home:
                self._move(key, call, binding, place, "home", now)
            elif place[0] == course.home and not _is_named(call) and self.returns.cold(binding, now):
                self._settle(key, call, binding, place, "tier", now)
        elif does == GOES_HOME and place != binding.home and not self._nearer(place, binding):
            self._put_off(binding, now)
        elif does != STAYS:
            self._move(key, call, binding, place, self._cause(call, course, binding.place), now)
        else:
            binding.misses += 1
            if binding.misses >= MISSES or not self._well(call, course, binding.place):
                self._move(key, call, binding, place, self._cause(call, course, binding.place), now)

    def _observed(self, key: str, call: Call, binding: Binding, does: str, now: float) -> None:
        if does == GOES_HOME:
            self._move(key, call, binding, binding.home, "home", now)
        binding.used_at = now
        if call.trace is not None:
            call.trace.candidates.append(Candidate(*binding.place, "observed: session"))

    def _well(self, call: Call, course: Course, place: Place) -> bool:
        return place not in course.avoid and self._usable(call, *place)

    def _put_off(self, binding: Binding, now: float) -> None:
        """Home did not answer: look for the way back later."""
        binding.back_at = now + self.returns.wait_s(binding.home, binding.place, self.level)

    def _nearer(self, place: Place, binding: Binding) -> bool:
        """Whether the tier of ``place`` is nearer to home than where it is now."""
        lowest = len(self.level)
        home, here, there = (self.level.get(each[0], lowest) for each in (binding.home, binding.place, place))
        return abs(there - home) < abs(here - home)

    def _move(self, key: str, call: Call, binding: Binding, place: Place, cause: str, now: float) -> None:
        before = binding.place
        cause = "home" if place == binding.home else cause
        back_at = now + self.returns.wait_s(binding.home, place, self.level)
        if self.table.move(binding, place, cause, now, back_at):
            self._moved(key, call, binding, before, cause)

    def _settle(self, key: str, call: Call, binding: Binding, place: Place, cause: str, now: float) -> None:
        before = binding.place
        granted = "" if binding.loose or call.plan is None else call.plan.highest
        if self.table.settle(binding, place, now, granted):
            self._moved(key, call, binding, before, cause)

    def _moved(self, key: str, call: Call, binding: Binding, before: Place, cause: str) -> None:
        if cause == "home":
            self.returned += 1
        else:
            self.left += 1
        if self.shared is not None:
            self.shared.later(key, binding)
        if self._emit is not None and before != binding.place:
            self._emit(
                SessionMoved(
                    trace_id="" if call.trace is None else call.trace.id,
                    from_tier=before[0],
                    from_deployment=before[1],
                    to_tier=binding.place[0],
                    to_deployment=binding.place[1],
                    cause=cause,
                    mode=self.mode,
                )
            )

    def _cause(self, call: Call, course: Course, place: Place) -> str:
        """Why ``place`` did not answer, as the trace has it."""
        tier, deployment = place
        if place in course.avoid:
            return "shift"
        told = [
            candidate.reason
            for candidate in (() if call.trace is None else call.trace.candidates)
            if candidate.tier == tier and (not deployment or candidate.deployment in (deployment, "*"))
        ]
        reasons = [reason for reason in told if reason is not None and reason != "session"]
        return reasons[-1] if reasons else "unusable"


def _is_named(call: Call) -> bool:
    """Whether its tier is that of this one call: the caller has named it, or it was important enough."""
    return call.request.sla is not None or (call.course is not None and call.course.important)

"""Sticky sessions at work: before a call where it is to go, after its answer where its session is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..events import Event, SessionMoved
from ..pipeline.fork import renew_after_fork
from ..types import Candidate
from .bindings import Binding, Bindings
from .course import Course, key_of
from .shared_bindings import SharedBindings
from .sticky_rule import GOES_HOME, IS_LIFTED, IS_SENT, LEAVES, STAYS, way_of

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Flow, Handler
    from ..stores import Store
    from ..types import Call, Request, Response
    from .sticky import StickySessions

__all__ = ["Sticking"]

Place = tuple[str, str]

MISSES: Final = 3
"""So many answers in a row from elsewhere, and the session is there."""


class Sticking:
    """The policy of ``StickySessions`` in one client: it stands outside the cache. Thread-safe."""

    def __init__(
        self,
        settings: StickySessions,
        *,
        clock: Clock,
        wall: Clock,
        store: Store | None,
        usable: Callable[[Call, str, str], bool],
        tiers: Sequence[str],
        emit: Callable[[Event], None] | None = None,
        soon: Callable[[Callable[[], object]], object] | None = None,
        before: Sticking | None = None,
        settle: Callable[[Call], None] | None = None,
        chosen: bool = False,
    ) -> None:
        self.per = settings.per
        self.mode = settings.mode
        self.returns = settings.returns
        self.table: Bindings = Bindings(settings.max_sessions, settings.ttl_s)
        if before is not None and (before.per, before.mode) == (self.per, self.mode):
            self.table = before.table
            self.table.resize(settings.max_sessions, settings.ttl_s)
        self.level = {tier: number for number, tier in enumerate(tiers)}
        self.shared: SharedBindings | None = None
        if store is not None and store.shared and settings.shared and self.mode == "enforce":
            self.shared = SharedBindings(
                store,
                self.table,
                returns=self.returns,
                level=self.level,
                clock=clock,
                wall=wall,
                soon=soon,
                salt=settings.salt,
            )
        self.bound = self.kept = self.elsewhere = self.left = self.returned = 0
        self._clock = clock
        self._usable = usable
        self._emit = emit
        self._settle_plan = settle
        self._chosen = chosen
        renew_after_fork(self)

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        course, plan = call.course, call.plan
        if plan is None:
            return await call_next(call)
        if course is None:
            course = call.course = Course(self.key_of(call.request) or key_of(call.request))
        own = call.copy()  # who stands further out may call on twice
        course.bound, course.prefer, course.home = False, None, plan.highest
        key = course.key if self.per == "session" else self.key_of(call.request)
        if not key:
            return await self._go(own, call_next)
        now = self._clock()
        binding = self.table.get(key, now)
        if binding is None and self.shared is not None:
            binding = await self.shared.fetch(key)
        if binding is None or self._is_free(key, call.request, course, binding):
            if binding is not None and self.mode == "enforce":
                course.prefer = binding.place  # should it come to that tier
            response = await self._go(own, call_next)
            if not response.cached and response.tier and response.deployment:
                self._bind(key, own, binding, (response.tier, response.deployment))
            return response
        before = binding.place
        does = self._steer(own, course, binding, now)
        response = await self._go(own, call_next)
        if not response.cached and response.tier and response.deployment:
            place = (response.tier, response.deployment)
            if does == STAYS and course.home == before[0] and self._is_sent_on(own, before):
                does = LEAVES
            if not binding.home[1] and binding.home[0] == place[0]:
                self.table.name_home(binding, place)
            if place == binding.place and not (does == GOES_HOME and self.mode == "observe"):
                self._stayed(key, binding, does)
            elif before is binding.place:  # else another call of this session has moved it meanwhile
                self._strayed(key, own, binding, does, place)
        return response

    def _go(self, call: Call, call_next: Handler) -> Flow[Response]:
        """On to the tier that was chosen, or to where that one sends it."""
        if self._settle_plan is not None:
            self._settle_plan(call)
        return call_next(call)

    def _is_sent_on(self, call: Call, place: Place) -> bool:
        """Whether the tier of ``place``, where it was to begin, has sent it down."""
        return call.plan is not None and call.plan.granted != place[0]

    def key_of(self, request: Request) -> str:
        """Under which key the call's session is bound; empty: it is not."""
        if self.per == "user":
            return "" if request.user is None else f"u:{request.tenant or ''}\0{request.user}"
        return "" if request.session is None and self.per != "session" else key_of(request)

    def _is_free(self, key: str, request: Request, course: Course, binding: Binding) -> bool:
        """Whether the call is not held in the tier of ``binding``: that is loose, or was made for calls that
        routing sent to a lower tier than it does now, or difficulty is to decide anew on each of a user's."""
        if binding.loose or (self._chosen and key[0] == "u"):
            return True
        granted = binding.granted
        if not granted or granted == course.home or course.fixed or course.important:
            return False
        assert course.home is not None
        lowest = len(self.level)
        return self.level.get(course.home, lowest) < self.level.get(granted, lowest)

    # -- before ------------------------------------------------------------------

    def _steer(self, call: Call, course: Course, binding: Binding, now: float) -> str:
        """Send the call where its session is, or is to be; and what that is."""
        plan = call.plan
        assert plan is not None
        place = binding.place
        at_home = place is binding.home and place[0] == plan.tiers[0] and self.mode == "enforce"
        if at_home and self._well(call, course, place):
            # as nearly always
            course.bound, course.prefer, course.home = not course.fixed, place, place[0]
            return STAYS
        does, tier, deployment = way_of(
            binding,
            plan,
            course,
            usable=partial(self._usable, call),
            returns=self.returns,
            level=self.level,
            now=now,
        )
        if self.mode == "observe":
            return does
        if does == IS_SENT:
            course.prefer = place  # should it come to that tier
            return does
        course.bound = not course.fixed
        if deployment:
            course.prefer = (tier, deployment)
        if tier:
            course.home = tier
            if tier != plan.tiers[0]:
                call.plan = plan.starting_at(tier)
                if call.trace is not None:
                    skipped = plan.tiers[: plan.tiers.index(tier)]
                    call.trace.granted = tier
                    call.trace.candidates += [Candidate(each, "*", "session") for each in skipped]
        return does

    # -- after -------------------------------------------------------------------

    def _bind(self, key: str, call: Call, binding: Binding | None, place: Place) -> None:
        """It was answered where routing led: there it is bound, at home in the tier it was to begin in.

        A tier that the caller has named, or that this one call was important enough for, is nobody's home;
        nor is one that difficulty chose for a call of a user.
        """
        course, plan, now = call.course, call.plan, self._clock()
        assert course is not None
        assert plan is not None
        loose = call.request.sla is not None or course.important or (self._chosen and key[0] == "u")
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
            elif self.returns.cold(binding, now) and not (course.important or call.request.sla is not None):
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
        if self.table.settle(binding, place, now):
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

    # -- watching ----------------------------------------------------------------

    def binding(
        self, *, session: str | None = None, user: str | None = None, tenant: str | None = None
    ) -> Binding | None:
        """Where that session (or user) is, as far as this process knows."""
        from ..types import Request

        request = Request(messages=(), session=session, user=user, tenant=tenant)
        key = self.key_of(request)
        return self.table.get(key, self._clock()) if key else None

    def status(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "sessions": len(self.table),
            "evicted": self.table.evicted,
            "bound": self.bound,
            "kept": self.kept,
            "elsewhere": self.elsewhere,
            "left": self.left,
            "returned": self.returned,
            "places": self.table.counts(self._clock()),
            "store": None if self.shared is None else self.shared.status(),
        }

    def renew(self) -> None:
        """After a fork."""
        self.table.renew()
        if self.shared is not None:
            self.shared.renew()

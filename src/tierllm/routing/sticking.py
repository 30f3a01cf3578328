"""Sticky sessions at work: before a call where it is to go, after its answer where its session is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..events import Event
from ..pipeline.fork import renew_after_fork
from ..types import Candidate
from .bindings import Binding, Bindings
from .course import Course, key_of
from .homing import Homing
from .shared_bindings import SharedBindings
from .sticky_rule import GOES_HOME, IS_SENT, LEAVES, STAYS, way_of

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Flow, Handler
    from ..stores import Store
    from ..types import Call, Request, Response
    from .sticky import StickySessions

__all__ = ["Sticking"]

Place = tuple[str, str]


class Sticking(Homing):
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
        before = None if binding is None else binding.place
        if binding is None or before is None or self._is_free(key, course, binding):
            if self.mode == "enforce":
                course.prefer = before  # should it come to that tier
            response = await self._go(own, call_next)
            own_place = not response.cached and response.tier and response.deployment
            if own_place and (binding is None or binding.place is before):
                self._bind(key, own, binding, (response.tier or "", response.deployment or ""))
            return response
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

    def _is_free(self, key: str, course: Course, binding: Binding) -> bool:
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

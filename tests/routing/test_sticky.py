"""Sticky sessions: who is bound where, when it leaves, when it comes back, and what is shared."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.forms import Form, every_form
from stores.ground import SPAWN, Server, eventually, opened
from tierllm import CircuitBreaker, Deployment, ResultCache, Tier, TieredClient
from tierllm.errors import ConfigError, ProviderUnavailableError, StoreUnavailableError
from tierllm.events import Event, SessionMoved
from tierllm.pipeline.effects import Blocking, Flow
from tierllm.routing.bindings import HOUR_S, MOST_MOVES, Binding, Returns
from tierllm.routing.course import Course, key_of
from tierllm.routing.homing import MISSES
from tierllm.routing.plan import Plan
from tierllm.routing.shared_bindings import COMPLAIN_AGAIN_S, SharedBindings
from tierllm.routing.sticking import Sticking
from tierllm.routing.sticky import StickySessions
from tierllm.routing.sticky_rule import LEAVES, STAYS, Way, way_of
from tierllm.stores import Store
from tierllm.testing import FakeProvider
from tierllm.types import Call, Candidate, Request, Response, Trace

A, B, C, D, E = ("gold", "a"), ("gold", "b"), ("silver", "c"), ("silver", "d"), ("bronze", "e")
PLACES = [A, B, C, D, E]
TIERS = ("gold", "silver", "bronze")
FULL = Plan("gold", TIERS)
Place = tuple[str, str]


def ended(flow: Flow[Response]) -> tuple[Response, int]:
    """The flow's answer, and how often it had to do I/O."""
    blocked = 0
    answer: Any = None
    while True:
        try:
            effect = flow.send(answer)
        except StopIteration as stopped:
            return stopped.value, blocked
        assert isinstance(effect, Blocking)
        blocked += 1
        answer = effect.fn()


class World:
    """A client's worth of places that are well or not, in time of its own."""

    def __init__(self, *, store: Store | None = None, wall: float = 1e9, **given: Any) -> None:
        self.now = 0.0
        self.wall = wall
        self.ill: set[Place] = set()
        self.events: list[SessionMoved] = []
        self.moved_at: list[float] = []
        self.work: list[Callable[[], object]] = []
        self.inner: Call
        self.sticking: Sticking = StickySessions(**given).bound(
            clock=lambda: self.now,
            wall=lambda: self.wall + self.now,
            store=store,
            usable=self.usable,
            tiers=TIERS,
            emit=self.heard,
            soon=self.work.append,
        )

    def heard(self, event: Event) -> None:
        assert isinstance(event, SessionMoved)
        self.events.append(event)
        self.moved_at.append(self.now)

    def usable(self, call: Call, tier: str, deployment: str) -> bool:
        places = [place for place in PLACES if place[0] == tier and deployment in ("", place[1])]
        return any(place not in self.ill for place in places)

    def ready(self, session: str | None = "s1", plan: Plan = FULL, **given: Any) -> Call:
        course_given = {n: given.pop(n) for n in ("fixed", "important", "avoid") if n in given}
        call = Call(Request(messages=(), session=session, **given), trace=Trace("t"))
        call.plan = plan
        call.course = Course(key_of(call.request))
        for name, value in course_given.items():
            setattr(call.course, name, value)
        return call

    def places_of(self, call: Call) -> Sequence[Place]:
        """In which order a client would ask."""
        assert call.plan is not None
        assert call.course is not None
        prefer, avoid = call.course.prefer, call.course.avoid
        return [
            place
            for tier in call.plan.tiers
            for place in sorted(
                (place for place in PLACES if place[0] == tier),
                key=lambda place: (place in avoid, place != prefer),
            )
        ]

    async def client(self, call: Call) -> Response:
        self.inner = call
        for place in self.places_of(call):
            if place not in self.ill:
                return Response(tier=place[0], deployment=place[1])
            assert call.trace is not None
            call.trace.candidates.append(Candidate(*place, "breaker"))
        raise ProviderUnavailableError("every place is out")

    def call(self, session: str | None = "s1", plan: Plan = FULL, **given: Any) -> Place:
        """Where a call was answered, a second after the last one."""
        self.now += 1
        response, self.blocked = ended(self.sticking(self.ready(session, plan, **given), self.client))
        assert response.tier
        assert response.deployment
        return response.tier, response.deployment

    def answered(self, call: Call, place: Place, **fields: Any) -> None:
        """A call that is answered at ``place``, whatever it asked for."""

        async def inside(own: Call) -> Response:
            assert own.course is not None
            self.inner = own
            if not own.course.bound and not own.course.fixed:
                own.course.home = place[0]  # difficulty has chosen it
            return Response(tier=place[0], deployment=place[1], **fields)

        self.now += 1
        ended(self.sticking(call, inside))

    def background(self) -> None:
        while self.work:
            self.work.pop(0)()

    @property
    def place(self) -> Place:
        found = self.sticking.binding(session="s1")
        assert found is not None
        return found.place


# -- binding --------------------------------------------------------------------------


def test_a_session_stays_where_it_was_first_answered() -> None:
    world = World()
    world.ill = {A}
    assert world.call() == B
    world.ill = set()
    assert [world.call() for _ in range(5)] == [B] * 5
    assert world.call("another") == A
    assert world.events == []
    status = world.sticking.status()
    assert (status["bound"], status["kept"], status["sessions"]) == (2, 5, 2)
    assert status["places"] == {"gold/b": 1, "gold/a": 1}


def test_a_bound_call_begins_in_its_tier_and_difficulty_has_no_say() -> None:
    world = World()
    world.answered(world.ready(), C)
    call = world.ready()
    world.answered(call, C)
    assert call.plan is FULL  # who stands further out may call on twice
    assert world.inner.plan is not None
    assert call.course is not None
    assert call.trace is not None
    assert world.inner.plan.tiers == ("silver", "bronze", "gold")
    assert (world.inner.plan.granted, world.inner.plan.raised) == ("silver", 1)
    assert (call.course.bound, call.course.fixed) == (True, False)
    assert call.course.prefer == C
    assert call.trace.granted == "silver"
    assert call.trace.candidates == [Candidate("gold", "*", "session")]


def test_a_new_session_is_left_to_difficulty() -> None:
    world = World()
    call = world.ready()
    world.answered(call, C)
    assert call.course is not None
    assert not call.course.fixed
    assert not call.course.bound
    assert call.course.prefer is None
    assert world.inner.plan is FULL


@pytest.mark.parametrize(
    ("per", "given", "bound"),
    [
        ("session", {"session": "s1"}, True),
        ("session", {"session": None, "user": "u1"}, True),
        ("session", {"session": None}, False),
        ("session only", {"session": "s1"}, True),
        ("session only", {"session": None, "user": "u1"}, False),
        ("user", {"session": None, "user": "u1"}, True),
        ("user", {"session": "s1"}, False),
    ],
)
def test_who_is_bound(per: Any, given: dict[str, Any], bound: bool) -> None:
    world = World(per=per)
    world.ill = {A}
    world.call(**given)
    world.ill = set()
    assert (world.call(**given) == B) is bound


def test_by_user_two_sessions_are_one() -> None:
    world = World(per="user")
    world.ill = {A}
    world.call("s1", user="u1")
    world.ill = set()
    assert world.call("s2", user="u1") == B
    assert world.call("s2", user="u1", tenant="acme") == A


def test_sessions_of_two_tenants_are_two() -> None:
    world = World()
    world.ill = {A}
    world.call("s1", tenant="acme")
    world.ill = set()
    assert world.call("s1", tenant="other") == A
    assert world.call("s1", tenant="acme") == B


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({"cached": True, "tier": "gold", "deployment": "b"}, id="cached"),
        pytest.param({"degraded": ("simple_reply",)}, id="the application's own"),
    ],
)
def test_what_no_provider_was_asked_for_binds_nothing(answer: dict[str, Any]) -> None:
    world = World()

    async def inside(_: Call) -> Response:
        return Response(**answer)

    ended(world.sticking(world.ready(), inside))
    assert world.sticking.binding(session="s1") is None
    world.call()
    ended(world.sticking(world.ready(), inside))
    assert world.place == A


def test_a_failed_call_binds_nothing_and_changes_nothing() -> None:
    world = World()
    world.ill = set(PLACES)
    with pytest.raises(ProviderUnavailableError):
        world.call()
    assert len(world.sticking.table) == 0
    world.ill = set()
    world.call()
    world.ill = set(PLACES)
    with pytest.raises(ProviderUnavailableError):
        world.call()
    world.ill = set()
    assert world.place == A
    assert world.events == []


def test_a_cancelled_call_changes_nothing() -> None:
    world = World()
    world.call()

    async def inside(_: Call) -> Response:
        await Blocking(lambda: None)
        raise AssertionError

    world.ill = {A}
    flow = world.sticking(world.ready(), inside)
    flow.send(None)
    flow.close()
    assert world.place == A


def test_of_two_first_calls_at_once_the_one_that_is_answered_first_binds() -> None:
    world = World()
    slow = world.ready()

    async def inside(own: Call) -> Response:
        world.ill = {A}
        assert world.call() == B  # begun later, answered before
        return Response(tier="gold", deployment="a")

    ended(world.sticking(slow, inside))
    binding = world.sticking.binding(session="s1")
    assert binding is not None
    assert (binding.home, binding.place) == (B, B)
    assert (world.sticking.bound, world.events) == (1, [])


def test_it_is_forgotten_when_it_was_not_used_for_long() -> None:
    world = World(ttl_s=600)
    world.ill = {A}
    world.call()
    world.ill = set()
    world.now += 598
    assert world.call() == B
    world.now += 600
    assert world.call() == A


# -- leaving ----------------------------------------------------------------------------


def test_it_leaves_a_place_that_is_out_and_says_so() -> None:
    world = World()
    world.call()
    world.ill = {A}
    assert world.call() == B
    world.ill = set()
    assert world.call() == B  # and does not run back at once
    [event] = world.events
    assert (event.from_tier, event.from_deployment) == A
    assert (event.to_tier, event.to_deployment) == B
    assert (event.cause, event.mode, event.trace_id) == ("breaker", "enforce", "t")
    binding = world.sticking.binding(session="s1")
    assert binding is not None
    assert (binding.home, binding.place, binding.since, binding.why) == (A, B, 2, "breaker")


def test_it_leaves_a_place_that_is_shifted_away_from() -> None:
    world = World()
    world.call()
    assert world.call(avoid={A}) == B
    assert world.place == B
    assert world.events[0].cause == "shift"


def test_the_other_places_of_its_tier_come_first() -> None:
    world = World()
    world.answered(world.ready(), C)
    world.ill = {C}
    assert world.call() == D


def test_where_its_tier_is_out_it_goes_home_first() -> None:
    world = World()
    world.call()
    world.ill = {A, B}
    assert world.call() == C
    world.ill = {C, D}
    assert world.call() == A
    assert [event.cause for event in world.events] == ["breaker", "home"]


def test_a_race_lost_now_and_then_moves_nobody() -> None:
    world = World()
    world.call()
    for _ in range(10):
        for _ in range(MISSES - 1):
            world.answered(world.ready(), B)
        world.answered(world.ready(), A)
    assert world.place == A
    assert world.events == []
    for _ in range(MISSES):
        world.answered(world.ready(), B)
    assert world.place == B


def test_an_answer_from_elsewhere_moves_it_where_its_place_is_out_now() -> None:
    world = World()
    world.call()
    call = world.ready()

    async def inside(call: Call) -> Response:
        world.ill = {A}  # it failed just now, and its breaker opened
        return await world.client(call)

    ended(world.sticking(call, inside))
    assert world.place == B


def test_another_call_of_the_session_has_moved_it_meanwhile() -> None:
    world = World()
    world.call()
    slow = world.ready()

    async def inside(call: Call) -> Response:
        world.ill = {A}
        assert world.call() == B
        return Response(tier="gold", deployment="a")  # begun before, answered after

    ended(world.sticking(slow, inside))
    assert world.place == B
    assert len(world.events) == 1


def test_of_two_calls_that_leave_at_once_the_first_says_where_it_is() -> None:
    world = World()
    world.call()
    world.ill = {A}
    slow = world.ready()

    async def inside(call: Call) -> Response:
        assert world.call() == B
        return Response(tier="silver", deployment="c")

    ended(world.sticking(slow, inside))
    assert world.place == B


def test_answers_from_the_cache_say_nothing_of_where_it_is() -> None:
    world = World()
    world.call()
    binding = world.sticking.binding(session="s1")
    assert binding is not None
    for place in (A, *[B] * (MISSES + 1)):
        world.answered(world.ready(), place, cached=True)
    assert (binding.place, binding.used_at, binding.misses) == (A, 1, 0)


# -- bounds, floors, what the caller says ---------------------------------------------------


def test_a_floor_lifts_it_for_good() -> None:
    world = World()
    world.answered(world.ready(), C)
    floor = Plan("gold", ("gold",), (("silver", "min_tier"), ("bronze", "min_tier")))
    assert world.call(plan=floor) == A
    binding = world.sticking.binding(session="s1")
    assert binding is not None
    assert binding.home == binding.place == A
    assert world.call() == A
    assert [event.cause for event in world.events] == ["floor"]


def test_an_important_call_goes_up_and_lifts_nobody() -> None:
    world = World()
    world.answered(world.ready(), C)
    for _ in range(4):
        assert world.call(important=True) == A
        world.now += 299  # nor is it there once its home is cold
    assert world.call() == C
    assert world.events == []


def test_a_cap_sends_it_down_until_it_is_lifted() -> None:
    world = World()
    world.call()
    capped = Plan("silver", ("silver", "bronze"))
    assert world.call(plan=capped) == C
    assert world.call() == C
    world.now += 30
    assert world.call() == A


def test_a_tier_that_load_or_a_budget_put_last_is_not_begun_in() -> None:
    world = World()
    world.call()
    assert world.call(plan=FULL.starting_at("silver")) == C
    assert world.place == C
    world.answered(world.ready(plan=FULL.starting_at("bronze")), E)
    assert world.inner.plan is not None
    assert world.inner.plan.granted == "bronze"


@pytest.mark.parametrize("fixed_plan", [FULL, Plan("gold", ("gold",))], ids=["with fallback", "alone"])
def test_a_tier_that_is_named_goes_before_the_bindings(fixed_plan: Plan) -> None:
    world = World()
    world.answered(world.ready(), C)
    for _ in range(3):
        call = world.ready(plan=fixed_plan, fixed=True)
        world.answered(call, A)
        assert world.inner.plan is fixed_plan
    assert world.call() == C  # it was not moved by that
    assert world.events == []


def test_in_a_tier_that_is_named_its_deployment_is_preferred() -> None:
    world = World()
    world.answered(world.ready(), D)
    named = Plan("silver", ("silver", "bronze"))
    assert world.call(plan=named, fixed=True) == D


def test_should_it_come_to_its_tier_after_all_its_deployment_is_preferred() -> None:
    world = World()
    world.answered(world.ready(), D)
    world.ill = {A, B}
    assert world.call(fixed=True) == D


def test_where_the_tier_that_is_named_is_its_homes_home_is_preferred() -> None:
    world = World()
    world.answered(world.ready(), B)
    world.ill = {A, B}
    assert world.call() == C
    world.ill = set()
    assert world.call(fixed=True) == B
    assert world.place == B


def test_home_does_not_lead_out_of_the_tier_that_is_named() -> None:
    world = World()
    world.answered(world.ready(), E)
    world.ill = {E}
    assert world.call() == A
    world.ill = set()
    world.now += 301
    assert world.call(fixed=True) == A
    assert world.call() == E


def test_a_tier_that_is_always_named_becomes_home_once_the_old_one_is_cold() -> None:
    world = World()
    world.answered(world.ready(), C)
    world.ill = {A}
    for _ in range(5):
        assert world.call(fixed=True) == B
        world.now += 100
    world.ill = set()
    assert world.place == B
    assert world.call(fixed=True) == B


def test_a_call_without_fallback_lifts_nobody() -> None:
    world = World()
    world.answered(world.ready(), C)
    alone = Plan("gold", ("gold",), (("silver", "no fallback"), ("bronze", "no fallback")))
    assert world.call(plan=alone) == A
    assert world.call() == C


def test_labels_lead_elsewhere_and_not_up_for_good() -> None:
    world = World()
    world.answered(world.ready(), C)
    labelled = Plan("gold", ("gold",), (("silver", "labels"), ("bronze", "labels")))
    assert world.call(plan=labelled) == A
    binding = world.sticking.binding(session="s1")
    assert binding is not None
    assert (binding.home, binding.place) == (C, A)


def test_a_tier_that_is_no_more_is_nobodys_home() -> None:
    world = World()
    world.answered(world.ready(), ("platinum", "p"))
    assert world.call() == A
    binding = world.sticking.binding(session="s1")
    assert binding is not None
    assert binding.home == A


def test_a_home_that_is_no_more_is_forgotten_when_it_leaves() -> None:
    world = World()
    world.call()
    binding = world.sticking.binding(session="s1")
    assert binding is not None
    binding.home = ("platinum", "p")
    assert world.call() == A
    world.ill = {A}
    assert world.call() == B
    assert (binding.home, binding.place) == (B, B)


# -- the way home ------------------------------------------------------------------------------


def test_in_its_tier_it_goes_home_once_the_cache_is_cold() -> None:
    world = World()
    world.call()
    world.ill = {A}
    world.call()
    world.ill = set()
    for _ in range(100):  # every ten seconds
        world.now += 9
        assert world.call() == B
    world.now += 299
    assert world.call() == A
    assert [event.cause for event in world.events] == ["breaker", "home"]


def test_from_a_lower_tier_it_goes_home_soon() -> None:
    world = World()
    world.ill = {B}
    world.call()
    world.ill = {A, B}
    assert world.call() == C
    world.ill = set()
    world.now += 28
    assert world.call() == C
    assert world.call() == A


def test_home_in_its_tier_is_any_place_of_that_tier() -> None:
    world = World()
    world.call()
    world.ill = {A, B}
    assert world.call() == C
    world.now += 40
    world.ill = {A}
    assert world.call() == B
    assert world.place == B


def test_a_way_home_that_fails_is_tried_again_later() -> None:
    world = World()
    world.call()
    world.ill = {A, B}
    assert world.call() == C
    world.ill = set()
    world.now += 40
    call = world.ready()
    world.answered(call, C)  # home seemed well, and was not
    assert call.course is not None
    assert call.course.prefer == A
    call = world.ready()
    world.answered(call, C)
    assert call.course is not None
    assert call.course.prefer == C
    world.now += 30
    assert world.call() == A


def test_who_has_moved_too_often_is_bound_to_its_home() -> None:
    world = World()
    world.call()
    for _ in range(10):
        world.ill = {A, B}
        assert world.call() == C
        world.now += 40
        world.ill = set()
        assert world.call() == A
        world.now += 40
    assert world.place == A
    assert len(world.events) == MOST_MOVES


def test_where_its_place_is_out_home_comes_before_the_others_of_the_tier() -> None:
    binding = Binding(("gold", "z"), 0)
    assert binding.move(B, "breaker", 1, 301)

    def way(*ill: str) -> Way:
        return way_of(
            binding,
            FULL,
            Course(),
            usable=lambda tier, name: name not in ill,
            returns=Returns(300, 30, 300),
            level={"gold": 0, "silver": 1, "bronze": 2},
            now=2,
        )

    assert way() == (STAYS, "gold", "b")
    assert way("b") == (LEAVES, "gold", "z")
    assert way("b", "z") == (LEAVES, "gold", "")


bounds = st.sampled_from(
    [
        FULL,
        Plan("silver", ("silver", "bronze")),
        Plan("gold", ("gold", "silver"), (("bronze", "min_tier"),)),
        Plan("gold", ("gold",), (("silver", "min_tier"), ("bronze", "min_tier"))),
        Plan("gold", ("gold",), (("silver", "no fallback"), ("bronze", "no fallback"))),
        FULL.starting_at("silver"),
        FULL.starting_at("bronze"),
    ]
)
calls = st.tuples(
    st.floats(0, 900), st.sets(st.sampled_from(PLACES)), bounds, st.booleans(), st.booleans(), st.booleans()
)


@settings(max_examples=300, deadline=None)
@given(st.lists(calls, max_size=50), st.sampled_from([0.0, 30.0, 300.0]))
def test_no_ping_pong(
    told: list[tuple[float, set[Place], Plan, bool, bool, bool]], return_after_s: float
) -> None:
    """Bounds hold, who is well stays, moves are bounded in any hour, and in the end it is at home."""
    world = World(return_after_s=return_after_s, return_up_after_s=min(return_after_s, 30.0), ttl_s=1e6)
    for wait_s, ill, plan, fixed, important, shifts in told:
        world.now += wait_s
        world.ill = ill if not shifts else set()
        bound = world.sticking.binding(session="s1")
        before = None if bound is None else (bound.place, bound.home)
        held = bound is not None and not bound.loose
        held = held and TIERS.index(plan.highest) >= TIERS.index(bound.granted)  # type: ignore[union-attr]
        call = world.ready(plan=plan, fixed=fixed, important=important, avoid=ill if shifts else ())
        try:
            response, _ = ended(world.sticking(call, world.client))
        except ProviderUnavailableError:
            continue
        inner = world.inner.plan
        assert inner is not None
        assert set(inner.tiers) == set(plan.tiers)
        assert inner.excluded == plan.excluded
        open_tiers = plan.tiers[: len(plan.tiers) - plan.raised]
        assert inner.tiers[0] in ((plan.tiers[0],) if fixed else open_tiers)
        bound = world.sticking.binding(session="s1")
        assert bound is not None
        if before is not None and held and before[0] == before[1] and before[0] not in ill:
            lifted = important and TIERS.index(before[0][0]) > TIERS.index(plan.tiers[0])
            if before[0][0] in open_tiers and not fixed and not lifted:
                assert (response.tier, response.deployment) == bound.place == before[0]
    times = world.moved_at
    for first, at in enumerate(times):
        assert sum(1 for other in times[first:] if other - at < HOUR_S) <= MOST_MOVES
    world.ill = set()
    for _ in range(12):
        world.now += 400
        last = world.call()
    bound = world.sticking.binding(session="s1")
    assert bound is not None
    assert last == bound.home == bound.place
    assert bound.home[0] == "gold", "where routing has its calls begin, whatever sent them elsewhere before"


# -- watching only --------------------------------------------------------------------------------


def test_observing_changes_nothing_and_writes_down_what_it_would_have_done() -> None:
    world = World(mode="observe")
    world.answered(world.ready(), B)
    call = world.ready()
    world.answered(call, A)
    assert call.plan is FULL
    assert call.course is not None
    assert call.course.prefer is None
    assert not call.course.fixed
    assert call.trace is not None
    assert call.trace.candidates == [Candidate("gold", "b", "observed: session")]
    for _ in range(MISSES + 1):
        world.answered(world.ready(), A)
    assert world.place == B
    world.ill = {B}
    world.answered(world.ready(), A)
    assert world.place == A
    assert [event.mode for event in world.events] == ["observe"]
    world.ill = set()
    world.now += 301
    world.answered(world.ready(), A)
    assert world.place == B


# -- through a client ---------------------------------------------------------------------------------


def tiers(fake: FakeProvider) -> list[Tier]:
    named: dict[str, list[Deployment]] = {}
    for tier, name in PLACES:
        named.setdefault(tier, []).append(Deployment(name, fake))
    return [Tier(tier, places) for tier, places in named.items()]


@every_form
def test_a_session_keeps_its_deployment(form: Form) -> None:
    fake, moved = FakeProvider(), []
    client = TieredClient(
        tiers(fake),
        sessions=StickySessions(),
        retry=False,
        breaker=CircuitBreaker(consecutive_failures=1, open_s=0.01),
        listeners=[lambda event: moved.append(event) if isinstance(event, SessionMoved) else None],
    )
    assert form(client, session="s1").deployment == "a"
    fake.down("a")
    assert form(client, session="s1").deployment == "b"
    fake.up()
    fake.down("c")
    assert form(client, session="s2", sla="silver").deployment == "d"
    fake.up()
    assert [form(client, session="s1").deployment for _ in range(3)] == ["b"] * 3
    response = form(client, session="s2", sla="silver")
    assert (response.tier, response.deployment) == ("silver", "d")
    assert response.trace is not None
    assert [(c.tier, c.deployment, c.reason) for c in response.trace.candidates] == [
        ("silver", "c", "session"),
        ("silver", "d", None),
    ]
    assert form(client, session="s2").tier == "gold"
    assert [(event.from_deployment, event.to_tier, event.cause) for event in moved] == [
        ("a", "gold", "ProviderUnavailableError 503"),
        ("d", "gold", "routing"),  # what was named is nobody's home
    ]
    client.close()


def test_an_answer_from_the_cache_binds_nothing() -> None:
    fake = FakeProvider()
    client = TieredClient(tiers(fake), sessions=StickySessions(), cache=ResultCache(ttl_s=600))
    client.complete("Hello", session="s1", cache="always")
    assert client.complete("Hello", session="s2", cache="always").cached
    assert client.status()["sessions"]["sessions"] == 1
    client.close()


@every_form
def test_two_clients_of_one_store_agree(form: Form, where: str) -> None:
    fake = FakeProvider()
    one, two = (
        TieredClient(tiers(fake), sessions=StickySessions(), store=opened(where), retry=False)
        for _ in range(2)
    )
    fake.down("a")
    assert form(one, session="s1").deployment == "b"
    fake.up()
    shared = one._setup.sticking.shared  # type: ignore[union-attr]
    assert shared is not None
    eventually(lambda: shared.written == 1)
    assert form(two, session="s1").deployment == "b"
    assert form(two, session="s2").deployment == "a"
    one.close()
    two.close()


# -- alone -----------------------------------------------------------------------------------------


def test_alone() -> None:
    now = [0.0]
    sticky = StickySessions(clock=lambda: now[0])
    places = ["eu", "us", "asia"]
    assert sticky.keep("s1", places, lambda place: place != "eu") == "us"
    assert sticky.keep("s1", places) == "us"
    assert sticky.keep("s2", places) == "eu"
    assert sticky.keep("s1", places, lambda place: place != "us") == "eu"
    assert sticky.keep("s1", places) == "eu"
    now[0] += 301
    assert sticky.keep("s1", places) == "us"
    assert sticky.keep("s1", ["asia", "eu"]) == "asia"
    assert sticky.keep("s3", places, lambda place: False) == "eu"
    with pytest.raises(ConfigError, match="at least one"):
        sticky.keep("s1", [])


@pytest.mark.parametrize(
    "given",
    [
        {"per": "tenant"},
        {"ttl_s": 0},
        {"ttl_s": float("nan")},
        {"max_sessions": 0},
        {"max_sessions": 1.5},
        {"max_sessions": True},
        {"return_after_s": -1},
        {"return_up_after_s": "soon"},
        {"cache_ttl_s": float("inf")},
        {"shared": 1},
        {"salt": b"x"},
        {"mode": "watch"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_settings_that_make_no_sense(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        StickySessions(**given)


def test_another_configuration_knows_who_is_bound() -> None:
    world = World()
    world.ill = {A}
    world.call()
    world.ill = set()
    world.sticking = StickySessions().bound(
        clock=lambda: world.now,
        wall=lambda: world.now,
        store=None,
        usable=world.usable,
        tiers=TIERS,
        before=world.sticking,
    )
    assert world.call() == B


# -- shared ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        running = Server(Path(directory))
        yield running
        running.stop()


@pytest.fixture(params=["disk", "redis"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        server: Server = request.getfixturevalue("running_server")
        with server.client() as client:
            client.flushall()
        return str(server.url)
    return str(tmp_path / "store")


@pytest.fixture
def stores(where: str) -> Iterator[Callable[[], Store]]:
    made: list[Store] = []

    def make() -> Store:
        made.append(opened(where))
        return made[-1]

    yield make
    for store in made:
        store.close()


Making = Callable[[], Store]


def test_another_process_knows_where_a_session_is(stores: Making) -> None:
    one, two = World(store=stores()), World(store=stores(), wall=1e9 - 500)
    two.now = 500
    one.ill = {A}
    assert one.call() == B
    assert one.blocked == 1  # nobody knew
    one.ill = set()
    one.background()
    assert two.call() == B
    assert two.blocked == 1
    assert two.call() == B
    assert two.blocked == 0  # now it is known here
    assert two.sticking.status()["store"]["found"] == 1


def test_where_it_is_away_from_home_is_shared_too(stores: Making) -> None:
    one, two = World(store=stores()), World(store=stores())
    one.call()
    one.ill = {A}
    one.call()
    one.background()
    two.now = 10
    assert two.call() == B
    binding = two.sticking.binding(session="s1")
    assert binding is not None
    assert (binding.home, binding.place, binding.why) == (A, B, "breaker")
    assert (binding.since, binding.back_at) == pytest.approx((2, 302), abs=0.01)
    assert binding.moves == pytest.approx((2,), abs=0.01)


def test_the_newer_move_wins(stores: Making) -> None:
    one, two = World(store=stores()), World(store=stores())
    one.call()
    one.background()
    two.now = 1
    two.call()  # both know it at A now
    one.now, two.now = 20, 30
    one.ill = {A}
    assert one.call() == B
    two.ill = {A, B}
    assert two.call() == C
    two.background()
    one.now = 40
    one.background()  # written later, moved earlier
    assert one.place == C
    three = World(store=stores())
    three.now = 40
    assert three.call() == C


def test_who_has_not_heard_of_a_move_hears_within_a_minute(stores: Making) -> None:
    one, two = World(store=stores()), World(store=stores())
    one.call()
    one.background()
    two.now = 1
    two.call()
    one.ill = {A}
    one.now = 20
    one.call()
    one.background()
    assert two.call() == A  # known here: nothing is asked
    two.background()
    two.now += 60
    assert two.call() == A
    two.background()  # asked in the background
    assert two.call() == B
    assert two.sticking.status()["store"]["adopted"] == 1


def test_a_binding_in_use_does_not_end_in_the_store(stores: Making) -> None:
    one = World(store=stores(), ttl_s=3600)
    one.ill = {A}
    one.call()
    one.background()
    one.ill = set()
    written = one.sticking.status()["store"]["written"]
    for _ in range(40):
        one.now += 89
        one.call()
        one.background()
    assert one.sticking.status()["store"]["written"] - written == 2  # once in half its time
    two = World(store=stores())
    two.now = one.now
    assert two.call() == B


def test_processes_that_bind_at_once_come_to_agree(stores: Making) -> None:
    worlds = [World(store=stores()) for _ in range(3)]
    for number, world in enumerate(worlds):
        world.now = float(number)
        world.answered(world.ready(), [A, B, C][number])
    for _ in range(2):
        for world in worlds:
            world.now += 61
            world.answered(world.ready(), world.place)
            world.background()
    for world in worlds:
        world.now += 61
        world.answered(world.ready(), world.place)
        world.background()
    assert [world.place for world in worlds] == [C, C, C]


def test_no_name_of_a_user_comes_into_the_store(stores: Making, where: str, tmp_path: Path) -> None:
    one = World(store=stores())
    one.call(None, user="somebody@example.org", tenant="acme-corp")
    one.background()
    shared = one.sticking.shared
    assert shared is not None
    assert shared.written == 1
    name = shared.name_of("u:acme-corp\0somebody@example.org")
    kept = shared.store.load(name)
    assert kept is not None
    for told in (name.encode(), kept):
        assert b"somebody" not in told
        assert b"acme" not in told
    salted = World(store=shared.store, salt="pepper").sticking.shared
    assert salted is not None
    assert salted.name_of("u:acme-corp\0somebody@example.org") != name


JUNK = [
    b"",
    b"\xff\x00",
    b"[]",
    b'"x"',
    b"{" * 100_000,
    b'{"home":["gold","a"],"at":["platinum","p"],"since":1,"used":1,"why":"","moves":[]}',
    b'{"home":["gold","a"],"at":["gold","b"],"since":1e400,"used":1,"why":"","moves":[]}',
    b'{"home":["gold","a"],"at":["gold","b"],"since":true,"used":1,"why":"","moves":[]}',
    b'{"home":["gold","a"],"at":["gold","b"],"since":1,"used":1,"why":"","moves":[1,2,3,4,5]}',
    b'{"home":["gold","a"],"at":["gold",7],"since":1,"used":1,"why":"","moves":[]}',
    b'{"home":["gold","a"],"at":["gold","b"],"since":%s,"used":1,"why":"","moves":[]}' % (b"9" * 400),
]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_what_is_no_binding_binds_nobody(junk: bytes, stores: Making) -> None:
    store = stores()
    world = World(store=store)
    shared = world.sticking.shared
    assert shared is not None
    assert store.swap(shared.name_of("s:\0s1"), junk, None)
    assert world.call() == A
    world.background()  # and is written over
    other = World(store=stores())
    assert other.call() == A
    assert other.sticking.status()["store"]["found"] == 1


def test_a_time_in_the_future_is_now(stores: Making) -> None:
    ahead, world = World(store=stores(), wall=1e9 + 1000), World(store=stores())
    ahead.ill = {A}
    ahead.call()
    ahead.background()
    assert world.call() == B
    binding = world.sticking.binding(session="s1")
    assert binding is not None
    assert binding.since <= world.now


def test_a_clock_that_is_ahead_does_not_move_anybody(stores: Making) -> None:
    ahead, world = World(store=stores(), wall=1e9 + 86_400), World(store=stores())
    ahead.call()
    ahead.ill = {A, B}
    assert ahead.call() == C
    ahead.background()
    assert world.call() == C  # nobody knew better
    for _ in range(50):
        world.now += 61
        world.call()
        world.now += 0.05
        world.background()
    assert world.place == A
    assert [event.cause for event in world.events] == ["home"]
    assert world.sticking.status()["store"]["adopted"] == 0
    other = World(store=stores())
    other.now = world.now
    assert other.call() == A


def test_what_holds_a_session_is_shared(stores: Making) -> None:
    one, two = World(store=stores()), World(store=stores())
    one.answered(one.ready(sla="silver"), C)
    one.answered(one.ready("s2", plan=Plan("silver", ("silver", "bronze"))), C)
    one.background()
    two.now = 10
    assert two.call() == A
    loose = two.sticking.binding(session="s1")
    assert loose is not None
    assert (loose.loose, loose.home, loose.granted) == (False, A, "gold")
    two.now += 100
    two.background()
    assert one.call() == A
    assert two.call("s2") == A  # it is granted more now
    two.answered(two.ready("s3", sla="silver"), D)
    two.background()
    assert one.call("s3", plan=Plan("silver", ("silver", "bronze")), sla="silver", fixed=True) == D


def test_a_session_that_ended_in_the_store_binds_nobody(stores: Making) -> None:
    one, two = World(store=stores()), World(store=stores(), ttl_s=60)
    one.ill = {A}
    assert one.call() == B
    one.background()
    two.now = 90
    assert two.call() == A


def test_a_store_that_is_out_is_not_asked_by_each_call() -> None:
    store = Out()
    world = World(store=store)
    for number in range(30):
        world.now -= 0.9
        world.call(f"s{number}")
    assert store.asked == 2


class Out(Store):
    """A store that is out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def load(self, name: str) -> bytes | None:
        self.asked += 1
        raise StoreUnavailableError("the store does not answer")

    def swap(self, name: str, value: bytes, expected: bytes | None, ttl_s: float | None = None) -> bool:
        raise StoreUnavailableError("the store does not answer")

    def reserve(self, hold: Any) -> Any:
        raise NotImplementedError

    def apply(self, batch: Any) -> None:
        raise NotImplementedError

    def standings(self, lines: Any) -> Any:
        raise NotImplementedError


def test_without_its_store_it_sticks_as_far_as_is_known_here(caplog: pytest.LogCaptureFixture) -> None:
    world = World(store=Out())
    world.ill = {A}
    with caplog.at_level(logging.WARNING, "tierllm"):
        assert world.call() == B
        world.background()
        world.ill = set()
        assert [world.call() for _ in range(3)] == [B] * 3
        for number in range(20):
            world.call(f"other{number}")
            world.background()
        assert len(caplog.records) == 1
        world.now += COMPLAIN_AGAIN_S
        world.call("one more")
        assert len(caplog.records) == 2
        world.background()
    assert "does not answer" in caplog.text
    status = world.sticking.status()["store"]
    assert status["failed"] >= 20
    assert status["waiting"] == 0
    assert isinstance(world.sticking.shared, SharedBindings)


def test_a_store_of_this_process_alone_is_not_asked() -> None:
    from tierllm.stores import MemoryStore

    assert World(store=MemoryStore()).sticking.shared is None
    assert World(store=Out(), shared=False).sticking.shared is None
    assert World(store=Out(), mode="observe").sticking.shared is None


def test_a_redis_that_hangs_fails_no_call(running_server: Server) -> None:
    with running_server.client() as client:
        client.flushall()
    stores = [opened(running_server.url, timeout_s=0.05, retry_s=0.0) for _ in range(2)]
    one, two = (World(store=store) for store in stores)
    running_server.freeze()
    try:
        one.ill = {A}
        assert one.call() == B
        one.background()
        one.ill = set()
        assert one.call() == B
    finally:
        running_server.thaw()
    one.now += 60
    assert one.call() == B
    one.background()  # known to all from now on
    two.now = one.now
    assert two.call() == B
    for store in stores:
        store.close()


def test_where_no_thread_is_to_be_had_nothing_fails() -> None:
    world = World(store=Out())

    def full(work: Callable[[], object]) -> None:
        raise RuntimeError("can't start new thread")

    shared = world.sticking.shared
    assert shared is not None
    shared._soon = full
    assert world.call() == A
    shared._soon = world.work.append
    assert world.call("another") == A
    assert len(world.work) == 1


def test_after_a_fork_what_waited_is_the_parents_to_write() -> None:
    world = World(store=Out())
    world.call()
    world.sticking.renew()
    assert world.sticking.status()["store"]["waiting"] == 0
    assert world.call() == A


def process(where: str, number: int, here: Connection) -> None:
    """Calls of 40 sessions; each process finds another place first, so that only sharing makes them agree."""
    store = opened(where)
    world = World(store=store)
    world.ill = {[A, B][1 - number]}
    mine = range(40) if number == 0 else range(39, -1, -1)
    here.recv()
    for session in mine:
        world.call(f"s{session}")
        world.background()
    here.send("bound")
    here.recv()
    world.ill = set()
    for _ in range(3):
        world.now += 61
        for session in mine:
            world.call(f"s{session}")
        world.background()
        here.send("again")
        here.recv()
    found = {}
    for session in range(40):
        binding = world.sticking.binding(session=f"s{session}")
        found[session] = None if binding is None else binding.place
    store.close()
    here.send(found)


def test_two_processes_come_to_agree(where: str) -> None:
    pipes = [SPAWN.Pipe() for _ in range(2)]
    processes = [SPAWN.Process(target=process, args=(where, n, there)) for n, (_, there) in enumerate(pipes)]
    for each in processes:
        each.start()
    for _ in range(5):
        for here, _ in pipes:
            here.send("go")
        told = []
        for here, _ in pipes:
            assert here.poll(60)
            told.append(here.recv())
    for each in processes:
        each.join(30)
        assert each.exitcode == 0
    first, second = told
    assert first == second
    assert None not in first.values()
    assert {A, B} >= set(first.values())

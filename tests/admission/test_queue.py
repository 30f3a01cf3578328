"""The queue's order: against its definition, at its edges, and after interrupts."""

from __future__ import annotations

import gc
import random
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission.lining import AGE_S, drained, first_by_definition, place
from tierllm.admission.place import Place
from tierllm.admission.queue import FairQueue
from tierllm.admission.shares import TenantShares
from tierllm.errors import ConfigError

HUGE = 10**400


def queue_of(*places: Place, age_s: float | None = AGE_S) -> FairQueue:
    queue = FairQueue(TenantShares(), age_s=age_s)
    for waiting in places:
        queue.push(waiting)
    return queue


def numbers(places: list[Place]) -> list[int]:
    return [waiting.number for waiting in places]


# -- one rule after the other ---------------------------------------------------


def test_an_empty_queue() -> None:
    queue = queue_of()
    assert (queue.first(0.0), len(queue), list(queue.places())) == (None, 0, [])
    assert queue.ahead_of(place(1), 0.0) == 0
    assert not queue.remove(place(1))


def test_a_high_priority_among_two_hundred_low_ones_is_next() -> None:
    queue = queue_of(*(place(n, arrived_at=n / 10) for n in range(200)))
    urgent = place(200, priority=5, arrived_at=20.0)
    queue.push(urgent)
    assert queue.first(20.0) is urgent
    assert queue.ahead_of(urgent, 20.0) == 0


def test_a_tenant_goes_by_deadline_then_patience_then_arrival() -> None:
    late = place(1, arrived_at=0.0)  # due after the queue's patience, at 60
    far = place(2, arrived_at=10.0, deadline_at=500.0)  # no later than 70
    soon = place(3, arrived_at=20.0, deadline_at=25.0)
    gone = place(4, arrived_at=30.0, deadline_at=-100.0)  # not before it arrived, at 30
    twin = place(5, arrived_at=10.0, deadline_at=500.0)
    assert numbers(drained(queue_of(twin, gone, far, soon, late))) == [3, 4, 1, 2, 5]


def test_a_deadline_long_past_does_not_pass_those_before() -> None:
    queue = queue_of(place(1, arrived_at=0.0), place(2, arrived_at=61.0, deadline_at=-1e9))
    assert numbers(drained(queue)) == [1, 2]


def test_low_priority_ages() -> None:
    old = place(1, priority=0, arrived_at=0.0)
    for arrived_at, goes_first in ((59.0, 2), (60.0, 2), (61.0, 1)):
        queue = queue_of(old, place(2, priority=2, arrived_at=arrived_at))
        first = queue.first(61.0)
        assert first is not None
        assert first.number == goes_first, arrived_at


def test_without_ageing_priority_is_strict() -> None:
    queue = queue_of(place(1, arrived_at=0.0), place(2, priority=1, arrived_at=1e12), age_s=None)
    assert numbers(drained(queue)) == [2, 1]


@pytest.mark.parametrize("age_s", [None, 30.0], ids=["strict", "ageing"])
def test_priorities_of_any_size(age_s: float | None) -> None:
    given = [0, -1, HUGE, HUGE - 1, -HUGE, 7, -HUGE - 1]
    queue = queue_of(*(place(n, priority=p, arrived_at=1.0) for n, p in enumerate(given)), age_s=age_s)
    everyone = {waiting.number: waiting for waiting in queue.places()}
    ahead = [queue.ahead_of(everyone[n], 1e9) for n in range(len(given))]
    assert numbers(drained(queue)) == [2, 3, 5, 0, 1, 4, 6]
    assert ahead == [3, 4, 0, 1, 5, 2, 6]


def test_a_clock_that_goes_back_changes_nothing() -> None:
    queue = queue_of(place(1, arrived_at=100.0), place(2, priority=1, arrived_at=-50.0))
    assert queue.first(1e9) is queue.first(-1e9)
    assert numbers(drained(queue)) == [2, 1]


def test_pushed_twice_it_waits_once() -> None:
    once = place(1)
    queue = queue_of(once, once)
    assert len(queue) == 1
    assert queue.remove(once)
    assert not queue.remove(once)
    assert queue.first(0.0) is None


def test_who_comes_back_has_its_old_place() -> None:
    first, second = place(1), place(2)
    queue = queue_of(first, second)
    queue.remove(first)
    assert queue.first(0.0) is second
    queue.push(first)
    assert queue.first(0.0) is first


def test_another_deadline_counts_from_the_next_time_it_comes() -> None:
    first, second = place(1), place(2)
    queue = queue_of(first, second)
    queue.remove(second)
    second.deadline_at = 3.0
    queue.push(second)
    assert numbers(drained(queue)) == [2, 1]


def test_moved_up_and_down() -> None:
    first, second, third = place(1), place(2), place(3)
    queue = queue_of(first, second, third)
    queue.move(third, 4)
    queue.move(first, -4)
    assert (third.priority, first.priority) == (4, -4)
    assert numbers(drained(queue)) == [3, 2, 1]


def test_who_is_moved_takes_its_age_along() -> None:
    moved, low, high = place(1, arrived_at=0.0), place(2, arrived_at=50.0), place(3, arrived_at=40.0)
    high.priority = 1
    queue = queue_of(moved, low, high)
    queue.move(moved, -10)
    assert numbers(drained(queue)) == [3, 2, 1]


def test_moved_while_absent_it_counts_when_it_comes() -> None:
    queue, away = queue_of(place(1)), place(2)
    queue.move(away, 3)
    assert len(queue) == 1
    queue.push(away)
    assert queue.first(0.0) is away


def test_a_move_is_no_return() -> None:
    """Who is moved has been waiting all the time: its counter is not lifted."""
    queue = queue_of(place(1, "quiet"))
    queue.shares.charge("busy", 1000)
    queue.shares.settle("busy", 1000, 1000)
    moved = next(queue.places())
    queue.push(place(2, "busy", priority=3))
    queue.move(moved, 3)
    assert queue.first(0.0) is moved


def test_settings_that_make_no_sense() -> None:
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="age_s"):
            FairQueue(TenantShares(), age_s=bad)
    with pytest.raises(ConfigError, match="patience_s"):
        FairQueue(TenantShares(), patience_s=-1.0)


def test_a_fork_empties_it() -> None:
    queue = queue_of(place(1, "a"), place(2, "b", priority=2))
    queue.shares.charge("a", 500)
    queue.renew()
    assert (len(queue), queue.first(0.0), list(queue.places())) == (0, None, [])
    assert queue.shares.account("a").counter == 0.0
    queue.push(place(3, "a"))
    assert numbers(drained(queue)) == [3]


# -- how many are ahead ---------------------------------------------------------


def test_ahead_counts_all_of_higher_priority() -> None:
    queue = queue_of(*(place(n, f"t{n % 7}", priority=n % 5, arrived_at=1.0) for n in range(100)))
    for priority in range(5):
        assert queue.ahead_of(place(100, "new", priority=priority, arrived_at=1.0), 1.0) >= 20 * (
            4 - priority
        )


def test_ahead_in_the_own_line_and_among_tenants() -> None:
    lone = queue_of(*(place(n) for n in range(50)))
    assert lone.ahead_of(place(50), 50.0) == 50
    everyone = {waiting.number: waiting for waiting in lone.places()}
    assert [lone.ahead_of(everyone[n], 50.0) for n in (0, 10, 49)] == [0, 10, 49]

    crowd = queue_of(*(place(n, "noisy") for n in range(1000)), *(place(1000 + n, f"t{n}") for n in range(9)))
    assert crowd.ahead_of(place(2000, "quiet"), 0.0) <= 10  # a turn for each tenant
    assert crowd.ahead_of(place(2000, "noisy"), 0.0) == 1009
    crowd.shares.charge("noisy", 500)  # five calls' worth
    assert crowd.ahead_of(next(p for p in crowd.places() if p.number == 0), 0.0) == 9


def test_ahead_of_a_newcomer_counts_those_that_have_aged_past_it() -> None:
    queue = queue_of(*(place(n, arrived_at=float(n)) for n in range(101)))
    newcomer = place(500, priority=1, arrived_at=80.0)  # on a level with what came at 50
    assert queue.ahead_of(newcomer, 80.0) == 51
    assert queue.ahead_of(place(500, priority=2, arrived_at=80.0), 80.0) == 21
    assert queue.ahead_of(place(500, priority=3, arrived_at=80.0), 80.0) == 0


# -- against the definition -------------------------------------------------------

MOMENTS = st.integers(-40, 400).map(lambda quarter: quarter / 4)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("push"), st.sampled_from("abcde"), st.integers(-2, 3), MOMENTS, st.none() | MOMENTS
        ),
        st.tuples(st.just("back"), st.integers(0, 99)),
        st.tuples(st.just("remove"), st.integers(0, 99)),
        st.tuples(st.just("move"), st.integers(0, 99), st.integers(-2, 3)),
        st.tuples(st.just("charge"), st.sampled_from("abcde"), st.integers(0, 500)),
        st.tuples(st.just("settle"), st.integers(0, 99), st.integers(0, 600)),
        st.tuples(st.just("grant")),
    ),
    max_size=120,
)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.sampled_from([None, 0.25, 30.0]))
def test_the_order_is_the_defined_one_whatever_happens(
    steps: list[tuple[Any, ...]], age_s: float | None
) -> None:
    shares = TenantShares({"b": 3.0, "c": 0.5})
    queue = FairQueue(shares, age_s=age_s)
    here: list[Place] = []
    away: list[Place] = []
    open_charges: list[tuple[str, int]] = []
    for number, step in enumerate(steps):
        match step:
            case ("push", tenant, priority, arrived_at, deadline_at):
                here.append(
                    place(number, tenant, priority=priority, arrived_at=arrived_at, deadline_at=deadline_at)
                )
                queue.push(here[-1])
            case ("back", index) if away:
                here.append(away.pop(index % len(away)))
                queue.push(here[-1])
            case ("remove", index) if here:
                away.append(here.pop(index % len(here)))
                assert queue.remove(away[-1])
            case ("move", index, priority) if here:
                queue.move(here[index % len(here)], priority)
            case ("charge", tenant, tokens):
                shares.charge(tenant, tokens)
                open_charges.append((tenant, tokens))
            case ("settle", index, used) if open_charges:
                tenant, tokens = open_charges.pop(index % len(open_charges))
                shares.settle(tenant, tokens, used)
            case ("grant",) if here:
                granted = queue.first(0.0)
                assert granted is not None
                queue.remove(granted)
                here.remove(granted)
                shares.charge(granted.tenant, granted.tokens)
                open_charges.append((granted.tenant, granted.tokens))
        assert queue.first(float(number)) is first_by_definition(here, shares, age_s)
        assert len(queue) == len(here)
    assert set(queue.places()) == set(here)
    while here:
        following = queue.first(0.0)
        assert following is first_by_definition(here, shares, age_s)
        assert following is not None
        here.remove(following)
        queue.remove(following)
    assert queue.first(0.0) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 200)), min_size=1, max_size=80))
def test_nobody_is_passed_over_longer_than_ageing_allows(calls: list[tuple[int, float]]) -> None:
    """Of one tenant, a call goes after none that came later by more than the difference in priority."""
    queue = queue_of(
        *(place(n, priority=p, arrived_at=at) for n, (p, at) in enumerate(sorted(calls, key=lambda c: c[1])))
    )
    order = drained(queue)
    for position, passed in enumerate(order):
        for earlier in order[:position]:
            allowed_s = (earlier.priority - passed.priority) * AGE_S
            assert earlier.arrived_at - passed.arrived_at <= allowed_s + 1e-6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=40))
def test_all_else_being_equal_who_came_first_goes_first(tenants: list[str]) -> None:
    queue = queue_of(*(place(n, tenant, arrived_at=5.0) for n, tenant in enumerate(tenants)))
    assert numbers(drained(queue)) == list(range(len(tenants)))


# -- many --------------------------------------------------------------------------


def test_a_hundred_thousand_of_fifty_thousand_tenants() -> None:
    rng = random.Random(3)
    many = [place(n, f"t{n % 50_000}", arrived_at=rng.random() * 50) for n in range(100_000)]
    queue = queue_of(*many)
    taken = [drained_one(queue) for _ in range(20_000)]
    assert taken == sorted(many, key=lambda p: (p.arrived_at, p.number))[:20_000]
    for waiting in many:
        queue.remove(waiting)
    assert queue.first(0.0) is None


def drained_one(queue: FairQueue) -> Place:
    following = queue.first(0.0)
    assert following is not None
    queue.remove(following)
    return following


def test_as_many_priorities_as_calls() -> None:
    queue = queue_of(*(place(n, priority=n * 1000, arrived_at=0.0) for n in range(20_000)))
    assert numbers(drained(queue)) == list(range(19_999, -1, -1))
    queue.push(place(1))
    assert len(queue._ranks) < 200, "priorities at which nobody waits are let go"


class Held:
    """Something that a place holds on to, as it does to its call."""


@pytest.mark.parametrize("tenants", [1, 500], ids=["one_tenant", "many_tenants"])
def test_those_who_left_are_let_go(tenants: int) -> None:
    held: weakref.WeakSet[Held] = weakref.WeakSet()
    queue = FairQueue(TenantShares())
    queue.push(place(-1, "t0"))
    for n in range(5_000):
        waiting = place(n, f"t{n % tenants}", arrived_at=float(n % 17))
        waiting.call = Held()  # type: ignore[assignment]
        held.add(waiting.call)  # type: ignore[arg-type]
        queue.push(waiting)
    for waiting in list(queue.places()):
        if waiting.number >= 0:
            queue.remove(waiting)
    del waiting
    gc.collect()
    assert len(held) < 150
    drained(queue)
    gc.collect()
    assert len(held) == 0


def test_refunds_without_end_leave_no_heap_behind() -> None:
    queue = queue_of(place(1, "a"), place(2, "b"))
    for _ in range(10_000):
        queue.shares.charge("a", 100)
        assert queue.first(0.0) is not None  # which finds out that its line stands further back
        queue.shares.settle("a", 100, 0)
    (rank,) = queue._ranks.values()
    assert len(rank.heap) < 100


# -- interrupts --------------------------------------------------------------------


def interrupted(act: Callable[[], object], after_lines: int) -> bool:
    """Run ``act`` and strike (as Ctrl-C does) before the nth line of the queue's code. Whether it struck."""
    left = after_lines

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_globals.get("__name__", "").startswith("tierllm.admission."):
            if event == "line":
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
            return trace
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


ACTS: dict[str, Callable[[FairQueue, dict[int, Place]], object]] = {
    "push": lambda queue, by: queue.push(place(50, "new", priority=9)),
    "push to a line": lambda queue, by: queue.push(place(-50, "a", priority=1)),
    "remove": lambda queue, by: queue.remove(by[5]),
    "remove the last of a tenant": lambda queue, by: queue.remove(by[9]),
    "move": lambda queue, by: queue.move(by[4], 7),
    "move the last of a tenant": lambda queue, by: queue.move(by[9], 1),
    "first": lambda queue, by: queue.first(0.0),
    "settle": lambda queue, by: queue.shares.settle("a", 300, 0),
}


@pytest.mark.parametrize("act", list(ACTS), ids=lambda name: name.replace(" ", "_"))
def test_an_interrupt_loses_nobody(act: str) -> None:
    for after_lines in range(1_000):
        by = {n: place(n, "ab"[n % 2], priority=n % 3) for n in range(9)}
        by[9] = place(9, "c", priority=2)
        queue = queue_of(*by.values())
        queue.shares.charge("a", 300)
        queue.remove(by[8])  # so that something is out of date in each heap
        struck = interrupted(lambda queue=queue, by=by: ACTS[act](queue, by), after_lines)  # type: ignore[misc]
        here = list(queue.places())
        assert {p.number for p in here} >= set(by) - {5, 8, 9}
        while here:
            following = queue.first(0.0)
            if act != "settle":  # struck there, a tenant may stand further back than it could
                assert following is first_by_definition(here, queue.shares)
            assert following is not None
            here.remove(following)
            queue.remove(following)
        assert queue.first(0.0) is None
        assert queue.shares._waiting == 0
        if not struck:
            return
    pytest.fail("it never ended")

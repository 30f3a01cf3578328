"""What plans may claim: ceilings, quotas of high priority, shares."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.admission.consent import Consent
from tierllm.admission.plans import Plans, ServicePlan
from tierllm.errors import ConfigError
from tierllm.events import Event, PriorityLowered
from tierllm.types import Request

TODAY = date(2026, 11, 2)


def quota(most: int, window_s: float = 60.0, **more: Any) -> Plans:
    return Plans(
        [ServicePlan("team", high_priority=5, high_priority_quota=most, quota_window_s=window_s, **more)]
    )


def granted(plans: Plans, priority: int, now: float, plan: str = "team") -> int:
    return plans.priority_of(plan, priority, now)[0]


# -- ceilings -------------------------------------------------------------------------


def test_what_is_above_the_plan_is_lowered_with_a_warning() -> None:
    plans = Plans([ServicePlan("free", max_priority=3)])
    assert plans.priority_of("free", 9, 0.0) == (
        3,
        "plan 'free': priority 9 was lowered to 3, the highest it allows",
    )


@pytest.mark.parametrize("priority", [3, 0, -7])
def test_what_the_plan_allows_is_left_alone(priority: int) -> None:
    assert Plans([ServicePlan("free", max_priority=3)]).priority_of("free", priority, 0.0) == (priority, None)


@pytest.mark.parametrize("plan", ["gold", None, ""])
def test_a_plan_that_is_not_listed_may_claim_anything(plan: str | None) -> None:
    plans = Plans([ServicePlan("free", max_priority=3, weight=2)])
    assert plans.priority_of(plan, 99, 0.0) == (99, None)
    assert plans.weight_of(plan) == 1.0


def test_a_plan_s_tenants_weigh_what_it_says() -> None:
    assert Plans([ServicePlan("team", weight=2.5)]).weight_of("team") == 2.5


# -- quotas ---------------------------------------------------------------------------


def test_the_quota_is_for_everybody_on_the_plan_and_what_is_over_it_goes_below_high() -> None:
    plans = quota(2)
    assert [granted(plans, p, 0.0) for p in (5, 9, 7, 4, 5)] == [5, 9, 4, 4, 4]


def test_the_warning_says_when_the_next_is_free() -> None:
    plans = quota(2)
    granted(plans, 5, 10.0)
    granted(plans, 5, 20.0)
    assert plans.priority_of("team", 8, 30.0)[1] == (
        "plan 'team': priority 8 was lowered to 4, its 2 of priority 5 and above in 60 s are used up; "
        "the next comes in 40 s"
    )
    assert granted(plans, 8, 69.9) == 4
    assert granted(plans, 8, 70.0) == 8
    assert granted(plans, 8, 70.0) == 4


def test_a_quota_of_none_lowers_all_of_them() -> None:
    plans = quota(0)
    assert plans.priority_of("team", 5, 0.0) == (
        4,
        "plan 'team': priority 5 was lowered to 4, it has none of priority 5 and above",
    )


def test_what_was_lowered_does_not_use_the_quota_up() -> None:
    plans = quota(1)
    assert granted(plans, 5, 0.0) == 5
    for second in range(1, 60):
        assert granted(plans, 5, float(second)) == 4
    assert granted(plans, 5, 60.0) == 5


def test_a_ceiling_is_looked_at_before_the_quota() -> None:
    plans = Plans([ServicePlan("team", max_priority=6, high_priority=5, high_priority_quota=1)])
    assert [granted(plans, 9, 0.0), granted(plans, 9, 0.0), granted(plans, 3, 0.0)] == [6, 4, 3]
    assert plans.status()["team"]["above_max_priority"] == 1
    assert plans.status()["team"]["over_quota"] == 1


@given(
    most=st.integers(0, 6),
    window_s=st.integers(1, 20),
    gaps=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 9)), max_size=80),
)
def test_never_more_than_the_quota_in_any_window_and_never_fewer_than_there_is_room_for(
    most: int, window_s: int, gaps: list[tuple[int, int]]
) -> None:
    plans, now, taken = quota(most, float(window_s)), 0, list[int]()
    for gap, priority in gaps:
        now += gap
        got = granted(plans, priority, float(now))
        recent = sum(then > now - window_s for then in taken)
        if priority < 5:
            assert got == priority
        elif recent < most:
            assert got == priority
            taken.append(now)
        else:
            assert got == 4
    for start in taken:
        assert sum(start <= then < start + window_s for then in taken) <= most


@given(st.lists(st.floats(0, 0.05), min_size=200, max_size=400))
def test_a_large_quota_is_never_passed_either(gaps: list[float]) -> None:
    """From 10,000 on, takes that are close together are logged together."""
    most, window_s = 10_050, 2.0
    plans, now = quota(most, window_s), 0.0
    burst = [granted(plans, 5, now) for _ in range(most + 1)]
    assert burst.count(5) == most
    taken = [(now, most)]
    for gap in gaps:
        now += gap
        got = sum(granted(plans, 5, now) == 5 for _ in range(3))
        taken.append((now, got))
        assert sum(n for then, n in taken if then > now - window_s) <= most


def test_a_large_quota_takes_little_memory() -> None:
    plans = quota(100_000, 1000.0)
    granted(plans, 5, 0.0)
    before = sys.getallocatedblocks()
    for step in range(50_000):
        granted(plans, 5, step * 1e-4)  # five seconds: 50 cells
    gc.collect()
    assert sys.getallocatedblocks() - before < 5_000


def test_a_large_quota_is_used_almost_whole() -> None:
    plans, got = quota(20_000, 10.0), 0
    for step in range(150_000):  # 15 times the window at five times the rate
        got += granted(plans, 5, step * 0.001 / 5) == 5
    assert got >= 0.999 * 20_000 * 3


def test_a_clock_read_late_takes_nothing_from_the_window() -> None:
    plans = quota(1)
    assert granted(plans, 5, 100.0) == 5
    assert granted(plans, 5, 99.0) == 4
    assert granted(plans, 5, 160.0) == 5


# -- observing, telling -----------------------------------------------------------------


def test_observe_lowers_nothing_and_tells_what_it_would_have() -> None:
    heard: list[Event] = []
    plans = Plans([ServicePlan("free", max_priority=3, mode="observe")], emit=heard.append)
    assert plans.priority_of("free", 9, 0.0, trace_id="t1") == (
        9,
        "observed only: plan 'free': priority 9 would be lowered to 3, the highest it allows",
    )
    assert heard == [PriorityLowered(trace_id="t1", plan="free", claimed=9, granted=3, mode="observe")]


def test_listeners_hear_of_each_one_that_was_lowered_and_may_ask_back() -> None:
    heard: list[Any] = []

    def listener(event: Event) -> None:
        heard.append((event, plans.status()["free"]["calls"]))

    plans = Plans([ServicePlan("free", max_priority=3)], emit=listener)
    plans.priority_of("free", 3, 0.0, trace_id="t1")
    plans.priority_of("free", 4, 0.0, trace_id="t2")
    told = PriorityLowered(trace_id="t2", plan="free", claimed=4, granted=3, mode="enforce")
    assert heard == [(told, 2)]


def test_a_listener_that_fails_fails_no_call() -> None:
    def listener(event: Event) -> None:
        raise RuntimeError

    plans = Plans([ServicePlan("free", max_priority=3)], emit=listener)
    assert granted(plans, 4, 0.0, "free") == 3


def test_status_sets_what_was_claimed_against_what_was_granted() -> None:
    plans = quota(2)
    for priority in (5, 5, 5, 1):
        granted(plans, priority, 0.0)
    assert plans.status(0.0) == {
        "team": {
            "mode": "enforce",
            "calls": 4,
            "claimed": {5: 3, 1: 1},
            "granted": {5: 2, 4: 1, 1: 1},
            "above_max_priority": 0,
            "over_quota": 1,
            "quota_left": 0,
        }
    }
    assert plans.status(60.0)["team"]["quota_left"] == 2


def test_counts_stay_bounded_whatever_is_claimed() -> None:
    plans = Plans([ServicePlan("free", max_priority=0)])
    for priority in range(1000):
        granted(plans, priority, 0.0, "free")
    counts = plans.status()["free"]["claimed"]
    assert len(counts) <= 65
    assert sum(counts.values()) == 1000


def test_threads_together_get_no_more_than_the_quota() -> None:
    plans, got = quota(50), list[int]()

    def work() -> None:
        for _ in range(200):
            got.append(granted(plans, 5, 0.0))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (got.count(5), len(got)) == (50, 1200)


def test_a_forked_child_does_not_wait_for_the_parent_s_lock() -> None:
    plans = quota(1)
    plans._lock.acquire()
    plans.renew()
    assert granted(plans, 5, 0.0) == 5


# -- settings ---------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no name": (lambda: ServicePlan(""), "give the plan's name"),
    "a priority that is no number": (lambda: ServicePlan("p", max_priority="3"), "whole number"),  # type: ignore[arg-type]
    "true": (lambda: ServicePlan("p", max_priority=True), "whole number"),
    "a negative quota": (
        lambda: ServicePlan("p", high_priority=5, high_priority_quota=-1),
        "high_priority_quota=-1",
    ),
    "no window": (
        lambda: ServicePlan("p", high_priority=5, high_priority_quota=1, quota_window_s=0),
        "seconds above 0",
    ),
    "no weight": (lambda: ServicePlan("p", weight=0), "a weight above 0"),
    "endless weight": (lambda: ServicePlan("p", weight=float("inf")), "a weight above 0"),
    "a quota of what": (lambda: ServicePlan("p", high_priority_quota=5), "high_priority=5"),
    "how many": (lambda: ServicePlan("p", high_priority=5), "high_priority_quota"),
    "never high": (
        lambda: ServicePlan("p", max_priority=3, high_priority=5, high_priority_quota=1),
        "give 3 or less",
    ),
    "a mode": (lambda: ServicePlan("p", mode="dry"), "'enforce' or 'observe'"),  # type: ignore[arg-type]
    "twins": (lambda: Plans([ServicePlan("p"), ServicePlan("p")]), "two are called 'p'"),
    "no plan": (lambda: Plans(["free"]), "give ServicePlan"),  # type: ignore[list-item]
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_make_no_sense_are_refused(case: str) -> None:
    make, said = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        make()
    assert said in str(caught.value)


def test_the_highest_priority_may_be_the_only_high_one() -> None:
    plans = Plans([ServicePlan("p", max_priority=5, high_priority=5, high_priority_quota=1)])
    assert [granted(plans, 9, 0.0, "p"), granted(plans, 9, 0.0, "p")] == [5, 4]


def test_a_plan_is_frozen_and_equal_by_what_it_says() -> None:
    plan = ServicePlan("free", max_priority=3)
    assert plan == ServicePlan("free", max_priority=3)
    with pytest.raises(AttributeError):
        plan.max_priority = 9  # type: ignore[misc]


# -- bounds, limits, consent --------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_tier": ""}, "min_tier=''"),
        ({"max_tier": 3}, "max_tier=3"),
        ({"rpm": 0}, "rpm=0"),
        ({"tpd": 1.5}, "tpd=1.5"),
        ({"max_concurrency": True}, "max_concurrency=True"),
        ({"limit_per": "planet"}, "limit_per='planet'): one or several of user, tenant, plan, contract"),
        ({"limit_per": "account"}, "limit_per='account'"),
        ({"limit_per": []}, "limit_per=[]"),
        ({"limit_per": ["user", "user"]}, "limit_per="),
        ({"objective": 4.0}, "objective=4.0"),
        ({"consent": Consent("all", since=TODAY)}, "consent="),
        ({"consent": "all"}, "consent='all'"),
        ({"consent": [Consent("all", since=TODAY, plan="pro")]}, "leave plan, tenant and contract out"),
        ({"shifts": None}, "shifts=None"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_promises_that_make_no_sense_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ServicePlan("free", **given)
    assert said in str(refused.value)


def test_a_plan_s_limit_is_for_each_user_of_each_tenant_and_made_once() -> None:
    plans = Plans([ServicePlan("free", rpm=2, max_concurrency=1), ServicePlan("pro")])
    (limit,) = plans.rate_limits()
    assert plans.rate_limits()[0] is limit
    assert (limit.name, limit.rpm, limit.max_concurrency) == ("plan free", 2, 1)
    request = Request(messages=(), plan="free", tenant="acme", user="u1")
    assert limit.holds_for(request)
    assert not limit.holds_for(Request(messages=(), plan="pro"))
    assert limit.buckets(request, "gold", "m") == ["tenant=acme,user=u1"]


def test_a_limit_may_be_for_the_whole_plan_and_only_observe() -> None:
    (limit,) = Plans([ServicePlan("a|b%", tpm=9, limit_per="plan", mode="observe")]).rate_limits()
    assert (limit.name, limit.mode, limit.per) == ("plan a%7Cb%25", "observe", ("plan",))


def test_consent_is_that_of_the_plan_where_it_does_not_only_observe() -> None:
    consent = Consent(["short"], since=TODAY)
    plans = Plans(
        [ServicePlan("free", consent=[consent]), ServicePlan("pro", consent=[consent], mode="observe")]
    )
    assert plans.consents() == [Consent(["short"], since=TODAY, plan="free")]


def test_plans_are_found_by_name() -> None:
    plans = Plans([ServicePlan("free", shifts=False)])
    assert [plan.name for plan in plans] == ["free"]
    assert plans.get("free") is not None
    assert plans.get("fre") is None
    assert plans.get(None) is None


# -- a change of the configuration ------------------------------------------------------------


def test_what_was_claimed_stays_claimed() -> None:
    older = quota(3)
    assert [granted(older, 9, 0.0) for _ in range(2)] == [9, 9]
    newer = quota(3)
    newer.inherit(older)
    assert [granted(newer, 9, 1.0) for _ in range(2)] == [9, 4]
    assert granted(newer, 9, 60.0) == 9
    assert newer.status()["team"]["claimed"] == {9: 5}


def test_calls_that_began_under_the_older_plans_count_in_the_newer_ones() -> None:
    older, newer = quota(2), quota(2)
    newer.inherit(older)
    assert granted(older, 9, 0.0) == 9
    assert [granted(newer, 9, 1.0), granted(older, 9, 1.0), granted(newer, 9, 1.0)] == [9, 4, 4]


@pytest.mark.parametrize(("most", "rest"), [(1, []), (2, []), (5, [9, 9])], ids=str)
def test_a_quota_that_is_changed_counts_what_was_claimed_before(most: int, rest: list[int]) -> None:
    older, newer = quota(3), quota(most)
    for at in range(3):
        granted(older, 9, float(at))
    newer.inherit(older)
    assert newer.status(3.0)["team"]["quota_left"] == max(0, most - 3)
    assert [granted(newer, 9, 3.0) for _ in range(len(rest) + 1)] == [*rest, 4]


def test_a_quota_that_was_lowered_waits_for_as_many_as_it_takes() -> None:
    older, newer = quota(3), quota(1)
    for at in (0.0, 10.0, 20.0):
        granted(older, 9, at)
    newer.inherit(older)
    warning = newer.priority_of("team", 9, 30.0)[1]
    assert warning is not None
    assert warning.endswith("the next comes in 50 s")
    assert granted(newer, 9, 79.9) == 4
    assert granted(newer, 9, 80.0) == 9


@pytest.mark.parametrize("window_s", [30.0, 120.0])
def test_another_window_starts_from_what_is_known(window_s: float) -> None:
    older, newer = quota(2), quota(2, window_s)
    granted(older, 9, 0.0)
    newer.inherit(older)
    assert [granted(newer, 9, 10.0) for _ in range(2)] == [9, 4]
    assert granted(newer, 9, window_s) == 9
    assert granted(older, 9, 10.0) == 9  # it goes on by itself


def test_a_plan_that_is_new_or_has_no_quota_any_more_starts_afresh() -> None:
    older = quota(1)
    granted(older, 9, 0.0)
    newer = Plans([ServicePlan("team"), ServicePlan("new", high_priority=5, high_priority_quota=1)])
    newer.inherit(older)
    assert granted(newer, 9, 0.0) == 9
    assert granted(newer, 9, 0.0, plan="new") == 9


def test_a_limit_that_is_the_same_goes_on_and_another_one_begins() -> None:
    older = Plans([ServicePlan("a", rpm=5), ServicePlan("b", rpm=5), ServicePlan("c", rpm=5)])
    newer = Plans([ServicePlan("a", rpm=5, weight=2), ServicePlan("b", rpm=6), ServicePlan("d", rpm=5)])
    newer.inherit(older)
    before, after = older.rate_limits(), newer.rate_limits()
    assert after[0] is before[0]
    assert all(limit not in before for limit in after[1:])


@given(
    st.lists(st.tuples(st.floats(0, 30), st.sampled_from(["claim", "change"])), max_size=60),
    st.integers(0, 5),
)
def test_no_change_lets_more_through_than_its_quota(steps: list[tuple[float, str]], most: int) -> None:
    plans, now = quota(most), 0.0
    times: list[float] = []
    for later, step in steps:
        now += later
        if step == "change":
            older, plans = plans, quota(most)
            plans.inherit(older)
        elif granted(plans, 9, now) == 9:
            times.append(now)
    for at in times:
        assert sum(at - 60.0 < other <= at for other in times) <= most


def test_threads_of_both_count_together() -> None:
    older, newer = quota(500), quota(500)
    newer.inherit(older)
    assert newer._lock is older._lock  # or they would miscount, if seldom
    high = []

    def work(plans: Plans) -> None:
        high.append(sum(granted(plans, 9, 0.0) == 9 for _ in range(200)))

    threads = [threading.Thread(target=work, args=(plans,)) for plans in (older, newer) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(high) == 500

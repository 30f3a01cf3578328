"""Cascade's settings, and the way of a call: pure, for any plan."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.errors import ConfigError
from tierllm.routing.cascade import Cascade, best_first
from tierllm.routing.plan import Plan

TIERS = ("gold", "silver", "bronze", "copper")


def judge(request: object, response: object) -> bool:
    return True


def plan_of(*tiers: str) -> Plan:
    return Plan(tiers[0], tiers)


@pytest.mark.parametrize(
    ("settings", "plan", "spared", "tiers"),
    [
        ({}, plan_of("gold", "silver", "bronze"), (), ("bronze", "gold", "silver")),
        ({"strong": "silver"}, plan_of("gold", "silver", "bronze"), (), ("bronze", "silver", "gold")),
        ({"cheap": "silver"}, plan_of("gold", "silver", "bronze"), (), ("silver", "gold", "bronze")),
        ({}, plan_of("gold", "silver", "bronze"), {"gold"}, ("bronze", "silver", "gold")),
        ({}, plan_of("gold", "silver", "bronze"), {"gold", "silver"}, None),
        ({}, plan_of("gold"), (), None),
        ({"cheap": "bronze"}, plan_of("gold", "silver"), (), None),
        ({"cheap": "silver"}, plan_of("silver", "bronze"), (), None),
        ({"strong": "gold"}, plan_of("silver", "bronze"), (), ("bronze", "silver")),
        ({"strong": "silver"}, plan_of(*TIERS), {"silver"}, ("copper", "bronze", "gold", "silver")),
        ({"strong": "bronze"}, plan_of(*TIERS), {"bronze"}, ("copper", "silver", "gold", "bronze")),
        ({}, plan_of(*TIERS).starting_at("copper"), (), ("copper", "gold", "silver", "bronze")),
        ({}, plan_of(*TIERS).starting_at("silver"), {"gold"}, ("copper", "silver", "bronze", "gold")),
    ],
    ids=[
        *("usual", "strong", "cheap", "spared", "all-spared", "one", "below-floor", "top", "capped"),
        *("strong-spared", "strong-spared-up", "weak-first", "steered"),
    ],
)
def test_the_way(settings: Any, plan: Plan, spared: Any, tiers: tuple[str, ...] | None) -> None:
    way = Cascade(judge, **settings).way(plan, spared)
    assert (None if way is None else way.plan.tiers) == tiers
    if way is not None:
        assert (way.cheap, way.strong) == way.plan.tiers[:2]


plans = st.builds(
    lambda start, end, at: plan_of(*TIERS[start : start + end + 1]).starting_at(
        TIERS[start : start + end + 1][at % (min(end, 3 - start) + 1)]
    ),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 3),
)
tier = st.none() | st.sampled_from(TIERS)


@given(plan=plans, cheap=tier, strong=tier, spared=st.sets(st.sampled_from(TIERS)))
def test_a_way_stays_within_the_plan_and_leads_up(
    plan: Plan, cheap: str | None, strong: str | None, spared: set[str]
) -> None:
    if cheap is not None and cheap == strong:
        return
    way = Cascade(judge, cheap=cheap, strong=strong).way(plan, spared)
    if way is None:
        return
    made = way.plan
    assert sorted(made.tiers) == sorted(plan.tiers), "every tier once, and none that is not admissible"
    assert made.granted == made.tiers[0] == way.cheap == (cheap or best_first(plan)[-1])
    assert TIERS.index(way.strong) < TIERS.index(way.cheap)
    assert way.strong not in spared
    assert made.highest == plan.highest
    assert best_first(made) == best_first(plan)
    for number in range(len(made.tiers) - 1):
        lower = TIERS.index(made.tiers[number + 1]) > TIERS.index(made.tiers[number])
        assert made.leads_down(number) is lower
    for each in made.tiers:
        there, here = made.starting_at(each), plan.starting_at(each)
        assert (there.granted, there.open, there.excluded) == (here.granted, here.open, here.excluded)
        assert sorted(there.tiers) == sorted(here.tiers)
        if not plan.raised:  # else what was put last before stays so
            assert there == here
    again = Cascade(judge, cheap=cheap, strong=strong).way(made, spared)
    assert again is not None
    assert again.plan.tiers == made.tiers, "asking again changes nothing"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"judge": None}, "give a function"),
        ({"cheap": ""}, "cheap=''"),
        ({"strong": 7}, "strong=7"),
        ({"cheap": "a", "strong": "a"}, "two different"),
        ({"at_least": 0}, "at_least=0"),
        ({"at_least": 1.1}, "at_least=1.1"),
        ({"at_least": True}, "at_least=True"),
        ({"at_least": float("nan")}, "at_least=nan"),
        ({"max_judge_s": 0}, "max_judge_s=0"),
        ({"max_judge_s": float("inf")}, "max_judge_s=inf"),
        ({"mode": "on"}, "'enforce' or 'observe'"),
    ],
    ids=["judge", "cheap", "strong", "same", "zero", "high", "bool", "nan", "seconds", "forever", "mode"],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Cascade(**{"judge": judge, **settings})

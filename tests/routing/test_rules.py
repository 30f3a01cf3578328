"""What a rule may say, and which rules are never reached."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.ruled import TIERS, World, requests, rules, worlds
from tierllm.admission.schedule import Hours
from tierllm.errors import ConfigError
from tierllm.routing.conditions import _held
from tierllm.routing.router import Router
from tierllm.routing.rules import Rule, unreachable
from tierllm.types import Request

# -- what it may say --------------------------------------------------------------------------


def test_names_are_one_or_several() -> None:
    assert Rule(plan="free", tier="x").plan == {"free"}
    assert Rule(plan=["free", "pro"], tier="x").plan == {"free", "pro"}


def test_bounds_are_one_or_two() -> None:
    assert Rule(priority=3, tier="x").priority == (3, None)
    assert Rule(priority=[None, -1], tier="x").priority == (None, -1)  # type: ignore[arg-type]
    assert Rule(tokens=(0, 0), tier="x").tokens == (0, 0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Rule(): it says nothing"),
        ({"name": ""}, "name=''"),
        ({"name": 3, "tier": "x"}, "name=3"),
        ({"plan": ""}, "plan=''"),
        ({"plan": []}, "plan=[]"),
        ({"tag": ["a", 3]}, "tag=['a', 3]"),
        ({"tenant": 3}, "tenant=3"),
        ({"importance": "urgent"}, "'urgent' is none of low, normal, high"),
        ({"request_class": ["low", "hard"]}, "'hard' is none of low, medium, high"),
        ({"priority": True}, "priority=True"),
        ({"priority": (3, 2)}, "nothing is between these"),
        ({"priority": (None, None)}, "priority=(None, None)"),
        ({"priority": "high"}, "priority='high'"),
        ({"tokens": 1000}, "tokens=1000"),
        ({"tokens": (-1, None)}, "there are no fewer than 0 tokens"),
        ({"tokens": (1, 2, 3)}, "tokens=(1, 2, 3)"),
        ({"tokens": (0.5, None)}, "tokens=(0.5, None)"),
        ({"tools": 1}, "tools=1"),
        ({"hours": "9 to 5"}, "hours='9 to 5'): "),
        ({"hours": 9}, "give hours such as"),
        ({"hours": "sat-sun", "tz": "Mars/Phobos"}, "Mars/Phobos"),
        ({"tier": "x", "tz": "Europe/Berlin"}, "there are no hours that it could be for"),
        ({"load": -0.1}, "load=-0.1"),
        ({"load": True}, "load=True"),
        ({"forecast": float("nan")}, "forecast=nan"),
        ({"below_load": float("inf")}, "below_load=inf"),
        ({"load": 0.9, "below_load": 0.9}, "it never holds"),
        ({"of": "gold", "plan": "free"}, "whose load it is"),
        ({"of": 3, "load": 0.5}, "of=3"),
        ({"budget_left": 20}, "budget_left=20"),
        ({"tier": ""}, "tier=''"),
        ({"tier": "x", "max_tier": "y"}, "tier=..., max_tier=...)"),
        ({"tier": "x", "balance": 0.5}, "tier=..., balance=...)"),
        ({"balance": 1.1}, "balance=1.1"),
        ({"balance": False}, "balance=False"),
        ({"balance": "cheap"}, "balance='cheap'"),
        ({"set_class": "hard"}, "set_class='hard'"),
        ({"set_class": "high", "tier": "x"}, "make two rules"),
        ({"set_class": "high", "balance": 0.5}, "make two rules"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Rule(**given)
    assert said in str(refused.value)


def test_an_error_names_the_rule() -> None:
    with pytest.raises(ConfigError, match=r"^Rule\('vip', load=-1\)"):
        Rule("vip", load=-1)


def test_it_shows_what_it_says_and_no_more() -> None:
    rule = Rule("vip", plan=["pro", "free"], hours="sat-sun", tz="Europe/Berlin", tier="gold")
    assert repr(rule) == (
        "Rule('vip', plan=['free', 'pro'], hours='sat-sun', tz='Europe/Berlin', tier='gold')"
    )
    assert repr(Rule(tools=False, budget_left=0.2)) == "Rule(tools=False, budget_left=0.2)"


@given(rules())
def test_it_is_written_as_it_is_read(rule: Rule) -> None:
    assert eval(repr(rule), {"Rule": Rule}) == rule
    assert pickle.loads(pickle.dumps(rule)) == copy.deepcopy(rule) == rule
    assert hash(pickle.loads(pickle.dumps(rule))) == hash(rule)


# -- which are never reached ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (Rule(tier="x"), Rule(plan="free", tier="y")),
        (Rule(tier="x"), Rule(tools=True, hours="sat-sun", load=0.5, budget_left=0.1, tier="y")),
        (Rule(tools=True, tier="x"), Rule(tools=True, tag="a", tier="y")),
        (Rule(plan="free", tier="x"), Rule(plan="free", tier="y")),
        (Rule(plan=["free", "pro"]), Rule(plan="free", tag="a", tier="y")),
        (Rule(tag=["a", "b"], tier="x"), Rule(tag="a", tier="y")),
        (Rule(priority=3, tier="x"), Rule(priority=(4, 9), tier="y")),
        (Rule(tokens=(None, 500), tier="x"), Rule(tokens=(100, 500), tier="y")),
        (Rule(load=0.5, tier="x"), Rule(load=0.5, forecast=0.9, tier="y")),
        (Rule(below_load=0.9, of="g", tier="x"), Rule(below_load=0.5, of="g", tier="y")),
        (Rule(budget_left=0.5, tier="x"), Rule(budget_left=0.2, tier="y")),
        (Rule(hours="mon-sat 08:00-18:00", tier="x"), Rule(hours="tue 09:00-10:00", tier="y")),
        (Rule(hours="22:00-06:00", tier="x"), Rule(hours="sun 00:00-06:00", tier="y")),
        (Rule(request_class=["low", "high"], tier="x"), Rule(request_class="low", tier="y")),
        (Rule(request_class="high", tier="x"), Rule(request_class="high", min_tier="y")),
        (Rule(set_class="low"), Rule(tag="a", set_class="high")),
        (Rule(tier="x"), Rule(tag="a", set_class="high")),
    ],
    ids=lambda rule: rule.spoken,
)
def test_a_rule_that_an_earlier_one_covers_is_never_reached(earlier: Rule, later: Rule) -> None:
    found = unreachable([Rule(user="u1", tier="x"), earlier, later])
    assert [number for number, _ in found] == [2]
    assert found[0][1].startswith("rules[1] ")


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (Rule(plan="free", tier="x"), Rule(tier="y")),
        (Rule(plan="free", tier="x"), Rule(plan=["free", "pro"], tier="y")),
        (Rule(tag="a", tier="x"), Rule(tag=["a", "b"], tier="y")),
        (Rule(priority=3, tier="x"), Rule(priority=(2, 9), tier="y")),
        (Rule(tokens=(None, 500), tier="x"), Rule(tokens=(100, None), tier="y")),
        (Rule(load=0.5, tier="x"), Rule(load=0.5, of="g", tier="y")),
        (Rule(below_load=0.9, tier="x"), Rule(below_load=0.5, of="g", tier="y")),
        (Rule(load=0.5, tier="x"), Rule(forecast=0.9, tier="y")),
        (Rule(load=0.9, tier="x"), Rule(load=0.5, tier="y")),
        (Rule(tools=True, tier="x"), Rule(tools=False, tier="y")),
        (Rule(hours="08:00-18:00", tier="x"), Rule(hours="08:00-18:00", tz="Asia/Tokyo", tier="y")),
        (Rule(hours="mon 22:00-06:00", tier="x"), Rule(hours="mon 00:00-06:00", tier="y")),
        (Rule(set_class="low"), Rule(tier="y")),
        (Rule(request_class="high", tier="x"), Rule(tier="y")),
    ],
    ids=lambda rule: rule.spoken,
)
def test_a_rule_that_is_left_something_is_not_reported(earlier: Rule, later: Rule) -> None:
    assert unreachable([earlier, later]) == []


def test_a_class_may_be_another_one_by_then() -> None:
    between = Rule(tag="proof", set_class="high")
    listed = [
        Rule(request_class="high", tier="x"),
        between,
        Rule(request_class="high", tag="proof", tier="y"),
    ]
    assert unreachable(listed) == []
    assert unreachable([listed[0], listed[2]]) != []


def test_the_reason_names_the_rule_in_the_way() -> None:
    listed = [Rule("all", tier="x"), Rule(plan="free", tier="y"), Rule(set_class="low")]
    assert unreachable(listed) == [
        (1, "rules[0] ('all') takes every call that it is for"),
        (2, "rules[0] ('all') takes every call that it is for"),
    ]
    assert unreachable([Rule(set_class="low"), Rule(tag="a", set_class="high")]) == [
        (1, "rules[0] sets the class of every call that it is for")
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(rules(), min_size=2, max_size=6),
    st.lists(st.tuples(requests, worlds), min_size=3, max_size=6),
    st.booleans(),
)
def test_it_is_never_a_false_alarm(
    listed: list[Rule], tried: list[tuple[Request, World]], scored: bool
) -> None:
    """Without a rule that is reported, every call is decided as with it."""
    found = {number for number, _ in unreachable(listed)}
    named = [_named(rule, number) for number, rule in enumerate(listed)]
    if not scored:
        named = [_named(rule, number, balance=None) for number, rule in enumerate(listed)]
    left = [rule for number, rule in enumerate(named) if number not in found]
    for request, world in tried:
        if scored:
            with_it, without = world.table(named), world.table(left)
        else:
            with_it, without = (
                Router(some).bound(
                    TIERS,
                    load=lambda tier, world=world: world.loads[tier or ""],  # type: ignore[misc]
                    budget_left=lambda request, world=world: world.left,  # type: ignore[misc]
                    tokens=lambda request, world=world: world.tokens,  # type: ignore[misc]
                    wall=lambda world=world: world.wall_s,  # type: ignore[misc]
                )
                for some in (named, left)
            )
        assert without.decide(request)[:6] == with_it.decide(request)[:6]


def _named(rule: Rule, number: int, **changed: Any) -> Rule:
    from dataclasses import fields

    said = {field.name: getattr(rule, field.name) for field in fields(rule)} | changed
    if rule.hours is None:
        del said["tz"]
    if all(value is None for name, value in said.items() if name not in ("name", "tz")):
        said["plan"] = "never"
    return Rule(**{**said, "name": f"r{number}"})


@given(
    st.sampled_from(["", "mon", "mon-fri", "sat-sun", "sun", "tue,thu", "fri-mon"]),
    st.integers(0, 1439),
    st.integers(1, 1440),
)
def test_the_minutes_of_hours_are_those_at_which_they_hold(days: str, begins: int, ends: int) -> None:
    if begins == ends:
        return
    times = f"{begins // 60:02d}:{begins % 60:02d}-{ends // 60:02d}:{ends % 60:02d}"
    when = f"{days} {times}".strip()
    hours = Hours(when, size=1)
    held = _held(when)
    assert held >> 7 * 1440 == 0
    for day in range(7):
        for minute in (0, 1, 719, 1438, 1439, begins, begins - 1, ends - 1, ends):
            if 0 <= minute < 1440:
                assert (held >> day * 1440 + minute & 1) == hours.hold_at(day, minute), (when, day, minute)


def test_a_mapping_is_no_list_of_names() -> None:
    with pytest.raises(ConfigError, match="give a name or several"):
        Rule(plan={"a": 1}, tier="gold")  # type: ignore[arg-type]

"""Which tiers a call may be served by."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm import Deployment, Tier
from tierllm.errors import ConfigError
from tierllm.routing.ask import ask
from tierllm.routing.plan import Bounds, Plan, plan
from tierllm.testing import FakeProvider
from tierllm.types import Request

FAKE = FakeProvider()


def tier(name: str, *labels: str, fallback: bool = True) -> Tier:
    return Tier(name, [Deployment("m", FAKE, labels=labels)], fallback=fallback)


TIERS = [tier("gold", "eu"), tier("silver"), tier("bronze", "eu", "zero")]


def planned(tiers: list[Tier] | None = None, **options: Any) -> Plan:
    return plan(ask("hi", options), TIERS if tiers is None else tiers)


@pytest.mark.parametrize(
    ("options", "granted", "tiers"),
    [
        ({}, "gold", "gold silver bronze"),
        ({"sla": "gold"}, "gold", "gold silver bronze"),
        ({"sla": "silver"}, "silver", "silver bronze"),
        ({"sla": "bronze"}, "bronze", "bronze"),
        ({"min_tier": "silver"}, "gold", "gold silver"),
        ({"min_tier": "gold"}, "gold", "gold"),
        ({"sla": "bronze", "min_tier": "silver"}, "silver", "silver"),
        ({"sla": "bronze", "min_tier": "gold"}, "gold", "gold"),
        ({"fallback": False}, "gold", "gold"),
        ({"sla": "silver", "fallback": False}, "silver", "silver"),
        ({"sla": "bronze", "min_tier": "silver", "fallback": False}, "silver", "silver"),
        ({"require": {"eu"}}, "gold", "gold bronze"),
        ({"require": {"zero"}}, "bronze", "bronze"),
        ({"sla": "silver", "require": {"eu"}}, "bronze", "bronze"),
    ],
    ids=str,
)
def test_from_what_was_asked_for_down_to_the_floor(options: dict[str, Any], granted: str, tiers: str) -> None:
    made = planned(**options)
    assert (made.granted, made.tiers) == (granted, tuple(tiers.split()))


@pytest.mark.parametrize(
    ("options", "excluded"),
    [
        ({}, ()),
        ({"min_tier": "silver"}, (("bronze", "min_tier"),)),
        ({"fallback": False}, (("silver", "no fallback"), ("bronze", "no fallback"))),
        ({"require": {"zero"}}, (("gold", "labels"), ("silver", "labels"))),
    ],
)
def test_what_lies_beneath_and_is_not_admissible_is_named_with_why(
    options: dict[str, Any], excluded: tuple[tuple[str, str], ...]
) -> None:
    assert planned(**options).excluded == excluded


def test_a_tier_that_never_falls_back_ends_the_plan() -> None:
    tiers = [tier("gold", fallback=False), tier("silver"), tier("bronze")]
    assert planned(tiers).tiers == ("gold",)
    assert planned(tiers, sla="silver").tiers == ("silver", "bronze")


@pytest.mark.parametrize(
    "options",
    [
        {"require": {"mars"}},
        {"require": ["eu", "mars"]},
        {"require": {"zero"}, "min_tier": "silver"},
        {"require": {"eu"}, "sla": "silver", "fallback": False},
        {"require": {"eu"}, "sla": "silver", "min_tier": "silver"},
    ],
    ids=str,
)
def test_labels_that_no_admissible_tier_has(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="has these labels"):
        planned(**options)


def test_labels_beyond_a_tier_that_never_falls_back_are_out_of_reach() -> None:
    tiers = [tier("gold", fallback=False), tier("silver", "eu")]
    with pytest.raises(ConfigError, match="no deployment of gold"):
        planned(tiers, require={"eu"})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sla": "golf"}, "did you mean 'gold'"),
        ({"sla": "Gold"}, "did you mean 'gold'"),
        ({"min_tier": "platinum"}, "the tiers are gold, silver, bronze"),
    ],
    ids=str,
)
def test_a_tier_that_does_not_exist(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        planned(**options)


names = st.sampled_from(["a", "b", "c", "d", "e"])


@given(
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.lists(st.frozensets(st.sampled_from(["x", "y"])), min_size=5, max_size=5),
    st.none() | names,
    st.none() | names,
    st.booleans(),
    st.frozensets(st.sampled_from(["x", "y"])),
)
def test_no_plan_goes_below_a_floor(
    falls_back: list[bool],
    labels: list[frozenset[str]],
    sla: str | None,
    min_tier: str | None,
    fallback: bool,
    require: frozenset[str],
) -> None:
    order = "abcde"
    tiers = [tier(n, *labels[i], fallback=falls_back[i]) for i, n in enumerate(order)]
    options = {"sla": sla, "min_tier": min_tier, "fallback": fallback, "require": require}
    try:
        found = planned(tiers, **options)
    except ConfigError:
        assert require
        return
    indices = [order.index(name) for name in found.tiers]
    start, floor = order.index(sla or "a"), order.index(min_tier or "e")
    assert indices == sorted(set(indices))
    assert indices[-1] <= floor
    assert indices[0] >= min(start, floor)
    assert found.granted == found.tiers[0]
    assert all(require <= labels[i] for i in indices)
    if not fallback:
        assert len(indices) == 1
    assert all(falls_back[i] for i in range(indices[0], indices[-1]))


@pytest.mark.parametrize(
    ("bounds", "options", "floored", "cap"),
    [
        (Bounds(), {}, False, None),
        (Bounds(), {"sla": "silver"}, False, None),
        (Bounds(cap="silver"), {}, False, "silver"),
        (Bounds(cap="gold"), {}, False, None),
        (Bounds(cap="bronze"), {"min_tier": "silver"}, True, "silver"),
        (Bounds(floor="silver", cap="bronze"), {}, True, "silver"),
        (Bounds(floor="gold"), {"fallback": False}, True, None),
    ],
    ids=str,
)
def test_a_plan_knows_its_cap_and_whether_it_has_a_floor(
    bounds: Bounds, options: dict[str, Any], floored: bool, cap: str | None
) -> None:
    made = plan(Request(messages=(), **options), TIERS, bounds)
    assert (made.floored, made.cap) == (floored, cap)
    for tier in made.tiers:
        turned = made.starting_at(tier)
        assert (turned.floored, turned.cap) == (floored, cap)


# -- beginning elsewhere ------------------------------------------------------------------

FULL = Plan("gold", ("gold", "silver", "bronze"))


def test_what_is_higher_than_where_it_begins_comes_last_the_best_of_it_first() -> None:
    assert FULL.starting_at("silver").tiers == ("silver", "bronze", "gold")
    bronze = FULL.starting_at("bronze")
    assert (bronze.tiers, bronze.raised, bronze.open) == (("bronze", "gold", "silver"), 2, ("bronze",))


def test_what_was_put_last_before_stays_last() -> None:
    lower = FULL.starting_at("silver").starting_at("bronze")
    assert (lower.tiers, lower.raised) == (("bronze", "silver", "gold"), 2)
    assert lower.best_first == FULL.tiers
    assert lower.highest == "gold"
    assert not lower.leads_down(0)
    assert not lower.leads_down(1)
    assert lower.is_lowest("bronze")
    assert lower.starting_at("silver").tiers == ("silver", "bronze", "gold")
    assert lower.starting_at("gold") == FULL


def test_of_what_comes_last_some_comes_after_the_rest() -> None:
    bronze = FULL.starting_at("bronze")
    assert bronze.putting_last(["gold"]).tiers == ("bronze", "silver", "gold")
    assert bronze.putting_last(["silver"]) is bronze
    assert bronze.putting_last(["bronze"]) is bronze
    assert FULL.putting_last(["gold"]) is FULL


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sets(st.sampled_from("abcd"))), max_size=6))
def test_however_often_it_is_turned_round_each_tier_is_there_once(told: list[tuple[str, set[str]]]) -> None:
    full = made = Plan("a", tuple("abcd"))
    for begins, last in told:
        made = made.starting_at(begins).putting_last(sorted(last))
        assert made.granted == made.tiers[0] == begins
        assert sorted(made.tiers) == list(full.tiers)
        assert made.best_first == full.tiers
        assert "".join(made.open) == "abcd"["abcd".index(begins) :]
        behind = made.tiers[len(made.open) :]
        assert all(each in last for each in behind[len(behind) - len(last & set(behind)) :])
        for number in range(3):
            assert made.leads_down(number) is (made.tiers[number + 1] > made.tiers[number])

"""What a budget is told, whose accounts a call draws on, and what a refusal says."""

from __future__ import annotations

import copy
import pickle
from decimal import Context, Decimal, localcontext
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm import Budget, Request
from tierllm.cost.amounts import nano
from tierllm.cost.budget import Draw, lines_of, short
from tierllm.errors import BudgetExceededError, ConfigError
from tierllm.stores import MemoryStore, Standing

NOON = 1_795_262_400.0  # 2026-11-21T12:00Z


def asked(**who: Any) -> Request:
    return Request(messages=(), **who)


def draw(budget: Budget, now: float = NOON, **who: Any) -> Draw:
    return budget.draws(asked(**who), "gold", "g", now, MemoryStore())[0]


# -- what makes no sense --------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "give it a limit, such as hard_usd=10"),
    ({"hard_usd": -1}, "hard_usd=-1.*give dollars, 0 or more"),
    ({"hard_usd": "nan"}, "give dollars"),
    ({"hard_usd": "sNaN"}, "give dollars"),
    ({"hard_usd": float("inf")}, "give dollars"),
    ({"hard_usd": "ten"}, "give dollars"),
    ({"hard_usd": True}, "give dollars"),
    ({"hard_usd": [1]}, "give dollars"),
    ({"soft_usd": "-0.01"}, "soft_usd='-0.01'.*give dollars"),
    ({"hard_usd": 10**400}, "more than can be counted; leave it out"),
    ({"hard_usd": "1e999999"}, "more than can be counted"),
    ({"hard_usd": 9_100_000}, "more than can be counted"),
    ({"hard_tokens": 2**53}, "more than can be counted"),
    ({"hard_tokens": 1.5}, "give a whole number of tokens, 0 or more"),
    ({"hard_tokens": "5"}, "give a whole number of tokens"),
    ({"hard_calls": -3}, "give a whole number of calls"),
    ({"hard_calls": False}, "give a whole number of calls"),
    ({"hard_usd": 1, "soft_usd": 2}, "soft_usd=2.*give less than hard_usd=1"),
    ({"hard_calls": 1, "per": "nobody"}, "per='nobody'.*one or several of user, tenant"),
    ({"hard_calls": 1, "per": ()}, "one or several of"),
    ({"hard_calls": 1, "per": 7}, "one or several of"),
    ({"hard_calls": 1, "per": ("user", "user")}, "one or several of"),
    ({"hard_calls": 1, "per": ("user", "client")}, "stand alone"),
    ({"hard_calls": 1, "per": ("call", "user")}, "stand alone"),
    ({"hard_calls": 1, "window": "fortnight"}, "give 'day', 'week', 'month', 'total'"),
    ({"hard_calls": 1, "window": "day", "tz": "Nowhere/Land"}, "give the name of a time zone"),
    ({"hard_calls": 1, "where": "free"}, "give a mapping"),
    ({"hard_calls": 1, "where": {"colour": "red"}}, "'colour' is none of user, tenant"),
    ({"hard_calls": 1, "where": {"plan": ""}}, "give a name or several"),
    ({"hard_calls": 1, "where": {"plan": []}}, "give a name or several"),
    ({"hard_calls": 1, "where": {"plan": 3}}, "give a name or several"),
    ({"hard_calls": 1, "where": {"plan": ["a", 1]}}, "give a name or several"),
    ({"hard_calls": 1, "on_exceed": "panic"}, "one or several of reject, downgrade, clamp"),
    ({"hard_calls": 1, "on_exceed": ()}, "one or several of"),
    ({"hard_calls": 1, "on_exceed": None, "on_soft": "shout"}, "one of 'warn', 'downgrade'"),
    ({"hard_calls": 1, "on_soft": "downgrade"}, "give it a soft limit"),
    ({"hard_calls": 1, "fail": "maybe"}, "one of 'closed', 'open'"),
    ({"hard_calls": 1, "scope": "galaxy"}, "one of 'shared', 'process'"),
    ({"hard_calls": 1, "mode": "dry"}, "one of 'enforce', 'observe'"),
    ({"hard_calls": 1, "name": ""}, "give a name without"),
    ({"hard_calls": 1, "name": "a|b"}, "give a name without"),
    ({"hard_calls": 1, "name": 5}, "give a name without"),
    ({"hard_calls": 1, "store": "redis://"}, "give a MemoryStore, DiskStore or RedisStore"),
]


@pytest.mark.parametrize(("options", "words"), BAD, ids=[f"{n}" for n in range(len(BAD))])
def test_what_makes_no_sense_is_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Budget(**options)


def test_dollars_are_exact_and_a_limit_is_never_raised() -> None:
    assert Budget(hard_usd=0.1).limits[0].hard == 100_000_000
    assert Budget(hard_usd="0.0000000019").limits[0].hard == 1
    assert Budget(hard_usd=Decimal("1e-30")).limits[0].hard == 0
    assert nano("0.0000000011") == 2  # what is reserved is rounded the other way


def test_an_applications_own_precision_rounds_no_money() -> None:
    with localcontext(Context(prec=3)):
        budget = Budget(hard_usd="12.3456789")
        assert budget.limits[0].hard == 12_345_678_900
        assert nano("12.3456789") == 12_345_678_900
        assert str(budget.limits[0].told(12_345_678_901)) == "12.345678901"
        error = budget.refusal(draw(budget), Standing(0, 0), 12_345_678_901, NOON)
        assert "may need $12.345678901, and $12.3456789 of $12.3456789 is left" in str(error)


def test_names_say_what_is_limited() -> None:
    assert Budget(hard_calls=1).name == "client-total"
    assert Budget(hard_calls=1, per=("tenant", "user"), window="day").name == "tenant+user-day"
    assert Budget(hard_calls=1, per="call").name == "call"
    where = {"plan": ["pro", "free"], "tier": "gold|x"}
    assert Budget(hard_calls=1, where=where).name == "client-total[plan=free+pro][tier=gold_x]"


def test_places_go_on_to_the_next_one_and_people_do_not() -> None:
    assert Budget(hard_calls=1, per="tier").steps_down()
    assert Budget(hard_calls=1, per=("user", "deployment")).steps_down()
    assert not Budget(hard_calls=1, per="user").steps_down()


# -- which calls -------------------------------------------------------------------------


def test_where_is_about_the_caller_and_about_the_place() -> None:
    budget = Budget(hard_calls=1, where={"plan": ["free", "trial"], "tier": "gold", "tag": "batch"})
    assert budget.holds_at("gold", "g", "m")
    assert not budget.holds_at("silver", "g", "m")
    assert budget.holds_for(asked(plan="free", tags=("a", "batch")))
    assert not budget.holds_for(asked(plan="free", tags=("a",)))
    assert not budget.holds_for(asked(plan="pro", tags=("batch",)))
    assert not budget.holds_for(asked())


@pytest.mark.parametrize(
    ("per", "who", "buckets"),
    [
        ("client", {"user": "u"}, ["client"]),
        ("user", {"user": "u"}, ["user=u"]),
        ("user", {}, ["user="]),
        ("tag", {"tags": ("a", "b", "a")}, ["tag=a", "tag=b"]),
        ("tag", {}, ["tag="]),
        (("tenant", "user"), {"user": "u"}, ["tenant=,user=u"]),
        (("user", "tag"), {"user": "u", "tags": ("a", "b")}, ["user=u,tag=a", "user=u,tag=b"]),
        ("tier", {}, ["tier=gold"]),
        ("deployment", {}, ["deployment=gold/g"]),
        ("user", {"user": "a,b\\"}, ["user=a\\,b\\\\"]),
    ],
    ids=lambda v: str(v),
)
def test_whose_accounts_a_call_draws_on(per: Any, who: dict[str, Any], buckets: list[str]) -> None:
    assert Budget(hard_calls=1, per=per).buckets(asked(**who), "gold", "g") == buckets


NAMES = st.text(alphabet=st.sampled_from("a,\\|=/ é"), min_size=1, max_size=6)


@given(st.lists(st.tuples(NAMES, NAMES, NAMES), min_size=2, max_size=6, unique=True))
def test_no_two_people_share_an_account(people: list[tuple[str, str, str]]) -> None:
    budget = Budget(hard_calls=1, per=("tenant", "user", "tag"))
    accounts = [draw(budget, tenant=t, user=u, tags=(g,)).account for t, u, g in people]
    assert len(set(accounts)) == len(people)


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=4, unique=True))
def test_no_two_budgets_units_or_windows_share_an_account(people: list[tuple[str, str]]) -> None:
    accounts = []
    for name, window, (tenant, user) in product(("b", "c"), ("day", "month"), people):
        budget = Budget(hard_usd=1, hard_calls=1, per=("tenant", "user"), window=window, name=name)
        draws = budget.draws(asked(tenant=tenant, user=user), "gold", "g", NOON, MemoryStore())
        accounts += [each.account for each in draws]
    assert len(set(accounts)) == len(accounts)


# -- lines ---------------------------------------------------------------------------------


def test_a_hard_limit_reserves_the_worst_and_a_soft_one_the_likely() -> None:
    store = MemoryStore()
    worst, likely = {"usd": 9, "tokens": 90, "calls": 1}, {"usd": 5, "tokens": 50, "calls": 1}
    hard, soft, watched = (
        Budget(hard_usd=1, name="hard"),
        Budget(soft_usd=1, name="soft"),
        Budget(hard_usd=1, mode="observe", name="watched"),
    )
    draws = [b.draws(asked(), "gold", "g", NOON, store)[0] for b in (hard, soft, watched)]
    lines = lines_of(draws, worst, likely)
    assert [line.amount for line in lines] == [9, 5, 9]
    assert [line.limit for line in lines] == [10**9, None, None]
    assert [short(line, Standing(10**9, 0)) for line in lines] == [True, False, False]


# -- refusals --------------------------------------------------------------------------------


def test_a_refusal_says_what_was_asked_what_is_left_and_when_it_resets() -> None:
    budget = Budget(hard_usd=5, per="user", window="day")
    error = budget.refusal(draw(budget, user="u42"), Standing(4_900_000_000, 0, 0), 200_000_000, NOON)
    assert (error.budget, error.bucket, error.unit) == ("user-day", "user=u42", "usd")
    assert (error.asked, error.left, error.limit) == (Decimal("0.2"), Decimal("0.1"), Decimal(5))
    assert (error.resets_at, error.retry_after_s) == (NOON + 43_200, 43_200)
    assert error.steps_down is False
    assert str(error) == (
        "budget 'user-day' (user=u42): this call may need $0.2, and $0.1 of $5 is left; it resets in 43200 s"
    )


def test_what_is_held_is_no_reason_to_wait_for_the_reset() -> None:
    budget = Budget(hard_tokens=100, window="day")
    error = budget.refusal(draw(budget), Standing(20, 60, 0), 30, NOON)
    assert (error.asked, error.left, error.limit) == (30, 20, 100)
    assert (error.resets_at, error.retry_after_s) == (NOON + 43_200, None)
    assert "60 tokens is held by calls under way" in str(error)


def test_a_total_never_resets_and_a_rolling_one_bit_by_bit() -> None:
    total = Budget(hard_calls=0)
    error = total.refusal(draw(total), Standing(0, 0), 1, NOON)
    assert (error.left, error.limit, error.resets_at, error.retry_after_s) == (0, 0, None, None)
    assert "it never resets" in str(error)
    rolling = Budget(hard_calls=1, window="1h")
    now = draw(rolling)
    error = rolling.refusal(now, Standing(1, 0, now.span.slot), 1, NOON)
    assert error.retry_after_s == 3660


def test_a_refusal_survives_pickling_and_copying() -> None:
    budget = Budget(hard_usd="0.5", per="tier", window="day")
    error = budget.refusal(draw(budget), Standing(10, 20, 0), 500_000_000, NOON)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is BudgetExceededError
        assert vars(twin) == vars(error)
        assert str(twin) == str(error)
    assert error.steps_down


def test_what_remains_is_never_below_nothing() -> None:
    budget = Budget(hard_usd=1)
    left = budget.remains(draw(budget), Standing(1_200_000_000, 0))
    assert (left.used, left.left, left.limit) == (Decimal("1.2"), 0, 1)
    soft = Budget(soft_calls=3)
    assert soft.remains(draw(soft), Standing(2, 1)).left == 0


def test_a_budget_holds_no_names_of_people_in_its_repr() -> None:
    assert repr(Budget(hard_calls=1, per="user")) == "<Budget user-total>"

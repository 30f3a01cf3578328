"""No limit is passed, nothing stays reserved and every dollar is booked once, whatever calls do.

Many calls at once in virtual time, over several budgets, with failures, timeouts, retries,
fallbacks, clamping, deadlines, cancellations and early closes at any moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.money import BEGIN_S, KINDS, Bank, mixed, traffic
from tierllm import Budget


@dataclass(frozen=True)
class Plan:
    """One call, when it comes, what it meets, and when its consumer leaves."""

    arrives_s: float
    answers: tuple[str, ...]
    leaves_s: float | None
    closes: bool
    streaming: bool
    words: int
    options: dict[str, Any]


SECONDS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.5])
OPTIONS = st.fixed_dictionaries(
    {"user": st.sampled_from(["ann", "bob"]), "sla": st.sampled_from(["gold", "silver", "bronze"])},
    optional={
        "tenant": st.sampled_from(["acme", "a,b", "x|y"]),
        "max_tokens": st.sampled_from([1, 20, 100, 1000]),
        "deadline_s": st.sampled_from([0.3, 1.0, 3.0]),
        "max_cost_usd": st.sampled_from(["0.0001", "0.001", "0.01"]),
        "fallback": st.booleans(),
        "extra": st.sampled_from([{"fake": {"n": 3}}, {"fake": {"max_completion_tokens": 60}}]),
    },
)
PLANS = st.builds(
    Plan,
    arrives_s=SECONDS,
    answers=st.lists(st.sampled_from(KINDS), max_size=5).map(tuple),
    leaves_s=st.none() | SECONDS,
    closes=st.booleans(),
    streaming=st.booleans(),
    words=st.integers(1, 60),
    options=OPTIONS,
)
STEPS = st.sampled_from(
    [None, "reject", "downgrade", "clamp", ("downgrade", "clamp"), ("clamp", "downgrade")]
)
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "hard_usd": st.sampled_from(["0", "0.0002", "0.001", "0.005", "0.03"]),
        "hard_tokens": st.sampled_from([0, 100, 1000, 9000]),
        "hard_calls": st.sampled_from([0, 1, 3, 10]),
    },
).filter(bool)
PER = st.sampled_from(["user", "tenant", "tier", "client", ("user", "tier"), ("tenant", "user")])
WINDOWS = st.sampled_from(["total", "day", "2s", "1m"])
BUDGETS = st.lists(st.tuples(LIMITS, PER, WINDOWS, STEPS), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(BUDGETS, st.lists(PLANS, min_size=1, max_size=14), st.integers(0, 9), st.sampled_from([None, 1, 3]))
def test_limits_hold_and_everything_is_booked_once(
    given_budgets: list[Any], plans: list[Plan], seed: int, pool: int | None
) -> None:
    budgets = [
        Budget(**limits, per=per, window=window, on_exceed=steps, name=f"b{number}")
        for number, (limits, per, window, steps) in enumerate(given_budgets)
    ]
    bank = Bank(budgets, seed=seed, pool=pool)
    for plan in plans:

        def begin(plan: Plan = plan) -> None:
            bank.begin(
                "word " * plan.words,
                streaming=plan.streaming,
                leaves_s=plan.leaves_s,
                closes=plan.closes,
                answers=plan.answers,
                **plan.options,
            )

        bank.time.at(BEGIN_S + plan.arrives_s, begin)
    bank.time.run()
    bank.audit()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_traffic_of_every_kind(seed: int) -> None:
    budgets = [
        Budget(hard_usd="0.04", per="user", window="30s", name="user"),
        Budget(hard_tokens=15_000, per="tenant", on_exceed=("clamp", "reject"), name="tenant"),
        Budget(hard_usd="0.5", per="tier", name="tier"),
        Budget(hard_usd="1.2", hard_calls=1500, name="all"),
    ]
    bank = traffic(Bank(budgets, seed=seed, weights=mixed()), 2500, 30.0, seed=seed)
    bank.audit()
    assert bank.ends["ok"] > 200
    assert bank.clamped > 5
    assert bank.ends["BudgetExceededError"] > 100
    assert {row.outcome for row in bank.rows} == {"ok", "failed", "cancelled"}
    assert set(bank.answered) == set(KINDS)


def test_a_budget_is_used_up_before_it_refuses_for_good() -> None:
    budget = Budget(hard_usd="0.5", name="all")
    # the worst case of a call is 240 bytes and their frame in, 200 tokens out: 0.0011 of 0.5
    bank = traffic(Bank([budget], pool=None), 4000, 20.0, seed=4, orderly=True)
    bank.audit()
    assert bank.ends["BudgetExceededError"] > 100, "demand did not outlast the budget"
    assert bank.used(budget) >= 0.95


def test_refusals_are_told_apart_by_what_was_in_the_way() -> None:
    """The harness itself: a burst is refused for what is held, and could have been served."""
    budget = Budget(hard_usd="0.01", name="all")
    bank = Bank([budget], pool=None)
    for _ in range(40):
        bank.begin(max_tokens=500)
    bank.time.run()
    bank.audit()
    assert bank.ends["BudgetExceededError"] == len(bank.store.turned_away) > 0
    assert 0 < bank.store.needless() <= len(bank.store.turned_away)

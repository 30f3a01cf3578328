"""A budget around any piece of work, without a client."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any

import pytest

from tierllm import Budget
from tierllm.errors import BudgetExceededError, ConfigError, StoreUnavailableError, UsageError
from tierllm.stores import Hold, MemoryStore, Settlement, Verdict
from tierllm.testing import FakeClock


def left(budget: Budget, **who: Any) -> dict[str, Decimal]:
    return {each.unit: each.left for each in budget.remaining(**who)}


def test_it_reserves_while_the_block_runs_and_settles_after() -> None:
    budget = Budget(hard_usd=1, hard_tokens=1000, hard_calls=10, per="user")
    with budget.spend(usd="0.4", tokens=600, user="u") as spend:
        assert left(budget, user="u") == {"usd": Decimal("0.6"), "tokens": 400, "calls": 9}
        assert left(budget, user="v") == {"usd": 1, "tokens": 1000, "calls": 10}
        spend.settle(usd="0.1", tokens=5)
    assert left(budget, user="u") == {"usd": Decimal("0.9"), "tokens": 995, "calls": 9}
    assert {each.reserved for each in budget.remaining(user="u")} == {0}


def test_without_a_word_what_was_reserved_counts_as_used() -> None:
    budget = Budget(hard_usd=1)
    with budget.spend(usd="0.4"):
        pass
    assert left(budget) == {"usd": Decimal("0.6")}


def test_an_error_gives_it_back_unless_it_was_settled_before() -> None:
    budget = Budget(hard_usd=1)
    with pytest.raises(ZeroDivisionError), budget.spend(usd="0.4"):
        raise ZeroDivisionError
    assert left(budget) == {"usd": 1}
    with pytest.raises(ZeroDivisionError), budget.spend(usd="0.4") as spend:
        spend.settle(usd="0.3")
        raise ZeroDivisionError
    assert left(budget) == {"usd": Decimal("0.7")}


def test_it_refuses_before_the_block_begins() -> None:
    budget = Budget(hard_usd="0.5", per=("tenant", "user"))
    with pytest.raises(BudgetExceededError, match=r"may need \$0.51"), budget.spend(usd="0.51", user="u"):
        raise AssertionError("it ran")
    with budget.spend(usd="0.5", user="u"):
        with pytest.raises(BudgetExceededError) as caught, budget.spend(usd="0.01", user="u"):
            raise AssertionError("it ran")
        assert (caught.value.bucket, caught.value.left) == ("tenant=,user=u", 0)


def test_nothing_costs_nothing_even_of_a_limit_of_nothing() -> None:
    with Budget(hard_usd=0).spend(usd=0), Budget(hard_tokens=0).spend(tokens=0):
        pass
    with pytest.raises(BudgetExceededError), Budget(hard_calls=0).spend():
        raise AssertionError("it ran")


@pytest.mark.parametrize(
    ("amounts", "words"),
    [
        ({"usd": -1}, r"spend\(usd=-1\): give dollars, 0 or more"),
        ({"usd": "nan"}, "give dollars"),
        ({"usd": "much"}, "give dollars"),
        ({"tokens": -1}, "give a whole number of tokens"),
        ({"tokens": 1.5}, "give a whole number of tokens"),
        ({"calls": True}, "give a whole number of calls"),
        ({"usd": 10**40}, "more than can be counted"),
        ({"who": "u"}, "'who' names nobody"),
        ({"tags": "batch"}, "give several names"),
        ({"user": 5}, "user=5: give a name"),
    ],
    ids=str,
)
def test_amounts_that_make_no_sense(amounts: dict[str, Any], words: str) -> None:
    budget = Budget(hard_usd=1, hard_tokens=10)
    with pytest.raises(ConfigError, match=words), budget.spend(**amounts):
        raise AssertionError("it ran")


def test_what_is_limited_has_to_be_said() -> None:
    words = r"limits usd: say how many with spend\(usd=...\)"
    with pytest.raises(ConfigError, match=words), Budget(hard_usd=1).spend(tokens=5):
        raise AssertionError("it ran")


def test_a_budget_for_others_reserves_nothing() -> None:
    budget = Budget(hard_calls=0, where={"plan": "free", "tier": "gold"})
    with budget.spend(plan="pro", tier="gold"), budget.spend(plan="free", tier="silver"):
        pass
    with pytest.raises(BudgetExceededError), budget.spend(plan="free", tier="gold"):
        raise AssertionError("it ran")


def test_settling_makes_sense_once() -> None:
    budget = Budget(hard_usd=1)
    with budget.spend(usd="0.5") as spend:
        with pytest.raises(ConfigError, match=r"settle\(usd=-1\)"):
            spend.settle(usd=-1)
        spend.settle(usd="0.2")
        with pytest.raises(UsageError, match="settled before"):
            spend.settle(usd="0.2")
    assert left(budget) == {"usd": Decimal("0.8")}


def test_more_may_be_used_than_was_reserved_and_is_booked_all_the_same() -> None:
    budget = Budget(hard_usd=1)
    with budget.spend(usd="0.5") as spend:
        spend.settle(usd="1.25")
    [remaining] = budget.remaining()
    assert (remaining.used, remaining.left) == (Decimal("1.25"), 0)


def test_tags_draw_on_each_of_their_accounts() -> None:
    budget = Budget(hard_calls=2, per="tag")
    with budget.spend(tags=("a", "b")), budget.spend(tags=("a",)):
        with pytest.raises(BudgetExceededError) as caught, budget.spend(tags=("b", "a")):
            raise AssertionError("it ran")
        assert caught.value.bucket == "tag=a"
        with budget.spend(tags=("b",)):
            pass


def test_a_day_that_ends_meanwhile_keeps_what_began_in_it() -> None:
    clock = FakeClock(86_400.0 * 20_000 - 10)
    budget = Budget(hard_usd=1, window="day")
    with budget.spend(usd=1, clock=clock):
        clock.advance(20)
        assert [r.left for r in budget.remaining(clock=clock)] == [1]
    assert [r.left for r in budget.remaining(clock=clock)] == [1]
    set_back = FakeClock(86_400.0 * 20_000 - 1)  # the day is as it was
    assert [r.left for r in budget.remaining(clock=set_back)] == [0]


def test_a_rolling_window_frees_what_is_over() -> None:
    clock = FakeClock(1e9)
    budget = Budget(hard_calls=1, window="1h")
    with budget.spend(clock=clock):
        pass
    with pytest.raises(BudgetExceededError) as caught, budget.spend(clock=clock):
        raise AssertionError("it ran")
    assert caught.value.retry_after_s is not None
    clock.advance(caught.value.retry_after_s - 1)
    with pytest.raises(BudgetExceededError), budget.spend(clock=clock):
        raise AssertionError("it ran")
    clock.advance(1)
    with budget.spend(clock=clock):
        pass


class Broken(MemoryStore):
    """Out of reach while ``down``."""

    down = True

    def reserve(self, hold: Hold) -> Verdict:
        if self.down:
            raise StoreUnavailableError("the store is down")
        return super().reserve(hold)


def test_a_store_out_of_reach_refuses_or_lets_go() -> None:
    with pytest.raises(StoreUnavailableError), Budget(hard_usd=1, store=Broken()).spend(usd=1):
        raise AssertionError("it ran")
    ran = False
    with Budget(hard_usd=1, store=Broken(), fail="open").spend(usd=5) as spend:
        ran = True
        spend.settle(usd=5)
    assert ran


def test_two_budgets_with_a_store_of_their_own_share_what_they_name_alike() -> None:
    store = MemoryStore()
    one, two = Budget(hard_usd=1, store=store), Budget(hard_usd=1, store=store)
    with one.spend(usd="0.75"):
        pass
    assert left(two) == {"usd": Decimal("0.25")}


def test_threads_spend_exactly_the_limit() -> None:
    budget = Budget(hard_usd="0.1", hard_calls=1000)
    allowed: list[int] = []
    begin = threading.Barrier(16)

    def run() -> None:
        begin.wait()
        for _ in range(40):
            try:
                with budget.spend(usd="0.001") as spend:
                    allowed.append(1)
                    spend.settle(usd="0.001")
            except BudgetExceededError:
                pass

    threads = [threading.Thread(target=run) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(allowed) == 100
    assert left(budget) == {"usd": 0, "calls": 900}


def test_settlements_posted_are_of_the_amounts_told() -> None:
    posted: list[Settlement] = []

    class Listening(MemoryStore):
        def post(self, settlement: Settlement) -> None:
            posted.append(settlement)
            super().post(settlement)

    with Budget(hard_usd=1, soft_calls=5, store=Listening()).spend(usd="0.5") as spend:
        spend.settle(usd="0.0000000001")
    assert [p.amounts for p in posted] == [(1, 1)]

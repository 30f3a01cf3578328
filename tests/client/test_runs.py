"""One budget over many calls: chains, agents, batches; nested, in tasks and in threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from decimal import Decimal
from typing import Any

import pytest

from client.forms import Form, every_form
from tierllm import Budget, Deployment, Price, Tier, TieredClient
from tierllm.errors import BudgetExceededError, ConfigError
from tierllm.testing import Fail, FakeProvider, Reply

PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=2)


def client(fake: FakeProvider | None = None, **settings: Any) -> TieredClient:
    fake = fake or FakeProvider()
    tiers = [
        Tier("gold", [Deployment("g", fake, price=PRICE)]),
        Tier("silver", [Deployment("s", fake, price=PRICE)]),
    ]
    return TieredClient(tiers, **{"retry": False, **settings})


@every_form
def test_a_run_covers_every_call_inside_and_none_outside(form: Form) -> None:
    made = client()
    form(made)
    with made.run(hard_usd=1) as run:
        costs = [form(made, max_tokens=50).cost_usd or 0 for _ in range(3)]
    form(made)
    assert run.spent_usd == sum(costs)
    assert run.remaining_usd == 1 - sum(costs)
    assert (run.calls, len(run.entries)) == (3, 3)
    assert {row.run for row in run.entries} == {run.name}
    assert run.input_tokens == sum(row.input_tokens for row in run.entries)


@every_form
def test_a_run_refuses_what_it_cannot_pay(form: Form) -> None:
    fake = FakeProvider()
    made = client(fake)
    with made.run("small", hard_calls=2) as run:
        form(made)
        form(made)
        with pytest.raises(BudgetExceededError) as caught:
            form(made)
    assert (caught.value.budget, caught.value.bucket) == ("run", "run=small")
    assert fake.calls == 2
    assert [row.outcome for row in run.entries] == ["ok", "ok", "refused"]
    assert run.calls == 2
    with made.run("another", hard_calls=1):
        form(made)


@every_form
def test_a_run_without_limits_keeps_the_account(form: Form) -> None:
    made = client()
    with made.run() as run:
        form(made, max_tokens=50)
    assert run.calls == 1
    assert run.spent_usd > 0
    assert (run.remaining, run.remaining_usd) == ([], None)


@every_form
def test_runs_may_be_nested_and_a_call_draws_on_each(form: Form) -> None:
    made = client()
    with made.run("outer", hard_calls=3) as outer:
        form(made)
        with made.run("inner", hard_calls=1) as inner:
            form(made)
            with pytest.raises(BudgetExceededError, match="run=inner"):
                form(made)
        form(made)
        with pytest.raises(BudgetExceededError, match="run=outer"):
            form(made)
    assert (outer.calls, inner.calls) == (3, 1)
    assert [row.run for row in outer.entries if row.outcome == "ok"] == ["outer", "outer/inner", "outer"]


@every_form
def test_a_run_that_is_entered_twice_counts_once(form: Form) -> None:
    made = client()
    with made.run(hard_calls=10) as run, run:
        form(made)
        with run:
            form(made)
    assert run.calls == 2
    assert [left.used for left in run.remaining] == [2]
    with run:  # it may be entered again
        form(made)
    assert [left.used for left in run.remaining] == [3]


def test_a_run_belongs_to_its_client() -> None:
    mine, other = client(), client()
    with mine.run(hard_calls=1) as run:
        other.complete("Hi")
        other.complete("Hi")
        mine.complete("Hi")
    assert run.calls == 1


def test_a_run_covers_the_tasks_started_inside() -> None:
    made = client(FakeProvider(latency_s=0.001))

    async def go() -> None:
        async with made.run(hard_calls=10) as run:
            answers = await asyncio.gather(*(made.acomplete("Hi") for _ in range(30)), return_exceptions=True)
        assert sum(isinstance(a, BudgetExceededError) for a in answers) == 20
        assert run.calls == 10

        async def alone(n: int) -> Decimal:
            async with made.run(f"run{n}", hard_calls=2) as own:
                await made.acomplete("Hi")
                await made.acomplete("Hi")
                return own.spent_usd

        spent = await asyncio.gather(*(alone(n) for n in range(10)))
        assert len(set(spent)) == 1

    asyncio.run(go())


def test_a_thread_enters_the_run_again() -> None:
    made = client()
    with made.run(hard_calls=50) as run:

        def outside() -> None:
            made.complete("Hi")

        def inside() -> None:
            with run:
                made.complete("Hi")

        threads = [threading.Thread(target=contextvars.Context().run, args=(f,)) for f in (outside, inside)]
        threads += [threading.Thread(target=contextvars.copy_context().run, args=(inside,))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert run.calls == 2


@every_form
def test_what_failures_cost_is_the_runs(form: Form) -> None:
    fake = FakeProvider()
    made = client(fake)
    fake.script("g", Fail.timeout(), Fail.unavailable())
    with made.run(hard_usd=1) as run:
        form(made, max_tokens=50)
        form(made, max_tokens=50)
    assert [(row.tier, row.outcome) for row in run.entries] == [
        ("gold", "failed"),
        ("silver", "ok"),
        ("silver", "ok"),
    ]
    assert run.spent_usd == sum(row.cost_usd or 0 for row in run.entries)
    assert [left.reserved for left in run.remaining] == [0]


def test_a_run_of_one_hard_budget_is_exact_under_threads() -> None:
    fake = FakeProvider(answer=lambda call: Reply("x" * 400))
    made = client(fake)
    done: list[int] = []
    with made.run(hard_calls=100) as run:
        context = contextvars.copy_context

        def work() -> None:
            for _ in range(20):
                try:
                    made.complete("Hi")
                    done.append(1)
                except BudgetExceededError:
                    pass

        threads = [threading.Thread(target=context().run, args=(work,)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(done) == run.calls == fake.calls == 100


def test_the_statement_is_a_table() -> None:
    fake = FakeProvider()
    made = client(fake)
    with made.run("research", hard_calls=3) as run:
        made.complete("Hi", max_tokens=50)
        made.complete("Hi", max_tokens=50, sla="silver")
        fake.down("g", Fail.timeout())
        made.complete("Hi", max_tokens=50, sla="silver")
        with pytest.raises(BudgetExceededError):
            made.complete("Hi", max_tokens=50, sla="silver")
    head, gold, silver, total = run.statement().splitlines()
    assert head.split() == ["tier", "model", "calls", "in", "out", "usd"]
    assert gold.split()[:3] == ["gold", "g", "1"]
    assert silver.split()[:3] == ["silver", "s", "2"]
    assert total.split()[:3] == ["total", "research", "3"]
    assert (
        Decimal(total.split()[-1]) == run.spent_usd == Decimal(gold.split()[-1]) + Decimal(silver.split()[-1])
    )
    assert repr(run) == f"<Run research: ${run.spent_usd} in 3 calls>"


def test_budgets_per_run_of_the_client_hold_for_every_run() -> None:
    made = client(
        budgets=[
            Budget(hard_calls=1, per="run"),
            Budget(hard_calls=2, per="run", where={"user": "u"}, name="u"),
        ]
    )
    for _ in range(2):
        with made.run(hard_calls=9) as run:
            made.complete("Hi")
            with pytest.raises(BudgetExceededError):
                made.complete("Hi")
        used = {left.budget: left.used for left in run.remaining}
        assert used == {"run's own": 1, "run": 1, "u": 0}
    made.complete("Hi")
    made.complete("Hi")


def test_where_of_a_runs_budget_is_minded() -> None:
    made = client(budgets=[Budget(hard_calls=1, per="run", where={"user": "u"}, name="of u")])
    with made.run() as run:
        made.complete("Hi", user="v")
        made.complete("Hi", user="v")
        made.complete("Hi", user="u")
        with pytest.raises(BudgetExceededError):
            made.complete("Hi", user="u")
    assert [(left.budget, left.used) for left in run.remaining] == [("of u", 1)]


@pytest.mark.parametrize("option", ["per", "window", "tz", "store", "scope", "fail", "name"])
def test_a_run_has_no_such_setting(option: str) -> None:
    with pytest.raises((ConfigError, TypeError), match=option):
        client().run("a", **{option: "x"})
    with pytest.raises(ConfigError):
        client().run(hard_usd=-1)

"""Threads, tasks and processes for real: limits are exact, and nothing stays reserved."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from decimal import Decimal
from random import Random

import pytest

from client.spenders import PRICE, client_at, hold_and_wait, spend_everywhere
from stores.ground import SPAWN, eventually
from tierllm import Budget, Deployment, Tier, TieredClient
from tierllm.errors import BudgetExceededError, StreamInterruptedError
from tierllm.events import CallSettled, Event
from tierllm.testing import FakeProvider


def test_fifty_threads_spend_a_hard_limit_exactly() -> None:
    fake = FakeProvider()
    client = TieredClient(
        [Tier("gold", [Deployment("g", fake, price=PRICE)])],
        budgets=[Budget(hard_calls=333), Budget(hard_usd=1, name="usd")],
    )
    ends: Counter[str] = Counter()
    begin = threading.Barrier(50)

    def run() -> None:
        begin.wait()
        mine: Counter[str] = Counter()
        for _ in range(20):
            try:
                client.complete("Hello", max_tokens=20)
                mine["ok"] += 1
            except BudgetExceededError:
                mine["refused"] += 1
        ends.update(mine)  # one call of a dictionary's update a thread, under the interpreter's lock

    threads = [threading.Thread(target=run) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake.calls == 333
    assert ends["ok"] == 333
    calls, usd = client.remaining()
    assert (calls.used, calls.reserved, usd.reserved) == (333, 0, 0)
    ledger = client._setup.treasury.ledger
    assert ledger is not None
    assert ledger.total().cost_usd == usd.used


def test_five_hundred_tasks_cancelled_at_random_leave_nothing_behind() -> None:
    rng, rows = Random(5), []

    def heard(event: Event) -> None:
        if isinstance(event, CallSettled):
            rows.append(event.entry)

    fake = FakeProvider(latency_s=(0.0, 0.02), seed=3)
    client = TieredClient(
        [Tier("gold", [Deployment("g", fake, price=PRICE)], max_concurrency=50, max_waiting=500)],
        budgets=[Budget(hard_usd="0.5", per="user"), Budget(hard_usd=1, name="total")],
        listeners=[heard],
        breaker=False,
    )

    async def call(number: int) -> None:
        if number % 2:
            await client.acomplete("Hello", user=f"u{number % 7}", max_tokens=200)
            return
        async with client.astream("Hello", user=f"u{number % 7}", max_tokens=200) as stream:
            async for _ in stream:
                if rng.random() < 0.1:
                    break

    async def all_of_them() -> None:
        tasks = [asyncio.ensure_future(call(n)) for n in range(500)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)
            for task in rng.sample(tasks, 5):
                task.cancel()
        ends = Counter(type(t.exception()).__name__ if not t.cancelled() else "cancelled" for t in tasks)
        assert set(ends) <= {"NoneType", "cancelled", "BudgetExceededError"}, ends
        assert ends["cancelled"] > 20
        await client.aclose()
        assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []

    asyncio.run(all_of_them())
    store = client._setup.treasury.store
    accounts = store._accounts  # type: ignore[attr-defined]
    assert {account.reserved for account in accounts.values()} == {0}
    cost = sum((row.cost_usd for row in rows), Decimal(0))
    assert accounts["total|usd||client"].settled == int(cost * 10**9) <= 10**9
    assert len(rows) == fake.calls
    assert client.status()["in_flight"] == 0


def test_processes_on_one_store_spend_no_more_than_the_limit(where: str) -> None:
    ends, booked, rows = spend_everywhere(
        where, processes=4, threads=4, calls=25, total_usd="0.02", user_calls=60
    )
    assert sum(ends.values()) == 400
    assert set(ends) <= {"ok", "refused", "AllTiersFailedError", StreamInterruptedError.__name__}, ends
    assert ends["refused"] > 0
    client = client_at(where, "0.02", 60, 0)
    for user in ("u0", "u1", "u2", "u3", "u4"):
        total, of_user = client.remaining(user=user)
        assert (total.reserved, of_user.reserved) == (0, 0)
        assert total.used == booked <= total.limit
        assert of_user.used == rows[f"user={user}"] <= of_user.limit
    client.close()


def test_a_spender_that_is_killed_holds_nothing_after_its_lease(where: str) -> None:
    here, there = SPAWN.Pipe(duplex=False)
    spender = SPAWN.Process(target=hold_and_wait, args=(where, 0.5, there))
    spender.start()
    assert here.poll(30)
    client = client_at(where, "1", 10**6, 1, lease_s=0.5)
    client.tiers[0].deployments[0].provider._answer = None  # type: ignore[attr-defined]
    total, of_user = client.remaining(user="u0")
    assert total.reserved > Decimal("0.2")
    assert of_user.reserved == 1
    assert spender.pid is not None
    os.kill(spender.pid, signal.SIGKILL)
    spender.join()

    def given_back() -> bool:
        try:
            client.complete("Hello", user="u1", max_tokens=1)
        except BudgetExceededError as error:  # pragma: no cover - says why
            pytest.fail(str(error))
        return {left.reserved for left in client.remaining(user="u0")} == {0}

    eventually(given_back)
    assert client.remaining(user="u0")[1].used == 0
    client.close()

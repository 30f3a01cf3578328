"""Spenders with real clients, in processes of their own, on one shared store."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from decimal import Decimal
from multiprocessing.connection import Connection
from random import Random

from stores.ground import SPAWN, opened
from tierllm import Budget, Deployment, Price, Retry, Tier, TieredClient
from tierllm.errors import BudgetExceededError, TierLLMError
from tierllm.events import CallSettled, Event
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.testing.replies import Item
from tierllm.types import Call

PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=2)
USERS = 5


def budgets(total_usd: str, user_calls: int) -> list[Budget]:
    return [
        Budget(hard_usd=total_usd, name="total", window="month"),
        Budget(hard_calls=user_calls, per="user", name="user"),
    ]


def client_at(where: str, total_usd: str, user_calls: int, seed: int, **settings: float) -> TieredClient:
    """A client on the store at ``where``, whose provider fails now and then."""
    rng = Random(seed)

    def answer(call: Call) -> Item:
        dice = rng.random()
        if dice < 0.05:
            return Fail.unavailable()
        if dice < 0.1:
            return Fail.cut_after(2)
        return Reply("word " * rng.randint(1, 40))

    fake = FakeProvider(answer=answer, journal_size=1)
    return TieredClient(
        [Tier("gold", [Deployment("g", fake, price=PRICE)])],
        budgets=budgets(total_usd, user_calls),
        store=opened(where, **settings),
        ledger=False,
        breaker=False,
        retry=Retry(2, base_s=0, max_s=0),
    )


def spend(
    where: str, total_usd: str, user_calls: int, threads: int, calls: int, seed: int, told: Connection
) -> None:
    """Make calls until they are done; tell how they ended and what was booked for them."""
    client = client_at(where, total_usd, user_calls, seed)
    booked = [Decimal(0)]
    rows: Counter[str] = Counter()
    lock = threading.Lock()

    def heard(event: Event) -> None:
        if isinstance(event, CallSettled):
            with lock:
                booked[0] += event.entry.cost_usd or 0
                rows[f"user={event.entry.user}"] += 1

    client._setup.treasury.books.emit = heard
    ends: Counter[str] = Counter()

    def run(number: int) -> None:
        rng = Random(seed * 100 + number)
        for _ in range(calls):
            user = f"u{rng.randrange(USERS)}"
            end = "ok"
            try:
                if rng.random() < 0.3:
                    with client.stream("Hello", user=user, max_tokens=60) as stream:
                        for at, _ in enumerate(stream):
                            if at == 3 and rng.random() < 0.5:
                                break
                else:
                    client.complete("Hello", user=user, max_tokens=60)
            except BudgetExceededError as error:
                end = "refused" if error.limit is not None else "unreachable"
            except TierLLMError as error:
                end = type(error).__name__
            with lock:
                ends[end] += 1

    running = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    client.close()
    told.send((dict(ends), booked[0], dict(rows)))


def spend_everywhere(
    where: str, *, processes: int, threads: int, calls: int, total_usd: str, user_calls: int
) -> tuple[Counter[str], Decimal, Counter[str]]:
    """How all calls ended, what was booked for them together, and how many for each user."""
    pipes = [SPAWN.Pipe(duplex=False) for _ in range(processes)]
    spenders = [
        SPAWN.Process(target=spend, args=(where, total_usd, user_calls, threads, calls, seed, there))
        for seed, (_, there) in enumerate(pipes)
    ]
    for spender in spenders:
        spender.start()
    ends: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    booked = Decimal(0)
    for here, _ in pipes:
        assert here.poll(500), "a spender never came back"
        how, money, of_users = here.recv()
        ends.update(how)
        rows.update(of_users)
        booked += money
    for spender in spenders:
        spender.join()
        assert spender.exitcode == 0
    return ends, booked, rows


def hold_and_wait(where: str, lease_s: float, told: Connection) -> None:
    """Reserve for a call that never ends."""
    client = client_at(where, "1", 100, 0, lease_s=lease_s)

    def answer(call: Call) -> Item:
        told.send("reserved")
        time.sleep(600)
        return "never"

    client.tiers[0].deployments[0].provider._answer = answer  # type: ignore[attr-defined]
    with contextlib.suppress(TierLLMError):
        client.complete("Hello", user="u0", max_tokens=100_000)

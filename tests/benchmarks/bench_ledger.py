"""What the usage ledger costs a call, how fast it is written, and how long questions take.

Run: ``python tests/benchmarks/bench_ledger.py [ROWS]`` (1,000,000). Writes some 400 MB for a million
rows into a temporary directory. Figures are CPU time, so that they hold on a busy machine: on an idle one,
and with the file in the system's cache, that is what it takes.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

from tierllm.cost.ledger import Entry, UsageLedger

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
BATCH = 10_000
SECONDS_A_ROW = 2.6  # a million rows are a month
BEGAN = 1_790_000_000.0


def entries(rows: int, seed: int = 1) -> Iterator[Entry]:
    rng = random.Random(seed)
    prices = {"gpt-5.2": ("gold", 1.75e-6), "gpt-5-mini": ("silver", 2.5e-7), "gpt-5-nano": ("bronze", 5e-8)}
    for number in range(rows):
        model = rng.choice(tuple(prices))
        tier, price = prices[model]
        tokens = rng.randrange(3_000)
        cost = Decimal(f"{tokens * price:.12f}")
        yield Entry(
            id=f"{rng.getrandbits(64):016x}-{number:x}",
            trace_id=f"{rng.getrandbits(128):032x}",
            at=BEGAN + number * SECONDS_A_ROW,
            user=f"user-{int(rng.paretovariate(0.8)) % 5_000}",
            tenant=f"tenant-{rng.randrange(50)}",
            plan="free",
            tags=("chat",) if number % 3 else ("search", "beta"),
            route="answer",
            tier=tier,
            deployment=model,
            model=model,
            input_tokens=tokens,
            output_tokens=rng.randrange(900),
            cost_usd=cost,
            estimate_usd=cost * 2,
            reserved_usd=cost * 3,
            list_usd=cost,
            price_as_of="2026-11-01",
            request_id=f"req_{rng.getrandbits(64):016x}",
            latency_s=1.2,
        )


def took(work: Callable[[], object], rounds: int = 3) -> float:
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def posting(path: Path) -> None:
    batch = list(entries(50_000))
    for name, ledger in (("memory", UsageLedger()), ("file", UsageLedger(path))):
        began = time.process_time()
        for entry in batch:
            ledger.post(entry)
        print(f"post, {name}: {(time.process_time() - began) / len(batch) * 1e6:.2f} µs a row")
        ledger.close()


def one_by_one(path: Path) -> None:
    ledger = UsageLedger(path)
    times = []
    for entry in entries(5_000, seed=2):
        ledger.post(entry)
        began = time.perf_counter()
        ledger.flush()
        times.append(time.perf_counter() - began)
    times.sort()
    print(f"flush of one row, by the wall: p50 {times[2_500] * 1e6:.0f} µs, p99 {times[4_950] * 1e6:.0f} µs")
    ledger.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        posting(home / "posts.db")
        one_by_one(home / "ones.db")
        ledger = UsageLedger(home / "usage.db")
        spent = 0.0
        for number, entry in enumerate(entries(ROWS), 1):
            ledger.post(entry)
            if number % BATCH == 0 or number == ROWS:
                began = time.process_time()
                ledger.flush()
                last = time.process_time() - began
                spent += last
        print(f"flush, {BATCH:,} at a time: {ROWS / spent:,.0f} rows/s on the way to {ROWS:,} rows, ", end="")
        print(f"{BATCH / last:,.0f} at the end")
        ledger.close()
        print(f"file: {(home / 'usage.db').stat().st_size / 1e6:.0f} MB")
        ledger = UsageLedger(home / "usage.db", read_only=True)
        end = BEGAN + ROWS * SECONDS_A_ROW
        week = end - 7 * 86_400
        questions: dict[str, Callable[[], object]] = {
            "total": ledger.total,
            "by user": lambda: ledger.usage(("user",)),
            "by tenant, tier, model": lambda: ledger.usage(("tenant", "tier", "model")),
            "by tag": lambda: ledger.usage(("tag",)),
            "by day": lambda: ledger.usage(("day",)),
            "last week, by user": lambda: ledger.usage(("user",), week),
            "last day, by user": lambda: ledger.usage(("user",), end - 86_400),
            "one user, total": lambda: ledger.total(user="user-42"),
            "one tenant's statement": lambda: ledger.statement(tenant="tenant-7"),
            "all rows": lambda: sum(1 for _ in ledger.entries()),
        }
        for name, question in questions.items():
            print(f"{name:<24} {took(question, 1 if name == 'all rows' else 3) * 1e3:8.1f} ms")
        ledger.close()


if __name__ == "__main__":
    main()

"""A million calls: how much memory grows after the first fifty thousand.

    python tests/benchmarks/bench_memory.py [CALLS]

Through the full pipeline: pool, deadline, retry, breaker, fallback, trace. Half of them sync, half async;
one in ten fails twice at its first place and falls back; one in a hundred is streamed.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path

from tierllm import Deployment, Retry, RetryBudget, Tier, TieredClient
from tierllm.testing import Fail, FakeProvider

WARM_UP = 50_000


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this benchmark reads /proc/self/status")


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    fake = FakeProvider()
    client = TieredClient(
        [
            Tier("gold", [Deployment("g", fake)], max_concurrency=8),
            Tier("silver", [Deployment("s", fake)], max_concurrency=8),
        ],
        deadline_s=60,
        retry=Retry(2, base_s=0, budget=RetryBudget(1.0)),
    )

    def one(n: int) -> None:
        if n % 10 == 0:
            fake.script("g", Fail.unavailable(), repeat=2)
        if n % 100 == 1:
            with client.stream("hello") as stream:
                for _ in stream:
                    pass
        else:
            client.complete("hello", sla="gold")

    async def many(first: int, last: int) -> None:
        for n in range(first, last):
            if n % 10 == 0:
                fake.script("g", Fail.unavailable(), repeat=2)
            await client.acomplete("hello", sla="gold")

    def batch(first: int, size: int) -> None:
        for n in range(first, first + size // 2):
            one(n)
        asyncio.run(many(first + size // 2, first + size))

    batch(0, WARM_UP)
    served = {
        name: sum(d["served"] for d in tier["deployments"].values())
        for name, tier in client.status()["tiers"].items()
    }
    assert served["silver"] == WARM_UP // 10, served  # falling back is part of it
    gc.collect()
    before, begun = resident_mb(), time.perf_counter()
    for first in range(WARM_UP, calls, 50_000):
        batch(first, 50_000)
    gc.collect()
    grown = resident_mb() - before
    took = time.perf_counter() - begun
    print(f"{calls:,} calls: {before:.1f} MB after {WARM_UP:,}, {grown:+.2f} MB by the end ({took:.0f} s)")


if __name__ == "__main__":
    main()

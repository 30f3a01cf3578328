"""What a cascade costs a call, what a shadow costs those that are not sampled; and what a judge is worth.

    python tests/benchmarks/bench_cascade.py [--data DIR]

The first part measures calls through a client without a network. With ``--data``, the questions of
``DIR/llmrouter9.jsonl`` are answered by a cascade of two of its models. Its judge knows the truth and errs on
so many of a hundred, so that one sees how good a judge has to be: quality and cost are shares of those of
always asking the strong model; both answers of a call that goes up are paid for. The file has no costs: a
strong answer is taken to cost 4.5 times a weak one (a host's prices for models of these sizes).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from tierllm import Deployment, Price, Tier, TieredClient
from tierllm.routing.ask import ask
from tierllm.routing.cascade import Cascade
from tierllm.routing.shadow import Shadow
from tierllm.testing import FakeProvider
from tierllm.types import Call, Request, Response

CALLS, ROUNDS = 2_000, 15
DEARER = 4.5
WEAK, STRONG = "gemma-2-9b-it", "llama-3.1-nemotron-51b-instruct"


def judge(request: Request, response: Response) -> bool:
    return True


def client(**more: Any) -> TieredClient:
    fake, price = FakeProvider(), Price(input_usd_per_mtok=1, output_usd_per_mtok=2)
    tiers = [Tier(name, [Deployment(name, fake, price=price)]) for name in ("gold", "bronze")]
    return TieredClient(tiers, rng=Random(1), **more)


def call_us(made: TieredClient, **options: Any) -> list[float]:
    """Microseconds for a call, in each round."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CALLS):
            made.complete("Hello", **options)
        found.append((time.perf_counter() - began) / CALLS * 1e6)
    return found


def overhead() -> None:
    plain, cascaded = client(), client(cascade=Cascade(judge))
    seldom = client(shadow=Shadow("bronze", share=1e-9))
    rows: list[tuple[str, TieredClient, dict[str, Any]]] = [
        ("without either", plain, {}),
        ("cascade, tier named by the caller", cascaded, {"sla": "gold"}),
        ("cascade, the cheap answer does", cascaded, {}),
        ("shadow, not sampled", seldom, {}),
    ]
    base = None
    for name, made, options in rows:
        us = min(call_us(made, **options))
        base = us if base is None else base
        print(f"{name:<36} {us:7.1f} us a call   {us - base:+6.1f}")
    shadowing = seldom._setup.shadowing
    assert shadowing is not None
    call = seldom.ready(ask("Hello", {})).call
    response = Response(text="x", tier="gold")

    async def answered(_: Call, /) -> Response:
        return response

    took_s = {}
    for name, begin in (("without", answered), ("with", lambda call: shadowing(call, answered))):
        began = time.perf_counter()
        for _ in range(100_000):
            try:
                begin(call).send(None)
            except StopIteration:
                pass
        took_s[name] = time.perf_counter() - began
    print(f"{'shadow, the question alone':<36} {(took_s['with'] - took_s['without']) * 10:7.2f} us")


def worth(path: Path) -> None:
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    print(f"\n{len(rows)} questions, {WEAK} -> {STRONG}")
    best = sum(score_of(row, STRONG) for row in rows)
    weak = sum(score_of(row, WEAK) for row in rows)
    print(f"always weak: quality {weak / best:.3f}, cost {1 / DEARER:.3f}")
    for errs in (0.0, 0.1, 0.2, 0.3, 0.5):
        runs = [cascaded(rows, errs, Random(seed)) for seed in range(5)]
        quality, cost, up = (median(run[part] for run in runs) for part in range(3))
        shares = f"quality {quality / best:.3f}, cost {cost / len(rows):.3f}, up {up:.1%}"
        print(f"judge errs on {errs:4.0%}: {shares}")


def cascaded(rows: list[dict[str, Any]], errs: float, rng: Random) -> tuple[float, float, float]:
    quality = cost = up = 0.0
    for row in rows:
        good = score_of(row, WEAK) >= 0.5
        says = good if rng.random() >= errs else not good
        cost += 1 / DEARER
        if says:
            quality += score_of(row, WEAK)
        else:
            quality += score_of(row, STRONG)
            cost += 1.0
            up += 1
    return quality, cost, up / len(rows)


def score_of(row: dict[str, Any], model: str) -> float:
    return float(row["scores"][model])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    overhead()
    if given.data is not None:
        name = "llmrouter9.jsonl"
        path = given.data / name
        worth(path if path.exists() else given.data / "routing" / name)

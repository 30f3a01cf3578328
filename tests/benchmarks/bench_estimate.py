"""How good and how quick estimates are.

Run: ``python tests/benchmarks/bench_estimate.py [--traces DIR] [--texts FILE ...]``.

``--traces``: a folder with request traces, ``azure/*.csv`` (the Azure LLM inference traces of 2023)
and ``mooncake/*.jsonl``. For each, as answers come in one by one: the share of answers within the P90
that was predicted just before; the total predicted by the mean against the real one; how far what
would be reserved is from what was used; and the share of batches within their total's P90.

``--texts``: files of UTF-8 text; tokens guessed from the bytes against counted ones.

Without either: microseconds an estimate.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from tierllm import Price
from tierllm.cost.batch_estimate import total
from tierllm.cost.estimate import Estimate, Tokens
from tierllm.cost.estimator import CostEstimator
from tierllm.cost.guess import guessed_text
from tierllm.cost.history import OutputHistory
from tierllm.types import Usage

ROUNDS = 25
BATCH = 500


def traces(folder: Path) -> Iterator[tuple[str, list[int]]]:
    for path in sorted(folder.glob("azure/*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            yield path.stem, [int(row["GeneratedTokens"]) for row in csv.DictReader(file)]
    for path in sorted(folder.glob("mooncake/*.jsonl")):
        with path.open(encoding="utf-8") as file:
            yield path.stem, [int(json.loads(line)["output_length"]) for line in file]


def judge(name: str, lengths: list[int]) -> None:
    history = OutputHistory()
    within = predicted_total = asked = 0
    p90_gap: list[int] = []
    mean_total = 0.0
    batches = batches_within = alike_within = 0
    for at, actual in enumerate(lengths):
        told = history.predict(1 << 40, 4096)
        if history.ready and told is not None:
            asked += 1
            within += actual <= told.p90
            mean_total += told.mean
            predicted_total += actual
            p90_gap.append(abs(told.p90 - actual))
            if at % BATCH == 0 and at + BATCH <= len(lengths):
                answer = Tokens(told.p50, told.p90, 1 << 40, mean=told.mean, sd=told.sd, samples=told.samples)
                one = Estimate(input_tokens=Tokens(0), output_tokens=answer, tiers={})
                batch = total([one] * BATCH).output_tokens
                batches += 1
                batches_within += sum(lengths[at : at + BATCH]) <= batch.p90
                alike_within += (
                    sum(lengths[at : at + BATCH]) <= told.mean * BATCH + 1.2816 * told.sd * BATCH**0.5
                )
        history.add(actual)
    middle = median(lengths)
    average = sum(lengths) / len(lengths)
    print(f"{name}: {len(lengths):,} answers, median {middle:.0f}, mean {average:.1f} tokens")
    print(f"  within P90                     {within / asked:.3f}")
    print(f"  total predicted by the mean    {(mean_total / predicted_total - 1) * 100:+.2f} %")
    print(f"  reserved - used, median:       P90 {median(p90_gap):.0f}", end="")
    for limit in (1000, 4096):
        print(f", max_tokens={limit:,} {median(limit - min(n, limit) for n in lengths):.0f}", end="")
    print(" tokens")
    print(
        f"  {batches} batches of {BATCH} within P90   {batches_within / max(1, batches):.2f} "
        f"({alike_within / max(1, batches):.2f} if the mean were certain)"
    )


def judge_texts(files: list[Path]) -> None:
    from tierllm.cost.tokens import tokens_for

    tokens = tokens_for("gpt-5-mini")
    errors = []
    for path in files:
        text = path.read_text(encoding="utf-8")
        for start in range(0, len(text) - 500, 4000):
            piece = text[start : start + 4000]
            errors.append(guessed_text(piece) / tokens.text(piece) - 1)
    errors.sort()
    count = len(errors)
    within = sum(1 for e in errors if (1 + e) * 1.25 >= 1) / count
    print(
        f"guess against count, {count} texts: P10 {errors[count // 10]:+.2f}, median "
        f"{errors[count // 2]:+.2f}, P90 {errors[count * 9 // 10]:+.2f}; within its P90: {within:.3f}"
    )


def micros(fn: Callable[[], object], calls: int = 2000) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(calls):
            fn()
        best = min(best, time.perf_counter() - began)
    return best / calls * 1e6


def speed() -> None:
    from tierllm.cost.place import Place
    from tierllm.cost.tokens import tokens_for

    prompt = ("Summarise the following minutes in three sentences, and name who agreed to do what. " * 13)[
        :1024
    ]
    messages = ({"role": "user", "content": prompt},)
    price = Price(input_usd_per_mtok="0.25", output_usd_per_mtok=2)
    place = Place("silver", "gpt-5-mini", "gpt-5-mini", vendor="openai", price=price)
    estimator = CostEstimator()
    params = {"max_tokens": 400}
    usage = Usage(input_tokens=200, output_tokens=120)

    def observe() -> None:
        estimator.observe(
            place, usage=usage, route="r", finish_reason="stop", latency_s=1.5, first_token_s=0.4
        )

    for _ in range(300):
        observe()
    history = OutputHistory()
    numbers = iter(range(10**9))
    bare = micros(lambda: tokens_for("gpt-5-mini", "openai").text(prompt))
    added = micros(lambda: history.add(next(numbers) * 7919 % 997))
    print(f"OutputHistory.add                       {added:6.2f} µs")
    print(f"observe, with route and latency         {micros(observe):6.2f} µs")
    print(f"a prompt of {len(prompt):,} bytes: counting alone {bare:6.2f} µs")
    for label, exact in (("guessed", False), ("counted", True)):
        took = micros(lambda exact=exact: estimator.quote(place, messages, params, route="r", exact=exact))
        more = f"  ({took - bare:+.2f})" if exact else ""
        print(f"  estimate, {label:<10}                  {took:6.2f} µs{more}")
    one = estimator.quote(place, messages, params, route="r")
    print(f"total of 1,000 estimates, each          {micros(lambda: total([one] * 1000), 3) / 1000:6.2f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--texts", type=Path, nargs="+")
    asked = parser.parse_args()
    if asked.traces:
        for name, lengths in traces(asked.traces):
            judge(name, lengths)
    if asked.texts:
        judge_texts(asked.texts)
    if not asked.traces and not asked.texts:
        speed()


if __name__ == "__main__":
    main()

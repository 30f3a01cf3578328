"""Prices: how long a look-up takes, and how the bundled list agrees with two public ones.

    python tests/benchmarks/bench_prices.py                    # times
    python tests/benchmarks/bench_prices.py --against-source   # with genai-prices, where the list is from
    python tests/benchmarks/bench_prices.py --against-litellm  # with its table (--list: each difference)

Each model that both know is priced for five shapes of usage, and for each service tier that both
know. Exact equality with the source; with LiteLLM's table, which is in floats, to a millionth.
A shape that needs a rate which that table lacks is not compared: a gap is no difference.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import subprocess
import sys
import time
import timeit
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from tierllm import Price, Usage
from tierllm.cost.prices import PriceBook

SHAPES = {
    "plain": Usage(input_tokens=1_200, output_tokens=300),
    "cached": Usage(input_tokens=20_000, cached_input_tokens=15_000, output_tokens=500),
    "written": Usage(input_tokens=20_000, cache_write_tokens=12_000, output_tokens=500),
    "long": Usage(input_tokens=300_000, output_tokens=2_000),
    "output-heavy": Usage(input_tokens=500, output_tokens=30_000),
}
VENDORS = {  # LiteLLM's providers whose names and offers are a vendor's of the list
    "anthropic": "anthropic",
    "azure": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "cerebras": "cerebras",
    "cohere_chat": "cohere",
    "deepseek": "deepseek",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "groq": "groq",
    "mistral": "mistral",
    "moonshot": "moonshotai",
    "novita": "novita",
    "openai": "openai",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "together_ai": "together",
    "vertex_ai-anthropic_models": "google",
    "vertex_ai-language-models": "google",
    "xai": "x-ai",
}
STEPS = (32_000, 100_000, 128_000, 200_000, 256_000, 272_000, 512_000)
KINDS = {
    "input_usd_per_mtok": "input_cost_per_token",
    "output_usd_per_mtok": "output_cost_per_token",
    "cached_input_usd_per_mtok": "cache_read_input_token_cost",
    "cache_write_usd_per_mtok": "cache_creation_input_token_cost",
}
SERVICES = {"batch": "_batches", "flex": "_flex", "priority": "_priority"}
Difference = tuple[str, str, str, Decimal, Decimal]


def theirs(entry: Mapping[str, Any], service: str = "") -> Price | None:
    """LiteLLM's entry as a price; ``None`` where it does not ask by the token."""

    def rates(above: str, under: Mapping[str, Decimal | None]) -> dict[str, Decimal | None]:
        found = {name: entry.get(f"{key}{above}{service}") for name, key in KINDS.items()}
        return {
            name: under.get(name) if rate is None else Decimal(str(rate)) * 10**6
            for name, rate in found.items()
        }

    base = rates("", {})
    plain, output = base["input_usd_per_mtok"], base["output_usd_per_mtok"]
    if plain is None or output is None:
        return None
    above = {}
    for start in STEPS:
        step = rates(f"_above_{start // 1000}k_tokens", base)
        if step != base:
            above[start] = Price(**step)  # type: ignore[arg-type]
    return Price(**base, above=above)  # type: ignore[arg-type]


def litellm_models() -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """Key, vendor, name and entry of each model that chats."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    for key, entry in sorted(litellm.model_cost.items()):
        provider = entry.get("litellm_provider")
        if provider in VENDORS and entry.get("mode") in ("chat", "responses", "completion"):
            name = key.removeprefix(f"{provider}/").removeprefix("vertex_ai/")
            yield key, VENDORS[provider], name, entry


def gap(ours: Price, other: Price, usage: Usage, tier: str) -> bool:
    """Whether their table lacks a rate that the usage needs and the list has."""

    def lacking(name: str) -> bool:
        return getattr(ours, name) is not None and getattr(other, name) is None

    return bool(
        (usage.cached_input_tokens and lacking("cached_input_usd_per_mtok"))
        or (usage.cache_write_tokens and lacking("cache_write_usd_per_mtok"))
        or (usage is SHAPES["long"] and tier and ours.above and not other.above)
    )


def against_litellm(book: PriceBook, listing: bool) -> None:
    known, agreeing = Counter[str](), Counter[str]()
    compared = gaps = 0
    differences: dict[tuple[str, str], list[Difference]] = defaultdict(list)
    for key, vendor, name, entry in litellm_models():
        info, listed = book.find(name, vendor), theirs(entry)
        if info is None or listed is None:
            continue
        known[vendor] += 1
        windows = [w for w in (info.context_window, entry.get("max_input_tokens")) if isinstance(w, int)]
        tiers = {"": listed}
        for tier, suffix in SERVICES.items():
            served = theirs(entry, suffix)
            if served is not None and tier in dict(info.price.service):
                tiers[tier] = served
        for tier, price in tiers.items():
            for shape, usage in SHAPES.items():
                if shape == "long" and min(windows, default=10**9) < usage.input_tokens:
                    continue  # it cannot be sent
                ours = info.price.cost_usd(dataclasses.replace(usage, service_tier=tier or None))
                other = price.cost_usd(usage)
                if gap(info.price.rates(0, tier or None), price, usage, tier):
                    gaps += 1
                    continue
                compared += 1
                if abs(ours - other) > max(ours, other) / 10**6:
                    differences[vendor, key].append((tier, shape, info.model, ours, other))
        agreeing[vendor] += not differences.get((vendor, key))
    print(f"{'vendor':14}{'entries in both':>16}{'all alike':>12}{'standard alike':>16}")
    for vendor in sorted(known):
        wrong = [each for (seller, _), each in differences.items() if seller == vendor]
        standard = known[vendor] - sum(any(not tier for tier, *_ in each) for each in wrong)
        print(f"{vendor:14}{known[vendor]:16}{agreeing[vendor]:12}{standard:16}")
    every = [each for found in differences.values() for each in found]
    dearer = sum(ours > other for *_, ours, other in every)
    print(f"\n{sum(agreeing.values())} of {sum(known.values())} entries alike")
    print(f"{compared - gaps:,} costs compared, {len(every)} differ ({dearer} of them dearer here)")
    print(f"{gaps} not compared for want of a rate there")
    if listing:
        for (vendor, key), found in sorted(differences.items()):
            told = ", ".join(
                f"{tier or 'standard'} {shape} {a:f} / {b:f}" for tier, shape, _, a, b in found[:3]
            )
            print(f"  {vendor} {key}: {told}{' …' if len(found) > 3 else ''}")


def against_source(book: PriceBook) -> None:
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import Usage as TheirUsage

    at = datetime.datetime.now(datetime.UTC)
    compared = differing = left_out = 0
    their_s = our_s = 0.0
    for provider in get_snapshot().providers:
        for model in provider.models:
            if provider.find_model(model.id) is not model:
                continue
            info = book.find(model.id, provider.id, at.timestamp())
            if info is None:
                left_out += 1
                continue
            for usage in SHAPES.values():
                counts = TheirUsage(
                    input_tokens=usage.input_tokens,
                    output_tokens=usage.output_tokens,
                    cache_read_tokens=usage.cached_input_tokens,
                    cache_write_tokens=usage.cache_write_tokens,
                )
                began = time.perf_counter()
                theirs = model.calc_price(counts, provider, genai_request_timestamp=at).total_price
                between = time.perf_counter()
                ours = info.price.cost_usd(usage)
                our_s += time.perf_counter() - between
                their_s += between - began
                compared += 1
                differing += ours != theirs
    print(f"{compared:,} costs compared, {differing:,} differ; {left_out} models are left out of the list")
    print(f"each: {our_s / compared * 1e6:.2f} µs, theirs {their_s / compared * 1e6:.1f} µs")


FIRST = (
    "import time; from tierllm.cost.prices import PriceBook; began = time.perf_counter();"
    "PriceBook.bundled().find('gpt-5'); print(time.perf_counter() - began)"
)


def times(book: PriceBook) -> None:
    first = min(
        float(subprocess.run([sys.executable, "-c", FIRST], capture_output=True, check=True).stdout)
        for _ in range(7)
    )
    print(f"{'first look-up, in a fresh process':44}{first * 1e3:8.2f} ms")
    info = book.find("gpt-5.4")
    assert info is not None
    price, plain = info.price, Price(input_usd_per_mtok=2, output_usd_per_mtok=8)
    usage, cached = SHAPES["plain"], SHAPES["cached"]
    measured: dict[str, Callable[[], object]] = {
        "later look-up": lambda: book.find("gpt-5.4"),
        "cost_usd": lambda: plain.cost_usd(usage),
        "cost_nano": lambda: plain.cost_nano(usage),
        "cost_nano, cached input": lambda: plain.cost_nano(cached),
        "cost_nano, a price with steps and tiers": lambda: price.cost_nano(cached),
        "worst_nano": lambda: plain.worst_nano(1200, 300),
        "worst_nano, a price with steps and tiers": lambda: price.worst_nano(300_000, 300, "priority"),
    }
    for name, call in measured.items():
        best = min(timeit.repeat(call, number=20_000, repeat=9)) / 20_000
        print(f"{name:44}{best * 1e6:8.2f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against-litellm", action="store_true")
    parser.add_argument("--against-source", action="store_true")
    parser.add_argument("--list", action="store_true", help="each difference, ours / theirs in dollars")
    arguments = parser.parse_args()
    book = PriceBook.bundled()
    print(f"{book.source}, of {book.as_of}: {len(book):,} prices")
    if arguments.against_source:
        against_source(book)
    if arguments.against_litellm:
        against_litellm(book, arguments.list)
    if not (arguments.against_source or arguments.against_litellm):
        times(book)


if __name__ == "__main__":
    main()

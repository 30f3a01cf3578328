"""A research agent under one budget: it plans, reads several sources at once, and writes.

    python examples/research_budget.py

Short of money it goes on with a cheaper model and shorter answers, and stops with what it has. It
needs neither network nor key, and half a second: the provider is a fake.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal

from tierllm import BudgetExceededError, Deployment, Price, Tier, TieredClient
from tierllm.testing import FakeProvider
from tierllm.types import Call

SOURCES = ["fossils", "genes", "herders", "textiles", "climate"]
LENGTHS = {"plan": 100, "read": 350, "write": 900}  # about so many tokens an answer has


def answer(call: Call) -> str:
    kind = call.request.route or "read"
    return f"{kind} by {call.model}: " + "so and so " * (LENGTHS[kind] * 4 // 10)


LARGE = Price(input_usd_per_mtok=5, output_usd_per_mtok=25)  # left out, the price list's would count
SMALL = Price(input_usd_per_mtok=1, output_usd_per_mtok=5)

vendor = FakeProvider(name="openai", latency_s=0.02, answer=answer)  # so called, its tokens are counted
client = TieredClient(
    tiers=[
        Tier("gold", [Deployment("gpt-5.2", vendor, price=LARGE)]),
        Tier("bronze", [Deployment("gpt-5-mini", vendor, price=SMALL)]),
    ]
)

# -- the agent ---------------------------------------------------------------------


@dataclass
class Report:
    """What came of it. ``missing`` are the sources that there was no money for."""

    text: str = ""
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=lambda: list(SOURCES))
    shortened: int = 0
    statement: str = ""


async def research(question: str, hard_usd: str) -> Report:
    """Never spends more than ``hard_usd``, and hands over what it has when that is not enough."""
    report = Report()
    async with client.run("research", hard_usd=hard_usd, on_exceed=("downgrade", "clamp")) as run:
        try:
            plan = await think(report, "plan", f"How to find out: {question}", 150)
            assert run.remaining_usd is not None  # it has a limit in dollars
            most = run.remaining_usd * Decimal("0.7")  # the rest is for writing
            async with client.run("reading", hard_usd=most, on_exceed=("downgrade", "clamp")):
                await read_all(report, plan)
            if report.notes:
                report.text = await think(report, "write", "\n".join([question, *report.notes]), 1000)
        except BudgetExceededError:
            pass  # the report tells what is missing
    report.statement = run.statement()
    return report


async def read_all(report: Report, plan: str) -> None:
    """All sources at once. Those that find no money while others hold theirs get a second chance."""
    await asyncio.gather(*(read(report, plan, source) for source in SOURCES))
    for source in tuple(report.missing):
        await read(report, plan, source)


async def read(report: Report, plan: str, source: str) -> None:
    """A note on ``source``, or none where it cannot be afforded now."""
    try:
        report.notes.append(await think(report, "read", f"{plan}\nWhat do {source} tell?", 400))
    except BudgetExceededError:
        return
    report.missing.remove(source)


async def think(report: Report, kind: str, prompt: str, max_tokens: int) -> str:
    response = await client.acomplete(prompt, sla="gold", route=kind, max_tokens=max_tokens)
    if response.finish_reason == "length":  # max_tokens was lowered to what is left
        report.shortened += 1
    return response.text


# -- the story -------------------------------------------------------------------


async def main() -> None:
    async with client:
        for hard_usd in ("0.20", "0.06", "0.012", "0.0005"):
            print(f"-- at most ${hard_usd}")
            report = await research("Why are llamas so woolly?", hard_usd)
            print(f"   notes: {len(report.notes)} of {len(SOURCES)}, missing: {report.missing or 'nothing'}")
            print(f"   text: {report.text.partition(':')[0] or 'none'}, {len(report.text.split())} words")
            print(f"   answers cut short: {report.shortened}")
            print("   " + report.statement.replace("\n", "\n   "))


if __name__ == "__main__":
    asyncio.run(main())

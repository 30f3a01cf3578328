"""A bot that answers from documents which change: each answer is paid for once, and lives as long as they do.

    python examples/knowledge_bot.py

It needs neither network nor key, and no time: the provider is a fake that picks the sentence of the
documents which fits the question best, and the clock moves when told to.
"""

from __future__ import annotations

import asyncio
import random
import re
from hashlib import sha256

from tierllm import Deployment, Price, Response, ResultCache, Tier, TieredClient, TierLLMError
from tierllm.pipeline.effects import Handler
from tierllm.testing import FakeClock, FakeProvider
from tierllm.types import Call, text_of

# -- the documents -----------------------------------------------------------------

texts: dict[str, str] = {}  # every version ever, by the hash of its content
current: dict[str, str] = {}  # the hash of the latest, by name


def publish(name: str, text: str) -> None:
    current[name] = sha256(text.encode()).hexdigest()
    texts[current[name]] = text


def words(text: str) -> set[str]:
    return {word[:5] for word in re.findall(r"[a-z]{4,}", text.lower())}


def documents_for(question: str) -> dict[str, str]:
    """Names and hashes of the documents that have something to do with the question."""
    return {name: key for name, key in current.items() if words(question) & words(name + " " + texts[key])}


# -- the bot -------------------------------------------------------------------------


def answer(call: Call) -> str:
    """The model: of all sentences that it was given, the one with most of the question's words."""
    found, question = (text_of(message) for message in call.messages)
    sentences: list[str] = re.findall(r"[^. ][^.]*\.", found) or ["I do not know."]
    return max(sentences, key=lambda sentence: len(words(sentence) & words(question)))


async def with_documents(call: Call, call_next: Handler) -> Response:
    """Documents are fetched when a model is asked, and not for an answer from the cache."""
    found = " ".join(texts[content] for _, content in call.request.depends_on)
    call.messages = ({"role": "system", "content": found}, *call.messages)
    return await call_next(call)


clock = FakeClock(1_795_600_000)
vendor = FakeProvider(name="openai", latency_s=0.5, answer=answer)  # so called, its tokens are counted
price = Price(input_usd_per_mtok=5, output_usd_per_mtok=25)  # left out, the price list's would count
cache = ResultCache(ttl_s=3600, stale_if_error_s=86_400)  # in memory; more layers: docs/cache.md
client = TieredClient(
    tiers=[Tier("gold", [Deployment("gpt-5.2", vendor, price=price, policies=[with_documents])])],
    cache=cache,
    clock=clock,
    rng=random.Random(7),
)


async def ask(question: str) -> Response:
    return await client.acomplete(question, depends_on=documents_for(question))


# -- the story -------------------------------------------------------------------

QUESTIONS = ["When do you open on Sunday?", "What does shipping cost?", "Until when can I return it?"]


async def show(question: str) -> None:
    before = vendor.calls
    try:
        response = await ask(question)
    except TierLLMError as error:
        print(f"   {question:<29}{type(error).__name__}")
        return
    source = "made now" if response.age_s is None else f"{response.age_s:.0f} s old"
    paid = f"calls {vendor.calls - before}, ${response.cost_usd:.4f}"
    print(f"   {question:<29}{response.text:<47}{paid:<18}{source} {' '.join(response.degraded)}".rstrip())


async def main() -> None:
    publish("hours", "We open at nine. On Sunday we open at eleven.")
    publish("shipping", "Shipping costs 20 dollars. A llama is sent by train.")
    publish("returns", "Bought things can be returned within 30 days.")
    async with client:
        print("-- each question is paid for once")
        for question in QUESTIONS:
            await show(question)
        print("-- ten minutes later")
        clock.advance(600)
        for question in QUESTIONS:
            await show(question)

        print("-- twenty at once ask something new")
        before = vendor.calls
        answers = await asyncio.gather(*(ask("Do you send a llama by train?") for _ in range(20)))
        paid = sum(response.cost_usd > 0 for response in answers if response.cost_usd is not None)
        print(f"   answers {len(answers)}, calls {vendor.calls - before}, paid {paid}: {answers[-1].text}")

        print("-- shipping becomes dearer: what rests on it is made anew, and nothing else")
        publish("shipping", "Shipping costs 25 dollars. A llama is sent by train.")
        for question in QUESTIONS:
            await show(question)

        print("-- two hours later the vendor is down: old answers are better than none")
        clock.advance(7200)
        vendor.down()
        for question in QUESTIONS:
            await show(question)
        print("-- but not where the document has changed since")
        publish("hours", "We open at nine. On Sunday we are closed.")
        await show(QUESTIONS[0])

        stats = cache.stats()
        print(f"-- hits {dict(stats.hits)}, of them stale {stats.stale}; joined {stats.joined}")
        print(f"   misses {stats.misses}, hit rate {stats.hit_rate:.0%}, saved ${stats.saved_usd:.4f}")


if __name__ == "__main__":
    asyncio.run(main())

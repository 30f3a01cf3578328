"""What the cache costs a call: hits through the whole client, misses, large requests.

    python tests/benchmarks/bench_cache.py
    pip install "litellm[proxy]" && python tests/benchmarks/bench_cache.py --against-litellm

A prompt of 200 characters, an answer of 1,900; the best of several rounds. ``--against-litellm`` puts the
hits beside those of LiteLLM's Router with its own cache in memory (``cache_responses=True``; a hit fails
without its ``proxy`` extra), taken between two rounds of ours. ``--only`` does some of it: hit, miss,
key. Ends with an error where a bound is passed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import logging
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from tierllm import Chunk, Deployment, Request, Response, Tier, TieredClient, Usage
from tierllm.caching import Layer, ResultCache
from tierllm.caching.key import key_of
from tierllm.providers import BaseProvider

ROUNDS, STEPS = 7, 2000
MOST_HIT_US, LEAST_RATIO = 25, 40
PARTS = ("hit", "miss", "key")

ANSWER = "".join(random.Random(1).choices("etaoin shrdlu", k=1900))
PROMPT = "".join(random.Random(2).choices("etaoin shrdlu", k=192))
MESSAGES = [{"role": "user", "content": PROMPT + "as asked"}]
failures: list[str] = []


class Ready(BaseProvider):
    """Answers at once."""

    name = "ready"
    origin = ""
    waits = False

    def complete(self, call, scope):
        return Response(text=ANSWER, finish_reason="stop", usage=Usage(input_tokens=50, output_tokens=400))

    async def acomplete(self, call, scope):
        return self.complete(call, scope)

    def stream(self, call, scope) -> Iterator[Chunk]:
        yield Chunk(ANSWER)
        yield Chunk(finish_reason="stop")


def client(layers: Sequence[Layer] | None = (), *, deadline_s: float | None = None) -> TieredClient:
    """Three tiers with everything on; without ``layers`` no cache, ``None``: memory."""
    cache = None if layers == () else ResultCache(layers)
    names = ("gold", "silver", "bronze")
    tiers = [Tier(name, [Deployment(name, Ready())], max_concurrency=1000) for name in names]
    return TieredClient(tiers, cache=cache, deadline_s=deadline_s)


def new(numbers: Iterator[int]) -> str:
    """A prompt of 200 characters that nobody has asked yet."""
    return f"{PROMPT}{next(numbers):08d}"


def check(holds: bool, what: str) -> None:
    if not holds:
        failures.append(what)


# -- timing ------------------------------------------------------------------------------


def best_us(*works: Callable[[], object], calls: int = STEPS, rounds: int = ROUNDS) -> list[float]:
    """Of each, by turns: what else the machine does is the same for all."""
    best = [float("inf")] * len(works)
    for _ in range(rounds):
        for at, work in enumerate(works):
            began = time.perf_counter()
            for _ in range(calls):
                work()
            best[at] = min(best[at], (time.perf_counter() - began) / calls * 1e6)
    return best


async def abest_us(
    *works: Callable[[], Awaitable[object]], calls: int = STEPS, rounds: int = ROUNDS
) -> list[float]:
    best = [float("inf")] * len(works)
    for _ in range(rounds):
        for at, work in enumerate(works):
            began = time.perf_counter()
            for _ in range(calls):
                await work()
            best[at] = min(best[at], (time.perf_counter() - began) / calls * 1e6)
    return best


def streamed(asked: TieredClient) -> int:
    with asked.stream(MESSAGES, sla="gold") as chunks:
        return sum(len(chunk.text) for chunk in chunks)


async def astreamed(asked: TieredClient) -> int:
    async with asked.astream(MESSAGES, sla="gold") as chunks:
        return sum([len(chunk.text) async for chunk in chunks])


def hits_us(asked: TieredClient, layer: str | None, calls: int = STEPS) -> list[float]:
    """Four kinds of calls. ``layer``: where the answer has to come from."""
    asked.complete(MESSAGES, sla="gold")

    async def awaited() -> list[float]:
        return await abest_us(
            lambda: asked.acomplete(MESSAGES, sla="gold"), lambda: astreamed(asked), calls=calls
        )

    took = [
        *best_us(lambda: asked.complete(MESSAGES, sla="gold"), lambda: streamed(asked), calls=calls),
        *asyncio.run(awaited()),
    ]
    found = asked.complete(MESSAGES, sla="gold")
    assert found.cached
    assert found.text == ANSWER
    assert streamed(asked) == len(ANSWER)
    assert layer is None or found.trace.cache_layer == layer
    return took


KINDS = ("complete", "stream, replayed", "acomplete", "astream, replayed")

# -- hits, beside the peer -------------------------------------------------------------------


def hit(against_litellm: bool) -> None:
    with client(None, deadline_s=60) as asked:
        mine = hits_us(asked, "memory")
        peer = theirs() if against_litellm else [None] * 4
        again = hits_us(asked, "memory")  # the peer's run lies between two of ours
    for kind, first, second, other in zip(KINDS, mine, again, peer, strict=True):
        took = min(first, second)
        row = f"hit in memory, {kind:18} {took:7.1f} µs"
        if other is not None:
            row += f"   LiteLLM {other:8.1f} µs   1/{other / took:.0f}"
            check(other / took >= LEAST_RATIO, f"{kind}: more than 1/{LEAST_RATIO} of LiteLLM's hit")
        print(row)
        check(took <= MOST_HIT_US, f"{kind}: a hit takes more than {MOST_HIT_US} µs")


def theirs() -> list[float]:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.suppress_debug_info = True
    for name in ("LiteLLM", "LiteLLM Router"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    mocked = {"model": "gpt-4o", "api_key": "none", "mock_response": ANSWER}
    router = litellm.Router(
        model_list=[{"model_name": "gold", "litellm_params": mocked}], num_retries=0, cache_responses=True
    )

    def stream() -> int:
        chunks = router.completion("gold", MESSAGES, stream=True)
        return sum(len(chunk.choices[0].delta.content or "") for chunk in chunks)

    async def astream() -> int:
        chunks = await router.acompletion("gold", MESSAGES, stream=True)
        return sum([len(chunk.choices[0].delta.content or "") async for chunk in chunks])

    router.completion("gold", MESSAGES)
    time.sleep(0.5)  # it is written behind the call's back

    async def awaited() -> list[float]:
        await router.acompletion("gold", MESSAGES)
        took = await abest_us(lambda: router.acompletion("gold", MESSAGES), astream, calls=100, rounds=3)
        _is_hit(await router.acompletion("gold", MESSAGES))
        return took

    took = best_us(lambda: router.completion("gold", MESSAGES), stream, calls=100, rounds=3)
    _is_hit(router.completion("gold", MESSAGES))
    assert stream() == len(ANSWER)
    return took + asyncio.run(awaited())


def _is_hit(found: object) -> None:
    assert found._hidden_params.get("cache_hit") is True  # type: ignore[attr-defined]
    assert found.choices[0].message.content == ANSWER  # type: ignore[attr-defined]


# -- misses -----------------------------------------------------------------------------------


def miss() -> None:
    numbers = itertools.count()
    for deadline_s in (None, 60.0):
        plain, cached = client(deadline_s=deadline_s), client(None, deadline_s=deadline_s)

        async def awaited(one: TieredClient, other: TieredClient) -> list[float]:
            return await abest_us(
                *(lambda each=each: each.acomplete(new(numbers), sla="gold") for each in (one, other))
            )

        took = {
            "complete": best_us(
                *(lambda each=each: each.complete(new(numbers), sla="gold") for each in (plain, cached))
            ),
            "acomplete": asyncio.run(awaited(plain, cached)),
        }
        assert cached.cache.stats().kept > 10_000
        assert not cached.cache.stats().hits
        for kind, (without, with_it) in took.items():
            print(
                f"a miss, {kind:10} deadline {'none' if deadline_s is None else '60 s'}: "
                f"{without:6.1f} µs without a cache, {with_it - without:+6.1f} µs with one"
            )
        plain.close()
        cached.close()


# -- large requests ----------------------------------------------------------------------------------


def key() -> None:
    large = [{"role": "user", "content": PROMPT * 5462}]
    many = [{"role": "user", "content": PROMPT}] * 5462
    with client(None) as asked, client() as plain:
        asked.complete(large, sla="gold", max_tokens=10)
        for name, messages in (("one message", large), ("5,462 messages", many)):
            request = Request(messages=tuple(messages))
            made = key_of(request, scope="nobody")
            (took,) = best_us(lambda request=request: key_of(request, scope="nobody"), calls=5)
            assert made is not None
            print(f"key of {len(made.canonical) / 1e6:.2f} MB in {name}: {took / 1e3:.2f} ms")
        without, with_it = best_us(
            *(lambda on=on: on.complete(large, sla="gold", max_tokens=10) for on in (plain, asked)), calls=5
        )
        assert asked.complete(large, sla="gold", max_tokens=10).cached
        print(
            f"a hit of 1 MB through the client {with_it / 1e3:.2f} ms; without a cache {without / 1e3:.2f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against-litellm", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    chosen = parser.parse_args()
    logging.getLogger("tierllm").setLevel(logging.CRITICAL)
    gc.collect()
    gc.freeze()
    for part in chosen.only:
        if part == "hit":
            hit(chosen.against_litellm)
        elif part == "miss":
            miss()
        else:
            key()
    if failures:
        sys.exit("FAILED: " + "; ".join(failures))


if __name__ == "__main__":
    main()

"""What a call through the whole tier pipeline costs, beside LiteLLM's Router in the same run.

    pip install -e ".[bench]" && python tests/benchmarks/bench_overhead.py

Both serve a reply that is ready at once: a bare function's time is taken off LiteLLM's
(``mock_response``) and the provider's own off tierllm's. Each figure is the best of several rounds,
the two taken in turn, so that the ratios hold on a noisy machine. ``--only tierllm`` leaves the
peer out.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator

from tierllm import Chunk, Deployment, Response, Retry, Tier, TieredClient, Usage
from tierllm.errors import ProviderUnavailableError
from tierllm.providers import BaseProvider

WORDS = ["word "] * 40


class Ready(BaseProvider):
    """Answers at once; ``down`` refuses at once."""

    name = "ready"
    waits = False

    def __init__(self, down: bool = False) -> None:
        self.down = down

    def complete(self, call, scope):
        if self.down:
            raise ProviderUnavailableError("down", status=503)
        return Response(text="fine", finish_reason="stop", usage=Usage(input_tokens=5, output_tokens=1))

    async def acomplete(self, call, scope):
        return self.complete(call, scope)

    def stream(self, call, scope) -> Iterator[Chunk]:
        for word in WORDS:
            yield Chunk(word)
        yield Chunk(finish_reason="stop")

    async def astream(self, call, scope):
        for word in WORDS:
            yield Chunk(word)
        yield Chunk(finish_reason="stop")


def client(*, first_down: bool = False) -> TieredClient:
    """Gold, silver and bronze with everything on: deadline, pool, breaker, retry, fallback, trace."""
    return TieredClient(
        [
            Tier("gold", [Deployment("g", Ready(first_down))], max_concurrency=1000),
            Tier("silver", [Deployment("s", Ready())], max_concurrency=1000),
            Tier("bronze", [Deployment("b", Ready())], max_concurrency=1000),
        ],
        deadline_s=60,
        retry=Retry(1) if first_down else Retry(3),
        breaker=False if first_down else None,  # a breaker would spare us the failing call
    )


def best_us(work: Callable[[], object], calls: int, rounds: int = 5) -> float:
    best = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(calls):
            work()
        best = min(best, time.perf_counter() - begun)
    return best / calls * 1e6


async def abest_us(work: Callable[[], Awaitable[object]], calls: int, rounds: int = 5) -> float:
    best = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(calls):
            await work()
        best = min(best, time.perf_counter() - begun)
    return best / calls * 1e6


def ours() -> dict[str, float]:
    messages = [{"role": "user", "content": "hello"}]
    bare, up, failing = Ready(), client(), client(first_down=True)
    found = {
        "call, sync": best_us(lambda: up.complete(messages, sla="gold"), 4000)
        - best_us(lambda: bare.complete(None, None), 4000),
        "fallback, sync": best_us(lambda: failing.complete(messages, sla="gold"), 2000),
    }

    async def awaited() -> None:
        found["call, async"] = await abest_us(
            lambda: up.acomplete(messages, sla="gold"), 4000
        ) - await abest_us(lambda: bare.acomplete(None, None), 4000)
        found["fallback, async"] = await abest_us(lambda: failing.acomplete(messages, sla="gold"), 2000)

    asyncio.run(awaited())
    return found


def theirs() -> dict[str, float]:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.suppress_debug_info = True
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)
    messages = [{"role": "user", "content": "hello"}]

    def model(name: str, **params: object) -> dict[str, object]:
        return {"model_name": name, "litellm_params": {"model": "gpt-4o", "api_key": "none", **params}}

    up = litellm.Router(model_list=[model("gold", mock_response="fine")], num_retries=0)
    failing = litellm.Router(
        model_list=[
            model("gold", mock_response="litellm.InternalServerError"),
            model("silver", mock_response="fine"),
        ],
        fallbacks=[{"gold": ["silver"]}],
        num_retries=0,
        disable_cooldowns=True,
    )
    assert failing.completion("gold", messages).choices[0].message.content == "fine"
    found = {
        "call, sync": best_us(lambda: up.completion("gold", messages), 150),
        "fallback, sync": best_us(lambda: failing.completion("gold", messages), 60),
    }

    async def awaited() -> None:
        found["call, async"] = await abest_us(lambda: up.acompletion("gold", messages), 150)
        found["fallback, async"] = await abest_us(lambda: failing.acompletion("gold", messages), 60)

    asyncio.run(awaited())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["tierllm"])
    only = parser.parse_args().only
    gc.collect()
    gc.freeze()
    mine = ours()
    other = {} if only else theirs()
    again = ours()  # the peer's run lies between two of ours
    print(f"{'':18}{'tierllm us':>12}{'LiteLLM us':>12}{'ratio':>9}")
    for name, figure in mine.items():
        figure = min(figure, again[name])
        peer = other.get(name)
        row = f"{name:18}{figure:12.1f}"
        print(row if peer is None else f"{row}{peer:12.1f}   1/{peer / figure:.0f}")


if __name__ == "__main__":
    main()

"""Adaptive concurrency on a backend whose capacity changes, and what it costs a call.

    python tests/benchmarks/bench_adaptive.py [--seeds N]

The backend serves 20 calls at once, from 300 s on 5, from 600 s on 20 again, and refuses the others with
429 or 529, either after 50 ms or only after 2 s, as long as an answer takes on average (lognormal). There is
always a caller waiting. ``plain AIMD`` is ``caution=1``; ``fixed at 20`` does not adapt. Virtual time,
20 minutes; means over the seeds.

Costs are those of the policy alone around a handler that answers at once, over the bare handler.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from admission.crowd import Crowd
from tierllm.admission.adaptive import AdaptiveConcurrency
from tierllm.admission.client_throttle import ClientThrottle
from tierllm.types import Call, Request, Response

CHANGES = ((0.0, 20), (300.0, 5), (600.0, 20))
UNTIL_S = 1200
CALLS, ROUNDS = 20_000, 15

POLICIES: dict[str, Callable[[], AdaptiveConcurrency]] = {
    "default": AdaptiveConcurrency,
    "plain AIMD": lambda: AdaptiveConcurrency(caution=1),
    "fixed at 20": lambda: AdaptiveConcurrency(start=20, least=20, most=20),
}


def mean(values: Iterable[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{sum(known) / len(known):6.1f}" if known else " never"


def follow(seeds: int) -> None:
    for refuse_s in (0.05, 2.0):
        print(f"refusals take {refuse_s:g} s")
        for name, make in POLICIES.items():
            crowds = [Crowd(make(), CHANGES, seed=seed, refuse_s=refuse_s) for seed in range(seeds)]
            for crowd in crowds:
                crowd.run(UNTIL_S)
            use = sum(c.use for c in crowds) / seeds
            refused = sum(c.refused() for c in crowds) / seeds
            at_20 = sum(c.refused(150, 300) for c in crowds) / seeds
            at_5 = sum(c.refused(350, 600) for c in crowds) / seeds
            down = mean(c.settled_s(300, range(1, 7)) for c in crowds)
            up = mean(c.settled_s(600, range(18, 24)) for c in crowds)
            print(
                f"  {name:<12} use {use:.1%}, refused {refused:5.1%} "
                f"(steady at 20: {at_20:5.2%}, at 5: {at_5:5.1%}); down in {down} s, up in {up} s"
            )


async def answer(call: Call) -> Response:
    call.progress = SimpleNamespace()  # type: ignore[assignment]
    return RESPONSE


RESPONSE = Response(text="fine")


def took(handler: Callable[[Call], Any]) -> float:
    call = Call(Request(messages=()))
    began = time.perf_counter()
    for _ in range(CALLS):
        call.progress = None
        try:
            handler(call).send(None)
        except StopIteration:
            pass
    return (time.perf_counter() - began) / CALLS * 1e6


def cost() -> None:
    adaptive, full, throttle = AdaptiveConcurrency(), AdaptiveConcurrency(start=1, most=1), ClientThrottle()
    variants: dict[str, Callable[[Call], Any]] = {
        "bare": answer,
        "AdaptiveConcurrency": lambda call: adaptive(call, answer),
        "… at its most": lambda call: full(call, answer),
        "ClientThrottle": lambda call: throttle(call, answer),
    }
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(ROUNDS):
        for name, handler in variants.items():
            best[name] = min(best[name], took(handler))
    for name, micros in best.items():
        print(f"{name:<20} {micros:.2f} µs   {micros - best['bare']:+.2f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=10)
    follow(options.parse_args().seeds)
    cost()


if __name__ == "__main__":
    main()

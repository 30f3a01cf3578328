"""More traffic than there is room for: gold keeps its promise, bronze gets simpler, nobody is lost.

    python tests/benchmarks/bench_overload.py [--data DIR] [--minutes 20] [--only traces|ramp|deferral]

``traces``: the Azure traces of 2023 in virtual time, through real clients. Chat at its own rate is gold
(interactive, paid); bronze gets chat, or code, at 1, 2, 5 and 10 times the rate that its pool can just
bear (``--data`` names the folder with ``conv.csv`` and ``code.csv``; without one, made traffic takes
their place). Pools of their own, then one vendor account with a share kept for gold, and, for comparison,
one pool for everybody. ``ramp``: how long before the load its forecast passes 1, and when shedding
begins. ``deferral``: calls that may wait, beside interactive ones.

Ends with an error where a bound is missed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

from traffic import Arrival, Ended, Replay, Speed, azure, azure_folder, bursty, faster, mean, quantile, steady

from tierllm import Admission, Deployment, Tier
from tierllm.admission.consent import Consent
from tierllm.admission.rate_limit import RateLimit
from tierllm.admission.sampling import AdaptiveSampling
from tierllm.admission.steps import Step
from tierllm.events import CallDeferred, CallThrottled, DegradationChanged, TierCrowded
from tierllm.testing import FakeProvider

SPEEDS = {"big": Speed(0.4, 50.0), "small": Speed(0.3, 100.0)}
FACTORS = (1, 2, 5, 10)
OBJECTIVE_S = 12.0
"""What gold promises: an answer within this time."""

BRIEF = 80
"""Tokens of an answer, where it is as short as it gets."""

WAIT_S = 20.0
"""The longest wait in bronze's queue, which has room for about so many seconds of work."""

WARM_S = 60.0
failures: list[str] = []


def check(holds: bool, what: str) -> str:
    if not holds:
        failures.append(what)
    return "" if holds else "  MISSED"


# -- the Azure traces --------------------------------------------------------------------------


class Scene(NamedTuple):
    """Gold's traffic, bronze's at 1x, and the rooms they have."""

    name: str
    gold: list[Arrival]
    bronze: list[Arrival]
    gold_size: int | None
    bronze_size: int | None
    bronze_waiting: int | None = None
    account_tpm: int | None = None
    one_pool: bool = False


KEPT_FOR_GOLD = 0.6


def sampling() -> AdaptiveSampling:
    steps = [
        Step("short", at=1.0, max_tokens=200, temperature=0.3),
        Step("brief", at=1.5, max_tokens=BRIEF),
        Step("people first", at=2.5, refuse_below=0),
    ]
    return AdaptiveSampling(steps, consent=[Consent("all", since=date(2023, 1, 1), plan="free")])


def waiting_for(arrivals: Sequence[Arrival], places: int) -> int:
    return round(WAIT_S * places / mean([SPEEDS["small"].takes_s(a.output_tokens) for a in arrivals]))


def replay(scene: Scene, factor: int, seconds: float) -> Replay:
    account = None
    if scene.account_tpm is not None:
        account = RateLimit(tpm=scene.account_tpm, reserve={"gold": KEPT_FOR_GOLD}, name="the account")

    def tiers(fake: FakeProvider) -> list[Tier]:
        gold = Deployment("big", fake, account=account)
        bronze = Deployment("small", fake, account=account)
        if scene.one_pool:
            size = (scene.gold_size or 0) + (scene.bronze_size or 0)
            return [Tier("gold", [gold], max_concurrency=size, max_waiting=8 * size, max_wait_s=WAIT_S)]
        return [
            Tier("gold", [gold], max_concurrency=scene.gold_size, max_waiting=200, max_wait_s=10),
            Tier(
                "bronze",
                [bronze],
                max_concurrency=scene.bronze_size,
                max_waiting=scene.bronze_waiting,
                max_wait_s=WAIT_S,
                sampling=sampling(),
            ),
        ]

    played = Replay(tiers, SPEEDS, keep=(DegradationChanged,), deadline_s=60)
    if factor >= 0:
        played.play("gold", faster(scene.gold, 1, seconds), sla="gold", plan="paid", user="someone")
    if factor > 0:
        rng = random.Random(5)
        played.play(
            "bronze",
            faster(scene.bronze, factor, seconds),
            sla="gold" if scene.one_pool else "bronze",
            plan="free",
            tenant=lambda _: f"t{rng.randrange(20)}",
            priority=lambda number: -(number % 10 < 3),
        )
    played.run()
    return played


def kept(calls: Sequence[Ended]) -> float:
    """The share of the calls that were answered by their own tier within the objective."""
    return mean([each.tier == "gold" and each.took_s <= OBJECTIVE_S for each in calls])


def by_step(played: Replay) -> str:
    said = [
        f"{e.step} {'+' if e.on else '-'}{at:.0f}s"
        for at, e in played.events
        if isinstance(e, DegradationChanged)
    ]
    return ", ".join(said[:9]) + (f", … ({len(said)} changes)" if len(said) > 9 else "") if said else "none"


def rows(scene: Scene, seconds: float) -> None:
    first = [each for each in scene.gold if each.at_s < seconds]
    own = mean([SPEEDS["big"].takes_s(each.output_tokens) <= OBJECTIVE_S for each in first])
    alone = kept(replay(scene, 0, seconds).of("gold"))
    promise = f"gold keeps {OBJECTIVE_S:g} s for {own:.2%} of its calls"
    print(f"\n{scene.name}: {promise} with no queue, for {alone:.2%} alone")
    print(
        f"{'bronze':>8}{'calls':>9}{'gold kept':>11}{'of unloaded':>13}{'p95 s':>7}"
        f"{'bronze ok':>11}{'degraded':>10}{'refused':>9}{'lost':>6}{'use':>8}{'answers/s':>11}{'run s':>7}"
    )
    for factor in FACTORS:
        clock = time.process_time()
        played = replay(scene, factor, seconds)
        took_s = time.process_time() - clock
        gold, bronze = played.of("gold"), played.of("bronze")
        answered = [each for each in bronze if each.error is None]
        rate = kept(gold)
        if scene.account_tpm is not None:
            use = tokens_used(played, scene.account_tpm, seconds)
        else:
            size = (scene.bronze_size or 0) + ((scene.gold_size or 0) if scene.one_pool else 0)
            calls = played.ended if scene.one_pool else bronze
            use = use_of(calls, size, scene.bronze_waiting or 8 * size, seconds)
        missed = ""
        where = f"{scene.name} at {factor}x"
        if not scene.one_pool:
            missed += check(rate >= 0.99 * own, f"{where}: gold keeps {rate:.2%}, unloaded {own:.2%}")
            missed += check(not played.lost, f"{where}: {len(played.lost)} lost")
            if factor >= 5:
                missed += check(use >= 0.95, f"{where}: use {use:.1%}")
        print(
            f"{factor:7}x{len(played.ended):9,}{rate:11.2%}{rate / own:13.2%}"
            f"{quantile([e.took_s for e in gold if e.error is None], 0.95):7.2f}"
            f"{len(answered) / max(1, len(bronze)):11.1%}"
            f"{mean([bool(e.degraded) for e in answered]):10.1%}"
            f"{sum(e.error is not None for e in bronze):9,}{len(played.lost):6}{use:8.1%}"
            f"{sum(WARM_S < e.ended_s <= seconds for e in answered) / (seconds - WARM_S):11.2f}"
            f"{took_s:7.1f}{missed}"
        )
        kinds = Counter(each.error for each in played.ended if each.error is not None)
        if not scene.one_pool:
            print(f"{'':10}steps: {by_step(played)}")
        if kinds:
            hints = [e.come_back_s for e in played.ended if e.come_back_s is not None]
            print(
                f"{'':10}errors: {dict(kinds)}; come back in {quantile(hints, 0.05):.3g}"
                f" to {quantile(hints, 0.95):.3g} s"
            )
        for error in played.lost[:3]:
            print(f"{'':10}lost: {error!r}")


def use_of(calls: Sequence[Ended], size: int, waiting: int, seconds: float) -> float:
    """The work that went into answers, as a share of what a pool could have done that wastes nothing.

    That one works whenever anything waits, and lets as many wait; of calls that got no answer it makes
    the shortest there is.
    """
    work = [e.work_s if e.error is None else SPEEDS["small"].takes_s(min(BRIEF, e.wanted)) for e in calls]
    arrived = [0.0] * (int(seconds) + 1)
    for call, work_s in zip(calls, work, strict=True):
        if call.arrived_s < seconds:
            arrived[int(call.arrived_s)] += work_s
    held = (waiting + size) * mean(work)
    backlog = done = 0.0
    for coming in arrived:
        step = min(float(size), backlog + coming)
        done += step
        backlog = min(backlog + coming - step, held)
    return sum(e.work_s for e in calls if e.error is None) / (done + backlog)


def tokens_used(played: Replay, tpm: int, seconds: float) -> float:
    """Of what the account leaves to bronze, minute by minute, how much went into answers."""
    left = used = 0.0
    for minute in range(1, int(seconds / 60)):
        within = [e for e in played.ended if minute <= (e.ended_s - e.work_s) / 60 < minute + 1]
        gold = sum(e.used for e in within if e.who == "gold")
        used += sum(e.used for e in within if e.who == "bronze" and e.error is None)
        left += tpm - max(gold, KEPT_FOR_GOLD * tpm)
    return used / left


def traces(folder_given: str | None, minutes: float) -> None:
    folder = azure_folder(folder_given)
    seconds = minutes * 60
    if folder is None:
        print("no Azure traces (--data DIR): traffic made with a fixed seed takes their place")
        chat, code = bursty(1, seconds=seconds, per_s=5.0), bursty(2, seconds=seconds, per_s=2.5)
    else:
        chat, code = azure("conv", folder), azure("code", folder)
    shifted = [a for a in chat if a.at_s >= 900] if folder is not None else chat[::-1]
    other = sorted((a._replace(at_s=abs(a.at_s - shifted[0].at_s)) for a in shifted), key=lambda a: a.at_s)
    gold_size = places_for(chat, "big", seconds, 1.8)
    chat_size, code_size = (places_for(each, "small", seconds, 1.0) for each in (other, code))
    tokens_s = sum(a.input_tokens + a.output_tokens for a in chat if a.at_s < seconds) / seconds
    tpm = int(tokens_s * 60 * 2.0 / KEPT_FOR_GOLD)
    print(
        f"{minutes:g} minutes; gold {sum(a.at_s < seconds for a in chat):,} calls, {gold_size} places;"
        f" bronze {chat_size} places for chat, {code_size} for code;"
        f" or one account of {tpm:,} tokens a minute"
    )
    own = [(each, size, waiting_for(each, size)) for each, size in ((other, chat_size), (code, code_size))]
    rows(Scene("own pools, chat in bronze", chat, other, gold_size, *own[0][1:]), seconds)
    rows(Scene("own pools, code in bronze", chat, code, gold_size, *own[1][1:]), seconds)
    rows(Scene("one account, chat in bronze", chat, other, None, None, 200, account_tpm=tpm), seconds)
    name = "one pool, by arrival, as a semaphore would have it"
    rows(Scene(name, chat, other, gold_size, chat_size, one_pool=True), seconds)


def places_for(arrivals: Sequence[Arrival], model: str, seconds: float, room: float) -> int:
    """As many places as a trace keeps busy on average, times ``room``."""
    work_s = sum(SPEEDS[model].takes_s(a.output_tokens) for a in arrivals if a.at_s < seconds)
    return max(1, round(room * work_s / seconds))


# -- a ramp ------------------------------------------------------------------------------------


def ramp() -> None:
    """Load rises from 0.4 to 1.6 of what a pool can do, over some minutes."""
    print("\nramp from 0.4 to 1.6: seconds after its beginning, means of five runs")
    print(
        f"{'places':>7}{'ramp s':>8}{'offered 1':>11}{'forecast 1':>12}{'level 1':>9}{'ahead s':>9}"
        f"{'shedding':>10}{'refusal':>9}{'earlier s':>11}"
    )
    for places in (20, 100):
        for length_s in (120, 300, 600):
            runs = [rise(places, length_s, seed) for seed in range(5)]
            forecast_s, level_s, shed_s, refusal_s = (mean(each) for each in zip(*runs, strict=True))
            where = f"ramp of {length_s} s, {places} places"
            missed = check(forecast_s < level_s, f"{where}: the forecast is no earlier than the level")
            missed += check(all(run[2] < run[3] for run in runs), f"{where}: refused before shedding")
            print(
                f"{places:7}{length_s:8}{length_s * 0.5:11.0f}{forecast_s:12.0f}{level_s:9.0f}"
                f"{level_s - forecast_s:9.0f}{shed_s:10.0f}{refusal_s:9.0f}{refusal_s - shed_s:11.0f}{missed}"
            )


def rise(places: int, length_s: float, seed: int) -> tuple[float, float, float, float]:
    """When the forecast and the level first reach 1, shedding begins, and a call is first refused."""
    call_s = SPEEDS["small"].takes_s(200)
    full, steady_s, end_s = places / call_s, 120.0, length_s + 1200.0

    def rate(at_s: float) -> float:
        return full * (0.4 + 1.2 * min(1.0, max(0.0, at_s - steady_s) / length_s))

    played = Replay(
        lambda fake: [
            Tier(
                "gold",
                [Deployment("small", fake)],
                max_concurrency=places,
                max_waiting=2 * places,
                max_wait_s=10,
                admission=Admission(shed_at=1.0, shed_below=1),
            ),
            Tier("bronze", [Deployment("small", fake)]),
        ],
        SPEEDS,
        keep=(TierCrowded, CallThrottled),
    )
    # every fourth call may be shed: gold's load rises on without them, and in the end it has to refuse
    arrivals = steady(random.Random(seed), seconds=end_s, per_s=rate, most_per_s=full * 1.6, out=200)
    played.play("gold", arrivals, sla="gold", priority=lambda number: int(number % 4 > 0))
    seen: list[tuple[float, float, float]] = []

    def look() -> None:
        load = played.client.load("gold")
        seen.append((played.now_s - steady_s, load.level, load.forecast))
        if not refused() and played.now_s < end_s:
            played.world.after(1.0, look)

    def refused() -> float | None:
        return next((at - steady_s for at, e in played.events if isinstance(e, CallThrottled)), None)

    played.world.after(1.0, look)
    while refused() is None and played.now_s < end_s:
        played.run(played.now_s + 10)
    forecast_s = next((at for at, _, forecast in seen if forecast >= 1), end_s)
    level_s = next((at for at, level, _ in seen if level >= 1), end_s)
    shed_s = next((at - steady_s for at, e in played.events if isinstance(e, TierCrowded) and e.on), end_s)
    return forecast_s, level_s, shed_s, refused() or end_s


# -- deferral ----------------------------------------------------------------------------------


def deferral() -> None:
    """A burst of interactive calls, and calls that may wait up to an hour, on a pool of 20."""
    call_s = SPEEDS["small"].takes_s(200)
    full = 20 / call_s
    minutes = 30

    def interactive(at_s: float) -> float:
        return full * (0.95 if 300 <= at_s < 900 else 0.35)

    seconds = minutes * 60
    people = steady(random.Random(3), seconds=seconds, per_s=interactive, most_per_s=full, out=200)
    jobs = steady(random.Random(4), seconds=700, per_s=lambda _: full * 0.3, most_per_s=full, out=200)
    found: dict[str, Replay] = {}
    for name in ("without jobs", "jobs deferred", "jobs not deferred"):
        played = Replay(
            lambda fake: [Tier("gold", [Deployment("small", fake)], max_concurrency=20)],
            SPEEDS,
            keep=(CallDeferred,),
        )
        played.play("people", people, sla="gold", deadline_s=120)
        if name != "without jobs":
            played.play("jobs", jobs, sla="gold", defer_ok=name == "jobs deferred", deadline_s=1500)
        played.run()
        found[name] = played
    print(
        f"\ndeferral: {len(people):,} interactive calls, 0.95 of all there is from 300 to 900 s;"
        f" {len(jobs):,} jobs from 0 to 700 s"
    )
    print(
        f"{'':20}{'people wait s':>14}{'p99 s':>8}{'in the burst':>14}{'p99 s':>8}"
        f"{'jobs done':>11}{'wait s':>8}{'longest':>9}{'in the burst':>14}{'too late':>10}"
    )
    for name, played in found.items():
        calls, work = played.of("people"), played.of("jobs")
        burst = [e.waited_s for e in calls if 300 <= e.arrived_s < 900]
        begun = [e.ended_s - e.work_s for e in work if e.error is None]
        late = [e for e in work if e.took_s > 1500]
        waits, job_waits = [e.waited_s for e in calls], [e.waited_s for e in work]
        print(
            f"{name:20}{mean(waits):14.3f}{quantile(waits, 0.99):8.2f}{mean(burst):14.3f}"
            f"{quantile(burst, 0.99):8.2f}{len(begun):11,}{mean(job_waits):8.0f}"
            f"{max(job_waits, default=0):9.0f}{sum(300 <= at < 900 for at in begun):14,}{len(late):10}"
        )
    plain, deferred = (
        mean([e.waited_s for e in found[n].of("people")]) for n in ("without jobs", "jobs deferred")
    )
    done = found["jobs deferred"].of("jobs")
    check(deferred - plain <= 0.05 * call_s, f"deferred jobs slow people by {deferred - plain:.3f} s")
    check(all(e.error is None and e.took_s <= 1500 for e in done), "deferred jobs failed, or were too late")
    events = [e for _, e in found["jobs deferred"].events if isinstance(e, CallDeferred)]
    told = sum(e.eta_s is not None for e in events)
    print(f"{'':20}{len(events):,} jobs were told that they wait, {told:,} of them for how long")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--only", choices=["traces", "ramp", "deferral"])
    chosen = parser.parse_args()
    if chosen.only in (None, "traces"):
        traces(chosen.data, chosen.minutes)
    if chosen.only in (None, "ramp"):
        ramp()
    if chosen.only in (None, "deferral"):
        deferral()
    if failures:
        sys.exit("missed:\n  " + "\n  ".join(failures))


if __name__ == "__main__":
    main()

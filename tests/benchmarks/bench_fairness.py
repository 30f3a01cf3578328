"""Tenants that share a pool: what a quiet one has to wait beside a noisy one, and who gets how much.

    python tests/benchmarks/bench_fairness.py [--places 2 8 32] [--calls 10000]

Real clients in virtual time. ``waits``: two tenants of equal weight, one of which sends twenty times as
much; the load is that of both, as a share of what the pool can do. ``alone`` is the quiet one's mean wait
with the other one away, all else equal; the bound is that and half a mean service time. ``by arrival`` is
the same without shares: one tenant, as far as the queue knows. With a single place no queue can keep the
bound (``--places 1``): who comes finds a call of mean length under way, or a longer one.

``shares``: two tenants that both want more than there is, one with short calls and one with long ones.
``apart`` is the most by which the tokens of the calls let through, divided by the weights, differ in any
stretch of time, ``bound`` what ``TenantShares`` promises: 2·(u + m·d).

Ends with an error where a bound is missed.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from traffic import Arrival, Ended, Replay, Speed, mean, steady

from tierllm import Admission, Deployment, Tier

SPEED = Speed(0.3, 100.0)
LOADS = (0.3, 0.6, 0.8, 0.95, 1.5, 3.0)
OUT = 200
NOISE = 20
failures: list[str] = []


def replay(places: int, weights: dict[str, float] | None = None) -> Replay:
    return Replay(
        lambda fake: [
            Tier(
                "gold",
                [Deployment("m", fake)],
                max_concurrency=places,
                admission=Admission(weights=weights or {}),
            )
        ],
        {"m": SPEED},
    )


def poisson(rng: random.Random, load: float, places: int, seconds: float, out: int) -> list[Arrival]:
    per_s = load * places / SPEED.takes_s(out)
    return steady(rng, seconds=seconds, per_s=lambda _: per_s, most_per_s=per_s, out=out)


# -- waits -------------------------------------------------------------------------------------


def waits(places: int, load: float, calls: int) -> None:
    call_s = SPEED.takes_s(OUT)
    seconds = calls * call_s / (load * places)
    rng = random.Random(11)
    quiet = poisson(rng, load / (NOISE + 1), places, seconds, OUT)
    noisy = poisson(rng, load * NOISE / (NOISE + 1), places, seconds, OUT)
    alone, both, unfair = (replay(places) for _ in range(3))
    alone.play("quiet", quiet, tenant="quiet")
    for played in (both, unfair):
        played.play("quiet", quiet, tenant="quiet" if played is both else "all")
        played.play("noisy", noisy, tenant="noisy" if played is both else "all")
    for played in (alone, both, unfair):
        played.run()
    alone_s, wait_s, unfair_s = (
        mean([e.waited_s for e in each.of("quiet")]) for each in (alone, both, unfair)
    )
    more = (wait_s - alone_s) / call_s
    missed = ""
    if more > 0.5:
        missed = "  MISSED"
        failures.append(f"{places} places at {load:g}: {more:.2f} of a mean service time more than alone")
    print(
        f"{places:7}{load:6g}{len(both.ended):9,}{alone_s:9.3f}{wait_s:9.3f}{more:16.3f}{unfair_s:14.2f}"
        f"{mean([e.waited_s for e in both.of('noisy')]):10.2f}{missed}"
    )


# -- shares ------------------------------------------------------------------------------------


def shares(places: int, weights: dict[str, float], seconds: float = 1200.0) -> None:
    """``short`` and ``long`` each want twice what the whole pool can do."""
    rng = random.Random(12)
    played = replay(places, weights)
    errors = settled(played, weights)
    for who, out in (("short", 50), ("long", 400)):
        played.play(who, poisson(rng, 2.0, places, seconds, out), tenant=who)
    played.run(seconds)
    ended = [each for each in played.ended if each.waited_s > 0]
    got = {who: sum(e.used for e in ended if e.who == who) / weight for who, weight in weights.items()}
    apart = most_apart(ended, weights)
    largest = max(each.used / weights[each.who] for each in ended)
    bound = 2 * (largest + places * max(errors))
    missed = ""
    if apart > bound:
        missed = "  MISSED"
        failures.append(
            f"{places} places, weights {weights}: {apart:,.0f} tokens apart, the bound is {bound:,.0f}"
        )
    told = ":".join(f"{weight:g}" for weight in weights.values())
    print(
        f"{places:7}{told:>9}{len(ended):9,}{got['short']:12,.0f}{got['long']:12,.0f}"
        f"{got['short'] / got['long']:8.3f}{apart:9,.0f}{bound:9,.0f}{missed}"
    )


def settled(played: Replay, weights: dict[str, float]) -> list[float]:
    """By how much each charge misses what its call then uses, divided by the weight."""
    errors = [0.0]
    of = played.client._setup.lines["gold"].pool.shares
    settle = of.settle

    def listening(tenant: str, charged: float, used: float, weight: float = 1.0) -> None:
        errors.append(abs(used - charged) / weights[tenant])
        settle(tenant, charged, used, weight)

    of.settle = listening
    return errors


def most_apart(ended: Sequence[Ended], weights: dict[str, float]) -> float:
    """By how much the tokens of the calls let through, by weight, differ at most in any stretch of time.

    Both tenants always wait here, but for the first moments, whose calls did not wait and are left out.
    """
    one = next(iter(weights))
    lead = lowest = highest = 0.0
    for each in sorted(ended, key=lambda e: e.ended_s - e.work_s):
        lead += each.used / weights[each.who] * (1 if each.who == one else -1)
        lowest, highest = min(lowest, lead), max(highest, lead)
    return highest - lowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--places", type=int, nargs="*", default=[2, 8, 32])
    parser.add_argument("--calls", type=int, default=10_000)
    chosen = parser.parse_args()
    print(f"waits, in seconds; a call takes {SPEED.takes_s(OUT):g} s on average")
    print(
        f"{'places':>7}{'load':>6}{'calls':>9}{'alone':>9}{'wait':>9}{'more, in calls':>16}"
        f"{'by arrival':>14}{'noisy':>10}"
    )
    for places in chosen.places:
        for load in LOADS:
            waits(places, load, chosen.calls)
    print("\nshares, in tokens by weight")
    print(
        f"{'places':>7}{'weights':>9}{'calls':>9}{'short':>12}{'long':>12}"
        f"{'ratio':>8}{'apart':>9}{'bound':>9}"
    )
    for places in chosen.places:
        for weights in ((1.0, 1.0), (1.0, 3.0), (5.0, 1.0)):
            shares(places, dict(zip(("short", "long"), weights, strict=True)))
    if failures:
        sys.exit("missed:\n  " + "\n  ".join(failures))


if __name__ == "__main__":
    main()

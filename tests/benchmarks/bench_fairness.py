"""Two tenants of equal weight, one of which sends twenty times as much: what the quiet one has to wait.

    python tests/benchmarks/bench_fairness.py [--places 8] [--calls 30000]

Real clients in virtual time; the load is that of both together, as a share of what the pool can do.
``alone`` is the quiet tenant's mean wait with the other one away, all else equal; the bound is that, and
half a mean service time. ``by arrival`` is the same without shares: one tenant as far as the queue knows.
``apart`` is by how much the tokens that the two were let through with have ever differed while both
waited, ``bound`` what ``TenantShares`` promises for it.

With a single place no queue can keep the first bound: who comes finds a call of mean length under way,
or longer. ``--places 1`` shows that.

Ends with an error where a bound is missed.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from traffic import START_S, Arrival, Ended, Replay, Speed, mean, steady

from tierllm import Deployment, Tier

SPEEDS = {"m": Speed(0.3, 100.0)}
LOADS = (0.3, 0.6, 0.8, 0.95, 1.5, 3.0)
OUT = 200
NOISE = 20
CALL_S = SPEEDS["m"].takes_s(OUT)
failures: list[str] = []


def play(places: int, calls: dict[str, Sequence[Arrival]], *, fair: bool = True) -> tuple[Replay, Shares]:
    played = Replay(lambda fake: [Tier("gold", [Deployment("m", fake)], max_concurrency=places)], SPEEDS)
    shares = Shares(played, tuple(calls))
    for who, arrivals in calls.items():
        # no deadlines, no bounds: whoever comes is served, however late
        played.play(who, arrivals, sla="gold", tenant=who if fair else "all", max_tokens=4000)
    return played, shares


class Grant(NamedTuple):
    """A call of ``who`` was let through: what it was charged, and what it used in the end."""

    who: str
    charged: int
    used: int
    both_wait: bool


class Shares:
    """Who was let through with how many tokens, while both tenants waited.

    Looks at the waits that begin and end: a call is let through as it leaves the queue.
    """

    def __init__(self, played: Replay, names: tuple[str, ...]) -> None:
        self.names = names
        self.played = played

    def apart(self, ended: Sequence[Ended], places: int) -> tuple[float, float]:
        """By how many tokens the two have differed most, in any stretch in which both waited, and the bound."""
        waits = [
            (each, each.ended_s - each.work_s - each.waited_s, each.ended_s - each.work_s)
            for each in ended
            if each.waited_s > 0
        ]
        moments: list[tuple[float, int, str, int]] = []
        for each, came, let_in in waits:
            moments.append((came, 1, each.who, 0))
            moments.append((let_in, 0, each.who, each.used))
        moments.sort(key=lambda moment: moment[:2])
        waiting = dict.fromkeys(self.names, 0)
        lead = lowest = highest = most = 0.0
        both = False
        for _, comes, who, used in moments:
            if comes:
                waiting[who] += 1
            else:
                if both:
                    lead += used if who == self.names[0] else -used
                    lowest, highest = min(lowest, lead), max(highest, lead)
                    most = max(most, highest - lowest)
                waiting[who] -= 1
            if (now := all(waiting.values())) != both:
                both, lead, lowest, highest = now, 0.0, 0.0, 0.0
        largest = max((each.used for each in ended), default=0)
        return most, float(largest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--places", type=int, nargs="*", default=[4, 8, 32])
    parser.add_argument("--calls", type=int, default=30_000)
    chosen = parser.parse_args()
    for places in chosen.places:
        print(f"\n{places} places; a call takes {CALL_S:g} s on average")
        print(f"{'load':>6}{'calls':>8}{'alone s':>9}{'wait s':>9}{'more, in calls':>16}{'by arrival s':>14}{'noisy s':>10}")
        for load in LOADS:
            row(places, load, chosen.calls)
    if failures:
        sys.exit("missed:\n  " + "\n  ".join(failures))


def row(places: int, load: float, calls: int) -> None:
    per_s = load * places / CALL_S
    seconds = calls / per_s
    rng = random.Random(11)
    quiet, noisy = (
        steady(rng, seconds=seconds, per_s=lambda _, r=rate: r, most_per_s=rate, out=OUT)
        for rate in (per_s / (NOISE + 1), per_s * NOISE / (NOISE + 1))
    )
    alone, _ = play(places, {"quiet": quiet})
    alone.run()
    both, shares = play(places, {"quiet": quiet, "noisy": noisy})
    both.run()
    unfair, _ = play(places, {"quiet": quiet, "noisy": noisy}, fair=False)
    unfair.run()
    alone_s, wait_s, unfair_s = (mean([e.waited_s for e in each.of("quiet")]) for each in (alone, both, unfair))
    more = (wait_s - alone_s) / CALL_S
    missed = ""
    if more > 0.5:
        missed = "  MISSED"
        failures.append(f"{places} places at {load:g}: {more:.2f} of a mean service time more than alone")
    print(
        f"{load:6g}{len(both.ended):8,}{alone_s:9.3f}{wait_s:9.3f}{more:16.3f}{unfair_s:14.2f}"
        f"{mean([e.waited_s for e in both.of('noisy')]):10.2f}{missed}"
    )


if __name__ == "__main__":
    main()

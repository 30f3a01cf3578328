"""Automated work of all kinds: alerts at once, nightly jobs when it is calm, and a router that learns.

    python examples/automation.py

It needs neither network nor key, and no time: the provider is a fake, and its hours pass in virtual time,
always the same way. What the models can do is made up; nobody tells the router. It only hears how the answers
that were given turned out. Where this says ``send(...)``, an application calls ``client.complete(...)``.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tierllm import Admission, Deployment, LearnedScorer, Price, Router, Rule, Tier, TieredClient
from tierllm.pipeline.virtual import VirtualRun, VirtualTime
from tierllm.routing.ask import ask
from tierllm.testing import FakeProvider, Latency

SEED = 5
START = datetime(2026, 11, 18, 8, 0, tzinfo=UTC)
SHARE = 0.3  # of the calls whose difficulty decides may go to the large model

world = VirtualTime(START.timestamp())
vendor = FakeProvider(  # an answer is some 100 tokens, and takes two seconds and a half
    latency_s=Latency(first_token_s=0.4, tokens_per_s=50, sigma=0.3),
    seed=SEED,
    answer=lambda _: "Done as asked; what was found stands below. " * 9,
)
LARGE = Price(input_usd_per_mtok=3, output_usd_per_mtok=15)
SMALL = Price(input_usd_per_mtok="0.25", output_usd_per_mtok="1.25")

scorer = LearnedScorer()
client = TieredClient(
    tiers=[
        Tier("large", [Deployment("large", vendor, price=LARGE)], max_concurrency=8),
        Tier(
            "small",
            [Deployment("small", vendor, price=SMALL)],
            max_concurrency=6,
            admission=Admission(max_wait_s=120, max_waiting=500),
        ),
    ],
    router=Router(
        [Rule("alerts", tag="alert", tier="large"), Rule("nightly", tag="nightly", tier="small")],
        scorer=scorer,
        balance=SHARE,
    ),
    clock=world.clock,
    rng=random.Random(SEED),
)

# -- the work --------------------------------------------------------------------


class Kind(NamedTuple):
    """Work of one sort: what is asked, and how often each model gets it right."""

    asked: str
    small: float
    large: float


KINDS = (
    Kind("Which folder does this mail about {} belong in?", 0.97, 0.98),
    Kind("Copy the order number and the date from this note about {}.", 0.95, 0.97),
    Kind("Write a short friendly reply to the question about {}.", 0.90, 0.94),
    Kind("Find out why the ledger and the bank statement differ over {}; show each step.", 0.20, 0.90),
    Kind("Plan the shifts for {} so that no rule of the agreement is broken.", 0.25, 0.85),
    Kind("Say to the cent what {} will cost in five years.", 0.02, 0.04),  # which nobody can
)
TOPICS = ("llamas", "chairs", "wool", "tents", "ropes", "maps", "boots", "stoves", "lamps", "blankets")


class Done(NamedTuple):
    """A piece of work: who did it, how good that was, and how good each model's would have been."""

    tier: str
    good: float
    small: float
    large: float
    usd: float
    waited_s: float


done: dict[str, list[Done]] = defaultdict(list)
rng = random.Random(SEED)


def send(what: str, **options: Any) -> None:
    """One call; when it has ended, somebody checks the answer, and the router hears of it."""
    kind = rng.choice(KINDS)
    right = {"small": float(rng.random() < kind.small), "large": float(rng.random() < kind.large)}
    ready = client.ready(ask(kind.asked.format(rng.choice(TOPICS)), {"deadline_s": 300.0, **options}))

    def ended(run: VirtualRun) -> None:
        if run.error is not None:
            raise run.error
        answer = run.result
        assert answer is not None
        assert answer.trace is not None
        good = right[answer.tier]
        client.feedback(answer.trace.id, good)
        waited_s = sum(wait.seconds for wait in answer.trace.waits)
        done[what].append(
            Done(answer.tier, good, right["small"], right["large"], float(answer.cost_usd), waited_s)
        )

    world.start(ready.flow(), ready.host, scope=ready.scope, on_end=ended)


def alert() -> None:
    send("alerts", tags=["alert"], priority=9, importance="high")


def nightly() -> None:
    """A job that may wait until six in the morning, as long as others are busy."""
    send("nightly", tags=["nightly"], priority=-1, defer_ok=True, deadline_s=8 * 3600.0)


def work() -> None:
    send("work")


def spread(send_one: Callable[[], None], *, count: int, hours: float) -> None:
    """So many calls, at random moments of the hours to come."""
    for _ in range(count):
        world.at(world.now + rng.random() * hours * 3600, send_one)


# -- the story -------------------------------------------------------------------


def say(line: str) -> None:
    print(f"{datetime.fromtimestamp(world.now, UTC):%a %H:%M}  {line}")


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def show_day(some: list[Done]) -> None:
    """How a day went, beside what one model alone would have made of it."""
    good, small, large = (mean([getattr(each, name) for each in some]) for name in ("good", "small", "large"))
    strong = [each for each in some if each.tier == "large"]
    usd, usd_of_large = sum(each.usd for each in some), mean([each.usd for each in strong]) * len(some)
    say(f"   {len(some)} pieces of work, {len(strong) / len(some):.0%} by the large model: {good:.0%} good")
    say(f"   the small model alone: {small:.0%}; the large one alone: {large:.0%}")
    say(
        f"   gap recovered: {(good - small) / (large - small):.0%}; ${usd:.2f} instead of ${usd_of_large:.2f}"
    )


def main() -> None:
    for day in ("first", "second", "third"):
        say(f"-- the {day} day")
        before = len(done["work"])
        spread(work, count=1500, hours=12)
        spread(alert, count=12, hours=12)
        world.run(world.now + 14 * 3600)
        show_day(done["work"][before:])
        if day != "third":
            world.run(world.now + 10 * 3600)
    waits = [each.waited_s for each in done["alerts"]]
    tiers = ", ".join({each.tier for each in done["alerts"]})
    say(f"-- {len(waits)} alerts went to {tiers}; none waited over {max(waits):.1f} s")

    say("-- what it has learned: by how much the large model is better at work on a topic it has not seen")
    asked = [(kind.asked.format("sledges"), kind.large - kind.small) for kind in KINDS]
    for text, truth in sorted(asked, key=lambda each: -scorer.score(each[0])):
        say(f"   {scorer.score(text):+.2f} (in truth {truth:+.2f})  {text}")

    say("-- a backlog of 400 at once, 60 nightly jobs with it, and an alert")
    worked = len(done["work"])
    for _ in range(400):
        work()
    for _ in range(60):
        nightly()
    alert()
    world.run(world.now + 1)
    later = sum(call.deferred for call in client.queued("small"))
    say(f"   {later} nightly jobs wait for a calmer time")
    world.run(world.now + 60)
    say(f"   backlog done: {len(done['work']) - worked} of 400; nightly jobs done: {len(done['nightly'])}")
    say(f"   the alert waited {done['alerts'][-1].waited_s:.1f} s")
    world.run(world.now + 8 * 3600)
    say(f"   nightly jobs done by the morning: {len(done['nightly'])}")

    router = client.status()["router"]
    say(f"-- tried by chance: {router['explored']}; outcomes learned from: {router['feedback']['learned']}")
    client.close()


if __name__ == "__main__":
    main()

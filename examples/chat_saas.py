"""A chat service on a busy evening: payments pass everybody, answers get shorter before there are none.

    python examples/chat_saas.py

It needs neither network nor key, and no time: the provider is a fake, and its minutes pass in virtual
time, always the same way. Where this says ``send(...)``, an application calls ``client.complete(...)``.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from tierllm import (
    AdaptiveSampling,
    Admission,
    Consent,
    Deployment,
    ServicePlan,
    Step,
    Tier,
    TieredClient,
)
from tierllm.events import DegradationChanged, EmergencyChanged, Event, PriorityLowered
from tierllm.pipeline.virtual import VirtualRun, VirtualTime
from tierllm.routing.ask import ask
from tierllm.testing import FakeProvider, Latency

SEED = 11
START = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)

world = VirtualTime(START.timestamp())
vendor = FakeProvider(  # an answer is some 60 tokens, and takes a second and a half
    latency_s=Latency(first_token_s=0.3, tokens_per_s=50, sigma=0.3),
    seed=SEED,
    answer=lambda _: "You could take the night train and be there by nine. " * 5,
)


def announce(event: Event) -> None:
    match event:
        case DegradationChanged():
            say(f"** {event.tier}: step {event.step!r} is {'on' if event.on else 'off'} ({event.reason})")
        case EmergencyChanged():
            say(f"** emergency {event.name!r} {'is declared' if event.on else 'is over'}")
        case PriorityLowered():
            say(f"** a {event.plan} call claimed priority {event.claimed} and was granted {event.granted}")


client = TieredClient(
    tiers=[
        Tier(
            "gold",
            [Deployment("large", vendor)],
            max_concurrency=8,
            admission=Admission(max_wait_s=20),
        ),
        Tier(
            "bronze",
            [Deployment("small", vendor)],
            max_concurrency=6,
            admission=Admission(max_wait_s=10, max_waiting=60),
            sampling=AdaptiveSampling(
                [  # left at a load that is low even though they have lowered it themselves
                    Step("short", at=1.0, leave=0.6, max_tokens=30),
                    Step("essential", at=1.2, leave=0.6, refuse_below=0),  # not what nobody has asked for
                    Step("shortest", at=1.5, leave=0.6, max_tokens=15, temperature=0),
                ],
                consent=[  # the plans pro and batch have agreed to nothing
                    Consent("all", plan="free", since=date(2026, 11, 1)),
                    Consent(["essential"], plan="internal", since=date(2026, 11, 1)),
                ],
                emergencies={"disaster": ["short", "essential"]},
            ),
        ),
    ],
    plans=[
        ServicePlan("free", max_priority=0),
        ServicePlan("pro", max_priority=5, weight=3),
        ServicePlan("internal"),
        ServicePlan("batch", max_priority=-1),
    ],
    clock=world.clock,
    rng=random.Random(SEED),
    listeners=[announce],
    deadline_s=60,
)

# -- who calls ---------------------------------------------------------------------


class Kind(NamedTuple):
    """Callers of one sort, and what their calls say."""

    sla: str
    plan: str
    priority: int
    tenants: int
    more: dict[str, Any]


KINDS = {
    "payments": Kind("gold", "internal", 9, 1, {"fallback": False}),
    "pro": Kind("gold", "pro", 0, 20, {}),
    "drafts": Kind("bronze", "pro", 0, 20, {}),  # which pro users have written for less
    "free": Kind("bronze", "free", 0, 200, {}),
    "hints": Kind("bronze", "internal", -1, 1, {}),  # "what you could ask next"
    "nightly": Kind("bronze", "batch", -2, 1, {"defer_ok": True, "deadline_s": 3600.0}),
}


class Ended(NamedTuple):
    """How a call went."""

    asked_at: float
    waited_s: float
    outcome: str
    told: bool


ended: dict[str, list[Ended]] = defaultdict(list)
rng = random.Random(SEED)


def send(kind: str, **more: Any) -> None:
    """One call, whose end is written down."""
    sort, asked_at = KINDS[kind], world.now
    options = {"sla": sort.sla, "plan": sort.plan, "priority": sort.priority, **sort.more, **more}
    options["tenant"] = f"{kind}{rng.randrange(sort.tenants)}"
    ready = client.ready(ask("How do I get to Cusco?", options))

    def done(run: VirtualRun) -> None:
        trace = ready.call.trace
        assert trace is not None
        waited_s = sum(wait.seconds for wait in trace.waits)
        if run.error is None:
            assert run.result is not None
            lower = run.result.tier != sort.sla
            outcome = "shorter" if run.result.degraded else "lower tier" if lower else "full"
            ended[kind].append(Ended(asked_at, waited_s, outcome, True))
        else:
            again_s = getattr(run.error, "retry_after_s", None)
            ended[kind].append(Ended(asked_at, waited_s, type(run.error).__name__, again_s is not None))

    world.start(ready.flow(), ready.host, scope=ready.scope, on_end=done)


def traffic(minutes: float, **per_minute: float) -> None:
    """So many calls of each kind a minute, at random moments."""
    until = world.now + 60 * minutes
    for kind, rate in per_minute.items():
        for moment in moments(rate / 60, until):
            world.at(moment, lambda kind=kind: send(kind))  # type: ignore[misc]
    world.run(until)


def moments(rate_per_s: float, until: float) -> Iterator[float]:
    at = world.now + rng.expovariate(rate_per_s)
    while at < until:
        yield at
        at += rng.expovariate(rate_per_s)


# -- the story -----------------------------------------------------------------------


def say(line: str) -> None:
    print(f"{clock_time(world.now)}  {line}")


def clock_time(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%H:%M:%S}"


def select(outcome: str) -> list[Ended]:
    return [each for calls in ended.values() for each in calls if each.outcome == outcome]


def show(since: float) -> None:
    """What became of the calls that came since a moment."""
    for kind, calls in ended.items():
        some = [each for each in calls if each.asked_at >= since]
        counts: dict[str, int] = defaultdict(int)
        for each in some:
            counts[each.outcome] += 1
        if some:
            waits = sorted(each.waited_s for each in some)
            told = ", ".join(f"{outcome} {count}" for outcome, count in sorted(counts.items()))
            say(f"   {kind:<9} waited {waits[int(0.95 * len(waits))]:4.1f} s (p95): {told}")


def main() -> None:
    usual = {"payments": 12.0, "pro": 90.0, "drafts": 20.0, "free": 60.0, "hints": 15.0}
    say("-- an ordinary evening")
    began = world.now
    traffic(3, **usual)
    show(began)

    say("-- forty pro users ask at once; two seconds later somebody wants to pay")
    for _ in range(40):
        send("pro")
    world.run(world.now + 2)
    send("payments")
    payment = max(client.queued("gold"), key=lambda call: call.priority)
    say(f"   {len(client.queued('gold'))} wait; the payment begins in about {payment.eta_s:.1f} s")
    world.run(world.now + 30)
    say(f"   it waited {ended['payments'][-1].waited_s:.1f} s")
    send("free", priority=9)

    say("-- the service is mentioned on television; the nightly jobs begin a minute later")
    began = world.now
    traffic(1, **{**usual, "free": 180})
    for _ in range(20):
        send("nightly")
    later = sum(call.deferred for call in client.queued("bronze"))
    say(f"   {later} of 20 nightly jobs wait for a calmer time")
    traffic(4, **{**usual, "free": 480, "hints": 60})
    show(began)
    say(f"   bronze: load {client.load('bronze').level:.2f}, by now")

    say("-- that is over")
    began = world.now
    traffic(5, **usual)
    show(began)
    begun = [each.asked_at + each.waited_s for each in ended["nightly"]]
    say(f"   nightly jobs done: {len(begun)}, the last one begun at {clock_time(max(begun))}")

    say("-- a data centre is lost: the operator saves what can be saved, for three minutes")
    client.emergency("disaster", for_s=180)
    for _ in range(2):
        began = world.now
        traffic(3, **usual)
        show(began)
    world.run(world.now + 30)
    statement()


def statement() -> None:
    every = [each for calls in ended.values() for each in calls]
    refused = [each for each in every if each.outcome.endswith("Error")]
    payments = [each.waited_s for each in ended["payments"]]
    pro = [each.outcome for kind in ("pro", "drafts") for each in ended[kind]]
    steps = client.status()["tiers"]["bronze"]["sampling"]["steps"]
    plan = client.status()["plans"]["free"]
    say("-- the figures")
    say(f"   calls {len(every)}, answered {len(every) - len(refused)}, refused {len(refused)}")
    say(f"   refused without being told when to come back: {sum(not each.told for each in refused)}")
    say(f"   payments {len(payments)}, longest wait {max(payments):.1f} s")
    say(f"   answers made shorter {len(select('shorter'))}, of them for the pro plan {pro.count('shorter')}")
    for name, step in steps.items():
        say(f"   step {name:<9} touched {step['calls']}, passed over {step['passed_over']}, on: {step['on']}")
    say(f"   free plan: claimed {plan['claimed']}, granted {plan['granted']}")
    say(f"   under way: {client.status()['in_flight']}")
    client.close()


if __name__ == "__main__":
    main()

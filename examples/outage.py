"""A chat during an outage: a cached answer, then a simple reply, then an error; and the way back.

    python examples/outage.py

It needs neither network nor key, and no time: the provider is a fake that fails when told to, and
the clock moves when somebody waits.
"""

from __future__ import annotations

import random

from tierllm import AllTiersFailedError, Deployment, Request, Response, Tier, TieredClient
from tierllm.events import BreakerChanged, Event
from tierllm.testing import FakeClock, FakeProvider

clock = FakeClock()
vendor = FakeProvider(latency_s=0.8, answer=lambda call: f"{call.model} on {call.request.text!r}")
cache: dict[str, str] = {}


def cached(request: Request) -> str | None:
    """An answer from before, however old: better than none."""
    return cache.get(request.text)


def simple_reply(request: Request) -> str | None:
    """What the application says by itself. An order must never be answered by a phrase."""
    return None if request.route == "order" else "I cannot think just now. Please try again in a minute."


def announce(event: Event) -> None:
    if isinstance(event, BreakerChanged):
        say(f"** breaker of {event.name}: {event.old} -> {event.new} ({event.reason})")


def say(line: str) -> None:
    print(f"{clock():6.1f} s  {line}")


def chat(question: str, **options: str) -> Response | None:
    try:
        response = client.complete(question, sla="gold", **options)  # type: ignore[arg-type]
    except AllTiersFailedError as error:
        say(f"{question:<18} ERROR after {len(error.attempts)} attempts, back in {error.retry_after_s:.0f} s")
        return None
    if not response.degraded:
        cache[question] = response.text
    source = ", ".join(response.degraded) or f"tier {response.tier}"
    say(f"{question:<18} {response.text}  [{source}]")
    return response


def breakers() -> str:
    tiers = client.status()["tiers"]
    states = (d["breaker"] for tier in tiers.values() for d in tier["deployments"].values())
    return ", ".join(f"{state['name']} {state['state']}" for state in states)


client = TieredClient(
    tiers=[Tier("gold", [Deployment("large", vendor)]), Tier("bronze", [Deployment("small", vendor)])],
    stale=cached,
    simple_reply=simple_reply,
    listeners=[announce],
    clock=clock,
    rng=random.Random(7),
)

if __name__ == "__main__":
    say("-- all is well")
    chat("Opening hours?")

    say("-- the large model fails: the small one serves")
    vendor.down("large")
    chat("Any discounts?")

    say("-- the whole vendor is down: cached, else simple, else an error")
    vendor.down("*")
    chat("Opening hours?")
    chat("Do you deliver?")
    chat("Order 3 chairs", route="order")

    calls = vendor.calls
    chat("And tomorrow?")
    say(f"-- breakers: {breakers()}; that answer took {vendor.calls - calls} calls to the vendor")

    say("-- the vendor is back, and is found out by one probe")
    vendor.up("*")
    clock.advance(30)
    chat("Do you deliver?")
    chat("Order 3 chairs", route="order")
    say(f"-- breakers: {breakers()}")
    client.close()

"""Customers with different promises, and one who buys more in the middle of the day.

    python examples/enterprise_contracts.py

A hospital was promised the best model and that its calls stay there; a shop has a smaller contract, by which
answers may be cut short under load; whoever has none is a guest. All of it stands in one file, which changes
while calls are under way. It needs neither network nor key, and no time: the provider is a fake, and its
minutes pass in virtual time, always the same way. Where this says ``send(...)``, an application calls
``client.complete(...)``.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tierllm import ConfigError, TieredClient
from tierllm.events import ConfigRejected, ConfigReloaded, Event, PriorityLowered
from tierllm.pipeline.virtual import VirtualRun, VirtualTime
from tierllm.routing.ask import ask
from tierllm.testing import FakeProvider, Latency

SEED = 5
START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)

CONFIG = """
[[tiers]]
name = "gold"
max_concurrency = 8
deployments = [{model = "large", price = {input_usd_per_mtok = 5, output_usd_per_mtok = 20}}]

[[tiers]]
name = "silver"
max_concurrency = 4
admission = {on_full = "refuse"}
deployments = [{model = "medium", price = {input_usd_per_mtok = 1, output_usd_per_mtok = 4}}]
sampling = {steps = [{name = "short", at = 0.6, leave = 0.3, max_tokens = 40}]}

[[tiers]]
name = "bronze"
max_concurrency = 4
deployments = [{model = "small", price = {input_usd_per_mtok = 0.2, output_usd_per_mtok = 0.8}}]

[[rules]]
name = "incidents"
tag = "incident"
tier = "gold"

[[rules]]
name = "reports may wait for the cheap one"
route = "report"
max_tier = "bronze"

[[rules]]
name = "guests"
plan = "guest"
tier = "bronze"

[[rules]]
name = "everything else"
tier = "silver"

[plans.guest]
max_tier = "bronze"
max_priority = 0
rpm = 3

[plans.business]
max_priority = 5

[contracts.hospital]
tenants = ["hospital-north", "hospital-south"]
plan = "business"
min_tier = "gold"
shifts = false
objective = {latency_p95_s = 6.0, availability = 0.99}

[contracts.shop]
tenants = ["shop"]
plan = "business"
min_tier = "silver"
max_tier = "silver"
rpm = 30
objective = {latency_p95_s = 8.0, availability = 0.95}
consent = [{steps = ["short"], since = 2026-11-01}]

[[budgets]]
name = "shop-day"
hard_usd = 5
per = "tenant"
window = "day"
where = {tenant = "shop"}

[providers.fake]
kind = "fake"
"""

world = VirtualTime(START.timestamp())
vendor = FakeProvider(
    name="fake",
    latency_s=Latency(first_token_s=0.4, tokens_per_s=60, sigma=0.3),
    seed=SEED,
    answer=lambda _: "The ward round begins at eight, and the shop opens at nine. " * 8,
)
rng = random.Random(SEED)
served: dict[str, Counter[str]] = defaultdict(Counter)


def announce(event: Event) -> None:
    match event:
        case ConfigReloaded():
            say(f"** the file holds now; it changed {', '.join(event.changed)}")
        case ConfigRejected():
            say("** the file is rejected, everything stays as it was")
        case PriorityLowered():
            say(f"** a call on the plan {event.plan} claimed {event.claimed} and was granted {event.granted}")


# -- who calls -----------------------------------------------------------------------


def send(
    client: TieredClient, who: str, then: Callable[[VirtualRun], None] | None = None, **more: Any
) -> None:
    """One call, whose end is written down."""
    contracts = {"hospital": "hospital-north", "shop": "shop"}
    said = {"tenant": contracts[who]} if who in contracts else {"plan": "guest", "user": who}
    ready = client.ready(ask("When do we begin?", {**said, "deadline_s": 20, **more}))

    def done(run: VirtualRun) -> None:
        result = run.result
        kind = who if who in contracts else "guests"
        served[kind][type(run.error).__name__ if result is None else result.tier] += 1
        if result is not None and result.degraded:
            served[kind]["cut short"] += 1
        if then is not None:
            then(run)

    world.start(ready.flow(), ready.host, scope=ready.scope, on_end=done)


def traffic(client: TieredClient, minutes: float, **per_minute: float) -> None:
    """So many calls a minute of each, at random moments."""
    until = world.now + 60 * minutes
    for who, rate in per_minute.items():
        at = world.now + rng.expovariate(rate / 60)
        while at < until:
            name = f"guest{rng.randrange(40)}" if who == "guests" else who
            world.at(at, lambda name=name: send(client, name))  # type: ignore[misc]
            at += rng.expovariate(rate / 60)
    world.run(until)


# -- the story -----------------------------------------------------------------------


def say(line: str) -> None:
    print(f"{datetime.fromtimestamp(world.now, UTC):%H:%M:%S}  {line}")


def explained(client: TieredClient, **options: Any) -> None:
    """Where one call goes, and why."""

    def then(run: VirtualRun) -> None:
        assert run.result is not None
        say(f"   {client.explain(run.result)}")

    who = options.pop("who")
    send(client, who, then, **options)
    world.run(world.now + 20)


def show() -> None:
    for who, counts in served.items():
        say(f"   {who:<9} {', '.join(f'{tier} {count}' for tier, count in sorted(counts.items()))}")
    served.clear()


def story(client: TieredClient, file: Path) -> None:
    say("-- who gets what")
    explained(client, who="hospital")
    explained(client, who="shop", sla="gold")
    explained(client, who="ada", sla="gold", priority=9)
    explained(client, who="shop", tags=["incident"])
    explained(client, who="ada", route="report")
    try:
        send(client, "shop", contract="hopsital")
    except ConfigError as error:
        say(f"   a misspelt promise: {error}")
    served.clear()

    say("-- an ordinary half hour")
    usual = {"hospital": 40.0, "shop": 18.0, "guests": 30.0}
    traffic(client, 30, **usual)
    show()
    promised(client)

    say("-- the shop has a sale: five times as much for five minutes, and its contract says 30 a minute")
    traffic(client, 5, **{**usual, "shop": 90.0})
    show()

    say("-- it buys more; the new file has a slip of the pen at first")
    bought = CONFIG.replace('max_tier = "silver"\nrpm = 30', 'max_tier = "gould"\nrpm = 300')
    file.write_text(bought, encoding="utf-8")
    try:
        client.reload()
    except ConfigError as error:
        say(f"   {str(error).rpartition('tierllm.toml: ')[2]}")
    send(client, "shop", lambda run: say(f"   begun before, ended after: {run.result and run.result.tier}"))
    world.run(world.now + 0.1)
    bought = bought.replace('max_tier = "gould"', 'max_tier = "gold"').replace(
        'name = "everything else"',
        'name = "the shop has bought gold"\ncontract = "shop"\ntier = "gold"\n\n'
        '[[rules]]\nname = "everything else"',
    )
    file.write_text(bought, encoding="utf-8")
    (before,) = client.remaining(tenant="shop")
    client.reload()
    (after,) = client.remaining(tenant="shop")
    say(f"   left of the shop's budget for today: {before.left:.4f} dollars before, {after.left:.4f} after")
    explained(client, who="shop")
    served.clear()
    traffic(client, 5, **{**usual, "shop": 90.0})
    show()
    promised(client)
    say(f"   under way: {client.status()['in_flight']}")


def promised(client: TieredClient) -> None:
    """What was promised, and what was kept, over half an hour."""
    for contract in ("hospital", "shop"):
        report = client.attainment(contract=contract, window_s=1800)
        goal = report.goals["latency_p95_s"]
        assert goal.within is not None
        say(
            f"   {contract:<9} {goal.within:.1%} of {goal.calls} calls within {goal.limit:g} s "
            f"(promised: 95 %): {report.verdict}"
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tierllm.toml"
        file.write_text(CONFIG, encoding="utf-8")
        with TieredClient.from_file(
            file,
            providers={"fake": vendor},
            clock=world.clock,
            rng=random.Random(SEED),
            listeners=[announce],
        ) as client:
            story(client, file)


if __name__ == "__main__":
    main()

"""Three teams behind one vendor account: its limits are kept exactly, and nobody's noise is another's wait.

    python examples/shared_gateway.py
    python examples/shared_gateway.py --disk DIRECTORY      # several processes, for real
    python examples/shared_gateway.py --redis URL           # … or several machines

It needs neither network nor key: the provider is a fake. Without options its minutes pass in virtual time,
always the same way, and ``send(...)`` stands for what a gateway calls ``client.complete(...)`` for. With a
store, three gateways share the account, and keep its limit together.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tierllm import (
    Admission,
    Deployment,
    DiskStore,
    MemoryStore,
    RateLimit,
    RedisStore,
    StoreUnavailableError,
    ThrottledError,
    Tier,
    TieredClient,
)
from tierllm.pipeline.virtual import VirtualRun, VirtualTime
from tierllm.routing.ask import ask
from tierllm.stores import Store
from tierllm.testing import FakeProvider

ACCOUNT_RPM = 120
GOLD_SHARE = 0.3
TEAM_RPM = 45
WEIGHTS = {"search": 2.0, "support": 1.0, "labs": 1.0}


def gateway(vendor: FakeProvider, **options: Any) -> TieredClient:
    """What each process of the gateway is made of."""
    account = RateLimit(
        name="vendor account",
        rpm=ACCOUNT_RPM,
        tpm=60_000,
        reserve={"gold": GOLD_SHARE},  # bronze leaves free what gold has not used of it
        pacing=5,  # evenly, so that no burst uses up a minute for all others
    )
    return TieredClient(
        tiers=[
            Tier(
                "gold",
                [Deployment("large", vendor, account=account)],
                max_concurrency=16,
                max_tokens=200,
                admission=Admission(max_wait_s=30),
            ),
            Tier(
                "bronze",
                [Deployment("small", vendor, account=account)],
                max_concurrency=16,
                max_tokens=200,
                admission=Admission(max_wait_s=30, weights=WEIGHTS),
            ),
        ],
        limits=[RateLimit(name="team", rpm=TEAM_RPM, per="tenant")],
        **options,
    )


# -- in virtual time -------------------------------------------------------------------


class Office:
    """Teams that ask, and what became of it."""

    def __init__(self) -> None:
        self.world = VirtualTime()
        self.rng = random.Random(5)
        self.vendor = FakeProvider(latency_s=(0.5, 2.0), seed=5)
        self.client = gateway(self.vendor, clock=self.world.clock, rng=self.rng)
        self.waits: dict[str, list[float]] = defaultdict(list)
        self.refusals: dict[str, list[ThrottledError]] = defaultdict(list)

    def send(self, team: str, sla: str) -> None:
        options: dict[str, Any] = {"tenant": team, "sla": sla, "fallback": False}
        ready = self.client.ready(ask("Summarise the ticket in one sentence.", options))

        def done(run: VirtualRun) -> None:
            if isinstance(run.error, ThrottledError):
                self.refusals[team].append(run.error)
            elif run.error is not None:
                raise run.error
            else:
                trace = ready.call.trace
                assert trace is not None
                self.waits[team].append(sum(wait.seconds for wait in trace.waits))

        self.world.start(ready.flow(), ready.host, scope=ready.scope, on_end=done)

    def begin(self) -> None:
        """Forget what was seen so far."""
        self.waits.clear()
        self.refusals.clear()

    def minutes(self, minutes: float, **per_minute: float) -> None:
        """So many calls of each team a minute, at random moments; ``support`` asks gold."""
        self.begin()
        until = self.world.now + 60 * minutes
        for team, rate in per_minute.items():
            at = self.world.now
            while (at := at + self.rng.expovariate(rate / 60)) < until:
                sla = "gold" if team == "support" else "bronze"
                self.world.at(at, lambda team=team, sla=sla: self.send(team, sla))  # type: ignore[misc]
        self.world.run(until)

    def show(self) -> None:
        for team in WEIGHTS:
            waits, refusals = sorted(self.waits[team]), self.refusals[team]
            if waits:
                told = f"{len(waits):4} answered, waited {waits[int(0.95 * len(waits))]:4.1f} s (p95)"
                print(f"   {team:<8} {told}, {len(refusals)} refused")


def most_in_a_minute(moments: list[float]) -> int:
    """The largest number of calls in any sixty seconds."""
    first, most = 0, 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - 60:
            first += 1
        most = max(most, last - first + 1)
    return most


def story() -> None:
    office = Office()
    print("-- a quiet quarter of an hour")
    office.minutes(15, search=30, support=20, labs=10)
    office.show()

    print("-- labs tries something out, with twenty times its calls")
    office.minutes(15, search=30, support=20, labs=200)
    office.show()
    refusal = office.refusals["labs"][-1]
    print(f"   labs was told: {refusal}")
    print(f"   … and to come back in {refusal.retry_after_s:.1f} s")

    status = office.client.status()["tiers"]["bronze"]
    account = status["deployments"]["small"]["limits"]["vendor account"]
    pool = status["pool"]
    print(f"   account: {account['used']['rpm']} of {account['limits']['rpm']} requests in the last minute")
    print(
        f"   bronze: {pool['in_use']} under way, {pool['waiting']} wait, load {status['load']['level']:.2f}"
    )

    print("-- it stops, and comes back when it was told to")
    assert refusal.retry_after_s is not None
    office.world.run(office.world.now + refusal.retry_after_s)
    office.begin()
    office.send("labs", "bronze")
    office.world.run(office.world.now + 30)
    office.show()
    sent = [entry.at_s for entry in office.vendor.journal]
    most = most_in_a_minute(sent)
    print(f"-- {len(sent)} calls to the vendor; the most in any minute: {most} of {ACCOUNT_RPM}")
    office.client.close()


# -- several processes, in real time -----------------------------------------------------


def store_of(disk: str | None, redis: str | None) -> Store:
    if redis:
        return RedisStore(redis, namespace="shared-gateway")
    return DiskStore(disk) if disk else MemoryStore()


def reachable(store: Store) -> bool:
    """Whether it answers: limits whose store is out of reach hold within each process alone."""
    try:
        store.load("anything")
    except StoreUnavailableError as error:
        print(f"-- the store cannot be used, and nothing would be shared: {error}")
        return False
    finally:
        store.close()
    return True


def one_gateway(number: int, disk: str | None, redis: str | None) -> tuple[int, float]:
    """Ask a hundred times at once; how many were answered, and when the others may come back."""
    vendor = FakeProvider(latency_s=0.01)
    account = RateLimit(name="vendor account", rpm=ACCOUNT_RPM)
    client = TieredClient(
        [Tier("gold", [Deployment("large", vendor, account=account)], admission=Admission(on_full="refuse"))],
        store=store_of(disk, redis),
    )

    def call(_: int) -> float | None:
        try:
            client.complete("Hello", tenant=f"team {number}")
        except ThrottledError as error:
            return error.retry_after_s or 0.0
        return None

    with client, ThreadPoolExecutor(8) as threads:
        told = list(threads.map(call, range(100)))
    return told.count(None), min((seconds for seconds in told if seconds is not None), default=0.0)


def processes(disk: str | None, redis: str | None) -> None:
    if not reachable(store_of(disk, redis)):
        raise SystemExit(1)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.starmap(one_gateway, [(number, disk, redis) for number in range(3)])
    answered = Counter({f"gateway {number}": count for number, (count, _) in enumerate(results)})
    print(f"-- three processes asked 300 times: {dict(answered)}")
    print(f"   together {answered.total()} of {ACCOUNT_RPM} a minute; refused: {300 - answered.total()}")


def main() -> None:
    parser = argparse.ArgumentParser(description="One vendor account, several teams.")
    shared = parser.add_mutually_exclusive_group()
    shared.add_argument("--disk", help="a directory that the processes share")
    shared.add_argument("--redis", help="the URL of a Redis that the processes share")
    given = parser.parse_args()
    if given.disk or given.redis:
        processes(given.disk, given.redis)
    else:
        story()


if __name__ == "__main__":
    main()

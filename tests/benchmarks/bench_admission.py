"""What admission costs: a call's share of it, a queue of 100,000, and who is next in line.

    python tests/benchmarks/bench_admission.py [--only next|call|queue]

``next``: an urgent call comes among 200 that wait, with threads, tasks and in virtual time. ``call``: the
same client with and without pool and limits (RPM and TPM, taken and settled), in turn; the difference of
the best rounds. ``queue``: calls that enter and leave a pool's queue of 1,000 and of 100,000, some of them
of many tenants and priorities.

Ends with an error where a bound is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import threading
import time
from collections.abc import Callable

from tierllm import Deployment, Response, Tier, TieredClient, Usage
from tierllm.admission.pool import Permit, Pool
from tierllm.pipeline.effects import Ticket
from tierllm.pipeline.virtual import VirtualTime
from tierllm.providers import BaseProvider
from tierllm.routing.ask import ask
from tierllm.testing import FakeProvider
from tierllm.types import Call, Request

MOST_US = 6.0
WAITERS = (1_000, 10_000, 100_000)
failures: list[str] = []


# -- who is next -------------------------------------------------------------------------------


class Gated(BaseProvider):
    """Notes who comes; the first one stays until the others wait."""

    name = "gated"

    def __init__(self) -> None:
        self.order: list[str] = []
        self.held = threading.Event()
        self.go = threading.Event()

    def complete(self, call: Call, scope: object) -> Response:
        self.order.append(call.request.text)
        if len(self.order) == 1:
            self.held.set()
            self.go.wait(30)
        return Response(text="fine", finish_reason="stop")

    async def acomplete(self, call: Call, scope: object) -> Response:
        self.order.append(call.request.text)
        while len(self.order) == 1 and not self.go.is_set():
            await asyncio.sleep(0.001)
        return Response(text="fine", finish_reason="stop")


def next_in_line() -> None:
    def client(provider: BaseProvider, **more: object) -> TieredClient:
        return TieredClient([Tier("gold", [Deployment("m", provider)], max_concurrency=1)], **more)

    def told(name: str, order: list[str]) -> None:
        place = order.index("urgent")  # the first one was under way before it came
        print(f"{name:14}{len(order) - 2} waited when it came; it was number {place} to be served after that")
        if place != 1:
            failures.append(f"{name}: the urgent call was number {place}")

    provider = Gated()
    with client(provider) as gold:
        first = threading.Thread(target=gold.complete, args=("first",))
        first.start()
        provider.held.wait(10)
        threads = [threading.Thread(target=gold.complete, args=("low",)) for _ in range(200)]
        for thread in threads:
            thread.start()
        _until(lambda: len(gold.queued()) == 200)
        urgent = threading.Thread(target=gold.complete, args=("urgent",), kwargs={"priority": 10})
        urgent.start()
        _until(lambda: len(gold.queued()) == 201)
        provider.go.set()
        for thread in (first, *threads, urgent):
            thread.join()
    told("threads", provider.order)

    async def tasks() -> None:
        provider = Gated()
        async with client(provider) as gold:
            calls = [asyncio.create_task(gold.acomplete("low")) for _ in range(201)]
            while len(gold.queued()) < 200:
                await asyncio.sleep(0.001)
            calls.append(asyncio.create_task(gold.acomplete("urgent", priority=10)))
            while len(gold.queued()) < 201:
                await asyncio.sleep(0.001)
            provider.go.set()
            await asyncio.gather(*calls)
        told("tasks", provider.order)

    asyncio.run(tasks())

    world, fake = VirtualTime(), FakeProvider(latency_s=1.0)
    gold = client(fake, clock=world.clock)

    def begin(text: str, priority: int = 0) -> None:
        ready = gold.ready(ask(text, {"priority": priority}))
        world.start(ready.flow(), ready.host, scope=ready.scope)

    for _ in range(201):
        begin("low")
    world.after(0.5, lambda: begin("urgent", 10))
    world.run()
    told("virtual time", [entry.messages[-1]["content"] for entry in fake.journal])


def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.001)


# -- a call ------------------------------------------------------------------------------------


class Ready(BaseProvider):
    """Answers at once, with what it has used."""

    name = "ready"
    waits = False

    def complete(self, call: Call, scope: object) -> Response:
        return Response(text="fine", finish_reason="stop", usage=Usage(input_tokens=5, output_tokens=1))

    async def acomplete(self, call: Call, scope: object) -> Response:
        return self.complete(call, scope)


def one_call(rounds: int = 25, calls: int = 1500) -> None:
    lots = 1_000_000_000
    kinds: dict[str, TieredClient] = {
        "neither": TieredClient([Tier("gold", [Deployment("m", Ready())])], deadline_s=60),
        "pool": TieredClient([Tier("gold", [Deployment("m", Ready())], max_concurrency=1000)], deadline_s=60),
        "RPM and TPM": TieredClient(
            [Tier("gold", [Deployment("m", Ready(), rpm=lots, tpm=lots)])], deadline_s=60
        ),
        "all": TieredClient(
            [Tier("gold", [Deployment("m", Ready(), rpm=lots, tpm=lots)], max_concurrency=1000)],
            deadline_s=60,
        ),
    }
    messages = [{"role": "user", "content": "hello"}]
    best: dict[tuple[str, str], float] = {}

    def noted(form: str, kind: str, seconds: float) -> None:
        best[form, kind] = min(best.get((form, kind), 1e9), seconds / calls * 1e6)

    async def awaited(client: TieredClient) -> float:
        begun = time.process_time()
        for _ in range(calls):
            await client.acomplete(messages)
        return time.process_time() - begun

    for client in kinds.values():  # learn, and warm up
        for _ in range(300):
            client.complete(messages)
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        for kind, client in kinds.items():
            begun = time.process_time()
            for _ in range(calls):
                client.complete(messages)
            noted("sync", kind, time.process_time() - begun)
        for kind, client in kinds.items():
            noted("async", kind, asyncio.run(awaited(client)))
    print(
        f"\n{'a call, us':14}{'without':>9}{'pool':>9}{'limits':>9}{'all':>9}{'all costs':>11}"
        f"   (at most {MOST_US:g} sync)"
    )
    for form in ("sync", "async"):
        plain, pool, limits, everything = (best[form, kind] for kind in kinds)
        print(
            f"{form:14}{plain:9.2f}{pool - plain:+9.2f}{limits - plain:+9.2f}{everything:9.2f}"
            f"{everything - plain:11.2f}"
        )
    if best["sync", "all"] - best["sync", "neither"] > MOST_US:
        failures.append(f"pool and limits cost {best['sync', 'all'] - best['sync', 'neither']:.2f} us a call")


# -- a queue -----------------------------------------------------------------------------------


def a_queue() -> None:
    """Enter and leave a queue that stays as long as it is."""
    print(f"\n{'queue, us':30}" + "".join(f"{waiters:>12,}" for waiters in WAITERS) + f"{'ratio':>8}")
    for name, tenants, priorities in (
        ("one tenant", 1, 1),
        ("100 tenants", 100, 1),
        ("10,000 tenants", 10_000, 5),
    ):
        rows: dict[str, list[float]] = {"enter": [], "be let in": [], "give up": []}
        for waiters in WAITERS:
            found = [queue_us(waiters, tenants, priorities, seed) for seed in range(3)]
            for row, figures in zip(rows.values(), zip(*found, strict=True), strict=True):
                row.append(min(figures))
        for what, row in rows.items():
            ratio = row[-1] / row[0]
            print(f"{name + ': ' + what:30}" + "".join(f"{us:12.2f}" for us in row) + f"{ratio:8.2f}")
            if ratio > 6:
                failures.append(f"{name}: to {what} costs {ratio:.1f} times as much among 100,000")


def queue_us(waiters: int, tenants: int, priorities: int, seed: int) -> tuple[float, float, float]:
    rng = random.Random(seed)
    pool = Pool(1)
    permits: list[Permit] = []
    pool.take(permits)
    granted: list[Ticket] = []

    def come() -> Ticket:
        call = Call(
            Request(messages=(), tenant=f"t{rng.randrange(tenants)}", priority=rng.randrange(priorities))
        )
        place = pool.place(call, rng.randrange(100, 2000))
        ticket = Ticket(lambda: granted.append(ticket) is None)
        places.append((place, ticket))
        return ticket

    places: list[tuple[object, Ticket]] = []
    for _ in range(waiters + 2000):
        come()
    rng.shuffle(places)
    for place, ticket in places[:waiters]:
        pool.line_up(place, ticket)
    gc.collect()
    gc.disable()
    try:
        begun = time.process_time()
        for place, ticket in places[waiters:]:
            pool.line_up(place, ticket)
        entered = time.process_time()
        permit = permits[0]
        for _ in range(1000):
            permit.release()
            permit = granted[-1].grant
        let_in = time.process_time()
        leavers = [ticket for _, ticket in places[waiters:] if ticket.grant is None][:500]
        began = time.process_time()
        for ticket in leavers:
            pool.leave(ticket)
        left = time.process_time()
    finally:
        gc.enable()
    assert pool.waiting == waiters + 1000 - len(leavers)
    return (
        (entered - begun) / 2000 * 1e6,
        (let_in - entered) / 1000 * 1e6,
        (left - began) / len(leavers) * 1e6,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["next", "call", "queue"])
    only = parser.parse_args().only
    for name, part in (("next", next_in_line), ("call", one_call), ("queue", a_queue)):
        if only in (None, name):
            part()
    if failures:
        sys.exit("missed:\n  " + "\n  ".join(failures))


if __name__ == "__main__":
    main()

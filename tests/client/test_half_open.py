"""Fifty callers meet a half-open breaker at once: exactly N probe, the others fall back at once."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tierllm import CircuitBreaker, Deployment, Response, Tier, TieredClient
from tierllm.errors import ProviderUnavailableError
from tierllm.providers import BaseProvider
from tierllm.testing import FakeProvider

CALLERS = 50


class Held(BaseProvider):
    """Fails until told otherwise; then holds each call until ``let_go`` is called."""

    name = "held"
    waits = False

    def __init__(self) -> None:
        self.well = False
        self.reached = 0
        self.opened = threading.Event()
        self.aopened: asyncio.Event | None = None
        self._lock = threading.Lock()

    def _enter(self) -> None:
        with self._lock:
            self.reached += 1
        if not self.well:
            raise ProviderUnavailableError("down", status=503)

    def complete(self, call, scope):
        self._enter()
        assert self.opened.wait(20)
        return Response(text="probe", finish_reason="stop")

    async def acomplete(self, call, scope):
        self._enter()
        assert self.aopened is not None
        await self.aopened.wait()
        return Response(text="probe", finish_reason="stop")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def tiers(probes: int) -> tuple[TieredClient, Held, Clock]:
    gold, clock = Held(), Clock()
    client = TieredClient(
        [
            Tier("gold", [Deployment("big", gold)], max_concurrency=CALLERS),
            Tier("silver", [Deployment("small", FakeProvider())]),
        ],
        breaker=CircuitBreaker(consecutive_failures=1, open_s=10, half_open_probes=probes),
        retry=False,
        clock=clock,
    )
    assert client.complete("opens the breaker").tier == "silver"
    assert gold.reached == 1
    gold.well = True
    gold.reached = 0
    clock.now = 11.0
    return client, gold, clock


def check(client: TieredClient, gold: Held, served: list[str | None], probes: int) -> None:
    assert gold.reached == probes
    assert sorted(map(str, served)) == ["gold"] * probes + ["silver"] * (CALLERS - probes)
    status = client.status()["tiers"]["gold"]
    assert status["deployments"]["big"]["breaker"]["state"] == "closed"
    assert status["pool"]["in_use"] == 0


@pytest.mark.parametrize("probes", [1, 3])
def test_threads(probes: int) -> None:
    client, gold, _ = tiers(probes)
    served: list[str | None] = []
    start = threading.Barrier(CALLERS)

    def caller() -> None:
        start.wait()
        tier = client.complete("hello").tier
        served.append(tier)
        if len(served) == CALLERS - probes:
            gold.opened.set()  # all others have decided and been answered while the probe is held

    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert served[-probes:] == ["gold"] * probes
    check(client, gold, served, probes)


@pytest.mark.parametrize("probes", [1, 3])
async def test_tasks(probes: int) -> None:
    client, gold, _ = tiers(probes)
    gold.aopened = asyncio.Event()
    served: list[str | None] = []

    async def caller() -> None:
        served.append((await client.acomplete("hello")).tier)
        if len(served) == CALLERS - probes:
            gold.aopened.set()

    await asyncio.wait_for(asyncio.gather(*(caller() for _ in range(CALLERS))), 30)
    assert served[-probes:] == ["gold"] * probes
    check(client, gold, served, probes)


async def test_a_cancelled_probe_frees_its_slot() -> None:
    client, gold, _ = tiers(1)
    gold.aopened = asyncio.Event()
    probe = asyncio.create_task(client.acomplete("hello"))
    while not gold.reached:
        await asyncio.sleep(0)
    assert (await client.acomplete("hello")).tier == "silver"
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    gold.aopened.set()
    assert (await client.acomplete("hello")).tier == "gold"

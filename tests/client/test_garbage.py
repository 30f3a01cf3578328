"""A call that ends well leaves nothing for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from tierllm import Deployment, ResultCache, Tier, TieredClient
from tierllm.testing import Fail, FakeProvider


@pytest.fixture
def fake() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
def client(fake: FakeProvider) -> TieredClient:
    tiers = [
        Tier("gold", [Deployment("g", fake)], max_concurrency=2),
        Tier("silver", [Deployment("s", fake)]),
    ]
    return TieredClient(tiers, retry=False, deadline_s=60)


def plain(client: TieredClient, fake: FakeProvider) -> None:
    client.complete("hello")


def streamed(client: TieredClient, fake: FakeProvider) -> None:
    with client.stream("hello") as stream:
        for _ in stream:
            pass


def fallen_back(client: TieredClient, fake: FakeProvider) -> None:
    fake.script("g", Fail.unavailable())
    assert client.complete("hello").tier == "silver"


@pytest.mark.parametrize("call", [plain, streamed, fallen_back])
def test_sync(
    call: Callable[[TieredClient, FakeProvider], None], client: TieredClient, fake: FakeProvider
) -> None:
    call(client, fake)
    while gc.collect():  # what others left, and what collecting that set free
        pass
    gc.disable()
    try:
        for _ in range(2):
            call(client, fake)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_async(client: TieredClient) -> None:
    async def calls() -> int:
        await client.acomplete("hello")
        gc.collect()
        gc.disable()
        try:
            await client.acomplete("hello")
            async with client.astream("hello") as stream:
                async for _ in stream:
                    pass
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(calls()) == 0


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("deadline_s", [None, 60], ids=["led inline", "led apart"])
def test_with_a_cache(fake: FakeProvider, streaming: bool, deadline_s: float | None) -> None:
    client = TieredClient([Tier("gold", [Deployment("g", fake)])], cache=ResultCache(), deadline_s=deadline_s)

    def call(prompt: str) -> None:
        if not streaming:
            client.complete(prompt)
            return
        with client.stream(prompt) as stream:
            for _ in stream:
                pass

    def settled() -> None:
        while client.status()["in_flight"]:  # a flight's own thread ends a moment later
            pass

    call("kept")
    settled()
    while gc.collect():
        pass
    gc.disable()
    try:
        for prompt in ("kept", "new", "newer", "kept"):
            call(prompt)
            settled()
        assert gc.collect() == 0
    finally:
        gc.enable()

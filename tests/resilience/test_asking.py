"""Judges that wait for something: in threads of their own, no longer than they may, and never for ever."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from pipeline.drivers import eventually
from resilience.judged import reply, tiers
from tierllm import Shadow, TieredClient
from tierllm.resilience.asking import MOST_THREADS, Asking
from tierllm.routing.cascade import Cascade
from tierllm.testing import FakeProvider
from tierllm.types import Call, Request, Response


class Waits:
    """A judge that says nothing until it is let; notes the threads in which it is asked."""

    blocking = True

    def __init__(self) -> None:
        self.let = threading.Event()
        self.threads: list[threading.Thread] = []

    def __call__(self, request: Request, response: Response) -> float:
        self.threads.append(threading.current_thread())
        assert self.let.wait(30)
        return 1.0


def cascaded(judge: Any, **more: Any) -> tuple[TieredClient, FakeProvider]:
    fake = FakeProvider()
    fake.script("g", reply("strong"), forever=True)
    fake.script("b", reply("cheap"), forever=True)
    return TieredClient(tiers(fake), cascade=Cascade(judge, **more)), fake


async def test_it_does_not_keep_the_clients_own_threads_busy() -> None:
    judge = Waits()
    client, _ = cascaded(judge)
    calls = [asyncio.ensure_future(client.acomplete(f"Hello {number}")) for number in range(16)]
    while len(judge.threads) < 16:
        await asyncio.sleep(0.001)
    done = threading.Event()
    client._setup.host.soon(done.set)
    assert await asyncio.to_thread(done.wait, 10)
    assert all(thread.daemon for thread in judge.threads), "none of them keeps the process alive"
    judge.let.set()
    assert {answer.tier for answer in await asyncio.gather(*calls)} == {"bronze"}
    await client.aclose()


async def test_one_too_many_goes_up() -> None:
    judge = Waits()
    client, _ = cascaded(judge)
    calls = [asyncio.ensure_future(client.acomplete(f"Hello {n}")) for n in range(MOST_THREADS)]
    while len(judge.threads) < MOST_THREADS:
        await asyncio.sleep(0.001)
    assert (await client.acomplete("one more")).text == "strong"
    judge.let.set()
    assert {answer.tier for answer in await asyncio.gather(*calls)} == {"bronze"}
    assert (await client.acomplete("and now")).tier == "bronze"
    await client.aclose()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_it_is_given_no_longer_than_it_may_take(is_async: bool) -> None:
    judge = Waits()
    client, _ = cascaded(judge, max_judge_s=0.05)
    answer = asyncio.run(client.acomplete("Hello")) if is_async else client.complete("Hello")
    assert answer.text == "strong"
    assert not judge.let.is_set()
    judge.let.set()
    client.close()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_nor_than_the_call_has(is_async: bool) -> None:
    judge = Waits()
    client, _ = cascaded(judge)
    options = {"deadline_s": 0.3}
    answer = asyncio.run(client.acomplete("Hi", **options)) if is_async else client.complete("Hi", **options)
    assert (answer.text, answer.degraded) == ("cheap", ("not_escalated",))
    judge.let.set()
    client.close()


async def test_a_call_that_is_cancelled_leaves_it_alone() -> None:
    judge = Waits()
    client, _ = cascaded(judge)
    call = asyncio.ensure_future(client.acomplete("Hello"))
    while not judge.threads:
        await asyncio.sleep(0.001)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await client.aclose()
    assert client.status()["in_flight"] == 0
    judge.let.set()


async def test_a_judge_that_dies_in_its_thread_sends_the_call_up() -> None:
    def judge(request: Request, response: Response) -> float:
        raise SystemExit

    judge.blocking = True  # type: ignore[attr-defined]
    client, _ = cascaded(judge)
    assert (await client.acomplete("Hello")).text == "strong"
    await client.aclose()


async def test_one_that_judges_shadows_does_not_either() -> None:
    judge = Waits()
    fake = FakeProvider()
    client = TieredClient(tiers(fake), shadow=Shadow("bronze/b", share=1.0, hard_usd=10, judge=judge))
    for number in range(8):
        await client.acomplete(f"Hello {number}")
    while len(judge.threads) < 8:
        await asyncio.sleep(0.001)
    done = threading.Event()
    client._setup.host.soon(done.set)
    assert await asyncio.to_thread(done.wait, 10)
    judge.let.set()
    while client.status()["shadow"]["counts"].get("compared") != 8:
        await asyncio.sleep(0.001)
    await client.aclose()


def test_its_threads_are_given_back() -> None:
    def judge(request: Request, response: Response) -> float:
        raise ValueError

    asking = Asking(judge, most=1)
    call = Call(Request(messages=()))
    for _ in range(3):
        with pytest.raises(StopIteration) as ended:
            asking(call, Response()).send(None)
        assert ended.value.value is None
    client, _ = cascaded(judge)
    client.complete("Hello")
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "tierllm-judge"])
    client.close()

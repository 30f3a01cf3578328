"""One call that asks more than once, calls within calls, and flights whose ground is taken away."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from caching.kept import CachedWorld
from tierllm import Budget, Deployment, Price, ResultCache, Tier, TieredClient, tiered
from tierllm.caching import DiskLayer, MemoryLayer
from tierllm.caching.layer import MOST_NOTICES, Board, Notice
from tierllm.caching.notices import Notices, name_of
from tierllm.errors import BudgetExceededError, StoreUnavailableError
from tierllm.pipeline.effects import Gather, Handler
from tierllm.providers import Function
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.types import Call, Response


def echo(call: Call) -> Reply:
    return Reply(f"answer to {call.messages[-1]['content']}")


def client_of(provider: Any, **settings: Any) -> TieredClient:
    return TieredClient([Tier("gold", [Deployment("g", provider)])], cache=ResultCache(), **settings)


def reworded(call: Call, words: str) -> Call:
    twin = call.copy()
    twin.messages = ({"role": "user", "content": words},)
    return twin


# -- a policy that asks more than once ---------------------------------------------------


async def both(call: Call, call_next: Handler) -> Response:
    asked = [call_next(reworded(call, words)) for words in ("a", "b")]
    first, second = await Gather(*asked)
    return Response(text=f"{first.text} | {second.text}", finish_reason="stop")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_two_questions_of_one_call_keep_apart(asynchronous: bool) -> None:
    with client_of(FakeProvider(answer=echo, latency_s=0.01), policies=[both]) as client:
        for _ in range(3):
            got = asyncio.run(client.acomplete("x")) if asynchronous else client.complete("x")
            assert got.text == "answer to a | answer to b"


def test_what_was_kept_for_one_question_does_not_answer_the_next() -> None:
    fake = FakeProvider(answer=echo)
    tiers = [Tier("gold", [Deployment("g", fake)]), Tier("silver", [Deployment("s", fake)])]

    async def then(call: Call, call_next: Handler) -> Response:
        if call.request.text == "x":
            await call_next(reworded(call, "a"))
            return await call_next(reworded(call, "b"))
        return await call_next(call)

    world = CachedWorld(tiers, fake=fake, policies=[then], retry=False, breaker=False)
    fake.down("g", Fail.unavailable())
    world.call("a")  # silver's answer to a is kept
    assert world.call("x").ok.text == "answer to b"


def test_a_bad_answer_is_not_given_again_to_the_one_who_asks_again() -> None:
    fake = FakeProvider()
    fake.script("g", Reply("bad"), Reply("good"))

    async def insist(call: Call, call_next: Handler) -> Response:
        first = await call_next(call)
        return first if first.text != "bad" else await call_next(call)

    with client_of(fake, policies=[insist]) as client:
        assert client.complete("x").text == "good"
        again = client.complete("x")
        assert (again.text, again.cached) == ("good", True)


# -- a call within a call ---------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_provider_may_ask_the_client_the_same(asynchronous: bool) -> None:
    depth: list[int] = []

    def inner(messages: Any) -> str:
        depth.append(1)
        return "inner" if len(depth) > 1 else f"outer({client.complete('x').text})"

    async def ainner(messages: Any) -> str:
        depth.append(1)
        return "inner" if len(depth) > 1 else f"outer({(await client.acomplete('x')).text})"

    client = client_of(Function(ainner if asynchronous else inner))
    got = asyncio.run(client.acomplete("x", deadline_s=5)) if asynchronous else client.complete("x")
    assert got.text == "outer(inner)"


# -- ground taken away --------------------------------------------------------------------


def test_a_renewal_whose_event_loop_was_closed_holds_nothing_up() -> None:
    world_s = [1000.0]
    fake = FakeProvider(answer=lambda call: Reply("new", latency_s=0.2) if fake.calls > 1 else Reply("old"))
    cache = ResultCache(ttl_s=10, jitter=0, stale_while_revalidate_s=10)
    client = client_of(fake)
    client.close()
    client = TieredClient([Tier("gold", [Deployment("g", fake)])], cache=cache)
    client._setup.caching.wall = lambda: world_s[0]  # type: ignore[union-attr]
    loop = asyncio.new_event_loop()
    loop.run_until_complete(client.acomplete("x"))
    world_s[0] += 15
    assert loop.run_until_complete(client.acomplete("x")).text == "old"
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    world_s[0] += 15
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(client.complete, "x").result(10).text == "new"


def test_a_sync_call_with_a_deadline_and_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with client_of(FakeProvider(answer=echo)) as client:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert client.complete("x", deadline_s=60).text == "answer to x"
        assert client.complete("x", deadline_s=60).cached
        monkeypatch.undo()


async def test_a_sync_call_in_a_running_loop_is_as_without_a_cache() -> None:
    with client_of(FakeProvider(answer=echo)) as client:
        assert client.complete("x", deadline_s=60).text == "answer to x"


def test_failures_to_begin_a_renewal_use_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    cache = ResultCache(ttl_s=1, jitter=0, stale_while_revalidate_s=1e6)
    with TieredClient([Tier("gold", [Deployment("g", FakeProvider())])], cache=cache) as client:
        caching = client._setup.caching
        assert caching is not None
        caching.wall = lambda: now[0]
        client.complete("x")

        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        room = caching._renewal._room
        before = room._value
        for _ in range(50):
            now[0] += 60
            assert client.complete("x").cached
        monkeypatch.undo()
        assert room._value == before


# -- many ------------------------------------------------------------------------------


async def test_a_crowd_of_spent_budgets_is_turned_away_quickly() -> None:
    price = Price(input_usd_per_mtok=1, output_usd_per_mtok=1)
    tiers = [Tier("gold", [Deployment("g", FakeProvider(), price=price)])]
    budget = Budget(hard_usd=Decimal("0.000001"), per="user", on_exceed="reject")
    async with TieredClient(tiers, cache=ResultCache(), budgets=[budget]) as client:
        rounds = 0
        flights = client._setup.caching._flown.flights  # type: ignore[union-attr]
        join = flights.join

        def counted(*args: Any) -> Any:
            nonlocal rounds
            rounds += 1
            return join(*args)

        flights.join = counted  # type: ignore[method-assign]
        calls = (client.acomplete("x", user=f"u{n}") for n in range(200))
        got = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in got} == {BudgetExceededError}
        assert rounds <= 200 * 33


def test_what_others_were_warned_of_is_theirs() -> None:
    gate = threading.Event()

    def answer(call: Call) -> str:
        gate.wait(10)
        return "words"

    price = Price(input_usd_per_mtok=1000, output_usd_per_mtok=1000)
    tiers = [Tier("gold", [Deployment("g", FakeProvider(answer=answer), price=price)])]
    budget = Budget(soft_usd=Decimal("0.0001"), per="user")
    with (
        TieredClient(tiers, cache=ResultCache(scope="shared"), budgets=[budget]) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        alice = pool.submit(client.complete, "x", user="alice")
        while not client.status()["in_flight"]:
            pass
        bob = pool.submit(client.complete, "x", user="bob")
        while client.status()["in_flight"] < 2:
            pass
        gate.set()
        assert "alice" in str(alice.result(10).warnings)
        assert bob.result(10).warnings == ()


def test_a_place_known_to_be_too_small_is_not_asked() -> None:
    fake = FakeProvider()
    tiers = [
        Tier("gold", [Deployment("a", fake, context_window=100)]),
        Tier("silver", [Deployment("small", fake, context_window=100), Deployment("big", fake)]),
    ]
    fake.script("a", Fail.too_long())
    world = CachedWorld(tiers, fake=fake)
    assert world.call().ok.deployment == "big"
    assert world.models() == ["a", "big"]


def test_notices_are_bounded() -> None:
    notices = Notices()
    for number in range(1, 3 * MOST_NOTICES, 100):
        names = range(number, number + 100)
        told = tuple(Notice(name_of("content", f"d{n}"), n, "h") for n in names)
        notices.learn(Board(number + 99, 0, told))
    assert len(notices._numbers) <= MOST_NOTICES
    assert len(notices._contents) <= MOST_NOTICES


# -- writing behind ---------------------------------------------------------------------


class Slow(DiskLayer):
    """A disk on which the first write takes its time."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.gate = threading.Event()
        self.writing = threading.Event()

    def set(self, slot: bytes, data: bytes, *, ttl_s: float, group: str = "") -> bool:
        if not self.writing.is_set():
            self.writing.set()
            self.gate.wait(10)
        return super().set(slot, data, ttl_s=ttl_s, group=group)


@pytest.fixture
def slow(tmp_path: Any) -> Iterator[Callable[[], Slow]]:
    made: list[Slow] = []

    def make() -> Slow:
        made.append(Slow(tmp_path))
        return made[-1]

    yield make
    for layer in made:
        layer.gate.set()
        layer.close()


def test_of_two_writes_behind_the_last_one_stays(slow: Callable[[], Slow], tmp_path: Any) -> None:
    layer, fake = slow(), FakeProvider()
    fake.script("g", Reply("old"), Reply("new"))
    tiers = [Tier("gold", [Deployment("g", fake)])]
    with TieredClient(tiers, cache=ResultCache([MemoryLayer(), layer], write="behind")) as client:
        client.complete("x")
        layer.writing.wait(10)
        client.complete("x", cache="refresh")
        layer.gate.set()
    with TieredClient(tiers, cache=ResultCache([DiskLayer(tmp_path)])) as client:
        assert client.complete("x", cache="only").text == "new"


def test_closing_waits_for_what_is_written_behind(slow: Callable[[], Slow], tmp_path: Any) -> None:
    layer, fake = slow(), FakeProvider()
    tiers = [Tier("gold", [Deployment("g", fake)])]
    with TieredClient(tiers, cache=ResultCache([MemoryLayer(), layer], write="behind")) as client:
        client.complete("x")
        layer.writing.wait(10)
        threading.Timer(0.05, layer.gate.set).start()
    with TieredClient(tiers, cache=ResultCache([DiskLayer(tmp_path)])) as client:
        assert client.complete("x", cache="only").cached


# -- a policy that tries again after a failure --------------------------------------------


async def trying_again(call: Call, call_next: Handler) -> Response:
    try:
        return await call_next(call)
    except Exception:
        return await call_next(call)


def test_who_tries_again_gets_the_old_answer_in_the_end() -> None:
    fake = FakeProvider()
    world = CachedWorld(
        [Tier("gold", [Deployment("g", fake)])],
        fake=fake,
        cache={"ttl_s": 10, "stale_if_error_s": 100},
        policies=[trying_again],
        retry=False,
        breaker=False,
    )
    first = world.call().ok.text
    world.pass_s(20)
    fake.down("g", Fail.unavailable())
    old = world.call().ok
    assert (old.text, old.degraded) == (first, ("stale",))


async def test_all_who_try_again_do_so_together() -> None:
    fake = FakeProvider(latency_s=0.02)
    fake.script("g", Fail.unavailable(latency_s=0.02))
    async with client_of(fake, policies=[trying_again], retry=False, breaker=False) as client:
        got = await asyncio.gather(*(client.acomplete("x") for _ in range(20)))
    assert len({each.text for each in got}) == 1
    assert fake.calls == 2


# -- wrapped calls, and parts of the application's own -----------------------------------


ASKED: list[str] = []
"""Among the globals: what a function's closure counts would be part of its key."""


def test_followers_of_an_answer_that_a_layer_had_get_it_too(tmp_path: Any) -> None:
    ASKED.clear()
    tiers = [Tier("gold", [Deployment("g")])]
    with TieredClient(tiers, cache=ResultCache([DiskLayer(tmp_path)])) as client:

        @tiered.call(client=client, prompt=lambda q: q)
        def ask(q: str) -> dict[str, str]:
            ASKED.append(q)
            return {"a": q}

        assert ask("x") == {"a": "x"}
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, ["x"] * 8)) == [{"a": "x"}] * 8
    assert ASKED == ["x"]


class Deaf(MemoryLayer):
    """A layer of the application's own that does not say what it has heard."""

    shared = True

    def heard(self) -> int:
        raise StoreUnavailableError("deaf")


def test_a_layer_that_raises_when_asked_what_it_heard_fails_no_call() -> None:
    with TieredClient(
        [Tier("gold", [Deployment("g", FakeProvider())])], cache=ResultCache([Deaf()])
    ) as client:
        assert [client.complete("x").cached for _ in range(2)] == [False, False]


@pytest.mark.parametrize("usd", ["NaN", "-1", "Infinity", "1E-200"])
def test_an_answer_whose_cost_cannot_be_written_is_given_and_not_kept(usd: str) -> None:
    async def priced(call: Call, call_next: Handler) -> Response:
        response = await call_next(call)
        response.cost_usd = Decimal(usd)
        return response

    tiers = [Tier("gold", [Deployment("g", FakeProvider())], policies=[priced])]
    with TieredClient(tiers, cache=ResultCache()) as client:
        assert [client.complete("x").cached for _ in range(2)] == [False, False]


class Wordy(NamedTuple):
    """A policy that is a tuple of what it says."""

    words: str

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        return await call_next(reworded(call, self.words))


def test_policies_that_are_objects_are_their_own() -> None:
    cache = ResultCache()
    got = []
    for words in ("be brief", "be long"):
        tiers = [Tier("gold", [Deployment("g", FakeProvider(answer=echo))], policies=[Wordy(words)])]
        client = TieredClient(tiers, cache=cache)
        got.append(client.complete("x").text)
        assert client.complete("x").cached
    assert got == ["answer to be brief", "answer to be long"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_function_with_a_cache_survives_a_fork_in_the_midst_of_a_call() -> None:
    gate, begun = threading.Event(), threading.Event()

    def ask(question: str) -> str:
        begun.set()
        gate.wait(10)
        return question.upper()

    wrapped = ResultCache().wrap(ask)
    thread = threading.Thread(target=wrapped, args=("x",))
    thread.start()
    begun.wait(10)
    child = os.fork()
    if not child:
        signal.alarm(20)
        gate.set()
        os._exit(0 if wrapped("x") == "X" else 1)
    gate.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0

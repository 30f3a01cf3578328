"""``tiered.call`` on generators: what is delivered, when it may begin again, and how it ends."""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from typing import Any

import pytest

from decorator.conftest import deployment, in_use
from tierllm import (
    AllTiersFailedError,
    ConfigError,
    DeadlineExceededError,
    Deployment,
    Response,
    Route,
    StreamInterruptedError,
    Tier,
    TieredClient,
    UsageError,
    scope,
    tiered,
)
from tierllm.testing import FakeClock, FakeProvider

Story = list[Any]
"""What one attempt does: items to yield, exceptions to raise."""


class Told:
    """Generators that each tell the next story; how often they began, and which ones were closed."""

    def __init__(self, *stories: Story) -> None:
        self.stories = list(stories)
        self.routes: list[Route] = []
        self.closed: list[int] = []

    def plain(self, *, route: Route = Route.INJECTED) -> Iterator[Any]:
        self.routes.append(route)
        number = len(self.routes)
        try:
            for item in self.stories.pop(0):
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed.append(number)

    async def asynchronous(self, *, route: Route = Route.INJECTED) -> AsyncIterator[Any]:
        for item in self.plain(route=route):
            await asyncio.sleep(0)
            yield item


Listen = Callable[..., tuple[list[Any], BaseException | None]]


@pytest.fixture(params=["generator", "async generator"])
def listen(request: pytest.FixtureRequest, client: TieredClient) -> Listen:
    """Decorate a ``Told``, take its items (at most ``limit``), then close; and the error it ended with."""

    def sync(told: Told, limit: int | None, options: Any) -> tuple[list[Any], BaseException | None]:
        items: list[Any] = []
        with closing(tiered.call(**options)(told.plain)()) as stream:  # type: ignore[type-var]
            try:
                for item in stream:
                    items.append(item)
                    if len(items) == limit:
                        break
            except Exception as error:
                return items, error
        return items, None

    async def asynchronous(
        told: Told, limit: int | None, options: Any
    ) -> tuple[list[Any], BaseException | None]:
        items: list[Any] = []
        async with aclosing(tiered.call(**options)(told.asynchronous)()) as stream:  # type: ignore[type-var]
            try:
                async for item in stream:
                    items.append(item)
                    if len(items) == limit:
                        break
            except Exception as error:
                return items, error
        return items, None

    def play(told: Told, limit: int | None = None, **options: Any) -> Any:
        options.setdefault("client", client)
        if request.param == "generator":
            return sync(told, limit, options)
        return asyncio.run(asynchronous(told, limit, options))

    return play


def test_items_of_any_kind_come_through(listen: Listen) -> None:
    items = ["a", None, 0, {"b": 1}, ""]
    assert listen(Told(list(items))) == (items, None)


def test_an_empty_stream(listen: Listen) -> None:
    assert listen(Told([])) == ([], None)


def test_begun_again_until_the_first_item(listen: Listen) -> None:
    told = Told([ConnectionError()], [ConnectionError()], [TimeoutError()], ["a", "b"])
    assert listen(told) == (["a", "b"], None)
    assert [r.model for r in told.routes] == ["big", "big", "big", "small"]
    assert told.closed == [1, 2, 3, 4]


def test_never_again_after_the_first_item(listen: Listen, client: TieredClient) -> None:
    told = Told(["a", ConnectionError("cut")], ["never"])
    items, error = listen(told)
    assert items == ["a"]
    assert isinstance(error, StreamInterruptedError)
    assert isinstance(error.__cause__.__cause__, ConnectionError)
    assert error.partial is not None
    assert len(told.routes) == 1
    assert deployment(client)["failed"] == 1
    assert in_use(client) == 0


def test_any_other_exception_passes_untouched(listen: Listen, client: TieredClient) -> None:
    for told in (Told([LookupError("mine")]), Told(["a", LookupError("mine")])):
        _, error = listen(told)
        assert type(error) is LookupError
        assert error.__cause__ is None
        assert len(told.routes) == 1
    assert deployment(client)["failed"] == 0
    assert deployment(client)["breaker"]["consecutive_failures"] == 0
    assert in_use(client) == 0


def test_retry_on_before_the_first_item_only(listen: Listen) -> None:
    told = Told([LookupError()], ["a", LookupError()])
    items, error = listen(told, retry_on=LookupError)
    assert items == ["a"]
    assert isinstance(error, StreamInterruptedError)
    assert len(told.routes) == 2


def test_all_tiers_fail(listen: Listen) -> None:
    items, error = listen(Told(*[[ConnectionError()]] * 6))
    assert items == []
    assert isinstance(error, AllTiersFailedError)


def test_early_close_gives_everything_back(listen: Listen, client: TieredClient) -> None:
    told = Told(["a", "b", "c"])
    assert listen(told, limit=1) == (["a"], None)
    assert told.closed == [1]
    assert in_use(client) == 0
    assert client.status()["in_flight"] == 0
    status = deployment(client)
    assert (status["served"], status["failed"]) == (0, 0)


def test_a_break_gives_everything_back_at_once(client: TieredClient) -> None:
    told = Told(["a", "b", "c"])
    for item in tiered.call(client=client)(told.plain)():
        assert item == "a"
        assert in_use(client) == 1
        break
    assert told.closed == [1]
    assert in_use(client) == 0


async def test_leaving_closes_a_generator_that_others_still_hold(client: TieredClient) -> None:
    told, held = Told(["a", "b"], ["a", "b"]), []

    @tiered.call(client=client)
    @functools.wraps(told.plain)
    def call() -> Any:
        held.append(told.plain())
        return held[-1]

    @tiered.call(client=client)
    @functools.wraps(told.asynchronous)
    def acall() -> Any:
        held.append(told.asynchronous())
        return held[-1]

    with closing(await asyncio.to_thread(call)) as stream:
        assert await asyncio.to_thread(next, stream) == "a"
    async with aclosing(acall()) as items:
        assert await anext(items) == "a"
    assert [held[0].gi_frame, held[1].ag_frame] == [None, None]


async def test_an_async_break_gives_everything_back_soon(client: TieredClient) -> None:
    told = Told(["a", "b", "c"])
    async for _ in tiered.call(client=client)(told.asynchronous)():
        assert in_use(client) == 1
        break
    gc.collect()
    await asyncio.sleep(0.01)
    assert told.closed == [1]
    assert in_use(client) == 0


def test_nothing_happens_before_the_first_item(client: TieredClient, clock: FakeClock) -> None:
    told = Told(["a"])
    stream = tiered.call(client=client, deadline_s=5)(told.plain)()
    assert told.routes == []
    assert client.status()["in_flight"] == 0
    clock.advance(10)  # the deadline begins with the stream
    assert list(stream) == ["a"]
    assert told.routes[0].timeout_s == 5


def test_a_stream_belongs_to_the_scope_in_which_it_was_asked_for(client: TieredClient) -> None:
    told = Told(["a"])
    with scope(sla="bronze"):
        stream = tiered.call(client=client)(told.plain)()
    assert list(stream) == ["a"]
    assert told.routes[0].tier == "bronze"


def test_a_mistake_shows_when_the_stream_is_asked_for(client: TieredClient) -> None:
    call = tiered.call(client=client)(Told(["a"]).plain)
    with pytest.raises(ConfigError, match="tierllm fills it in"):
        call(route=Route(model="mine"))


def test_a_generators_value_is_returned(client: TieredClient) -> None:
    @tiered.call(client=client)
    def call() -> Any:
        yield 1
        return "the end"

    def outer() -> Any:
        value = yield from call()
        yield value

    assert list(outer()) == [1, "the end"]


def test_a_deadline_that_passes_before_the_first_item(client: TieredClient, clock: FakeClock) -> None:
    begun = []

    @tiered.call(client=client, deadline_s=5)
    def call() -> Iterator[str]:
        begun.append(1)
        clock.advance(10)
        raise ConnectionError
        yield ""

    with pytest.raises((DeadlineExceededError, AllTiersFailedError)):
        list(call())
    assert begun == [1]  # neither retried nor sent elsewhere
    assert in_use(client) == 0


async def test_a_cancelled_stream_gives_everything_back(client: TieredClient) -> None:
    begun, closed = asyncio.Event(), []

    @tiered.call(client=client)
    async def call() -> AsyncIterator[str]:
        try:
            yield "a"
            begun.set()
            await asyncio.sleep(60)
        finally:
            closed.append(True)

    async def consume() -> None:
        async for _ in call():
            pass

    task = asyncio.create_task(consume())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == [True]
    assert in_use(client) == 0
    assert deployment(client)["failed"] == 0


def test_an_open_breaker_refuses_streams(listen: Listen, client: TieredClient) -> None:
    listen(Told(*[[ConnectionError()]] * 6))
    told = Told(["never"])
    items, error = listen(told)
    assert items == []
    assert isinstance(error, AllTiersFailedError)
    assert told.routes == []


# -- answers from elsewhere ------------------------------------------------------


@pytest.mark.parametrize("raw", [["x", "y"], ("x", "y")])
def test_a_stale_stream_is_items_in_raw(listen: Listen, fake: FakeProvider, raw: Any) -> None:
    client = TieredClient(
        [Tier("only", [Deployment("m", fake)])], stale=lambda _: Response(raw=raw), clock=FakeClock()
    )
    assert listen(Told(*[[ConnectionError()]] * 3), client=client) == (["x", "y"], None)


# -- kinds that lie about themselves ---------------------------------------------


def test_a_plain_function_around_a_generator_streams(client: TieredClient) -> None:
    told = Told([ConnectionError()], ["a"])

    @tiered.call(client=client)
    @functools.wraps(told.plain)
    def call() -> Any:
        return told.plain()

    assert list(call()) == ["a"]


def test_a_context_manager_is_no_stream(client: TieredClient) -> None:
    @tiered.call(client=client)
    @contextmanager
    def call() -> Iterator[str]:
        yield "a"

    with pytest.raises(UsageError, match="returned _GeneratorContextManager, which does not stream"):
        list(call())  # type: ignore[call-overload]


async def test_an_async_iterable_without_aclose(client: TieredClient) -> None:
    class Bare:
        """As an SDK's stream: no generator."""

        def __init__(self) -> None:
            self.items = iter("ab")

        def __aiter__(self) -> Bare:
            return self

        async def __anext__(self) -> str:
            for item in self.items:
                return item
            raise StopAsyncIteration

    async def inner() -> AsyncIterator[str]:
        raise AssertionError
        yield ""

    @tiered.call(client=client)
    @functools.wraps(inner)
    def call() -> Any:
        return Bare()

    assert [item async for item in call()] == ["a", "b"]


def test_bare_tiered_refuses_a_generator_function() -> None:
    def call() -> Iterator[str]:
        yield "a"

    with pytest.raises(ConfigError, match=r"wrap it with @tiered\.call"):
        tiered(call)  # type: ignore[call-overload]

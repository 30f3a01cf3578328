"""``tiered.call`` on functions of every kind: routes, retries, fallbacks, and what passes untouched."""

from __future__ import annotations

import asyncio
import functools
import threading
import traceback
from typing import Any

import pytest

from decorator.conftest import Form, Then, deployment, in_use
from tierllm import (
    AllTiersFailedError,
    ConfigError,
    Deployment,
    InvalidRequestError,
    ProviderUnavailableError,
    RateLimitError,
    Response,
    Retry,
    Route,
    Tier,
    TieredClient,
    Usage,
    UsageError,
    scope,
    tiered,
)
from tierllm.testing import FakeClock, FakeProvider


class Unknown(Exception):
    """An error of nobody's."""


class Kindred(Exception):
    """An error that ``retry_on`` names."""


# -- what it returns -------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, "text", {"a": 1}, object()])
def test_returns_what_the_function_returns(form: Form, client: TieredClient, value: Any) -> None:
    assert form.wrap(Then(value), client=client)() is value


def test_arguments_reach_the_function(client: TieredClient) -> None:
    @tiered.call(client=client)
    def call(a: int, /, b: int, *rest: int, c: int = 3, **more: int) -> Any:
        return a, b, rest, c, more

    assert call(1, 2) == (1, 2, (), 3, {})
    assert call(1, 2, 3, c=4, d=5) == (1, 2, (3,), 4, {"d": 5})
    assert call(1, b=2, self=6, fn=7, call=8) == (1, 2, (), 3, {"self": 6, "fn": 7, "call": 8})
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'b'"):
        call(1)  # type: ignore[call-arg]


def test_without_a_route_parameter_the_policies_still_apply(client: TieredClient) -> None:
    behave = Then(ConnectionError(), "fine")

    @tiered.call(client=client)
    def call(**route: Any) -> Any:  # any keywords, but no parameter of that name
        assert route == {}
        return behave(Route.INJECTED)

    assert call() == "fine"
    assert len(behave.routes) == 2


# -- the route -------------------------------------------------------------------


def test_a_route_for_each_attempt(form: Form, client: TieredClient) -> None:
    behave = Then(*[ConnectionError()] * 3, "fine")
    call = form.wrap(behave, client=client, sla="gold", max_tokens=300, temperature=0.5, deadline_s=60)
    assert call() == "fine"
    first, second, third, last = behave.routes
    assert [first.attempt, second.attempt, third.attempt, last.attempt] == [1, 2, 3, 1]
    assert (first.model, first.tier, first.deployment) == ("big", "gold", "big")
    assert (last.model, last.tier, last.deployment) == ("small", "bronze", "small")
    assert (first.max_tokens, last.max_tokens) == (300, 100)  # the ceiling of bronze
    assert first.temperature == 0.5
    assert first.params == {"max_tokens": 300, "temperature": 0.5}
    assert first.timeout_s == 60
    assert second.timeout_s < 60  # the back-off is gone


def test_a_caller_cannot_pass_a_route(form: Form, client: TieredClient) -> None:
    @tiered.call(client=client)
    def call(question: str, route: Route = Route.INJECTED) -> str:
        return route.model

    assert call("?", route=Route.INJECTED) == "big"
    with pytest.raises(ConfigError, match=r"call\(route=\.\.\.\): tierllm fills it in"):
        call("?", route=Route(model="mine"))
    with pytest.raises(TypeError, match="multiple values for argument 'route'"):
        call("?", Route.INJECTED)


def test_a_route_parameter_needs_a_keyword() -> None:
    def call(route: Route, /) -> None: ...

    with pytest.raises(ConfigError, match="filled in by keyword"):
        tiered.call(call)


def test_tiered_on_a_function_with_a_route_is_tiered_call(client: TieredClient) -> None:
    @tiered(client=client, sla="bronze")
    def call(*, route: Route = Route.INJECTED) -> str:
        return route.model

    assert call() == "small"


# -- failures --------------------------------------------------------------------


@pytest.mark.parametrize("failure", [ConnectionError("gone"), ConnectionResetError(), TimeoutError()])
def test_transport_errors_are_retried(form: Form, client: TieredClient, failure: Exception) -> None:
    behave = Then(failure, "fine")
    assert form.wrap(behave, client=client)() == "fine"
    assert behave.models == ["big", "big"]


def test_fallback_when_retries_are_spent(form: Form, client: TieredClient) -> None:
    behave = Then(*[ConnectionError()] * 3, "fine")
    assert form.wrap(behave, client=client)() == "fine"
    assert behave.models == ["big"] * 3 + ["small"]
    assert deployment(client)["failed"] == 3


def test_when_all_fails_the_sdks_error_is_at_the_root(form: Form, client: TieredClient) -> None:
    failure = ConnectionError("no route")
    with pytest.raises(AllTiersFailedError) as raised:
        form.wrap(Then(*[failure] * 6), client=client)()
    assert [a.tier for a in raised.value.attempts] == ["gold"] * 3 + ["bronze"] * 3
    assert isinstance(raised.value.__cause__, ProviderUnavailableError)
    assert raised.value.__cause__.__cause__ is failure
    assert in_use(client) == 0


def test_any_other_exception_passes_untouched_and_counts_for_nothing(
    form: Form, client: TieredClient
) -> None:
    behave = Then(*[Unknown("mine")] * 6, "fine")
    call = form.wrap(behave, client=client)
    for _ in range(5):
        with pytest.raises(Unknown, match="mine") as raised:
            call()
        frames = traceback.extract_tb(raised.value.__traceback__)
        assert frames[-1].name == "__call__"  # of Then: where it was raised
        assert frames[-1].filename.endswith("conftest.py")
        assert raised.value.__cause__ is None
    assert behave.models == ["big"] * 5
    status = deployment(client)
    assert status["failed"] == 0
    assert status["breaker"]["state"] == "closed"
    assert status["breaker"]["consecutive_failures"] == 0
    assert in_use(client) == 0


def test_retry_on_adds_errors(form: Form, client: TieredClient) -> None:
    behave = Then(Kindred(), LookupError(), "fine")
    assert form.wrap(behave, client=client, retry_on=(Kindred, LookupError))() == "fine"
    assert form.wrap(Then(Kindred(), "fine"), client=client, retry_on=Kindred)() == "fine"
    with pytest.raises(AllTiersFailedError) as raised:
        form.wrap(Then(*[Kindred("no")] * 6), client=client, retry_on=Exception)()
    assert isinstance(raised.value.__cause__.__cause__, Kindred)


@pytest.mark.parametrize("kinds", [3, [Kindred], (Kindred, "x"), KeyboardInterrupt, "Kindred"])
def test_retry_on_takes_exception_classes(kinds: Any) -> None:
    with pytest.raises(ConfigError, match="retry_on"):
        tiered.call(retry_on=kinds)


def test_tierllms_own_errors_mean_what_they_say(form: Form, client: TieredClient) -> None:
    behave = Then(RateLimitError("slow down", retry_after_s=2), "fine")
    assert form.wrap(behave, client=client, retry_on=Exception)() == "fine"
    behave = Then(InvalidRequestError("wrong"))
    with pytest.raises(InvalidRequestError):
        form.wrap(behave, client=client, retry_on=Exception)()
    assert behave.models == ["big"]


def test_once_if_not_repeatable(form: Form, client: TieredClient) -> None:
    behave = Then(ConnectionError())
    with pytest.raises(ProviderUnavailableError) as raised:
        form.wrap(behave, client=client, repeatable=False)()
    assert isinstance(raised.value.__cause__, ConnectionError)
    assert behave.models == ["big"]


def test_exits_are_never_caught(form: Form, client: TieredClient) -> None:
    with pytest.raises(SystemExit):
        form.wrap(Then(SystemExit()), client=client, retry_on=Exception)()
    assert in_use(client) == 0
    assert deployment(client)["failed"] == 0


# -- kinds that lie about themselves ---------------------------------------------


def test_a_plain_function_around_an_async_one_is_async(client: TieredClient) -> None:
    behave = Then(ConnectionError(), "fine")

    async def inner() -> str:
        return behave(Route.INJECTED)

    @tiered.call(client=client)
    @functools.wraps(inner)
    def call() -> Any:
        return inner()

    assert asyncio.run(call()) == "fine"


def test_a_function_that_returns_an_awaitable_must_say_so(client: TieredClient) -> None:
    async def inner() -> None: ...

    with pytest.raises(UsageError, match="an awaitable: let it be an async function itself"):
        tiered.call(client=client)(lambda: inner())()


def test_a_function_that_returns_a_generator_must_be_one(client: TieredClient) -> None:
    with pytest.raises(UsageError, match="let it be a generator function itself"):
        tiered.call(client=client)(lambda: (n for n in range(3)))()


def test_an_async_wrapper_may_answer_at_once(client: TieredClient) -> None:
    async def inner() -> str:
        raise AssertionError

    @tiered.call(client=client)
    @functools.wraps(inner)
    def call() -> Any:
        return "at once"

    assert asyncio.run(call()) == "at once"


# -- threads, tasks, nesting -----------------------------------------------------


def test_threads(client: TieredClient) -> None:
    together = threading.Barrier(2)

    @tiered.call(client=client, sla="gold")
    def call(n: int) -> int:
        if n < 2:
            together.wait(5)
        return n

    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(call(n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(8))
    assert client.status()["tiers"]["gold"]["pool"]["peak"] == 2
    assert in_use(client) == 0


async def test_tasks(client: TieredClient) -> None:
    @tiered.call(client=client, sla="gold")
    async def call(n: int) -> int:
        await asyncio.sleep(0.001)
        return n

    assert await asyncio.gather(*(call(n) for n in range(20))) == list(range(20))
    assert client.status()["tiers"]["gold"]["pool"]["peak"] == 2
    assert in_use(client) == 0


async def test_a_cancelled_call_gives_everything_back(client: TieredClient) -> None:
    begun, cleaned = asyncio.Event(), []

    @tiered.call(client=client)
    async def call() -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            cleaned.append(True)

    task = asyncio.create_task(call())
    await begun.wait()
    assert in_use(client) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [True]
    assert in_use(client) == 0
    assert deployment(client)["failed"] == 0
    assert client.status()["in_flight"] == 0


async def test_nothing_happens_before_the_await(client: TieredClient, clock: FakeClock) -> None:
    behave = Then("fine")

    @tiered.call(client=client, deadline_s=5)
    async def call(*, route: Route = Route.INJECTED) -> str:
        return behave(route)

    coming = call()
    assert behave.routes == []
    clock.advance(10)  # the deadline begins with the call, not with the coroutine
    assert await coming == "fine"
    assert behave.routes[0].timeout_s == 5


def test_a_sync_call_on_an_event_loop_says_so(client: TieredClient) -> None:
    call = tiered.call(client=client)(lambda: "blocking")

    async def inside() -> None:
        with pytest.raises(UsageError, match="would block the event loop"):
            call()

    asyncio.run(inside())


def test_one_tiered_function_calls_another(client: TieredClient, fake: FakeProvider) -> None:
    @tiered(client=client, sla="bronze")
    def inner(text: str) -> str:
        return text

    @tiered.call(client=client, sla="gold")
    def outer(text: str) -> Response:
        return inner(text)

    response = outer("hello")
    assert response.tier == "bronze"
    assert (deployment(client)["served"], deployment(client, "bronze", "small")["served"]) == (1, 1)


def test_recursion(client: TieredClient) -> None:
    @tiered.call(client=client, sla="bronze")
    def depth(n: int) -> int:
        return 0 if n == 0 else 1 + depth(n - 1)

    assert depth(20) == 20


def test_usage_is_read_from_an_sdks_answer(fake: FakeProvider) -> None:
    class Reported:
        def __init__(self, **counts: Any) -> None:
            self.__dict__.update(counts)

    seen: list[Any] = []
    watched = TieredClient([Tier("only", [Deployment("m", fake)])], policies=[_Seeing(seen)])
    for usage in (
        Reported(prompt_tokens=3, completion_tokens=4),
        Reported(input_tokens=3, output_tokens=4),
        Reported(words=5),
        None,
    ):
        tiered.call(client=watched)(lambda usage=usage: Reported(usage=usage))()
    assert [u and (u.input_tokens, u.output_tokens) for u in seen] == [(3, 4), (3, 4), None, None]
    seen.clear()
    details = {
        "prompt_tokens_details": Reported(cached_tokens=2),
        "completion_tokens_details": Reported(reasoning_tokens=1),
    }
    for usage in (
        Reported(prompt_tokens=3, completion_tokens=4, **details),
        Reported(input_tokens=3, output_tokens=4, cache_read_input_tokens=20, cache_creation_input_tokens=7),
    ):
        answer = Reported(usage=usage, service_tier="flex")
        tiered.call(client=watched)(lambda answer=answer: answer)()
    assert seen == [
        Usage(
            input_tokens=3, output_tokens=4, cached_input_tokens=2, reasoning_tokens=1, service_tier="flex"
        ),
        Usage(
            input_tokens=30,  # beside the cached ones, in this vendor's words
            output_tokens=4,
            cached_input_tokens=20,
            cache_write_tokens=7,
            service_tier="flex",
        ),
    ]
    watched.close()


def test_usage_at_the_end_of_a_wrapped_stream_is_read(fake: FakeProvider) -> None:
    class Item:
        def __init__(self, usage: Any = None) -> None:
            self.usage = usage

    class Counts:
        prompt_tokens, completion_tokens = 3, 4

    seen: list[Any] = []
    watched = TieredClient([Tier("only", [Deployment("m", fake)])], policies=[_Seeing(seen)])

    @tiered.call(client=watched)
    def items() -> Any:
        yield Item()
        yield Item(Counts())

    assert len(list(items())) == 2
    assert seen == [Usage(input_tokens=3, output_tokens=4)]
    watched.close()


class _Seeing:
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    async def __call__(self, call: Any, call_next: Any) -> Any:
        response = await call_next(call)
        self.seen.append(response.usage)
        return response


# -- prompt= ---------------------------------------------------------------------


def test_a_prompt_tells_policies_what_is_asked(fake: FakeProvider) -> None:
    asked: list[str] = []

    def simple(request: Any) -> Response:
        asked.append(request.text)
        return Response(raw="simple")

    down = TieredClient(
        [Tier("only", [Deployment("m", fake)], retry=Retry(1))], simple_reply=simple, clock=FakeClock()
    )

    @tiered.call(client=down, prompt=lambda question, **_: f"Q: {question}")
    def call(question: str, *, loud: bool = False) -> str:
        raise ConnectionError

    assert call("why?", loud=True) == "simple"
    assert asked == ["Q: why?"]
    with pytest.raises(ConfigError, match="prompt"):
        tiered.call(prompt="text")  # type: ignore[call-overload]


def test_a_wrapped_call_never_gets_a_bare_text(fake: FakeProvider) -> None:
    down = TieredClient([Tier("only", [Deployment("m", fake)])], simple_reply="sorry", clock=FakeClock())

    @tiered.call(client=down)
    def call() -> Any:
        raise ConnectionError

    with pytest.raises(AllTiersFailedError):
        call()


# -- scope -----------------------------------------------------------------------


def test_scope_gives_defaults(form: Form, client: TieredClient) -> None:
    behave = Then("a", "b", "c")
    call = form.wrap(behave, client=client)
    golden = form.wrap(behave, client=client, sla="gold")
    with scope(sla="bronze", temperature=0.1):
        call()
        golden()
    call()
    assert behave.models == ["small", "big", "big"]
    assert [r.temperature for r in behave.routes] == [0.1, 0.1, None]

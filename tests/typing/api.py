"""The public names as a type checker sees them: checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, assert_type

from tierllm import (
    Chunk,
    CircuitBreaker,
    Deployment,
    FallbackChain,
    Objective,
    Response,
    Retry,
    Route,
    Tier,
    TieredClient,
    configure,
    scope,
    tiered,
)
from tierllm.pipeline.ready import AsyncResponseStream, ResponseStream
from tierllm.testing import Fail, FakeClock, FakeProvider, Reply

fake = FakeProvider(latency_s=0.05, seed=7)
fake.script("big", Reply("hi"), Fail.rate_limited(retry_after_s=2), "words", repeat=2)
fake.script("big", Fail.cut_after(3), forever=True)
fake.script("big", 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
fake.down("big", Fail.unavailable())

clock = FakeClock()
client = TieredClient(
    tiers=[
        Tier("gold", [Deployment("big", fake)], objective=Objective(availability=0.999), max_concurrency=4),
        Tier("bronze", [Deployment("small", fake, breaker=False)], retry=Retry(2)),
    ],
    breaker=CircuitBreaker(open_s=5),
    fallback=FallbackChain(content_filter="next"),
    clock=clock,
)
configure(client)
configure("client")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- the client ------------------------------------------------------------------


def whole() -> None:
    response = client.complete("Hello", sla="gold", user="u1", tags=["a"], deadline_s=3, max_tokens=5)
    assert_type(response, Response)
    assert_type(response.text, str)
    assert_type(response.tier, str | None)
    client.complete([{"role": "user", "content": "Hello"}], require={"eu"}, extra={"openai": {"store": True}})
    client.complete("Hello", slaa="gold")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.complete("Hello", priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.complete(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def streamed() -> None:
    with client.stream("Hello", sla="gold") as stream:
        assert_type(stream, ResponseStream)
        for chunk in stream:
            assert_type(chunk, Chunk)
    assert_type(stream.response, Response)
    with scope(user="u1", plan="free"):
        pass
    with scope(usr="u1"):  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        pass


async def awaited() -> None:
    assert_type(await client.acomplete("Hello", sla="gold"), Response)
    async with client.astream("Hello") as stream:
        assert_type(stream, AsyncResponseStream)
        async for chunk in stream:
            assert_type(chunk, Chunk)


# -- @tiered: functions that return a prompt -------------------------------------


@tiered(sla="gold", client=client)
def summarise(text: str, words: int = 20) -> str:
    return f"Summarise in {words} words: {text}"


@tiered
def bare(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@tiered(sla="bronze")
async def translate(text: str, *, to: str) -> str:
    return f"Translate to {to}: {text}"


class Writer:
    @tiered(client=client)
    def draft(self, topic: str) -> str:
        return f"Write about {topic}"

    @tiered(client=client)
    async def adraft(self, topic: str) -> str:
        return f"Write about {topic}"

    @staticmethod
    @tiered(client=client)
    def title(topic: str) -> str:
        return f"A title for {topic}"

    @tiered.call(client=client)
    def count(self, text: str, *, route: Route = Route.INJECTED) -> int:
        return len(text)


def prompts() -> None:
    assert_type(summarise("text"), Response)
    assert_type(summarise("text", words=5), Response)
    assert_type(summarise.with_options(sla="bronze")("text"), Response)
    assert_type(summarise.stream("text"), ResponseStream)
    assert_type(summarise.astream("text"), AsyncResponseStream)
    assert_type(bare("text"), Response)
    summarise(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    summarise.stream()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    summarise.with_options(slaa="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    writer = Writer()
    assert_type(writer.draft("tea"), Response)
    assert_type(writer.draft.stream("tea"), ResponseStream)
    assert_type(writer.draft.with_options(sla="gold")("tea"), Response)
    assert_type(Writer.draft(writer, "tea"), Response)
    assert_type(Writer.title("tea"), Response)
    assert_type(writer.count("tea"), int)
    writer.draft()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def async_prompts() -> None:
    assert_type(await translate("text", to="de"), Response)
    assert_type(translate.stream("text", to="de"), AsyncResponseStream)
    assert_type(await translate.with_options(user="u")("text", to="de"), Response)
    assert_type(await summarise.acomplete("text"), Response)
    assert_type(await Writer().adraft("tea"), Response)
    await translate("text")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def no_prompt(text: str) -> int:
    return len(text)


tiered(no_prompt)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
tiered(sla="gold")(no_prompt)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


# -- @tiered.call: existing calls ------------------------------------------------


@tiered.call(sla="gold", client=client, retry_on=KeyError)
def answer(question: str, *, route: Route = Route.INJECTED) -> dict[str, int]:
    return {question: route.attempt}


@tiered.call(sla="gold", repeatable=False, retry_on=(KeyError, ValueError))
async def aanswer(question: str, *, route: Route = Route.INJECTED) -> bytes:
    return question.encode() + route.model.encode()


@tiered.call
def items(question: str) -> Iterator[str]:
    yield question


@tiered.call(sla="gold")
async def aitems(question: str, *, route: Route = Route.INJECTED) -> AsyncIterator[int]:
    yield len(question) + route.attempt


def messages_of(question: str, **_: Any) -> Sequence[dict[str, str]]:
    return [{"role": "user", "content": question}]


@tiered.call(prompt=messages_of)
def prompted(question: str) -> float:
    return float(len(question))


def calls() -> None:
    assert_type(answer("why?"), dict[str, int])
    assert_type(answer.with_options(sla="bronze", deadline_s=3)("why?"), dict[str, int])
    assert_type(items("why?"), Iterator[str])
    assert_type(prompted("why?"), float)
    answer(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def async_calls() -> None:
    assert_type(await aanswer("why?"), bytes)
    assert_type(aitems("why?"), AsyncIterator[int])
    async for item in aitems("why?"):
        assert_type(item, int)


tiered.call(slaa="gold")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
tiered.call(retry_on=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

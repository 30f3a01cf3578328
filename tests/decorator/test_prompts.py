"""``@tiered``: functions that return a prompt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import tierllm
from decorator.conftest import in_use
from tierllm import AllTiersFailedError, ConfigError, Response, TieredClient, scope, tiered
from tierllm.testing import Fail, FakeProvider, Reply


def test_the_prompt_is_asked_and_the_answer_returned(client: TieredClient, fake: FakeProvider) -> None:
    @tiered(sla="gold", client=client, user="u1", temperature=0.2)
    def summarise(text: str, *, words: int = 9) -> str:
        return f"Summarise in {words} words: {text}"

    fake.script("big", Reply("Short."))
    response = summarise("A long story.", words=3)
    assert isinstance(response, Response)
    assert (response.text, response.tier) == ("Short.", "gold")
    entry = fake.journal[-1]
    assert entry.messages == ({"role": "user", "content": "Summarise in 3 words: A long story."},)
    assert entry.params["temperature"] == 0.2


def test_messages(client: TieredClient, fake: FakeProvider) -> None:
    @tiered(client=client)
    def chat(question: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]

    chat("Why?")
    assert [m["role"] for m in fake.journal[-1].messages] == ["system", "user"]


def test_streamed(client: TieredClient, fake: FakeProvider) -> None:
    @tiered(client=client)
    def summarise(text: str) -> str:
        return text

    fake.script("big", Reply(chunks=["One", " two"]))
    with summarise.stream("A story") as stream:
        assert [chunk.text for chunk in stream if chunk.text] == ["One", " two"]
    assert stream.response.text == "One two"
    with summarise.stream("A story") as stream:
        next(stream)
        assert in_use(client) == 1
    assert in_use(client) == 0


async def test_a_plain_function_on_an_event_loop(client: TieredClient, fake: FakeProvider) -> None:
    @tiered(client=client)
    def summarise(text: str) -> str:
        return text

    fake.script("big", Reply("Short."), Reply("Shorter."))
    assert (await summarise.acomplete("A story")).text == "Short."
    async with summarise.astream("A story") as stream:
        assert "".join([chunk.text async for chunk in stream]) == "Shorter."


class TestAsync:
    async def test_awaited_and_streamed(self, client: TieredClient, fake: FakeProvider) -> None:
        @tiered(client=client, sla="gold")
        async def summarise(text: str) -> str:
            await asyncio.sleep(0)
            return f"Summarise: {text}"

        fake.script("big", Reply("Short."), Reply(chunks=["Short", "er"]))
        assert (await summarise("A story")).text == "Short."
        async with summarise.stream("A story") as stream:
            assert [chunk.text async for chunk in stream if chunk.text] == ["Short", "er"]
        assert stream.response.text == "Shorter"
        assert [e.messages[0]["content"] for e in fake.journal] == ["Summarise: A story"] * 2

    async def test_cancelled_while_the_prompt_is_made(self, client: TieredClient, fake: FakeProvider) -> None:
        @tiered(client=client)
        async def summarise() -> str:
            await asyncio.sleep(60)
            return ""

        async def streamed() -> None:
            async with summarise.stream():
                pass

        for coming in (summarise(), streamed()):
            task = asyncio.create_task(coming)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert fake.calls == 0
        assert client.status()["in_flight"] == 0

    async def test_a_stream_serves_once(self, client: TieredClient) -> None:
        made = []

        @tiered(client=client)
        async def summarise() -> str:
            made.append(1)
            return "text"

        stream = summarise.stream()
        with pytest.raises(tierllm.UsageError, match="with block"):
            await anext(stream)
        with pytest.raises(tierllm.UsageError, match="not ended"):
            _ = stream.response
        async with stream:
            pass
        with pytest.raises(tierllm.UsageError, match="has been used"):
            async with stream:
                pass
        assert made == [1]

    async def test_a_plain_wrapper_around_an_async_prompt(self, client: TieredClient) -> None:
        import functools

        async def inner(text: str) -> str:
            return text

        @functools.wraps(inner)
        def logged(text: str) -> Any:
            return inner(text)

        assert (await tiered(client=client)(logged)("Hello")).text


def test_errors_of_the_function_are_its_own(client: TieredClient, fake: FakeProvider) -> None:
    @tiered(client=client)
    def summarise() -> str:
        raise ConnectionError("of the template store")

    with pytest.raises(ConnectionError):
        summarise()
    assert fake.calls == 0


@pytest.mark.parametrize("prompt", ["", "  ", [], 3, None, [{"content": "no role"}]])
def test_what_is_no_prompt(client: TieredClient, prompt: Any) -> None:
    @tiered(client=client)
    def summarise() -> Any:
        return prompt

    with pytest.raises(ConfigError):
        summarise()


def test_failures_step_down(client: TieredClient, fake: FakeProvider) -> None:
    @tiered(client=client)
    def summarise(text: str) -> str:
        return text

    fake.script("big", Fail.unavailable(), repeat=3)
    assert summarise("A story").tier == "bronze"
    fake.down()
    with pytest.raises(AllTiersFailedError):
        summarise("A story")


def test_scope_gives_defaults_and_the_decorator_overrides(client: TieredClient, fake: FakeProvider) -> None:
    @tiered(client=client)
    def loose() -> str:
        return "text"

    @tiered(client=client, sla="gold", temperature=0.7)
    def firm() -> str:
        return "text"

    with scope(sla="bronze", temperature=0.1):
        assert (loose().tier, fake.journal[-1].params["temperature"]) == ("bronze", 0.1)
        assert (firm().tier, fake.journal[-1].params["temperature"]) == ("gold", 0.7)


def test_the_functions_name_is_its_route(fake: FakeProvider) -> None:
    from tierllm import Deployment, Tier

    client = TieredClient(
        [Tier("only", [Deployment("m", fake)], retry=False)],
        simple_reply={"summarise": "a summary", "letters": "a letter", "*": "sorry"},
    )
    fake.down()

    @tiered(client=client)
    def summarise() -> str:
        return "text"

    assert summarise().text == "a summary"
    assert summarise.with_options(route="letters")().text == "a letter"
    assert tiered(client=client)(lambda: "text")().text == "sorry"

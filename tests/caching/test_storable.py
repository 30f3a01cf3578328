"""Which answers a client keeps, and of which kept ones it makes a call's own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from caching.kept import CachedWorld, client_on
from client.forms import Form, every_form
from tierllm import Deployment, ResultCache, Route, Tier, TieredClient, tiered
from tierllm.caching import DiskLayer, MemoryLayer, returned
from tierllm.caching.policy import LARGE
from tierllm.errors import CacheMissError
from tierllm.testing import FakeProvider, Reply
from tierllm.types import Call, Message, Request, Response, ToolCall

JSON_FORMAT = {"type": "json_object"}


class Answer(BaseModel):
    number: int


def strict() -> type[BaseModel]:
    """A class whose schema is ``Answer``'s, and which takes less."""

    class Strict(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def _large(cls, number: int) -> int:
            if number < 100:
                raise ValueError("too small")
            return number

    Strict.__name__, Strict.__qualname__, Strict.__doc__ = "Answer", "Answer", None
    Strict.__module__ = Answer.__module__
    return Strict


def answering(*texts: str) -> FakeProvider:
    fake = FakeProvider()
    fake.script("g", *texts)
    return fake


# -- parameters of a tier or deployment ------------------------------------------------------

SENT = [
    pytest.param({"n": 3}, False, id="several"),
    pytest.param({"logprobs": True}, False, id="probabilities"),
    pytest.param({"modalities": ["text", "audio"]}, False, id="sound"),
    pytest.param({"n": 1, "top_p": 0.9}, True, id="one"),
    pytest.param({"response_format": JSON_FORMAT}, True, id="data"),
]


@pytest.mark.parametrize("of", ["tier", "deployment"])
@pytest.mark.parametrize(("params", "kept"), SENT)
@every_form
def test_what_is_sent_decides(form: Form, of: str, params: dict[str, Any], kept: bool) -> None:
    own = params if of == "deployment" else {}
    defaults = params if of == "tier" else None
    tiers = [Tier("gold", [Deployment("g", answering(*['{"a": 1}'] * 2), params=own)], defaults=defaults)]
    with TieredClient(tiers, cache=ResultCache()) as client:
        first, second = form(client), form(client)
    assert second.cached is kept
    assert first.parsed == second.parsed == ({"a": 1} if "response_format" in params else None)


def test_what_a_place_drops_is_not_sent() -> None:
    tiers = [Tier("gold", [Deployment("g", FakeProvider(), drop={"logprobs"})])]
    with TieredClient(tiers, cache=ResultCache()) as client:
        client.complete("Hello", logprobs=True)
        assert client.complete("Hello", logprobs=True).cached


# -- data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [JSON_FORMAT, Answer], ids=["json_object", "class"])
@every_form
def test_data_that_did_not_come_is_asked_for_again(form: Form, wanted: Any) -> None:
    fake = answering("no data", '{"number": 1}')
    with client_on([MemoryLayer()], fake) as client:
        answers = [form(client, response_format=wanted) for _ in range(3)]
    assert [answer.parsed is None for answer in answers] == [True, False, False]
    assert [answer.cached for answer in answers] == [False, False, True]


@every_form
def test_data_by_a_vendors_option_comes_again(form: Form) -> None:
    tiers = [Tier("gold", [Deployment("g", answering('{"a": 1}'), policies=[reading])])]
    with TieredClient(tiers, cache=ResultCache()) as client:
        options: dict[str, Any] = {"extra": {"fake": {"response_format": JSON_FORMAT}}}
        answers = [form(client, **options) for _ in range(2)]
    assert [(answer.parsed, answer.cached) for answer in answers] == [({"a": 1}, False), ({"a": 1}, True)]


async def reading(call: Call, call_next: Any) -> Response:
    """Does for a vendor's option what the vendor's adapter does."""
    response: Response = await call_next(call)
    response.parsed = {"a": 1}
    return response


@every_form
def test_validators_that_say_more_than_the_schema_are_heard(form: Form) -> None:
    fake = answering('{"number": 1}', '{"number": 200}')
    with client_on([MemoryLayer()], fake) as client:
        assert form(client, response_format=Answer).parsed == Answer(number=1)
        assert form(client, response_format=Answer).cached
        answer = form(client, response_format=strict())
        assert (answer.cached, answer.parsed.number) == (False, 200)  # in the old one's place
        assert client.cache.stats().misses == 2
    assert fake.calls == 2


def test_where_all_tiers_are_out_no_data_is_better_than_wrong_data() -> None:
    fake = answering('{"number": 1}')
    world = CachedWorld([Tier("gold", [Deployment("g", fake)])], cache={"ttl_s": 0}, retry=False)
    assert world.call(response_format=Answer).ok.parsed == Answer(number=1)
    fake.down()
    assert world.call(response_format=Answer).ok.degraded == ("stale",)
    assert world.call(response_format=strict()).error is not None


def test_only_refuses_data_that_its_class_does_not_take() -> None:
    with client_on([MemoryLayer()], answering('{"number": 1}')) as client:
        client.complete("Hello", response_format=Answer)
        with pytest.raises(CacheMissError):
            client.complete("Hello", response_format=strict(), cache="only")


def test_who_joins_gets_data_by_its_own_class() -> None:
    begun = threading.Event()
    fake = FakeProvider(latency_s=0.2)
    fake.script("g", '{"number": 1}', when=lambda call: begun.set() is None)
    with client_on([MemoryLayer()], fake) as client, ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.complete, "Hello", response_format=strict())
        begun.wait(10)
        second = client.complete("Hello", response_format=Answer)
        assert first.result().parsed is None
        assert second.parsed == Answer(number=1)
        assert second.cached
    assert fake.calls == 1


# -- calls to tools ----------------------------------------------------------------------------

CALLS = {
    "whole": (ToolCall(id="c1", name="look", arguments='{"at": 1}'), True),
    "without arguments": (ToolCall(id="c1", name="look"), True),
    "cut": (ToolCall(id="c1", name="look", arguments='{"at": '), False),
    "of nothing": (ToolCall(id="c1", arguments="{}"), False),
}


@pytest.mark.parametrize(("tool", "kept"), CALLS.values(), ids=CALLS.keys())
@every_form
def test_only_whole_calls_to_tools_are_kept(form: Form, tool: ToolCall, kept: bool) -> None:
    fake = FakeProvider()
    fake.script("g", Reply(tool_calls=[tool]), forever=True)
    with client_on([MemoryLayer()], fake) as client:
        assert [form(client).cached for _ in range(2)] == [False, kept]


# -- what is changed while it is under way ---------------------------------------------------


@pytest.mark.parametrize("length", [7, LARGE + 7], ids=["small", "large"])
@every_form
def test_messages_that_change_on_the_way_do_not_count_as_what_they_were(form: Form, length: int) -> None:
    ann, bob = "pay ann".ljust(length), "pay bob".ljust(length)
    message: Message = {"role": "user", "content": ann}

    def changed(call: Call) -> bool:
        message["content"] = bob
        return True

    fake = FakeProvider()
    fake.script("g", "bob was paid", when=changed)
    with client_on([MemoryLayer()], fake) as client:
        form(client, [message])
        answer = form(client, [{"role": "user", "content": ann}])
        assert (answer.cached, answer.text != "bob was paid") == (False, True)
        assert client.cache.stats().not_kept == 1
        assert form(client, [{"role": "user", "content": ann}]).cached


def test_who_shares_an_answer_is_asked_once() -> None:
    """Where a flight lands, the caller's context may be far away."""
    teams = ["red", "red"]

    def team(request: Request) -> str:
        return teams.pop()

    with client_on([MemoryLayer()], scope=team) as client:
        assert [client.complete("Hello").cached for _ in range(2)] == [False, True]


def test_neither_do_arguments() -> None:
    with TieredClient([Tier("gold", [Deployment("g")])], cache=ResultCache()) as client:

        @tiered.call(client=client, prompt=lambda names: "pay")
        def pay(names: list[str], *, route: Route = Route.INJECTED) -> str:
            if names == ["ann"]:
                names.append("bob")
            return f"paid {names}"

        for _ in range(2):
            assert pay(["ann"]) == "paid ['ann', 'bob']"
            assert pay(["eve"]) == "paid ['eve']"
        stats = client.cache.stats()
        assert (stats.kept, stats.not_kept, stats.hits) == (1, 2, {"memory": 1})


# -- what wrapped functions return -------------------------------------------------------------


async def texting(call: Call, call_next: Any) -> Response:
    response: Response = await call_next(call)
    response.text = "what a policy says of it"
    return response


def test_what_cannot_be_packed_is_not_kept_whatever_a_policy_says_of_it() -> None:
    tiers = [Tier("gold", [Deployment("g")], policies=[texting])]
    with TieredClient(tiers, cache=ResultCache()) as client:

        @tiered.call(client=client, prompt=lambda question: question)
        def ask(question: str, *, route: Route = Route.INJECTED) -> object:
            return {question}

        assert [ask("why") for _ in range(2)] == [{"why"}] * 2
        stats = client.cache.stats()
        assert (stats.kept, stats.not_kept) == (0, 2)


def test_an_answer_without_what_was_returned_is_none_for_a_wrapped_call() -> None:
    layer = MemoryLayer()
    with TieredClient([Tier("gold", [Deployment("g")])], cache=ResultCache([layer])) as client:

        @tiered.call(client=client, prompt=lambda question: question)
        def ask(question: str, *, route: Route = Route.INJECTED) -> str:
            return "because"

        assert ask("why") == "because"
        (slot,) = layer._entries
        kept: Any = layer.find(slot)
        layer.keep(slot, kept._replace(returned=None, text="because"), size=1000, ttl_s=60)
        assert ask("why") == "because"
        assert client.cache.stats().hits == {}


EMPTY = ["", [], {}, {"error": "model is loading"}, {"choices": []}]


@pytest.mark.parametrize("nothing", EMPTY, ids=repr)
def test_a_function_that_returned_nothing_is_asked_again(nothing: object) -> None:
    with TieredClient([Tier("gold", [Deployment("g")])], cache=ResultCache()) as client:

        @tiered.call(client=client, prompt=lambda question: question)
        def ask(question: str, *, route: Route = Route.INJECTED) -> object:
            return nothing

        assert [ask("why") for _ in range(2)] == [nothing] * 2
        stats = client.cache.stats()
        assert (stats.kept, stats.not_kept) == (0, 2)


def test_a_hit_reads_what_was_returned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[bytes] = []
    read: Callable[[bytes], Any] = returned._read

    def counted(data: bytes) -> Any:
        reads.append(data)
        return read(data)

    with TieredClient([Tier("gold", [Deployment("g")])], cache=ResultCache()) as client:

        @tiered.call(client=client, prompt=lambda question: question)
        def ask(question: str, *, route: Route = Route.INJECTED) -> dict[str, str]:
            return {"because": question}

        ask("why")
        monkeypatch.setattr(returned, "_read", counted)
        assert ask("why") == {"because": "why"}
    assert len(reads) == 1


def test_a_prompts_function_is_asked_before_a_call_for_it_and_after_it() -> None:
    runs: list[str] = []

    def prompt(messages: tuple[Message, ...]) -> str:
        runs.append("")
        return "Be brief."

    with TieredClient(
        [Tier("gold", [Deployment("g", FakeProvider())], prompt=prompt)], cache=ResultCache()
    ) as c:
        c.complete("Hello")
        assert len(runs) == 3
        assert c.complete("Hello").cached
        assert len(runs) == 4


# -- layers that others may write to -----------------------------------------------------------


def test_more_beside_a_text_than_is_read_back_stays_in_memory(tmp_path: Path) -> None:
    fake = FakeProvider()
    arguments = '{"text": "%s"}' % ("x" * 2**20)
    fake.script("g", Reply(tool_calls=[ToolCall(id="c1", name="write", arguments=arguments)]))
    disk = DiskLayer(tmp_path / "kept")
    with client_on([MemoryLayer(), disk], fake) as client:
        assert not client.complete("Hello").cached
        trace = client.complete("Hello").trace
        assert trace is not None
        assert (trace.cache, trace.cache_layer) == ("hit", "memory")
        assert disk.stats().entries == 0

"""The OpenAI provider against servers on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import openai
import pydantic
import pytest
from llmock.pytest_plugin import LLMock

from providers.servers import Caller, Canned, asked, said_events, said_json, took
from tierllm.errors import (
    AuthenticationError,
    ConfigError,
    ContentFilteredError,
    ContextWindowExceededError,
    DeadlineExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    UsageError,
)
from tierllm.pipeline.scope import Cancelled
from tierllm.providers.openai import OpenAI
from tierllm.types import Chunk, Timeouts, ToolCall, Usage

At = Callable[..., OpenAI]


def completion(content: object = "hi", finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, **message}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m-2026",
        "choices": [{"index": 0, "message": said, "finish_reason": finish}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def event(finish: str | None = None, *, usage: object = None, **delta: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": "m-2026",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        "usage": usage,
    }


USAGE = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "choices": [],
    "service_tier": "priority",
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
}


# -- answers ------------------------------------------------------------------------


def test_an_answer_comes_back_in_every_form(mock: LLMock, caller: Caller, form: str, openai_at: At) -> None:
    mock.reply("All is well.")
    answer = caller.ask(openai_at(mock.base_url()), form)
    assert answer.text == "All is well."
    assert answer.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.output_tokens > 0
    assert answer.model == "gpt-5-mini"
    assert answer.request_id
    assert answer.message == {"role": "assistant", "content": "All is well."}


def test_tool_calls_are_put_together(mock: LLMock, caller: Caller, form: str, openai_at: At) -> None:
    mock.call_tool("weather", {"city": "Paris", "days": 3})
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    answer = caller.ask(openai_at(mock.base_url()), form, tools=[tool], tool_choice="auto")
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.tool_calls
    assert (call.index, call.name, call.parsed()) == (0, "weather", {"city": "Paris", "days": 3})
    assert mock.last_request.body["tools"] == [tool]


def test_usage_details_arrive(canned: Canned, caller: Caller, form: str, openai_at: At) -> None:
    if form == "stream":
        canned.say(said_events(event(role="assistant"), event(content="hi"), event("stop"), USAGE))
    else:
        canned.say(said_json({**completion(), **{k: USAGE[k] for k in ("usage", "service_tier")}}))
    answer = caller.ask(openai_at(canned.base_url), form)
    assert answer.usage == Usage(
        input_tokens=10,
        output_tokens=7,
        cached_input_tokens=4,
        cache_write_tokens=1,
        reasoning_tokens=5,
        service_tier="priority",
    )


def test_the_last_chunk_has_reason_and_usage_and_empty_ones_are_dropped(
    canned: Canned, caller: Caller, openai_at: At
) -> None:
    canned.say(said_events(event(role="assistant", content=""), event(content="hi"), event("stop"), USAGE))
    chunks: list[Chunk] = []
    call, scope = asked(streaming=True)
    caller.stream(openai_at(canned.base_url), call, scope, chunks.append)
    assert [(c.text, c.finish_reason, c.usage is not None) for c in chunks] == [
        ("hi", None, False),
        ("", "stop", True),
    ]
    assert scope.model == "m-2026"
    assert canned.bodies[0]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("done", [True, False])
def test_a_server_may_report_no_usage(canned: Canned, caller: Caller, openai_at: At, done: bool) -> None:
    canned.say(said_events(event(content="hi"), event("length"), done=done))
    answer = caller.ask(openai_at(canned.base_url, stream_usage=False), "stream")
    assert (answer.text, answer.finish_reason, answer.usage) == ("hi", "length", None)
    assert "stream_options" not in canned.bodies[0]


def test_a_whole_answer_survives_the_loss_of_its_usage(
    canned: Canned, caller: Caller, openai_at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tierllm.providers.openai_chat.USAGE_PATIENCE_S", 0.1)
    canned.say(said_events(event(content="hi"), event("stop"), 1.0, USAGE))
    began = time.monotonic()
    answer = caller.ask(openai_at(canned.base_url), "stream")
    assert (answer.finish_reason, answer.usage) == ("stop", None)
    assert time.monotonic() - began < 0.9


def test_usage_may_come_with_the_finish(canned: Canned, caller: Caller, openai_at: At) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "prompt_cache_hit_tokens": 1}
    canned.say(said_events(event(content="hi"), event("stop", usage=usage)))
    answer = caller.ask(openai_at(canned.base_url), "stream")
    assert answer.usage == Usage(input_tokens=1, output_tokens=1, cached_input_tokens=1)


NOTHING = {"prompt_tokens": 0, "completion_tokens": 0}
RUNNING = {"prompt_tokens": 10, "completion_tokens": 2}


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been sent is waited for, however busy the machine is."""
    monkeypatch.setattr("tierllm.providers.openai_chat.CORRECTION_PATIENCE_S", 5.0)
    monkeypatch.setattr("tierllm.providers.openai.DRAIN_S", 5.0)


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("running", [NOTHING, RUNNING])
@pytest.mark.parametrize("with_finish", [False, True])
def test_the_usage_after_the_finish_is_the_one_that_counts(
    canned: Canned, caller: Caller, openai_at: At, running: object, with_finish: bool
) -> None:
    finish = event("stop", usage=running if with_finish else None)
    canned.say(said_events(event(content="hi", usage=running), finish, 0.02, USAGE))
    answer = caller.ask(openai_at(canned.base_url), "stream")
    assert answer.usage is not None
    assert answer.usage.output_tokens == 7


def test_a_running_usage_is_better_than_none(canned: Canned, caller: Caller, openai_at: At) -> None:
    canned.say(said_events(event(content="hi", usage=RUNNING), event("stop")))
    answer = caller.ask(openai_at(canned.base_url), "stream")
    assert answer.usage == Usage(input_tokens=10, output_tokens=2)
    canned.say(said_events(event(content="hi", usage=NOTHING), event("stop")))
    assert caller.ask(openai_at(canned.base_url), "stream").usage is None


def test_a_stream_that_has_ended_is_not_waited_for(canned: Canned, openai_at: At) -> None:
    canned.say(said_events(event(content="hi"), event("stop"), done=False))
    provider = openai_at(canned.base_url)
    caller, times = Caller("sync"), []
    for _ in range(5):
        began = time.monotonic()
        caller.ask(provider, "stream")
        times.append(time.monotonic() - began)
    assert min(times) < 0.09
    assert canned.connections == 1


def test_usage_with_the_finish_is_not_waited_beyond_for_long(
    canned: Canned, caller: Caller, openai_at: At
) -> None:
    canned.say(said_events(event(content="hi"), event("stop", usage=RUNNING), 2.0))
    began = time.monotonic()
    answer = caller.ask(openai_at(canned.base_url), "stream")
    assert answer.usage == Usage(input_tokens=10, output_tokens=2)
    assert time.monotonic() - began < 1.5


def test_reasoning_of_compatible_servers(canned: Canned, caller: Caller, form: str, openai_at: At) -> None:
    if form == "stream":
        canned.say(
            said_events(
                event(reasoning_content="let "), event(reasoning="me"), event(content="ok"), event("stop")
            )
        )
    else:
        canned.say(said_json(completion("ok", reasoning_content="let me")))
    answer = caller.ask(openai_at(canned.base_url), form)
    assert (answer.reasoning, answer.text) == ("let me", "ok")


def test_tool_calls_of_careless_servers(canned: Canned, caller: Caller, openai_at: At) -> None:
    def call(**given: Any) -> dict[str, Any]:
        return {"type": "function", **given}

    first = call(id="a", function={"name": "f", "arguments": "{"})  # no index
    more = call(function={"arguments": "}"})
    second = call(id="b", function={"name": "g", "arguments": {"x": 1}})  # an object, not its text
    canned.say(said_events(event(tool_calls=[first]), event(tool_calls=[more, second]), event("tool_calls")))
    answer = caller.ask(openai_at(canned.base_url), "stream")
    assert answer.tool_calls == (ToolCall(0, "a", "f", "{}"), ToolCall(1, "b", "g", '{"x": 1}'))
    canned.say(said_json(completion(None, "tool_calls", tool_calls=[first, second])))
    whole = caller.ask(openai_at(canned.base_url), "complete")
    assert [(t.index, t.name) for t in whole.tool_calls] == [(0, "f"), (1, "g")]


def pieces(*given: tuple[str | None, str | None, int | None, str]) -> list[dict[str, Any]]:
    """One event for each piece: an id, a name, an index, arguments."""
    return [
        event(tool_calls=[{"id": i, "index": at, "function": {"name": name, "arguments": arguments}}])
        for i, name, at, arguments in given
    ]


@pytest.mark.parametrize(
    ("sent", "calls"),
    [
        (  # several calls under one index, each with an id of its own
            [("a", "f", 0, "{"), ("", None, 0, "}"), ("b", "g", 0, "["), (None, None, 0, "]")],
            [(0, "a", "f", "{}"), (1, "b", "g", "[]")],
        ),
        (  # the id again with each piece, and no index
            [("a", "f", None, "{"), ("a", None, None, "}"), ("b", "g", None, ""), ("a", "f", None, " ")],
            [(0, "a", "f", "{} "), (1, "b", "g", "")],
        ),
        (  # a new id with each piece
            [("a", "f", 0, "{"), ("b", None, 0, "}"), ("c", "g", 1, "[]")],
            [(0, "a", "f", "{}"), (1, "c", "g", "[]")],
        ),
        (  # as OpenAI has it, interleaved
            [("a", "f", 0, ""), ("b", "g", 1, "["), (None, None, 0, "{}"), (None, None, 1, "]")],
            [(0, "a", "f", "{}"), (1, "b", "g", "[]")],
        ),
        (  # no ids at all
            [(None, "f", 0, "{"), (None, None, 0, "}"), (None, "g", 1, "[]")],
            [(0, None, "f", "{}"), (1, None, "g", "[]")],
        ),
    ],
)
def test_pieces_find_their_tool_call(
    canned: Canned, openai_at: At, sent: list[Any], calls: list[tuple[Any, ...]]
) -> None:
    canned.say(said_events(*pieces(*sent), event("tool_calls")))
    answer = Caller("sync").ask(openai_at(canned.base_url), "stream")
    assert answer.tool_calls == tuple(ToolCall(*call) for call in calls)


def test_calls_of_custom_tools(canned: Canned, caller: Caller, form: str, openai_at: At) -> None:
    def call(given: str, **names: Any) -> dict[str, Any]:
        return {"index": 0, "type": "custom", **names, "custom": {"input": given}}

    first = call("SELECT ", id="a")
    first["custom"]["name"] = "sql"
    if form == "stream":
        sent = (event(tool_calls=[first]), event(tool_calls=[call("1")]), event("tool_calls"))
        canned.say(said_events(*sent))
    else:
        first["custom"]["input"] = "SELECT 1"
        canned.say(said_json(completion(None, "tool_calls", tool_calls=[first])))
    answer = caller.ask(openai_at(canned.base_url), form)
    assert answer.tool_calls == (ToolCall(0, "a", "sql", "SELECT 1"),)


def test_content_in_parts_and_other_choices(canned: Canned, caller: Caller, openai_at: At) -> None:
    other = event(content="NO")
    other["choices"][0]["index"] = 1
    canned.say(
        said_events(event(content=[{"type": "text", "text": "yes"}]), other, event("stop"), ": hi\n\n")
    )
    assert caller.ask(openai_at(canned.base_url), "stream").text == "yes"


def test_rate_limit_headers_and_request_id(canned: Canned, caller: Caller, form: str, openai_at: At) -> None:
    headers = {"x-request-id": "req_9", "X-RateLimit-Remaining-Tokens": "99", "x-other": "no"}
    if form == "stream":
        canned.say(said_events(event(content="hi"), event("stop"), **headers))
    else:
        canned.say(said_json(completion(), **headers))
    call, scope = asked(streaming=form == "stream")
    provider = openai_at(canned.base_url)
    answer = (caller.stream if form == "stream" else caller.complete)(provider, call, scope)
    assert answer.request_id == "req_9"
    assert scope.headers == {"x-ratelimit-remaining-tokens": "99"}


# -- requests -----------------------------------------------------------------------


def test_parameters_go_out_as_given(canned: Canned, openai_at: At) -> None:
    canned.say(said_json(completion()))
    Caller("sync").ask(
        openai_at(canned.base_url),
        "complete",
        max_tokens=9,
        temperature=0.5,
        stop=["x"],
        seed=7,
        reasoning_effort="low",
        top_k=3,
        presence_penalty=None,
        extra={"service_tier": "flex", "seed": 8, "min_p": 0.1, "extra_headers": {"x-mine": "yes"}},
    )
    assert canned.bodies[0] == {
        "messages": [{"role": "user", "content": "hello"}],
        "model": "gpt-5-mini",
        "max_tokens": 9,
        "temperature": 0.5,
        "stop": ["x"],
        "seed": 8,
        "reasoning_effort": "low",
        "service_tier": "flex",
        "top_k": 3,
        "min_p": 0.1,
    }
    assert canned.headers[0]["x-mine"] == "yes"
    assert canned.headers[0]["authorization"] == "Bearer test-key"


def test_extra_cannot_take_over_what_tierllm_sets(canned: Canned, openai_at: At) -> None:
    with pytest.raises(ConfigError, match="model, timeout"):
        Caller("sync").ask(openai_at(canned.base_url), "complete", extra={"timeout": 1, "model": "x"})
    assert canned.bodies == []


@pytest.mark.parametrize("name", ["model", "messages", "stream", "stream_options", "timeout", "api_key"])
def test_nor_can_parameters(canned: Canned, caller: Caller, form: str, openai_at: At, name: str) -> None:
    call, scope = asked(streaming=form == "stream")
    call.params = {name: "x"}
    with pytest.raises(ConfigError, match=f"parameters cannot set {name}"):
        (caller.stream if form == "stream" else caller.complete)(openai_at(canned.base_url), call, scope)
    with pytest.raises(ConfigError, match="extra_body"):
        caller.ask(openai_at(canned.base_url), form, extra={"extra_body": {"stream": True}})
    assert canned.bodies == []


def test_stream_options_of_ones_own_keep_the_usage(
    canned: Canned, caller: Caller, form: str, openai_at: At
) -> None:
    streaming = form == "stream"
    canned.say(said_events(event("stop"), USAGE) if streaming else said_json(completion()))
    own = {"include_obfuscation": False, "include_usage": False}
    caller.ask(openai_at(canned.base_url), form, extra={"stream_options": own})
    sent = {"include_obfuscation": False, "include_usage": True} if streaming else None
    assert canned.bodies[0].get("stream_options") == sent


@pytest.mark.parametrize(
    ("base_url", "chosen", "sent"),
    [
        (None, None, "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", None, "max_completion_tokens"),
        ("https://llm.example/v1", None, "max_tokens"),
        ("https://llm.example/v1", "max_completion_tokens", "max_completion_tokens"),
    ],
)
def test_the_name_of_max_tokens(base_url: str | None, chosen: Any, sent: str) -> None:
    provider = OpenAI("k", base_url=base_url, max_tokens_param=chosen)
    call, scope = asked(max_tokens=5)
    fields = provider._fields(call, scope)
    assert fields[sent] == 5
    assert len({"max_tokens", "max_completion_tokens"} & fields.keys()) == 1


class City(pydantic.BaseModel):
    name: str
    people: int


def test_a_model_class_is_sent_as_a_strict_schema_and_parsed(canned: Canned, openai_at: At) -> None:
    canned.say(said_json(completion('{"name": "Bern", "people": 1}')))
    answer = Caller("sync").ask(openai_at(canned.base_url), "complete", response_format=City)
    assert answer.parsed == City(name="Bern", people=1)
    sent = canned.bodies[0]["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["name"] == "City"
    assert sent["json_schema"]["strict"] is True
    assert sent["json_schema"]["schema"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("text", "wanted", "parsed"),
    [
        ('{"a": 1}', {"type": "json_object"}, {"a": 1}),
        ('{"a": 1', {"type": "json_object"}, None),
        ('{"a": 1}', {"type": "text"}, None),
        ('{"name": "Bern"}', City, None),
    ],
)
def test_parsed_is_none_where_the_answer_does_not_fit(
    canned: Canned, openai_at: At, text: str, wanted: Any, parsed: Any
) -> None:
    canned.say(said_json(completion(text)))
    answer = Caller("sync").ask(openai_at(canned.base_url), "complete", response_format=wanted)
    assert (answer.text, answer.parsed) == (text, parsed)


def test_what_cannot_be_sent_is_the_requests_fault(canned: Canned, caller: Caller, openai_at: At) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        caller.ask(openai_at(canned.base_url), "complete", metadata={"key": object()})
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(ConfigError, match="pydantic"):
        caller.ask(openai_at(canned.base_url), "complete", response_format=int)


# -- failures -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, InvalidRequestError, False),
        (401, AuthenticationError, False),
        (403, AuthenticationError, False),
        (404, AuthenticationError, False),
        (408, ProviderTimeoutError, True),
        (409, ProviderUnavailableError, True),
        (413, ContextWindowExceededError, False),
        (422, InvalidRequestError, False),
        (429, RateLimitError, True),
        (500, ProviderUnavailableError, True),
        (503, ProviderUnavailableError, True),
        (529, ProviderUnavailableError, True),
    ],
)
def test_statuses(
    mock: LLMock, caller: Caller, openai_at: At, status: int, kind: type, retryable: bool
) -> None:
    mock.fail(status, message="you said: hello", retry_after=2.0)
    with pytest.raises(kind) as caught:
        caller.ask(openai_at(mock.base_url()), "complete")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.retryable, error.retry_after_s) == (status, retryable, 2.0)
    assert "you said" not in str(error)
    assert error.detail == "you said: hello"
    assert isinstance(error.__cause__, openai.APIStatusError)
    assert len(mock.requests) == 1, "the SDK's own retries are off"


def test_statuses_before_a_stream(mock: LLMock, caller: Caller, openai_at: At) -> None:
    mock.rate_limit(retry_after=1.5)
    with pytest.raises(RateLimitError) as caught:
        caller.ask(openai_at(mock.base_url()), "stream")
    assert caught.value.retry_after_s == 1.5


def test_a_full_context_and_spent_quota(mock: LLMock, caller: Caller, form: str, openai_at: At) -> None:
    mock.context_overflow()
    with pytest.raises(ContextWindowExceededError):
        caller.ask(openai_at(mock.base_url()), form)
    mock.fail(429, code="insufficient_quota")
    with pytest.raises(AuthenticationError) as caught:
        caller.ask(openai_at(mock.base_url()), form)
    assert not caught.value.retryable


def test_streams_that_break(mock: LLMock, caller: Caller, openai_at: At) -> None:
    provider = openai_at(mock.base_url())
    mock.truncate(after_chunks=2)
    with pytest.raises(ProviderUnavailableError, match="ended before"):
        caller.ask(provider, "stream")
    mock.corrupt(after_chunks=2)
    with pytest.raises(MalformedResponseError):
        caller.ask(provider, "stream")
    mock.disconnect(after_chunks=2)
    with pytest.raises(ProviderUnavailableError):
        caller.ask(provider, "stream")


def test_an_error_inside_a_stream(canned: Canned, caller: Caller, openai_at: At) -> None:
    told = {"error": {"message": "hello? no.", "type": "server_error", "code": "overloaded"}}
    canned.say(said_events(event(content="he"), told, **{"x-request-id": "req_1"}))
    with pytest.raises(ProviderUnavailableError) as caught:
        caller.ask(openai_at(canned.base_url), "stream")
    assert str(caught.value) == "openai reported an error (overloaded, server_error)"
    assert caught.value.request_id == "req_1"
    limited = {"error": {"message": "slow down", "code": 429}}
    canned.say(said_events(event(content="he"), limited))
    with pytest.raises(RateLimitError):
        caller.ask(openai_at(canned.base_url), "stream")


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "upstream said no"}},
        {"id": "x", "object": "chat.completion", "choices": []},
        {"id": "x", "choices": None},
        {"choices": [{"index": 0, "finish_reason": "stop"}]},
        [],
        completion(finish=None),
    ],
)
def test_answers_that_are_none(canned: Canned, caller: Caller, openai_at: At, body: object) -> None:
    canned.say(said_json(body))
    with pytest.raises(MalformedResponseError):
        caller.ask(openai_at(canned.base_url), "complete")


def test_a_whole_answer_where_a_stream_was_asked_for(canned: Canned, caller: Caller, openai_at: At) -> None:
    canned.say(said_json(completion()))
    with pytest.raises(MalformedResponseError, match="stream"):
        caller.ask(openai_at(canned.base_url), "stream")


@pytest.mark.parametrize("piece", [[1], 5, None, "data: \xff\n\n", {"choices": 3}, {"choices": [None]}])
def test_events_that_are_none(canned: Canned, caller: Caller, openai_at: At, piece: object) -> None:
    canned.say(said_events(event(content="he"), piece, event(content="y"), event("stop")))
    with contextlib.suppress(MalformedResponseError):  # or they are passed over
        assert caller.ask(openai_at(canned.base_url), "stream").text == "hey"


def test_filtered_and_refused_answers(canned: Canned, caller: Caller, form: str, openai_at: At) -> None:
    filtered = [event(content="he"), event("content_filter"), USAGE]
    refused = [event(refusal="I can"), event(refusal="not"), event("stop"), USAGE]
    streaming = form == "stream"
    canned.say(said_events(*filtered) if streaming else said_json(completion("he", "content_filter")))
    call, scope = asked(streaming=streaming)
    provider = openai_at(canned.base_url)
    with pytest.raises(ContentFilteredError):
        (caller.stream if streaming else caller.complete)(provider, call, scope)
    assert scope.usage is not None, "it was paid for"
    canned.say(said_events(*refused) if streaming else said_json(completion(None, refusal="I cannot")))
    with pytest.raises(ContentFilteredError) as caught:
        caller.ask(provider, form)
    assert caught.value.detail == "I cannot"
    assert caught.value.status == 200


def test_refused_connections(caller: Caller, form: str, openai_at: At) -> None:
    with pytest.raises(ProviderUnavailableError) as caught:
        caller.ask(openai_at("http://127.0.0.1:9/v1"), form)
    assert isinstance(caught.value.__cause__, openai.APIConnectionError)


# -- keys ---------------------------------------------------------------------------


def test_a_missing_key_is_said_before_anything_is_sent(
    caller: Caller, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        caller.ask(OpenAI(), form)


def test_local_servers_need_no_key(canned: Canned, openai_at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    canned.say(said_json(completion()))
    assert Caller("sync").ask(openai_at(canned.base_url, api_key=None), "complete").text == "hi"


OWN_HEADERS = ("openai-organization", "openai-project")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-the-environment")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-of-the-environment")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.mark.usefixtures("environment")
def test_the_environments_key_is_not_sent_elsewhere(canned: Canned, caller: Caller, openai_at: At) -> None:
    canned.say(said_json(completion()))
    caller.ask(openai_at(canned.base_url, api_key=None), "complete")
    caller.ask(openai_at(canned.base_url, organization="own"), "complete")
    nameless, named = canned.headers
    assert nameless["authorization"] == "Bearer none-needed"
    assert [nameless.get(name) for name in OWN_HEADERS] == [None, None]
    assert [named.get(name) for name in OWN_HEADERS] == ["own", None]
    for base_url in ("https://llm.example/v1", "https://openai.com.example/v1", "https://myopenai.com/v1"):
        with pytest.raises(ConfigError, match=r"pass OpenAI\(api_key=...\)") as caught:
            caller.ask(OpenAI(base_url=base_url), "complete")
        assert "sk-" not in str(caught.value)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("base_url", [None, "https://eu.api.openai.com/v1"])
def test_openai_itself_has_the_environments_key(base_url: str | None) -> None:
    provider = OpenAI(base_url=base_url)
    client = provider._clients.for_threads().client
    assert (client.api_key, client.organization) == ("sk-of-the-environment", "org-of-the-environment")
    provider.close()


def test_key_and_place_come_from_the_environment(
    canned: Canned, openai_at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", canned.base_url)
    canned.say(said_json(completion()))
    Caller("sync").ask(openai_at(), "complete")
    assert canned.headers[0]["authorization"] == "Bearer sk-of-the-environment"


def test_a_key_is_shown_nowhere(canned: Canned, openai_at: At) -> None:
    key = "sk-secret-123456"
    canned.say(said_json({"error": {"message": f"bad key {key}", "code": key, "param": key}}, 401))
    provider = openai_at(canned.base_url, api_key=key)
    with pytest.raises(AuthenticationError) as caught:
        Caller("sync").ask(provider, "complete")
    assert "secret" not in str(caught.value) + repr(caught.value) + repr(provider)
    assert "pass" not in repr(OpenAI("k", base_url="https://user:pass@llm.example/v1"))


# -- time ---------------------------------------------------------------------------


def test_stalls_end_in_time(mock: LLMock, caller: Caller, openai_at: At) -> None:
    provider = openai_at(mock.base_url())
    for after_chunks, phase in ((0, "first_token"), (3, "between_tokens")):
        mock.stall(after_chunks=after_chunks, seconds=1.0)
        limits = (
            Timeouts(**{f"{phase}_s": 0.2})
            if caller.mode == "sync"
            else Timeouts(first_token_s=0.2, between_tokens_s=0.2)
        )
        call, scope = asked(streaming=True, timeouts=limits)
        latest = time.monotonic()

        def seen(chunk: Chunk) -> None:
            nonlocal latest
            latest = time.monotonic()

        with pytest.raises(ProviderTimeoutError) as caught:
            caller.stream(provider, call, scope, seen)
        assert caught.value.phase == phase
        assert took(latest, 0.2)


@pytest.mark.parametrize("bound", ["total", "deadline"])
def test_slow_answers_end_in_time(mock: LLMock, caller: Caller, form: str, openai_at: At, bound: str) -> None:
    mock.delay(1.0)
    given: dict[str, Any] = {"timeouts": Timeouts(total_s=0.2)} if bound == "total" else {"deadline_s": 0.2}
    began = time.monotonic()
    with pytest.raises(ProviderTimeoutError if bound == "total" else DeadlineExceededError):
        caller.ask(openai_at(mock.base_url()), form, **given)
    assert took(began, 0.2)


def test_signs_of_life_do_not_move_the_bounds(canned: Canned, openai_at: At) -> None:
    alive: list[object] = [": still here\n\n", 0.04] * 20
    canned.say(said_events(*alive, event(content="late"), event("stop")))
    began = time.monotonic()
    with pytest.raises(ProviderTimeoutError) as caught:
        Caller("sync").ask(openai_at(canned.base_url), "stream", timeouts=Timeouts(first_token_s=0.2))
    assert caught.value.phase == "first_token"
    assert took(began, 0.2)


def test_no_wait_is_begun_when_time_is_up(canned: Canned, caller: Caller, form: str, openai_at: At) -> None:
    with pytest.raises(DeadlineExceededError):
        caller.ask(openai_at(canned.base_url), form, deadline_s=-1.0)
    assert canned.bodies == []


@pytest.mark.parametrize("bound", ["deadline", "connect"])
def test_a_resolver_that_hangs_ends_in_time(
    form: str, openai_at: At, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: let_go.wait() and [])
    provider = openai_at("http://llm.example/v1")
    provider._clients.for_threads()
    given: dict[str, Any] = (
        {"timeouts": Timeouts(connect_s=0.2)} if bound == "connect" else {"deadline_s": 0.2}
    )
    with pytest.raises(ProviderTimeoutError if bound == "connect" else DeadlineExceededError) as caught:
        Caller("sync").ask(provider, form, **given)
    assert getattr(caught.value, "phase", "connect") == "connect"
    let_go.set()


# -- cancellation -------------------------------------------------------------------


def cancelled_after(seconds: float, ask: Callable[[], object], scope: Any) -> float:
    """How long ``ask`` takes to notice that its scope was cancelled ``seconds`` from now."""
    timer = threading.Timer(seconds, scope.scope.cancel)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        ask()
    timer.join()
    return time.monotonic() - began - seconds


def test_cancelling_wakes_a_blocked_read(mock: LLMock, form: str, openai_at: At) -> None:
    provider, caller = openai_at(mock.base_url()), Caller("sync")
    streaming = form == "stream"
    mock.stall(after_chunks=2, seconds=1.0) if streaming else mock.delay(1.0)
    call, scope = asked(streaming=streaming)
    ask = caller.stream if streaming else caller.complete
    assert cancelled_after(0.1, lambda: ask(provider, call, scope), scope) < 0.6
    assert scope.scope._hooks == []
    assert caller.ask(provider, form).text, "the provider goes on"


def test_a_cancelled_call_begins_nothing(canned: Canned, caller: Caller, form: str, openai_at: At) -> None:
    call, scope = asked(streaming=form == "stream")
    scope.scope.cancel()
    with pytest.raises(Cancelled):
        (caller.stream if form == "stream" else caller.complete)(openai_at(canned.base_url), call, scope)
    assert canned.bodies == []


def test_a_stream_may_change_threads(mock: LLMock, openai_at: At) -> None:
    mock.reply("one two three four").pace(5)
    call, scope = asked(streaming=True)
    chunks = openai_at(mock.base_url()).stream(call, scope)
    texts: list[str] = []

    def step() -> None:
        chunk = next(chunks, None)
        if chunk is not None:
            texts.append(chunk.text)

    for _ in range(8):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert "".join(texts) == "one two three four"


def test_a_cancelled_task_gives_its_connection_back(mock: LLMock, openai_at: At) -> None:
    provider = openai_at(mock.base_url())

    async def leave_in_the_middle() -> None:
        mock.stall(after_chunks=2, seconds=1.0)
        call, scope = asked(streaming=True)

        async def consume() -> None:
            async for _ in provider.astream(call, scope):
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (looped,) = provider._clients._looped.values()
        assert looped.client._client._transport._pool.connections == []
        await provider.aclose()

    asyncio.run(leave_in_the_middle())


def test_leaving_a_stream_early_frees_its_connection(mock: LLMock, openai_at: At) -> None:
    provider = openai_at(mock.base_url())
    call, scope = asked(streaming=True)
    chunks = provider.stream(call, scope)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert provider._clients.for_threads().client._client._transport._pool.connections == []


# -- clients and loops --------------------------------------------------------------


@pytest.mark.usefixtures("unhurried")
def test_connections_are_used_again(canned: Canned, caller: Caller, form: str, openai_at: At) -> None:
    provider = openai_at(canned.base_url)
    replies = [said_json(completion())]
    if form == "stream":  # usage after the finish, with it, or not at all
        ends = ((event("stop"), USAGE), (event("stop", usage=RUNNING),), (event("stop"),))
        replies = [said_events(event(content="hi"), *end) for end in ends]
    for reply in replies:
        canned.say(reply)
        for _ in range(2):
            caller.ask(provider, form)
    assert canned.connections == 1


@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI])
def test_a_client_of_ones_own_serves_both_modes(
    canned: Canned, caller: Caller, form: str, openai_at: At, kind: Any
) -> None:
    canned.say(
        said_events(event(content="hi"), event("stop")) if form == "stream" else said_json(completion())
    )
    own = kind(api_key="own-key", base_url=canned.base_url, default_headers={"x-own": "1"})
    provider = openai_at(client=own)
    assert caller.ask(provider, form).text == "hi"
    assert canned.headers[0]["authorization"] == "Bearer own-key"
    assert canned.headers[0]["x-own"] == "1"
    canned.say(said_json({}, 503))
    with pytest.raises(ProviderUnavailableError):
        caller.ask(provider, form)
    assert len(canned.bodies) == 2, "without its retries"
    provider.close()
    assert not own.is_closed()
    if caller.runner is not None and kind is openai.AsyncOpenAI:
        caller.runner.run(own.close())
    elif kind is openai.OpenAI:
        own.close()


def test_cancelling_a_stream_of_ones_own_client(mock: LLMock, openai_at: At) -> None:
    with openai.OpenAI(api_key="k", base_url=mock.base_url()) as own:
        provider = openai_at(client=own)
        mock.stall(after_chunks=2, seconds=1.0)
        call, scope = asked(streaming=True)
        waited = cancelled_after(0.1, lambda: Caller("sync").stream(provider, call, scope), scope)
        assert waited < 0.6
        mock.stall(after_chunks=2, seconds=1.0)
        with pytest.raises(ProviderTimeoutError):
            Caller("sync").ask(provider, "stream", timeouts=Timeouts(first_token_s=0.2, between_tokens_s=0.2))


def test_clients_that_cannot_be_used() -> None:
    own = openai.OpenAI(api_key="k")
    with pytest.raises(ConfigError, match="base_url"):
        OpenAI(client=own, base_url="https://llm.example")
    for wrong in ({"client": "gpt"}, {"async_client": own}):
        with pytest.raises(ConfigError):
            OpenAI(**wrong)  # type: ignore[arg-type]
    azure = openai.AzureOpenAI(api_key="k", azure_endpoint="https://a.example", api_version="1")
    call, scope = asked()
    with pytest.raises(ConfigError, match="async_client"):
        asyncio.run(OpenAI(client=azure).acomplete(call, scope))
    own.close()
    azure.close()


def test_a_client_of_ones_own_serves_every_loop(canned: Canned, openai_at: At) -> None:
    canned.say(said_json(completion()))
    where = {"azure_endpoint": canned.base_url.removesuffix("/v1"), "api_version": "1", "api_key": "own-key"}
    own = openai.AsyncAzureOpenAI(**where, default_headers={"x-own": "1"})  # type: ignore[call-overload]
    provider = openai_at(async_client=own)
    clients: list[Any] = []

    async def ask() -> None:
        call, scope = asked()
        assert (await provider.acomplete(call, scope)).text == "hi"
        clients.extend(one.client for one in provider._clients._looped.values())

    with asyncio.Runner() as first, asyncio.Runner() as second:
        for runner in (first, second, first):
            runner.run(ask())
        home = clients[0]
        moved = next(client for client in clients if client is not home)
        assert type(moved) is openai.AsyncAzureOpenAI
        assert moved._client is not own._client
        second.close()
        assert moved.is_closed()
        assert not own.is_closed()
        first.run(own.close())
    assert [headers["api-key"] for headers in canned.headers] == ["own-key"] * 3
    assert [headers["x-own"] for headers in canned.headers] == ["1"] * 3


def test_a_transport_of_ones_own_is_never_left_out(canned: Canned, openai_at: At) -> None:
    canned.say(said_json(completion()))
    seen: list[object] = []

    async def hook(request: object) -> None:
        seen.append(request)

    http_client = openai.DefaultAsyncHttpxClient(event_hooks={"request": [hook]})
    own = openai.AsyncOpenAI(api_key="k", base_url=canned.base_url, http_client=http_client)
    provider = openai_at(client=own)
    call, _ = asked()
    with asyncio.Runner() as first:
        for _ in range(2):
            first.run(provider.acomplete(call, asked()[1]))
        with pytest.raises(ConfigError, match="one event loop"):
            asyncio.run(provider.acomplete(call, asked()[1]))
        with pytest.raises(ConfigError, match=r"http_client .*pass client= as well"):
            provider.complete(call, asked()[1])
        first.run(own.close())
    assert len(seen) == len(canned.bodies) == 2


def test_a_client_whose_key_changes_has_no_counterpart() -> None:
    own = openai.OpenAI(api_key=lambda: "token")
    own.api_key = "token"  # as after its first request
    call, scope = asked()
    with pytest.raises(ConfigError, match=r"fixed API key .*async_client="):
        asyncio.run(OpenAI(client=own).acomplete(call, scope))
    own.close()


def test_each_loop_has_its_own_client_and_closes_it(canned: Canned, openai_at: At) -> None:
    canned.say(said_json(completion()))
    provider = openai_at(canned.base_url)
    clients = []

    async def ask() -> None:
        call, scope = asked()
        await provider.acomplete(call, scope)
        (looped,) = provider._clients._looped.values()
        clients.append(looped.client)

    for _ in range(2):
        asyncio.run(ask())
    assert clients[0] is not clients[1]
    assert all(client.is_closed() for client in clients)
    assert provider._clients._looped == {}


@pytest.mark.parametrize("how", ["close", "aclose"])
def test_closing_closes_the_client_of_a_running_loop(canned: Canned, openai_at: At, how: str) -> None:
    canned.say(said_json(completion()))
    provider = openai_at(canned.base_url)

    async def ask() -> None:
        call, scope = asked()
        await provider.acomplete(call, scope)
        (looped,) = provider._clients._looped.values()
        if how == "aclose":
            await provider.aclose()
        else:
            await asyncio.to_thread(provider.close)
            async with asyncio.timeout(5):
                while not looped.client.is_closed():
                    await asyncio.sleep(0.01)
        assert looped.client.is_closed()
        assert provider._clients._looped == {}

    asyncio.run(ask())


def test_closing_and_renewing(canned: Canned, openai_at: At) -> None:
    canned.say(said_json(completion()))
    provider, caller = openai_at(canned.base_url), Caller("sync")
    caller.ask(provider, "complete")
    first = provider._clients.for_threads().client
    provider.close()
    provider.close()
    assert first.is_closed()
    assert caller.ask(provider, "complete").text == "hi", "it opens again when used"
    second = provider._clients.for_threads().client
    provider.renew()
    assert not second.is_closed()
    assert provider._clients.for_threads().client is not second
    second.close()
    with pytest.raises(UsageError):
        json.dumps(provider.__reduce__())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_shares_no_connection(canned: Canned, openai_at: At) -> None:
    canned.say(said_json(completion()))
    provider, caller = openai_at(canned.base_url), Caller("sync")
    caller.ask(provider, "complete")
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if caller.ask(provider, "complete").text == "hi" else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    caller.ask(provider, "complete")
    assert canned.connections == 2, "the parent's is still its own"


def test_many_threads_share_one_provider(canned: Canned, openai_at: At) -> None:
    canned.say(said_events(event(content="hi"), event("stop"), USAGE))
    provider = openai_at(canned.base_url)
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda: texts.append(Caller("sync").ask(provider, "stream").text))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["hi"] * 16


def test_nothing_is_kept_alive_by_a_call(canned: Canned, openai_at: At) -> None:
    canned.say(said_json({}, 500))
    provider = openai_at(canned.base_url)
    call, scope = asked()
    with pytest.raises(ProviderUnavailableError):
        provider.complete(call, scope)
    gc.collect()
    assert provider._clients.for_threads().wire._bounds.scope is None  # type: ignore[union-attr]


# -- imports ------------------------------------------------------------------------


def test_the_sdk_is_imported_when_first_used() -> None:
    code = (
        "import sys, tierllm.providers.openai as o; o.OpenAI('k');"
        "sys.exit(any(m in sys.modules for m in ('openai', 'httpx2', 'httpx', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_sdk_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r'pip install "tierllm\[openai\]"'):
        Caller("sync").ask(OpenAI("k", base_url="https://llm.example"), "complete")

"""The shape of OpenAI's chat completions: requests made from calls, answers read from replies.

Nothing here waits or imports the SDK. Replies are read with care, since servers that only speak
like OpenAI leave fields out, add some of their own, or put ``null`` where a list belongs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import (
    ConfigError,
    ContentFilteredError,
    MalformedResponseError,
    ProviderUnavailableError,
)
from ..types import Chunk, Response, ToolCall, Usage
from .openai_tools import Places
from .parsing import parsed

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation
    from ..types import Call

__all__ = ["ChunkReader", "expect_stream", "read_answer", "refuse_ours", "request_fields", "usage_of"]

USAGE_PATIENCE_S = 2.0
"""How long an answer that is whole waits for its usage."""

CORRECTION_PATIENCE_S = 0.1
"""How long it waits when usage came with the finish: some servers send the full count after that."""

_OURS = frozenset(
    {"model", "messages", "stream", "timeout", "api_key", "base_url", "http_client", "max_retries"}
)
_BY_NAME = frozenset({"extra_headers", "extra_query", "extra_body"})


# -- requests -----------------------------------------------------------------------


def request_fields(
    call: Call,
    vendor: str,
    *,
    known: Collection[str],
    max_tokens_param: str,
    stream: bool = False,
    stream_usage: bool = False,
) -> dict[str, Any]:
    """The arguments for the SDK's ``chat.completions.create``, without ``timeout``.

    Parameters that are ``None`` are left out; the caller's ``extra`` for this vendor comes last.
    Whatever is not in ``known`` goes into the body as it is (``extra_body``).
    """
    refuse_ours(call, vendor)
    extra = call.options(vendor)
    fields = {name: value for name, value in call.params.items() if value is not None}
    if "max_tokens" in fields:
        fields[max_tokens_param] = fields.pop("max_tokens")
    fields.update(extra)
    if isinstance(fields.get("response_format"), type):
        fields["response_format"] = _schema_of(fields["response_format"])
    options = fields.pop("stream_options", None) or {}
    if stream and stream_usage:
        options = {**options, "include_usage": True}
    if stream and options:
        fields["stream_options"] = options
    body = {n: fields.pop(n) for n in tuple(fields) if n not in known and n not in _BY_NAME}
    if body:
        fields["extra_body"] = {**body, **(fields.get("extra_body") or {})}
    fields["model"] = call.model
    fields["messages"] = [dict(m) for m in call.messages]
    if stream:
        fields["stream"] = True
    return fields


def refuse_ours(call: Call, vendor: str, *, also: Collection[str] = ()) -> None:
    """Raise ``ConfigError`` where parameters or ``extra`` set what tierllm sets."""
    extra, ours = call.options(vendor), _OURS.union(also)
    body = extra.get("extra_body")
    for where, given, taken in (
        ("parameters", call.params, ours | {"stream_options"}),
        (f"extra for {vendor!r}", extra, ours),
        (f"extra_body for {vendor!r}", body if isinstance(body, Mapping) else {}, ours),
    ):
        clash = sorted(taken & given.keys())
        if clash:
            raise ConfigError(f"{where} cannot set {', '.join(clash)}: tierllm does")


def _schema_of(model: type) -> dict[str, Any]:
    """A pydantic model as a strict ``json_schema`` response format, by the SDK's own rules."""
    from openai import pydantic_function_tool

    if not hasattr(model, "model_json_schema"):
        raise ConfigError(f"response_format={model.__name__}: give a pydantic model class or a dict")
    schema = pydantic_function_tool(model)["function"]["parameters"]
    return {
        "type": "json_schema",
        "json_schema": {"name": model.__name__, "schema": schema, "strict": True},
    }


# -- whole answers ------------------------------------------------------------------


def read_answer(completion: Any, call: Call, scope: Invocation, vendor: str) -> Response:
    """The first choice of a chat completion. Raises ``ProviderError`` kinds where there is none."""
    scope.raw = completion
    scope.model = _text(completion, "model") or None
    scope.request_id = scope.request_id or _text(completion, "id") or None
    scope.usage = usage_of(completion)
    choices = _get(completion, "choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = _get(choice, "message")
    if message is None:
        raise MalformedResponseError(
            f"{vendor} answered without a choice",
            status=200,
            request_id=scope.request_id,
            detail=_text(_get(completion, "error"), "message") or None,
        )
    finish = _text(choice, "finish_reason") or None
    _refuse(finish, _text(message, "refusal"), scope, vendor)
    text = _content(message)
    wanted = call.options(vendor).get("response_format", call.params.get("response_format"))
    return Response(
        text=text,
        reasoning=_reasoning(message),
        tool_calls=tuple(replace(t, index=i) for i, (_, t) in enumerate(_tool_calls(message))),
        parsed=parsed(text, wanted),
        finish_reason=finish,
        usage=scope.usage,
        model=scope.model or call.model,
        request_id=scope.request_id,
        raw=completion,
    )


def usage_of(reply: Any) -> Usage | None:
    """The tokens a completion or a chunk reports, if it does; no tokens at all are no report."""
    usage = _get(reply, "usage")
    if not _count(usage, "prompt_tokens") and not _count(usage, "completion_tokens"):
        return None
    prompt, completion = _get(usage, "prompt_tokens_details"), _get(usage, "completion_tokens_details")
    return Usage(
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        cached_input_tokens=_count(prompt, "cached_tokens") or _count(usage, "prompt_cache_hit_tokens"),
        cache_write_tokens=_count(prompt, "cache_write_tokens"),
        reasoning_tokens=_count(completion, "reasoning_tokens"),
        service_tier=_text(reply, "service_tier") or None,
    )


def _refuse(finish: str | None, refusal: str, scope: Invocation, vendor: str) -> None:
    """Raise for an answer that was refused, or that the vendor marks as failed."""
    data: dict[str, Any] = {"status": 200, "request_id": scope.request_id, "detail": refusal or None}
    if refusal:
        raise ContentFilteredError(f"{vendor}: the model refused to answer", **data)
    if finish == "content_filter":
        raise ContentFilteredError(f"{vendor}: the answer was stopped by the content filter", **data)
    if finish == "error":
        raise ProviderUnavailableError(f"{vendor}: the answer ended in an error", **data)


# -- streams ------------------------------------------------------------------------


def expect_stream(headers: Mapping[str, str], scope: Invocation, vendor: str) -> None:
    """Raise for a reply that came whole where a stream was asked for."""
    kind = headers.get("content-type", "").partition(";")[0].strip()
    if kind in ("application/json", "text/html"):
        raise MalformedResponseError(
            f"{vendor} did not answer with a stream", status=200, request_id=scope.request_id
        )


class ChunkReader:
    """Turns a vendor's stream events into chunks.

    The chunk with the finish reason is held back until the usage, which follows it, has come, or
    the stream has ended: ``last()`` gives it. ``complete`` says that nothing more is needed,
    ``patience_s`` how long the next event is worth waiting for. Usage from before the finish is a
    running count, good for want of a better one.
    """

    def __init__(self, scope: Invocation, vendor: str) -> None:
        self._scope = scope
        self._vendor = vendor
        self._refusal = ""
        self._usage: Usage | None = None
        self._finish_had_usage = False
        self._places = Places()
        self.finish_reason: str | None = None
        self.complete = False

    @property
    def patience_s(self) -> float | None:
        if self.finish_reason is None:
            return None
        return CORRECTION_PATIENCE_S if self._finish_had_usage else USAGE_PATIENCE_S

    def read(self, event: Any) -> Iterator[Chunk]:
        scope = self._scope
        scope.model = _text(event, "model") or scope.model
        scope.request_id = scope.request_id or _text(event, "id") or None
        usage, finished = usage_of(event), self.finish_reason is not None
        self._usage = usage or self._usage
        choices = _get(event, "choices")
        for choice in choices if isinstance(choices, list) else ():
            if _get(choice, "index") in (0, None):
                yield from self._choice(choice, event)
        if usage is not None:
            self.complete, self._finish_had_usage = finished, self.finish_reason is not None

    def _choice(self, choice: Any, event: Any) -> Iterator[Chunk]:
        delta = _get(choice, "delta")
        self._refusal += _text(delta, "refusal")
        text, reasoning = _content(delta), _reasoning(delta)
        if text or reasoning:
            yield Chunk(text, reasoning=reasoning, raw=event)
        for index, piece in _tool_calls(delta):
            place = self._places.find(piece.id, piece.name, index)
            yield Chunk(tool_call=replace(piece, index=place), raw=event)
        self.finish_reason = _text(choice, "finish_reason") or self.finish_reason

    def last(self) -> Iterator[Chunk]:
        """The last chunk, with finish reason and usage, if the answer did finish."""
        self._scope.usage = self._usage or self._scope.usage
        _refuse(self.finish_reason, self._refusal, self._scope, self._vendor)
        if self.finish_reason is not None:
            yield Chunk(finish_reason=self.finish_reason, usage=self._usage)


# -- reading with care --------------------------------------------------------------


def _get(part: Any, name: str) -> Any:
    return part.get(name) if type(part) is dict else getattr(part, name, None)


def _text(part: Any, name: str) -> str:
    value = _get(part, name)
    return value if isinstance(value, str) else ""


def _count(part: Any, name: str) -> int:
    value = _get(part, name)
    return value if isinstance(value, int) and value > 0 else 0


def _content(part: Any) -> str:
    content = _get(part, "content")
    if isinstance(content, list):  # some servers answer in parts
        return "".join(_text(piece, "text") for piece in content)
    return content if isinstance(content, str) else ""


def _reasoning(part: Any) -> str:
    return _text(part, "reasoning_content") or _text(part, "reasoning")


def _tool_calls(part: Any) -> Iterator[tuple[int | None, ToolCall]]:
    """The tool calls, or pieces of them, in a message or delta, each with the index it came under.

    Of a custom tool's call the free text of its input is the ``arguments``.
    """
    pieces = _get(part, "tool_calls")
    for piece in pieces if isinstance(pieces, list) else ():
        function, custom = _get(piece, "function"), _get(piece, "custom")
        if function is None and custom is None:
            continue
        arguments = _get(function, "arguments") or _get(custom, "input") or ""
        if not isinstance(arguments, str):  # some servers send an object
            arguments = json.dumps(arguments)
        name = _text(function, "name") or _text(custom, "name") or None
        index = _get(piece, "index")
        call = ToolCall(id=_text(piece, "id") or None, name=name, arguments=arguments)
        yield index if isinstance(index, int) else None, call

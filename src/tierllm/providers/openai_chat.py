"""The shape of OpenAI's chat completions: requests made from calls, answers read from replies.

Nothing here waits or imports the SDK. Replies are read with care, since servers that only speak
like OpenAI leave fields out, add some of their own, or put ``null`` where a list belongs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import (
    ConfigError,
    ContentFilteredError,
    MalformedResponseError,
    ProviderUnavailableError,
)
from ..types import Chunk, Response, ToolCall, Usage
from .parsing import parsed

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation
    from ..types import Call

__all__ = ["ChunkReader", "expect_stream", "read_answer", "request_fields", "usage_of"]

USAGE_PATIENCE_S = 2.0
"""How long an answer that is whole waits for its usage."""

_OURS = frozenset({"model", "messages", "stream", "timeout"})
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
    extra = call.options(vendor)
    clash = sorted(_OURS & extra.keys())
    if clash:
        raise ConfigError(f"extra for {vendor!r} cannot set {', '.join(clash)}: tierllm does")
    fields = {name: value for name, value in call.params.items() if value is not None}
    if "max_tokens" in fields:
        fields[max_tokens_param] = fields.pop("max_tokens")
    fields.update(extra)
    if isinstance(fields.get("response_format"), type):
        fields["response_format"] = _schema_of(fields["response_format"])
    if stream and stream_usage:
        fields["stream_options"] = {"include_usage": True, **(fields.get("stream_options") or {})}
    body = {n: fields.pop(n) for n in tuple(fields) if n not in known and n not in _BY_NAME}
    if body:
        fields["extra_body"] = {**body, **(fields.get("extra_body") or {})}
    fields["model"] = call.model
    fields["messages"] = [dict(m) for m in call.messages]
    if stream:
        fields["stream"] = True
    return fields


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
        tool_calls=tuple(ToolCall(i, t.id, t.name, t.arguments) for i, t in enumerate(_tool_calls(message))),
        parsed=parsed(text, wanted),
        finish_reason=finish,
        usage=scope.usage,
        model=scope.model or call.model,
        request_id=scope.request_id,
        raw=completion,
    )


def usage_of(reply: Any) -> Usage | None:
    """The tokens a completion or a chunk reports, if it does."""
    usage = _get(reply, "usage")
    if usage is None:
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
    ``patience_s`` how long the next event is worth waiting for.
    """

    def __init__(self, scope: Invocation, vendor: str) -> None:
        self._scope = scope
        self._vendor = vendor
        self._refusal = ""
        self._usage: Usage | None = None
        self._tool_calls = -1
        self.finish_reason: str | None = None

    @property
    def complete(self) -> bool:
        return self.finish_reason is not None and self._usage is not None

    @property
    def patience_s(self) -> float | None:
        return None if self.finish_reason is None else USAGE_PATIENCE_S

    def read(self, event: Any) -> Iterator[Chunk]:
        scope = self._scope
        scope.model = _text(event, "model") or scope.model
        scope.request_id = scope.request_id or _text(event, "id") or None
        self._usage = usage_of(event) or self._usage
        choices = _get(event, "choices")
        for choice in choices if isinstance(choices, list) else ():
            if _get(choice, "index") in (0, None):
                yield from self._choice(choice, event)

    def _choice(self, choice: Any, event: Any) -> Iterator[Chunk]:
        delta = _get(choice, "delta")
        self._refusal += _text(delta, "refusal")
        text, reasoning = _content(delta), _reasoning(delta)
        if text or reasoning:
            yield Chunk(text, reasoning=reasoning, raw=event)
        for piece in _tool_calls(delta, self._tool_calls):
            self._tool_calls = max(self._tool_calls, piece.index)
            yield Chunk(tool_call=piece, raw=event)
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


def _tool_calls(part: Any, latest: int = -1) -> Iterator[ToolCall]:
    """The tool calls, or pieces of them, in a message or delta; ``latest`` is the last index seen.

    Where a server leaves the index out, a piece with an id begins a call and others go on with it.
    """
    pieces = _get(part, "tool_calls")
    for piece in pieces if isinstance(pieces, list) else ():
        function = _get(piece, "function")
        if function is None:
            continue
        call_id, index = _text(piece, "id") or None, _get(piece, "index")
        latest = index if isinstance(index, int) else max(0, latest + bool(call_id))
        arguments = _get(function, "arguments") or ""
        if not isinstance(arguments, str):  # some servers send an object
            arguments = json.dumps(arguments)
        yield ToolCall(latest, call_id, _text(function, "name") or None, arguments)

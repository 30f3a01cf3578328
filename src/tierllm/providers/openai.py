"""OpenAI, and every server that speaks its chat completions: Azure, vLLM, llama.cpp, Ollama, …"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, closing, nullcontext
from importlib import import_module
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from ..errors import ConfigError, InvalidRequestError, TierLLMError
from ..pipeline.scope import Cancelled
from .base import BaseProvider
from .limits import rate_limits
from .openai_chat import ChunkReader, not_a_stream, read_answer, request_fields
from .sockets import Wire, hung_up_on_cancel
from .translate import translate

if TYPE_CHECKING:
    import openai

    from ..pipeline.scope import Invocation
    from ..types import Call, Chunk, Response

__all__ = ["OpenAI"]

TAIL_S = 2.0
"""How long an answer that is complete waits for its usage."""
DRAIN_S = 0.1
"""How long a stream that is complete waits for its end, to keep the connection."""
KEPT_CONNECTIONS, KEPT_S = 256, 30.0
"""Idle connections kept for reuse. Open ones are not limited here: that is for pools of tierllm."""

_END = object()
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - compared, not bound to


class OpenAI(BaseProvider):
    """OpenAI's chat completions, through the ``openai`` SDK: ``pip install "tierllm[openai]"``.

    ``api_key`` and ``base_url`` default to ``OPENAI_API_KEY`` and ``OPENAI_BASE_URL``. ``client``
    is an SDK client of your own, sync or async (``async_client`` where you have both); it is used
    as it is, but without its retries, and never closed. ``stream_usage=False`` is for servers that
    refuse ``stream_options``. ``max_tokens_param`` is the name that ``max_tokens`` is sent under:
    by default ``max_completion_tokens`` at OpenAI and ``max_tokens`` elsewhere.

    ``name`` is the vendor's name in messages and in ``extra={name: {...}}``, whose entries are
    passed to the SDK last. Threads, tasks and event loops may share one provider: it holds one
    SDK client for threads and one per event loop, each made when first needed.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        client: openai.OpenAI | openai.AsyncOpenAI | None = None,
        async_client: openai.AsyncOpenAI | None = None,
        organization: str | None = None,
        project: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        stream_usage: bool = True,
        max_tokens_param: Literal["max_tokens", "max_completion_tokens"] | None = None,
        name: str = "openai",
    ) -> None:
        settings = {
            "api_key": api_key,
            "base_url": base_url,
            "organization": organization,
            "project": project,
            "default_headers": default_headers,
        }
        if _is_async(client):
            client, async_client = None, async_client or client  # type: ignore[assignment]
        given = client or async_client
        both = sorted(n for n, value in settings.items() if value is not None) if given is not None else ()
        if both:
            raise ConfigError(f"OpenAI(client=..., {', '.join(both)}=...): set {', '.join(both)} on the client")
        self.name = name
        self._settings = settings
        self._given, self._given_async = client, async_client
        self._stream_usage = stream_usage
        where = str(given.base_url) if given is not None else base_url or os.environ.get("OPENAI_BASE_URL")
        self._base_url = where or "https://api.openai.com/v1"
        self._host = urlsplit(self._base_url).hostname or ""
        official = self._host.endswith("api.openai.com")
        self._max_tokens_param = max_tokens_param or ("max_completion_tokens" if official else "max_tokens")
        self.renew()

    def __repr__(self) -> str:  # never the key, nor one in the URL
        return f"OpenAI(host={self._host!r}, name={self.name!r})"

    # -- calls -----------------------------------------------------------------

    def complete(self, call: Call, scope: Invocation) -> Response:
        sdk = self._for_threads()
        with _Watch(scope, self.name, sdk.wire):
            raw = sdk.create(**self._fields(call, scope, wired=sdk.wire is not None))
            _note(raw.headers, scope)
            completion = raw.parse()
        return read_answer(completion, call, scope, self.name)

    async def acomplete(self, call: Call, scope: Invocation) -> Response:
        sdk = await self._for_this_loop()
        with _Watch(scope, self.name):
            raw = await sdk.create(**self._fields(call, scope))
            _note(raw.headers, scope)
            completion = raw.parse()
        return read_answer(completion, call, scope, self.name)

    def stream(self, call: Call, scope: Invocation) -> Iterator[Chunk]:
        sdk, reader = self._for_threads(), ChunkReader(scope, self.name)
        watch = _Watch(scope, self.name, sdk.wire)
        with watch:
            raw = sdk.create(**self._fields(call, scope, stream=True, wired=sdk.wire is not None))
            events = raw.parse()
        socket = None if sdk.wire is not None else raw.http_response.extensions.get("network_stream")
        with closing(events), hung_up_on_cancel(scope, socket):
            self._expect_stream(raw.headers, scope)
            while not reader.finished:
                try:
                    with watch.at_most(TAIL_S if reader.finish_reason else None):
                        event = next(events, _END)
                except TierLLMError:
                    if reader.finish_reason is None:
                        raise
                    break  # the answer is whole; only its usage is missing
                if event is _END:
                    break
                yield from reader.read(event)
            yield from reader.last()
            if reader.finished and sdk.wire is not None:
                _drain(raw.http_response, watch)

    async def astream(self, call: Call, scope: Invocation) -> AsyncIterator[Chunk]:
        sdk, reader = await self._for_this_loop(), ChunkReader(scope, self.name)
        watch = _Watch(scope, self.name)
        with watch:
            raw = await sdk.create(**self._fields(call, scope, stream=True))
            events = raw.parse()
        async with aclosing(events):
            self._expect_stream(raw.headers, scope)
            while not reader.finished:
                try:
                    with watch:
                        async with asyncio.timeout(TAIL_S) if reader.finish_reason else nullcontext():
                            event = await anext(events, _END)
                except TierLLMError:
                    if reader.finish_reason is None:
                        raise
                    break
                if event is _END:
                    break
                for chunk in reader.read(event):
                    yield chunk
            for chunk in reader.last():
                yield chunk
            if reader.finished:
                await _adrain(events)

    def _fields(
        self, call: Call, scope: Invocation, *, stream: bool = False, wired: bool = False
    ) -> dict[str, Any]:
        scope.check()
        fields = request_fields(
            call,
            self.name,
            known=self._known,
            max_tokens_param=self._max_tokens_param,
            stream=stream,
            stream_usage=self._stream_usage,
        )
        fields["timeout"] = _sdk().Timeout(None, connect=_connect_s(scope), read=None if wired else _read_s(scope))
        return fields

    def _expect_stream(self, headers: Mapping[str, str], scope: Invocation) -> None:
        _note(headers, scope)
        error = not_a_stream(headers.get("content-type", ""), self.name, scope)
        if error is not None:
            raise error

"""OpenAI, and every server that speaks its chat completions: Azure, vLLM, llama.cpp, Ollama, …"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Literal

from ..errors import (
    ConfigError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    TierLLMError,
)
from ..pipeline.scope import Cancelled
from .base import BaseProvider
from .limits import rate_limits
from .openai_chat import ChunkReader, expect_stream, read_answer, request_fields
from .openai_clients import Clients, is_async, load_sdk
from .sockets import SHORTEST_S, Wire, hung_up_on_cancel
from .translate import translate

if TYPE_CHECKING:
    import openai

    from ..pipeline.scope import Invocation
    from ..types import Call, Chunk, Response

__all__ = ["OpenAI"]

DRAIN_S, DRAIN_PIECES = 0.1, 16
"""How long a stream whose answer is whole waits for its end, to keep the connection."""

_END = object()


class OpenAI(BaseProvider):
    """OpenAI's chat completions, through the ``openai`` SDK: ``pip install "tierllm[openai]"``.

    ``api_key`` and ``base_url`` default to ``OPENAI_API_KEY`` and ``OPENAI_BASE_URL``; a ``base_url``
    that is not OpenAI's is sent no key from the environment. ``client`` is an SDK client of your own,
    sync or async (``async_client`` where you have both); it is used as it is, but without its
    retries, and never closed. ``stream_usage=False`` is for servers that
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
        if client is not None and is_async(client):
            client, async_client = None, async_client or client
        if async_client is not None and not is_async(async_client):
            raise ConfigError("OpenAI(async_client=...): give an openai.AsyncOpenAI")
        both = sorted(n for n, value in settings.items() if value is not None)
        if both and (client is not None or async_client is not None):
            raise ConfigError(
                f"OpenAI got a client and {', '.join(both)}: set {', '.join(both)} on the client"
            )
        self.name = name
        self._clients = Clients(settings, client, async_client)
        self.vendor = "openai" if self._clients.official else _vendor(self._clients.host, name)
        self.origin = self._clients.origin
        self._stream_usage = stream_usage
        usual = "max_completion_tokens" if self._clients.official else "max_tokens"
        self._max_tokens_param = max_tokens_param or usual

    def __repr__(self) -> str:  # never the key, nor one in the URL
        return f"OpenAI(host={self._clients.host!r}, name={self.name!r})"

    # -- calls -----------------------------------------------------------------

    def complete(self, call: Call, scope: Invocation) -> Response:
        sdk = self._clients.for_threads()
        with _step(scope, self.name, sdk.wire):
            raw = sdk.create(**self._fields(call, scope, wired=sdk.wire is not None))
            _note(raw.headers, scope)
            completion = raw.parse()
        return read_answer(completion, call, scope, self.name)

    async def acomplete(self, call: Call, scope: Invocation) -> Response:
        create = await self._clients.for_this_loop()
        with _step(scope, self.name):
            raw = await create(**self._fields(call, scope))
            _note(raw.headers, scope)
            completion = raw.parse()
        return read_answer(completion, call, scope, self.name)

    def stream(self, call: Call, scope: Invocation) -> Iterator[Chunk]:
        sdk, reader = self._clients.for_threads(), ChunkReader(scope, self.name)
        with _step(scope, self.name, sdk.wire):
            raw = sdk.create(**self._fields(call, scope, stream=True, wired=sdk.wire is not None))
            _note(raw.headers, scope)
            events = raw.parse()
        unwired = raw.http_response if sdk.wire is None else None
        if sdk.wire is not None:
            _read_to_the_end(raw.http_response, reader, scope, sdk.wire)
        with events, hung_up_on_cancel(scope, unwired):
            expect_stream(raw.headers, scope, self.name)
            while not reader.complete:
                try:
                    with _step(scope, self.name, sdk.wire, reader.patience_s):
                        event = next(events, _END)
                except TierLLMError:
                    if reader.finish_reason is None:
                        raise
                    break  # the answer is whole; only its usage is missing
                if event is _END:
                    break
                yield from reader.read(event)
            yield from reader.last()

    async def astream(self, call: Call, scope: Invocation) -> AsyncIterator[Chunk]:
        create, reader = await self._clients.for_this_loop(), ChunkReader(scope, self.name)
        with _step(scope, self.name):
            raw = await create(**self._fields(call, scope, stream=True))
            _note(raw.headers, scope)
            events = raw.parse()
        async with events:
            expect_stream(raw.headers, scope, self.name)
            while not reader.complete:
                try:
                    with _step(scope, self.name):
                        event = await _next(events, reader.patience_s)
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
            if reader.complete:
                await _aread_to_the_end(raw.http_response)

    def _fields(
        self, call: Call, scope: Invocation, *, stream: bool = False, wired: bool = False
    ) -> dict[str, Any]:
        scope.check()
        fields = request_fields(
            call,
            self.name,
            known=self._clients.known,
            max_tokens_param=self._max_tokens_param,
            stream=stream,
            stream_usage=self._stream_usage,
        )
        fields["timeout"] = _timeout(scope, wired)
        return fields

    # -- life ------------------------------------------------------------------

    def close(self) -> None:
        self._clients.close()

    async def aclose(self) -> None:
        await self._clients.aclose()

    def renew(self) -> None:
        self._clients.renew()


# -- around each step of the SDK ------------------------------------------------------


def _vendor(host: str | None, name: str) -> str:
    """Who serves the models at an address that is not OpenAI's own: a gateway to it, unless it has a name."""
    azure = host is not None and host.endswith(".azure.com")
    return "azure" if azure and name == "openai" else name


@contextmanager
def _step(
    scope: Invocation, vendor: str, wire: Wire | None = None, at_most_s: float | None = None
) -> Iterator[None]:
    """Name the call to the wire, and tell failures as tierllm's own."""
    try:
        with nullcontext() if wire is None else wire.carry(scope, at_most_s):
            yield
    except TierLLMError:
        raise
    except Exception as exc:
        failure = _failure(exc, scope, vendor)
        if failure is None:
            raise
        raise failure from exc
    scope.scope.check()  # a connection that was shut down can look like one that ended


def _failure(exc: Exception, scope: Invocation, vendor: str) -> BaseException | None:
    if scope.cancelled:
        return Cancelled()
    error = translate(exc, vendor)
    if error is None and scope.headers is not None:
        error = MalformedResponseError(f"{vendor} sent what its SDK cannot read ({type(exc).__name__})")
    elif error is None and isinstance(exc, TypeError | ValueError):
        error = InvalidRequestError(f"{vendor}: the SDK cannot send this request ({type(exc).__name__})")
    if error is None:
        return None
    if error.status is None and isinstance(error, ProviderTimeoutError | ProviderUnavailableError):
        left = scope.remaining_s()
        if left is not None and left <= 0:
            return scope.timed_out()
    error.request_id = error.request_id or scope.request_id
    error.detail = error.detail or str(exc)
    return error


def _note(headers: Mapping[str, str], scope: Invocation) -> None:
    scope.request_id = headers.get("x-request-id")
    scope.headers = rate_limits(headers)


def _timeout(scope: Invocation, wired: bool) -> Any:
    """The SDK's timeouts for one request. A wire bounds each wait but connecting by itself."""
    every = None if wired else _longest_wait_s(scope)
    return load_sdk().Timeout(every, connect=_least(scope.timeouts.connect_s, scope.remaining_s()))


def _longest_wait_s(scope: Invocation) -> float | None:
    """The longest that any single wait may take, since only one bound can be given for all."""
    limits = scope.timeouts
    if not scope.streaming:
        return _least(scope.remaining_s())
    steps = limits.first_token_s, limits.between_tokens_s
    longest = None if None in steps else max(s for s in steps if s is not None)
    return _least(longest, limits.total_s, scope.scope.remaining_s())


def _least(*bounds: float | None) -> float | None:
    known = [b for b in bounds if b is not None]
    return max(SHORTEST_S, min(known)) if known else None


def _read_to_the_end(response: Any, reader: ChunkReader, scope: Invocation, wire: Wire) -> None:
    """Have a finished stream read on when it is closed: only then can its connection be used again.

    The SDK closes it at ``[DONE]``, which is not yet the end; its asynchronous form does read on.
    """
    pieces = response.iter_bytes()

    def close() -> None:
        del response.close, response.iter_bytes  # from now on its own
        if reader.finish_reason is not None:
            # the answer is there already; and pieces that have just ended raise, since they do this
            with suppress(Exception), wire.carry(scope, DRAIN_S):
                for _ in zip(range(DRAIN_PIECES), pieces, strict=False):
                    pass
        response.close()

    response.close = close
    response.iter_bytes = lambda: pieces


async def _aread_to_the_end(response: Any) -> None:
    with suppress(Exception):
        async with asyncio.timeout(DRAIN_S):
            async for _ in response.stream:
                pass


async def _next(events: Any, patience_s: float | None) -> Any:
    if patience_s is None:
        return await anext(events, _END)
    async with asyncio.timeout(patience_s):
        return await anext(events, _END)

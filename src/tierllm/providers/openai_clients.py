"""The SDK clients of one provider: one for all threads, one for each event loop, made when needed."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from ..errors import ConfigError
from ..pipeline.fork import renew_after_fork
from .sockets import Wire

if TYPE_CHECKING:
    import openai
    from typing_extensions import TypeIs

__all__ = ["Clients", "Threaded", "is_async", "load_sdk"]

KEPT_CONNECTIONS, KEPT_S = 256, 30.0
"""Idle connections kept for reuse. Open ones are not limited here: tierllm's pools do that."""

_COPIED = frozenset({"OpenAI", "AsyncOpenAI"})
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - compared, not bound to


def load_sdk() -> ModuleType:
    """The ``openai`` package, imported when first needed."""
    try:
        return import_module("openai")
    except ImportError as exc:
        raise ConfigError('the openai SDK is not installed: pip install "tierllm[openai]"') from exc


def is_async(client: object) -> TypeIs[openai.AsyncOpenAI]:
    """Whether an SDK client is an asynchronous one. Raises ``ConfigError`` for anything else."""
    names = {cls.__name__ for cls in type(client).__mro__}
    if names.isdisjoint({"SyncAPIClient", "AsyncAPIClient"}):
        raise ConfigError(f"a {type(client).__name__} is no client of the openai SDK")
    return "AsyncAPIClient" in names


class Threaded(NamedTuple):
    """What threads share: ``create`` of chat completions, and the wire under it if the client is ours."""

    create: Callable[..., Any]
    wire: Wire | None
    client: openai.OpenAI


class _Looped(NamedTuple):
    create: Callable[..., Any]
    client: openai.AsyncOpenAI
    keeper: AsyncGenerator[None, None] | None


class Clients:
    """Makes, keeps and closes SDK clients; those it was given are used but never closed.

    ``settings`` are the SDK's keyword arguments. Clients never retry: that is tierllm's.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        given: openai.OpenAI | None = None,
        given_async: openai.AsyncOpenAI | None = None,
    ) -> None:
        self._own = settings
        self._given = given
        self._given_async = given_async
        self._home: asyncio.AbstractEventLoop | None = None
        own = given or given_async
        where = own.base_url if own is not None else settings["base_url"] or os.environ.get("OPENAI_BASE_URL")
        where = str(where or "https://api.openai.com/v1")
        self.host = urlsplit(where).hostname
        self.official = f".{self.host}".endswith(".openai.com")
        self._elsewhere = bool(settings["base_url"]) and not self.official
        self.origin = sorted({_told(one) for one in (given, given_async) if one is not None})
        if own is None:
            found: Mapping[str, str] = {} if self._elsewhere else os.environ
            organization = settings["organization"] or found.get("OPENAI_ORG_ID")
            project = settings["project"] or found.get("OPENAI_PROJECT_ID")
            self.origin = [_place(where, organization, project, settings["default_headers"], None)]
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget all clients and locks, as after a fork."""
        self._lock = threading.Lock()
        self._threaded: Threaded | None = None
        self._looped: dict[asyncio.AbstractEventLoop, _Looped] = {}

    @cached_property
    def known(self) -> frozenset[str]:
        """The parameters that the SDK's ``create`` knows by name."""
        completions = import_module(f"{load_sdk().__name__}.resources.chat.completions").Completions
        return frozenset(inspect.signature(completions.create).parameters)

    def for_threads(self) -> Threaded:
        found = self._threaded
        if found is not None:
            return found
        with self._lock:
            if self._threaded is None:
                self._threaded = self._make_threaded()
            return self._threaded

    def _make_threaded(self) -> Threaded:
        if self._given is not None:
            client, wire = self._given.with_options(max_retries=0), None
        else:
            settings, sdk = self._settings(), load_sdk()
            transport = sdk.DefaultHttpxClient(limits=_limits(sdk))
            wire = Wire.under(transport)
            client = self._made(sdk.OpenAI, settings, transport)
        return Threaded(client.chat.completions.with_raw_response.create, wire, client)

    async def for_this_loop(self) -> Callable[..., Any]:
        loop = asyncio.get_running_loop()
        found = self._looped.get(loop)
        if found is not None:
            return found.create
        for ended in [one for one in tuple(self._looped) if one.is_closed()]:
            self._looped.pop(ended, None)
        client, ours = self._make_looped(loop)
        keeper = self._close_with(loop, client) if ours else None
        create: Callable[..., Any] = client.chat.completions.with_raw_response.create
        self._looped[loop] = _Looped(create, client, keeper)
        if keeper is not None:
            await anext(keeper)
        return create

    def _make_looped(self, loop: asyncio.AbstractEventLoop) -> tuple[openai.AsyncOpenAI, bool]:
        """A client for ``loop``, and whether it is ours to close."""
        given = self._given_async
        if given is None:
            settings, sdk = self._settings(), load_sdk()
            transport = sdk.DefaultAsyncHttpxClient(limits=_limits(sdk))
            return self._made(sdk.AsyncOpenAI, settings, transport), True
        with self._lock:
            self._home = self._home or loop  # its connections belong to the first loop that uses it
        if self._home is loop:
            return given.with_options(max_retries=0), False
        if _has_own_transport(given):
            raise ConfigError(
                "OpenAI: an async client with its own http_client serves one event loop only: make an "
                "OpenAI(...) for each loop, or leave http_client to the SDK"
            )
        sdk = load_sdk()
        transport = sdk.DefaultAsyncHttpxClient(limits=_limits(sdk))
        return given.with_options(max_retries=0, http_client=transport), True

    async def _close_with(
        self, loop: asyncio.AbstractEventLoop, client: openai.AsyncOpenAI
    ) -> AsyncGenerator[None, None]:
        """Closes ``client`` when closed itself; a loop that shuts down closes its generators."""
        try:
            yield
        finally:
            self._looped.pop(loop, None)
            await client.close()

    def close(self) -> None:
        """Close what was made here: at once for threads, soon for loops that are running."""
        with self._lock:
            threaded, self._threaded = self._threaded, None
        if threaded is not None and self._given is None:
            threaded.client.close()
        for loop, one in tuple(self._looped.items()):
            self._looped.pop(loop, None)
            if one.keeper is not None and loop.is_running():
                asyncio.run_coroutine_threadsafe(_aclose(one.keeper), loop)

    async def aclose(self) -> None:
        found = self._looped.pop(asyncio.get_running_loop(), None)
        if found is not None and found.keeper is not None:
            await found.keeper.aclose()
        self.close()

    def _settings(self) -> dict[str, Any]:
        """The SDK's arguments for a client of our own, taken from a given one where there is one."""
        given = self._given or self._given_async
        if given is None:
            return {**self._own, "api_key": self._key(), "max_retries": 0}
        _expect_copiable(given, "client" if self._given is None else "async_client")
        return {
            "api_key": given.api_key,
            "base_url": str(given.base_url),
            "organization": given.organization,
            "project": given.project,
            "default_headers": given._custom_headers,
            "default_query": given._custom_query,
            "max_retries": 0,
        }

    def _made(self, kind: Callable[..., Any], settings: Mapping[str, Any], transport: object) -> Any:
        client = kind(**settings, http_client=transport)
        if self._elsewhere or self._given or self._given_async:  # not what the SDK finds in the environment
            client.organization, client.project = settings["organization"], settings["project"]
        return client

    def _key(self) -> str:
        key = self._own["api_key"] or (None if self._elsewhere else os.environ.get("OPENAI_API_KEY"))
        if key:
            return str(key)
        if self.host in _LOCAL:
            return "none-needed"
        if self._elsewhere:
            raise ConfigError(
                f"no API key for {self.host}: pass OpenAI(api_key=...), since OPENAI_API_KEY is not sent "
                "to servers other than OpenAI's"
            )
        raise ConfigError("no API key for OpenAI: set OPENAI_API_KEY, or pass OpenAI(api_key=...)")


async def _aclose(keeper: AsyncGenerator[None, None]) -> None:
    await keeper.aclose()


def _told(client: Any) -> str:
    headers, query = client._custom_headers, client._custom_query
    return _place(str(client.base_url), client.organization, client.project, headers, query)


def _place(
    where: str,
    organization: str | None,
    project: str | None,
    headers: Mapping[str, object] | None,
    query: Mapping[str, object] | None,
) -> str:
    """All that may decide who answers, but the key. Hashed: addresses and headers may hold secrets."""
    parts = urlsplit(where)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}?{parts.query}"
    further = [
        sorted((name.lower(), v if isinstance(v, str) else type(v).__name__) for name, v in given.items())
        for given in (headers or {}, query or {})
    ]
    return hashlib.sha256(repr([address, organization, project, further]).encode()).hexdigest()


def _has_own_transport(client: object) -> bool:
    """Whether an SDK client was given its ``http_client``: a proxy, certificates or hooks, it may be."""
    return not type(getattr(client, "_client", None)).__name__.endswith("HttpxClientWrapper")


def _expect_copiable(given: openai.OpenAI | openai.AsyncOpenAI, missing: str) -> None:
    """Raise unless key, address and headers are all there is to a client."""
    what = None
    if type(given).__name__ not in _COPIED:
        what = f"a {type(given).__name__}"
    elif _has_own_transport(given):
        what = "a client with its own http_client"
    elif not given.api_key or any(
        getattr(given, name, None) for name in ("_api_key_provider", "workload_identity", "_provider")
    ):
        what = "a client without a fixed API key"
    if what is not None:
        raise ConfigError(f"OpenAI: {what} has no counterpart made for it: pass {missing}= as well")


def _limits(sdk: ModuleType) -> Any:
    """Connection limits, in the terms of the HTTP library the SDK is built on (httpx2, or httpx)."""
    http = import_module(sdk.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
    return http.Limits(
        max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS, keepalive_expiry=KEPT_S
    )

"""Connections to Redis: one client for all threads, one for each event loop, made when needed."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import AsyncGenerator, Awaitable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from ..errors import ConfigError
from .redis_address import load_redis, pool_of

if TYPE_CHECKING:
    import redis

__all__ = ["Clients", "Wire", "load_redis"]

_KINDS = ("Connection", "SSLConnection", "UnixDomainSocketConnection")
"""Kinds of connections that have an asynchronous twin of the same name."""

_COPIED = frozenset(
    {"host", "port", "path", "db", "username", "password", "credential_provider", "client_name", "protocol"}
    | {"socket_timeout", "socket_connect_timeout", "socket_keepalive", "socket_keepalive_options"}
    | {"encoding", "encoding_errors", "health_check_interval"}
    | {"ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path"}
    | {"ssl_check_hostname", "ssl_min_version", "ssl_ciphers", "ssl_password"}
)
"""Settings of a user's connections that mean the same to asynchronous ones."""


MOST_CONNECTIONS = 32
"""Enough to keep a server busy; below what a pool or a small server allows."""


LONGEST_WAIT_S = 5.0
"""So long a connection of one's own waits for the server, where a given client has no bound."""


class Threaded(Protocol):
    """A client for threads, as far as it is used here."""

    def execute_command(self, *args: str | bytes | int, **options: object) -> object: ...

    def close(self) -> None: ...


class Looped(Protocol):
    """A client for one event loop."""

    def execute_command(self, *args: str | bytes | int, **options: object) -> Awaitable[object]: ...

    def aclose(self) -> Awaitable[None]: ...


class Wire(Protocol):
    """A connection as it is, for one thread: to wait on for what comes unasked."""

    def connect(self) -> None: ...

    def send_command(self, *args: str | bytes, **options: object) -> None: ...

    def can_read(self, timeout: float = 0) -> bool: ...

    def read_response(self, disable_decoding: bool = False, *, push_request: bool = False) -> object: ...

    def disconnect(self) -> None: ...


class _Looped(NamedTuple):
    client: Looped
    turns: asyncio.Semaphore
    keeper: AsyncGenerator[None, None]


class Clients:
    """Makes, keeps and closes clients; one that was given is used but never closed.

    Whoever asks takes one of ``turns`` first, so that no pool of connections runs out.

    Own clients never retry, and wait ``timeout_s`` for a connection and for an answer. ``place`` is
    the server without its password. ``has_async``: there can be clients for event loops. ``who`` is whose
    settings they are, for errors.
    """

    def __init__(
        self, url: str | None, given: redis.Redis | None, timeout_s: float, *, who: str = "RedisStore"
    ) -> None:
        self._sdk = load_redis()
        self._url = url
        self._given = given
        self.timeout_s = timeout_s
        if inspect.iscoroutinefunction(getattr(given, "execute_command", None)):
            raise ConfigError(f"{who}: client= is a redis.Redis; of a redis.asyncio.Redis give the url")
        pool = getattr(given, "connection_pool", None)
        if url is not None:
            try:
                pool = pool_of(url, self._sdk)
            except ValueError as why:
                raise ConfigError(f"{who}: the url {why}") from None
        self.most = min(MOST_CONNECTIONS, getattr(pool, "max_connections", MOST_CONNECTIONS))
        """Connections in use at once: of threads, and of each event loop."""
        settings: Mapping[str, Any] = getattr(pool, "connection_kwargs", {})
        kind = getattr(pool, "connection_class", None)
        self._kind = next((name for name in _KINDS if kind is getattr(self._sdk, name)), "")
        self.has_async = given is None or (isinstance(given, self._sdk.Redis) and self._kind != "")
        self._settings = {name: settings[name] for name in _COPIED & settings.keys()}
        self.place = (
            str(settings.get("path") or f"{settings.get('host', '?')}:{settings.get('port', 6379)}")
            + f"/{settings.get('db') or 0}"
        )
        if given is not None:
            self.timeout_s = settings.get("socket_timeout") or math.inf
        self.turns = threading.Semaphore(self.most)
        self._abandoned: list[object] = []
        self._threaded: Threaded | None = None
        self._looped: dict[asyncio.AbstractEventLoop, _Looped] = {}
        self._lock = threading.Lock()

    def renew(self) -> None:
        """After a fork: the parent's connections are neither used nor closed here.

        Even a finalizer would take the sockets out of an event loop's selector, which parent and
        child share; so they are kept.
        """
        self._abandoned += [self._threaded, self._looped]
        self._lock = threading.Lock()
        self.turns = threading.Semaphore(self.most)
        self._threaded = None
        self._looped = {}

    def for_threads(self) -> Threaded:
        found = self._threaded if self._given is None else cast("Threaded", self._given)
        if found is not None:
            return found
        with self._lock:
            if self._threaded is None:
                retry = import_module("redis.retry").Retry(import_module("redis.backoff").NoBackoff(), 0)
                made: Threaded = self._sdk.Redis.from_url(
                    self._url,
                    retry=retry,
                    socket_timeout=self.timeout_s,
                    socket_connect_timeout=self.timeout_s,
                )
                self._threaded = made
            return self._threaded

    def new_wire(self) -> Wire | None:
        """A connection of one's own, not yet connected; ``None`` where it cannot be made like the others."""
        if not self.has_async:
            return None
        retry = import_module("redis.retry").Retry(import_module("redis.backoff").NoBackoff(), 0)
        if self._given is None:
            pool = self._sdk.ConnectionPool.from_url(self._url)
            kind, settings = pool.connection_class, dict(pool.connection_kwargs)
        else:
            kind, settings = getattr(self._sdk, self._kind), dict(self._settings)
        wait_s = min(self.timeout_s, LONGEST_WAIT_S)
        settings |= {"retry": retry, "protocol": 2, "decode_responses": False, "health_check_interval": 0}
        settings |= {"socket_timeout": wait_s, "socket_connect_timeout": wait_s}
        wire: Wire = kind(**settings)
        return wire

    async def for_this_loop(self) -> _Looped:
        loop = asyncio.get_running_loop()
        found = self._looped.get(loop)
        if found is not None:
            return found
        for ended in [one for one in tuple(self._looped) if one.is_closed()]:
            self._looped.pop(ended, None)
        client = self._make_looped()
        keeper = self._close_with(loop, client)
        made = self._looped[loop] = _Looped(client, asyncio.Semaphore(self.most), keeper)
        await anext(keeper)
        return made

    def _make_looped(self) -> Looped:
        asynchronous = import_module("redis.asyncio")
        retry = import_module("redis.asyncio.retry").Retry(import_module("redis.backoff").NoBackoff(), 0)
        if self._given is None:
            client: Looped = asynchronous.Redis.from_url(
                self._url,
                retry=retry,
                socket_timeout=self.timeout_s,
                socket_connect_timeout=self.timeout_s,
            )
            return client
        kind = getattr(asynchronous, self._kind)
        pool = asynchronous.ConnectionPool(connection_class=kind, retry=retry, **self._settings)
        twin: Looped = asynchronous.Redis.from_pool(pool)
        return twin

    async def _close_with(
        self, loop: asyncio.AbstractEventLoop, client: Looped
    ) -> AsyncGenerator[None, None]:
        """Closes ``client`` when closed itself; a loop that shuts down closes its generators."""
        try:
            yield
        finally:
            self._looped.pop(loop, None)
            await client.aclose()

    def close(self) -> None:
        """Close what was made here: at once for threads, soon for loops that are running."""
        with self._lock:
            threaded, self._threaded = self._threaded, None
        if threaded is not None:
            threaded.close()
        for loop, one in tuple(self._looped.items()):
            self._looped.pop(loop, None)
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(_aclose(one.keeper), loop)

    async def aclose(self) -> None:
        found = self._looped.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found.keeper.aclose()
        self.close()


async def _aclose(keeper: AsyncGenerator[None, None]) -> None:
    await keeper.aclose()

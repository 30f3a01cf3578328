"""Blocking HTTP that can be interrupted, and that waits no longer than the call may.

An HTTP client takes one timeout per request, and a blocked read does not wake when its client is
closed. A ``Wire`` goes under an httpx client (or its successor, httpx2): it bounds each single read
and write by what the call in progress has left, and shuts the socket down when that call is
cancelled from another thread.

Looking up a host is bounded and woken too. Connecting is bounded, but not woken: it ends within its
timeout.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation

__all__ = ["Wire", "hung_up_on_cancel", "shut_down"]

T = TypeVar("T")

SHORTEST_S = 0.001
"""A timeout of 0 would mean "do not wait": a read that is due still takes what has come."""


class _Stream(Protocol):
    """A connection, as httpcore has it (``NetworkStream``)."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes: ...
    def write(self, buffer: bytes, timeout: float | None = None) -> None: ...
    def close(self) -> None: ...
    def start_tls(self, ssl_context: Any, server_hostname: Any = None, timeout: Any = None) -> _Stream: ...
    def get_extra_info(self, info: str) -> Any: ...


def shut_down(connection: socket.socket | None) -> None:
    """Wake whoever is blocked on ``connection``: its reads end now. Never raises."""
    if connection is None:
        return
    try:
        # not the method of SSLSocket, which takes the TLS state away from under the reader
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        pass  # closed already


@contextmanager
def hung_up_on_cancel(scope: Invocation, response: Any) -> Iterator[None]:
    """While inside, cancelling ``scope`` shuts down the connection of an httpx ``response``."""
    stream = None if response is None else response.extensions.get("network_stream")
    if stream is None:
        yield
        return

    def hang_up() -> None:
        shut_down(stream.get_extra_info("socket"))

    scope.on_cancel(hang_up)
    try:
        yield
    finally:
        scope.off_cancel(hang_up)


class _Bounds(threading.local):
    """Whose call this thread is carrying, and how long one wait of it may take at most."""

    scope: Invocation | None = None
    at_most_s: float | None = None

    @property
    def cancelled(self) -> bool:
        return self.scope is not None and self.scope.cancelled

    def clamp(self, timeout: float | None) -> float | None:
        left = None if self.scope is None else self.scope.remaining_s()
        bounds = [b for b in (timeout, left, self.at_most_s) if b is not None]
        return max(SHORTEST_S, min(bounds)) if bounds else None


def _addresses(host: str, port: int) -> list[str]:
    """The addresses of ``host``, or itself: then connecting says what is wrong with it."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [host]
    return list(dict.fromkeys(str(address[0]) for *_, address in found)) or [host]


def _looked_up(host: str, port: int, bound_s: float | None, scope: Invocation | None) -> list[str] | None:
    """``_addresses``, or ``None`` if that took too long or was cancelled.

    Nothing can interrupt the system's resolver. So a thread waits for it, a daemon, and may be left.
    """
    inbox: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()

    def leave() -> None:
        inbox.put(None)

    look_up = threading.Thread(
        target=lambda: inbox.put(_addresses(host, port)), name="tierllm-resolver", daemon=True
    )
    if scope is not None:
        scope.on_cancel(leave)
    try:
        look_up.start()
        return inbox.get(timeout=bound_s)
    except queue.Empty:
        return None
    finally:
        if scope is not None:
            scope.off_cancel(leave)


class Wire:
    """A network backend for httpcore that knows for which call each thread is working.

    ``under(client)`` puts one under an httpx client; ``carry(scope)`` names the call. Safe to share
    between threads: a stream may be read by different ones in turn.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._bounds = _Bounds()

    @classmethod
    def under(cls, client: Any) -> Wire | None:
        """Put a wire under all transports of an httpx client; ``None`` where it has no place for it."""
        transports = (client._transport, *client._mounts.values())
        pools: list[Any] = [getattr(t, "_pool", None) for t in transports if t is not None]
        if not all(hasattr(pool, "_network_backend") for pool in pools):
            return None
        wire = cls(pools[0]._network_backend)
        for pool in pools:
            pool._network_backend = wire
        return wire

    @contextmanager
    def carry(self, scope: Invocation, at_most_s: float | None = None) -> Iterator[None]:
        """While inside, this thread's waits belong to ``scope``."""
        bounds = self._bounds
        before = bounds.scope, bounds.at_most_s
        bounds.scope, bounds.at_most_s = scope, at_most_s
        try:
            yield
        finally:
            bounds.scope, bounds.at_most_s = before

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _WiredStream:
        bound, scope, began = self._bounds.clamp(timeout), self._bounds.scope, time.monotonic()
        hosts: list[str] | None = [host]
        if bound is not None or scope is not None:
            hosts = _looked_up(host, port, bound, scope)
        if hosts is None or self._bounds.cancelled:
            raise self._timeout()
        for waiting in range(len(hosts), 0, -1):  # each gets a share: together they keep the bound
            left = None if bound is None else bound - (time.monotonic() - began)
            share = None if left is None else max(SHORTEST_S, left / waiting)
            try:
                stream = self._backend.connect_tcp(
                    hosts[-waiting], port, share, local_address, socket_options
                )
            except Exception:
                if waiting == 1 or self._bounds.cancelled:
                    raise
            else:
                return _WiredStream(stream, self._bounds)
        raise AssertionError("unreachable: there is at least one address")

    def _timeout(self) -> Exception:
        """The backend's own word for it (httpcore's or httpcore2's), which its client understands."""
        library = type(self._backend).__module__.partition(".")[0]
        kind: type[Exception] = getattr(import_module(library), "ConnectTimeout", TimeoutError)
        return kind("the host was not resolved in time")

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> _WiredStream:
        stream = self._backend.connect_unix_socket(path, self._bounds.clamp(timeout), socket_options)
        return _WiredStream(stream, self._bounds)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _WiredStream:
    """A connection whose every wait is bounded and wakes on cancellation."""

    def __init__(self, stream: _Stream, bounds: _Bounds) -> None:
        self._stream = stream
        self._bounds = bounds
        self._lock = threading.Lock()
        self._waiting_for: Invocation | None = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._interruptibly(lambda: self._stream.read(max_bytes, self._bounds.clamp(timeout)))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._interruptibly(lambda: self._stream.write(buffer, self._bounds.clamp(timeout)))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> _WiredStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._bounds.clamp(timeout))
        return _WiredStream(secured, self._bounds)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _interruptibly(self, wait: Callable[[], T]) -> T:
        scope = self._bounds.scope
        if scope is None:
            return wait()
        with self._lock:
            self._waiting_for = scope
        scope.on_cancel(self._hang_up)
        try:
            return wait()
        finally:
            with self._lock:
                self._waiting_for = None
            scope.off_cancel(self._hang_up)

    def _hang_up(self) -> None:
        # a late cancellation must not hit the next call on this connection
        with self._lock:
            if self._waiting_for is not None and self._waiting_for.cancelled:
                shut_down(self._stream.get_extra_info("socket"))

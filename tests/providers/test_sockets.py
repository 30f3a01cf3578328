"""The wire under blocking HTTP: bounds, cancellation, TLS, proxies."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

from providers.servers import asked
from tierllm.providers.sockets import Wire, shut_down
from tierllm.types import Timeouts


class Silent:
    """A server that accepts, perhaps shakes hands, sends ``greeting``, and then says nothing."""

    def __init__(self, context: ssl.SSLContext | None = None, greeting: bytes = b"") -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._context = context
        self._greeting = greeting
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
                if self._context is not None:
                    connection = self._context.wrap_socket(connection, server_side=True)
                connection.sendall(self._greeting)
            except OSError:
                return
            self._open.append(connection)

    def close(self) -> None:
        shut_down(self._listener)
        self._listener.close()
        self._thread.join()
        for connection in self._open:
            connection.close()


def waited(since: float, seconds: float) -> bool:
    """Whether a wait that would have gone on for ever ended after ``seconds`` on a busy machine."""
    return seconds - 0.02 <= time.monotonic() - since < seconds + 10.0


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, with its key in the same file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    where = tmp_path_factory.mktemp("tls")
    made = where / "localhost.pem"
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += [
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        str(where / "key"),
        "-out",
        str(where / "crt"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    made.write_text((where / "key").read_text() + (where / "crt").read_text())
    return made


@pytest.fixture(params=["plain", "tls"])
def silent(request: pytest.FixtureRequest) -> Iterator[tuple[str, ssl.SSLContext | bool]]:
    """A silent server's URL and the client's TLS settings for it."""
    context: ssl.SSLContext | None = None
    verify: ssl.SSLContext | bool = True
    if request.param == "tls":
        made = request.getfixturevalue("certificate")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made)
        verify = ssl.create_default_context(cafile=made)
    server = Silent(context, HEAD)
    yield f"{'https' if context else 'http'}://localhost:{server.port}/", verify
    server.close()


@pytest.mark.parametrize("lib", [httpx, httpx2])
def test_each_read_is_bounded_by_what_the_call_has_left(silent: Any, lib: Any) -> None:
    url, verify = silent
    with lib.Client(verify=verify, timeout=None, trust_env=False) as client:
        wire = Wire.under(client)
        assert wire is not None
        with client.stream("GET", url) as response:  # connected, however long that takes on a busy machine
            began = time.monotonic()
            _, scope = asked(timeouts=Timeouts(total_s=0.25))
            with wire.carry(scope), pytest.raises(lib.ReadTimeout):
                response.read()
            assert waited(began, 0.25)


@pytest.mark.parametrize("lib", [httpx, httpx2])
def test_cancelling_wakes_the_reader(silent: Any, lib: Any) -> None:
    url, verify = silent
    _, scope = asked()
    timer = threading.Timer(0.1, scope.scope.cancel)
    with lib.Client(verify=verify, timeout=None, trust_env=False) as client:
        wire = Wire.under(client)
        assert wire is not None
        with client.stream("GET", url) as response:
            began = time.monotonic()
            timer.start()
            with wire.carry(scope), pytest.raises(lib.TransportError):
                response.read()
            assert waited(began, 0.1)
    timer.join()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_a_late_cancellation_does_not_hit_the_next_call(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    _, first = asked()
    _, second = asked()
    hooks: list[Callable[[], object]] = []
    wire = Wire(_Backend(near, on_read=lambda: hooks.extend(first.scope._hooks)))
    stream = wire.connect_tcp("localhost", 1)
    far.sendall(b"one")
    with wire.carry(first):
        assert stream.read(10) == b"one"
    far.sendall(b"two")
    with wire.carry(second):
        first.scope.cancel()
        (late,) = hooks  # whoever cancelled had looked it up while the first call was reading
        late()
        assert stream.read(10) == b"two"


def test_what_has_come_is_read_even_when_time_is_up(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    wire = Wire(_Backend(near))
    stream = wire.connect_tcp("localhost", 1)
    _, scope = asked(deadline_s=-1.0)
    far.sendall(b"late")
    with wire.carry(scope):
        assert stream.read(10) == b"late"
        with pytest.raises(TimeoutError):
            stream.read(10)


def test_all_addresses_of_a_host_share_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(0, 0, 0, "", (address, 1)) for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found)
    backend = _Backend(None)
    with pytest.raises(ConnectionError):
        Wire(backend).connect_tcp("llm.example", 1, timeout=3.0)
    assert [address for address, _ in backend.tried] == ["192.0.2.1", "192.0.2.2"]
    (_, first), (_, second) = backend.tried
    assert first is not None
    assert second is not None
    assert first <= 1.5, "half of it"
    assert first < second <= 3.0, "all that is left"


class Lookup:
    """A resolver that does not answer until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def __call__(self, *_: object, **__: object) -> Any:
        self.let_go.wait()
        return [(0, 0, 0, "", ("192.0.2.1", 1))]


@pytest.fixture
def lookup(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lookup]:
    resolver = Lookup()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.let_go.set()


@pytest.mark.parametrize("lib", [httpx, httpx2])
@pytest.mark.parametrize("bound", ["deadline", "connect"])
def test_looking_up_a_host_is_bounded(lookup: Lookup, lib: Any, bound: str) -> None:
    with lib.Client(timeout=None if bound == "deadline" else 0.2, trust_env=False) as client:
        wire = Wire.under(client)
        assert wire is not None
        began = time.monotonic()
        _, scope = asked(deadline_s=0.2 if bound == "deadline" else None)
        with wire.carry(scope), pytest.raises(lib.ConnectTimeout):
            client.get("http://llm.example/")
        assert waited(began, 0.2)


def test_cancelling_wakes_a_lookup(lookup: Lookup) -> None:
    _, scope = asked()
    timer = threading.Timer(0.1, scope.scope.cancel)
    with httpx2.Client(timeout=None, trust_env=False) as client:
        wire = Wire.under(client)
        assert wire is not None
        timer.start()
        began = time.monotonic()
        with wire.carry(scope), pytest.raises(httpx2.TransportError):
            client.get("http://llm.example/")
        assert waited(began, 0.1)
    timer.join()
    assert scope.scope._hooks == []


def test_connecting_has_what_the_lookup_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object, **__: object) -> Any:
        time.sleep(0.1)
        return [(0, 0, 0, "", ("192.0.2.1", 1))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    backend = _Backend(None)
    with pytest.raises(ConnectionError):
        Wire(backend).connect_tcp("llm.example", 1, timeout=5.0)
    ((_, share),) = backend.tried
    assert share is not None
    assert share <= 4.9


def test_a_wire_goes_under_proxies_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "llm.example")
    with httpx2.Client() as client:
        wire = Wire.under(client)
        pools = [t._pool for t in (client._transport, *client._mounts.values()) if t is not None]  # type: ignore[attr-defined]
        assert len(pools) > 1
        assert all(pool._network_backend is wire for pool in pools)


def test_a_transport_of_another_make_has_no_place_for_a_wire() -> None:
    with httpx2.Client(transport=httpx2.MockTransport(lambda request: httpx2.Response(200))) as client:
        assert Wire.under(client) is None


class _Backend:
    """Connects to a socket at hand, or refuses."""

    def __init__(self, connection: socket.socket | None, on_read: Callable[[], object] = bool) -> None:
        self._connection = connection
        self._on_read = on_read
        self.tried: list[tuple[str, float | None]] = []

    def connect_tcp(self, host: str, port: int, timeout: float | None, *_: Any) -> Any:
        self.tried.append((host, timeout))
        if self._connection is None:
            raise ConnectionError
        return self

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        assert self._connection is not None
        self._on_read()
        self._connection.settimeout(timeout)
        return self._connection.recv(max_bytes)

    def get_extra_info(self, info: str) -> Any:
        return self._connection

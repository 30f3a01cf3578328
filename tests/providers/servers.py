"""A server that says what it is told, and callers that ask like the drivers do."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tierllm.pipeline.scope import Invocation, Scope
from tierllm.providers.openai import OpenAI
from tierllm.types import Call, Chunk, Request, Response, Timeouts


class Said:
    """One scripted reply: a status, headers, and pieces of a body with pauses (seconds) between."""

    def __init__(
        self, *pieces: str | float, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.pieces = pieces
        self.status = status
        self.headers = {"content-type": "application/json", **(headers or {})}


def said_json(body: object, status: int = 200, **headers: str) -> Said:
    return Said(json.dumps(body), status=status, headers=headers)


def said_events(*events: object, done: bool = True, **headers: str) -> Said:
    """An SSE stream; floats are pauses, strings raw lines, everything else JSON."""
    pieces: list[str | float] = []
    for event in events:
        if isinstance(event, float):
            pieces.append(event)
        else:
            pieces.append(event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n")
    if done:
        pieces.append("data: [DONE]\n\n")
    return Said(*pieces, headers={"content-type": "text/event-stream", **headers})


class Canned(ThreadingHTTPServer):
    """A server that answers with the replies put into ``replies``; the last one stays."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[Said] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.base_url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def say(self, *replies: Said) -> None:
        self.replies = list(replies)

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up is what many tests are about


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Canned

    def do_POST(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        server.bodies.append(json.loads(body))
        server.headers.append({n.lower(): v for n, v in self.headers.items()})
        said = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
        self.send_response(said.status)
        for name, value in said.headers.items():
            self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in said.pieces:
            if isinstance(piece, float):
                self.wfile.flush()
                time.sleep(piece)
            elif piece:
                data = piece.encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


def asked(
    prompt: str = "hello",
    *,
    model: str = "gpt-5-mini",
    timeouts: Timeouts | None = None,
    streaming: bool = False,
    deadline_s: float | None = None,
    extra: dict[str, Any] | None = None,
    **params: Any,
) -> tuple[Call, Invocation]:
    """A call and its invocation, as a driver would make them."""
    request = Request(
        messages=({"role": "user", "content": prompt},), params=params, extra={"openai": extra or {}}
    )
    call = Call(request, model=model, timeouts=timeouts)
    deadline_at = None if deadline_s is None else time.monotonic() + deadline_s
    return call, Invocation(call, Scope(time.monotonic, deadline_at), streaming)


class Caller:
    """Calls a provider as the drivers do: with threads, or on an event loop of its own."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.runner = asyncio.Runner() if mode == "async" else None

    def complete(self, provider: OpenAI, call: Call, scope: Invocation) -> Response:
        if self.runner is None:
            return scope.answered(provider.complete(call, scope))
        return scope.answered(self.runner.run(provider.acomplete(call, scope)))

    def stream(
        self, provider: OpenAI, call: Call, scope: Invocation, seen: Callable[[Chunk], object] = bool
    ) -> Response:
        async def consume() -> None:
            async for chunk in provider.astream(call, scope):
                scope.feed(chunk)
                seen(chunk)

        if self.runner is not None:
            self.runner.run(consume())
        else:
            for chunk in provider.stream(call, scope):
                scope.feed(chunk)
                seen(chunk)
        return scope.finished()

    def ask(self, provider: OpenAI, form: str, **kwargs: Any) -> Response:
        """One call in the form ``"complete"`` or ``"stream"``."""
        call, scope = asked(streaming=form == "stream", **kwargs)
        return (self.stream if form == "stream" else self.complete)(provider, call, scope)


def took(since: float, seconds: float) -> bool:
    """Whether about ``seconds`` have passed: not sooner, and not much later on a busy machine."""
    return seconds - 0.02 <= time.monotonic() - since < seconds + 0.5

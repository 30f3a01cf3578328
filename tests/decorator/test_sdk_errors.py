"""Errors that the openai SDK really raises, through ``tiered.call``."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import openai
import pytest

from decorator.conftest import deployment
from tierllm import (
    AllTiersFailedError,
    AuthenticationError,
    ContextWindowExceededError,
    InvalidRequestError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    Route,
    TieredClient,
    tiered,
)
from tierllm.testing import FakeClock

ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Fine."}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
MESSAGES: Any = [{"role": "user", "content": "How are you?"}]


class Vendor(HTTPServer):
    """Answers with the next of ``replies``, ``(status, headers, body)``, and then well."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[tuple[int, dict[str, str], Any]] = []
        self.models: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Vendor

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.models.append(asked["model"])
        status, headers, body = self.server.replies.pop(0) if self.server.replies else (200, {}, ANSWER)
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "content-type": "application/json",
            "content-length": str(len(content)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with Vendor() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def sdk(vendor: Vendor) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=vendor.url, api_key="test", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def answer(sdk: openai.OpenAI, client: TieredClient) -> Any:
    @tiered.call(client=client)
    def answer(*, route: Route = Route.INJECTED) -> Any:
        return sdk.chat.completions.create(
            model=route.model, messages=MESSAGES, timeout=route.timeout_s, max_tokens=route.max_tokens
        )

    return answer


def error(status: int, headers: dict[str, str] | None = None, **fields: str) -> Any:
    return status, headers or {}, {"error": {"message": "no", "type": "x", **fields}}


def test_well(answer: Any, vendor: Vendor) -> None:
    assert answer().choices[0].message.content == "Fine."
    assert vendor.models == ["big"]


def test_errors_that_may_pass_are_retried(answer: Any, vendor: Vendor, clock: FakeClock) -> None:
    vendor.replies = [error(503), error(429, {"retry-after": "2"})]
    assert answer().choices
    assert vendor.models == ["big"] * 3
    assert clock() >= 2


def test_then_the_next_tier(answer: Any, vendor: Vendor, client: TieredClient) -> None:
    vendor.replies = [error(500)] * 3
    assert answer().choices
    assert vendor.models == ["big", "big", "big", "small"]
    assert deployment(client)["breaker"]["state"] == "open"


@pytest.mark.parametrize(
    ("reply", "kind", "models"),
    [
        (error(400), InvalidRequestError, ["big"]),
        (error(401), AuthenticationError, ["big", "small"]),
        (error(429, code="insufficient_quota"), AuthenticationError, ["big", "small"]),
        (error(400, code="context_length_exceeded"), ContextWindowExceededError, ["big", "small"]),
    ],
)
def test_errors_that_stay_are_not_retried(
    answer: Any, vendor: Vendor, reply: Any, kind: type[Exception], models: list[str]
) -> None:
    vendor.replies = [reply] * 6
    with pytest.raises((kind, AllTiersFailedError)) as raised:
        answer()
    told = raised.value if isinstance(raised.value, kind) else raised.value.__cause__
    assert isinstance(told, kind)
    assert isinstance(told.__cause__, openai.APIStatusError)
    assert vendor.models == models


def test_retry_on_an_sdks_class(sdk: openai.OpenAI, vendor: Vendor, client: TieredClient) -> None:
    @tiered.call(client=client, retry_on=openai.BadRequestError)
    def answer(*, route: Route = Route.INJECTED) -> Any:
        return sdk.chat.completions.create(model=route.model, messages=MESSAGES)

    vendor.replies = [error(400, {"x-request-id": "r1"})] * 3
    assert answer().choices
    assert vendor.models == ["big"] * 3 + ["small"]


def test_retry_on_everything_keeps_what_is_known(
    sdk: openai.OpenAI, vendor: Vendor, client: TieredClient
) -> None:
    @tiered.call(client=client, retry_on=Exception)
    def answer() -> Any:
        return sdk.chat.completions.create(model="m", messages=MESSAGES)

    vendor.replies = [error(429, {"retry-after": "2"}), *[error(400, {"x-request-id": "r1"})] * 6]
    with pytest.raises(AllTiersFailedError) as raised:
        answer()
    first, second = (a.error for a in raised.value.attempts[:2])
    assert isinstance(first, RateLimitError)
    assert isinstance(second, ProviderUnavailableError)
    assert (second.status, second.request_id, second.retryable) == (400, "r1", True)


def test_a_refused_connection(form: Any, client: TieredClient) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    sdk = openai.OpenAI(base_url=nobody, api_key="test", max_retries=0)
    models: list[str] = []

    def behave(route: Route) -> Any:
        models.append(route.model)
        return sdk.chat.completions.create(model=route.model, messages=MESSAGES)

    with pytest.raises(AllTiersFailedError) as raised:
        form.wrap(behave, client=client)()
    told = raised.value.__cause__
    assert isinstance(told, ProviderUnavailableError)
    assert isinstance(told.__cause__, openai.APIConnectionError)
    assert models == ["big"] * 3 + ["small"] * 3
    sdk.close()


def test_an_async_sdk(vendor: Vendor, client: TieredClient) -> None:
    @tiered.call(client=client)
    async def answer(*, route: Route = Route.INJECTED) -> Any:
        async with openai.AsyncOpenAI(base_url=vendor.url, api_key="test", max_retries=0) as sdk:
            return await sdk.chat.completions.create(model=route.model, messages=MESSAGES)

    vendor.replies = [error(503)]
    assert asyncio.run(answer()).choices
    assert vendor.models == ["big", "big"]


def test_an_sdks_timeout(client: TieredClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"

        @tiered.call(client=client, repeatable=False)
        def answer() -> Any:
            with openai.OpenAI(base_url=url, api_key="test", max_retries=0, timeout=0.05) as sdk:
                return sdk.chat.completions.create(model="m", messages=MESSAGES)

        with pytest.raises(ProviderTimeoutError) as raised:
            answer()
    assert isinstance(raised.value.__cause__, openai.APITimeoutError)

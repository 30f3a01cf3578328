"""Foreign exceptions, told as tierllm's own: by name, so that no SDK need be installed."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.error
from typing import Any

import httpcore
import httpcore2
import httpx
import httpx2
import openai
import pytest
import requests

from tierllm.errors import (
    AuthenticationError,
    ContentFilteredError,
    ContextWindowExceededError,
    DeadlineExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    ThrottledError,
)
from tierllm.providers.limits import rate_limits, retry_after_s
from tierllm.providers.translate import translate

REQUEST = httpx2.Request("POST", "https://llm.example/v1/chat/completions")


def foreign(module: str, *names: str, base: type[BaseException] = Exception, **attributes: Any) -> Exception:
    """An exception of class ``names[0]``, derived from the others, as if defined in ``module``."""
    cls: type[BaseException] = base
    for name in reversed(names):
        cls = type(name, (cls,), {"__module__": module})
    exc = cls("the vendor's own words")
    for name, value in attributes.items():
        setattr(exc, name, value)
    assert isinstance(exc, Exception)
    return exc


def answered(status: int, body: object = None, **headers: str) -> openai.APIStatusError:
    """What the openai SDK raises for a status, with a body as its servers send it."""
    response = httpx2.Response(status, headers=headers, request=REQUEST)
    return openai.APIStatusError("Error code", response=response, body=body)


def test_the_vendors_words_stay_out_of_the_message() -> None:
    body = {"message": "Your prompt 'hello' is bad", "type": "invalid_request_error", "param": "messages[0]"}
    error = translate(answered(400, {**body, "code": "oh no, hello"}, **{"x-request-id": "req_1"}), "openai")
    assert str(error) == "openai answered 400 (invalid_request_error, param messages[0])"
    assert error is not None
    assert error.detail == body["message"]
    assert (error.status, error.request_id) == (400, "req_1")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, {"code": "insufficient_quota"}, AuthenticationError),
        (429, {"message": "You exceeded your current quota"}, RateLimitError),
        (400, {"message": "Your credit balance is too low to access the API"}, AuthenticationError),
        (402, None, AuthenticationError),
        (400, {"code": "context_length_exceeded"}, ContextWindowExceededError),
        (400, {"type": "exceed_context_size_error"}, ContextWindowExceededError),
        (400, {"message": "This model's maximum context length is 4096 tokens."}, ContextWindowExceededError),
        (400, {"message": "the request exceeds the available context size"}, ContextWindowExceededError),
        (400, {"message": "prompt is too long: 208310 tokens > 200000"}, ContextWindowExceededError),
        (422, {"message": "`inputs` must have less than 4095 tokens"}, ContextWindowExceededError),
        (400, "Input is too long for requested model.", ContextWindowExceededError),
        (413, None, ContextWindowExceededError),
        (400, {"code": "content_filter"}, ContentFilteredError),
        (400, {"code": "content_policy_violation"}, ContentFilteredError),
        (418, None, InvalidRequestError),
        (498, None, ProviderUnavailableError),
        (504, None, ProviderUnavailableError),
    ],
)
def test_what_decides_beside_the_status(status: int, body: object, kind: type) -> None:
    error = translate(answered(status, body))
    assert type(error) is kind
    assert error is not None
    assert error.status == status


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"type": "server_error"}, ProviderUnavailableError),
        ({"code": "rate_limit_exceeded"}, RateLimitError),
        ({"code": 429}, RateLimitError),
        ({"code": "503"}, ProviderUnavailableError),
        ({"message": "too many tokens in the prompt"}, ContextWindowExceededError),
        (None, ProviderUnavailableError),
    ],
)
def test_errors_inside_an_openai_stream(body: object, kind: type) -> None:
    assert type(translate(openai.APIError("went wrong", REQUEST, body=body))) is kind


def test_anthropic() -> None:
    def told(status: int, kind: str, **more: Any) -> Exception:
        body = {"type": "error", "error": {"type": kind, "message": "no"}, "request_id": "req_2"}
        names = "APIStatusError", "APIError", "AnthropicError"
        return foreign("anthropic", *names, status_code=status, body=body, request_id="req_2", **more)

    for status, kind, expected in (
        (529, "overloaded_error", ProviderUnavailableError),
        (200, "overloaded_error", ProviderUnavailableError),
        (200, "rate_limit_error", RateLimitError),
        (200, "invalid_request_error", InvalidRequestError),
        (200, "authentication_error", AuthenticationError),
        (200, "timeout_error", ProviderTimeoutError),
        (200, "something_new", ProviderUnavailableError),
    ):
        error = translate(told(status, kind))
        assert type(error) is expected
        assert error is not None
        assert error.status == (529 if status == 529 else None)
        assert error.request_id == "req_2"
        assert str(error).startswith("anthropic ")


def test_google() -> None:
    details = {
        "error": {
            "code": 429,
            "status": "RESOURCE_EXHAUSTED",
            "message": "Quota exceeded",
            "details": [{"@type": "…/RetryInfo", "retryDelay": "17.5s"}],
        }
    }
    limited = foreign(
        "google.genai.errors",
        "ClientError",
        "APIError",
        code=429,
        status="RESOURCE_EXHAUSTED",
        details=details,
    )
    error = translate(limited)
    assert type(error) is RateLimitError
    assert error.retry_after_s == 17.5
    assert str(error) == "google answered 429 (RESOURCE_EXHAUSTED)"
    down = foreign("google.genai.errors", "ServerError", "APIError", code=503, details={})
    assert type(translate(down)) is ProviderUnavailableError
    odd = foreign("google.genai.errors", "UnknownApiResponseError", base=ValueError)
    assert type(translate(odd)) is MalformedResponseError


def test_ollama() -> None:
    for status, expected in (
        (-1, ProviderUnavailableError),
        (404, AuthenticationError),
        (500, ProviderUnavailableError),
    ):
        exc = foreign("ollama._types", "ResponseError", status_code=status, error="model 'x' not found")
        assert type(translate(exc)) is expected


@pytest.mark.parametrize("lib", [httpx, httpx2, httpcore, httpcore2])
@pytest.mark.parametrize(
    ("name", "kind", "phase"),
    [
        ("ReadTimeout", ProviderTimeoutError, "total"),
        ("ConnectTimeout", ProviderTimeoutError, "connect"),
        ("PoolTimeout", ProviderTimeoutError, "connect"),
        ("ConnectError", ProviderUnavailableError, None),
        ("ReadError", ProviderUnavailableError, None),
        ("RemoteProtocolError", ProviderUnavailableError, None),
        ("ProxyError", ProviderUnavailableError, None),
        ("LocalProtocolError", InvalidRequestError, None),
        ("UnsupportedProtocol", InvalidRequestError, None),
    ],
)
def test_bare_transports(lib: Any, name: str, kind: type, phase: str | None) -> None:
    error = translate(getattr(lib, name)("the vendor's own words"), "acme")
    assert type(error) is kind
    assert "own words" not in str(error)
    assert str(error).startswith("acme ")
    assert getattr(error, "phase", None) == phase


@pytest.mark.parametrize("lib", [httpx, httpx2])
def test_bare_statuses(lib: Any) -> None:
    request = lib.Request("POST", "https://llm.example")
    response = lib.Response(
        429, headers={"retry-after": "3"}, json={"error": {"code": "slow"}}, request=request
    )
    error = translate(lib.HTTPStatusError("429", request=request, response=response))
    assert type(error) is RateLimitError
    assert (error.retry_after_s, str(error)) == (3.0, "the provider answered 429 (slow)")
    unread = lib.Response(
        503, stream=lib.ByteStream(b"{}") if hasattr(lib, "ByteStream") else None, request=request
    )
    assert type(translate(lib.HTTPStatusError("503", request=request, response=unread))) is (
        ProviderUnavailableError
    )


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (ConnectionRefusedError(), ProviderUnavailableError),
        (BrokenPipeError(), ProviderUnavailableError),
        (TimeoutError(), ProviderTimeoutError),
        (socket.gaierror(-2, "Name or service not known"), ProviderUnavailableError),
        (requests.ConnectionError(), ProviderUnavailableError),
        (requests.ConnectTimeout(), ProviderTimeoutError),
        (requests.exceptions.ChunkedEncodingError(), ProviderUnavailableError),
        (urllib.error.URLError("refused"), ProviderUnavailableError),
        (foreign("aiohttp.client_exceptions", "ClientPayloadError", "ClientError"), ProviderUnavailableError),
        (foreign("aiohttp.client_exceptions", "ServerTimeoutError", base=TimeoutError), ProviderTimeoutError),
        (foreign("aiohttp.client_exceptions", "ClientResponseError", status=502), ProviderUnavailableError),
    ],
)
def test_other_transports(exc: Exception, kind: type) -> None:
    assert type(translate(exc)) is kind


def test_a_connection_errors_cause_knows_more() -> None:
    def wrapped(cause: BaseException) -> BaseException:
        exc = openai.APIConnectionError(request=REQUEST)
        exc.__cause__ = cause
        return exc

    assert type(translate(wrapped(httpx2.UnsupportedProtocol("ftp")))) is InvalidRequestError
    assert type(translate(wrapped(ssl.SSLError("tls")))) is ProviderUnavailableError
    timed_out = openai.APITimeoutError(request=REQUEST)
    timed_out.__cause__ = httpx2.ConnectTimeout("slow")
    error = translate(timed_out)
    assert isinstance(error, ProviderTimeoutError)
    assert error.phase == "connect"


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("the application's"),
        KeyError("x"),
        OSError(2, "No such file"),
        openai.OpenAIError("Missing credentials"),
        httpx2.StreamConsumed(),
        DeadlineExceededError("tierllm's own"),
        ThrottledError("tierllm's own"),
        KeyboardInterrupt(),
        json.JSONDecodeError("the application's", "x", 0),
    ],
)
def test_unknown_exceptions_are_left_alone(exc: BaseException) -> None:
    assert translate(exc) is None


def test_bad_json_counts_only_where_an_sdk_met_it() -> None:
    with pytest.raises(ValueError) as mine:
        json.loads("{")
    assert translate(mine.value) is None
    space: dict[str, Any] = {"__name__": "ollama._client"}
    exec("import json\ndef read(): return json.loads('{')", space)
    with pytest.raises(ValueError) as theirs:
        space["read"]()
    assert type(translate(theirs.value)) is MalformedResponseError


# -- headers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:10 GMT"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, now=60.0) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-reset-tokens": "120ms"}, 360.0),
        (
            {
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-reset-tokens": "120ms",
                "x-ratelimit-remaining-requests": "9",
                "x-ratelimit-remaining-tokens": "0",
            },
            0.12,
        ),
        ({"x-ratelimit-reset-requests": "2h", "retry-after": "1"}, 1.0),
        ({"x-ratelimit-reset": "1735689600"}, None),
    ],
)
def test_resets_count_where_nothing_else_is_said(headers: dict[str, str], seconds: float | None) -> None:
    error = translate(answered(429, None, **headers))
    assert error is not None
    assert error.retry_after_s == pytest.approx(seconds)
    down = translate(answered(503, None, **headers))
    assert down is not None
    assert down.retry_after_s == (1.0 if "retry-after" in headers else None)


def test_rate_limits_keeps_only_those() -> None:
    headers = httpx2.Headers({"X-RateLimit-Limit-Requests": "5", "Retry-After": "1", "Set-Cookie": "secret"})
    assert rate_limits(headers) == {"x-ratelimit-limit-requests": "5", "retry-after": "1"}

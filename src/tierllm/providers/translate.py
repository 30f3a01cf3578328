"""Exceptions of known SDKs and transports, told as tierllm's own.

``translate`` knows them by the names of their modules and classes, so that no SDK is imported to
ask. What decides, in this order: the vendor's own word for spent quota, a full context window or
a content filter; the HTTP status; any other word of the vendor's; the kind of transport failure.

Messages are made of status, code, type and parameter only. A vendor's free text may quote the
prompt or a key: it goes into ``detail``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import (
    AuthenticationError,
    ContentFilteredError,
    ContextWindowExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    TierLLMError,
)
from .limits import advised_wait_s

__all__ = ["translate"]

Kind = type[ProviderError]

_SDKS = frozenset({"openai", "anthropic", "google", "ollama"})
_TRANSPORTS = frozenset(
    {"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "requests", "urllib3", "urllib", "http", "anyio"}
)


def _table(kinds: Mapping[Kind, str]) -> dict[str, Kind]:
    return {word: kind for kind, words in kinds.items() for word in words.split()}


_DECISIVE = _table(
    {
        AuthenticationError: "insufficient_quota billing_hard_limit_reached billing_not_active billing_error",
        ContextWindowExceededError: "context_length_exceeded exceed_context_size_error",
        ContentFilteredError: "content_filter content_policy_violation invalid_prompt",
    }
)
"""Words that say more than the status they come with."""

_STATUSES: Mapping[int, Kind] = {
    **dict.fromkeys((401, 402, 403, 404), AuthenticationError),
    408: ProviderTimeoutError,
    **dict.fromkeys((409, 425, 498, 499), ProviderUnavailableError),
    413: ContextWindowExceededError,
    429: RateLimitError,
}
"""Other 4xx are ``InvalidRequestError``, other 5xx ``ProviderUnavailableError``."""

_WORDS = _table(
    {
        RateLimitError: "rate_limit_error rate_limit_exceeded resource_exhausted",
        ProviderTimeoutError: "timeout_error deadline_exceeded",
        ProviderUnavailableError: "overloaded_error server_error api_error internal unavailable",
        AuthenticationError: "authentication_error invalid_api_key unauthenticated permission_error "
        "permission_denied not_found_error not_found model_not_found",
        InvalidRequestError: "invalid_request_error invalid_argument failed_precondition",
        ContextWindowExceededError: "request_too_large",
    }
)
"""Words that say what a status would have said, for errors inside a stream (HTTP status 200)."""

_NAMES = _table(
    {
        ProviderTimeoutError: "APITimeoutError ConnectTimeout ConnectTimeoutError ReadTimeout "
        "ReadTimeoutError ServerTimeoutError Timeout TimeoutError TimeoutException",
        InvalidRequestError: "InvalidSchema InvalidURL LocalProtocolError MissingSchema TooManyRedirects "
        "UnsupportedProtocol",
        MalformedResponseError: "APIResponseValidationError ContentDecodingError ContentTypeError "
        "DecodingError JSONDecodeError LengthFinishReasonError UnicodeDecodeError "
        "UnknownApiResponseError ValidationError",
        ContentFilteredError: "ContentFilterFinishReasonError",
        AuthenticationError: "SubjectTokenProviderError",
        ProviderUnavailableError: "APIConnectionError APIError BrokenResourceError ChunkedEncodingError "
        "ClientConnectionError ClientPayloadError ConnectionError EndOfStream HTTPException "
        "MaxRetryError NetworkError NewConnectionError ProtocolError ProxyError ResponseError "
        "TransportError URLError gaierror",
    }
)
"""Classes without status or word; the first of an exception's bases that is listed counts."""

_HAPPENED: Mapping[Kind, str] = {
    ProviderTimeoutError: "did not answer in time",
    ProviderUnavailableError: "could not be reached, or broke off",
    MalformedResponseError: "sent something that is no answer",
    InvalidRequestError: "could not be sent the request",
}

_CONNECTING = frozenset(
    {"ConnectTimeout", "ConnectTimeoutError", "ConnectionTimeoutError", "PoolTimeout", "NewConnectionError"}
)

_TOO_LONG = re.compile(
    r"maximum context|context (length|size|window|limit)|(prompt|input) is too long|too many tokens"
    r"|maximum (prompt|input) length|reduce the length of|must have less than \d+ tokens"
    r"|exceeds the maximum number of tokens|exceeds? the (available|model'?s?) context",
    re.IGNORECASE,
)
"""How servers that have no code for it say that the prompt does not fit."""

_NO_CREDIT = re.compile(r"credit balance is too low", re.IGNORECASE)
_WORD = re.compile(r"(?!sk-)[\w.\[\]:/-]{1,64}")


class _Told(NamedTuple):
    """What an exception tells: HTTP status, headers, the vendor's words, and its free text."""

    status: int | None
    headers: Mapping[str, str]
    words: tuple[str, ...]
    param: str | None
    text: str | None
    body: object


def translate(exc: BaseException, vendor: str | None = None) -> ProviderError | None:
    """The ``ProviderError`` that ``exc`` means, to be raised ``from exc``.

    ``None`` for exceptions it does not know, and for tierllm's own: leave those alone. ``vendor``
    is the name to use in messages, by default the SDK's.
    """
    family = _family(exc)
    if family is None:
        return None
    who = vendor or next((r for r in (family, *_raised_through(exc)) if r in _SDKS), "the provider")
    cause = exc.__cause__
    if cause is not None and "APIConnectionError" in _names(exc):  # the transport knows more
        inner = translate(cause, who)
        if inner is not None:
            return inner
    told = _told(exc)
    kind = _kind(exc, told)
    if kind is None:
        return None
    error = kind(
        _message(who, kind, exc, told),
        status=told.status,
        retry_after_s=advised_wait_s(told.headers, told.body, spent=kind is RateLimitError),
        request_id=_request_id(exc, told),
        detail=told.text,
    )
    if isinstance(error, ProviderTimeoutError) and not _CONNECTING.isdisjoint(_names(exc)):
        error.phase = "connect"
    return error


def _family(exc: BaseException) -> str | None:
    """The SDK or transport that ``exc`` comes from, if it is a known one."""
    if isinstance(exc, TierLLMError) or not isinstance(exc, Exception):
        return None
    for cls in type(exc).__mro__:
        root = cls.__module__.partition(".")[0]
        if root in _SDKS or root in _TRANSPORTS:
            return root
    if isinstance(exc, ConnectionError | TimeoutError) or type(exc).__name__ == "gaierror":
        return "builtins"
    if type(exc).__name__ in {"JSONDecodeError", "UnicodeDecodeError", "ValidationError"}:
        return next((root for root in _raised_through(exc) if root in _SDKS), None)
    return None


def _raised_through(exc: BaseException) -> Iterator[str]:
    """The packages whose code ``exc`` passed through: a user's own bad JSON is not the vendor's."""
    step = exc.__traceback__
    while step is not None:
        yield str(step.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        step = step.tb_next


def _names(exc: BaseException) -> list[str]:
    return [cls.__name__ for cls in type(exc).__mro__]


# -- what an exception tells --------------------------------------------------------


def _told(exc: BaseException) -> _Told:
    response = getattr(exc, "response", None)
    body = _body(exc, response)
    headers = getattr(response, "headers", None) or getattr(exc, "headers", None)
    inner = body.get("error", body) if isinstance(body, Mapping) else body
    fields: Mapping[str, Any] = inner if isinstance(inner, Mapping) else {}
    candidates = (fields.get(n) for n in ("code", "type", "status"))
    words = [w for w in candidates if isinstance(w, str) and not w.isdigit()]
    words += [w for w in (getattr(exc, n, None) for n in ("code", "type")) if isinstance(w, str)]
    text = fields.get("message") or (inner if isinstance(inner, str) else None)
    text = text or getattr(exc, "message", None) or getattr(exc, "error", None) or str(exc)
    return _Told(
        status=_status(exc, response, fields),
        headers=headers if isinstance(headers, Mapping) else {},
        words=tuple(dict.fromkeys(w for w in words if _WORD.fullmatch(w) and not w.isdigit())),
        param=_plain(fields.get("param")),
        text=text if isinstance(text, str) and text else None,
        body=body,
    )


def _body(exc: BaseException, response: object) -> object:
    """The error's body as data: an SDK has read it already, a bare transport may not have."""
    body = getattr(exc, "body", None)
    body = getattr(exc, "details", None) if body is None else body
    if body is None and response is not None:
        try:
            body = response.json()  # type: ignore[attr-defined]
        except Exception:
            return None  # not read, or not JSON: the status has to do
    if isinstance(body, list) and body:
        body = body[0]
    return body


def _status(exc: BaseException, response: object, fields: Mapping[str, Any]) -> int | None:
    own = (getattr(exc, name, None) for name in ("status_code", "status", "code"))
    theirs = (getattr(response, "status_code", None), fields.get("code"))
    for found in (*own, *theirs):
        number = int(found) if isinstance(found, str) and found.isdigit() else found
        if isinstance(number, int) and 400 <= number <= 599:
            return int(number)
    return None


def _plain(word: object) -> str | None:
    return word if isinstance(word, str) and _WORD.fullmatch(word) else None


def _request_id(exc: BaseException, told: _Told) -> str | None:
    own = getattr(exc, "request_id", None)
    if isinstance(own, str):
        return own
    named = (told.headers.get(n) for n in ("x-request-id", "request-id", "apim-request-id"))
    return next((i for i in named if i), None)


# -- what it means ------------------------------------------------------------------


def _kind(exc: BaseException, told: _Told) -> Kind | None:
    words = [w.lower() for w in told.words]
    for word in words:
        if word in _DECISIVE:
            return _DECISIVE[word]
    text = told.text or ""
    if told.status in (None, 400, 413, 422) and type(exc).__module__ != "builtins" and _TOO_LONG.search(text):
        return ContextWindowExceededError
    if told.status in (400, 429) and _NO_CREDIT.search(text):
        return AuthenticationError
    if told.status is not None:
        usual = InvalidRequestError if told.status < 500 else ProviderUnavailableError
        return _STATUSES.get(told.status, usual)
    for word in words:
        if word in _WORDS:
            return _WORDS[word]
    return next((_NAMES[name] for name in _names(exc) if name in _NAMES), None)


def _message(who: str, kind: Kind, exc: BaseException, told: _Told) -> str:
    words = [*told.words[:2], *([f"param {told.param}"] if told.param else [])]
    aside = f" ({', '.join(words)})" if words else ""
    if told.status is not None:
        return f"{who} answered {told.status}{aside}"
    if words:
        return f"{who} reported an error{aside}"
    return f"{who} {_HAPPENED.get(kind, 'failed')} ({type(exc).__name__})"

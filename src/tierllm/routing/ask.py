"""From what a caller writes to a ``Request``: checked before anything is sent."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypedDict

from typing_extensions import Unpack

from ..errors import ConfigError, UnknownOptionError
from ..types import Message, Request

__all__ = ["CallOptions", "ask", "scope", "unknown_option"]


class CallOptions(TypedDict, total=False):
    """The keywords that every call takes.

    The first group is tierllm's: the tier asked for and its floor, who asks, how urgent it is, how
    long it may take. The second goes to the model. ``extra`` holds vendor options by provider name.
    """

    sla: str | None
    user: str | None
    tenant: str | None
    plan: str | None
    priority: int
    tags: Sequence[str]
    session: str | None
    deadline_s: float | None
    min_tier: str | None
    fallback: bool
    require: Sequence[str] | set[str] | frozenset[str]
    route: str | None
    language: str | None
    extra: Mapping[str, Mapping[str, Any]]

    max_tokens: int
    temperature: float
    top_p: float
    stop: str | Sequence[str]
    seed: int
    tools: Sequence[Mapping[str, Any]]
    tool_choice: Any
    parallel_tool_calls: bool
    response_format: Any
    reasoning_effort: str
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[str, float]
    logprobs: bool
    top_logprobs: int


PARAMS = frozenset(
    {
        "max_tokens",
        "temperature",
        "top_p",
        "stop",
        "seed",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
    }
)
NAMES = frozenset({"sla", "user", "tenant", "plan", "session", "min_tier", "route", "language"})
OPTIONS = frozenset(CallOptions.__annotations__)

_defaults: ContextVar[Mapping[str, Any] | None] = ContextVar("tierllm_scope", default=None)


@contextmanager
def scope(**options: Unpack[CallOptions]) -> Iterator[None]:
    """Defaults for every call made inside, in this thread or task; inner scopes and calls override.

    Raises ``UnknownOptionError`` for a keyword that no call takes.
    """
    for name in options:
        if name not in OPTIONS:
            raise unknown_option(name)
    token = _defaults.set({**(_defaults.get() or {}), **options})
    try:
        yield
    finally:
        _defaults.reset(token)


def ask(
    prompt: str | Sequence[Message] | None, options: Mapping[str, Any], *, repeatable: bool = True
) -> Request:
    """The request for ``prompt`` (a text or messages) with these options and the scope's defaults.

    ``None`` is the prompt of a wrapped call that shows none.

    Raises ``ConfigError`` for messages or numbers that make no sense, ``UnknownOptionError`` for
    keywords that no call takes.
    """
    defaults = _defaults.get()
    if defaults:
        options = {**defaults, **options}
    messages: tuple[Message, ...] = () if prompt is None else _messages(prompt)
    if not options and repeatable:
        return Request(messages=messages)
    fields: dict[str, Any] = {} if repeatable else {"repeatable": False}
    params: dict[str, Any] = {}
    for name, value in options.items():
        if name in PARAMS:
            if value is not None:
                params[name] = value
        elif name in NAMES:
            if value is not None and (not isinstance(value, str) or not value):
                raise ConfigError(f"{name}={value!r}: give a name (a non-empty str), or leave it out")
            fields[name] = value
        elif name in OPTIONS:
            if value is not None:
                fields[name] = _checked(name, value)
        else:
            raise unknown_option(name)
    if params:
        _check_params(params)
        fields["params"] = params
    return Request(messages=messages, **fields)


def _messages(prompt: Any) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise ConfigError("the prompt is empty: give the model something to answer")
        return ({"role": "user", "content": prompt},)
    if not isinstance(prompt, Sequence):
        raise ConfigError(
            f"the prompt is a {type(prompt).__name__}: give a str, or a list of "
            '{"role": ..., "content": ...} messages'
        )
    if not prompt:
        raise ConfigError("the list of messages is empty: give at least one")
    for at, message in enumerate(prompt):
        if not isinstance(message, Mapping):
            raise ConfigError(
                f'message {at} is a {type(message).__name__}: give {{"role": ..., "content": ...}}'
            )
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise ConfigError(f'message {at} has no "role": give "system", "user", "assistant" or "tool"')
        if "content" not in message and "tool_calls" not in message:
            raise ConfigError(f'message {at} (role {role!r}) has neither "content" nor "tool_calls"')
        content = message.get("content")
        if content is not None and not isinstance(content, str | Sequence):
            raise ConfigError(
                f"message {at} (role {role!r}): the content is a {type(content).__name__}; "
                "give a str or a list of parts"
            )
        if content is None and not message.get("tool_calls"):
            raise ConfigError(f"message {at} (role {role!r}) has no content")
    return tuple(prompt)


def _checked(name: str, value: Any) -> Any:
    match name:
        case "priority":
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"priority={value!r}: give a whole number; higher is more urgent")
            return value
        case "deadline_s":
            if not _number(value) or value <= 0:
                raise ConfigError(f"deadline_s={value!r}: give seconds above 0")
            return float(value)
        case "fallback":
            if not isinstance(value, bool):
                raise ConfigError(f"fallback={value!r}: give True or False")
            return value
        case "tags":
            return tuple(_names(name, value))
        case "require":
            return frozenset(_names(name, value))
        case "extra":
            if not isinstance(value, Mapping) or not all(isinstance(v, Mapping) for v in value.values()):
                raise ConfigError('extra: give options by provider name, such as {"openai": {...}}')
            return value
    raise AssertionError(name)


def _names(option: str, value: Any) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence | set | frozenset):
        raise ConfigError(f"{option}={value!r}: give several names, such as [{value!r}]")
    names = list(value)
    if not all(isinstance(n, str) and n for n in names):
        raise ConfigError(f"{option}={value!r}: each must be a non-empty str")
    return names


def _check_params(params: Mapping[str, Any]) -> None:
    tokens = params.get("max_tokens")
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
        raise ConfigError(f"max_tokens={tokens!r}: give a whole number above 0")
    for name, least, most in (("temperature", 0.0, 2.0), ("top_p", 0.0, 1.0)):
        value = params.get(name)
        if value is not None and (not _number(value) or not least <= value <= most):
            raise ConfigError(f"{name}={value!r}: give a number from {least:g} to {most:g}")
    tools = params.get("tools")
    if tools is not None and (isinstance(tools, str | Mapping) or not isinstance(tools, Sequence)):
        raise ConfigError("tools: give a list of tool definitions")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def unknown_option(name: str) -> UnknownOptionError:
    close = difflib.get_close_matches(name, OPTIONS, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UnknownOptionError(
        f'{name!r} is no option of a call: {hint}Vendor options go in extra={{"openai": {{...}}}}'
    )

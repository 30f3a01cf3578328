"""From what a caller writes to a ``Request``: checked before anything is sent."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, Unpack

from ..caching.options import NAMES, NOT_LISTS, checked, names_of
from ..errors import ConfigError, UnknownOptionError
from ..pipeline.defaults import defaults
from ..types import Message, Request

if TYPE_CHECKING:
    from ..cost.estimate import Estimate

__all__ = [
    "NO_PROMPT",
    "CallOptions",
    "ask",
    "check_dollars",
    "check_params",
    "read_messages",
    "scope",
    "unknown_option",
]


class NoPrompt(Enum):
    """Stands for the prompt of a call that shows none."""

    TOKEN = 0


NO_PROMPT: Final = NoPrompt.TOKEN


class CallOptions(TypedDict, total=False):
    """The keywords that every call takes; ``None`` is as good as leaving one out.

    **Where it may go.** ``sla`` is the tier to start at (left out: the first). ``min_tier`` is the
    floor, ``require`` names labels that a deployment must have, and ``fallback=False`` keeps the
    call in the tier where it starts. ``deadline_s`` bounds the whole call.

    **What it is.** ``route`` (the kind of call) and ``language`` choose a simple reply. ``importance``
    (``"low"``, ``"normal"``, ``"high"``) and ``request_class`` (how difficult it is: ``"low"``,
    ``"medium"``, ``"high"``; left out, the router finds out) are for routing rules, and so is ``contract``,
    the promise it is made under; left out, that of its tenant. ``user``,
    ``tenant``, ``plan``, ``session``, ``route`` and ``tags`` say whose budgets it draws on, and stand
    in the usage ledger. ``priority`` (higher is more urgent) orders calls that have to wait, as far as the
    plan allows it; ``defer_ok`` lets a call wait for a calmer time, up to its deadline. All are carried in
    the ``Request`` for your own policies too; none is sent to a vendor.

    **What it may cost.** ``max_cost_usd`` is the most that all its attempts may cost together. Where
    it may cost more than ``confirm_over_usd``, ``confirm(estimate)`` is asked first.

    **From a cache.** ``cache`` is ``"off"``, ``"auto"`` (unless the temperature is above 0), ``"always"``,
    ``"refresh"`` (ask again, and keep that) or ``"only"`` (or else ``CacheMissError``); left out: what the
    cache's ``default`` says. The answer is fresh for ``cache_ttl_s``. ``depends_on={"doc:42": text}``
    makes it valid for just this content (or its SHA-256, or a version number).

    **What the model gets.** All from ``max_tokens`` on, within the tier's ceilings. ``extra`` holds
    further options by provider name: ``{"openai": {"verbosity": "low"}}``.
    """

    sla: str | None
    user: str | None
    tenant: str | None
    plan: str | None
    contract: str | None
    priority: int
    importance: Literal["low", "normal", "high"] | None
    request_class: Literal["low", "medium", "high"] | None
    tags: Sequence[str]
    session: str | None
    deadline_s: float | None
    min_tier: str | None
    fallback: bool
    defer_ok: bool
    require: Sequence[str] | set[str] | frozenset[str]
    max_cost_usd: Decimal | float | int | str
    confirm: Callable[[Estimate], object]
    confirm_over_usd: Decimal | float | int | str
    cache: Literal["auto", "always", "refresh", "only", "off"] | None
    cache_ttl_s: float
    depends_on: Mapping[str, str | bytes | int]
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
RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
WHOLE = {"max_tokens": 1, "top_logprobs": 0, "seed": -(2**63)}
KINDS: dict[str, type] = {
    "reasoning_effort": str,
    "logit_bias": Mapping,
    "logprobs": bool,
    "parallel_tool_calls": bool,
}
LEVELS = {"importance": ("low", "normal", "high"), "request_class": ("low", "medium", "high")}
FOREVER_S = 4e6
"""46 days: as long as every platform's timers can wait."""

OPTIONS = frozenset(CallOptions.__annotations__)


@contextmanager
def scope(**options: Unpack[CallOptions]) -> Iterator[None]:
    """Defaults for every call made inside, in this thread or task; inner scopes and calls override.

    Raises ``UnknownOptionError`` for a keyword that no call takes.
    """
    for name in options:
        if name not in OPTIONS:
            raise unknown_option(name)
    token = defaults.set({**(defaults.get() or {}), **options})
    try:
        yield
    finally:
        defaults.reset(token)


def ask(
    prompt: str | Sequence[Message] | NoPrompt, options: Mapping[str, Any], *, repeatable: bool = True
) -> Request:
    """The request for ``prompt`` (a text or messages) with these options and the scope's defaults.

    ``NO_PROMPT`` is that of a wrapped call, which shows none.

    Raises ``ConfigError`` for messages or numbers that make no sense, ``UnknownOptionError`` for
    keywords that no call takes.
    """
    around = defaults.get()
    if around:
        options = {**around, **options}
    messages: tuple[Message, ...] = () if prompt is NO_PROMPT else read_messages(prompt)
    if not options and repeatable:
        return Request(messages=messages)
    fields: dict[str, Any] = {} if repeatable else {"repeatable": False}
    params: dict[str, Any] = {}
    for name, value in options.items():
        if name in PARAMS:
            if value is not None:
                params[name] = value
        elif name in NAMES:
            fields[name] = None if value is None else checked(name, value)
        elif name in OPTIONS:
            if value is not None:
                fields[name] = _checked(name, value)
        else:
            raise unknown_option(name)
    if params:
        check_params(params)
        fields["params"] = params
    return Request(messages=messages, **fields)


def read_messages(prompt: Any, what: str = "the prompt") -> tuple[Message, ...]:
    """``prompt`` as messages. Raises ``ConfigError`` where it is neither a text nor messages."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise ConfigError(f"{what} is empty: give the model something to answer")
        return ({"role": "user", "content": prompt},)
    if not isinstance(prompt, Sequence):
        raise ConfigError(
            f"{what} is a {type(prompt).__name__}: give a str, or a list of "
            '{"role": ..., "content": ...} messages'
        )
    if not prompt:
        raise ConfigError(f"{what} has no messages: give at least one")
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
        _check_content(content, f"message {at} (role {role!r})")
        tool_calls = message.get("tool_calls")
        if tool_calls and (isinstance(tool_calls, NOT_LISTS) or not isinstance(tool_calls, Sequence)):
            raise ConfigError(f"message {at} (role {role!r}): give a list of tool calls")
        if (content is None or (len(content) == 0 and not isinstance(content, str))) and not tool_calls:
            raise ConfigError(f"message {at} (role {role!r}) has no content")
    return tuple(prompt)


def _check_content(content: Any, where: str) -> None:
    """A text, or a list of parts; a part may be a vendor's own object, but no plain value."""
    if content is None or isinstance(content, str):
        return
    if isinstance(content, NOT_LISTS) or not isinstance(content, Sequence):
        raise ConfigError(
            f"{where}: the content is a {type(content).__name__}; give a str or a list of parts"
        )
    for part in content:
        if part is None or isinstance(part, int | float | bytes | bytearray | list | tuple | set):
            raise ConfigError(
                f"{where}: a part of the content is a {type(part).__name__}; "
                'give {"type": "text", "text": ...} and the like'
            )


def _checked(name: str, value: Any) -> Any:
    match name:
        case "priority":
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"priority={value!r}: give a whole number; higher is more urgent")
            return value
        case "importance" | "request_class":
            levels = LEVELS[name]
            if value not in levels:
                raise ConfigError(f"{name}={value!r}: one of {', '.join(levels)}")
            return value
        case "deadline_s":
            if not _number(value) or value <= 0:
                raise ConfigError(f"deadline_s={value!r}: give seconds above 0")
            return float(min(value, FOREVER_S))
        case "max_cost_usd" | "confirm_over_usd":
            return check_dollars(name, value)
        case "cache" | "cache_ttl_s" | "depends_on" | "tags":
            return checked(name, value)
        case "confirm":
            if not callable(value):
                raise ConfigError(f"confirm={value!r}: give a function of the estimate")
            return value
        case "fallback" | "defer_ok":
            if not isinstance(value, bool):
                raise ConfigError(f"{name}={value!r}: give True or False")
            return value
        case "require":
            return frozenset(names_of(name, value))
        case "extra":
            if not isinstance(value, Mapping) or not all(isinstance(v, Mapping) for v in value.values()):
                raise ConfigError('extra: give options by provider name, such as {"openai": {...}}')
            return value
    raise AssertionError(name)


def check_params(params: Mapping[str, Any]) -> None:
    """Raises ``ConfigError`` for generation parameters that no model takes."""
    for name, value in params.items():
        if value is None:
            continue
        if name in RANGES:
            least, most = RANGES[name]
            if not _number(value) or not least <= value <= most:
                raise ConfigError(f"{name}={value!r}: give a number from {least:g} to {most:g}")
        elif name in WHOLE:
            if isinstance(value, bool) or not isinstance(value, int) or value < WHOLE[name]:
                raise ConfigError(f"{name}={value!r}: give a whole number of at least {WHOLE[name]}")
        elif name in KINDS and not isinstance(value, KINDS[name]):
            raise ConfigError(f"{name}: {type(value).__name__} will not do, give a {KINDS[name].__name__}")
        elif name == "tools" and (
            not isinstance(value, list | tuple) or not all(isinstance(t, Mapping) for t in value)
        ):
            raise ConfigError("tools: give a list of tool definitions, each a mapping")
        elif name == "stop" and not isinstance(value, str):
            names_of(name, value)


def check_dollars(name: str, value: Any) -> Decimal:
    """Raises ``ConfigError`` for what is no amount of money."""
    try:
        exact = Decimal(str(value))
    except ArithmeticError:
        exact = Decimal("NaN")
    if isinstance(value, bool) or not exact.is_finite() or exact < 0:
        raise ConfigError(f"{name}={value!r}: give dollars, 0 or more")
    return exact


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def unknown_option(name: str) -> UnknownOptionError:
    close = difflib.get_close_matches(name, OPTIONS, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UnknownOptionError(
        f'{name!r} is no option of a call: {hint}Vendor options go in extra={{"openai": {{...}}}}'
    )

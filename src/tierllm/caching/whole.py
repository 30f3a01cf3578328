"""Whether what a wrapped function returned says of itself that it was cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["complete"]

WHOLE = frozenset(
    {
        *("stop", "tool_calls", "function_call"),  # OpenAI, Mistral, Ollama; Gemini in capitals
        *("end_turn", "stop_sequence", "tool_use"),  # Anthropic, Bedrock
        *("complete", "tool_call", "eos_token"),  # Cohere, Hugging Face
    }
)
"""How vendors say that an answer is whole; any other word says that something is missing."""


def complete(value: object) -> bool:
    """Whether ``value``, as far as it looks like an SDK's answer, says that it is whole and unfiltered.

    Objects and dicts alike, and each of a list. What looks like no answer is whole. Never raises.
    """
    try:
        return all(map(_is_whole, value)) if type(value) is list else _is_whole(value)
    except Exception:  # attributes of the application's own objects may raise anything
        return False


def _is_whole(value: object) -> bool:
    if value is None or isinstance(value, str | int | float):
        return True
    if _get(_get(value, "error"), "message") is not None:  # some servers answer 200 with an error
        return False
    for name in ("choices", "candidates"):
        if _has(value, name) and not _all_ended(_get(value, name), some=not isinstance(value, Mapping)):
            return False
    return (
        _ended(value, "finish_reason")
        and _ended(value, "stop_reason")
        and _done(value)
        and _get(_get(value, "prompt_feedback"), "block_reason") is None
        and (not _has(value, "incomplete_details") or _responded(value))
    )


def _ended(answer: object, name: str) -> bool:
    if not _has(answer, name):
        return True
    reason = _get(answer, name)
    return str(getattr(reason, "value", reason)).lower() in WHOLE


def _all_ended(answers: object, *, some: bool) -> bool:
    """``some``: without any, the answer is one that did not come."""
    if not isinstance(answers, list | tuple) or not answers:
        return not some
    return all(
        # a piece of a stream tells its reason only at the end
        (_ended(answer, "finish_reason") or (_has(answer, "delta") and _get(answer, "finish_reason") is None))
        and not _get(_get(answer, "message"), "refusal")
        for answer in answers
    )


def _done(value: object) -> bool:
    """Ollama says by ``done`` that it ended, and why where it says it."""
    if not _has(value, "done") or not (_has(value, "done_reason") or _has(value, "message")):
        return True
    return _get(value, "done") is True and _get(value, "done_reason") in ("stop", None)


def _responded(value: object) -> bool:
    """Whether one of OpenAI's responses is completed, and no refusal."""
    output = _get(value, "output")
    said = [_get(item, "content") for item in output] if isinstance(output, list) else []
    parts = [part for content in said if isinstance(content, list) for part in content]
    return _get(value, "status") == "completed" and all(_get(part, "type") != "refusal" for part in parts)


def _get(value: object, name: str) -> Any:
    """Of a dict also under the name that JSON has it by: ``finishReason``."""
    if isinstance(value, Mapping):
        return value[name] if name in value else value.get(_camel(name))
    return getattr(value, name, None)


def _has(value: object, name: str) -> bool:
    if isinstance(value, Mapping):
        return name in value or _camel(name) in value
    return hasattr(value, name)


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))

"""Whether what a wrapped function returned says of itself that it was cut, or says nothing."""

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

SAID = (
    *("message", "content", "parts", "text", "response", "output"),
    *("tool_calls", "function_call", "audio", "images"),
)
"""Where vendors put what was said."""


def complete(value: object) -> bool:
    """Whether ``value``, as far as it looks like an SDK's answer, says that it is whole and unfiltered.

    Objects and dicts alike, and each of a list. What looks like no answer is whole, unless it is an
    empty text, list or dict. Never raises.
    """
    if type(value) in (str, list, dict) and not value:
        return False
    try:
        return all(map(_is_whole, value)) if type(value) is list else _is_whole(value)
    except Exception:  # attributes of the application's own objects may raise anything
        return False


def _is_whole(value: object) -> bool:
    if value is None or isinstance(value, str | int | float):
        return True
    if _get(value, "error"):  # some servers answer 200 with an error
        return False
    for name in ("choices", "candidates"):
        if _has(value, name) and not _all_ended(_get(value, name)) and not _counts_only(value):
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
    return str(getattr(reason, "value", reason)).lower() in WHOLE and not _is_empty(answer)


def _is_empty(answer: object) -> bool:
    """Whether it has places for what is said, or a role at least, and nothing in them."""
    places = [_get(answer, name) for name in SAID if _has(answer, name)]
    return all(not said or _is_empty(said) for said in places) if places else _has(answer, "role")


def _counts_only(value: object) -> bool:
    """A stream's last piece may tell the tokens, and nothing else."""
    return bool(_get(value, "object") == "chat.completion.chunk" and _get(value, "choices") == [])


def _all_ended(answers: object) -> bool:
    if not answers:  # the answer did not come
        return False
    return not isinstance(answers, list | tuple) or all(
        # a piece of a stream tells its reason only at the end
        (_ended(answer, "finish_reason") or (_has(answer, "delta") and _get(answer, "finish_reason") is None))
        and not _get(_get(answer, "message"), "refusal")
        for answer in answers
    )


def _done(value: object) -> bool:
    """Ollama says by ``done`` that it ended, and why where it says it."""
    if not _has(value, "done") or not (_has(value, "done_reason") or _has(value, "message")):
        return True
    ended = _get(value, "done") is True and _get(value, "done_reason") in ("stop", None)
    return ended and not _is_empty(value)


def _responded(value: object) -> bool:
    """Whether one of OpenAI's responses is completed, and says something that is no refusal."""
    output = _get(value, "output")
    items = output if isinstance(output, list) else []
    said = [_get(item, "content") for item in items]
    parts = [part for content in said if isinstance(content, list) for part in content]
    return (
        _get(value, "status") == "completed"
        and any(_get(item, "type") != "reasoning" for item in items)
        and all(_get(part, "type") != "refusal" for part in parts)
    )


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

"""Which answers may be kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..providers.parsing import parsed, reader
from ..types import Response, ToolCall, Usage
from .returned import Returned, complete
from .written import COMPLETE, MOST_TOKENS, is_cost

__all__ = ["format_of", "storable"]


def storable(
    response: Response,
    params: Mapping[str, Any],
    extra: Mapping[str, Any],
    *,
    returned: Returned | None = None,
) -> bool:
    """Whether ``response`` is one to be kept: complete, unfiltered, undegraded, and all there.

    Not all there is one whose tool calls or data cannot be read; and one that needs the vendor's own
    object: with neither text nor tool calls, or where ``params``, as they were sent, or the vendors'
    options in ``extra`` asked for what only that object has (several choices, log probabilities, sound).

    ``returned`` is what a wrapped function returned, packed: it stands in for the text, and its original,
    the response's ``raw``, must not say that it was cut.
    """
    reason, calls = response.finish_reason, response.tool_calls
    if response.cached or response.degraded or reason not in COMPLETE:
        return False
    if returned is not None and not complete(response.raw):
        return False
    if not (response.text or calls or returned) or (reason == "tool_calls" and not calls):
        return False
    if not _is_plain(response) or not all(map(_is_whole, calls)):
        return False
    if any(_only_raw(options) for options in _given(params, extra)):
        return False
    return _comes_again(response, format_of(params, extra))


def format_of(params: Mapping[str, Any], extra: Mapping[str, Any]) -> object:
    """The ``response_format`` among the parameters, or the vendors' options."""
    formats = (options.get("response_format") for options in _given(params, extra))
    return next((wanted for wanted in formats if wanted is not None), None)


def _is_plain(response: Response) -> bool:
    """Whether it holds what its types say: functions of the application's own may answer with anything."""
    texts = [response.text, response.reasoning]
    maybe = [response.tier, response.deployment, response.model, response.request_id]
    counts: list[object] = []
    for call in response.tool_calls:
        if type(call) is not ToolCall:
            return False
        texts.append(call.arguments)
        maybe += (call.id, call.name)
        counts.append(call.index)
    usage = response.usage
    if usage is not None:
        if type(usage) is not Usage or type(usage.estimated) is not bool:
            return False
        maybe.append(usage.service_tier)
        counts += (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens)
        counts += (usage.cached_input_tokens, usage.cache_write_tokens)
    return (
        all(type(text) is str for text in texts)
        and all(text is None or type(text) is str for text in maybe)
        and all(type(count) is int and 0 <= count <= MOST_TOKENS for count in counts)
        and (response.cost_usd is None or is_cost(response.cost_usd))
    )


def _is_whole(call: ToolCall) -> bool:
    try:
        call.parsed()
    except (ValueError, RecursionError):
        return False
    return bool(call.name)


def _given(params: Mapping[str, Any], extra: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield params
    for options in extra.values():
        if isinstance(options, Mapping):
            yield options
            body = options.get("extra_body")
            if isinstance(body, Mapping):
                yield body


def _only_raw(options: Mapping[str, Any]) -> bool:
    several = any(options.get(name) not in (None, 0, 1) for name in ("n", "candidate_count", "best_of"))
    more = any(options.get(name) for name in ("logprobs", "top_logprobs", "audio"))
    return several or more or options.get("modalities") not in (None, ["text"], ("text",))


def _comes_again(response: Response, wanted: object) -> bool:
    """Whether ``parsed`` is what the text gives, no object of a function's own, and there if ``wanted``."""
    again = parsed(response.text, wanted)
    if again is None:
        missing = reader(wanted) is not None and response.text and not response.tool_calls
        return response.parsed is None and not missing
    try:
        return type(again) is type(response.parsed) and bool(again == response.parsed)
    except Exception:  # of a class of the application's own
        return False

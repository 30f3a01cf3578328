"""Which answers may be kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from ..providers.parsing import parsed
from ..types import Request, Response, ToolCall, Usage
from .returned import Returned, complete
from .written import COMPLETE

__all__ = ["storable"]


def storable(response: Response, request: Request | None = None, *, returned: Returned | None = None) -> bool:
    """Whether ``response`` is one to be kept: complete, unfiltered, undegraded, and all there.

    Not all there is one that needs the vendor's own object: with neither text nor tool calls, or where
    the ``request`` asked for what only that object has (several choices, log probabilities, sound).

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
    if not _is_plain(response):
        return False
    if request is None:
        return response.parsed is None
    given = list(_given(request))
    if any(_only_raw(options) for options in given):
        return False
    return response.parsed is None or _comes_again(response, given)


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
        and all(type(count) is int for count in counts)
        and (response.cost_usd is None or type(response.cost_usd) is Decimal)
    )


def _given(request: Request) -> Iterator[Mapping[str, Any]]:
    yield request.params
    for options in request.extra.values():
        if isinstance(options, Mapping):
            yield options
            body = options.get("extra_body")
            if isinstance(body, Mapping):
                yield body


def _only_raw(options: Mapping[str, Any]) -> bool:
    several = any(options.get(name) not in (None, 0, 1) for name in ("n", "candidate_count", "best_of"))
    more = any(options.get(name) for name in ("logprobs", "top_logprobs", "audio"))
    return several or more or options.get("modalities") not in (None, ["text"], ("text",))


def _comes_again(response: Response, given: list[Mapping[str, Any]]) -> bool:
    """Whether ``parsed`` is what the text gives, and no object of a function's own."""
    for options in given:
        wanted = options.get("response_format")
        if wanted is not None:
            again = parsed(response.text, wanted)
            return (
                again is not None and type(again) is type(response.parsed) and bool(again == response.parsed)
            )
    return False

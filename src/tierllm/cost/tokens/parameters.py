"""Which parameters of a call cost input tokens, and which tools do more than their description says."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["ELSEWHERE", "FREE", "SETTINGS", "left", "tool_tokens"]

# fmt: off
FREE = frozenset(
    {
        "audio", "background", "best_of", "betas", "cache_control", "candidateCount", "candidate_count",
        "dimensions", "echo", "effort", "encoding_format", "extra_headers", "extra_query",
        "frequencyPenalty", "frequency_penalty", "include", "keep_alive", "logit_bias", "logprobs",
        "maxOutputTokens", "max_completion_tokens", "max_output_tokens", "max_retries", "max_tokens",
        "max_tool_calls", "metadata", "min_p", "modalities", "model", "n", "parallel_tool_calls",
        "presencePenalty", "presence_penalty", "prompt_cache_key", "prompt_cache_retention",
        "random_seed", "reasoning", "reasoning_effort", "repetition_penalty", "responseMimeType",
        "responseModalities", "response_mime_type", "response_modalities", "route", "safe_prompt",
        "safetySettings", "safety_identifier", "safety_settings", "seed", "service_tier", "speechConfig",
        "speech_config", "speed", "stop", "stopSequences", "stop_sequences", "store", "stream",
        "stream_options", "strict", "temperature", "thinking", "thinkingConfig", "thinking_config",
        "timeout", "timeout_s", "topK", "topP", "top_k", "top_logprobs", "top_p", "truncation", "user",
        "verbosity"
    }
)
"""Parameters that a model does not get to see. Any other may cost something."""

ELSEWHERE = frozenset(
    {
        "assistant_id", "cachedContent", "cached_content", "container", "conversation", "documents",
        "file_ids", "mcp_servers", "plugins", "previous_response_id", "prompt", "search_parameters",
        "thread_id", "web_search", "web_search_options"
    }
)
"""Parameters that bring in what is not in the request, or let the vendor fetch it."""
# fmt: on

SETTINGS = frozenset({"config", "generationConfig", "generation_config", "options", "output_config", "text"})
"""Parameters that hold others, a schema among them."""

_FUNCTIONS = frozenset({"function_declarations", "functionDeclarations", "toolSpec", "cachePoint"})
_PLAIN_KINDS = (None, "function", "custom")
_TYPED = {
    "computer": (1_250, 2_500),
    "text_editor": (700, 1_500),
    "bash": (245, 500),
    "memory": (700, 1_500),
}
"""Claude's own tools, which the caller runs: what their descriptions take, and twice that at most."""
_DATED = re.compile(r"([a-z_]+)_20\d{6}")


def left(settings: object) -> object:
    """What of some settings a model may get to see; ``None`` for nothing."""
    if not isinstance(settings, Mapping):
        return settings
    seen = {k: v for k, v in settings.items() if k not in FREE and v is not None and v != {"type": "text"}}
    return seen or None


def tool_tokens(tool: object) -> tuple[int, int] | None:
    """Likely and most tokens of a tool beside its JSON; ``None`` where the vendor runs it.

    What such a tool finds is billed as input too, and nobody knows how much that will be.
    """
    if isinstance(tool, type):
        return 0, 0
    if not isinstance(tool, Mapping):
        return None
    kind = tool.get("type")
    if kind in _PLAIN_KINDS:
        described = "name" in tool or "function" in tool or "custom" in tool
        return (0, 0) if described or (tool and tool.keys() <= _FUNCTIONS) else None
    dated = _DATED.fullmatch(kind) if isinstance(kind, str) else None
    return _TYPED.get(dated[1]) if dated else None

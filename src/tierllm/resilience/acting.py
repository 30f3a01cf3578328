"""Whether the model is given tools: what it does with them must not happen twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["may_act"]

HARMLESS = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "n", "best_of", "candidate_count"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "min_tokens"),
        *("num_predict", "num_ctx", "stop", "stop_sequences", "stop_token_ids", "ignore_eos", "echo"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "repeat_penalty", "length_penalty"),
        *("logit_bias", "logprobs", "top_logprobs", "prompt_logprobs", "response_format", "format"),
        *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar", "json_schema"),
        *("reasoning", "reasoning_effort", "thinking", "think", "verbosity", "chat_template_kwargs"),
        *("parallel_tool_calls", "modalities", "audio", "prediction", "safety_settings", "transforms"),
        *("user", "metadata", "store", "service_tier", "safety_identifier", "keep_alive", "cache_control"),
        *("prompt_cache_key", "prompt_cache_retention", "stream_options", "extra_headers", "extra_query"),
    }
)
"""Options of which it is known that they bring no tools. Of all others it is not."""

NESTED = ("extra_body", "options")
"""Options that hold options."""


def may_act(params: Mapping[str, Any], extra: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether these parameters and vendor options may give the model tools; when in doubt, they do.

    ``tools`` may not where each ``tool_choice`` is ``"none"``: whichever of them is sent in the end.
    """
    tools = False
    choices: list[object] = []
    unseen: list[object] = [params, *extra.values()]
    while unseen:
        options = unseen.pop()
        if not isinstance(options, Mapping):
            return True
        for name, value in options.items():
            if name in HARMLESS:
                continue
            if name == "tool_choice":
                choices.append(value)
            elif value is None or value is False or (isinstance(value, list | tuple | dict) and not value):
                continue
            elif name == "tools":
                tools = True
            elif name in NESTED:
                unseen.append(value)
            else:
                return True
    return tools and not (choices and all(isinstance(c, str) and c == "none" for c in choices))

"""What an SDK's answer says of its usage, as a wrapped call reads it."""

from __future__ import annotations

import math
from types import SimpleNamespace as Answer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm import Usage
from tierllm.providers.wrapped import _usage_of


def anthropic(**more: Any) -> Answer:
    return Answer(usage=Answer(**{"input_tokens": 1000, "output_tokens": 100, **more}))


@pytest.mark.parametrize(
    ("more", "tier"),
    [
        ({"service_tier": "standard", "speed": "fast"}, "fast"),
        ({"service_tier": "priority", "speed": "standard"}, "priority"),
        ({"service_tier": "priority", "speed": None}, "priority"),
        ({"service_tier": "batch"}, "batch"),
        ({"speed": 3}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_dearer_speed_is_a_tier(more: dict[str, Any], tier: str | None) -> None:
    usage = _usage_of(anthropic(**more))
    assert usage is not None
    assert usage.service_tier == tier


NUMBERS = st.none() | st.integers(-(10**9), 10**9) | st.sampled_from([math.nan, 1.5, "9", True])


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_the_parts_are_never_more_than_the_whole(
    asked: Any, answered: Any, read: Any, written: Any, cached: Any
) -> None:
    usage: Usage | None = _usage_of(
        anthropic(
            input_tokens=asked,
            output_tokens=answered,
            cache_read_input_tokens=read,
            cache_creation_input_tokens=written,
            input_tokens_details=Answer(cached_tokens=cached),
        )
    )
    if usage is None:
        return
    parts = (usage.cached_input_tokens, usage.cache_write_tokens)
    for tokens in (usage.input_tokens, usage.output_tokens, *parts):
        assert type(tokens) is int
        assert tokens >= 0
    assert sum(parts) <= usage.input_tokens


def test_more_cached_than_there_is_counts_as_all() -> None:
    usage = _usage_of(anthropic(input_tokens_details=Answer(cached_tokens=10**9)))
    assert usage is not None
    assert usage.cached_input_tokens == 1000

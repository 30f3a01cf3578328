"""What parts, tools and parameters cost: nothing that is billed may be missed by the bounds."""

from __future__ import annotations

import base64
import random
import struct
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierllm.cost.prices import PriceBook
from tierllm.cost.tokens import tokens_for
from tierllm.cost.tokens.contents import Contents
from tierllm.cost.tokens.media import UNSEEN_TOKENS
from tierllm.cost.tokens.ranks import encoding

WORDS = "word " * 20_000
M = tokens_for("gpt-4o")
HI: list[dict[str, object]] = [{"role": "user", "content": "hi"}]


def user(*parts: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": list(parts)}]


def upper(*parts: object, model: str = "gpt-4o") -> int:
    return tokens_for(model).bounds(user(*parts), {}).upper


def data_url(kind: str, size: int) -> str:
    return f"data:{kind};base64," + "A" * size


# -- text that stands beside something else --

BESIDE: list[dict[str, object]] = [
    {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "hi"},
        "title": WORDS,
    },
    {"type": "document", "source": {"type": "text", "data": "hi"}, "context": WORDS},
    {"type": "document", "source": {"type": "text", "data": WORDS}},
    {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": WORDS}]}},
    {
        "type": "document",
        "source": {"type": "base64", "media_type": "text/plain", "data": "aGk="},
        "x": WORDS,
    },
    {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}, "text": WORDS},
    {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "alt": WORDS}},
    {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}, "caption": WORDS},
    {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": WORDS}},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}, "transcript": WORDS},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3", "said": WORDS}},
    {"inline_data": {"mime_type": "image/png", "data": "AAAA", "display_name": WORDS}},
    {"inline_data": {"mime_type": "image/png", "data": "AAAA"}, "more": WORDS},
    {"type": "text", "text": "hi", "more": WORDS},
    {"type": "tool_use", "id": "x", "name": "f", "input": {"url": WORDS}},
    {"functionCall": {"name": "f", "args": {"image": WORDS}}},
    {"type": "novelty", "note": "data:image/png;base64," + WORDS},
    {"type": "novelty", "images": [WORDS]},
]


@pytest.mark.parametrize("part", BESIDE, ids=range(len(BESIDE)))
def test_no_text_beside_something_else_is_lost(part: dict[str, object]) -> None:
    for model in ("gpt-4o", "claude-sonnet-4-5", "gemini-2.5-flash"):
        assert upper(part, model=model) >= len(WORDS), model


KEYS = ["title", "context", "caption", "transcript", "notes", "input", "text", "name", "citations"]
KINDS = ["text", "image", "image_url", "input_audio", "document", "file", "tool_use", "video", "novelty"]


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    beside=st.dictionaries(
        st.sampled_from(KEYS),
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=4).map(lambda text: text * 3_000),
        min_size=1,
        max_size=2,
    ),
    deep=st.booleans(),
)
def test_whatever_stands_beside_is_within_the_bound(kind: str, beside: dict[str, str], deep: bool) -> None:
    part: dict[str, object] = {"type": kind, **beside}
    told = sum(len(encoding("o200k_base").encode_ordinary(text)) for text in beside.values())
    assert upper({"type": "tool_result", "content": [part]} if deep else part) >= told
    assert M.bounds([{"role": "assistant", "content": "", "more": part}], {}).upper >= told


# -- what is only referred to, or cannot be looked into --

UNSEEN: list[dict[str, object]] = [
    {"fileData": {"mimeType": "video/mp4", "fileUri": "gs://b/v.mp4"}},
    {"file_data": {"mime_type": "video/mp4", "file_uri": "gs://b/v.mp4"}},
    {"type": "video_url", "video_url": {"url": "https://example.org/v.mp4"}},
    {"type": "audio_url", "audio_url": {"url": "https://example.org/v.mp3"}},
    {"type": "document_url", "document_url": "https://example.org/v.pdf"},
    {"type": "video_url", "video_url": {"url": data_url("video/mp4", 4_000)}},
    {"video": {"format": "mp4", "source": {"s3Location": {"uri": "s3://b/v.mp4"}}}},
    {"video": {"format": "mp4", "source": {"bytes": b"abc"}}},
    {"document": {"format": "pdf", "name": "a", "source": {"bytes": b"%PDF-"}}},
    {"type": "container_upload", "file_id": "file-1"},
    {"type": "input_file", "file_id": "file-1"},
    {"type": "input_file", "file_url": "https://example.org/v.pdf"},
    {"type": "item_reference", "id": "msg-1"},
    {"type": "web_search_tool_result", "content": [{"url": "https://example.org", "encrypted_content": "x"}]},
    {"inline_data": {"mime_type": "application/pdf", "data": "AAAA"}},
    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}},
    {"type": "file", "file": {"filename": "a.pdf", "file_data": data_url("application/pdf", 4_000)}},
]


@pytest.mark.parametrize("part", UNSEEN, ids=range(len(UNSEEN)))
def test_what_is_only_referred_to_may_be_anything(part: dict[str, object]) -> None:
    assert upper(part) >= UNSEEN_TOKENS
    assert M.count(user(part), {}) < 6_000
    assert M.bounds(user(part), {}).lower == 1


def test_a_recording_of_an_earlier_answer_may_be_anything() -> None:
    answer: list[Mapping[str, object]] = [{"role": "assistant", "content": None, "audio": {"id": "audio-1"}}]
    assert M.bounds(answer, {}).upper >= UNSEEN_TOKENS


def test_a_few_bytes_of_a_pdf_may_be_many_pages() -> None:
    pages = 600
    pdf = f"%PDF-1.4\n2 0 obj<</Type/Pages/Count {pages}/Kids[{'3 0 R ' * pages}]>>endobj".encode()
    part = {"inline_data": {"mime_type": "application/pdf", "data": base64.b64encode(pdf).decode()}}
    assert upper(part, model="gemini-2.5-flash") >= 258 * pages


def test_no_window_on_the_list_is_larger_than_what_is_not_seen() -> None:
    book = PriceBook.bundled()
    windows = [info.context_window or 0 for name in book.names() if (info := book.find(name))]
    assert 1_048_576 < max(windows) <= UNSEEN_TOKENS


def test_all_that_is_not_seen_fits_into_one_window() -> None:
    assert upper(*[object()] * 50) < 2 * UNSEEN_TOKENS


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": data_url("video/mp4", 2_000_000)}},
        {"type": "novelty", "blob": "A" * 2_000_000},
        {"type": "novelty", "blob": data_url("application/x-thing", 2_000_000)},
        {"type": "image_url", "image_url": {"url": data_url("image/png", 2_000_000)}},
    ],
    ids=["video", "unknown", "data-url", "image"],
)
def test_only_text_that_is_billed_is_in_the_lower_bound(part: dict[str, object]) -> None:
    assert M.bounds(user(part), {}).lower == 1
    assert M.bounds(user({"type": "text", "text": "x" * 128_000}), {}).lower == 1_001
    assert M.bounds([{"role": "user", "content": "?", "images": ["A" * 2_000_000]}], {}).lower == 1


def wav(samples_per_s: int, bytes_per_s: int, seconds: int) -> str:
    form = struct.pack("<IHHIIHH", 16, 1, 1, samples_per_s, bytes_per_s, 2, 16)
    return base64.b64encode(b"RIFF\0\0\0\0WAVEfmt " + form + b"data" + b"\0" * 32_000 * seconds).decode()


@pytest.mark.parametrize(
    ("samples_per_s", "bytes_per_s"),
    [(16_000, 2**32 - 1), (2**31 - 1, 2**32 - 2), (0, 0), (16_000, 1)],
    ids=["rate", "both", "zero", "slow"],
)
def test_a_wav_that_contradicts_itself_is_told_by_its_size(samples_per_s: int, bytes_per_s: int) -> None:
    def most(rate: int, of_bytes: int) -> int:
        sound = {"data": wav(rate, of_bytes, 60), "format": "wav"}
        return upper({"type": "input_audio", "input_audio": sound})

    assert most(16_000, 32_000) < 2_100
    assert most(samples_per_s, bytes_per_s) >= 60 * 32


# -- parameters --

SCHEMA = {"type": "json_schema", "schema": {"type": "object", "description": WORDS}}


@pytest.mark.parametrize(
    "params",
    [
        {"response_format": SCHEMA},
        {"text": {"format": SCHEMA}},
        {"output_format": SCHEMA},
        {"output_config": {"effort": "low", "format": SCHEMA}},
        {"response_schema": SCHEMA},
        {"generation_config": {"temperature": 0, "response_schema": SCHEMA}},
        {"guided_json": SCHEMA},
        {"extra_body": {"guided_json": SCHEMA}},
        {"suffix": WORDS},
        {"of_tomorrow": WORDS},
        {"of_tomorrow": [WORDS]},
    ],
    ids=lambda params: "-".join(params),
)
def test_a_schema_counts_under_any_name(params: dict[str, Any]) -> None:
    for model in ("gpt-4o", "claude-sonnet-4-5"):
        m = tokens_for(model)
        assert m.bounds(HI, params).upper >= len(WORDS)
        assert m.worst(HI, params) >= 20_000


@pytest.mark.parametrize(
    "params",
    [
        {"web_search_options": {}},
        {"previous_response_id": "resp-1"},
        {"mcp_servers": [{"url": "https://example.org"}]},
        {"cached_content": "c"},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "mcp", "server_label": "x"}]},
        {"tools": [{"google_search": {}}]},
        {"tools": [{"function_declarations": [], "google_search": {}}]},
        {"tools": [{"type": "code_execution_20250522", "name": "code_execution"}]},
    ],
    ids=lambda params: str(params)[:60],
)
def test_what_a_vendor_fetches_may_be_anything(params: dict[str, Any]) -> None:
    assert M.bounds(HI, params).upper >= UNSEEN_TOKENS
    assert M.count(HI, params) < 200


def test_claudes_own_tools_have_a_table() -> None:
    m = tokens_for("claude-sonnet-4-5", "anthropic")
    plain = m.bounds(HI, {"tools": [{"name": "f", "input_schema": {}}]}).upper
    own = [
        {"type": "computer_20250124", "name": "computer"},
        {"type": "text_editor_20250124", "name": "str_replace_editor"},
        {"type": "bash_20250124", "name": "bash"},
    ]
    assert m.count(HI, {"tools": own}) > 346 + 735 + 700 + 245
    assert plain + 1_680 < m.bounds(HI, {"tools": own}).upper < UNSEEN_TOKENS


def test_what_a_model_does_not_see_costs_nothing() -> None:
    free = {
        "temperature": 0.5,
        "max_tokens": 5,
        "stop": ["x" * 500],
        "metadata": {"a": "x" * 500},
        "logit_bias": dict.fromkeys(range(500), 1),
        "extra_headers": {"a": "x" * 500},
        "service_tier": "flex",
        "reasoning": {"effort": "low"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "generation_config": {"temperature": 1},
        "text": {"verbosity": "low", "format": {"type": "text"}},
        "response_format": {"type": "text"},
        "of_tomorrow": None,
    }
    assert M.count(HI, free) == M.count(HI, {})
    assert M.bounds(HI, free) == M.bounds(HI, {})


# -- what is odd --


class Raising:
    @classmethod
    def model_json_schema(cls) -> object:
        raise RuntimeError("no")

    def model_dump(self) -> object:
        raise RuntimeError("no")


class Asking:
    def model_dump(self, mode: str) -> object:
        return {"text": mode}


class Node:
    def __init__(self, parent: Node | None = None) -> None:
        self.parent = parent
        self.children = [Node(self) for _ in range(4)] if parent is None else []


def circle() -> list[object]:
    held: list[object] = []
    held += [held, held]
    return held


def ladder() -> object:
    held: object = "x"
    for _ in range(60):
        held = [held, held]
    return held


def tree() -> dict[str, object]:
    schema: dict[str, object] = {"type": "object"}
    schema["properties"] = {"left": schema, "right": schema}
    return schema


ODD = {
    "circle": circle,
    "ladder": ladder,
    "tree": tree,
    "digits": lambda: 10**5000,
    "raising": Raising,
    "class": lambda: Raising,
    "asking": Asking,
    "graph": Node,
    "wide": lambda: [[0] * 400] * 400,
    "key": lambda: {10**5000: "x"},
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-4-5"])
def test_nothing_odd_raises_or_takes_forever(make: Any, model: str) -> None:
    m, odd = tokens_for(model), make()
    tool = {"type": "function", "function": {"name": "f", "parameters": odd}}
    for messages, params in (
        (user(odd), {}),
        ([{"role": "user", "content": odd}], {}),
        (user({"type": "novelty", "inner": odd}), {}),
        (user({"type": "tool_use", "name": "f", "input": odd}), {}),
        ([{"role": odd, "content": "", "tool_calls": [odd], "name": odd, "id": odd}], {}),
        (HI, {"tools": [tool]}),
        (HI, {"tools": [odd]}),
        (HI, {"response_format": odd}),
        (HI, {"of_tomorrow": odd}),
        (HI, {"tool_choice": odd, "system": odd}),
    ):
        lower, most = m.bounds(messages, params)
        assert most >= UNSEEN_TOKENS or odd is None or isinstance(odd, type), (messages is HI, [*params])
        assert lower <= m.count(messages, params) <= m.worst(messages, params)


# -- long text without a place to cut --


@pytest.mark.parametrize("seed", [0, 66])  # with 66 cutting it makes one token less of it
@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
def test_the_worst_of_long_text_is_no_less_than_its_count(model: str, seed: int) -> None:
    m, letters = tokens_for(model), [chr(c) for c in range(0x900, 0x94F)]
    text = "".join(random.Random(seed).choices(letters, k=50_000))
    whole = len(encoding(m.encoding).encode_ordinary(text)) + 7
    assert whole <= m.worst([{"role": "user", "content": text}], {}) <= whole + 16


def test_a_message_with_a_name_is_not_plain() -> None:
    from tierllm.cost.estimator import CostEstimator

    named = [{"content": "hi", "name": "word " * 500}]
    for exact in (True, False):
        assert CostEstimator().estimate(named, model="gpt-4o", exact=exact).input_tokens.p50 >= 400


# -- bounds without clamping --


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8")) | st.just("吾輩は猫である" * 9), max_size=5),
    strange=st.lists(st.dictionaries(st.text(max_size=9), st.text() | st.integers()), max_size=3),
)
@pytest.mark.parametrize("model", ["claude-opus-4-7", "gemini-2.5-flash", "mistral-large", "of-my-own"])
def test_a_count_without_factors_lies_within_the_bounds_unclamped(
    model: str, texts: list[str], strange: list[dict[str, object]]
) -> None:
    m = tokens_for(model)
    messages = [{"role": "user", "content": [*texts, *strange]}]
    contents = Contents(messages, {}, m._family)
    tokens = sum(len(encoding(m.encoding).encode_ordinary(t)) for t in (*contents.texts, *contents.maybe))
    lower, most = m.bounds(messages, {})
    assert lower <= tokens + contents.likely <= most
    assert contents.likely <= contents.most

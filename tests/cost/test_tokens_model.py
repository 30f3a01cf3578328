"""Counting requests: which model counts how, bounds, frames, tools, parts of all kinds."""

from __future__ import annotations

import base64
import copy
import pickle
import struct
import threading
from dataclasses import dataclass
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tierllm.cost.tokens import BIG, Bounds, tokens_for
from tierllm.cost.tokens.kinds import kind_of
from tierllm.cost.tokens.media import UNSEEN_TOKENS
from tierllm.cost.tokens.tools import rendered

MODELS = [
    "gpt-5.2",
    "gpt-4",
    "gpt-4o-mini",
    "claude-opus-4-7",
    "gemini-2.5-flash",
    "mistral-large",
    "of-my-own",
]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City and country"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["place"],
        },
    },
}


class Answer(BaseModel):
    sentence: str
    sources: list[str]


def user(content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content}]


# -- which model counts how --


@pytest.mark.parametrize(
    ("model", "vendor", "encoding", "exact"),
    [
        ("gpt-4o", None, "o200k_base", True),
        ("gpt-4o-2024-08-06", "openai", "o200k_base", True),
        ("GPT-4o", "OpenAI", "o200k_base", True),
        ("openai/gpt-4.1-nano", None, "o200k_base", True),
        ("chatgpt-4o-latest", None, "o200k_base", True),
        ("ft:gpt-4o-mini-2024-07-18:acme::x1", None, "o200k_base", True),
        ("gpt-5", "azure", "o200k_base", False),
        ("azure/gpt-5", None, "o200k_base", False),
        ("gpt-5.2-codex", None, "o200k_base", True),
        ("o1-preview", None, "o200k_base", True),
        ("o3", None, "o200k_base", True),
        ("o4-mini", None, "o200k_base", True),
        ("gpt-4", None, "cl100k_base", True),
        ("gpt-4-turbo-2024-04-09", None, "cl100k_base", True),
        ("gpt-4-32k-0613", None, "cl100k_base", True),
        ("gpt-3.5-turbo", None, "cl100k_base", True),
        ("gpt-35-turbo", "azure", "cl100k_base", False),
        ("ft:gpt-3.5-turbo-0125:acme::x1", None, "cl100k_base", True),
        ("text-embedding-3-small", None, "cl100k_base", True),
        ("my-deployment", "azure", "o200k_base", False),
        ("gpt-4o", "fake", "o200k_base", False),
        ("gpt-4o", "local", "o200k_base", False),
        ("gpt-4o", "function", "o200k_base", False),
        ("openrouter/openai/gpt-4o", None, "o200k_base", False),
        ("gpt-oss-120b", "openai", "o200k_base", False),
        ("gpt-6", None, "o200k_base", False),
        ("gpt-50", None, "o200k_base", False),
        ("o1x", None, "o200k_base", False),
        ("claude-sonnet-4-5", "anthropic", "o200k_base", False),
        ("", None, "o200k_base", False),
    ],
)
def test_models(model: str, vendor: str | None, encoding: str, exact: bool):
    m = tokens_for(model, vendor)
    assert (m.encoding, m.exact) == (encoding, exact)
    assert tokens_for(model, vendor) is m


ENGLISH = "The committee will meet again on Thursday to settle what was left open in the spring. " * 4


@pytest.mark.parametrize(
    ("model", "factor"),
    [
        ("claude-3-5-sonnet-latest", 1.08),
        ("claude-opus-4-20250514", 1.08),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 1.08),
        ("claude-opus-4.6", 1.08),
        ("claude-opus-4-7", 1.48),
        ("claude-sonnet-5", 1.48),
        ("claude-of-tomorrow", 1.48),
        ("gemini-3-pro", 1.01),
        ("meta-llama/Llama-3.3-70B-Instruct", 1.0),
        ("codestral-latest", 1.02),
        ("of-my-own", 1.1),
        ("gpt-oss-120b", 1.0),
    ],
)
def test_families_are_scaled(model: str, factor: float):
    base = tokens_for("gpt-4o").text(ENGLISH)
    assert tokens_for(model).text(ENGLISH) == pytest.approx(base * factor, abs=1)


def test_a_vendor_tells_the_family_of_an_unknown_name():
    assert tokens_for("prod", "anthropic").text(ENGLISH) == tokens_for("claude-opus-4-7").text(ENGLISH)
    assert tokens_for("prod", "google").text(ENGLISH) == tokens_for("gemini-3-pro").text(ENGLISH)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (ENGLISH, "text"),
        ("Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.", "text"),
        ("吾輩は猫である。名前はまだ無い。", "cjk"),
        ("Translate this into English: 吾輩は猫である。名前はまだ無い。どこで生れたか", "cjk"),
        ("Все люди рождаются свободными", "other"),  # noqa: RUF001
        ("def f(x):\n    return {k: v for k, v in x.items() if v[0] == k}\n" * 40, "code"),
        ('{"name":"a","tags":["b","c"],"n":12}' * 3, "json"),
        ("", "text"),
        ("\ud800", "text"),
        ("😀", "text"),
    ],
)
def test_kinds_of_text(text: str, kind: str):
    assert kind_of(text) == kind


def test_a_local_model_is_itself_under_any_name():
    m = tokens_for("gpt-5.2", "local")
    assert m.text(ENGLISH) == tokens_for("of-my-own").text(ENGLISH)
    for content, reported in (
        ("hi", 31),
        ("", 30),
        ("吾輩は猫である。名前はまだ無い。🚀", 62),
    ):  # SmolLM2's usage
        assert m.bounds(user(content), {}).upper >= reported


# -- frames --


def test_the_frame_of_a_chat():
    m = tokens_for("gpt-4o")
    assert m.count(user("hi"), {}) == 8
    assert (
        m.count([{"role": "system", "content": "hi"}, *user("hi")], {"max_tokens": 9, "temperature": 0}) == 13
    )
    assert m.count([{"role": "user", "content": "hi", "name": "ann"}], {}) == 8 + 1 + m.text("ann")
    assert m.count([{"role": "assistant", "content": None}], {}) == 7
    assert m.count(user(["hi", {"type": "text", "text": "hi"}]), {}) == 9
    assert m.count([], {}) == 3


FOO = {"name": "foo", "parameters": {"type": "object", "properties": {}}}
BAR = {
    "name": "bar",
    "description": "Do a bar",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "number", "description": "A number"}},
    },
}


@pytest.mark.parametrize(
    ("params", "reported"),
    [
        ({"functions": [FOO]}, 31),
        ({"functions": [FOO], "function_call": "auto"}, 31),
        ({"functions": [FOO], "function_call": "none"}, 32),
        ({"functions": [FOO], "function_call": {"name": "foo"}}, 36),
        ({"functions": [{**FOO, "description": "Do a foo"}]}, 36),
    ],
    ids=["function", "auto", "none", "named", "described"],
)
def test_functions_cost_what_openai_reported(params: dict[str, object], reported: int):
    m = tokens_for("gpt-3.5-turbo")
    assert m.count(user("hello"), params) == reported
    assert reported <= m.worst(user("hello"), params) <= m.bounds(user("hello"), params).upper


def test_a_system_message_shares_its_frame_with_tools():
    m = tokens_for("gpt-4o")
    system = [{"role": "system", "content": "Hello"}, *user("hello")]
    plain = m.count(system, {}) - m.count(user("hello"), {})
    assert m.count(system, {"functions": [FOO]}) - m.count(user("hello"), {"functions": [FOO]}) == plain - 3


def test_what_is_nested_is_rendered_too():
    m = tokens_for("gpt-4o")
    deep = {
        "type": "object",
        "properties": {
            "filter": {
                "anyOf": [
                    {"type": "object", "description": "By day", "properties": {"day": {"const": "monday"}}},
                    {"type": ["string", "null"]},
                ]
            },
            "rows": {"type": "array", "items": {"type": "object", "properties": {"n": {"minimum": 3}}}},
        },
    }
    text = rendered([{"name": "f", "parameters": deep}, BAR])
    for shown in ("type f = (_: {", "// By day", '"monday"', "string | null", "}[]", "minimum", "b?: number"):
        assert shown in text
    assert m.count(user("hi"), {"tools": [{"name": "f", "parameters": deep}]}) > 60


def test_tools_are_rendered():
    m = tokens_for("gpt-4o")
    more = m.count(user("hi"), {"tools": [WEATHER]}) - m.count(user("hi"), {})
    assert 55 <= more <= 75
    two = m.count(user("hi"), {"tools": [WEATHER, WEATHER]}) - m.count(user("hi"), {})
    assert more < two < 2 * more
    assert m.count(user("hi"), {"functions": [WEATHER["function"]]}) == m.count(
        user("hi"), {"tools": [WEATHER]}
    )
    assert m.worst(user("hi"), {"tools": [WEATHER]}) >= m.count(user("hi"), {"tools": [WEATHER]}) + 60


def test_claude_gets_a_prompt_for_its_tools():
    m = tokens_for("claude-sonnet-4-5")
    tool = {"name": "get_weather", "description": "…", "input_schema": WEATHER["function"]["parameters"]}
    assert m.count(user("hi"), {"tools": [tool]}) > 346 + 40


def test_a_schema_counts():
    m = tokens_for("gpt-4o")
    plain = m.count(user("hi"), {})
    schema = {"type": "json_schema", "json_schema": {"name": "Answer", "schema": Answer.model_json_schema()}}
    assert m.count(user("hi"), {"response_format": schema}) > plain + 40
    assert m.count(user("hi"), {"response_format": Answer}) > plain + 40
    assert m.count(user("hi"), {"response_format": {"type": "text"}}) == plain
    assert m.bounds(user("hi"), {"response_format": Answer}).upper > m.bounds(user("hi"), {}).upper + 100


def test_tool_calls_count_but_not_their_ids():
    m = tokens_for("gpt-4o")

    def history(call_id: str, arguments: str) -> list[dict[str, object]]:
        call = {
            "id": call_id,
            "type": "function",
            "function": {"name": "get_weather", "arguments": arguments},
        }
        return [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "content": "Rain."},
        ]

    short, long = history("c", "{}"), history("call_" + "x7Qz" * 20, "{}")
    assert m.count(short, {}) == m.count(long, {})
    assert m.bounds(long, {}).upper > m.bounds(short, {}).upper
    assert m.count(history("c", '{"place": "Oslo, Norway"}'), {}) > m.count(short, {}) + 3


@pytest.mark.parametrize(
    "odd", [{"type": "object", "properties": {"a": {"$ref": "#/x"}}}, None, [], 7, {"a": object()}]
)
def test_odd_tools_do_not_raise(odd: object):
    tool = {"type": "function", "function": {"name": "f", "parameters": odd}}
    for given_tools in ([tool], [odd], tool, {"f": odd}):
        for model in MODELS:
            m = tokens_for(model)
            lower, upper = m.bounds(user("hi"), {"tools": given_tools})
            assert lower <= m.count(user("hi"), {"tools": given_tools}) <= upper


def test_what_goes_round_in_a_circle_does_not_hang():
    circle: dict[str, object] = {"type": "object"}
    circle["properties"] = {"a": circle}
    loop: list[object] = []
    loop.append(loop)
    m = tokens_for("gpt-4o")
    m.count(user("hi"), {"tools": [{"name": "f", "parameters": circle}]})
    m.bounds(user({"strange": circle}), {})
    assert m.bounds(user(loop), {}).upper >= 6


# -- parts that are not text --


def test_sound_is_counted_by_its_length():
    m = tokens_for("gpt-4o-audio-preview")
    header = b"RIFF" + b"\0" * 4 + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 24_000, 48_000, 2, 16)
    minute = base64.b64encode(header + b"\0" * 48_000 * 60).decode()
    part = {"type": "input_audio", "input_audio": {"data": minute, "format": "wav"}}
    assert 600 <= m.count(user([part]), {}) <= 620
    assert 600 <= m.bounds(user([part]), {}).upper <= 2_100
    lean = {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(b"x" * 6_000).decode(), "format": "mp3"},
    }
    assert m.bounds(user([lean]), {}).upper >= 60  # six seconds


def test_files_have_an_honest_bound():
    m = tokens_for("gpt-4o")
    held = {
        "type": "file",
        "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + "A" * 40_000},
    }
    assert m.bounds(user([held]), {}).upper >= UNSEEN_TOKENS  # a page may be named again and again
    assert 500 <= m.count(user([held]), {}) <= 5_000
    text = {"type": "file", "file": {"filename": "a", "file_data": "data:text/plain;base64," + "A" * 40_000}}
    assert 30_000 <= m.bounds(user([text]), {}).upper < 50_000
    for unseen in (
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}},
        {"file_data": {"mime_type": "application/pdf", "file_uri": "gs://a"}},
        object(),
    ):
        assert m.bounds(user([unseen]), {}).upper >= UNSEEN_TOKENS
        assert m.count(user([unseen]), {}) < 5_000
    told = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "word " * 1_000},
    }
    assert 1_000 <= m.count(user([told]), {}) <= 1_050


def test_what_is_nested_too_deep_to_look_at_is_not_taken_for_nothing():
    deep: object = "word " * 1_000
    for _ in range(100):
        deep = {"deeper": deep}
    assert tokens_for("gpt-4o").bounds(user(deep), {}).upper >= UNSEEN_TOKENS


@dataclass
class Part:
    text: str


def test_parts_of_unknown_shape_are_searched_for_text():
    m, words = tokens_for("gpt-4o"), "word " * 500
    for strange in (
        {"type": "novelty", "inner": {"deep": [words, 1, 2.5, True, None]}},
        {"type": "text", "text": "", "more": words},
        Part(words),
        Answer(sentence=words, sources=[]),
        MappingProxyType({"type": "text", "text": words}),
        {"type": "tool_use", "id": "x" * 90, "name": "f", "input": {"q": words}},
    ):
        count = m.count(user([strange]), {})
        assert 500 <= count <= 560
        assert m.bounds(user([strange]), {}).upper >= count


# -- bounds --


def test_bounds_of_plain_messages_are_those_of_the_careful_way():
    for model in MODELS:
        m = tokens_for(model)
        for text in ("", "hello", "吾輩は猫である", "\ud800x", "x" * 5_000):
            plain, parts = user(text), user([{"type": "text", "text": text}])
            assert m.bounds(plain, {}) == m._careful_bounds(plain, {}) == m.bounds(parts, {})


def test_bounds_need_no_tokenizer_and_hold_for_much_text():
    m = tokens_for("gpt-5.2")
    assert m.bounds(user("x" * 10_000_000), {}) == Bounds(1 + 10_000_000 // 128, 10_000_007)
    assert BIG == 100_000


def test_no_factor_lifts_an_estimate_over_the_bytes():
    noise = "\x00\x01" * 2_000  # a token a byte, already
    m = tokens_for("claude-opus-4-7")
    assert m.text(noise) > 5_000
    assert m.count(user(noise), {}) == m.bounds(user(noise), {}).upper < 4_100


TEXT = st.text(st.characters(exclude_categories=()), max_size=40) | st.sampled_from(
    ["<|endoftext|>", " " * 300, "a" * 300, "\ud83d\ude00", "吾輩は猫である" * 9, ENGLISH]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
PART = st.one_of(
    TEXT,
    TEXT.map(lambda t: {"type": "text", "text": t}),
    st.sampled_from(["low", "high", "auto", "original"]).map(
        lambda d: {"type": "image_url", "image_url": {"url": "https://example.org/a", "detail": d}}
    ),
    TEXT.map(lambda t: {"type": "input_audio", "input_audio": {"data": t}}),
    TEXT.map(lambda t: {"type": "file", "file": {"file_data": t, "filename": t}}),
    st.dictionaries(
        st.sampled_from(["type", "text", "source", "file", "image_url", "input_audio", "content"]), JSON
    ),
    JSON,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant", "tool", "narrator"])},
    optional={
        "content": st.none() | TEXT | st.lists(PART, max_size=4) | JSON,
        "name": TEXT,
        "tool_call_id": TEXT,
        "tool_calls": st.lists(
            st.fixed_dictionaries(
                {"id": TEXT, "function": st.fixed_dictionaries({"name": TEXT, "arguments": TEXT})}
            )
            | JSON,
            max_size=2,
        ),
    },
)
SCHEMA = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "boolean"])},
        optional={"description": TEXT, "enum": st.lists(TEXT)},
    ),
    lambda inner: (
        st.dictionaries(TEXT, inner, max_size=3).map(
            lambda p: {"type": "object", "properties": p, "required": list(p)[:1]}
        )
        | inner.map(lambda i: {"type": "array", "items": i})
        | st.lists(inner, max_size=2).map(lambda o: {"anyOf": o})
    ),
    max_leaves=5,
)
TOOL = st.builds(
    lambda n, d, p: {"type": "function", "function": {"name": n, "description": d, "parameters": p}},
    TEXT,
    TEXT,
    SCHEMA,
)
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "tools": st.lists(TOOL | JSON, max_size=3),
        "response_format": SCHEMA,
        "tool_choice": JSON,
        "system": TEXT,
    },
)


@settings(max_examples=250, deadline=None)
@given(messages=st.lists(MESSAGE, max_size=4), params=PARAMS)
@pytest.mark.parametrize("model", MODELS)
def test_the_count_lies_within_its_bounds(
    model: str, messages: list[dict[str, object]], params: dict[str, object]
):
    m = tokens_for(model)
    before = copy.deepcopy((messages, params))
    lower, upper = m.bounds(messages, params)
    count, worst = m.count(messages, params), m.worst(messages, params)
    assert 0 <= lower <= count <= upper
    assert count <= worst
    if not params.get("tools") and not params.get("response_format"):
        assert worst <= upper
    assert repr(before) == repr((messages, params))


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXT, max_size=5))
def test_text_is_bounded_by_its_bytes(texts: list[str]):
    """Without clamping: for exact models the count of plain text is taken as it is."""
    for model in ("gpt-5.2", "gpt-4"):
        m = tokens_for(model)
        messages = [{"role": "user", "content": t} for t in texts]
        assert m.count(messages, {}) == 3 + sum(4 + m.text(t) for t in texts) == m.worst(messages, {})
        lower, upper = m.bounds(messages, {})
        assert lower <= m.count(messages, {}) <= upper


# -- as an object --


def test_no_prompt_text_in_the_repr():
    assert repr(tokens_for("gpt-5.2")) == "ModelTokens('gpt-5.2', o200k_base, exact)"
    assert repr(tokens_for("claude-opus-4-7")) == "ModelTokens('claude-opus-4-7', o200k_base, estimated)"


def test_it_can_be_copied_and_pickled():
    for m in (tokens_for("gpt-5.2"), tokens_for("claude-opus-4-7")):
        again = pickle.loads(pickle.dumps(m))
        assert again.text(ENGLISH) == m.text(ENGLISH)
        assert copy.copy(m).exact == m.exact


def test_threads_count_alike():
    m, found = tokens_for("gpt-5.2"), []
    m.load()
    threads = [threading.Thread(target=lambda: found.append(m.text(ENGLISH * 300))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1

"""What a wrapped function returned comes back as it was, or is not kept; and nothing is run to read it."""

from __future__ import annotations

import enum
import importlib
import json
import math
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, PrivateAttr

from tierllm.caching.returned import DEEPEST, MOST_PARTS, Returned, complete, pack, unpack

# -- plain data -------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec=None), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=15,
)
OTHER = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | TEXTS
    | st.binary(max_size=3)
    | st.decimals()
    | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(TEXTS | st.integers(-1, 1) | st.none(), inner, max_size=3)
        | st.dictionaries(TEXTS, inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all through; said slowly."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


@settings(max_examples=500, deadline=None)
@given(JSON.filter(lambda value: value is not None))
def test_any_json_data_comes_back_exactly_and_fresh(value: Any) -> None:
    packed = pack(value)
    assert packed is not None
    first, second = unpack(packed), unpack(packed)
    assert same(first, value)
    if isinstance(first, list | dict):
        assert first is not second
        first.clear()
        assert same(second, value)


@settings(max_examples=500, deadline=None)
@given(OTHER)
def test_whatever_is_packed_comes_back_exactly(value: Any) -> None:
    packed = pack(value)
    assert packed is None or same(unpack(packed), value)


class Colour(enum.StrEnum):
    RED = "red"


class Sentence(str):
    __slots__ = ()


class Own(BaseModel):
    words: str = "a"


@dataclass
class Data:
    words: str = "a"


def circle() -> Any:
    made: list[Any] = []
    made += [made, made]
    return made


def nested(depth: int) -> Any:
    made: Any = "x"
    for _ in range(depth):
        made = [made]
    return made


def laughs() -> Any:
    made: Any = "ha"
    for _ in range(40):
        made = [made] * 10
    return made


class Liar:
    """What raises wherever it is touched."""

    @property
    def __class__(self) -> Any:
        raise AssertionError("asked for its class")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __hash__ = None  # type: ignore[assignment]


NOT_PACKED: dict[str, Any] = {
    "None": None,
    "a tuple": (1, 2),
    "a tuple inside": [(1, 2)],
    "bytes": b"a",
    "a set": {"a"},
    "NaN": math.nan,
    "infinity inside": {"a": [math.inf]},
    "a number as a name": {1: "a"},
    "None as a name": {None: "a"},
    "a text of a derived class": Sentence("a"),
    "a derived text as a name": {Sentence("a"): 1},
    "an enum": Colour.RED,
    "a dict of a derived class": OrderedDict(a=1),
    "an object": object(),
    "a class": dict,
    "a function": print,
    "a module": json,
    "an exception": ValueError("a"),
    "a dataclass": Data(),
    "a pydantic object of the application": Own(),
    "one inside": [Own()],
    "a namespace": SimpleNamespace(a=1),
    "a mock": MagicMock(),
    "a liar": Liar(),
    "a generator": (x for x in "ab"),
    "a lock": threading.Lock(),
    "a list that holds itself": circle(),
    "too deep": nested(DEEPEST),
    "far too deep": nested(100_000),
    "few lists that are many": laughs(),
    "too many": [0] * MOST_PARTS,
    "a number too long to be read": 10**5000,
}


@pytest.mark.parametrize("name", NOT_PACKED)
def test_what_would_not_come_back_is_not_packed(name: str) -> None:
    assert pack(NOT_PACKED[name]) is None


def test_depth_and_number_that_data_has_are_fine() -> None:
    for value in (nested(DEEPEST - 1), [0] * (MOST_PARTS - 10), "x" * 10**6, ""):
        packed = pack(value)
        assert packed is not None
        assert unpack(packed) == value


def test_one_list_in_two_places_comes_back_as_two() -> None:
    inner = [1]
    packed = pack([inner, inner])
    assert packed is not None
    assert unpack(packed) == [[1], [1]]


# -- objects of SDKs --------------------------------------------------------------------


def openai_made(module: str, name: str, data: dict[str, Any]) -> Any:
    """As the SDK makes it of a reply."""
    construct_type = importlib.import_module(f"{module.split('.')[0]}._models").construct_type
    made = construct_type(type_=getattr(importlib.import_module(module), name), value=data)
    made._request_id = "req_1"
    return made


def chat(**changes: Any) -> Any:
    message = {
        "role": "assistant",
        "content": "é \U0001f600",
        "reasoning_content": "because",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    data = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message, "logprobs": None}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cost": 0.5},
        "provider": {"name": "new", "parts": [1, None, 2.0]},
    }
    return openai_made("openai.types.chat", "ChatCompletion", data | changes)


def response(**changes: Any) -> Any:
    said = {"type": "output_text", "text": "hi", "annotations": []}
    data = {
        "id": "r1",
        "object": "response",
        "created_at": 1.0,
        "model": "m",
        "status": "completed",
        "incomplete_details": None,
        "error": None,
        "output": [
            {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [said]},
            {"type": "reasoning", "id": "r1", "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "a_kind_of_tomorrow", "x": 1},
        ],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True}],
        "metadata": {},
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {"a": 1}}},
    }
    return openai_made("openai.types.responses", "Response", data | changes)


def message(**changes: Any) -> Any:
    content = [
        {"type": "text", "text": "hi", "citations": None},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1]}},
        {"type": "thinking", "thinking": "x", "signature": "s"},
        {"type": "a_kind_of_tomorrow", "z": 1},
    ]
    data = {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "content": content,
        "usage": {"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 0, "speed": "fast"},
    }
    return openai_made("anthropic.types", "Message", data | changes)


def ollama(**changes: Any) -> Any:
    said = {
        "role": "assistant",
        "content": "hi",
        "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
    }
    data = {"model": "m", "done": True, "done_reason": "stop", "message": said, "total_duration": 1}
    return importlib.import_module("ollama").ChatResponse(**(data | changes))


def gemini(finish_reason: str | None = "STOP", **changes: Any) -> Any:
    types = importlib.import_module("google.genai.types")
    parts = [
        {"text": "hi"},
        {"inline_data": {"data": "//79", "mime_type": "image/png"}},
        {"thought_signature": "_-7-"},
        {"function_call": {"name": "f", "args": {"a": 1}}},
    ]
    data = {
        "candidates": [{"content": {"parts": parts, "role": "model"}, "finish_reason": finish_reason}],
        "usage_metadata": {"prompt_token_count": 1},
        "create_time": "2025-01-01T00:00:00Z",
        "sdk_http_response": {"headers": {"x": "1"}},
    }
    return types.GenerateContentResponse._from_response(response=data | changes, kwargs={"config": {}})


def mistral(finish_reason: str = "stop") -> Any:
    models = importlib.import_module("mistralai.client.models")
    data = {
        "id": "x",
        "object": "chat.completion",
        "model": "m",
        "created": 1,
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        "choices": [
            {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": "hi"}}
        ],
    }
    return models.ChatCompletionResponse.model_validate(data)


MADE: dict[str, tuple[str, Callable[..., Any]]] = {
    "openai chat": ("openai", chat),
    "openai response": ("openai", response),
    "anthropic": ("anthropic", message),
    "ollama": ("ollama", ollama),
    "google": ("google.genai", gemini),
    "mistral": ("mistralai", mistral),
}


def made(name: str, **changes: Any) -> Any:
    package, make = MADE[name]
    pytest.importorskip(package)
    return make(**changes)


def held(value: Any) -> Any:
    """All that an object holds, with the types of it all."""
    if isinstance(value, BaseModel):
        more = (value.__pydantic_extra__, value.__pydantic_private__, value.__pydantic_fields_set__)
        return [type(value), held(vars(value)), *map(held, more)]
    if isinstance(value, dict):
        return {name: held(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [type(value), *map(held, value)]
    return [type(value), value]


@pytest.mark.parametrize("name", MADE)
def test_objects_of_sdks_come_back_with_all_they_hold(name: str) -> None:
    value = made(name)
    packed = pack(value)
    assert packed is not None
    again = unpack(packed)
    assert again == value
    assert held(again) == held(value)
    assert again.model_dump_json(warnings=False) == value.model_dump_json(warnings=False)  # type: ignore[attr-defined]
    assert complete(value)
    assert complete(again)


@pytest.mark.parametrize("name", MADE)
def test_each_reader_of_an_object_has_one_of_his_own(name: str) -> None:
    value = made(name)
    packed = pack(value)
    assert packed is not None
    first, second = unpack(packed), unpack(packed)
    before = held(second)
    for spoiled in vars(first).values():
        if isinstance(spoiled, list | dict):
            for inner in spoiled if isinstance(spoiled, list) else ():
                vars(inner).clear()
            spoiled.clear()
    vars(first).clear()
    assert held(second) == before == held(value)


def test_extras_and_the_request_id_survive() -> None:
    again: Any = unpack(pack(chat()))  # type: ignore[arg-type]
    assert again.provider == {"name": "new", "parts": [1, None, 2.0]}
    assert again.choices[0].message.reasoning_content == "because"
    assert again.usage.cost == 0.5
    assert again._request_id == "req_1"
    assert "_request_id" not in again.model_dump()


def test_an_object_without_a_request_id_gets_none() -> None:
    value = chat()
    del value._request_id
    again = unpack(pack(value))  # type: ignore[arg-type]
    assert not hasattr(again, "_request_id")


def test_pieces_of_an_answer_are_objects_too() -> None:
    choice = chat().choices[0]
    packed = pack(choice)
    assert packed is not None
    assert held(unpack(packed)) == held(choice)


def spoil_with(name: str, value: Any) -> Any:
    spoiled = chat()
    setattr(spoiled, name, value)
    return spoiled


SPOILED: dict[str, Callable[[], Any]] = {
    "the application's own object inside": lambda: spoil_with("provider", Own()),
    "an object inside": lambda: spoil_with("provider", object()),
    "a lock inside": lambda: spoil_with("provider", threading.Lock()),
    "a tuple inside": lambda: spoil_with("provider", (1, 2)),
    "NaN inside": lambda: spoil_with("provider", math.nan),
    "bytes inside": lambda: spoil_with("provider", b"\xff"),
    "itself inside": lambda: spoil_with("provider", circle()),
    "laughs inside": lambda: spoil_with("provider", laughs()),
    "a truth for a number": lambda: spoil_with("created", True),
    "its fields gone": lambda: spoil_with("choices", [Own()]),
    "something of the application's beside it": lambda: spoil_with("_note", "x"),
    "an object for a request id": lambda: spoil_with("_request_id", object()),
    "lone surrogates": lambda: spoil_with("model", "\ud83d\ude00"),
}


@pytest.mark.parametrize("spoiled", SPOILED.values(), ids=SPOILED.keys())
def test_an_object_that_would_not_come_back_is_not_packed(spoiled: Callable[[], Any]) -> None:
    assert pack(spoiled()) is None


@pytest.mark.parametrize("created", ["1", None, 1.5], ids=repr)
def test_what_the_sdk_did_not_validate_comes_back_as_it_was(created: Any) -> None:
    value = spoil_with("created", created)
    packed = pack(value)
    assert packed is not None
    assert held(unpack(packed)) == held(value)


def test_a_class_of_the_applications_own_is_not_packed_wherever_it_comes_from() -> None:
    cls = type(chat())
    derived = type("Derived", (cls,), {"__module__": __name__})
    pretender = type("Pretender", (cls,), {"__module__": cls.__module__})
    hidden = type(cls.__name__, (cls,), {"__module__": cls.__module__, "__qualname__": cls.__qualname__})
    for other in (derived, pretender, hidden):
        assert pack(other.construct(id="a")) is None


def test_an_answer_parsed_into_the_applications_class_is_not_packed() -> None:
    generic = importlib.import_module("openai.types.chat").ParsedChatCompletion
    value = generic[Own].construct(**json.loads(chat().model_dump_json()))
    value.choices[0].message.parsed = Own()
    assert pack(value) is None


# -- what its bytes may say ---------------------------------------------------------------


class Touched(Exception):
    pass


TOUCHED: list[object] = []


def touch(*args: object, **_: object) -> Any:
    TOUCHED.append(args)
    raise Touched


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of an SDK that holds all sorts of things."""
    module = ModuleType("openai.types.strange")

    class Kept(BaseModel):
        model_config = {"extra": "allow"}
        words: str = ""
        _cost: Any = PrivateAttr(default=None)

    class _Hidden(Kept):
        pass

    class Outer(BaseModel):
        class Inner(BaseModel):
            words: str = ""

    class Armed:
        def __init__(self, **_: object) -> None:
            touch()

        model_validate_json = construct = classmethod(touch)

    class Asked(type):
        def __getattr__(cls, name: str) -> Any:
            touch()

    inside = {"Kept": Kept, "_Hidden": _Hidden, "Outer": Outer, "Armed": Armed, "Lazy": Asked("Lazy", (), {})}
    for name, cls in inside.items():
        cls.__module__, cls.__qualname__ = module.__name__, name
    Outer.Inner.__module__, Outer.Inner.__qualname__ = module.__name__, "Outer.Inner"
    vars(module).update(inside, Own=Own, BaseModel=BaseModel, Also=Kept, os=importlib.import_module("os"))
    vars(module).update(touch=touch, liar=Liar(), kept=Kept(), Path=Path, __getattr__=touch)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    near = ModuleType("openai.types_of_others")
    near.Kept = type("Kept", (BaseModel,), {"__module__": near.__name__})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, near.__name__, near)
    TOUCHED.clear()
    monkeypatch.setitem(sys.modules, "openai.types.liar", Liar())
    monkeypatch.setitem(sys.modules, "openai.types.nothing", None)
    return module


FIELDS = b'["validate",{},null]\n{"words": "secret"}'


def test_classes_of_sdks_can_be_read(sdk: ModuleType) -> None:
    for name in ("Kept", "Outer.Inner"):
        value = unpack(Returned(f"openai.types.strange:{name}", FIELDS))
        assert value.words == "secret"  # type: ignore[attr-defined]
        assert type(value).__qualname__ == name


def test_private_attributes_come_back_where_they_are_plain(sdk: ModuleType) -> None:
    value = sdk.Kept(words="a")
    for cost in (0.5, {"usd": [1, None]}, None):
        value._cost = cost
        again: Any = unpack(pack(value))  # type: ignore[arg-type]
        assert again._cost == cost
        assert again == value
    value._cost = object()
    assert pack(value) is None


HOSTILE_KINDS = [
    *("os:system", "posix:system", "builtins:eval", "builtins:exec", "subprocess:Popen", "pickle:loads"),
    *("importlib:import_module", "pydantic:BaseModel", "pydantic.main:BaseModel", "tierllm.types:Response"),
    *(
        "openai.types.strange:os.system",
        "openai.types.strange:os",
        "openai.types.strange:touch",
        "openai.types.strange:Path",
    ),
    *(
        "openai.types.strange:Own",
        "openai.types.strange:BaseModel",
        "openai.types.strange:Also",
        "openai.types.strange:_Hidden",
    ),
    *(
        "openai.types.strange:Armed",
        "openai.types.strange:Lazy",
        "openai.types.strange:Lazy.more",
        "openai.types.strange:liar",
    ),
    *(
        "openai.types.strange:kept",
        "openai.types.strange:kept.words",
        "openai.types.strange:missing",
        "openai.types.strange:",
    ),
    *(
        "openai.types.strange:Kept.",
        "openai.types.strange:.Kept",
        "openai.types.strange:Kept.model_validate_json",
    ),
    *(
        "openai.types.strange:Kept.__class__",
        "openai.types.strange:Kept.__init__",
        "openai.types.strange:__dict__",
    ),
    *(
        "openai.types.strange:Outer.Inner.words",
        "openai.types.strange:Outer:Inner",
        "openai.types.strange.Kept",
    ),
    *(
        "openai.types.strange.os:system",
        "openai.types.liar:Kept",
        "openai.types.nothing:Kept",
        "openai.cli._cli:Arguments",
    ),
    *("openai:OpenAI", "openai:completions", "openai:os", "openai:_os", "openai.types.chat:ChatCompletion"),
    *("openai.types_of_others:Kept", "openai:BaseModel", "openai._models:FinalRequestOptions"),
    *("openaix:Kept", "google:genai", "google.protobuf.json_format:Parse", "litellm.os:system"),
    *(
        "",
        ":",
        "text:",
        "Text",
        "TEXT",
        "JSON",
        "json ",
        "pickle",
        "\x00",
        "../openai:Kept",
        "openai/strange",
    ),
    *(f"{__name__}:Own", "__main__:Own", "unittest.mock:MagicMock", "ctypes:CDLL", "antigravity:geohash"),
]


@pytest.mark.parametrize("kind", HOSTILE_KINDS, ids=lambda kind: repr(kind))
def test_no_other_name_is_followed(kind: str, sdk: ModuleType, tmp_path: Path) -> None:
    importlib.import_module("openai.types.chat")
    loaded = set(sys.modules)
    file = tmp_path / "hacked"
    for data in (FIELDS, f"touch {file}".encode(), b"", b'["construct",{},null]\n{"id":"a"}'):
        with pytest.raises(ValueError, match="cannot be read back") as caught:
            unpack(Returned(kind, data))
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
    assert not file.exists()
    assert not TOUCHED
    assert set(sys.modules) == loaded


HOSTILE_DATA: dict[str, tuple[str, bytes]] = {
    "a text that is no text": ("text", b"\xff"),
    "no JSON": ("json", b"{"),
    "nothing": ("json", b""),
    "null": ("json", b"null"),
    "NaN": ("json", b"[NaN]"),
    "infinity": ("json", b"-Infinity"),
    "a number out of range": ("json", b"1" * 10_000),
    "deep lists": ("json", b"[" * 200_000),
    "deep lists that end": ("json", b"[" * 100_000 + b"]" * 100_000),
    "something after it": ("json", b"[] []"),
    "a pickle": ("json", b"cos\nsystem\n(S'touch hacked'\ntR."),
    "no fields": ("openai.types.strange:Kept", b'["validate",{},null]'),
    "no head": ("openai.types.strange:Kept", b'{"words": "a"}'),
    "a short head": ("openai.types.strange:Kept", b'["validate",{}]\n{}'),
    "a long head": ("openai.types.strange:Kept", b'["validate",{},null,1]\n{}'),
    "another way": ("openai.types.strange:Kept", b'["pickle",{},null]\n{}'),
    "a way that the class has not": ("openai.types.strange:Kept", b'["construct",{},null]\n{}'),
    "a way that is a list": ("openai.types.strange:Kept", b'[["validate"],{},null]\n{}'),
    "a field of another type": ("openai.types.strange:Kept", b'["validate",{},null]\n{"words": 5}'),
    "a list of fields": ("openai.types.strange:Kept", b'["validate",{},null]\n["words"]'),
    "its class beside it": ("openai.types.strange:Kept", b'["validate",{"__class__":"x"},null]\n{}'),
    "its dict beside it": ("openai.types.strange:Kept", b'["validate",{"__dict__":"x"},null]\n{}'),
    "a method beside it": ("openai.types.strange:Kept", b'["validate",{"model_dump":"x"},null]\n{}'),
    "a list for a request id": ("openai.types.strange:Kept", b'["validate",{"_request_id":[]},null]\n{}'),
    "a list beside it": ("openai.types.strange:Kept", b'["validate",[],null]\n{}'),
    "private data that it has not": ("openai.types.strange:Kept", b'["validate",{},{"_more":1}]\n{}'),
    "a list of private data": ("openai.types.strange:Kept", b'["validate",{},[]]\n{}'),
    "private data of none": ("openai.types.strange:Outer", b'["validate",{},{"_cost":1}]\n{}'),
    "fields that are an argument": (
        "openai.types.chat.chat_completion:ChatCompletion",
        b'["construct",{},null]\n{"id":"a","_fields_set":["x"]}',
    ),
    "fields that are none": (
        "openai.types.chat.chat_completion:ChatCompletion",
        b'["construct",{},null]\n[]',
    ),
    "fields that are a number": (
        "openai.types.chat.chat_completion:ChatCompletion",
        b'["construct",{},null]\n5',
    ),
    "its own class among the fields": (
        "openai.types.chat.chat_completion:ChatCompletion",
        b'["construct",{},null]\n{"_ModelT__cls":"x","_BaseModel__cls":"y","__cls":NaN}',
    ),
}


@pytest.mark.parametrize(("kind", "data"), HOSTILE_DATA.values(), ids=HOSTILE_DATA.keys())
def test_hostile_data_is_refused(kind: str, data: bytes, sdk: ModuleType) -> None:
    importlib.import_module("openai.types.chat")
    with pytest.raises(ValueError, match="cannot be read back"):
        unpack(Returned(kind, data))


@pytest.mark.parametrize(
    "returned",
    [None, "text", ("text",), ("text", "words"), ("json", None), (None, b""), (5, b""), (["json"], b"[]")],
    ids=repr,
)
def test_what_is_no_returned_thing_is_refused(returned: Any) -> None:
    with pytest.raises(ValueError, match="cannot be read back"):
        unpack(returned)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["text", "json", "openai.types.chat.chat_completion:ChatCompletion"]), st.data())
def test_whatever_the_data_only_a_value_or_a_value_error_comes_of_it(kind: str, data: st.DataObject) -> None:
    written = pack(chat())
    assert written is not None
    spoiled = bytearray(written.data)
    for at in data.draw(st.lists(st.integers(0, len(spoiled) - 1), max_size=5)):
        spoiled[at] = data.draw(st.integers(0, 255))
    for hostile in (bytes(spoiled), data.draw(st.binary(max_size=30))):
        try:
            value = unpack(Returned(kind, hostile))
        except ValueError:
            continue
        assert type(value) in (str, bool, int, float, list, dict, type(chat()))


def test_an_sdk_that_is_not_loaded_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(chat())
    assert packed is not None
    module = packed.kind.partition(":")[0]
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ValueError, match="cannot be read back"):
        unpack(packed)
    assert module not in sys.modules


# -- whether it is whole ------------------------------------------------------------------


def choices(*reasons: Any, **more: Any) -> dict[str, Any]:
    return {
        "choices": [{"finish_reason": reason, "message": {"content": "hi"}, **more} for reason in reasons]
    }


WHOLE: dict[str, Any] = {
    "a text": "length",
    "None": None,
    "a number": 5,
    "a list": ["max_tokens"],
    "a dict of the application": {"answer": "length", "status": "incomplete", "done": False},
    "its choices": {"choices": ["a", "b"]},
    "a measured error": {"answer": "hi", "error": 0},
    "an application's own": {"answer": "hi", "finish_reason": "stop", "choices": {"a": 1}},
    "a number that is nothing": 0,
    "no": False,
    "an object of the application": SimpleNamespace(status="incomplete", done=False, message_="x"),
    "chat": choices("stop"),
    "tool calls": choices("tool_calls"),
    "a function call": choices("function_call"),
    "two choices": choices("stop", "tool_calls"),
    "no refusal": {"choices": [{"finish_reason": "stop", "message": {"content": "hi", "refusal": None}}]},
    "no error": {**choices("stop"), "error": None},
    "Anthropic": {"stop_reason": "end_turn", "content": [{"type": "text", "text": "hi"}]},
    "Anthropic's tools": {"stop_reason": "tool_use"},
    "a stop sequence": {"stop_reason": "stop_sequence"},
    "Ollama": {"done": True, "done_reason": "stop", "message": {"content": "hi"}},
    "an older Ollama": {"done": True, "message": {"content": "hi"}},
    "Gemini": {"candidates": [{"finish_reason": "STOP"}]},
    "Gemini's JSON": {"candidates": [{"finishReason": "STOP"}], "promptFeedback": {}},
    "Bedrock": {"output": {"message": {"content": [{"text": "hi"}]}}, "stopReason": "end_turn"},
    "Cohere": SimpleNamespace(finish_reason="COMPLETE"),
    "a response": {"status": "completed", "incomplete_details": None, "output": [{"type": "function_call"}]},
    "tools alone": {
        "choices": [{"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [{}]}}]
    },
    "a text completion": {"choices": [{"finish_reason": "stop", "text": "hi"}]},
    "pieces": [
        {"choices": [{"delta": {"content": "a"}, "finish_reason": None}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"object": "chat.completion.chunk", "choices": [], "usage": {"total_tokens": 9}},
    ],
}
CUT: dict[str, Any] = {
    "length": choices("length"),
    "a filter": choices("content_filter"),
    "a vendor's own word": choices("insufficient_system_resource"),
    "an end that is not told": choices(None),
    "an end of no kind": choices(["stop"]),
    "one of two choices": choices("stop", "length"),
    "a refusal": {"choices": [{"finish_reason": "stop", "message": {"refusal": "no"}}]},
    **{f"nothing: {empty!r}": empty for empty in ("", [], {})},
    "a choice that says nothing": {"choices": [{"finish_reason": "stop", "message": {"content": None}}]},
    "a choice that says an empty text": {"choices": [{"finish_reason": "stop", "message": {"content": ""}}]},
    "a choice of an empty text": {"choices": [{"finish_reason": "stop", "text": ""}]},
    "no choice": {"choices": []},
    "Anthropic that says nothing": {"stop_reason": "end_turn", "content": []},
    "Ollama that says nothing": {"done": True, "done_reason": "stop", "message": {"content": ""}},
    "Ollama's empty text": {"done": True, "done_reason": "stop", "response": ""},
    "Gemini that says nothing": {"candidates": [{"finishReason": "STOP", "content": {"role": "model"}}]},
    "Bedrock that says nothing": {"output": {"message": {"content": []}}, "stopReason": "end_turn"},
    "a response that says nothing": {"status": "completed", "incomplete_details": None, "output": []},
    "an error in words": {"error": "model is loading"},
    "an error in a number": {"error": {"code": 500}},
    "an error": {"error": {"message": "overloaded", "code": 529}},
    "an error beside it": {**choices("stop"), "error": {"message": "overloaded"}},
    "no choices": SimpleNamespace(choices=None),
    "choices that are none": SimpleNamespace(choices=[]),
    "max_tokens": {"stop_reason": "max_tokens"},
    "Anthropic's refusal": {"stop_reason": "refusal"},
    "a pause": {"stop_reason": "pause_turn"},
    "a window that is full": {"stop_reason": "model_context_window_exceeded"},
    "Ollama's length": {"done": True, "done_reason": "length", "message": {}},
    "Ollama that did not end": {"done": False, "message": {"content": "hi"}},
    "Ollama that said nothing": SimpleNamespace(done=None, done_reason=None),
    "Gemini's length": {"candidates": [{"finish_reason": "MAX_TOKENS"}]},
    "Gemini's safety": {"candidates": [{"finishReason": "SAFETY"}]},
    "Gemini's block": {"promptFeedback": {"blockReason": "SAFETY"}},
    "Gemini without an answer": SimpleNamespace(candidates=None),
    "Bedrock's guardrail": {"stopReason": "guardrail_intervened"},
    "Bedrock's length": {"stopReason": "max_tokens"},
    "Cohere's length": SimpleNamespace(finish_reason="MAX_TOKENS"),
    "an incomplete response": {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
    "a response that failed": {"status": "failed", "incomplete_details": None},
    "a response that goes on": {"status": "in_progress", "incomplete_details": None},
    "a response that refuses": {
        "status": "completed",
        "incomplete_details": None,
        "output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}],
    },
    "one of a list": [choices("stop"), choices("length")],
    "pieces that were cut": [{"choices": [{"delta": {}, "finish_reason": "length"}]}],
    "a liar": Liar(),
    "a mock": MagicMock(),
}


@pytest.mark.parametrize("value", WHOLE.values(), ids=WHOLE.keys())
def test_what_says_nothing_else_is_whole(value: Any) -> None:
    assert complete(value)


@pytest.mark.parametrize("name", CUT)
def test_what_says_that_it_was_cut_is_not(name: str) -> None:
    assert not complete(CUT[name])


CUT_OBJECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat, length": ("openai chat", choices("length")),
    "chat, filter": ("openai chat", choices("content_filter")),
    "chat, error body": ("openai chat", {"choices": None, "error": {"message": "overloaded"}}),
    "chat, no choices": ("openai chat", {"choices": []}),
    "chat, nothing said": (
        "openai chat",
        {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ""}}]},
    ),
    "response, nothing but thoughts": ("openai response", {"output": [{"type": "reasoning", "summary": []}]}),
    "anthropic, nothing said": ("anthropic", {"content": []}),
    "ollama, nothing said": ("ollama", {"message": {"role": "assistant", "content": ""}}),
    "google, nothing said": (
        "google",
        {"candidates": [{"content": {"role": "model"}, "finish_reason": "STOP"}]},
    ),
    "response, incomplete": ("openai response", {"status": "incomplete"}),
    "response, failed": ("openai response", {"status": "failed", "error": {"code": "x", "message": "y"}}),
    "response, refusal": (
        "openai response",
        {"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]},
    ),
    "anthropic, max_tokens": ("anthropic", {"stop_reason": "max_tokens"}),
    "anthropic, refusal": ("anthropic", {"stop_reason": "refusal"}),
    "anthropic, none": ("anthropic", {"stop_reason": None}),
    "ollama, length": ("ollama", {"done_reason": "length"}),
    "ollama, not done": ("ollama", {"done": False, "done_reason": None}),
    "google, length": ("google", {"finish_reason": "MAX_TOKENS"}),
    "google, safety": ("google", {"finish_reason": "SAFETY"}),
    "google, none": ("google", {"finish_reason": None}),
    "google, blocked": ("google", {"candidates": None, "prompt_feedback": {"block_reason": "SAFETY"}}),
    "mistral, length": ("mistral", {"finish_reason": "length"}),
    "mistral, model_length": ("mistral", {"finish_reason": "model_length"}),
}


@pytest.mark.parametrize(("name", "changes"), CUT_OBJECTS.values(), ids=CUT_OBJECTS.keys())
def test_objects_of_sdks_say_that_they_were_cut(name: str, changes: dict[str, Any]) -> None:
    assert complete(made(name))
    assert not complete(made(name, **changes))

"""Equal requests have equal keys, and different ones never."""

from __future__ import annotations

import copy
import enum
import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, PrivateAttr

from tierllm import Request
from tierllm.caching.key import DEEPEST, MOST_PARTS, Key, key_of
from tierllm.providers.openai_chat import request_fields
from tierllm.routing.ask import NO_PROMPT, OPTIONS, PARAMS, ask
from tierllm.types import Call

USER = {"role": "user", "content": "hi"}


def request(*messages: Mapping[str, Any], **fields: Any) -> Request:
    return Request(messages=messages or (USER,), **fields)


def said(content: Any, **more: Any) -> Request:
    return request({"role": "user", "content": content, **more})


def params(**given: Any) -> Request:
    return request(params=given)


def key(asked: Request, scope: str = "acme", **options: Any) -> Key:
    found = key_of(asked, scope=scope, **options)
    assert found is not None
    return found


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    ONE = 1


class Pair(NamedTuple):
    a: int
    b: int


class Sentence(str):
    __slots__ = ()


class Plain(Mapping[str, Any]):
    """A mapping that is no dict."""

    def __init__(self, **held: Any) -> None:
        self.held = held

    def __getitem__(self, name: str) -> Any:
        return self.held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


class Answer(BaseModel):
    """What was found."""

    words: str
    sure: float = 1.0


class Person(BaseModel):
    name: str
    age: int | None = None


class Reply(BaseModel):
    """What was found."""

    model_config = {"title": "Answer"}
    words: str
    sure: float = 1.0


def answer_class(doc: str = "What was found.", **fields: Any) -> type[BaseModel]:
    """Another class of the same name."""
    made: dict[str, Any] = {"__doc__": doc, "__annotations__": {n: t for n, (t, _) in fields.items()}}
    made |= {n: default for n, (_, default) in fields.items() if default is not ...}
    return type("Answer", (BaseModel,), {**made, "__module__": __name__, "__qualname__": "Answer"})


AS_BEFORE: dict[str, Any] = {"words": (str, ...), "sure": (float, 1.0)}


def tool(name: str = "find", **schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **schema}}}


def called(**changes: Any) -> Request:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}} | changes
    return request(USER, {"role": "assistant", "content": None, "tool_calls": [call]})


def image(url: str, **more: Any) -> Request:
    return said([{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url, **more}}])


EQUAL: dict[str, tuple[Request, Request]] = {
    "the same": (said("hi"), said("hi")),
    "a text and its one message": (ask("hi", {}), ask([{"role": "user", "content": "hi"}], {})),
    "messages as list and tuple": (ask([USER, USER], {}), ask((USER, USER), {})),
    "order of a message's names": (request({"content": "hi", "role": "user"}), said("hi")),
    "order of many names": (
        request({"role": "user", "content": "hi", "name": "ann", "x": 1}),
        request({"x": 1, "name": "ann", "content": "hi", "role": "user"}),
    ),
    "order of parameters": (params(seed=1, top_p=0.5), params(top_p=0.5, seed=1)),
    "order deep inside": (
        params(tools=[{"a": {"x": 1, "y": [{"p": 1, "q": 2}]}, "b": 2}]),
        params(tools=[{"b": 2, "a": {"y": [{"q": 2, "p": 1}], "x": 1}}]),
    ),
    "order of vendors": (
        request(extra={"openai": {"a": 1}, "local": {"b": 1}}),
        request(extra={"local": {"b": 1}, "openai": {"a": 1}}),
    ),
    "1 and 1.0": (params(temperature=1), params(temperature=1.0)),
    "0 and -0.0": (params(temperature=0), params(temperature=-0.0)),
    "a large 1e300": (params(seed=10**300 - 10**300 + int(1e300)), params(seed=1e300)),
    "1 and 1.0 in a schema": (params(tools=[tool(minimum=1)]), params(tools=[tool(minimum=1.0)])),
    "None and left out": (ask("hi", {"temperature": None, "stop": None}), ask("hi", {})),
    "no options and none said": (request(extra={}), request()),
    "no options for a vendor": (request(extra={"openai": {}}), request()),
    "no parameters and none said": (request(params={}), request()),
    "tuple and list": (params(stop=("a", "b")), params(stop=["a", "b"])),
    "one stop and a list of it": (params(stop="a"), params(stop=["a"])),
    "parts as tuple and list": (
        said([{"type": "text", "text": "x"}]),
        said(({"type": "text", "text": "x"},)),
    ),
    "named tuple and list": (params(x=Pair(1, 2)), params(x=[1, 2])),
    "a dict and an ordered one": (params(x={"a": 1, "b": 2}), params(x=OrderedDict(b=2, a=1))),
    "a dict and its read-only view": (request(MappingProxyType(USER)), request(USER)),
    "a dict and another mapping": (request(Plain(**USER)), request(USER)),
    "a text and an enum of it": (params(x="red"), params(x=Colour.RED)),
    "an enum in a plain message": (said(Colour.RED), said("red")),
    "a number and an enum of it": (params(x=1), params(x=Level.ONE)),
    "a text of a derived class": (said(Sentence("hi")), said("hi")),
    "bytes and bytearray": (params(x=b"ab"), params(x=bytearray(b"ab"))),
    "names that are numbers": (params(logit_bias={5: 1, 7: 2}), params(logit_bias={7: 2.0, 5: 1.0})),
    "the same class": (params(response_format=Answer), params(response_format=Answer)),
    "a class with the same schema": (
        params(response_format=Answer),
        params(response_format=answer_class(**AS_BEFORE)),
    ),
    "objects that hold the same": (params(x=Person(name="a")), params(x=Person(name="a"))),
    "fallback given": (ask("hi", {"fallback": True}), ask("hi", {})),
    "priority 0": (ask("hi", {"priority": 0}), ask("hi", {})),
    "no tags": (ask("hi", {"tags": []}), ask("hi", {})),
    "no labels": (ask("hi", {"require": set()}), ask("hi", {})),
    "no extra": (ask("hi", {"extra": {}}), ask("hi", {})),
    "an empty extra for a vendor": (ask("hi", {"extra": {"openai": {}}}), ask("hi", {})),
    "every option None": (ask("hi", dict.fromkeys(OPTIONS)), ask("hi", {})),
    "another user": (request(user="ann"), request(user="bob")),
    "another session": (request(session="s1"), request(session="s2")),
    "another plan": (request(plan="free"), request(plan="pro")),
    "another priority": (request(priority=5), request()),
    "another deadline": (request(deadline_s=3.0), request()),
    "other tags": (request(tags=("a",)), request(tags=("b",))),
    "another route": (request(route="a"), request(route="b")),
    "another tier": (request(sla="gold"), request(sla="bronze")),
    "another floor": (request(min_tier="gold"), request()),
    "other labels": (request(require=frozenset({"eu"})), request()),
    "other ways down": (request(fallback=False, repeatable=False), request()),
    "another language": (request(language="de"), request()),
    "another cap": (request(max_cost_usd=Decimal(1), confirm_over_usd=Decimal(2)), request(confirm=print)),
    "another tenant field, one scope": (request(tenant="a"), request(tenant="b")),
}

JOINED = "temperature: 0.5"
DIFFERENT: dict[str, tuple[Request, Request]] = {
    # what joining without delimiters mixes up
    "a parameter written into a prompt": (
        request({"role": "user", "content": "hi"}, params={"temperature": 0.5}),
        request({"role": "user", "content": f"hi{JOINED}"}),
    ),
    "a parameter written into another": (params(stop="a", seed=1), params(stop="aseed: 1")),
    "values that run together": (params(a="1", b="23"), params(a="12", b="3")),
    "names that run together": (params(ab="c"), params(a="bc")),
    "a name and its value": (params(a="b"), params(b="a")),
    "provider options": (request(extra={"openai": {"verbosity": "low"}}), request()),
    "other provider options": (request(extra={"o": {"v": "low"}}), request(extra={"o": {"v": "high"}})),
    "the same option of another vendor": (request(extra={"a": {"v": 1}}), request(extra={"b": {"v": 1}})),
    "an option and a parameter": (request(extra={"top_k": {}, "x": {"top_k": 5}}), params(top_k=5)),
    "metadata of a message": (said("hi", metadata={"doc": 1}), said("hi")),
    "other metadata of a message": (said("hi", metadata={"doc": 1}), said("hi", metadata={"doc": 2})),
    "a message's text that looks like two": (
        said("hi"),
        said('hi"}, {"role": "user", "content": "hi'),
    ),
    "our own form written into a text": (
        request({"role": "user", "content": "a"}, {"role": "user", "content": "b"}),
        request({"role": "user", "content": "ad2:s4:roles4:users7:contents1:b"}),
    ),
    "our own lengths written into a text": (params(x="as1:b", y="c"), params(x="a", y="bs1:c")),
    "an item written into its neighbour": (params(stop=["as1:b"]), params(stop=["a", "b"])),
    # kinds
    "text and number": (params(seed="1"), params(seed=1)),
    "True and 1": (params(x=True), params(x=1)),
    "False and 0": (params(x=False), params(x=0)),
    "True and 'True'": (params(x=True), params(x="True")),
    "None and 'None'": (params(x=None), params(x="None")),
    "None and left out, in a Request by hand": (params(temperature=None), params()),
    "None and False": (params(x=None), params(x=False)),
    "None and an empty text": (params(x=None), params(x="")),
    "0.1 and '0.1'": (params(x=0.1), params(x="0.1")),
    "neighbouring floats": (params(x=0.1), params(x=math.nextafter(0.1, 1))),
    "1 and 1 and a bit": (params(x=1), params(x=1.0000000000000002)),
    "large whole numbers": (params(seed=2**53), params(seed=2**53 + 1)),
    "a number and its negative": (params(x=1), params(x=-1)),
    "10 and '0xa'": (params(x=10), params(x="a")),
    "bytes and text": (params(x=b"ab"), params(x="ab")),
    "other bytes": (params(x=b"\xff"), params(x=b"\xfe")),
    "bytes and their Latin text": (params(x=b"\xe9"), params(x="é")),
    "a list and a mapping": (params(x=[]), params(x={})),
    "a list and a text": (params(x=["a"]), params(x="a")),
    "a list and its item": (params(x=[["a"]]), params(x=["a"])),
    "names 1 and '1'": (params(x={1: "a"}), params(x={"1": "a"})),
    "names 1 and True": (params(x={1: "a"}), params(x={True: "a"})),
    "names None and 'null'": (params(x={None: 1}), params(x={"null": 1})),
    # what is missing
    "empty list and missing": (params(tools=[]), params()),
    "empty text and missing": (params(stop=""), params()),
    "empty mapping and missing": (params(x={}), params()),
    "a message's None and missing": (
        request({"role": "assistant", "content": None, "tool_calls": []}),
        request({"role": "assistant", "tool_calls": []}),
    ),
    "a schema's None and missing": (params(tools=[tool(default=None)]), params(tools=[tool()])),
    "0 and missing": (params(temperature=0), params()),
    # order and number
    "order of messages": (said("a"), request({"role": "user", "content": "b"})),
    "two messages the other way round": (
        request({"role": "user", "content": "a"}, {"role": "user", "content": "b"}),
        request({"role": "user", "content": "b"}, {"role": "user", "content": "a"}),
    ),
    "two messages and one": (request(USER, USER), request(USER)),
    "two messages and one of both texts": (
        request({"role": "user", "content": "a"}, {"role": "user", "content": "b"}),
        request({"role": "user", "content": "ab"}),
    ),
    "order of a list": (params(stop=["a", "b"]), params(stop=["b", "a"])),
    "order of tools": (params(tools=[tool("a"), tool("b")]), params(tools=[tool("b"), tool("a")])),
    "an item twice": (params(stop=["a", "a"]), params(stop=["a"])),
    "where a list ends": (params(x=[["a"], "b"]), params(x=[["a", "b"]])),
    "where a mapping ends": (params(x={"a": {"b": 1}, "c": 2}), params(x={"a": {"b": 1, "c": 2}})),
    # texts
    "white space at the end": (said("hi"), said("hi ")),
    "white space at the start": (said("hi"), said(" hi")),
    "white space inside": (said("a b"), said("a  b")),
    "kinds of white space": (said("a b"), said("a\u00a0b")),
    "line ends": (said("a\nb"), said("a\r\nb")),
    "upper case": (said("hi"), said("Hi")),
    "Unicode normal forms": (said("\u00e9"), said("e\u0301")),
    "ligatures": (said("\ufb01"), said("fi")),
    "look-alikes": (said("a"), said("\u0430")),
    "zero width": (said("a"), said("a\u200b")),
    "nul at the end": (said("a"), said("a\x00")),
    "a lone surrogate and a question mark": (said("\ud83d"), said("?")),
    "a lone surrogate and the replacement": (said("\ud83d"), said("\ufffd")),
    "two lone surrogates and an emoji": (said("\ud83d\ude00"), said("\U0001f600")),
    "other lone surrogates": (said("\ud83d"), said("\ud83e")),
    "an escape and what it stands for": (said("\\u00e9"), said("\u00e9")),
    # messages
    "role": (request({"role": "system", "content": "hi"}), said("hi")),
    "role and content swapped": (
        request({"role": "user", "content": "system"}),
        request({"role": "system", "content": "user"}),
    ),
    "name": (said("hi", name="ann"), said("hi", name="bob")),
    "tool call id": (
        request({"role": "tool", "content": "1", "tool_call_id": "a"}),
        request({"role": "tool", "content": "1", "tool_call_id": "b"}),
    ),
    "id of a call": (called(), called(id="c2")),
    "name of a call": (called(), called(function={"name": "lose", "arguments": "{}"})),
    "arguments of a call": (called(), called(function={"name": "find", "arguments": "{ }"})),
    "any further name": (said("hi", cache_control={"type": "ephemeral"}), said("hi")),
    "text and its one part": (said("hi"), said([{"type": "text", "text": "hi"}])),
    "one part and two": (
        said([{"type": "text", "text": "ab"}]),
        said([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
    ),
    "another image": (image("data:a"), image("data:b")),
    "detail of an image": (image("data:a"), image("data:a", detail="low")),
    # parameters
    "max_tokens": (params(max_tokens=10), params(max_tokens=11)),
    "temperature": (params(temperature=0.2), params(temperature=0.3)),
    "top_p": (params(top_p=0.2), params(top_p=0.3)),
    "seed": (params(seed=1), params(seed=2)),
    "stop": (params(stop="a"), params(stop="b")),
    "tool_choice": (params(tool_choice="auto"), params(tool_choice="none")),
    "a tool's description": (params(tools=[tool(description="a")]), params(tools=[tool(description="b")])),
    "parallel_tool_calls": (params(parallel_tool_calls=True), params(parallel_tool_calls=False)),
    "logit_bias": (params(logit_bias={"5": 1}), params(logit_bias={"5": 2})),
    "response_format": (params(response_format={"type": "json_object"}), params()),
    "another class": (params(response_format=Answer), params(response_format=Person)),
    "a class and its schema": (
        params(response_format=Answer),
        params(response_format=Answer.model_json_schema()),
    ),
    "a class with another field": (
        params(response_format=Answer),
        params(response_format=answer_class(**AS_BEFORE, more=(int, 0))),
    ),
    "a class of another name": (
        params(response_format=answer_class(**AS_BEFORE)),
        params(response_format=Reply),
    ),
    "a class with another default": (
        params(response_format=Answer),
        params(response_format=answer_class(words=(str, ...), sure=(float, 0.5))),
    ),
    "a class with another description": (
        params(response_format=Answer),
        params(response_format=answer_class("What was lost.", **AS_BEFORE)),
    ),
    "a class with another constraint": (
        params(response_format=Answer),
        params(response_format=answer_class(words=(str, Field(max_length=5)), sure=(float, 1.0))),
    ),
    "a class with other choices": (
        params(response_format=answer_class(words=(Literal["a", "b"], ...))),
        params(response_format=answer_class(words=(Literal["a", "c"], ...))),
    ),
    "a class and an object of it": (params(x=Person), params(x=Person(name="a"))),
    "objects that hold other things": (params(x=Person(name="a")), params(x=Person(name="b"))),
    "objects of which more was given": (params(x=Person(name="a", age=None)), params(x=Person(name="a"))),
    "another schema": (
        params(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"a": 1}}}),
        params(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"a": 2}}}),
    ),
    "a vendor's option None and left out": (
        ask("hi", {"extra": {"openai": {"verbosity": None}}}),
        ask("hi", {}),
    ),
    "an object and a mapping": (params(x=Person(name="a", age=1)), params(x={"name": "a", "age": 1})),
}


@pytest.mark.parametrize(("one", "other"), EQUAL.values(), ids=EQUAL.keys())
def test_equal_requests_have_equal_keys(one: Request, other: Request) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_different_requests_have_different_keys(one: Request, other: Request) -> None:
    first, second = key(one), key(other)
    assert first.canonical != second.canonical
    assert first.digest != second.digest


def test_tenants_share_nothing() -> None:
    asked = said("hi")
    found = {key(asked, scope).digest for scope in ("acme", "globex", "", "shared", "acme\x00", "4:acme")}
    assert len(found) == 6
    assert key(said("bhi"), "a") != key(said("hi"), "ab")


GIVEN: dict[str, tuple[Any, Any]] = {
    "max_tokens": (10, 11),
    "temperature": (0, 0.5),
    "top_p": (0.5, 1),
    "stop": (["a"], ["b"]),
    "seed": (1, 2),
    "tools": ([tool("find")], [tool("lose")]),
    "tool_choice": ("auto", {"type": "function", "function": {"name": "find"}}),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "json_object"}, Answer),
    "reasoning_effort": ("low", "high"),
    "presence_penalty": (0, 1),
    "frequency_penalty": (0, 1),
    "logit_bias": ({}, {"5": 1}),
    "logprobs": (True, False),
    "top_logprobs": (0, 5),
}


@pytest.mark.parametrize("name", sorted(PARAMS))
def test_every_parameter_that_a_call_takes_is_in_the_key(name: str) -> None:
    one, other = GIVEN[name]
    keys = {key(ask("hi", given)).canonical for given in ({}, {name: one}, {name: other})}
    assert len(keys) == 3


ALIKE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({name: value}, {})
    for name, value in (
        *((name, None) for name in sorted(PARAMS)),
        *(("tools", []), ("stop", []), ("stop", ""), ("logit_bias", {}), ("logprobs", False)),
        *(("parallel_tool_calls", True), ("tool_choice", "auto"), ("response_format", {"type": "text"})),
        *(("temperature", 1), ("top_p", 1), ("presence_penalty", 0), ("frequency_penalty", 0.0)),
        *(("top_logprobs", 0), ("seed", 0), ("max_tokens", 256), ("reasoning_effort", "medium")),
        *(("extra", {}), ("extra", {"openai": {}}), ("extra", {"openai": {"verbosity": None}})),
        *(("tags", []), ("require", set()), ("fallback", True), ("priority", 0), ("user", None)),
    )
] + [
    ({"temperature": 1}, {"temperature": 1.0}),
    ({"stop": "a"}, {"stop": ["a"]}),
    ({"stop": ("a", "b")}, {"stop": ["a", "b"]}),
    ({"tools": (tool(),)}, {"tools": [tool()]}),
    ({"extra": {"openai": {"n": 1}}}, {}),
]


@pytest.mark.parametrize(("one", "other"), ALIKE, ids=lambda options: ",".join(options) or "none")
def test_keys_are_equal_just_where_the_vendor_is_sent_the_same(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    def sent(options: dict[str, Any]) -> Any:
        return listed(
            request_fields(Call(ask("hi", options)), "openai", known=PARAMS, max_tokens_param="max_tokens")
        )

    assert (key(ask("hi", one)) == key(ask("hi", other))) is (sent(one) == sent(other))


def listed(value: Any) -> Any:
    """Tuples as lists, which is how both are sent; and one stop as a list of it, which says the same."""
    if isinstance(value, dict):
        if isinstance(value.get("stop"), str):
            value = {**value, "stop": [value["stop"]]}
        return {name: listed(inner) for name, inner in value.items()}
    return [listed(inner) for inner in value] if isinstance(value, list | tuple) else value


# -- what else the answer depends on -----------------------------------------------------

OTHERS = ({"role": "user", "content": "h*"},)


def test_messages_that_were_put_in_their_place_count_too() -> None:
    asked = said("hi")
    plain = key(asked)
    assert key(asked, messages=None) == key(asked, messages=asked.messages) == plain
    other = key(asked, messages=OTHERS)
    assert other.canonical.startswith(plain.canonical)
    assert other == key(asked, messages=({"content": "h*", "role": "user"},))
    found = {
        plain,
        other,
        key(said("ho"), messages=OTHERS),
        key(asked, messages=()),
        key(asked, messages=OTHERS * 2),
        key(request(*OTHERS), messages=asked.messages),
        key(request(*asked.messages, *OTHERS)),
        key(asked, also=list(OTHERS)),
        key(asked, messages=OTHERS, also=list(OTHERS)),
    }
    assert len(found) == 9


def test_whatever_else_it_depends_on_counts_too() -> None:
    asked = said("hi")
    assert key(asked, also=None) == key(asked)
    assert key(asked, also=("f", {"a": 1, "b": 2.0})) == key(asked, also=["f", {"b": 2, "a": 1}])
    assert key(asked, also=Person(name="a")) == key(asked, also=Person(name="a"))
    values = ("", "f", "g", 0, 1, False, True, [], {}, [None], ["f", 1], ["f", "1"], ["f1"], b"f", Person)
    found = {key(asked, also=value) for value in values}
    assert len(found | {key(asked)}) == len(values) + 1


def test_what_else_that_has_no_form_makes_no_key() -> None:
    asked = said("hi")
    for value in NO_KEY.values():
        assert key_of(asked, scope="a", also=value) is None
        assert key_of(asked, scope="a", also=["f", value]) is None
        assert key_of(asked, scope="a", messages=({"role": "user", "content": value},)) is None
    assert key_of(asked, scope="a", messages=(Hostile(),)) is None


def test_equal_messages_in_their_place_are_no_others() -> None:
    asked = request({"role": "user", "content": "hi"}, {"role": "user", "content": [{"n": 1}]})
    again = copy.deepcopy(asked.messages)
    assert key(asked, messages=again) == key(asked)
    again[1]["content"][0]["n"] = True  # equal, and something else
    assert key(asked, messages=again) != key(asked)
    nested = request({"role": "user", "content": [{"role": "user", "content": "x"}]})
    assert key(nested, messages=({"role": "user", "content": "x"},)) != key(nested)


class Hidden(BaseModel):
    model_config = {"extra": "allow"}
    shown: str = "x"
    apart: Any = Field("x", exclude=True)
    _private: Any = PrivateAttr("x")

    @cached_property
    def derived(self) -> str:
        return self.shown * 2


def hidden(words: Any = "x", **fields: Any) -> Hidden:
    made = Hidden(**fields)
    made._private = words
    return made


def test_an_object_counts_with_all_that_it_holds() -> None:
    made = [
        hidden(),
        hidden("y"),
        hidden(apart="y"),
        hidden(shown="y"),
        hidden(shown="x"),
        hidden(more="x"),
        hidden(apart=hidden("y")),
    ]
    keys = [key(params(x=each)) for each in made]
    assert len(set(keys)) == len(keys)
    assert keys == [key(params(x=each.model_copy(deep=True))) for each in made]
    assert made[0].derived == "xx"
    assert key(params(x=made[0])) == keys[0]
    assert key_of(params(x=hidden(object())), scope="a") is None


def test_a_call_that_shows_no_prompt_has_no_key_whatever_else_is_told() -> None:
    silent = ask(NO_PROMPT, {})
    assert key_of(silent, scope="a", also="f") is None
    assert key_of(silent, scope="a", messages=OTHERS) is None


# -- no key ---------------------------------------------------------------------------


def circle() -> Any:
    made: list[Any] = []
    made += [made, made]
    return made


def circular_mapping() -> Any:
    made: dict[str, Any] = {}
    made["a"] = made["b"] = made
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


class Hostile(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        raise OSError("no")

    def __iter__(self) -> Iterator[str]:
        raise KeyError("no")

    def __len__(self) -> int:
        return 2


class Unready(BaseModel):
    later: "Undefined"  # type: ignore[name-defined]  # noqa: F821, UP037


class Broken:
    def model_dump(self, **_: Any) -> Any:
        raise RuntimeError("no")


class Unplain(BaseModel):
    model_config = {"arbitrary_types_allowed": True}
    held: Any = None


NO_KEY: dict[str, Any] = {
    "NaN": math.nan,
    "infinity": -math.inf,
    "NaN as a name": {math.nan: 1},
    "an object": object(),
    "a class": dict,
    "a function": print,
    "a set": {"a", "b"},
    "a Decimal": Decimal("0.5"),
    "a complex number": 1j,
    "a generator": (x for x in "ab"),
    "a memoryview": memoryview(b"ab"),
    "an enum of no plain kind": enum.Enum("Kind", "A").A,
    "a tuple as a name": {(1, 2): 3},
    "bytes as a name": {b"a": 3},
    "a list that holds itself": circle(),
    "a mapping that holds itself": circular_mapping(),
    "too deep": nested(DEEPEST + 1),
    "far too deep": nested(100_000),
    "few lists that are many": laughs(),
    "too many": [0] * MOST_PARTS,
    "a mapping that raises": Hostile(),
    "a class without a schema yet": Unready,
    "an object that cannot be dumped": Broken(),
    "an object that holds another": Unplain(held=object()),
    "an object that holds NaN": Unplain(held=math.nan),
}


@pytest.mark.parametrize("value", NO_KEY.values(), ids=NO_KEY.keys())
def test_what_has_no_form_has_no_key(value: Any) -> None:
    assert key_of(params(x=value), scope="a") is None
    assert key_of(said("hi", x=[value]), scope="a") is None
    assert key_of(request(extra={"openai": {"x": value}}), scope="a") is None


def test_a_message_that_raises_has_no_key() -> None:
    assert key_of(request(Hostile()), scope="a") is None
    assert key_of(request(params=Hostile()), scope="a") is None
    assert key_of(request(extra=Hostile()), scope="a") is None


def test_a_call_that_shows_no_prompt_has_no_key() -> None:
    assert key_of(ask(NO_PROMPT, {"temperature": 0}), scope="a") is None


def test_depth_that_requests_have_is_fine() -> None:
    assert key_of(params(x=nested(DEEPEST - 2)), scope="a") is not None


# -- the hash, and what is kept --------------------------------------------------------


def test_the_hash_is_256_bits_of_the_whole_form_and_can_be_another() -> None:
    found = key(said("hi"))
    assert found.digest == hashlib.blake2b(found.canonical, digest_size=32).digest()
    constant = key(said("hi"), hasher=lambda _: b"same")
    other = key(said("ho"), hasher=lambda _: b"same")
    assert constant.digest == other.digest
    assert constant.canonical != other.canonical


def test_the_form_does_not_change_between_versions_unnoticed() -> None:
    asked = request(
        {"role": "user", "content": "é"},
        {"content": [b"\xff"], "role": "user", "n": -1.5},
        params={"b": True, "a": [None, 255]},
        extra={"v": {"x": False}},
    )
    assert key(asked).canonical.decode() == (
        "tierllm-key-1:s4:acmel2:d2:s4:roles4:users7:contents1:é"
        "d3:s1:nr-0x1.8000000000000p+0;s4:roles4:users7:contentl1:b1:ÿ"
        "d2:s1:al2:Niff;s1:bTd1:s1:vd1:s1:xF"
    )


def test_a_request_that_changes_later_does_not_change_its_key() -> None:
    message = {"role": "user", "content": ["a"]}
    found = key(request(message))
    message["content"] = ["b"]
    assert key(request(message)) != found


def test_no_prompt_in_a_repr() -> None:
    assert "secret words" not in repr(key(said("secret words")))


def test_schemas_are_made_once_where_they_are_remembered() -> None:
    made = []

    class Counted(BaseModel):
        a: int

        @classmethod
        def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
            made.append(cls)
            return super().model_json_schema(*args, **options)

    schemas: WeakKeyDictionary[type, str] = WeakKeyDictionary()
    plain = key(params(response_format=Counted))
    keys = {key(params(response_format=Counted), schemas=schemas) for _ in range(5)}
    assert keys == {plain}
    assert len(made) == 2


# -- any request at all ------------------------------------------------------------------

TEXTS = st.text(st.characters(codec=None), max_size=6) | st.sampled_from(
    ["", "a", "s1:a", "é", "\ud83d\ude00"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 2)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, 1.0, 0.5])
    | TEXTS
    | st.binary(max_size=3)
)
NAMES = TEXTS | st.integers(-1, 2)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(NAMES, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """What the key should say, slowly: kinds first, then the values themselves."""
    kinds = [kind(one), kind(other)]
    if kinds[0] != kinds[1]:
        return False
    if kinds[0] == "list":
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if kinds[0] == "mapping":
        left = list(other.items())
        for name, value in one.items():
            found = [at for at, (n, v) in enumerate(left) if same(name, n) and same(value, v)]
            if len(found) != 1:
                return False
            del left[found[0]]
        return not left
    return bool(one == other)


def kind(value: Any) -> str:
    for name, types in (("none", type(None)), ("bool", bool), ("text", str), ("bytes", bytes)):
        if isinstance(value, types):
            return name
    if isinstance(value, int | float):
        return "number"
    return "list" if isinstance(value, list | tuple) else "mapping"


def shuffled(value: Any, draw: Any) -> Any:
    """The same value, built in another order and of other kinds of containers and numbers."""
    match value:
        case dict():
            pairs = draw(st.permutations(list(value.items())))
            made = {name: shuffled(inner, draw) for name, inner in pairs}
            return MappingProxyType(made) if draw(st.booleans()) else made
        case list() | tuple():
            return draw(st.sampled_from([list, tuple]))(shuffled(inner, draw) for inner in value)
        case bool() | str() | bytes() | None:
            return value
        case int() if abs(value) < 2**53:
            return float(value)
        case float() if value.is_integer():
            return int(value)
    return value


def changed(value: Any, draw: Any) -> Any:
    """The value with one thing in it changed, anywhere."""
    inside = isinstance(value, dict | list | tuple) and bool(value) and draw(st.booleans())
    if inside and isinstance(value, dict):
        name = draw(st.sampled_from(list(value)))
        rest = {n: v for n, v in value.items() if n != name}
        how = draw(st.sampled_from(["drop", "rename", "inside"]))
        if how == "inside":
            return {**rest, name: changed(value[name], draw)}
        return rest if how == "drop" else {**rest, f"{name}+new": value[name]}
    if inside:
        at = draw(st.integers(0, len(value) - 1))
        items = list(value)
        how = draw(st.sampled_from(["drop", "twice", "inside"]))
        items[at : at + 1] = {"drop": [], "twice": [items[at]] * 2}.get(how) or (
            [changed(items[at], draw)] if how == "inside" else []
        )
        return items
    return draw(VALUES.filter(lambda other: not same(value, other)))


def places(value: Any) -> list[Request]:
    return [
        request({"role": "user", "content": value}),
        request({"role": "user", "content": "x", "more": value}, params={"seed": 1}),
        request(params={"x": value}),
        request(extra={"vendor": {"x": value}}),
    ]


@settings(max_examples=300, deadline=None)
@given(VALUES, VALUES)
def test_any_two_values_have_the_same_key_just_where_they_are_the_same(one: Any, other: Any) -> None:
    for first, second in zip(places(one), places(other), strict=True):
        assert (key(first) == key(second)) is same(one, other)


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUES, max_size=2), VALUES, st.lists(VALUES, max_size=2), VALUES)
def test_any_two_calls_have_the_same_key_just_where_all_they_depend_on_is_the_same(
    one: list[Any], also: Any, other: list[Any], other_also: Any
) -> None:
    def messages(contents: list[Any]) -> tuple[Mapping[str, Any], ...]:
        return tuple({"role": "user", "content": content} for content in contents)

    first = key(said("hi"), messages=messages(one), also=also)
    second = key(said("hi"), messages=messages(other), also=other_also)
    assert (first == second) is (same(one, other) and same(also, other_also))
    assert key(said("hi"), also=one) != key(said("hi"), messages=messages(one))


@settings(max_examples=200, deadline=None)
@given(VALUES, st.data())
def test_the_same_value_in_another_order_has_the_same_key(value: Any, data: st.DataObject) -> None:
    other = shuffled(value, data.draw)
    for first, second in zip(places(value), places(other), strict=True):
        assert key(first) == key(second)


@settings(max_examples=300, deadline=None)
@given(VALUES, st.data())
def test_any_one_change_makes_another_key(value: Any, data: st.DataObject) -> None:
    other = changed(value, data.draw)
    assert not same(value, other)
    for first, second in zip(places(value), places(other), strict=True):
        assert key(first).canonical != key(second).canonical


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(TEXTS, min_size=2, max_size=2), min_size=1, max_size=4), st.data())
def test_texts_cut_elsewhere_make_another_key(pairs: list[list[str]], data: st.DataObject) -> None:
    """The same characters in the same order, divided otherwise among roles, contents and messages."""
    joined = "".join(text for pair in pairs for text in pair)
    number = data.draw(st.integers(1, 4))
    cuts = sorted(
        data.draw(st.lists(st.integers(0, len(joined)), min_size=2 * number - 1, max_size=2 * number - 1))
    )
    texts = [joined[a:b] for a, b in zip([0, *cuts], [*cuts, len(joined)], strict=True)]
    other = [texts[at : at + 2] for at in range(0, len(texts), 2)]

    def asked(of: list[list[str]]) -> Request:
        return request(*({"role": role, "content": content} for role, content in of))

    assert (key(asked(pairs)) == key(asked(other))) is (pairs == other)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=3))
def test_plain_messages_take_no_form_of_their_own(more: dict[str, Any]) -> None:
    """The short way for plain messages writes what the long way does."""
    plain = request(USER, params=more)
    long = replace_messages(plain, (MappingProxyType(USER),))
    assert key(plain) == key(long)


def replace_messages(asked: Request, messages: tuple[Mapping[str, Any], ...]) -> Request:
    return Request(**{**asked.__dict__, "messages": messages})

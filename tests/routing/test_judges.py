"""Judges alone: forms, agreement, and what is no score."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tierllm.errors import ConfigError
from tierllm.routing.judges import Agreement, FormatCheck, as_score, check_judge
from tierllm.routing.shapes import fits
from tierllm.types import Request, Response, ToolCall

ASKED = Request(messages=({"role": "user", "content": "How many?"},))
SCHEMA = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
        "unit": {"enum": ["kg", "lb"]},
        "notes": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "more": {"anyOf": [{"type": "null"}, {"type": "object", "required": ["x"]}]},
    },
    "required": ["count"],
    "additionalProperties": False,
}


class Total(BaseModel):
    total: int


def answer(text: str = "", reason: str = "stop", **more: Any) -> Response:
    return Response(text=text, finish_reason=reason, **more)


# -- forms ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "response", "good"),
    [
        (FormatCheck(), answer("fine"), True),
        (FormatCheck(), answer(""), False),
        (FormatCheck(), answer("  \n"), False),
        (FormatCheck(), answer("cut of", "length"), False),
        (FormatCheck(), answer("filtered", "content_filter"), False),
        (FormatCheck(), answer("", "tool_calls", tool_calls=(ToolCall(name="f", arguments="{}"),)), True),
        (FormatCheck(), answer("", "tool_calls", tool_calls=(ToolCall(name="f", arguments="{"),)), False),
        (FormatCheck(), answer("", "tool_calls", tool_calls=(ToolCall(arguments="{}"),)), False),
        (FormatCheck(min_chars=10), answer("short"), False),
        (FormatCheck(min_chars=0), answer(""), True),
        (FormatCheck(pattern=r"^\d+$"), answer("42"), True),
        (FormatCheck(pattern=re.compile(r"^\d+$")), answer("42 kg"), False),
        (FormatCheck(check=str.isupper), answer("YES"), True),
        (FormatCheck(check=str.isupper), answer("no"), False),
        (FormatCheck(refusals=True), answer("I\u2019m unable  to do that."), False),
        (FormatCheck(refusals=True), answer("The answer is 4."), True),
        (FormatCheck(), answer("I'm unable to do that."), True),
        (FormatCheck(refusals=["je ne sais pas"]), answer("Je ne  sais pas."), False),
        (FormatCheck(refusals=["No"]), answer("No."), False),
        (FormatCheck(refusals=["No"]), answer('"No", it said'), False),
        (FormatCheck(refusals=["No"]), answer("Now I know"), True),
        (FormatCheck(refusals=["No"]), answer("I know it works"), True),
        (FormatCheck(refusals=True), answer("It says: I don't know."), True),
        (FormatCheck(refusals=True), answer("I'm sorry, but I cannot do that."), False),
        (FormatCheck(refusals=True), answer("I'm sorry, but I can do better: 4"), True),
        (FormatCheck(json=True), answer("NaN"), False),
        (FormatCheck(json=True), answer('{"a": -Infinity}'), False),
        (FormatCheck(json=True), answer('{"a": 1}'), True),
        (FormatCheck(json=True), answer("a: 1"), False),
        (FormatCheck(json=True), answer("[" * 100_000), False),
        (FormatCheck(json=SCHEMA), answer('{"count": 3, "unit": "kg"}'), True),
        (FormatCheck(json=SCHEMA), answer('{"count": "3"}'), False),
    ],
)
def test_a_form(check: FormatCheck, response: Response, good: bool) -> None:
    assert check(ASKED, response) == (1.0 if good else 0.0)


@pytest.mark.parametrize(
    ("wanted", "text", "good"),
    [
        ({"type": "json_object"}, "{}", True),
        ({"type": "json_object"}, "no", False),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, '{"count": 3}', True),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, '{"cnt": 3}', False),
        ({"type": "text"}, "no", True),
        (Total, '{"total": 12}', True),
        (Total, "Twelve.", False),
        (Total, '{"sum": 12}', False),
        (str, "no class of pydantic's", True),
    ],
    ids=["object", "no-object", "schema", "no-schema", "text", "class", "no-class", "misfit", "other-class"],
)
def test_what_the_call_itself_asked_for(wanted: Any, text: str, good: bool) -> None:
    asked = Request(messages=(), params={"response_format": wanted})
    assert FormatCheck()(asked, answer(text)) == (1.0 if good else 0.0)
    assert FormatCheck(json=False)(asked, answer(text)) == 1.0


@pytest.mark.parametrize(
    ("data", "good"),
    [
        ({"count": 3}, True),
        ({"count": 3.0}, True),
        ({"count": 3.5}, False),
        ({"count": True}, False),
        ({"count": -1}, False),
        ({"count": 10}, False),
        ({}, False),
        ([], False),
        ({"count": 1, "other": 1}, False),
        ({"count": 1, "unit": "kg"}, True),
        ({"count": 1, "unit": "g"}, False),
        ({"count": 1, "notes": ["a", "b"]}, True),
        ({"count": 1, "notes": ["a", "b", "c"]}, False),
        ({"count": 1, "notes": [1]}, False),
        ({"count": 1, "more": None}, True),
        ({"count": 1, "more": {"x": 1}}, True),
        ({"count": 1, "more": {"y": 1}}, False),
    ],
)
def test_a_schema(data: Any, good: bool) -> None:
    assert fits(data, SCHEMA) is good


def test_types_that_are_unknown_hold() -> None:
    assert fits(1, {"type": "decimal", "format": "x", "minimum": "none"})
    assert fits("x", {"type": ["string", "null"]})
    assert not fits(1, {"type": ["string", "null"]})
    assert not fits(1, {"const": True})
    assert fits(True, {"enum": [True]})
    deep: Any = {}
    for _ in range(100):
        deep = {"properties": {"a": deep}}
    data: Any = {}
    for _ in range(100):
        data = {"a": data}
    assert not fits(data, deep), "too deep to be looked at"


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def shape_of(data: Any) -> dict[str, Any]:
    match data:
        case None:
            return {"type": "null"}
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer", "minimum": data, "maximum": data}
        case float():
            return {"type": "number", "const": data}
        case str():
            return {"type": "string", "enum": [data, 1]}
        case list():
            return {
                "type": "array",
                "minItems": len(data),
                "items": {"anyOf": [shape_of(d) for d in data] or [{}]},
            }
        case _:
            return {
                "type": "object",
                "properties": {name: shape_of(value) for name, value in data.items()},
                "required": list(data),
                "additionalProperties": False,
            }


@given(values)
def test_data_fits_its_own_shape(data: Any) -> None:
    read = json.loads(json.dumps(data))
    assert fits(read, shape_of(read))
    assert FormatCheck(json=shape_of(read), min_chars=0)(ASKED, answer(json.dumps(data))) == 1.0


@given(values, values)
def test_nothing_raises_whatever_the_schema_says(data: Any, schema: Any) -> None:
    fits(data, schema if isinstance(schema, dict) else {"type": schema, "items": schema, "enum": schema})


# -- agreement --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compare", "first", "second", "score"),
    [
        ("text", "Paris.", "  paris", 1.0),
        ("text", "Paris", "London", 0.0),
        ("text", '{"a": 1, "b": [2]}', '{"b":[2],"a":1}', 1.0),
        ("text", '{"a": 1}', '{"a": 2}', 0.0),
        ("number", "So it is 1,200.50 in all", "= 1200.5", 1.0),
        ("number", "7 apples, 3 left", "3", 1.0),
        ("number", "7", "8", 0.0),
        ("number", "seven", "7", None),
        ("words", "red green blue", "blue green red", 1.0),
        ("words", "red green", "green blue", 0.5),
        ("words", "", "", None),
        ("words", "red", "", None),
        ("words", "...", "?!", None),
        ("words", "red", "?!", 0.0),
        ("text", "", "", None),
        ("text", " ", "\n", None),
        ("text", "...", "?!", 0.0),
        ("text", "...", " ...", 1.0),
        (lambda a, b: 1.0, "", "", None),
        (lambda a, b: 0.7, "a", "b", 0.7),
        (lambda a, b: float("nan"), "a", "b", None),
    ],
)
def test_two_answers(compare: Any, first: str, second: str, score: float | None) -> None:
    assert Agreement("bronze/b", compare=compare).score(answer(first), answer(second)) == score


def test_two_that_call_tools() -> None:
    def calls(*arguments: str) -> Response:
        return answer("", "tool_calls", tool_calls=tuple(ToolCall(name="f", arguments=a) for a in arguments))

    agreement = Agreement("bronze/b")
    assert agreement.score(calls('{"x": 1}'), calls('{"x":1}')) == 1.0
    assert agreement.score(calls('{"x": 1}'), calls('{"x": 2}')) == 0.0
    assert agreement.score(calls('{"x": 1}'), answer("{}")) == 0.0
    assert agreement.score(calls("{"), calls("{")) == 1.0


def test_what_was_cut_agrees_with_nothing() -> None:
    assert Agreement("b").score(answer("a", "length"), answer("a")) is None
    assert Agreement("b").score(answer("a"), answer("a", "content_filter")) is None


@given(st.text(), st.text(), st.sampled_from(["text", "number", "words"]))
def test_agreement_is_a_score_and_has_no_order(first: str, second: str, how: Any) -> None:
    agreement = Agreement("bronze/b", compare=how)
    score = agreement.score(answer(first), answer(second))
    assert score is None or 0 <= score <= 1
    assert score == agreement.score(answer(second), answer(first))
    if how == "text" and first.strip():
        assert agreement.score(answer(first), answer(first)) == 1.0


# -- scores and settings -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (True, 1.0),
        (False, 0.0),
        (0, 0.0),
        (1, 1.0),
        (0.25, 0.25),
        (1.01, None),
        (-0.01, None),
        (math.nan, None),
        (math.inf, None),
        ("1", None),
        (None, None),
        (1j, None),
    ],
    ids=str,
)
def test_what_is_a_score(value: Any, score: float | None) -> None:
    assert as_score(value) == score


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: FormatCheck(json="yes"), "json='yes'"),
        (lambda: FormatCheck(pattern="("), "no regular expression"),
        (lambda: FormatCheck(pattern=7), "no regular expression"),
        (lambda: FormatCheck(check=True), "function of the text"),
        (lambda: FormatCheck(min_chars=-1), "min_chars=-1"),
        (lambda: FormatCheck(min_chars=True), "min_chars=True"),
        (lambda: FormatCheck(refusals="no"), "refusals"),
        (lambda: FormatCheck(refusals=[""]), "not empty"),
        (lambda: Agreement(""), "other=''"),
        (lambda: Agreement("b", compare="vibes"), "compare='vibes'"),
        (lambda: check_judge("Cascade", FormatCheck), "give a function"),
        (lambda: check_judge("Cascade", "good"), "give a function"),
    ],
    ids=[
        "json",
        "pattern",
        "number",
        "check",
        "chars",
        "bool",
        "refusals",
        "empty",
        "other",
        "compare",
        "class",
        "text",
    ],
)
def test_settings_that_make_no_sense(make: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        make()

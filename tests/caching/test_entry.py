"""What is kept of an answer comes back exactly, and what was tampered with does not come back at all."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import pickle
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, field_validator

from tierllm import Request, Response, ToolCall, Usage
from tierllm.caching.contents import LONGEST_TTL_S
from tierllm.caching.entry import Entry
from tierllm.caching.key import Key
from tierllm.caching.returned import Returned, pack
from tierllm.caching.storable import storable
from tierllm.caching.written import (
    HEADER,
    LAST_SECOND,
    MOST_BYTES,
    MOST_JSON_BYTES,
    MOST_TIMES,
    MOST_TOKENS,
    ZLIB_FROM_BYTES,
)

KEY = Key(b"d" * 32, b"the whole request")
RETURNED = Returned("json", b'{"a": [1]}')
CALL = ToolCall(0, "c1", "find", '{"a": 1}')


def answer(**changes: Any) -> Response:
    fields: dict[str, Any] = {
        "text": "Blue.",
        "finish_reason": "stop",
        "usage": Usage(input_tokens=5, output_tokens=2, cached_input_tokens=1, service_tier="flex"),
        "cost_usd": Decimal("0.0012"),
        "tier": "gold",
        "deployment": "g",
        "model": "m-1",
        "request_id": "req_1",
    }
    return Response(**(fields | changes))


def entry(response: Response | None = None, **changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "fingerprint": b"who\xff",
        "made_at": 1.5e9 + 0.1,
        "fresh_until": 1.5e9 + 600.1,
        "stale_until": 1.5e9 + 900.1,
        "latency_s": 1.25,
        "depends": (("doc:42", "ab12"), ("doc:é", "cd34")),
        "tags": ("billing", "fr"),
        "tenant": "acme",
        "generation": 7,
        "returned": RETURNED,
    }
    of_entry = {name: changes.pop(name) for name in tuple(changes) if name in fields}
    made = Entry.of(response or answer(), KEY, **(fields | of_entry))
    return made._replace(**changes)


# -- there and back ----------------------------------------------------------------------

SURROGATES = st.text(st.characters(codec=None), max_size=20)
MAYBE = st.none() | SURROGATES
COUNTS = st.integers(0, MOST_TOKENS)
SECONDS = st.floats(0, LONGEST_TTL_S)
DOLLARS = st.decimals(0, 10**6, allow_nan=False, allow_infinity=False, places=12) | st.sampled_from(
    [Decimal("0.10"), Decimal("0E-9"), Decimal("1E-30")]
)
USAGES = st.none() | st.builds(
    Usage,
    input_tokens=COUNTS,
    output_tokens=COUNTS,
    cached_input_tokens=COUNTS,
    cache_write_tokens=COUNTS,
    reasoning_tokens=COUNTS,
    service_tier=MAYBE,
    estimated=st.booleans(),
)


def lasting(kept: Entry) -> Entry:
    """With times that follow each other."""
    fresh_until = kept.made_at + kept.fresh_until
    return kept._replace(fresh_until=fresh_until, stale_until=fresh_until + kept.stale_until)


ENTRIES = st.builds(
    Entry,
    canonical=st.binary(max_size=50) | st.binary(min_size=ZLIB_FROM_BYTES, max_size=ZLIB_FROM_BYTES + 5),
    fingerprint=st.binary(max_size=16),
    tier=SURROGATES,
    deployment=SURROGATES,
    model=MAYBE,
    made_at=st.floats(0, LAST_SECOND),
    fresh_until=SECONDS,
    stale_until=SECONDS,
    text=SURROGATES | SURROGATES.map(lambda text: text * 2000),
    reasoning=SURROGATES,
    tool_calls=st.lists(st.builds(ToolCall, COUNTS, MAYBE, MAYBE, SURROGATES), max_size=3).map(tuple),
    finish_reason=st.sampled_from(["stop", "tool_calls"]),
    usage=USAGES,
    cost_usd=st.none() | DOLLARS,
    request_id=MAYBE,
    latency_s=SECONDS,
    structured=st.booleans(),
    depends=st.lists(st.tuples(SURROGATES, SURROGATES), max_size=3).map(tuple),
    tags=st.lists(SURROGATES, max_size=3).map(tuple),
    tenant=MAYBE,
    generation=st.integers(0, 2**63 - 1),
    returned=st.none() | st.builds(Returned, SURROGATES, st.binary(max_size=50)),
).map(lasting)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(ENTRIES)
def test_any_entry_comes_back_exactly(kept: Entry) -> None:
    found = Entry.decode(kept.encode())
    assert found == kept
    assert found is not None
    assert list(map(type, found)) == list(map(type, kept))
    assert str(found.cost_usd) == str(kept.cost_usd)


def test_two_lone_surrogates_do_not_become_an_emoji() -> None:
    kept = entry(answer(text="\ud83d\ude00", request_id="\ud83d\ude00"))
    found = Entry.decode(kept.encode())
    assert found is not None
    assert found.text == found.request_id == "\ud83d\ude00" != "\U0001f600"


def test_large_entries_are_compressed_and_small_ones_are_not() -> None:
    text = "the same words again " * 1000
    large, small = entry(text=text).encode(), entry().encode()
    assert (large[4:5], small[4:5]) == (b"z", b"j")
    assert len(large) < len(text) / 10
    assert b"Blue." in small


def test_what_is_too_large_to_be_unpacked_is_not_packed() -> None:
    kept = entry(canonical=b"x" * MOST_BYTES)
    written = kept.encode()
    assert written[4:5] == b"j"
    assert Entry.decode(written) == kept


@pytest.mark.parametrize(
    "changes",
    [
        {"made_at": math.nan},
        {"stale_until": math.inf},
        {"tenant": object()},
        {"text": b"bytes"},
        {"text": None},
        {"tags": ({"a"},)},
        {"usage": {"input_tokens": 1}},
        {"tool_calls": ("find",)},
        {"returned": Returned("text", "words")},  # type: ignore[arg-type]
        {"returned": Returned("text", None)},  # type: ignore[arg-type]
        {"returned": ("text", b"words")},
        {"canonical": "words"},
    ],
    ids=[
        *("not a number", "infinity", "an object", "bytes", "no text", "a set", "a mapping", "a name"),
        *("a returned text", "nothing returned", "a pair", "a request as text"),
    ],
)
def test_what_is_no_plain_data_is_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        entry(**changes).encode()


# -- damage ------------------------------------------------------------------------------

SAMPLES = {
    "small": entry(answer(tool_calls=(CALL,))).encode(),
    "large": entry(text="the same words again " * 1000).encode(),
}


@pytest.mark.parametrize("written", SAMPLES.values(), ids=SAMPLES.keys())
def test_any_flipped_bit_is_found(written: bytes) -> None:
    assert Entry.decode(written) is not None
    for at in range(len(written) * 8):
        spoiled = bytearray(written)
        spoiled[at // 8] ^= 1 << at % 8
        assert Entry.decode(bytes(spoiled)) is None


@pytest.mark.parametrize("written", SAMPLES.values(), ids=SAMPLES.keys())
def test_any_truncation_and_addition_is_found(written: bytes) -> None:
    for end in range(len(written)):
        assert Entry.decode(written[:end]) is None
    for more in (b"\x00", b"}", written):
        assert Entry.decode(written + more) is None
        assert Entry.decode(more + written) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_no_entry(data: bytes) -> None:
    assert Entry.decode(data) is None
    assert Entry.decode(b"tle2" + data) is None
    assert Entry.decode(sealed(data)) is None
    assert Entry.decode(sealed(data, packed=b"z")) is None


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 20))
def test_bytes_changed_here_and_there_are_found(rng: random.Random, number: int) -> None:
    for written in SAMPLES.values():
        spoiled = bytearray(written)
        for _ in range(number):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        assert bytes(spoiled) == written or Entry.decode(bytes(spoiled)) is None


@pytest.mark.parametrize(
    "other",
    [None, "tle1", 5, [], b"", object(), memoryview(SAMPLES["small"])],
    ids=["None", "text", "number", "list", "nothing", "object", "memoryview"],
)
def test_what_is_no_bytes_is_no_entry(other: Any) -> None:
    assert Entry.decode(other) is None


# -- tampering: the CRC is right, what is inside is not ------------------------------------


def sealed(body: bytes, packed: bytes = b"j", magic: bytes = b"tle2") -> bytes:
    return HEADER.pack(magic, packed, zlib.crc32(body, packed[0])) + body


def bodied(
    written: bytes, text: bytes = b"Blue.", reasoning: bytes = b"", value: bytes = b"", canonical: bytes = b""
) -> bytes:
    lengths = struct.pack(">IIII", len(written), len(text), len(reasoning), len(value))
    return lengths + written + text + reasoning + value + canonical


def fields() -> list[Any]:
    """The JSON of a good entry."""
    body = entry(answer(tool_calls=(CALL,))).encode()[HEADER.size :]
    return json.loads(body[16 : 16 + struct.unpack_from(">I", body)[0]])


NAMES = (
    *("fingerprint", "tier", "deployment", "model", "made_at", "fresh_until", "stale_until"),
    *("tool_calls", "finish_reason", "usage", "cost_usd", "request_id", "latency_s", "structured"),
    *("depends", "tags", "tenant", "generation", "returned"),
)
STRANGE = [
    *(
        None,
        True,
        0,
        -1,
        -1e9,
        1.5,
        1e300,
        1_500_000_300,
        1_500_000_700.5,
        2**63,
        10**400,
        "",
        "x",
        "NaN",
        "1E+999999999",
        "-1",
        [],
        {},
        {"a": 1},
    ),
    *(
        [None],
        [[]],
        ["a", "b", "c", "d"],
        [0, 0, 0, 0, 0, None, 0],
        [["a", 1]],
        [["a"]],
        [[True, "a", "b", "c"]],
    ),
    *([[0, "a", "b", None]], [0.5, 0, 0, 0, 0, None, False], "9" * 10_000),
    *("Infinity", "sNaN", "0." + "1" * 10_000, "0E+999999999"),
]
FINE: dict[str, Callable[[Any], bool]] = {
    "fingerprint": lambda v: v in ("", "9" * 10_000),
    **dict.fromkeys(("tier", "deployment"), lambda v: type(v) is str),
    **dict.fromkeys(("model", "request_id", "tenant", "returned"), lambda v: v is None or type(v) is str),
    "made_at": lambda v: v == 1_500_000_300,
    "fresh_until": lambda v: v in (1_500_000_300, 1_500_000_700.5),
    "stale_until": lambda v: v == 1_500_000_700.5,
    "latency_s": lambda v: type(v) in (int, float) and v in (0, 1.5),
    "tool_calls": lambda v: v == [],
    "finish_reason": lambda v: v in ("stop", "tool_calls"),
    "usage": lambda v: v is None,
    "cost_usd": lambda v: v is None,
    "structured": lambda v: type(v) is bool,
    "generation": lambda v: type(v) is int and 0 <= v < 2**63,
    "depends": lambda v: v == [],
    "tags": lambda v: type(v) is list and all(type(tag) is str for tag in v),
}


def test_a_sealed_copy_of_a_good_entry_is_read() -> None:
    assert Entry.decode(sealed(bodied(json.dumps(fields()).encode()))) is not None


@pytest.mark.parametrize("name", NAMES)
def test_things_of_another_kind_are_refused_in_every_place(name: str) -> None:
    for strange in STRANGE:
        told = fields()
        told[NAMES.index(name)] = strange
        read = Entry.decode(sealed(bodied(json.dumps(told).encode())))
        assert (read is not None) is FINE[name](strange), strange


@pytest.mark.parametrize("reason", ["length", "content_filter", "", "error", "stop "])
def test_an_incomplete_answer_is_never_read(reason: str) -> None:
    assert Entry.decode(entry(finish_reason=reason).encode()) is None


HOSTILE = {
    "nothing": b"",
    "an object": b"{}",
    "null": b"null",
    "deep lists": b"[" * 200_000,
    "deep lists that end": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "not a number": json.dumps([*fields()[:4], math.nan, *fields()[5:]]).encode(),
    "infinity": json.dumps([*fields()[:4], math.inf, *fields()[5:]]).encode(),
    "a huge float": json.dumps([*fields()[:4], 0, *fields()[5:]]).replace(" 0,", " 1e999,", 1).encode(),
    "a huge number": b"[" + b"9" * 1_000_000 + b"]",
    "tokens below nothing": json.dumps(fields()).replace("[5, 2, 1,", "[5, -2, 1,").encode(),
    "more tokens than there are": json.dumps(fields()).replace("[5, 2,", f"[5, {2**63 - 1},").encode(),
    "a call before the first": json.dumps(fields()).replace('[[0, "c1"', '[[-1, "c1"').encode(),
    "too few": json.dumps(fields()[:-1]).encode(),
    "too many": json.dumps([*fields(), None]).encode(),
    "something after it": json.dumps(fields()).encode() + b" []",
    "white space before it": b" " + json.dumps(fields()).encode(),
    "bytes that are no text": json.dumps(fields()).encode().replace(b"gold", b"go\xff\xfe"),
    "no JSON": pickle.dumps(fields()),
    "a call to os.system": b"cos\nsystem\n(S'touch hacked'\ntR.",
}


@pytest.mark.parametrize("written", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_json_is_no_entry(written: bytes) -> None:
    assert Entry.decode(sealed(bodied(written))) is None
    packed = zlib.compress(bodied(written))
    assert Entry.decode(sealed(packed, packed=b"z")) is None


GOOD = bodied(json.dumps(fields()).encode())
HOSTILE_BODIES = {
    "lengths beyond the end": (struct.pack(">IIII", *[2**32 - 1] * 4) + GOOD[16:], b"j"),
    "one byte beyond": (GOOD[:4] + struct.pack(">I", 6) + GOOD[8:], b"j"),
    "one byte of the value beyond": (GOOD[:12] + struct.pack(">I", 1) + GOOD[16:], b"j"),
    "a value of no kind": (bodied(json.dumps([*fields()[:-1], None]).encode(), value=b"x"), b"j"),
    "no lengths": (GOOD[:15], b"j"),
    "a text that is no text": (bodied(json.dumps(fields()).encode(), text=b"\xff"), b"j"),
    "reasoning that is no text": (bodied(json.dumps(fields()).encode(), reasoning=b"\xc3"), b"j"),
    "not compressed": (GOOD, b"z"),
    "compressed and said not to be": (zlib.compress(GOOD), b"j"),
    "packed by something else": (GOOD, b"p"),
    "half of it": (zlib.compress(GOOD)[:-5], b"z"),
    "something after it": (zlib.compress(GOOD) + b"x", b"z"),
    "a bomb": (zlib.compress(GOOD + bytes(MOST_BYTES), 9), b"z"),
    "a smaller bomb": (zlib.compress(GOOD + bytes(2**20), 9), b"z"),
}


@pytest.mark.parametrize(("body", "packed"), HOSTILE_BODIES.values(), ids=HOSTILE_BODIES.keys())
def test_hostile_bodies_are_no_entry(body: bytes, packed: bytes) -> None:
    assert Entry.decode(sealed(body, packed=packed)) is None


@pytest.mark.parametrize("part", [b"[],", b"{},", b"[[]],", b'{"":0},', b"1,", b'"",'])
def test_little_json_does_not_make_much_memory(part: bytes) -> None:
    many = b"[" + part * (8 * 2**20 // len(part)) + b"0]"
    noise = random.Random(1).randbytes(len(many) // MOST_TIMES)  # so that it does not become too small
    bodies = [bodied(many, canonical=noise), bodied(json.dumps(fields()).encode(), value=many)]
    for body in bodies:
        tracemalloc.start()
        for data in (sealed(body), sealed(zlib.compress(body, 9), packed=b"z")):
            read = Entry.decode(data)
            with contextlib.suppress(ValueError):
                if read is not None:
                    read._replace(returned=Returned("json", many)).response()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 15 * len(many)


def test_what_is_written_is_read() -> None:
    noise = "".join(map(chr, random.Random(1).choices(range(33, 126), k=MOST_JSON_BYTES)))
    for times, kept in (
        (1, entry(tool_calls=(ToolCall(0, "c1", "find", noise[: MOST_JSON_BYTES // 2]),))),
        (1, entry(canonical=b"a" * 2**20)),
        (2, entry(canonical=noise.encode() + bytes(2**20))),
    ):
        data = kept.encode()
        assert len(data) * times <= kept.size + len(noise)
        assert Entry.decode(data) == kept
    with pytest.raises(ValueError, match="too much"):
        entry(tags=(noise,)).encode()


@pytest.mark.parametrize("magic", [b"tle1", b"tle3", b"TLE1", b"\x00\x00\x00\x00"])
def test_other_versions_are_not_read(magic: bytes) -> None:
    assert Entry.decode(sealed(GOOD, magic=magic)) is None
    assert Entry.decode(sealed(GOOD)) is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(JSON, min_size=len(NAMES), max_size=len(NAMES)), st.sets(st.sampled_from(range(len(NAMES)))))
def test_whatever_is_read_can_be_used(strange: list[Any], places: set[int]) -> None:
    told = [strange[at] if at in places else value for at, value in enumerate(fields())]
    read = Entry.decode(sealed(bodied(json.dumps(told).encode())))
    if read is not None:
        assert Entry.decode(read.encode()) == read
        assert len(f"{read.cost_usd or 0:f}") < 300
        assert list(read._replace(returned=None, structured=False).response().chunks())
        assert read.size > 0


# -- answers from it ----------------------------------------------------------------------


def test_an_answer_says_that_it_was_cached_and_cost_nothing() -> None:
    made = answer(tool_calls=(CALL,), reasoning="because", finish_reason="tool_calls")
    again = entry(made, returned=None).response()
    assert (again.cached, again.cost_usd, again.raw, again.trace) == (True, Decimal(0), None, None)
    assert (again.degraded, again.warnings) == ((), ())
    again.cached, again.cost_usd = made.cached, made.cost_usd
    assert again == made


def test_warnings_trace_and_raw_of_the_first_call_are_not_kept() -> None:
    kept = entry(answer(warnings=("lowered",), raw=object()))
    assert kept._replace(returned=None).response().warnings == ()
    assert kept._replace(returned=None).response().raw is None
    assert Entry.decode(kept.encode()) == kept


class Found(BaseModel):
    words: list[str]


def test_each_caller_gets_an_answer_of_his_own() -> None:
    kept = entry(answer(text='{"words": ["a"]}', parsed=Found(words=["a"]), tool_calls=(CALL,)))
    before = copy.deepcopy(kept)
    first, second = kept.response(Found), kept.response(Found)
    assert first == second
    assert first.parsed == Found(words=["a"])
    first.text = "spoiled"
    first.parsed.words.append("spoiled")
    first.message["tool_calls"].append("spoiled")
    first.degraded += ("stale",)
    assert second.parsed == Found(words=["a"])
    assert second.text == '{"words": ["a"]}'
    assert kept == before


def test_what_a_wrapped_function_returned_is_raw_again() -> None:
    kept = entry(answer(text="", raw={"a": [1]}), returned=pack({"a": [1]}))
    first, second = kept.response().raw, Entry.decode(kept.encode()).response().raw  # type: ignore[union-attr]
    assert first == second == {"a": [1]}
    first["a"].append(2)
    assert kept.response().raw == second == {"a": [1]}


def test_what_cannot_be_made_here_is_told() -> None:
    kept = entry(returned=Returned("openai.types.gone:Answer", b'["validate",{},null]\n{"words": "secret"}'))
    assert Entry.decode(kept.encode()) == kept
    with pytest.raises(ValueError, match="cannot be read back") as caught:
        kept.response()
    assert caught.value.__cause__ is None
    assert "secret" not in str(caught.value)


def test_data_is_read_only_where_it_was_before() -> None:
    assert entry(answer(text="[1]", parsed=[1])).response({"type": "json_object"}).parsed == [1]
    assert entry(answer(text="[1]")).response({"type": "json_object"}).parsed is None


class Large(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def _large(cls, number: int) -> int:
        if number < 100:
            raise ValueError("too small")
        return number


@pytest.mark.parametrize("wanted", [None, {"type": "text"}, Large])
def test_data_that_cannot_be_made_for_this_call_is_told(wanted: object) -> None:
    with pytest.raises(ValueError, match="response_format"):
        entry(answer(text='{"number": 1}', parsed={"number": 1})).response(wanted)


def test_neither_prompt_nor_answer_in_a_repr() -> None:
    assert "Blue" not in repr(entry())
    assert "request" not in repr(entry())
    assert "words" not in repr(Returned("text", b"words"))


def test_the_size_is_about_what_it_takes() -> None:
    for kept in (
        entry(),
        entry(text="x" * 2000, canonical=b"y" * 3000),
        entry(text="é" * 2000),
        entry(text="\U0001f600" * 500),
        entry(tool_calls=(CALL,) * 20),
        entry(returned=None),
        entry(returned=Returned("openai.types.chat.chat_completion:ChatCompletion", b"x" * 5000)),
        entry(depends=tuple((f"doc:{n}", "ab" * 16) for n in range(30)), tags=tuple(map(str, range(30)))),
    ):
        written = kept.encode()
        Entry.decode(written)
        tracemalloc.start()
        held = [Entry.decode(written) for _ in range(100)]
        took = tracemalloc.get_traced_memory()[0] / len(held)
        tracemalloc.stop()
        assert 0.6 * kept.size < took <= kept.size


# -- what may be kept ----------------------------------------------------------------------

FORMAT = {"type": "json_object"}


def asked(**options: Any) -> Request:
    extra = options.pop("extra", {})
    return Request(messages=({"role": "user", "content": "hi"},), params=options, extra=extra)


KEPT: dict[str, tuple[Response, Request]] = {
    "a whole answer": (answer(), asked()),
    "tool calls": (answer(text="", tool_calls=(CALL,), finish_reason="tool_calls"), asked()),
    "tool calls and text": (answer(tool_calls=(CALL,), finish_reason="tool_calls"), asked()),
    "tool calls that say stop": (answer(text="", tool_calls=(CALL,)), asked()),
    "without usage and price": (answer(usage=None, cost_usd=None, request_id=None), asked()),
    "with warnings": (answer(warnings=("lowered",)), asked()),
    "with a vendor's object": (answer(raw=object()), asked()),
    "with reasoning": (answer(reasoning="because"), asked()),
    "data that the text gives": (answer(text="[1]", parsed=[1]), asked(response_format=FORMAT)),
    "data by a vendor's option": (
        answer(text="[1]", parsed=[1]),
        asked(extra={"local": {"response_format": FORMAT}}),
    ),
    "an object that the text gives": (
        answer(text='{"words": []}', parsed=Found(words=[])),
        asked(response_format=Found),
    ),
    "words where words were asked for": (answer(), asked(response_format={"type": "text"})),
    "tool calls before data": (
        answer(text="I look.", tool_calls=(CALL,), finish_reason="tool_calls"),
        asked(response_format=FORMAT),
    ),
    "tool calls without arguments": (answer(text="", tool_calls=(ToolCall(0, "c1", "now"),)), asked()),
    "one choice": (answer(), asked(extra={"openai": {"n": 1, "modalities": ["text"]}})),
    "log probabilities turned off": (answer(), asked(logprobs=False, top_logprobs=0)),
}
NOT_KEPT: dict[str, tuple[Response, Request]] = {
    "truncated": (answer(finish_reason="length"), asked()),
    "filtered": (answer(finish_reason="content_filter"), asked()),
    "of no known end": (answer(finish_reason=None), asked()),
    "a vendor's own end": (answer(finish_reason="pause_turn"), asked()),
    "stale": (answer(degraded=("stale",)), asked()),
    "the application's own": (answer(degraded=("simple_reply",)), asked()),
    "cached already": (answer(cached=True), asked()),
    "empty": (answer(text=""), asked()),
    "nothing but reasoning": (answer(text="", reasoning="because"), asked()),
    "tool calls that are missing": (answer(finish_reason="tool_calls"), asked()),
    "several choices": (answer(), asked(extra={"openai": {"n": 2}})),
    "several choices in the body": (answer(), asked(extra={"openai": {"extra_body": {"n": 2}}})),
    "log probabilities": (answer(), asked(logprobs=True)),
    "sound": (answer(), asked(extra={"openai": {"modalities": ["text", "audio"]}})),
    "data that nobody asked for": (answer(text="[1]", parsed=[1]), asked()),
    "data that did not come": (answer(), asked(response_format=FORMAT)),
    "data that was cut": (answer(text='{"words": ["a'), asked(response_format=Found)),
    "data that nobody can read": (answer(text="[" * 100_000), asked(response_format=FORMAT)),
    "data by a vendor's option that did not come": (
        answer(),
        asked(extra={"local": {"response_format": FORMAT}}),
    ),
    "data that the text does not give": (answer(text="[1]", parsed=[2]), asked(response_format=FORMAT)),
    "truth for a number": (answer(text="1", parsed=True), asked(response_format=FORMAT)),
    "data of another kind": (
        answer(text='{"words": []}', parsed={"words": []}),
        asked(response_format=Found),
    ),
    "a text that is none": (answer(text=b"Blue."), asked()),
    "a text of a derived class": (answer(text=type("Own", (str,), {})("Blue.")), asked()),
    "a model that is no name": (answer(model=5), asked()),
    "usage of its own": (answer(usage={"input_tokens": 5}), asked()),
    "tokens that are no count": (answer(usage=Usage(input_tokens=1.5)), asked()),  # type: ignore[arg-type]
    "dollars in floats": (answer(cost_usd=0.1), asked()),
    "tool calls of its own": (answer(tool_calls=({"name": "find"},)), asked()),
    "tokens below nothing": (answer(usage=Usage(input_tokens=-1)), asked()),
    "more tokens than there are": (answer(usage=Usage(output_tokens=2**63 - 1)), asked()),
    "arguments that were cut": (answer(tool_calls=(ToolCall(0, "c1", "find", '{"a": '),)), asked()),
    "arguments that nobody can read": (answer(tool_calls=(ToolCall(0, "c", "f", "[" * 100_000),)), asked()),
    "one of two calls that was cut": (answer(tool_calls=(CALL, ToolCall(1, "c2", "find", "{"))), asked()),
    "a call of nothing": (answer(tool_calls=(ToolCall(0, "c1", None, "{}"),)), asked()),
    "arguments that are no text": (answer(tool_calls=(ToolCall(arguments={}),)), asked()),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("response", "request_"), KEPT.values(), ids=KEPT.keys())
def test_whole_answers_are_kept_and_come_back(response: Response, request_: Request) -> None:
    assert storable(response, request_.params, request_.extra)
    kept = entry(response)
    assert Entry.decode(kept.encode()) == kept


@pytest.mark.parametrize(("response", "request_"), NOT_KEPT.values(), ids=NOT_KEPT.keys())
def test_others_are_not_kept(response: Response, request_: Request) -> None:
    assert not storable(response, request_.params, request_.extra)


def wrapped(raw: object, **changes: Any) -> Response:
    return answer(**({"text": "", "raw": raw, "tier": None, "model": None} | changes))


def choice(reason: str) -> dict[str, Any]:
    return {"choices": [{"finish_reason": reason, "message": {"content": "Blue."}}]}


def test_what_was_returned_stands_in_for_the_text() -> None:
    response = wrapped(choice("stop"))
    assert storable(response, {}, {}, returned=pack(response.raw))
    assert not storable(response, {}, {})


NOT_KEPT_WRAPPED: dict[str, tuple[Response, Request]] = {
    "cut, by its own word": (wrapped(choice("length")), asked()),
    "filtered, by its own word": (wrapped(choice("content_filter")), asked()),
    **{f"empty: {empty!r}": (wrapped(empty), asked()) for empty in ("", [], {})},
    "an attempt cut": (wrapped("Blue.", finish_reason="length"), asked()),
    "stale": (wrapped("Blue.", degraded=("stale",)), asked()),
    "cached already": (wrapped("Blue.", cached=True), asked()),
    "usage of its own": (wrapped("Blue.", usage={"input_tokens": 5}), asked()),
    "tool calls that are missing": (wrapped("Blue.", finish_reason="tool_calls"), asked()),
    "several choices": (wrapped("Blue."), asked(extra={"openai": {"n": 2}})),
    "data that nobody asked for": (wrapped("Blue.", parsed=[1]), asked()),
}


@pytest.mark.parametrize(("response", "request_"), NOT_KEPT_WRAPPED.values(), ids=NOT_KEPT_WRAPPED.keys())
def test_other_wrapped_answers_are_not_kept(response: Response, request_: Request) -> None:
    assert not storable(response, request_.params, request_.extra, returned=pack(response.raw))

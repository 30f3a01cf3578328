"""The form in which entries lie in files and in Redis.

    "tle2" | "j" or "z" | CRC-32 of what follows | 4 lengths |
    JSON | text | reasoning | what was returned | canonical

These four stay out of the JSON, whose escapes would cost more than all the rest. ``z`` stands for
zlib over everything after the CRC, which is there to find damage, not to prove who wrote it: an entry
is read as a stranger's, whatever its CRC says.
"""

from __future__ import annotations

import json
import struct
import zlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ..types import ToolCall, Usage
from .contents import LONGEST_TTL_S
from .returned import Returned

if TYPE_CHECKING:
    from .entry import Entry

__all__ = ["COMPLETE", "MOST_TOKENS", "is_cost", "read", "write"]

COMPLETE = ("stop", "tool_calls")
"""How an answer ends that is whole: no other is kept, nor served."""

MAGIC = b"tle2"
"""The last character is the version: an entry of another one is not read."""

HEADER = struct.Struct(">4scI")
ZLIB_FROM_BYTES = 16 * 1024
"""Below, zlib would take several times what all the rest does: ``tests/benchmarks/bench_key.py``."""

MOST_BYTES = 64 * 2**20
"""What is larger is not compressed, and nothing is unpacked beyond it."""

MOST_TIMES = 100
"""Nor is what would become larger by more: a few bytes must not make much work."""

MOST_JSON_BYTES = 2**20
"""As values, JSON takes up to thirty times its bytes. Texts stand beside it."""

MOST_TOKENS = 10**12
"""And as many calls to tools. Sums of them stay numbers that a database takes."""

LAST_SECOND = 253_402_300_800
"""The year 10,000."""

_WRITER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
_READER = json.JSONDecoder()
_LENGTHS = struct.Struct(">IIII")

_TEXT, _MAYBE_TEXT, _NUMBER = (str,), (str, type(None)), (float, int)
_LIST, _MAYBE_LIST, _BOOL, _COUNT = (list,), (list, type(None)), (bool,), (int,)
_KINDS = (
    *(_TEXT, _TEXT, _TEXT, _MAYBE_TEXT),  # fingerprint, tier, deployment, model
    *(_NUMBER, _NUMBER, _NUMBER),  # made_at, fresh_until, stale_until
    *(_LIST, _TEXT),  # tool_calls, finish_reason
    *(_MAYBE_LIST, _MAYBE_TEXT, _MAYBE_TEXT, _NUMBER),  # usage, cost_usd, request_id, latency_s
    *(_BOOL, _LIST, _LIST, _MAYBE_TEXT),  # structured, depends, tags, tenant
    *(_COUNT, _MAYBE_TEXT),  # generation, kind of what was returned
)
_CALL_KINDS = (_COUNT, _MAYBE_TEXT, _MAYBE_TEXT, _TEXT)
_USAGE_KINDS = (*[_COUNT] * 5, _MAYBE_TEXT, _BOOL)
_PAIR_KINDS = (_TEXT, _TEXT)


def write(entry: Entry) -> bytes:
    """Raises ``ValueError`` for what is not plain data."""
    usage, returned = entry.usage, entry.returned
    try:
        plain = [
            entry.fingerprint.hex(),
            entry.tier,
            entry.deployment,
            entry.model,
            entry.made_at,
            entry.fresh_until,
            entry.stale_until,
            [[call.index, call.id, call.name, call.arguments] for call in entry.tool_calls],
            entry.finish_reason,
            None if usage is None else _counted(usage),
            None if entry.cost_usd is None else str(entry.cost_usd),
            entry.request_id,
            entry.latency_s,
            entry.structured,
            entry.depends,
            entry.tags,
            entry.tenant,
            entry.generation,
            None if returned is None else returned.kind,
        ]
        written = _WRITER.encode(plain).encode("utf-8", "surrogatepass")
        text = entry.text.encode("utf-8", "surrogatepass")
        reasoning = entry.reasoning.encode("utf-8", "surrogatepass")
        value = b"" if returned is None else returned.data
        lengths = _LENGTHS.pack(len(written), len(text), len(reasoning), len(value))
        body = b"".join((lengths, written, text, reasoning, value, entry.canonical))
    except (TypeError, AttributeError, struct.error) as exc:
        raise ValueError("the answer holds more than plain data, and cannot be kept") from exc
    if len(written) > MOST_JSON_BYTES:
        raise ValueError("there is too much beside the answer's text, and it cannot be kept")
    packed = b"j"
    if ZLIB_FROM_BYTES <= len(body) <= MOST_BYTES:
        smaller = zlib.compress(body, 1)
        if len(smaller) * MOST_TIMES >= len(body):
            packed, body = b"z", smaller
    return HEADER.pack(MAGIC, packed, zlib.crc32(body, packed[0])) + body


def read(data: bytes) -> tuple[object, ...]:
    """The fields of an entry, in their order. Raises what it will where this is no entry."""
    magic, packed, crc = HEADER.unpack_from(data)
    body = data[HEADER.size :]
    if magic != MAGIC or packed not in (b"j", b"z") or zlib.crc32(body, packed[0]) != crc:
        raise ValueError
    if packed == b"z":
        unpacking = zlib.decompressobj()
        body = unpacking.decompress(body, min(MOST_BYTES, MOST_TIMES * len(body)))
        if not unpacking.eof or unpacking.unused_data:
            raise ValueError
    lengths = _LENGTHS.unpack_from(body)
    after_json = _LENGTHS.size + lengths[0]
    after_text = after_json + lengths[1]
    after_reasoning = after_text + lengths[2]
    end = after_reasoning + lengths[3]
    if len(body) < end or lengths[0] > MOST_JSON_BYTES:
        raise ValueError
    written = body[_LENGTHS.size : after_json].decode("utf-8", "surrogatepass")
    plain, stopped_at = _READER.raw_decode(written)
    if stopped_at != len(written):
        raise ValueError
    _check(plain, _KINDS)
    made_by, tier, deployment, model, made_at, fresh_until, stale_until, *rest = plain
    calls, finish_reason, usage, cost, request_id, latency_s, *rest = rest
    structured, depends, tags, tenant, generation, kind = rest
    if finish_reason not in COMPLETE or (kind is None and lengths[3]):
        raise ValueError
    _check_times(made_at, fresh_until, stale_until, latency_s)
    return (
        body[end:],
        bytes.fromhex(made_by),
        tier,
        deployment,
        model,
        made_at,
        fresh_until,
        stale_until,
        body[after_json:after_text].decode("utf-8", "surrogatepass"),
        body[after_text:after_reasoning].decode("utf-8", "surrogatepass"),
        tuple([ToolCall(*_check(call, _CALL_KINDS, MOST_TOKENS)) for call in calls]),
        finish_reason,
        None if usage is None else _used(*_check(usage, _USAGE_KINDS, MOST_TOKENS)),
        None if cost is None else _dollars(cost),
        request_id,
        latency_s,
        structured,
        tuple([(pair[0], pair[1]) for pair in depends if _check(pair, _PAIR_KINDS)]),
        tuple(_check(tags, [_TEXT] * len(tags))),
        tenant,
        generation,
        None if kind is None else Returned(kind, body[after_reasoning:end]),
    )


def _check(values: Any, kinds: Any, most: int = 2**63 - 1) -> list[Any]:
    """``values``, a list of just these kinds of things. ``True`` is no number here, -1 no count."""
    if type(values) is not list or len(values) != len(kinds):
        raise ValueError
    for value, allowed in zip(values, kinds, strict=True):
        kind = type(value)
        if kind not in allowed or (kind is int and not 0 <= value <= most):
            raise ValueError
    return values


def _counted(usage: Usage) -> list[object]:
    return [
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        usage.service_tier,
        usage.estimated,
    ]


def _used(
    asked: int,
    answered: int,
    cached: int,
    written: int,
    reasoned: int,
    service_tier: str | None,
    estimated: bool,
) -> Usage:
    return Usage(
        input_tokens=asked,
        output_tokens=answered,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=reasoned,
        service_tier=service_tier,
        estimated=estimated,
    )


def _check_times(made_at: float, fresh_until: float, stale_until: float, latency_s: float) -> None:
    """No answer is fresh for more than a year, nor old for more than another. NaN is in no range."""
    if not 0 <= made_at <= LAST_SECOND or not 0 <= latency_s <= LONGEST_TTL_S:
        raise ValueError
    for earlier, later in ((made_at, fresh_until), (fresh_until, stale_until)):
        if not earlier <= later <= earlier + LONGEST_TTL_S:
            raise ValueError


def _dollars(told: str) -> Decimal:
    dollars = Decimal(told if len(told) <= 100 else "NaN")
    if not is_cost(dollars):
        raise ValueError
    return dollars


def is_cost(value: object) -> bool:
    """Whether it is an amount that can be read back. 1E+999999999 is a number, but not to be written out."""
    return (
        type(value) is Decimal
        and value.is_finite()
        and value >= 0
        and abs(value.adjusted()) <= 100
        and len(str(value)) <= 100
    )

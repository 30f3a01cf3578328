"""What a cache key takes, and writing and reading an entry.

Run: ``python tests/benchmarks/bench_key.py``. The best of several rounds of each.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
import zlib
from collections.abc import Callable
from decimal import Decimal
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from tierllm import Request, Response, Usage
from tierllm.caching.entry import Entry
from tierllm.caching.key import Key, key_of

ROUNDS = 9


class Answer(BaseModel):
    words: str
    sure: float = 1.0


def best_us(work: Callable[[], object], seconds: float = 0.02) -> float:
    began = time.perf_counter()
    work()
    calls = max(1, int(seconds / (time.perf_counter() - began)))
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        best = min(best, (time.perf_counter() - began) / calls)
    return best * 1e6


def sha256(canonical: bytes) -> bytes:
    return hashlib.sha256(canonical).digest()


def nothing(canonical: bytes) -> bytes:
    return b""


def user(content: object, times: int = 1, **fields: object) -> Request:
    return Request(messages=({"role": "user", "content": content},) * times, **fields)


def words(characters: int) -> str:
    """Text that zlib finds about as hard as English."""
    rng = random.Random(5)
    known = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(3000)]
    return " ".join(rng.choices(known, k=characters // 6))[:characters]


def keys() -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "find",
            "description": "Find a document.",
            "parameters": {
                "type": "object",
                "properties": {"q": {"type": "string"}, "n": {"type": "integer"}},
            },
        },
    }
    schemas: WeakKeyDictionary[type, str] = WeakKeyDictionary()
    requests = {
        "one message of 200 characters": user("x" * 200),
        "  and temperature, max_tokens": user("x" * 200, params={"temperature": 0, "max_tokens": 200}),
        "  and 5 tools": user("x" * 200, params={"tools": [tool] * 5}),
        "  and a pydantic class": user("x" * 200, params={"response_format": Answer}),
        "20 messages of 200": user("x" * 200, times=20),
        "1 MB, one message": user("x" * 1_000_000),
        "1 MB, one message, Japanese": user("日" * 333_333),
        "1 MB, 1,000 messages": user("x" * 1000, times=1000),
        "1 MB, 1,000 messages of parts": user([{"type": "text", "text": "x" * 1000}], times=1000),
    }
    print(f"{'key, µs':<36} {'BLAKE2b':>9} {'SHA-256':>9} {'no hash':>9}")
    for name, request in requests.items():

        def work(hasher: Callable[[bytes], bytes], request: Request = request) -> float:
            return best_us(lambda: key_of(request, scope="acme", hasher=hasher))

        blake = best_us(lambda request=request: key_of(request, scope="acme"))  # type: ignore[misc]
        print(f"{name:<36} {blake:9.2f} {work(sha256):9.2f} {work(nothing):9.2f}")
    known = best_us(lambda: key_of(requests["  and a pydantic class"], scope="acme", schemas=schemas))
    print(f"{'  and a class whose schema is known':<36} {known:9.2f}")


def entries() -> None:
    values = {
        "200 characters": words(200),
        "1.9 KB of JSON": json.dumps([{"name": f"item {n}", "price": n, "note": "words"} for n in range(40)])[
            :1900
        ],
        **{f"{size:,} characters": words(size) for size in (4_000, 8_000, 16_000, 32_000, 1_000_000)},
    }
    usage = Usage(input_tokens=50, output_tokens=600)
    print(f"\n{'entry':<20} {'bytes':>9} {'encode µs':>10} {'decode µs':>10} {'response µs':>12}   zlib 1")
    for name, text in values.items():
        response = Response(
            text,
            finish_reason="stop",
            usage=usage,
            cost_usd=Decimal("0.0012"),
            tier="gold",
            deployment="g",
            model="m-1",
            request_id="req_1",
        )
        entry = Entry.of(
            response,
            Key(b"", b"x" * 300),
            fingerprint=b"f" * 16,
            made_at=1.5e9,
            fresh_until=1.5e9 + 600,
            stale_until=1.5e9 + 900,
            latency_s=1.25,
            depends=(("doc:42", "ab" * 16),),
        )
        written = entry.encode()
        assert Entry.decode(written) == entry
        times = (best_us(entry.encode), best_us(lambda w=written: Entry.decode(w)), best_us(entry.response))  # type: ignore[misc]
        plain = text.encode()
        packed = zlib.compress(plain, 1)
        pack_us = best_us(lambda p=plain: zlib.compress(p, 1))  # type: ignore[misc]
        unpack_us = best_us(lambda p=packed: zlib.decompress(p))  # type: ignore[misc]
        print(
            f"{name:<20} {len(written):9,} {times[0]:10.1f} {times[1]:10.1f} {times[2]:12.2f}   "
            f"{len(packed) / len(plain):.0%}, {pack_us:,.0f} + {unpack_us:,.0f} µs"
        )


if __name__ == "__main__":
    keys()
    entries()

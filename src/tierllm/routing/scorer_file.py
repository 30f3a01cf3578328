"""A learned scorer as JSON: read with care, since a file may be damaged or come from anywhere."""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
import sys
import tempfile
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from ..errors import ConfigError
from .heads import FIRST, MOST, MOST_SQUARES, Heads
from .vocabulary import MOST_WORDS, plain

__all__ = ["MOST_BYTES", "Saved", "read_scorer", "scorer_bytes", "write_scorer"]

FORMAT = "tierllm learned scorer"
VERSION = 2
MOST_BYTES = 48 << 20
"""More than the largest scorer takes: a file beyond that is none."""

MOST_COUNT = 1 << 53

MOST_PARTS = 3 * 2 * MOST_WORDS + 100
"""A file consists of some long texts, numbers and three for each word: what has more parts would take a
thousand times its size in memory, and is refused unread. No text in it has any of their signs."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a scorer consists of. ``words`` is ``None`` where it keeps none."""

    buckets: int
    salt: bytes
    samples: int
    outcomes: tuple[int, ...]
    evidence: tuple[float, ...]
    heads: Heads
    words: Mapping[int, tuple[str, int]] | None


def scorer_bytes(saved: Saved) -> bytes:
    heads = saved.heads
    document: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "buckets": saved.buckets,
        "salt": saved.salt.hex(),
        "samples": saved.samples,
        "outcomes": list(saved.outcomes),
        "evidence": list(saved.evidence),
        "bias": heads.bias,
        "bias_squares": heads.bias_squares,
        "weights": [_packed(table) for table in heads.weights],
        "squares": [_packed(table) for table in heads.squares],
    }
    if saved.words is not None:
        document["words"] = [[at, word, count] for at, (word, count) in saved.words.items()]
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def write_scorer(path: Path, raw: bytes) -> None:
    """Replace the file as a whole: who reads it meanwhile sees the old one or the new one. Through a link,
    what it leads to; with the permissions that it has."""
    path = path.resolve()
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.chmod(name, stat.S_IMODE(path.stat().st_mode))
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def read_scorer(raw: bytes) -> Saved:
    """Raises ``ConfigError`` for what ``scorer_bytes`` did not write."""
    if not isinstance(raw, bytes):
        raise ConfigError(f"this is no saved scorer but {type(raw).__name__}: give bytes")
    if len(raw) > MOST_BYTES:
        raise ConfigError(f"this is no saved scorer: it has more than {MOST_BYTES >> 20} MB")
    if any(raw.count(sign) > MOST_PARTS for sign in (b",", b"[", b"{", b":")):
        raise _damaged("it has too many parts")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise _damaged("it is no JSON") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConfigError("this is no saved scorer: give what LearnedScorer.save() wrote")
    if _whole(document, "version", 1, MOST_COUNT) != VERSION:
        raise ConfigError(
            f"this scorer was saved in version {document['version']} of the format, and this tierllm reads "
            f"version {VERSION}: train it again, or use the tierllm that wrote it"
        )
    buckets = _whole(document, "buckets", 1 << 8, 1 << 20)
    if buckets & (buckets - 1):
        raise _damaged("buckets")
    heads = Heads(1)
    heads.weights = [_table(each, buckets, "weights", -MOST, MOST) for each in _pair(document, "weights")]
    heads.squares = [
        _table(each, buckets, "squares", FIRST / 2, MOST_SQUARES + 2) for each in _pair(document, "squares")
    ]
    heads.bias = [_number(each, "bias", -MOST, MOST) for each in _pair(document, "bias")]
    heads.bias_squares = [
        _number(each, "bias_squares", FIRST / 2, MOST_SQUARES + 2) for each in _pair(document, "bias_squares")
    ]
    outcomes = document.get("outcomes")
    if not isinstance(outcomes, list) or len(outcomes) != 2:
        raise _damaged("outcomes")
    evidence = tuple(_number(each, "evidence", 0.0, MOST_COUNT) for each in _pair(document, "evidence"))
    return Saved(
        buckets,
        _salt(document.get("salt")),
        _whole(document, "samples", 0, MOST_COUNT),
        tuple(_whole({"outcomes": each}, "outcomes", 0, MOST_COUNT) for each in outcomes),
        evidence,
        heads,
        _words(document["words"], buckets) if "words" in document else None,
    )


def _packed(table: array[float]) -> str:
    if sys.byteorder == "big":
        table = array("f", table)
        table.byteswap()
    return base64.b64encode(zlib.compress(table.tobytes(), 6)).decode()


def _table(text: object, buckets: int, what: str, least: float, most: float) -> array[float]:
    size = 4 * buckets
    if not isinstance(text, str) or len(text) > size * 2 + 64:
        raise _damaged(what)
    try:
        opened = zlib.decompressobj()  # which gives no more than it is asked for
        raw = opened.decompress(base64.b64decode(text, validate=True), size + 1)
    except (binascii.Error, ValueError, zlib.error):
        raise _damaged(what) from None
    if len(raw) != size or not opened.eof:
        raise _damaged(what)
    table = array("f", raw)
    if sys.byteorder == "big":
        table.byteswap()
    if not all(map(isfinite, table)) or min(table) < least or max(table) > most:
        raise _damaged(what)
    return table


def _pair(document: Mapping[str, object], what: str) -> list[object]:
    found = document.get(what)
    if not isinstance(found, list) or len(found) != 2:
        raise _damaged(what)
    return found


def _number(value: object, what: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _damaged(what)
    return float(value)


def _whole(document: Mapping[str, object], what: str, least: int, most: int) -> int:
    value = document.get(what)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _damaged(what)
    return value


def _salt(text: object) -> bytes:
    if not isinstance(text, str) or len(text) > 2048:
        raise _damaged("salt")
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise _damaged("salt") from None


def _words(listed: object, buckets: int) -> dict[int, tuple[str, int]]:
    if not isinstance(listed, list) or len(listed) > 2 * MOST_WORDS:
        raise _damaged("words")
    words: dict[int, tuple[str, int]] = {}
    for entry in listed:
        if not isinstance(entry, list) or len(entry) != 3:
            raise _damaged("words")
        at, word, count = entry
        if not isinstance(word, str) or not plain(word):
            raise _damaged("words")
        words[_whole({"words": at}, "words", 0, buckets - 1)] = (
            word,
            _whole({"words": count}, "words", 0, MOST_COUNT),
        )
    return words


def _damaged(what: str) -> ConfigError:
    return ConfigError(f"the saved scorer is damaged ({what}): train it again, or take another copy")

"""From a prompt to numbers of buckets: words, pairs of neighbours and its shape, hashed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from operator import add

from .signs import signs_in

__all__ = ["MOST_CHARACTERS", "buckets_of", "cut", "named_buckets"]

MOST_CHARACTERS = 4_000
"""Of a longer text the first 3,000 and the last 1,000 are read: the question often stands at its end."""

TAIL = 1_000
HEAD = MOST_CHARACTERS - TAIL

MOST_WORDS = 1_000
"""More than 4,000 characters of English have: for digits with spaces between them, and for Chinese."""

LAST_WORDS = 250

WORDS = re.compile(r"[^\W_]+")
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Scripts that are written without spaces: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""

SPREAD = 0x9E3779B1
"""2³² over the golden ratio: multiplied by it, numbers that are close get far apart (Knuth, TAOCP 6.4)."""

LOW = 0xFFFFFFFF


def cut(text: str) -> str:
    """As much of ``text`` as is read."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:HEAD]}\n{text[-TAIL:]}"


def buckets_of(text: str, buckets: int, seed: int = 0) -> list[int]:
    """The buckets of a text, each once, in no special order. The same in every process and version.

    ``buckets`` is a power of two up to 2³², ``seed`` the CRC-32 that all hashes start from.
    """
    text = cut(text)
    words = words_of(text)
    mask, shift = buckets - 1, 33 - buckets.bit_length()
    crc32 = zlib.crc32
    found: set[int] = set()
    note = found.add
    before = 0
    for word in words:
        crc = crc32(word.encode("utf-8", "surrogatepass"), seed)
        note(crc & mask)
        if before:
            note((crc * 31 + before * SPREAD & LOW) >> shift)
        before = crc
    for sign in shape_of(text, words):
        note(crc32(sign.encode("utf-8", "surrogatepass"), seed) & mask)
    return list(found)


def named_buckets(text: str, buckets: int, seed: int = 0) -> Iterator[tuple[str, int]]:
    """Every word, pair of neighbours and sign of a text's shape, with its bucket, in the text's order."""
    text = cut(text)
    words = words_of(text)
    mask, shift = buckets - 1, 33 - buckets.bit_length()
    before, last = 0, ""
    for word in words:
        crc = zlib.crc32(word.encode("utf-8", "surrogatepass"), seed)
        yield word, crc & mask
        if before:
            yield f"{last} {word}", (crc * 31 + before * SPREAD & LOW) >> shift
        before, last = crc, word
    for sign in shape_of(text, words):
        yield f"({sign[1:]})", zlib.crc32(sign.encode("utf-8", "surrogatepass"), seed) & mask


def words_of(text: str) -> list[str]:
    """The words of a text, up to 1,000; of scripts without spaces, its characters two by two."""
    words = WORDS.findall(text.lower())
    if not text.isascii() and UNSPACED.search(text) is not None:
        parts: list[str] = []
        for word in words:
            if UNSPACED.search(word) is None:
                parts.append(word)
            else:
                parts.extend(map(add, word, word[1:]) if len(word) > 1 else word)
        words = parts
    if len(words) > MOST_WORDS:
        return words[: MOST_WORDS - LAST_WORDS] + words[-LAST_WORDS:]
    return words


def shape_of(text: str, words: list[str]) -> list[str]:
    """What can be seen from afar: how long a text is, of how many lines, how much of it is numbers, how it
    begins and ends, and the signs that rules go by. Each begins with a zero, which no word does."""
    different = set(words)
    signs = [
        f"\0{floor(len(text))}+ characters",
        f"\0{floor(len(words))}+ words",
        f"\0{floor(text.count(chr(10)))}+ line breaks",
        f"\0{floor(sum(map(str.isdigit, words)))}+ numbers",
        f"\0{min(3, text.count('?'))}+ question marks",
        f"\0ends in {text.rstrip()[-1:]}",
    ]
    if words:
        signs.append(f"\0{len(different) * 10 // len(words)}0 % of the words only once")
        signs.append(f"\0first is {words[0]}")
        signs.append(f"\0last is {words[-1]}")
    signs.extend(f"\0{name}" for name in signs_in(text, different))
    return signs


def floor(count: int) -> int:
    """The power of two at or below a count."""
    return 1 << count.bit_length() - 1 if count else 0

"""From a prompt to numbers of buckets: words, pairs of neighbours and its shape, hashed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from operator import add
from unicodedata import normalize

from .signs import signs_in

__all__ = ["MOST_CHARACTERS", "buckets_of", "cut", "named_buckets"]

MOST_CHARACTERS = 4_000
"""Of a longer text the first 3,000 and the last 1,000 are read: the question often stands at its end."""

TAIL = 1_000
HEAD = MOST_CHARACTERS - TAIL

MOST_WORDS = 800
"""As many as 4,000 characters of English have: for digits with spaces between them, and for Chinese."""

LAST_WORDS = 200

MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u0711-\u07f3\u07fd\u0816-\u082d\u0859-\u085b\u0898-\u0963\u0966-\u0df3"
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u0f18\u0f19\u0f35\u0f37\u0f39\u0f3e-\u0f84"
    "\u0f86-\u0fbc\u102b-\u103e\u1056-\u109d\u135d-\u135f\u1712-\u1734\u1752-\u17d3\u17dd\u180b-\u180f\u1885-\u193b"
    "\u1a17-\u1a1b\u1a55-\u1a7f\u1ab0-\u1b44\u1b6b-\u1b73\u1b80-\u1bf3\u1c24-\u1c37\u1cd0-\u1dff\u302a-\u302f"
    "\u3099\u309a\ua66f\ua674-\ua67d\ua69e-\ua6f1\ua802-\ua827\ua880-\ua8c5\ua8e0-\ua8f1\ua926-\ua953\ua980-\ua9c0"
    "\ua9e5-\uaa4d\uaa7b-\uaac1\uaaeb-\uaaef\uaaf5\uaaf6\uabe3-\uabed\ufb1e\ufe20-\ufe2f"
)
"""What is written above, below or around a letter belongs to its word, though ``\\w`` has no place for it:
most vowels of Hindi and Thai are such marks, and accents may be."""

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts that are written without spaces: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""

ASCII_WORDS = re.compile(r"[^\W_]+")
SPACED_WORDS = re.compile(rf"[^\W_]+(?:[{MARKS}]+[^\W_]*)*")
ANY_UNSPACED = re.compile(f"[{UNSPACED}]")
MIXED_WORDS = re.compile(rf"([{UNSPACED}]+)|([^\W_{UNSPACED}]+(?:[{MARKS}]+[^\W_{UNSPACED}]*)*)")

SPREAD = 0x9E3779B1
"""2³² over the golden ratio: multiplied by it, numbers that are close get far apart (Knuth, TAOCP 6.4)."""

LOW = 0xFFFFFFFF


def cut(text: str) -> str:
    """As much of ``text`` as is read, with each accent in one character with its letter if there is one."""
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:HEAD]}\n{text[-TAIL:]}"
    return text if text.isascii() else normalize("NFC", text)


def buckets_of(text: str, buckets: int, seed: int = 0) -> list[int]:
    """The buckets of a text, each once, in no special order. The same in every process and version;
    beyond ASCII, with every Python that has the same Unicode tables.

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
    """The words of a text, up to 800; of scripts without spaces, its characters two by two."""
    lower = text.lower()
    if text.isascii():
        words = ASCII_WORDS.findall(lower)
    elif ANY_UNSPACED.search(text) is None:
        words = SPACED_WORDS.findall(lower)
    else:
        words = []
        for run, word in MIXED_WORDS.findall(lower):
            if len(run) > 1:
                words.extend(map(add, run, run[1:]))
            else:
                words.append(run or word)
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

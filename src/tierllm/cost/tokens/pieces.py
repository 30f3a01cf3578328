"""Counts long text in pieces, so that the work stays in proportion to its length.

The encodings first split text by a regular expression, then merge bytes within each of the splits.
A long run of one kind of character makes a huge split, on which the expression may give up. So text
above ``PIECE`` characters is cut first, at a place where the expression would have split anyway and
would do the same on either side: then the sum of the pieces is the count of the whole.

Such places, for both encodings (neither looks behind, and ahead only after white space):

- before a space or tab that follows something else than white space;
- before a line end that follows a letter or a number (punctuation would have taken it in);
- after a line feed, unless white space or a slash follows;
- between a letter and a number, either way round;
- between a letter or a number and punctuation or a symbol after it. An apostrophe may be ``don't``.

Where there are none (a million spaces, Chinese without punctuation), the piece is encoded and its
last tokens are dropped, since only those depend on what comes next; counting goes on behind the
last token kept. Merging is local, so the places of tokens further back agree with the whole text's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from unicodedata import category

__all__ = ["PIECE", "count", "repaired", "sound_cut", "utf8_bytes"]

PIECE = 16_384
"""Characters that are encoded in one go."""

_TRIES = 64
_SCAN = 2_048
_UNSETTLED = 32
"""Tokens at the end of a piece that what follows may change. No token is longer than 128 bytes, so
that a piece has at least 128 of them, and at least three quarters of it are kept."""

Encode = Callable[[str], Sequence[int]]
Decode = Callable[[Sequence[int]], bytes]


def count(text: str, encode: Encode, decode: Decode, per_cut: int = 0) -> int:
    """The number of tokens of ``text``; exact up to ``PIECE`` characters, and nearly so above.

    ``per_cut`` is added for each cut at a place where counting may go wrong by a token.
    ``encode`` must take special tokens for plain text, ``decode`` returns the bytes of tokens.
    """
    if len(text) <= PIECE:
        return len(encode(text))
    text = repaired(text)
    total, start, end = 0, 0, len(text)
    while end - start > PIECE:
        cut = sound_cut(text, start + PIECE // 2, start + PIECE)
        if cut:
            total += len(encode(text[start:cut]))
            start = cut
        else:
            kept, characters = _settled(encode(text[start : start + PIECE]), decode)
            total += kept + per_cut
            start += characters
    return total + len(encode(text[start:]))


def repaired(text: str) -> str:
    """``text`` as a vendor gets it: surrogate pairs joined, lone surrogates replaced."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def utf8_bytes(text: str) -> int:
    """The length of ``text`` in UTF-8. No byte-level encoding makes more tokens than that."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return len(repaired(text).encode())


def sound_cut(text: str, low: int, high: int) -> int:
    """The last place between ``low`` and ``high`` where cutting changes no count, or 0."""
    at = high + 1
    for _ in range(_TRIES):
        at = text.rfind(" ", low, at)
        if at < 1:
            break
        if not text[at - 1].isspace():
            return at
    for at in range(min(high, len(text) - 1), max(low, high - _SCAN, 1) - 1, -1):
        if _splits(text[at - 1], text[at]):
            return at
    return 0


def _splits(before: str, after: str) -> bool:
    if before == "\n":
        return after != "/" and category(after)[0] in "LNPS"
    if before.isspace():
        return False
    if after in " \t":
        return True
    left = category(before)[0]
    if left not in "LN":
        return False
    if after in "\r\n":
        return True
    right = category(after)[0]
    return (right in "PS" and after != "'") or (right in "LN" and right != left)


def _settled(tokens: Sequence[int], decode: Decode) -> tuple[int, int]:
    """How many tokens may be relied on, and how many characters they are."""
    kept = len(tokens) - _UNSETTLED
    while True:
        try:
            return kept, len(decode(tokens[:kept]).decode())
        except UnicodeDecodeError:  # a character may be several tokens
            kept -= 1

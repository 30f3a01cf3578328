"""The width and height of an image, from the beginning of its file."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

from .images import Size

__all__ = ["size_of", "size_of_base64"]

_HEAD = 1_024
_WHOLE_HEAD = 512 * 1_024
"""A JPEG may have its size behind a colour profile, a thumbnail and other people's notes."""

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, *range(0xD0, 0xDA)})


def size_of_base64(data: str, start: int = 0) -> Size | None:
    """The size of the base64 image that begins at ``start``, decoding no more than its head."""
    for length in (_HEAD, _WHOLE_HEAD):
        head = data[start : start + length // 3 * 4]
        try:
            raw = base64.b64decode(head[: len(head) // 4 * 4])
        except (binascii.Error, ValueError):
            return None
        if found := size_of(raw):
            return found
        if not raw.startswith(b"\xff\xd8"):
            return None
    return None


def size_of(head: bytes) -> Size | None:
    """The size of a PNG, JPEG, GIF or WebP that begins with ``head``, if it can be told."""
    found = None
    try:
        for mark, read in _READERS.items():
            if head.startswith(mark):
                found = read(head)
                break
    except IndexError:
        return None
    return found if found and found.width > 0 and found.height > 0 else None


def _number(head: bytes, at: int, length: int, *, little: bool = False) -> int:
    taken = head[at : at + length]
    if len(taken) < length:
        raise IndexError
    return int.from_bytes(taken, "little" if little else "big")


def _png(head: bytes) -> Size | None:
    return Size(_number(head, 16, 4), _number(head, 20, 4)) if head[12:16] == b"IHDR" else None


def _gif(head: bytes) -> Size:
    return Size(_number(head, 6, 2, little=True), _number(head, 8, 2, little=True))


def _webp(head: bytes) -> Size | None:
    kind = head[8:16]
    if kind == b"WEBPVP8 ":
        return Size(*(_number(head, at, 2, little=True) & 0x3FFF for at in (26, 28)))
    if kind == b"WEBPVP8L":
        bits = _number(head, 21, 4, little=True)
        return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"WEBPVP8X":
        return Size(*(_number(head, at, 3, little=True) + 1 for at in (24, 27)))
    return None


def _jpeg(head: bytes) -> Size | None:
    at = 2
    while head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker in _FRAMES:
            return Size(_number(head, at + 7, 2), _number(head, at + 5, 2))
        else:
            at += 2 + max(2, _number(head, at + 2, 2))
    return None


_READERS: dict[bytes, Callable[[bytes], Size | None]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8": _jpeg,
    b"GIF8": _gif,
    b"RIFF": _webp,
}

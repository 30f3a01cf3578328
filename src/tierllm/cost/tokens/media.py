"""What sounds and files cost in tokens. Only sound is ruled; a file's text is inside it."""

from __future__ import annotations

import base64
import binascii
import re
import struct

__all__ = ["UNSEEN_TOKENS", "address", "audio", "document", "video"]

UNSEEN_TOKENS = 10_485_760
"""The most of what cannot be looked into: no context window on the price list is larger. Whoever
knows the window of the model takes that instead, since a vendor refuses a longer request."""

_AUDIO_TOKENS_PER_S = 10
_MOST_AUDIO_TOKENS_PER_S = 32
_USUAL_BYTES_PER_S = 16_000
_LEAST_BYTES_PER_S = 500
"""Of speech in the leanest codec in use; an MP3 has at least 1,000."""

_LIKELY_UNSEEN = 2_000
_USUAL_VIDEO_BYTES_PER_TOKEN = 800
_FRAME = 64
_AS_TEXT = re.compile(r"text/|application/(?:json|xml|x-ndjson|yaml)\b")
_MEDIA_TYPE = re.compile(r"data:([\w.+-]+/[\w.+-]+)")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{1,15}://|file:", re.IGNORECASE)


def address(data: object) -> bool:
    """Whether it says where something is, instead of being it."""
    return isinstance(data, str) and _ADDRESS.match(data) is not None


def audio(data: str | bytes | None) -> tuple[int, int]:
    """The likely and the most tokens of a sound: by its length if it is a WAV, else by its size."""
    if not data or address(data):
        return _LIKELY_UNSEEN, UNSEEN_TOKENS
    size, rate = _decoded_bytes(data), _wav_bytes_per_s(data)
    likely_s = size / (rate or _USUAL_BYTES_PER_S)
    most_s = size / (rate or _LEAST_BYTES_PER_S)
    likely, most = int(likely_s * _AUDIO_TOKENS_PER_S), int(most_s * _MOST_AUDIO_TOKENS_PER_S)
    return likely + 4, most + 32


def video(data: str | bytes | None) -> tuple[int, int]:
    """The likely and the most tokens of a film: frames are billed, and few bytes may be many of them."""
    if not data or address(data):
        return _LIKELY_UNSEEN, UNSEEN_TOKENS
    return min(_decoded_bytes(data) // _USUAL_VIDEO_BYTES_PER_TOKEN + 100, UNSEEN_TOKENS), UNSEEN_TOKENS


def document(data: str | bytes | None, media_type: str = "") -> tuple[int, int]:
    """The likely and the most tokens of a file. Only of text are these told by its size.

    A page of a PDF is billed as an image besides its text, and a few bytes can name it anew.
    """
    if not data or address(data):
        return _LIKELY_UNSEEN, UNSEEN_TOKENS
    size = _decoded_bytes(data)
    told = _MEDIA_TYPE.match(data) if isinstance(data, str) else None
    if _AS_TEXT.match(told[1] if told else media_type):
        return size // 4 + 1, len(data) + _FRAME
    return min(size // 40 + 100, UNSEEN_TOKENS), max(UNSEEN_TOKENS, size)


def _decoded_bytes(data: str | bytes) -> int:
    return len(data) if isinstance(data, bytes) else len(data) * 3 // 4


def _wav_bytes_per_s(data: str | bytes) -> int | None:
    """The rate of a WAV that is plain samples, and whose header agrees with itself."""
    if isinstance(data, str):
        start = data.find(",", 0, 200) + 1 if data.startswith("data:") else 0
        try:
            data = base64.b64decode(data[start : start + 64])
        except (binascii.Error, ValueError):
            return None
    if len(data) < 36 or data[:4] != b"RIFF" or data[8:16] != b"WAVEfmt ":
        return None
    form, channels, samples_per_s, bytes_per_s, block, bits = struct.unpack_from("<HHIIHH", data, 20)
    plain = form in (1, 3, 0xFFFE) and bits in (8, 16, 24, 32, 64) and 1 <= channels <= 16
    if not plain or block != channels * bits // 8 or not 4_000 <= samples_per_s <= 384_000:
        return None
    return bytes_per_s if bytes_per_s == samples_per_s * block else None

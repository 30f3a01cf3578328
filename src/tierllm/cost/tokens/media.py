"""What sounds and files cost in tokens. Only sound is ruled; a file's text is inside it."""

from __future__ import annotations

import base64
import binascii

__all__ = ["UNSEEN_TOKENS", "audio", "document"]

UNSEEN_TOKENS = 1_048_576
"""The most of what cannot be looked into: the largest context window on offer. Whoever knows the
window of the model may take that instead, since a vendor refuses a longer request."""

_AUDIO_TOKENS_PER_S = 10
_MOST_AUDIO_TOKENS_PER_S = 32
_USUAL_BYTES_PER_S = 16_000
_LEAST_BYTES_PER_S = 500
"""Of speech in the leanest codec in use; an MP3 has at least 1,000."""

_LIKELY_DOCUMENT = 2_000
_MOST_TOKENS_PER_BYTE = 8
"""Of a file whose text may be compressed, and of which each page may be shown as an image too."""


def audio(data: str | bytes | None) -> tuple[int, int]:
    """The likely and the most tokens of a sound: by its length if it is a WAV, else by its size."""
    if not data or (isinstance(data, str) and data.startswith(("http:", "https:"))):
        return _LIKELY_DOCUMENT, UNSEEN_TOKENS
    size, rate = _decoded_bytes(data), _wav_bytes_per_s(data)
    likely_s = size / (rate or _USUAL_BYTES_PER_S)
    most_s = size / (rate or _LEAST_BYTES_PER_S)
    likely, most = int(likely_s * _AUDIO_TOKENS_PER_S), int(most_s * _MOST_AUDIO_TOKENS_PER_S)
    return likely + 4, most + 32


def document(data: str | bytes | None) -> tuple[int, int]:
    """The likely and the most tokens of a file. Of one that is only named, nothing is known."""
    if not data or (isinstance(data, str) and data.startswith(("http:", "https:"))):
        return _LIKELY_DOCUMENT, UNSEEN_TOKENS
    size = _decoded_bytes(data)
    return size // 40 + 100, min(UNSEEN_TOKENS, size * _MOST_TOKENS_PER_BYTE + 4_096)


def _decoded_bytes(data: str | bytes) -> int:
    return len(data) if isinstance(data, bytes) else len(data) * 3 // 4


def _wav_bytes_per_s(data: str | bytes) -> int | None:
    if isinstance(data, str):
        start = data.find(",", 0, 200) + 1 if data.startswith("data:") else 0
        try:
            data = base64.b64decode(data[start : start + 64])
        except (binascii.Error, ValueError):
            return None
    if data[:4] != b"RIFF" or data[8:16] != b"WAVEfmt ":
        return None
    return int.from_bytes(data[28:32], "little") or None

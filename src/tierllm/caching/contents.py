"""Hashes of the contents that answers rest on."""

from __future__ import annotations

import hashlib
import re

from ..errors import ConfigError

__all__ = ["LONGEST_TTL_S", "hash_of"]

LONGEST_TTL_S = 366 * 86_400.0
"""A year: what makes an answer invalid has to be remembered for as long as the answer may live."""

SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def hash_of(document: str, content: object) -> str:
    """The SHA-256 of ``content`` in hexadecimal. A text of 64 such digits is taken for the hash itself.

    A whole number is a version, and no text or bytes have its hash. Raises ``ConfigError`` for anything
    else, which tells the document's name.
    """
    if not isinstance(document, str) or not document:
        raise ConfigError(f"depends_on={{{document!r}: ...}}: give the document a name")
    if isinstance(content, str):
        if SHA256.fullmatch(content):
            return content.lower()
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    if isinstance(content, memoryview) and not content.c_contiguous:
        content = content.tobytes()
    if isinstance(content, bytes | bytearray | memoryview):
        return hashlib.sha256(content).hexdigest()
    if isinstance(content, int) and not isinstance(content, bool):
        return hashlib.blake2b(b"%x" % content, digest_size=32, person=b"version").hexdigest()
    raise ConfigError(
        f"depends_on={{{document!r}: ...}}: a {type(content).__name__} is no content; "
        "give its text, bytes, version number, or SHA-256 in hexadecimal"
    )

"""Hashes of the contents that answers rest on."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tierllm.caching.contents import hash_of
from tierllm.errors import ConfigError

TEXT = hashlib.sha256(b"text").hexdigest()


@pytest.mark.parametrize(
    "content",
    [
        "text",
        b"text",
        bytearray(b"text"),
        memoryview(b"text"),
        memoryview(b"t-e-x-t")[::2],
        memoryview(b"txet")[::-1],
        TEXT,
        TEXT.upper(),
    ],
    ids=range(8),
)
def test_one_content_has_one_hash(content: object) -> None:
    assert hash_of("doc", content) == TEXT


def test_versions_are_no_texts() -> None:
    contents: list[object] = [3, -3, 13, "3", "version 3", b"3", b"version 3", 10**5_000, 10**5_000 + 1]
    assert len({hash_of("doc", content) for content in contents}) == len(contents) - 2  # bytes as their text


@pytest.mark.parametrize("content", [True, 1.5, None, ["text"], {"a": 1}], ids=range(5))
def test_what_is_no_content(content: Any) -> None:
    with pytest.raises(ConfigError, match="'doc'"):
        hash_of("doc", content)

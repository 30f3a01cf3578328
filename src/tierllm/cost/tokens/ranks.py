"""OpenAI's encodings, built from ranks that lie in the package: nothing is downloaded, ever.

The patterns and special tokens are those of tiktoken's public definitions. ``RANKS.md`` beside the
packed files says where they come from.
"""

from __future__ import annotations

import threading
import zlib
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from ...errors import ConfigError
from ...pipeline.fork import renew_after_fork

if TYPE_CHECKING:
    from tiktoken import Encoding

__all__ = ["EncodingName", "encoding", "is_loaded", "unpacked"]

EncodingName = Literal["o200k_base", "cl100k_base"]

_PATTERNS: dict[EncodingName, str] = {
    "o200k_base": "|".join(
        [
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ]
    ),
    "cl100k_base": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|"
        r" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
}
_SPECIAL: dict[EncodingName, dict[str, int]] = {
    "o200k_base": {"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
    "cl100k_base": {
        "<|endoftext|>": 100257,
        "<|fim_prefix|>": 100258,
        "<|fim_middle|>": 100259,
        "<|fim_suffix|>": 100260,
        "<|endofprompt|>": 100276,
    },
}


def encoding(name: EncodingName) -> Encoding:
    """The encoding of this name. The first call takes about 0.15 s; threads share one."""
    return _shelf.made.get(name) or _shelf.make(name)


def is_loaded(name: EncodingName) -> bool:
    """Whether ``encoding(name)`` answers at once."""
    return name in _shelf.made


def unpacked(name: EncodingName) -> list[bytes]:
    """Every token of the encoding in the order of its rank. Raises ``ConfigError`` if damaged."""
    try:
        data = zlib.decompress(files(__package__).joinpath(f"{name}.bin").read_bytes())
    except (OSError, zlib.error) as exc:
        raise ConfigError(
            f"the ranks of {name} in the installed tierllm are missing or damaged: install it again"
        ) from exc
    tokens, at, end = [], 0, len(data)
    while at < end:
        start = at + 1
        at = start + data[at]
        tokens.append(data[start:at])
    return tokens


class _Shelf:
    """The encodings made so far. They never change once made, so a process needs each only once."""

    def __init__(self) -> None:
        self.made: dict[EncodingName, Encoding] = {}
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def make(self, name: EncodingName) -> Encoding:
        with self._lock:
            if name not in self.made:
                from tiktoken import Encoding

                self.made[name] = Encoding(
                    name,
                    pat_str=_PATTERNS[name],
                    mergeable_ranks={token: rank for rank, token in enumerate(unpacked(name))},
                    special_tokens=_SPECIAL[name],
                )
            return self.made[name]


_shelf = _Shelf()  # a cache of constants: what it holds depends on nothing but the package

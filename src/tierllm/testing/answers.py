"""The fake model's own words, and the rule by which it counts tokens.

A token is four characters, the last one may be shorter. An answer is eight words, picked by the
CRC-32 of the model's name and the question: the same in every process, plain or streamed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from zlib import crc32

from ..types import Message, Usage, text_of

__all__ = ["CHARS_PER_TOKEN", "answer_to", "pieces_of", "tokens_in", "usage_of"]

CHARS_PER_TOKEN = 4

_PIECE = re.compile(r"\s*\S+|\s+")


def _pairs(first: str, second: str) -> tuple[str, ...]:
    return tuple(f"{a} {b}" for a in first.split() for b in second.split())


# Sixteen words a place: four bytes pick eight words, and no two checksums the same sentence.
_WHO = _pairs(
    "Bright Calm Clever Curious Eager Gentle Honest Kind Lively Modest Patient Quick Quiet Steady Warm Wise",
    "actors bakers clerks divers drivers farmers gardeners guides judges masons nurses pilots poets "
    "sailors tailors weavers",
)
_DO = _pairs(
    "agree argue arrive begin dance dream gather listen pause practise rest sing travel wait wander work",
    "again alone apart boldly daily early gladly late often openly rarely slowly softly together twice well",
)
_WHERE = _pairs(
    "above across along among around before behind below beneath beside beyond inside near outside past "
    "under",
    "amber ancient broad distant empty frozen golden green hidden narrow northern painted silver stone "
    "sunlit wooden",
)
_WHEN = _pairs(
    "arches bridges canals cliffs courtyards fields forests gates harbours hills islands meadows rivers "
    "towers valleys walls",
    "always anyway indeed instead lately nightly nowadays perhaps regardless sometimes somehow still today "
    "tomorrow tonight yearly",
)


def answer_to(model: str, question: str) -> str:
    """What ``model`` answers to ``question``."""
    checksum = crc32(f"{model}\n{question}".encode("utf-8", "surrogatepass"))
    who, do, where, when = checksum.to_bytes(4, "big")
    return f"{_WHO[who]} {_DO[do]} {_WHERE[where]} {_WHEN[when]}."


def pieces_of(text: str) -> list[str]:
    """The words of ``text`` with the space before each: joined, they are ``text`` again."""
    return _PIECE.findall(text)


def tokens_in(messages: Iterable[Message]) -> int:
    return sum(_tokens(text_of(message)) for message in messages)


def _tokens(text: str) -> int:
    return (len(text) + CHARS_PER_TOKEN - 1) // CHARS_PER_TOKEN


def usage_of(messages: Iterable[Message], answer: str) -> Usage:
    return _usage(tokens_in(messages), _tokens(answer))


@lru_cache(maxsize=4096)  # immutable, and the same few sizes come again and again
def _usage(input_tokens: int, output_tokens: int) -> Usage:
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens)

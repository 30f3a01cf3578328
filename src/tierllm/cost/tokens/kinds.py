"""What kind of text a prompt is, as far as its number of tokens depends on it."""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["Kind", "kind_of"]

Kind = Literal["text", "cjk", "code", "json", "other"]

_SAMPLE = 120
_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_LETTERS = re.compile(r"[^\W\d_]")
_ASCII_LETTERS = re.compile(r"[A-Za-z]")
_SIGNS = re.compile(r"[(){}\[\];=<>_#*|&+]|\n[ \t]+")


def kind_of(text: str) -> Kind:
    """The kind of ``text``, from a sample of its beginning, middle and end."""
    if len(text) > 3 * _SAMPLE:
        middle = len(text) // 2
        sample = text[:_SAMPLE] + text[middle : middle + _SAMPLE] + text[-_SAMPLE:]
    else:
        sample = text
    if not sample.isascii():
        letters = len(_LETTERS.findall(sample))
        cjk = len(_CJK.findall(sample))
        if cjk * 4 >= max(letters, 1):
            return "cjk"
        if (letters - len(_ASCII_LETTERS.findall(sample))) * 3 > letters:
            return "other"
    if sample.lstrip()[:1] in ("{", "[") and sample.count('"') * 20 > len(sample):
        return "json"
    return "code" if len(_SIGNS.findall(sample)) * 16 > len(sample) else "text"

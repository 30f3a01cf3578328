"""Which tokenizer and which rules a model counts with, told from its name and vendor."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .images import Claude, Fixed, GeminiTiles, ImageRule, Patches, Tiles, UnknownRule
from .ranks import EncodingName

__all__ = ["Family", "Scale", "family_of"]


class Scale(NamedTuple):
    """Tokens for one of o200k_base's, by kind of text.

    English, Chinese or Japanese or Korean, program text, JSON, and other scripts.
    """

    text: float
    cjk: float
    code: float
    json: float
    other: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How requests to a kind of model are counted. ``scale`` is ``None`` where nothing is scaled.

    ``message``, ``reply`` and ``tools`` are tokens added for each message, once a request, and once
    where there are tools (fewer where these share a system message); ``most_tools`` is the most of
    the last. ``most_hidden`` is the most that a server puts before a request unasked: marks, or the
    system message that chat templates of open models bring along where there is none.
    """

    encoding: EncodingName = "o200k_base"
    exact: bool = False
    scale: Scale | None = None
    images: ImageRule = field(default_factory=UnknownRule)
    message: int = 3
    reply: int = 3
    tools: int = 9
    tools_beside_system: int = 6
    most_tools: int = 32
    most_hidden: int = 16


def family_of(model: str, vendor: str | None = None) -> Family:
    """The family of ``model``; one that is not known gets o200k_base and a margin."""
    if vendor == "local":
        return _OPEN  # it serves one model under any name
    name = model.strip().lower()
    owner, _, last = name.rpartition("/")
    direct = owner in ("", "openai")
    if encoding := _openai_encoding(last):
        exact = direct and (vendor is None or vendor.lower() == "openai")
        return Family(encoding=encoding, exact=exact, images=_openai_images(last))
    return _other(name, (vendor or "").lower())


_OPENAI = frozenset({"openai", "azure"})
_FT = r"(?:ft:)?"
_REST = r"(?:[-:@].*)?"
_O200K = re.compile(
    rf"{_FT}(?:gpt-4o|chatgpt-4o|gpt-4\.[15]|gpt-5(?:\.\d+)?|o1|o3|o4-mini|codex-mini){_REST}", re.DOTALL
)
_CL100K = re.compile(
    rf"{_FT}(?:gpt-4|gpt-3\.5|gpt-35|text-embedding-(?:ada-002|3-small|3-large)|davinci-002|babbage-002)"
    rf"{_REST}",
    re.DOTALL,
)


def _openai_encoding(name: str) -> EncodingName | None:
    if _O200K.fullmatch(name):
        return "o200k_base"
    return "cl100k_base" if _CL100K.fullmatch(name) else None


_OPENAI_IMAGES: tuple[tuple[re.Pattern[str], ImageRule], ...] = tuple(
    (re.compile(start), rule)
    for start, rule in (
        (r"gpt-4o-mini", Tiles(2833, 5667)),
        (r"gpt-4\.1-nano|gpt-5(\.\d+)?-nano", Patches(2.46)),
        (r"gpt-4\.1-mini|gpt-5(\.\d+)?-mini", Patches(1.62)),
        (r"o4-mini|codex-mini", Patches(1.72)),
        (r"gpt-5\.[23]\b", Patches(1.2)),
        (r"gpt-5\.([4-9]|\d\d)", Patches(1.2, 2500, 10_000)),
        (r"gpt-5", Tiles(70, 140)),
        (r"o1|o3", Tiles(75, 150)),
    )
)
_PLAIN_TILES = Tiles(85, 170)


def _openai_images(name: str) -> ImageRule:
    name = name.removeprefix("ft:")
    return next((rule for start, rule in _OPENAI_IMAGES if start.match(name)), _PLAIN_TILES)


# Measured against o200k_base on English, Japanese, Python and compact JSON; the last figure, and
# all of a family that was not measured, are guesses on the safe side.
_NEUTRAL = Scale(1.1, 1.1, 1.15, 1.2, 1.2)
_CLAUDE = Scale(1.08, 1.19, 1.22, 1.16, 1.3)
_CLAUDE_NEW = Scale(1.48, 1.19, 1.55, 1.57, 1.6)
_GEMINI = Scale(1.01, 0.75, 1.15, 1.19, 1.05)
_LLAMA = Scale(1.0, 0.85, 1.0, 1.0, 1.1)
_MISTRAL = Scale(1.02, 0.95, 1.08, 1.30, 1.1)

_OPEN = Family(scale=_NEUTRAL, message=5, most_hidden=256)

_CLAUDE_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?")
_GEMINI_VERSION = re.compile(r"gemini-(\d+)")
_MISTRAL_NAMES = ("mistral", "mixtral", "ministral", "magistral", "codestral", "devstral", "pixtral")
_OWNERS = {"anthropic": "claude", "google": "gemini", "gemini": "gemini", "vertex": "gemini"}


def _other(name: str, vendor: str) -> Family:
    kind = next((k for k in ("claude", "gemini", "llama", *_MISTRAL_NAMES) if k in name), None)
    kind = kind or _OWNERS.get(vendor) or ("mistral" if vendor == "mistral" else "")
    if kind == "claude":
        return _claude(name)
    if kind == "gemini":
        version = _GEMINI_VERSION.search(name)
        old = version is not None and int(version[1]) < 3
        return Family(scale=_GEMINI, images=GeminiTiles() if old else Fixed(1120, 2240))
    if kind == "llama":
        return replace(_OPEN, scale=_LLAMA)
    if kind in _MISTRAL_NAMES:
        return replace(_OPEN, scale=_MISTRAL, message=3)
    if "gpt-oss" in name or vendor in _OPENAI:
        return replace(_OPEN, scale=None)
    return _OPEN


def _claude(name: str) -> Family:
    found = _CLAUDE_VERSION.search(name)
    version = (int(found[1]), int(found[2] or 0)) if found else None
    old = "claude-instant" in name or (version is not None and version < (4, 7))
    return Family(
        scale=_CLAUDE if old else _CLAUDE_NEW,
        images=Claude(1_600 if old else 4_784),
        tools=346,  # the system prompt that goes with tools
        tools_beside_system=346,
        most_tools=800,
    )

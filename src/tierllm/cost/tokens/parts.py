"""What the parts of messages cost: their texts, and what is counted by other rules.

Written for OpenAI's shapes; those of Anthropic, Google and Amazon are known too. Anything else is
searched for text, and every string and number in it is counted. What is only referred to, or cannot
be looked into, counts as the most that there is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from .image_size import size_of, size_of_base64
from .images import ImageRule
from .media import address, audio, document, video
from .pieces import utf8_bytes
from .tally import Tally

__all__ = ["UNBILLED", "Parts"]

UNBILLED = frozenset({"id", "tool_call_id", "tool_use_id", "cache_control", "annotations", "index"})

_PLAIN_PART = frozenset({"type", "text", "cache_control", "annotations"})
_LABELS = frozenset({"type", "detail", "format", "mime_type", "mimeType", "media_type", "mediaType"})
_LABEL = 64
_IMAGES = frozenset({"image_url", "input_image", "image"})
_SOUNDS = frozenset({"input_audio", "audio"})
_FILMS = frozenset({"input_video", "video"})
_FILES = frozenset({"file", "input_file", "document"})
_GOOGLE = ("inline_data", "inlineData", "file_data", "fileData")
_PICTURES = frozenset({"image", "images", "image_url", "imageUrl", "input_image"})
_HOLDERS = frozenset({"source", "url", "data", "bytes", "base64", "b64_json"})
_REFERS = re.compile(r"(?:ur[il]s?|file_?ids?|s3_?location|encrypted_content|item_reference)$", re.IGNORECASE)
_ARGUMENTS = {
    "functionCall": "args",
    "function_call": "args",
    "functionResponse": "response",
    "function_response": "response",
    "toolUse": "input",
    "tool_use": "input",
    "server_tool_use": "input",
    "mcp_tool_use": "input",
}
"""Kinds of parts with a value that is JSON, whatever it holds: an address in it stays an address."""

_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+[;,]")
_DEEP = 40
_NODES = 50_000
"""Values of unknown shape that are looked at; one that holds itself never ends."""


class Parts(Tally):
    """The tokens of parts, added up."""

    __slots__ = ("_left", "images")

    def __init__(self, images: ImageRule, tokens: int = 0) -> None:
        super().__init__(tokens)
        self.images = images
        self._left = _NODES

    def content(self, content: object, depth: int = 0) -> None:
        """A message's content: a text, or parts."""
        if isinstance(content, str):
            self.texts.append(content)
        elif isinstance(content, list | tuple) and depth < _DEEP:
            for part in content:
                if isinstance(part, str):
                    self.texts.append(part)
                elif isinstance(part, Mapping):
                    self._part(part, depth + 1, "", self.texts)
                else:
                    self.walk(part, depth + 1)
        elif content is not None:
            self.walk(content, depth)

    def walk(self, value: object, depth: int = 0, key: str = "") -> None:
        """Anything: ``key`` is the name under which it was found."""
        self._left -= 1
        key = key if isinstance(key, str) else ""
        if self._left < 0 or depth > _DEEP:
            self.unseen()
        elif isinstance(value, str):
            self._text(value, key)
        elif value is None or isinstance(value, bool | int | float):
            self.scalar(value)
        elif isinstance(value, Mapping):
            self._part(value, depth + 1, key, self.maybe)
        elif isinstance(value, list | tuple | set | frozenset):
            for item in value:
                if self._left < 0:
                    break
                self.add(1, 2)
                self.walk(item, depth + 1, key)
        else:
            self._object(value, depth, key)

    # -- parts --

    def _part(self, part: Mapping[str, object], depth: int, key: str, into: list[str]) -> None:
        text = part.get("text")
        if isinstance(text, str) and part.keys() <= _PLAIN_PART:
            into.append(text)
            return
        kind = part.get("type")
        if not isinstance(kind, str):
            kind = key if key in _SOUNDS or key in _PICTURES or key in _FILMS else ""
        if kind in _IMAGES and key not in _HOLDERS:
            self._image(part, depth)
        elif kind in _SOUNDS:
            self._sound(part, depth)
        elif kind in _FILMS:
            self._film(part, depth)
        elif kind in _FILES:
            self._file(part, depth)
        else:
            name = next((name for name in _GOOGLE if isinstance(part.get(name), Mapping)), None)
            if name is not None:
                self._google(part, name, depth)
            else:
                if kind == "item_reference":
                    self.unseen()
                self._members(part, depth, key, _ARGUMENTS.get(kind) or _ARGUMENTS.get(key))

    def _image(self, part: Mapping[str, object], depth: int) -> None:
        name = next((k for k in ("image_url", "source", "image", "url", "bytes") if k in part), "")
        held, detail = part.get(name), part.get("detail")
        if isinstance(held, Mapping):
            inner, detail = held, held.get("detail", detail)
            named = next((k for k in ("url", "data", "bytes", "file_id") if inner.get(k)), "")
            held = inner.get(named)
            self._rest(inner, (named,), depth)
        if held is not None and not isinstance(held, str | bytes):
            self.walk(held, depth + 1)
        self._sized(
            held if isinstance(held, str | bytes) else None, detail if isinstance(detail, str) else "auto"
        )
        self._rest(part, (name, "file_id"), depth)

    def _sized(self, held: str | bytes | None, detail: str = "auto") -> None:
        if isinstance(held, bytes):
            size = size_of(held)
        elif held is None or address(held):
            size = None
        else:
            comma = held.find(",", 0, 200) if held.startswith("data:") else -1
            size = size_of_base64(held, comma + 1)
        self.add(*self.images.tokens(size, detail))

    def _sound(self, part: Mapping[str, object], depth: int) -> None:
        name = next((k for k in ("input_audio", "audio") if k in part), "")
        inner = part.get(name, part)
        held = inner.get("data") if isinstance(inner, Mapping) else inner
        self.add(*audio(_bytes(held)))
        self._within(part, name, inner, ("data",), depth)

    def _film(self, part: Mapping[str, object], depth: int) -> None:
        name = next((k for k in ("input_video", "video", "source") if k in part), "")
        inner = part.get(name, part)
        held = inner.get("data", inner.get("bytes")) if isinstance(inner, Mapping) else inner
        self.add(*video(_bytes(held)))
        self._within(part, name, inner, ("data", "bytes"), depth)

    def _file(self, part: Mapping[str, object], depth: int) -> None:
        name = next((k for k in ("file", "source", "document") if k in part), "")
        inner = part.get(name, part)
        if not isinstance(inner, Mapping):
            self.walk(inner, depth + 1, name)
            self.unseen()
            self._rest(part, (name,), depth)
        elif inner is not part and inner.get("type") in ("text", "content"):
            self._rest(inner, (), depth)
            self._rest(part, (name,), depth)
        else:
            held = inner.get("file_data") or inner.get("data")
            self.add(*document(_bytes(held), _media_type(inner)))
            known = ("file_data", "data") if held else ("file_data", "data", "file_id", "url", "file_url")
            self._within(part, name, inner, known, depth)

    def _google(self, part: Mapping[str, object], name: str, depth: int) -> None:
        inner = part[name]
        assert isinstance(inner, Mapping)
        held, kind = _bytes(inner.get("data")), _media_type(inner)
        if kind.startswith("image/"):
            self._sized(held)
        else:
            self.add(*_ruled(held, kind))
        known = ("data",) if held else ("data", "file_uri", "fileUri")
        self._within(part, name, inner, known, depth)

    def _within(
        self, part: Mapping[str, object], name: str, inner: object, known: Collection[str], depth: int
    ) -> None:
        """The rest of a part, and of what it holds under ``name``."""
        if inner is part:
            self._rest(part, known, depth)
            return
        if isinstance(inner, Mapping):
            for each in known:
                if (value := inner.get(each)) is not None and not isinstance(value, str | bytes):
                    self.walk(value, depth + 1)
            self._rest(inner, known, depth)
        elif not isinstance(inner, str | bytes):
            self.walk(inner, depth + 1)
        self._rest(part, (name,), depth)

    def _rest(self, part: Mapping[str, object], known: Collection[str], depth: int) -> None:
        """What stands beside: a title, a context, a transcript."""
        for key, item in part.items():
            if key in known or (key in _LABELS and isinstance(item, str) and len(item) <= _LABEL):
                continue
            if key in UNBILLED:
                self.aside(item)
            else:
                self.add(1, 8)
                self.walk(item, depth + 1, key)

    # -- anything else --

    def _members(self, value: Mapping[str, object], depth: int, within: str, arguments: str | None) -> None:
        for key, item in value.items():
            if self._left < 0:
                break
            if key in UNBILLED:
                self.aside(item)
                continue
            self.add(1, 8)
            self.scalar(key)
            if key == arguments:
                self.plain(item)
            else:
                picture = within in _PICTURES and key in _HOLDERS
                self.walk(item, depth + 1, within if picture else key)

    def _text(self, value: str, key: str) -> None:
        if key in _PICTURES:
            self._sized(value)
            if not address(value) and not value.startswith("data:image/"):
                self.add(0, utf8_bytes(value))
        elif key and _REFERS.search(key):
            held = value if value.startswith("data:") else None
            self.add(*_ruled(held, "audio/" if "audio" in key else "video/" if "video" in key else ""))
            if held is None:
                self.add(0, utf8_bytes(value))
        elif value.startswith("data:") and _DATA_URL.match(value):
            if value.startswith("data:image/"):
                self._sized(value)
            else:
                self.add(*_ruled(value, ""))
            self.add(0, utf8_bytes(value))
        else:
            self.maybe.append(value)

    def _object(self, value: object, depth: int, key: str) -> None:
        if isinstance(value, bytes | bytearray | memoryview):
            if key in _PICTURES:
                self._sized(bytes(value))
            else:
                self.add(*document(bytes(value)))
            return
        inner: object = None
        if not isinstance(value, type):
            dump = getattr(value, "model_dump", None)
            try:
                inner = dump() if callable(dump) else getattr(value, "__dict__", None)
            except Exception:  # an object of other people's making
                inner = None
        if isinstance(inner, Mapping) and inner:
            self.walk(inner, depth + 1, key)
        else:
            self.unseen()


def _bytes(held: object) -> str | bytes | None:
    return held if isinstance(held, str | bytes) else None


def _ruled(held: str | bytes | None, kind: str) -> tuple[int, int]:
    """Likely and most tokens of something of this media type, if none stands before it."""
    if isinstance(held, str) and held.startswith("data:"):
        kind = held[5:70]
    if kind.startswith("audio/"):
        return audio(held)
    return video(held) if kind.startswith("video/") else document(held, kind)


def _media_type(part: Mapping[str, object]) -> str:
    told = next((part[k] for k in ("mime_type", "mimeType", "media_type", "mediaType") if k in part), "")
    return told if isinstance(told, str) else ""

"""What in a request costs input tokens: its texts, and what is counted by other rules.

Written for OpenAI's shape of messages; parts in the shapes of Anthropic and Google are known too.
Anything else is searched for text, and every string and number in it is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .families import Family
from .image_size import size_of, size_of_base64
from .media import UNSEEN_TOKENS, audio, document
from .pieces import utf8_bytes
from .tools import Shown, as_json

__all__ = ["COSTLY", "ROLES", "Contents"]

COSTLY = frozenset(
    {
        "tools",
        "functions",
        "response_format",
        "tool_choice",
        "function_call",
        "system",
        "system_instruction",
        "instructions",
        "prediction",
    }
)
"""Parameters that a model gets to see; all others cost nothing."""

ROLES = ("user", "assistant", "system", "tool", "developer", "function")
"""Each is one token, in either encoding."""

_PLAIN_PART = frozenset({"type", "text", "cache_control", "annotations"})
_KNOWN_KEYS = frozenset({"role", "content"})
_UNBILLED = frozenset({"id", "tool_call_id", "cache_control", "annotations", "index"})
_PER_CALL, _MOST_PER_CALL = 6, 24
_PER_TOOL_MOST, _PER_SCHEMA, _PER_SCHEMA_MOST = 16, 16, 64
_DEEP = 40


class Contents:
    """Everything of a request that is billed as input.

    ``texts`` are to be counted. ``likely`` and ``most`` are tokens beside them. ``shown`` is text
    whose form is only guessed: tools and schemas.
    """

    __slots__ = ("_images", "likely", "messages", "most", "shown", "texts")

    def __init__(
        self, messages: Sequence[Mapping[str, object]], params: Mapping[str, object], family: Family
    ) -> None:
        self.texts: list[str] = []
        self.shown: list[Shown] = []
        self.messages = len(messages)
        self.likely = self.most = family.reply + family.message * len(messages)
        self._images = family.images
        for message in messages:
            self._message(message)
        if not COSTLY.isdisjoint(params):
            beside = any(message.get("role") == "system" for message in messages)
            self._params(params, family, family.tools_beside_system if beside else family.tools)

    # -- messages --

    def _message(self, message: Mapping[str, object]) -> None:
        role = message.get("role")
        if role in ROLES:
            self._add(1, 1)
        elif role is not None:
            self.texts.append(str(role))
        self._content(message.get("content"), 0)
        if message.keys() <= _KNOWN_KEYS:
            return
        for key, value in message.items():
            if key in _KNOWN_KEYS or value is None:
                continue
            if key == "name":
                self._add(1, 1)
                self._content(value, 0)
            elif key == "tool_calls" and isinstance(value, list | tuple):
                for call in value:
                    self._called(call)
            elif key == "function_call":
                self._called({"function": value})
            elif key in _UNBILLED:
                self._add(0, utf8_bytes(as_json(value)))
            else:
                self._walk(value, 0)

    def _called(self, call: object) -> None:
        self._add(_PER_CALL, _MOST_PER_CALL)
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(call, Mapping) and isinstance(function, Mapping):
            for value in function.values():
                self._content(value, 0)
            ids = {k: v for k, v in call.items() if k != "function"}
            self._add(0, utf8_bytes(as_json(ids)))
        else:
            self._walk(call, 0)

    def _content(self, content: object, depth: int) -> None:
        if isinstance(content, str):
            self.texts.append(content)
        elif isinstance(content, list | tuple) and depth < _DEEP:
            for part in content:
                if isinstance(part, str):
                    self.texts.append(part)
                elif isinstance(part, Mapping):
                    self._part(part, depth + 1)
                else:
                    self._walk(part, depth + 1)
        elif content is not None:
            self._walk(content, depth)

    # -- parts --

    def _part(self, part: Mapping[str, object], depth: int) -> None:
        text = part.get("text")
        if isinstance(text, str) and part.keys() <= _PLAIN_PART:
            self.texts.append(text)
        elif not self._media(part):
            self._members(part, depth)

    def _media(self, part: Mapping[str, object]) -> bool:
        """Whether ``part`` is an image, a sound or a file, which is counted then."""
        kind = part.get("type")
        if kind in ("image_url", "input_image", "image"):
            self._image(part)
        elif kind in ("input_audio", "audio"):
            inner = part.get("input_audio", part)
            data = inner.get("data") if isinstance(inner, Mapping) else None
            self._add(*audio(data if isinstance(data, str | bytes) else None))
        elif kind in ("file", "input_file", "document"):
            self._file(part)
        else:
            inner = part.get("inline_data", part.get("inlineData", part.get("file_data")))
            if not isinstance(inner, Mapping):
                return False
            mime = str(inner.get("mime_type", inner.get("mimeType", "")))
            data = inner.get("data")
            held = data if isinstance(data, str | bytes) else None
            if mime.startswith("image/"):
                self._sized(held, "auto")
            else:
                self._add(*(audio(held) if mime.startswith("audio/") else document(held)))
        return True

    def _image(self, part: Mapping[str, object]) -> None:
        inner = next((part[k] for k in ("image_url", "source", "image", "url") if k in part), None)
        detail = part.get("detail")
        held: object = inner
        if isinstance(inner, Mapping):
            detail = inner.get("detail", detail)
            held = inner.get("url") or inner.get("data")
        self._sized(held if isinstance(held, str | bytes) else None, str(detail or "auto"))

    def _sized(self, held: str | bytes | None, detail: str) -> None:
        if isinstance(held, bytes):
            size = size_of(held)
        elif held is None or held.startswith(("http:", "https:", "gs:", "file:")):
            size = None
        else:
            comma = held.find(",", 0, 200) if held.startswith("data:") else -1
            size = size_of_base64(held, comma + 1)
        self._add(*self._images.tokens(size, detail))

    def _file(self, part: Mapping[str, object]) -> None:
        inner = next((part[k] for k in ("file", "source", "document") if k in part), part)
        if not isinstance(inner, Mapping):
            self._walk(inner, 0)
            return
        if inner.get("type") in ("text", "content"):
            self._walk(inner, 0)
            return
        held = inner.get("file_data") or inner.get("data")
        self._add(*document(held if isinstance(held, str | bytes) else None))
        for key in ("filename", "title", "context"):
            for holder in (part, inner):
                if isinstance(value := holder.get(key), str):
                    self.texts.append(value)

    # -- anything else --

    def _walk(self, value: object, depth: int) -> None:
        if isinstance(value, str):
            if value.startswith("data:image/"):
                self._sized(value, "auto")
            else:
                self.texts.append(value)
        elif value is None or isinstance(value, bool | int | float):
            self.texts.append(str(value))
        elif depth > _DEEP:
            self._unseen()
        elif isinstance(value, Mapping):
            self._part(value, depth + 1)
        elif isinstance(value, list | tuple | set | frozenset):
            for item in value:
                self._add(1, 2)
                self._walk(item, depth + 1)
        else:
            self._object(value, depth)

    def _members(self, value: Mapping[str, object], depth: int) -> None:
        for key, item in value.items():
            if key in _UNBILLED:
                self._add(0, utf8_bytes(as_json(item)))
            else:
                self.texts.append(str(key))
                self._add(1, 8)
                self._walk(item, depth + 1)

    def _object(self, value: object, depth: int) -> None:
        if isinstance(value, bytes | bytearray | memoryview):
            self._add(*document(bytes(value)))
            return
        dump = getattr(value, "model_dump", None)
        inner = dump() if callable(dump) else getattr(value, "__dict__", None)
        if isinstance(inner, Mapping) and inner:
            self._walk(inner, depth + 1)
        else:
            self._unseen()

    def _unseen(self) -> None:
        self._add(0, UNSEEN_TOKENS)

    def _add(self, likely: int, most: int) -> None:
        self.likely += likely
        self.most += most

    # -- parameters --

    def _params(self, params: Mapping[str, object], family: Family, for_tools: int) -> None:
        tools: list[object] = []
        for name in ("tools", "functions"):
            given = params.get(name)
            if isinstance(given, list | tuple):
                tools += given
            elif given:
                tools.append(given)
        if tools:
            self._add(for_tools, family.most_tools + _PER_TOOL_MOST * len(tools))
            self.shown.append(Shown(tools))
        if (wanted := params.get("response_format")) and wanted != {"type": "text"}:
            self._add(_PER_SCHEMA, _PER_SCHEMA_MOST)
            self.shown.append(Shown(wanted))
        for name in ("tool_choice", "function_call"):
            if isinstance(choice := params.get(name), Mapping):
                self._add(4, 16)
                chosen = choice.get("function", choice)
                self._content(chosen.get("name") if isinstance(chosen, Mapping) else chosen, 0)
                self._add(0, utf8_bytes(as_json(choice)))
            elif choice == "none":
                self._add(1, 1)
        for name in ("system", "system_instruction", "instructions", "prediction"):
            if params.get(name) is not None:
                self._add(family.message, family.message)
                self._content(params[name], 0)

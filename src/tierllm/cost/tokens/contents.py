"""What in a request costs input tokens: its messages, and those parameters that a model gets to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .families import Family
from .parameters import ELSEWHERE, FREE, SETTINGS, left, tool_tokens
from .parts import UNBILLED, Parts
from .tools import Shown

__all__ = ["FREE", "ROLES", "Contents"]

ROLES = ("user", "assistant", "system", "tool", "developer", "function")
"""Each is one token, in either encoding."""

_KNOWN_KEYS = frozenset({"role", "content"})
_PER_CALL, _MOST_PER_CALL = 6, 24
_PER_TOOL_MOST, _PER_SCHEMA, _PER_SCHEMA_MOST = 16, 16, 64
_TOOLS = ("tools", "functions")
_CHOICES = ("tool_choice", "function_call")
_TEXTS = ("system", "system_instruction", "instructions", "prediction", "suffix")
_NAMED = frozenset((*_TOOLS, *_CHOICES, *_TEXTS, "extra_body"))


class Contents(Parts):
    """Everything of a request that is billed as input.

    ``shown`` is text whose form is only guessed: tools and schemas.
    """

    __slots__ = ("messages", "shown")

    def __init__(
        self, messages: Sequence[Mapping[str, object]], params: Mapping[str, object], family: Family
    ) -> None:
        super().__init__(family.images, family.reply + family.message * len(messages))
        self.shown: list[Shown] = []
        self.messages = len(messages)
        for message in messages:
            self._message(message)
        if not FREE.issuperset(params):
            beside = any(message.get("role") == "system" for message in messages)
            self._params(params, family, family.tools_beside_system if beside else family.tools)

    # -- messages --

    def _message(self, message: Mapping[str, object]) -> None:
        role = message.get("role")
        if role in ROLES:
            self.add(1, 1)
        elif role is not None:
            self.walk(role)
        self.content(message.get("content"))
        if message.keys() <= _KNOWN_KEYS:
            return
        for key, value in message.items():
            if key in _KNOWN_KEYS or value is None:
                continue
            if key == "name":
                self.add(1, 1)
                self.content(value)
            elif key == "tool_calls" and isinstance(value, list | tuple):
                for call in value:
                    self._called(call)
            elif key == "function_call":
                self._called({"function": value})
            elif key in UNBILLED:
                self.aside(value)
            else:
                self.walk(value, 0, key)

    def _called(self, call: object) -> None:
        self.add(_PER_CALL, _MOST_PER_CALL)
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(call, Mapping) and isinstance(function, Mapping):
            for value in function.values():
                self.content(value)
            self.aside({k: v for k, v in call.items() if k != "function"})
        else:
            self.walk(call)

    # -- parameters --

    def _params(self, params: Mapping[str, object], family: Family, for_tools: int) -> None:
        tools: list[object] = []
        for name in _TOOLS:
            given = params.get(name)
            if isinstance(given, list | tuple):
                tools += given
            elif given:
                tools.append(given)
        if tools:
            self._tools(tools, family, for_tools)
        for name in _CHOICES:
            self._choice(params.get(name))
        for name in _TEXTS:
            if params.get(name) is not None:
                self.add(family.message, family.message)
                self.content(params[name])
        for name, value in params.items():
            if name in FREE or name in _NAMED or value is None or value is False:
                continue
            if name in ELSEWHERE:
                self.unseen()
            seen = left(value) if name in SETTINGS else value
            if seen is not None and seen != {"type": "text"}:
                self._unknown(seen)
        inner = params.get("extra_body")
        if isinstance(inner, Mapping) and inner is not params and "extra_body" not in inner:
            self._params(inner, family, for_tools)
        elif inner is not None:
            self.unseen()

    def _tools(self, tools: list[object], family: Family, for_tools: int) -> None:
        self.add(for_tools, family.most_tools + _PER_TOOL_MOST * len(tools))
        for tool in tools:
            beside = tool_tokens(tool)
            if beside is None:
                self.unseen()
            else:
                self.add(*beside)
        self._shown(tools)

    def _choice(self, choice: object) -> None:
        if isinstance(choice, Mapping):
            self.add(4, 16)
            chosen = choice.get("function", choice)
            self.content(chosen.get("name") if isinstance(chosen, Mapping) else chosen)
            self.aside(choice)
        elif choice == "none":
            self.add(1, 1)

    def _unknown(self, value: object) -> None:
        """A schema, under whatever name; or some setting, which is bounded by its JSON."""
        if isinstance(value, str | bool | int | float):
            self.aside(value)
        else:
            self.add(_PER_SCHEMA, _PER_SCHEMA_MOST)
            self._shown(value)

    def _shown(self, value: object) -> None:
        shown = Shown(value)
        self.shown.append(shown)
        if not shown.sound:
            self.unseen()

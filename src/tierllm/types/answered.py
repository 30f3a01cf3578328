"""What is answered: pieces as they arrive, and the whole."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .happened import Trace

__all__ = ["Chunk", "Response", "ToolCall", "Usage"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call, whole in a ``Response``; in a ``Chunk`` a piece of the one at ``index``."""

    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""

    def parsed(self) -> Any:
        """The arguments as Python data. Raises ``ValueError`` when the model wrote invalid JSON."""
        return json.loads(self.arguments or "{}")

    def to_message(self) -> dict[str, Any]:
        """The shape in which an assistant message carries it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens as reported by the provider.

    ``cached_input_tokens`` and ``cache_write_tokens`` are parts of ``input_tokens``,
    ``reasoning_tokens`` of ``output_tokens``. ``estimated`` says that the provider reported nothing.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    service_tier: str | None = None
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


class Chunk:
    """A piece of an answer as it arrives.

    ``text``, ``reasoning`` and ``tool_call`` (a piece) may each be empty; ``finish_reason`` comes
    with the last one, ``usage`` where the vendor reports it. ``raw`` is the vendor's own object.
    """

    __slots__ = ("finish_reason", "raw", "reasoning", "text", "tool_call", "usage")

    def __init__(
        self,
        text: str = "",
        *,
        tool_call: ToolCall | None = None,
        reasoning: str = "",
        finish_reason: str | None = None,
        usage: Usage | None = None,
        raw: Any = None,
    ) -> None:
        self.text = text
        self.tool_call = tool_call
        self.reasoning = reasoning
        self.finish_reason = finish_reason
        self.usage = usage
        self.raw = raw

    def __repr__(self) -> str:
        given = ((n, getattr(self, n)) for n in ("text", "tool_call", "reasoning", "finish_reason"))
        return f"Chunk({', '.join(f'{n}={v!r}' for n, v in given if v)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Chunk):
            return NotImplemented
        return all(getattr(self, n) == getattr(other, n) for n in self.__slots__)

    __hash__ = None  # type: ignore[assignment]


@dataclass(slots=True, repr=False)
class Response:
    """An answer and how it came about.

    ``finish_reason`` is ``"stop"``, ``"length"``, ``"tool_calls"``, ``"content_filter"`` or the
    vendor's own word. ``cost_usd`` is ``None`` where no price is known. ``degraded`` names what was
    taken away from this answer beyond its tier: ``("stale",)`` for an old cached one,
    ``("simple_reply",)`` for the application's own. ``cached``: it was not made for this call, which
    pays nothing for it; ``age_s`` seconds ago, where it had been kept. ``raw`` is the vendor's object.
    ``request_id`` is the vendor's id, ``trace.id`` tierllm's.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    parsed: Any = None
    finish_reason: str | None = None
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    tier: str | None = None
    deployment: str | None = None
    model: str | None = None
    cached: bool = False
    age_s: float | None = None
    degraded: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    request_id: str | None = None
    trace: Trace | None = None
    raw: Any = None

    @property
    def message(self) -> dict[str, Any]:
        """The answer as an assistant message, to be appended to the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self.tool_calls:
            message["tool_calls"] = [t.to_message() for t in self.tool_calls]
        elif message["content"] is None:
            message["content"] = ""
        return message

    def chunks(self) -> Iterator[Chunk]:
        """The answer as a stream would have delivered it, for replaying."""
        if self.reasoning:
            yield Chunk(reasoning=self.reasoning)
        if self.text:
            yield Chunk(self.text)
        for tool_call in self.tool_calls:
            yield Chunk(tool_call=tool_call)
        yield Chunk(finish_reason=self.finish_reason or "stop", usage=self.usage)

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else f"{self.text[:57]}..."
        notes = {"tier": self.tier, "deployment": self.deployment, "finish_reason": self.finish_reason}
        if self.degraded:
            notes["degraded"] = ", ".join(self.degraded)
        return f"Response({text!r}, {', '.join(f'{n}={v!r}' for n, v in notes.items())})"

    def __copy__(self) -> Response:
        twin = Response.__new__(Response)
        twin.text = self.text
        twin.reasoning = self.reasoning
        twin.tool_calls = self.tool_calls
        twin.parsed = self.parsed
        twin.finish_reason = self.finish_reason
        twin.usage = self.usage
        twin.cost_usd = self.cost_usd
        twin.tier = self.tier
        twin.deployment = self.deployment
        twin.model = self.model
        twin.cached = self.cached
        twin.age_s = self.age_s
        twin.degraded = self.degraded
        twin.warnings = self.warnings
        twin.request_id = self.request_id
        twin.trace = self.trace
        twin.raw = self.raw
        return twin

    def __getstate__(self) -> list[Any]:
        # a vendor's object may hold sockets or locks: an answer must survive pickling all the same
        state = [getattr(self, f.name) for f in fields(self)]
        try:
            pickle.dumps(self.raw)
        except Exception:
            state[-1] = None
        return state

    def __setstate__(self, state: list[Any]) -> None:
        for f, value in zip(fields(self), state, strict=True):
            setattr(self, f.name, value)

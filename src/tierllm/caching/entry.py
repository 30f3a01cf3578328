"""What is kept of an answer: plain data."""

from __future__ import annotations

from decimal import Decimal
from sys import getsizeof
from typing import TYPE_CHECKING, NamedTuple

from ..providers.parsing import parsed
from ..types import Response, ToolCall, Usage
from .returned import Returned, unpack
from .written import read, write

if TYPE_CHECKING:
    from .key import Key

__all__ = ["Entry"]

ENTRY_BYTES, CALL_BYTES, RETURNED_BYTES = 850, 120, 80
"""What an entry takes in memory besides its texts, each of its tool calls, and what was returned."""


class Entry(NamedTuple):
    """An answer as it is kept: immutable, so that threads and callers may share it.

    ``canonical`` is the request it answers, ``fingerprint`` says who made it. Times are seconds since
    1970: until ``fresh_until`` it is served as it is, until ``stale_until`` as an old one. ``latency_s``
    and ``cost_usd`` are what it took to make. ``depends`` are names and hashes of the contents that it
    rests on. ``structured``: the text was read as what ``response_format`` asked for. ``generation`` is
    the number of the last notice of invalidation that was known when the call began; ``returned`` is
    what a wrapped function returned.
    """

    canonical: bytes
    fingerprint: bytes
    tier: str
    deployment: str
    model: str | None
    made_at: float
    fresh_until: float
    stale_until: float
    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    usage: Usage | None
    cost_usd: Decimal | None
    request_id: str | None
    latency_s: float
    structured: bool
    depends: tuple[tuple[str, str], ...]
    tags: tuple[str, ...]
    tenant: str | None
    generation: int
    returned: Returned | None

    @classmethod
    def of(
        cls,
        response: Response,
        key: Key,
        *,
        fingerprint: bytes,
        made_at: float,
        fresh_until: float,
        stale_until: float,
        latency_s: float,
        depends: tuple[tuple[str, str], ...] = (),
        tags: tuple[str, ...] = (),
        tenant: str | None = None,
        generation: int = 0,
        returned: Returned | None = None,
    ) -> Entry:
        """What is kept of ``response``, which has to be ``storable``."""
        return cls(
            key.canonical,
            fingerprint,
            response.tier or "",
            response.deployment or "",
            response.model,
            made_at,
            fresh_until,
            stale_until,
            response.text,
            response.reasoning,
            tuple(response.tool_calls),
            response.finish_reason or "stop",
            response.usage,
            response.cost_usd,
            response.request_id,
            latency_s,
            response.parsed is not None,
            depends,
            tags,
            tenant,
            generation,
            returned,
        )

    def response(self, response_format: object = None) -> Response:
        """A response of its own for each caller, ``cached``, and free: what it cost was paid before.

        ``response_format`` is that of the call, for ``parsed``. What a wrapped function returned is its
        ``raw``. Raises ``ValueError`` where one of them cannot be made here: a class may say by its
        validators what its schema does not.
        """
        data = parsed(self.text, response_format) if self.structured else None
        if self.structured and data is None:
            raise ValueError("the text is not what response_format asks for")
        return Response(
            text=self.text,
            reasoning=self.reasoning,
            tool_calls=self.tool_calls,
            parsed=data,
            finish_reason=self.finish_reason,
            usage=self.usage,
            cost_usd=Decimal(0),
            tier=self.tier or None,
            deployment=self.deployment or None,
            model=self.model,
            cached=True,
            request_id=self.request_id,
            raw=None if self.returned is None else unpack(self.returned),
        )

    @property
    def asked_at(self) -> float:
        """When the tier was asked."""
        return self.made_at - self.latency_s

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory."""
        size = ENTRY_BYTES + getsizeof(self.canonical) + getsizeof(self.text) + getsizeof(self.reasoning)
        for name in (self.tier, self.deployment, self.model, self.request_id, self.tenant, self.fingerprint):
            size += getsizeof(name)
        for call in self.tool_calls:
            size += CALL_BYTES + getsizeof(call.id) + getsizeof(call.name) + getsizeof(call.arguments)
        for document, content_hash in self.depends:
            size += 120 + getsizeof(document) + getsizeof(content_hash)
        for tag in self.tags:
            size += 8 + getsizeof(tag)
        if self.returned is not None:
            size += RETURNED_BYTES + getsizeof(self.returned.kind) + getsizeof(self.returned.data)
        return size

    def encode(self) -> bytes:
        """The entry as bytes, which ``decode`` reads. Raises ``ValueError`` for what is not plain data."""
        return write(self)

    @classmethod
    def decode(cls, data: bytes) -> Entry | None:
        """The entry in ``data``, or ``None`` where it is damaged, of another version, or no entry at all.

        Never raises, and never runs what it reads.
        """
        try:
            return cls._make(read(data))
        except Exception:  # whatever was wrong with it, it is a miss
            return None

    def __repr__(self) -> str:  # neither prompt nor answer
        return f"<Entry tier={self.tier!r} deployment={self.deployment!r} made_at={self.made_at}>"

"""What the pipeline asks of a provider."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..types import Call, Chunk, Response
    from .scope import Invocation

__all__ = ["Provider", "Steps"]

Steps = Iterator["float | Chunk"]
"""An answer laid out in time: seconds to wait, and chunks. A generator may raise at any step."""


class Provider(Protocol):
    """A vendor, a local model or a function.

    Each method reads ``call.messages``, ``call.params``, ``call.model``, ``call.timeouts`` and
    ``call.options(self.name)``; it changes none of them. It raises ``ProviderError`` kinds only
    (the vendor's own as ``__cause__``), and bounds each of its own waits by
    ``scope.remaining_s()``. Sync methods that can be interrupted say how with
    ``scope.on_cancel(fn)``. A stream ends with a chunk that has a ``finish_reason``: one that ends
    without was cut off.

    ``name`` is the vendor's, as in ``extra={name: {...}}``. ``waits`` says that the sync methods
    block, and so must not run inside an event loop.
    """

    name: str
    waits: bool

    def complete(self, call: Call, scope: Invocation, /) -> Response: ...

    async def acomplete(self, call: Call, scope: Invocation, /) -> Response: ...

    def stream(self, call: Call, scope: Invocation, /) -> Iterator[Chunk]: ...

    def astream(self, call: Call, scope: Invocation, /) -> AsyncIterator[Chunk]: ...

    def close(self) -> None: ...

    async def aclose(self) -> None: ...

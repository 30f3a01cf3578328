"""What providers share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..pipeline.waiting import apause, pause

if TYPE_CHECKING:
    from ..pipeline.provider import Steps
    from ..pipeline.scope import Invocation
    from ..types import Call, Chunk, Response

__all__ = ["BaseProvider", "PlayedProvider"]


class BaseProvider:
    """Defaults for a provider: nothing to close, and its sync methods block.

    A subclass sets ``name`` and defines ``complete``, ``acomplete``, ``stream`` and ``astream``, or
    those it can: a whole answer also streams, as one piece.
    """

    name = "provider"
    waits = True
    origin: object = None
    """What its answers depend on beside its class, ``name`` and the model, as plain data: an address, a
    file, a setting; ``""`` for nothing else. A cached answer counts only while this is the same, as it was
    when the client was made. ``None``, or what is not plain data: it counts for that client alone."""
    vendor: str | None = None
    """Who serves the models, as price lists have it; ``None``: the one of that ``name``."""
    takes_max_tokens = True
    """Whether answers keep to ``max_tokens``: a hard budget asks."""
    free = False
    """Whether its calls cost nothing; a deployment's own ``price`` comes first."""

    def complete(self, call: Call, scope: Invocation) -> Response:
        raise UsageError(f"{self.name} answers on an event loop only: use acomplete() or astream()")

    async def acomplete(self, call: Call, scope: Invocation) -> Response:
        raise UsageError(f"{self.name} answers in threads only: use complete() or stream()")

    def stream(self, call: Call, scope: Invocation) -> Iterator[Chunk]:
        yield from self.complete(call, scope).chunks()

    async def astream(self, call: Call, scope: Invocation) -> AsyncIterator[Chunk]:
        for chunk in (await self.acomplete(call, scope)).chunks():
            yield chunk

    def close(self) -> None:
        """Release what the provider holds. Safe to call twice."""

    async def aclose(self) -> None:
        """The same, for what belongs to the running event loop."""
        self.close()

    def renew(self) -> None:
        """Forget connections and locks inherited over a fork."""

    def __reduce__(self) -> str:
        raise UsageError(f"{type(self).__name__} holds connections: build one per process, do not pickle it")


class PlayedProvider(BaseProvider):
    """A provider that lays its answer out in time, once for every kind of time.

    A subclass defines ``play``: a generator of seconds to wait (``float``) and ``Chunk``s, which
    may raise at any step. Drivers of real time wait for real, the virtual one in its heap.
    """

    waits = False  # a pause itself refuses to block an event loop

    def play(self, call: Call, scope: Invocation) -> Steps:
        raise NotImplementedError

    def stream(self, call: Call, scope: Invocation) -> Iterator[Chunk]:
        steps = self.play(call, scope)
        try:
            for step in steps:
                if isinstance(step, float):
                    pause(scope, step)
                else:
                    yield step
        finally:
            _close(steps)

    async def astream(self, call: Call, scope: Invocation) -> AsyncIterator[Chunk]:
        steps = self.play(call, scope)
        try:
            for step in steps:
                if isinstance(step, float):
                    await apause(scope, step)
                else:
                    yield step
        finally:
            _close(steps)

    def complete(self, call: Call, scope: Invocation) -> Response:
        for chunk in self.stream(call, scope):
            scope.feed(chunk)
        return scope.finished()

    async def acomplete(self, call: Call, scope: Invocation) -> Response:
        async for chunk in self.astream(call, scope):
            scope.feed(chunk)
        return scope.finished()


def _close(steps: Steps) -> None:
    close = getattr(steps, "close", None)
    if close is not None:
        close()

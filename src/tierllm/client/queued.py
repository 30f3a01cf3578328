"""What a client says and does about calls that wait, and about its load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from ..errors import ClientClosedError, ConfigError
from ..routing.ask import CallOptions, ask
from ..types import Message
from .handle import CallHandle, QueuedCall

if TYPE_CHECKING:
    from datetime import datetime

    from ..admission.emergency import Emergencies
    from ..admission.load import Load
    from ..pipeline.provider import Provider
    from ..pipeline.ready import ReadyCall
    from ..types import Request
    from .ground import Ground
    from .origin import Origin
    from .setup import Setup

__all__ = ["Queued"]


class Queued:
    """The part of a client that knows who waits, and how busy it is."""

    _ground: Ground
    _setup: Setup
    _origin: Origin | None

    def ready(self, request: Request, target: Provider | None = None) -> ReadyCall:
        raise NotImplementedError

    def submit(self, prompt: str | Sequence[Message], **options: Unpack[CallOptions]) -> CallHandle:
        """Begin a call in a thread of its own: a handle to wait for it, hurry it along or cancel it.

        Raises ``ConfigError`` where the call makes no sense. Closing the client ends it.
        """
        ready = self.ready(ask(prompt, options))
        handle = CallHandle(ready)
        self._ground.host.thread(handle.run, "call")
        return handle

    def queued(self, tier: str | None = None) -> list[QueuedCall]:
        """The calls that wait for a place now, deferred ones too, longest first; of one tier or of all."""
        setups = [self._setup] if self._origin is None else [self._setup, *self._origin.left()]
        lines = [line for setup in setups for name, line in setup.lines.items() if tier in (None, name)]
        if not lines:
            raise ConfigError(f"there is no tier {tier!r}: the tiers are {', '.join(self._setup.lines)}")
        pools = {id(line.pool): line.pool for line in lines if line.pool is not None}
        places = [place for pool in pools.values() for place in pool.waiters()]
        places.sort(key=lambda place: place.arrived_at)
        return [QueuedCall(place.call) for place in places if place.call is not None]

    def load(self, tier: str | None = None) -> Load:
        """How busy a tier is, and will be: 1 is as much as it can do. Of the whole client without ``tier``:
        level, forecast and delay of its busiest tier, and the sums of the rest.

        Raises ``ConfigError`` for a tier that does not exist, or has nothing to measure by: no
        ``max_concurrency`` and no limits.
        """
        from ..admission.load import overall

        lines = self._setup.lines.values() if tier is None else [self._setup.lines.get(tier)]
        found = [line.admission for line in lines if line is not None and line.admission is not None]
        if not found:
            raise ConfigError(f"there is no load of {tier!r}: name a tier with max_concurrency or limits")
        for admission in found:
            admission.reading()
        return overall([admission.load.reading() for admission in found])

    # -- emergencies -----------------------------------------------------------

    def emergency(
        self,
        name: str,
        *,
        until: float | datetime | None = None,
        for_s: float | None = None,
        on: bool = True,
    ) -> None:
        """Declare an emergency that some tier's ``AdaptiveSampling(emergencies=...)`` names, or end it.

        It holds in all processes that share the client's store, and ends by itself: ``until`` a time,
        after ``for_s`` seconds, or after an hour. Raises ``ConfigError`` for a name that no tier knows, or
        a time that makes no sense, ``StoreUnavailableError`` and ``ClientClosedError``.
        """
        emergencies = self._known_emergency(name)
        if on:
            emergencies.declare(name, until=until, for_s=for_s)
        else:
            emergencies.end(name)

    async def aemergency(
        self,
        name: str,
        *,
        until: float | datetime | None = None,
        for_s: float | None = None,
        on: bool = True,
    ) -> None:
        """``emergency``, off the event loop."""
        import asyncio

        await asyncio.to_thread(self.emergency, name, until=until, for_s=for_s, on=on)

    def _known_emergency(self, name: str) -> Emergencies:
        if self._ground.host.closed:
            raise ClientClosedError("this client is closed: build a new one")
        if self._setup.emergencies is None:
            raise ConfigError(
                "this client knows no emergencies: give a tier sampling=AdaptiveSampling(emergencies=...)"
            )
        known = sorted(
            {each for tier in self._setup.tiers if tier.sampling for each in tier.sampling.emergencies}
        )
        if name not in known:
            raise ConfigError(f"there is no emergency {name!r}: known are {', '.join(known)}")
        return self._setup.emergencies

    def emergencies(self) -> frozenset[str]:
        """The emergencies that hold now. May ask the store, where nobody has for a while."""
        return frozenset() if self._setup.emergencies is None else self._setup.emergencies.active()

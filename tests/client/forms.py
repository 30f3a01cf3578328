"""A call in each of its forms, and a world with its own time to run many of them in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from tierllm import Deployment, Response, Tier, TieredClient, Timeouts
from tierllm.events import Event
from tierllm.pipeline.virtual import VirtualRun, VirtualTime
from tierllm.routing.ask import ask
from tierllm.testing import FakeClock, FakeProvider
from tierllm.types import Message, Trace

Prompt = str | Sequence[Message]

QUICK = Timeouts(connect_s=1, first_token_s=2, between_tokens_s=2, total_s=4)


@dataclass(frozen=True)
class Form:
    """One of the four ways to make a call, told as a plain function."""

    name: str
    streaming: bool
    asynchronous: bool

    def __str__(self) -> str:
        return self.name

    def __call__(self, client: TieredClient, prompt: Prompt = "Hello", **options: Any) -> Response:
        if self.asynchronous:
            return asyncio.run(self._awaited(client, prompt, options))
        if not self.streaming:
            return client.complete(prompt, **options)
        with client.stream(prompt, **options) as stream:
            for _ in stream:
                pass
            return stream.response

    async def _awaited(self, client: TieredClient, prompt: Prompt, options: dict[str, Any]) -> Response:
        if not self.streaming:
            return await client.acomplete(prompt, **options)
        async with client.astream(prompt, **options) as stream:
            async for _ in stream:
                pass
            return stream.response


FORMS = [
    Form("complete", False, False),
    Form("acomplete", False, True),
    Form("stream", True, False),
    Form("astream", True, True),
]
every_form = pytest.mark.parametrize("form", FORMS, ids=str)


@dataclass
class Told:
    """How a call in virtual time went."""

    begun_s: float
    ended_s: float | None = None
    ends: int = 0
    pieces: list[str] = field(default_factory=list)
    response: Response | None = None
    error: BaseException | None = None
    run: VirtualRun | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def took_s(self) -> float:
        assert self.ended_s is not None, "the call has not ended"
        return self.ended_s - self.begun_s

    @property
    def ok(self) -> Response:
        assert self.response is not None, self.error
        return self.response

    @property
    def kind(self) -> str:
        return "ok" if self.error is None else type(self.error).__name__


class World:
    """Gold (two places), silver and bronze over one fake provider, in virtual time or on a fake clock."""

    def __init__(self, tiers: Sequence[Tier] | None = None, *, virtual: bool = True, **settings: Any) -> None:
        self.time = VirtualTime()
        self.clock = FakeClock()
        self.fake: FakeProvider = settings.pop("fake", None) or FakeProvider()
        self.events: list[Event] = []
        self.traces: list[Trace] = []
        """Of the calls that were begun, in that order."""
        self.client = TieredClient(
            tiers if tiers is not None else three_tiers(self.fake),
            clock=self.time.clock if virtual else self.clock,
            rng=Random(settings.pop("seed", 7)),
            listeners=[self.events.append, *settings.pop("listeners", ())],
            **{"timeouts": QUICK, **settings},
        )

    def begin(self, prompt: Prompt = "Hello", *, streaming: bool = False, **options: Any) -> Told:
        """Begin a call now; it ends as time passes."""
        time, told = self.time, Told(self.time.now)
        ready = self.client.ready(ask(prompt, options))
        ready.host.begin(ready.scope)
        if ready.call.trace is not None:
            self.traces.append(ready.call.trace)

        def ended(run: VirtualRun) -> None:
            ready.host.end(ready.scope)
            told.ends += 1
            told.ended_s, told.response, told.error = time.now, run.result, run.error

        told.run = time.start(
            ready.flow(),
            ready.host,
            scope=ready.scope,
            streaming=streaming,
            on_chunk=lambda chunk: told.pieces.append(chunk.text),
            on_end=ended,
        )
        return told

    def call(self, prompt: Prompt = "Hello", *, streaming: bool = False, **options: Any) -> Told:
        """Make a call and let time pass to its end."""
        told = self.begin(prompt, streaming=streaming, **options)
        while told.ended_s is None:
            heap = self.time._heap
            assert heap, "nothing will ever end this call"
            self.time.run(until=heap[0][0])
        return told

    def pass_s(self, seconds: float) -> None:
        self.time.run(until=self.time.now + seconds)

    def models(self, since: int = 0) -> list[str]:
        """The models called so far, in order."""
        return [entry.model for entry in self.fake.journal][since:]

    def told(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kinds)]


def three_tiers(fake: FakeProvider, **gold: Any) -> list[Tier]:
    return [
        Tier("gold", [Deployment("g1", fake), Deployment("g2", fake)], **gold),
        Tier("silver", [Deployment("s", fake)]),
        Tier("bronze", [Deployment("b", fake)]),
    ]


def held(client: TieredClient) -> dict[str, tuple[int, int]]:
    """Permits in use and callers waiting, by tier."""
    pools = {name: tier["pool"] for name, tier in client.status()["tiers"].items()}
    return {name: (pool["in_use"], pool["waiting"]) for name, pool in pools.items() if pool is not None}

"""More callers than a backend has room for, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

from tierllm.admission.adaptive import AdaptiveConcurrency
from tierllm.errors import ProviderUnavailableError, RateLimitError
from tierllm.pipeline.compose import compose, invoking
from tierllm.pipeline.host import Host
from tierllm.pipeline.scope import Invocation, Scope
from tierllm.pipeline.virtual import VirtualTime
from tierllm.providers.base import PlayedProvider
from tierllm.types import Call, Chunk, Request

MEAN_S = 2.0
SPREAD = 0.6
"""Of the lognormal service times, as output lengths have it."""


class Backend(PlayedProvider):
    """Serves so many calls at once, and refuses the others after ``refuse_s``.

    ``capacities`` are pairs of a moment and the capacity from then on. ``busy_s`` adds up the time of its
    places in use, ``ends`` lists each call's end and whether it was served.
    """

    name = "backend"

    def __init__(
        self, world: VirtualTime, capacities: Sequence[tuple[float, int]], seed: int, refuse_s: float
    ) -> None:
        self.world = world
        self.capacities = tuple(capacities)
        self.rng = random.Random(seed)
        self.refuse_s = refuse_s
        self.active = 0
        self.busy_s = 0.0
        self.ends: list[tuple[float, bool]] = []
        self._noted_at = 0.0

    @property
    def capacity(self) -> int:
        return [size for at, size in self.capacities if at <= self.world.now][-1]

    def note(self) -> None:
        self.busy_s += min(self.active, self.capacity) * (self.world.now - self._noted_at)
        self._noted_at = self.world.now

    def play(self, call: Call, scope: Invocation) -> Iterator[float | Chunk]:
        if self.active >= self.capacity:
            yield self.refuse_s
            self.ends.append((self.world.now, False))
            if self.rng.random() < 0.5:
                raise RateLimitError("too many requests", status=429)
            raise ProviderUnavailableError("overloaded", status=529)
        self.note()
        self.active += 1
        try:
            yield MEAN_S * self.rng.lognormvariate(-SPREAD * SPREAD / 2, SPREAD)
        finally:
            self.note()
            self.active -= 1
        self.ends.append((self.world.now, True))
        yield Chunk("fine", finish_reason="stop")


class Crowd:
    """Endless callers of one backend behind an adaptive limit: as soon as it lets one through, one comes.

    ``demand``: but never more than so many at once.
    """

    def __init__(
        self,
        policy: AdaptiveConcurrency,
        capacities: Sequence[tuple[float, int]],
        *,
        seed: int = 7,
        refuse_s: float = 0.05,
        demand: int = 1_000_000,
    ) -> None:
        self.demand = demand
        self.world = VirtualTime()
        self.backend = Backend(self.world, capacities, seed, refuse_s)
        self.policy = policy.bound(tier="gold", deployment="g", clock=self.world.clock)
        self.policy.listen(self._poked)
        self.sizes: list[tuple[float, int]] = []
        self.most_at_once = 0
        self._host = Host(self.world.clock)
        self._handler = compose([self.policy], invoking(self.backend))
        self._coming = False
        self._until = 0.0

    def run(self, until: float) -> None:
        self._until = until
        self._poked()
        self._look()
        self.world.run(until)
        self.backend.note()

    def _poked(self) -> None:
        if not self._coming:
            self._coming = True
            self.world.soon(self._come)

    def _come(self) -> None:
        self._coming = False
        policy = self.policy
        while (
            self.world.now < self._until
            and policy.in_flight < self.demand
            and policy.peek(self.world.now) is None
        ):
            call = Call(Request(messages=()), scope=Scope(self.world.clock))
            self.world.start(self._handler(call), self._host, scope=call.scope)
            self.most_at_once = max(self.most_at_once, self.policy.in_flight)

    def _look(self) -> None:
        self.sizes.append((self.world.now, self.policy.size))
        if self.world.now < self._until:
            self.world.after(1.0, self._look)

    @property
    def use(self) -> float:
        """How much of the backend's capacity was used, 0…1."""
        steps = [*self.backend.capacities, (self._until, 0)]
        offered = sum(size * (after - at) for (at, size), (after, _) in pairwise(steps))
        return self.backend.busy_s / offered

    def refused(self, since: float = 0.0, until: float = float("inf")) -> float:
        """The share of the calls that ended between these moments which the backend refused."""
        ends = [served for at, served in self.backend.ends if since <= at < until]
        return ends.count(False) / len(ends)

    def settled_s(self, since: float, within: range) -> float | None:
        """Seconds from ``since`` until the limit was within these sizes; ``None``: never."""
        return next((at - since for at, size in self.sizes if at >= since and size in within), None)

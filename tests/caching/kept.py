"""A world with a cache in it: virtual time, three tiers, and one look at what was served from where."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from client.forms import World
from tierllm import Deployment, Tier, TieredClient
from tierllm.caching.boards import Boards
from tierllm.caching.entry import Entry
from tierllm.caching.key import key_of
from tierllm.caching.layer import Board, Layer, LayerStats, Notice
from tierllm.caching.memory_layer import MemoryLayer
from tierllm.caching.result_cache import ResultCache
from tierllm.errors import StoreUnavailableError
from tierllm.testing import FakeProvider
from tierllm.types import Request, Response

DAY_S = 86_400.0


class Moments:
    """A clock that can be handed out before the world whose time it tells."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = lambda: 0.0

    def __call__(self) -> float:
        return self.clock()


class CachedWorld(World):
    """``World`` with a cache, whose options come as ``cache``; ``layers`` are made of the world's clock."""

    def __init__(
        self,
        tiers: Sequence[Tier] | None = None,
        *,
        layers: Callable[[Callable[[], float]], Sequence[Layer]] | None = None,
        cache: Mapping[str, Any] | None = None,
        virtual: bool = True,
        **settings: Any,
    ) -> None:
        moments = Moments()
        made = [MemoryLayer(clock=moments)] if layers is None else layers(moments)
        self.cache = ResultCache(made, **{"jitter": 0.0, "wall_clock": moments, **(cache or {})})
        super().__init__(tiers, virtual=virtual, cache=self.cache, **settings)
        moments.clock = self.time.clock if virtual else self.clock

    def how(self, prompt: Any = "Hello", **options: Any) -> str:
        """Make a call, and tell what the cache did."""
        trace = self.call(prompt, **options).ok.trace
        assert trace is not None
        assert trace.cache is not None
        return trace.cache


class FarLayer(Layer):
    """A shared layer in this process: entries and board in dictionaries; may be put out of reach."""

    def __init__(self, name: str = "far") -> None:
        self.name = name
        self.entries: dict[bytes, bytes] = {}
        self.notices: dict[str, Notice] = {}
        self.number = self.floor = 0
        self.away = False
        self.mute = False
        self.posts = self.reads = 0
        self.claims: dict[bytes, bytes] = {}
        super().__init__()

    def _there(self) -> None:
        if self.away:
            raise StoreUnavailableError(f"{self.name} is out of reach")

    def get(self, slot: bytes) -> bytes | None:
        self._there()
        return self.entries.get(slot)

    def set(self, slot: bytes, data: bytes, *, ttl_s: float, group: str = "") -> bool:
        self._there()
        self.entries[slot] = data
        return True

    def delete(self, slot: bytes) -> None:
        self._there()
        self.entries.pop(slot, None)

    def clear(self, group: str | None = None) -> None:
        self.entries.clear()

    def stats(self) -> LayerStats:
        self._there()
        return LayerStats(0, 0, 0, 0, 0, 0, len(self.entries), 0)

    def heard(self) -> int:
        return 0 if self.mute else self.number

    def post(self, notices: Sequence[Notice]) -> int:
        self._there()
        self.posts += 1
        self.number = max(self.number + 1, *(each.number for each in notices))
        for each in notices:
            self.notices[each.name] = each._replace(number=self.number)
        return self.number

    def board(self, since: int = 0) -> Board:
        self._there()
        self.reads += 1
        return Board(
            self.number, self.floor, tuple(each for each in self.notices.values() if each.number > since)
        )

    def claim(self, slot: bytes, owner: bytes, lease_s: float) -> bool:
        self._there()
        return self.claims.setdefault(slot, owner) == owner

    def release(self, slot: bytes, owner: bytes) -> None:
        self._there()
        if self.claims.get(slot) == owner:
            del self.claims[slot]

    def renew(self) -> None:
        pass


def entry_of(text: str = "an answer", prompt: str = "Hello", **fields: Any) -> Entry:
    """An entry that was made at 0 and is fresh for a day."""
    key = key_of(Request(messages=({"role": "user", "content": prompt},)), scope="nobody")
    assert key is not None
    known: dict[str, Any] = {
        "fingerprint": b"f" * 32,
        "made_at": 0.0,
        "fresh_until": DAY_S,
        "stale_until": DAY_S,
        "latency_s": 0.5,
    }
    response = Response(text=text, finish_reason="stop", tier="gold", deployment="g", model="g")
    return Entry.of(response, key, **{**known, **fields})


def one_tier(fake: FakeProvider, **tier: Any) -> list[Tier]:
    return [Tier("gold", [Deployment("g", fake)], **tier)]


def client_on(layers: Sequence[Layer], fake: FakeProvider | None = None, **cache: Any) -> TieredClient:
    """A client in real time with a cache on these layers."""
    return TieredClient(one_tier(fake or FakeProvider()), cache=ResultCache(layers, **cache))


def boards_on(*layers: Layer, wall: Callable[[], float] = lambda: 0.0) -> Boards:
    return Boards(layers, wall=wall)

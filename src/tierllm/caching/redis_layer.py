"""The layer that processes and hosts share: Redis, one round trip a step."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from ..errors import ConfigError
from ..events import Event, log_failure
from ..pipeline.clock import Clock
from ..stores.redis_clients import Clients
from ..stores.redis_trips import Ask, Trips
from ..stores.trouble import Health
from .layer import MOST_TTL_S, Board, Layer, LayerStats, Notice, check_set, checked_name, checked_ttl
from .memory_layer import checked_quotas
from .redis_board import Mget, RedisBoard
from .redis_board_scripts import CLAIM, RELEASE
from .redis_scripts import CLEAR, CLEARED_AT_ONCE, DELETE, KEEP, SLOTS, STATS

if TYPE_CHECKING:
    import redis

__all__ = ["RedisLayer"]

ENTRY_BYTES = 560
"""What an entry and its lines in the index take in Redis beside names and data: measured, rounded up."""

ROUNDING = 4
"""The server's memory comes in sizes up to one part in so many larger than what is asked for."""

SLOT_COPIES = 4
"""So often the slot is written: as the name of the entry, and in the index."""

LEAST_BYTES = 4096

MOST_DATA_BYTES = 4 * 2**20
"""At a gigabit a second it takes 34 ms, within the time-out: a longer one would look like trouble."""

_Found = Sequence[bytes | None]


class RedisLayer(Layer):
    """Entries in Redis (5 or later), shared by all that use the same server and ``namespace``. Thread-safe.

    ``url`` is a Redis URL; then no command is tried twice, and each waits ``timeout_s`` for the
    connection and for the answer. Or ``client`` is a ``redis.Redis`` with settings of your own, which
    is never closed here. After a failure the layer is left alone: everything raises
    ``StoreUnavailableError`` at once, until the thread that hears of news (below) finds Redis well again,
    trying every ``retry_s``; where there is none, a call tries again after ``retry_s``.

    Holds at most ``max_bytes``, what entries take in Redis beside their data counted; what is larger, or has
    more than 4 MiB of data, is not kept. Every entry has its time to live, and the index lives no longer
    than the entries. When room is needed, the group with the most bytes gives it, so that a batch pushes out
    its own; ``quotas`` guarantees shares of ``max_bytes`` to groups, as with ``MemoryLayer``. Within a group
    those go first that came once and were not asked for since (S3-FIFO, see ``redis_scripts``). An entry for
    which a group with less would have to give is not kept. All that share a namespace should give the same
    bounds.

    Notices that are known here are put back where Redis has lost them, before anything is answered;
    ``get`` sees that without a further round trip. From the first ``heard`` on a daemon thread, with a
    connection of its own, hears what others post, within milliseconds; with a ``client`` for a cluster, or
    where the server lets nobody subscribe, it asks every ``retry_s``. While Redis is out of reach, nothing
    is heard.

    A server with ``maxmemory`` should have room for ``max_bytes``, and evict by one of the ``volatile``
    policies: they leave the board alone. Where it drops a part of the index, everything is forgotten; where
    it drops all of it at once, ``clear`` and the bound miss entries until their time is over.

    Raises ``ConfigError`` where settings make no sense, or if the ``redis`` extra is missing.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: redis.Redis | None = None,
        namespace: str = "tierllm",
        max_bytes: int = 256 * 2**20,
        quotas: Mapping[str, float] | None = None,
        ttl_s: float | None = None,
        name: str = "redis",
        timeout_s: float = 0.05,
        retry_s: float = 1.0,
        clock: Clock = time.monotonic,
    ) -> None:
        if (url is None) == (client is None):
            raise ConfigError("RedisLayer takes either a url, such as redis://localhost:6379/0, or client=")
        if type(namespace) is not str or not namespace or "{" in namespace or "}" in namespace:
            raise ConfigError(
                "RedisLayer: namespace, the hash tag of all keys, must be a name without braces"
            )
        if type(max_bytes) is not int or not LEAST_BYTES <= max_bytes <= 2**52:
            raise ConfigError(
                f"RedisLayer(max_bytes={max_bytes!r}): give a whole number of bytes, {LEAST_BYTES} or more"
            )
        if not 0 < timeout_s < math.inf or not 0 <= retry_s < math.inf:
            raise ConfigError("RedisLayer: timeout_s must be above 0, and retry_s not below 0; both finite")
        self.max_bytes = max_bytes
        self.ttl_s = checked_ttl(ttl_s, "RedisLayer")
        self.name = checked_name(name, "RedisLayer")
        self.quotas = checked_quotas(quotas, "RedisLayer")
        self._clients = Clients(url, client, timeout_s, who="RedisLayer")
        self._base = f"{{{namespace}}}:cache".encode()
        self._entry = self._base + b":entry:"
        self._claim = self._base + b":claim:"
        self.health = Health(self.name, self._tell, retry_s=retry_s, clock=clock)
        self._trips = Trips(self._clients, self.health, keys=f"the keys {self._base.decode()}:*")
        self._board = RedisBoard(self._base, self._trips, self._clients, self.health)
        self._count_anew()
        super().__init__()
        if self._clients.has_async:
            self.aget, self.aset = self._aget, self._aset

    def __repr__(self) -> str:
        return f"<RedisLayer {self._clients.place} {self._base.decode()}>"

    # -- entries -------------------------------------------------------------------

    def get(self, slot: bytes) -> bytes | None:
        self.health.expect()
        knew = self._board.known.said
        data, saying = cast("_Found", self._trips.run(self._ask_get(slot)))
        if not self._board.known.takes(saying, knew):
            self._board.put_back()
        return self._got(data)

    async def _aget(self, slot: bytes) -> bytes | None:
        self.health.expect()
        knew = self._board.known.said
        data, saying = cast("_Found", await self._trips.arun(self._ask_get(slot)))
        if not self._board.known.takes(saying, knew):
            await self._board.aput_back()
        return self._got(data)

    def _ask_get(self, slot: bytes) -> Ask:
        # what is no string was not put there by a layer: a miss, and the next set replaces it
        return Mget(self._entry + slot, self._board.number)

    def _got(self, data: bytes | None) -> bytes | None:
        with self._lock:
            if data is None:
                self._misses += 1
            else:
                self._hits += 1
        return data

    def set(self, slot: bytes, data: bytes, *, ttl_s: float, group: str = "") -> bool:
        ask = self._ask_set(slot, data, ttl_s, group)
        self.health.expect()
        return self._was_set(ask, self._trips.run(ask))

    async def _aset(self, slot: bytes, data: bytes, ttl_s: float, group: str = "") -> bool:
        ask = self._ask_set(slot, data, ttl_s, group)
        self.health.expect()
        return self._was_set(ask, await self._trips.arun(ask))

    def _ask_set(self, slot: bytes, data: bytes, ttl_s: float, group: str) -> Ask:
        check_set(slot, data, ttl_s, group)
        name = _encoded(group)
        size = ENTRY_BYTES + SLOT_COPIES * len(slot) + 2 * len(name) + len(data) + len(data) // ROUNDING
        keys = (self._entry + slot,)
        if ttl_s < 0.001 or size > self.max_bytes or len(data) > MOST_DATA_BYTES:
            return Ask(DELETE, keys, (self._base, slot))
        least = int(self.quotas.get(group, 0) * self.max_bytes)
        life_ms = int(ttl_s * 1000)
        return Ask(KEEP, keys, (self._base, slot, data, life_ms, name, size, least, self.max_bytes))

    def _was_set(self, ask: Ask, reply: object) -> bool:
        kept, evicted, expired = cast("Sequence[int]", reply) if ask.script is KEEP else (0, 0, 0)
        with self._lock:
            if kept:
                self._sets += 1
            else:
                self._rejected += 1
            self._evictions += evicted
            self._expired += expired
        return bool(kept)

    def delete(self, slot: bytes) -> None:
        self.health.expect()
        self._trips.run(Ask(DELETE, (self._entry + slot,), (self._base, slot)))

    def clear(self, group: str | None = None) -> None:
        """Forget all entries of ``group``; ``None``: of every group. Some hundred in each round trip."""
        args = (self._base,) if group is None else (self._base, _encoded(group))
        cleared = CLEARED_AT_ONCE
        while cleared == CLEARED_AT_ONCE:
            self.health.expect()
            (cleared,) = cast("Sequence[int]", self._trips.run(Ask(CLEAR, (self._base + b":expiry",), args)))

    def stats(self) -> LayerStats:
        self.health.expect()
        ask = Ask(STATS, (self._base + b":expiry",), (self._base,))
        entries, held = cast("Sequence[int]", self._trips.run(ask))
        with self._lock:
            return LayerStats(
                self._hits,
                self._misses,
                self._sets,
                self._rejected,
                self._evictions,
                self._expired,
                entries,
                held,
            )

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """As in the index: what was lost from it is not seen. Whatever is there counts as asked for."""
        seen: set[bytes] = set()
        at, more = b"0", True
        while more:
            self.health.expect()
            ask = Ask(SLOTS, (self._base + b":expiry",), (self._base, at))
            at, *slots = cast("Sequence[bytes]", self._trips.run(ask))
            more = at != b"0"
            for slot in slots:
                if slot in seen:
                    continue
                seen.add(slot)
                self.health.expect()
                (data,) = cast("_Found", self._trips.run(Mget(self._entry + slot)))
                if data is not None:
                    yield slot, data

    # -- between processes -----------------------------------------------------------

    def heard(self) -> int:
        if not self._board.listens:
            self._board.listen()
        return self._board.known.said.number

    def post(self, notices: Sequence[Notice]) -> int:
        return self._board.post(notices)

    def board(self, since: int = 0) -> Board:
        return self._board.read(since)

    def claim(self, slot: bytes, owner: bytes, lease_s: float) -> bool:
        if type(lease_s) not in (float, int) or not 0 < lease_s <= MOST_TTL_S:
            raise ConfigError(f"RedisLayer.claim(lease_s={lease_s!r}): give seconds, above 0")
        self.health.expect()
        lease_ms = max(1, int(lease_s * 1000))
        return self._trips.run(Ask(CLAIM, (self._claim + slot,), (owner, lease_ms))) == 1

    def release(self, slot: bytes, owner: bytes) -> None:
        self.health.expect()
        self._trips.run(Ask(RELEASE, (self._claim + slot,), (owner,)))

    # -- life ----------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        emit: Callable[[Event], None] | None = self.emit
        if emit is None:
            return
        try:
            emit(event)
        except Exception:
            log_failure(f"a listener failed on {type(event).__name__}")

    def close(self) -> None:
        self._board.close()
        self._clients.close()

    async def aclose(self) -> None:
        self._board.close()
        await self._clients.aclose()

    def renew(self) -> None:
        self._clients.renew()
        self.health.renew()
        self._board.renew()
        self._count_anew()

    def _count_anew(self) -> None:
        self._lock = threading.Lock()
        self._hits = self._misses = self._sets = self._rejected = self._evictions = self._expired = 0


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")

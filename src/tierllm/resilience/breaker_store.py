"""A breaker's memory outside the process: what it found out, shared and kept over restarts.

Shared is what was found out (open until when, closed again, forced), not single calls and not
probes: each process probes for itself. A store that fails costs nothing but the sharing.
"""

from __future__ import annotations

import json
import math
import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import ConfigError
from ..events import log
from ..pipeline.clock import Clock
from ..stores import Store

if TYPE_CHECKING:
    from .breaker_state import BreakerState

__all__ = [
    "BreakerLink",
    "BreakerSnapshot",
    "BreakerStore",
    "DocumentBreakerStore",
    "MemoryBreakerStore",
    "breaker_store",
]

REMEMBERED_S = 30 * 86_400.0
"""So long after its last change a breaker's state is remembered in a store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSnapshot:
    """A breaker's state as plain data, with times of the wall clock (Unix seconds).

    ``generation`` counts what was published under one name. ``dataclasses.asdict`` gives JSON.
    """

    generation: int
    state: str
    reason: str = ""
    open_for_s: float = 0.0
    open_until_unix_s: float | None = None


class BreakerStore(Protocol):
    """Where breakers of one name meet. Both methods may be called from any thread, and may raise."""

    def load(self, name: str) -> BreakerSnapshot | None:
        """The latest snapshot of ``name``, if there is one."""

    def publish(self, name: str, snapshot: BreakerSnapshot, expected_generation: int) -> bool:
        """Keep ``snapshot`` if the latest one's generation is ``expected_generation`` (0: none yet)."""


class MemoryBreakerStore:
    """Shared within one process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._snapshots: dict[str, BreakerSnapshot] = {}

    def load(self, name: str) -> BreakerSnapshot | None:
        return self._snapshots.get(name)

    def publish(self, name: str, snapshot: BreakerSnapshot, expected_generation: int) -> bool:
        with self._lock:
            latest = self._snapshots.get(name)
            if (0 if latest is None else latest.generation) != expected_generation:
                return False
            self._snapshots[name] = snapshot
            return True


class DocumentBreakerStore:
    """Breakers that meet in a store, as documents of JSON. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self, name: str) -> BreakerSnapshot | None:
        return _snapshot(name, self._store.load(_document(name)))

    def publish(self, name: str, snapshot: BreakerSnapshot, expected_generation: int) -> bool:
        raw = self._store.load(_document(name))
        latest = _snapshot(name, raw)
        if (0 if latest is None else latest.generation) != expected_generation:
            return False
        value = json.dumps(asdict(snapshot)).encode()
        return self._store.swap(_document(name), value, raw, ttl_s=REMEMBERED_S)


def breaker_store(store: BreakerStore | Store) -> BreakerStore:
    """What a breaker can use of a ``store``."""
    return DocumentBreakerStore(store) if isinstance(store, Store) else store


def _document(name: str) -> str:
    return f"breaker:{name}"


def _snapshot(name: str, raw: bytes | None) -> BreakerSnapshot | None:
    """What ``raw`` says; nothing, with a warning, if that is no snapshot."""
    if raw is None:
        return None
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    match found:
        case {
            "generation": int(generation),
            "state": str(state),
            "reason": str(reason),
            "open_for_s": int(open_for_s) | float(open_for_s),
            "open_until_unix_s": int() | float() | None as until,
        } if _finite(open_for_s) and _finite(until or 0):
            return BreakerSnapshot(
                generation=generation,
                state=state,
                reason=reason,
                open_for_s=open_for_s,
                open_until_unix_s=until,
            )
    log.warning("circuit breaker %r: what the store has under its name is no breaker's state", name)
    return None


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond all floats
        return False


class BreakerLink:
    """Keeps one breaker's state and its store in step; the store is never called under ``lock``."""

    def __init__(
        self, store: BreakerStore, state: BreakerState, lock: threading.RLock, wall_clock: Clock
    ) -> None:
        self._store = store
        self._state = state
        self._wall_clock = wall_clock
        self._due_at = float("-inf")
        self._seen = 0  # the store's generation that this breaker knows
        self._told = state.generation.number  # the own generation that the store knows
        self._reachable = True
        self.renew(lock)

    def renew(self, lock: threading.RLock) -> None:
        """Use the breaker's lock, which is a new one after a fork."""
        self._lock = lock
        self._busy = threading.Lock()

    @property
    def due(self) -> bool:
        """Whether there is something to tell, or it is time to ask."""
        return self._state.clock() >= self._due_at or (self._reachable and self._untold)

    def sync(self) -> None:
        """Tell what changed and learn what others found out. One thread does it, the others go on."""
        for _ in range(2):  # twice: a change may come meanwhile, or lose against another's
            if not self.due or not self._busy.acquire(blocking=False):
                return
            try:
                self._exchange()
            finally:
                self._busy.release()

    @property
    def _untold(self) -> bool:
        generation = self._state.generation
        return generation.number != self._told and generation.state != "half_open"

    def _exchange(self) -> None:
        state = self._state
        if not state.name:
            raise ConfigError("a CircuitBreaker with a store needs a name under which to share: give name=")
        self._due_at = state.clock() + state.settings.store_refresh_s
        with self._lock:
            untold, number, mine = self._untold, state.generation.number, self._snapshot()
        try:
            published = untold and self._store.publish(state.name, mine, self._seen)
            theirs = None if published else self._store.load(state.name)
        except Exception as error:  # whatever a store raises, a call must not fail for it
            if self._reachable:
                log.warning("circuit breaker %r goes on without its store: %s", state.name, error)
            self._reachable = False
            return
        self._reachable = True
        if published:
            self._seen, self._told = mine.generation, number
        elif theirs is None:
            self._seen = 0
        elif theirs.generation != self._seen:
            self._seen = theirs.generation
            with self._lock:
                if state.adopt(theirs, self._wall_clock()):
                    self._told = state.generation.number

    def _snapshot(self) -> BreakerSnapshot:
        state = self._state
        generation = state.generation
        left = generation.until - state.clock()
        return BreakerSnapshot(
            generation=self._seen + 1,
            state=generation.state,
            reason=state.reason,
            open_for_s=state.open_for_s,
            open_until_unix_s=self._wall_clock() + left if generation.state == "open" else None,
        )

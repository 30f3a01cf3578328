"""Bindings that processes share: small documents in a store, read where nothing is known, written behind."""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from ..errors import StoreUnavailableError
from ..events import log
from ..pipeline.effects import Blocking
from .bindings import MOST_MOVES, Binding, Bindings, Returns

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..stores import Store

__all__ = ["SharedBindings"]

CHECK_S: Final = 60.0
"""A binding that is in use is compared with the store's so often, in the background."""

WAITING: Final = 10_000
"""So many wait to be written at most; the oldest are left out, which costs their being shared."""

SKEW_S: Final = 2.0
"""Clocks of hosts may differ by so much."""

ABSENT_S: Final = 5.0
"""For so long a session that nobody knew is not asked for again."""

OUT_S: Final = 2.0
"""For so long nothing is read from a store that was out of reach."""

COMPLAIN_AGAIN_S: Final = 60.0
TRIES: Final = 3
LARGEST_BYTES: Final = 2_000
LONGEST_NAME: Final = 200

SAME_S: Final = 0.01
"""Moves as near as this are one: they are told by two clocks, which are read one after the other."""


class SharedBindings:
    """Keeps ``table`` and what ``store`` has in step. Of two that differ, the one that moved last holds.

    Nothing here raises for a store that is out of reach: that is logged once a minute. Times in the store
    are those of the wall clock, which should agree between hosts to a second or so. Names of documents are
    hashes of the sessions' keys, with ``salt``; in them are names of tiers and deployments.
    """

    def __init__(
        self,
        store: Store,
        table: Bindings,
        *,
        returns: Returns,
        level: Mapping[str, int],
        clock: Clock,
        wall: Clock,
        soon: Callable[[Callable[[], object]], object] | None,
        salt: str = "",
    ) -> None:
        self.store = store
        self.table = table
        self.returns = returns
        self.level = level
        self.check_s = min(CHECK_S, table.ttl_s / 4)
        self.read = self.found = self.written = self.adopted = self.failed = 0
        self._clock = clock
        self._wall = wall
        self._soon = soon
        self._salt = blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self._complain_at = -math.inf
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, Binding] = OrderedDict()
        self._absent: OrderedDict[int, float] = OrderedDict()
        self._out_until = -math.inf
        self._busy = False

    def name_of(self, key: str) -> str:
        """The name of a document: who has the store learns no user's name by it."""
        digest = blake2b(
            key.encode("utf-8", "surrogatepass"), digest_size=16, key=self._salt, person=b"tierllm.sticky"
        )
        return f"sticky:{digest.hexdigest()}"

    async def fetch(self, key: str) -> Binding | None:
        """What the store knows of ``key``, for a session that is not known here."""
        now = self._clock()
        if now < self._out_until or now < self._absent.get(hash(key), now):
            return None
        if self.store.inline:
            return self._fetched(key)
        return await Blocking(lambda: self._fetched(key))

    def _fetched(self, key: str) -> Binding | None:
        self.read += 1
        try:
            raw = self.store.load(self.name_of(key))
        except StoreUnavailableError as error:
            self._complain(error)
            return None
        told = self._parsed(raw)
        binding = None if told is None else self.table.put(key, told, self._clock())
        if binding is None:
            self._note_absent(key)
        else:
            self.found += 1
        return binding

    def _note_absent(self, key: str) -> None:
        """Nobody knows of it: answers from a cache bind nobody, and must not read the store each time."""
        with self._lock:
            self._absent[hash(key)] = self._clock() + ABSENT_S
            if len(self._absent) > WAITING:
                self._absent.popitem(last=False)

    def due(self, binding: Binding, now: float) -> bool:
        """Whether it is time to ask the store whether somebody else has moved it."""
        return now - binding.checked_at >= self.check_s

    def later(self, key: str, binding: Binding) -> None:
        """Compare with what the store has, and write, in the background."""
        binding.checked_at = self._clock()
        with self._lock:
            self._waiting[key] = binding
            if len(self._waiting) > WAITING:
                self._waiting.popitem(last=False)
            if self._busy:
                return
            self._busy = True
        try:
            if self._soon is None:
                self._exchange_all()
            else:
                self._soon(self._exchange_all)
        except RuntimeError:  # no thread is to be had: it is not shared, which no call may fail for
            self._busy = False

    def _exchange_all(self) -> None:
        try:
            while True:
                with self._lock:
                    if not self._waiting:
                        self._busy = False
                        return
                    key, binding = self._waiting.popitem(last=False)
                self._exchange(key, binding)
        except BaseException as error:
            with self._lock:
                self._waiting.clear()
                self._busy = False
            if not isinstance(error, StoreUnavailableError):
                raise
            self._complain(error)

    def _exchange(self, key: str, ours: Binding) -> None:
        name = self.name_of(key)
        for _ in range(TRIES):
            raw = self.store.load(name)
            theirs = self._parsed(raw)
            if theirs is not None:
                if theirs.since > ours.since + SAME_S and not self._is_ahead(raw):
                    self.adopted += 1
                    self.table.put(key, theirs, self._clock())
                    return
                same = abs(theirs.since - ours.since) <= SAME_S and theirs.place == ours.place
                if same and ours.used_at - theirs.used_at < self.table.ttl_s / 2:
                    return
            if self.store.swap(name, self._document(ours), raw, ttl_s=self.table.ttl_s):
                self.written += 1
                return

    def _complain(self, error: StoreUnavailableError) -> None:
        self.failed += 1
        now = self._clock()
        self._out_until = now + OUT_S
        if now >= self._complain_at:
            self._complain_at = now + COMPLAIN_AGAIN_S
            log.warning("sticky sessions go by what this process knows: %s", error)

    # -- documents ---------------------------------------------------------------

    def _document(self, binding: Binding) -> bytes:
        ahead_s = self._wall() - self._clock()
        row = {
            "home": binding.home,
            "at": binding.place,
            "since": round(binding.since + ahead_s, 3),
            "used": round(binding.used_at + ahead_s, 3),
            "why": binding.why[:LONGEST_NAME],
            "moves": [round(at + ahead_s, 3) for at in binding.moves],
            "granted": binding.granted,
        }
        if binding.loose:
            row["loose"] = True
        return json.dumps(row, separators=(",", ":")).encode()

    def _parsed(self, raw: bytes | None) -> Binding | None:
        """The binding that ``raw`` tells of; ``None`` where it is none, or of a tier that is not there."""
        if raw is None or len(raw) > LARGEST_BYTES:
            return None
        try:
            found: Any = json.loads(raw)
        except (ValueError, RecursionError):
            return None
        match found:
            case {
                "home": [str(home_tier), str(home_name)],
                "at": [str(tier), str(name)],
                "since": int() | float() as since,
                "used": int() | float() as used,
                "why": str(why),
                "moves": list(moves),
            } if (
                tier in self.level
                and 0 < len(name) <= LONGEST_NAME
                and len(home_name) <= LONGEST_NAME
                and len(why) <= LONGEST_NAME
                and len(moves) <= MOST_MOVES
                and all(_is_time(at) for at in (since, used, *moves))
            ):
                told = self._binding((home_tier, home_name), (tier, name), since, used, why, moves)
                granted = found.get("granted")
                told.granted = granted if isinstance(granted, str) and granted in self.level else ""
                told.loose = found.get("loose") is True
                return told
        return None

    def _binding(
        self,
        home: tuple[str, str],
        place: tuple[str, str],
        since: float,
        used: float,
        why: str,
        moves: list[float],
    ) -> Binding:
        now = self._clock()
        behind_s = now - self._wall()
        binding = Binding(place, now)
        binding.since = min(since + behind_s, now)
        binding.used_at = max(min(used + behind_s, now), binding.since)
        if home[0] in self.level and home != place:
            binding.home, binding.why = home, why
            binding.back_at = binding.since + self.returns.wait_s(home, place, self.level)
        binding.moves = tuple(sorted(min(at + behind_s, now) for at in moves))
        return binding

    def _is_ahead(self, raw: bytes | None) -> bool:
        """Whether ``raw``, which is a document, tells of a move that has yet to come: its clock is wrong, and
        it would be the newest for as long as that."""
        since: float = json.loads(raw or b"")["since"]
        return since > self._wall() + SKEW_S

    def status(self) -> dict[str, int]:
        return {
            "read": self.read,
            "found": self.found,
            "written": self.written,
            "adopted": self.adopted,
            "failed": self.failed,
            "waiting": len(self._waiting),
        }

    def renew(self) -> None:
        """After a fork: what waits is the parent's to write."""
        self._lock = threading.Lock()
        self._waiting = OrderedDict()
        self._busy = False


def _is_time(at: object) -> bool:
    if isinstance(at, bool) or not isinstance(at, int | float):
        return False
    try:
        return math.isfinite(at)
    except OverflowError:  # an integer beyond all floats
        return False

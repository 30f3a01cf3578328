"""The layer in this process's memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from ..errors import ConfigError
from .admission import MOST_HITS, Kept, Share
from .layer import Layer, LayerStats, check_set, checked_name, checked_ttl

__all__ = ["MemoryLayer"]

ENTRY_BYTES = 640
"""What an entry takes beside its slot, its data and its group: measured, at its worst."""

NAME_BYTES = 80
"""What the name of a group takes beside its characters. Each entry may have brought its own."""

LEAST_BYTES = 4096

NARROWEST = 256
"""Tables for so many entries are not worth shrinking."""


class MemoryLayer(Layer):
    """Entries in memory, shared by the threads and tasks of one process; gone with it.

    Holds at most ``max_entries`` entries and ``max_bytes`` bytes, everything that an entry takes
    counted (the empty layer takes 6 KB); what is larger than that is not kept. Which entries go when
    room is needed is decided by S3-FIFO (Yang et al., SOSP 2023): keys that come once cannot push out
    those that come often. Entries whose time is over go when they are asked for, or when their turn comes.

    ``quotas`` guarantees shares of both bounds to groups: ``{"gold": 0.5, "bronze": 0.1}``. Groups that
    are not named share what is left over. While a group holds no more than its share, nobody
    else's entries push out its own. Room that a group does not use is lent to the others, and taken back
    when the group comes for it: from whoever is furthest above his share. An entry that could
    only be kept by taking from a group within its share is not kept.

    ``clock`` tells seconds, from any beginning. If it is set back, entries made later than what it
    tells now are forgotten. Thread-safe; never waits, never fails. Raises ``ConfigError`` for bounds
    that make no sense.
    """

    inline = True
    shared = False

    def __init__(
        self,
        *,
        max_bytes: int = 64 * 2**20,
        max_entries: int = 10_000,
        quotas: Mapping[str, float] | None = None,
        ttl_s: float | None = None,
        name: str = "memory",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if type(max_bytes) is not int or max_bytes < LEAST_BYTES:
            raise ConfigError(
                f"MemoryLayer(max_bytes={max_bytes!r}): give a whole number of bytes, {LEAST_BYTES} or more"
            )
        if type(max_entries) is not int or max_entries < 1:
            raise ConfigError(f"MemoryLayer(max_entries={max_entries!r}): give a whole number, 1 or more")
        if not callable(clock):
            raise ConfigError(f"MemoryLayer(clock={clock!r}): give a function that tells seconds")
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.ttl_s = checked_ttl(ttl_s, "MemoryLayer")
        self.name = checked_name(name, "MemoryLayer")
        self.quotas = checked_quotas(quotas, "MemoryLayer")
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[bytes, Kept] = {}
        self._bytes = 0
        self._widest = NARROWEST
        self._shares = {
            group: Share(int(share * max_bytes), int(share * max_entries))
            for group, share in self.quotas.items()
        }
        self._rest = Share(
            max(0, max_bytes - sum(share.least_bytes for share in self._shares.values())),
            max(0, max_entries - sum(share.least_entries for share in self._shares.values())),
        )
        self._all = (*self._shares.values(), self._rest)
        self._count_anew()
        super().__init__()

    def __repr__(self) -> str:
        return f"MemoryLayer({len(self._entries)} of {self.max_entries} entries, {self._bytes} bytes)"

    def get(self, slot: bytes) -> bytes | None:
        found = self.find(slot)
        return found if isinstance(found, bytes) else None

    def find(self, slot: bytes) -> object | None:
        """What was kept last under ``slot``, bytes or not."""
        with self._lock:
            entry = self._entries.get(slot)
            if entry is not None:
                # read under the lock: an entry must not be younger than "now"
                if entry.set_at <= self._clock() < entry.expires_at:
                    if entry.hits < MOST_HITS:
                        entry.hits += 1
                    self._hits += 1
                    return entry.data
                self._expire(entry)
            self._misses += 1
            return None

    def look(self, slot: bytes) -> object | None:
        """``find``, without counting as a question."""
        with self._lock:
            entry = self._entries.get(slot)
            return entry.data if entry is not None and entry.alive(self._clock()) else None

    def set(self, slot: bytes, data: bytes, *, ttl_s: float, group: str = "") -> bool:
        check_set(slot, data, ttl_s, group)
        return self.keep(slot, data, size=len(data), ttl_s=ttl_s, group=group)

    def keep(self, slot: bytes, data: object, *, size: int, ttl_s: float, group: str = "") -> bool:
        """``set`` for anything that nobody can change, and which takes ``size`` bytes."""
        size += ENTRY_BYTES + len(slot)
        if group:
            size += NAME_BYTES + 4 * len(group)  # a character takes 4 bytes at most
        share = self._shares.get(group, self._rest)
        with self._lock:
            try:
                now = self._clock()
                before = self._entries.get(slot)
                if before is not None:
                    self._take_out(before)
                if ttl_s <= 0 or not self._make_room(share, size, now):
                    self._rejected += 1
                    return False
                entry = Kept(slot, data, now, now + ttl_s, group, size)
                if before is not None:  # what was asked for often is no newcomer
                    entry.hits = before.hits
                    entry.proven = before.proven
                self._entries[slot] = entry
                share.add(entry)
                self._bytes += size
                self._sets += 1
                held = len(self._entries)
                if held > self._widest:
                    self._widest = held
                elif held < self._widest // 4:
                    self._narrow()
                return True
            except BaseException:  # Ctrl-C in the middle: better empty than wrong
                self._forget()
                raise

    def delete(self, slot: bytes) -> None:
        with self._lock:
            entry = self._entries.get(slot)
            if entry is not None:
                self._take_out(entry)

    def clear(self, group: str | None = None) -> None:
        with self._lock:
            if group is None:
                self._forget()
                return
            for entry in [each for each in self._entries.values() if each.group == group]:
                self._take_out(entry)

    def stats(self) -> LayerStats:
        with self._lock:
            return LayerStats(
                self._hits,
                self._misses,
                self._sets,
                self._rejected,
                self._evictions,
                self._expired,
                len(self._entries),
                self._bytes,
            )

    def held(self, group: str) -> tuple[int, int]:
        """Entries and bytes of a group that has a quota; for any other, of all that have none."""
        with self._lock:
            share = self._shares.get(group, self._rest)
            return share.entries, share.bytes

    # -- room --------------------------------------------------------------------

    def _make_room(self, share: Share, size: int, now: float) -> bool:
        """Room for ``size`` bytes more in ``share``. False, with nothing taken out, if it cannot be."""
        if size > self.max_bytes or (self._shares and not self._can_have(share, size)):
            return False
        while (over := self._bytes + size > self.max_bytes) or len(self._entries) >= self.max_entries:
            loser = self._furthest_above(share, size, by_bytes=over) if self._shares else self._rest
            gone = loser.victim(now)
            del self._entries[gone.slot]
            self._bytes -= gone.size
            if gone.alive(now):
                self._evictions += 1
            else:
                self._expired += 1
        return True

    def _can_have(self, share: Share, size: int) -> bool:
        """Whether it fits once everybody else is back within his share."""
        if size <= share.least_bytes and share.least_entries:
            return True
        others = [each for each in self._all if each is not share]
        kept_bytes = sum(min(each.bytes, each.least_bytes) for each in others)
        kept_entries = sum(min(each.entries, each.least_entries) for each in others)
        return kept_bytes + size <= self.max_bytes and kept_entries < self.max_entries

    def _furthest_above(self, share: Share, size: int, *, by_bytes: bool) -> Share:
        """Who gives room. The shares sum up to the whole, so that somebody is above his own."""
        loser, furthest = share, float("-inf")
        for each in self._all:
            if by_bytes:
                above = each.bytes - each.least_bytes + (size if each is share else 0)
            else:
                above = each.entries - each.least_entries + (each is share)
            if above > furthest and each.entries:
                loser, furthest = each, above
        return loser

    def _narrow(self) -> None:
        """Tables never shrink by themselves: many small entries gave way to few large ones."""
        self._entries = dict(self._entries)
        for share in self._all:
            share.narrow()
        self._widest = len(self._entries) + NARROWEST

    def _expire(self, entry: Kept) -> None:
        share, slot = self._shares.get(entry.group, self._rest), entry.slot
        self._take_out(entry)
        self._expired += 1
        if entry.hits or entry.proven:  # it is asked for, and will be set again
            share.remember(slot)

    def _take_out(self, entry: Kept) -> None:
        try:
            del self._entries[entry.slot]
            self._bytes -= entry.size
            self._shares.get(entry.group, self._rest).remove(entry)
        except BaseException:  # as in ``set``
            self._forget()
            raise

    # -- life ----------------------------------------------------------------------

    def close(self) -> None:
        """Forget everything."""
        self.clear()

    def renew(self) -> None:
        """The child goes on with the parent's entries, unless somebody was changing them just then."""
        if self._lock.locked():
            self._forget()
        self._lock = threading.Lock()
        self._count_anew()

    def _forget(self) -> None:
        self._entries = {}
        self._bytes = 0
        self._widest = NARROWEST
        for share in self._all:
            share.forget()

    def _count_anew(self) -> None:
        self._hits = self._misses = self._sets = self._rejected = self._evictions = self._expired = 0


def checked_quotas(quotas: Mapping[str, float] | None, who: str) -> dict[str, float]:
    """The shares, as given to the layer ``who``."""
    if quotas is None:
        return {}
    if not isinstance(quotas, Mapping):
        raise ConfigError(
            f"{who}(quotas={quotas!r}): give a mapping of groups to shares, such as {{'gold': 0.5}}"
        )
    for group, share in quotas.items():
        if type(group) is not str:
            raise ConfigError(f"{who}(quotas={{{group!r}: ...}}): groups are names")
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise ConfigError(f"{who}(quotas={{{group!r}: {share!r}}}): give a share from 0 to 1")
    if sum(quotas.values()) > 1 + 1e-9:
        raise ConfigError(f"{who}(quotas=...): they sum up to {sum(quotas.values()):g}; 1 is the whole")
    return dict(quotas)

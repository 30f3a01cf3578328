"""Which entries stay in memory when room is needed."""

from __future__ import annotations

from collections import deque

__all__ = ["Kept", "Share"]

MOST_HITS = 3
"""Hits are counted up to here: more would keep an entry long after its day."""

PROVEN_HITS = 2
"""With so many hits an entry leaves the small queue for the main one."""

SMALL = 10
"""The small queue has one in so many bytes of its share."""

MOST_SPARED = 512
"""So many entries are spared in a row, for the sake of whoever waits for the room."""

FEW_SHELLS = 64
"""So many empty shells are not worth clearing away."""


class Kept:
    """One entry. ``data`` is ``None`` once it was taken out; a queue may still hold the shell."""

    __slots__ = ("data", "expires_at", "group", "hits", "proven", "set_at", "size", "slot")

    def __init__(
        self, slot: bytes, data: object, set_at: float, expires_at: float, group: str, size: int
    ) -> None:
        self.slot = slot
        self.data: object | None = data
        self.set_at = set_at
        self.expires_at = expires_at
        self.group = group
        self.size = size
        self.hits = 0
        self.proven = False

    def alive(self, now: float) -> bool:
        """Whether it may be answered with. A clock that was set back makes it count as over."""
        return self.set_at <= now < self.expires_at


class Share:
    """The entries of one group, and in which order they go.

    S3-FIFO (Yang et al., *FIFO queues are all you need for cache eviction*, SOSP 2023): new entries pass
    through a small queue, and only those that were hit there get into the main one, so that keys that
    come once only push out each other. Those that were dropped from the small queue are remembered
    for a while without their data; one that comes back goes to the main queue at once. In the
    main queue each hit buys one more round. A hit moves nothing: it counts.

    ``least_bytes`` and ``least_entries`` are what other shares cannot take from it. Needs a lock around it.
    """

    __slots__ = (
        "_dead",
        "_main",
        "_remembered",
        "_remembered_in_order",
        "_small",
        "_small_bytes",
        "bytes",
        "entries",
        "least_bytes",
        "least_entries",
    )

    def __init__(self, least_bytes: int, least_entries: int) -> None:
        self.least_bytes = least_bytes
        self.least_entries = least_entries
        self.forget()

    def forget(self) -> None:
        """Begin anew, with nothing."""
        self.bytes = self.entries = 0
        self._small_bytes = self._dead = 0
        self._small: deque[Kept] = deque()
        self._main: deque[Kept] = deque()
        self._remembered: set[int] = set()
        self._remembered_in_order: deque[int] = deque()

    def add(self, entry: Kept) -> None:
        """Take ``entry`` in. It is put into the main queue if it is proven, or remembered."""
        known = hash(entry.slot)
        if known in self._remembered:
            self._remembered.discard(known)
            entry.proven = True
        if entry.proven:
            self._main.append(entry)
        else:
            self._small.append(entry)
            self._small_bytes += entry.size
        self.bytes += entry.size
        self.entries += 1

    def remove(self, entry: Kept) -> None:
        """Take out an entry wherever it is. An empty shell stays in its queue until it comes up."""
        self._subtract(entry)
        entry.slot, entry.group, entry.set_at, entry.expires_at, entry.size = b"", "", 0.0, 0.0, 0
        self._dead += 1
        if self._dead > self.entries // 2 + FEW_SHELLS:
            self._small = deque(each for each in self._small if each.data is not None)
            self._main = deque(each for each in self._main if each.data is not None)
            self._dead = 0
        self._trim()

    def victim(self, now: float) -> Kept:
        """Take out the entry whose turn it is to go. There must be one."""
        spared = 0
        while True:
            # the share holds something, and so does the queue that is chosen
            from_small = self._small_bytes * SMALL >= self.bytes
            entry = (self._small if from_small else self._main).popleft()
            if entry.data is None:
                self._dead -= 1
                continue
            alive = entry.alive(now)
            if alive and entry.hits >= (PROVEN_HITS if from_small else 1) and spared < MOST_SPARED:
                spared += 1
                if from_small:
                    entry.hits = 0
                    entry.proven = True
                    self._small_bytes -= entry.size
                else:
                    entry.hits -= 1
                self._main.append(entry)
                continue
            self._subtract(entry)
            if from_small and alive:
                self.remember(entry.slot)
            else:
                self._trim()
            return entry

    def remember(self, slot: bytes) -> None:
        """If ``slot`` comes back soon, it is worth keeping."""
        known = hash(slot)
        if known not in self._remembered:
            self._remembered.add(known)
            self._remembered_in_order.append(known)
        self._trim()

    def narrow(self) -> None:
        """Give up room that the tables do not need any more."""
        self._remembered = set(self._remembered)

    def _subtract(self, entry: Kept) -> None:
        entry.data = None
        self.bytes -= entry.size
        self.entries -= 1
        if not entry.proven:
            self._small_bytes -= entry.size

    def _trim(self) -> None:
        # No more is remembered than is held: an entry is charged for one memory too. (What was found
        # again and dropped again stands here twice and goes with the first: it only returns the long way.)
        while len(self._remembered_in_order) > self.entries:
            self._remembered.discard(self._remembered_in_order.popleft())

"""The layer on this machine's disk."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..errors import ConfigError, StoreUnavailableError
from ..events import Event, log_failure
from ..pipeline.clock import Clock
from ..stores.disk_fork import close_before_fork
from ..stores.disk_place import Place
from ..stores.trouble import Health
from .disk_board import DiskBoard
from .disk_database import DiskDatabase
from .layer import MOST_TTL_S, Board, Layer, LayerStats, Notice, check_set, checked_name, checked_ttl
from .memory_layer import checked_quotas

if TYPE_CHECKING:
    from .disk_claims import Process
    from .disk_rows import Rows

__all__ = ["DiskLayer"]

T = TypeVar("T")

WITHIN = "answers"
"""A directory of its own within the one that is named: a store may have its accounts in that one."""

LEAST_BYTES = 2**20

MOST_OUTDATED = 10_000
"""So many slots are remembered for which the disk may still have what could not be replaced."""


class DiskLayer(Layer):
    """Entries in a directory, shared by all processes of one machine that use the same one.

    They outlive the processes. The directory is made with mode 0700; it must be on a local disk, yours,
    and not writable by others. The database with its journal takes at most about ``max_bytes``; an entry
    above a sixteenth of that, or 64 MiB, is not kept. A step waits up to ``timeout_s`` for other processes
    and threads. After a failure the layer refuses at once for ``retry_s``; a full disk is still read from.

    Which entries go when room is needed is decided by S3-FIFO (Yang et al., SOSP 2023), as in memory: keys
    that come once cannot push out those that come often. That an entry was asked for is known to the
    process that asked; that it was set again while it was here, to all.

    ``quotas`` guarantees shares of it to groups: ``{"gold": 0.5}``. Groups that are not named share what is
    left over, and the largest of them gives room. While a group takes no more than its share of what all
    take, nobody else's entries push out its own; room is given by whoever is furthest above his share. An
    entry that could only be kept by taking from a group within its share is not kept. Processes that
    share a directory should give the same bounds.

    A damaged database is moved aside within the directory, which takes as much room again until the next
    one is; a damaged entry likewise, within the database. Both are misses, and told by a
    ``StoreTrouble`` event. Nothing found in the directory is ever executed, nor read as a file name.

    The board is a file of its own, and outlives the database; ``post`` returns once it is on the disk. If it
    is damaged, or was deleted while nobody used it, no entry made before is valid any more; if it was
    deleted while it was in use, what this process knows of it is put back. A claim ends at once with its
    process, where ``/proc`` tells of that, and otherwise with its time.

    ``wall_clock`` tells seconds since 1970. If it is set back, entries made later than what it tells now
    are missed. ``clock``, for ``retry_s``, tells seconds from any beginning. ``read_only`` is for looking
    at a cache that is there: nothing is made, mended or moved aside, and what is damaged reads as ``b""``.
    Thread-safe; blocks, so it is not to be called on an event loop. Raises ``ConfigError`` where the
    directory is not safe.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_bytes: int = 2**30,
        quotas: Mapping[str, float] | None = None,
        ttl_s: float | None = None,
        name: str = "disk",
        timeout_s: float = 0.5,
        retry_s: float = 5.0,
        read_only: bool = False,
        clock: Clock = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if type(max_bytes) is not int or max_bytes < LEAST_BYTES:
            raise ConfigError(
                f"DiskLayer(max_bytes={max_bytes!r}): give a whole number of bytes, {LEAST_BYTES} or more"
            )
        if type(timeout_s) not in (int, float) or not 0 < timeout_s <= 86_400:
            raise ConfigError(f"DiskLayer(timeout_s={timeout_s!r}): give seconds, above 0 and at most a day")
        if type(retry_s) not in (int, float) or not 0 <= retry_s <= 86_400:
            raise ConfigError(f"DiskLayer(retry_s={retry_s!r}): give seconds, from 0 to a day")
        if not isinstance(directory, str | os.PathLike):
            raise ConfigError(f"DiskLayer(directory={directory!r}): give the path of a directory")
        self.max_bytes = max_bytes
        self.ttl_s = checked_ttl(ttl_s, "DiskLayer")
        self.name = checked_name(name, "DiskLayer")
        self.quotas = checked_quotas(quotas, "DiskLayer")
        self._wall_clock = wall_clock
        outer = Path(directory).expanduser().absolute()
        place = Place(outer / WITHIN, timeout_s, used_by="DiskLayer")
        boards, databases = DiskBoard, DiskDatabase
        if read_only:
            from .disk_seen import SeenBoard, SeenDatabase

            if not place.database.exists():
                raise ConfigError(f"DiskLayer(read_only=True): there is no cache in {outer}")
            boards, databases = SeenBoard, SeenDatabase
        try:
            for each in (Place(outer, timeout_s, used_by="DiskLayer"), place):
                each.prepare()
        except OSError:
            pass  # said by the first use, as trouble that may pass
        told = f"disk {outer}"
        self._reading = Health(told, self._tell, retry_s=retry_s, clock=clock)
        self._writing = Health(told, self._tell, retry_s=retry_s, clock=clock)
        posting = Health(told, self._tell, retry_s=retry_s, clock=clock)
        self._board = boards(place, posting, wall_clock)
        self._database = databases(told, place, max_bytes, self.quotas, self._board.begin)
        self._process: tuple[Process | None] | None = None
        self._directory = outer
        self._outdated: dict[bytes, None] = {}
        self._count_anew()
        super().__init__()
        close_before_fork(self)

    def __repr__(self) -> str:
        return f"<DiskLayer {str(self._directory)!r}, at most {self.max_bytes} bytes>"

    def get(self, slot: bytes) -> bytes | None:
        found = None
        try:
            if slot not in self._outdated:
                found = self._do(lambda rows: rows.find(slot, self._wall_clock()))
            return found
        finally:
            with self._counting:
                self._misses += found is None
                self._hits += found is not None

    def set(self, slot: bytes, data: bytes, *, ttl_s: float, group: str = "") -> bool:
        check_set(slot, data, ttl_s, group)
        kept, evicted, expired = False, 0, 0

        def keep(rows: Rows) -> tuple[bool, int, int]:
            with rows.transact():
                if ttl_s <= 0:
                    rows.forget(slot)
                    return False, 0, 0
                return rows.keep(slot, data, float(ttl_s), group, self._wall_clock())

        try:
            with self._changing(slot):
                kept, evicted, expired = self._do(keep, writes=True)
        finally:
            with self._counting:
                self._sets += kept
                self._rejected += not kept
                self._evictions += evicted
                self._expired += expired
        return kept

    def delete(self, slot: bytes) -> None:
        with self._changing(slot):
            if self._do(lambda rows: rows.is_held(slot)):  # what is not there is not worth a write
                self._do(lambda rows: rows.forget(slot), writes=True)

    def clear(self, group: str | None = None) -> None:
        after, last = -(2**63), self._do(lambda rows: rows.last())

        def clear(rows: Rows) -> int:
            with rows.transact():
                return rows.clear_some(group, after, last)

        while after < last:
            after = self._do(clear, writes=True)

    def stats(self) -> LayerStats:
        entries, size = self._do(lambda rows: rows.held())
        with self._counting:
            asked = self._hits, self._misses, self._sets, self._rejected
            return LayerStats(*asked, self._evictions, self._expired, entries, size)

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        after, last = -(2**63), self._do(lambda rows: rows.last())
        while found := self._do(partial(_scan_some, after=after, last=last)):
            for number, slot in found:
                data = self._do(partial(_look_at, slot=slot, now=self._wall_clock()))
                if data is not None and slot not in self._outdated:
                    yield slot, data
                after = number

    # -- between processes -------------------------------------------------------

    def heard(self) -> int:
        return self._board.heard()

    def post(self, notices: Sequence[Notice]) -> int:
        return self._board.post(notices)

    def board(self, since: int = 0) -> Board:
        return self._board.board(since)

    def claim(self, slot: bytes, owner: bytes, lease_s: float) -> bool:
        from . import disk_claims as claims

        if type(lease_s) not in (float, int) or not 0 < lease_s <= MOST_TTL_S:
            raise ConfigError(f"DiskLayer.claim(lease_s={lease_s!r}): give seconds, above 0")
        if self._process is None:
            self._process = (claims.this_process(),)
        (here,) = self._process
        holder = self._do(lambda rows: claims.claimed_by(rows, slot, self._wall_clock(), here))
        if holder not in (None, owner):  # not worth a write
            return False
        return self._do(
            lambda rows: claims.claim(rows, slot, owner, lease_s, self._wall_clock, here), writes=True
        )

    def release(self, slot: bytes, owner: bytes) -> None:
        from .disk_claims import release

        self._do(lambda rows: release(rows, slot, owner, self._wall_clock()), writes=True)

    # -- life ------------------------------------------------------------------

    def close(self) -> None:
        self._database.close()

    def before_fork(self) -> None:
        self._database.before_fork()
        self._board.before_fork()

    def after_fork(self) -> None:
        self._board.after_fork()
        self._database.after_fork()

    def renew(self) -> None:
        self._database.renew()
        self._board.renew()
        self._reading.renew()
        self._writing.renew()
        self._process = None
        self._count_anew()

    def _do(self, work: Callable[[Rows], T], *, writes: bool = False) -> T:
        if not writes:
            return self._database.do(work, self._reading)

        def bounded(rows: Rows) -> T:
            rows.bound_files()
            return work(rows)

        return self._database.do(bounded, self._writing)

    @contextmanager
    def _changing(self, slot: bytes) -> Iterator[None]:
        """If it fails, what was there before may still be there, and is not to be answered with."""
        try:
            yield
        except StoreUnavailableError:
            with self._counting:
                self._outdated[slot] = None
                if len(self._outdated) > MOST_OUTDATED:
                    del self._outdated[next(iter(self._outdated))]
            raise
        if self._outdated:
            with self._counting:
                self._outdated.pop(slot, None)

    def _count_anew(self) -> None:
        self._counting = threading.Lock()
        self._hits = self._misses = self._sets = self._rejected = self._evictions = self._expired = 0

    def _tell(self, event: Event) -> None:
        try:
            if self.emit is not None:
                self.emit(event)
        except Exception:
            log_failure(f"a listener failed on {type(event).__name__}")


def _scan_some(rows: Rows, after: int, last: int) -> list[tuple[int, bytes]]:
    return rows.scan_some(after, last)


def _look_at(rows: Rows, slot: bytes, now: float) -> bytes | None:
    return rows.find(slot, now, ask=False)

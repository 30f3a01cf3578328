"""The layers of a cache, one below the other: read down, filled up."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..errors import StoreUnavailableError
from ..events import CacheDamaged, Event, log_failure
from ..pipeline.effects import Blocking
from .entry import Entry
from .layer import Layer
from .memory_layer import MemoryLayer

if TYPE_CHECKING:
    from .boards import Boards

__all__ = ["Found", "Stack"]

MOST_BEHIND = 1000
"""So many writes may wait to be done behind a call's back; further ones are left out."""

LARGE = 64 * 1024
"""Bytes of an entry that are read or written off the event loop, which it would hold up."""

Soon = Callable[[Callable[[], object]], None]


class Found(NamedTuple):
    """An entry, and the name of the layer that had it."""

    entry: Entry
    layer: str


class Stack:
    """Reads from the fastest layer down; what was found further down is put into those above.

    A layer that fails is passed over. ``soon`` does work that nobody waits for, off this thread.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        boards: Boards,
        *,
        write: Literal["through", "behind"],
    ) -> None:
        self.layers = tuple(layers)
        self.boards = boards
        self.write = write
        self.emit: Callable[[Event], None] | None = None
        inline = [layer.inline for layer in self.layers]
        self._top = self.layers[: inline.index(False) if False in inline else len(inline)]
        self._deep = self.layers[len(self._top) :]
        self.renew()

    def renew(self) -> None:
        """After a fork: what waited to be written is written by the parent."""
        self._waiting = 0
        self._done = threading.Condition()
        self._latest: dict[bytes, Entry] = {}
        self.left_out = 0
        self._said: set[tuple[str, type[Exception]]] = set()

    @property
    def is_deep(self) -> bool:
        """Whether there are layers that have to be waited for."""
        return bool(self._deep)

    # -- reading ---------------------------------------------------------------------

    def peek(self, slot: bytes, canonical: bytes, now: float) -> Found | None:
        """Look where no waiting is needed. Only to be asked while nothing new is on the boards."""
        for at, layer in enumerate(self._top):
            entry = self._kept(layer, slot, canonical)
            if entry is not None:
                if at:
                    self._fill(at, slot, entry, now)
                return Found(entry, layer.name)
        return None

    async def find(self, slot: bytes, canonical: bytes, now: float, soon: Soon) -> Found | None:
        """Look further down."""
        for layer in self._deep:
            entry = await self._fetched(layer, slot, canonical)
            if self.boards.behind or self.boards.owes:
                if not await Blocking(self.boards.catch_up):
                    return None  # what is kept may be invalid, and nobody can tell
                entry = entry if entry is None or self._valid(entry, slot) else None
            if entry is not None:
                self._fill(self.layers.index(layer), slot, entry, now, soon)
                return Found(entry, layer.name)
        return None

    def _valid(self, entry: Entry, slot: bytes) -> bool:
        return self.boards.notices.allow(entry, slot)

    def _kept(self, layer: Layer, slot: bytes, canonical: bytes) -> Entry | None:
        if isinstance(layer, MemoryLayer):
            kept = layer.find(slot)
            entry = kept if type(kept) is Entry else None
        else:
            try:
                data = layer.get(slot)
            except Exception as error:
                self.failed(layer, error)
                return None
            entry = None if data is None else Entry.decode(data)
        if entry is None or entry.canonical != canonical:
            return None
        return entry if self._valid(entry, slot) else None

    async def _fetched(self, layer: Layer, slot: bytes, canonical: bytes) -> Entry | None:
        afn: Callable[[], Awaitable[tuple[bytes | None, Entry | None]]] | None = None
        aget = layer.aget

        def read() -> tuple[bytes | None, Entry | None]:
            data = layer.get(slot)
            return data, None if data is None else Entry.decode(data)

        async def aread() -> tuple[bytes | None, Entry | None]:
            assert aget is not None
            data = await aget(slot)
            return data, None if data is None or len(data) > LARGE else Entry.decode(data)

        if aget is not None:
            afn = aread
        try:
            data, entry = await Blocking(read, afn=afn)
            if data is not None and entry is None and len(data) > LARGE:
                large = data
                entry = await Blocking(lambda: Entry.decode(large))
            if data is not None and entry is None:
                await Blocking(lambda: layer.delete(slot))
                self._damaged(layer)
        except Exception as error:
            self.failed(layer, error)
            return None
        if entry is None or entry.canonical != canonical:  # another request, whose hash is the same
            return None
        return entry if self._valid(entry, slot) else None

    def _damaged(self, layer: Layer) -> None:
        if self.emit is not None:
            self.emit(CacheDamaged(layer=layer.name))

    def failed(self, layer: Layer, error: Exception) -> None:
        """It is a miss. The layer itself has told of its trouble, if it is one of ours."""
        if not isinstance(error, StoreUnavailableError) and (layer.name, type(error)) not in self._said:
            self._said.add((layer.name, type(error)))  # every call comes by here
            log_failure(f"the cache's layer {layer.name} failed")

    # -- writing ---------------------------------------------------------------------

    async def keep(
        self, slot: bytes, entry: Entry, now: float, soon: Soon, *, for_others: bool = True
    ) -> None:
        """Put ``entry`` into all layers; those that take time now, or behind the call's back.

        Not ``for_others``: where nobody else would find it, in those that are this process's own.
        """
        for layer in self._top:
            if for_others or not layer.shared:
                self._put(layer, slot, entry, now)
        if not self._deep or not for_others:
            return
        if self.write == "behind":
            with self._done:
                waits, self._latest[slot] = slot in self._latest, entry
            if not waits:
                self._later(soon, lambda: self._write_latest(slot, now), slot)
        else:
            await Blocking(lambda: self._write(self._deep, slot, entry, now))

    def _write_latest(self, slot: bytes, now: float) -> None:
        """One writer a slot: of what was asked for one after the other, the last is what stays."""
        while (entry := self._latest.get(slot)) is not None:
            try:
                self._write(self._deep, slot, entry, now)
            finally:
                with self._done:
                    if self._latest.get(slot) is entry:
                        del self._latest[slot]

    def _fill(self, found_at: int, slot: bytes, entry: Entry, now: float, soon: Soon | None = None) -> None:
        above = self.layers[:found_at]
        for layer in above:
            if layer.inline:
                self._put(layer, slot, entry, now)
        slow = tuple(layer for layer in above if not layer.inline)
        if slow and soon is not None:
            self._later(soon, lambda: self._write(slow, slot, entry, now))

    def _write(self, layers: Sequence[Layer], slot: bytes, entry: Entry, now: float) -> None:
        try:
            data = entry.encode()
        except ValueError:  # there is more to it than is read back: memory alone has it
            return
        for layer in layers:
            self._put(layer, slot, entry, now, data)

    def _put(self, layer: Layer, slot: bytes, entry: Entry, now: float, data: bytes | None = None) -> None:
        """One layer after the other: a broken one must not keep the others from it."""
        try:
            ttl_s = max(entry.fresh_until, entry.stale_until) - now
            if layer.ttl_s is not None:
                ttl_s = min(ttl_s, layer.ttl_s)
            group = _group(layer, entry)
            if isinstance(layer, MemoryLayer):
                here = layer.look(slot)
                if type(here) is not Entry or not _is_newer(here, entry):
                    layer.keep(slot, entry, size=entry.size, ttl_s=ttl_s, group=group)
            else:
                layer.set(slot, entry.encode() if data is None else data, ttl_s=ttl_s, group=group)
        except Exception as error:
            self.failed(layer, error)

    def _later(self, soon: Soon, work: Callable[[], object], slot: bytes | None = None) -> None:
        with self._done:
            if self._waiting >= MOST_BEHIND:
                self.left_out += 1
                if slot is not None:
                    self._latest.pop(slot, None)
                return
            self._waiting += 1

        def done() -> None:
            try:
                work()
            finally:
                with self._done:
                    self._waiting -= 1
                    self._done.notify_all()

        try:
            soon(done)
        except BaseException:
            with self._done:
                self._waiting -= 1
                if slot is not None:
                    self._latest.pop(slot, None)
            raise

    def drain(self, wait_s: float) -> None:
        """Wait for what is being written behind calls' backs. What is not done by then is left out."""
        with self._done:
            if not self._done.wait_for(lambda: not self._waiting, wait_s):
                self.left_out += self._waiting

    def forget(self, slot: bytes) -> None:
        """Take an entry out of all layers that can be reached. Blocks."""
        for layer in self.layers:
            try:
                layer.delete(slot)
            except Exception as error:
                self.failed(layer, error)


def _is_newer(here: Entry, entry: Entry) -> bool:
    """Whether ``here`` answers the same from the same place, and was asked for later."""
    same = here.canonical == entry.canonical and here.fingerprint == entry.fingerprint
    return same and here.asked_at > entry.asked_at and here.generation >= entry.generation


def _group(layer: Layer, entry: Entry) -> str:
    """On whose share of the layer it draws: the most exact of its names that has one; else its tier."""
    quotas = layer.quotas
    if quotas and entry.tenant is not None:
        for name in (f"{entry.tier}/{entry.tenant}", f"*/{entry.tenant}"):
            if name in quotas:
                return name
    return entry.tier

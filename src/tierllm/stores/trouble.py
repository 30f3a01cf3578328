"""A store's health: told once when it goes and once when it comes back, and left alone in between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from ..errors import StoreUnavailableError
from ..events import Event, StoreTrouble, log
from ..pipeline.clock import Clock

__all__ = ["Health", "NotDone", "Watcher"]


class NotDone(StoreUnavailableError):
    """The store could not do its work, and certainly did nothing of it."""


class Watcher(Protocol):
    """Finds out when a store is well again, so that no caller pays for trying."""

    @property
    def watches(self) -> bool:
        """Whether it does so now. Asked by every caller who is refused."""


class Health:
    """Whether the store called ``name`` is well. Thread-safe.

    After a failure ``expect`` refuses at once for ``retry_s``; then one caller may try, and the
    others are refused for as long again. While ``watcher`` watches, it alone may try, and everybody
    else is refused until the store is well. ``emit`` tells the store's listeners.
    """

    def __init__(self, name: str, emit: Callable[[Event], None], *, retry_s: float, clock: Clock) -> None:
        self.name = name
        self.retry_s = retry_s
        self.clock = clock
        self.watcher: Watcher | None = None
        self._emit = emit
        self._trouble: str | None = None
        self.renew()

    def renew(self) -> None:
        """After a fork: a new lock, and nothing is known."""
        self._lock = threading.Lock()
        self._trouble = None
        self._retry_at = 0.0

    def expect(self, *, watching: bool = False) -> None:
        """Raises ``NotDone`` while the store is left alone. ``watching``: the watcher asks."""
        trouble = self._trouble
        if trouble is None:
            return
        watcher = self.watcher
        if not watching and watcher is not None and watcher.watches:
            raise NotDone(f"{trouble}; not tried again until it is well")
        with self._lock:
            now = self.clock()
            if now >= self._retry_at:
                self._retry_at = now + self.retry_s
                return
        raise NotDone(f"{trouble}; not tried again for {self.retry_s:g} s")

    @property
    def left_alone_s(self) -> float | None:
        """How long nobody may try; ``None``: the store is well."""
        if self._trouble is None:
            return None
        return max(0.0, self._retry_at - self.clock())

    def failed(self, text: str) -> StoreUnavailableError:
        """The store could not do its work; the error to raise."""
        with self._lock:
            first, self._trouble = self._trouble is None, text
            self._retry_at = self.clock() + self.retry_s
        if first:
            self.tell(text, ok=False)
        return StoreUnavailableError(text)

    def well(self) -> None:
        """The store did its work."""
        if self._trouble is None:
            return
        with self._lock:
            trouble, self._trouble = self._trouble, None
        if trouble is not None:
            self.tell(f"{self.name} is well again", ok=True)

    def tell(self, text: str, *, ok: bool) -> None:
        """Log, and tell the listener. Not to be called under a lock."""
        if ok:
            log.info("%s", text)
        else:
            log.warning("%s", text)
        self._emit(StoreTrouble(store=self.name, ok=ok, text=text))

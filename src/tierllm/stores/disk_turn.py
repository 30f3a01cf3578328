"""One thread at a time, in a way that neither an interrupt nor a fork can spoil."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Busy", "Turn"]

T = TypeVar("T")

FORK_WAIT_S = 30.0
"""So long a fork waits for work under way; a child that knows of a transaction cannot use the database."""


class Busy(Exception):
    """Somebody else's turn does not end."""


class Turn:
    """A lock that knows its owner: so it can be released wherever an interrupt has struck."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._at_work = False
        self._forking: set[int] = set()  # threads

    def take(self, work: Callable[[], T], wait_s: float) -> T:
        """Do ``work`` alone. Raises ``Busy``."""
        mine = False
        try:
            if not self._lock.acquire(timeout=wait_s):
                raise Busy("kept busy by other threads")
            if self._at_work:
                raise Busy("kept busy by this thread, which a signal has interrupted")
            mine = self._at_work = True
            return work()
        finally:
            if mine:
                self._at_work = False
            try:
                self._lock.release()
            except RuntimeError:
                pass  # it is not ours

    def before_fork(self, prepare: Callable[[], None]) -> None:
        """Nobody is at work while the process forks, and ``prepare`` is done; unless it took too long."""
        if not self._lock.acquire(timeout=FORK_WAIT_S):
            return
        if self._at_work:  # it forks in the midst of its own work
            self._lock.release()
            return
        self._forking.add(threading.get_ident())
        prepare()

    def after_fork(self) -> None:
        """In the parent, by the thread that forked."""
        if threading.get_ident() in self._forking:
            self._forking.discard(threading.get_ident())
            self._lock.release()

"""A lease keeps what this process has reserved in shared stores; without renewal it is given back.

A daemon thread renews it while anything is open. It starts with the first reservation, looks again
a few times a lease, and ends when it finds nothing open.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import Protocol

from ..errors import ConfigError, StoreUnavailableError
from ..events import log_failure

__all__ = ["Lease", "Leaseholder"]

TURNS = 3
"""Renewals a lease: two may fail before it ends."""

LONGEST_S = 366 * 86_400.0


class Leaseholder(Protocol):
    """What a lease needs of its store."""

    def renew_lease(self) -> None:
        """Renew this owner's lease, and give back what dead owners had reserved."""

    def end_lease(self) -> None:
        """Nothing is open here: other processes need not watch this owner."""

    def close(self) -> None: ...


class Lease:
    """Which holds are open here, and the thread that renews for them. Thread-safe.

    ``store`` is referred to weakly: a store that is no longer used takes its thread along.
    """

    def __init__(self, store: Leaseholder, lease_s: float) -> None:
        if not 0 < lease_s <= LONGEST_S:
            raise ConfigError(f"lease_s must be above 0 and at most {LONGEST_S:g}, not {lease_s:g}")
        self.lease_s = lease_s
        self.turn_s = lease_s / TURNS
        self._store = weakref.ref(store)
        self.renew()

    def renew(self) -> None:
        """Begin anew, as in a forked child: threads and holds of the parent are the parent's."""
        self.open: set[str] = set()
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None  # of the running thread
        self._closing = False

    def begin(self, id: str) -> bool:
        """A hold is about to be reserved. Whether it was not open before."""
        new = id not in self.open
        self.open.add(id)
        if self._stop is None:
            self._start()
        return new

    def end(self, ids: Iterable[str]) -> None:
        """Holds are settled, or were refused."""
        self.open.difference_update(ids)

    def _start(self) -> None:
        with self._lock:
            if self._stop is not None:
                return
            stop = threading.Event()
            args = (weakref.ref(self), stop, self.turn_s)
            thread = threading.Thread(target=_renewals, args=args, name="tierllm-lease", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending: what is open then is settled or lapses
                return
            self._stop = stop

    def turn(self, stop: threading.Event) -> bool:
        """One renewal, by the thread. False: it is to end."""
        store = self._store()
        if store is None:
            return False
        with self._lock:
            if self._stop is not stop:
                return False
            self._stop = None  # first: a hold that begins now sees this, or is seen in the next line
            ends = not self.open
            if not ends:
                self._stop = stop
        try:
            if ends:
                store.end_lease()
                if self._closing and not self.open:
                    store.close()
            else:
                store.renew_lease()
        except StoreUnavailableError:
            pass  # the store has told of it; the next turn tries again
        except Exception:
            log_failure("a lease could not be renewed")
        return not ends

    def close(self) -> None:
        """End the thread. If something is open it goes on until nothing is, and closes the store then.

        One of several who use a store may close it while the others' calls are under way.
        """
        with self._lock:
            self._closing = bool(self.open)
        if not self._closing:
            self.stop()

    def stop(self) -> None:
        """End the thread. What is open is given back by others when the lease has run out."""
        with self._lock:
            stop, self._stop = self._stop, None
        if stop is not None:
            stop.set()


def _renewals(lease: weakref.ref[Lease], stop: threading.Event, turn_s: float) -> None:
    while not stop.wait(turn_s):
        held = lease()
        if held is None or not held.turn(stop):
            return
        del held

"""Who makes what is missing in a shared layer: one process of all, and another one if that dies."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from typing import TYPE_CHECKING

from ..errors import StoreUnavailableError
from ..events import log_failure
from ..pipeline.fork import renew_after_fork

if TYPE_CHECKING:
    from .layer import Layer

__all__ = ["Claims"]

LEASE_S = 6.0
"""So long a claim outlives its process, where nobody can tell that it is dead."""

TURNS = 3
"""Renewals a lease: two may fail before it ends."""


class Claims:
    """The claims that this process has on slots of shared layers, and the thread that renews them.

    The daemon thread starts with the first claim, and ends when it finds none. Thread-safe.
    """

    def __init__(self, lease_s: float = LEASE_S) -> None:
        self.lease_s = lease_s
        renew_after_fork(self)
        self.renew()

    def renew(self) -> None:
        """After a fork: the claims are the parent's."""
        self._process = os.urandom(12)
        self._numbers = itertools.count()
        self._held: dict[tuple[Layer, bytes], bytes] = {}
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None

    def take(self, layer: Layer, slot: bytes) -> bool:
        """Whether this process may make what is missing under ``slot``. Blocks.

        Raises ``StoreUnavailableError`` where the layer cannot be asked.
        """
        with self._lock:
            if (layer, slot) in self._held:  # by another client of this process
                return False
            # a name of its own: giving up an old claim must not give up the next
            owner = self._process + next(self._numbers).to_bytes(8)
            self._held[layer, slot] = owner
        taken = False
        try:
            taken = layer.claim(slot, owner, self.lease_s)
        finally:
            with self._lock:
                if not taken:
                    del self._held[layer, slot]
                elif self._stop is None:
                    self._start()
        return taken

    def give(self, layer: Layer, slot: bytes) -> None:
        """It is made, or nobody will make it here. Blocks; never fails."""
        with self._lock:
            owner = self._held.pop((layer, slot), None)
        if owner is None:
            return
        try:
            layer.release(slot, owner)
        except (StoreUnavailableError, ValueError):
            pass  # it lapses; the layer may be closed by now
        except Exception:
            log_failure(f"a claim in the cache's layer {layer.name} could not be given back")

    def close(self) -> None:
        """End the thread, and give back what is claimed: the layers are about to be closed."""
        with self._lock:
            stop, self._stop = self._stop, None
        if stop is not None:
            stop.set()
        for layer, slot in tuple(self._held):
            self.give(layer, slot)

    def _start(self) -> None:
        stop = threading.Event()
        args = (weakref.ref(self), stop, self.lease_s / TURNS)
        thread = threading.Thread(target=_renewals, args=args, name="tierllm-claims", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending
            return
        self._stop = stop

    def turn(self, stop: threading.Event) -> bool:
        """Renew what is held. False: the thread is to end."""
        with self._lock:
            if self._stop is not stop:
                return False
            held = tuple(self._held.items())
            if not held:
                self._stop = None
                return False
        for (layer, slot), owner in held:
            try:
                layer.claim(slot, owner, self.lease_s)
                if self._held.get((layer, slot)) != owner:  # it was given back meanwhile
                    layer.release(slot, owner)
            except StoreUnavailableError:
                pass  # the layer has told of it
            except Exception:
                log_failure(f"a claim in the cache's layer {layer.name} could not be renewed")
        return True


def _renewals(claims: weakref.ref[Claims], stop: threading.Event, turn_s: float) -> None:
    while not stop.wait(turn_s):
        held = claims()
        if held is None or not held.turn(stop):
            return
        del held

"""After a fork: locks, threads, sockets and flows of the parent are no use in the child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Renewable", "renew_after_fork"]


class Renewable(Protocol):
    def renew(self) -> None: ...


# The operating system keeps one list of fork hooks a process, and so do we: of weak references.
_renewables: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_after_fork(thing: Renewable) -> None:
    """Call ``thing.renew()`` in every child process forked while it is alive."""
    _renewables.add(thing)


def _renew_all() -> None:
    for thing in tuple(_renewables):
        thing.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)

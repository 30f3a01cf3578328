"""Before a fork: a database that is open would be open twice, with one process's locks."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Closable", "close_before_fork"]


class Closable(Protocol):
    def before_fork(self) -> None: ...

    def after_fork(self) -> None: ...


# As in ``pipeline.fork``: the operating system keeps one list of fork hooks a process, and so do we.
_closables: weakref.WeakSet[Closable] = weakref.WeakSet()


def close_before_fork(thing: Closable) -> None:
    """Call ``thing.before_fork()`` ahead of every fork, and then ``after_fork()`` in the parent."""
    _closables.add(thing)


def _before() -> None:
    for thing in sorted(_closables, key=id):  # all threads in one order: they wait for each other
        thing.before_fork()


def _after() -> None:
    for thing in tuple(_closables):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after)

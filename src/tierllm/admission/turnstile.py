"""A lock that nobody who gives something back ever waits for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from ..events import log_failure

__all__ = ["Turnstile"]


class Turnstile:
    """A lock for short work on shared state, and a list of what is to be done by whoever has it next.

    Giving back may happen anywhere: garbage collection ends a flow in the middle of whatever this thread
    does, perhaps while it holds this lock, or another one. Were it to wait then, two threads could wait
    for each other for ever; were it to go ahead, it would find the state half changed. So it asks for it
    to be done ``later``: at once, where nobody has the lock; else by its holder, on leaving.

        with turnstile.lock:
            ...
        turnstile.catch_up()

    It is the lock's own ``with``, and no context manager written here: an interrupt (Ctrl-C) may strike as
    a Python function begins, such as one that was to release the lock.
    """

    __slots__ = ("lock", "todo")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.todo: deque[Callable[[], object]] = deque()

    def later(self, do: Callable[[], object]) -> None:
        """Have ``do`` called under the lock: now, if it is free, else as soon as it is. Never waits."""
        self.todo.append(do)
        self.catch_up()

    def work(self) -> None:
        """Do what was left to be done; the caller has the lock. What is older comes first."""
        todo = self.todo
        while todo:
            try:
                do = todo.popleft()
            except IndexError:
                return
            try:
                do()
            except Exception:  # it is not the affair of whoever happens to have the lock
                log_failure("work that was put off failed")

    def catch_up(self) -> None:
        """Do what was left to be done, unless somebody has the lock, who will."""
        lock, todo = self.lock, self.todo
        while todo and not lock._is_owned():  # type: ignore[attr-defined]
            try:
                if not lock.acquire(blocking=False):
                    return
                self.work()
            finally:
                if lock._is_owned():  # type: ignore[attr-defined]
                    lock.release()

"""The buckets of one rate limit."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..pipeline.fork import renew_after_fork
from .turnstile import Turnstile

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from .limit_headers import Told
    from .limit_meter import Meter
    from .limit_take import Take
    from .limit_vendor import Origin
    from .rate_limit import RateLimit

__all__ = ["Limiter"]

SWEEP_AT = 1024
"""So many buckets are kept before those that are idle are looked for."""

LOOKS, MORE_LOOKS = 2, 32
"""At so many for each new one, and at so many times more where one is found."""


class Watcher(Protocol):
    """Somebody who waits for room."""

    def poked(self) -> None: ...


class Limiter:
    """The state of one ``RateLimit``, wherever that is attached: one account for all. Thread-safe.

    Settling may happen anywhere, in a finalizer too, which garbage collection runs in the middle of whatever
    a thread does. So whoever settles never waits for the lock: where somebody has it, they do it, on leaving
    (``Turnstile``), and tell of the room that came back by that (``roomy``). Whoever had the lock looks at
    ``todo`` after it.

    It goes by one clock: the first one that it is attached to or used with (``go_by``).
    """

    __slots__ = (
        "__weakref__",
        "_watchers",
        "clock",
        "limit",
        "lock",
        "meters",
        "roomy",
        "rota",
        "todo",
        "turnstile",
        "young",
    )

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self.clock: Clock | None = None
        self.meters: dict[str, Meter] = {}
        self.rota: deque[str] = deque()
        """The buckets, in the order in which they are looked at next."""
        self.young = 0
        """So many were made since some were looked at."""
        self.roomy = False
        """Room came back that nobody was told of yet."""
        self._watchers: tuple[weakref.ref[Watcher], ...] = ()
        self._begin()
        renew_after_fork(self)

    def _begin(self) -> None:
        self.turnstile = Turnstile()
        self.lock = self.turnstile.lock
        self.todo = self.turnstile.todo

    def go_by(self, clock: Clock) -> Clock:
        """The clock that it goes by: ``clock``, if it is the first."""
        if self.clock is None:
            self.clock = clock
        return self.clock

    def meter(self, bucket: str) -> Meter:
        """The bucket of that name. To be called under the lock."""
        found = self.meters.get(bucket)
        if found is None:
            found = self.meters[bucket] = self.limit.meter(bucket)
            if self.limit.personal:
                self.rota.append(bucket)
                self.young += 1
        return found

    def sweep(self, now: float) -> None:
        """Look at some buckets, and drop those that are idle: a few for each new one, so that nobody has to
        wait for all of them. To be called under the lock, by who has booked what it takes."""
        looks, self.young = self.young * LOOKS, 0
        rota, meters = self.rota, self.meters
        if len(meters) < SWEEP_AT:
            return
        most = looks * MORE_LOOKS
        while looks and most and rota:
            looks -= 1
            most -= 1
            meter = meters.get(rota[0])
            if meter is not None and not meter.idle(now):
                rota.rotate(-1)
                continue
            looks += 1  # where there is one, there are more
            meters.pop(rota[0], None)
            rota.popleft()

    def catch_up(self) -> None:
        """After the lock: do what was put off meanwhile, and tell of it. Not to be called under the lock."""
        self.turnstile.catch_up()
        if self.roomy:
            self.tell()

    # -- after -----------------------------------------------------------------

    def settle(self, take: Take, requests: int, input_tokens: int, output_tokens: int) -> None:
        """It really was so much. Never raises, never waits; once only. To be followed by ``tell``, if
        ``roomy``."""
        lock = self.lock
        mine = False
        if not self.todo and not lock._is_owned():  # type: ignore[attr-defined]
            try:  # what is below is what ``later`` would do, without a list and a closure
                mine = lock.acquire(False)
                if mine and take.meter.settle(take, requests, input_tokens, output_tokens, self.clock):
                    self.roomy = True
            finally:  # an interrupt may come before it is known whose it is
                if lock._is_owned():  # type: ignore[attr-defined]
                    lock.release()
        if not mine:
            self.turnstile.later(partial(self._settle, take, requests, input_tokens, output_tokens))
        elif self.todo:
            self.turnstile.catch_up()

    def _settle(self, take: Take, requests: int, input_tokens: int, output_tokens: int) -> None:
        if take.meter.settle(take, requests, input_tokens, output_tokens, self.clock):
            self.roomy = True

    def hear(self, told: Sequence[Told], take: Take, origin: Origin) -> None:
        """What the vendor's headers said. Never waits. To be followed by ``tell``, if ``roomy``."""
        self.turnstile.later(partial(self._hear, told, take, origin, (self.clock or self.limit.clock)()))

    def _hear(self, told: Sequence[Told], take: Take, origin: Origin, now: float) -> None:
        if take.meter.hear(told, take, origin, now):
            self.roomy = True

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher`` where room came back, as long as it lives."""
        with self.lock:
            alive = tuple(ref for ref in self._watchers if ref() is not None)
            self._watchers = (*alive, weakref.ref(watcher))
        if self.todo:
            self.catch_up()

    @property
    def watched(self) -> bool:
        return any(ref() is not None for ref in self._watchers)

    def tell(self) -> None:
        """Room came back. Not to be called under the lock."""
        self.roomy = False  # first: who makes more from now on tells of it
        for ref in self._watchers:
            watcher = ref()
            if watcher is not None:
                watcher.poked()

    def renew(self) -> None:
        """After a fork: what was under way is the parent's."""
        self._begin()
        for meter in self.meters.values():
            if meter.held:
                meter.held.clear()
            meter.under_way = 0

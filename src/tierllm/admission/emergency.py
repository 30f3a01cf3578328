"""Emergencies: switches that reach every process through the store, and go off by themselves."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..errors import ConfigError, StoreUnavailableError
from ..events import EmergencyChanged, Event, StoreTrouble, log, log_failure
from ..pipeline.fork import renew_after_fork
from .emergency_document import DOCUMENT, check_name, read, written

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..stores import Store

__all__ = ["DEFAULT_S", "Emergencies", "moment_of"]

DEFAULT_S = 3600.0
"""How long an emergency lasts where nobody says."""

LONGEST_FOR_S = 7 * 86_400.0
"""``for_s`` is no longer than this; who means it gives ``until``."""

LONGEST_S = 366 * 86_400.0
"""And that is within a year: what is further away is no time, or one in milliseconds."""

TRIES = 100
"""Others may write at the same time: so often it is tried again."""


class Emergencies:
    """The emergencies that are declared, as all processes with this ``store`` know them. Thread-safe.

    What the store says is read anew every ``refresh_s``: at once where that does no I/O, else in the
    background by ``soon(work)``. Where the store is out of reach, what was last known holds until its time
    is over. ``emit`` hears of each that begins, changes or ends (``EmergencyChanged``).

    ``clock`` is monotonic; ``wall`` tells the seconds since 1970 and should agree between hosts.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        emit: Callable[[Event], None] | None = None,
        soon: Callable[[Callable[[], object]], object] | None = None,
        refresh_s: float = 1.0,
    ) -> None:
        if not 0 < refresh_s < math.inf:
            raise ConfigError(f"Emergencies(refresh_s={refresh_s!r}): give seconds above 0")
        self.store = store
        self.refresh_s = refresh_s
        self._clock = clock
        self._wall = wall
        self._emit = emit
        self._soon = None if store.inline else soon
        self._refresh_at = -math.inf
        self._untils: Mapping[str, float] = {}
        self._names: frozenset[str] = frozenset()
        self._next_end = math.inf
        self._told: Mapping[str, float] = {}
        self._changes = 0  # made by this process, which knows better than what was read meanwhile
        self._ignored: bytes | None = None
        self._reachable = True
        self._new_locks()
        renew_after_fork(self)

    def _new_locks(self) -> None:
        self._lock = threading.Lock()
        self._reading = threading.Lock()  # one reads, the others go on

    # -- by hand ---------------------------------------------------------------

    def declare(
        self, name: str, until: float | datetime | None = None, *, for_s: float | None = None
    ) -> float:
        """Declare an emergency, or change its end; when that is, in seconds since 1970.

        ``until``: seconds since 1970, or a ``datetime`` (local time where it names no zone), within a
        year. ``for_s``: seconds from now, 7 days at most. Without either it lasts an hour.

        Raises ``ConfigError`` for a time or name that makes no sense, ``StoreUnavailableError``.
        """
        check_name(name)
        ends = moment_of(until, for_s, self._wall())
        self._change(lambda untils: {**untils, name: ends})
        return ends

    def end(self, name: str) -> bool:
        """End it now; whether it was declared. Raises ``StoreUnavailableError``."""
        check_name(name)
        before = self._change(lambda untils: {each: end for each, end in untils.items() if each != name})
        return name in before

    def _change(self, change: Callable[[Mapping[str, float]], Mapping[str, float]]) -> Mapping[str, float]:
        """Write what ``change`` makes of what is declared now; what it was before."""
        for _ in range(TRIES):
            raw = self.store.load(DOCUMENT)
            now = self._wall()
            before = self._sound(raw, now)
            after = change(before)
            lasts_s = max(after.values(), default=now) - now
            if after == before or self.store.swap(DOCUMENT, written(after), raw, ttl_s=lasts_s + DEFAULT_S):
                self._changes += 1
                self._learn(after)
                return before
        raise StoreUnavailableError(f"{self.store.name}: others changed the emergencies all the time")

    # -- what is declared ------------------------------------------------------

    def active(self, now: float | None = None) -> frozenset[str]:
        """The emergencies declared ``now`` (seconds since 1970; left out, the clock is asked).

        Quick: what the store says is known already, or is read in the background.
        """
        clock = self._clock()
        if clock >= self._refresh_at:
            self._refresh_at = clock + self.refresh_s
            if self._soon is None:
                self.refresh()
            else:
                self._soon(self.refresh)
        if self._next_end < math.inf and (self._wall() if now is None else now) >= self._next_end:
            self._learn(self._untils)
        return self._names

    def until(self, name: str) -> float | None:
        """When it ends, in seconds since 1970; ``None`` where it is not declared."""
        end = self._untils.get(name)
        return None if end is None or end <= self._wall() else end

    def listing(self, *, fresh: bool = False) -> Mapping[str, float]:
        """All that are declared, with their ends in seconds since 1970.

        ``fresh``: by what the store says now. Raises ``StoreUnavailableError`` then.
        """
        now = self._wall()
        if fresh:
            self._learn(self._sound(self.store.load(DOCUMENT), now))
        return MappingProxyType({name: end for name, end in self._untils.items() if end > now})

    def refresh(self) -> bool:
        """Read what the store says now. False where it is out of reach, or somebody else reads already."""
        if not self._reading.acquire(blocking=False):
            return False
        changes = self._changes
        try:
            raw = self.store.load(DOCUMENT)
        except StoreUnavailableError as error:
            if self._reachable:
                log.warning("emergencies: going by what was last known: %s", error)
            self._reachable = False
            return False
        finally:
            self._reading.release()
        self._reachable = True
        untils = self._sound(raw, self._wall())
        if changes == self._changes:
            self._learn(untils)
        return True

    def _sound(self, raw: bytes | None, now: float) -> Mapping[str, float]:
        """What ``raw`` says is declared; of what is no such thing it is told, once."""
        untils, sound = read(raw, now, now + LONGEST_S)
        if sound:
            self._ignored = None
        elif raw != self._ignored:
            self._ignored = raw
            text = f"what is kept under {DOCUMENT!r} is not all emergencies; what is none was ignored"
            log.warning("%s: %s", self.store.name, text)
            self._tell(StoreTrouble(store=self.store.name, ok=False, text=text))
        return untils

    def _learn(self, untils: Mapping[str, float]) -> None:
        with self._lock:
            now = self._wall()
            self._untils = live = {name: end for name, end in untils.items() if end > now}
            self._next_end = min(live.values(), default=math.inf)
            self._names = frozenset(live)
            told, self._told = self._told, live
        for name in told.keys() - live.keys():
            self._tell(EmergencyChanged(name=name, on=False, until=None))
        for name, end in live.items():
            if told.get(name) != end:
                self._tell(EmergencyChanged(name=name, on=True, until=end))

    def _tell(self, event: Event) -> None:
        if self._emit is not None:
            try:
                self._emit(event)
            except Exception:
                log_failure(f"a listener failed on {type(event).__name__}")

    def renew(self) -> None:
        """After a fork: locks of one's own. What is declared is still declared."""
        self._new_locks()
        self._refresh_at = -math.inf


def moment_of(until: float | datetime | None, for_s: float | None, now: float) -> float:
    """The end that is meant, in seconds since 1970. Raises ``ConfigError``."""
    if until is not None and for_s is not None:
        raise ConfigError("emergency(until=..., for_s=...): give one of them")
    if until is None:
        lasts_s = DEFAULT_S if for_s is None else for_s
        if not _number(lasts_s) or not 0 < lasts_s <= LONGEST_FOR_S:
            raise ConfigError(
                f"emergency(for_s={lasts_s!r}): give seconds above 0 and up to 7 days, or until= a moment"
            )
        return now + lasts_s
    ends: object = until.timestamp() if isinstance(until, datetime) else until
    if not isinstance(ends, int | float) or not _number(ends):
        raise ConfigError(f"emergency(until={until!r}): give a datetime, or seconds since 1970")
    if ends <= now:
        raise ConfigError(f"emergency(until={until!r}): that is over already")
    if ends > now + LONGEST_S:
        raise ConfigError(f"emergency(until={until!r}): give a time within a year, as it has to expire")
    return float(ends)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

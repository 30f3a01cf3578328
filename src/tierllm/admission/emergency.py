"""Emergencies: switches that reach every process through the store, and go off by themselves."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..errors import ConfigError, StoreUnavailableError
from ..events import EmergencyChanged, Event, StoreTrouble, log, log_failure
from ..pipeline.fork import renew_after_fork
from .emergency_document import DOCUMENT, MOST, check_name, read, written

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

STALE_AFTER = 5
"""What was read so many times ``refresh_s`` ago is no news: whoever acts on it reads first."""

KEPT_S = 86_400.0
"""What is over for so long is written down no more; a clock that is fast ends nobody else's sooner."""

TRIES = 100
"""Others may write at the same time: so often it is tried again."""


class Emergencies:
    """The emergencies that are declared, as all processes with this ``store`` know them. Thread-safe.

    What the store says is read anew every ``refresh_s``: at once where that does no I/O, else in the
    background by ``soon(work)``. Before the first reading, and when the last is ``behind`` since nobody
    has asked for a while, it is read first, in place. Where the store is out of reach, what was last known
    holds until its time is over, and nobody waits for it. ``emit`` hears of each that begins, changes or
    ends (``EmergencyChanged``).

    ``clock`` is monotonic; ``wall`` tells the seconds since 1970. It counts for a store of this process's
    own; between processes ends are told by ``time.time``, which should agree between hosts.
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
        self._wall = time.time if store.shared else wall
        self._emit = emit
        self._soon = None if store.inline else soon
        self._refresh_at = self._read_at = -math.inf
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
        self._catching = threading.Lock()
        self._writing = threading.Lock()  # what was written last is learnt last

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
        now = self._wall()
        before = self._change(lambda untils: {each: end for each, end in untils.items() if each != name})
        return before.get(name, now) > now

    def _change(self, change: Callable[[Mapping[str, float]], Mapping[str, float]]) -> Mapping[str, float]:
        """Write what ``change`` makes of what is written down now; what that was before.

        That may be more than what is declared: ends that this clock cannot judge are left to others.
        """
        with self._writing:
            return self._changed(change)

    def _changed(self, change: Callable[[Mapping[str, float]], Mapping[str, float]]) -> Mapping[str, float]:
        for _ in range(TRIES):
            raw = self.store.load(DOCUMENT)
            now = self._wall()
            self._sound(raw, now)
            before, _sound = read(raw, now - KEPT_S, math.inf)
            after = change(before)
            if len(after) > MOST:
                after = {name: end for name, end in after.items() if end > now}
            lasts_s = min(max(after.values(), default=now) - now, LONGEST_S) + KEPT_S
            if after == before or self.store.swap(DOCUMENT, written(after), raw, ttl_s=lasts_s):
                self._learn({name: end for name, end in after.items() if end <= now + LONGEST_S}, ours=True)
                return before
        raise StoreUnavailableError(f"{self.store.name}: others changed the emergencies all the time")

    # -- what is declared ------------------------------------------------------

    def active(self, now: float | None = None) -> frozenset[str]:
        """The emergencies declared ``now`` (seconds since 1970; left out, the clock is asked).

        Quick: what the store says is known already, or is read in the background. Where nobody has asked
        for a while it is read first, unless an event loop runs in this thread: there, await it before
        (``catch_up``).
        """
        clock = self._clock()
        if not self._refresh_at - self.refresh_s <= clock < self._refresh_at:  # or the clock was set back
            self._refresh_at = clock + self.refresh_s
            if self._soon is None:
                self.refresh()
            elif not self.behind():
                self._soon(self.refresh)
            elif _in_event_loop():
                self._soon(self.catch_up)
            else:
                self.catch_up()
        if self._next_end < math.inf and (self._wall() if now is None else now) >= self._next_end:
            self._learn(self._untils)
        return self._names

    def behind(self) -> bool:
        """Whether what is known is too old to act on, though the store may be asked."""
        return (
            self._soon is not None
            and self._reachable
            and self._clock() - self._read_at > STALE_AFTER * self.refresh_s
        )

    def catch_up(self) -> None:
        """Read what the store says, if that is ``behind``; whoever comes meanwhile waits for it, too."""
        with self._catching:
            if self.behind():
                self._refresh_at = self._clock() + self.refresh_s
                self.refresh()

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
            changes = self._changes
            self._learn(self._sound(self.store.load(DOCUMENT), now), changes)
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
        self._learn(self._sound(raw, self._wall()), changes)
        self._read_at = self._clock()
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

    def _learn(self, untils: Mapping[str, float], changes: int | None = None, *, ours: bool = False) -> None:
        """``changes``: how many of ours there had been when it was read. ``ours``: this is another."""
        with self._lock:
            if changes is not None and changes != self._changes:
                return
            self._changes += ours
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
        self._refresh_at = self._read_at = -math.inf


def moment_of(until: float | datetime | None, for_s: float | None, now: float) -> float:
    """The end that is meant, in seconds since 1970. Raises ``ConfigError``."""
    if until is not None and for_s is not None:
        raise ConfigError("emergency(until=..., for_s=...): give one of them")
    if until is None:
        lasts_s = DEFAULT_S if for_s is None else for_s
        if not _number(lasts_s) or not 0 < lasts_s <= LONGEST_FOR_S:
            raise ConfigError(
                f"emergency(for_s={lasts_s!r:.60}): give seconds above 0 and up to 7 days, or until= a moment"
            )
        return now + lasts_s
    ends: object = _seconds(until) if isinstance(until, datetime) else until
    if not isinstance(ends, int | float) or not _number(ends):
        raise ConfigError(f"emergency(until={until!r:.60}): give a datetime, or seconds since 1970")
    if ends <= now:
        raise ConfigError(f"emergency(until={until!r:.60}): that is over already")
    if ends > now + LONGEST_S:
        raise ConfigError(f"emergency(until={until!r:.60}): give a time within a year, as it has to expire")
    return float(ends)


def _seconds(moment: datetime) -> float | None:
    """Since 1970; ``None``: so far away that the zone takes it out of the calendar."""
    try:
        return moment.timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _number(value: object) -> bool:
    """Whether it is one, and no larger than floats are."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None

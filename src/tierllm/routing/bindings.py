"""Who is bound to which place: a bounded table, and the rule by which one may move. Nothing here waits."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["HOUR_S", "MOST_MOVES", "Binding", "Bindings", "Returns"]

Place = tuple[str, str]
"""A tier and one of its deployments."""

HOUR_S: Final = 3600.0

MOST_MOVES: Final = 4
"""So often one may move in any hour. What is away may always come home, so that is two departures."""

MOST_PLACES: Final = 10_000
"""So many places are known by name; what else a store may tell of is not taken in."""

LOOKED_AT: Final = 4
"""So many of those unused for longest are looked at, with each new one, for being over."""


class Binding:
    """Where one session is at home, where it is now, since when, and why it is not at home.

    ``used_at`` is when ``place`` last answered it, ``back_at`` when it may look for the way home,
    ``checked_at`` when the store was last asked about it. ``moves`` are the times of its last moves.
    ``misses`` counts the answers that came from elsewhere, one after the other, though ``place`` was well.
    A home without a deployment's name is that tier, whichever place of it will answer. ``granted`` is the
    tier that routing had calls of the session begin in when it was bound, by its rules and by who calls.
    ``loose``: it keeps its deployment where a call comes to that tier, and has no home in it.
    All times are those of the table's clock.
    """

    __slots__ = (
        "back_at",
        "checked_at",
        "granted",
        "home",
        "loose",
        "misses",
        "moves",
        "place",
        "since",
        "used_at",
        "why",
    )

    def __init__(self, place: Place, now: float) -> None:
        self.home = self.place = place
        self.granted = ""
        self.loose = False
        self.since = self.used_at = self.checked_at = self.back_at = now  # one float, until they differ
        self.why = ""
        self.moves: tuple[float, ...] = ()
        self.misses = 0

    @property
    def away(self) -> bool:
        return self.place != self.home

    def room(self, moves: int, now: float) -> bool:
        """Whether so many more are left of the hour that ends now."""
        past = self.moves
        return len(past) + moves <= MOST_MOVES or (
            sum(1 for at in past if now - at < HOUR_S) + moves <= MOST_MOVES
        )

    def move(self, place: Place, why: str, now: float, back_at: float) -> bool:
        """Be at ``place`` from now on; False where it has moved too often in this hour.

        To leave takes the room for coming home as well, so that who has moved too often is at home.
        """
        if not self.room(1 if place == self.home else 2, now):
            return False
        self.place, self.why, self.back_at = place, why if place != self.home else "", back_at
        self._moved(now)
        return True

    def settle(self, place: Place, now: float, granted: str = "") -> bool:
        """Be at home at ``place`` from now on; False where it has moved too often in this hour."""
        if place != self.place:
            if not self.room(1, now):
                return False
            self._moved(now)
        self.home = self.place = place
        self.granted = granted or self.granted
        self.why, self.back_at, self.since = "", now, now
        return True

    def found(self, place: Place, home: Place, granted: str, why: str, now: float, back_at: float) -> bool:
        """Be bound anew: at ``place`` from now on, at home at ``home``. False as with ``move``."""
        if place != self.place:
            if not self.room(1 if place == home else 2, now):
                return False
            self._moved(now)
        self.home, self.place, self.granted, self.loose = home, place, granted, False
        self.why, self.back_at = (why, back_at) if place != home else ("", now)
        self.since = self.used_at = now
        self.misses = 0
        return True

    def follow(self, other: Binding) -> None:
        """Another process has moved it since."""
        self.home, self.place, self.why = other.home, other.place, other.why
        self.granted, self.loose = other.granted, other.loose
        self.since, self.back_at = other.since, other.back_at
        self.used_at = max(self.since, other.used_at)
        self.moves = tuple(sorted({*self.moves, *other.moves}))[-MOST_MOVES:]
        self.misses = 0

    def _moved(self, now: float) -> None:
        self.since = self.used_at = now
        self.misses = 0
        self.moves = (*self.moves, now)[-MOST_MOVES:]

    def __repr__(self) -> str:
        away = f", away since {self.since:.3f}: {self.why}" if self.away else ""
        return f"<Binding {'/'.join(self.place)}, home {'/'.join(self.home)}{away}>"


class Returns(NamedTuple):
    """When one goes home again, in seconds.

    From another deployment of the tier: ``after_s`` after it left, and not before the vendor's prompt
    cache there has gone cold (``cache_s`` without a call). From a lower tier: ``up_after_s`` after it left.
    From a higher one: ``after_s``.
    """

    after_s: float
    up_after_s: float
    cache_s: float

    def due(self, binding: Binding, now: float) -> bool:
        """Whether it is time, as far as ``binding`` is concerned; its home may still be out of order."""
        if now < binding.back_at:
            return False
        return binding.place[0] != binding.home[0] or self.cold(binding, now)

    def cold(self, binding: Binding, now: float) -> bool:
        """Whether the place has probably forgotten what it was last sent."""
        return now - binding.used_at >= self.cache_s

    def wait_s(self, home: Place, place: Place, level: Mapping[str, int]) -> float:
        """How long after a move from ``home`` to ``place`` the way back is looked for."""
        lowest = len(level)
        better = level.get(home[0], lowest) < level.get(place[0], lowest)
        return self.up_after_s if better else self.after_s


class Bindings:
    """The bindings of the sessions used last: at most ``most``, each until it was unused for ``ttl_s``.

    Kept under the hash of a session's key, not the key: 40 bytes less, and no user's name in memory. Two
    keys with one hash would share a binding, which does no harm (of a million, once in 37 million times).
    Thread-safe. About 300 bytes each.
    """

    def __init__(self, most: int, ttl_s: float) -> None:
        self.most = most
        self.ttl_s = ttl_s
        self.evicted = 0
        self._rows: OrderedDict[int, Binding] = OrderedDict()
        self._places: dict[Place, Place] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: str, now: float) -> Binding | None:
        """The binding of ``key``, unless its time is over."""
        number = hash(key)
        with self._lock:
            binding = self._rows.get(number)
            if binding is None:
                return None
            if now - binding.used_at < self.ttl_s:
                self._rows.move_to_end(number)
                return binding
            del self._rows[number]
            return None

    def bind(self, key: str, place: Place, now: float) -> Binding:
        """The binding of ``key``: at home at ``place``, unless another call was quicker."""
        return self.add(key, Binding(place, now), now)

    def add(self, key: str, binding: Binding, now: float) -> Binding:
        """The binding of ``key``: that one, unless another call was quicker."""
        with self._lock:
            known = self._rows.get(hash(key))
            if known is not None and now - known.used_at < self.ttl_s:
                return known
            self._named(binding)
            self._keep(hash(key), binding, now)
            return binding

    def put(self, key: str, binding: Binding, now: float) -> Binding | None:
        """Take in what a store told of ``key``; of two that differ, the one that moved last holds. ``None``
        where its time is over."""
        if now - binding.used_at >= self.ttl_s:
            return None
        with self._lock:
            self._named(binding)
            known = self._rows.get(hash(key))
            if known is None:
                self._keep(hash(key), binding, now)
                return binding
            if binding.since > known.since:
                known.follow(binding)
            return known

    def move(self, binding: Binding, place: Place, why: str, now: float, back_at: float) -> bool:
        with self._lock:
            return binding.place != place and binding.move(self._same(place), why, now, back_at)

    def settle(self, binding: Binding, place: Place, now: float, granted: str = "") -> bool:
        with self._lock:
            return (binding.home, binding.place) != (place, place) and binding.settle(
                self._same(place), now, granted
            )

    def name_home(self, binding: Binding, place: Place) -> None:
        """Any place of that tier was its home; now it is this one."""
        with self._lock:
            if not binding.home[1]:
                binding.home = self._same(place)

    def found(
        self,
        binding: Binding,
        place: Place,
        *,
        home: Place,
        granted: str,
        why: str,
        now: float,
        back_at: float,
    ) -> bool:
        with self._lock:
            return binding.found(self._same(place), self._same(home), granted, why, now, back_at)

    def forget(self, key: str) -> bool:
        """Whether it was bound."""
        with self._lock:
            return self._rows.pop(hash(key), None) is not None

    def resize(self, most: int, ttl_s: float) -> None:
        """Other bounds from now on. Where there are too many, each new one drives out four."""
        with self._lock:
            self.most, self.ttl_s = most, ttl_s

    def _keep(self, number: int, binding: Binding, now: float) -> None:
        rows = self._rows
        rows[number] = binding
        rows.move_to_end(number)
        for _ in range(LOOKED_AT):
            oldest = next(iter(rows))
            if oldest == number:
                break
            if len(rows) > self.most:
                self.evicted += 1
            elif now - rows[oldest].used_at < self.ttl_s:
                break
            del rows[oldest]

    def _named(self, binding: Binding) -> None:
        binding.home, binding.place = self._same(binding.home), self._same(binding.place)

    def _same(self, place: Place) -> Place:
        """One tuple for each place, however many are bound there."""
        same = self._places.get(place)
        if same is None:
            same = place
            if len(self._places) < MOST_PLACES:
                self._places[place] = place
        return same

    def counts(self, now: float, at_most: int = 10_000) -> dict[str, int]:
        """How many are where, by ``tier/deployment``: of the ``at_most`` used last."""
        with self._lock:
            recent = [b for _, b in zip(range(at_most), reversed(self._rows.values()), strict=False)]
        found: dict[str, int] = {}
        for binding in recent:
            if now - binding.used_at < self.ttl_s:
                name = "/".join(binding.place)
                found[name] = found.get(name, 0) + 1
        return found

    def renew(self) -> None:
        """After a fork: the parent's lock may be held for good. Who was bound still is."""
        self._lock = threading.Lock()

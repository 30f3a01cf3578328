"""Calls for the same answer that are under way: pure state."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from collections.abc import Coroutine as Flow
from inspect import CORO_CREATED, getcoroutinestate
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import RejectedError
from ..pipeline.scope import Scope
from ..pipeline.tape import FlightLost, Tape
from ..types.happened import Attempt
from .sharing import Shared, own_of, refused

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from decimal import Decimal

    from ..types import Call, Candidate, Response, Trace, Waited
    from .layer import Layer

__all__ = ["Flight", "Flights", "Led"]


class Tried(NamedTuple):
    """What a flight went through."""

    candidates: list[Candidate]
    waits: list[Waited]
    attempts: list[Attempt]


class Flight:
    """One call to a provider which several callers wait for, reading its ``tape``.

    ``call`` is the flight's own carrier, ``scope`` its deadline and cancellation. ``begun``: somebody
    sees to it that the tape will end. ``inline``: in the founder's thread, and by his deadline.
    ``since`` is how much its trace held before, ``tried`` what came to it, once it has landed.
    ``answered_by`` names the layer that had the answer after all, which had cost ``worth_usd``,
    ``claimed`` the one that keeps other processes from making it too. ``loop`` is the event loop that
    it runs in: should that be closed without ceremony, whoever comes next calls ``abandon``. A renewal
    has ``released`` its place among them when it is over. ``uncounted`` is empty once there is a reader that
    counts for it: the first that ends with its outcome, or the founder of an inline one.
    """

    __slots__ = (
        "abandon",
        "answered_by",
        "begun",
        "call",
        "claimed",
        "closes",
        "inline",
        "key",
        "loop",
        "over",
        "readers",
        "released",
        "scope",
        "since",
        "tape",
        "tried",
        "uncounted",
        "worth_usd",
    )

    def __init__(self, key: bytes, call: Call, scope: Scope) -> None:
        self.key = key
        self.call = call
        self.scope = scope
        self.tape = Tape()
        self.readers = 1
        self.abandon: Callable[[], object] | None = None
        self.loop = _running_loop()
        self.begun = False
        self.inline = False
        self.over = False
        self.released = False
        self.closes = False
        self.since = (0, 0, 0)
        self.tried: Tried | None = None
        self.uncounted = [True]
        self.answered_by: str | None = None
        self.worth_usd: Decimal | None = None
        self.claimed: Layer | None = None

    @property
    def slot(self) -> bytes:
        """Where its answer is kept."""
        return b"" if self.call.lookup is None else self.call.lookup.slot

    def leads(self, trace: Trace | None) -> None:
        """Its founder leads it under his own ``trace``."""
        self.uncounted.clear()
        if trace is not None:
            self.since = (len(trace.candidates), len(trace.waits), len(trace.attempts))

    def so_far(self) -> Tried:
        """What it has gone through; an inline one's trace goes on with other things afterwards."""
        trace, since = self.call.trace, self.since
        if self.tried is not None:
            return self.tried
        if trace is None:
            return Tried([], [], [])
        return Tried(trace.candidates[since[0] :], trace.waits[since[1] :], trace.attempts[since[2] :])

    def tell(self, call: Call, founder: bool, error: Exception | None) -> None:
        """Write into a reader's trace what it went through with the flight."""
        theirs, trace = self.call.trace, call.trace
        if theirs is None or trace is None or theirs is trace:
            return
        tried, told = self.so_far(), self.tape.error
        shift_s = self.call.begun_at - call.begun_at
        kind = Shared if self.tape.done and not self._counts() else Attempt
        trace.candidates += tried.candidates
        if theirs.scores:
            trace.scores = {**(trace.scores or {}), **theirs.scores}
        trace.waits += tried.waits
        trace.attempts += [
            own_of(kind, attempt, shift_s, told, error)
            for attempt in tried.attempts
            if founder or not getattr(attempt.error, "personal", False)  # whose budget it was is his affair
        ]
        if kind is Shared and isinstance(error, RejectedError):
            refused(call, trace, error)
        if self.answered_by is not None:
            trace.cache, trace.cache_layer = "hit", self.answered_by
        elif not founder:
            trace.cache, trace.led_by = "joined", theirs.id
        elif theirs.cache is not None:  # an old answer, which a tier under load has given
            trace.cache, trace.cache_layer = theirs.cache, theirs.cache_layer
        if error is not None:
            trace.degraded = tuple(dict.fromkeys((*trace.degraded, *theirs.degraded)))

    def _counts(self) -> bool:
        """Whether it is this reader that counts for the flight."""
        try:
            return self.uncounted.pop()  # one step: of two threads that come here, one does
        except IndexError:
            return False


def _running_loop() -> AbstractEventLoop | None:
    asyncio = sys.modules.get("asyncio")
    loop: AbstractEventLoop | None = None if asyncio is None else asyncio._get_running_loop()
    return loop


class Flights:
    """The flights of one client. Thread-safe."""

    def __init__(self) -> None:
        self._flights: dict[bytes, Flight] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._flights)

    def renew(self) -> None:
        """After a fork: flights of the parent's threads and loops will not end here."""
        self._lock = threading.Lock()
        self._flights = {}

    def join(
        self, key: bytes, call: Call, alike: Callable[[Flight], bool] = lambda flight: True
    ) -> tuple[Flight, bool]:
        """The flight for ``key``, if it is ``alike``, and whether it has just been founded by this.

        It takes the most urgent reader's priority and the latest deadline.
        """
        own = call.scope
        assert own is not None
        self._abandon_dead(key)
        with self._lock:
            flight = self._flights.get(key)
            open_ = flight is not None and not flight.tape.done and not flight.scope.cancelled
            if flight is not None and open_ and alike(flight):
                flight.readers += 1
                flight.call.priority = max(flight.call.priority, call.priority)
                if flight.call.turn.defer and not call.turn.defer:
                    flight.call.turn.come_at_once()
                theirs, mine = flight.scope.deadline_at, own.deadline_at
                if theirs is not None and not flight.inline:
                    flight.scope.deadline_at = None if mine is None else max(theirs, mine)
                return flight, False
            flight = self._flights[key] = Flight(key, call, Scope(own.clock, own.deadline_at))
            return flight, True

    def _abandon_dead(self, key: bytes) -> None:
        """A flight whose event loop was closed under it will never end by itself."""
        flight = self._flights.get(key)
        if flight is not None and flight.loop is not None and flight.loop.is_closed():
            self.abandon(flight)

    def abandon_dead(self) -> None:
        """The same for all of them: they hold what others may need."""
        for key in tuple(self._flights):
            self._abandon_dead(key)

    def abandon(self, flight: Flight) -> None:
        self.landed(flight)
        abandon = flight.abandon
        if abandon is not None:
            abandon()
        flight.tape.end(error=FlightLost())

    def leads(self, flight: Flight, own: Call) -> None:
        """``own`` is the flight's carrier from now on."""
        with self._lock:
            own.priority = max(own.priority, flight.call.priority)
            flight.call = own

    def leave(self, flight: Flight, *, founder: bool) -> None:
        """A reader goes. The last one takes the flight along."""
        with self._lock:
            flight.readers -= 1
            last = not flight.readers
            if last:
                self._forget(flight)
        if not flight.tape.done:
            if founder and not flight.begun:
                flight.tape.end(error=FlightLost())  # its founder left before it began: begin anew
            elif last:
                flight.scope.cancel()

    def landed(self, flight: Flight) -> None:
        """Its answer is there, or never will be: who comes now finds it elsewhere, or asks again."""
        with self._lock:
            flight.over = True
            self._forget(flight)
            if flight.inline and flight.readers > 1:
                flight.tried = flight.so_far()

    def outlives(self, flight: Flight) -> bool:
        """Whether the flight goes on without its founder, and closes what they had in common."""
        with self._lock:
            flight.closes = not flight.over and flight.readers > 0
            return flight.closes

    def _forget(self, flight: Flight) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]


class Led(Flow[Any, Any, "Response"]):
    """A flow that calls ``lost`` where it is closed before its first step: its own lines will not run."""

    __slots__ = ("_flow", "_lost")

    def __init__(self, flow: Flow[Any, Any, Response], lost: Callable[[], object]) -> None:
        self._flow = flow
        self._lost = lost

    def send(self, value: Any) -> Any:
        return self._flow.send(value)

    def throw(self, *error: Any) -> Any:
        return self._flow.throw(*error)

    def close(self) -> None:
        unbegun = getcoroutinestate(self._flow) == CORO_CREATED
        self._flow.close()
        if unbegun:
            self._lost()

    def __await__(self) -> Generator[Any, Any, Response]:
        return self._flow.__await__()

    def __getattr__(self, name: str) -> Any:  # where it stands, for those who explain errors
        return getattr(self._flow, name)

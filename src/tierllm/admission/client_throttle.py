"""Sending less to a backend that refuses most of it: even a refusal costs it work.

The rule is that of "Handling Overload" in the Site Reliability Engineering book (Beyer et al., 2016):
a client rejects calls itself with probability max(0, (requests - K * accepts) / (requests + 1)).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from ..errors import (
    ConfigError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    ThrottledError,
)
from ..events import CallThrottled, Event, Listener, emitter
from ..pipeline.fork import renew_after_fork

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Handler
    from ..types import Call, Response

__all__ = ["ClientThrottle", "Tally"]

P = ParamSpec("P")
R = TypeVar("R")

CELLS = 60
"""The window moves on in steps of so many parts."""

LEAST_K = 1.1
"""With 1, its own rejections would keep it rejecting: of a backend that is well again it sees no more
accepts than it lets through, which is never all that were asked for."""

REFUSING = (429, 502, 503, 504, 529)
"""Statuses of a backend, or of the gateway before it, that did not take the call on; no status at all
is a connection that was refused or broken off."""


class Tally:
    """Requests and accepts within a sliding window: pure state, without a lock.

    A cell of 1/60 of the window leaves it as a whole.
    """

    __slots__ = ("_accepts", "_cell", "_requests", "accepts", "cell_s", "requests")

    def __init__(self, window_s: float, now: float) -> None:
        self.cell_s = window_s / CELLS
        self.requests = 0
        self.accepts = 0
        self._cell = int(now // self.cell_s)
        self._requests = [0] * CELLS
        self._accepts = [0] * CELLS

    def turn(self, now: float) -> None:
        """Forget what has left the window."""
        cell = int(now // self.cell_s)
        if cell <= self._cell:
            return
        for passed in range(max(self._cell + 1, cell - CELLS + 1), cell + 1):
            at = passed % CELLS
            self.requests -= self._requests[at]
            self.accepts -= self._accepts[at]
            self._requests[at] = self._accepts[at] = 0
        self._cell = cell

    def add(self, now: float, accepted: bool) -> None:
        self.turn(now)
        at = self._cell % CELLS
        self.requests += 1
        self._requests[at] += 1
        if accepted:
            self.accepts += 1
            self._accepts[at] += 1

    def rest(self, now: float) -> list[tuple[float, int, int]]:
        """What is left as the window moves on: seconds from now, requests and accepts, cell by cell."""
        requests, accepts = self.requests, self.accepts
        left = []
        for oldest in range(self._cell - CELLS + 1, self._cell + 1):
            at = oldest % CELLS
            requests -= self._requests[at]
            accepts -= self._accepts[at]
            left.append(((oldest + CELLS) * self.cell_s - now, requests, accepts))
        return left


class ClientThrottle:
    """Rejects calls itself while a backend refuses most of them; for threads and tasks alike.

    Over the last ``window_s`` seconds, *requests* are the calls that ended and those rejected here, *accepts*
    those that the backend took on. A call is rejected with probability
    max(0, (requests - ``k`` * accepts) / (requests + 1)), at most ``most``, once there are ``min_calls``
    requests: with ``k`` = 2 it begins when more than half are refused. A ``k`` nearer to 1 spares the
    backend more, a higher one finds out sooner that it is well. Without ``most``, which is not the book's,
    it would hardly find out after an outage: with no accepts at all, one call a window gets through.

    A 429, 502, 503, 504 or 529, a refused or broken connection and a timeout are refusals; any other answer,
    a 400 or a 500 too, is an accept. Cancelled calls, the caller's own deadline, refusals of tierllm's
    own and calls that never reached the backend are neither. Calls count when they end, not when they begin:
    an answer takes seconds here, and those still under way would look refused.

    A rejected call gets ``ThrottledError``; waiting in a queue would not help it. ``mode="observe"`` rejects
    nothing: it counts and tells what it would have rejected.

    A client gives each deployment a twin of its own (``bound``). Alone, ``wrap`` puts it around a
    function. Raises ``ConfigError`` where settings make no sense.
    """

    def __init__(
        self,
        *,
        k: float = 2.0,
        window_s: float = 120.0,
        min_calls: int = 10,
        most: float = 0.95,
        name: str = "",
        mode: Literal["enforce", "observe"] = "enforce",
        listeners: Sequence[Listener] = (),
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not _number(k) or not LEAST_K <= k < float("inf"):
            raise ConfigError(f"ClientThrottle(k={k!r}): give a factor of {LEAST_K} or more, such as 2")
        if not _number(window_s) or not 0 < window_s < float("inf"):
            raise ConfigError(f"ClientThrottle(window_s={window_s!r}): give seconds above 0")
        if not isinstance(min_calls, int) or isinstance(min_calls, bool) or min_calls < 1:
            raise ConfigError(f"ClientThrottle(min_calls={min_calls!r}): give a whole number of 1 or more")
        if not _number(most) or not 0 < most <= 1:
            raise ConfigError(f"ClientThrottle(most={most!r}): give a share above 0 and up to 1")
        if mode not in ("enforce", "observe"):
            raise ConfigError(f'ClientThrottle(mode={mode!r}): give "enforce" or "observe"')
        self.k = k
        self.window_s = window_s
        self.min_calls = min_calls
        self.most = most
        self.name = name
        self.mode = mode
        self._clock = clock
        self._rng = rng
        self._listeners = tuple(listeners)
        self._become("", name, clock or time.monotonic, rng or random.Random(), self._listeners)

    def _become(
        self, tier: str, deployment: str, clock: Clock, rng: random.Random, listeners: Sequence[Listener]
    ) -> None:
        """Begin anew, at this place."""
        self.tier = tier
        self.deployment = deployment
        self.clock = clock
        self.rng = rng
        self.tally = Tally(self.window_s, clock())
        self._emit = emitter(listeners) if listeners else None
        self._lock = threading.RLock()  # reentrant: a signal handler may ask for the status
        self._rejected = 0
        renew_after_fork(self)

    def bound(
        self,
        *,
        tier: str,
        deployment: str,
        clock: Clock,
        rng: random.Random,
        emit: Callable[[Event], None] | None = None,
    ) -> ClientThrottle:
        """A twin with the same rules and its own counts, for one deployment of a client.

        A clock and dice given at construction come first.
        """
        twin = ClientThrottle.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        listeners = self._listeners if emit is None else (*self._listeners, emit)
        twin._become(tier, deployment, self._clock or clock, self._rng or rng, listeners)
        return twin

    def inherit(self, older: ClientThrottle) -> None:
        """Go on with what ``older`` has counted at the same place, where its window is as long."""
        if self.window_s == older.window_s:
            self._lock, self.tally, self._rejected = older._lock, older.tally, older._rejected

    # -- what it says ----------------------------------------------------------

    def probability(self) -> float:
        """How likely a call is to be rejected now, 0…1."""
        with self._lock:
            return self._probability(self.clock())

    def peek(self, now: float, copies: int = 1) -> ThrottledError | None:
        """Always ``None``: no call is certain to be rejected before the dice are cast for it."""
        return None

    def listen(self, poke: Callable[[], object]) -> None:
        """Nobody waits for it, so that there is nothing to tell."""

    def status(self) -> dict[str, Any]:
        """The counts within the window, and what they lead to, as plain data."""
        with self._lock:
            probability = self._probability(self.clock())
            enforces = self.mode == "enforce"
            return {
                "requests": self.tally.requests,
                "accepts": self.tally.accepts,
                "window_s": self.window_s,
                "probability": probability,
                "rejected": self._rejected if enforces else 0,
                "would_have_rejected": 0 if enforces else self._rejected,
                "mode": self.mode,
            }

    def __repr__(self) -> str:
        return f"<ClientThrottle {self._where!r} {self.tally.accepts} of {self.tally.requests} accepted>"

    @property
    def _where(self) -> str:
        return f"{self.tier}/{self.deployment}" if self.tier else self.deployment

    def renew(self) -> None:
        """After a fork."""
        self._lock = threading.RLock()

    # -- around a call ---------------------------------------------------------

    def wrap(self, fn: Callable[P, R], *, on: tuple[type[Exception], ...] = ()) -> Callable[P, R]:
        """``fn``, sync or async, behind this throttle, without a client.

        Refusals are those of known SDKs and transports, and the errors in ``on``.
        """
        from ..providers.alone import around

        return around(self, fn, on=on, clock=self._clock)

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        self._draw(call)
        earlier = call.progress
        try:
            response = await call_next(call)
        except ProviderError as error:
            self._ended(call, earlier, accepted=not _refused(error))
            raise
        self._ended(call, earlier, accepted=True)
        return response

    def _draw(self, call: Call) -> None:
        """Cast the dice for one call. Raises ``ThrottledError``."""
        tally = self.tally
        if tally.requests == tally.accepts:
            return  # all is well, whatever part of it has left the window
        with self._lock:
            now = self.clock()
            probability = self._probability(now)
            if probability <= 0.0 or self.rng.random() >= probability:
                return
            self._rejected += 1
            if self.mode == "enforce":
                tally.add(now, accepted=False)
            retry_after_s = self._retry_after_s(now, probability)
            share = tally.accepts / tally.requests
        error = ThrottledError(
            f"{self._where or 'client throttle'}: the backend took on {share:.0%} of the last calls: "
            f"try again in {retry_after_s:.3g} s",
            retry_after_s=retry_after_s,
        )
        if self._emit is not None:
            self._emit(
                CallThrottled(
                    trace_id=call.trace.id if call.trace is not None else "",
                    tier=self.tier,
                    deployment=self.deployment,
                    by="throttle",
                    mode=self.mode,
                    error=error,
                )
            )
        if self.mode == "enforce":
            try:
                raise error
            finally:
                del error  # or it would hold this frame, and the frame it

    def _probability(self, now: float) -> float:
        tally = self.tally
        tally.turn(now)
        requests = tally.requests
        if requests < self.min_calls:
            return 0.0
        excess = requests - self.k * tally.accepts
        return min(self.most, excess / (requests + 1)) if excess > 0 else 0.0

    def _retry_after_s(self, now: float, probability: float) -> float:
        """When a rejected caller may hope for room.

        One that comes back once a cell has to do so 1 / (1 - p) times on average; and if nobody calls
        meanwhile, it is over as soon as enough refusals have left the window.
        """
        tries_s = self.tally.cell_s / (1.0 - probability)
        for after_s, requests, accepts in self.tally.rest(now):
            if after_s >= tries_s:
                break
            if requests < self.min_calls or requests <= self.k * accepts:
                return after_s
        return tries_s

    def _ended(self, call: Call, earlier: object, *, accepted: bool) -> None:
        """Count a call that has ended, if it reached the backend."""
        progress = call.progress
        if progress is not None and progress is not earlier:
            with self._lock:
                self.tally.add(self.clock(), accepted)


def _refused(error: ProviderError) -> bool:
    """Whether the backend did not take the call on."""
    if isinstance(error, RateLimitError | ProviderTimeoutError):
        return True
    return isinstance(error, ProviderUnavailableError) and (error.status is None or error.status in REFUSING)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

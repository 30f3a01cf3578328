"""How many calls at once a deployment bears, found out from what it refuses.

The rule is in ``aimd``; here it gets a lock, the slots of the calls under way, and its public forms.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from ..errors import ConfigError, ThrottledError
from ..events import CallThrottled, ConcurrencyChanged, Event, Listener, emitter
from ..pipeline.fork import renew_after_fork
from .aimd import Aimd, overload

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Handler
    from ..pipeline.scope import Invocation
    from ..types import Call, Response

__all__ = ["AdaptiveConcurrency"]

P = ParamSpec("P")
R = TypeVar("R")

TELL_AGAIN_S = 1.0
"""Changes are told at most so often; one event then spans them."""

SOONEST_S = 0.01
"""Nobody is told to come back sooner."""

UNKNOWN_S = 1.0
"""How long a call takes, as long as none has been answered."""


class AdaptiveConcurrency:
    """At most as many calls at once as the deployment has shown to bear; for threads and tasks alike.

    The limit begins at ``start`` and stays within ``least`` and ``most``. It grows by 1 after as many good
    calls as it is high, if at least half of it was in use, and falls to ``backoff`` of itself on a
    timeout, a 429 or an overload error, at most once a round. The level that was refused last is tried
    again after ``caution`` times as many good calls (1: plain AIMD). Latency is no sign: it follows the
    length of the output. Other errors, refusals and cancelled calls tell nothing. Time changes nothing:
    after a quiet night the limit is what the evening's calls had shown, and the first ones after it tell
    whether that still holds.

    A call that finds it full is refused with ``ThrottledError``, which says when to come back; a client's
    queue waits instead. ``mode="observe"`` refuses nothing: it counts and tells what it would have refused.
    Such calls are left out of everything else, so that it learns what it would have learnt.

    A client gives each deployment a twin of its own (``bound``). Alone, ``wrap`` puts it around a
    function. Raises ``ConfigError`` where settings make no sense.
    """

    def __init__(
        self,
        *,
        start: int = 8,
        least: int = 1,
        most: int = 256,
        backoff: float = 0.9,
        caution: int = 10,
        name: str = "",
        mode: Literal["enforce", "observe"] = "enforce",
        listeners: Sequence[Listener] = (),
        clock: Clock | None = None,
    ) -> None:
        for setting, count in (("start", start), ("least", least), ("most", most), ("caution", caution)):
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ConfigError(
                    f"AdaptiveConcurrency({setting}={count!r}): give a whole number of 1 or more"
                )
        if not least <= start <= most:
            raise ConfigError(
                f"AdaptiveConcurrency(start={start}, least={least}, most={most}): "
                "let start lie between least and most"
            )
        if not isinstance(backoff, int | float) or not 0 < backoff < 1:
            raise ConfigError(
                f"AdaptiveConcurrency(backoff={backoff!r}): give a factor between 0 and 1, such as 0.9"
            )
        if mode not in ("enforce", "observe"):
            raise ConfigError(f'AdaptiveConcurrency(mode={mode!r}): give "enforce" or "observe"')
        self.start = start
        self.least = least
        self.most = most
        self.backoff = backoff
        self.caution = caution
        self.name = name
        self.mode = mode
        self._clock = clock
        self._listeners = tuple(listeners)
        self._on: tuple[type[Exception], ...] = ()
        self._become("", name, clock or time.monotonic, self._listeners)

    def _become(self, tier: str, deployment: str, clock: Clock, listeners: Sequence[Listener]) -> None:
        """Begin anew, at this place."""
        self.tier = tier
        self.deployment = deployment
        self.clock = clock
        self.enforces = self.mode == "enforce"
        self.aimd = Aimd(self.start, self.least, self.most, self.backoff, self.caution)
        self._emit = emitter(listeners) if listeners else None
        self._pokes: tuple[Callable[[], object], ...] = ()
        self._held: set[weakref.ref[_Slot]] = set()
        self._lock = threading.RLock()  # reentrant: garbage collection may end a flow right here
        self._usual_s: float | None = None
        self._overloads = 0
        self._refused = 0
        self._told = self.start
        self._told_at = float("-inf")
        self._why = ""
        renew_after_fork(self)

    def bound(
        self,
        *,
        tier: str,
        deployment: str,
        clock: Clock,
        rng: object = None,
        emit: Callable[[Event], None] | None = None,
    ) -> AdaptiveConcurrency:
        """A twin with the same rules and its own state, for one deployment of a client.

        A clock given at construction comes first. ``rng`` is not needed.
        """
        twin = AdaptiveConcurrency.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        listeners = self._listeners if emit is None else (*self._listeners, emit)
        twin._become(tier, deployment, self._clock or clock, listeners)
        return twin

    # -- what it says ----------------------------------------------------------

    @property
    def size(self) -> int:
        """How many calls at once it lets through now."""
        return self.aimd.size

    @property
    def in_flight(self) -> int:
        """How many are under way; in observe mode without those that it would have refused."""
        return len(self._held)

    def peek(self, now: float, copies: int = 1) -> ThrottledError | None:
        """What a call would be refused with now, after ``copies`` - 1 like it. Changes nothing."""
        if not self.enforces or len(self._held) + copies <= self.aimd.size:
            return None
        return self._full(copies)

    def listen(self, poke: Callable[[], object]) -> None:
        """Call ``poke`` whenever there may be room again: outside all locks, perhaps in vain."""
        self._pokes = (*self._pokes, poke)

    def status(self) -> dict[str, Any]:
        """The limit, what is in use of it, and what it has met, as plain data."""
        with self._lock:
            refused = self._refused
            return {
                "size": self.aimd.size,
                "in_flight": len(self._held),
                "least": self.least,
                "most": self.most,
                "usual_s": self._usual_s,
                "overloads": self._overloads,
                "refused": refused if self.enforces else 0,
                "would_have_refused": 0 if self.enforces else refused,
                "mode": self.mode,
            }

    def __repr__(self) -> str:
        return f"<AdaptiveConcurrency {self._where!r} {self.in_flight} of {self.size}>"

    @property
    def _where(self) -> str:
        return f"{self.tier}/{self.deployment}" if self.tier else self.deployment

    def inherit(self, older: AdaptiveConcurrency) -> None:
        """Go on where ``older`` is, at the same place: its calls under way are among those that count here.

        With other rules the limit starts where it was, as far as they allow that.
        """
        with older._lock:
            if (self.start, self.least, self.most, self.backoff, self.caution) == (
                older.start,
                older.least,
                older.most,
                older.backoff,
                older.caution,
            ):
                self.aimd = older.aimd
            else:
                self.aimd.size = min(max(older.aimd.size, self.least), self.most)
            self._lock, self._held, self._usual_s = older._lock, older._held, older._usual_s
            self._overloads, self._refused, self._told = older._overloads, older._refused, self.aimd.size

    def renew(self) -> None:
        """After a fork: the parent's calls are not under way here. What was learnt stays."""
        self._lock = threading.RLock()
        self._held = set()

    # -- around a call ---------------------------------------------------------

    def wrap(self, fn: Callable[P, R], *, on: tuple[type[Exception], ...] = ()) -> Callable[P, R]:
        """``fn``, sync or async, called at most so many times at once, without a client.

        Timeouts and overloads are those of known SDKs and transports; errors in ``on`` count too, as
        overloads.
        """
        from ..providers.alone import around

        self._on = (*self._on, *on)
        return around(self, fn, on=on, clock=self._clock)

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        slot, earlier = _Slot(), call.progress
        error: BaseException | None = None
        try:
            if not self._take(slot):
                refusal = self._refusal(call)
                if refusal is not None:
                    try:
                        raise refusal
                    finally:
                        del refusal
            return await call_next(call)
        except BaseException as caught:
            error = caught
            raise
        finally:
            if slot.held is not None:
                self._held.discard(slot.held)
            progress = call.progress
            if slot.held is not None and progress is not None and progress is not earlier:
                self._learn(slot, progress, error)
            error = None  # or it would hold this frame, and the frame it
            if slot.held is not None:
                self._poke()

    def _take(self, slot: _Slot) -> bool:
        """Whether there is room; the slot is then held."""
        with self._lock:
            aimd, held = self.aimd, self._held
            in_flight = len(held) + 1
            if in_flight > aimd.size:
                return False
            slot.in_flight = in_flight
            slot.began = self.clock()
            slot.number = aimd.begin()
            slot.held = weakref.ref(slot, held.discard)
            held.add(slot.held)
            return True

    def _refusal(self, call: Call) -> ThrottledError | None:
        """Tell of a call that found no room; the error to raise for it, if any."""
        with self._lock:
            self._refused += 1
        error = self._full(1)
        if self._emit is not None:
            self._emit(
                CallThrottled(
                    trace_id=call.trace.id if call.trace is not None else "",
                    tier=self.tier,
                    deployment=self.deployment,
                    by="concurrency",
                    mode=self.mode,
                    error=error,
                )
            )
        return error if self.enforces else None

    def _full(self, copies: int) -> ThrottledError:
        size = self.aimd.size
        too_many = max(1, len(self._held) + copies - size)
        usual_s = UNKNOWN_S if self._usual_s is None else self._usual_s
        retry_after_s = max(SOONEST_S, usual_s * too_many / size)
        return ThrottledError(
            f"{self._where or 'adaptive concurrency'}: it bears no more than {size} calls at once now: "
            f"try again in {retry_after_s:.3g} s",
            retry_after_s=retry_after_s,
            waitable=True,
        )

    def _learn(self, slot: _Slot, progress: Invocation, error: BaseException | None) -> None:
        """Take in how a call ended that reached the provider."""
        reason = None if error is None else overload(error, self._on)
        if error is not None and reason is None:
            return
        now = self.clock()
        with self._lock:
            size = self.aimd.size
            if error is None:
                took_s, usual_s = now - slot.began, self._usual_s
                self._usual_s = took_s if usual_s is None else usual_s + (took_s - usual_s) / 8
                self.aimd.good(slot.number, slot.in_flight)
            else:
                self._overloads += 1
                self.aimd.overloaded(slot.number)
            old, new = self._told, self.aimd.size
            if new != size:
                self._why = reason or f"{size} calls at once were answered"
            why = self._why
            if old == new or now - self._told_at < TELL_AGAIN_S:
                return
            self._told, self._told_at = new, now
        if self._emit is not None:
            self._emit(
                ConcurrencyChanged(tier=self.tier, deployment=self.deployment, old=old, new=new, reason=why)
            )

    def _poke(self) -> None:
        for poke in self._pokes:
            poke()


class _Slot:
    """The place of one call under way; ``held`` is what stands for it among those in use.

    That is given back where the call ends, in a single step. Should an interrupt (Ctrl-C) strike in the very
    moment before, it is given back with the call's last reference: it is a weak one.
    """

    number = 0
    in_flight = 0
    began = 0.0
    held: weakref.ref[_Slot] | None = None

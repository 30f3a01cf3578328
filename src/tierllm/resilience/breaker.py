"""A circuit breaker: stop calling what keeps failing, and find out gently when it is well again.

The rules are in ``breaker_settings``, the state machine in ``breaker_state``; here they get a lock,
listeners and their public forms: a policy in a pipeline, a decorator, a ``with`` block.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from types import TracebackType
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar, cast, overload

from ..errors import CircuitOpenError, DeadlineExceededError
from ..events import Event, Listener, emitter
from ..pipeline.effects import Blocking, Flow, Handler
from ..pipeline.fork import renew_after_fork
from .breaker_alone import Rung, entered, guard, left
from .breaker_settings import BreakerSettings, Counts
from .breaker_state import Admission, BreakerState, StateName
from .breaker_store import BreakerLink, BreakerStore, breaker_store

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.scope import Invocation
    from ..stores import Store
    from ..types import Call, Response

__all__ = ["BreakerSettings", "CircuitBreaker"]

P = ParamSpec("P")
R = TypeVar("R")


class CircuitBreaker:
    """Refuses calls while what it guards is failing; thread-safe, for sync and async code alike.

    It opens when one of its rules trips:

    - ``consecutive_failures`` in a row (``None``: off);
    - a ``failure_rate`` (0…1; ``None``: off) of the calls in the window, once there are ``min_calls``
      of them (a smaller count window needs itself full). The window is the last ``window`` calls
      or, if given, the last ``window_s`` seconds;
    - a ``slow_call_rate`` of calls that took longer than ``slow_call_s`` (``None``: off) to the
      first token of a stream, or to the whole answer otherwise.

    Open, it refuses with ``CircuitOpenError`` for ``open_s``, then lets ``half_open_probes`` calls
    try. It closes when that many have succeeded. One failure, or none of an answer in
    ``probe_timeout_s``, opens it again for ``open_backoff`` times as long, up to ``max_open_s``.
    The open time starts over once the breaker stayed closed for as long as it was last open.

    Cancelled and abandoned calls, refusals, client errors, 429 and authentication errors are
    neutral: they count neither as a failure nor as a success. ``counts`` says otherwise: a type or
    types of errors that are the only failures, or a function of the error (``None``: the built-in
    rule decides).

    ``mode="observe"`` never refuses; it tells listeners and counts what it would have refused.
    ``fallback`` is a ladder of functions for decorated functions: when open, or when the function
    failed, they are called in order with the same arguments until one returns something other
    than ``None``. With a ``store``, breakers of one ``name`` share what they find out, at most
    ``store_refresh_s`` late, and remember it over restarts.

    Raises ``ConfigError`` where settings make no sense.
    """

    def __init__(
        self,
        name: str = "",
        *,
        failure_rate: float | None = 0.5,
        window: int = 20,
        window_s: float | None = None,
        min_calls: int = 10,
        consecutive_failures: int | None = 3,
        slow_call_s: float | None = None,
        slow_call_rate: float = 0.8,
        open_s: float = 30.0,
        open_backoff: float = 2.0,
        max_open_s: float = 300.0,
        half_open_probes: int = 1,
        half_open_concurrency: int | None = None,
        probe_timeout_s: float = 60.0,
        mode: Literal["enforce", "observe"] = "enforce",
        counts: Counts | None = None,
        fallback: Sequence[Rung] = (),
        listeners: Sequence[Listener] = (),
        clock: Clock | None = None,
        store: BreakerStore | Store | None = None,
        store_refresh_s: float = 1.0,
        wall_clock: Clock = time.time,
    ) -> None:
        self.settings = BreakerSettings(
            failure_rate=failure_rate,
            window=window,
            window_s=window_s,
            min_calls=min_calls,
            consecutive_failures=consecutive_failures,
            slow_call_s=slow_call_s,
            slow_call_rate=slow_call_rate,
            open_s=open_s,
            open_backoff=open_backoff,
            max_open_s=max_open_s,
            half_open_probes=half_open_probes,
            half_open_concurrency=half_open_concurrency,
            probe_timeout_s=probe_timeout_s,
            store_refresh_s=store_refresh_s,
            mode=mode,
            counts=counts,
        )
        self.fallback = tuple(fallback)
        self.machine = BreakerState(self.settings, clock or time.monotonic, name=name, shares=store is None)
        self._lock = threading.RLock()
        self._clock = clock
        self._listeners = tuple(listeners)
        self._emit = emitter(self._listeners)
        self._would_have_refused = 0
        self._store, self._wall_clock = store, wall_clock
        self._link = None
        if store is not None:
            self._link = BreakerLink(breaker_store(store), self.machine, self._lock, wall_clock)
        renew_after_fork(self)

    def fresh(
        self, name: str, *, clock: Clock | None = None, listeners: Sequence[Listener] = ()
    ) -> CircuitBreaker:
        """Another breaker with these settings, its own state, and ``listeners`` besides these."""
        return type(self)(
            name,
            **{f.name: getattr(self.settings, f.name) for f in fields(self.settings)},
            fallback=self.fallback,
            listeners=(*self._listeners, *listeners),
            clock=clock or self._clock,
            store=self._store,
            wall_clock=self._wall_clock,
        )

    def bind(
        self,
        *,
        name: str | None = None,
        clock: Clock | None = None,
        emit: Callable[[Event], object] | None = None,
    ) -> None:
        """Fill in a name and a clock left unset at construction, and add a listener.

        To be called before the first call.
        """
        with self._lock:
            if name and not self.machine.name:
                self.machine.name = name
            if clock is not None and self._clock is None:
                self._clock = clock
                self.machine.rebase(clock)
            if emit is not None and emit not in self._listeners:
                self._listeners = (*self._listeners, emit)
                self._emit = emitter(self._listeners)

    def inherit(self, older: CircuitBreaker) -> None:
        """Go on where ``older`` is, which guards the same: the calls of both count together.

        With other rules it begins anew, but open for as long as that one would be, and forced as that one is.
        """
        if self is older:
            return
        if self.settings == older.settings and self._store is older._store:
            self._lock, self.machine, self._link = older._lock, older.machine, older._link
            self._would_have_refused = older._would_have_refused
            return
        with older._lock, self._lock:
            self.machine.resume(older.machine)

    def renew(self) -> None:
        """Replace the lock and let go of probes: in a forked child both may belong to the parent."""
        self._lock = threading.RLock()
        self.machine.forget_probes()
        if self._link is not None:
            self._link.renew(self._lock)

    # -- what it says ----------------------------------------------------------

    @property
    def name(self) -> str:
        """What the breaker is called in events and messages."""
        return self.machine.name

    @property
    def state(self) -> StateName:
        """The present state. An open breaker stays ``"open"`` until a call comes after its time."""
        return self.machine.generation.state

    def peek(self) -> float | None:
        """Seconds until a call may pass if one would be refused now, else ``None``.

        Without side effects and without a lock. A ``forced_open`` breaker answers ``open_s``.
        """
        if self.settings.mode == "observe":
            return None
        return self.machine.retry_after_s()

    def status(self) -> dict[str, object]:
        """The present state as plain data: state, totals and rates of the window, reason, times."""
        with self._lock:
            return {
                **self.machine.status(),
                "mode": self.settings.mode,
                "would_have_refused": self._would_have_refused,
            }

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r} {self.state}>"

    # -- by hand ---------------------------------------------------------------

    def force_open(self) -> None:
        """Refuse every call until ``reset``."""
        self._force("forced_open", "forced open")

    def force_close(self) -> None:
        """Let every call pass and count nothing until ``reset``."""
        self._force("forced_closed", "forced closed")

    def metrics_only(self) -> None:
        """Let every call pass and count, but never open, until ``reset``."""
        self._force("metrics_only", "metrics only")

    def reset(self) -> None:
        """Close, with empty windows."""
        self._force("closed", "reset")

    def _force(self, state: StateName, reason: str) -> None:
        with self._lock:
            self.machine.force(state, reason)
        self._tell()
        if self._link is not None:
            self._link.sync()

    # -- in a pipeline, or alone -----------------------------------------------

    @overload
    def __call__(self, fn: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def __call__(self, call: Call, call_next: Handler, /) -> Flow[Response]: ...

    def __call__(
        self, first: Callable[P, R] | Call, call_next: Handler | None = None, /
    ) -> Callable[P, R] | Flow[Response]:
        """With one function: decorate it. With a call and what comes next: the policy."""
        if call_next is not None:
            return self.policy(cast("Call", first), call_next)
        fn = cast("Callable[P, R]", first)
        self.bind(name=getattr(fn, "__qualname__", None))
        return guard(self, fn)

    async def policy(self, call: Call, call_next: Handler) -> Response:
        """Around one call of a pipeline: refused while open, its outcome taken in."""
        link = self._link
        if link is not None and link.due:
            await Blocking(link.sync)
        admission, earlier = self.machine.standing or self._admit(), call.progress
        error: BaseException | None = None
        try:
            return await call_next(call)
        except BaseException as caught:
            error = caught
            raise
        finally:
            if error is not None or not (admission.shared and admission.generation.clean):
                self._note(admission, call, earlier, error)
            stays = error is None or isinstance(error, Exception)
            error = None  # or it would hold this frame, and the frame it
            if link is not None and stays and link.due:
                await Blocking(link.sync)

    def _note(
        self, admission: Admission, call: Call, earlier: Invocation | None, error: BaseException | None
    ) -> None:
        """Take in how a call of the pipeline ended."""
        progress = call.progress
        if progress is None or progress is earlier:  # the provider was never reached
            self.machine.release(admission)
            return
        first_s = progress.first_token_s
        waited_s = progress.elapsed_s if first_s is None else first_s
        failed, slow = self.settings.judge(error, waited_s, alone=False)
        if isinstance(error, DeadlineExceededError) and first_s is None and waited_s >= call.patience_s:
            failed = True  # the caller's deadline came first, but the place was silent unusually long
        if call.lane is not None and call.lane.outrun and failed is None:
            slow = self.settings.is_slow(waited_s)  # cancelled, but only since another place spoke first
        self._settle(admission, failed, slow)

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``fn`` once behind this breaker, without decorating it."""
        return guard(self, fn)(*args, **kwargs)

    def __enter__(self) -> CircuitBreaker:
        entered(self, self.admit())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        admission = left(self)
        if admission is not None:
            self.ended(admission, error)

    async def __aenter__(self) -> CircuitBreaker:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    # -- admission and outcome, for the forms in ``breaker_alone`` -------------

    def admit(self) -> Admission:
        """Leave for one call. Raises ``CircuitOpenError``. Whoever asks must report to ``ended``."""
        if self._link is not None:
            self._link.sync()
        return self._admit()

    def ended(
        self, admission: Admission | None, error: BaseException | None = None, waited_s: float | None = None
    ) -> bool:
        """The end of a call (``None``: it was refused); whether the fallback should be tried."""
        if admission is None:
            return isinstance(error, CircuitOpenError)
        if admission.shared and error is None:
            self._settle(admission, False, False)
            return False
        if waited_s is None:
            waited_s = self.waited_s(admission)
        failed, slow = self.settings.judge(error, waited_s, alone=True)
        self._settle(admission, failed, slow)
        if self._link is not None and failed is not None:  # neutral ends may come from a finalizer: no I/O
            self._link.sync()
        return failed is True and self.settings.mode == "enforce"

    def waited_s(self, admission: Admission) -> float:
        """Seconds since the call was admitted."""
        return self.machine.clock() - admission.started_at

    def _admit(self) -> Admission:
        machine = self.machine
        generation = machine.passing
        if generation is not None:  # as exact without the lock as with it: see ``breaker_alone``
            return Admission(generation, machine.clock())
        with self._lock:
            admission = machine.admit()
            retry_after_s = None
            if admission is None:
                retry_after_s = machine.retry_after_s() or 0.0
                if self.settings.mode == "observe":
                    self._would_have_refused += 1
                    admission = Admission(machine.generation, 0.0)
                    admission.settled = True  # it passes, but tells nothing
            reason = machine.reason
        if machine.news:
            self._tell()
        if admission is None:
            raise CircuitOpenError(
                f"circuit breaker {self.name!r} is open ({reason}): "
                f"try again in {retry_after_s:.3g} s, or call another deployment",
                retry_after_s=retry_after_s,
            )
        return admission

    def _settle(self, admission: Admission, failed: bool | None, slow: bool) -> None:
        machine = self.machine
        if not slow and (failed is None or (failed is False and admission.generation.clean)):
            machine.release(admission)
            return
        with self._lock:
            machine.settle(admission, failed, slow)
        if machine.news:
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            news, self.machine.news = self.machine.news, []
        for event in news:
            self._emit(event)

"""The driver for threads. No event loop anywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .clock import SteppedClock
from .effects import (
    Blocking,
    Follow,
    Gather,
    Grant,
    Invoke,
    Race,
    Sleep,
    Spawn,
    Spawned,
    Ticket,
    Wait,
)
from .run import Run, Step, foreign, loopless, past_deadline
from .scope import Cancelled, Invocation, Scope
from .tape import TapeHead
from .waiting import forbid_in_event_loop, nap

if TYPE_CHECKING:
    from ..types import Chunk, Response
    from .effects import Flow
    from .host import Host
    from .provider import Provider
    from .tape import Tape

__all__ = ["SyncRun", "run"]

G = TypeVar("G", bound=Grant)


class Source(Protocol):
    """Where chunks come from while a flow waits: a provider, a race's winner, a tape."""

    @property
    def result(self) -> Any: ...

    def advance(self) -> Chunk | None: ...

    def close(self) -> None: ...


class SyncRun(Run):
    """A flow driven in the thread that calls ``advance``; different threads may take turns."""

    __slots__ = ("_advancing", "_left", "_source", "_unfinished")

    def __init__(self, flow: Flow[Response], scope: Scope, host: Host, streaming: bool) -> None:
        super().__init__(flow, scope, host, streaming)
        self._source: Source | None = None
        self._advancing = False
        self._left = False
        self._unfinished = [True]

    def advance(self) -> Chunk | None:
        """The next chunk, or ``None`` once the flow has ended well (see ``result``) or was closed.

        Raises what the flow raises.
        """
        send, throw = self.flow.send, self.flow.throw
        step: Step = send
        value: Any = None
        source = self._source
        self._advancing = True  # first: ``close`` says that it has left, then looks here, without a lock
        try:
            if self._left:
                self._finish()
                return None
            while True:
                if source is not None:
                    try:
                        chunk = source.advance()
                        if chunk is None:
                            step, value = send, source.result
                        elif not self._left:
                            self.delivered += 1
                            return chunk
                        else:  # closed from another thread meanwhile: this one ends the flow
                            source.close()  # type: ignore[unreachable]
                            step, value = throw, Cancelled()
                    except BaseException as error:
                        step, value = throw, error
                    source = self._source = None
                try:
                    effect = step(value)
                except StopIteration as stop:
                    self.result = stop.value
                    self.release()
                    return None
                except RuntimeError as error:
                    if self.closed:
                        return None
                    self.release()
                    clearer = loopless(error)
                    if clearer is not None:
                        raise clearer from error
                    raise
                except BaseException:
                    self.release()
                    raise
                try:
                    kind = type(effect)
                    if kind is Invoke:
                        value = self._invoke(effect)  # type: ignore[arg-type]
                    elif kind is Wait:
                        value = self._wait(effect)  # type: ignore[arg-type]
                    else:
                        value = self._perform(effect)
                    source = self._source
                    step = send
                except BaseException as error:
                    step, value = throw, error
        finally:
            self._advancing = False
            del step, value  # an exception must not keep this frame alive through its traceback

    def close(self) -> None:
        """The consumer has left: end the flow where it stands.

        While another thread waits for the next chunk, the flow is its to end: it is woken for that.
        """
        self._left = True
        if self._advancing:
            self.scope.cancel()
        else:
            self._finish()

    def _finish(self) -> None:
        try:
            self._unfinished.pop()  # one step: of two threads that come here, one goes on
        except IndexError:
            return
        self.closed = True
        source, self._source = self._source, None
        try:
            if source is not None:
                source.close()
        finally:
            try:
                self.flow.close()
            finally:
                self.release()

    # -- effects ---------------------------------------------------------------

    def _invoke(self, effect: Invoke) -> Response | None:
        provider = effect.provider
        if provider.waits:
            forbid_in_event_loop(f"calling {provider.name}")
        invocation = self.open(effect)
        try:
            if invocation.streaming:
                self._source = _ProviderStream(provider, invocation)
                return None
            return invocation.answered(provider.complete(effect.call, invocation))
        except BaseException as error:
            raise invocation.failed(error)  # noqa: B904 - usually the same error

    def _wait(self, effect: Wait[G]) -> G:
        grant = effect.on.take(self.permits)
        if grant is not None:
            return grant
        scope, on = self.scope, effect.on
        scope.check()
        woken = threading.Event()

        def wake() -> bool:
            woken.set()
            return True

        ticket = Ticket(wake)
        scope.on_cancel(wake)
        try:
            if not on.enter(ticket, effect.call):
                self._queue(effect.timeout_s, ticket, woken)
            scope.check()
            granted: G = ticket.grant
            self.permits.append(granted)
            return granted
        except BaseException:
            on.leave(ticket)
            raise
        finally:
            scope.off_cancel(wake)

    def _queue(self, timeout: float | None, ticket: Ticket, woken: threading.Event) -> None:
        scope, clock = self.scope, self.scope.clock
        until = None if timeout is None else clock() + timeout
        while ticket.grant is None and not scope.cancelled:
            span = self.patience(until, "waiting in a queue")
            if span is not None and isinstance(clock, SteppedClock):
                clock.advance(span)  # nobody else moves a stepped clock
            else:
                forbid_in_event_loop("waiting in a queue")
                woken.wait(span if span is None else min(span, threading.TIMEOUT_MAX))

    def _perform(self, effect: Any) -> Any:
        """The effects that are rare enough not to be looked for first."""
        match effect:
            case Sleep():
                left = self.scope.remaining_s()
                if left is not None and left < effect.seconds:
                    raise past_deadline("waiting to try again")
                return nap(self.scope, effect.seconds)
            case Blocking():
                self.scope.check()
                done = effect.fn()
                if self.scope.cancelled:
                    if effect.undo is not None:
                        effect.undo(done)
                    raise Cancelled
                return done
            case Race():
                from .sync_race import race

                self._source, result = race(self, effect)
                return result
            case Gather():
                from .sync_race import gather

                return gather(self, effect)
            case Spawn():
                return spawn(self.host, self.scope, effect)
            case Follow():
                reader = _TapeReader(effect.tape, self.scope, self.follows())
                if self.streaming:
                    self._source = reader
                    return None
                while reader.advance() is not None:
                    pass
                return reader.result
        raise foreign(self.flow, effect)


class _ProviderStream:
    """An invocation that streams."""

    __slots__ = ("_chunks", "_invocation", "result")

    def __init__(self, provider: Provider, invocation: Invocation) -> None:
        self._invocation = invocation
        self._chunks: Iterator[Chunk] = provider.stream(invocation.call, invocation)
        self.result: Response | None = None

    def advance(self) -> Chunk | None:
        invocation = self._invocation
        invocation.back()
        try:
            if invocation.scope.cancelled:
                raise Cancelled
            try:
                chunk = next(self._chunks)
            except StopIteration:
                self.result = invocation.finished()
                return None
            invocation.feed(chunk)
            return chunk
        except BaseException as error:
            try:
                self.close()
            except Exception:  # the failure matters more than what its cleaning up met
                pass
            raise invocation.failed(error)  # noqa: B904 - usually the same error

    def close(self) -> None:
        self._invocation.end()
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()


class _TapeReader(TapeHead):
    """A reader of a tape, as a source of chunks."""

    __slots__ = ()

    def advance(self) -> Chunk | None:
        self.back()
        while (chunk := self.next()) is None and not self.ended():
            self._wait_for_more()
        return chunk

    def _wait_for_more(self) -> None:
        scope, tape = self.scope, self.tape
        woken = threading.Event()
        if tape.wake_later(self.seen, woken.set):
            return
        scope.on_cancel(woken.set)
        try:
            forbid_in_event_loop("following another call")
            left = scope.remaining_s()
            if left is not None and left <= 0:
                raise self.late()
            woken.wait(left if left is None else min(left, threading.TIMEOUT_MAX))
            scope.check()
        finally:
            scope.off_cancel(woken.set)
            tape.forget(woken.set)

    def close(self) -> None:
        """The tape belongs to others."""


class _SpawnedThread:
    """A flow in a thread of its own."""

    __slots__ = ("_flow", "_tape", "scope")

    def __init__(self, flow: SyncRun, tape: Tape | None) -> None:
        self._flow = flow
        self._tape = tape
        self.scope = flow.scope

    def cancel(self) -> None:
        self.scope.cancel()

    def pump(self) -> None:
        flow, tape, self._tape = self._flow, self._tape, None
        error: BaseException | None = None
        try:
            while (chunk := flow.advance()) is not None:
                if tape is not None:
                    tape.push(chunk)
        except BaseException as failure:
            error = failure
        finally:
            flow.host.end(self.scope)
            if tape is not None:
                tape.end(flow.result, error)
            del error, tape  # an error's traceback holds this frame
            flow.close()


def spawn(host: Host, parent: Scope, effect: Spawn) -> Spawned:
    """Start ``effect.flow`` in a thread of its own, with a deadline of its own."""
    scope = effect.scope or Scope(host.clock, parent.deadline_at)
    flow = SyncRun(effect.flow, scope, host, streaming=effect.tape is not None)
    spawned = _SpawnedThread(flow, effect.tape)
    try:
        host.begin(scope)
        host.thread(spawned.pump, "flight")
    except BaseException:
        host.end(scope)
        flow.close()
        raise
    return spawned


def run(flow: Flow[Response], scope: Scope, host: Host) -> Response:
    """Drive ``flow`` to its end in this thread and give its value."""
    driven = SyncRun(flow, scope, host, streaming=False)
    try:
        driven.advance()
        result: Response = driven.result
        return result
    finally:
        driven.close()

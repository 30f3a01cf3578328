"""The driver for virtual time: a heap of moments. Hours of traffic in seconds, always the same way.

The same policies run as under the other drivers. Providers must be able to ``play`` (lay their
answers out in time); nothing here waits, and nothing runs in threads.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import DeadlineExceededError, UsageError
from . import virtual_race
from .effects import Blocking, Follow, Gather, Grant, Invoke, Race, Sleep, Spawn, Ticket, Wait
from .host import Host
from .run import Run, Step, foreign, loopless, past_deadline
from .scope import Cancelled, Scope
from .tape import TapeHead

if TYPE_CHECKING:
    from ..types import Chunk, Response
    from .effects import Flow
    from .provider import Steps
    from .scope import Invocation

__all__ = ["VirtualRun", "VirtualTime"]

OnEnd = Callable[["VirtualRun"], object]
OnChunk = Callable[["Chunk"], object]


class VirtualTime:
    """A world with its own time: ``clock()`` tells it, ``run()`` lets it pass until nothing is left to do."""

    def __init__(self, start_s: float = 0.0) -> None:
        self.now = start_s
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    def clock(self) -> float:
        return self.now

    def at(self, moment: float, do: Callable[[], object]) -> None:
        """Do something at a moment; at once if it is past. Equal moments keep the order of asking."""
        self._count += 1
        heapq.heappush(self._heap, (moment if moment > self.now else self.now, self._count, do))

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        self.at(self.now + seconds, do)

    def soon(self, do: Callable[[], object]) -> None:
        """Do something at this moment, after what is planned for it already."""
        self.at(self.now, do)

    def run(self, until: float | None = None) -> None:
        """Let time pass to the moment ``until``, or until nothing more is planned."""
        heap, pop = self._heap, heapq.heappop
        while heap and (until is None or heap[0][0] <= until):
            self.now, _, do = pop(heap)
            do()
        if until is not None and self.now < until:
            self.now = until

    def start(
        self,
        flow: Flow[Response],
        host: Host,
        *,
        scope: Scope | None = None,
        streaming: bool = False,
        on_chunk: OnChunk | None = None,
        on_end: OnEnd | None = None,
    ) -> VirtualRun:
        """Begin a flow now. ``on_end`` is called with the run when it has ended, well or not."""
        run = VirtualRun(self, flow, scope or Scope(self.clock), host, streaming, on_chunk, on_end)
        run.begin()
        return run


class VirtualRun(Run):
    """A flow that goes on whenever the world reaches what it waits for.

    ``ended`` is True afterwards, with ``result`` or ``error``. What it is parked on carries a
    number, so that whatever else would have woken it is ignored.
    """

    __slots__ = ("_leave", "_on_chunk", "_on_end", "_parked", "ended", "error", "world")

    def __init__(
        self,
        world: VirtualTime,
        flow: Flow[Response],
        scope: Scope,
        host: Host,
        streaming: bool,
        on_chunk: OnChunk | None = None,
        on_end: OnEnd | None = None,
    ) -> None:
        super().__init__(flow, scope, host, streaming)
        self.world = world
        self._on_chunk = on_chunk
        self._on_end = on_end
        self._parked = 0
        self._leave: Callable[[], object] | None = None
        self.ended = False
        self.error: BaseException | None = None
        scope.on_cancel(self._cancelled)

    def begin(self) -> None:
        if not self.ended:
            self._go(self.flow.send, None)

    def close(self) -> None:
        """The consumer has left: end the flow where it stands."""
        if not self.ended:
            self.unpark()
            self.flow.close()
            self._end()

    def deliver(self, chunk: Chunk) -> None:
        self.delivered += 1
        if self._on_chunk is not None:
            self._on_chunk(chunk)

    # -- stepping --------------------------------------------------------------

    def _go(self, step: Step, value: Any) -> None:
        send, throw = self.flow.send, self.flow.throw
        try:
            while True:
                try:
                    effect = step(value)
                except StopIteration as stop:
                    self.result = stop.value
                    return self._end()
                except BaseException as error:
                    return self._failed(error)
                try:
                    done, value = self._perform(effect)
                    step = send
                except BaseException as error:
                    done, step, value = True, throw, _shed(error)
                if not done:
                    return None
        finally:
            del step, value

    def _failed(self, error: BaseException) -> None:
        """The flow has raised: an end like any other, save for what is meant for the whole program."""
        _shed(error)
        clearer = loopless(error) if isinstance(error, RuntimeError) else None
        if clearer is not None:
            clearer.__cause__, error = error, clearer
        self.error = error
        self._end()
        if not isinstance(error, Exception | Cancelled | GeneratorExit):
            raise error

    def _end(self) -> None:
        self.ended = True
        self.scope.off_cancel(self._cancelled)
        self.release()
        on_end, self._on_end, self._on_chunk = self._on_end, None, None  # they may know this run
        if on_end is not None:
            on_end(self)

    def _cancelled(self) -> None:
        if self._parked and not self.ended:
            self.unpark()
            self._go(self.flow.throw, Cancelled())

    def park(self, leave: Callable[[], object] | None = None) -> int:
        """Wait for something. ``leave`` is called where the wait is given up."""
        self._parked += 1
        self._leave = leave
        return self._parked

    def unpark(self) -> None:
        """Give up the present wait."""
        self._parked += 1
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def waits_for(self, ticket: int) -> bool:
        return ticket == self._parked and not self.ended

    def send(self, ticket: int, value: Any) -> None:
        if ticket == self._parked and not self.ended:
            self._parked += 1
            self._leave = None
            self._go(self.flow.send, value)

    def throw(self, ticket: int, error: BaseException) -> None:
        if ticket == self._parked and not self.ended:
            self.unpark()
            self._go(self.flow.throw, _shed(error))

    # -- effects: (True, value) when done at once, (False, None) when parked -----

    def _perform(self, effect: Any) -> tuple[bool, Any]:
        kind = type(effect)
        if kind is Invoke:
            return self._invoke(effect)
        if kind is Wait:
            grant = effect.on.take(self.permits)
            return (True, grant) if grant is not None else self._queue(effect)
        if kind is Sleep:
            return self._sleep(effect.seconds)
        if kind is Blocking:
            return True, self._block(effect)
        if kind is Race:
            return virtual_race.race(self, effect)
        if kind is Gather:
            return virtual_race.gather(self, effect)
        if kind is Spawn:
            return True, virtual_race.spawn(self, effect)
        if kind is Follow:
            return self._follow(effect)
        raise foreign(self.flow, effect)

    def _block(self, effect: Blocking[Any]) -> Any:
        self.scope.check()
        done = effect.fn()
        if self.scope.cancelled:
            if effect.undo is not None:
                effect.undo(done)
            raise Cancelled
        return done

    def _invoke(self, effect: Invoke) -> tuple[bool, Any]:
        play = getattr(effect.provider, "play", None)
        if play is None:
            raise UsageError(
                f"{effect.provider.name} cannot run in virtual time: use a provider that plays, "
                "such as tierllm.testing.FakeProvider"
            )
        invocation = self.open(effect)
        try:
            steps: Steps = play(effect.call, invocation)
        except BaseException as error:
            raise invocation.failed(error)  # noqa: B904 - usually the same error
        close: Callable[[], object] = getattr(steps, "close", _nothing)

        def leave() -> None:
            invocation.end()
            close()

        ticket = self.park(leave)
        return self._play(invocation, steps, ticket)

    def _play(self, invocation: Invocation, steps: Steps, ticket: int) -> tuple[bool, Any]:
        """Take steps until one has to be waited for."""
        try:
            for step in steps:
                if isinstance(step, float):
                    self._until(self.world.now + step, invocation, steps, ticket)
                    return False, None
                invocation.feed(step)
                if invocation.streaming:
                    self.deliver(step)
                    if ticket != self._parked:  # the consumer has left
                        return False, None
            response = invocation.finished()
        except BaseException as error:
            self.unpark()
            raise invocation.failed(error)  # noqa: B904 - usually the same error
        self._parked += 1
        self._leave = None
        return True, response

    def _until(self, moment: float, invocation: Invocation, steps: Steps, ticket: int) -> None:
        """Go on with the steps at ``moment``, or time out if that comes first."""
        due = invocation.due_at
        if due is not None and due < moment:
            self.world.at(due, lambda: self._late(moment, invocation, steps, ticket))
        else:
            self.world.at(moment, lambda: self._resume(invocation, steps, ticket))

    def _resume(self, invocation: Invocation, steps: Steps, ticket: int) -> None:
        if ticket != self._parked or self.ended:
            return
        try:
            done, value = self._play(invocation, steps, ticket)
        except BaseException as error:
            self._go(self.flow.throw, _shed(error))
            return
        if done:
            self._go(self.flow.send, value)

    def _late(self, moment: float, invocation: Invocation, steps: Steps, ticket: int) -> None:
        if ticket != self._parked or self.ended:
            return
        due = invocation.due_at
        if due is None or due > self.world.now:  # the deadline was moved meanwhile
            self._until(moment, invocation, steps, ticket)
            return
        late = invocation.timed_out()
        self.throw(ticket, invocation.failed(late))

    def _queue(self, effect: Wait[Grant]) -> tuple[bool, Any]:
        self.scope.check()
        world = self.world
        number = 0
        until = None if effect.timeout_s is None else world.now + effect.timeout_s

        def wake() -> bool:
            world.soon(granted)
            return True

        def granted() -> None:
            if self.waits_for(number) and ticket.grant is not None:
                self.permits.append(ticket.grant)
                self.send(number, ticket.grant)

        def look() -> None:
            if not self.waits_for(number) or ticket.grant is not None:
                return
            try:
                span = self.patience(until, "waiting in a queue")
            except Exception as error:
                self.throw(number, error)
                return
            if span is not None:
                world.after(span, look)

        ticket = Ticket(wake)
        if effect.on.enter(ticket, effect.call):
            self.permits.append(ticket.grant)
            return True, ticket.grant
        number = self.park(lambda: effect.on.leave(ticket))
        bounds = [b for b in (until, self.scope.deadline_at) if b is not None]
        if bounds:
            world.at(min(bounds), look)
        return False, None

    def _sleep(self, seconds: float) -> tuple[bool, Any]:
        self.scope.check()
        left = self.scope.remaining_s()
        if left is not None and left < seconds:
            raise past_deadline("waiting to try again")
        ticket = self.park()
        self.world.after(seconds, lambda: self.send(ticket, None))
        return False, None

    def child(
        self, flow: Flow[Response], streaming: bool, on_chunk: OnChunk | None, on_end: OnEnd
    ) -> VirtualRun:
        """A run whose scope is within this one's."""
        run = self.beside(flow, Scope(self.world.clock, parent=self.scope), streaming, on_chunk, on_end)
        run.delivered = self.delivered
        return run

    def beside(
        self, flow: Flow[Response], scope: Scope, streaming: bool, on_chunk: OnChunk | None, on_end: OnEnd
    ) -> VirtualRun:
        return VirtualRun(self.world, flow, scope, self.host, streaming, on_chunk, on_end)

    def _follow(self, effect: Follow) -> tuple[bool, Any]:
        world, tape = self.world, effect.tape
        head = TapeHead(tape, self.scope, self.follows())
        head.back()

        def read() -> tuple[bool, Any]:
            """Whether the end is reached, and the result."""
            while not head.ended():
                chunk = head.next()
                if chunk is None:
                    if not tape.wake_later(head.seen, wake):
                        return False, None
                elif self.streaming:
                    self.deliver(chunk)
                    if ticket != self._parked:  # the consumer has left
                        return False, None
            return True, head.result

        def wake() -> None:
            world.soon(woken)

        def woken() -> None:
            if not self.waits_for(ticket):
                return
            try:
                done, value = read()
            except Exception as error:
                self.throw(ticket, error)
                return
            if done:
                self.send(ticket, value)

        def look() -> None:
            if not self.waits_for(ticket):
                return
            try:
                span = self.patience(None, "following another call")
            except DeadlineExceededError:
                self.throw(ticket, head.late())
                return
            if span is not None:
                world.after(span, look)

        ticket = self.park(lambda: tape.forget(wake))
        if self.scope.deadline_at is not None:
            world.at(self.scope.deadline_at, look)
        return read()


def _shed(error: BaseException) -> BaseException:
    """``error`` and its causes without this module's frames: runs keep errors, which must not keep runs."""
    link: BaseException | None = error
    while link is not None:
        at = link.__traceback__
        while at is not None and at.tb_frame.f_code.co_filename == __file__:
            at = at.tb_next
        link.__traceback__ = at
        link = link.__cause__
    return error


def _nothing() -> None:
    return None

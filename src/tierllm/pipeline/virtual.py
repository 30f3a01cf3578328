"""The driver for virtual time: a heap of moments. Hours of traffic in seconds, always the same way.

The same policies run as under the other drivers. Providers must be able to ``play`` (lay their
answers out in time); nothing here waits, and nothing runs in threads.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .effects import Blocking, Follow, Gather, Grant, Invoke, Race, Sleep, Spawn, Ticket, Wait
from .host import Host
from .run import Run, Step, foreign, past_deadline
from .scope import Cancelled, Scope
from .tape import FlightLost

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
        heapq.heappush(self._heap, (max(moment, self.now), self._count, do))

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        self.at(self.now + seconds, do)

    def run(self, until: float | None = None) -> None:
        """Let time pass to the moment ``until``, or until nothing more is planned."""
        heap = self._heap
        while heap and (until is None or heap[0][0] <= until):
            self.now, _, do = heapq.heappop(heap)
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

    __slots__ = ("_leave", "_on_chunk", "_on_end", "_parked", "_world", "ended", "error")

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
        self._world = world
        self._on_chunk = on_chunk
        self._on_end = on_end
        self._parked = 0
        self._leave: Callable[[], object] | None = None
        self.ended = False
        self.error: BaseException | None = None
        scope.on_cancel(self._cancelled)

    def begin(self) -> None:
        self._go(self.flow.send, None)

    def close(self) -> None:
        """The consumer has left: end the flow where it stands."""
        if not self.ended:
            self._unpark()
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
                except Exception as error:
                    self.error = error
                    return self._end()
                except (Cancelled, GeneratorExit) as error:
                    self.error = error
                    return self._end()
                try:
                    done, value = self._perform(effect)
                    step = send
                except Exception as error:
                    done, step, value = True, throw, error
                if not done:
                    return None
        finally:
            del step, value

    def _end(self) -> None:
        self.ended = True
        self.scope.off_cancel(self._cancelled)
        self.release()
        if self._on_end is not None:
            self._on_end(self)

    def _cancelled(self) -> None:
        if not self.ended and self._parked:
            self._unpark()
            self._go(self.flow.throw, Cancelled())

    def _unpark(self) -> None:
        self._parked += 1
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def _park(self, leave: Callable[[], object] | None = None) -> int:
        self._parked += 1
        self._leave = leave
        return self._parked

    def _send(self, ticket: int, value: Any) -> None:
        if ticket == self._parked and not self.ended:
            self._leave = None
            self._go(self.flow.send, value)

    def _throw(self, ticket: int, error: BaseException) -> None:
        if ticket == self._parked and not self.ended:
            self._leave = None
            self._go(self.flow.throw, error)

    # -- effects: (True, value) when done at once, (False, None) when parked -----

    def _perform(self, effect: Any) -> tuple[bool, Any]:
        kind = type(effect)
        if kind is Invoke:
            return self._invoke(effect)
        if kind is Wait:
            return self._wait(effect)
        if kind is Sleep:
            return self._sleep(effect.seconds)
        if kind is Blocking:
            return True, effect.fn()
        if kind is Race:
            return _Race(self, effect, self._world).begin()
        if kind is Gather:
            return self._gather(effect)
        if kind is Spawn:
            return True, self._spawn(effect)
        if kind is Follow:
            return self._follow(effect)
        raise foreign(self.flow, effect)

    def _invoke(self, effect: Invoke) -> tuple[bool, Any]:
        play = getattr(effect.provider, "play", None)
        if play is None:
            raise UsageError(
                f"{effect.provider.name} cannot run in virtual time: use a provider that plays, "
                "such as tierllm.testing.FakeProvider"
            )
        invocation = self.open(effect)
        steps: Steps = play(effect.call, invocation)
        close: Callable[[], object] = getattr(steps, "close", _nothing)

        def leave() -> None:
            if invocation.ended_at is None:
                invocation.ended_at = self._world.now
            close()

        ticket = self._park(leave)
        return self._play(invocation, steps, ticket)

    def _play(self, invocation: Invocation, steps: Steps, ticket: int) -> tuple[bool, Any]:
        """Take steps until one has to be waited for."""
        world = self._world
        try:
            for step in steps:
                if isinstance(step, float):
                    due = invocation.due_at
                    if due is not None and world.now + step > due:
                        world.at(due, lambda: self._late(invocation, ticket))
                        return False, None
                    world.at(world.now + step, lambda: self._resume_play(invocation, steps, ticket))
                    return False, None
                invocation.feed(step)
                if invocation.streaming:
                    self.deliver(step)
                    if ticket != self._parked:  # the consumer has left
                        return False, None
            response = invocation.finished()
        except Exception as error:
            self._parked += 1
            self._leave = None
            raise invocation.failed(error)  # noqa: B904 - usually the same error
        self._parked += 1
        self._leave = None
        return True, response

    def _resume_play(self, invocation: Invocation, steps: Steps, ticket: int) -> None:
        if ticket != self._parked or self.ended:
            return
        try:
            done, value = self._play(invocation, steps, ticket)
        except Exception as error:
            self._go(self.flow.throw, error)
            return
        if done:
            self._go(self.flow.send, value)

    def _late(self, invocation: Invocation, ticket: int) -> None:
        if ticket != self._parked or self.ended:
            return
        due = invocation.due_at
        if due is not None and due > self._world.now:  # the deadline was moved meanwhile
            self._world.at(due, lambda: self._late(invocation, ticket))
            return
        self._unpark()
        self._go(self.flow.throw, invocation.failed(invocation.timed_out()))

    def _wait(self, effect: Wait[Grant]) -> tuple[bool, Any]:
        grant = effect.on.take(self.permits)
        if grant is not None:
            return True, grant
        self.scope.check()
        world = self._world
        number = 0

        def wake() -> bool:
            world.at(world.now, granted)
            return True

        def granted() -> None:
            if number == self._parked and ticket.grant is not None:
                self.permits.append(ticket.grant)
                self._send(number, ticket.grant)

        ticket = Ticket(wake)
        if effect.on.enter(ticket, effect.call):
            self.permits.append(ticket.grant)
            return True, ticket.grant
        number = self._park(lambda: effect.on.leave(ticket))
        left = self.scope.remaining_s()
        clamped = left is not None and (effect.timeout_s is None or left < effect.timeout_s)
        span = left if clamped else effect.timeout_s
        if span is not None:

            def late() -> None:
                if number == self._parked and ticket.grant is None:
                    effect.on.leave(ticket)
                    self._throw(number, past_deadline("waiting in a queue") if clamped else TimeoutError())

            world.after(max(0.0, span), late)
        return False, None

    def _sleep(self, seconds: float) -> tuple[bool, Any]:
        self.scope.check()
        left = self.scope.remaining_s()
        if left is not None and left < seconds:
            raise past_deadline("waiting to try again")
        ticket = self._park()
        self._world.after(seconds, lambda: self._send(ticket, None))
        return False, None

    def _child(
        self, flow: Flow[Response], streaming: bool, on_chunk: OnChunk | None, on_end: OnEnd
    ) -> VirtualRun:
        scope = Scope(self._world.clock, parent=self.scope)
        return VirtualRun(self._world, flow, scope, self.host, streaming, on_chunk, on_end)

    def _gather(self, effect: Gather[Any]) -> tuple[bool, Any]:
        members: list[VirtualRun] = []
        pending = len(effect.flows)

        def leave() -> None:
            for member in members:
                member.scope.cancel()

        ticket = self._park(leave)

        def ended(member: VirtualRun) -> None:
            nonlocal pending
            self.scope.off_cancel(member.scope.cancel)
            pending -= 1
            if ticket != self._parked:
                return
            if member.error is not None:
                self._unpark()
                self._world.at(self._world.now, lambda error=member.error: self._go(self.flow.throw, error))  # type: ignore[misc]
            elif not pending:
                self._world.at(self._world.now, lambda: self._send(ticket, [m.result for m in members]))

        members += [self._child(flow, False, None, ended) for flow in effect.flows]
        for member in members:
            self._world.at(self._world.now, member.begin)
        return False, None

    def _spawn(self, effect: Spawn) -> _SpawnedRun:
        scope = Scope(self._world.clock, self.scope.deadline_at)
        tape = effect.tape
        self.host.begin(scope)

        def ended(run: VirtualRun) -> None:
            self.host.end(scope)
            if tape is not None:
                error = FlightLost() if isinstance(run.error, Cancelled) else run.error
                tape.end(run.result, error)

        run = VirtualRun(
            self._world,
            effect.flow,
            scope,
            self.host,
            tape is not None,
            tape.push if tape is not None else None,
            ended,
        )
        self._world.at(self._world.now, run.begin)
        return _SpawnedRun(scope)

    def _follow(self, effect: Follow) -> tuple[bool, Any]:
        tape, seen = effect.tape, 0
        world = self._world

        def read() -> tuple[bool, Any]:
            nonlocal seen
            while seen < len(tape.chunks):
                seen += 1
                if self.streaming:
                    self.deliver(tape.chunks[seen - 1])
                    if ticket != self._parked:
                        return False, None
            if tape.done:
                return True, tape.told()
            if tape.wake_later(seen, wake):
                return read()
            return False, None

        def wake() -> None:
            world.at(world.now, woken)

        def woken() -> None:
            if ticket != self._parked or self.ended:
                return
            try:
                done, value = read()
            except BaseException as error:
                self._throw(ticket, error)
                return
            if done:
                self._send(ticket, value)

        ticket = self._park(lambda: tape.forget(wake))
        left = self.scope.remaining_s()
        if left is not None:
            world.after(
                max(0.0, left), lambda: self._throw(ticket, past_deadline("following an identical call"))
            )
        return read()


class _Race:
    """One race in virtual time."""

    def __init__(self, parent: VirtualRun, effect: Race, world: VirtualTime) -> None:
        self._parent = parent
        self._effect = effect
        self._world = world
        self._legs: dict[int, VirtualRun] = {}
        self._errors: dict[int, BaseException] = {}
        self._winner: int | None = None
        self._ticket = 0

    def begin(self) -> tuple[bool, Any]:
        self._ticket = self._parent._park(self._cancel)
        for number, (delay, _) in enumerate(self._effect.legs):
            self._world.after(delay, lambda number=number: self._start(number))  # type: ignore[misc]
        return False, None

    def _over(self) -> bool:
        return self._winner is not None or self._ticket != self._parent._parked

    def _start(self, number: int) -> None:
        if self._over() or number in self._legs or number in self._errors:
            return
        by_chunk = self._effect.win == "chunk"
        leg = self._parent._child(
            self._effect.legs[number][1](),
            self._parent.streaming and by_chunk,
            lambda chunk: self._spoke(number, chunk),
            lambda run: self._ended(number, run),
        )
        self._legs[number] = leg
        leg.begin()

    def _win(self, number: int) -> None:
        self._winner = number
        for other, leg in tuple(self._legs.items()):
            if other != number:
                leg.scope.cancel()
                self._parent.scope.off_cancel(leg.scope.cancel)

    def _spoke(self, number: int, chunk: Chunk) -> None:
        if self._winner is None:
            self._win(number)
        if self._winner == number:
            self._parent.deliver(chunk)

    def _ended(self, number: int, run: VirtualRun) -> None:
        self._parent.scope.off_cancel(run.scope.cancel)
        self._legs.pop(number, None)
        if self._winner not in (None, number) or self._ticket != self._parent._parked:
            return
        error = run.error
        if error is None or self._winner == number:
            if self._winner is None:
                self._win(number)
            self._world.at(self._world.now, lambda: self._report(run))
            return
        self._errors[number] = error
        begun = set(self._legs) | set(self._errors)
        later = [n for n in range(len(self._effect.legs)) if n not in begun]
        if later and not self._legs:
            following = min(later, key=lambda n: self._effect.legs[n][0])
            self._world.at(self._world.now, lambda: self._start(following))
        elif not self._legs:
            first = self._errors[min(self._errors)]
            self._world.at(self._world.now, lambda: self._parent._throw(self._ticket, first))

    def _report(self, run: VirtualRun) -> None:
        if run.error is not None:
            self._parent._throw(self._ticket, run.error)
        else:
            self._parent._send(self._ticket, run.result)

    def _cancel(self) -> None:
        for leg in tuple(self._legs.values()):
            leg.scope.cancel()


class _SpawnedRun:
    __slots__ = ("scope",)

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def cancel(self) -> None:
        self.scope.cancel()


def _nothing() -> None:
    return None

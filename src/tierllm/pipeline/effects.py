"""What a policy may await: the complete list of effects.

A policy is written once, as a short coroutine that awaits ``call_next(call)`` and these effects.
It does no waiting of its own; a driver performs each effect in its own kind of time.

    class Patience:
        async def __call__(self, call: Call, call_next: Handler) -> Response:
            with await Wait(self.pool, timeout_s=2):
                return await call_next(call)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from ..errors import UsageError

if TYPE_CHECKING:
    from ..types import Call, Response
    from .provider import Provider
    from .scope import Scope
    from .tape import Tape

__all__ = [
    "Blocking",
    "Deliver",
    "Effect",
    "Flow",
    "Follow",
    "Gather",
    "Grant",
    "Handler",
    "Invoke",
    "Leg",
    "Policy",
    "Race",
    "Sleep",
    "Spawn",
    "Spawned",
    "Ticket",
    "Wait",
    "Waitable",
]

T = TypeVar("T")
Flow = Coroutine[Any, Any, T]
"""A running policy coroutine: what drivers step with ``send`` and ``throw``."""

Deliver = Literal["live", "hold", "continue"]
Leg = tuple[float, "Callable[[], Flow[Response]]"]
"""One leg of a race: seconds after the race's start, and what makes its flow."""


class Handler(Protocol):
    """What a policy calls to go on: the policies beneath it, down to the provider."""

    def __call__(self, call: Call, /) -> Flow[Response]: ...


class Policy(Protocol):
    """One concern, written once: may act before, after, instead of or around ``call_next``."""

    def __call__(self, call: Call, call_next: Handler, /) -> Flow[Response]: ...


class Effect(Generic[T]):
    """Something only a driver can do; awaiting it gives the driver's result of type ``T``."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, T]:
        result: T = yield self
        return result


class Invoke(Effect["Response"]):
    """Call a provider.

    In a stream, ``deliver="live"`` hands its chunks to the consumer as they come and is refused
    once something was delivered; ``"hold"`` keeps the answer back (the policy may still discard
    it); ``"continue"`` goes on delivering after an interrupted answer.
    """

    __slots__ = ("call", "deliver", "provider")

    def __init__(self, provider: Provider, call: Call, deliver: Deliver = "live") -> None:
        self.provider = provider
        self.call = call
        self.deliver: Deliver = deliver


class Sleep(Effect[None]):
    """Wait ``seconds``. Raises ``DeadlineExceededError`` at once where the deadline comes first."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Grant(Protocol):
    """What waiting for something gives: a context manager that gives it back; releasing twice is harmless."""

    def release(self) -> None: ...


G = TypeVar("G", bound="Grant")
G_co = TypeVar("G_co", bound="Grant", covariant=True)


class Ticket:
    """A place in a queue. Compared by identity; ``give`` hands it what it waits for, once.

    ``wake`` tells the waiter and answers False where nobody is left to be told (its event loop is
    closed): whoever gives then passes the grant on.
    """

    __slots__ = ("_wake", "grant")

    def __init__(self, wake: Callable[[], bool]) -> None:
        self._wake = wake
        self.grant: Any = None

    def give(self, grant: Any) -> bool:
        self.grant = grant
        if self._wake():
            return True
        self.grant = None
        return False


class Waitable(Protocol[G_co]):
    """Something a policy can wait for. All three methods return at once; they hold locks briefly."""

    def take(self, owner: list[Grant]) -> G_co | None:
        """The grant, where there is one right now; listed in ``owner`` before it is taken."""

    def enter(self, ticket: Ticket, call: Call | None = None) -> bool:
        """Queue up. True when ``ticket`` was given its grant at once."""

    def leave(self, ticket: Ticket) -> None:
        """Give up the place in the queue, or pass on a grant that came in the same moment."""


class Wait(Effect[G]):
    """Wait for a permit or a signal, at most ``timeout_s``; then builtin ``TimeoutError``.

    ``call`` is shown to queues that order by it.
    """

    __slots__ = ("call", "on", "timeout_s")

    def __init__(self, on: Waitable[G], timeout_s: float | None = None, call: Call | None = None) -> None:
        self.on = on
        self.timeout_s = timeout_s
        self.call = call


class Blocking(Effect[T]):
    """Short blocking I/O: inline when sync, off the event loop when async.

    ``fn`` always runs to its end. Where the call is cancelled meanwhile, ``undo(result)`` runs
    after it, so that nothing it took is lost. ``afn`` is a native async form, where there is one.
    """

    __slots__ = ("afn", "fn", "undo")

    def __init__(
        self,
        fn: Callable[[], T],
        undo: Callable[[T], object] | None = None,
        afn: Callable[[], Awaitable[T]] | None = None,
    ) -> None:
        self.fn = fn
        self.undo = undo
        self.afn = afn


class Race(Effect["Response"]):
    """Run several flows; the first to speak (``win="chunk"``) or to end well (``"result"``) wins.

    A leg begins after its delay, or as soon as all begun before it have failed. Losers are
    cancelled and give back what they hold. When all fail, the first leg's error is raised.
    """

    __slots__ = ("legs", "win")

    def __init__(self, legs: Sequence[Leg], win: Literal["chunk", "result"] = "chunk") -> None:
        if not legs:
            raise UsageError("a race needs at least one leg")
        self.legs = legs
        self.win = win


class Gather(Effect["list[T]"]):
    """Run flows side by side; their results in order. One failure cancels the others and is raised."""

    __slots__ = ("flows",)

    def __init__(self, *flows: Flow[T]) -> None:
        self.flows = flows


class Spawned(Protocol):
    """A flow that runs on its own, owned by the client."""

    scope: Scope

    def cancel(self) -> None: ...


class Spawn(Effect[Spawned]):
    """Start a flow that outlives this call; what it says goes onto ``tape``, if one is given.

    ``scope`` is the flow's own, where its maker has to know it; else it has one with this call's deadline.
    """

    __slots__ = ("flow", "scope", "tape")

    def __init__(self, flow: Flow[Response], tape: Tape | None = None, scope: Scope | None = None) -> None:
        self.flow = flow
        self.tape = tape
        self.scope = scope


class Follow(Effect["Response"]):
    """Read a tape: the chunks so far, then as they come; gives its response or raises its error."""

    __slots__ = ("tape",)

    def __init__(self, tape: Tape) -> None:
        self.tape = tape

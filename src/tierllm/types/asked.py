"""What is asked: the caller's request, and the carrier on which it walks down the pipeline."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from ..caching.lookup import Lookup
    from ..cost.estimate import Estimate
    from ..cost.runs import Cap
    from ..pipeline.effects import Deliver
    from ..pipeline.provider import Provider
    from ..pipeline.scope import Invocation, Scope
    from ..resilience.lane import Lane
    from ..routing.course import Course
    from ..routing.plan import Plan
    from .happened import Trace
    from .settings import Timeouts

__all__ = ["Call", "Message", "Request", "Route", "Turn", "length_of", "text_of"]

T = TypeVar("T")
Message = Mapping[str, Any]
"""One chat message, ``{"role": ..., "content": ...}``; content that is not text passes through."""


class _Nothing(dict[str, Any]):
    """An empty mapping that a dataclass takes for a default."""

    __hash__ = object.__hash__  # type: ignore[assignment]


_NOTHING: Mapping[str, Any] = _Nothing()


@dataclass(frozen=True, init=False, repr=False)
class Request:
    """What a caller asked for; never changed on its way.

    Made of keywords, of which ``messages`` is the only one required.

    ``params`` holds the generation parameters that were given (``max_tokens``, ``temperature``,
    ``tools``, …), ``extra`` vendor options by provider name. ``route`` names the kind of call
    (a decorated function's name), ``language`` the language of a simple reply. ``contract`` names the
    promise it is made under, ``importance`` and ``request_class`` (how difficult it is) are what the caller
    knows of it. ``max_cost_usd`` is what
    the call may cost at most, all attempts together; ``confirm`` is asked where it may cost more than
    ``confirm_over_usd``. ``cache`` says what a cache may do for it, ``cache_ttl_s`` for how long its
    answer is fresh; ``depends_on`` names documents with hashes of the contents that it rests on.
    ``defer_ok``: it may wait for a calmer time. A call that is not ``repeatable`` reaches a provider once
    at most.
    """

    messages: tuple[Message, ...]
    sla: str | None = None
    user: str | None = None
    tenant: str | None = None
    plan: str | None = None
    contract: str | None = None
    priority: int = 0
    importance: str | None = None
    request_class: str | None = None
    tags: tuple[str, ...] = ()
    session: str | None = None
    deadline_s: float | None = None
    min_tier: str | None = None
    fallback: bool = True
    repeatable: bool = True
    require: frozenset[str] = frozenset()
    route: str | None = None
    language: str | None = None
    max_cost_usd: Decimal | None = None
    confirm: Callable[[Estimate], Any] | None = None
    confirm_over_usd: Decimal | None = None
    cache: str | None = None
    cache_ttl_s: float | None = None
    depends_on: tuple[tuple[str, str], ...] = ()
    defer_ok: bool = False
    params: Mapping[str, Any] = _NOTHING
    extra: Mapping[str, Mapping[str, Any]] = _NOTHING

    def __init__(self, *, messages: tuple[Message, ...], **given: Any) -> None:
        # what is not given stays a default of the class: a third of the cost of setting every field
        given["messages"] = messages
        self.__dict__.update(given)

    def __repr__(self) -> str:  # never the messages
        shown = {n: v for n, v in self.__dict__.items() if n not in ("messages", "params", "extra")}
        return (
            f"Request({', '.join(f'{n}={v!r}' for n, v in shown.items())}, <{len(self.messages)} messages>)"
        )

    @property
    def text(self) -> str:
        """The text of the last message, for rules and simple replies that look at the question."""
        return text_of(self.messages[-1]) if self.messages else ""


def length_of(messages: Sequence[Message]) -> int:
    """Roughly how many characters the messages have."""
    length = 0
    for message in messages:
        content = message.get("content")
        length += len(content) if isinstance(content, str) else len(str(content)) if content else 0
    return length


def text_of(message: Message) -> str:
    """The text parts of a message, joined; parts that are not text are left out."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    parts = (p.get("text", "") if isinstance(p, Mapping) else "" for p in content)
    return "".join(p for p in parts if isinstance(p, str))


class Turn:
    """What decides when a call's turn comes, in whichever queue it waits: shared by all its copies.

    ``priority`` is what it was granted, ``weight`` its tenant's share as its plan has it. ``defer``: it
    may wait for a calmer time. ``cancelled``: by its handle. ``place`` is where it waits now, ``None`` if
    nowhere; ``shed_from`` are full tiers above the one it starts in; ``ahead`` is the turn of another call
    whose answer it waits for. ``paid``: the tier's hedging that has counted the call already. ``under`` is
    held for as long as the call lasts: the time of the configuration that it goes by.
    """

    __slots__ = ("ahead", "cancelled", "defer", "paid", "place", "priority", "shed_from", "under", "weight")

    def __init__(self, priority: int = 0, defer: bool = False) -> None:
        self.priority = priority
        self.weight = 1.0
        self.defer = defer
        self.cancelled = False
        self.place: Queued | None = None
        self.ahead: Turn | None = None
        self.shed_from: tuple[str, ...] = ()
        self.paid: object | None = None
        self.under: object | None = None

    def set_priority(self, priority: int) -> None:
        """Change it, wherever the call waits. What it follows is hurried along with it."""
        ahead = self.ahead
        if ahead is not None and priority > ahead.priority:
            ahead.set_priority(priority)
        if priority != self.priority:
            self.priority = priority
            place = self.place
            if place is not None:
                place.move(priority)

    def come_at_once(self) -> None:
        """It may not be late any more: somebody who is in a hurry waits for it too."""
        self.defer = False
        place = self.place
        if place is not None:
            place.come_at_once()


class Degrading(Protocol):
    """What is taken away from a call under load."""

    names: tuple[str, ...]
    cheaper: bool

    def apply(self, params: dict[str, Any], drop: Container[str] = ()) -> None: ...

    def options(self, extra: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def here(self) -> Degrading: ...

    def took(self, place: Degrading, *, answered: bool) -> None: ...

    def cheapest_first(self, places: Sequence[T], price: Callable[[T], float | None]) -> list[T]: ...

    def spared(self) -> None: ...


class Queued(Protocol):
    """A place in a queue."""

    def move(self, priority: int) -> None: ...

    def come_at_once(self) -> None: ...


class Call:
    """A request on its way down the pipeline.

    Each level that changes something does so on its own ``copy()``; a policy that calls
    ``call_next`` more than once *at the same time* gives each its own copy too, since ``progress``
    belongs to one ``Invoke``.

    ``messages``, ``params``, ``model`` and ``timeouts`` are what a provider reads; ``plain`` are the messages
    as they were before a tier's prompt was set before them. ``tier`` and
    ``deployment`` are names; ``plan`` lists the admissible tiers. ``target`` is a provider that
    stands in for the deployment's own (a wrapped function). ``begun_at`` is the call's start on the
    client's clock. ``permit`` is the seat held in a pool, ``ahead`` a place that was just found
    open, ``lane`` its side of a race while it runs in one, ``min_window`` a context window that has
    proven too small. ``caps`` are the budgets of this very call, ``sizes`` what is known so far of the
    input's tokens (kept for large requests only).
    ``fits`` is the call as each place would receive it, kept while it stands in a queue.
    ``turn`` decides when it is its turn, ``degrade`` is what is taken away from it under load,
    ``course`` what routing decided for it. ``deliver="hold"`` keeps its answer back until it is judged.
    ``lookup`` is what the cache knows of this call, ``driven`` how it is made: ``"sync"``, ``"async"``
    (both for whole answers), ``"stream"`` (``"read"`` once all of it has been), or ``""`` where nobody said.
    ``patience_s`` is what 95 % of the calls to this place take, once known: a provider that is silent
    for longer has failed, even where the caller's deadline cuts it off first. ``progress`` is set by
    the driver when the provider is called.
    """

    __slots__ = (
        "ahead",
        "attempt",
        "begun_at",
        "caps",
        "course",
        "degrade",
        "deliver",
        "deployment",
        "driven",
        "fits",
        "lane",
        "lookup",
        "messages",
        "min_window",
        "model",
        "params",
        "patience_s",
        "permit",
        "plain",
        "plan",
        "progress",
        "request",
        "scope",
        "sizes",
        "target",
        "tier",
        "timeouts",
        "trace",
        "turn",
    )

    def __init__(
        self,
        request: Request,
        *,
        trace: Trace | None = None,
        scope: Scope | None = None,
        target: Provider | None = None,
        model: str = "",
        timeouts: Timeouts | None = None,
    ) -> None:
        self.request = request
        self.messages: tuple[Message, ...] = request.messages
        self.params: Mapping[str, Any] = request.params
        self.turn = Turn(request.priority, request.defer_ok)
        self.degrade: Degrading | None = None
        self.course: Course | None = None
        self.deliver: Deliver = "live"
        self.trace = trace
        self.scope = scope
        self.target = target
        self.model = model
        self.timeouts = timeouts
        self.tier = ""
        self.deployment = ""
        self.permit: Any = None
        self.plain: tuple[Message, ...] | None = None
        self.ahead: Any = None
        self.plan: Plan | None = None
        self.begun_at = 0.0
        self.caps: tuple[Cap, ...] = ()
        self.sizes: dict[str, int] | None = None
        self.driven = ""
        self.fits: dict[Any, Call] | None = None
        self.lane: Lane | None = None
        self.lookup: Lookup | None = None
        self.min_window = 0
        self.patience_s = math.inf
        self.attempt = 0
        self.progress: Invocation | None = None

    @property
    def priority(self) -> int:
        """How urgent it is, as granted; higher is more urgent."""
        return self.turn.priority

    @priority.setter
    def priority(self, priority: int) -> None:
        self.turn.set_priority(priority)

    def copy(self) -> Call:
        """A copy that shares request, trace, scope, turn and permit, with no progress of its own yet."""
        twin = Call.__new__(Call)
        twin.request = self.request
        twin.messages = self.messages
        twin.params = self.params
        twin.turn = self.turn
        twin.degrade = self.degrade
        twin.course = self.course
        twin.deliver = self.deliver
        twin.trace = self.trace
        twin.scope = self.scope
        twin.target = self.target
        twin.model = self.model
        twin.timeouts = self.timeouts
        twin.tier = self.tier
        twin.deployment = self.deployment
        twin.permit = self.permit
        twin.plain = self.plain
        twin.ahead = None
        twin.plan = self.plan
        twin.begun_at = self.begun_at
        twin.caps = self.caps
        twin.sizes = self.sizes
        twin.driven = self.driven
        twin.fits = None
        twin.lane = self.lane
        twin.lookup = self.lookup
        twin.min_window = self.min_window
        twin.patience_s = self.patience_s
        twin.attempt = 0
        twin.progress = None
        return twin

    def again(self) -> None:
        """Another attempt begins with this call: the last one's progress is over."""
        self.progress = None
        self.attempt += 1
        if self.lane is not None:
            self.lane.again()

    def options(self, vendor: str) -> Mapping[str, Any]:
        """The caller's ``extra`` for one vendor."""
        extra = self.request.extra
        if not extra:
            return _NOTHING
        options = extra.get(vendor, _NOTHING)
        return options if self.degrade is None else self.degrade.options(options)

    def __repr__(self) -> str:  # never the messages
        return f"<Call tier={self.tier!r} deployment={self.deployment!r} attempt={self.attempt}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a wrapped call is to go this time.

    A function under ``@tiered.call`` takes it as its ``route`` parameter, with the default
    ``Route.INJECTED``; tierllm fills it in, and calls again with another one on retry and fallback.
    ``timeout_s`` is what is left for this attempt, ``params`` are all parameters of the place.
    """

    INJECTED: ClassVar[Route]

    model: str = ""
    tier: str = ""
    deployment: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    timeout_s: float | None = None
    attempt: int = 1
    params: Mapping[str, Any] = field(default_factory=dict)


Route.INJECTED = Route()

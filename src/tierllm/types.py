"""The values that travel through tierllm: what is asked, what is answered, what happened.

``Request`` is what the caller asked for and never changes. ``Call`` is the slim carrier that walks
down the pipeline; each level that changes something works on its own copy. ``Response`` and
``Chunk`` come back up. ``Trace`` is the account of one call in plain data.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from .pipeline.provider import Provider
    from .pipeline.scope import Invocation, Scope
    from .routing.plan import Plan

__all__ = [
    "Attempt",
    "Call",
    "Candidate",
    "Chunk",
    "Message",
    "Objective",
    "Request",
    "Response",
    "Route",
    "Timeouts",
    "ToolCall",
    "Trace",
    "Usage",
    "Waited",
]

Message = Mapping[str, Any]
"""One chat message, ``{"role": ..., "content": ...}``; content that is not text passes through."""


class _Nothing(dict[str, Any]):
    """An empty mapping that a dataclass takes for a default."""

    __hash__ = object.__hash__  # type: ignore[assignment]


_NOTHING: Mapping[str, Any] = _Nothing()


# -- settings that calls carry ---------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Bounds on the time spent waiting for a provider, in seconds; ``None`` is no bound.

    They never run while a consumer holds a stream. Whole answers know only ``connect_s`` and
    ``total_s``: their first token is not seen before their last.
    """

    connect_s: float | None = 5.0
    first_token_s: float | None = 60.0
    between_tokens_s: float | None = 30.0
    total_s: float | None = 300.0

    def __post_init__(self) -> None:
        from .errors import ConfigError

        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and not value > 0:
                raise ConfigError(f"Timeouts({f.name}={value!r}): give seconds above 0, or None for no bound")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a tier promises: latency percentiles in seconds, availability in 0…1, dollars a call."""

    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    latency_p99_s: float | None = None
    first_token_p95_s: float | None = None
    availability: float | None = None
    cost_usd: Decimal | float | None = None

    def __post_init__(self) -> None:
        from .errors import ConfigError

        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and not value > 0:
                raise ConfigError(f"Objective({f.name}={value!r}): give a number above 0, or leave it out")
        if self.availability is not None and self.availability >= 1:
            raise ConfigError(f"Objective(availability={self.availability!r}): give a share below 1")


# -- what is asked ---------------------------------------------------------------


@dataclass(frozen=True, init=False, repr=False)
class Request:
    """What a caller asked for; never changed on its way.

    Made of keywords, of which ``messages`` is the only one required.

    ``params`` holds the generation parameters that were given (``max_tokens``, ``temperature``,
    ``tools``, …), ``extra`` vendor options by provider name. ``route`` names the kind of call
    (a decorated function's name), ``language`` the language of a simple reply. A call that is not
    ``repeatable`` reaches a provider once at most.
    """

    messages: tuple[Message, ...]
    sla: str | None = None
    user: str | None = None
    tenant: str | None = None
    plan: str | None = None
    priority: int = 0
    tags: tuple[str, ...] = ()
    session: str | None = None
    deadline_s: float | None = None
    min_tier: str | None = None
    fallback: bool = True
    repeatable: bool = True
    max_cost_usd: Decimal | None = None
    require: frozenset[str] = frozenset()
    route: str | None = None
    language: str | None = None
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


def text_of(message: Message) -> str:
    """The text parts of a message, joined; parts that are not text are left out."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    parts = (p.get("text", "") if isinstance(p, Mapping) else "" for p in content)
    return "".join(p for p in parts if isinstance(p, str))


class Call:
    """A request on its way down the pipeline.

    Each level that changes something does so on its own ``copy()``; a policy that calls
    ``call_next`` more than once *at the same time* gives each its own copy too, since ``progress``
    belongs to one ``Invoke``.

    ``messages``, ``params``, ``model`` and ``timeouts`` are what a provider reads. ``tier`` and
    ``deployment`` are names; ``plan`` lists the admissible tiers. ``target`` is a provider that
    stands in for the deployment's own (a wrapped function). ``begun_at`` is the call's start on the
    client's clock. ``permit`` is the seat held in a pool, ``ahead`` a place that was just found
    open, ``min_window`` a context window that has proven too small. ``patience_s`` is what 95 % of
    the calls to this place take, once known: a provider that is silent for longer has failed, even
    where the caller's deadline cuts it off first. ``progress`` is set by the driver when the
    provider is called.
    """

    __slots__ = (
        "ahead",
        "attempt",
        "begun_at",
        "deployment",
        "messages",
        "min_window",
        "model",
        "params",
        "patience_s",
        "permit",
        "plan",
        "priority",
        "progress",
        "request",
        "scope",
        "target",
        "tier",
        "timeouts",
        "trace",
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
        self.priority = request.priority
        self.trace = trace
        self.scope = scope
        self.target = target
        self.model = model
        self.timeouts = timeouts
        self.tier = ""
        self.deployment = ""
        self.permit: Any = None
        self.ahead: Any = None
        self.plan: Plan | None = None
        self.begun_at = 0.0
        self.min_window = 0
        self.patience_s = math.inf
        self.attempt = 0
        self.progress: Invocation | None = None

    def copy(self) -> Call:
        """A copy that shares request, trace, scope and permit, with no progress of its own yet."""
        twin = Call.__new__(Call)
        twin.request = self.request
        twin.messages = self.messages
        twin.params = self.params
        twin.priority = self.priority
        twin.trace = self.trace
        twin.scope = self.scope
        twin.target = self.target
        twin.model = self.model
        twin.timeouts = self.timeouts
        twin.tier = self.tier
        twin.deployment = self.deployment
        twin.permit = self.permit
        twin.ahead = None
        twin.plan = self.plan
        twin.begun_at = self.begun_at
        twin.min_window = self.min_window
        twin.patience_s = self.patience_s
        twin.attempt = 0
        twin.progress = None
        return twin

    def again(self) -> None:
        """Another attempt begins with this call: the last one's progress is over."""
        self.progress = None
        self.attempt += 1

    def options(self, vendor: str) -> Mapping[str, Any]:
        """The caller's ``extra`` for one vendor."""
        extra = self.request.extra
        return extra.get(vendor, _NOTHING) if extra else _NOTHING

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


# -- what is answered ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call, whole in a ``Response``; in a ``Chunk`` a piece of the one at ``index``."""

    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""

    def parsed(self) -> Any:
        """The arguments as Python data. Raises ``ValueError`` when the model wrote invalid JSON."""
        return json.loads(self.arguments or "{}")

    def to_message(self) -> dict[str, Any]:
        """The shape in which an assistant message carries it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens as reported by the provider.

    ``cached_input_tokens`` and ``cache_write_tokens`` are parts of ``input_tokens``,
    ``reasoning_tokens`` of ``output_tokens``. ``estimated`` says that the provider reported nothing.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    service_tier: str | None = None
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class Chunk:
    """A piece of an answer as it arrives.

    ``text``, ``reasoning`` and ``tool_call`` (a piece) may each be empty; ``finish_reason`` comes
    with the last one, ``usage`` where the vendor reports it. ``raw`` is the vendor's own object.
    """

    __slots__ = ("finish_reason", "raw", "reasoning", "text", "tool_call", "usage")

    def __init__(
        self,
        text: str = "",
        *,
        tool_call: ToolCall | None = None,
        reasoning: str = "",
        finish_reason: str | None = None,
        usage: Usage | None = None,
        raw: Any = None,
    ) -> None:
        self.text = text
        self.tool_call = tool_call
        self.reasoning = reasoning
        self.finish_reason = finish_reason
        self.usage = usage
        self.raw = raw

    def __repr__(self) -> str:
        given = ((n, getattr(self, n)) for n in ("text", "tool_call", "reasoning", "finish_reason"))
        return f"Chunk({', '.join(f'{n}={v!r}' for n, v in given if v)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Chunk):
            return NotImplemented
        return all(getattr(self, n) == getattr(other, n) for n in self.__slots__)

    __hash__ = None  # type: ignore[assignment]


@dataclass(slots=True, repr=False)
class Response:
    """An answer and how it came about.

    ``finish_reason`` is ``"stop"``, ``"length"``, ``"tool_calls"``, ``"content_filter"`` or the
    vendor's own word. ``cost_usd`` is ``None`` where no price is known. ``degraded`` names what was
    taken away from this answer beyond its tier: ``("stale",)`` for an old cached one,
    ``("simple_reply",)`` for the application's own. ``raw`` is the vendor's object. ``request_id``
    is the vendor's id, ``trace.id`` tierllm's.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    parsed: Any = None
    finish_reason: str | None = None
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    tier: str | None = None
    deployment: str | None = None
    model: str | None = None
    cached: bool = False
    degraded: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    request_id: str | None = None
    trace: Trace | None = None
    raw: Any = None

    @property
    def message(self) -> dict[str, Any]:
        """The answer as an assistant message, to be appended to the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self.tool_calls:
            message["tool_calls"] = [t.to_message() for t in self.tool_calls]
        elif message["content"] is None:
            message["content"] = ""
        return message

    def chunks(self) -> Iterator[Chunk]:
        """The answer as a stream would have delivered it, for replaying."""
        if self.reasoning:
            yield Chunk(reasoning=self.reasoning)
        if self.text:
            yield Chunk(self.text)
        for tool_call in self.tool_calls:
            yield Chunk(tool_call=tool_call)
        yield Chunk(finish_reason=self.finish_reason or "stop", usage=self.usage)

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else f"{self.text[:57]}..."
        notes = {"tier": self.tier, "deployment": self.deployment, "finish_reason": self.finish_reason}
        if self.degraded:
            notes["degraded"] = ", ".join(self.degraded)
        return f"Response({text!r}, {', '.join(f'{n}={v!r}' for n, v in notes.items())})"

    def __getstate__(self) -> list[Any]:
        # a vendor's object may hold sockets or locks: an answer must survive pickling all the same
        state = [getattr(self, f.name) for f in fields(self)]
        try:
            pickle.dumps(self.raw)
        except Exception:
            state[-1] = None
        return state

    def __setstate__(self, state: list[Any]) -> None:
        for f, value in zip(fields(self), state, strict=True):
            setattr(self, f.name, value)


# -- what happened ---------------------------------------------------------------

Outcome = Literal["ok", "failed", "rejected", "cancelled", "running"]


@dataclass(slots=True)
class Candidate:
    """A place that was considered: passed over for ``reason``, or chosen (``reason`` is ``None``)."""

    tier: str
    deployment: str
    reason: str | None = None


@dataclass(slots=True)
class Attempt:
    """One try at one place. Times are seconds; ``started_s`` counts from the call's start.

    ``error`` is the error itself for an attempt that failed or was refused. ``first_token_s`` is
    known for streams only.
    """

    tier: str
    deployment: str
    model: str = ""
    started_s: float = 0.0
    latency_s: float = 0.0
    first_token_s: float | None = None
    outcome: Outcome = "running"
    error: BaseException | None = None

    def to_dict(self) -> dict[str, Any]:
        error = self.error
        return {
            "tier": self.tier,
            "deployment": self.deployment,
            "model": self.model,
            "started_s": round(self.started_s, 6),
            "latency_s": round(self.latency_s, 6),
            "first_token_s": None if self.first_token_s is None else round(self.first_token_s, 6),
            "outcome": self.outcome,
            "error": None if error is None else type(error).__name__,
            "status": getattr(error, "status", None),
            "request_id": getattr(error, "request_id", None),
        }


@dataclass(slots=True)
class Waited:
    """Time spent waiting inside tierllm: ``kind`` is ``"pool"``, ``"backoff"``, …; ``where`` a place."""

    kind: str
    where: str
    seconds: float


@dataclass(slots=True)
class Trace:
    """The account of one call: what was asked, considered, tried and served, and how long it took.

    ``asked`` is the tier the caller named, ``granted`` where the call was allowed to start,
    ``served`` where the answer came from. ``to_dict()`` is plain data for JSON, without prompt text.
    """

    id: str
    asked: str | None = None
    granted: str | None = None
    served: str | None = None
    deployment: str | None = None
    started_at: float = 0.0
    duration_s: float = 0.0
    first_token_s: float | None = None
    outcome: Outcome = "running"
    error: str | None = None
    candidates: list[Candidate] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    waits: list[Waited] = field(default_factory=list)
    degraded: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "asked": self.asked,
            "granted": self.granted,
            "served": self.served,
            "deployment": self.deployment,
            "started_at": round(self.started_at, 6),
            "duration_s": round(self.duration_s, 6),
            "first_token_s": None if self.first_token_s is None else round(self.first_token_s, 6),
            "outcome": self.outcome,
            "error": self.error,
            "candidates": [
                {"tier": c.tier, "deployment": c.deployment, "reason": c.reason} for c in self.candidates
            ],
            "attempts": [a.to_dict() for a in self.attempts],
            "waits": [{"kind": w.kind, "where": w.where, "seconds": round(w.seconds, 6)} for w in self.waits],
            "degraded": list(self.degraded),
            "warnings": list(self.warnings),
        }

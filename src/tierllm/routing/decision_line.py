"""What the decision log keeps of one call: plain data, as it stands when the call has ended."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from ..types import length_of
from . import lenient
from .account import attempts_of
from .features import cut
from .scored import prompt_of

if TYPE_CHECKING:
    from ..types import Request, Response, Trace
    from .course import Course

__all__ = ["VERSION", "Prompts", "Who", "encoded", "line_of", "pseudonym"]

VERSION = 1
"""Of the lines; readers take newer ones, too, and leave out what they do not know."""

Prompts = Literal["none", "hashed", "text"]
Who = Literal["full", "hashed", "none"]

Line = dict[str, object]

OF_SOMEBODY = ("budget ", "observed only: budget ")
"""So begin warnings that say whose budget it is, whatever its name looks like there."""


def line_of(
    trace: Trace,
    request: Request,
    course: Course | None,
    response: Response | None,
    *,
    prompts: Prompts,
    who: Who,
    salt: bytes,
    buckets: Callable[[str], Sequence[int]] | None,
) -> Line:
    """The line for one call. What is not known, or not set, is left out."""
    line: Line = {
        "v": VERSION,
        "kind": "call",
        "id": trace.id,
        "at": round(trace.started_at, 3),
        "outcome": trace.outcome,
        "duration_s": round(trace.duration_s, 6),
    }
    for name, value in (
        ("asked", trace.asked),
        ("granted", trace.granted),
        ("served", trace.served),
        ("deployment", trace.deployment),
        ("error", trace.error),
        ("cache", trace.cache),
        ("cache_layer", trace.cache_layer),
        ("led_by", trace.led_by),
        ("plan", trace.plan if trace.plan is not None else request.plan),
        ("contract", trace.contract if trace.contract is not None else request.contract),
        ("rule", trace.rule),
        ("config", trace.config),
        ("route", request.route),
        ("importance", request.importance),
        ("min_tier", request.min_tier),
        ("deadline_s", request.deadline_s),
    ):
        if value is not None:
            line[name] = value
    if trace.first_token_s is not None:
        line["first_token_s"] = round(trace.first_token_s, 6)
    if request.tags:
        line["tags"] = list(request.tags)
    if request.priority:
        line["priority"] = request.priority
    if trace.candidates:
        line["candidates"] = [
            {"tier": c.tier, "deployment": c.deployment}
            if c.reason is None
            else {"tier": c.tier, "deployment": c.deployment, "reason": c.reason}
            for c in trace.candidates
        ]
    if trace.attempts:
        line["attempts"] = attempts_of(trace.attempts)
    if trace.waits:
        line["waits"] = [
            {"kind": w.kind, "where": w.where, "seconds": round(w.seconds, 6)} for w in trace.waits
        ]
    if trace.degraded:
        line["degraded"] = list(trace.degraded)
    if trace.warnings:
        line["warnings"] = _warnings(trace.warnings, request, who)
    if trace.scores:
        line["scores"] = {name: round(score, 6) for name, score in trace.scores.items()}
    _say_who(line, request, who, salt)
    _say_what(line, trace, response)
    _say_how_hard(line, trace, request, course)
    if prompts != "none":
        _say_prompt(line, request, course, prompts, buckets)
    return line


def pseudonym(name: str, salt: bytes) -> str:
    """A name that stands for ``name``: always the same for the same salt."""
    key = salt if len(salt) <= 64 else hashlib.blake2b(salt).digest()
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, key=key).hexdigest()


def _say_who(line: Line, request: Request, who: Who, salt: bytes) -> None:
    if who == "none":
        return
    for name, value in (("tenant", request.tenant), ("user", request.user)):
        if value is not None:
            line[name] = value if who == "full" else pseudonym(value, salt)
    if request.session is not None:
        line["session"] = pseudonym(f"{request.tenant or ''}\0{request.session}", salt)


def _warnings(warnings: Sequence[str], request: Request, who: Who) -> list[str]:
    """A budget's warning says whose it is: not where nobody is to be named."""
    if who == "full":
        return list(warnings)
    names = [name for name in (request.user, request.tenant, request.session) if name and len(name) >= 4]
    names += [repr(name)[1:-1] for name in names]
    return [
        told
        for told in warnings
        if not told.startswith(OF_SOMEBODY) and not any(name in told for name in names)
    ]


def _say_what(line: Line, trace: Trace, response: Response | None) -> None:
    """What answered, what it used and what all of it cost."""
    cost: Decimal | None = trace.cost_usd
    model = next((a.model for a in trace.attempts if a.outcome == "ok" and a.model), None)
    if response is not None:
        usage, model = response.usage, response.model or model
        if cost is None:
            cost = Decimal(0) if response.cached else response.cost_usd
        if usage is not None:
            line["input_tokens"] = usage.input_tokens
            line["output_tokens"] = usage.output_tokens
            if usage.cached_input_tokens:
                line["cached_input_tokens"] = usage.cached_input_tokens
    if model is not None:
        line["model"] = model
    if cost is not None:
        line["cost_usd"] = f"{cost:f}"


def _say_how_hard(line: Line, trace: Trace, request: Request, course: Course | None) -> None:
    """What was thought of its difficulty, and what was chosen by that, with which chance."""
    held = trace.request_class or request.request_class
    choice = None if course is None else course.choice
    if course is not None:
        held = held or course.request_class
        if course.fixed or course.bound:
            line["fixed"] = True
    if choice is not None:
        line["arm"] = choice.arm
        if math.isfinite(choice.score):
            line["score"] = round(choice.score, 6)
        line["propensity"] = choice.propensity
        line["explored"] = bool(choice.explored)
    elif trace.explored is not None:
        line["propensity"] = trace.explored
    if held is not None:
        line["request_class"] = held


def _say_prompt(
    line: Line,
    request: Request,
    course: Course | None,
    prompts: Prompts,
    buckets: Callable[[str], Sequence[int]] | None,
) -> None:
    line["characters"] = length_of(request.messages)
    text = prompt_of(request)
    if prompts == "text":
        if text:
            line["text"] = cut(text)
        return
    choice = None if course is None else course.choice
    found: Sequence[int] | None = None if choice is None else choice.buckets
    if not found and text and buckets is not None:
        found = buckets(text)
    if found:
        line["buckets"] = [int(bucket) for bucket in found]


def encoded(line: Mapping[str, object]) -> bytes:
    """One line of JSON in ASCII. Raises ``TypeError`` or ``ValueError`` for what is no plain data."""
    try:
        text = json.dumps(line, separators=(",", ":"), allow_nan=False)
    except ValueError:  # a score that is no number
        text = json.dumps(lenient.finite(line), separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"

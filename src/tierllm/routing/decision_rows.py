"""Reading a decision log: a row for each call, with what was said of its answer later."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from . import lenient
from .decision_file import opened_for_reading

__all__ = ["DecisionRow", "Decisions", "find_decision", "read_decisions", "row_of"]

PATIENCE_S = 2.0
PIECE_BYTES = 1 << 20

LONGEST_BYTES = 4 << 20
"""Of a line; no log has longer ones, and what comes up to the next is passed over."""

TOO_LONG = b"\0"
"""Stands for such a line: it cannot be read either."""

SAID = ("quality", "quality_source", "weak_quality", "strong_quality", "weak_usd", "strong_usd")
"""Fields of a row that come from other lines than its own."""

RANKS = {"explicit": 2, "accepted": 1, "edited": 1, "retried": 1, "abandoned": 1}
"""What is said outranks what was seen of people, and that what a judge (0) thinks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """One call, as the decision log has it. What is not known is ``None`` or empty.

    ``at`` is when it began (seconds since 1970), ``arm`` which model its difficulty chose (``"weak"`` or
    ``"strong"``), ``propensity`` the chance which that had, ``explored`` whether it was chance. ``buckets``
    and ``text`` are what is kept of the prompt. ``quality`` (0 to 1) is how good the answer was, as said by
    ``quality_source``; ``weak_quality`` and ``strong_quality`` how good both models' answers were, where both
    are known. ``raw`` is the whole line, also with what this version does not know.
    """

    id: str
    at: float = 0.0
    outcome: str = ""
    error: str | None = None
    asked: str | None = None
    granted: str | None = None
    served: str | None = None
    deployment: str | None = None
    model: str | None = None
    plan: str | None = None
    contract: str | None = None
    tenant: str | None = None
    user: str | None = None
    session: str | None = None
    tags: tuple[str, ...] = ()
    route: str | None = None
    importance: str | None = None
    min_tier: str | None = None
    request_class: str | None = None
    rule: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    score: float | None = None
    arm: str | None = None
    propensity: float | None = None
    explored: bool = False
    cache: str | None = None
    degraded: tuple[str, ...] = ()
    duration_s: float = 0.0
    first_token_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: Decimal | None = None
    config: str | None = None
    text: str | None = None
    buckets: tuple[int, ...] = ()
    quality: float | None = None
    quality_source: str | None = None
    weak_quality: float | None = None
    strong_quality: float | None = None
    weak_usd: float | None = None
    strong_usd: float | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the line, with what was said of the answer."""
        told = {name: lenient.finite(value) for name, value in (self.raw or self._plain()).items()}
        for name in SAID:
            value = getattr(self, name)
            if value is not None:
                told[name] = value
        return told

    def _plain(self) -> dict[str, Any]:
        """A row that was not read from a line, as its line would be."""
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "raw"}
        if self.cost_usd is not None:
            told["cost_usd"] = f"{self.cost_usd:f}"
        return {name: value for name, value in told.items() if value not in (None, (), "", {})}


@dataclass(slots=True)
class _Said:
    """What was said of one call's answer."""

    quality: float | None = None
    source: str | None = None
    weak: float | None = None
    strong: float | None = None
    weak_usd: float | None = None
    strong_usd: float | None = None

    def take(self, line: Mapping[str, Any]) -> bool:
        """People outrank judges; among equals, the last word counts. False for what is no score."""
        if line.get("kind") == "compared":
            weak, strong = lenient.share(line.get("weak")), lenient.share(line.get("strong"))
            if weak is None or strong is None:
                return False
            self.weak, self.strong = weak, strong
            self.weak_usd, self.strong_usd = (
                lenient.usd(line.get("weak_usd")),
                lenient.usd(line.get("strong_usd")),
            )
            return True
        score, source = lenient.share(line.get("score")), lenient.text(line.get("source")) or "explicit"
        if score is None:
            return False
        if RANKS.get(source, 0) >= RANKS.get(self.source or "", 0):
            self.quality, self.source = score, source
        return True


class Decisions:
    """The rows of a log, oldest first, as it stood when the reading began; may be gone through again.

    ``skipped`` is how many lines could not be read in the last round: cut short by a process that was killed,
    or no lines of such a log. ``feedback`` is how many lines of feedback there were.
    """

    def __init__(self, path: str | os.PathLike[str], trace_id: str | None = None) -> None:
        self.path = path
        self._only = b"" if trace_id is None else json.dumps(trace_id).encode("ascii")
        self.skipped = 0
        self.feedback = 0

    def __iter__(self) -> Iterator[DecisionRow]:
        """Raises ``ConfigError`` where there is no log, or none that may be read."""
        self.skipped = self.feedback = 0
        files = opened_for_reading(self.path, patience_s=PATIENCE_S)
        try:
            said: dict[str, _Said] = {}
            only = self._only
            for text in _lines(files):
                if only in text and (b'"feedback"' in text or b'"compared"' in text):
                    self._hear(text, said)
            for text in _lines(files):
                if only not in text:
                    continue
                line = _parsed(text)
                if line is None:
                    self.skipped += 1
                elif line.get("kind", "call") == "call":
                    row = row_of(line, said.get(str(line.get("id"))))
                    if row is None:
                        self.skipped += 1
                    else:
                        yield row
        finally:
            for handle, _ in files:
                os.close(handle)

    def _hear(self, text: bytes, said: dict[str, _Said]) -> None:
        line = _parsed(text)
        if line is not None and line.get("kind") in ("feedback", "compared"):
            name = lenient.text(line.get("id"))
            if name is not None and said.setdefault(name, _Said()).take(line):
                self.feedback += 1
            else:
                self.skipped += 1


def read_decisions(path: str | os.PathLike[str]) -> Decisions:
    """The rows of the decision log at ``path``, from its oldest file on; only feedback is kept in memory.

    Lines of newer versions are read as far as they are understood; fields and kinds of lines that are not
    known are left alone.
    """
    return Decisions(path)


def find_decision(path: str | os.PathLike[str], trace_id: str) -> DecisionRow | None:
    """The last row of that call; ``None``: there is none. Raises ``ConfigError`` as reading does."""
    found = None
    for row in Decisions(path, trace_id):
        if row.id == trace_id:
            found = row
    return found


def _lines(files: list[tuple[int, int]]) -> Iterator[bytes]:
    for handle, size in files:
        os.lseek(handle, 0, os.SEEK_SET)
        rest, left, passing = b"", size, False
        while left > 0:
            piece = os.read(handle, min(PIECE_BYTES, left))
            if not piece:
                break  # it was cut off meanwhile
            left -= len(piece)
            *whole, rest = (rest + piece).split(b"\n")
            if passing and whole:
                passing, whole[0] = False, TOO_LONG
            yield from filter(None, whole)
            if passing or len(rest) > LONGEST_BYTES:
                passing, rest = True, b""
        if passing or rest:
            yield TOO_LONG if passing else rest


def _parsed(text: bytes) -> Mapping[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def row_of(line: Mapping[str, Any], said: _Said | None = None) -> DecisionRow | None:
    """A line as a row; what is not as it should be is as good as not there. ``None``: it has no id."""
    name = lenient.text(line.get("id"))
    if not name:
        return None
    buckets = line.get("buckets")
    said = said or _Said()
    return DecisionRow(
        id=name,
        at=lenient.number(line.get("at")) or 0.0,
        outcome=lenient.text(line.get("outcome")) or "",
        error=lenient.text(line.get("error")),
        asked=lenient.text(line.get("asked")),
        granted=lenient.text(line.get("granted")),
        served=lenient.text(line.get("served")),
        deployment=lenient.text(line.get("deployment")),
        model=lenient.text(line.get("model")),
        plan=lenient.text(line.get("plan")),
        contract=lenient.text(line.get("contract")),
        tenant=lenient.text(line.get("tenant")),
        user=lenient.text(line.get("user")),
        session=lenient.text(line.get("session")),
        tags=tuple(lenient.texts(line.get("tags"))),
        route=lenient.text(line.get("route")),
        importance=lenient.text(line.get("importance")),
        min_tier=lenient.text(line.get("min_tier")),
        request_class=lenient.text(line.get("request_class")),
        rule=lenient.text(line.get("rule")),
        scores=lenient.numbers(line.get("scores")),
        score=lenient.number(line.get("score")),
        arm=lenient.text(line.get("arm")),
        propensity=lenient.share(line.get("propensity")),
        explored=line.get("explored") is True,
        cache=lenient.text(line.get("cache")),
        degraded=tuple(lenient.texts(line.get("degraded"))),
        duration_s=lenient.number(line.get("duration_s")) or 0.0,
        first_token_s=lenient.number(line.get("first_token_s")),
        input_tokens=lenient.count(line.get("input_tokens")),
        output_tokens=lenient.count(line.get("output_tokens")),
        cost_usd=lenient.dollars(line.get("cost_usd")),
        config=lenient.text(line.get("config")),
        text=lenient.text(line.get("text")),
        buckets=tuple(b for b in buckets if lenient.count(b) is not None)
        if isinstance(buckets, list)
        else (),
        quality=said.quality,
        quality_source=said.source,
        weak_quality=said.weak,
        strong_quality=said.strong,
        weak_usd=said.weak_usd,
        strong_usd=said.strong_usd,
        raw=line,
    )

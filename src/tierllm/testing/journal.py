"""What a fake provider received, in the order in which it came, and assertions about it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, overload

from ..types import Message

__all__ = ["Journal", "JournalEntry"]

Outcome = Literal["running", "ok", "failed", "cancelled"]

_TOLERANCE_S = 1e-6  # rounding of sums of seconds; timers may also fire a hair early
_SHOWN = 20


class JournalEntry:
    """One call as the provider saw it.

    ``number`` counts calls from 1. ``at_s`` and ``ended_s`` are times of the caller's clock.
    ``chunks`` counts pieces of a streamed answer handed over. ``outcome`` is ``"running"``,
    ``"ok"``, ``"failed"`` (``error`` is then the error's class name, ``retry_after_s`` what it
    asked for) or ``"cancelled"``: the caller left, or its scope was cancelled.
    ``calls_by_then`` is the number of calls received when this one ended.
    """

    __slots__ = (
        "at_s",
        "calls_by_then",
        "chunks",
        "ended_s",
        "error",
        "messages",
        "model",
        "number",
        "outcome",
        "params",
        "request_id",
        "retry_after_s",
        "streamed",
    )

    def __init__(
        self,
        number: int,
        model: str,
        messages: Sequence[Message],
        params: Mapping[str, Any],
        at_s: float,
        streamed: bool,
        request_id: str,
    ) -> None:
        self.number = number
        self.model = model
        self.messages = messages
        self.params = params
        self.at_s = at_s
        self.streamed = streamed
        self.request_id = request_id
        self.outcome: Outcome = "running"
        self.ended_s: float | None = None
        self.chunks = 0
        self.error: str | None = None
        self.retry_after_s: float | None = None
        self.calls_by_then = 0

    def __repr__(self) -> str:  # never the messages
        end = "" if self.ended_s is None else f"…{self.ended_s:g}"
        how = self.outcome if self.error is None else f"{self.outcome}: {self.error}"
        if self.retry_after_s is not None:
            how += f", retry after {self.retry_after_s:g} s"
        return f"<#{self.number} {self.model} at {self.at_s:g}{end} s, {how}>"


class Journal:
    """The calls a provider received, oldest first; of many, the last ``size``.

    Iterate over it, index it, or ask it: each ``assert_…`` raises ``AssertionError`` with the calls
    in question. Threads may write while others read; a reader sees the calls begun so far.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._entries: deque[JournalEntry] = deque(maxlen=size)
        self.append = self._entries.append  # atomic

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[JournalEntry]:
        return iter(self.calls())

    @overload
    def __getitem__(self, at: int) -> JournalEntry: ...
    @overload
    def __getitem__(self, at: slice) -> list[JournalEntry]: ...
    def __getitem__(self, at: int | slice) -> JournalEntry | list[JournalEntry]:
        return self.calls()[at]

    def __repr__(self) -> str:
        return f"<Journal of {len(self)} calls>"

    def clear(self) -> None:
        """Forget everything received so far."""
        self._entries.clear()

    def calls(self, *, model: str | None = None, outcome: Outcome | None = None) -> list[JournalEntry]:
        """The calls received, all or those to ``model`` or with ``outcome``."""
        return [
            entry
            for entry in self._snapshot()
            if (model is None or entry.model == model) and (outcome is None or entry.outcome == outcome)
        ]

    def _snapshot(self) -> list[JournalEntry]:
        while True:
            try:
                return list(self._entries)
            except RuntimeError:  # a call came in meanwhile; cheaper than a lock for every call
                continue

    # -- assertions ------------------------------------------------------------

    def assert_count(self, n: int, *, model: str | None = None, outcome: Outcome | None = None) -> None:
        """There were exactly ``n`` calls (to ``model``, with ``outcome``)."""
        calls = self.calls(model=model, outcome=outcome)
        if len(calls) != n:
            kind = "".join(f" {word}" for word in (outcome, "calls", model and f"to {model}") if word)
            raise AssertionError(f"expected {n}{kind}, there were {len(calls)}{_told(calls)}")

    def assert_order(self, models: Sequence[str]) -> None:
        """The calls went to exactly these models, in this order."""
        calls = self.calls()
        got = [entry.model for entry in calls]
        if got != list(models):
            at = next((i for i, (a, b) in enumerate(zip(got, models, strict=False)) if a != b), None)
            where = (
                f"{len(models)} calls expected, {len(got)} came" if at is None else f"call {at + 1} differs"
            )
            raise AssertionError(
                f"expected calls to {list(models)}, got {_counted(got)}: {where}{_told(calls)}"
            )

    def assert_gaps(self, model: str, *, at_least_s: float | Sequence[float]) -> None:
        """Calls to ``model``, two or more, began so far apart: one bound for all gaps, or one for each."""
        calls = self.calls(model=model)
        if len(calls) < 2:
            raise AssertionError(f"a gap takes two calls to {model}, there were {len(calls)}{_told(calls)}")
        gaps = [later.at_s - earlier.at_s for earlier, later in pairwise(calls)]
        bounds = list(at_least_s) if isinstance(at_least_s, Sequence) else [at_least_s] * len(gaps)
        if len(bounds) != len(gaps):
            raise AssertionError(f"expected {len(bounds)} gaps, there were {len(gaps)}{_told(calls)}")
        for at, (gap, bound) in enumerate(zip(gaps, bounds, strict=True)):
            if gap < bound - _TOLERANCE_S:
                pair = calls[at : at + 2]
                raise AssertionError(
                    f"expected at least {bound:g} s between calls to {model}, got {gap:g} s{_told(pair)}"
                )

    def assert_retry_after_honoured(self) -> None:
        """There was a refusal with ``retry_after_s``, and no model was called again before its time."""
        calls = self.calls()
        if all(call.retry_after_s is None for call in calls):
            raise AssertionError(f"no call was refused with a retry_after_s to honour{_told(calls)}")
        told = deque(
            sorted(
                (e for e in calls if e.retry_after_s is not None and e.ended_s is not None), key=_known_from
            )
        )
        standing: dict[str, tuple[float, JournalEntry]] = {}
        for call in calls:
            while told and told[0].calls_by_then < call.number:
                refusal = told.popleft()
                until = _free_at(refusal)
                if until > standing.get(refusal.model, (until - 1, refusal))[0]:
                    standing[refusal.model] = until, refusal
            until, refusal = standing.get(call.model, (call.at_s, call))
            if call.at_s < until - _TOLERANCE_S:
                raise AssertionError(
                    f"{call.model} asked to be left alone until {until:g} s "
                    f"and was called at {call.at_s:g} s{_told([refusal, call])}"
                )


def _told(calls: Sequence[JournalEntry]) -> str:
    shown = [f"\n  {entry!r}" for entry in calls[:_SHOWN]]
    if len(calls) > _SHOWN:
        shown.append(f"\n  … and {len(calls) - _SHOWN} more")
    return "".join(shown)


def _counted(models: Sequence[str]) -> str:
    return str(list(models)) if len(models) <= _SHOWN else str(dict(Counter(models)))


def _known_from(refusal: JournalEntry) -> int:
    return refusal.calls_by_then


def _free_at(refusal: JournalEntry) -> float:
    return (refusal.ended_s or 0.0) + (refusal.retry_after_s or 0.0)

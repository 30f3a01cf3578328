"""Ledger rows kept in memory: the last so many."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from .ledger_row import LeftOut, atto, checked, error_of, left_out_of, plain
from .ledger_summary import FIELDS, Columns, Key, Wanted

if TYPE_CHECKING:
    from .ledger_entry import Entry

__all__ = ["LedgerMemory"]


class LedgerMemory:
    """The last ``max_rows`` rows, not older than ``retention_s``. The ledger's lock guards ``write``."""

    name = "in memory"

    def __init__(self, max_rows: int, *, retention_s: float | None) -> None:
        self._max_rows = max_rows
        self._retention_s = retention_s
        self._rows: deque[Entry] = deque()
        self._ids: set[str] = set()

    def write(self, entries: Sequence[Entry], now: float) -> list[LeftOut]:
        kept, ids = self._rows, self._ids
        left_out: list[LeftOut] = []
        for entry in entries:
            try:
                checked(entry)
                entry = plain(entry)
            except Exception as error:  # what callers put into a row may raise anything
                left_out.append(left_out_of(entry, error))
                continue
            if entry.id not in ids:
                ids.add(entry.id)
                kept.append(entry)
        while len(kept) > self._max_rows:
            ids.discard(kept.popleft().id)
        if self._retention_s is not None:
            while kept and kept[0].at < now - self._retention_s:
                ids.discard(kept.popleft().id)
        return left_out

    def entries(self, wanted: Wanted) -> Iterator[Entry]:
        yield from sorted(self._found(wanted), key=lambda entry: entry.at)

    def sums(self, bys: Sequence[Columns], wanted: Wanted) -> list[Iterable[tuple[Key, Sequence[int]]]]:
        found = self._found(wanted)
        return [_summed(found, by) for by in bys]

    def _found(self, wanted: Wanted) -> list[Entry]:
        since, until, where = wanted
        while True:
            try:
                rows = tuple(self._rows)
                break
            except RuntimeError:  # another thread adds some just now
                continue
        tests = [(FIELDS[name], value) for name, value in where]
        return [
            entry
            for entry in rows
            if (since is None or entry.at >= since)
            and (until is None or entry.at < until)
            and all(_matches(getattr(entry, field), value) for field, value in tests)
        ]

    def notes(self) -> list[tuple[bool, str]]:
        return []

    def be_patient(self) -> None:
        """Nothing here waits."""

    def close(self) -> None:
        """Nothing is held open."""

    def before_fork(self, alone: bool) -> None:
        """Nothing is held open."""

    def after_fork(self) -> None:
        """Nothing is held open."""

    def renew(self) -> None:
        """The child goes on from what the parent had."""


def _summed(found: Sequence[Entry], by: Columns) -> Iterable[tuple[Key, Sequence[int]]]:
    groups: dict[Key, list[int]] = {}
    for entry in found:
        key = tuple(
            getattr(entry, column) if bucket_s is None else int(entry.at) // bucket_s
            for column, bucket_s in by
        )
        mine = groups.get(key)
        if mine is None:
            groups[key] = _counted(entry)
        else:
            groups[key] = [a + b for a, b in zip(mine, _counted(entry), strict=True)]
    return groups.items()


def _matches(found: object, value: str | None) -> bool:
    if isinstance(found, tuple):
        return value in found if value is not None else not found
    return found == value


def _counted(entry: Entry) -> list[int]:
    """One row's part in each of ``SUMS``; ``ledger_file.SUMS_SQL`` says the same to SQLite."""
    cost = None if entry.cost_usd is None else atto(entry.cost_usd)
    estimate = None if entry.estimate_usd is None else atto(entry.estimate_usd)
    listed = None if entry.list_usd is None else atto(entry.list_usd)
    outcome = entry.outcome
    cached = entry.cached or outcome == "cached"
    call = outcome != "refused"
    error = error_of(entry)
    return [
        int(call),
        int(not call),
        int(outcome == "failed"),
        int(outcome == "cancelled"),
        int(cached),
        int(call and bool(entry.degraded)),
        int(call and not cached and cost is None and entry.input_tokens + entry.output_tokens > 0),
        entry.input_tokens,
        entry.output_tokens,
        entry.cached_input_tokens,
        entry.cache_write_tokens,
        entry.reasoning_tokens,
        cost or 0,
        listed or 0,
        estimate or 0,
        listed - cost if listed is not None and cost is not None else 0,
        int(error is not None),
        cost or 0 if error is not None else 0,
        error or 0,
        abs(error or 0),
    ]

"""Whose promises are watched, and in which order somebody looks at them."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import ConfigError
from ..types import Objective
from .attainment import Attainment
from .report import Whose
from .windows import CELL_S

__all__ = ["Due", "Subject", "checked", "named"]

TURN = 64
TURN_S = CELL_S
"""With every so-manyth call, and once in so many seconds, it is somebody's turn."""


class Subject(NamedTuple):
    """Whose promise it is, and how well it is kept."""

    whose: Whose
    attainment: Attainment

    def status(self, now: float) -> dict[str, Any]:
        """All windows, as plain data."""
        reports = self.attainment.reports(now, whose=self.whose)
        return {
            "burning": list(reports[0].burning),
            "budget_left": reports[0].budget_left,
            "windows": {f"{report.window_s:g}": report.to_dict() for report in reports},
        }


class Due:
    """Subjects at which to look, those that wait longest first. Thread-safe.

    They may be many, and a look takes as long as a hundred calls: so only one at a time, now and then.
    """

    __slots__ = ("_at", "_calls", "_lock", "_subjects")

    def __init__(self) -> None:
        self._subjects: dict[Whose, Subject] = {}
        self._calls, self._at = 0, -math.inf
        self._lock = threading.RLock()

    def add(self, subject: Subject) -> None:
        with self._lock:
            self._subjects.setdefault(subject.whose, subject)

    def drop(self, subject: Subject) -> None:
        """It is not kept any more."""
        with self._lock:
            self._subjects.pop(subject.whose, None)

    def next(self, now: float) -> Subject | None:
        """Asked once with every call: whose turn it is."""
        self._calls += 1
        if not self._subjects or (self._calls < TURN and 0 <= now - self._at < TURN_S):
            return None
        with self._lock:
            self._calls, self._at = 0, now
            return self._subjects.pop(next(iter(self._subjects)), None) if self._subjects else None

    def renew(self) -> None:
        """After a fork."""
        self._lock = threading.RLock()


def checked(option: str, name: str, objective: Objective) -> Objective:
    if not isinstance(objective, Objective):
        raise ConfigError(f"ServiceLevels({option}: {name}={objective!r}): give an Objective")
    return objective


def named(what: str, name: str, known: Mapping[str, Subject]) -> Subject:
    found = known.get(name)
    if found is None:
        names = ", ".join(known) or "none"
        raise ConfigError(f"{what}={name!r}: no such {what} has an objective; those that have: {names}")
    return found

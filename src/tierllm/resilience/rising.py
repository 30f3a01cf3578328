"""Calls on their way up: who asks the same meanwhile need not hear the poor answer once more. Pure state."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..caching.key import Key
    from ..types import Call
    from .judging import PoorAnswer

__all__ = ["Question", "Rising"]

Question = tuple["Key", str]
"""A request, and the tier that was asked."""


class Rising:
    """What is being asked of a better tier now, after a cheap one's answer was poor. Thread-safe.

    A poor answer is in no cache, and its flight is over: without this, each call that comes while the
    strong tier still works on the same question would pay for the poor answer anew.
    """

    def __init__(self) -> None:
        self._poor: dict[Question, tuple[PoorAnswer, int]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._poor)

    def of(self, call: Call) -> PoorAnswer | None:
        """The poor answer to what ``call`` asks its tier, while another goes up with it."""
        question = _question(call, call.tier)
        found = None if question is None else self._poor.get(question)
        return None if found is None else found[0]

    def begin(self, call: Call, poor: PoorAnswer) -> Question | None:
        """``call`` goes up from its tier: with this question, to be told when it is over."""
        question = _question(call, call.tier)
        if question is not None:
            with self._lock:
                first, calls = self._poor.get(question, (poor, 0))
                self._poor[question] = first, calls + 1
        return question

    def end(self, question: Question) -> None:
        """A call that went up with ``question`` is over."""
        with self._lock:
            first, calls = self._poor.pop(question, (None, 0))
            if first is not None and calls > 1:
                self._poor[question] = first, calls - 1

    def renew(self) -> None:
        """After a fork: nobody goes up here."""
        self._lock = threading.Lock()
        self._poor = {}


def _question(call: Call, tier: str) -> Question | None:
    """What is asked of ``tier``, where calls alike may share an answer."""
    look = call.lookup
    if look is None or look.key is None or look.alone or look.mode == "refresh":
        return None
    return look.key, tier

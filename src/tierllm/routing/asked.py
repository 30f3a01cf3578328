"""What is known of a call while its rule is looked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..events import log
from .conditions import CLASSES
from .scored import prompt_of

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..sla.terms import Terms
    from ..types import Request

__all__ = ["Asked", "Buckets", "Classify", "Sources"]

Load = Callable[[str | None], tuple[float, float]]
Buckets = Sequence[int] | None
Classify = Callable[[str], tuple[str, float] | tuple[str, float, Buckets]]
"""A class and a score; with them, what the scorer made of the text, to be used again."""


class Sources(NamedTuple):
    """Where a table learns what is not in the request. ``ranks`` are the tiers', from 0 for the best."""

    start: str
    ranks: Mapping[str, int]
    load: Load
    budget_left: Callable[[Request], float | None]
    tokens: Callable[[Request], int]
    wall: Clock
    classify: Classify | None


class Asked:
    """What is known of one call while its rule is looked for. What is not needed is not found out.

    ``request_class`` is ``None`` where nobody says how difficult the call is. ``said``: by the caller, or
    by a rule. ``unsure``: it was to be found out and could not be, so that it counts as high.
    """

    __slots__ = (
        "_looked",
        "buckets",
        "priority",
        "request",
        "request_class",
        "said",
        "score",
        "sources",
        "terms",
        "unsure",
    )

    def __init__(self, request: Request, sources: Sources, terms: Terms | None = None) -> None:
        self.request = request
        self.sources = sources
        self.terms = terms
        self.priority = request.priority
        if terms is not None and terms.max_priority is not None:
            self.priority = min(self.priority, terms.max_priority)
        self.request_class = request.request_class
        self.said = self._looked = request.request_class is not None
        self.score: float | None = None
        self.buckets: Buckets = None
        self.unsure = False

    def load(self, of: str | None) -> tuple[float, float]:
        """Load and forecast of a tier; where none is named, of the one that the call would start in."""
        return self.sources.load(of or self._start())

    def _start(self) -> str:
        """Where it would start as far as its caller, its plan and its contract say."""
        rank, terms, request = self.sources.ranks, self.terms, self.request
        start = request.sla if request.sla is not None and request.sla in rank else self.sources.start
        cap, floors = None, [request.min_tier]
        if terms is not None:
            cap = terms.max_tier
            floors.append(terms.min_tier)
        if cap is not None and rank[start] < rank[cap]:
            start = cap
        for floor in floors:
            if floor is not None and rank[start] > rank.get(floor, len(rank)):
                start = floor
        return start

    def tokens(self) -> float:
        """How much input it has; no number where it shows no prompt."""
        return self.sources.tokens(self.request) if self.request.messages else float("nan")

    def classed(self) -> str | None:
        """How difficult it is. Whoever finds it out is asked once; who cannot has said: very."""
        if not self._looked:
            self._looked = True
            classify = self.sources.classify
            if classify is not None:
                self._find_out(classify)
        return self.request_class

    def set_class(self, name: str) -> None:
        """A rule says how difficult it is. Who said so first is right."""
        if not self.said:
            self.request_class = name
            self.said = self._looked = True
            self.unsure = False

    def _find_out(self, classify: Classify) -> None:
        text = prompt_of(self.request)
        try:
            if text:
                name, score, *more = classify(text)
                if name in CLASSES and score == score:
                    self.request_class, self.score = name, score
                    self.buckets = more[0] if more else None
                    return
        except Exception as error:  # it may be anybody's code, and quote the prompt
            log.error("finding out how difficult a call is raised %s", type(error).__name__)
        self.request_class, self.unsure = "high", True

"""What is known of a call while its rule is looked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..events import log
from .conditions import CLASSES

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..types import Request

__all__ = ["Asked", "Sources"]

Load = Callable[[str | None], tuple[float, float]]
Classify = Callable[[str], tuple[str, float]]


class Sources(NamedTuple):
    """Where a table learns what is not in the request."""

    start: str
    tiers: frozenset[str]
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
        "priority",
        "request",
        "request_class",
        "said",
        "score",
        "sources",
        "unsure",
    )

    def __init__(self, request: Request, sources: Sources, priority: int) -> None:
        self.request = request
        self.sources = sources
        self.priority = priority
        self.request_class = request.request_class
        self.said = self._looked = request.request_class is not None
        self.score: float | None = None
        self.unsure = False

    def load(self, of: str | None) -> tuple[float, float]:
        """Load and forecast of a tier; where none is named, of the one that the call would start in."""
        sla, sources = self.request.sla, self.sources
        return sources.load(of or (sla if sla in sources.tiers else sources.start))

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
        text = self.request.text
        try:
            if text:
                name, score = classify(text)
                if name in CLASSES and score == score:
                    self.request_class, self.score = name, score
                    return
        except Exception as error:  # it may be anybody's code, and quote the prompt
            log.error("finding out how difficult a call is raised %s", type(error).__name__)
        self.request_class, self.unsure = "high", True

"""Very long prompts are counted off the event loop, before places ask how long they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..cost.tokens import BIG
from ..pipeline.effects import Blocking, Handler
from ..types import length_of

if TYPE_CHECKING:
    from ..types import Call, Response
    from .tier_line import TierLine

__all__ = ["Sized"]


class Sized:
    """Has the tokens counted for each place that will ask for them."""

    def __init__(self, lines: Mapping[str, TierLine]) -> None:
        self._lines = lines

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        if self.heavy(call):
            assert call.plan is not None
            for tier in call.plan.tiers:
                for line in self._lines[tier].lines:
                    question = line.window.question(call)
                    if question is not None:
                        await Blocking(question)
        return await call_next(call)

    def heavy(self, call: Call) -> bool:
        """Whether counting its tokens would hold up an event loop: it is long, or a tokenizer not loaded."""
        plan = call.plan
        if call.sizes is None or plan is None:
            return False
        if length_of(call.request.messages) > BIG:
            return True
        lines = (line for tier in plan.tiers for line in self._lines[tier].lines)
        return any(not line.place.tokens.loaded and line.window.question(call) is not None for line in lines)

"""What a call will use of a rate limit: an estimate that costs next to nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..cost.billing import reported
from ..cost.history import OutputHistory
from ..cost.place import cap_of, copies_of
from .limit_shortfall import Need

if TYPE_CHECKING:
    from ..cost.place import Place
    from ..types import Call, Message, Response

__all__ = ["Expected"]

PLAIN = frozenset({"max_tokens", "temperature", "top_p", "seed", "stop", "user"})
"""Parameters that are no part of the input."""

CHARACTERS_EACH, FRAME, REPLY = 4.0, 4, 3
"""Tokens of plain ASCII text, of a message's frame, and of the answer's; what is wrong in it is learnt."""

WEIGHT, MOST = 0.1, 4.0


class Expected:
    """Tells what calls at one place will use, and learns from what they did. Any thread may use it.

    The input is told from its length, corrected by what the place reported of inputs before. The output
    is what 9 of 10 answers here stayed within (``"p90"``), no more than the call allows; where too few are
    known yet, and for ``"max"``, it is what the call allows, or the place's ``default_max_tokens``.
    """

    __slots__ = ("_factor", "_outputs", "_p90", "_total", "place")

    def __init__(self, place: Place) -> None:
        self.place = place
        self._outputs = OutputHistory()
        self._p90: int | None = None
        self._factor = 1.0
        self._total: float | None = None

    def __call__(self, call: Call, reserve: str) -> Need:
        params = call.params
        copies = 1
        if params and not PLAIN.issuperset(params):
            most = cap_of(params)
            copies = copies_of(params)
        else:
            most = params.get("max_tokens") or 0
        sure = most > 0
        if not sure:
            most = self.place.default_max_tokens
        if reserve != "max":
            p90 = self._p90
            if p90 is not None and p90 < most:
                most = p90
            sure = False
        input_tokens = int(self._input(call.messages, params) * self._factor) + 1
        return Need(input_tokens, most * copies, 1, not sure)

    def _input(self, messages: Sequence[Message], params: Mapping[str, Any]) -> float:
        if params and not PLAIN.issuperset(params) and self._shows(params):
            return self._looked_at(messages, params)
        length = 0
        for message in messages:
            content = message.get("content")
            if type(content) is not str or not content.isascii():
                return self._looked_at(messages, params)
            length += len(content)
        return length / CHARACTERS_EACH + FRAME * len(messages) + REPLY

    def _shows(self, params: Mapping[str, Any]) -> bool:
        """Whether the model gets to see any of them: tools, a schema."""
        from ..cost.tokens.parameters import FREE

        return not FREE.issuperset(params)

    def _looked_at(self, messages: Sequence[Message], params: Mapping[str, Any]) -> float:
        """What is no plain ASCII: told from its bytes, pictures and tools by their rules."""
        from ..cost.guess import guessed_tokens
        from ..cost.tokens.families import family_of

        return float(guessed_tokens(messages, params, family_of(self.place.model, self.place.vendor)))

    def learn(self, need: Need, response: Response) -> None:
        """A call that was expected to need ``need`` was answered."""
        usage = response.usage
        if usage is None or usage.estimated or reported(usage) is not usage:
            return
        told, output_tokens = usage.input_tokens, usage.output_tokens
        if told > 0:
            ratio = told / need.input_tokens * self._factor
            self._factor += WEIGHT * (min(max(ratio, 1 / MOST), MOST) - self._factor)
        self._outputs.add(output_tokens, truncated=response.finish_reason == "length")
        self._p90 = self._outputs.p90
        total = told + output_tokens
        self._total = float(total) if self._total is None else self._total + WEIGHT * (total - self._total)

    @property
    def usual_tokens(self) -> float | None:
        """What a call uses in the mean, once that is known."""
        return self._total

    def renew(self) -> None:
        """After a fork: the parent's lock may be held for good."""
        self._outputs.renew()

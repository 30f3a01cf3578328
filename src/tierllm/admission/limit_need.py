"""What a call will use of a rate limit: an estimate that costs next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cost.billing import reported
from ..cost.history import OutputHistory
from ..cost.place import cap_of, copies_of
from ..cost.tokens.contents import FREE
from .limit_shortfall import Need

if TYPE_CHECKING:
    from ..cost.place import Place
    from ..types import Call, Response

__all__ = ["Expected"]

CHARACTERS_EACH, FRAME, REPLY = 4.0, 4, 3
"""Tokens of plain ASCII text, of a message's frame, and of the answer's; what is wrong in it is learnt."""

WEIGHT, MOST, MOST_BESIDE, PRIOR = 0.1, 4.0, 4000.0, 0.003
"""How fast it is learnt; how far it may be from the truth, for each token and beside; and what sizes have to
differ by, squared and relatively, to tell the two apart."""

WORDS_EACH = 2

ENOUGH = 9
"""Answers after which there is a P90: the longest of 9 is what the next stays within in 9 of 10 cases."""

LEARN_EVERY, LOOK_EVERY = 4, 16
"""Once as many answers are known as are kept, one in so many is learnt from, and their P90 looked up."""


class Expected:
    """Tells what calls at one place will use, and learns from what they did. Any thread may use it.

    The input is told from its length, by the straight line through what the place reported of inputs before:
    what is added to every call there, and how much more or less the rest counts. The output
    is what 9 of 10 answers here stayed within (``"p90"``), no more than the call allows; where too few are
    known yet, and for ``"max"``, it is what the call allows, or the place's ``default_max_tokens``.
    """

    __slots__ = ("_full", "_left_out", "_line", "_outputs", "_p90", "_seen", "_total", "place")

    def __init__(self, place: Place) -> None:
        self.place = place
        self._outputs = OutputHistory(min_samples=ENOUGH)
        self._full = False
        self._left_out = 0
        self._p90: int | None = None
        self._line = 1.0, 0.0
        """Tokens for each one by length, and beside."""
        self._seen: tuple[int, float, float, float, float] | None = None
        """Answers, the means of sizes and of what was told, the variance of sizes, and the covariance."""
        self._total: float | None = None

    def __call__(self, call: Call, reserve: str) -> Need:
        params = call.params
        most = params.get("max_tokens")
        if type(most) is not int or most < 1:
            most = cap_of(params) if params else 0
        guessed = reserve != "max" or not most
        if not most:
            most = self.place.default_max_tokens
        p90 = self._p90
        if p90 is not None and p90 < most and reserve != "max":
            most = p90
        if "n" in params or "best_of" in params:
            most *= copies_of(params)
        size = self._size(call)
        # a named tuple's own maker would cost as much as the rest
        slope, beside = self._line
        expected = int(slope * size + beside)
        return tuple.__new__(Need, (expected + 1 if expected > 0 else 1, most, 1, guessed, None))

    def _size(self, call: Call) -> float:
        """The input's tokens by its length."""
        length = 0
        messages = call.messages
        for message in messages:
            content = message.get("content")
            if type(content) is not str or not content.isascii():
                return self._looked_at(call)
            length += len(content)
        if call.params and not FREE.issuperset(call.params):
            return self._looked_at(call)
        return length / CHARACTERS_EACH + FRAME * len(messages) + REPLY

    def _looked_at(self, call: Call) -> float:
        """What is no plain ASCII: told from its bytes, pictures and tools by their rules."""
        from ..cost.guess import guessed_tokens
        from ..cost.tokens.families import family_of

        family = family_of(self.place.model, self.place.vendor)
        return float(guessed_tokens(call.messages, call.params, family))

    def learn(self, call: Call, response: Response) -> None:
        """A call from here was answered."""
        usage = response.usage
        if usage is None or usage.estimated:
            return
        if self._full:
            self._left_out += 1
            if self._left_out % LEARN_EVERY:
                return
        if reported(usage) is not usage:
            return
        told, output_tokens = usage.input_tokens, usage.output_tokens
        if told > 0:
            self._correct(self._size(call), float(told))
        outputs = self._outputs
        outputs.add(output_tokens, truncated=response.finish_reason == "length")
        if not self._full or self._left_out % LOOK_EVERY == 0:
            self._p90 = outputs.p90
        self._full = len(outputs) == outputs.size
        total = told + output_tokens
        self._total = float(total) if self._total is None else self._total + WEIGHT * (total - self._total)

    def _correct(self, size: float, told: float) -> None:
        """Lay the line anew: least squares, with a prior of one to one for what sizes as alike as these
        leave open. One number that makes no sense does not bend it far."""
        told = min(max(told, size / MOST), size * MOST + MOST_BESIDE)
        seen = self._seen
        if seen is None:
            self._seen = 1, size, told, 0.0, 0.0
            self._line = 1.0, told - size
            return
        answers, mean_size, mean_told, variance, covariance = seen
        answers += 1
        weight = max(WEIGHT, 1 / answers)
        from_size, from_told = size - mean_size, told - mean_told
        mean_size += weight * from_size
        mean_told += weight * from_told
        variance = (1 - weight) * (variance + weight * from_size * from_size)
        covariance = (1 - weight) * (covariance + weight * from_size * from_told)
        self._seen = answers, mean_size, mean_told, variance, covariance
        prior = PRIOR * mean_size * mean_size
        slope = min(max((covariance + prior) / (variance + prior), 1 / MOST), MOST)
        self._line = slope, mean_told - slope * mean_size

    def least(self, call: Call) -> int:
        """The input tokens that the call has for certain: no tokenizer has fewer than one for two words."""
        lower = self.place.tokens.bounds(call.messages, call.params).lower
        words = 0
        for message in call.messages:
            content = message.get("content")
            if type(content) is str:
                words += len(content.split())
        return max(lower, words // WORDS_EACH)

    @property
    def usual_tokens(self) -> float | None:
        """What a call uses in the mean, once that is known."""
        return self._total

    def renew(self) -> None:
        """After a fork: the parent's lock may be held for good."""
        self._outputs.renew()

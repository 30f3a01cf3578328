"""What a rate limit is settled with, by how the call ended."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ..cost.billing import LONG, MOST_TOKENS, NOTHING, billed
from ..cost.guess import guessed_text
from ..errors import ProviderError
from ..types import Usage

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation

__all__ = ["AS_TAKEN", "NEVER_SENT", "Outcome", "answered", "failed"]


class Outcome(NamedTuple):
    """What was used; ``None``: as much as was taken.

    ``sent``: the vendor has counted the request. ``counts``: it counts for who asked, too.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    counts: bool = True
    sent: bool = True


AS_TAKEN = Outcome()
NEVER_SENT = Outcome(0, 0, counts=False, sent=False)


def answered(usage: Usage) -> Outcome:
    """By what an answer reports; one that reports nothing, or nonsense, used what was taken."""
    input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
    if type(input_tokens) is not int or type(output_tokens) is not int:
        return AS_TAKEN
    if not 0 < input_tokens + output_tokens <= MOST_TOKENS or input_tokens < 0 or output_tokens < 0:
        return AS_TAKEN
    return tuple.__new__(Outcome, (input_tokens, output_tokens, True, True))  # on every call's path


def failed(error: BaseException, progress: Invocation | None, earlier: Invocation | None) -> Outcome:
    """By what is known of an attempt that ended with ``error``. ``earlier`` is the progress of one before."""
    if progress is None or progress is earlier:
        return NEVER_SENT
    bill = billed(error, progress)
    if bill is NOTHING:
        return Outcome(0, 0, counts=False)
    if isinstance(bill, Usage):
        return Outcome(bill.input_tokens, bill.output_tokens)
    if bill is None:
        text = "".join((*progress.texts, *progress.reasoning, *(t.arguments for t in progress.tool_calls)))
        sample = text[:LONG]
        return Outcome(None, math.ceil(guessed_text(sample) * len(text) / len(sample)) if sample else 0)
    return Outcome(counts=not isinstance(error, ProviderError))  # nobody knows what it used

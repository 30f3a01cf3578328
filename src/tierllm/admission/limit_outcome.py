"""What a rate limit is settled with, by how the call ended."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ..cost.billing import LONG, NOTHING, billed, reported
from ..cost.guess import guessed_text
from ..errors import ProviderError
from ..types import Response, Usage

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation

__all__ = ["NEVER_SENT", "Outcome", "answered", "failed"]


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


def answered(response: Response) -> Outcome:
    """By what the answer reports; one that reports nothing used what was taken."""
    usage = reported(response.usage)
    if not isinstance(usage, Usage) or not usage.total_tokens:
        return AS_TAKEN
    return Outcome(usage.input_tokens, usage.output_tokens)


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

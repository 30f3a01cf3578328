"""What was chosen for one call, by its difficulty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Arm", "Choice", "RequestClass"]

Arm = Literal["weak", "strong"]
RequestClass = Literal["low", "medium", "high"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for a call, by its difficulty.

    ``score`` is NaN where the scorer failed. ``propensity`` is the probability, over all draws, that this
    arm was chosen (what learning from a log needs), ``explored`` whether it was drawn for the sake of
    learning. ``share`` is the share of strong calls that was asked for, ``threshold`` the score at which a
    call was strong (both ``None`` where there was none). ``floor``: it had to be strong. ``buckets`` is what
    was read from the text, for learning.
    """

    arm: Arm
    score: float
    propensity: float
    explored: bool = False
    share: float | None = None
    threshold: float | None = None
    floor: bool = False
    request_class: RequestClass = "medium"
    buckets: Sequence[int] | None = None

    def __repr__(self) -> str:
        return f"<Choice {self.arm} score={self.score:.3f} propensity={self.propensity:.3f}>"

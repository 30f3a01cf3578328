"""What one call has taken of one bucket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .limit_log import Cell
    from .limit_meter import Meter
    from .limit_vendor import Booked

__all__ = ["Take"]


class Take:
    """What one call holds of one bucket. ``cells`` are where it is booked; ``open`` until it is settled.

    ``used`` is what it was settled with, where it is shared: requests, input and output tokens. ``booked``
    are the bucket's sums after it, where the vendor's word is followed.
    """

    __slots__ = (
        "at",
        "booked",
        "cells",
        "input_tokens",
        "meter",
        "open",
        "output_tokens",
        "requests",
        "used",
    )

    def __init__(self, meter: Meter, requests: int, input_tokens: int, output_tokens: int, at: float) -> None:
        self.meter = meter
        self.requests = requests
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.at = at
        self.cells: Sequence[Cell] = ()
        self.booked: Booked | None = None
        self.used: tuple[int, int, int] | None = None
        self.open = True

"""What a call needs of a rate limit, and what is missing."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..errors import RequestTooLargeError, ThrottledError

__all__ = ["BUSY", "Need", "Shortfall"]

WINDOWS = {
    "rpm": "requests a minute",
    "tpm": "tokens a minute",
    "input_tpm": "input tokens a minute",
    "output_tpm": "output tokens a minute",
    "rpd": "requests a day",
    "tpd": "tokens a day",
    "max_concurrency": "calls at once",
}


BUSY = "busy"
"""In place of a setting: nobody could look, since others were at it."""


class Need(NamedTuple):
    """What a call will use. ``guessed``: the output is a guess, and may be taken for less where that fits.

    So may the input, where ``least_input`` is given: what it has for certain.
    """

    input_tokens: int
    output_tokens: int
    requests: int = 1
    guessed: bool = False
    least_input: int | None = None


class Shortfall(NamedTuple):
    """Why a call may not go now.

    In ``wait_s`` seconds there is room, if nothing else happens (``inf``: unknown or, where it is
    ``too_large``, never). ``limit`` is the limit's name, ``dimension`` the setting (``"rpm"``), ``bucket``
    whose it is, ``most`` the limit there and ``asked`` what this call needs of it. ``personal``: it is about
    this caller; others may go.
    """

    wait_s: float
    limit: str
    dimension: str
    bucket: str
    personal: bool
    too_large: bool
    asked: int
    most: int
    input_tokens: int
    output_tokens: int
    mode: str = "enforce"

    @property
    def whose(self) -> object:
        """The same for calls that lack the same."""
        return self.limit, self.bucket

    @property
    def early(self) -> bool:
        """Whether room may come sooner than that: when one of those at once ends."""
        return self.dimension == "max_concurrency" or self.dimension == BUSY

    def error(self, where: str = "") -> ThrottledError | RequestTooLargeError:
        """What to raise at ``where``."""
        whose = f" ({self.bucket})" if self.personal else ""
        at = f"{where}: " if where else ""
        if self.too_large and self.most < 1:
            return ThrottledError(
                f"{at}limit {self.limit!r}{whose} keeps all of its {self.dimension} for other tiers "
                "(reserve=...): nothing is left over for this one; keep less for them",
                personal=self.personal,
            )
        if self.too_large:
            bound = WINDOWS.get(self.dimension, self.dimension)
            error = RequestTooLargeError(
                f"{at}the request needs {self.asked} of the {self.most} {bound} that limit {self.limit!r}"
                f"{whose} allows in all, so it never fits: shorten it, ask for fewer max_tokens, or raise "
                f"{self.dimension}",
                input_tokens=self.input_tokens,
                output_tokens=self.output_tokens,
                window=self.most,
            )
            error.personal = self.personal
            return error
        if self.dimension == BUSY:
            return ThrottledError(
                f"{at}limit {self.limit!r}{whose} is being counted by others",
                retry_after_s=self.wait_s,
                waitable=True,
                personal=self.personal,
            )
        known = self.wait_s < math.inf
        when = f"there is room in {self.wait_s:.3g} s" if known else "there is room when one of them ends"
        return ThrottledError(
            f"{at}limit {self.limit!r}{whose} is used up ({self.dimension}={self.most}); {when}",
            retry_after_s=self.wait_s if known else 1.0,
            waitable=True,
            personal=self.personal,
        )

"""What a vendor's headers say of its limits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from ..providers.limits import rate_limits

__all__ = ["Told", "told_by"]

OPENAI, ANTHROPIC = "x-ratelimit-{part}-{unit}", "anthropic-ratelimit-{unit}-{part}"

UNITS = ("requests", "tokens", "input-tokens", "output-tokens")

LONGEST_S = 32 * 86_400.0
"""A reset further away is none."""

UNSURE_S, SURE_S = 60.0, 86_400.0
"""A moment is no further away than this, by our own clock and by the vendor's: clocks may be wrong."""

SPAN = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?"
    r"(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)
PARTS_S = (86_400.0, 3600.0, 60.0, 1.0, 0.001)


class Told(NamedTuple):
    """One limit as the vendor has it. ``dimension``: 0 requests, 1 tokens, 2 input, 3 output tokens.

    ``remaining`` and ``reset_s`` come together, or are both ``None``. ``is_moment``: the reset was told as a
    moment, and is so far from the time at which it is heard; else from when the vendor counted the request.
    """

    dimension: int
    limit: int | None
    remaining: int | None
    reset_s: float | None
    is_moment: bool = False


NAMES = tuple(
    (dimension, tuple(form.format(part=part, unit=unit) for part in ("limit", "remaining", "reset")))
    for form in (OPENAI, ANTHROPIC)
    for dimension, unit in enumerate(UNITS)
)


def told_by(headers: Mapping[str, str], wall_s: float) -> list[Told]:
    """The limits that ``headers`` tell of, heard at ``wall_s`` (seconds since 1970).

    OpenAI's form (resets such as ``"6m0s"``) and Anthropic's (resets as RFC 3339). Names in any case. Where
    there is a ``Date``, moments are told by the vendor's clock; else by ours, and are taken for a minute
    away at most. What makes no sense is left out. Never raises.
    """
    found: list[Told] = []
    try:
        lower = rate_limits(headers)
        date = next((said for name, said in headers.items() if name.lower() == "date"), None)
    except Exception:  # whatever a provider of the caller's own puts there
        return found
    if not lower:
        return found
    for dimension, (limit_name, remaining_name, reset_name) in NAMES:
        if limit_name not in lower and remaining_name not in lower:
            continue
        limit = _count(lower.get(limit_name))
        remaining = _count(lower.get(remaining_name))
        reset_s, is_moment = _reset_s(lower.get(reset_name), date, wall_s)
        if limit == 0 or (is_moment and reset_s == UNSURE_S):  # no moment to reckon with
            limit = None
        if remaining is None or reset_s is None or (limit is not None and remaining > limit):
            remaining, reset_s, is_moment = None, None, False
        if limit is not None or remaining is not None:
            found.append(Told(dimension, limit, remaining, reset_s, is_moment))
    return found


def _count(said: object) -> int | None:
    if not isinstance(said, str) or not said.isascii() or not said.isdigit() or len(said) > 15:
        return None
    return int(said)


def _reset_s(said: object, date: object, wall_s: float) -> tuple[float | None, bool]:
    """Seconds until a reset, and whether it was told as a moment: else as a span, or a number of seconds."""
    if not isinstance(said, str) or not 0 < len(said) <= 40:
        return None, False
    seconds = _span_s(said)
    if seconds is not None:
        return (seconds if 0 <= seconds <= LONGEST_S else None), False
    at = _moment(said)
    if at is None:
        return None, False
    sent_at = _dated(date)
    most_s = UNSURE_S if sent_at is None else SURE_S
    return min(max(0.0, at - (wall_s if sent_at is None else sent_at)), most_s), True


def _dated(said: object) -> float | None:
    """When the vendor answered, by its own clock (RFC 9110, 6.6.1)."""
    if not isinstance(said, str) or len(said) > 40:
        return None
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(said).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _span_s(said: str) -> float | None:
    """``"6m0s"``, ``"20ms"`` or ``"17.5"`` in seconds."""
    found = SPAN.fullmatch(said)
    if found is not None:
        return sum(float(part) * unit_s for part, unit_s in zip(found.groups(), PARTS_S, strict=True) if part)
    try:
        seconds = float(said)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def _moment(said: str) -> float | None:
    from datetime import datetime

    try:
        at = datetime.fromisoformat(said)
        return at.timestamp() if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None

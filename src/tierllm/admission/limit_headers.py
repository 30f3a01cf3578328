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

SPAN = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?"
    r"(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)
PARTS_S = (86_400.0, 3600.0, 60.0, 1.0, 0.001)


class Told(NamedTuple):
    """One limit as the vendor has it. ``dimension``: 0 requests, 1 tokens, 2 input, 3 output tokens.

    ``remaining`` and ``reset_s`` come together, or are both ``None``.
    """

    dimension: int
    limit: int | None
    remaining: int | None
    reset_s: float | None


NAMES = tuple(
    (dimension, tuple(form.format(part=part, unit=unit) for part in ("limit", "remaining", "reset")))
    for form in (OPENAI, ANTHROPIC)
    for dimension, unit in enumerate(UNITS)
)


def told_by(headers: Mapping[str, str], wall_s: float) -> list[Told]:
    """The limits that ``headers`` tell of, received at ``wall_s`` (seconds since 1970).

    OpenAI's form (resets such as ``"6m0s"``) and Anthropic's (resets as RFC 3339). Names in any case. What
    makes no sense is left out. Never raises.
    """
    found: list[Told] = []
    try:
        lower = rate_limits(headers)
    except Exception:  # whatever a provider of the caller's own puts there
        return found
    if not lower:
        return found
    for dimension, (limit_name, remaining_name, reset_name) in NAMES:
        if limit_name not in lower and remaining_name not in lower:
            continue
        limit = _count(lower.get(limit_name))
        remaining = _count(lower.get(remaining_name))
        reset_s = _reset_s(lower.get(reset_name), wall_s)
        if limit == 0:
            limit = None
        if remaining is None or reset_s is None or (limit is not None and remaining > limit):
            remaining = reset_s = None
        if limit is not None or remaining is not None:
            found.append(Told(dimension, limit, remaining, reset_s))
    return found


def _count(said: object) -> int | None:
    if not isinstance(said, str) or not said.isascii() or not said.isdigit() or len(said) > 15:
        return None
    return int(said)


def _reset_s(said: object, wall_s: float) -> float | None:
    """Seconds until a reset: a span, a number of seconds, or a moment."""
    if not isinstance(said, str) or not 0 < len(said) <= 40:
        return None
    seconds = _span_s(said)
    if seconds is None:
        at = _moment(said)
        seconds = None if at is None else max(0.0, at - wall_s)
    return seconds if seconds is not None and 0 <= seconds <= LONGEST_S else None


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

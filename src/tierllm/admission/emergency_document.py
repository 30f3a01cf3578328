"""Emergencies as they are written down: one short document of JSON in the store."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from ..errors import ConfigError

__all__ = ["DOCUMENT", "check_name", "read", "written"]

DOCUMENT = "emergencies"
LONGEST_NAME = 100
MOST = 1000
LARGEST_BYTES = 1_000_000


def check_name(name: str) -> None:
    """Raise ``ConfigError`` for what is no name for an emergency."""
    if not _is_name(name):
        raise ConfigError(f"emergency({name!r}): give a name of at most {LONGEST_NAME} printable characters")


def written(untils: Mapping[str, float]) -> bytes:
    """The document. Raises ``ConfigError`` for more than fit in."""
    if len(untils) > MOST:
        raise ConfigError(f"{len(untils)} emergencies at once are too many: end some of them")
    return json.dumps({"emergencies": dict(sorted(untils.items()))}).encode()


def read(raw: bytes | None, now: float, latest: float) -> tuple[dict[str, float], bool]:
    """Those of ``raw`` that last beyond ``now``, and whether all in it made sense.

    What ends after ``latest`` makes none.
    """
    if raw is None:
        return {}, True
    found: object = None
    if len(raw) <= LARGEST_BYTES:
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            pass
    match found:
        case {"emergencies": dict(entries)}:
            untils = {
                name: float(end)
                for name, end in entries.items()
                if _is_name(name) and _is_moment(end) and end <= latest
            }
            sound = len(untils) == len(entries) <= MOST
            live = {name: end for name, end in untils.items() if end > now}
            return dict(sorted(live.items())[:MOST]), sound
    return {}, False


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable()


def _is_moment(end: object) -> bool:
    if isinstance(end, bool) or not isinstance(end, int | float):
        return False
    try:
        return math.isfinite(end)
    except OverflowError:  # an integer beyond all floats
        return False

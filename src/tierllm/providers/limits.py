"""What a vendor's headers and error bodies say about rate limits, and how long to wait."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping

__all__ = ["advised_wait_s", "rate_limits", "retry_after_s"]

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def rate_limits(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of ``headers`` that speak of rate limits, in lower case."""
    lower = ((name.lower(), value) for name, value in headers.items())
    return {n: v for n, v in lower if "ratelimit" in n or n.startswith("retry-after")}


def retry_after_s(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds to wait according to ``retry-after-ms`` or ``Retry-After`` (RFC 9110, 10.2.3).

    ``headers`` have lower-case names, or ignore case. ``Retry-After`` is a number of seconds or an
    HTTP date; ``now`` is the wall clock's time then.
    """
    wait = _number(headers.get("retry-after-ms"))
    if wait is not None:
        return wait / 1000
    said = headers.get("retry-after")
    wait = _number(said)
    if wait is not None or not said:
        return wait
    from email.utils import parsedate_to_datetime

    try:
        at = parsedate_to_datetime(said).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, at - (time.time() if now is None else now))


def advised_wait_s(headers: Mapping[str, str], body: object, *, spent: bool) -> float | None:
    """How long an error asks to wait, by its headers or its body (google's ``retryDelay``).

    Where neither says so and a limit is ``spent``, the time until that limit is reset.
    """
    asked = retry_after_s(headers)
    if asked is None:
        asked = next(_retry_delays(body), None)
    if asked is None and spent:
        asked = _reset_s(rate_limits(headers))
    return asked


def _reset_s(limits: Mapping[str, str]) -> float | None:
    resets = {name: _span(said) for name, said in limits.items() if "-reset" in name}
    empty = [s for name, s in resets.items() if limits.get(name.replace("-reset", "-remaining")) == "0"]
    return max((s for s in empty or resets.values() if s is not None), default=None)


def _retry_delays(body: object) -> Iterator[float]:
    error = body.get("error", body) if isinstance(body, Mapping) else None
    details = error.get("details") if isinstance(error, Mapping) else None
    for detail in details if isinstance(details, list) else ():
        said = detail.get("retryDelay") if isinstance(detail, Mapping) else None
        span = _span(said) if isinstance(said, str) else None
        if span is not None:
            yield span


def _number(said: str | None) -> float | None:
    try:
        seconds = float(said or "")
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _span(said: str) -> float | None:
    """``"6m0s"``, ``"120ms"`` or ``"17.5s"`` in seconds."""
    parts = _SPAN.findall(said)
    if not parts or "".join(number + unit for number, unit in parts) != said:
        return None
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))

"""A clock that is one for all processes of this machine, and does not jump with the wall clock."""

from __future__ import annotations

import time
from pathlib import Path

from ..pipeline.clock import Clock

__all__ = ["boot_clock"]


def boot_clock() -> tuple[str, Clock]:
    """A name of the time since the machine was started, and the seconds since then.

    Times under another name are of an earlier start. While the machine is suspended it stands still:
    nobody can renew anything then. Where the system does not name its starts, as without ``/proc``, it
    is the wall clock, under no name; to set that clock may end leases early or late.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        clock = time.CLOCK_MONOTONIC
        time.clock_gettime(clock)
    except (OSError, AttributeError, UnicodeDecodeError):
        return "", time.time
    return boot, lambda: time.clock_gettime(clock)

"""Claims: who makes what is missing. Rows beside the entries, which end with their time or their process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..stores.boot import boot_clock
from .disk_rows import CLAIM, Rows

__all__ = ["Process", "claim", "claimed_by", "release", "this_process"]


MOST_BYTES = 64 * 1024
"""More than any claim takes."""

_CLAIMED = (
    "SELECT CASE WHEN length(value) <= ? THEN value END FROM Cache WHERE key = ? AND raw = 1"
    # a clock may be set back a little; but no claim lies further ahead than it lasts
    " AND 2 * store_time - expire_time <= ? AND expire_time > ?"
)


class Process(NamedTuple):
    """Which one it is among all that ever ran: ``pid`` may be given again, and is counted by ``space``."""

    boot: str
    space: str
    pid: int
    began: str


def this_process() -> Process | None:
    """``None``: the system does not tell."""
    boot, _ = boot_clock()
    pid = os.getpid()
    try:
        space = os.readlink("/proc/self/ns/pid")
        began = _began(pid)
    except OSError:
        return None
    return Process(boot, space, pid, began) if boot and began else None


def claimed_by(rows: Rows, slot: bytes, now: float, here: Process | None) -> bytes | None:
    """Who has it now."""
    found = rows.rows(_CLAIMED, (MOST_BYTES, CLAIM + slot, now, now))
    if not found or type(found[0][0]) is not bytes:
        return None
    try:
        match json.loads(found[0][0]):
            case [str(owner), *process]:
                return None if here is not None and _is_dead(process, here) else bytes.fromhex(owner)
    except (ValueError, RecursionError):
        pass
    return None  # nobody of ours


def claim(
    rows: Rows, slot: bytes, owner: bytes, lease_s: float, clock: Callable[[], float], here: Process | None
) -> bool:
    with rows.transact():
        now = clock()  # in here: one read before may be earlier than a claim that was waited for
        if claimed_by(rows, slot, now, here) not in (None, owner):
            return False
        value = json.dumps([owner.hex(), *(here or ())]).encode("ascii")
        rows.put_row(CLAIM + slot, value, now, now + lease_s)
        return True


def release(rows: Rows, slot: bytes, owner: bytes, now: float) -> None:
    with rows.transact():
        if claimed_by(rows, slot, now, None) == owner:
            rows.delete_row(CLAIM + slot)


def _is_dead(process: list[object], here: Process) -> bool:
    """Whether it is certain: of what ran elsewhere, or before the machine was started, time alone tells."""
    match process:
        case [here.boot, here.space, int(pid), str(began)]:
            try:
                return _began(pid) != began
            except FileNotFoundError:
                return True
            except OSError:
                return False
    return False


def _began(pid: int) -> str:
    """When the process was started, in the kernel's own count; nothing if it has ended."""
    # see proc(5): the name comes second, in brackets, and may hold anything
    status = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return "" if status[0] in (b"Z", b"X", b"x") else status[19].decode("ascii")

"""A file on the disk that is added to in one piece, or replaced as a whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["READ", "add", "replace"]

_OURS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
READ = os.O_RDONLY | _OURS | getattr(os, "O_NONBLOCK", 0)
_ADD = os.O_RDWR | os.O_APPEND | _OURS
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OURS


def add(file: Path, written: bytes, end: int) -> None:
    """Add ``written`` at the ``end`` of what is whole, or nothing. To be called alone."""
    handle = os.open(file, _ADD)
    try:
        if os.fstat(handle).st_size > end:  # somebody was killed in the middle of a line
            os.ftruncate(handle, end)
        if os.write(handle, written) < len(written):  # which then was never said
            os.ftruncate(handle, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(handle)


def replace(file: Path, lines: Sequence[bytes]) -> os.stat_result:
    """Put a new file of ``lines`` in the place of the one there is, if any. To be called alone."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)  # of somebody who was killed
    try:
        with open(os.open(new, _MAKE, 0o600), "wb") as opened:
            opened.writelines(lines)
            opened.flush()
            os.fsync(opened.fileno())
            found = os.fstat(opened.fileno())
        os.replace(new, file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    _keep_names(file.parent)
    return found


def _keep_names(directory: Path) -> None:
    """So that a crash does not bring the old file back."""
    if os.name == "posix":
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

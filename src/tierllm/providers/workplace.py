"""Folders for work in progress: what a killed process left in one is removed by the next to come."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

__all__ = ["swept", "workplace"]

PREFIX = ".fetch-"
OLD_S = 86_400
"""Where folders cannot be locked, the age at which one is taken for abandoned."""


@contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, removed in the end and not swept by anyone before."""
    while True:
        with TemporaryDirectory(prefix=PREFIX, dir=parent, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            with _locked(folder, wait=True):
                if folder.exists():  # or else it was swept before it was locked
                    yield folder
                    return


def swept(parent: Path) -> None:
    """Remove the folders whose process is gone. Never raises."""
    try:
        leftovers = [parent / name for name in os.listdir(parent) if name.startswith(PREFIX)]
    except OSError:
        return
    for leftover in leftovers:
        with suppress(OSError), _locked(leftover, wait=False) as locked:
            if locked or time.time() - leftover.stat().st_mtime > OLD_S:
                rmtree(leftover, ignore_errors=True)


if sys.platform == "win32":

    @contextmanager
    def _locked(folder: Path, *, wait: bool) -> Iterator[bool]:
        yield False

else:
    import fcntl

    @contextmanager
    def _locked(folder: Path, *, wait: bool) -> Iterator[bool]:
        """A lock that ends with this process at the latest; False where there are no such locks.

        Raises ``BlockingIOError`` where another has it and there is to be no waiting.
        """
        try:
            handle = os.open(folder, os.O_RDONLY)
        except OSError:  # swept, or another user's
            yield False
            return
        try:
            locked = True
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError:
                locked = False
            yield locked
        finally:
            os.close(handle)

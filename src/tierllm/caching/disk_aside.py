"""What is kept of damaged files: the last one of each name."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

__all__ = ["keep_only", "move_aside"]


def move_aside(file: Path) -> str:
    """Give ``file`` another name, and delete those that were moved aside before; the new name."""
    name = f"{file.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{os.urandom(3).hex()}"
    os.rename(file, file.with_name(name))
    keep_only(file, name)
    return name


def keep_only(file: Path, name: str) -> None:
    """Delete what was moved aside from where ``file`` is, except what is called ``name``."""
    aside = re.compile(re.escape(file.name) + r"\.damaged-\d{8}T\d{6}-[0-9a-f]{6}(-wal|-shm|-journal)?")
    for found in os.listdir(file.parent):
        if aside.fullmatch(found) and not found.startswith(name):
            try:
                os.unlink(file.with_name(found))
            except OSError:
                pass  # it is not ours, after all

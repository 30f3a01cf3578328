"""State shared between threads, processes and hosts: memory, disk, Redis. One interface, one contract."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .base import Hold, Line, Settlement, Standing, Store, Verdict
from .memory import MemoryStore

if TYPE_CHECKING:
    from .disk import DiskStore
    from .redis import RedisStore

__all__ = [
    "DiskStore",
    "Hold",
    "Line",
    "MemoryStore",
    "RedisStore",
    "Settlement",
    "Standing",
    "Store",
    "Verdict",
]

_LAZY = {"DiskStore": "disk", "RedisStore": "redis"}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

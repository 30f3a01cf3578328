"""The cache of answers: one correct key, bounded layers, one flight, exact invalidation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .counts import CacheStats
    from .disk_layer import DiskLayer
    from .layer import Layer, LayerStats
    from .memory_layer import MemoryLayer
    from .redis_layer import RedisLayer
    from .result_cache import ResultCache

__all__ = ["CacheStats", "DiskLayer", "Layer", "LayerStats", "MemoryLayer", "RedisLayer", "ResultCache"]

_HOMES = {
    "CacheStats": "counts",
    "DiskLayer": "disk_layer",
    "Layer": "layer",
    "LayerStats": "layer",
    "MemoryLayer": "memory_layer",
    "RedisLayer": "redis_layer",
    "ResultCache": "result_cache",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value

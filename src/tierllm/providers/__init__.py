"""Vendors, local models and functions. Each is loaded, with its SDK, when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pipeline.provider import Provider
    from .base import BaseProvider, PlayedProvider
    from .function import Function
    from .local import Local
    from .openai import OpenAI

_HOMES = {
    "BaseProvider": ".base",
    "Function": ".function",
    "Local": ".local",
    "OpenAI": ".openai",
    "PlayedProvider": ".base",
    "Provider": "..pipeline.provider",
}

__all__ = ["BaseProvider", "Function", "Local", "OpenAI", "PlayedProvider", "Provider"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

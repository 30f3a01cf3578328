"""What the vendors ask for their models: a dated copy of a public list, and users' own prices before it."""

from __future__ import annotations

from .book import ModelInfo, PriceBook

__all__ = ["ModelInfo", "PriceBook"]

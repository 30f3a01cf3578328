"""The client: tiers in, service levels out."""

from __future__ import annotations

from .tiered import TieredClient

__all__ = ["TieredClient"]

"""What the scopes around a call say of its options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextvars import ContextVar
from typing import Any

__all__ = ["defaults", "scoped"]

defaults: ContextVar[Mapping[str, Any] | None] = ContextVar("tierllm_scope", default=None)


def scoped(names: Collection[str]) -> dict[str, Any]:
    """What the scopes around say of these options."""
    return {name: value for name, value in (defaults.get() or {}).items() if name in names}

"""Placeholder until hedging lands: overwrite this file."""

from __future__ import annotations

from typing import Any

__all__ = ["Hedge"]


class Hedge:
    def __init__(self, **settings: Any) -> None: ...

    def bound(self, **where: Any) -> Hedge:
        return self

    def status(self) -> dict[str, Any]:
        return {}

    def renew(self) -> None: ...

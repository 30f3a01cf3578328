"""Structured answers: a model's text as the data that was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["parsed", "reader"]


def parsed(text: str, response_format: object) -> Any:
    """``text`` as what ``response_format`` asked for, or ``None`` where it is not that.

    A pydantic model class gives its instance, ``json_object`` and ``json_schema`` plain data.
    """
    read = reader(response_format)
    if read is None or not text:
        return None
    try:
        return read(text)
    except (ValueError, RecursionError):  # pydantic's ValidationError is the former
        return None


def reader(response_format: object) -> Callable[[str], Any] | None:
    """What reads a text as the data that ``response_format`` asks for; ``None``: it asks for none."""
    if isinstance(response_format, type):
        return getattr(response_format, "model_validate_json", None)
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    return json.loads if kind in ("json_object", "json_schema") else None

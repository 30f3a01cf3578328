"""Structured answers: a model's text as the data that was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["parsed"]


def parsed(text: str, response_format: object) -> Any:
    """``text`` as what ``response_format`` asked for, or ``None`` where it is not that.

    A pydantic model class gives its instance, ``json_object`` and ``json_schema`` plain data.
    """
    if isinstance(response_format, type):
        validate = getattr(response_format, "model_validate_json", None)
    else:
        kind = response_format.get("type") if isinstance(response_format, Mapping) else None
        validate = json.loads if kind in ("json_object", "json_schema") else None
    if validate is None or not text:
        return None
    try:
        return validate(text)
    except ValueError:  # pydantic's ValidationError is one
        return None

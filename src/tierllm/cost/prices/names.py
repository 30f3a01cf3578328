"""Which names mean a model: exact ones, and patterns where the list has them.

In a price list a set of names is an array of alternatives. A text is a whole name; an object is a
pattern: ``{"starts_with": …}``, ``{"ends_with": …}``, ``{"contains": …}``, ``{"regex": …}``, or
``{"all": [set, …]}``, each of which must match. All but ``regex`` are in lower case, as names are.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable

__all__ = ["Names", "bedrock", "dashed"]

Match = Callable[[str], object]

_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
_BEDROCK = re.compile(
    r"(?:[a-z]+(?:-[a-z]+)?\.)?(?:ai21|amazon|anthropic|cohere|deepseek|google|meta|minimax|mistral|"
    r"moonshotai?|nvidia|openai|qwen|stability|writer|zai)\."
)


class Names:
    """A set of names. Immutable. Raises ``ValueError`` for something that is none."""

    def __init__(self, alternatives: object) -> None:
        if not isinstance(alternatives, list):
            raise ValueError(f"{alternatives!r} is not a list of names")
        self.exact = frozenset(name for name in alternatives if isinstance(name, str))
        self.patterns = tuple(_pattern(entry) for entry in alternatives if not isinstance(entry, str))

    def __contains__(self, name: str) -> bool:
        """``name`` in lower case."""
        return name in self.exact or any(matches(name) for matches in self.patterns)


def _pattern(entry: object) -> Match:
    if isinstance(entry, dict) and len(entry) == 1:
        ((kind, value),) = entry.items()
        if kind == "all" and isinstance(value, list):
            return _all([Names(each) for each in value])
        if isinstance(value, str) and value:
            if kind == "starts_with":
                return lambda name: name.startswith(value)
            if kind == "ends_with":
                return lambda name: name.endswith(value)
            if kind == "contains":
                return lambda name: value in name
            if kind == "regex":
                try:
                    return re.compile(value).search
                except re.error as exc:
                    raise ValueError(f"{value!r} is not a pattern: {exc}") from None
    raise ValueError(f"{entry!r} is neither a name nor a pattern")


def _all(sets: list[Names]) -> Match:
    return lambda name: all(name in each for each in sets)


def dashed(name: str) -> str:
    """``gpt-5-20250807`` as the lists have it, ``gpt-5-2025-08-07``; anything else unchanged."""

    def spread(found: re.Match[str]) -> str:
        year, month, day = found.groups()
        try:
            return f"-{datetime.date(int(year), int(month), int(day)).isoformat()}"
        except ValueError:
            return found.group()

    return _COMPACT_DATE.sub(spread, name)


def bedrock(name: str) -> bool:
    """Whether ``name`` is spelled as on Amazon Bedrock: ``eu.anthropic.claude-…``, ``meta.llama3-…``."""
    return _BEDROCK.match(name) is not None

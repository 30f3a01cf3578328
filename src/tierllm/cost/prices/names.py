"""Which names mean a model: exact ones, and patterns where the list has them.

In a price list a set of names is an array of alternatives. A text is a whole name; an object is a
pattern: ``{"starts_with": …}``, ``{"ends_with": …}``, ``{"contains": …}``, ``{"regex": …}``, or
``{"all": [set, …]}``, each of which must match. All but ``regex`` are in lower case, as names are.

A pattern says which model a name means, but not that its price is the same: what stands before may
be a region that costs more (``us-gov-west-1/amazon.nova-pro-v1:0``), and a word that follows may be
another model (``gemini-3.8-flash-cyber``). Such a name is not *sure*.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable

__all__ = ["Names", "bedrock", "dashed"]

Match = Callable[[str], object]
"""Whether a name fits; it is told by its truth."""

_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
_BEDROCK = re.compile(
    r"(?:[a-z]+(?:-[a-z]+)?\.)?(?:ai21|amazon|anthropic|cohere|deepseek|google|meta|minimax|mistral|"
    r"moonshotai?|nvidia|openai|qwen|stability|writer|zai)\."
)


_BEFORE = re.compile(r"(?:(?:publishers/[a-z]+/)?models/|(?:(?:us|eu|apac)\.)?anthropic\.|amazon\.)?")
_MONTH, _DAY = "(?:0[1-9]|1[0-2])", "(?:0[1-9]|[12][0-9]|3[01])"
_DATE = (
    rf"20[0-9]{{2}}-?{_MONTH}-?{_DAY}|{_MONTH}-?{_DAY}|{_MONTH}-20[0-9]{{2}}|2[2-9]{_MONTH}|"  # and 2411
    r"20[23][0-9]|00[0-9]"  # or what stands for one: gemini-2.0-flash-001
)
_AFTER = re.compile(
    rf"(?:[-@:._](?:{_DATE}|v[0-9]+[:.][0-9]+|[0-9]+k|latest|preview|exp|experimental|beta|default|"
    r"instruct|it|thinking)|:[0-9]+)*"
)
"""What changes no price where it stands before a name, or after one: dates, versions, sizes of context.

A number may be another version, or the size of another model, unless it is a date or comes with a mark.
"""

_JOINED = re.compile(rf"[-@:._](?:{_DATE})")
_LAST = re.compile(r"[-@:._][^-@:._]*$")


class Names:
    """A set of names. Immutable. Raises ``ValueError`` for something that is none."""

    def __init__(self, alternatives: object) -> None:
        if not isinstance(alternatives, list):
            raise ValueError(f"{alternatives!r} is not a list of names")
        self.exact = frozenset(name for name in alternatives if isinstance(name, str))
        self.patterns = tuple(_Pattern(entry) for entry in alternatives if not isinstance(entry, str))

    def __contains__(self, name: str) -> bool:
        """Whether ``name`` (in lower case) means one of these."""
        return name in self.exact or any(pattern.fits(name) for pattern in self.patterns)

    def sure(self, name: str) -> bool:
        """Whether it does, and nothing in it says that it is a dearer one."""
        return name in self.exact or any(pattern.sure(name) for pattern in self.patterns)


class _Pattern:
    __slots__ = ("fits", "sure")

    def __init__(self, entry: object) -> None:
        self.fits: Match
        self.sure: Match
        if not isinstance(entry, dict) or len(entry) != 1:
            raise ValueError(f"{entry!r} is neither a name nor a pattern")
        ((kind, value),) = entry.items()
        if kind == "all" and isinstance(value, list):
            sets = [Names(each) for each in value]
            self.fits = lambda name: all(name in each for each in sets)
            self.sure = lambda name: all(each.sure(name) for each in sets)
            return
        if not isinstance(value, str) or not value:
            raise ValueError(f"{entry!r} is neither a name nor a pattern")
        text: str = value
        if kind == "contains":
            self.fits = lambda name: text in name
            self.sure = lambda name: _plain(*name.partition(text))
        elif kind == "starts_with":
            self.fits = lambda name: name.startswith(text)
            tuned = "ft:" in text or ".ft" in text  # what follows are names of the customer's own
            self.sure = lambda name: name.startswith(text) and (tuned or _plain(*name.partition(text)))
        elif kind == "ends_with":
            self.fits = lambda name: name.endswith(text)
            self.sure = lambda name: name.endswith(text) and _plain(name.removesuffix(text), text, "")
        elif kind == "regex":
            try:
                self.fits = self.sure = re.compile(text).search
            except re.error as exc:
                raise ValueError(f"{text!r} is not a pattern: {exc}") from None
        else:
            raise ValueError(f"{kind!r} is not a kind of pattern")


def _plain(before: str, found: str, after: str) -> bool:
    if not found or not _BEFORE.fullmatch(before):
        return False
    if after[:1].isalnum():  # the pattern ends before a word, or within one: claude-sonnet-4-2025…
        last = _LAST.search(found)
        joined = _JOINED.match((last[0] if last else "") + after)
        if joined is None:
            return False
        after = joined.string[joined.end() :]
    return _AFTER.fullmatch(after) is not None


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

"""Classes and importances, and which rules can never be reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..admission.schedule import DAY, Hours

if TYPE_CHECKING:
    from .rules import Rule

__all__ = ["CLASSES", "IMPORTANCE", "LEVELS", "NAMED", "unreachable"]

CLASSES = ("low", "medium", "high")
IMPORTANCE = ("low", "normal", "high")
LEVELS = {"importance": IMPORTANCE, "request_class": CLASSES}

WEEK = 7 * DAY

NAMED = ("plan", "contract", "tenant", "user", "route", "language", "importance")
"""Conditions on one name that a request has; a table finds the rules for it without asking each."""


def unreachable(rules: Sequence[Rule]) -> list[tuple[int, str]]:
    """The rules that no call comes to, by number from 0, each with why.

    Those are reported for which an earlier rule alone takes every call that they would: never one that is
    of use, but not each one that several earlier rules together leave nothing.
    """
    found: list[tuple[int, str]] = []
    held = {when: _held(when) for when in {rule.hours for rule in rules} if when is not None}
    for number in range(len(rules)):
        for earlier in range(number):
            if _covers(rules, earlier, number, held):
                verb = "sets the class of" if rules[earlier].set_class is not None else "takes"
                found.append((number, f"{_called(rules, earlier)} {verb} every call that it is for"))
                break
    return found


def _called(rules: Sequence[Rule], number: int) -> str:
    name = rules[number].name
    return f"rules[{number}]" if name is None else f"rules[{number}] ({name!r})"


def _covers(rules: Sequence[Rule], first: int, then: int, held: Mapping[str, int]) -> bool:
    """Whether the earlier rule leaves the later one no call to decide. ``held``: the minutes of all hours."""
    rule, later = rules[first], rules[then]
    if rule.set_class is not None and later.set_class is None:
        return False  # the search goes on after it
    if not all(_implied(getattr(later, option), getattr(rule, option)) for option in (*NAMED, "tag")):
        return False
    if rule.request_class is not None:
        if not _implied(later.request_class, rule.request_class):
            return False
        between = rules[first + 1 : then]
        if later.set_class is None and any(each.set_class is not None for each in between):
            return False  # its class may be another one by then
    return all(_rest_implied(rule, later, held))


def _implied(later: frozenset[str] | None, earlier: frozenset[str] | None) -> bool:
    return earlier is None or (later is not None and later <= earlier)


def _rest_implied(rule: Rule, later: Rule, held: Mapping[str, int]) -> Iterator[bool]:
    """For each further condition of ``rule``: whether it holds wherever those of ``later`` do."""
    for option in ("priority", "tokens"):
        wide, narrow = getattr(rule, option), getattr(later, option)
        yield wide is None or (narrow is not None and _inside(narrow, wide))
    yield rule.tools is None or rule.tools == later.tools
    yield _hours_implied(rule, later, held)
    same = rule.of == later.of
    for option in ("load", "forecast"):
        least, most = getattr(rule, option), getattr(rule, f"below_{option}")
        own_least, own_most = getattr(later, option), getattr(later, f"below_{option}")
        yield least is None or (same and own_least is not None and own_least >= least)
        yield most is None or (same and own_most is not None and own_most <= most)
    left, own = rule.budget_left, later.budget_left
    yield left is None or (own is not None and own <= left)


def _inside(narrow: tuple[int | None, int | None], wide: tuple[int | None, int | None]) -> bool:
    above = wide[0] is None or (narrow[0] is not None and narrow[0] >= wide[0])
    return above and (wide[1] is None or (narrow[1] is not None and narrow[1] <= wide[1]))


def _hours_implied(rule: Rule, later: Rule, held: Mapping[str, int]) -> bool:
    if rule.hours is None:
        return True
    return later.hours is not None and rule.tz == later.tz and not held[later.hours] & ~held[rule.hours]


def _held(when: str) -> int:
    """The minutes of the week at which these hours hold, as bits from Monday's first."""
    hours = Hours(when, size=1)
    span = hours.ends - hours.begins + (0 if hours.begins < hours.ends else DAY)
    held = 0
    for day in hours.days:
        held |= (1 << span) - 1 << day * DAY + hours.begins
    return held & (1 << WEEK) - 1 | held >> WEEK  # Sunday's night ends on Monday

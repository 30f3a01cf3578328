"""What has to be found out about a call to tell which rules hold for it: each thing once, for all of them.

Sets of rules are numbers: bit 3 is set where rule 3 is among them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..admission.schedule import Hours, Schedule

if TYPE_CHECKING:
    from .asked import Asked
    from .rules import Rule

__all__ = ["Question", "questions_of"]


class Question(NamedTuple):
    """``asking`` are the rules that need to know, ``holding(asked)`` those that hold by what is found out,
    with all that do not ask."""

    asking: int
    holding: Callable[[Asked], int]


def questions_of(rules: Sequence[Rule]) -> list[Question]:
    """All that these rules ask, but names and classes; what is cheapest to find out comes first."""
    found = [_numbers(rules, "priority", lambda asked: asked.priority), *_tools(rules), *_hours(rules)]
    found.append(_numbers(rules, "tokens", lambda asked: asked.tokens()))
    found += [_loads(rules, of) for of in {rule.of: None for rule in rules}]
    found.append(_budgets(rules))
    return [question for question in found if question.asking]


class Span(NamedTuple):
    """Numbers from ``low`` to ``high``, with that or (``open``) without it."""

    low: float | None
    high: float | None
    open: bool = False


class Scale:
    """Which rules hold at which number: found by two searches, however many they are."""

    __slots__ = ("_masks", "_none", "_points", "asking")

    def __init__(self, spans: Mapping[int, Span], rules: int) -> None:
        self.asking = sum(1 << number for number in spans)
        self._none = (1 << rules) - 1 & ~self.asking
        points = self._points = sorted(
            {end for span in spans.values() for end in span[:2] if end is not None}
        )
        place = {point: 2 * number + 1 for number, point in enumerate(points)}
        # the parts of all numbers: before the first point, at it, between it and the second, at that, …
        begin, end = [0] * (2 * len(points) + 1), [0] * (2 * len(points) + 2)
        for number, span in spans.items():
            first = 0 if span.low is None else place[span.low]
            last = 2 * len(points) if span.high is None else place[span.high] - span.open
            begin[first] |= 1 << number
            end[max(first, last + 1)] |= 1 << number  # where nothing is between, it ends as it begins
        self._masks, mask = [], self._none
        for begins, ends in zip(begin, end, strict=False):
            mask = (mask | begins) & ~ends
            self._masks.append(mask)

    def at(self, value: float) -> int:
        if value != value:  # no number: nothing holds
            return self._none
        points = self._points
        return self._masks[bisect_left(points, value) + bisect_right(points, value)]


def _numbers(rules: Sequence[Rule], option: str, value: Callable[[Asked], float]) -> Question:
    bounds = {number: getattr(rule, option) for number, rule in enumerate(rules)}
    scale = Scale({number: Span(*pair) for number, pair in bounds.items() if pair is not None}, len(rules))
    return Question(scale.asking, lambda asked: scale.at(value(asked)))


def _budgets(rules: Sequence[Rule]) -> Question:
    most = {number: rule.budget_left for number, rule in enumerate(rules)}
    scale = Scale({number: Span(None, each) for number, each in most.items() if each is not None}, len(rules))

    def holding(asked: Asked) -> int:
        left = asked.sources.budget_left(asked.request)
        return scale.at(1.0 if left is None else left)

    return Question(scale.asking, holding)


def _loads(rules: Sequence[Rule], of: str | None) -> Question:
    """The load of one tier, and its forecast."""
    level, ahead = (
        Scale(
            {
                number: Span(getattr(rule, option), getattr(rule, f"below_{option}"), open=True)
                for number, rule in enumerate(rules)
                if rule.of == of and (getattr(rule, option), getattr(rule, f"below_{option}")) != (None, None)
            },
            len(rules),
        )
        for option in ("load", "forecast")
    )

    def holding(asked: Asked) -> int:
        now, then = asked.load(of)
        return level.at(now) & ahead.at(then)

    return Question(level.asking | ahead.asking, holding)


def _tools(rules: Sequence[Rule]) -> list[Question]:
    wanted, unwanted = (_bits([rule.tools is tools for rule in rules]) for tools in (True, False))
    others = ~(wanted | unwanted) & (1 << len(rules)) - 1
    with_tools, without = others | wanted, others | unwanted
    asks = Question(
        wanted | unwanted,
        lambda asked: with_tools if asked.request.params.get("tools") else without,
    )
    return [asks]


def _hours(rules: Sequence[Rule]) -> list[Question]:
    found: list[Question] = []
    for when, tz in {(rule.hours, rule.tz): None for rule in rules if rule.hours is not None}:
        asking = _bits([(rule.hours, rule.tz) == (when, tz) for rule in rules])
        found.append(Question(asking, _in_hours(when, tz, asking, (1 << len(rules)) - 1)))
    return found


def _in_hours(when: str, tz: str, asking: int, everything: int) -> Callable[[Asked], int]:
    schedule = Schedule([Hours(when, size=1)], tz=tz)

    def holding(asked: Asked) -> int:
        try:
            hold = schedule.size_at(asked.sources.wall(), 0)
        except (OverflowError, ValueError, OSError):  # a clock beyond the calendar
            hold = 0
        return everything if hold else everything & ~asking

    return holding


def _bits(are: Sequence[bool]) -> int:
    return sum(1 << number for number, each in enumerate(are) if each)

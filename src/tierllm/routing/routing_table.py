"""The rules, bound to a client's tiers: which of them decides about a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .asked import Asked, Buckets, Sources
from .conditions import NAMED
from .questions import Question, questions_of

if TYPE_CHECKING:
    from ..sla.terms import Terms
    from ..types import Request
    from .rules import Rule

__all__ = ["Decision", "RoutingTable"]


class Decision(NamedTuple):
    """What the rules say of one call.

    ``rule`` is the name of the one that matched (``"rules[3]"`` where it has none), ``None`` where none did.
    ``tier``, ``min_tier``, ``max_tier`` and ``balance`` are what it says. ``request_class`` and ``score``
    are how difficult it is, as far as that was said or had to be found out; ``buckets`` what the scorer made
    of its text. ``floor``: its difficulty must not send it to the weaker model.
    """

    rule: str | None = None
    tier: str | None = None
    min_tier: str | None = None
    max_tier: str | None = None
    balance: float | None = None
    request_class: str | None = None
    score: float | None = None
    floor: bool = False
    buckets: Buckets = None


NOTHING = Decision()


class RoutingTable:
    """Finds the first rule that matches. Immutable but for remembered hours; thread-safe.

    Rules that look at names are found by those names, and what else has to be known is found out once for
    all rules: with fifty a decision costs little more than with five.
    """

    def __init__(self, rules: Sequence[Rule], tiers: Sequence[str], sources: Sources) -> None:
        self.rules = tuple(rules)
        self._sources = sources
        everything = (1 << len(self.rules)) - 1
        questions = questions_of(self.rules)
        self._rows = [_Row(rule, number, questions) for number, rule in enumerate(self.rules)]
        self._everything = everything
        self._by_name: list[tuple[str, dict[str | None, int], int]] = []
        for option in NAMED:
            named = [getattr(rule, option) for rule in rules]
            if any(names is not None for names in named):
                found, others = _masks(named)
                if option == "importance":  # what says nothing is as important as most
                    found[None] = found.get("normal", others)
                self._by_name.append((option, found, others))
        tags = [rule.tag for rule in rules]
        self._tags: dict[str | None, int] | None = None
        self._untagged = everything
        if any(tags):
            self._tags, self._untagged = _masks(tags)

    def decide(self, request: Request, terms: Terms | None = None) -> Decision:
        """What is to become of this call. It always says something, and the same for the same inputs.

        ``terms`` are what plan and contract allow: a priority counts as far as it is granted.
        """
        mask = self._everything
        for option, found, others in self._by_name:
            mask &= found.get(getattr(request, option), others)
        if self._tags is not None:
            mask &= self._tagged(request.tags)
        asked: Asked | None = None
        known = 0  # the questions that were asked; rules for which the answer was no have left the mask
        rows = self._rows
        while mask:
            lowest = mask & -mask
            mask ^= lowest
            row = rows[lowest.bit_length() - 1]
            if row.simple:
                return self._said(row, request, asked)
            if asked is None:
                asked = Asked(request, self._sources, terms)
            for bit, question in row.questions:
                if not known & bit:
                    known |= bit
                    holding = question(asked)
                    mask &= holding
                    if not holding & lowest:
                        break
            else:
                if row.classes is not None:
                    name = asked.classed()
                    if name not in row.classes:
                        continue
                if row.sets is None:
                    return self._said(row, request, asked)
                asked.set_class(row.sets)
        return self._said(None, request, asked)

    def _said(self, row: _Row | None, request: Request, asked: Asked | None) -> Decision:
        decision = NOTHING if row is None else row.decision
        if asked is None:
            if request.importance != "high" and request.request_class is None:
                return decision
            asked = Asked(request, self._sources)
        name = asked.request_class
        # what is said to be high goes to the weaker model only by a rule that speaks of it
        important = request.importance == "high" and not (row is not None and row.heeds_importance)
        difficult = asked.unsure or (
            name == "high" and asked.said and not (row is not None and row.heeds_difficulty)
        )
        rule, tier, min_tier, max_tier, balance, *_ = decision
        floored = important or difficult
        return Decision(rule, tier, min_tier, max_tier, balance, name, asked.score, floored, asked.buckets)

    def _tagged(self, tags: Sequence[str]) -> int:
        found, mask = self._tags, self._untagged
        assert found is not None
        for tag in tags:
            mask |= found.get(tag, 0)
        return mask

    def __repr__(self) -> str:
        return f"<RoutingTable of {len(self.rules)} rules>"


class _Row:
    """One rule, as a table asks it. A ``simple`` one has nothing to ask: its names have been found."""

    __slots__ = (
        "classes",
        "decision",
        "heeds_difficulty",
        "heeds_importance",
        "questions",
        "sets",
        "simple",
    )

    def __init__(self, rule: Rule, number: int, questions: Sequence[Question]) -> None:
        self.questions = tuple(
            (1 << at, question.holding)
            for at, question in enumerate(questions)
            if question.asking >> number & 1
        )
        self.classes = rule.request_class
        self.sets = rule.set_class
        self.simple = not self.questions and self.classes is None and self.sets is None
        decides = any(said is not None for said in (rule.tier, rule.min_tier, rule.balance))
        self.heeds_difficulty = decides and self.classes is not None and "high" in self.classes
        self.heeds_importance = decides and rule.importance is not None and "high" in rule.importance
        name = rule.name or f"rules[{number}]"
        self.decision = Decision(name, rule.tier, rule.min_tier, rule.max_tier, rule.balance)


def _masks(named: Sequence[frozenset[str] | None]) -> tuple[dict[str | None, int], int]:
    """For each name the rules (as bits) that take it, and those that take any other."""
    others = sum(1 << number for number, names in enumerate(named) if names is None)
    found: dict[str | None, int] = {}
    for number, names in enumerate(named):
        for name in names or ():
            found[name] = found.get(name, others) | 1 << number
    return found, others

"""Where a call may go: tiers, plans, rules, difficulty, sessions, cascades; and the reason why."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cascade import Cascade
    from .decision_log import DecisionLog
    from .difficulty import Difficulty
    from .judges import Agreement, FormatCheck
    from .learned_judge import LearnedJudge
    from .learned_scorer import LearnedScorer
    from .router import Router
    from .rule_scorer import RuleScorer
    from .rules import Rule
    from .scorers import DifficultyScorer
    from .shadow import Shadow
    from .sticky import StickySessions

__all__ = [
    "Agreement",
    "Cascade",
    "DecisionLog",
    "Difficulty",
    "DifficultyScorer",
    "FormatCheck",
    "LearnedJudge",
    "LearnedScorer",
    "Router",
    "Rule",
    "RuleScorer",
    "Shadow",
    "StickySessions",
]

_HOMES = {
    "Agreement": "judges",
    "Cascade": "cascade",
    "DecisionLog": "decision_log",
    "Difficulty": "difficulty",
    "DifficultyScorer": "scorers",
    "FormatCheck": "judges",
    "LearnedJudge": "learned_judge",
    "LearnedScorer": "learned_scorer",
    "Router": "router",
    "Rule": "rules",
    "RuleScorer": "rule_scorer",
    "Shadow": "shadow",
    "StickySessions": "sticky",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

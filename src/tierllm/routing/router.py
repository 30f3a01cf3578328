"""The router, as the application describes it: rules, and what to do with difficulty."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError
from ..types import length_of
from .asked import Classify, Sources
from .difficulty import Difficulty
from .plan import unknown_tier
from .routing_table import Decision, RoutingTable
from .rules import Rule
from .scorers import DifficultyScorer, scorer_of

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..types import Request

__all__ = ["Decision", "Router", "RoutingTable"]


class Router:
    """Which calls go to which tier: by ``rules``, the first that matches; then by their difficulty.

    ``scorer`` estimates what a stronger model would gain: a ``DifficultyScorer``, or a function from a text
    to a number. Then a call whose tier neither its caller nor a rule names goes to ``weak`` (left out: the
    last tier) or ``strong`` (the first), so that ``balance`` is the share of the strong one, as far as a
    rule says nothing else. ``classes`` are the scores from which on a call is ``"medium"`` and ``"high"``;
    left out, the scorer's own. ``explore`` is the share of calls that is sent by chance, to learn from.
    ``follow_budget``: where the client's own budgets are spent faster than they last, the share of the strong
    tier becomes smaller by as much.
    ``judge(request, response)`` says how good an answer is, from 0 to 1.

    ``mode="observe"`` decides, writes down what it would have done, and changes nothing. One router may
    serve several clients. Raises ``ConfigError`` for settings that make no sense.
    """

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        *,
        scorer: DifficultyScorer | Callable[[str], float] | None = None,
        weak: str | None = None,
        strong: str | None = None,
        balance: float | None = None,
        classes: tuple[float, float] | None = None,
        explore: float = 0.05,
        follow_budget: bool = False,
        judge: Callable[..., Any] | None = None,
        mode: Literal["enforce", "observe"] = "enforce",
    ) -> None:
        self.rules = _rules(rules)
        if scorer is not None:
            scorer_of(scorer)
        for option, tier in (("weak", weak), ("strong", strong)):
            if tier is not None and (not isinstance(tier, str) or not tier):
                raise ConfigError(f"Router({option}={tier!r}): give the name of a tier, or leave it out")
        if weak is not None and weak == strong:
            raise ConfigError(f"Router(weak={weak!r}, strong={strong!r}): give two tiers")
        for option, share in (("balance", balance), ("explore", explore)):
            if share is not None and not (_number(share) and 0 <= share <= 1):
                raise ConfigError(f"Router({option}={share!r}): give a share from 0 to 1")
        if classes is not None and not _thresholds(classes):
            raise ConfigError(
                f"Router(classes={classes!r}): give two scores, from which on a call is medium and high"
            )
        if judge is not None and (isinstance(judge, type) or not callable(judge)):
            raise ConfigError(f"Router(judge={judge!r}): give a function of the request and the response")
        if mode not in ("enforce", "observe"):
            raise ConfigError(f"Router(mode={mode!r}): 'enforce' or 'observe'")
        if not isinstance(follow_budget, bool):
            raise ConfigError(f"Router(follow_budget={follow_budget!r}): give True or False")
        if scorer is None:
            self._check_unscored(weak, strong, balance, judge)
        self.scorer = scorer
        self.weak = weak
        self.strong = strong
        self.balance = balance
        self.classes = None if classes is None else (float(classes[0]), float(classes[1]))
        self.explore = float(explore)
        self.follow_budget = follow_budget
        self.judge = judge
        self.mode = mode

    def with_rules(self, rules: Iterable[Rule]) -> Router:
        """The same router with these rules in place of its own. Raises ``ConfigError``."""
        return Router(
            rules,
            scorer=self.scorer,
            weak=self.weak,
            strong=self.strong,
            balance=self.balance,
            classes=self.classes,
            explore=self.explore,
            follow_budget=self.follow_budget,
            judge=self.judge,
            mode=self.mode,
        )

    def _check_unscored(self, *options: object) -> None:
        for option, value in zip(("weak", "strong", "balance", "judge"), options, strict=True):
            if value is not None:
                raise ConfigError(
                    f"Router({option}={value!r}): without a scorer nobody knows which calls are difficult; "
                    "give scorer=RuleScorer(), say"
                )
        for number, rule in enumerate(self.rules):
            if rule.balance is not None:
                raise ConfigError(
                    f"Router: {_called(rule, number)} has a balance, and without a scorer nobody knows which "
                    "calls are difficult; give scorer=RuleScorer(), say, or take it out"
                )

    def bound(
        self,
        tiers: Sequence[str],
        *,
        load: Callable[[str | None], tuple[float, float]] | None = None,
        budget_left: Callable[[Request], float | None] | None = None,
        tokens: Callable[[Request], int] | None = None,
        wall: Clock = time.time,
        classify: Classify | None = None,
    ) -> RoutingTable:
        """The rules for these tiers, best first.

        ``load(tier)`` gives a tier's load and the forecast, ``budget_left(request)`` the share that is left
        of the tightest budget that holds for it (``None``: there is none), ``tokens(request)`` about how
        much input it has, ``classify(text)`` its class and score (left out: as the scorer has it). Each is
        asked only where a rule needs it.

        Raises ``ConfigError`` where a rule names a tier that there is not, or a floor above its cap.
        """
        tiers = tuple(tiers)
        for number, rule in enumerate(self.rules):
            _check_tiers(f"{_called(rule, number)}: ", rule, tiers)
        self._check_arms(tiers)
        if classify is None and self.scorer is not None:
            classify = Difficulty(self.scorer, classes=self.classes).classify
        sources = Sources(
            start=tiers[0],
            ranks={name: rank for rank, name in enumerate(tiers)},
            load=load or _no_load,
            budget_left=budget_left or _no_budget,
            tokens=tokens or _roughly,
            wall=wall,
            classify=classify,
        )
        return RoutingTable(self.rules, tiers, sources)

    def _check_arms(self, tiers: Sequence[str]) -> None:
        for option, tier in (("weak", self.weak), ("strong", self.strong)):
            if tier is not None and tier not in tiers:
                raise unknown_tier(f"Router: {option}", tier, tiers)
        if self.scorer is not None and len(tiers) > 1:
            weak, strong = self.weak or tiers[-1], self.strong or tiers[0]
            if tiers.index(weak) <= tiers.index(strong):
                raise ConfigError(
                    f"Router(weak={weak!r}, strong={strong!r}): tiers are listed best first, and the weak "
                    "one has to come after the strong one"
                )

    def __repr__(self) -> str:
        scorer = "" if self.scorer is None else f", scorer={type(self.scorer).__name__}"
        return f"<Router of {len(self.rules)} rules{scorer}>"


def _rules(rules: Any) -> tuple[Rule, ...]:
    if isinstance(rules, Rule | str) or not isinstance(rules, Iterable):
        raise ConfigError("Router(rules): give a list, [Rule(plan='free', tier='bronze')]")
    listed = tuple(rules)
    names: set[str] = set()
    for rule in listed:
        if not isinstance(rule, Rule):
            raise ConfigError(f"Router(rules): give Rule(...), not {type(rule).__name__}")
        if rule.name is not None and rule.name in names:
            raise ConfigError(f"Router(rules): two are called {rule.name!r}; give each a name of its own")
        names.add(rule.name or "")
    return listed


def _check_tiers(where: str, rule: Rule, tiers: Sequence[str]) -> None:
    for option in ("tier", "min_tier", "max_tier", "of"):
        name = getattr(rule, option)
        if name is not None and name not in tiers:
            raise unknown_tier(f"{where}{option}", name, tiers)
    start, low, high = rule.tier, rule.min_tier, rule.max_tier
    if start is not None and low is not None and tiers.index(start) > tiers.index(low):
        raise ConfigError(
            f"{where}tier={start!r} is below min_tier={low!r}: min_tier is how far its calls may step down; "
            "exchange them"
        )
    if low is not None and high is not None and tiers.index(low) < tiers.index(high):
        raise ConfigError(
            f"{where}min_tier={low!r} is above max_tier={high!r}: min_tier is the floor, max_tier the best "
            "that a call gets; exchange them"
        )


def _called(rule: Rule, number: int) -> str:
    return f"rules[{number}]" if rule.name is None else f"rules[{number}] ({rule.name!r})"


def _thresholds(classes: object) -> bool:
    return (
        isinstance(classes, tuple | list)
        and len(classes) == 2
        and all(_number(each) for each in classes)
        and classes[0] < classes[1]
    )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _no_load(tier: str | None) -> tuple[float, float]:
    return 0.0, 0.0


def _no_budget(request: Request) -> float | None:
    return None


def _roughly(request: Request) -> int:
    """Four characters a token."""
    return length_of(request.messages) // 4

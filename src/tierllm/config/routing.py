"""The tables of which calls go where: ``[[rules]]``, ``[router]``, ``[sessions]``, ``[decisions]``.

Reading them opens nothing: a learned scorer's file and the decision log are opened with the client.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from ..errors import ConfigError
from ..routing.decision_log import DecisionLog
from ..routing.learned_scorer import LearnedScorer
from ..routing.router import Router
from ..routing.rule_scorer import RuleScorer
from ..routing.rules import Rule as Routing
from ..routing.sticky import StickySessions
from .admission import Mode, When
from .money import placed
from .table import Count, Name, PathName, Rule, Share, Table

__all__ = [
    "SCORERS",
    "LearnedScorerTable",
    "DecisionsTable",
    "RouterTable",
    "RuleTable",
    "SessionsTable",
]

SCORERS = ("rules", "learned")
Level = Literal["low", "medium", "high"]
Names = Name | list[Name]


# -- rules ---------------------------------------------------------------------------------


class SpanTable(Table):
    """From ``least`` to ``most``; what is left out is no bound."""

    least: int | None = None
    most: int | None = None


def _spanned(value: object) -> object:
    """``[3, 7]`` is another way to write it."""
    if isinstance(value, list):
        if len(value) != 2:
            raise ValueError("should be [least, most], or a table with least or most")
        return {"least": value[0], "most": value[1]}
    return value


Span = Annotated[SpanTable, BeforeValidator(_spanned)]


def _form(value: object) -> str:
    return "number" if isinstance(value, int) else "span"


NumberOrSpan = Annotated[Annotated[int, Tag("number")] | Annotated[Span, Tag("span")], Discriminator(_form)]


class RuleTable(Rule):
    name: Name | None = None
    plan: Names | None = None
    contract: Names | None = None
    tenant: Names | None = None
    user: Names | None = None
    tag: Names | None = None
    route: Names | None = None
    language: Names | None = None
    importance: Literal["low", "normal", "high"] | list[Literal["low", "normal", "high"]] | None = None
    request_class: Level | list[Level] | None = None
    priority: NumberOrSpan | None = None
    tokens: Span | None = None
    tools: bool | None = None
    hours: When | None = None
    tz: str = "UTC"
    load: float | None = None
    forecast: float | None = None
    below_load: float | None = None
    below_forecast: float | None = None
    of: Name | None = None
    budget_left: float | None = None
    tier: Name | None = None
    min_tier: Name | None = None
    max_tier: Name | None = None
    balance: Share | None = None
    set_class: Level | None = None

    def build(self) -> Routing:
        given: dict[str, Any] = self.given()
        for name, value in given.items():
            if isinstance(value, SpanTable):
                given[name] = (value.least, value.most)
        return Routing(**given)


# -- difficulty ----------------------------------------------------------------------------


class RulesScorerTable(Rule):
    kind: Literal["rules"] = "rules"
    per_doubling: float = 0.1
    base: float = -2.0

    def build(self) -> RuleScorer:
        return RuleScorer(**self.built(leaving=("kind",)))


class LearnedScorerTable(Rule):
    kind: Literal["learned"] = "learned"
    buckets: Count = 65_536
    keep_words: bool = False

    def build(self) -> LearnedScorer:
        return LearnedScorer(**self.built(leaving=("kind",)))


def _scorer(value: object) -> object:
    """A word by itself is the kind."""
    return {"kind": value} if isinstance(value, str) else value


ScorerTable = Annotated[
    Annotated[RulesScorerTable | LearnedScorerTable, Field(discriminator="kind")], BeforeValidator(_scorer)
]


class RouterTable(Rule):
    scorer: ScorerTable | None = None
    file: PathName | None = None
    weak: Name | None = None
    strong: Name | None = None
    balance: Share | None = None
    classes: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    explore: Share = 0.05
    follow_budget: bool = False
    mode: Mode = "enforce"

    def build(self, rules: Sequence[Routing] = (), scorer: Any = None) -> Router:
        """Without a ``scorer`` that was made for it, it shows only whether it can be built."""
        if scorer is None and self.scorer is not None:
            scorer = self.scorer.build()
        settings = self.built(leaving=("scorer", "file"))
        if self.classes is not None:
            settings["classes"] = tuple(self.classes)
        if self.file is not None and not isinstance(self.scorer, LearnedScorerTable):
            raise ConfigError(
                'Router(file=…): only a learned scorer is kept in a file; set scorer = "learned"'
            )
        return Router(rules, scorer=scorer, **settings)

    def scored(self, base: Path) -> RuleScorer | LearnedScorer | None:
        """The scorer, read from its file where it has one. Raises ``ConfigError``."""
        if self.scorer is None:
            return None
        if self.file is None:
            return self.scorer.build()
        path = placed(base, self.file)
        try:
            return LearnedScorer.load(path)
        except FileNotFoundError:
            raise ConfigError(
                f"file: there is no {str(path)!r}; write it with tierllm train-router, or leave file out for "
                "a scorer that begins untrained"
            ) from None
        except OSError as error:
            raise ConfigError(f"file: {str(path)!r} cannot be read: {error.strerror}") from error


# -- sessions and decisions -----------------------------------------------------


class SessionsTable(Rule):
    per: Literal["session", "user", "session only"] = "session"
    ttl_s: float = 3600.0
    max_sessions: Count = 100_000
    return_after_s: float = 300.0
    return_up_after_s: float = 30.0
    cache_ttl_s: float = 300.0
    shared: bool = True
    mode: Mode = "enforce"

    def build(self) -> StickySessions:
        return StickySessions(**self.given())


class DecisionsTable(Table):
    path: PathName
    max_bytes: Count = 100_000_000
    keep: Annotated[int, Field(ge=0)] = 5
    prompts: Literal["none", "hashed", "text"] = "none"
    who: Literal["full", "hashed", "none"] = "full"
    max_waiting: Count = 10_000

    def build(self, base: Path, clock: Callable[[], float]) -> DecisionLog:
        """Makes the directory where there is none."""
        path = placed(base, self.path)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the directory {str(path.parent)!r} cannot be made: {error.strerror}"
            ) from error
        settings = {name: value for name, value in self.given().items() if name != "path"}
        return DecisionLog(path, **settings, clock=clock)
